"""Sparsity penalties, their proximal operators, and learned thresholds."""

from typing import Any

import jax
import jax.numpy as jnp

from recjax.prune._scores import safe_sqrt


def l1_penalty(params: Any, *, strength: jax.typing.ArrayLike) -> jax.Array:
    r"""L1 penalty: half the sum of the absolute weights, times a strength.

    .. math::
        \frac{\lambda}{2} \sum |\theta|

    Args:
      params: tree of ``[...]`` float arrays.
      strength: scalar :math:`\lambda \ge 0`.

    Returns:
      Scalar, with gradient 0 at zero.

    Examples:
      >>> print(l1_penalty({"w": jnp.array([1.0, -3.0])}, strength=0.5))
      1.0

    References:
      Tibshirani, *Regression Shrinkage and Selection via the Lasso*, J. R. Stat. Soc. B 58, 1996, section 2.
    """
    total = sum((jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(params)), jnp.zeros((), jnp.float32))
    return jnp.asarray(strength) / 2 * total


def group_lasso(x: jax.Array, *, axis: int, strength: jax.typing.ArrayLike) -> jax.Array:
    r"""Group lasso penalty: the sum of the l2 norms of slices, times a strength.

    .. math::
        \lambda \sum_j \lVert x_j \rVert_2

    Args:
      x: ``[...]`` float.
      axis: axis whose positions are the slices: 0 for the rows of a table. Static.
      strength: scalar :math:`\lambda \ge 0`.

    Returns:
      Scalar, with gradient 0 at slices of zeros.

    Examples:
      >>> print(group_lasso(jnp.array([[3.0, 4.0], [0.0, 0.0]]), axis=0, strength=2.0))
      10.0

    References:
      Yuan & Lin, *Model selection and estimation in regression with grouped variables*, J. R. Stat. Soc. B 68, 2006,
      section 2.
    """
    return jnp.asarray(strength) * jnp.sum(_norms(jnp.asarray(x), axis))


def _norms(x: jax.Array, axis: int) -> jax.Array:
    """l2 norms of the slices, in the rank of ``x``."""
    others = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    return safe_sqrt(jnp.sum(jnp.square(x), axis=others, keepdims=True))


def soft_threshold(x: jax.Array, threshold: jax.typing.ArrayLike) -> jax.Array:
    r"""Soft thresholding, the proximal operator of the L1 norm.

    .. math::
        \mathrm{sign}(x) \max(|x| - t, 0)

    For :func:`l1_penalty` of strength :math:`\lambda` and gradient steps of size :math:`\eta`, use :math:`t = \eta
    \lambda / 2`. Gradients flow to both arguments.

    Args:
      x: ``[...]`` float.
      threshold: scalar or of the rank of ``x``, ``>= 0``.

    Returns:
      ``[...]``. NaN stays NaN.

    Examples:
      >>> print(soft_threshold(jnp.array([-3.0, 0.5, 2.0]), 1.0))
      [-2.  0.  1.]

    References:
      Donoho, *De-noising by soft-thresholding*, IEEE Trans. Inf. Theory 41, 1995, equation 2.
    """
    x = jnp.asarray(x)
    unknown = jnp.isnan(x)
    known = jnp.where(unknown, 0, x)  # a NaN that is masked later must not reach the threshold's gradient
    left = jnp.abs(known) - threshold
    return jnp.where(unknown, x, jnp.where(left <= 0, 0, jnp.sign(known) * left))


def group_soft_threshold(x: jax.Array, threshold: jax.typing.ArrayLike, *, axis: int) -> jax.Array:
    r"""Group soft thresholding, the proximal operator of :func:`group_lasso`.

    .. math::
        x_j \max\left(1 - \frac{t}{\lVert x_j \rVert_2}, 0\right)

    Args:
      x: ``[...]`` float.
      threshold: scalar ``>= 0``, the step size times the strength of the penalty.
      axis: axis whose positions are the slices. Static.

    Returns:
      ``[...]``. A NaN makes its slice NaN.

    Examples:
      >>> print(group_soft_threshold(jnp.array([[3.0, 4.0], [0.3, 0.4]]), 1.0, axis=0).round(3))
      [[2.4 3.2]
       [0.  0. ]]

    References:
      Parikh & Boyd, *Proximal Algorithms*, Foundations and Trends in Optimization 1, 2014, section 6.5.1.
    """
    x = jnp.asarray(x)
    norms = _norms(x, axis)
    factor = 1 - threshold / jnp.where(norms == 0, 1, norms)
    return x * jnp.where((factor <= 0) | (norms == 0), 0, factor)


def learned_threshold(x: jax.Array, logits: jax.Array) -> jax.Array:
    r"""PEP: soft thresholding of embeddings with learned thresholds.

    .. math::
        \mathrm{sign}(x) \max(|x| - \sigma(s), 0)

    Where the result is zero, no gradient flows, neither to the entry nor to its threshold.

    Args:
      x: ``[..., dim]`` float.
      logits: learned :math:`s` of the rank of ``x``: ``[rows, dim]``, ``[rows, 1]``, ``[1, dim]`` or ``[1, 1]`` for
        thresholds per entry, per row, per dimension or one for all.

    Returns:
      The shape of ``x``.

    Published:
      Initial logits of -150 on Criteo and -15 on MovieLens-1M; low ones prune slowly.

    Examples:
      >>> print(learned_threshold(jnp.array([[-3.0, 0.25]]), jnp.zeros((1, 1))))
      [[-2.5  0. ]]

    References:
      Liu et al., `Learnable Embedding Sizes for Recommender Systems <https://arxiv.org/abs/2101.07577>`_, 2021,
      equation 6.
    """
    x, logits = jnp.asarray(x), jnp.asarray(logits)
    if x.ndim != logits.ndim:
        raise ValueError(f"logits: expected {x.ndim} axes as in x, got shape {logits.shape}")
    return soft_threshold(x, jax.nn.sigmoid(logits))
