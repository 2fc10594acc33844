"""Beyond-accuracy metrics: exposure, novelty and diversity of items, and agreement with the teacher's lists."""

import jax
import jax.numpy as jnp

from recjax.arrays import check_booleans, check_integers, check_lists, check_rows, check_where, clear_masked, wide_dtype
from recjax.metrics._ranking import list_hits


def exposure(items: jax.Array, *, catalog: int) -> jax.Array:
    r"""Number of times that each item of the catalog is recommended.

    .. math::
        c_i = \sum_l \sum_{r=1}^{k} [i_{l r} = i].

    Counts of batches of users add up.

    Args:
      items: ``[..., k]`` integer, ids :math:`i_{l r}` of each list; -1 and any id outside of the catalog are not
        counted.
      catalog: number of items, static.

    Returns:
      ``[catalog]`` int32 counts over all lists.

    Raises:
      ValueError: if ``catalog`` is below 1.

    Examples:
      >>> items = jnp.array([[0, 2], [2, 3], [2, -1]])
      >>> print(exposure(items, catalog=5))
      [1 0 3 1 0]

    References:
      Adomavicius and Kwon, *Improving Aggregate Recommendation Diversity Using Ranking-Based Techniques*, IEEE TKDE 24,
      2012.
    """
    items = jnp.asarray(items)
    check_integers(items=items)
    if catalog < 1:
        raise ValueError(f"expected catalog >= 1, got {catalog}")
    ids = items.astype(jnp.int32)
    ids = jnp.where(ids < 0, catalog, ids)  # negative indices would count from the end; too large ones are dropped
    return jnp.zeros(catalog, jnp.int32).at[ids].add(1, mode="drop")


def coverage(counts: jax.Array) -> jax.Array:
    r"""Catalog coverage: share of the items that are recommended at least once.

    .. math::
        \mathrm{coverage} = \frac{1}{n} \sum_i [c_i > 0].

    It grows with the number and the length of the lists.

    Args:
      counts: ``[..., items]`` integer or float, :func:`exposure` :math:`c`.

    Returns:
      ``[...]`` in [0, 1].

    Examples:
      >>> print(coverage(jnp.array([1, 0, 3, 1])))
      0.75

    References:
      Ge et al., *Beyond Accuracy: Evaluating Recommender Systems by Coverage and Serendipity*, RecSys 2010.
    """
    counts = jnp.asarray(counts)
    dtype = _counts_dtype(counts, "counts")
    return jnp.sum(counts > 0, axis=-1, dtype=jnp.int32).astype(dtype) / counts.shape[-1]


def gini(counts: jax.Array) -> jax.Array:
    r"""Gini coefficient of the exposure of items: 0 if equal, near 1 if concentrated on a few.

    With the counts in ascending order, :math:`c_{(1)} \le \dots \le c_{(n)}`,

    .. math::
        G = \frac{\sum_{i=1}^{n} (2 i - n - 1) \, c_{(i)}}{n \sum_{i=1}^{n} c_{(i)}} \le 1 - \frac{1}{n}.

    Some implementations divide by the maximum, exclude items without exposure, or return :math:`1 - G`.

    Args:
      counts: ``[..., items]`` integer or float ``>= 0``, :func:`exposure` :math:`c`.

    Returns:
      ``[...]`` in [0, 1); 0 if all counts are 0.

    Examples:
      >>> print(gini(jnp.array([1, 0, 3, 0])))
      0.625

    References:
      Fleder and Hosanagar, *Blockbuster Culture's Next Rise or Fall: The Impact of Recommender Systems on Sales
      Diversity*, Management Science 55, 2009.
    """
    counts = jnp.asarray(counts)
    dtype = _counts_dtype(counts, "counts")
    items = counts.shape[-1]
    ascending = jnp.sort(counts.astype(dtype), axis=-1)
    weight = 2 * jax.lax.broadcasted_iota(dtype, counts.shape, counts.ndim - 1) + 1 - items  # antisymmetric
    spread = jnp.sum(jnp.maximum(weight, 0) * (ascending - jnp.flip(ascending, axis=-1)), axis=-1)
    total = jnp.sum(ascending, axis=-1)
    return jnp.where(total == 0, 0, spread / (items * jnp.where(total == 0, 1, total)))


