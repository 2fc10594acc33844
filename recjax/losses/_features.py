"""Losses between the hidden activations of a student and those of its teacher."""

import jax
import jax.numpy as jnp

from recjax.losses._arrays import check_rows, wide_dtype


def hint(student: jax.Array, teacher: jax.Array) -> jax.Array:
    r"""Squared distance of two activation vectors.

    For the student's activations :math:`u`, already projected to the teacher's width, and the teacher's :math:`v`,

    .. math::
        \ell(u, v) = \lVert u - v \rVert_2^2.

    The paper's factor of one half is left to the caller's weight. So is the projection: its parameters are trained with
    the student's and dropped when the student is packed.

    Gradients flow to both arguments; wrap ``teacher`` in :func:`jax.lax.stop_gradient` to freeze it.

    Args:
      student: ``[..., dim]`` float.
      teacher: ``[..., dim]`` float, same shape.

    Returns:
      ``[...]`` loss, one per vector, in the dtype of ``student``. Not reduced further.

    Raises:
      ValueError: if ``student`` and ``teacher`` differ in shape or are scalars.
      TypeError: if ``student`` is not of a floating dtype.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> print(hint(jnp.array([3.0, 0.0]), jnp.array([0.0, 4.0])))
      25.0
      >>> jax.vmap(hint)(jnp.ones((4, 8)), jnp.zeros((4, 8))).shape
      (4,)

    References:
      Romero et al., `FitNets: Hints for Thin Deep Nets <https://arxiv.org/abs/1412.6550>`_, ICLR 2015, section 2.2,
      equation 3.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    return jnp.sum(jnp.square(student.astype(dtype) - teacher.astype(dtype)), axis=-1).astype(student.dtype)
