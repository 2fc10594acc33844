"""What accuracy doesn't see: which items are shown at all, how alike they are, and how like the teacher's lists."""

import jax
import jax.numpy as jnp

from recjax.arrays import check_booleans, check_integers, check_lists, check_rows, check_where, clear_masked, wide_dtype
from recjax.metrics._ranking import list_hits


def exposure(items: jax.Array, *, catalog: int) -> jax.Array:
    r"""Number of times that each item of the catalog is recommended.

    Over the lists :math:`l` of ids :math:`i_{l 1} \dots i_{l k}`,

    .. math::
        c_i = \sum_l \sum_{r=1}^{k} [i_{l r} = i].

    Counts of blocks of users add up; :func:`coverage`, :func:`gini` and :func:`entropy` are functions of the sum.

    Args:
      items: ``[..., k]`` integer ids. -1, or any id that is not in the catalog, is not counted.
      catalog: how many items there are, static.

    Returns:
      ``[catalog]`` int32, summed over all lists.

    Raises:
      ValueError: if ``catalog`` is below 1.
      TypeError: if ``items`` is not of an integer dtype.

    Examples:
      >>> import jax.numpy as jnp
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
        raise ValueError(f"expected a catalog of at least 1 item, got {catalog}")
    ids = items.astype(jnp.int32)
    ids = jnp.where(ids < 0, catalog, ids)  # a negative index would count from the end, one too large is dropped
    return jnp.zeros(catalog, jnp.int32).at[ids].add(1, mode="drop")


def coverage(counts: jax.Array) -> jax.Array:
    r"""Catalog coverage: share of the items that are recommended at all.

    With :math:`c_i` how often each of the :math:`n` items is listed,

    .. math::
        \mathrm{coverage} = \frac{1}{n} \sum_i [c_i > 0].

    Grows with the number of lists and with their length, so compare equal numbers of both.

    Args:
      counts: ``[..., items]`` integer or float, as :func:`exposure` returns.

    Returns:
      ``[...]`` float32 (float64 if the counts are) in [0, 1].

    Raises:
      ValueError: if ``counts`` is a scalar.
      TypeError: if ``counts`` is neither of an integer nor of a floating dtype.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> print(coverage(jnp.array([1, 0, 3, 1])))
      0.75
      >>> jax.vmap(coverage)(jnp.array([[1, 0, 3, 1], [0, 0, 0, 5]]))
      Array([0.75, 0.25], dtype=float32)

    References:
      Ge et al., *Beyond Accuracy: Evaluating Recommender Systems by Coverage and Serendipity*, RecSys 2010.
    """
    counts = jnp.asarray(counts)
    dtype = _counts_dtype(counts, "counts")
    return jnp.sum(counts > 0, axis=-1, dtype=jnp.int32).astype(dtype) / counts.shape[-1]


def gini(counts: jax.Array) -> jax.Array:
    r"""Gini coefficient of the exposure of items: 0 if equal, near 1 if concentrated on a few.

    With the counts of the :math:`n` items in ascending order, :math:`c_{(1)} \le \dots \le c_{(n)}`,

    .. math::
        G = \frac{\sum_{i=1}^{n} (2 i - n - 1) \, c_{(i)}}{n \sum_{i=1}^{n} c_{(i)}},

    computed by pairs from both ends, so that equal counts give exactly 0. At most :math:`1 - 1 / n`; some
    implementations divide by that, some leave out items without exposure, and some give :math:`1 - G` under this name.

    Args:
      counts: ``[..., items]`` integer or float, at least 0, as :func:`exposure` returns. Not checked.

    Returns:
      ``[...]`` float32 (float64 if the counts are) in [0, 1). 0 if all counts are 0.

    Raises:
      ValueError: if ``counts`` is a scalar.
      TypeError: if ``counts`` is neither of an integer nor of a floating dtype.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> print(gini(jnp.array([1, 0, 3, 0])))
      0.625
      >>> jax.vmap(gini)(jnp.array([[2, 2, 2, 2], [0, 0, 0, 5]]))
      Array([0.  , 0.75], dtype=float32)

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

    With :math:`c_i` how often each item is listed and :math:`p_i = c_i / \sum_j c_j`,

    .. math::
        H = -\sum_i p_i \log p_i.

    In nats; divide for bits by :math:`\log 2`. At most the logarithm of the number of items.

    Args:
      counts: ``[..., items]`` integer or float, at least 0, as :func:`exposure` returns. Not checked.

    Returns:
      ``[...]`` nats, float32 (float64 if the counts are). 0 if all counts are 0.

    Raises:
      ValueError: if ``counts`` is a scalar.
      TypeError: if ``counts`` is neither of an integer nor of a floating dtype.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> print(f"{entropy(jnp.array([2, 0, 1, 1])):.4f}")
      1.0397
      >>> [f"{value:.4f}" for value in jax.vmap(entropy)(jnp.array([[2, 2, 2, 2], [0, 0, 0, 5]]))]
      ['1.3863', '0.0000']

    References:
      Shannon, *A Mathematical Theory of Communication*, Bell System Technical Journal 27, 1948.
    """
    counts = jnp.asarray(counts)
    counts = counts.astype(_counts_dtype(counts, "counts"))
    total = jnp.sum(counts, axis=-1, keepdims=True)
    return jnp.sum(jax.scipy.special.entr(counts / jnp.where(total == 0, 1, total)), axis=-1)


def novelty(items: jax.Array, popularity: jax.Array, *, users: jax.typing.ArrayLike) -> jax.Array:
    r"""Novelty: mean self-information of the recommended items.

    With :math:`u_i` of the :math:`u` train users having item :math:`i`, over the :math:`n` items that are listed,

    .. math::
        \mathrm{novelty} = -\frac{1}{n} \sum_{r=1}^{n} \log_2 \frac{\max(u_{i_r}, 1)}{u}.

    An item without users counts as if it had one. Some implementations divide by the number of interactions instead of
    users, which shifts all values by a constant.

    Args:
      items: ``[..., k]`` integer ids. -1 is no item.
      popularity: ``[items]`` integer or float, how many train users have each item.
      users: scalar, how many train users there are.

    Returns:
      ``[...]`` bits, one per list, float32 (float64 if ``popularity`` is). A list without items gives 0; an id that
      ``popularity`` doesn't have gives NaN, never another item's value.

    Raises:
      ValueError: if ``items`` is a scalar or ``popularity`` not of one axis.
      TypeError: if ``items`` is not of an integer dtype, or ``popularity`` of neither an integer nor a floating one.

    Examples:
      >>> import jax.numpy as jnp
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
    r"""Intra-list distance: mean cosine distance between the items of a list (diversity).

    With unit vectors :math:`e_i = v_i / \|v_i\|` of the :math:`n` items that count,

    .. math::
        \mathrm{ILD} = \frac{2}{n (n - 1)} \sum_{i < j} (1 - e_i \cdot e_j)
                     = 1 - \frac{\| \sum_i e_i \|^2 - \sum_i \| e_i \|^2}{n (n - 1)}.

    The second form is the one computed: it needs no matrix of pairs. A zero vector has cosine 0 with every other. Use
    vectors that don't come from a model under test, such as genres. Ziegler et al. sum similarities, unnormalized, so
    theirs grows with the length of a list, and lower is better.

    Args:
      vectors: ``[..., k, dim]`` float, one vector per listed item.
      where: ``[..., k]`` bool, which items count.

    Returns:
      ``[...]`` in [0, 2] to rounding, one per list, float32 (float64 if the vectors are). Fewer than two items give 0.

    Raises:
      ValueError: if ``vectors`` has fewer than two axes, or ``where`` not the shape of all but its last.
      TypeError: if ``vectors`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
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
    together, alone = jnp.square(jnp.sum(units, axis=-2)), jnp.sum(jnp.square(units), axis=-2)
    count = jnp.sum(where, axis=-1, dtype=jnp.int32).astype(dtype)
    pairs = count * (count - 1)
    return jnp.where(pairs > 0, 1 - jnp.sum(together - alone, axis=-1) / jnp.where(pairs > 0, pairs, 1), 0)


def recall_by_group(hits: jax.Array, items: jax.Array, truth_counts: jax.Array, group: jax.Array) -> jax.Array:
    r"""Recall within each group of items, such as those of equal popularity.

    With :math:`h_r` whether rank :math:`r` is a hit, :math:`i_r` its item, and :math:`n_g` relevant items in group
    :math:`g`,

    .. math::
        \mathrm{Recall@}k_g = \frac{1}{n_g} \sum_{r=1}^{k} h_r \, [\mathrm{group}(i_r) = g].

    All groups share the ``k`` ranks of one list. A mean over lists should be over those with ``truth_counts > 0``, for
    each group.

    Args:
      hits: ``[..., k]`` bool.
      items: ``[..., k]`` integer ids of the ranked items. -1 is no item.
      truth_counts: ``[..., groups]`` integer, how many relevant items of the list are in each group.
      group: ``[items]`` integer, the group of each item. An id outside of it, or a group outside of 0 to ``groups`` -
        1, adds nothing.

    Returns:
      ``[..., groups]`` float32 in [0, 1]. 0 where the group has nothing relevant.

    Raises:
      ValueError: if the shapes don't fit together.
      TypeError: if ``hits`` is not boolean, or any other array not of an integer dtype.

    Examples:
      >>> import jax.numpy as jnp
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
    r"""Overlap of the student's and the teacher's top-k lists, whatever the order.

    With :math:`S` and :math:`T` the sets of ids in two lists of length :math:`k`,

    .. math::
        \mathrm{overlap@}k = \frac{|S \cap T|}{k}.

    Args:
      student: ``[..., k]`` integer ids. -1 is no item and matches nothing; an id that is listed again counts once.
      teacher: ``[..., k]`` integer ids, same shape.

    Returns:
      ``[...]`` float32 in [0, 1], one per pair of lists.

    Raises:
      ValueError: if the shapes differ or are scalars.
      TypeError: if either array is not of an integer dtype.

    Examples:
      >>> import jax.numpy as jnp
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
    r"""Rank correlation of a student's and a teacher's scores of one list, with ties (Kendall's tau-b).

    With :math:`C` pairs of items that both order alike, :math:`D` that they order differently, and :math:`U_s` and
    :math:`U_t` pairs that the student and the teacher don't tie,

    .. math::
        \tau_b = \frac{C - D}{\sqrt{U_s U_t}}.

    All pairs are compared, which takes memory for ``n * n`` of them a list: meant for lists, not catalogs.

    Args:
      student: ``[..., n]`` float, scores.
      teacher: ``[..., n]`` float, scores of the same items.
      where: ``[..., n]`` bool, which items count.

    Returns:
      ``[...]`` float32 (float64 if the student's scores are) in [-1, 1], one per list. NaN where all scores of either
      side are equal, or fewer than two items count.

    Raises:
      ValueError: if ``student``, ``teacher`` and ``where`` differ in shape or are scalars.
      TypeError: if ``student`` or ``teacher`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> student, teacher = jnp.array([3.0, 2.0, 2.0, 0.0]), jnp.array([9.0, 5.0, 7.0, 1.0])
      >>> print(f"{kendall_tau(student, teacher):.4f}")
      0.9129
      >>> jax.vmap(kendall_tau, in_axes=(0, None))(jnp.stack([teacher, -teacher]), teacher)
      Array([ 1., -1.], dtype=float32)

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
    s, t = _signs(student, where), _signs(teacher, where)
    agreed, s_untied, t_untied = (
        jnp.sum(pairs, axis=(-2, -1), dtype=jnp.int32).astype(dtype) for pairs in (s * t, s * s, t * t)
    )
    # One root of the product, not a product of roots: a full agreement is then exactly 1.
    scale = jnp.sqrt(s_untied * t_untied)
    return jnp.where(missing, jnp.nan, agreed / scale)  # nothing untied: 0 / 0


def _counts_dtype(counts: jax.Array, name: str) -> jnp.dtype:
    """Raises unless these are counts ``[..., items]``; the dtype that a metric of them is computed in."""
    if counts.ndim == 0:
        raise ValueError(f"expected {name} of shape [..., items], got a scalar")
    if jnp.issubdtype(counts.dtype, jnp.integer):
        return jnp.dtype(jnp.float32)
    if not jnp.issubdtype(counts.dtype, jnp.floating):
        raise TypeError(f"expected {name} of an integer or a floating dtype, got {counts.dtype}")
    return wide_dtype(counts, name)


def _signs(scores: jax.Array, where: jax.Array) -> jax.Array:
    """Which of two items is above, 1, 0 or -1, for all pairs that count: by comparison, so that inf ties with inf."""
    row, column = scores[..., :, None], scores[..., None, :]
    both = where[..., :, None] & where[..., None, :]
    return jnp.where(both, (row > column).astype(jnp.int8) - (row < column).astype(jnp.int8), 0)
