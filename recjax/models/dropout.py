"""Dropout at a rate that may be traced."""

import math

import jax
import jax.numpy as jnp

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # alternating every four rounds
PARITY = 0x1BD11BDA


def threefry(key: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 with 20 rounds, the generator of ``jax.random``, in one pass; JAX's version loops over memory on a
    CPU.

    ``key`` is ``[2]`` uint32; ``count [blocks]`` uint32 is the first word of each block's counter, the second is 0.
    Returns both output words, each ``[blocks]`` uint32.

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
    """``[*shape]`` bool, each False with probability ``rate``, rounded to a multiple of 2^-16."""
    # Optimized for CPUs, where random numbers dominate the cost of dropout. A Threefry block gives four 16-bit numbers,
    # each for another eighth of the rows; their flags are one byte, which the gradient reads again.
    rows = -(-shape[0] // 8)
    blocks = rows * math.prod(shape[1:])
    words = jax.random.bits(jax.random.fold_in(key, place), (2,))
    least = jnp.round(jnp.asarray(rate, jnp.float32) * 2.0**16).astype(jnp.uint32)

    def drawn(first: int) -> jax.Array:
        left, right = threefry(words, first + jax.lax.iota(jnp.uint32, blocks))
        numbers = (left & 0xFFFF, left >> 16, right & 0xFFFF, right >> 16)
        flags = [(number >= least).astype(jnp.uint8) << bit for bit, number in enumerate(numbers)]
        return flags[0] | flags[1] | flags[2] | flags[3]

    # XLA would recompute a single draw for every use, but it does not recompute a concatenation.
    flags = jnp.stack([drawn(0), drawn(blocks)]).reshape(2, 1, rows, *shape[1:])
    bit = jnp.arange(4, dtype=jnp.uint8).reshape(1, 4, *[1] * len(shape))
    return (flags >> bit & 1).reshape(8 * rows, *shape[1:])[: shape[0]] == 1


def drop(x: jax.Array, key: jax.Array | None, place: int, rate: jax.typing.ArrayLike) -> jax.Array:
    """Dropout whose rate may be traced (linen's is static); nothing is dropped without a key.

    ``place`` distinguishes the dropouts of one model, which share a key.
    """
    if key is None:
        return x
    return jnp.where(kept(x.shape, key, place, rate), x / (1 - jnp.asarray(rate, x.dtype)), 0)
