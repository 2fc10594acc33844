"""Symmetric scales per tensor, axis or group."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_FLOAT16_MAX = 65504.0
_FLOAT16_TINY = 2.0**-14  # the smallest normal number; below it float16 has steps of 2**-24


class IntegerRange(NamedTuple):
    """Integers of a bit width: all from ``low`` to ``high``, or only these two if ``binary``.

    Attributes:
      binary: bool, whether the bit width is 1, whose integers are -1 and 1.
      low: smallest integer.
      high: largest integer.
      bound: divisor of the largest absolute value: ``high``, plus half a step with ``full_range``.
    """

    binary: jax.Array
    low: jax.Array
    high: jax.Array
    bound: jax.Array


def integer_range(bits: jax.typing.ArrayLike, full_range: jax.typing.ArrayLike) -> IntegerRange:
    """The integers of ``bits`` bits, in float32."""
    bits, full = jnp.asarray(bits, jnp.float32), jnp.asarray(full_range, jnp.float32)
    levels = jnp.round(2.0 ** (bits - 1)) - 1  # a traced power may miss an integer
    binary = bits <= 1
    return IntegerRange(binary, jnp.where(binary, -1, -levels - full), jnp.where(binary, 1, levels), levels + full / 2)


def require_float(x: jax.typing.ArrayLike, name: str = "x") -> jax.Array:
    """``x`` as an array; an error if it is not float."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name}: expected a float array, got {x.dtype}")
    return x


def valid_mask(x: jax.Array, where: jax.Array | None) -> jax.Array | None:
    """``where``, checked, or True where ``x`` is NaN: a mask doesn't hide a NaN."""
    if where is None:
        return None
    where = jnp.asarray(where)
    if where.dtype != jnp.bool_:
        raise TypeError(f"where: expected bool, got {where.dtype}")
    if where.shape != x.shape:
        raise ValueError(f"where: expected shape {x.shape} of x, got {where.shape}")
    return where | jnp.isnan(x)


def round_float16(x: jax.Array) -> jax.Array:
    """float32 ``x`` rounded to the nearest finite float16, subnormals included, still as float32."""
    # Not by casts to float16 and back, which XLA may drop as excess precision: compiled training would see scales that
    # are never stored. ``reduce_precision`` stays, but flushes subnormals to zero.
    x = jnp.clip(x, -_FLOAT16_MAX, _FLOAT16_MAX)
    subnormal = jnp.round(x * 2.0**24) * 2.0**-24
    normal = jax.lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10)
    return jnp.where(jnp.abs(x) < _FLOAT16_TINY, subnormal, normal)


def shared_axes(shape: tuple[int, ...], axis: int | Sequence[int] | None) -> tuple[int, ...]:
    """The axes that share a scale: all except ``axis``."""
    given = () if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    own = {a % len(shape) for a in given if -len(shape) <= a < len(shape)}
    if len(own) != len(given):
        raise ValueError(f"axis: expected distinct axes of an array of shape {shape}, got {axis}")
    return tuple(a for a in range(len(shape)) if a not in own)


def largest(x: jax.Array, axis: tuple[int, ...]) -> jax.Array:
    """Maximum of float32 ``x`` over ``axis``; NaN if any entry is, -inf if empty."""
    # On integers in the order of the floats, with NaN on top: XLA's float maximum loses NaN in large arrays on CPU.
    pattern = jax.lax.bitcast_convert_type(x, jnp.int32)
    order = jnp.where(jnp.isnan(x), jnp.int32(0x7FFFFFFF), pattern ^ ((pattern >> 31) & 0x7FFFFFFF))
    nothing = np.float32(-np.inf).view(np.int32) ^ np.int32(0x7FFFFFFF)
    top = jnp.max(order, axis=axis, keepdims=True, initial=nothing)
    return jax.lax.bitcast_convert_type(top ^ ((top >> 31) & 0x7FFFFFFF), jnp.float32)


