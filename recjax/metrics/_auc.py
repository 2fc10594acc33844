"""Area under the ROC curve: exact, per group, and bounds from a histogram.

Pairs are counted in integers: a float32 is exact up to 2^24 only. A product of two class sizes needs up to 62 bits, so
counts of pairs are two uint32 words, ``(high, low)``, which need no ``jax_enable_x64``. Only the last division rounds.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from recjax.arrays import check_integers, check_rows, check_same_shape
from recjax.metrics._ctr import bin_index, check_bins, checked_examples


def auc(logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Area under the ROC curve (AUC), with ties counted one half.

    .. math::
        \mathrm{AUC} = \frac{1}{P N} \sum_{i \in \mathrm{pos}} \sum_{j \in \mathrm{neg}}
            \left( [x_i > x_j] + \tfrac{1}{2} [x_i = x_j] \right).

    One sort, exact up to 2^31 - 1 examples per row, except for the rounding of the last division. Pass logits: float32
    probabilities may round different logits to one value.

    Args:
      logits: ``[..., n]`` float, any scores :math:`x`.
      labels: ``[..., n]`` bool, or 0 and 1.
      where: ``[..., n]`` bool, which examples count.

    Returns:
      ``[...]`` in [0, 1], one per row; NaN if there is a single class.

    Examples:
      >>> logits, labels = jnp.array([0.1, 0.4, 0.4, 0.8]), jnp.array([0, 0, 1, 1])
      >>> print(auc(logits, labels))
      0.875

    References:
      Hanley and McNeil, *The Meaning and Use of the Area under a Receiver Operating Characteristic (ROC) Curve*,
      Radiology 143, 1982.
    """
    x, y, where = checked_examples(logits, labels, where)
    x, side = jax.lax.sort((x, _label_signs(y, where)), num_keys=1, is_stable=False)  # -0 and 0 are equal to this sort
    below, up_to = _negatives_through(side, x[..., 1:] != x[..., :-1])
    wins = jnp.where(side == 1, below + up_to, 0)  # doubled, since a tie is half a win
    won = _cumulative_uint64(jnp.zeros_like(wins), wins)
    positives, negatives = (jnp.sum(side == sign, axis=-1, dtype=jnp.uint32) for sign in (1, -1))
    pairs = _multiply_uint32(2 * positives, negatives)
    value = _to_float((won[0][..., -1], won[1][..., -1]), x.dtype) / _to_float(pairs, x.dtype)  # a single class: 0 / 0
    return jnp.where(jnp.any(jnp.isnan(x), axis=-1), jnp.nan, value)


class AucHistogram(NamedTuple):
    """Counts of both classes by predicted probability, for an AUC over more examples than fit into memory.

    Bin :math:`b` of :math:`B` holds probabilities in :math:`[b / B, (b + 1) / B)`, the last bin also 1. Histograms of
    parts of the data add up.

    Attributes:
      positives: ``[bins]`` int32, number of positive examples in each bin.
      negatives: ``[bins]`` int32, number of negative examples in each bin.
    """

    positives: jax.Array
    negatives: jax.Array


def auc_histogram(bins: int) -> AucHistogram:
    """An empty histogram for :func:`auc_update`.

    Args:
      bins: number of bins, static. More bins give narrower bounds.

    Returns:
      An :class:`AucHistogram` of zeros.

    Raises:
      ValueError: if ``bins`` is below 1.

    Examples:
      >>> print(auc_histogram(4).positives)
      [0 0 0 0]
    """
    check_bins(bins)
    return AucHistogram(jnp.zeros(bins, jnp.int32), jnp.zeros(bins, jnp.int32))


def auc_update(
    histogram: AucHistogram, logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None
) -> AucHistogram:
    r"""Adds a batch of examples to a histogram.

    .. math::
        b(x) = \min(\lfloor B \, \sigma(x) \rfloor, B - 1).

    If all probabilities are near 0, as click-through rates are, most examples share the first bins and the bounds are
    wide. Add a constant to such logits first; the AUC is the same.

    Args:
      histogram: the counts so far, in :math:`B` bins.
      logits: ``[n]`` float, logits :math:`x`. NaN counts as an error: probability 0 for a positive example, 1 for a
        negative one.
      labels: ``[n]`` bool, or 0 and 1.
      where: ``[n]`` bool, which examples count.

    Returns:
      A new :class:`AucHistogram`.

    Examples:
      >>> logits, labels = jnp.array([-2.0, -1.0, 1.0, 3.0]), jnp.array([0, 0, 1, 1])
      >>> histogram = auc_update(auc_histogram(4), logits, labels)
      >>> print(histogram.positives, histogram.negatives)
      [0 0 1 1] [1 1 0 0]
    """
    x, y, where = checked_examples(logits, labels, where)
    if x.ndim != 1 or histogram.positives.ndim != 1 or histogram.positives.shape != histogram.negatives.shape:
        shapes = (x.shape, histogram.positives.shape, histogram.negatives.shape)
        raise ValueError(f"expected logits of shape [n] and equal histogram shapes [bins], got {shapes}")
    positive = y != 0
    probability = jnp.where(jnp.isnan(x), jnp.where(positive, 0, 1), jax.nn.sigmoid(x))
    bins = bin_index(probability, histogram.positives.shape[0])
    return AucHistogram(
        histogram.positives.at[bins].add((positive & where).astype(histogram.positives.dtype)),
        histogram.negatives.at[bins].add((~positive & where).astype(histogram.negatives.dtype)),
    )