def entropy(counts: jax.Array) -> jax.Array:
    r"""Shannon entropy of the exposure of items.

    .. math::
        H = -\sum_i p_i \log p_i, \qquad p_i = \frac{c_i}{\sum_j c_j}.

    Args:
      counts: ``[..., items]`` integer or float ``>= 0``, :func:`exposure` :math:`c`.

    Returns:
      ``[...]`` nats, at most the logarithm of the number of items; 0 if all counts are 0.

    Examples:
      >>> print(f"{entropy(jnp.array([2, 0, 1, 1])):.4f}")
      1.0397

    References:
      Shannon, *A Mathematical Theory of Communication*, Bell System Technical Journal 27, 1948.
    """
    counts = jnp.asarray(counts)
    counts = counts.astype(_counts_dtype(counts, "counts"))
    total = jnp.sum(counts, axis=-1, keepdims=True)
    return jnp.sum(jax.scipy.special.entr(counts / jnp.where(total == 0, 1, total)), axis=-1)


def novelty(items: jax.Array, popularity: jax.Array, *, users: jax.typing.ArrayLike) -> jax.Array:
    r"""Novelty: mean self-information of the recommended items.

    .. math::
        \mathrm{novelty} = -\frac{1}{n} \sum_{r=1}^{n} \log_2 \frac{\max(u_{i_r}, 1)}{u}.

    Some implementations divide by the number of interactions, not users, which adds a constant.

    Args:
      items: ``[..., k]`` integer, ids :math:`i_r`; -1 is padding and not among the :math:`n` items.
      popularity: ``[items]`` integer or float, number :math:`u_i` of training users with each item.
      users: scalar, number :math:`u` of training users.

    Returns:
      ``[...]`` bits, one per list; 0 for a list without items, NaN for an id outside of ``popularity``.

    Examples:
      >>> items, popularity = jnp.array([[0, 1], [2, -1]]), jnp.array([8, 2, 0])
      >>> print(novelty(items, popularity, users=8))
      [1. 3.]

    References:
      Zhou et al., *Solving the Apparent Diversity-Accuracy Dilemma of Recommender Systems*, PNAS 107, 2010; Vargas and
      Castells, *Rank and Relevance in Novelty and Diversity Metrics for Recommender Systems*, RecSys 2011.
    """
    items, popularity = jnp.asarray(items), jnp.asarray(popularity)
    check_integers(items=items)
    check_lists(items=items)
    dtype = _counts_dtype(popularity, "popularity")
    if popularity.ndim != 1:
        raise ValueError(f"expected popularity of shape [items], got {popularity.shape}")
    listed = items >= 0
    having = popularity.astype(dtype).at[jnp.where(listed, items, 0)].get(mode="fill", fill_value=jnp.nan)
    bits = jnp.where(listed, jnp.log2(jnp.asarray(users, dtype) / jnp.maximum(having, 1)), 0)
    return jnp.sum(bits, axis=-1) / jnp.maximum(jnp.sum(listed, axis=-1, dtype=jnp.int32), 1).astype(dtype)


