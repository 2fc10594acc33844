"""A table that trains together with the step of its quantizer."""

from typing import NamedTuple

import jax

from recjax import quantize
from recjax.embed._door import Table, lookup, stored_bytes, touched


class LearnedStep(NamedTuple):
    r"""A table that reads as it would after packing to ``bits`` bits with a step that is trained (LSQ).

    .. math::
        e_{ij} = s\,\mathrm{clip}\left(\mathrm{round}\left(\frac{x_{ij}}{s}\right), -2^{b-1}, 2^{b-1} - 1\right)

    Rows are gathered first and quantized after, with :func:`recjax.quantize.learned_step`. Zeros stay zero: those of a
    pruned table at 1 bit too, whose grid has none.

    Attributes:
      table: the table below, ``[rows, dim]``.
      step: ``[1, 1]``, one for the whole table, or ``[rows, 1]``, one a row.
      bits: scalar, may be traced; 16 and more is the identity.

    Knobs:
      ``bits`` (traced); one step or one a row (static).

    Storage:
      In training that of ``table``, 4 bytes a step and 4 of the width; packed with ``quantize_with(table,
      usable_step(step), bits=bits, full_range=True)`` it is ``rows * ceil(dim * bits / 8)`` bytes and 2 a step; at 1
      bit, if there are zeros, with the bitmap of :func:`recjax.prune.sparsify`.

    References:
      Esser et al., `Learned Step Size Quantization <https://arxiv.org/abs/1902.08153>`_, 2020, section 2.
    """

    table: Table
    step: Table
    bits: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and dim."""
        return self.table.shape

    @property
    def nbytes(self) -> int:
        """The bytes that are stored: the table's, the steps and the width."""
        return stored_bytes(self)

    def rows(self, ids: jax.Array | None) -> jax.Array:
        """``[..., dim]`` for ids ``[...]``."""
        values = lookup(self.table, ids)
        step = lookup(self.step).reshape([1] * values.ndim) if self.step.shape[0] == 1 else lookup(self.step, ids)
        return quantize.learned_step(values, step, bits=self.bits, where=values != 0)

    def touched(self, ids: jax.Array) -> "LearnedStep":
        """The rows of the table below, and of the steps if each has its own; the width isn't trained."""
        own = None if self.step.shape[0] == 1 else touched(self.step, ids)
        return self._replace(table=touched(self.table, ids), step=own, bits=None)
