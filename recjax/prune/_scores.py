"""Pruning scores: the weights with the smallest (or lowest) are pruned."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def safe_sqrt(x: jax.Array) -> jax.Array:
    """The square root, whose gradient at 0 is 0 and not infinite."""
    return jnp.where(x == 0, 0, jnp.sqrt(jnp.where(x == 0, 1, x)))


def magnitude(params: Any) -> Any:
    r"""The absolute value of every weight.

    .. math::
        s_i = |w_i|

    Args:
      params: pytree of ``[...]`` float arrays.

    Returns:
      The pytree of ``[...]`` scores ``>= 0``.

    Knobs:
      None.

    Storage:
      Nothing is stored.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(magnitude(jnp.array([1.0, -2.0])))
      [1. 2.]

    References:
      Han et al., `Learning both Weights and Connections for Efficient Neural Networks
      <https://arxiv.org/abs/1506.02626>`_, 2015, section 3.
    """
    return jax.tree.map(jnp.abs, params)


def normalized_magnitude(params: Any) -> Any:
    r"""Absolute weights divided by the norm of their layer, comparable across layers.

    .. math::
        \frac{|w|}{\lVert w_l \rVert_2 + 10^{-8}}

    Args:
      params: pytree of ``[...]`` float arrays, one per layer.

    Returns:
      The pytree of ``[...]`` scores from 0 to 1, for :func:`mask_smallest_globally`.

    Knobs:
      None.

    Storage:
      Nothing is stored.

    Examples:
      >>> import jax.numpy as jnp
      >>> normalized_magnitude({"a": jnp.array([30.0, -40.0])})["a"].round(3).tolist()
      [0.6000000238418579, 0.800000011920929]

    References:
      Lee et al., `JaxPruner: A concise library for sparsity research <https://arxiv.org/abs/2304.14082>`_, 2023,
      section 3.3: global magnitude with one norm per layer.
    """

    def of_layer(weights: jax.Array) -> jax.Array:
        weights = jnp.abs(weights)
        return weights / (safe_sqrt(jnp.sum(jnp.square(weights))) + 1e-8)

    return jax.tree.map(of_layer, params)


def slice_scores(scores: jax.Array, *, axis: int) -> jax.Array:
    r"""The root mean square of each slice of an array.

    .. math::
        \lVert x_j \rVert_2 / \sqrt{n_j}

    Between slices of one size it has the order of the l2 norm; between slices of other sizes it doesn't favor the
    larger.

    Args:
      scores: ``[...]`` float, with any sign.
      axis: the axis whose positions are the slices. Static.

    Returns:
      ``[scores.shape[axis]]``, ``>= 0``.

    Knobs:
      ``axis`` (static).

    Storage:
      Nothing is stored.

    Raises:
      ValueError: if ``scores`` has no such axis.

    Examples:
      >>> import jax.numpy as jnp
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

    With the gradients of one batch at the start it is SNIP; summed over the batches of training, Taylor pruning.

    Args:
      params: pytree of ``[...]`` float arrays.
      grads: the gradients of a loss, same structure and shapes.

    Returns:
      The pytree of ``[...]`` scores ``>= 0``, comparable across layers: for :func:`mask_smallest_globally`.

    Knobs:
      None.

    Storage:
      Nothing is stored.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(saliency(jnp.array([2.0, -1.0]), jnp.array([-3.0, 0.5])))
      [6.  0.5]

    References:
      Lee et al., `SNIP: Single-shot Network Pruning based on Connection Sensitivity
      <https://arxiv.org/abs/1810.02340>`_, 2019, section 4.1; Molchanov et al., `Importance Estimation for Neural
      Network Pruning <https://arxiv.org/abs/1906.10771>`_, 2019, section 3.1.
    """
    return jax.tree.map(lambda w, g: jnp.abs(w * g), params, grads)


def gradient_flow(loss: Callable[[Any], jax.Array], params: Any) -> Any:
    r"""GraSP score: contribution of a weight to the norm of the gradient.

    .. math::
        w \odot H g

    with the gradient :math:`g` of the loss and its Hessian :math:`H`, by one forward derivative of the gradient.

    Args:
      loss: ``loss(params) -> scalar``, on some batch.
      params: pytree of ``[...]`` float arrays.

    Returns:
      The pytree of ``[...]`` scores with sign, for :func:`mask_lowest`. The paper's has the other sign and its highest
      are dropped.

    Knobs:
      None.

    Storage:
      Nothing is stored.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(gradient_flow(lambda w: jnp.sum(w**2), jnp.array([1.0, -2.0])))
      [ 4. 16.]

    References:
      Wang et al., `Picking Winning Tickets Before Training by Preserving Gradient Flow
      <https://arxiv.org/abs/2002.07376>`_, 2020, equation 8.
    """
    grad = jax.grad(loss)
    curved = jax.jvp(grad, (params,), (grad(params),))[1]
    return jax.tree.map(jnp.multiply, params, curved)


def activation_magnitude(kernel: jax.Array, inputs: jax.Array) -> jax.Array:
    r"""Wanda score: absolute weight times the norm of its input.

    .. math::
        |W_{ij}|\, \lVert X_i \rVert_2

    Args:
      kernel: ``[in, out]`` float.
      inputs: ``[batch, in]`` float, activations that the kernel reads.

    Returns:
      ``[in, out]``, compared within each output: ``mask_smallest(scores, sparsity, axis=1)``.

    Knobs:
      None.

    Storage:
      Nothing is stored.

    Raises:
      ValueError: if the inputs are not ``[batch, in]``.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(activation_magnitude(jnp.array([[1.0], [-2.0]]), jnp.array([[3.0, 1.0], [4.0, 0.0]])))
      [[5.]
       [2.]]

    References:
      Sun et al., `A Simple and Effective Pruning Approach for Large Language Models
      <https://arxiv.org/abs/2306.11695>`_, 2024, equation 1.
    """
    kernel, inputs = jnp.asarray(kernel), jnp.asarray(inputs)
    if inputs.ndim != 2 or inputs.shape[1] != kernel.shape[0]:
        raise ValueError(f"expected inputs of shape [batch, {kernel.shape[0]}], got {inputs.shape}")
    return jnp.abs(kernel) * safe_sqrt(jnp.sum(jnp.square(inputs), axis=0))[:, None]


def random_scores(key: jax.Array, params: Any) -> Any:
    r"""Uniform random scores: the baseline of pruning scores.

    .. math::
        s_i \sim \mathrm{Uniform}(0, 1)

    Args:
      key: a key of :func:`jax.random.key`.
      params: pytree of ``[...]`` arrays, of which the shapes are read.

    Returns:
      The pytree of ``[...]`` float32, uniform from 0 to 1.

    Knobs:
      None.

    Storage:
      Nothing is stored.

    Examples:
      >>> import jax
      >>> random_scores(jax.random.key(0), {"kernel": jax.numpy.ones((2, 3))})["kernel"].shape
      (2, 3)

    References:
      Gale et al., `The State of Sparsity in Deep Neural Networks <https://arxiv.org/abs/1902.09574>`_, 2019,
      section 4.
    """
    leaves, structure = jax.tree.flatten(params)
    keys = [jax.random.fold_in(key, i) for i in range(len(leaves))]
    drawn = [jax.random.uniform(key, jnp.shape(leaf), jnp.float32) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)
