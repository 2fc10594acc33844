"""Bit packing."""

import math

import jax
import jax.numpy as jnp


def _group(bits: int) -> tuple[int, int]:
    """The smallest number of entries that fills whole bytes, and that number of bytes."""
    if bits not in range(1, 9):
        raise ValueError(f"bits: expected an integer from 1 to 8, got {bits}")
    together = math.lcm(bits, 8)
    return together // bits, together // 8


def pack_bits(values: jax.Array, bits: int) -> jax.Array:
    """Pack small integers into bytes, the first in the lowest bits.

    Args:
      values: ``[..., n]`` uint8; the low ``bits`` bits of each are kept.
      bits: 1 to 8. Static.

    Returns:
      ``[..., ceil(n * bits / 8)]`` uint8. Unused bits at the end are 0.

    Examples:
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
    """Inverse of :func:`pack_bits`.

    Args:
      words: ``[..., ceil(count * bits / 8)]`` uint8.
      bits: 1 to 8. Static.
      count: length of the unpacked last axis. Static.

    Returns:
      ``[..., count]`` uint8, from 0 to ``2 ** bits - 1``.

    Examples:
      >>> print(unpack_bits(pack_bits(jnp.array([1, 7, 0, 5, 2], jnp.uint8), 3), 3, 5))
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
