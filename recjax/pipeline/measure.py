"""What a row of the stage table says, measured on the files of that stage, the same way for every stage."""

import statistics
import time
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from recjax import metrics
from recjax.artifact import Artifact
from recjax.data import Interactions, Seen, seen
from recjax.evaluate import dense, judged_users
from recjax.pipeline.source import Source
from recjax.teacher import popularity_groups

BLOCK = 256
SINGLES = 200


class Quality(NamedTuple):
    """Means over the judged users of a part.

    Attributes:
      ndcg: over the whole catalogue.
      recall: likewise.
      tail_recall: recall of the items outside the head, over the users who have such an item to find; the head is the
        most popular items that make up half of train's rows. Distillation tends to move lists towards the head, which
        the other two don't show.
    """

    ndcg: float
    recall: float
    tail_recall: float


def quality(model: Artifact, source: Source, truth: Interactions, exclude: Seen, *, k: int) -> Quality:
    """How well the ``k`` best items of the whole catalogue, for every judged user of a part, answer what came next.

    Args:
      model: the stage's model.
      source: the data of the run.
      truth: the held-out rows.
      exclude: what is left out of the ranking.
      k: ranks that count.

    Returns:
      The :class:`Quality`; a tail recall of 0 where nobody has an item of the tail to find.
    """
    train = source.split.train
    users = judged_users(truth, train)
    answers = seen(truth)
    group = popularity_groups(np.bincount(train.item, minlength=train.items), 2)
    found = []
    for start in range(0, len(users), BLOCK):
        block = users[start : start + BLOCK]
        items, scores = model.top_k(block, k=k, history=source.histories, exclude=exclude)
        wanted = dense(answers, block, train.items)
        hits = jnp.asarray(np.take_along_axis(wanted, items, 1) & (scores > -np.inf))
        wanted &= ~dense(exclude, block, train.items)
        relevant = np.stack([wanted[:, group == number].sum(axis=1) for number in (0, 1)], axis=1)
        by_group = metrics.recall_by_group(hits, jnp.asarray(items), jnp.asarray(relevant), jnp.asarray(group))
        overall = jnp.asarray(relevant.sum(axis=1))
        columns = metrics.ndcg(hits, overall), metrics.recall(hits, overall), by_group[:, 1], relevant[:, 1]
        found.append(np.stack([np.asarray(column, np.float64) for column in columns], axis=1))
    ndcg, recall, tail, in_tail = np.concatenate(found).T
    tail_recall = tail[in_tail > 0].mean() if in_tail.any() else 0.0
    return Quality(float(ndcg.mean()), float(recall.mean()), float(tail_recall))


def speed(model: Artifact, source: Source, exclude: Seen, *, k: int) -> tuple[float, float]:
    """Time of one user's list and the rate at 256 users a call, everything warm, one process.

    Args:
      model: the stage's model.
      source: the data of the run.
      exclude: what is left out of the lists.
      k: length of a list.

    Returns:
      Median milliseconds at batch 1, and users per second at batch 256 (the median of its calls).
    """

    def seconds(users: np.ndarray) -> float:
        start = time.perf_counter()
        model.top_k(users, k=k, history=source.histories, exclude=exclude)
        return time.perf_counter() - start

    users = np.arange(source.known)
    singles = [users[i % source.known, None] for i in range(SINGLES)]
    batches = [np.resize(np.roll(users, -i * BLOCK), BLOCK) for i in range(10)]
    one, many = (
        statistics.median([seconds(users) for users in [calls[0], *calls]][1:]) for calls in (singles, batches)
    )
    return 1e3 * one, BLOCK / many
