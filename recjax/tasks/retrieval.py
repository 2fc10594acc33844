"""Retrieval: which items of a catalog a user takes next."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from recjax import evaluate, families, metrics
from recjax.data import Dataset, HeldOut
from recjax.evaluate import Scorer, Scores
from recjax.teacher import popularity_groups

# Every family of the task; the choices of the command line are these names.
FAMILIES: dict[str, Callable[..., families.Model]] = {
    "popularity": families.popularity,
    "item-knn": families.item_knn,
    "user-knn": families.user_knn,
    "ease": families.ease,
    "elsa": families.elsa,
    "mf": families.mf,
    "two-tower": families.two_tower,
    "simplex": families.simplex,
    "lightgcn": families.lightgcn,
    "vbpr": families.vbpr,
    "content": families.content,
    "sasrec": families.sasrec,
    "bsarec": families.bsarec,
    "gru4rec": families.gru4rec,
    "hstu": families.hstu,
}
STUDENTS = ("mf", "elsa", "two-tower", "simplex", "lightgcn", "vbpr", "sasrec", "bsarec", "gru4rec", "hstu")


class Quality(NamedTuple):
    """Metrics of each evaluated user.

    Attributes:
      ndcg: ``[users]``, over the whole catalog.
      recall: ``[users]``, likewise.
      tail_recall: ``[users]``, recall of the items outside the head, NaN for users without such an item to find; the
        head is the most popular items that make up half of the training events. Distillation tends to move lists
        towards the head, which the other two don't show.
    """

    ndcg: np.ndarray
    recall: np.ndarray
    tail_recall: np.ndarray

    def means(self) -> dict[str, float]:
        """The means over users; a tail recall of 0 where no user has an item of the tail to find."""
        tail = self.tail_recall[np.isfinite(self.tail_recall)]
        return {
            "ndcg": float(self.ndcg.mean()),
            "recall": float(self.recall.mean()),
            "tail_recall": float(tail.mean()) if len(tail) else 0.0,
        }


def quality(scorer: Scorer | Scores, dataset: Dataset, held: HeldOut, *, k: int) -> Quality:
    """How well the ``k`` best items of the whole catalog predict the held-out events.

    Args:
      scorer: see :func:`recjax.evaluate.scored`.
      dataset: whose catalog is ranked.
      held: ``dataset.valid`` or ``dataset.test``.
      k: ranks that count.

    Returns:
      The :class:`Quality`.
    """
    found = evaluate.rank(scorer, dataset, held, k=k)
    group = popularity_groups(dataset.popularity(), 2)
    relevant = evaluate.relevant_by_group(dataset, held, group, 2)
    tail = metrics.recall_by_group(found.hits, found.items, jnp.asarray(relevant), jnp.asarray(group))[:, 1]
    ndcg, recall = metrics.ndcg(found.hits, found.relevant), metrics.recall(found.hits, found.relevant)
    return Quality(
        np.asarray(ndcg, np.float64),
        np.asarray(recall, np.float64),
        np.where(relevant[:, 1] > 0, np.asarray(tail, np.float64), np.nan),
    )
