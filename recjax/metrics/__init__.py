"""Metrics as pure functions of arrays, one value per list or row.

Ranking metrics are functions of the hits by rank, which are computed once::

    hits, relevant = top_hits(scores, labels, k=10, where=~seen)  # or list_hits(items, truth), for lists of ids
    {metric.__name__: metric(hits, relevant) for metric in (ndcg, recall, precision, hit_rate, mrr, map)}

They are 0 for a list without relevant items; exclude it from a mean by ``relevant > 0`` where the protocol does.

CTR metrics (:func:`auc`, :func:`logloss`, ...) take logits; beyond-accuracy metrics (:func:`gini`, :func:`novelty`,
:func:`overlap`, ...) take lists of ids or counts. Where implementations differ, the docstring gives the definition.

Unless a docstring says otherwise:

- ``where`` is True for the entries that count;
- results are float32, or float64 for float64 inputs;
- shapes that don't fit together raise ``ValueError``; scores that aren't floating, ids and counts that aren't integers
  and masks that aren't boolean raise ``TypeError``.
"""

from recjax.metrics._auc import AucHistogram, auc, auc_bounds, auc_histogram, auc_update, grouped_auc
from recjax.metrics._beyond import (
    coverage,
    entropy,
    exposure,
    gini,
    intra_list_distance,
    kendall_tau,
    novelty,
    overlap,
    recall_by_group,
)
from recjax.metrics._ctr import calibration_error, calibration_ratio, logloss, normalized_entropy
from recjax.metrics._ranking import hit_rate, list_hits, map, mrr, ndcg, precision, recall, top_hits
from recjax.metrics._topk import top_k

__all__ = [
    "AucHistogram",
    "auc",
    "auc_bounds",
    "auc_histogram",
    "auc_update",
    "calibration_error",
    "calibration_ratio",
    "coverage",
    "entropy",
    "exposure",
    "gini",
    "grouped_auc",
    "hit_rate",
    "intra_list_distance",
    "kendall_tau",
    "list_hits",
    "logloss",
    "map",
    "mrr",
    "ndcg",
    "normalized_entropy",
    "novelty",
    "overlap",
    "precision",
    "recall",
    "recall_by_group",
    "top_hits",
    "top_k",
]
