"""Which weights to keep: exact counts without a sort."""

import jax
import jax.numpy as jnp


def _kept(count: int, sparsity: jax.typing.ArrayLike) -> jax.Array:
    """``max(1, round(count * (1 - sparsity)))``, half to even, as uint32 and without a rounding error before the last.

    A float32 product has 24 bits and a count up to 31, so the product is taken in integers: sparsity is
    ``mantissa / 2**shift``, and ``count * mantissa`` has at most 55 bits, held in two words.
    """
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
    return jnp.where(sparsity > 0, jnp.maximum(kept, 1), total)


def mask_smallest(scores: jax.Array, sparsity: jax.typing.ArrayLike) -> jax.Array:
    r"""The entries that are kept when the smallest are dropped; exactly as many as asked.

    Of all :math:`n` entries of the array, kept are the

    .. math::
        k = \max(1, \mathrm{round}(n (1 - \text{sparsity})))

    largest by absolute value, rounding half to even; of equal ones those that come first in row-major order. The
    product is reckoned exactly with sparsity as a float32, traced or not. There is no sort: the k-th largest value is
    found bit by bit, by 31 counts, since the bits of a non-negative float, read as a whole number, have its order.

    No gradient flows through the mask.

    Args:
      scores: ``[...]`` float, compared as float32 by absolute value. NaN counts as larger than anything and is kept,
        so that a broken weight is seen and not hidden.
      sparsity: scalar, the share to drop; 0 or less keeps all, 1 or more keeps one. May be traced; not checked.

    Returns:
      ``[...]`` bool, True = kept.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> w = jnp.array([0.1, -3.0, 0.2, 2.0, 0.1])
      >>> print(mask_smallest(w, 0.4))
      [False  True  True  True False]
      >>> grid = jnp.array([0.0, 0.2, 1.0])
      >>> print(jax.vmap(lambda sparsity: mask_smallest(w, sparsity).sum())(grid))
      [5 4 1]

    References:
      Zhu & Gupta, `To prune, or not to prune: exploring the efficacy of pruning for model compression
      <https://arxiv.org/abs/1710.01878>`_, 2017, section 3: masks by magnitude.
    """
    scores = jax.lax.stop_gradient(jnp.asarray(scores)).astype(jnp.float32)
    pattern = jax.lax.bitcast_convert_type(scores, jnp.uint32) & 0x7FFFFFFF
    pattern = jnp.minimum(pattern, 0x7F800001)  # every NaN alike
    kept = _kept(scores.size, sparsity)

    def count(where: jax.Array) -> jax.Array:
        return jnp.sum(where, dtype=jnp.uint32)

    def next_bit(i: jax.Array, threshold: jax.Array) -> jax.Array:
        higher = threshold | (jnp.uint32(1 << 30) >> i.astype(jnp.uint32))
        return jnp.where(count(pattern >= higher) >= kept, higher, threshold)

    threshold = jax.lax.fori_loop(0, 31, next_bit, jnp.zeros((), jnp.uint32))
    above, tied = pattern > threshold, pattern == threshold
    order = jnp.cumsum(tied.ravel(), dtype=jnp.uint32).reshape(tied.shape)
    return above | (tied & (order <= kept - count(above)))
