"""Fewer bits for an array: fake quantization for training, and the packed integers that it stands for.

Both roads share one function for the integers and the scale, so what is trained is what is packed: the values of
:func:`fake_quant` and of ``dequantize(quantize(x))`` are the same floats, compiled or not.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

PACKED_BITS = (2, 3, 4, 8)
_FLOAT16_MAX = 65504.0
_FLOAT16_TINY = 2.0**-14  # the smallest normal number; below it float16 has steps of 2**-24


@jax.custom_jvp
def _straight_through(x: jax.Array, value: jax.Array) -> jax.Array:
    return value


@_straight_through.defjvp
def _straight_through_jvp(primals, tangents):
    # Not x + stop_gradient(value - x): that sum is rounded, and the value would no longer be exactly a packed one.
    return _straight_through(*primals), tangents[0]


def straight_through(x: jax.Array, value: jax.Array) -> jax.Array:
    r"""A value that is differentiated as if it were something else (the straight-through estimator).

    .. math::
        y = v, \qquad \frac{\partial y}{\partial x} = 1, \qquad \frac{\partial y}{\partial v} = 0.

    The forward value is exactly ``value``, to the last bit. The gradient flows to ``x`` alone, unchanged.

    Args:
      x: ``[...]`` float, what the gradient goes to.
      value: ``[...]``, same shape and dtype, what comes out.

    Returns:
      ``[...]``, ``value``.

    Raises:
      ValueError: if ``x`` and ``value`` differ in shape.
      TypeError: if ``x`` and ``value`` differ in dtype.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.array([0.4, 1.6])
      >>> print(straight_through(x, jnp.round(x)))
      [0. 2.]
      >>> print(jax.grad(lambda x: straight_through(x, jnp.round(x)).sum())(x))
      [1. 1.]

    References:
      Bengio et al., `Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation
      <https://arxiv.org/abs/1308.3432>`_, 2013, section 4.
    """
    x, value = jnp.asarray(x), jnp.asarray(value)
    if x.shape != value.shape:
        raise ValueError(f"expected equal shapes, got x {x.shape} and value {value.shape}")
    if x.dtype != value.dtype:
        raise TypeError(f"expected equal dtypes, got x {x.dtype} and value {value.dtype}")
    return _straight_through(x, value)


def _shared_axes(shape: tuple[int, ...], axis: int | Sequence[int] | None) -> tuple[int, ...]:
    """The axes that share a scale: all but ``axis``."""
    given = () if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    own = {a % len(shape) for a in given if -len(shape) <= a < len(shape)}
    if len(own) != len(given):
        raise ValueError(f"axis: expected different axes of an array of shape {shape}, got {axis}")
    return tuple(a for a in range(len(shape)) if a not in own)


def _round_float16(x: jax.Array) -> jax.Array:
    """float32 ``x >= 0`` rounded to the nearest float16, subnormals included, still as float32.

    Not by a cast there and back, which XLA may drop as excess precision, so that compiled training would see
    scales that are never stored. ``reduce_precision`` stays, but takes subnormals to zero.
    """
    subnormal = jnp.round(x * 2.0**24) * 2.0**-24
    normal = jax.lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10)
    return jnp.where(x < _FLOAT16_TINY, subnormal, normal)


def _absmax(x: jax.Array, axis: tuple[int, ...]) -> jax.Array:
    """The largest absolute value of float32 ``x`` over ``axis``, NaN if there is one among them.

    As the largest bit pattern, which has the order of the values with NaN on top: XLA's maximum of floats forgets
    NaN in large arrays on CPU.
    """
    pattern = jax.lax.bitcast_convert_type(x, jnp.uint32) & 0x7FFFFFFF
    return jax.lax.bitcast_convert_type(jnp.max(pattern, axis=axis, keepdims=True, initial=0), jnp.float32)


def _integers(
    x: jax.Array, bits: jax.typing.ArrayLike, axis: int | Sequence[int] | None
) -> tuple[jax.Array, jax.Array]:
    """The whole numbers (int32) and the scale (float32 that float16 holds exactly) that stand for ``x``."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"expected a float array, got {x.dtype}")
    shared = _shared_axes(x.shape, axis)
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    levels = jnp.round(2.0 ** (jnp.asarray(bits, jnp.float32) - 1)) - 1  # a traced power may miss a whole number
    # XLA turns division by a constant or a broadcast array into multiplication by the reciprocal, which rounds
    # differently and not in every program alike. A divisor that is selected entry by entry stays a divisor.
    absmax = _absmax(x, shared)
    scale = _round_float16(jnp.minimum(absmax / jnp.where(absmax == 0, 1, levels), _FLOAT16_MAX))
    steps = jnp.clip(jnp.round(x / jnp.where(x == 0, 1, scale)), -levels, levels)
    steps = jnp.where((scale == 0) | jnp.isnan(steps), 0, steps)  # a NaN lives on in the scale
    return steps.astype(jnp.int32), scale  # as integers also because they have no -0, which would not survive packing


