"""On-device sampling: shuffled batches and negatives that are never positives."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from recjax.data.interactions import Seen


def epoch_batches(key: jax.Array, count: int, batch_size: int) -> jax.Array:
    """One epoch of shuffled row numbers in full batches; the remainder is dropped.

    Args:
      key: a typed key, a new one for each epoch.
      count: number of rows, static.
      batch_size: rows per step, static.

    Returns:
      ``[count // batch_size, batch_size]`` int32 row numbers, each at most once.

    Raises:
      ValueError: if ``batch_size`` is below 1 or above ``count``.

    Examples:
      >>> rows = epoch_batches(jax.random.key(0), 10, 4)
      >>> rows.shape, len(set(rows.ravel().tolist()))
      ((2, 4), 8)
    """
    if not 1 <= batch_size <= count:
        raise ValueError(f"batch_size: expected 1 to {count} (the rows), got {batch_size}")
    steps = count // batch_size
    order = jax.random.permutation(key, jnp.arange(count, dtype=jnp.int32))
    return order[: steps * batch_size].reshape(steps, batch_size)


def uniform_negatives(key: jax.Array, users: jax.Array, seen: Seen, *, items: int, count: int) -> jax.Array:
    r"""Uniform negatives among the items that a user doesn't have, without rejection.

    For a user with the sorted items :math:`s_0 < \dots < s_{n-1}`, a draw :math:`r \sim \mathrm{Uniform}\{0, \dots,
    \mathrm{items} - n - 1\}` becomes the free item of rank :math:`r`,

    .. math:: r + \#\{j : s_j - j \le r\},

    where :math:`s_j - j` is the number of free items before :math:`s_j`. The count is a binary search, so the cost
    doesn't depend on how many items a user has.

    Args:
      key: a typed key.
      users: ``[...]`` int, positions in the vocabulary; may be traced, not checked.
      seen: the users' items, from :func:`recjax.data.seen`; the leaves may be traced.
      items: size of the catalog, static.
      count: negatives per user, static; drawn with replacement.

    Returns:
      ``[..., count]`` int32; -1 for a user who has every item.

    Examples:
      >>> has = Seen(jnp.array([0, 2, 5]), jnp.array([0, 2, 0, 1, 2]))  # of three items; the second user has all
      >>> uniform_negatives(jax.random.key(0), jnp.array([0, 1]), has, items=3, count=2).tolist()
      [[1, 1], [-1, -1]]
    """
    users, offsets, have = jnp.asarray(users), jnp.asarray(seen.offsets), jnp.asarray(seen.items)
    shape = (*users.shape, count)
    start, end = (jnp.broadcast_to(offsets[users + i][..., None], shape).astype(jnp.int32) for i in (0, 1))
    free = items - (end - start)
    rank = jax.random.randint(key, shape, 0, jnp.maximum(free, 1), jnp.int32)
    if have.shape[0] == 0:  # an empty array can't be searched
        return jnp.where(free > 0, rank, -1)
    # The first row whose item has more than `rank` free items before it.
    first = _first(
        start, end, lambda row: have[row] - (row - start) > rank, rounds=min(items, have.shape[0]).bit_length()
    )
    return jnp.where(free > 0, rank + (first - start), -1)


def has(users: jax.Array, items: jax.Array, seen: Seen) -> jax.Array:
    """Whether a user has an item, by binary search.

    Args:
      users: ``[...]`` int, positions in the vocabulary; may be traced, not checked.
      items: ``[...]`` int, same shape; -1 stands for no item.
      seen: the users' items; the leaves may be traced.

    Returns:
      ``[...]`` bool.

    Examples:
      >>> index = Seen(jnp.array([0, 2, 3]), jnp.array([0, 2, 1]))
      >>> has(jnp.array([0, 0, 1]), jnp.array([2, 1, 1]), index).tolist()
      [True, False, True]
    """
    users, items = jnp.asarray(users), jnp.asarray(items)
    offsets, have = jnp.asarray(seen.offsets), jnp.asarray(seen.items)
    if have.shape[0] == 0:
        return jnp.zeros(users.shape, bool)
    start, end = (offsets[users + i].astype(jnp.int32) for i in (0, 1))
    first = _first(start, end, lambda row: have[row] >= items, rounds=have.shape[0].bit_length())
    return (first < end) & (have[jnp.minimum(first, have.shape[0] - 1)] == items)


def _first(start: jax.Array, end: jax.Array, reached: Callable[[jax.Array], jax.Array], *, rounds: int) -> jax.Array:
    """Binary search: the first row of each segment where the monotone ``reached`` is true; ``end`` without any.

    A segment of n rows has n + 1 answers, so ``rounds`` is the bit length of the longest segment's length.
    """

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds  # the answer is in between
        middle = (low + high) // 2
        here = reached(middle)
        searching = low < high
        return jnp.where(searching & ~here, middle + 1, low), jnp.where(searching & here, middle, high)

    return jax.lax.fori_loop(0, rounds, halve, (start, end))[0]
