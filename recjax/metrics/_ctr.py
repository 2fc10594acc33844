"""Metrics of predicted click probabilities: log loss and calibration."""

import jax
import jax.numpy as jnp

from recjax.arrays import check_rows, check_where, wide_dtype
from recjax.losses import binary_cross_entropy


def logloss(logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Log loss: mean binary cross-entropy from logits.

    With logits :math:`x` and labels :math:`y` of the :math:`n` examples that count,

    .. math::
        L = -\frac{1}{n} \sum_i \left( y_i \log \sigma(x_i) + (1 - y_i) \log(1 - \sigma(x_i)) \right).

    Nothing is clipped; implementations on probabilities clip them, and give less for confident wrong predictions.
    :func:`recjax.losses.binary_cross_entropy` is the unreduced form.

    Args:
      logits: ``[..., n]`` float logits, finite where they count.
      labels: ``[..., n]`` bool, 0 and 1, or probabilities.
      where: ``[..., n]`` bool, which examples count.

    Returns:
      ``[...]`` nats, one per row, float32 (float64 if the logits are). A row in which nothing counts gives 0.

    Raises:
      ValueError: if ``logits``, ``labels`` and ``where`` differ in shape or are scalars.
      TypeError: if ``logits`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> logits, labels = jnp.log(jnp.array([0.9 / 0.1, 0.2 / 0.8])), jnp.array([1, 0])
      >>> print(f"{logloss(logits, labels):.4f}")
      0.1643

    References:
      Good, *Rational Decisions*, Journal of the Royal Statistical Society B 14, 1952.
    """
    x, y, where = examples(logits, labels, where)
    return _mean(binary_cross_entropy(x, y), where)


def normalized_entropy(logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Log loss divided by that of predicting the base rate (NE, normalized cross-entropy).

    With :math:`L` the :func:`logloss` and :math:`p` the mean label,

    .. math::
        \mathrm{NE} = \frac{L}{-p \log p - (1 - p) \log(1 - p)}.

    Below 1 is better than the base rate alone. The base rate is that of the evaluated examples, as published, not of
    the training set. 1 - NE is also called the relative information gain.

    Args:
      logits: ``[..., n]`` float logits, finite where they count.
      labels: ``[..., n]`` bool, or 0 and 1.
      where: ``[..., n]`` bool, which examples count.

    Returns:
      ``[...]`` ratio, one per row, float32 (float64 if the logits are). NaN with a single class: its base rate has no
      entropy.

    Raises:
      ValueError: if ``logits``, ``labels`` and ``where`` differ in shape or are scalars.
      TypeError: if ``logits`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> labels = jnp.array([1, 0, 0, 0])
      >>> print(f"{normalized_entropy(jnp.array([2.0, -2.0, -2.0, -2.0]), labels):.4f}")
      0.2257
      >>> rates = jnp.log(jnp.array([1 / 3, 1.0]))  # the odds of the base rate, and of one half
      >>> logits = jnp.broadcast_to(rates[:, None], (2, 4))
      >>> [f"{value:.4f}" for value in jax.vmap(normalized_entropy, in_axes=(0, None))(logits, labels)]
      ['1.0000', '1.2326']

    References:
      He et al., *Practical Lessons from Predicting Clicks on Ads at Facebook*, ADKDD 2014.
    """
    x, y, where = examples(logits, labels, where)
    entropy = jax.scipy.special.entr(_mean(y, where)) + jax.scipy.special.entr(_mean(1 - y, where))
    both = entropy > 0
    return jnp.where(both, _mean(binary_cross_entropy(x, y), where) / jnp.where(both, entropy, 1), jnp.nan)


def calibration_error(
    logits: jax.Array, labels: jax.Array, *, bins: int = 15, where: jax.Array | None = None
) -> jax.Array:
    r"""Expected calibration error over bins of the predicted probability (ECE).

    With :math:`S_b` the examples whose probability :math:`\sigma(x_i)` is in the :math:`b`-th of :math:`B` bins of
    equal width,

    .. math::
        \mathrm{ECE} = \sum_{b} \frac{|S_b|}{n} \left|
            \frac{1}{|S_b|} \sum_{i \in S_b} y_i - \frac{1}{|S_b|} \sum_{i \in S_b} \sigma(x_i) \right|.

    Bin :math:`b` is :math:`[b / B, (b + 1) / B)`; Guo et al. close theirs on the right. The probability of the positive
    class is binned; multi-class implementations bin that of the predicted class, which gives another number. If all
    predictions are near 0, as click rates are, they may share one bin, and the metric says little.

    Args:
      logits: ``[..., n]`` float logits.
      labels: ``[..., n]`` bool, or 0 and 1.
      bins: how many bins, static.
      where: ``[..., n]`` bool, which examples count.

    Returns:
      ``[...]`` in [0, 1], one per row, float32 (float64 if the logits are). A row in which nothing counts gives 0.

    Raises:
      ValueError: if ``logits``, ``labels`` and ``where`` differ in shape or are scalars, or ``bins`` is below 1.
      TypeError: if ``logits`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([0.2 / 0.8, 0.2 / 0.8, 0.9 / 0.1, 0.9 / 0.1]))
      >>> print(f"{calibration_error(logits, jnp.array([0, 1, 1, 1])):.4f}")  # (|1 - 0.4| + |2 - 1.8|) / 4
      0.2000

    References:
      Naeini et al., *Obtaining Well Calibrated Probabilities Using Bayesian Binning*, AAAI 2015; Guo et al., `On
      Calibration of Modern Neural Networks <https://arxiv.org/abs/1706.04599>`_, ICML 2017, section 2.
    """
    x, y, where = examples(logits, labels, where)
    check_bins(bins)
    probability = jax.nn.sigmoid(x)
    gap = jnp.where(where, y - probability, 0)
    # A comparison per bin, not a scatter: its sums are exact to more digits, and it needs no index per leading axis.
    cells = (*x.shape[:-1], bins, x.shape[-1])
    inside = jax.lax.broadcasted_iota(jnp.int32, cells, x.ndim - 1) == bin_index(probability, bins)[..., None, :]
    gaps = jnp.sum(jnp.where(inside, gap[..., None, :], 0), axis=-1)
    return jnp.sum(jnp.abs(gaps), axis=-1) / _count(where, x.dtype)


def calibration_ratio(logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Predicted over observed click rate (calibration).

    .. math::
        r = \frac{\sum_i \sigma(x_i)}{\sum_i y_i}.

    1 is calibrated on average, above 1 predicts too many clicks. Some implementations give the inverse, or the distance
    from 1.

    Args:
      logits: ``[..., n]`` float logits.
      labels: ``[..., n]`` bool, 0 and 1, or probabilities.
      where: ``[..., n]`` bool, which examples count.

    Returns:
      ``[...]`` ratio ``>= 0``, one per row, float32 (float64 if the logits are). NaN without a positive label.

    Raises:
      ValueError: if ``logits``, ``labels`` and ``where`` differ in shape or are scalars.
      TypeError: if ``logits`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> logits, labels = jnp.array([0.0, 0.0, 0.0, 0.0]), jnp.array([1, 0, 0, 0])
      >>> print(calibration_ratio(logits, labels))
      2.0
      >>> jax.vmap(calibration_ratio, in_axes=(0, None))(jnp.stack([logits, -logits]), labels)
      Array([2., 2.], dtype=float32)

    References:
      He et al., *Practical Lessons from Predicting Clicks on Ads at Facebook*, ADKDD 2014.
    """
    x, y, where = examples(logits, labels, where)
    clicks = jnp.sum(y, axis=-1)
    predicted = jnp.sum(jnp.where(where, jax.nn.sigmoid(x), 0), axis=-1)
    return jnp.where(clicks > 0, predicted / jnp.where(clicks > 0, clicks, 1), jnp.nan)


def examples(logits: jax.Array, labels: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits and labels in the wide dtype, 0 where they don't count, and what counts."""
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
        raise ValueError(f"expected at least 1 bin, got {bins}")


def bin_index(probability: jax.Array, bins: int) -> jax.Array:
    # Clipped as integers: a NaN has no integer of its own, and must still fall into some bin to be seen.
    return jnp.clip(jnp.floor(probability * bins).astype(jnp.int32), 0, bins - 1)
