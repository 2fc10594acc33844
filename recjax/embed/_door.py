"""The door: rows of a table, whatever it is made of; and which rows of its parts a batch touches."""

from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from recjax import quantize


class Record(Protocol):
    """What stands for a table ``[rows, dim]``: a registered pytree with these answers and no base class.

    A part may be a record in its turn, because :meth:`rows` reads its parts by :func:`lookup` and :meth:`touched` asks
    them by :func:`touched`. Every part that is indexed by rows is ``[rows of the part, width]``. Whole numbers that
    describe shapes are static.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and dim of the table."""
        ...

    @property
    def nbytes(self) -> int:
        """The bytes that are stored."""
        ...

    def rows(self, ids: jax.Array | None) -> jax.Array:
        """``[..., dim]`` for ids ``[...]``, NaN for one outside the table; ``[rows, dim]`` for None."""
        ...

    def touched(self, ids: jax.Array) -> Any:
        """The same record of what :func:`touched` says of its parts."""
        ...


Packed: TypeAlias = quantize.QTensor | quantize.RowQuantized
Table: TypeAlias = jax.Array | Packed | Record


def as_ids(ids: jax.typing.ArrayLike) -> jax.Array:
    """Ids as signed integers of 32 bits, or of 64 where they have 64."""
    if isinstance(ids, np.ndarray | np.generic) and ids.dtype.kind in "iu":  # 2**32 must not wrap to row 0
        ids = np.clip(ids, -1, np.iinfo(jax.dtypes.canonicalize_dtype(np.int64)).max)
    ids = jnp.asarray(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"ids: expected int, got {ids.dtype}")
    return ids.astype(jnp.int64 if ids.dtype.itemsize == 8 else jnp.int32)


def inside(ids: jax.Array, rows: int) -> jax.Array:
    """Which ids are rows of a table of so many."""
    return (ids >= 0) & (ids < rows)


def every(ids: jax.Array | None, rows: int) -> jax.Array:
    """The ids asked for: those of all rows if none are named."""
    return jnp.arange(rows) if ids is None else ids


def array_rows(array: jax.Array, ids: jax.Array | None) -> jax.Array:
    """Rows of an array; outside of it NaN, or False where it is bool."""
    array = jnp.asarray(array)  # a table that comes from a file is NumPy's
    if ids is None:
        return array
    fill = False if array.dtype == jnp.bool_ else jnp.nan
    if array.shape[0] == 0:  # of which nothing can be gathered
        return jnp.full((*ids.shape, *array.shape[1:]), fill, array.dtype)
    return array.at[ids].get(mode="fill", fill_value=fill, wrap_negative_indices=False)


def stored_bytes(record: Any) -> int:
    """The bytes that the arrays of a record are stored in, a bool being one bit."""

    def size(array: Any) -> int:
        return -(-array.size // 8) if array.dtype == np.bool_ else array.size * array.dtype.itemsize

    return sum(size(array) for array in jax.tree.leaves(record))


def shape_below(record: Any) -> tuple[int, ...]:
    """The shape of a record that stands for its ``table`` entry by entry."""
    return record.table.shape


def lookup(table: Table, ids: jax.Array | None = None) -> jax.Array:
    """Rows of a table, whatever the table is made of.

    Args:
      table: ``[rows, dim]``, an array or a record.
      ids: ``[...]`` int positions, or None for every row in order.

    Returns:
      ``[..., dim]`` (``[rows, dim]`` without ``ids``). An id outside the table, negative ones included, gives NaN.

    Examples:
      >>> import jax.numpy as jnp
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
    """The rows of each part of a table that looking up some ids reads: what a step can change.

    It depends on the ids and on no weight, so the members of a population that share a batch share it.

    Args:
      table: ``[rows, dim]``, an array or a record.
      ids: ``[...]`` int. Those outside the table touch nothing.

    Returns:
      For an array, ``[min(ids, rows)]`` int, one at least: its rows, sorted, each once, and then the largest int as
      often as it takes. For a record, the same record with every part that is indexed by rows replaced by such rows of
      its own, and None for every part that serves all rows (a projection, a codebook) or is never trained (packed
      words, a mask).

    Examples:
      >>> import jax.numpy as jnp
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
    """None for every leaf: what :func:`touched` says of a part that no row indexes or that is never trained."""
    return jax.tree.map(lambda _: None, part)


def distinct(ids: jax.Array, rows: int) -> jax.Array:
    """The ids inside a table, sorted, each once, and the largest int after them."""
    nowhere = np.iinfo(ids.dtype).max
    if ids.size == 0 or rows == 0:
        return jnp.full(1, nowhere, ids.dtype)
    ordered = jnp.sort(jnp.where(inside(ids, rows), ids, nowhere).ravel())
    new = jnp.ones_like(ordered, bool).at[1:].set(ordered[1:] != ordered[:-1])
    found = jnp.full_like(ordered, nowhere)  # five times faster than jnp.unique
    found = found.at[jnp.cumsum(new) - 1].set(ordered, indices_are_sorted=True)
    return found[: min(ids.size, rows)]
