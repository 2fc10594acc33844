"""Losses between the scores of a student and those of its teacher."""

import jax
import jax.numpy as jnp

from recjax.losses._arrays import check_rows, check_where, clear_masked, fill_masked, wide_dtype
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
    return (jnp.square(tau) * jnp.sum(terms, axis=-1)).astype(student.dtype)


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
      ``[...]`` loss, one per row, in the dtype of ``student``. Not reduced further.

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

    References:
      Ba and Caruana, `Do Deep Nets Really Need to be Deep? <https://arxiv.org/abs/1312.6184>`_, NeurIPS 2014:
      there on logits.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    return jnp.mean(jnp.square(student.astype(dtype) - teacher.astype(dtype)), axis=-1).astype(student.dtype)
