"""The door: rows of a table, whatever it is made of."""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from recjax import quantize
from recjax.embed._rows import RowView, view_rows


class Masked(NamedTuple):
    """A table whose entries outside ``keep`` read as exactly zero.

    Gradients pass straight through to every entry, the masked ones too, so that a mask which is refreshed during
    training can take an entry back.

    Attributes:
      table: the table below, ``[rows, dim]``.
      keep: ``[rows, dim]`` bool, True = kept.
    """

    table: "Table"
    keep: jax.Array


class FakeQuantized(NamedTuple):
    """A table whose rows read as they would after packing to ``bits`` bits with one float16 scale a row.

    Rows are gathered first and quantized after, so a batch never touches the whole table. Zeros stay zero.

    Attributes:
      table: the table below, ``[rows, dim]``.
      bits: scalar, may be traced; 16 and more is the identity.
    """

    table: "Table"
    bits: jax.Array


Table: TypeAlias = jax.Array | RowView | Masked | FakeQuantized | quantize.QTensor | quantize.RowQuantized


def _rows(array: jax.Array, ids: jax.Array | None) -> jax.Array:
    array = jnp.asarray(array)  # a table that comes from a file is NumPy's
    if ids is None:
        return array
    fill = False if array.dtype == jnp.bool_ else jnp.nan
    return array.at[ids].get(mode="fill", fill_value=fill, wrap_negative_indices=False)


def lookup(table: Table, ids: jax.Array | None = None) -> jax.Array:
    """Rows of a table, whatever the table is made of.

    Args:
      table: ``[rows, dim]``, an array or a record.
      ids: ``[...]`` int positions, or None for every row in order.

    Returns:
      ``[..., dim]`` (``[rows, dim]`` without ``ids``). An id outside the table, negative ones included, gives NaN.

    Raises:
      ValueError: if every row is asked of a :class:`RowView`.

    Examples:
      >>> import jax.numpy as jnp
      >>> table = jnp.array([[1.0, -2.0], [3.0, 4.0]])
      >>> lookup(table, jnp.array([1, 5])).tolist()
      [[3.0, 4.0], [nan, nan]]
      >>> lookup(Masked(table, jnp.abs(table) > 1.5), jnp.array(0)).tolist()
      [0.0, -2.0]
    """
    match table:
        case RowView():
            return view_rows(table, ids)
        case Masked(inner, keep):
            values = lookup(inner, ids)
            kept = jnp.where(_rows(keep, ids) | jnp.isnan(values), values, 0)
            return quantize.straight_through(values, kept)
        case FakeQuantized(inner, bits):
            values = lookup(inner, ids)
            return quantize.fake_quant(values, bits=bits, axis=tuple(range(values.ndim - 1)))
        case quantize.QTensor() | quantize.RowQuantized():
            return quantize.dequantize(table) if ids is None else quantize.gather(table, ids)
    return _rows(table, ids)
