"""Squared differences between student and teacher outputs."""

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

    .. math::
        \ell(s, t) = \frac{1}{n} \sum_i (s_i - t_i)^2.

    Args:
      student, teacher: ``[..., n]`` float, outputs :math:`s` and :math:`t`.

    Returns:
      ``[...]`` loss, one per row; 0 if ``n`` is 0.

    Examples:
      >>> print(mean_squared_error(jnp.array([0.5, 0.0]), jnp.array([1.0, -0.5])))
      0.25

    Published:
      No hyperparameters; on logits, the mean over the training set.

    References:
      Ba and Caruana, `Do Deep Nets Really Need to be Deep? <https://arxiv.org/abs/1312.6184>`_, NeurIPS 2014.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    squares = jnp.square(student.astype(dtype) - teacher.astype(dtype))
    return masked_mean(squares, None, -1)[..., 0].astype(student.dtype)


def logit_mse(student: jax.Array, teacher: jax.Array) -> jax.Array:
    r"""Squared difference of two scores.

    .. math::
        \ell(s, t) = (s - t)^2.

    Args:
      student, teacher: ``[...]`` float, scores :math:`s` and :math:`t`.

    Returns:
      ``[...]`` loss, one per element.

    Examples:
      >>> print(logit_mse(jnp.array([0.5, 0.0]), jnp.array([1.0, 2.0])))
      [0.25 4.  ]

    Published:
      The mean over a batch, beside the cross-entropy with the labels; its weight is tuned.

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
    r"""Mean squared difference between student and teacher margins, over all pairs of a list (MarginMSE).

    .. math::
        \ell(s, t) = \frac{1}{n (n - 1)} \sum_{i \ne j} \left( (s_i - s_j) - (t_i - t_j) \right)^2
                   = \frac{2}{n - 1} \sum_i (d_i - \bar d)^2, \qquad d = s - t.

    The published loss has lists of one positive and one negative item.

    Args:
      student, teacher: ``[..., items]`` float, scores :math:`s` and :math:`t`.
      where: ``[..., items]`` bool, which items count.

    Returns:
      ``[...]`` loss, one per list; 0 for fewer than two items.

    Examples:
      >>> print(margin_mse(jnp.array([2.0, 1.0]), jnp.array([5.0, 2.0])))  # margins 1 and 3
      4.0

    Published:
      Weight 1 on the mean over a batch, without a loss on labels; the teacher's scores are the mean over an ensemble.
      CL-DRD has lists, with the mean over all :math:`n^2` ordered pairs, which is :math:`(n - 1) / n` of this loss.

    Sampling:
      One negative per positive, by :func:`recjax.data.uniform_negatives`; the paper uses those of its training data.

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
