"""Squared differences between outputs of a student and those of its teacher."""

import jax
import jax.numpy as jnp

from recjax.arrays import (
    check_rows,
    check_same_shape,
    check_where,
    clear_masked,
    masked_mean,
    wide_dtype,
)


def mean_squared_error(student: jax.Array, teacher: jax.Array) -> jax.Array:
    r"""Mean squared difference over the last axis.

    For outputs :math:`s` of the student and :math:`t` of the teacher, of :math:`n` elements each,

    .. math::
        \ell(s, t) = \frac{1}{n} \sum_i (s_i - t_i)^2.

    Args:
      student: ``[..., n]`` float.
      teacher: ``[..., n]`` float, same shape.

    Returns:
      ``[...]`` loss, one per row, in the dtype of ``student``; 0 for rows of no elements.

    Raises:
      ValueError: if ``student`` and ``teacher`` differ in shape or are scalars.
      TypeError: if ``student`` is not of a floating dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(mean_squared_error(jnp.array([0.5, 0.0]), jnp.array([1.0, -0.5])))
      0.25

    Published:
      No hyperparameters; the mean over the training set.

    References:
      Ba and Caruana, `Do Deep Nets Really Need to be Deep? <https://arxiv.org/abs/1312.6184>`_, NeurIPS 2014: there on
      logits.
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

    Unlike a divergence of softmaxes it is not invariant to the level of the scores.

    Args:
      student: ``[...]`` float.
      teacher: ``[...]`` float, same shape.

    Returns:
      ``[...]`` loss, one per element, in the dtype of ``student``.

    Raises:
      ValueError: if ``student`` and ``teacher`` differ in shape.
      TypeError: if ``student`` is not of a floating dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(logit_mse(jnp.array([0.5, 0.0]), jnp.array([1.0, 2.0])))
      [0.25 4.  ]

    Published:
      The mean over a batch, beside the cross-entropy against the labels; its weight is tuned.

    References:
      Ba and Caruana, `Do Deep Nets Really Need to be Deep? <https://arxiv.org/abs/1312.6184>`_, NeurIPS 2014. Zhou et
      al., `Rocket Launching: A Universal and Efficient Framework for Training Well-performing Light Net
      <https://arxiv.org/abs/1708.04106>`_, AAAI 2018: for CTR models.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_same_shape(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    return jnp.square(student.astype(dtype) - teacher.astype(dtype)).astype(student.dtype)


def margin_mse(student: jax.Array, teacher: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Mean squared difference between the student's and the teacher's margins, over all pairs of a list.

    For one list of :math:`n` items with student scores :math:`s` and teacher scores :math:`t`,

    .. math::
        \ell(s, t) = \frac{1}{n (n - 1)} \sum_{i \ne j} \left( (s_i - s_j) - (t_i - t_j) \right)^2
                   = \frac{2}{n - 1} \sum_i (d_i - \bar d)^2, \qquad d = s - t.

    The second form is the one computed. A list of the positive and one negative item is the published loss. A constant
    added to a list's scores changes nothing; their scale matters.

    Args:
      student: ``[..., items]`` float, unnormalized scores.
      teacher: ``[..., items]`` float, unnormalized scores, same shape.
      where: ``[..., items]`` bool, which items count. A list of fewer than two has loss 0.

    Returns:
      ``[...]`` loss, one per list, in the dtype of ``student``.

    Raises:
      ValueError: if ``student``, ``teacher`` and ``where`` differ in shape or are scalars.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(margin_mse(jnp.array([2.0, 1.0]), jnp.array([5.0, 2.0])))  # margins 1 and 3
      4.0

    Published:
      Weight 1 on the mean over a batch of one positive and one negative each, on raw scores and without a loss on the
      labels; the teacher's scores are the mean over an ensemble. CL-DRD takes lists, and the mean over all :math:`n^2`
      ordered pairs, which is :math:`(n - 1) / n` of this one.

    Sampling:
      One negative for each positive, by :func:`recjax.data.uniform_negatives`; the paper has those of its training
      data.

    References:
      Hofstätter et al., `Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation
      <https://arxiv.org/abs/2010.02666>`_, 2020.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    if where is not None:
        check_where(where, student.shape)
    dtype = wide_dtype(student, "student")
    difference = clear_masked(student.astype(dtype), where) - clear_masked(teacher.astype(dtype), where)
    squares = clear_masked(jnp.square(difference - masked_mean(difference, where, -1)), where)
    count = jnp.asarray(student.shape[-1], dtype) if where is None else jnp.sum(where, axis=-1, dtype=dtype)
    return (2 * jnp.sum(squares, axis=-1) / jnp.maximum(count - 1, 1)).astype(student.dtype)
