"""The packed integers that a fake-quantized array stands for."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from recjax.quantize._fake import integers
from recjax.quantize._scale import absmax_scale, as_float

PACKED_BITS = (2, 3, 4, 8)


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
    x = as_float(x)
    if x.ndim == 0:
        raise ValueError("expected an array with at least one axis, got a scalar")
    scale = absmax_scale(x, bits=bits, axis=axis)
    exact = jax.lax.stop_gradient(x).astype(jnp.float32)
    steps, _ = integers(exact, scale, bits=bits, full_range=False, key=None)
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
      >>> from recjax.quantize import fake_quant
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
