"""What a row of the stage table says, measured on the files of that stage, the same way for every stage."""

import statistics
import time

import jax.numpy as jnp
import numpy as np

from recjax import metrics
from recjax.artifact import Artifact
from recjax.data import Interactions, Seen, seen
from recjax.evaluate import dense, judged_users
from recjax.pipeline.source import Source

BLOCK = 256
SINGLES = 200


def quality(model: Artifact, source: Source, truth: Interactions, exclude: Seen, *, k: int) -> tuple[float, float]:
    """Mean NDCG and recall at ``k`` over the judged users of a part, ranking the whole catalogue.

    Args:
      model: the stage's model.
      source: the data of the run.
      truth: the held-out rows.
      exclude: what is left out of the ranking.
      k: ranks that count.

    Returns:
      NDCG and recall.
    """
    users = judged_users(truth, source.split.train)
    answers = seen(truth)
    ndcg, recall = [], []
    for start in range(0, len(users), BLOCK):
        block = users[start : start + BLOCK]
        labels = dense(answers, block, source.split.items)
        items, scores = model.top_k(block, k=k, history=source.histories, exclude=exclude)
        hits = jnp.asarray(np.take_along_axis(labels, items, 1) & (scores > -np.inf))
        relevant = jnp.asarray(labels & ~dense(exclude, block, source.split.items)).sum(axis=1)
        ndcg.append(np.asarray(metrics.ndcg(hits, relevant)))
        recall.append(np.asarray(metrics.recall(hits, relevant)))
    return float(np.concatenate(ndcg).mean()), float(np.concatenate(recall).mean())


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
