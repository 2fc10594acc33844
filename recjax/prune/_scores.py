"""How much a weight matters: arrays of scores, of which the smallest (or lowest) are pruned."""

from typing import Any

import jax
import jax.numpy as jnp


def magnitude(params: Any) -> Any:
    """The absolute value of every weight.

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
    r"""The absolute value of every weight as a share of its layer's norm, so that layers can be compared.

    .. math::
        \frac{|w|}{\lVert w_l \rVert_2 + 10^{-8}}

    Args:
      params: pytree of ``[...]`` float arrays, one a layer.

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
      section 3.3: global magnitude with a norm a layer.
    """

    def of_layer(weights: jax.Array) -> jax.Array:
        weights = jnp.abs(weights)
        return weights / (jnp.sqrt(jnp.sum(jnp.square(weights))) + 1e-8)

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
    return jnp.sqrt(jnp.mean(jnp.square(scores), axis=others))
