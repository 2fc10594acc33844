"""Pruning scores: the weights with the smallest (or lowest) scores are pruned."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def safe_sqrt(x: jax.Array) -> jax.Array:
    """Square root with gradient 0 at 0."""
    return jnp.where(x == 0, 0, jnp.sqrt(jnp.where(x == 0, 1, x)))


def magnitude(params: Any) -> Any:
    """Magnitude score: the absolute value of every weight.

    .. math::
        s_i = |w_i|

    Args:
      params: tree of ``[...]`` float arrays.

    Returns:
      Tree of ``[...]`` scores.

    Examples:
      >>> print(magnitude(jnp.array([1.0, -2.0])))
      [1. 2.]

    References:
      Han et al., `Learning both Weights and Connections <https://arxiv.org/abs/1506.02626>`_, 2015, section 3.
    """
    return jax.tree.map(jnp.abs, params)


def normalized_magnitude(params: Any) -> Any:
    r"""Absolute weights divided by the norm of their layer, comparable across layers.

    .. math::
        \frac{|w|}{\lVert w_l \rVert_2 + 10^{-8}}

    Args:
      params: tree of ``[...]`` float arrays, one per layer.

    Returns:
      Tree of ``[...]`` scores, for :func:`mask_smallest_globally`.

    Examples:
      >>> print(normalized_magnitude({"a": jnp.array([30.0, -40.0])})["a"].round(3))
      [0.6 0.8]

    References:
      Lee et al., `JaxPruner <https://arxiv.org/abs/2304.14082>`_, 2023, section 3.3.
    """

    def of_layer(weights: jax.Array) -> jax.Array:
        weights = jnp.abs(weights)
        return weights / (safe_sqrt(jnp.sum(jnp.square(weights))) + 1e-8)

    return jax.tree.map(of_layer, params)


def slice_scores(scores: jax.Array, *, axis: int) -> jax.Array:
    r"""Root mean square of each slice of an array, comparable between slices of different sizes.

    .. math::
        \lVert x_j \rVert_2 / \sqrt{n_j}

    Args:
      scores: ``[...]`` float, of any sign.
      axis: axis whose positions are the slices. Static.

    Returns:
      ``[scores.shape[axis]]``.

    Examples:
      >>> print(slice_scores(jnp.array([[1.0, 7.0], [-1.0, 1.0]]), axis=1))
      [1. 5.]

    References:
      Li et al., `Pruning Filters for Efficient ConvNets <https://arxiv.org/abs/1608.08710>`_, 2017, section 3.1.
    """
    scores = jnp.asarray(scores)
    if not -scores.ndim <= axis < scores.ndim:
        raise ValueError(f"axis: expected an axis of an array of shape {scores.shape}, got {axis}")
    others = tuple(a for a in range(scores.ndim) if a != axis % scores.ndim)
    count = max(math.prod(scores.shape[a] for a in others), 1)
    return safe_sqrt(jnp.sum(jnp.square(scores), axis=others) / count)


def saliency(params: Any, grads: Any) -> Any:
    r"""First-order change of the loss when a weight becomes zero (SNIP, Taylor pruning).

    .. math::
        |w\, g|

    Gradients of one batch at initialization give SNIP; a sum over the batches of training gives Taylor pruning.

    Args:
      params: tree of ``[...]`` float arrays.
      grads: tree of their gradients.

    Returns:
      Tree of ``[...]`` scores, for :func:`mask_smallest_globally`.

    Examples:
      >>> print(saliency(jnp.array([2.0, -1.0]), jnp.array([-3.0, 0.5])))
      [6.  0.5]

    References:
      Lee et al., `SNIP <https://arxiv.org/abs/1810.02340>`_, 2019, section 4.1; Molchanov et al., `Importance
      Estimation for Neural Network Pruning <https://arxiv.org/abs/1906.10771>`_, 2019, section 3.1.
    """
    return jax.tree.map(lambda w, g: jnp.abs(w * g), params, grads)


def gradient_flow(loss: Callable[[Any], jax.Array], params: Any) -> Any:
    r"""GraSP score: contribution of a weight to the norm of the gradient.

    .. math::
        w \odot H g

    with the gradient :math:`g` of the loss and its Hessian :math:`H`. The sign is opposite to the paper's.

    Args:
      loss: ``loss(params) -> scalar``, on a fixed batch.
      params: tree of ``[...]`` float arrays.

    Returns:
      Tree of ``[...]`` signed scores, for :func:`mask_lowest`.

    Examples:
      >>> print(gradient_flow(lambda w: jnp.sum(w**2), jnp.array([1.0, -2.0])))
      [ 4. 16.]

    References:
      Wang et al., `Picking Winning Tickets Before Training <https://arxiv.org/abs/2002.07376>`_, 2020, equation 8.
    """
    grad = jax.grad(loss)
    curved = jax.jvp(grad, (params,), (grad(params),))[1]
    return jax.tree.map(jnp.multiply, params, curved)


def activation_magnitude(kernel: jax.Array, inputs: jax.Array) -> jax.Array:
    r"""Wanda score: absolute weight times the norm of its input.

    .. math::
        |W_{ij}|\, \lVert X_i \rVert_2

    Args:
      kernel: ``[in, out]`` float :math:`W`.
      inputs: ``[batch, in]`` float :math:`X`, a sample of the layer's inputs.

    Returns:
      ``[in, out]`` scores, to be compared within each output: ``mask_smallest(scores, sparsity, axis=1)``.

    Examples:
      >>> print(activation_magnitude(jnp.array([[1.0], [-2.0]]), jnp.array([[3.0, 1.0], [4.0, 0.0]])))
      [[5.]
       [2.]]

    References:
      Sun et al., `A Simple and Effective Pruning Approach for LLMs <https://arxiv.org/abs/2306.11695>`_, 2024, equation
      1.
    """
    kernel, inputs = jnp.asarray(kernel), jnp.asarray(inputs)
    if inputs.ndim != 2 or inputs.shape[1] != kernel.shape[0]:
        raise ValueError(f"inputs: expected [batch, {kernel.shape[0]}], got {inputs.shape}")
    return jnp.abs(kernel) * safe_sqrt(jnp.sum(jnp.square(inputs), axis=0))[:, None]


def random_scores(key: jax.Array, params: Any) -> Any:
    r"""Uniform random scores, the baseline.

    .. math::
        s_i \sim \mathrm{Uniform}(0, 1)

    Args:
      key: random key.
      params: tree of ``[...]`` arrays; only shapes are used.

    Returns:
      Tree of ``[...]`` float32 scores.

    Examples:
      >>> random_scores(jax.random.key(0), {"kernel": jnp.ones((2, 3))})["kernel"].shape
      (2, 3)

    References:
      Gale et al., `The State of Sparsity in Deep Neural Networks <https://arxiv.org/abs/1902.09574>`_, 2019, section 4.
    """
    leaves, structure = jax.tree.flatten(params)
    keys = [jax.random.fold_in(key, i) for i in range(len(leaves))]
    drawn = [jax.random.uniform(key, jnp.shape(leaf), jnp.float32) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)
