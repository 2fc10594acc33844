"""What training reads in place of a table that will be pruned and quantized: the values as packed, straight through."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from recjax import quantize
from recjax.embed._door import Table, array_rows, lookup, stored_bytes, touched


class Masked(NamedTuple):
    """A table whose entries outside ``keep`` read as exactly zero.

    Gradients pass straight through to every entry, the masked ones too, so that a mask which is refreshed during
    training can take an entry back.

    Attributes:
      table: the table below, ``[rows, dim]``.
      keep: ``[rows, dim]`` bool, True = kept.

    Storage:
      That of ``table``, and ``ceil(rows * dim / 8)`` bytes of bitmap.
    """

    table: Table
    keep: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and dim."""
        return self.table.shape

    @property
    def nbytes(self) -> int:
        """The bytes that are stored: the table's, and a bit an entry."""
        return stored_bytes(self)

    def rows(self, ids: jax.Array | None) -> jax.Array:
        """``[..., dim]`` for ids ``[...]``."""
        values = lookup(self.table, ids)
        kept = jnp.where(array_rows(self.keep, ids) | jnp.isnan(values), values, 0)
        return quantize.straight_through(values, kept)

    def touched(self, ids: jax.Array) -> "Masked":
        """The rows of the table below; the mask isn't trained."""
        return self._replace(table=touched(self.table, ids), keep=None)


class FakeQuantized(NamedTuple):
    """A table whose rows read as they would after packing to ``bits`` bits with one float16 scale a row.

    Rows are gathered first and quantized after, so a batch never touches the whole table. Zeros stay zero.

    Attributes:
      table: the table below, ``[rows, dim]``.
      bits: scalar, may be traced; 16 and more is the identity.

    Storage:
      That of ``table``, and of one number: pack what it reads as (:func:`recjax.quantize.quantize`) to store less.
    """

    table: Table
    bits: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and dim."""
        return self.table.shape

    @property
    def nbytes(self) -> int:
        """The bytes that are stored: the table's, and the width."""
        return stored_bytes(self)

    def rows(self, ids: jax.Array | None) -> jax.Array:
        """``[..., dim]`` for ids ``[...]``."""
        values = lookup(self.table, ids)
        return quantize.fake_quant(values, bits=self.bits, axis=tuple(range(values.ndim - 1)))

    def touched(self, ids: jax.Array) -> "FakeQuantized":
        """The rows of the table below; the width isn't trained."""
        return self._replace(table=touched(self.table, ids), bits=None)
