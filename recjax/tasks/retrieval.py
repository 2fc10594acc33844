"""Retrieval: which items of a catalogue a user takes next."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax import data, evaluate, families, losses, metrics
from recjax.data import Dataset, HeldOut, Queries
from recjax.evaluate import Scorer, Scores
from recjax.families.objectives import NEGATIVES, fits_whole, seen
from recjax.models import Params
from recjax.study import Method, Taught
from recjax.teacher import Knowledge, knowledge, popularity_groups

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
STUDENTS = (
    "mf",
    "elsa",
    "two-tower",
    "simplex",
    "lightgcn",
    "vbpr",
    "sasrec",
    "bsarec",
    "gru4rec",
    "hstu",
)  # those that an artifact can serve
LIST_LENGTH = 100  # of a teacher's list, where the scores of the whole catalogue don't fit
LISTED = 28  # items of a list that a step learns from


class Temperature(NamedTuple):
    """Hyperparameters of :func:`soft_targets`.

    Attributes:
      temperature: of both softmaxes.
    """

    temperature: Any = 1.0


def teach(scorer: Scorer | Scores, dataset: Dataset, queries: Queries) -> Knowledge:
    """A teacher's knowledge for :func:`soft_targets`: scores of the whole catalogue where they fit, lists elsewhere."""
    length = None if fits_whole(dataset, queries) else min(LIST_LENGTH, dataset.items)
    return knowledge(scorer, dataset, queries, length=length)


def soft_targets(dataset: Dataset, queries: Queries) -> Method:
    r"""The KL divergence from the teacher's softmax over the catalogue to the student's.

    Where the scores of the whole catalogue don't fit (:func:`recjax.families.objectives.fits_whole`), it is over some
    items of the teacher's list and uniform negatives, which score as the list's last item.

    Args:
      dataset: whose catalogue it is.
      queries: those of the student.

    Returns:
      The :class:`~recjax.study.Method`.

    References:
      Hinton et al., `Distilling the Knowledge in a Neural Network <https://arxiv.org/abs/1503.02531>`_, 2015.
    """
    if fits_whole(dataset, queries):
        return Method(_whole_gather, _whole_loss, Temperature())
    have = jax.tree.map(jnp.asarray, seen(dataset))

    def gather(taught: Taught, ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        places, others = jax.random.split(key)
        (scores, items), user = taught.knowledge, jnp.asarray(taught.queries.user)[ids]
        if items is None:
            raise ValueError("expected lists of the teacher's best items, got scores of the whole catalogue")
        scores, items = scores[ids].astype(jnp.float32), items[ids]
        covered = jnp.any(items >= 0, axis=1)
        places = jax.random.randint(places, (len(ids), LISTED), 0, items.shape[1])
        listed = jnp.take_along_axis(items, places, axis=1)
        negatives = data.uniform_negatives(others, user, have, items=dataset.items, count=NEGATIVES)
        # Nothing outside a list scores above the list's last item.
        last = jnp.min(scores, axis=1, where=items >= 0, initial=jnp.inf)
        candidates = jnp.concatenate([listed, negatives], axis=1)
        teacher = [jnp.take_along_axis(scores, places, axis=1), jnp.broadcast_to(last[:, None], negatives.shape)]
        where = (candidates >= 0) & covered[:, None]
        teacher = jnp.concatenate(teacher, axis=1)
        return {"candidates": candidates, "teacher": teacher, "where": where, "covered": covered}

    def loss(score: Callable[..., jax.Array], params: Params, taught: Any, hparams: Any) -> jax.Array:
        scores = score(params, taught["batch"], jnp.maximum(taught["candidates"], 0))
        return losses.soft_target_kl(scores, taught["teacher"], temperature=hparams.temperature, where=taught["where"])

    return Method(gather, loss, Temperature())


def _whole_gather(taught: Taught, ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
    return {"teacher": taught.knowledge.scores[ids].astype(jnp.float32)}


def _whole_loss(score: Callable[..., jax.Array], params: Params, taught: Any, hparams: Any) -> jax.Array:
    return losses.soft_target_kl(score(params, taught["batch"]), taught["teacher"], temperature=hparams.temperature)


class Quality(NamedTuple):
    """Metrics of each evaluated user.

    Attributes:
      ndcg: ``[users]``, over the whole catalogue.
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
    """How well the ``k`` best items of the whole catalogue predict the held-out events.

    Args:
      scorer: see :func:`recjax.evaluate.scored`.
      dataset: whose catalogue is ranked.
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
