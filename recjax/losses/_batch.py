"""Logit distillation losses that compare whole batches or lists."""

import jax
import jax.numpy as jnp

from recjax.arrays import (
    check_rows,
    check_where,
    clear_masked,
    fill_masked,
    masked_mean,
    safe_sqrt,
    wide_dtype,
)


def dist(
    student: jax.Array,
    teacher: jax.Array,
    *,
    beta: jax.typing.ArrayLike = 1.0,
    gamma: jax.typing.ArrayLike = 1.0,
    temperature: jax.typing.ArrayLike = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""One minus the Pearson correlation of student and teacher probabilities, per row and per column (DIST).

    .. math::
        \ell_{ij}(s, t) = \tau^2 \left[ \beta (1 - \rho(q_{i \cdot}, p_{i \cdot}))
                        + \gamma (1 - \rho(q_{\cdot j}, p_{\cdot j})) \right],
        \qquad q = \mathrm{softmax}(s / \tau),\; p = \mathrm{softmax}(t / \tau).

    The softmax is over the items of a row. The correlation of a constant row or column is 0.

    Args:
      student: ``[n, items]`` float, scores :math:`s` of a batch of ``n`` rows.
      teacher: ``[n, items]`` float, scores :math:`t`.
      beta: scalar ``>= 0``, weight of the correlations of rows.
      gamma: scalar ``>= 0``, weight of the correlations of columns.
      temperature: scalar ``> 0``, :math:`\tau`.
      where: ``[n]`` bool, which rows count.

    Returns:
      ``[n, items]`` loss; the paper's loss is the mean.

    Examples:
      >>> s = jnp.array([[2.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
      >>> t = jnp.array([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
      >>> print(f"{dist(s, t, temperature=2.0).mean():.4f}")
      0.4677

    Published:
      ``beta = gamma = 1`` and :math:`\tau` = 1, weight 2 on the mean over a batch.

    References:
      Huang et al., `Knowledge Distillation from A Stronger Teacher <https://arxiv.org/abs/2205.10536>`_, NeurIPS 2022.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    if student.ndim != 2:
        raise ValueError(f"expected student and teacher of shape [n, items], got {student.shape}")
    if where is not None:
        check_where(where, student.shape[:1])
    dtype = wide_dtype(student, "student")
    beta, gamma, tau = (jnp.asarray(x, dtype) for x in (beta, gamma, temperature))
    rows = None if where is None else where[:, None]

    q = jax.nn.softmax(clear_masked(student.astype(dtype), rows) / tau)
    p = jax.nn.softmax(clear_masked(teacher.astype(dtype), rows) / tau)
    per_row, per_column = _one_minus_correlation(q, p, None, axis=1), _one_minus_correlation(q, p, rows, axis=0)
    loss = jnp.square(tau) * (beta * per_row + gamma * per_column)
    return clear_masked(loss, rows).astype(student.dtype)


def listwise_bce(student: jax.Array, teacher: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Cross-entropy of each item's share of the click probabilities of its list (CLID).

    .. math::
        \ell_i(s, t) = -p_i \log q_i - (1 - p_i) \log(1 - q_i),
        \qquad p_i = \frac{\sigma(t_i)}{\sum_j \sigma(t_j)},\; q_i = \frac{\sigma(s_i)}{\sum_j \sigma(s_j)}.

    A student that predicts the teacher's probabilities minimizes it, so the ranking does not spoil calibration.

    Args:
      student: ``[..., n]`` float, logits :math:`s` of the items of a page or a batch.
      teacher: ``[..., n]`` float, logits :math:`t`.
      where: ``[..., n]`` bool, which items count.

    Returns:
      ``[..., n]`` nats, one per item. A list of one item has loss 0.

    Examples:
      >>> loss = listwise_bce(jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 0.0]))
      >>> [f"{x:.4f}" for x in loss]
      ['0.6857', '0.6378', '0.5382']

    Published:
      Weight 100 on the mean over a batch of 10,000, which is the list (a baseline of RCE-KD on Criteo).

    References:
      Gui et al., `Calibration-compatible Listwise Distillation of Privileged Features for CTR Prediction
      <https://arxiv.org/abs/2312.08727>`_, WSDM 2024.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    if where is not None:
        check_where(where, student.shape)
    dtype = wide_dtype(student, "student")
    log_q, log_other_q = _log_shares(student.astype(dtype), where)
    log_p, log_other_p = _log_shares(teacher.astype(dtype), where)
    loss = -jnp.exp(log_p) * log_q - jnp.exp(log_other_p) * log_other_q
    return clear_masked(loss, where).astype(student.dtype)


def _one_minus_correlation(a: jax.Array, b: jax.Array, where: jax.Array | None, axis: int) -> jax.Array:
    """One minus Pearson's correlation along an axis, which is kept with length 1."""
    a, b = (clear_masked(x - masked_mean(x, where, axis), where) for x in (a, b))
    length_a, length_b = (safe_sqrt(jnp.sum(jnp.square(x), axis=axis, keepdims=True)) for x in (a, b))
    a, b = (x / jnp.where(length == 0, 1, length) for x, length in ((a, length_a), (b, length_b)))
    # 1 minus the cosine of unit vectors as half their squared distance: no cancellation for cosines near 1.
    lost, size = jnp.sum(jnp.square(a - b), axis=axis, keepdims=True) / 2, length_a * length_b
    return (size * lost + 1e-8) / (size + 1e-8)  # 1e-8 as published: a constant has correlation 0


def _log_shares(logits: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Logarithms of each item's share of the list's sum of sigmoids, and of one minus that share."""
    x = fill_masked(jax.nn.log_sigmoid(clear_masked(logits, where)), where)
    x = x - jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True, initial=-jnp.inf))
    greatest, shares = x == 0, jnp.exp(x)
    total = jnp.sum(shares, axis=-1, keepdims=True)
    # Total minus share is exact enough, except for a unique maximum, where it cancels: sum all the others instead,
    # which is finite even if there are none.
    unique = greatest & (jnp.sum(greatest, axis=-1, keepdims=True) == 1)
    rest = jax.nn.logsumexp(jnp.where(greatest, jnp.finfo(x.dtype).min / 2, x), axis=-1, keepdims=True)
    others = jnp.where(unique, rest, jnp.log(jnp.where(unique, 1, total - shares)))
    return x - jnp.log(total), others - jnp.log(total)
