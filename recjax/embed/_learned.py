"""Tables trained jointly with quantization steps, pruning thresholds or pruning scores."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recjax import prune, quantize
from recjax.embed._lookup import Table, array_rows, lookup, shape_below, stored_bytes, touched


def _of_rows(part: Table, ids: jax.Array | None, ndim: int) -> jax.Array:
    """The entries of each row, or the one row that all rows share, with ``ndim`` axes."""
    shared = part.shape[0] == 1
    return lookup(part).reshape([1] * (ndim - 1) + [part.shape[1]]) if shared else lookup(part, ids)


def _own_rows(part: Table, ids: jax.Array) -> Any:
    """The rows that a batch touches; None for one row that all rows share."""
    return None if part.shape[0] == 1 else touched(part, ids)


class LearnedStep(NamedTuple):
    r"""A table fake-quantized to ``bits`` bits with a trained step (LSQ).

    .. math::
        e_{ij} = s\,\mathrm{clip}\left(\mathrm{round}\left(\frac{x_{ij}}{s}\right), -2^{b-1}, 2^{b-1} - 1\right)

    See :func:`recjax.quantize.learned_step`. Zeros stay zero, also at 1 bit.

    Attributes:
      table: ``[rows, dim]``, the wrapped table.
      step: ``[1, 1]``, one for the whole table, or ``[rows, 1]``, one per row.
      bits: scalar, may be traced; 16 and more is the identity.

    Knobs:
      ``bits`` (traced); one step or one per row (static).

    Storage:
      In training that of ``table``, 4 bytes per step and 4 for the bit width; packed with ``quantize_with(table,
      usable_step(step), bits=bits, full_range=True)`` it is ``rows * ceil(dim * bits / 8)`` bytes and 2 per step; at 1
      bit, if there are zeros, with the bitmap of :func:`recjax.prune.sparsify`.

    References:
      Esser et al., `Learned Step Size Quantization <https://arxiv.org/abs/1902.08153>`_, 2020, section 2.
    """

    table: Table
    step: Table
    bits: jax.Array

    shape = property(shape_below)
    nbytes = property(stored_bytes, doc="Stored bytes: of the table, the steps and the bit width.")

    def rows(self, ids: jax.Array | None) -> jax.Array:
        values = lookup(self.table, ids)
        step, unknown = _of_rows(self.step, ids, values.ndim), jnp.isnan(values)
        known = jnp.where(unknown, 0, values)  # padding must not reach the gradient of a shared step
        return jnp.where(unknown, values, quantize.learned_step(known, step, bits=self.bits, where=known != 0))

    def touched(self, ids: jax.Array) -> "LearnedStep":
        return self._replace(table=touched(self.table, ids), step=_own_rows(self.step, ids), bits=None)


class LearnedThreshold(NamedTuple):
    r"""A table soft-thresholded by trained thresholds (PEP).

    .. math::
        e_{ij} = \mathrm{sign}(x_{ij}) \max(|x_{ij}| - \sigma(t_{ij}), 0)

    The thresholds determine the sparsity. No gradient flows to a zero entry, so it stays zero.

    Attributes:
      table: ``[rows, dim]``, the wrapped table.
      logits: :math:`t`, ``[1, 1]`` for the whole table, ``[1, dim]`` per dimension, ``[rows, 1]`` per row or ``[rows,
        dim]`` per entry.

    Knobs:
      Initial ``logits`` (traced) and their shape (static).

    Storage:
      In training that of ``table`` and 4 bytes per threshold; the result, by :func:`recjax.prune.sparsify`, is
      ``ceil(rows * dim / 8) + 4 * kept`` bytes without the thresholds.

    References:
      Liu et al., `Learnable Embedding Sizes for Recommender Systems <https://arxiv.org/abs/2101.07577>`_, 2021,
      section 3.2.
    """

    table: Table
    logits: Table

    shape = property(shape_below)
    nbytes = property(stored_bytes, doc="Stored bytes: of the table and the thresholds.")

    def rows(self, ids: jax.Array | None) -> jax.Array:
        values = lookup(self.table, ids)
        return prune.learned_threshold(values, _of_rows(self.logits, ids, values.ndim))

    def touched(self, ids: jax.Array) -> "LearnedThreshold":
        return self._replace(table=touched(self.table, ids), logits=_own_rows(self.logits, ids))


class Scored(NamedTuple):
    r"""A table masked by trained scores (movement pruning).

    .. math::
        e = m \odot x, \qquad \frac{\partial \ell}{\partial s} := \frac{\partial \ell}{\partial e} \odot x, \qquad
        \frac{\partial \ell}{\partial x} = \frac{\partial \ell}{\partial e} \odot m

    Attributes:
      table: ``[rows, dim]``, the wrapped table.
      scores: ``[rows, dim]``, :math:`s`.
      keep: ``[rows, dim]`` bool, the mask :math:`m`, such as :func:`recjax.prune.mask_lowest` of the scores.

    Knobs:
      ``keep`` (traced).

    Storage:
      In training that of ``table``, 4 bytes per score and a bit per entry; the result, by
      :func:`recjax.prune.sparsify`, is ``ceil(rows * dim / 8) + 4 * kept`` bytes without the scores.

    References:
      Sanh et al., `Movement Pruning: Adaptive Sparsity by Fine-Tuning <https://arxiv.org/abs/2005.07683>`_, 2020,
      section 4.
    """

    table: Table
    scores: Table
    keep: jax.Array

    shape = property(shape_below)
    nbytes = property(stored_bytes, doc="Stored bytes: of the table, the scores and a bit per entry.")

    def rows(self, ids: jax.Array | None) -> jax.Array:
        return prune.score_masked(lookup(self.table, ids), lookup(self.scores, ids), array_rows(self.keep, ids))

    def touched(self, ids: jax.Array) -> "Scored":
        return self._replace(table=touched(self.table, ids), scores=touched(self.scores, ids), keep=None)
