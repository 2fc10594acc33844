"""Masked and fake-quantized tables, with straight-through gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from recjax import quantize
from recjax.embed._lookup import Table, array_rows, lookup, shape_below, stored_bytes, touched


class Masked(NamedTuple):
    r"""A masked table: entries outside ``keep`` are zero.

    .. math::
        e_{ij} = m_{ij}\,x_{ij}, \qquad \frac{\partial e_{ij}}{\partial x_{ij}} = 1

    Gradients pass straight through to masked entries too, so they can return when the mask is updated.

    Attributes:
      table: ``[rows, dim]``, the wrapped table.
      keep: ``[rows, dim]`` bool, True = kept.

    Knobs:
      ``keep`` (traced).

    Storage:
      That of ``table``, and ``ceil(rows * dim / 8)`` bytes of bitmap.

    References:
      Lin et al., `Dynamic Model Pruning with Feedback <https://arxiv.org/abs/2006.07253>`_, 2020: the gradient at the
      pruned weights updates all of them.
    """

    table: Table
    keep: jax.Array

    shape = property(shape_below)
    nbytes = property(stored_bytes, doc="Stored bytes: of the table, and a bit per entry.")

    def rows(self, ids: jax.Array | None) -> jax.Array:
        values = lookup(self.table, ids)
        kept = jnp.where(array_rows(self.keep, ids) | jnp.isnan(values), values, 0)
        return quantize.straight_through(values, kept)

    def touched(self, ids: jax.Array) -> "Masked":
        return self._replace(table=touched(self.table, ids), keep=None)


class FakeQuantized(NamedTuple):
    r"""A table fake-quantized to ``bits`` bits, with one float16 scale per row.

    .. math::
        e_{ij} = s_i\,\mathrm{clip}\left(\mathrm{round}\left(\frac{x_{ij}}{s_i}\right), -L, L\right), \qquad
        L = 2^{b-1} - 1, \quad s_i = \mathrm{float16}\left(\frac{\max_j |x_{ij}|}{L}\right)

    Zeros stay zero and don't count in the scale, also at 1 bit. Packed by :func:`quantized`, rows equal those in
    training, bit for bit.

    Attributes:
      table: ``[rows, dim]``, the wrapped table.
      bits: scalar, may be traced; 16 and more is the identity.

    Knobs:
      ``bits`` (traced).

    Storage:
      In training that of ``table`` and 4 bytes for the bit width; packed with ``quantize(table, bits=bits, axis=0)`` it
      is ``rows * (ceil(dim * bits / 8) + 2)`` bytes.

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks for efficient inference
      <https://arxiv.org/abs/1806.08342>`_, 2018, sections 2.2 and 2.4.
    """

    table: Table
    bits: jax.Array

    shape = property(shape_below)
    nbytes = property(stored_bytes, doc="Stored bytes: of the table and the bit width.")

    def rows(self, ids: jax.Array | None) -> jax.Array:
        values = lookup(self.table, ids)
        return quantize.fake_quant(values, bits=self.bits, axis=tuple(range(values.ndim - 1)), where=values != 0)

    def touched(self, ids: jax.Array) -> "FakeQuantized":
        return self._replace(table=touched(self.table, ids), bits=None)