def auc_bounds(histogram: AucHistogram) -> tuple[jax.Array, jax.Array]:
    r"""AUC from a histogram, with an error bound.

    With :math:`P_b` positive and :math:`N_b` negative examples in bin :math:`b`, out of :math:`P` and :math:`N`,

    .. math::
        A = \frac{1}{P N} \sum_b P_b \left( \sum_{c < b} N_c + \tfrac{1}{2} N_b \right), \qquad
        \epsilon = \frac{1}{2 P N} \sum_b P_b N_b, \qquad |A - \mathrm{AUC}| \le \epsilon.

    Exact up to 2^31 - 1 examples of each class, as :func:`auc`. No tighter bound follows from the counts.

    Args:
      histogram: an :class:`AucHistogram` of ``[..., bins]``.

    Returns:
      :math:`A` and :math:`\epsilon`, ``[...]`` float32 each; NaN if there is a single class.

    Examples:
      >>> histogram = AucHistogram(jnp.array([0, 1, 3]), jnp.array([4, 1, 0]))
      >>> [f"{number:.3f}" for number in auc_bounds(histogram)]
      ['0.975', '0.025']

    References:
      Hanley and McNeil, *The Meaning and Use of the Area under a Receiver Operating Characteristic (ROC) Curve*,
      Radiology 143, 1982: AUC from counts in rated categories.
    """
    positives, negatives = jnp.asarray(histogram.positives), jnp.asarray(histogram.negatives)
    check_integers(positives=positives, negatives=negatives)
    check_rows(positives=positives, negatives=negatives)
    positives, negatives = positives.astype(jnp.uint32), negatives.astype(jnp.uint32)

    through = jnp.cumsum(negatives, axis=-1, dtype=jnp.uint32)
    won = _cumulative_uint64(*_multiply_uint32(positives, 2 * through - negatives))
    within = _cumulative_uint64(*_multiply_uint32(positives, negatives))
    pairs = _multiply_uint32(2 * jnp.sum(positives, axis=-1, dtype=jnp.uint32), through[..., -1])
    value, error = (
        _to_float((high[..., -1], low[..., -1]), jnp.float32) / _to_float(pairs, jnp.float32)
        for high, low in (won, within)
    )
    return value, error