def fake_quant(x: jax.Array, *, bits: jax.typing.ArrayLike, axis: int | Sequence[int] | None = None) -> jax.Array:
    r"""The array as it will be after packing to ``bits`` bits, for training.

    Symmetric around an exact zero, with :math:`L = 2^{b-1} - 1` levels on either side:

    .. math::
        s = \mathrm{float16}\left(\frac{\max |x|}{L}\right), \qquad
        q = \mathrm{clip}\left(\mathrm{round}\left(\frac{x}{s}\right), -L, L\right), \qquad y = s\,q.

    Rounding is half to even. The maximum is over all the entries that share a scale, and the scale is rounded to
    float16 as it is stored, so ``y`` equals ``dequantize(quantize(x, bits=bits, axis=axis))`` bit for bit. A scale
    above 65504 becomes 65504, the largest in float16, and what doesn't fit is clipped. One that float16 rounds to
    zero (:math:`\max |x| / L \le 2^{-25}`) makes its entries exactly zero, and between that and :math:`2^{-14}` it
    has fewer digits. Zeros stay zero, so masked weights stay masked.

    Gradients pass straight through to ``x``, everywhere 1: with a scale from the maximum, rounding alone moves
    values. None flows to ``bits``.

    Args:
      x: ``[...]`` float. Reckoned in float32 whatever its dtype.
      bits: scalar from 2; from 16 on the result is ``x`` itself. May be traced; not checked.
      axis: the axes that keep scales of their own: ``0`` is one scale a row of a table. None is one scale for all.

    Returns:
      ``[...]``, shape and dtype of ``x``. A NaN makes everything that shares its scale NaN; an infinity is clipped to
      the largest value there is.

    Raises:
      ValueError: if ``axis`` names an axis that ``x`` doesn't have, or one twice.
      TypeError: if ``x`` is not float.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.array([[0.0, 0.8, 0.3, -1.5], [0.0, 1.0, 5.0, -6.0]])
      >>> print(fake_quant(x, bits=3, axis=0))
      [[ 0.   1.   0.5 -1.5]
       [ 0.   0.   4.  -6. ]]
      >>> grid = jnp.array([2.0, 4.0, 8.0])
      >>> jax.vmap(lambda bits: fake_quant(x, bits=bits))(grid).shape
      (3, 2, 4)

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks for efficient inference
      <https://arxiv.org/abs/1806.08342>`_, 2018, sections 2.2 and 2.4.
    """
    x = jnp.asarray(x)
    steps, scale = _integers(x, bits, axis)
    value = (steps.astype(jnp.float32) * scale).astype(x.dtype)
    return straight_through(x, jnp.where(jnp.asarray(bits) >= 16, x, value))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QTensor:
    """An array packed to a few bits an entry, with its scales.

    Invariants:

    * ``words`` has the array's shape but for the last axis, which holds ``ceil(n * bits / 8)`` bytes for ``n`` entries.
    * Entries follow one another from the low end of each byte (at 4 bits the first entry is the low nibble; at 3
      bits an entry may straddle two bytes), in two's complement, from ``-levels`` to ``levels``: the most negative
      pattern is not used. Bits left over at the end of a row are zero.
    * ``scale`` has the array's rank, with size 1 on the axes that share a scale; finite and ``>= 0``, or NaN.
    * The array is ``unpack(q) * scale`` in float32.

    A vmapped :func:`quantize` gives a record with a leading axis more on ``words`` and ``scale`` than ``shape`` tells;
    read it under :func:`jax.vmap` too.

    Attributes:
      words: ``[..., ceil(n * bits / 8)]`` uint8.
      scale: ``[...]`` float16.
      bits: 2, 3, 4 or 8. Static.
      shape: the shape of the array that is packed here. Static.
    """

    words: jax.Array
    scale: jax.Array
    bits: int = dataclasses.field(metadata={"static": True})
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @property
    def nbytes(self) -> int:
        """The bytes that are stored: words and scales."""
        return sum(a.size * a.dtype.itemsize for a in (self.words, self.scale))


