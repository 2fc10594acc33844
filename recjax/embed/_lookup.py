"""Lookup for dense and compressed tables, and the rows of their parts that a batch touches."""

from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from recjax import quantize


class Record(Protocol):
    """Protocol of a compressed table ``[rows, dim]``: a pytree with these members, without a base class.

    Parts may be records too, read by :func:`lookup` and :func:`touched`. A part indexed by rows is ``[rows of the part,
    width]``. Integers that determine shapes are static.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and dim of the table."""
        ...

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        ...

    def rows(self, ids: jax.Array | None) -> jax.Array: ...

    def touched(self, ids: jax.Array) -> Any:
        """The same record with the result of :func:`touched` for each of its parts."""
        ...


Packed: TypeAlias = quantize.QTensor | quantize.RowQuantized
Table: TypeAlias = jax.Array | Packed | Record


def as_ids(ids: jax.typing.ArrayLike) -> jax.Array:
    """Ids as int32, or int64 if they have 64 bits."""
    if isinstance(ids, np.ndarray | np.generic) and ids.dtype.kind in "iu":  # 2**32 must not wrap to row 0
        ids = np.clip(ids, -1, np.iinfo(jax.dtypes.canonicalize_dtype(np.int64)).max)
    ids = jnp.asarray(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"ids: expected int, got {ids.dtype}")
    return ids.astype(jnp.int64 if ids.dtype.itemsize == 8 else jnp.int32)


def inside(ids: jax.Array, rows: int) -> jax.Array:
    """Whether each id is a row of a table with ``rows`` rows."""
    return (ids >= 0) & (ids < rows)


def all_if_none(ids: jax.Array | None, rows: int) -> jax.Array:
    """The ids, or those of all rows for None."""
    return jnp.arange(rows) if ids is None else ids


def array_rows(array: jax.Array, ids: jax.Array | None) -> jax.Array:
    """Rows of an array; NaN for an id outside, or False in a bool array."""
    array = jnp.asarray(array)  # a table from a file is a NumPy array
    if ids is None:
        return array
    fill = False if array.dtype == jnp.bool_ else jnp.nan
    if array.shape[0] == 0:  # XLA can't gather from an empty axis
        return jnp.full((*ids.shape, *array.shape[1:]), fill, array.dtype)
    return array.at[ids].get(mode="fill", fill_value=fill, wrap_negative_indices=False)


def stored_bytes(record: Any) -> int:
    """The stored bytes of a record's arrays, one bit per bool."""

    def size(array: Any) -> int:
        return -(-array.size // 8) if array.dtype == np.bool_ else array.size * array.dtype.itemsize

    return sum(size(array) for array in jax.tree.leaves(record))


def shape_below(record: Any) -> tuple[int, ...]:
    """The shape of the wrapped ``table`` of a record."""
    return record.table.shape


def lookup(table: Table, ids: jax.Array | None = None) -> jax.Array:
    """Rows of a dense or compressed table.

    Args:
      table: ``[rows, dim]``, an array or a record.
      ids: ``[...]`` int positions, or None for all rows.

    Returns:
      ``[..., dim]`` (``[rows, dim]`` without ``ids``). An id outside the table, also a negative one, gives NaN.

    Examples:
      >>> from recjax.embed import Masked
      >>> table = jnp.array([[1.0, -2.0], [3.0, 4.0]])
      >>> lookup(table, jnp.array([1, 5])).tolist()
      [[3.0, 4.0], [nan, nan]]
      >>> lookup(Masked(table, jnp.abs(table) > 1.5), jnp.array(0)).tolist()
      [0.0, -2.0]
    """
    ids = None if ids is None else as_ids(ids)
    if isinstance(table, jax.Array | np.ndarray):
        return array_rows(table, ids)
    if isinstance(table, quantize.QTensor | quantize.RowQuantized):
        return quantize.dequantize(table) if ids is None else quantize.gather(table, ids)
    return table.rows(ids)


def touched(table: Table, ids: jax.Array) -> Any:
    """The rows of each part of a table that a lookup reads, so that a training step can change.

    They depend on the ids only, so members that share a batch share them.

    Args:
      table: ``[rows, dim]``, an array or a record.
      ids: ``[...]`` int; ids outside the table are ignored.

    Returns:
      For an array, ``[max(min(ids, rows), 1)]`` int: its distinct rows, sorted, padded with the largest int. For a
      record, the same record with such rows for each part indexed by rows, and None for parts that all rows share (a
      projection, a codebook) or that are not trained (packed words, a mask).

    Examples:
      >>> touched(jnp.zeros((10, 2)), jnp.array([[7, 2], [2, 10]]))[:2].tolist()
      [2, 7]
    """
    ids = as_ids(ids)
    if isinstance(table, jax.Array | np.ndarray):
        return distinct(ids, table.shape[0])
    if isinstance(table, quantize.QTensor | quantize.RowQuantized):
        return untouched(table)
    return table.touched(ids)


def untouched(part: Any) -> Any:
    """None for each leaf: the result of :func:`touched` for a shared or untrained part."""
    return jax.tree.map(lambda _: None, part)


def distinct(ids: jax.Array, rows: int) -> jax.Array:
    """The distinct ids inside a table, sorted, padded with the largest int."""
    nowhere = np.iinfo(ids.dtype).max
    if ids.size == 0 or rows == 0:
        return jnp.full(1, nowhere, ids.dtype)
    ordered = jnp.sort(jnp.where(inside(ids, rows), ids, nowhere).ravel())
    new = jnp.ones_like(ordered, bool).at[1:].set(ordered[1:] != ordered[:-1])
    found = jnp.full_like(ordered, nowhere)  # five times faster than jnp.unique
    found = found.at[jnp.cumsum(new) - 1].set(ordered, indices_are_sorted=True)
    return found[: min(ids.size, rows)]
