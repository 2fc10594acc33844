"""What a distilling step draws from a teacher's lists, on the device and from a key; and the noise of expert selection.

Lists are of item ids, best first. A list in which only some entries count (``where``) is drawn from as if the others
were cut out of it, and a draw that finds too few entries ends in -1.
"""

import jax
import jax.numpy as jnp
import numpy as np

from recjax.arrays import check_booleans, check_integers, check_rows, check_where, wide_dtype
from recjax.data import Seen

_NO_ITEM = np.iinfo(np.int32).max  # sorts behind every item


def by_rank(
    key: jax.Array,
    items: jax.Array,
    *,
    count: int,
    temperature: jax.typing.ArrayLike,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Items of a list without replacement, the better ranked the likelier.

    One after the other, each from what is left of the list, by

    .. math::
        P(r) \propto e^{-r / \tau}, \qquad r = 0, 1, \dots \text{ the rank among the items that count.}

    All at once: the items with the largest :math:`-r / \tau + g_r`, with independent standard Gumbel :math:`g_r`, have
    the distribution of the successive draws. They are then put in the list's order, as
    :func:`recjax.losses.relaxed_ranking` wants them. The authors of the relaxed ranking later report that their student
    does better without sampling, on the best items themselves: ``items[..., :count]``, or a temperature of 0.

    Args:
      key: a typed key.
      items: ``[..., length]`` int, ids, best first.
      count: items to draw from each list, static.
      temperature: scalar ``>= 0``, in ranks. May be traced; not checked. 0 takes the best, infinity draws uniformly.
      where: ``[..., length]`` bool, which items count.

    Returns:
      ``[..., count]`` int32, distinct ids in the order of the list, then -1 where fewer count.

    Raises:
      ValueError: if ``items`` is a scalar, ``where`` has another shape, or ``count`` is below 1.
      TypeError: if ``items`` is not of an integer dtype, or ``where`` not boolean.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> best = jnp.array([30, 10, 20, 40])
      >>> by_rank(jax.random.key(0), best, count=2, temperature=0.0).tolist()
      [30, 10]
      >>> by_rank(jax.random.key(0), best, count=3, temperature=9.0, where=best != 10).tolist()
      [30, 20, 40]
      >>> keys = jax.random.split(jax.random.key(0), 5)
      >>> jax.vmap(lambda key: by_rank(key, best, count=2, temperature=1.0))(keys).shape
      (5, 2)

    References:
      Kang et al., `DE-RRD: A Knowledge Distillation Framework for Recommender System
      <https://arxiv.org/abs/2012.04357>`_, CIKM 2020. Kool et al., `Stochastic Beams and Where to Find Them: The
      Gumbel-Top-k Trick for Sampling Sequences Without Replacement <https://arxiv.org/abs/1903.06059>`_, ICML 2019.
    """
    items = _checked(items, where, count)
    rank, _ = _ranks(items, where)
    return _entries(items, _without_replacement(key, -rank * _rate(temperature), where, count))


def better_of_two(
    key: jax.Array,
    items: jax.Array,
    *,
    count: int,
    temperature: jax.typing.ArrayLike,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Items of a list without replacement, each the better of two that were drawn by rank.

    Two ranks are drawn from :math:`p_r \propto e^{-r / \tau}`, the better is kept unless it was kept before, until
    there are ``count``. That is drawing one after the other, each from what is left of the list, by

    .. math::
        P(r) = S_r^2 - S_{r+1}^2 \propto e^{-2r / \tau} \left(1 + e^{-1/\tau} - 2 e^{-(n - r) / \tau}\right),
        \qquad S_r = \sum_{j \ge r} p_j,

    with :math:`n` items that count, and it is drawn like :func:`by_rank`, without repeating anything.

    Args:
      key: a typed key.
      items: ``[..., length]`` int, ids, best first by the model that guides: the teacher, or the student itself.
      count: items to draw from each list, static.
      temperature: scalar ``>= 0``, in ranks: a temperature for ranks divided by the length of the list, as it is often
        given for this method, times ``length``. May be traced; not checked. 0 takes the best.
      where: ``[..., length]`` bool, which items count.

    Returns:
      ``[..., count]`` int32, distinct ids in the order of the list, then -1 where fewer count.

    Raises:
      ValueError: if ``items`` is a scalar, ``where`` has another shape, or ``count`` is below 1.
      TypeError: if ``items`` is not of an integer dtype, or ``where`` not boolean.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> best = jnp.array([30, 10, 20, 40])
      >>> better_of_two(jax.random.key(0), best, count=2, temperature=0.0).tolist()
      [30, 10]
      >>> draw = lambda key: better_of_two(key, best, count=1, temperature=jnp.inf)[0]
      >>> drawn = jax.vmap(draw)(jax.random.split(jax.random.key(0), 10_000))
      >>> bool(abs(jnp.mean(drawn == 30) - 7 / 16) < 0.02)  # one of the two is the best of four
      True

    References:
      Lee et al., `Collaborative Distillation for Top-N Recommendation <https://arxiv.org/abs/1911.05276>`_, ICDM 2019.
    """
    items = _checked(items, where, count)
    rank, total = _ranks(items, where)
    rate = _rate(temperature)
    # The parenthesis of the equation as a difference of what is small at high temperature, and never above 2 : 1.
    log_weights = -2 * rank * rate + jnp.log(jnp.expm1(-rate) - 2 * jnp.expm1(-(total - rank) * rate))
    return _entries(items, _without_replacement(key, log_weights, where, count))


def ranked_pairs(
    key: jax.Array,
    items: jax.Array,
    *,
    count: int,
    temperature: jax.typing.ArrayLike,
    where: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    r"""Pairs of different items of a list with replacement, the better ranked of each pair first.

    Two ranks :math:`i < j` are drawn together by

    .. math::
        P(i, j) \propto e^{-i / \tau} e^{-j / \tau},

    which is two draws from :math:`p_r \propto e^{-r / \tau}`, repeated until they differ. Nothing is repeated here:
    with :math:`n` items that count, the better rank and then the other have the tails

    .. math::
        P(i \ge r) \propto e^{-2r / \tau} (1 - e^{-(n - r) / \tau}) (1 - e^{-(n - r - 1) / \tau}), \qquad
        P(j \ge r \mid i) \propto e^{-r / \tau} (1 - e^{-(n - r) / \tau}), \quad r > i,

    and each is the last rank whose tail is above a uniform number.

    Args:
      key: a typed key.
      items: ``[..., length]`` int, ids, best first by the teacher.
      count: pairs to draw from each list, static.
      temperature: scalar ``>= 0``, in ranks. May be traced; not checked. 0 pairs the best with the second.
      where: ``[..., length]`` bool, which items count: for the method, those of one of :func:`popularity_groups`.

    Returns:
      ``[..., count]`` int32 twice, the preferred ids and the others. Pairs may repeat. -1 in both where fewer than two
      items count.

    Raises:
      ValueError: if ``items`` is a scalar, ``where`` has another shape, or ``count`` is below 1.
      TypeError: if ``items`` is not of an integer dtype, or ``where`` not boolean.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> best = jnp.array([30, 10, 20])
      >>> preferred, other = ranked_pairs(jax.random.key(0), best, count=2, temperature=0.0)
      >>> preferred.tolist(), other.tolist()
      ([30, 30], [10, 10])
      >>> group = jnp.array([[True, False, True], [False, False, True]])
      >>> draw = lambda where: ranked_pairs(jax.random.key(0), best, count=1, temperature=20.0, where=where)
      >>> [ids.tolist() for ids in jax.vmap(draw)(group)]
      [[[30], [-1]], [[20], [-1]]]

    References:
      Chen et al., `Unbiased Knowledge Distillation for Recommendation <https://arxiv.org/abs/2211.14729>`_, WSDM 2023.
    """
    items = _checked(items, where, count)
    length, rate = items.shape[-1], _rate(temperature)
    ranks, _ = _ranks(items, None)
    _, total = _ranks(items, where)
    if where is not None:  # those that count to the front, so that a rank is a place
        items = jnp.take_along_axis(items, jnp.argsort(~where, axis=-1, stable=True), axis=-1)
    size = jnp.maximum(total, 2)

    def log_tail(rank: jax.Array, size: jax.Array) -> jax.Array:
        # 0 at the best rank: near it, where nearly all is drawn, the logarithm is as exact as it can be.
        return -rank * rate + jnp.log(jnp.expm1(-jnp.maximum(size - rank, 0) * rate) / jnp.expm1(-size * rate))

    def last_above(tails: jax.Array, threshold: jax.Array) -> jax.Array:
        return jnp.sum(tails[..., None, :] >= threshold[..., None], axis=-1, dtype=jnp.int32) - 1

    key_better, key_other = jax.random.split(key)
    shape = (*items.shape[:-1], count)
    single = log_tail(ranks, size)
    # Minus an exponential number is the logarithm of a uniform one.
    better = last_above(single + log_tail(ranks, size - 1), -jax.random.exponential(key_better, shape, jnp.float32))
    following = log_tail((better + 1).astype(jnp.float32), size)
    other = last_above(single, following - jax.random.exponential(key_other, shape, jnp.float32))
    other = jnp.maximum(other, better + 1)  # whatever a rounding does, nothing is paired with itself
    preferred, other = (_entries(items, jnp.where(total >= 2, rank, length)) for rank in (better, other))
    return preferred, other


def by_disagreement(
    key: jax.Array,
    teacher_rank: jax.Array,
    student_rank: jax.Array,
    *,
    count: int,
    sharpness: jax.typing.ArrayLike,
    where: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    r"""Places in a list that the student ranks too low, and places that it ranks too high, without replacement.

    With the teacher's rank :math:`r^T` and the student's :math:`r^S` (0 or 1 for the best, the same for both), places
    are drawn one after the other in proportion to

    .. math::
        w^+ = \tanh\left(\max(\epsilon (r^S - r^T), 0)\right), \qquad
        w^- = \tanh\left(\max(\epsilon (r^T - r^S), 0)\right),

    :math:`w^+` for what is underestimated and, independently, :math:`w^-` for what is overestimated. A place of weight
    0 is never drawn, so no place is in both.

    Args:
      key: a typed key.
      teacher_rank: ``[..., length]`` int or float, the teacher's rank of what stands at each place.
      student_rank: ``[..., length]`` int or float, the student's rank of the same.
      count: places to draw of each kind, static.
      sharpness: scalar ``> 0``, :math:`\epsilon`. May be traced; not checked.
      where: ``[..., length]`` bool, which places count. Leaves the ranks as they are.

    Returns:
      ``[..., count]`` int32 twice, underestimated and overestimated places in the list, not ids, in the order of
      ``teacher_rank``, then -1 where fewer have a positive weight.

    Raises:
      ValueError: if the ranks or ``where`` differ in shape or are scalars, or ``count`` is below 1.
      TypeError: if ``where`` is not boolean.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> teacher, student = jnp.arange(4), jnp.array([3, 0, 1, 2])
      >>> under, over = by_disagreement(jax.random.key(0), teacher, student, count=3, sharpness=1.0)
      >>> under.tolist(), over.tolist()
      ([0, -1, -1], [1, 2, 3])
      >>> draw = lambda sharpness: by_disagreement(jax.random.key(0), teacher, student, count=2, sharpness=sharpness)
      >>> [places.shape for places in jax.vmap(draw)(jnp.array([0.1, 1.0, 10.0]))]
      [(3, 2), (3, 2)]

    References:
      Lee and Kim, `Dual Correction Strategy for Ranking Distillation in Top-N Recommender System
      <https://arxiv.org/abs/2109.03459>`_, CIKM 2021.
    """
    teacher_rank, student_rank = jnp.asarray(teacher_rank), jnp.asarray(student_rank)
    check_rows(teacher_rank=teacher_rank, student_rank=student_rank)
    _check_count(count)
    if where is not None:
        check_where(where, teacher_rank.shape)
    teacher_rank, student_rank = teacher_rank.astype(jnp.float32), student_rank.astype(jnp.float32)
    excess = jnp.asarray(sharpness, jnp.float32) * (student_rank - teacher_rank)
    last = jnp.full((*teacher_rank.shape[:-1], 1), jnp.inf, jnp.float32)
    length, known = teacher_rank.shape[-1], jnp.concatenate([teacher_rank, last], axis=-1)

    def draw(key: jax.Array, excess: jax.Array) -> jax.Array:
        weights = jnp.tanh(jnp.maximum(excess, 0))
        positive = weights > 0 if where is None else where & (weights > 0)
        place = _without_replacement(key, jnp.log(jnp.where(positive, weights, 1)), positive, count)
        rank = jnp.take_along_axis(known, place, axis=-1)
        _, place = jax.lax.sort((rank, place), num_keys=2)
        return jnp.where(place < length, place, -1)

    key_under, key_over = jax.random.split(key)
    return draw(key_under, excess), draw(key_over, -excess)


def popularity_groups(counts: np.ndarray, groups: int) -> np.ndarray:
    r"""Groups of items of about equal total popularity, the most popular items in group 0.

    Items are lined up by descending count :math:`c` (among equals the lower number first), and the next group begins as
    soon as those before it have their share of all counts: an item is in group

    .. math::
        g = \min\left(\left\lfloor \mathrm{groups} \cdot \frac{\sum_{j \text{ before } i} c_j}{\sum_j c_j}
        \right\rfloor, \mathrm{groups} - 1\right),

    so the total of a group is within the largest count of its share. An item more popular than a share may leave a
    group empty.

    Args:
      counts: ``[items]`` int, how often each item occurs in train. NumPy.
      groups: number of groups.

    Returns:
      ``[items]`` int32, NumPy, from 0 to ``groups - 1``.

    Raises:
      ValueError: if ``counts`` is not of one axis, or ``groups`` is below 1.
      TypeError: if ``counts`` is not of an integer dtype.

    Examples:
      >>> import numpy as np
      >>> popularity_groups(np.array([1, 6, 2, 3, 0]), 2).tolist()
      [1, 0, 1, 1, 1]

    References:
      Chen et al., `Unbiased Knowledge Distillation for Recommendation <https://arxiv.org/abs/2211.14729>`_, WSDM 2023.
    """
    counts = np.asarray(counts)
    if counts.ndim != 1:
        raise ValueError(f"expected counts of shape [items], found {counts.shape}")
    if not np.issubdtype(counts.dtype, np.integer):
        raise TypeError(f"expected counts of an integer dtype, found {counts.dtype}")
    if groups < 1:
        raise ValueError(f"expected at least 1 group, found {groups}")
    order = np.argsort(-counts.astype(np.int64), kind="stable")
    sizes = counts[order].astype(np.int64)
    before = np.cumsum(sizes) - sizes
    group = np.empty(counts.shape, np.int32)
    group[order] = np.minimum(groups * before // max(int(sizes.sum()), 1), groups - 1)
    return group


def excluded(seen: Seen, users: jax.Array, lists: jax.Array, *, width: int) -> jax.Array:
    r"""What each user has together with what is in their list, sorted and each item once.

    What :func:`uniform_complement` leaves out: for the relaxed ranking, the train items and the teacher's list, so that
    what is drawn is uninteresting.

    Args:
      seen: what the users have, from :func:`recjax.data.seen`; the leaves may be traced.
      users: ``[...]`` int, positions in the vocabulary. May be traced; not checked.
      lists: ``[..., m]`` int, ids in any order; negative ones, such as the -1 at the end of a draw, are no items.
      width: room for each user's union, static: ``int(np.diff(seen.offsets).max()) + m`` is enough for all. Of a
        larger union the highest ids are not excluded.

    Returns:
      ``[..., width]`` int32, ascending, distinct; behind them the largest int32, which is no item.

    Raises:
      ValueError: if ``lists`` is not of the shape of ``users`` and one more axis, or ``width`` is negative.
      TypeError: if ``users`` or ``lists`` are not of an integer dtype.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> has = Seen(jnp.array([0, 2, 3]), jnp.array([1, 4, 0]))
      >>> left_out = excluded(has, jnp.array([0, 1]), jnp.array([[4, 2], [3, -1]]), width=4)
      >>> jnp.where(left_out < 5, left_out, -1).tolist()
      [[1, 2, 4, -1], [0, 3, -1, -1]]
      >>> jax.vmap(lambda user, ids: excluded(has, user, ids, width=3))(jnp.arange(2), jnp.zeros((2, 1), int)).shape
      (2, 3)
    """
    users, lists = jnp.asarray(users), jnp.asarray(lists)
    offsets, have = jnp.asarray(seen.offsets), jnp.asarray(seen.items)
    check_integers(users=users, lists=lists)
    if lists.ndim == 0 or lists.shape[:-1] != users.shape:
        raise ValueError(f"expected lists of shape {users.shape} and one more axis, found {lists.shape}")
    if width < 0:
        raise ValueError(f"expected a width of at least 0, found {width}")
    lists = lists.astype(jnp.int32)
    listed = jnp.where(lists >= 0, lists, _NO_ITEM)
    if have.shape[0] == 0:  # nobody has anything, and there is nothing to look up
        owned = jnp.full((*users.shape, width), _NO_ITEM, jnp.int32)
    else:
        start, end = (offsets[users + i].astype(jnp.int32)[..., None] for i in (0, 1))
        row = start + jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), (*users.shape, width))
        owned = jnp.where(row < end, have[jnp.minimum(row, have.shape[0] - 1)].astype(jnp.int32), _NO_ITEM)
    union = jnp.sort(jnp.concatenate([owned, listed], axis=-1), axis=-1)
    repeated = jnp.zeros(union.shape, bool).at[..., 1:].set(union[..., 1:] == union[..., :-1])
    return jnp.sort(jnp.where(repeated, _NO_ITEM, union), axis=-1)[..., :width]


def uniform_complement(key: jax.Array, excluded: jax.Array, *, items: int, count: int) -> jax.Array:
    r"""Items that are not excluded, uniform over all sets of ``count`` of them, without rejection.

    Floyd's algorithm draws ``count`` of the :math:`n` ranks of the complement: for :math:`j = n - \mathrm{count},
    \dots, n - 1` take

    .. math::
        t \sim \mathrm{Uniform}\{0, \dots, j\},

    or :math:`j` itself where :math:`t` was taken before. The item with exactly :math:`r` items of the complement before
    it is then :math:`r + \#\{k : e_k - k \le r\}`, with :math:`e_0 < e_1 < \dots` the excluded, as in
    :func:`recjax.data.uniform_negatives`, which draws with replacement. As many rounds as ``count``, whatever the size
    of the catalogue. Each set of items is as likely as any other; within a set, not each order.

    Args:
      key: a typed key.
      excluded: ``[..., m]`` int, distinct ids, ascending, then anything from ``items`` on, which excludes nothing: what
        :func:`excluded` returns. Not checked.
      items: size of the catalogue, static.
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
    _check_count(count)
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


def rejuvenated_candidates(
    key: jax.Array,
    student_items: jax.Array,
    teacher_top: jax.Array,
    *,
    count: int,
    temperature: jax.typing.ArrayLike,
) -> jax.Array:
    r"""Items of the student's list without replacement, the likelier the more of the teacher's best stand below them.

    One after the other, each from what is left of the list, by

    .. math::
        P(r) \propto e^{(c_r + 1) / \tau}, \qquad
        c_r = \min\left(50, \#\{r' \ge r : \text{the item at } r' \text{ is one of the teacher's best}\}\right).

    Cross-entropy over a set of items bounds the ranking within it only if the set contains whatever the student ranks
    above its members; these are the items above the teacher's best that the student ranks low. Above 50, more of them
    make no difference.

    Args:
      key: a typed key.
      student_items: ``[..., length]`` int, ids, the student's best first.
      teacher_top: ``[..., length]`` bool, whether the item at this place is one of the teacher's best.
      count: items to draw from each list, static.
      temperature: scalar ``>= 0``. May be traced; not checked. 0 takes those of the highest count, the
        student's best first where counts are equal.

    Returns:
      ``[..., count]`` int32, distinct ids in the student's order, then -1 where the list is shorter.

    Raises:
      ValueError: if ``student_items`` is a scalar, ``teacher_top`` has another shape, or ``count`` is below 1.
      TypeError: if ``student_items`` is not of an integer dtype, or ``teacher_top`` not boolean.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> ids, top = jnp.array([30, 10, 20, 40]), jnp.array([False, True, True, False])
      >>> rejuvenated_candidates(jax.random.key(0), ids, top, count=2, temperature=0.01).tolist()
      [30, 10]
      >>> draw = lambda tau: rejuvenated_candidates(jax.random.key(0), ids, top, count=3, temperature=tau)
      >>> jax.vmap(draw)(jnp.array([0.1, 1.0, 10.0])).shape
      (3, 3)

    References:
      Zhu and Zhang, `Rejuvenating Cross-Entropy Loss in Knowledge Distillation for Recommender Systems
      <https://arxiv.org/abs/2509.20989>`_, 2025.
    """
    items = _checked(student_items, None, count)
    check_booleans(teacher_top=teacher_top)
    check_rows(student_items=items, teacher_top=teacher_top)
    below = jax.lax.cumsum(teacher_top.astype(jnp.int32), axis=items.ndim - 1, reverse=True)
    # The counts never rise along the list: at temperature 0 its own order has the highest first and no ties.
    place = jax.lax.broadcasted_iota(jnp.int32, items.shape, items.ndim - 1)
    level = jnp.where(jnp.asarray(temperature) == 0, -place, jnp.minimum(below, 50) + 1)
    log_weights = level.astype(jnp.float32) * _rate(temperature)
    return _entries(items, _without_replacement(key, log_weights, None, count))


def gumbel_selection(key: jax.Array, gate: jax.Array, *, temperature: jax.typing.ArrayLike) -> jax.Array:
    r"""Weights of experts that sharpen, as the temperature falls, to the choice of one expert by the gate's odds.

    With the gate's probabilities :math:`\alpha = \mathrm{softmax}(\mathrm{gate})` and independent standard Gumbel
    :math:`g_m`,

    .. math::
        s = \mathrm{softmax}\left(\frac{\log(\alpha + 10^{-10}) + g}{\tau}\right).

    The largest :math:`s_m` is the one of expert :math:`m` with probability :math:`\alpha_m` at every temperature, up to
    the :math:`10^{-10}`, which bounds the logarithm.

    Gradients flow to ``gate``, and vanish as the temperature falls.

    Args:
      key: a typed key.
      gate: ``[..., experts]`` float, logits.
      temperature: scalar ``> 0``. May be traced, see :func:`annealed_temperature`; not checked.

    Returns:
      ``[..., experts]`` weights that sum to 1, in the dtype of ``gate``.

    Raises:
      ValueError: if ``gate`` is a scalar.
      TypeError: if ``gate`` is not of a floating dtype.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> gate = jnp.array([0.0, 20.0, 0.0])
      >>> gumbel_selection(jax.random.key(0), gate, temperature=1e-10).tolist()
      [0.0, 1.0, 0.0]
      >>> keys = jax.random.split(jax.random.key(0), 5)
      >>> jax.vmap(lambda key: gumbel_selection(key, gate, temperature=1.0))(keys).shape
      (5, 3)

    References:
      Kang et al., `DE-RRD: A Knowledge Distillation Framework for Recommender System
      <https://arxiv.org/abs/2012.04357>`_, CIKM 2020. Jang et al., `Categorical Reparameterization with Gumbel-Softmax
      <https://arxiv.org/abs/1611.01144>`_, ICLR 2017.
    """
    gate = jnp.asarray(gate)
    check_rows(gate=gate)
    dtype = wide_dtype(gate, "gate")
    log_alpha = jnp.log(jax.nn.softmax(gate.astype(dtype), axis=-1) + 1e-10)
    noise = jax.random.gumbel(key, gate.shape, dtype, mode="high")
    return jax.nn.softmax((log_alpha + noise) / jnp.asarray(temperature, dtype), axis=-1).astype(gate.dtype)


def annealed_temperature(
    progress: jax.typing.ArrayLike,
    *,
    start: jax.typing.ArrayLike = 1.0,
    end: jax.typing.ArrayLike = 1e-10,
) -> jax.Array:
    r"""Temperature that falls by the same factor at each step.

    At the share :math:`x` of the training,

    .. math::
        \tau(x) = \tau_0 \left(\frac{\tau_1}{\tau_0}\right)^x.

    Args:
      progress: ``[...]`` number from 0 to 1. May be traced; not checked.
      start: scalar ``> 0``, :math:`\tau_0`. May be traced; not checked.
      end: scalar ``> 0``, :math:`\tau_1`. May be traced; not checked. The defaults are those published.

    Returns:
      ``[...]`` float32.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> print(f"{annealed_temperature(0.5):.1e}")
      1.0e-05
      >>> jax.vmap(annealed_temperature)(jnp.linspace(0.0, 1.0, 3)).shape
      (3,)

    References:
      Kang et al., `DE-RRD: A Knowledge Distillation Framework for Recommender System
      <https://arxiv.org/abs/2012.04357>`_, CIKM 2020.
    """
    progress, start, end = (jnp.asarray(x, jnp.float32) for x in (progress, start, end))
    return start * (end / start) ** progress


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"expected a count of at least 1, found {count}")


def _checked(items: jax.Array, where: jax.Array | None, count: int) -> jax.Array:
    """The ids, once the shapes and dtypes of all arguments are what they should be."""
    items = jnp.asarray(items)
    check_rows(items=items)
    check_integers(items=items)
    _check_count(count)
    if where is not None:
        check_where(where, items.shape)
    return items


def _ranks(items: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The rank of each entry among those that count, ``[..., length]`` float32, and how many do, ``[..., 1]``."""
    if where is None:
        rank = jnp.broadcast_to(jnp.arange(items.shape[-1], dtype=jnp.float32), items.shape)
        return rank, jnp.full((*items.shape[:-1], 1), items.shape[-1], jnp.float32)
    rank = jnp.cumsum(where, axis=-1, dtype=jnp.int32) - 1
    return rank.astype(jnp.float32), jnp.sum(where, axis=-1, dtype=jnp.float32, keepdims=True)


def _rate(temperature: jax.typing.ArrayLike) -> jax.Array:
    """One over the temperature, within what changes a draw.

    At 0.01, ranks or counts that differ by 1 are 100 apart, and no two Gumbel numbers of float32 are: a lower
    temperature draws the same, and only rounds away the noise that decides between equal counts.
    """
    return 1 / jnp.clip(jnp.asarray(temperature, jnp.float32), 0.01, 1e30)


def _without_replacement(key: jax.Array, log_weights: jax.Array, where: jax.Array | None, count: int) -> jax.Array:
    """Places drawn one after the other in proportion to their weights: ``[..., count]``, ascending, then the length."""
    length = log_weights.shape[-1]
    # float32 has few numbers just below 1: in the "low" mode no noise is above 17, and large noises are often equal.
    noisy = log_weights + jax.random.gumbel(key, log_weights.shape, jnp.float32, mode="high")
    if where is not None:
        noisy = jnp.where(where, noisy, -jnp.inf)
    best, place = jax.lax.top_k(noisy, min(count, length))
    place = jnp.where(best > -jnp.inf, place, length)
    missing = jnp.full((*place.shape[:-1], count - place.shape[-1]), length, jnp.int32)
    return jnp.sort(jnp.concatenate([place, missing], axis=-1), axis=-1)


def _entries(items: jax.Array, place: jax.Array) -> jax.Array:
    """What stands at each place of a list, and -1 behind its end."""
    behind = jnp.full((*items.shape[:-1], 1), -1, jnp.int32)
    return jnp.take_along_axis(jnp.concatenate([items.astype(jnp.int32), behind], axis=-1), place, axis=-1)