def quantize(x: jax.Array, *, bits: int, axis: int | Sequence[int] | None = None) -> QTensor:
    r"""The packed integers and scales of an array.

    :math:`q` and :math:`s` of :func:`fake_quant`, with :math:`q` packed along the last axis. No gradient flows.

    Args:
      x: ``[..., n]`` float, at least one axis.
      bits: 2, 3, 4 or 8. Static.
      axis: the axes that keep scales of their own. None is one scale for all.

    Returns:
      The :class:`QTensor`. NaN and infinity as in :func:`fake_quant`: a NaN is stored in the scale, so all that
      shares it reads back as NaN; an infinity reads back as the largest value.

    Raises:
      ValueError: if ``bits`` is none of 2, 3, 4 and 8, ``x`` has no axis to pack, or ``axis`` names an axis that ``x``
        doesn't have, or one twice.
      TypeError: if ``x`` is not float.

    Examples:
      >>> import jax.numpy as jnp
      >>> q = quantize(jnp.array([[1.0, -1.0, 0.0], [0.0, 0.0, 7.0]]), bits=4, axis=0)
      >>> q.words.shape, q.words.dtype, q.scale.shape, q.nbytes
      ((2, 2), dtype('uint8'), (2, 1), 8)
      >>> print(unpack(q))
      [[ 7 -7  0]
       [ 0  0  7]]

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks for efficient inference
      <https://arxiv.org/abs/1806.08342>`_, 2018, section 2.2.
    """
    if bits not in PACKED_BITS:
        raise ValueError(f"bits: expected one of {PACKED_BITS}, got {bits}")
    x = jnp.asarray(x)
    if x.ndim == 0:
        raise ValueError("expected an array with at least one axis, got a scalar")
    steps, scale = _integers(x, bits, axis)
    words = pack_bits(steps.astype(jnp.int8).view(jnp.uint8), int(bits))
    return QTensor(words, scale.astype(jnp.float16), int(bits), x.shape)


def unpack(q: QTensor) -> jax.Array:
    """The whole numbers of a packed array.

    Args:
      q: a :class:`QTensor`.

    Returns:
      ``q.shape`` int8.

    Raises:
      ValueError: if the words don't fit the shape.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(unpack(quantize(jnp.array([0.5, -1.0, 0.1]), bits=3)))
      [ 2 -3  0]
    """
    count = q.shape[-1] if q.shape else 0
    low = unpack_bits(q.words, q.bits, count)
    sign = jnp.uint8(1 << (q.bits - 1))
    return ((low ^ sign) - sign).view(jnp.int8)  # carries the sign bit up to the eighth, modulo 256


def dequantize(q: QTensor) -> jax.Array:
    r"""The array that a packed one stands for, :math:`y = s\,q`.

    Args:
      q: a :class:`QTensor`.

    Returns:
      ``q.shape`` float32.

    Raises:
      ValueError: if the words don't fit the shape.

    Examples:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[1.0, -1.0, 0.0], [0.0, 0.0, 7.0]])
      >>> y = dequantize(quantize(x, bits=4, axis=0))
      >>> bool((y == fake_quant(x, bits=4, axis=0)).all())
      True
    """
    return unpack(q).astype(jnp.float32) * q.scale.astype(jnp.float32)


