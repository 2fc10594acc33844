"""Pruning masks with exact counts, computed without sorting."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from recjax.prune._scores import slice_scores


def _kept_count(count: int, sparsity: jax.typing.ArrayLike) -> jax.Array:
    """``max(1, round(count * (1 - sparsity)))`` as uint32, rounded half to even, exactly."""
    # A float32 product has 24 bits and a count up to 31, so the product is taken in integers: sparsity is
    # ``mantissa / 2**shift``, and ``count * mantissa`` has at most 55 bits, held in two words.
    if not isinstance(sparsity, Tracer) and np.isnan(sparsity).any():
        raise ValueError("sparsity: expected a number, got NaN")
    sparsity = jnp.asarray(sparsity, jnp.float32)
    pattern = jax.lax.bitcast_convert_type(sparsity, jnp.uint32)
    mantissa = (pattern & 0x7FFFFF) | 0x800000
    shift = 150 - (pattern >> 23)  # at least 24 for a sparsity below 1
    total = jnp.uint32(count)
    count_high, count_low = total >> 16, total & 0xFFFF
    high, low = mantissa >> 16, mantissa & 0xFFFF
    middle = count_low * high + count_high * low
    product_low = count_low * low + (middle << 16)
    product_high = count_high * high + (middle >> 16) + (product_low < (middle << 16)).astype(jnp.uint32)
    # Twice the entries to drop, rounded down. A shift by 32 or more gives 0, and so does a negative one, which wraps.
    by = shift - 1
    twice = (product_low >> by) | (product_high << (32 - by)) | (product_high >> (by - 32))
    exact = (product_low == twice << by) & (product_high == ((twice >> (32 - by)) | (twice << (by - 32))))
    floor, half = total - (twice + 1) // 2, (twice & 1) == 1
    kept = floor + (half & exact & (floor % 2 == 1)).astype(jnp.uint32)
    kept = jnp.where(sparsity < 1, kept, 0)
    return jnp.where(sparsity <= 0, total, jnp.maximum(kept, 1))


def largest(patterns: list[jax.Array], kept: jax.Array, bits: int) -> list[jax.Array]:
    """Masks of the ``kept`` entries with the largest ``bits``-bit patterns over all arrays; ties go to the first."""

    def count(where: list[jax.Array]) -> jax.Array:
        return sum((jnp.sum(part, dtype=jnp.uint32) for part in where), jnp.zeros((), jnp.uint32))

    def next_bit(i: jax.Array, threshold: jax.Array) -> jax.Array:
        higher = threshold | (jnp.uint32(1 << (bits - 1)) >> i.astype(jnp.uint32))
        return jnp.where(count([pattern >= higher for pattern in patterns]) >= kept, higher, threshold)

    # The threshold, the k-th largest pattern, is built bit by bit by counting: cheaper than sorting.
    threshold = jax.lax.fori_loop(0, bits, next_bit, jnp.zeros((), jnp.uint32))
    left = kept - count([pattern > threshold for pattern in patterns])  # number of ties to keep
    masks, before = [], jnp.zeros((), jnp.uint32)
    for pattern in patterns:
        tied = pattern == threshold
        order = before + jnp.cumsum(tied.ravel(), dtype=jnp.uint32).reshape(tied.shape)
        masks.append((pattern > threshold) | (tied & (order <= left)))
        before += count([tied])
    return masks


def _mask(patterns: list[jax.Array], sparsity: jax.typing.ArrayLike, bits: int) -> list[jax.Array]:
    return largest(patterns, _kept_count(sum(pattern.size for pattern in patterns), sparsity), bits)


def _frozen(scores: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(jnp.asarray(scores)).astype(jnp.float32)


def magnitude_pattern(scores: jax.Array) -> jax.Array:
    """31 bits in the order of the absolute values, all NaN equal and on top."""
    pattern = jax.lax.bitcast_convert_type(_frozen(scores), jnp.uint32) & 0x7FFFFFFF
    return jnp.minimum(pattern, 0x7F800001)


def _signed_pattern(scores: jax.Array) -> jax.Array:
    """32 bits in the order of the values, both zeros equal, NaN on top."""
    pattern = jax.lax.bitcast_convert_type(_frozen(scores), jnp.uint32)  # as bits, since denormals compare equal to 0
    sign, size = jnp.uint32(1 << 31), pattern & 0x7FFFFFFF
    ordered = jnp.where((pattern >= sign) & (size > 0), ~pattern, size | sign)
    return jnp.where(size > 0x7F800000, jnp.uint32(0xFFFFFFFF), ordered)


def _mask_jointly(
    pattern: Callable[[jax.Array], jax.Array], bits: int, scores: Any, sparsity: jax.typing.ArrayLike
) -> Any:
    leaves, structure = jax.tree.flatten(scores)
    if not leaves:
        raise ValueError("scores: expected at least one array, got none")
    return jax.tree.unflatten(structure, _mask([pattern(leaf) for leaf in leaves], sparsity, bits))


def mask_smallest(scores: jax.Array, sparsity: jax.typing.ArrayLike, *, axis: int | None = None) -> jax.Array:
    r"""Magnitude pruning mask with an exact number of kept entries.

    Of :math:`n` entries, the mask keeps the

    .. math::
        k = \max(1, \mathrm{round}(n (1 - \text{sparsity})))

    largest by absolute value, rounding half to even; ties go to the first in row-major order. No gradient flows.

    Args:
      scores: ``[...]`` float, compared as float32 by absolute value. NaN counts as the largest and is kept, so that it
        is not hidden.
      sparsity: scalar, the share to drop; 0 or less keeps all; 1 or more, or a traced NaN, keeps one.
      axis: axis along which entries are ranked separately: ``1`` ranks the weights of a kernel ``[in, out]`` within
        each output. None for one ranking. Static.

    Returns:
      ``[...]`` bool, True = kept.

    Raises:
      ValueError: if ``sparsity`` is NaN and not traced.

    Examples:
      >>> print(mask_smallest(jnp.array([0.1, -3.0, 0.2, 2.0, 0.1]), 0.4))
      [False  True  True  True False]

    References:
      Zhu & Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_, 2017, section 3.
    """
    pattern = magnitude_pattern(scores)
    if axis is None:
        return _mask([pattern], sparsity, 31)[0]
    return jax.vmap(lambda one: _mask([one], sparsity, 31)[0], in_axes=axis, out_axes=axis)(pattern)


def mask_top_k(scores: jax.Array, k: jax.typing.ArrayLike, *, axis: int | None = None) -> jax.Array:
    r"""Mask of the ``k`` largest entries by absolute value, of the array or of each position on an axis.

    .. math::
        m_{ij} = \left[|w_{ij}| \text{ is among the } k \text{ largest of row } i\right]

    Args:
      scores: ``[...]`` float, compared as float32; NaN counts as the largest.
      k: scalar, rounded down; 0 or less keeps none.
      axis: axis along which entries are ranked separately: ``0`` ranks the entries of each row of a table. None for one
        ranking. Static.

    Returns:
      ``[...]`` bool, True = kept; ties go to the first.

    Storage:
      As :class:`recjax.embed.IndexedRows`: the positions and values of the kept entries.

    Examples:
      >>> print(mask_top_k(jnp.array([[0.1, -3.0, 2.0], [1.0, 1.0, 0.5]]), 1, axis=0))
      [[False  True False]
       [ True False False]]

    References:
      Zhu & Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_, 2017, section 3.
    """
    pattern = magnitude_pattern(scores)
    kept = jnp.clip(jnp.asarray(k), 0, pattern.size).astype(jnp.uint32)
    if axis is None:
        return largest([pattern], kept, 31)[0]
    return jax.vmap(lambda one: largest([one], kept, 31)[0], in_axes=axis, out_axes=axis)(pattern)


def mask_smallest_globally(scores: Any, sparsity: jax.typing.ArrayLike) -> Any:
    r"""Global magnitude pruning mask: one threshold for all arrays.

    .. math::
        m_{li} = [|s_{li}| \text{ is among the } k \text{ largest of all arrays}], \qquad k = \max(1,
        \mathrm{round}(\textstyle\sum_l n_l (1 - \text{sparsity})))

    As :func:`mask_smallest` of the concatenated arrays; an array may lose all entries. Use :func:`normalized_magnitude`
    for layers of different scales.

    Args:
      scores: tree of ``[...]`` float arrays, compared as in :func:`mask_smallest`.
      sparsity: scalar, the share of all entries to drop.

    Returns:
      Tree of ``[...]`` bool, True = kept; ties go to the earlier leaf, then to the first.

    Examples:
      >>> masks = mask_smallest_globally({"a": jnp.array([1.0, -4.0]), "b": jnp.array([3.0, 2.0])}, 0.5)
      >>> masks["a"].tolist(), masks["b"].tolist()
      ([False, True], [True, False])

    References:
      Blalock et al., `What is the State of Neural Network Pruning? <https://arxiv.org/abs/2003.03033>`_, 2020, section
      7.2.
    """
    return _mask_jointly(magnitude_pattern, 31, scores, sparsity)


def mask_lowest(scores: Any, sparsity: jax.typing.ArrayLike) -> Any:
    r"""Pruning mask by signed score: one threshold for all arrays.

    .. math::
        m_i = [s_i \text{ is among the } k \text{ largest}], \qquad k = \max(1, \mathrm{round}(n (1 -
        \text{sparsity})))

    As :func:`mask_smallest_globally`, but negative scores are the lowest: for scores such as those of movement pruning.

    Args:
      scores: array or tree of ``[...]`` float arrays, compared as float32; NaN is kept.
      sparsity: scalar, the share of all entries to drop.

    Returns:
      Tree of ``[...]`` bool, True = kept.

    Examples:
      >>> print(mask_lowest(jnp.array([0.1, -3.0, 0.2]), 0.4))
      [ True False  True]

    References:
      Sanh et al., `Movement Pruning <https://arxiv.org/abs/2005.07683>`_, 2020, section 3, table 1.
    """
    return _mask_jointly(_signed_pattern, 32, scores, sparsity)


def erk_sparsity(params: Any, sparsity: jax.typing.ArrayLike) -> Any:
    r"""Erdos-Renyi-Kernel (ERK) sparsity per layer: larger layers are sparser.

    .. math::
        d_l = \min\left(1,\ \varepsilon\, \frac{\sum_i s_{li}}{\prod_i s_{li}}\right), \qquad
        \sum_l n_l d_l = (1 - \text{sparsity}) \sum_l n_l

    for densities :math:`d_l` of layers of shape :math:`s_l` with :math:`n_l` entries. Scalars and empty arrays are
    dense.

    Args:
      params: tree of arrays; only shapes are used.
      sparsity: scalar from 0 to 1, of all layers together.

    Returns:
      Tree of float32 scalars, the sparsity per layer, for :func:`mask_smallest`.

    Examples:
      >>> print([f"{s:.3f}" for s in erk_sparsity([jnp.ones((100, 20)), jnp.ones((20, 2))], 0.9)])
      ['0.914', '0.210']

    References:
      Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, 2020, section 3.1.
    """
    shapes, structure = [jnp.shape(leaf) for leaf in jax.tree.leaves(params)], jax.tree.structure(params)
    if not shapes:
        raise ValueError("params: expected at least one array, got none")
    sizes = np.array([math.prod(shape) for shape in shapes], float)
    dense = np.array([not shape or 0 in shape for shape in shapes])
    raw = np.array([sum(shape) for shape in shapes]) / np.where(dense, 1, sizes)
    corners = np.append(0, np.sort(1 / raw[~dense]))
    kept = np.where(dense, 1, np.minimum(1, corners[:, None] * raw)) @ sizes
    # The number of kept entries is piecewise linear in epsilon, with a corner where a layer becomes dense.
    share = 1 - jnp.asarray(sparsity, jnp.float32)
    kept = jnp.asarray(kept / max(kept[-1], 1), jnp.float32)
    factor = jnp.interp(share, kept, jnp.asarray(corners, jnp.float32))
    sparsities = 1 - jnp.where(dense, 1, jnp.minimum(factor * jnp.asarray(raw, jnp.float32), 1))
    return jax.tree.unflatten(structure, list(sparsities))


def mask_n_of_m(scores: jax.Array, n: jax.typing.ArrayLike, *, m: int, axis: int = -1) -> jax.Array:
    r"""N:M sparsity mask: the ``n`` largest by absolute value of every ``m`` neighbors.

    .. math::
        m_i = \left[\#\{j \in G(i) : |w_j| > |w_i| \text{, or equal and } j < i\} < n\right], \qquad |G(i)| = m

    Hardware with sparse units needs the neighbors on the axis that a product sums over: 0 of a kernel ``[in, out]``.

    Args:
      scores: ``[...]`` float, compared as float32 by absolute value; NaN counts as the largest.
      n: scalar from 0 to ``m``, entries kept per group.
      m: size of a group. Static.
      axis: axis of the neighbors, whose length is a multiple of ``m``. Static.

    Returns:
      ``[...]`` bool, True = kept; ties go to the first.

    Published:
      2 of 4 in NVIDIA's sparse tensor cores.

    Storage:
      In the layout of such hardware, the kept entries and ``ceil(log2(m))`` bits each.

    Examples:
      >>> print(mask_n_of_m(jnp.array([0.1, -3.0, 0.2, 2.0]), 2, m=4))
      [False  True False  True]

    References:
      Mishra et al., `Accelerating Sparse Deep Neural Networks <https://arxiv.org/abs/2104.08378>`_, 2021, section 3.
    """
    scores = jnp.asarray(scores)
    if m < 1 or scores.ndim == 0 or scores.shape[axis] % m:
        raise ValueError(f"scores: expected the length of axis {axis} to be a multiple of m = {m}, got {scores.shape}")
    groups = jnp.moveaxis(magnitude_pattern(scores), axis, -1)
    groups = groups.reshape(*groups.shape[:-1], groups.shape[-1] // m, m)
    mine, other = groups[..., :, None], groups[..., None, :]
    earlier = jnp.broadcast_to(jnp.tri(m, k=-1, dtype=bool), (*groups.shape, m))
    rank = jnp.sum((other > mine) | ((other == mine) & earlier), axis=-1)
    kept = (rank < jnp.asarray(n)).reshape(*groups.shape[:-2], scores.shape[axis])
    return jnp.moveaxis(kept, -1, axis)


def mask_slices(scores: jax.Array, sparsity: jax.typing.ArrayLike, *, axis: int) -> jax.Array:
    r"""Structured pruning mask that drops the slices with the smallest root mean square.

    .. math::
        m_j = \left[\sqrt{\tfrac1n \textstyle\sum_e w_{je}^2} \text{ is among the } k \text{ largest}\right], \qquad
        k = \max(1, \mathrm{round}(n_\text{slices} (1 - \text{sparsity})))

    Slices on axis 0 of a table are its rows, on axis 1 its dimensions; on axis 1 of a kernel ``[in, out]`` its outputs.
    For slices of several arrays, see :class:`Coupling`.

    Args:
      scores: ``[...]`` float.
      sparsity: scalar, the share of the slices to drop.
      axis: axis whose positions are the slices. Static.

    Returns:
      ``[...]`` bool, True = kept, constant per slice.

    Storage:
      After :func:`shrink`, only the kept slices.

    Examples:
      >>> print(mask_slices(jnp.array([[1.0, 5.0], [4.0, 0.0], [1.0, 1.0]]), 1 / 3, axis=0)[:, 0])
      [ True  True False]

    References:
      Li et al., `Pruning Filters for Efficient ConvNets <https://arxiv.org/abs/1608.08710>`_, 2017, section 3.1, with
      the l2 norm.
    """
    scores = jnp.asarray(scores)
    kept = mask_smallest(slice_scores(scores, axis=axis), sparsity)
    along = [1] * scores.ndim
    along[axis] = kept.size
    return jnp.broadcast_to(kept.reshape(along), scores.shape)
