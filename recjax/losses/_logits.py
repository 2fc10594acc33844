"""Logit distillation: divergences between student and teacher scores."""

import jax
import jax.numpy as jnp

from recjax.arrays import (
    check_integers,
    check_rows,
    check_same_shape,
    check_where,
    clear_masked,
    fill_masked,
    masked_mean,
    row_sum,
    safe_sqrt,
    wide_dtype,
)
from recjax.losses._task import softmax_cross_entropy


def soft_target_kl(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: jax.typing.ArrayLike = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""KL divergence from the softened teacher to the softened student.

    .. math::
        \ell(s, t) = \tau^2 \sum_i p_i (\log p_i - \log q_i),
        \qquad p = \mathrm{softmax}(t / \tau),\; q = \mathrm{softmax}(s / \tau).

    With the factor :math:`\tau^2`, the scale of the gradient hardly depends on :math:`\tau`.

    Args:
      student, teacher: ``[..., items]`` float, scores :math:`s` and :math:`t`.
      temperature: scalar ``> 0``, :math:`\tau`.
      where: ``[..., items]`` bool, which items count.

    Returns:
      ``[...]`` nats times ``temperature ** 2``, one per list.

    Examples:
      >>> s, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 0.0])
      >>> print(f"{soft_target_kl(s, t, temperature=2.0):.4f}")
      0.1207

    Published:
      Temperatures from 1 to 20, the mean over a batch.

    Sampling:
      Nothing for the whole catalog; else any list of items, such as by :func:`recjax.teacher.by_rank`.

    References:
      Hinton et al., `Distilling the Knowledge in a Neural Network <https://arxiv.org/abs/1503.02531>`_, 2015.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    if where is not None:
        check_where(where, student.shape)
    dtype = wide_dtype(student, "student")
    tau = jnp.asarray(temperature, dtype)

    # Cleared before the division, to keep masked inf and NaN out of the gradient of the temperature too.
    log_q = jax.nn.log_softmax(fill_masked(clear_masked(student.astype(dtype), where) / tau, where))
    log_p = jax.nn.log_softmax(fill_masked(clear_masked(teacher.astype(dtype), where) / tau, where))
    terms = clear_masked(jnp.exp(log_p) * (log_p - log_q), where)
    return (jnp.square(tau) * row_sum(terms)).astype(student.dtype)


def soft_target_ce(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: jax.typing.ArrayLike = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Cross-entropy between the softened teacher and the softened student.

    .. math::
        \ell(s, t) = -\sum_i p_i \log q_i, \qquad p = \mathrm{softmax}(t / \tau),\; q = \mathrm{softmax}(s / \tau).

    This is the KL divergence plus the entropy of :math:`p`. Without the factor :math:`\tau^2` of
    :func:`soft_target_kl`, the gradient shrinks as :math:`1 / \tau^2`.

    Args:
      student, teacher: ``[..., items]`` float, scores :math:`s` and :math:`t`.
      temperature: scalar ``> 0``, :math:`\tau`.
      where: ``[..., items]`` bool, which items count.

    Returns:
      ``[...]`` nats, one per list.

    Examples:
      >>> s, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 0.0])
      >>> print(f"{soft_target_ce(s, t, temperature=2.0):.4f}")
      0.9361

    Published:
      On the student's or the teacher's best 50 items, with the sum over users: :math:`\tau` = 1 and weight 1 between
      two matrix factorizations, 10 and 5 from LightGCN to matrix factorization (a baseline of RCE-KD on CiteULike).

    Sampling:
      Nothing for the best items or the whole catalog; else :func:`recjax.teacher.by_rank`.

    References:
      Hinton et al., `Distilling the Knowledge in a Neural Network <https://arxiv.org/abs/1503.02531>`_, 2015.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    if where is not None:
        check_where(where, student.shape)
    dtype = wide_dtype(student, "student")
    tau = jnp.asarray(temperature, dtype)

    log_q = jax.nn.log_softmax(fill_masked(clear_masked(student.astype(dtype), where) / tau, where))
    p = jax.nn.softmax(fill_masked(clear_masked(teacher.astype(dtype), where) / tau, where))
    return -row_sum(clear_masked(p * log_q, where)).astype(student.dtype)