def absmax(x: jax.Array, axis: tuple[int, ...]) -> jax.Array:
    """Maximum absolute value over ``axis``; NaN if any entry is, 0 if empty. Cheaper than :func:`largest`."""
    pattern = jax.lax.bitcast_convert_type(x, jnp.uint32) & 0x7FFFFFFF
    return jax.lax.bitcast_convert_type(jnp.max(pattern, axis=axis, keepdims=True, initial=0), jnp.float32)


def _sum(x: jax.Array, axis: tuple[int, ...]) -> jax.Array:
    """Sum over ``axis`` in a fixed order, by pairs of neighbors: :func:`jax.numpy.sum` may differ between programs."""
    for a in sorted(axis, reverse=True):
        if x.shape[a] == 0:
            return jnp.zeros([1 if i in axis else n for i, n in enumerate(x.shape)], x.dtype)
        while x.shape[a] > 1:
            odd = [(0, x.shape[a] % 2 if i == a else 0) for i in range(x.ndim)]
            x = jnp.pad(x, odd)
            first, second = (jax.lax.slice_in_dim(x, start, None, 2, a) for start in (0, 1))
            x = first + second
    return x


def mean_absolute(x: jax.Array, axis: tuple[int, ...]) -> jax.Array:
    """Mean absolute value over ``axis``; 0 if empty."""
    return jnp.sum(jnp.abs(x), axis=axis, keepdims=True) / max(math.prod(x.shape[a] for a in axis), 1)


def expand_groups(scale: jax.Array, group_size: int | None, shape: tuple[int, ...]) -> jax.Array:
    """Scales per group repeated to one per entry of the last axis; unchanged without groups."""
    if group_size is None:
        return scale
    return jnp.repeat(scale, group_size, axis=-1)[..., : shape[-1]]


def check_groups(shape: tuple[int, ...], shared: tuple[int, ...], group_size: int) -> None:
    if group_size < 1 or not shape:
        raise ValueError(
            f"group_size: expected 1 or more for an array with an axis, got {group_size} for shape {shape}"
        )
    if len(shape) - 1 not in shared:
        raise ValueError("axis: expected no last axis with group_size, got both")


