"""CTR metrics: log loss and calibration."""

import jax
import jax.numpy as jnp

from recjax.arrays import check_rows, check_where, wide_dtype
from recjax.losses import binary_cross_entropy


def logloss(logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Log loss: mean binary cross-entropy from logits.

    .. math::
        L = -\frac{1}{n} \sum_i \left( y_i \log \sigma(x_i) + (1 - y_i) \log(1 - \sigma(x_i)) \right).

    Nothing is clipped, unlike in implementations on probabilities, which report less for confident wrong predictions.

    Args:
      logits: ``[..., n]`` float, logits :math:`x`, finite where they count.
      labels: ``[..., n]`` bool, 0 and 1, or probabilities, :math:`y`.
      where: ``[..., n]`` bool, which examples count.

    Returns:
      ``[...]`` nats, one per row; 0 if no example counts.

    Examples:
      >>> logits, labels = jnp.log(jnp.array([0.9 / 0.1, 0.2 / 0.8])), jnp.array([1, 0])
      >>> print(f"{logloss(logits, labels):.4f}")
      0.1643

    References:
      Good, *Rational Decisions*, Journal of the Royal Statistical Society B 14, 1952.
    """
    x, y, where = checked_examples(logits, labels, where)
    return _mean(binary_cross_entropy(x, y), where)


def normalized_entropy(logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Log loss relative to that of predicting the base rate (NE, normalized cross-entropy).

    .. math::
        \mathrm{NE} = \frac{L}{-p \log p - (1 - p) \log(1 - p)},

    with :func:`logloss` :math:`L` and base rate :math:`p`, the mean label of the evaluated examples, as published.
    Below 1 is better than the base rate. 1 - NE is the relative information gain.

    Args:
      logits: ``[..., n]`` float, finite where they count.
      labels: ``[..., n]`` bool, or 0 and 1.
      where: ``[..., n]`` bool, which examples count.

    Returns:
      ``[...]`` ratio, one per row; NaN if there is a single class.

    Examples:
      >>> labels = jnp.array([1, 0, 0, 0])
      >>> print(f"{normalized_entropy(jnp.array([2.0, -2.0, -2.0, -2.0]), labels):.4f}")
      0.2257

    References:
      He et al., *Practical Lessons from Predicting Clicks on Ads at Facebook*, ADKDD 2014.
    """
    x, y, where = checked_examples(logits, labels, where)
    entropy = jax.scipy.special.entr(_mean(y, where)) + jax.scipy.special.entr(_mean(1 - y, where))
    both = entropy > 0
    return jnp.where(both, _mean(binary_cross_entropy(x, y), where) / jnp.where(both, entropy, 1), jnp.nan)


def calibration_error(
    logits: jax.Array, labels: jax.Array, *, bins: int = 15, where: jax.Array | None = None
) -> jax.Array:
    r"""Expected calibration error over bins of the predicted probability (ECE).

    With :math:`S_b` the examples with probability :math:`\sigma(x_i)` in :math:`[b / B, (b + 1) / B)`,

    .. math::
        \mathrm{ECE} = \sum_{b} \frac{|S_b|}{n} \left|
            \frac{1}{|S_b|} \sum_{i \in S_b} y_i - \frac{1}{|S_b|} \sum_{i \in S_b} \sigma(x_i) \right|.

    The probability of the positive class is binned, not that of the predicted class as in multi-class implementations.
    If all probabilities are near 0, as click-through rates are, they may share one bin.

    Args:
      logits: ``[..., n]`` float, logits :math:`x`.
      labels: ``[..., n]`` bool, or 0 and 1, :math:`y`.
      bins: number of bins :math:`B`, static.
      where: ``[..., n]`` bool, which examples count.

    Returns:
      ``[...]`` in [0, 1], one per row; 0 if no example counts.

    Raises:
      ValueError: if ``bins`` is below 1.

    Examples:
      >>> logits = jnp.log(jnp.array([0.2 / 0.8, 0.2 / 0.8, 0.9 / 0.1, 0.9 / 0.1]))
      >>> print(f"{calibration_error(logits, jnp.array([0, 1, 1, 1])):.4f}")  # (|1 - 0.4| + |2 - 1.8|) / 4
      0.2000

    References:
      Naeini et al., *Obtaining Well Calibrated Probabilities Using Bayesian Binning*, AAAI 2015; Guo et al., `On
      Calibration of Modern Neural Networks <https://arxiv.org/abs/1706.04599>`_, ICML 2017, with bins closed on the
      right.
    """
    x, y, where = checked_examples(logits, labels, where)
    check_bins(bins)
    probability = jax.nn.sigmoid(x)
    gap = jnp.where(where, y - probability, 0)
    # A comparison per bin and not a scatter: more accurate sums, and no indices for the leading axes.
    cells = (*x.shape[:-1], bins, x.shape[-1])
    inside = jax.lax.broadcasted_iota(jnp.int32, cells, x.ndim - 1) == bin_index(probability, bins)[..., None, :]
    gaps = jnp.sum(jnp.where(inside, gap[..., None, :], 0), axis=-1)
    return jnp.sum(jnp.abs(gaps), axis=-1) / _count(where, x.dtype)


def calibration_ratio(logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Ratio of predicted to observed click-through rate (calibration).

    .. math::
        r = \frac{\sum_i \sigma(x_i)}{\sum_i y_i}.

    Above 1, the model predicts too many clicks. Some implementations return the inverse, or the distance from 1.

    Args:
      logits: ``[..., n]`` float, logits :math:`x`.
      labels: ``[..., n]`` bool, 0 and 1, or probabilities, :math:`y`.
      where: ``[..., n]`` bool, which examples count.

    Returns:
      ``[...]`` ratio ``>= 0``, one per row; NaN without a positive label.

    Examples:
      >>> logits, labels = jnp.array([0.0, 0.0, 0.0, 0.0]), jnp.array([1, 0, 0, 0])
      >>> print(calibration_ratio(logits, labels))
      2.0

    References:
      He et al., *Practical Lessons from Predicting Clicks on Ads at Facebook*, ADKDD 2014.
    """
    x, y, where = checked_examples(logits, labels, where)
    clicks = jnp.sum(y, axis=-1)
    predicted = jnp.sum(jnp.where(where, jax.nn.sigmoid(x), 0), axis=-1)
    return jnp.where(clicks > 0, predicted / jnp.where(clicks > 0, clicks, 1), jnp.nan)


def checked_examples(
    logits: jax.Array, labels: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Checked logits and labels in the wide dtype, 0 where they don't count, and the mask."""
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    check_rows(logits=logits, labels=labels)
    where = jnp.ones(logits.shape, jnp.bool_) if where is None else where
    check_where(where, logits.shape)
    dtype = wide_dtype(logits, "logits")
    return jnp.where(where, logits.astype(dtype), 0), jnp.where(where, labels.astype(dtype), 0), where


def _count(where: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return jnp.maximum(jnp.sum(where, axis=-1, dtype=jnp.int32), 1).astype(dtype)


def _mean(terms: jax.Array, where: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(where, terms, 0), axis=-1) / _count(where, terms.dtype)


def check_bins(bins: int) -> None:
    if bins < 1:
        raise ValueError(f"expected bins >= 1, got {bins}")


def bin_index(probability: jax.Array, bins: int) -> jax.Array:
    # Clipped after the cast, so that NaN gets a bin too and makes the result NaN.
    return jnp.clip(jnp.floor(probability * bins).astype(jnp.int32), 0, bins - 1)
