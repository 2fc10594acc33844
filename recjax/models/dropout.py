"""Dropout at a rate that may be traced."""

import math

import jax
import jax.numpy as jnp

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # of four rounds, then of the next four
PARITY = 0x1BD11BDA


def threefry(key: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two arrays ``[blocks]`` of uint32 words of Threefry-2x32 with 20 rounds, the generator of ``jax.random``.

    On a CPU, JAX's own runs its rounds as a loop over memory and gives one word a block where this is one pass and
    gives both.

    Args:
      key: ``[2]`` uint32.
      count: ``[blocks]`` uint32, the first word of each block's counter; the second is 0.

    References:
      Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011, section 3.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(PARITY))
    left, right = count + schedule[0], jnp.broadcast_to(schedule[1], count.shape)
    for turn in range(1, 6):
        for bits in ROTATIONS[(turn - 1) % 2]:
            left = left + right
            right = left ^ (right << bits | right >> (32 - bits))
        left = left + schedule[turn % 3]
        right = right + schedule[(turn + 1) % 3] + jnp.uint32(turn)
    return left, right


def kept(shape: tuple[int, ...], key: jax.Array, place: int, rate: jax.typing.ArrayLike) -> jax.Array:
    """``[*shape]`` bool, each False with probability ``rate``.

    A block gives four numbers of 16 bits, each for another eighth of the rows. What they say is one byte a block, which
    the step reads again for the gradient. Drawn in two halves that are put together, since XLA would draw single ones
    anew for every entry and for the gradient, but doesn't repeat a concatenation. All this is for a CPU, where
    drawing is what dropout costs.
    """
    rows = -(-shape[0] // 8)
    blocks = rows * math.prod(shape[1:])
    words = jax.random.bits(jax.random.fold_in(key, place), (2,))
    least = jnp.round(jnp.asarray(rate, jnp.float32) * 2.0**16).astype(jnp.uint32)

    def drawn(first: int) -> jax.Array:
        left, right = threefry(words, first + jax.lax.iota(jnp.uint32, blocks))
        numbers = (left & 0xFFFF, left >> 16, right & 0xFFFF, right >> 16)
        flags = [(number >= least).astype(jnp.uint8) << bit for bit, number in enumerate(numbers)]
        return flags[0] | flags[1] | flags[2] | flags[3]

    flags = jnp.stack([drawn(0), drawn(blocks)]).reshape(2, 1, rows, *shape[1:])
    bit = jnp.arange(4, dtype=jnp.uint8).reshape(1, 4, *[1] * len(shape))
    return (flags >> bit & 1).reshape(8 * rows, *shape[1:])[: shape[0]] == 1


def drop(x: jax.Array, key: jax.Array | None, place: int, rate: jax.typing.ArrayLike) -> jax.Array:
    """Each entry zero with probability ``rate``, the others made larger so that the mean stays; all of them, without a
    key. The places where a model drops share its key, each with a number of its own.

    Not linen's, whose rate is static.
    """
    if key is None:
        return x
    return jnp.where(kept(x.shape, key, place, rate), x / (1 - jnp.asarray(rate, x.dtype)), 0)
