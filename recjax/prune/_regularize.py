"""Sparsity penalties, their proximal operators, and learned thresholds."""

from typing import Any

import jax
import jax.numpy as jnp

from recjax.prune._scores import safe_sqrt


def l1_penalty(params: Any, *, strength: jax.typing.ArrayLike) -> jax.Array:
    r"""Half the sum of the absolute weights, times a strength.

    .. math::
        \frac{\lambda}{2} \sum |\theta|

    Args:
      params: pytree of ``[...]`` float arrays.
      strength: scalar :math:`\lambda \ge 0`. May be traced; not checked.

    Returns:
      Scalar, to be added to a loss. Its gradient at zero is 0.

    Knobs:
      ``strength`` (traced).

    Storage:
      Nothing is stored.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(l1_penalty({"w": jnp.array([1.0, -3.0])}, strength=0.5))
      1.0

    References:
      Tibshirani, *Regression Shrinkage and Selection via the Lasso*, J. R. Stat. Soc. B 58, 1996, section 2.
    """
    total = sum((jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(params)), jnp.zeros((), jnp.float32))
    return jnp.asarray(strength) / 2 * total


def group_lasso(x: jax.Array, *, axis: int, strength: jax.typing.ArrayLike) -> jax.Array:
    r"""The sum of the norms of the slices of an array, times a strength.

    .. math::
        \lambda \sum_j \lVert x_j \rVert_2

    Args:
      x: ``[...]`` float.
      axis: the axis whose positions are the slices: 0 for the rows of a table. Static.
      strength: scalar :math:`\lambda \ge 0`. May be traced; not checked.

    Returns:
      Scalar, to be added to a loss. The gradient of a slice of zeros is 0.

    Knobs:
      ``strength`` (traced), ``axis`` (static).

    Storage:
      Nothing is stored.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(group_lasso(jnp.array([[3.0, 4.0], [0.0, 0.0]]), axis=0, strength=2.0))
      10.0

    References:
      Yuan & Lin, *Model selection and estimation in regression with grouped variables*, J. R. Stat. Soc. B 68, 2006,
      section 2.
    """
    return jnp.asarray(strength) * jnp.sum(_norms(jnp.asarray(x), axis))


def _norms(x: jax.Array, axis: int) -> jax.Array:
    """Norms of the slices, in the rank of ``x``."""
    others = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    return safe_sqrt(jnp.sum(jnp.square(x), axis=others, keepdims=True))


def soft_threshold(x: jax.Array, threshold: jax.typing.ArrayLike) -> jax.Array:
    r"""Soft thresholding: every entry moved toward zero by a threshold.

    .. math::
        \mathrm{sign}(x) \max(|x| - t, 0)

    It is the proximal step of :math:`t \sum |x|`: after a gradient step of size :math:`\eta`, the L1 penalty of
    strength :math:`\lambda` asks for :math:`t = \eta \lambda / 2`. Gradients flow to both arguments.

    Args:
      x: ``[...]`` float.
      threshold: scalar or of the rank of ``x``, ``>= 0``. May be traced; not checked.

    Returns:
      ``[...]``. NaN stays NaN.

    Knobs:
      ``threshold`` (traced).

    Storage:
      Nothing is stored.

    Examples:
      >>> import jax.numpy as jnp
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
    r"""Group soft thresholding: the norm of every slice reduced by a threshold.

    .. math::
        x_j \max\left(1 - \frac{t}{\lVert x_j \rVert_2}, 0\right)

    It is the proximal step of :func:`group_lasso`, with :math:`t` the step size times its strength.

    Args:
      x: ``[...]`` float.
      threshold: scalar ``>= 0``. May be traced; not checked.
      axis: the axis whose positions are the slices. Static.

    Returns:
      ``[...]``. A NaN makes its slice NaN.

    Knobs:
      ``threshold`` (traced), ``axis`` (static).

    Storage:
      Nothing is stored; slices that became zero go by :func:`shrink`.

    Examples:
      >>> import jax.numpy as jnp
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
    r"""PEP: soft thresholding of an embedding with learned thresholds.

    .. math::
        \mathrm{sign}(v) \max(|v| - \sigma(s), 0)

    Thresholds per entry, per row, per dimension or for all are logits of shape ``[rows, dim]``, ``[rows, 1]``,
    ``[1, dim]`` or ``[1, 1]``. Where an entry is zero no gradient flows, neither to it nor to its threshold.

    Args:
      x: ``[..., dim]`` float.
      logits: of the rank of ``x``, the :math:`s`. Their start may be traced: a grid of it replaces tuning.

    Returns:
      The shape of ``x``.

    Knobs:
      ``logits`` (learned, their start traced); -150 on Criteo, -15 on MovieLens-1M, small ones being slow to prune.

    Storage:
      Nothing is stored; the zeros as :class:`SparseTensor`, and the thresholds not at all.

    Raises:
      ValueError: if ``logits`` has another rank than ``x``.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(learned_threshold(jnp.array([[-3.0, 0.25]]), jnp.zeros((1, 1))))
      [[-2.5  0. ]]

    References:
      Liu et al., `Learnable Embedding Sizes for Recommender Systems <https://arxiv.org/abs/2101.07577>`_, 2021,
      equation 6.
    """
    x, logits = jnp.asarray(x), jnp.asarray(logits)
    if x.ndim != logits.ndim:
        raise ValueError(f"logits: expected {x.ndim} axes as x has, got shape {logits.shape}")
    return soft_threshold(x, jax.nn.sigmoid(logits))