def grouped_auc(logits: jax.Array, labels: jax.Array, group: jax.Array, *, groups: int) -> jax.Array:
    r"""Mean AUC within groups (users, sessions), weighted by their number of examples (GAUC).

    .. math::
        \mathrm{GAUC} = \frac{\sum_g n_g \, \mathrm{AUC}_g}{\sum_g n_g},

    with :func:`auc` over the :math:`n_g` examples of each group that has both classes. Protocols differ in the weight:
    examples, as here, clicks, or equal weights.

    Args:
      logits: ``[n]`` float, any scores.
      labels: ``[n]`` bool, or 0 and 1.
      group: ``[n]`` integer, group of each example, in any order. Examples outside of 0 to ``groups - 1`` don't count.
      groups: number of groups, static.

    Returns:
      Scalar in [0, 1]; NaN if no group has both classes.

    Raises:
      ValueError: if ``groups`` is below 1.

    Examples:
      >>> logits, labels = jnp.array([0.1, 0.9, 0.5, 0.5, 0.2, 0.7]), jnp.array([0, 1, 0, 1, 0, 1])
      >>> group = jnp.array([0, 0, 1, 1, 1, 2])
      >>> print(grouped_auc(logits, labels, group, groups=3))  # (2 * 1 + 3 * 0.75) / 5
      0.85

    References:
      Zhu et al., *Optimized Cost per Click in Taobao Display Advertising*, KDD 2017; Zhou et al., `Deep Interest
      Network for Click-Through Rate Prediction <https://arxiv.org/abs/1706.06978>`_, KDD 2018.
    """
    x, y, _ = checked_examples(logits, labels, None)
    group = jnp.asarray(group)
    check_integers(group=group)
    check_same_shape(logits=x, group=group)
    if x.ndim != 1:
        raise ValueError(f"expected logits of shape [n], got {x.shape}")
    if groups < 1:
        raise ValueError(f"expected groups >= 1, got {groups}")

    group = group.astype(jnp.int32)
    inside = (group >= 0) & (group < groups)
    group = jnp.where(inside, group, groups)  # sorted to the end and dropped by segment sums
    x = jnp.where(inside, x, 0)
    group, x, side = jax.lax.sort((group, x, _label_signs(y, inside)), num_keys=2, is_stable=False)
    new_group = group[1:] != group[:-1]
    below, up_to = _negatives_through(side, new_group | (x[1:] != x[:-1]))
    earlier, _ = _negatives_through(side, new_group)
    wins = jnp.where(side == 1, below + up_to - 2 * earlier, 0)  # doubled, since a tie is half a win

    def per_group(counted: jax.Array) -> jax.Array:
        counted = counted.astype(jnp.uint32)
        return jax.ops.segment_sum(counted, group, num_segments=groups, indices_are_sorted=True)

    positives, negatives = per_group(side == 1), per_group(side == -1)
    # Wins per group are differences of cumulative sums: at its last example, and before its first.
    end = jnp.cumsum(positives + negatives, dtype=jnp.uint32)
    high, low = _cumulative_uint64(jnp.zeros_like(wins), wins)
    before = end - positives - negatives
    won = (high[end] - high[before] - (low[end] < low[before]).astype(jnp.uint32), low[end] - low[before])
    both = (positives > 0) & (negatives > 0)
    pairs = _to_float(_multiply_uint32(2 * positives, negatives), x.dtype)
    values = _to_float(won, x.dtype) / jnp.where(both, pairs, 1)
    weights = jnp.where(both, (positives + negatives).astype(x.dtype), 0)
    value = jnp.sum(weights * values) / jnp.sum(weights)  # no group has both classes: 0 / 0
    return jnp.where(jnp.any(jnp.isnan(x)), jnp.nan, value)


def _label_signs(labels: jax.Array, where: jax.Array) -> jax.Array:
    """1 for a positive example, -1 for a negative one, 0 for one that doesn't count."""
    return jnp.where(where, jnp.where(labels != 0, 1, -1), 0).astype(jnp.int8)


def _negatives_through(side: jax.Array, boundary: jax.Array) -> tuple[jax.Array, jax.Array]:
    """For each example of sorted rows, the numbers of negatives before its run and through the end of its run.

    ``boundary`` is True between neighbors of different runs.
    """
    negative = (side == -1).astype(jnp.uint32)
    through = jnp.cumsum(negative, axis=-1, dtype=jnp.uint32)
    end = jnp.ones_like(boundary, shape=(*side.shape[:-1], 1))
    first, last = (jnp.concatenate(parts, axis=-1) for parts in ((end, boundary), (boundary, end)))
    # Counts never fall along a row, so cummax and cummin carry the count at the edge of a run over the run.
    before = jax.lax.cummax(jnp.where(first, through - negative, 0), axis=side.ndim - 1)
    up_to = jnp.where(last, through, through[..., -1:])
    return before, jax.lax.cummin(up_to, axis=side.ndim - 1, reverse=True)


def _multiply_uint32(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The 64-bit product of two uint32, as ``(high, low)``, by long multiplication of 16-bit halves."""
    a_low, a_high, b_low, b_high = a & 0xFFFF, a >> 16, b & 0xFFFF, b >> 16
    first = a_high * b_low + (a_low * b_low >> 16)
    second = a_low * b_high + (first & 0xFFFF)
    return a_high * b_high + (first >> 16) + (second >> 16), a * b


def _cumulative_uint64(high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The 64-bit sums of the first 0, 1, ... n numbers of a row, ``[..., n + 1]``."""
    total = jnp.cumsum(low, axis=-1, dtype=jnp.uint32)
    # An addend is below 2^32: the low word wrapped around exactly where the sum is below the addend.
    high = jnp.cumsum(high + (total < low).astype(jnp.uint32), axis=-1, dtype=jnp.uint32)
    zero = jnp.zeros_like(low, shape=(*low.shape[:-1], 1))
    return jnp.concatenate([zero, high], axis=-1), jnp.concatenate([zero, total], axis=-1)


def _to_float(number: tuple[jax.Array, jax.Array], dtype: jax.typing.DTypeLike) -> jax.Array:
    """A 64-bit integer as a float. Equal integers are rounded equally, so a perfect ranking has AUC exactly 1."""
    high, low = number
    return high.astype(dtype) * 2.0**32 + low.astype(dtype)
