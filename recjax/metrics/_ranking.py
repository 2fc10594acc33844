"""Ranking metrics: hits by rank, and functions of the hits."""

import jax
import jax.numpy as jnp
import numpy as np

from recjax.arrays import check_booleans, check_integers, check_lists, check_where
from recjax.metrics._topk import top_k


def top_hits(
    scores: jax.Array, labels: jax.Array, *, k: int, where: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    r"""Hits by rank of the ``k`` items with the highest scores, and the number of relevant items.

    With :math:`\pi(r)` the item with the :math:`r`-th highest score and :math:`y_i` whether item :math:`i` is relevant,

    .. math::
        h_r = y_{\pi(r)}, \quad r = 1 \dots k, \qquad n = \sum_i y_i.

    Args:
      scores: ``[..., items]`` float. Of equal scores the first item ranks higher. Minus infinity ranks as the lowest
        finite number; NaN too, but is never a hit, so a model that diverged gets 0.
      labels: ``[..., items]`` bool, :math:`y`.
      k: number of ranks, static, 1 to ``items``.
      where: ``[..., items]`` bool, which items are ranked and counted, such as those that the user hasn't interacted
        with.

    Returns:
      ``hits``, ``[..., k]`` bool, best rank first, False for ranks without an item; and ``relevant``, ``[...]`` int32.

    Raises:
      ValueError: if ``k`` is below 1 or above ``items``.

    Examples:
      >>> scores = jnp.array([0.1, 0.9, 0.5, 0.7])
      >>> labels = jnp.array([False, False, True, True])
      >>> hits, relevant = top_hits(scores, labels, k=2)
      >>> print(hits, relevant)
      [False  True] 2

    References:
      Cremonesi et al., *Performance of Recommender Algorithms on Top-N Recommendation Tasks*, RecSys 2010; over the
      whole catalog, as advised by Krichene and Rendle, *On Sampled Metrics for Item Recommendation*, KDD 2020.
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
    ranked = jnp.where(ranked == 0, 0, ranked)  # top_k ranks -0 below 0
    if where is not None:
        ranked, labels = jnp.where(where, ranked, -jnp.inf), labels & where
    _, items = top_k(ranked, k)
    hits = jnp.take_along_axis(labels & ~missing, items, axis=-1)
    return hits, jnp.sum(labels, axis=-1, dtype=jnp.int32)


def list_hits(items: jax.Array, truth: jax.Array) -> tuple[jax.Array, jax.Array]:
    r"""Hits by rank of a list of ids, and the number of relevant ids.

    With :math:`i_r` the id at rank :math:`r` and :math:`T` the set of relevant ids,

    .. math::
        h_r = [i_r \in T \wedge i_r \notin \{i_1 \dots i_{r-1}\}], \quad r = 1 \dots k, \qquad n = |T|.

    Args:
      items: ``[..., k]`` integer ids, best rank first. Negative ids are padding; a repeated id hits at its first rank
        only.
      truth: ``[..., m]`` integer ids of the relevant items in any order, padded by -1. Repeated ids count once.

    Returns:
      ``hits``, ``[..., k]`` bool, best rank first; and ``relevant``, ``[...]`` int32. Takes memory for ``k * (k + m)``
      comparisons per list.

    Examples:
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
    r"""Normalized discounted cumulative gain (NDCG) with binary gains.

    .. math::
        \mathrm{NDCG@}k = \frac{\sum_{r=1}^{k} h_r / \log_2(r + 1)}{\sum_{r=1}^{\min(n, k)} 1 / \log_2(r + 1)}.

    Args:
      hits: ``[..., k]`` bool, :math:`h_r`, best rank first.
      relevant: ``[...]`` integer, number :math:`n` of relevant items.

    Returns:
      ``[...]`` float32 in [0, 1], one per list.

    Examples:
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
    # Both sums have the same k terms in the same order, so a perfect ranking is exactly 1.
    gain = jnp.sum(jnp.where(hits, discount, 0), axis=-1)
    ideal = jnp.sum(jnp.where(position < relevant.astype(jnp.int32)[..., None], discount, 0), axis=-1)
    return jnp.where(relevant > 0, gain / jnp.where(relevant > 0, ideal, 1), 0)


def recall(hits: jax.Array, relevant: jax.Array) -> jax.Array:
    r"""Recall: share of the relevant items that are hits.

    .. math::
        \mathrm{Recall@}k = \frac{1}{n} \sum_{r=1}^{k} h_r.

    The divisor is not capped at :math:`k`.

    Args:
      hits: ``[..., k]`` bool, :math:`h_r`.
      relevant: ``[...]`` integer, number :math:`n` of relevant items.

    Returns:
      ``[...]`` float32 in [0, 1], one per list.

    Examples:
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
    r"""Precision: share of the ranks that are hits.

    .. math::
        \mathrm{Precision@}k = \frac{1}{k} \sum_{r=1}^{k} h_r.

    The divisor is :math:`k` even if fewer items could be ranked, as in trec_eval.

    Args:
      hits: ``[..., k]`` bool, :math:`h_r`.
      relevant: ``[...]`` integer, number of relevant items.

    Returns:
      ``[...]`` float32 in [0, 1], one per list.

    Examples:
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
    r"""Hit rate (HR): whether any rank is a hit.

    .. math::
        \mathrm{HR@}k = \max_{r \le k} h_r.

    With one relevant item per list (leave-one-out) this equals :func:`recall`.

    Args:
      hits: ``[..., k]`` bool, :math:`h_r`.
      relevant: ``[...]`` integer, number of relevant items.

    Returns:
      ``[...]`` float32, 0 or 1, one per list.

    Examples:
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
    r"""Reciprocal rank of the first hit within ``k``; the mean over lists is the mean reciprocal rank (MRR).

    .. math::
        \mathrm{RR@}k = \max_{r \le k} \frac{h_r}{r}.

    TREC does not cut off at :math:`k`.

    Args:
      hits: ``[..., k]`` bool, :math:`h_r`, best rank first.
      relevant: ``[...]`` integer, number of relevant items.

    Returns:
      ``[...]`` float32 in [0, 1], one per list; 0 without a hit.

    Examples:
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
    r"""Average precision within ``k``; the mean over lists is the mean average precision (MAP).

    .. math::
        \mathrm{AP@}k = \frac{1}{\min(n, k)} \sum_{r=1}^{k} h_r \, \frac{1}{r} \sum_{s=1}^{r} h_s.

    Protocols differ in the divisor: trec_eval's ``map_cut`` and ranx divide by :math:`n`, others by the number of hits.

    Args:
      hits: ``[..., k]`` bool, :math:`h_r`, best rank first.
      relevant: ``[...]`` integer, number :math:`n` of relevant items.

    Returns:
      ``[...]`` float32 in [0, 1], one per list.

    Examples:
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
