"""Dynamic sparse training: RigL, SET, movement pruning, AC/DC, SR-STE."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recjax.prune._masks import largest, magnitude_pattern, mask_lowest
from recjax.quantize import straight_through


class Regrown(NamedTuple):
    """Result of :func:`drop_and_grow`.

    Attributes:
      mask: ``[...]`` bool, the new mask, with as many entries as the old one.
      grown: ``[...]`` bool, its entries that were not in the old one; their weights and moments restart at 0.
    """

    mask: jax.Array
    grown: jax.Array


def _top_candidates(candidates: jax.Array, scores: jax.Array, count: jax.Array) -> jax.Array:
    """The ``count`` candidates with the largest absolute scores."""
    pattern = jnp.where(candidates, magnitude_pattern(scores) + 1, 0)  # so that a candidate of score 0 is still one
    return largest([pattern], count, 31)[0]


def drop_and_grow(weights: jax.Array, mask: jax.Array, growth: jax.Array, *, fraction: jax.typing.ArrayLike) -> Regrown:
    r"""Drop-and-grow step of RigL and SET: the smallest active connections are replaced by inactive ones.

    .. math::
        A' = R \cup \mathrm{top}_k(\text{growth}, \bar R), \qquad R = A \setminus \mathrm{bottom}_k(|w|, A), \qquad
        k = \mathrm{round}(f\,|A|)

    The dropped connections compete for growth too. Absolute gradients as growth scores give RigL, :func:`random_scores`
    give SET.

    Args:
      weights: ``[...]`` float.
      mask: ``[...]`` bool, True = active.
      growth: ``[...]`` float, compared by absolute value.
      fraction: scalar from 0 to 1, the share :math:`f` to replace, such as :func:`drop_fraction`.

    Returns:
      :class:`Regrown`.

    Published:
      Fraction .3, annealed to 0.

    Examples:
      >>> w, mask = jnp.array([5.0, 0.1, 0.0, 0.0]), jnp.array([True, True, False, False])
      >>> print(drop_and_grow(w, mask, jnp.array([9.0, 0.0, 1.0, -2.0]), fraction=0.5).mask)
      [ True False False  True]

    References:
      Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, 2020, section 3, algorithm 1; Mocanu et
      al., `Scalable training of artificial neural networks with adaptive sparse connectivity
      <https://arxiv.org/abs/1707.04780>`_, 2018.
    """
    if not weights.shape == mask.shape == growth.shape:
        raise ValueError(
            f"weights, mask and growth: expected equal shapes, got {weights.shape}, {mask.shape} and {growth.shape}"
        )
    active = jnp.sum(mask, dtype=jnp.uint32)
    exchanged = jnp.round(active.astype(jnp.float32) * fraction).astype(jnp.uint32)
    stay = _top_candidates(mask, weights, active - exchanged)
    grown = _top_candidates(~stay, growth, exchanged)
    return Regrown(stay | grown, grown & ~mask)


def drop_fraction(
    step: jax.typing.ArrayLike, *, end: jax.typing.ArrayLike, initial: jax.typing.ArrayLike = 0.3
) -> jax.Array:
    r"""Cosine schedule of the share of connections that :func:`drop_and_grow` replaces.

    .. math::
        f(t) = \frac{f_0}{2} \left(1 + \cos \frac{\pi t}{T}\right), \qquad f(t) = 0 \text{ for } t \ge T.

    Args:
      step: ``[...]`` step :math:`t`.
      end: scalar :math:`T > 0`.
      initial: scalar :math:`f_0`.

    Returns:
      ``[...]`` float32.

    Published:
      Initial .3.

    Examples:
      >>> print(drop_fraction(50, end=100).round(3))
      0.15

    References:
      Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, 2020, section 3, equation 1.
    """
    progress = jnp.clip(jnp.asarray(step, jnp.float32) / jnp.asarray(end, jnp.float32), 0, 1)
    return jnp.asarray(initial, jnp.float32) * (1 + jnp.cos(jnp.pi * progress)) / 2


def reset_moments(state: Any, grown: Any) -> Any:
    r"""Optimizer state with the moments of grown connections set to 0.

    .. math::
        \mu'_e = \mu_e \left(1 - [e \text{ is new}]\right) \quad \text{for every moment } \mu

    A moment is identified by its path, which ends in the path of its parameter, also inside ``optax.multi_transform``
    and ``optax.masked`` (but not ``optax.flatten``, which removes the paths).

    Args:
      state: state of an optimizer whose moments are trees like the parameters, as in optax.
      grown: ``[...]`` bool, in the structure and shapes of the parameters; True = new.

    Returns:
      ``state``, all else unchanged.

    Raises:
      ValueError: if a moment has another shape than its parameter, such as the factored ones of Adafactor and SM3.

    Examples:
      >>> import optax
      >>> moments = optax.trace(decay=0.9).init({"w": jnp.ones(2)})._replace(trace={"w": jnp.array([3.0, 4.0])})
      >>> print(reset_moments(moments, {"w": jnp.array([True, False])}).trace["w"])
      [0. 4.]

    References:
      Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, 2020, section 3.
    """
    # the longest path that matches wins
    masks = sorted(jax.tree.leaves_with_path(grown), key=lambda item: -len(item[0]))

    def of_parameter(path: tuple) -> jax.Array | None:
        return next((mask for at, mask in masks if path[len(path) - len(at) :] == at), None)

    def reset(path: tuple, leaf: Any) -> Any:
        new, shape = of_parameter(path), jnp.shape(leaf)
        if new is None and path and isinstance(path[-1], jax.tree_util.SequenceKey):
            new, shape = of_parameter(path[:-1]), None  # a list of factors instead of a moment
        if new is None or (shape is not None and shape != new.shape and jnp.size(leaf) <= 1):
            return leaf  # not a moment: a counter or a placeholder
        if shape != new.shape:
            got = jnp.shape(leaf) if shape is not None else "factors"
            raise ValueError(f"{jax.tree_util.keystr(path)}: expected a moment of shape {new.shape}, got {got}")
        return jnp.where(new, 0, leaf)

    return jax.tree.map_with_path(reset, state)


def in_dense_phase(
    step: jax.typing.ArrayLike, *, begin: jax.typing.ArrayLike, end: jax.typing.ArrayLike, every: jax.typing.ArrayLike
) -> jax.Array:
    r"""AC/DC schedule: whether a step is in a dense phase.

    .. math::
        t < \text{begin} \quad \text{or} \quad t < \text{end} \text{ and } \left\lfloor \frac{t -
        \text{begin}}{\text{every}} \right\rfloor \text{ odd}

    Dense until ``begin``, then sparse and dense phases of ``every`` steps in turn, and sparse from ``end`` on.

    Args:
      step: ``[...]`` int step :math:`t`.
      begin: int scalar, the first sparse step.
      end: int scalar, the step from which on all are sparse.
      every: int scalar ``> 0``, steps per phase.

    Returns:
      ``[...]`` bool.

    Examples:
      >>> print(in_dense_phase(jnp.array([0, 2, 4, 6, 8]), begin=2, end=8, every=2))
      [ True False  True False False]

    References:
      Peste et al., `AC/DC <https://arxiv.org/abs/2106.12379>`_, 2021, section 3, algorithm 1.
    """
    step, begin = jnp.asarray(step), jnp.asarray(begin)
    return (step < begin) | ((step < jnp.asarray(end)) & ((step - begin) // jnp.asarray(every) % 2 == 1))


@jax.custom_vjp
def _decayed(weights: jax.Array, mask: jax.Array, decay: jax.Array) -> jax.Array:
    return jnp.where(mask | jnp.isnan(weights), weights, 0)


def _decayed_forward(weights: jax.Array, mask: jax.Array, decay: jax.Array) -> tuple[jax.Array, tuple]:
    return _decayed(weights, mask, decay), (weights, mask, decay)


def _decayed_backward(kept: tuple, grads: jax.Array) -> tuple:
    weights, mask, decay = kept
    return grads + decay * jnp.where(mask, 0, weights), None, jnp.zeros_like(decay)


_decayed.defvjp(_decayed_forward, _decayed_backward)


def masked_with_decay(weights: jax.Array, mask: jax.Array, *, decay: jax.typing.ArrayLike = 2e-4) -> jax.Array:
    r"""SR-STE: masked weights with straight-through gradients that decay the masked ones.

    .. math::
        y = m \odot w, \qquad
        \frac{\partial \ell}{\partial w} := \frac{\partial \ell}{\partial y} + \lambda (1 - m) \odot w

    The decay keeps the mask from flickering between entries of similar size.

    Args:
      weights: ``[...]`` float.
      mask: ``[...]`` bool, True = kept. No gradient flows.
      decay: scalar :math:`\lambda`; 0 is the plain straight-through estimator. No gradient flows.

    Returns:
      ``[...]``, exactly 0 where masked; NaN stays.

    Published:
      Decay 2e-4.

    Examples:
      >>> mask = jnp.array([True, False])
      >>> print(jax.grad(lambda w: masked_with_decay(w, mask, decay=0.5).sum())(jnp.array([4.0, 2.0])))
      [1. 2.]

    References:
      Zhou et al., `Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch
      <https://arxiv.org/abs/2102.04010>`_, 2021, equation 6.
    """
    weights, mask = jnp.asarray(weights), jnp.asarray(mask)
    if weights.shape != mask.shape:
        raise ValueError(f"mask: expected shape {weights.shape} of weights, got {mask.shape}")
    return _decayed(weights, mask, jnp.asarray(decay, weights.dtype))


def movement_masked(weights: jax.Array, scores: jax.Array, *, sparsity: jax.typing.ArrayLike) -> jax.Array:
    r"""Movement pruning: weights masked by the highest learned scores.

    .. math::
        y = w \odot m(S), \qquad \frac{\partial \ell}{\partial S} := \frac{\partial \ell}{\partial y} \odot w, \qquad
        \frac{\partial \ell}{\partial w} = \frac{\partial \ell}{\partial y} \odot m.

    Args:
      weights: ``[...]`` float.
      scores: ``[...]`` float :math:`S`, learned, initially 0.
      sparsity: scalar, the share to drop, exactly as in :func:`mask_lowest`.

    Published:
      Adam at 1e-2 for the scores.

    Examples:
      >>> print(movement_masked(jnp.array([3.0, 2.0]), jnp.array([-1.0, 0.5]), sparsity=0.5))
      [0. 2.]

    References:
      Sanh et al., `Movement Pruning <https://arxiv.org/abs/2005.07683>`_, 2020, section 4, equation 2.
    """
    return score_masked(weights, scores, mask_lowest(scores, sparsity))


def soft_movement_masked(weights: jax.Array, scores: jax.Array, *, threshold: jax.typing.ArrayLike) -> jax.Array:
    r"""Soft movement pruning: weights masked by learned scores above a threshold.

    .. math::
        y = w \cdot [\sigma(S) > \tau]

    with the gradients of :func:`movement_masked`. A penalty :math:`\lambda \cdot \mathrm{mean}(\sigma(S))` in the loss
    controls the sparsity.

    Args:
      weights: ``[...]`` float.
      scores: ``[...]`` float :math:`S`, learned.
      threshold: scalar :math:`\tau` from 0 to 1.

    Examples:
      >>> print(soft_movement_masked(jnp.array([3.0, 2.0]), jnp.array([-1.0, 0.5]), threshold=0.5))
      [0. 2.]

    References:
      Sanh et al., `Movement Pruning <https://arxiv.org/abs/2005.07683>`_, 2020, section 4.
    """
    return score_masked(weights, scores, jax.nn.sigmoid(jax.lax.stop_gradient(scores)) > threshold)


def score_masked(weights: jax.Array, scores: jax.Array, mask: jax.Array) -> jax.Array:
    r"""Weights times a given mask, with straight-through gradients to learned scores.

    .. math::
        y = w \odot m, \qquad \frac{\partial \ell}{\partial S} := \frac{\partial \ell}{\partial y} \odot w, \qquad
        \frac{\partial \ell}{\partial w} = \frac{\partial \ell}{\partial y} \odot m.

    For a mask that is computed less often than it is used; :func:`movement_masked` computes its own.

    Args:
      weights: ``[...]`` float.
      scores: ``[...]`` float :math:`S`, learned.
      mask: ``[...]`` bool, True = kept.

    Returns:
      ``[...]``; NaN stays.

    Examples:
      >>> masked = lambda w, s: score_masked(w, s, jnp.array([False, True])).sum()
      >>> for gradient in jax.grad(masked, (0, 1))(jnp.array([3.0, 2.0]), jnp.zeros(2)):
      ...     print(gradient)
      [0. 1.]
      [3. 2.]

    References:
      Sanh et al., `Movement Pruning <https://arxiv.org/abs/2005.07683>`_, 2020, section 4.
    """
    gate = straight_through(scores, mask.astype(scores.dtype))
    if weights.shape != gate.shape or weights.dtype != gate.dtype:
        error = ValueError if weights.shape != gate.shape else TypeError
        raise error(f"scores: expected {weights.dtype}{weights.shape} of weights, got {gate.dtype}{gate.shape}")
    # Not the product: XLA compiles it to a selection, which hides a NaN.
    value = jnp.where(mask | jnp.isnan(weights), weights, 0)
    return straight_through(weights * gate, jax.lax.stop_gradient(value))
