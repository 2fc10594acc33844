"""What a training step draws, on the device and from a key: shuffled batches and negatives that are never positives."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from recjax.data.interactions import Seen


def epoch_batches(key: jax.Array, count: int, batch_size: int) -> jax.Array:
    """One epoch's order of the rows, cut into full batches.

    ``count // batch_size`` steps; the rows that don't fill a last batch wait for the next epoch's order, which is
    another one, so over epochs every row is used equally often.

    Args:
      key: a typed key; another key gives another order.
      count: number of rows, static.
      batch_size: rows a step, static.

    Returns:
      ``[steps, batch_size]`` int32 row numbers, each at most once.

    Raises:
      ValueError: if ``batch_size`` is below 1 or above ``count``.

    Examples:
      >>> import jax
      >>> rows = epoch_batches(jax.random.key(0), 10, 4)
      >>> rows.shape, len(set(rows.ravel().tolist()))
      ((2, 4), 8)
    """
    if not 1 <= batch_size <= count:
        raise ValueError(f"expected a batch_size in 1..{count} (the rows), got {batch_size}")
    steps = count // batch_size
    order = jax.random.permutation(key, jnp.arange(count, dtype=jnp.int32))
    return order[: steps * batch_size].reshape(steps, batch_size)


def uniform_negatives(key: jax.Array, users: jax.Array, seen: Seen, *, items: int, count: int) -> jax.Array:
    r"""Items that a user doesn't have, uniform over all of those, without rejection.

    For a user with the sorted items :math:`s_0 < \dots < s_{n-1}`, the item that has exactly :math:`r` items of the
    complement before it is

    .. math::
        r + \#\{j : s_j - j \le r\}, \qquad r \sim \mathrm{Uniform}\{0, \dots, \mathrm{items} - n - 1\},

    because :math:`s_j - j` of the items before :math:`s_j` are not the user's. :math:`s_j - j` never decreases, so the
    count is a binary search in the user's segment, with as many rounds as the largest segment could need. One draw
    gives one negative: a user who has all but one item costs what every user costs.

    Args:
      key: a typed key.
      users: ``[...]`` int, positions in the vocabulary; may be traced, not checked.
      seen: what the users have, from :func:`recjax.data.seen`; the leaves may be traced.
      items: size of the catalogue, static.
      count: negatives a user, static; drawn with replacement.

    Returns:
      ``[..., count]`` int32. A user who has every item gives -1.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> has = Seen(jnp.array([0, 2, 5]), jnp.array([0, 2, 0, 1, 2]))  # of three items; the second user has all
      >>> uniform_negatives(jax.random.key(0), jnp.array([0, 1]), has, items=3, count=2).tolist()
      [[1, 1], [-1, -1]]
    """
    users, offsets, have = jnp.asarray(users), jnp.asarray(seen.offsets), jnp.asarray(seen.items)
    shape = (*users.shape, count)
    start, end = (jnp.broadcast_to(offsets[users + i][..., None], shape).astype(jnp.int32) for i in (0, 1))
    free = items - (end - start)
    rank = jax.random.randint(key, shape, 0, jnp.maximum(free, 1), jnp.int32)
    if have.shape[0] == 0:  # nobody has anything, and there is nothing to search in
        return jnp.where(free > 0, rank, -1)
    # The first row whose item has more than `rank` free items before it.
    first = _first(
        start, end, lambda row: have[row] - (row - start) > rank, rounds=min(items, have.shape[0]).bit_length()
    )
    return jnp.where(free > 0, rank + (first - start), -1)


def has(users: jax.Array, items: jax.Array, seen: Seen) -> jax.Array:
    """Whether a user has an item: a binary search in the user's segment.

    Args:
      users: ``[...]`` int, positions in the vocabulary; may be traced, not checked.
      items: ``[...]`` int, same shape; -1 stands for no item.
      seen: what the users have; the leaves may be traced.

    Returns:
      ``[...]`` bool.

    Examples:
      >>> import jax.numpy as jnp
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
    """The first row of each segment that has reached a point, which later rows have passed; ``end`` without any.

    A segment of n rows has n + 1 answers: ``rounds`` is the number of bits of the longest segment's length.
    """

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds  # the answer is in between
        middle = (low + high) // 2
        here = reached(middle)
        searching = low < high
        return jnp.where(searching & ~here, middle + 1, low), jnp.where(searching & here, middle, high)

    return jax.lax.fori_loop(0, rounds, halve, (start, end))[0]