def soft_target_bce(student: jax.Array, teacher: jax.Array, *, temperature: jax.typing.ArrayLike = 1.0) -> jax.Array:
    r"""Binary cross-entropy between the softened probabilities of teacher and student.

    .. math::
        \ell(s, t) = -p \log \sigma(s / \tau) - (1 - p) \log(1 - \sigma(s / \tau)), \qquad p = \sigma(t / \tau).

    The minimum is the entropy of :math:`p`. There is no factor :math:`\tau^2`.

    Args:
      student, teacher: ``[...]`` float, logits :math:`s` and :math:`t`.
      temperature: scalar ``> 0``, :math:`\tau`.

    Returns:
      ``[...]`` nats, one per element.

    Examples:
      >>> loss = soft_target_bce(jnp.array([0.0, 2.0]), jnp.array([1.0, 2.0]))
      >>> [f"{x:.4f}" for x in loss]
      ['0.6931', '0.3653']

    Published:
      :math:`\tau` = 1 and weight 100 for a CrossNet teacher or 10 for a DNN teacher, on the mean over a batch of 10,000
      (a baseline of RCE-KD on Criteo).

    References:
      Zhu et al., `Ensembled CTR Prediction via Knowledge Distillation <https://arxiv.org/abs/2011.04106>`_, CIKM 2020.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_same_shape(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    tau = jnp.asarray(temperature, dtype)
    x, y = student.astype(dtype) / tau, teacher.astype(dtype) / tau
    # sigmoid(-y) for 1 - p, which would be rounded to 0 for a confident teacher.
    loss = jax.nn.sigmoid(y) * jax.nn.softplus(-x) + jax.nn.sigmoid(-y) * jax.nn.softplus(x)
    return loss.astype(student.dtype)


def distillation(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array,
    *,
    alpha: jax.typing.ArrayLike,
    temperature: jax.typing.ArrayLike = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Weighted sum of the cross-entropy with the labels and the KL divergence from the teacher (Hinton's KD).

    .. math::
        \ell(s, t, y) = (1 - \alpha) \, \mathrm{CE}(s, y) + \alpha \, \mathrm{KL}_\tau(s, t),

    with :func:`softmax_cross_entropy` at temperature 1 and :func:`soft_target_kl`, including its factor :math:`\tau^2`.

    Args:
      student, teacher: ``[..., items]`` float, scores :math:`s` and :math:`t`.
      labels: ``[...]`` integer positions of the positive item, or ``[..., items]`` probabilities.
      alpha: scalar in [0, 1], weight of the teacher.
      temperature: scalar ``> 0``, :math:`\tau`.
      where: ``[..., items]`` bool, which items count.

    Returns:
      ``[...]`` nats, one per list.

    Examples:
      >>> s, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 0.0])
      >>> print(f"{distillation(s, t, jnp.array(0), alpha=0.5, temperature=2.0):.4f}")
      0.2641

    Published:
      Relative weight 0.5 on the labels and :math:`\tau` from 1 to 10 (the paper's speech models); Keras has 0.5 and 3,
      tunix 0.5 and 2. The mean over a batch.

    Sampling:
      Nothing for the whole catalog; else any list of items, such as by :func:`recjax.teacher.by_rank`.

    References:
      Hinton et al., `Distilling the Knowledge in a Neural Network <https://arxiv.org/abs/1503.02531>`_, 2015.
    """
    student = jnp.asarray(student)
    dtype = wide_dtype(student, "student")
    scores, alpha = student.astype(dtype), jnp.asarray(alpha, dtype)  # wide: the terms aren't rounded before the sum
    hard = softmax_cross_entropy(scores, labels, where=where)
    soft = soft_target_kl(scores, teacher, temperature=temperature, where=where)
    return ((1 - alpha) * hard + alpha * soft).astype(student.dtype)


