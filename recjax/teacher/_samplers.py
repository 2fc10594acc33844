"""Samplers of distillation batches from ranked lists, as functions of a key, and Gumbel selection of experts.

Lists hold item ids, best first. Entries that don't count (``where``) are ignored as if they were removed; where too few
are left, the sample is padded with -1.
"""

import jax
import jax.numpy as jnp
import numpy as np

from recjax.arrays import check_booleans, check_integers, check_rows, check_where, wide_dtype


def by_rank(
    key: jax.Array,
    items: jax.Array,
    *,
    count: int,
    temperature: jax.typing.ArrayLike,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Samples items without replacement, with probability decaying exponentially in the rank.

    Successive draws from the items that are left, by

    .. math::
        P(r) \propto e^{-r / \tau}, \qquad r = 0, 1, \dots \text{ the rank among the items that count.}

    Drawn at once by the Gumbel top-k trick, the largest :math:`-r / \tau + g_r` with standard Gumbel :math:`g_r`, and
    sorted into the order of the list, as :func:`recjax.losses.relaxed_ranking` needs. Its authors later report better
    results without sampling: ``items[..., :count]``, or a temperature of 0.

    Args:
      key: a typed key.
      items: ``[..., length]`` int, ids, best first.
      count: items to draw from each list, static.
      temperature: scalar ``>= 0``, in ranks. 0 takes the best, infinity draws uniformly.
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
    r"""Samples items without replacement, each the better of two draws by rank (CD).

    Two ranks are drawn from :math:`p_r \propto e^{-r / \tau}` and the better one is kept, until ``count`` are distinct.
    That is the same as successive draws without replacement by

    .. math::
        P(r) = S_r^2 - S_{r+1}^2 \propto e^{-2r / \tau} \left(1 + e^{-1/\tau} - 2 e^{-(n - r) / \tau}\right),
        \qquad S_r = \sum_{j \ge r} p_j,

    with :math:`n` items that count, sampled like :func:`by_rank`, without rejection.

    Args:
      key: a typed key.
      items: ``[..., length]`` int, ids, best first by the model that guides: the teacher, or the student itself.
      count: items to draw from each list, static.
      temperature: scalar ``>= 0``, in ranks; multiply by ``length`` where a paper divides the ranks by it. 0 takes the
        best.
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
    r"""Samples pairs of items with replacement, the better ranked one first (UnKD).

    Two ranks :math:`i < j` are drawn together by

    .. math::
        P(i, j) \propto e^{-i / \tau} e^{-j / \tau},

    which is two draws from :math:`p_r \propto e^{-r / \tau}`, repeated until they differ. Sampled without rejection by
    inverting the tails

    .. math::
        P(i \ge r) \propto e^{-2r / \tau} (1 - e^{-(n - r) / \tau}) (1 - e^{-(n - r - 1) / \tau}), \qquad
        P(j \ge r \mid i) \propto e^{-r / \tau} (1 - e^{-(n - r) / \tau}), \quad r > i,

    Args:
      key: a typed key.
      items: ``[..., length]`` int, ids, best first by the teacher.
      count: pairs to draw from each list, static.
      temperature: scalar ``>= 0``, in ranks. 0 pairs the best with the second.
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
    r"""Samples places that the student ranks too low, and places that it ranks too high (DCD).

    With the teacher's rank :math:`r^T` and the student's :math:`r^S` (0 or 1 for the best, the same for both), places
    are drawn one after the other in proportion to

    .. math::
        w^+ = \tanh\left(\max(\epsilon (r^S - r^T), 0)\right), \qquad
        w^- = \tanh\left(\max(\epsilon (r^T - r^S), 0)\right),

    :math:`w^+` for underestimated and, independently, :math:`w^-` for overestimated places. A place of weight 0 is
    never drawn, so none is in both.

    Args:
      key: a typed key.
      teacher_rank: ``[..., length]`` int or float, the teacher's rank of the entry at each place.
      student_rank: ``[..., length]`` int or float, the student's rank of the same.
      count: places to draw of each kind, static.
      sharpness: scalar ``> 0``, :math:`\epsilon`.
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

    References:
      Lee and Kim, `Dual Correction Strategy for Ranking Distillation in Top-N Recommender System
      <https://arxiv.org/abs/2109.03459>`_, CIKM 2021.
    """
    teacher_rank, student_rank = jnp.asarray(teacher_rank), jnp.asarray(student_rank)
    check_rows(teacher_rank=teacher_rank, student_rank=student_rank)
    check_count(count)
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
    r"""Partitions items into groups of about equal total popularity, the most popular in group 0.

    In descending order of the count :math:`c` (of equal counts the lower index first), an item is in group

    .. math::
        g = \min\left(\left\lfloor \mathrm{groups} \cdot \frac{\sum_{j \text{ before } i} c_j}{\sum_j c_j}
        \right\rfloor, \mathrm{groups} - 1\right),

    so the total of a group differs from an equal share by at most the largest count. An item more popular than a share
    may leave a group empty.

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
        raise ValueError(f"expected counts of shape [items], got {counts.shape}")
    if not np.issubdtype(counts.dtype, np.integer):
        raise TypeError(f"expected counts of an integer dtype, got {counts.dtype}")
    if groups < 1:
        raise ValueError(f"expected at least 1 group, got {groups}")
    order = np.argsort(-counts.astype(np.int64), kind="stable")
    sizes = counts[order].astype(np.int64)
    before = np.cumsum(sizes) - sizes
    group = np.empty(counts.shape, np.int32)
    group[order] = np.minimum(groups * before // max(int(sizes.sum()), 1), groups - 1)
    return group


def rejuvenated_candidates(
    key: jax.Array,
    student_items: jax.Array,
    teacher_top: jax.Array,
    *,
    count: int,
    temperature: jax.typing.ArrayLike,
) -> jax.Array:
    r"""Samples items of the student's list that rank above many of the teacher's top items (RCE-KD).

    Successive draws from the items that are left, by

    .. math::
        P(r) \propto e^{(c_r + 1) / \tau}, \qquad
        c_r = \min\left(50, \#\{r' \ge r : \text{the item at } r' \text{ is one of the teacher's top items}\}\right).

    These are the items that the student ranks above the teacher's best: the cross-entropy of
    :func:`recjax.losses.rejuvenated_ce` bounds the ranking only if its set includes them.

    Args:
      key: a typed key.
      student_items: ``[..., length]`` int, ids, the student's best first.
      teacher_top: ``[..., length]`` bool, whether this item is one of the teacher's top items.
      count: items to draw from each list, static.
      temperature: scalar ``>= 0``. 0 takes those of the highest count, the student's best first where counts are equal.

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
    r"""Gumbel-softmax weights of experts.

    With the gate's probabilities :math:`\alpha = \mathrm{softmax}(\mathrm{gate})` and independent standard Gumbel
    :math:`g_m`,

    .. math::
        s = \mathrm{softmax}\left(\frac{\log(\alpha + 10^{-10}) + g}{\tau}\right).

    Expert :math:`m` has the largest weight with probability :math:`\alpha_m` at every temperature, up to the
    :math:`10^{-10}`, which bounds the logarithm.

    Gradients flow to ``gate``, and vanish as the temperature falls.

    Args:
      key: a typed key.
      gate: ``[..., experts]`` float, logits.
      temperature: scalar ``> 0``. See :func:`annealed_temperature`.

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
    r"""Exponentially decaying temperature.

    After the fraction :math:`x` of the training,

    .. math::
        \tau(x) = \tau_0 \left(\frac{\tau_1}{\tau_0}\right)^x.

    Args:
      progress: ``[...]`` number from 0 to 1.
      start: scalar ``> 0``, :math:`\tau_0`.
      end: scalar ``> 0``, :math:`\tau_1`. The defaults are those published.

    Returns:
      ``[...]`` float32.

    Examples:
      >>> print(f"{annealed_temperature(0.5):.1e}")
      1.0e-05

    References:
      Kang et al., `DE-RRD: A Knowledge Distillation Framework for Recommender System
      <https://arxiv.org/abs/2012.04357>`_, CIKM 2020.
    """
    progress, start, end = (jnp.asarray(x, jnp.float32) for x in (progress, start, end))
    return start * (end / start) ** progress


def check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"expected a count of at least 1, got {count}")


def _checked(items: jax.Array, where: jax.Array | None, count: int) -> jax.Array:
    """The ids, after checks of all shapes and dtypes."""
    items = jnp.asarray(items)
    check_rows(items=items)
    check_integers(items=items)
    check_count(count)
    if where is not None:
        check_where(where, items.shape)
    return items


def _ranks(items: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The rank of each entry among those that count, ``[..., length]`` float32, and their number, ``[..., 1]``."""
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
    """Places sampled without replacement by weight: ``[..., count]``, ascending, padded with the length."""
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
    """The entry at each place of a list, and -1 beyond its end."""
    behind = jnp.full((*items.shape[:-1], 1), -1, jnp.int32)
    return jnp.take_along_axis(jnp.concatenate([items.astype(jnp.int32), behind], axis=-1), place, axis=-1)