def _group(bits: int) -> tuple[int, int]:
    """How many entries fill a whole number of bytes, and how many bytes those are."""
    if bits not in range(1, 9):
        raise ValueError(f"bits: expected a whole number from 1 to 8, got {bits}")
    together = math.lcm(bits, 8)
    return together // bits, together // 8


def pack_bits(values: jax.Array, bits: int) -> jax.Array:
    """Small numbers side by side in bytes, the first in the lowest bits.

    Args:
      values: ``[..., n]`` uint8, of which the low ``bits`` bits are kept.
      bits: 1 to 8. Static.

    Returns:
      ``[..., ceil(n * bits / 8)]`` uint8. Bits left over at the end are zero.

    Raises:
      ValueError: if ``bits`` is not from 1 to 8, or ``values`` has no axis.
      TypeError: if ``values`` is not uint8.

    Examples:
      >>> import jax.numpy as jnp
      >>> print([hex(w) for w in pack_bits(jnp.array([1, 2, 3], jnp.uint8), 4)])
      ['0x21', '0x3']
    """
    per_group, words_per_group = _group(bits)
    values = jnp.asarray(values)
    if values.dtype != jnp.uint8:
        raise TypeError(f"values: expected uint8, got {values.dtype}")
    if values.ndim == 0:
        raise ValueError("values: expected at least one axis, got a scalar")
    *outer, count = values.shape
    groups = -(-count // per_group)
    values = values & jnp.uint8((1 << bits) - 1)
    values = jnp.pad(values, [(0, 0)] * len(outer) + [(0, groups * per_group - count)])
    values = values.reshape(*outer, groups, per_group)
    words = [jnp.zeros((*outer, groups), jnp.uint8)] * words_per_group
    for i in range(per_group):
        word, shift = divmod(i * bits, 8)
        words[word] |= values[..., i] << jnp.uint8(shift)
        if shift + bits > 8:  # straddles two bytes
            words[word + 1] |= values[..., i] >> jnp.uint8(8 - shift)
    packed = jnp.stack(words, axis=-1).reshape(*outer, groups * words_per_group)
    return packed[..., : -(-count * bits // 8)]


def unpack_bits(words: jax.Array, bits: int, count: int) -> jax.Array:
    """The small numbers that :func:`pack_bits` put side by side.

    Args:
      words: ``[..., ceil(count * bits / 8)]`` uint8.
      bits: 1 to 8. Static.
      count: how many numbers there are on the last axis. Static.

    Returns:
      ``[..., count]`` uint8, each from 0 to ``2 ** bits - 1``.

    Raises:
      ValueError: if ``bits`` is not from 1 to 8, or the last axis of ``words`` is not as long as ``count`` asks.
      TypeError: if ``words`` is not uint8.

    Examples:
      >>> import jax.numpy as jnp
      >>> values = jnp.array([1, 7, 0, 5, 2], jnp.uint8)
      >>> print(unpack_bits(pack_bits(values, 3), 3, 5))
      [1 7 0 5 2]
    """
    per_group, words_per_group = _group(bits)
    words = jnp.asarray(words)
    if words.dtype != jnp.uint8:
        raise TypeError(f"words: expected uint8, got {words.dtype}")
    needed = -(-count * bits // 8)
    if words.ndim == 0 or words.shape[-1] != needed:
        raise ValueError(f"words: expected {needed} on the last axis for {count} of {bits} bits, got {words.shape}")
    outer = words.shape[:-1]
    groups = -(-count // per_group)
    words = jnp.pad(words, [(0, 0)] * len(outer) + [(0, groups * words_per_group - needed)])
    words = words.reshape(*outer, groups, words_per_group)
    values = []
    for i in range(per_group):
        word, shift = divmod(i * bits, 8)
        value = words[..., word] >> jnp.uint8(shift)
        if shift + bits > 8:
            value |= words[..., word + 1] << jnp.uint8(8 - shift)
        values.append(value & jnp.uint8((1 << bits) - 1))
    return jnp.stack(values, axis=-1).reshape(*outer, groups * per_group)[..., :count]