def intra_list_distance(vectors: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Intra-list distance (ILD, diversity): mean cosine distance between the items of a list.

    With unit vectors :math:`e_i = v_i / \|v_i\|` of the :math:`n` items that count,

    .. math::
        \mathrm{ILD} = \frac{2}{n (n - 1)} \sum_{i < j} (1 - e_i \cdot e_j)
                     = 1 - \frac{\| \sum_i e_i \|^2 - \sum_i \| e_i \|^2}{n (n - 1)}.

    Use vectors that don't come from the evaluated model, such as genres. Ziegler et al. sum similarities instead, so
    lower is better. A zero vector has cosine 0 with any other.

    Args:
      vectors: ``[..., k, dim]`` float, vectors :math:`v_i` of the listed items.
      where: ``[..., k]`` bool, which items count.

    Returns:
      ``[...]`` in [0, 2] up to rounding, one per list; 0 for fewer than two items.

    Examples:
      >>> vectors = jnp.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
      >>> print(f"{intra_list_distance(vectors):.4f}")
      0.6667

    References:
      Ziegler et al., *Improving Recommendation Lists Through Topic Diversification*, WWW 2005.
    """
    vectors = jnp.asarray(vectors)
    dtype = wide_dtype(vectors, "vectors")
    if vectors.ndim < 2:
        raise ValueError(f"expected vectors of shape [..., k, dim], got {vectors.shape}")
    where = jnp.ones(vectors.shape[:-1], jnp.bool_) if where is None else where
    check_where(where, vectors.shape[:-1])

    vectors = clear_masked(vectors.astype(dtype), where[..., None])
    square = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    units = vectors / jnp.sqrt(jnp.where(square == 0, 1, square))
    cosines = jnp.sum(jnp.square(jnp.sum(units, axis=-2)) - jnp.sum(jnp.square(units), axis=-2), axis=-1)
    count = jnp.sum(where, axis=-1, dtype=jnp.int32).astype(dtype)
    pairs = count * (count - 1)
    return jnp.where(pairs > 0, 1 - cosines / jnp.where(pairs > 0, pairs, 1), 0)


def recall_by_group(hits: jax.Array, items: jax.Array, truth_counts: jax.Array, group: jax.Array) -> jax.Array:
    r"""Recall within each group of items, such as popular and unpopular items.

    .. math::
        \mathrm{Recall@}k_g = \frac{1}{n_g} \sum_{r=1}^{k} h_r \, [\mathrm{group}(i_r) = g].

    All groups share the ``k`` ranks of one list. Average over the lists with ``truth_counts > 0``, for each group.

    Args:
      hits: ``[..., k]`` bool, :math:`h_r`.
      items: ``[..., k]`` integer, ids :math:`i_r` of the ranked items, padded by -1.
      truth_counts: ``[..., groups]`` integer, number :math:`n_g` of relevant items of the list in each group.
      group: ``[items]`` integer, group of each item. Ids and groups out of range add nothing.

    Returns:
      ``[..., groups]`` float32 in [0, 1]; 0 for a group without relevant items.

    Examples:
      >>> hits, items = jnp.array([[True, False, True]]), jnp.array([[4, 0, 1]])
      >>> truth_counts, group = jnp.array([[2, 1, 0]]), jnp.array([0, 0, 0, 1, 1])
      >>> print(recall_by_group(hits, items, truth_counts, group))
      [[0.5 1.  0. ]]

    References:
      Chen et al., `Unbiased Knowledge Distillation for Recommendation <https://arxiv.org/abs/2211.14729>`_, WSDM 2023:
      recall of the popular and of the unpopular items.
    """
    hits, items, truth_counts, group = (jnp.asarray(array) for array in (hits, items, truth_counts, group))
    check_booleans(hits=hits)
    check_integers(items=items, truth_counts=truth_counts, group=group)
    check_rows(hits=hits, items=items)
    check_lists(hits=hits, truth_counts=truth_counts)
    if group.ndim != 1:
        raise ValueError(f"expected group of shape [items], got {group.shape}")

    listed = items >= 0
    of_item = group.astype(jnp.int32).at[jnp.where(listed, items, 0)].get(mode="fill", fill_value=-1)
    cells = (*items.shape, truth_counts.shape[-1])
    inside = jax.lax.broadcasted_iota(jnp.int32, cells, items.ndim) == of_item[..., None]
    found = jnp.sum((hits & listed)[..., None] & inside, axis=-2, dtype=jnp.float32)
    return jnp.where(truth_counts > 0, found / jnp.maximum(truth_counts, 1).astype(jnp.float32), 0)


def overlap(student: jax.Array, teacher: jax.Array) -> jax.Array:
    r"""Overlap of the student's and the teacher's top-k lists, regardless of order.

    .. math::
        \mathrm{overlap@}k = \frac{|S \cap T|}{k}.

    Args:
      student: ``[..., k]`` integer, ids :math:`S`; -1 matches nothing and a repeated id counts once.
      teacher: ``[..., k]`` integer, ids :math:`T`.

    Returns:
      ``[...]`` float32 in [0, 1], one per pair of lists.

    Examples:
      >>> student, teacher = jnp.array([[1, 2, 3, 4], [5, 6, -1, -1]]), jnp.array([[4, 3, 9, 8], [6, 5, -1, -1]])
      >>> print(overlap(student, teacher))
      [0.5 0.5]

    References:
      Fagin et al., *Comparing Top k Lists*, SIAM Journal on Discrete Mathematics 17, 2003.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    both, _ = list_hits(student, teacher)
    return jnp.sum(both, axis=-1, dtype=jnp.float32) / student.shape[-1]


def kendall_tau(student: jax.Array, teacher: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Rank correlation of student and teacher scores of a list, with ties (Kendall's tau-b).

    .. math::
        \tau_b = \frac{C - D}{\sqrt{U_s U_t}},

    with :math:`C` concordant pairs, :math:`D` discordant ones, and :math:`U_s` and :math:`U_t` pairs that the student
    and the teacher don't tie. Takes memory for ``n * n`` pairs per list.

    Args:
      student, teacher: ``[..., n]`` float, scores of the same items.
      where: ``[..., n]`` bool, which items count.

    Returns:
      ``[...]`` in [-1, 1], one per list; NaN if all scores of either model are equal or fewer than two items count.

    Examples:
      >>> student, teacher = jnp.array([3.0, 2.0, 2.0, 0.0]), jnp.array([9.0, 5.0, 7.0, 1.0])
      >>> print(f"{kendall_tau(student, teacher):.4f}")
      0.9129

    References:
      Kendall, *The Treatment of Ties in Ranking Problems*, Biometrika 33, 1945.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    wide_dtype(teacher, "teacher")
    where = jnp.ones(student.shape, jnp.bool_) if where is None else where
    check_where(where, student.shape)

    missing = jnp.any(where & (jnp.isnan(student) | jnp.isnan(teacher)), axis=-1)
    s, t = _pair_orders(student, where), _pair_orders(teacher, where)
    agreed, s_untied, t_untied = (
        jnp.sum(pairs, axis=(-2, -1), dtype=jnp.int32).astype(dtype) for pairs in (s * t, s * s, t * t)
    )
    # The root of the product and not the product of roots: full agreement is exactly 1.
    scale = jnp.sqrt(s_untied * t_untied)
    return jnp.where(missing, jnp.nan, agreed / scale)  # nothing untied: 0 / 0


def _counts_dtype(counts: jax.Array, name: str) -> jnp.dtype:
    """Checks counts ``[..., items]`` and returns the dtype to compute in."""
    if counts.ndim == 0:
        raise ValueError(f"expected {name} of shape [..., items], got a scalar")
    if jnp.issubdtype(counts.dtype, jnp.integer):
        return jnp.dtype(jnp.float32)
    if not jnp.issubdtype(counts.dtype, jnp.floating):
        raise TypeError(f"expected {name} of an integer or a floating dtype, got {counts.dtype}")
    return wide_dtype(counts, name)


def _pair_orders(scores: jax.Array, where: jax.Array) -> jax.Array:
    """Order of each pair of items that count: 1, 0 or -1. By comparison, so that infinities tie."""
    row, column = scores[..., :, None], scores[..., None, :]
    both = where[..., :, None] & where[..., None, :]
    return jnp.where(both, (row > column).astype(jnp.int8) - (row < column).astype(jnp.int8), 0)
