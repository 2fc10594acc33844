"""Losses between the scores of a student and those of its teacher."""

import jax
import jax.numpy as jnp

from recjax.arrays import (
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

    Gradients flow to both arguments; wrap ``teacher`` in :func:`jax.lax.stop_gradient` to freeze it.

    Args:
      student: ``[..., items]`` float, unnormalized scores, finite where they count.
      teacher: ``[..., items]`` float, unnormalized scores, same shape.
      temperature: scalar ``> 0``. May be traced; not checked.
      where: ``[..., items]`` bool, which items count. A list with no valid item has loss 0. Leave items out with
        this, not with a score of minus infinity.

    Returns:
      ``[...]`` loss in nats times ``temperature ** 2``, one per list, in the dtype of ``student``. Not reduced.

    Raises:
      ValueError: if ``student``, ``teacher`` and ``where`` differ in shape.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 0.0])
      >>> print(f"{soft_target_kl(s, t, temperature=2.0):.4f}")
      0.1207
      >>> grid = jnp.array([1.0, 2.0, 4.0])
      >>> jax.vmap(lambda tau: soft_target_kl(s, t, temperature=tau))(grid).shape
      (3,)

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
    r"""Cross-entropy of the softened teacher and the softened student.

    For one list of items with student scores :math:`s`, teacher scores :math:`t` and temperature :math:`\tau`,

    .. math::
        \ell(s, t) = -\sum_i p_i \log q_i,
        \qquad p = \mathrm{softmax}(t / \tau),\;
        q = \mathrm{softmax}(s / \tau).

    It is the divergence plus the entropy of :math:`p`, so its least value is that entropy and not 0. There is no factor
    :math:`\tau^2`, unlike in :func:`soft_target_kl`: the gradient in ``student`` shrinks as :math:`1 / \tau^2`.

    Gradients flow to both arguments; wrap ``teacher`` in :func:`jax.lax.stop_gradient` to freeze it. They differ from
    those of the divergence in ``teacher`` only, up to :math:`\tau^2`.

    Args:
      student: ``[..., items]`` float, unnormalized scores, finite where they count.
      teacher: ``[..., items]`` float, unnormalized scores, same shape.
      temperature: scalar ``> 0``. May be traced; not checked.
      where: ``[..., items]`` bool, which items count. A list with no valid item has loss 0.

    Returns:
      ``[...]`` loss in nats, one per list, in the dtype of ``student``. Not reduced.

    Raises:
      ValueError: if ``student``, ``teacher`` and ``where`` differ in shape.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 0.0])
      >>> print(f"{soft_target_ce(s, t, temperature=2.0):.4f}")
      0.9361
      >>> grid = jnp.array([1.0, 2.0, 4.0])
      >>> jax.vmap(lambda tau: soft_target_ce(s, t, temperature=tau))(grid).shape
      (3,)

    Published:
      On the student's or the teacher's best 50 items: :math:`\tau` = 1 and weight 1 for one factorization teaching
      another, 10 and 5 for LightGCN teaching a factorization; the sum over users (a baseline of RCE-KD on CiteULike).

    Sampling:
      Nothing where the list is the best items or the whole catalogue; else :func:`recjax.teacher.by_rank`.

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

    Gradients flow to both arguments; wrap ``teacher`` in :func:`jax.lax.stop_gradient` to freeze it.

    Args:
      student: ``[...]`` float logits, finite.
      teacher: ``[...]`` float logits of the teacher, same shape.
      temperature: scalar ``> 0``. May be traced; not checked.

    Returns:
      ``[...]`` loss in nats, one per element, in the dtype of ``student``. Not reduced.

    Raises:
      ValueError: if ``student`` and ``teacher`` differ in shape.
      TypeError: if ``student`` is not of a floating dtype.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> loss = soft_target_bce(jnp.array([0.0, 2.0]), jnp.array([1.0, 2.0]))
      >>> [f"{x:.4f}" for x in loss]
      ['0.6931', '0.3653']
      >>> grid = jnp.array([1.0, 2.0, 4.0])
      >>> jax.vmap(lambda tau: soft_target_bce(jnp.ones(5), jnp.zeros(5), temperature=tau))(grid).shape
      (3, 5)

    Published:
      Weight 100 for a CrossNet teacher or 10 for a deep one, :math:`\tau` = 1, on the mean over a batch of 10,000
      (a baseline of RCE-KD on Criteo).

    Sampling:
      Nothing.

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
    r"""Cross-entropy against the labels, mixed with the divergence from the teacher.

    With student scores :math:`s`, teacher scores :math:`t`, labels :math:`y` and a mixing weight :math:`\alpha`,

    .. math::
        \ell(s, t, y) = (1 - \alpha) \, \mathrm{CE}(s, y) + \alpha \, \mathrm{KL}_\tau(s, t),

    where CE is :func:`softmax_cross_entropy` (at temperature 1) and :math:`\mathrm{KL}_\tau` is
    :func:`soft_target_kl`, which has the factor :math:`\tau^2`.

    Gradients flow to all floating arguments; wrap ``teacher`` in :func:`jax.lax.stop_gradient` to freeze it. Where the
    labels are the teacher's own probabilities and the temperature is 1, both terms have the same gradient in
    ``student`` (CE is KL plus the teacher's entropy) and ``alpha`` changes nothing but the value.

    Args:
      student: ``[..., items]`` float, unnormalized scores.
      teacher: ``[..., items]`` float, unnormalized scores, same shape.
      labels: ``[...]`` integer positions of the right item, or ``[..., items]`` probabilities.
      alpha: scalar in [0, 1], the teacher's share. May be traced; not checked.
      temperature: scalar ``> 0``. May be traced; not checked.
      where: ``[..., items]`` bool, which items count. A list with no valid item has loss 0.

    Returns:
      ``[...]`` loss in nats, one per list, in the dtype of ``student``. Not reduced.

    Raises:
      ValueError: if the shapes of the arguments don't belong together.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 0.0])
      >>> print(f"{distillation(s, t, jnp.array(0), alpha=0.5, temperature=2.0):.4f}")
      0.2641
      >>> mix = lambda alpha, tau: distillation(s, t, jnp.array(0), alpha=alpha, temperature=tau)
      >>> jax.vmap(mix)(jnp.array([0.1, 0.5, 0.9]), jnp.array([1.0, 2.0, 4.0])).shape
      (3,)

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


def mean_squared_error(student: jax.Array, teacher: jax.Array) -> jax.Array:
    r"""Mean squared difference over the last axis.

    For outputs :math:`s` of the student and :math:`t` of the teacher, of :math:`n` elements each,

    .. math::
        \ell(s, t) = \frac{1}{n} \sum_i (s_i - t_i)^2.

    Gradients flow to both arguments; wrap ``teacher`` in :func:`jax.lax.stop_gradient` to freeze it.

    Args:
      student: ``[..., n]`` float.
      teacher: ``[..., n]`` float, same shape.

    Returns:
      ``[...]`` loss, one per row, in the dtype of ``student``; 0 for rows of no elements. Not reduced further.

    Raises:
      ValueError: if ``student`` and ``teacher`` differ in shape or are scalars.
      TypeError: if ``student`` is not of a floating dtype.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> print(mean_squared_error(jnp.array([0.5, 0.0]), jnp.array([1.0, -0.5])))
      0.25
      >>> jax.vmap(mean_squared_error)(jnp.ones((4, 8)), jnp.zeros((4, 8))).shape
      (4,)

    Published:
      No hyperparameters; the mean over the training set.

    Sampling:
      Nothing.

    References:
      Ba and Caruana, `Do Deep Nets Really Need to be Deep? <https://arxiv.org/abs/1312.6184>`_, NeurIPS 2014:
      there on logits.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    squares = jnp.square(student.astype(dtype) - teacher.astype(dtype))
    return masked_mean(squares, None, -1)[..., 0].astype(student.dtype)


def logit_mse(student: jax.Array, teacher: jax.Array) -> jax.Array:
    r"""Squared difference of two scores.

    For a student score :math:`s` and a teacher score :math:`t`,

    .. math::
        \ell(s, t) = (s - t)^2.

    Unlike a divergence of softmaxes it asks for the teacher's very scores, their mean included.

    Gradients flow to both arguments; wrap ``teacher`` in :func:`jax.lax.stop_gradient` to freeze it.

    Args:
      student: ``[...]`` float.
      teacher: ``[...]`` float, same shape.

    Returns:
      ``[...]`` loss, one per element, in the dtype of ``student``. Not reduced.

    Raises:
      ValueError: if ``student`` and ``teacher`` differ in shape.
      TypeError: if ``student`` is not of a floating dtype.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> print(logit_mse(jnp.array([0.5, 0.0]), jnp.array([1.0, 2.0])))
      [0.25 4.  ]
      >>> jax.vmap(logit_mse)(jnp.ones((4, 8)), jnp.zeros((4, 8))).shape
      (4, 8)

    Published:
      The mean over a batch, beside the cross-entropy against the labels; its weight is tuned.

    Sampling:
      Nothing.

    References:
      Ba and Caruana, `Do Deep Nets Really Need to be Deep? <https://arxiv.org/abs/1312.6184>`_, NeurIPS 2014. Zhou et
      al., `Rocket Launching: A Universal and Efficient Framework for Training Well-performing Light Net
      <https://arxiv.org/abs/1708.04106>`_, AAAI 2018: there for click models.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_same_shape(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    return jnp.square(student.astype(dtype) - teacher.astype(dtype)).astype(student.dtype)


def top_k_kl(
    student: jax.Array,
    teacher: jax.Array,
    *,
    k: jax.typing.ArrayLike,
    temperature: jax.typing.ArrayLike = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""KL divergence from the softened teacher to the softened student over the teacher's best items.

    For one list of items with student scores :math:`s`, teacher scores :math:`t`, temperature :math:`\tau` and the set
    :math:`K` of the :math:`k` items with the highest :math:`t`,

    .. math::
        \ell(s, t) = \tau^2 \sum_{i \in K} p_i (\log p_i - \log q_i),
        \qquad p = \mathrm{softmax}_K(t / \tau),\;
        q = \mathrm{softmax}_K(s / \tau).

    Both softmaxes are over :math:`K` alone: what the student thinks of other items doesn't matter. Of equal scores the
    item that comes first is the better one. ``k`` may be traced, which costs two sorts of the list: where it is one
    constant, :func:`soft_target_kl` of the gathered items is cheaper.

    Gradients flow to both arguments; wrap ``teacher`` in :func:`jax.lax.stop_gradient` to freeze it.

    Args:
      student: ``[..., items]`` float, unnormalized scores, finite where they count.
      teacher: ``[..., items]`` float, unnormalized scores, same shape.
      k: scalar ``>= 1``, how many items are left; all of them if there are fewer. May be traced; not checked.
      temperature: scalar ``> 0``. May be traced; not checked.
      where: ``[..., items]`` bool, which items count. A list with no valid item has loss 0.

    Returns:
      ``[...]`` loss in nats times ``temperature ** 2``, one per list, in the dtype of ``student``. Not reduced. A NaN
      in any score that counts gives NaN, among the best or not.

    Raises:
      ValueError: if ``student``, ``teacher`` and ``where`` differ in shape.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 0.0])
      >>> print(f"{top_k_kl(s, t, k=2, temperature=2.0):.4f}")
      0.1054
      >>> jax.vmap(lambda k: top_k_kl(s, t, k=k))(jnp.array([1, 2, 3])).shape
      (3,)

    Published:
      No paper's own; tunix has it as an option, with :math:`\tau` = 2 and weight 0.5 on the mean over a batch.

    Sampling:
      Nothing.

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
    # NaN has no rank: sorted last, it would leave the list unseen.
    return jnp.where(jnp.any(jnp.isnan(s + t), axis=-1), jnp.nan, loss).astype(student.dtype)


def standardized_kl(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: jax.typing.ArrayLike = 1.0,
    epsilon: jax.typing.ArrayLike = 1e-7,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""KL divergence from teacher to student, both softened after standardization of each list.

    For one list of items with student scores :math:`s`, teacher scores :math:`t` and temperature :math:`\tau`,

    .. math::
        \ell(s, t) = \mathrm{KL}_\tau(z(s), z(t)),
        \qquad z(x) = \frac{x - \mathrm{mean}(x)}{\epsilon + \mathrm{std}(x)},

    where :math:`\mathrm{KL}_\tau` is :func:`soft_target_kl`, which has the factor :math:`\tau^2`. The standard
    deviation is that of the list itself, with :math:`n` in its denominator. A student of few dimensions is so asked for
    the teacher's order and proportions, not for the scale of its scores.

    Gradients flow to both arguments, through mean and deviation too; wrap ``teacher`` in
    :func:`jax.lax.stop_gradient` to freeze it.

    Args:
      student: ``[..., items]`` float, unnormalized scores, finite where they count.
      teacher: ``[..., items]`` float, unnormalized scores, same shape.
      temperature: scalar ``> 0``. May be traced; not checked.
      epsilon: scalar ``> 0``, added to the deviation: a list of equal scores becomes one of zeros. Its gradient is then
        as large as ``1 / epsilon``. May be traced; not checked.
      where: ``[..., items]`` bool, which items count. A list with no valid item has loss 0.

    Returns:
      ``[...]`` loss in nats times ``temperature ** 2``, one per list, in the dtype of ``student``. Not reduced.

    Raises:
      ValueError: if ``student``, ``teacher`` and ``where`` differ in shape.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 0.0])
      >>> print(f"{standardized_kl(s, t, temperature=2.0):.4f}")
      0.0150
      >>> print(f"{abs(standardized_kl(s, 3 * s + 1)):.4f}")
      0.0000
      >>> jax.vmap(lambda tau: standardized_kl(s, t, temperature=tau))(jnp.array([1.0, 2.0])).shape
      (2,)

    Published:
      ``epsilon`` = 1e-7; on CIFAR-100 temperature 2 and weight 9 on the mean over a batch. The public code takes the
      unbiased deviation, with :math:`n - 1` in its denominator: the same as a temperature :math:`\sqrt{n / (n - 1)}`
      times as high, but for the factor :math:`\tau^2`.

    Sampling:
      Nothing.

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


def _standardize(x: jax.Array, epsilon: jax.Array, where: jax.Array | None) -> jax.Array:
    """Deviations from the mean of each list, in units of its standard deviation."""
    centered = x - masked_mean(x, where, -1)
    return centered / (epsilon + safe_sqrt(masked_mean(jnp.square(centered), where, -1)))
