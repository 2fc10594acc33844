"""Squared differences between outputs of a student and those of its teacher."""

import jax
import jax.numpy as jnp

from recjax.arrays import (
    check_rows,
    check_same_shape,
    masked_mean,
    wide_dtype,
)


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
