"""Uniform sampling of items outside of a user's history and a list."""

import jax
import jax.numpy as jnp
import numpy as np

from recjax.arrays import check_integers, check_rows
from recjax.data import Seen
from recjax.teacher._samplers import check_count

_NO_ITEM = np.iinfo(np.int32).max  # sorts behind every item


def excluded(seen: Seen, users: jax.Array, lists: jax.Array, *, width: int) -> jax.Array:
    r"""Union of each user's items and a list, sorted and distinct.

    The ids that :func:`uniform_complement` excludes: for the relaxed ranking, the training items and the teacher's
    list.

    Args:
      seen: what the users have, from :func:`recjax.data.seen`; the leaves may be traced.
      users: ``[...]`` int, positions in the vocabulary.
      lists: ``[..., m]`` int, ids in any order; negative ones, such as the -1 at the end of a draw, are no items.
      width: room for each user's union, static: ``int(np.diff(seen.offsets).max()) + m`` is enough for all. Of a larger
        union the highest ids are not excluded.

    Returns:
      ``[..., width]`` int32, ascending, distinct; behind them the largest int32, which is no item.

    Raises:
      ValueError: if ``lists`` is not of the shape of ``users`` and one more axis, or ``width`` is negative.
      TypeError: if ``users`` or ``lists`` are not of an integer dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> has = Seen(jnp.array([0, 2, 3]), jnp.array([1, 4, 0]))
      >>> left_out = excluded(has, jnp.array([0, 1]), jnp.array([[4, 2], [3, -1]]), width=4)
      >>> jnp.where(left_out < 5, left_out, -1).tolist()
      [[1, 2, 4, -1], [0, 3, -1, -1]]
    """
    users, lists = jnp.asarray(users), jnp.asarray(lists)
    offsets, have = jnp.asarray(seen.offsets), jnp.asarray(seen.items)
    check_integers(users=users, lists=lists)
    if lists.ndim == 0 or lists.shape[:-1] != users.shape:
        raise ValueError(f"expected lists of shape {users.shape} and one more axis, got {lists.shape}")
    if width < 0:
        raise ValueError(f"expected a width of at least 0, got {width}")
    lists = lists.astype(jnp.int32)
    listed = jnp.where(lists >= 0, lists, _NO_ITEM)
    if have.shape[0] == 0:  # no interactions at all: nothing to look up
        owned = jnp.full((*users.shape, width), _NO_ITEM, jnp.int32)
    else:
        start, end = (offsets[users + i].astype(jnp.int32)[..., None] for i in (0, 1))
        row = start + jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), (*users.shape, width))
        owned = jnp.where(row < end, have[jnp.minimum(row, have.shape[0] - 1)].astype(jnp.int32), _NO_ITEM)
    union = jnp.sort(jnp.concatenate([owned, listed], axis=-1), axis=-1)
    repeated = jnp.zeros(union.shape, bool).at[..., 1:].set(union[..., 1:] == union[..., :-1])
    return jnp.sort(jnp.where(repeated, _NO_ITEM, union), axis=-1)[..., :width]


def uniform_complement(key: jax.Array, excluded: jax.Array, *, items: int, count: int) -> jax.Array:
    r"""Samples ``count`` distinct items that are not excluded, uniformly.

    Floyd's algorithm draws ``count`` of the :math:`n` ranks of the complement without rejection: for :math:`j = n -
    \mathrm{count}, \dots, n - 1` take

    .. math::
        t \sim \mathrm{Uniform}\{0, \dots, j\},

    or :math:`j` itself where :math:`t` was taken before. The rank :math:`r` is item :math:`r + \#\{k : e_k - k \le
    r\}`, with :math:`e_0 < e_1 < \dots` the excluded, as in :func:`recjax.data.uniform_negatives`, which draws with
    replacement. Each set of items is equally likely; within a set, not each order.

    Args:
      key: a typed key.
      excluded: ``[..., m]`` int, distinct ids, ascending, then anything from ``items`` on, which excludes nothing: what
        :func:`excluded` returns. Not checked.
      items: size of the catalog, static.
      count: items to draw for each row, static.

    Returns:
      ``[..., count]`` int32, distinct ids, then -1 where the complement is smaller.

    Raises:
      ValueError: if ``excluded`` is a scalar, or ``count`` is below 1.
      TypeError: if ``excluded`` is not of an integer dtype.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> uniform_complement(jax.random.key(0), jnp.array([[0, 1, 3], [1, 5, 5]]), items=5, count=3).tolist()[0]
      [2, 4, -1]
      >>> draw = lambda key: uniform_complement(key, jnp.array([0, 1, 3]), items=5, count=1)[0]
      >>> drawn = jax.vmap(draw)(jax.random.split(jax.random.key(0), 10_000))
      >>> bool(abs(jnp.mean(drawn == 2) - 0.5) < 0.02), bool(jnp.all((drawn == 2) | (drawn == 4)))
      (True, True)

    References:
      Bentley and Floyd, Programming Pearls: A Sample of Brilliance, Communications of the ACM 30(9), 1987.
    """
    excluded = jnp.asarray(excluded)
    check_rows(excluded=excluded)
    check_integers(excluded=excluded)
    check_count(count)
    excluded = jnp.minimum(excluded.astype(jnp.int32), items)
    free = items - jnp.sum(excluded < items, axis=-1, dtype=jnp.int32, keepdims=True)
    shape = (*excluded.shape[:-1], count)
    last = jnp.maximum(free - count, 0) + jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), shape)
    drawn = jax.random.randint(key, shape, 0, last + 1, jnp.int32)

    def take(i: jax.Array, ranks: jax.Array) -> jax.Array:
        candidate, top = (jax.lax.dynamic_slice_in_dim(x, i, 1, axis=-1) for x in (drawn, last))
        taken = jnp.any(ranks == candidate, axis=-1, keepdims=True)
        rank = jnp.where(top < free, jnp.where(taken, top, candidate), -1)
        return jax.lax.dynamic_update_slice_in_dim(ranks, rank, i, axis=-1)

    ranks = jax.lax.fori_loop(0, count, take, jnp.full(shape, -1, jnp.int32))
    places = jnp.broadcast_to(jnp.arange(excluded.shape[-1], dtype=jnp.int32), excluded.shape)
    before = jnp.where(excluded < items, excluded - places, items)  # of the complement; ascending up to its end
    search = jnp.vectorize(lambda before, rank: jnp.searchsorted(before, rank, side="right"), signature="(m),(n)->(n)")
    return jnp.where(ranks >= 0, ranks + search(before, ranks).astype(jnp.int32), -1)
