"""Dropout at a rate that may be traced."""

import jax
import jax.numpy as jnp

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # of four rounds, then of the next four
PARITY = 0x1BD11BDA


def threefry(key: jax.Array, count: jax.Array) -> jax.Array:
    """``[2, blocks]`` uint32 words of Threefry-2x32 with 20 rounds, the generator of ``jax.random``.

    On a CPU, JAX's own runs its rounds as a loop over memory and gives one word a block where this is one pass and
    gives both: an epoch of the DNN of ``benchmarks/epoch.py`` takes three quarters of the time.

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
    return jnp.stack([left, right])


def drop(x: jax.Array, key: jax.Array | None, place: int, rate: jax.typing.ArrayLike) -> jax.Array:
    """Each entry zero with probability ``rate``, the others made larger so that the mean stays; all of them, without a
    key. The places where a model drops share its key, each with a number of its own.

    Not linen's, whose rate is static. Two 16-bit numbers are cut from every word that is drawn: drawing is what
    dropout costs.
    """
    if key is None:
        return x
    words = threefry(jax.random.bits(jax.random.fold_in(key, place), (2,)), jax.lax.iota(jnp.uint32, -(-x.size // 4)))
    words = jax.lax.optimization_barrier(words)  # drawn once: XLA would draw them again where gradients need them
    numbers = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[: x.size].reshape(x.shape)
    kept = numbers >= jnp.round(jnp.asarray(rate, jnp.float32) * 2.0**16).astype(jnp.uint32)
    return jnp.where(kept, x / (1 - jnp.asarray(rate, x.dtype)), 0)