def absmax_scale(
    x: jax.Array,
    *,
    bits: jax.typing.ArrayLike,
    axis: int | Sequence[int] | None = None,
    group_size: int | None = None,
    granularity: jax.typing.ArrayLike | None = None,
    full_range: jax.typing.ArrayLike = False,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Scale that maps the maximum absolute value to the largest integer.

    With :math:`L = 2^{b-1} - 1`,

    .. math::
        s = \mathrm{float16}\left(\frac{\max |x|}{L}\right), \qquad
        s_\text{full} = \mathrm{float16}\left(\frac{\max |x|}{L + \frac12}\right), \qquad
        s_{b=1} = \mathrm{float16}\left(\frac1n \sum |x|\right),

    over the entries that share a scale. The mean at 1 bit has the least squared error. Stored as
    float16, scales are at most 65504, and 0 up to :math:`2^{-25}`. No gradient flows.

    Args:
      x: ``[..., n]`` float.
      bits: scalar ``>= 1``, or of the rank of ``x`` with size 1 on the axes that share a scale.
      axis: axes along which scales differ: ``0`` for one scale per row of a table. None for one scale. Static.
      group_size: number of neighbors on the last axis that share a scale; the last group may be smaller. None for no
        groups. Static.
      granularity: scalar: 0 keeps the scales, 1 merges the groups of the last axis, 2 merges all scales. None for 0.
      full_range: bool scalar, whether to use all :math:`2^b` integers, with the second scale above.
      where: ``[..., n]`` bool mask of the entries that determine the scale; a NaN always does.

    Returns:
      float32, exactly representable in float16, of the rank of ``x``: size 1 on the axes that share a scale, the number
      of groups on the last axis. Merged scales are repeated. NaN where an entry is NaN, 0 without entries.

    Storage:
      2 bytes per scale, as float16.

    Examples:
      >>> x = jnp.array([[0.0, 0.75, 0.25, -1.5], [0.0, 1.0, 5.0, -6.0]])
      >>> grid = jnp.arange(3)
      >>> print(jax.vmap(lambda g: absmax_scale(x, bits=3, axis=0, group_size=2, granularity=g))(grid)[:, 0])
      [[0.25 0.5 ]
       [0.5  0.5 ]
       [2.   2.  ]]

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks <https://arxiv.org/abs/1806.08342>`_, 2018, section 2.2;
      Rastegari et al., `XNOR-Net <https://arxiv.org/abs/1603.05279>`_, 2016, section 3.1 (1 bit).
    """
    x = jax.lax.stop_gradient(require_float(x)).astype(jnp.float32)
    shape, shared = x.shape, shared_axes(x.shape, axis)
    kept = valid_mask(x, where)
    if kept is not None:
        x = jnp.where(kept, x, 0)
    if group_size is None:
        top, total = absmax(x, shared), _sum(jnp.abs(x), shared)
        count = np.full([1] * x.ndim, math.prod(shape[a] for a in shared), np.float32)
    else:
        check_groups(shape, shared, group_size)
        groups = -(-shape[-1] // group_size)

        def split(x: jax.Array) -> jax.Array:
            x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, groups * group_size - shape[-1])])
            return x.reshape(*shape[:-1], groups, group_size)

        x, kept = split(x), None if kept is None else split(kept)
        shared = (*shared[:-1], x.ndim - 1)
        top, total = (reduce(x, shared)[..., 0] for reduce in (absmax, lambda x, axis: _sum(jnp.abs(x), axis)))
        sizes = np.minimum(group_size, shape[-1] - group_size * np.arange(groups))
        count = sizes.astype(np.float32).reshape([1] * (len(shape) - 1) + [groups])
        count = count * math.prod(shape[a] for a in shared[:-1])
    if kept is not None:
        count = jnp.sum(kept, axis=shared, keepdims=True, dtype=jnp.int32).astype(jnp.float32).reshape(total.shape)
    if granularity is not None:
        top = _pool(top, absmax, granularity)
        count = _pool(jnp.broadcast_to(count, total.shape), _sum, granularity)
        total = _pool(total, _sum, granularity)
    # XLA may turn division by a constant or a broadcast array into multiplication by the reciprocal, which rounds
    # differently from program to program. A divisor that is selected entry by entry stays a divisor.
    binary, _, _, bound = integer_range(bits, full_range)
    mean = total / jnp.where(total == 0, 1, count)
    return round_float16(jnp.where(binary, mean, top / jnp.where(top == 0, 1, bound)))


def _pool(
    x: jax.Array, reduce: Callable[[jax.Array, tuple[int, ...]], jax.Array], granularity: jax.typing.ArrayLike
) -> jax.Array:
    """A statistic per scale (granularity 0), over the last axis (1) or over everything (2), in the shape of ``x``."""
    rows = reduce(x, (x.ndim - 1,))
    everything = reduce(rows, tuple(range(x.ndim)))
    granularity = jnp.asarray(granularity)
    return jnp.where(granularity >= 2, everything, jnp.where(granularity >= 1, rows, x))


def power_of_two(scale: jax.Array) -> jax.Array:
    r"""Scale rounded up to a power of two, so that multiplying by it is a shift.

    .. math::
        s' = 2^{\lceil \log_2 s \rceil}

    At most :math:`2^{15}`, the largest in float16.

    Args:
      scale: ``[...]`` float, ``>= 0``.

    Returns:
      ``[...]`` float32. 0 stays 0.

    Examples:
      >>> print(power_of_two(jnp.array([0.25, 0.26, 3.0, 0.0])))
      [0.25 0.5  4.   0.  ]

    References:
      Jain et al., `Trained Quantization Thresholds <https://arxiv.org/abs/1903.08066>`_, 2019, section 3.
    """
    scale = require_float(scale, "scale").astype(jnp.float32)
    pattern = jax.lax.bitcast_convert_type(scale, jnp.uint32)  # a logarithm may miss an integer
    above = jax.lax.bitcast_convert_type((pattern + jnp.uint32(0x7FFFFF)) & jnp.uint32(0x7F800000), jnp.float32)
    return jnp.where(jnp.isnan(scale), scale, jnp.minimum(above, 2.0**15))