def top_k_kl(
    student: jax.Array,
    teacher: jax.Array,
    *,
    k: jax.typing.ArrayLike,
    temperature: jax.typing.ArrayLike = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""KL divergence over the teacher's top k items, softened.

    .. math::
        \ell(s, t) = \tau^2 \sum_{i \in K} p_i (\log p_i - \log q_i),
        \qquad p = \mathrm{softmax}_K(t / \tau),\; q = \mathrm{softmax}_K(s / \tau),

    with both softmaxes over the set :math:`K` of the teacher's top items. Of equal scores the first item ranks higher.
    For a constant ``k``, :func:`soft_target_kl` of the gathered items is cheaper than the two sorts here.

    Args:
      student, teacher: ``[..., items]`` float, scores :math:`s` and :math:`t`.
      k: scalar ``>= 1``, number of top items. May be traced and may exceed ``items``.
      temperature: scalar ``> 0``, :math:`\tau`.
      where: ``[..., items]`` bool, which items count.

    Returns:
      ``[...]`` nats times ``temperature ** 2``, one per list; NaN if any score that counts is NaN.

    Examples:
      >>> s, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 0.0])
      >>> print(f"{top_k_kl(s, t, k=2, temperature=2.0):.4f}")
      0.1054

    Published:
      An option of tunix, with :math:`\tau` = 2 and weight 0.5 on the mean over a batch.

    References:
      Hinton et al., `Distilling the Knowledge in a Neural Network <https://arxiv.org/abs/1503.02531>`_, 2015, for all
      classes.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    if where is not None:
        check_where(where, student.shape)
    dtype = wide_dtype(student, "student")
    s, t = clear_masked(student.astype(dtype), where), clear_masked(teacher.astype(dtype), where)

    # The rank of each item is the inverse permutation of the order: argsort of the argsort.
    rank = jnp.argsort(jnp.argsort(-fill_masked(t, where), stable=True), stable=True)
    top = rank.astype(dtype) < jnp.asarray(k, dtype)
    loss = soft_target_kl(s, t, temperature=temperature, where=top if where is None else top & where)
    # A NaN is sorted last, behind the top k.
    return jnp.where(jnp.any(jnp.isnan(s + t), axis=-1), jnp.nan, loss).astype(student.dtype)


def standardized_kl(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: jax.typing.ArrayLike = 1.0,
    epsilon: jax.typing.ArrayLike = 1e-7,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""KL divergence of standardized scores (logit standardization).

    .. math::
        \ell(s, t) = \mathrm{KL}_\tau(z(s), z(t)),
        \qquad z(x) = \frac{x - \mathrm{mean}(x)}{\epsilon + \mathrm{std}(x)},

    with :func:`soft_target_kl`, including its factor :math:`\tau^2`, and the biased standard deviation. The student
    does not learn the mean and the scale of the teacher's scores.

    Args:
      student, teacher: ``[..., items]`` float, scores :math:`s` and :math:`t`.
      temperature: scalar ``> 0``, :math:`\tau`.
      epsilon: scalar ``> 0``, :math:`\epsilon`. For a list of equal scores the gradient is as large as ``1 / epsilon``.
      where: ``[..., items]`` bool, which items count.

    Returns:
      ``[...]`` nats times ``temperature ** 2``, one per list.

    Examples:
      >>> s, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 0.0])
      >>> print(f"{standardized_kl(s, t, temperature=2.0):.4f}")
      0.0150

    Published:
      ``epsilon`` = 1e-7; on CIFAR-100 temperature 2 and weight 9 on the mean over a batch. The public code has the
      unbiased deviation: a temperature :math:`\sqrt{n / (n - 1)}` times as high, but with the same :math:`\tau^2`.

    References:
      Sun et al., `Logit Standardization in Knowledge Distillation <https://arxiv.org/abs/2403.01427>`_, CVPR 2024.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    if where is not None:
        check_where(where, student.shape)
    dtype = wide_dtype(student, "student")
    epsilon = jnp.asarray(epsilon, dtype)
    s, t = (_standardize(clear_masked(x.astype(dtype), where), epsilon, where) for x in (student, teacher))
    return soft_target_kl(s, t, temperature=temperature, where=where).astype(student.dtype)


