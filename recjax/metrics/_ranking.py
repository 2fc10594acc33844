"""Ranked lists: which ranks are hits, and what a list of hits is worth."""

import jax
import jax.numpy as jnp
import numpy as np

from recjax.arrays import check_booleans, check_integers, check_lists, check_where
from recjax.metrics._topk import top_k


def top_hits(
    scores: jax.Array, labels: jax.Array, *, k: int, where: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    r"""Which of the ``k`` best-scored items are relevant, by rank, and how many relevant items there are.

    With :math:`\pi(r)` the item of the :math:`r`-th largest score and :math:`y_i` whether item :math:`i` is relevant,

    .. math::
        h_r = y_{\pi(r)}, \quad r = 1 \dots k, \qquad n = \sum_i y_i,

    both over the items that take part. Of equal scores the lower position comes first.

    Args:
      scores: ``[..., items]`` float. Minus infinity ranks as the lowest finite number, still above what ``where``
        leaves out. NaN ranks so too and is never a hit, so a model that diverged gets 0.
      labels: ``[..., items]`` bool, which items are relevant.
      k: how many ranks, static, 1 to ``items``.
      where: ``[..., items]`` bool, which items take part in the ranking; False for items that the user already has. If
        fewer than ``k`` take part, the remaining ranks are no hits.

    Returns:
      ``hits``, ``[..., k]`` bool, the best rank first; and ``relevant``, ``[...]`` int32, the number of relevant items
      that take part, hit or not.

    Raises:
      ValueError: if the shapes differ, or ``k`` is below 1 or above ``items``.
      TypeError: if ``scores`` is not of a floating dtype, or ``labels`` or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> scores = jnp.array([0.1, 0.9, 0.5, 0.7])
      >>> labels = jnp.array([False, False, True, True])
      >>> hits, relevant = top_hits(scores, labels, k=2)
      >>> print(hits, relevant)
      [False  True] 2
      >>> print(top_hits(scores, labels, k=2, where=jnp.array([True, False, True, True]))[0])
      [ True  True]

    References:
      Cremonesi et al., *Performance of Recommender Algorithms on Top-N Recommendation Tasks*, RecSys 2010; here over
      the whole catalog, as Krichene and Rendle, *On Sampled Metrics for Item Recommendation*, KDD 2020, advise.
    """
    scores, labels = jnp.asarray(scores), jnp.asarray(labels)
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise TypeError(f"expected scores of a floating dtype, got {scores.dtype}")
    for name, mask in {"labels": labels, "where": labels if where is None else where}.items():
        check_where(mask, scores.shape, name)
    if scores.ndim == 0:
        raise ValueError("expected scores of shape [..., items], got a scalar")
    if not 1 <= k <= scores.shape[-1]:
        raise ValueError(f"expected k from 1 to the {scores.shape[-1]} items, got {k}")

    lowest, missing = jnp.finfo(scores.dtype).min, jnp.isnan(scores)
    ranked = jnp.where(missing, lowest, jnp.maximum(scores, lowest))
    ranked = jnp.where(ranked == 0, 0, ranked)  # minus zero equals zero, but a total order puts it below
    if where is not None:
        ranked, labels = jnp.where(where, ranked, -jnp.inf), labels & where
    _, items = top_k(ranked, k)
    hits = jnp.take_along_axis(labels & ~missing, items, axis=-1)
    return hits, jnp.sum(labels, axis=-1, dtype=jnp.int32)


def list_hits(items: jax.Array, truth: jax.Array) -> tuple[jax.Array, jax.Array]:
    r"""Which of the ranked ids are relevant, by rank, and how many relevant ids there are.

    With :math:`i_r` the id at rank :math:`r` and :math:`T` the set of relevant ids,

    .. math::
        h_r = [i_r \in T \wedge i_r \notin \{i_1 \dots i_{r-1}\}], \quad r = 1 \dots k, \qquad n = |T|.

    For lists of ids, as :func:`top_hits` for scores. An id that is listed again hits at its first rank only, and one
    that is repeated in ``truth`` counts once, so there are never more hits than relevant items.

    Args:
      items: ``[..., k]`` integer ids, the best rank first. -1 (any negative id) is no item and no hit.
      truth: ``[..., m]`` integer ids of the relevant items in any order, padded by -1.

    Returns:
      ``hits``, ``[..., k]`` bool, the best rank first; and ``relevant``, ``[...]`` int32. Takes memory for ``k * (k +
      m)`` comparisons a list.

    Raises:
      ValueError: if the leading axes differ or either array is a scalar.
      TypeError: if either array is not of an integer dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> items, truth = jnp.array([[7, 3, 7, -1], [5, 2, 9, 1]]), jnp.array([[7, 8, -1], [1, 2, 5]])
      >>> hits, relevant = list_hits(items, truth)
      >>> print(hits, relevant)
      [[ True False False False]
       [ True  True False  True]] [2 3]

    References:
      Herlocker et al., *Evaluating Collaborative Filtering Recommender Systems*, ACM TOIS 22, 2004.
    """
    items, truth = jnp.asarray(items), jnp.asarray(truth)
    check_integers(items=items, truth=truth)
    check_lists(items=items, truth=truth)
    wide = jax.dtypes.canonicalize_dtype(np.promote_types(items.dtype, truth.dtype))
    items, truth = items.astype(wide), truth.astype(wide)

    listed = jnp.any(items[..., :, None] == truth[..., None, :], axis=-1) & (items >= 0)
    earlier = np.tri(items.shape[-1], k=-1, dtype=bool)
    earlier = jnp.broadcast_to(earlier, (*items.shape, items.shape[-1]))
    repeated = jnp.any((items[..., :, None] == items[..., None, :]) & earlier, axis=-1)
    truth = jnp.sort(truth, axis=-1)
    new = jnp.concatenate([truth[..., :1] >= 0, (truth[..., 1:] != truth[..., :-1]) & (truth[..., 1:] >= 0)], axis=-1)
    return listed & ~repeated, jnp.sum(new, axis=-1, dtype=jnp.int32)


def ndcg(hits: jax.Array, relevant: jax.Array) -> jax.Array:
    r"""Normalized discounted cumulative gain of a ranking, with binary gains.

    With :math:`h_r` whether rank :math:`r` (from 1) is a hit, and :math:`n` relevant items,

    .. math::
        \mathrm{NDCG@}k = \frac{\sum_{r=1}^{k} h_r / \log_2(r + 1)}{\sum_{r=1}^{\min(n, k)} 1 / \log_2(r + 1)}.

    The denominator is the gain of the best possible ranking of the same length, so a perfect one is worth exactly 1
    even if there are more relevant items than ranks.

    Args:
      hits: ``[..., k]`` bool, the best rank first.
      relevant: ``[...]`` integer, how many relevant items there are, at least the number of hits. Not checked.

    Returns:
      ``[...]`` float32 in [0, 1], one per list. A list with nothing relevant gives 0; leave it out of a mean with
      ``relevant > 0`` where the protocol says so.

    Raises:
      ValueError: if the shape of ``relevant`` is not that of ``hits`` without its last axis.
      TypeError: if ``hits`` is not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> hits = jnp.array([[True, True, False], [False, True, False], [False, False, False]])
      >>> [f"{value:.4f}" for value in ndcg(hits, jnp.array([2, 2, 0]))]
      ['1.0000', '0.3869', '0.0000']

    References:
      Järvelin and Kekäläinen, *Cumulated Gain-Based Evaluation of IR Techniques*, ACM TOIS 20, 2002, with the discount
      of Burges et al., *Learning to Rank using Gradient Descent*, ICML 2005.
    """
    hits, relevant = jnp.asarray(hits), jnp.asarray(relevant)
    _check_hits(hits, relevant)
    ranks = np.arange(1, hits.shape[-1] + 1)
    discount = jnp.broadcast_to(jnp.asarray(1 / np.log2(ranks + 1), jnp.float32), hits.shape)
    position = jax.lax.broadcasted_iota(jnp.int32, hits.shape, hits.ndim - 1)
    # Both sums run over the same k terms in the same order, so that a perfect ranking is 1 to the last bit.
    gain = jnp.sum(jnp.where(hits, discount, 0), axis=-1)
    ideal = jnp.sum(jnp.where(position < relevant.astype(jnp.int32)[..., None], discount, 0), axis=-1)
    return jnp.where(relevant > 0, gain / jnp.where(relevant > 0, ideal, 1), 0)


def recall(hits: jax.Array, relevant: jax.Array) -> jax.Array:
    r"""Share of the relevant items that are among the ranked ones.

    With :math:`h_r` whether rank :math:`r` is a hit, and :math:`n` relevant items,

    .. math::
        \mathrm{Recall@}k = \frac{1}{n} \sum_{r=1}^{k} h_r.

    The divisor is not capped at :math:`k`: a user with more relevant items than ranks can't reach 1.

    Args:
      hits: ``[..., k]`` bool.
      relevant: ``[...]`` integer, how many relevant items there are, at least the number of hits. Not checked.

    Returns:
      ``[...]`` float32 in [0, 1], one per list. A list with nothing relevant gives 0.

    Raises:
      ValueError: if the shape of ``relevant`` is not that of ``hits`` without its last axis.
      TypeError: if ``hits`` is not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> hits = jnp.array([[True, False], [True, True], [False, False]])
      >>> print(recall(hits, jnp.array([2, 4, 0])))
      [0.5 0.5 0. ]

    References:
      Herlocker et al., *Evaluating Collaborative Filtering Recommender Systems*, ACM TOIS 22, 2004.
    """
    hits, relevant = jnp.asarray(hits), jnp.asarray(relevant)
    _check_hits(hits, relevant)
    found = jnp.sum(hits, axis=-1, dtype=jnp.float32)
    return jnp.where(relevant > 0, found / jnp.maximum(relevant, 1).astype(jnp.float32), 0)


def precision(hits: jax.Array, relevant: jax.Array) -> jax.Array:
    r"""Share of the ranks that are hits.

    With :math:`h_r` whether rank :math:`r` is a hit,

    .. math::
        \mathrm{Precision@}k = \frac{1}{k} \sum_{r=1}^{k} h_r.

    The divisor is :math:`k`, as in trec_eval, even if fewer items could be ranked; a user with fewer relevant items
    than ranks can't reach 1.

    Args:
      hits: ``[..., k]`` bool.
      relevant: ``[...]`` integer, how many relevant items there are.

    Returns:
      ``[...]`` float32 in [0, 1], one per list. A list with nothing relevant gives 0.

    Raises:
      ValueError: if the shape of ``relevant`` is not that of ``hits`` without its last axis.
      TypeError: if ``hits`` is not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> hits = jnp.array([[True, False], [True, True], [False, False]])
      >>> print(precision(hits, jnp.array([2, 4, 0])))
      [0.5 1.  0. ]

    References:
      Herlocker et al., *Evaluating Collaborative Filtering Recommender Systems*, ACM TOIS 22, 2004.
    """
    hits, relevant = jnp.asarray(hits), jnp.asarray(relevant)
    _check_hits(hits, relevant)
    return jnp.where(relevant > 0, jnp.sum(hits, axis=-1, dtype=jnp.float32) / hits.shape[-1], 0)


def hit_rate(hits: jax.Array, relevant: jax.Array) -> jax.Array:
    r"""Whether any rank is a hit.

    With :math:`h_r` whether rank :math:`r` is a hit,

    .. math::
        \mathrm{HR@}k = \max_{r \le k} h_r.

    With one relevant item per list (leave one out) this is :func:`recall`, and papers use either name; with more
    relevant items the hit rate is the higher of the two.

    Args:
      hits: ``[..., k]`` bool.
      relevant: ``[...]`` integer, how many relevant items there are.

    Returns:
      ``[...]`` float32, 0 or 1, one per list. A list with nothing relevant gives 0.

    Raises:
      ValueError: if the shape of ``relevant`` is not that of ``hits`` without its last axis.
      TypeError: if ``hits`` is not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> hits = jnp.array([[False, True], [True, True], [False, False]])
      >>> print(hit_rate(hits, jnp.array([2, 4, 1])))
      [1. 1. 0.]

    References:
      Deshpande and Karypis, *Item-Based Top-N Recommendation Algorithms*, ACM TOIS 22, 2004.
    """
    hits, relevant = jnp.asarray(hits), jnp.asarray(relevant)
    _check_hits(hits, relevant)
    return (jnp.any(hits, axis=-1) & (relevant > 0)).astype(jnp.float32)


def mrr(hits: jax.Array, relevant: jax.Array) -> jax.Array:
    r"""Reciprocal rank of the first hit, cut off at ``k``.

    With :math:`h_r` whether rank :math:`r` is a hit,

    .. math::
        \mathrm{RR@}k = \max_{r \le k} \frac{h_r}{r},

    0 without a hit. The mean over lists is the mean reciprocal rank (MRR). Only the first hit counts. Without the cut
    at :math:`k`, as TREC has it, a list whose first relevant item is further down gives a little more than 0.

    Args:
      hits: ``[..., k]`` bool, the best rank first.
      relevant: ``[...]`` integer, how many relevant items there are.

    Returns:
      ``[...]`` float32 in [0, 1], one per list. A list with nothing relevant gives 0.

    Raises:
      ValueError: if the shape of ``relevant`` is not that of ``hits`` without its last axis.
      TypeError: if ``hits`` is not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> hits = jnp.array([[False, True, True], [True, True, False], [False, False, False]])
      >>> print(mrr(hits, jnp.array([2, 4, 1])))
      [0.5 1.  0. ]

    References:
      Voorhees, *The TREC-8 Question Answering Track Report*, TREC 1999.
    """
    hits, relevant = jnp.asarray(hits), jnp.asarray(relevant)
    _check_hits(hits, relevant)
    return jnp.max(jnp.where(hits & (relevant > 0)[..., None], 1 / _ranks(hits), 0), axis=-1)


def map(hits: jax.Array, relevant: jax.Array) -> jax.Array:
    r"""Average precision of a ranking: the mean of the precision at each relevant item.

    With :math:`h_r` whether rank :math:`r` is a hit, and :math:`n` relevant items,

    .. math::
        \mathrm{AP@}k = \frac{1}{\min(n, k)} \sum_{r=1}^{k} h_r \, \frac{1}{r} \sum_{s=1}^{r} h_s.

    The mean over lists is the mean average precision (MAP). Protocols differ in the divisor. The one here makes a
    perfect list worth 1 even if there are more relevant items than ranks. TREC (trec_eval's ``map_cut``, ranx) divides
    by :math:`n` instead: multiply by :math:`\min(n, k) / n` for it. Some implementations divide by the number of hits,
    which rewards a list for finding less.

    Args:
      hits: ``[..., k]`` bool, the best rank first.
      relevant: ``[...]`` integer, how many relevant items there are, at least the number of hits. Not checked.

    Returns:
      ``[...]`` float32 in [0, 1], one per list. A list with nothing relevant gives 0.

    Raises:
      ValueError: if the shape of ``relevant`` is not that of ``hits`` without its last axis.
      TypeError: if ``hits`` is not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> hits = jnp.array([[True, False, True], [True, True, True], [False, False, False]])
      >>> [f"{value:.4f}" for value in map(hits, jnp.array([2, 5, 0]))]
      ['0.8333', '1.0000', '0.0000']

    References:
      Buckley and Voorhees, *Evaluating Evaluation Measure Stability*, SIGIR 2000; with the divisor of McFee et al.,
      *The Million Song Dataset Challenge*, WWW 2012 Companion.
    """
    hits, relevant = jnp.asarray(hits), jnp.asarray(relevant)
    _check_hits(hits, relevant)
    found = jnp.cumsum(hits, axis=-1, dtype=jnp.float32)
    precisions = jnp.sum(jnp.where(hits, found / _ranks(hits), 0), axis=-1)
    best = jnp.clip(relevant.astype(jnp.int32), 1, hits.shape[-1]).astype(jnp.float32)
    return jnp.where(relevant > 0, precisions / best, 0)


def _ranks(hits: jax.Array) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.float32, hits.shape, hits.ndim - 1) + 1


def _check_hits(hits: jax.Array, relevant: jax.Array) -> None:
    check_booleans(hits=hits)
    if hits.ndim == 0 or relevant.shape != hits.shape[:-1]:
        raise ValueError(f"expected hits [..., k] and relevant [...], got {hits.shape} and {relevant.shape}")
