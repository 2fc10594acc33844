"""Logit distillation: divergences between scores of student and teacher."""

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

    For one list of items with student scores :math:`s`, teacher scores :math:`t` and temperature :math:`\tau`,

    .. math::
        \ell(s, t) = \tau^2 \sum_i p_i (\log p_i - \log q_i),
        \qquad p = \mathrm{softmax}(t / \tau),\;
        q = \mathrm{softmax}(s / \tau).

    The factor :math:`\tau^2` keeps the gradient's scale independent of :math:`\tau` to first order, so one weight can
    serve a whole temperature grid.

    Args:
      student: ``[..., items]`` float, unnormalized scores, finite where they count.
      teacher: ``[..., items]`` float, unnormalized scores, same shape.
      temperature: scalar ``> 0``.
      where: ``[..., items]`` bool, which items count. A list with no valid item has loss 0. Exclude items by this mask,
        not by a score of minus infinity.

    Returns:
      ``[...]`` loss in nats times ``temperature ** 2``, one per list, in the dtype of ``student``.

    Raises:
      ValueError: if ``student``, ``teacher`` and ``where`` differ in shape.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 0.0])
      >>> print(f"{soft_target_kl(s, t, temperature=2.0):.4f}")
      0.1207

    Published:
      Temperatures from 1 to 20, the mean over a batch.

    Sampling:
      Nothing for whole rows of scores; else any list of items, such as the teacher's best
      (:func:`recjax.teacher.by_rank`).

    References:
      Hinton et al., `Distilling the Knowledge in a Neural Network <https://arxiv.org/abs/1503.02531>`_, 2015, section
      2.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    if where is not None:
        check_where(where, student.shape)
    dtype = wide_dtype(student, "student")
    tau = jnp.asarray(temperature, dtype)

    # Cleared before the division: a masked inf or nan must not reach the gradient of the temperature either.
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

    For one list of items with student scores :math:`s`, teacher scores :math:`t` and temperature :math:`\tau`,

    .. math::
        \ell(s, t) = -\sum_i p_i \log q_i,
        \qquad p = \mathrm{softmax}(t / \tau),\;
        q = \mathrm{softmax}(s / \tau).

    It is the KL divergence plus the entropy of :math:`p`, which is its minimum. Without the factor :math:`\tau^2` of
    :func:`soft_target_kl`, the gradient in ``student`` shrinks as :math:`1 / \tau^2`.

    They differ from those of the divergence in ``teacher`` only, up to :math:`\tau^2`.

    Args:
      student: ``[..., items]`` float, unnormalized scores, finite where they count.
      teacher: ``[..., items]`` float, unnormalized scores, same shape.
      temperature: scalar ``> 0``.
      where: ``[..., items]`` bool, which items count. A list with no valid item has loss 0.

    Returns:
      ``[...]`` loss in nats, one per list, in the dtype of ``student``.

    Raises:
      ValueError: if ``student``, ``teacher`` and ``where`` differ in shape.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 0.0])
      >>> print(f"{soft_target_ce(s, t, temperature=2.0):.4f}")
      0.9361

    Published:
      On the student's or the teacher's best 50 items: :math:`\tau` = 1 and weight 1 for one factorization teaching
      another, 10 and 5 for LightGCN teaching a factorization; the sum over users (a baseline of RCE-KD on CiteULike).

    Sampling:
      Nothing where the list is the best items or the whole catalog; else :func:`recjax.teacher.by_rank`.

    References:
      Hinton et al., `Distilling the Knowledge in a Neural Network <https://arxiv.org/abs/1503.02531>`_, 2015, section
      2.
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
    r"""Cross-entropy of the softened teacher's probability and the softened student's, one item at a time.

    For a student score :math:`s`, a teacher score :math:`t` and temperature :math:`\tau`,

    .. math::
        \ell(s, t) = -p \log \sigma(s / \tau) - (1 - p) \log(1 - \sigma(s / \tau)),
        \qquad p = \sigma(t / \tau).

    The least value is the entropy of :math:`p`, not 0. There is no factor :math:`\tau^2`.

    Args:
      student: ``[...]`` float logits, finite.
      teacher: ``[...]`` float logits of the teacher, same shape.
      temperature: scalar ``> 0``.

    Returns:
      ``[...]`` loss in nats, one per element, in the dtype of ``student``.

    Raises:
      ValueError: if ``student`` and ``teacher`` differ in shape.
      TypeError: if ``student`` is not of a floating dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> loss = soft_target_bce(jnp.array([0.0, 2.0]), jnp.array([1.0, 2.0]))
      >>> [f"{x:.4f}" for x in loss]
      ['0.6931', '0.3653']

    Published:
      Weight 100 for a CrossNet teacher or 10 for a deep one, :math:`\tau` = 1, on the mean over a batch of 10,000 (a
      baseline of RCE-KD on Criteo).

    References:
      Zhu et al., `Ensembled CTR Prediction via Knowledge Distillation <https://arxiv.org/abs/2011.04106>`_, CIKM 2020.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_same_shape(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    tau = jnp.asarray(temperature, dtype)
    x, y = student.astype(dtype) / tau, teacher.astype(dtype) / tau
    # Two sigmoids, as 1 - p is rounded to 0 where the teacher is sure, and it multiplies scores of any size.
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

    With student scores :math:`s`, teacher scores :math:`t`, labels :math:`y` and a mixing weight :math:`\alpha`,

    .. math::
        \ell(s, t, y) = (1 - \alpha) \, \mathrm{CE}(s, y) + \alpha \, \mathrm{KL}_\tau(s, t),

    where CE is :func:`softmax_cross_entropy` (at temperature 1) and :math:`\mathrm{KL}_\tau` is :func:`soft_target_kl`,
    which has the factor :math:`\tau^2`.

    Where the labels are the teacher's own probabilities and the temperature is 1, both terms have the same gradient in
    ``student`` (CE is KL plus the teacher's entropy) and ``alpha`` changes nothing but the value.

    Args:
      student: ``[..., items]`` float, unnormalized scores.
      teacher: ``[..., items]`` float, unnormalized scores, same shape.
      labels: ``[...]`` integer positions of the right item, or ``[..., items]`` probabilities.
      alpha: scalar in [0, 1], weight of the teacher.
      temperature: scalar ``> 0``.
      where: ``[..., items]`` bool, which items count. A list with no valid item has loss 0.

    Returns:
      ``[...]`` loss in nats, one per list, in the dtype of ``student``.

    Raises:
      ValueError: if the shapes of the arguments don't fit together.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 0.0])
      >>> print(f"{distillation(s, t, jnp.array(0), alpha=0.5, temperature=2.0):.4f}")
      0.2641

    Published:
      Relative weight 0.5 on the labels and :math:`\tau` from 1 to 10 (the paper's speech models); Keras has 0.5 and 3,
      tunix 0.5 and 2. The mean over a batch.

    Sampling:
      Nothing for whole rows of scores; else any list of items, such as the teacher's best
      (:func:`recjax.teacher.by_rank`).

    References:
      Hinton et al., `Distilling the Knowledge in a Neural Network <https://arxiv.org/abs/1503.02531>`_, 2015, section
      2.
    """
    student = jnp.asarray(student)
    dtype = wide_dtype(student, "student")
    scores, alpha = (
        student.astype(dtype),
        jnp.asarray(alpha, dtype),
    )  # wide, so that the parts aren't rounded before the mix
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

    For one list of items with student scores :math:`s`, teacher scores :math:`t`, temperature :math:`\tau` and the set
    :math:`K` of the :math:`k` items with the highest :math:`t`,

    .. math::
        \ell(s, t) = \tau^2 \sum_{i \in K} p_i (\log p_i - \log q_i),
        \qquad p = \mathrm{softmax}_K(t / \tau),\;
        q = \mathrm{softmax}_K(s / \tau).

    Both softmaxes are over :math:`K` alone. Of equal scores the item that comes first ranks higher. A traced ``k``
    costs two sorts of the list: for a constant, :func:`soft_target_kl` of the gathered items is cheaper.

    Args:
      student: ``[..., items]`` float, unnormalized scores, finite where they count.
      teacher: ``[..., items]`` float, unnormalized scores, same shape.
      k: scalar ``>= 1``, the number of items; all of them if there are fewer.
      temperature: scalar ``> 0``.
      where: ``[..., items]`` bool, which items count. A list with no valid item has loss 0.

    Returns:
      ``[...]`` loss in nats times ``temperature ** 2``, one per list, in the dtype of ``student``. A NaN in any score
      that counts gives NaN, among the best or not.

    Raises:
      ValueError: if ``student``, ``teacher`` and ``where`` differ in shape.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 0.0])
      >>> print(f"{top_k_kl(s, t, k=2, temperature=2.0):.4f}")
      0.1054

    Published:
      tunix has it as an option, with :math:`\tau` = 2 and weight 0.5 on the mean over a batch.

    References:
      Hinton et al., `Distilling the Knowledge in a Neural Network <https://arxiv.org/abs/1503.02531>`_, 2015, section
      2: the divergence, over all classes.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    if where is not None:
        check_where(where, student.shape)
    dtype = wide_dtype(student, "student")
    s, t = clear_masked(student.astype(dtype), where), clear_masked(teacher.astype(dtype), where)

    # The rank of each item is the inverse of the order: a sort of the sort.
    rank = jnp.argsort(jnp.argsort(-fill_masked(t, where), stable=True), stable=True)
    best = rank.astype(dtype) < jnp.asarray(k, dtype)
    loss = soft_target_kl(s, t, temperature=temperature, where=best if where is None else best & where)
    # NaN is sorted last and would be cut off.
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

    For one list of items with student scores :math:`s`, teacher scores :math:`t` and temperature :math:`\tau`,

    .. math::
        \ell(s, t) = \mathrm{KL}_\tau(z(s), z(t)),
        \qquad z(x) = \frac{x - \mathrm{mean}(x)}{\epsilon + \mathrm{std}(x)},

    where :math:`\mathrm{KL}_\tau` is :func:`soft_target_kl`, with its factor :math:`\tau^2`, and the standard deviation
    has :math:`n` in its denominator. Mean and scale of the teacher's scores, which a small student can't match, are not
    distilled.

    Gradients flow through mean and deviation too.

    Args:
      student: ``[..., items]`` float, unnormalized scores, finite where they count.
      teacher: ``[..., items]`` float, unnormalized scores, same shape.
      temperature: scalar ``> 0``.
      epsilon: scalar ``> 0``, added to the deviation: a list of equal scores becomes one of zeros. Its gradient is then
        as large as ``1 / epsilon``.
      where: ``[..., items]`` bool, which items count. A list with no valid item has loss 0.

    Returns:
      ``[...]`` loss in nats times ``temperature ** 2``, one per list, in the dtype of ``student``.

    Raises:
      ValueError: if ``student``, ``teacher`` and ``where`` differ in shape.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 0.0])
      >>> print(f"{standardized_kl(s, t, temperature=2.0):.4f}")
      0.0150
      >>> print(f"{abs(standardized_kl(s, 3 * s + 1)):.4f}")
      0.0000

    Published:
      ``epsilon`` = 1e-7; on CIFAR-100 temperature 2 and weight 9 on the mean over a batch. The public code takes the
      unbiased deviation, with :math:`n - 1` in its denominator: the same as a temperature :math:`\sqrt{n / (n - 1)}`
      times as high, but for the factor :math:`\tau^2`.

    References:
      Sun et al., `Logit Standardization in Knowledge Distillation <https://arxiv.org/abs/2403.01427>`_, CVPR 2024,
      algorithm 1.
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

    For one list with student scores :math:`s`, teacher scores :math:`t`, target item :math:`y`, temperature
    :math:`\tau`, :math:`q = \mathrm{softmax}(s / \tau)` and :math:`p = \mathrm{softmax}(t / \tau)`,

    .. math::
        \ell(s, t, y) = \alpha \tau^2 \left[ p_y \log \frac{p_y}{q_y}
                      + (1 - p_y) \log \frac{1 - p_y}{1 - q_y} \right]
                      + \beta \, \mathrm{KL}_\tau(s_{\ne y}, t_{\ne y}),

    where :math:`\mathrm{KL}_\tau` is :func:`soft_target_kl`, with its factor :math:`\tau^2`, over all items but the
    target. With :math:`\alpha = 1` and :math:`\beta = 1 - p_y` it is :func:`soft_target_kl` over all items, which
    suppresses the rest where the teacher is sure of the target.

    Gradients flow to ``student`` and ``teacher``; wrap ``teacher`` in :func:`jax.lax.stop_gradient` to freeze it.

    Args:
      student: ``[..., items]`` float, unnormalized scores, finite where they count.
      teacher: ``[..., items]`` float, unnormalized scores, same shape.
      labels: ``[...]`` integer positions of the target item.
      alpha: scalar ``>= 0``, weight of the target against the rest.
      beta: scalar ``>= 0``, weight of the rest.
      temperature: scalar ``> 0``.
      where: ``[..., items]`` bool, which items count. Without the target the first part is 0; without the rest, both.

    Returns:
      ``[...]`` loss in nats times ``temperature ** 2``, one per list, in the dtype of ``student``. A label outside of
      the list gives NaN.

    Raises:
      ValueError: if the shapes of the arguments don't fit together.
      TypeError: if ``student`` is not of a floating dtype, ``labels`` not of an integer one, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 1.0])
      >>> print(f"{decoupled_kl(s, t, jnp.array(0)):.4f}")
      1.0322

    Published:
      The defaults, on the mean over a batch of CIFAR-100, beside the cross-entropy of the labels with weight 1, after a
      linear warm-up of 20 epochs; ``beta`` 2 to 8 by pair of models, and on ImageNet 0.5 or 2 at temperature 1. A
      catalog has far more items than that has classes: sweep ``beta`` from 0.1 upwards.

    Sampling:
      Nothing for whole rows of scores; else any list of items with the target among them.

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
        # Subtracting the best score keeps the precision of the difference below.
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
    """Deviations from the mean of each list, in units of its standard deviation."""
    centered = x - masked_mean(x, where, -1)
    return centered / (epsilon + safe_sqrt(masked_mean(jnp.square(centered), where, -1)))