def decoupled_kl(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array,
    *,
    alpha: jax.typing.ArrayLike = 1.0,
    beta: jax.typing.ArrayLike = 8.0,
    temperature: jax.typing.ArrayLike = 4.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""KL divergence from teacher to student in two parts: the target against the rest, and within the rest (DKD).

    .. math::
        \ell(s, t, y) = \alpha \tau^2 \left[ p_y \log \frac{p_y}{q_y}
                      + (1 - p_y) \log \frac{1 - p_y}{1 - q_y} \right]
                      + \beta \, \mathrm{KL}_\tau(s_{\ne y}, t_{\ne y}),

    with :math:`q = \mathrm{softmax}(s / \tau)`, :math:`p = \mathrm{softmax}(t / \tau)` and :func:`soft_target_kl`,
    including its factor :math:`\tau^2`. With :math:`\alpha = 1` and :math:`\beta = 1 - p_y` it is
    :func:`soft_target_kl` over all items.

    Args:
      student, teacher: ``[..., items]`` float, scores :math:`s` and :math:`t`.
      labels: ``[...]`` integer, position :math:`y` of the target item.
      alpha: scalar ``>= 0``, weight of the target against the rest.
      beta: scalar ``>= 0``, weight of the rest.
      temperature: scalar ``> 0``, :math:`\tau`.
      where: ``[..., items]`` bool, which items count. Without the target only the second part is left.

    Returns:
      ``[...]`` nats times ``temperature ** 2``, one per list; NaN for a label outside of the list.

    Examples:
      >>> s, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 1.0])
      >>> print(f"{decoupled_kl(s, t, jnp.array(0)):.4f}")
      1.0322

    Published:
      The defaults, on the mean over a batch of CIFAR-100, beside the cross-entropy with the labels at weight 1, after a
      linear warm-up of 20 epochs; ``beta`` 2 to 8 depending on the models, and on ImageNet 0.5 or 2 at temperature 1. A
      catalog has far more items than these have classes: sweep ``beta`` from 0.1 upwards.

    Sampling:
      Nothing for the whole catalog; else any list of items that includes the target.

    References:
      Zhao et al., `Decoupled Knowledge Distillation <https://arxiv.org/abs/2203.08679>`_, CVPR 2022.
    """
    student, teacher, labels = jnp.asarray(student), jnp.asarray(teacher), jnp.asarray(labels)
    check_rows(student=student, teacher=teacher)
    check_integers(labels=labels)
    if labels.shape != student.shape[:-1]:
        raise ValueError(f"expected labels of shape {student.shape[:-1]}, got {labels.shape}")
    if where is not None:
        check_where(where, student.shape)
    dtype = wide_dtype(student, "student")
    alpha, beta, tau = (jnp.asarray(x, dtype) for x in (alpha, beta, temperature))
    counted = jnp.ones(student.shape, bool) if where is None else where
    hot = jax.lax.broadcasted_iota(jnp.int32, student.shape, student.ndim - 1) == labels.astype(jnp.int32)[..., None]
    target, rest = hot & counted, ~hot & counted
    both = jnp.any(target, axis=-1) & jnp.any(rest, axis=-1)

    def target_logit(scores: jax.Array) -> jax.Array:
        """log(p_y / (1 - p_y)), exact where 1 - p_y would be rounded to 0."""
        scores = clear_masked(scores.astype(dtype), counted) / tau
        # Subtracting the highest score keeps the precision of the difference below.
        scores -= jax.lax.stop_gradient(jnp.max(fill_masked(scores, counted), axis=-1, keepdims=True, initial=-jnp.inf))
        others = jax.nn.logsumexp(fill_masked(scores, rest), axis=-1)
        return clear_masked(jnp.sum(clear_masked(scores, target), axis=-1) - others, both)

    u, v = target_logit(student), target_logit(teacher)
    # Differences of softplus are those of logarithms: log p_y = -softplus(-v) and log(1 - p_y) = -softplus(v).
    binary = jax.nn.sigmoid(v) * (jax.nn.softplus(-u) - jax.nn.softplus(-v))
    binary += jax.nn.sigmoid(-v) * (jax.nn.softplus(u) - jax.nn.softplus(v))
    within = soft_target_kl(student.astype(dtype), teacher.astype(dtype), temperature=tau, where=rest)
    loss = alpha * jnp.square(tau) * binary + beta * within
    return jnp.where(jnp.any(hot, axis=-1), loss, jnp.nan).astype(student.dtype)


def _standardize(x: jax.Array, epsilon: jax.Array, where: jax.Array | None) -> jax.Array:
    """Standardizes each list."""
    centered = x - masked_mean(x, where, -1)
    return centered / (epsilon + safe_sqrt(masked_mean(jnp.square(centered), where, -1)))
