"""Full-catalogue ranking against held-out items, for one model or a population."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax import metrics
from recjax.data import Interactions, Seen, seen
from recjax.models import Retrieval


class Judged(NamedTuple):
    """Users, what they took next, and what may be ranked for them.

    Attributes:
      user: ``[users]`` int32 positions.
      labels: ``[users, items]`` bool, the held-out items.
      where: ``[users, items]`` bool, False for what the user already had.
    """

    user: jax.Array
    labels: jax.Array
    where: jax.Array


def dense(index: Seen, users: np.ndarray, items: int) -> np.ndarray:
    """Some users' lists as rows: ``[users, items]`` bool.

    Examples:
      >>> import numpy as np
      >>> index = Seen(np.array([0, 2, 2, 3]), np.array([1, 3, 0]))
      >>> dense(index, np.array([2, 0]), 4).astype(int).tolist()
      [[1, 0, 0, 0], [0, 1, 0, 1]]
    """
    out = np.zeros((len(users), items), bool)
    out[index.lists(users)] = True
    return out


def users_with_rows(log: Interactions) -> np.ndarray:
    """The users who have any row in a log, ascending: ``[users]`` int64."""
    return np.flatnonzero(np.bincount(log.user, minlength=len(log.user_ids)))


def judged_users(truth: Interactions, train: Interactions) -> np.ndarray:
    """Users of a held-out part who have a row in train: ``[users]``, ascending.

    Who was never seen before can't be told apart by a model of the past, and is not judged.
    """
    return np.intersect1d(users_with_rows(truth), users_with_rows(train))


def judge(truth: Interactions, train: Interactions, *, cells: int = 2**27, seed: int = 0) -> Judged:
    """The users of a held-out part as arrays for :func:`ndcg`.

    Args:
      truth: the held-out rows.
      train: the rows that are left out of the ranking; see :func:`judged_users` for who is judged.
      cells: at most this many users x items are judged; of more users, a random sample.
      seed: draws that sample.

    Returns:
      A :class:`Judged`.
    """
    users = judged_users(truth, train)
    if len(users) * truth.items > cells:
        users = np.sort(np.random.default_rng(seed).choice(users, max(1, cells // truth.items), replace=False))
    return Judged(
        user=jnp.asarray(users, jnp.int32),
        labels=jnp.asarray(dense(seen(truth), users, truth.items)),
        where=jnp.asarray(~dense(seen(train), users, truth.items)),
    )


def ndcg(model: Retrieval, params: dict[str, Any], judged: Judged, *, k: int, block: int = 256) -> jax.Array:
    """Mean NDCG at ``k`` over the judged users, ranking the whole catalogue.

    Pure, so it may be vmapped over a population. Memory is bounded by ``block`` users at a time.

    Args:
      model: whose query needs ``batch["user"]`` alone.
      params: its parameters, records included.
      judged: see :func:`judge`.
      k: ranks that count.
      block: users that are scored at once.

    Returns:
      Scalar in [0, 1].
    """
    items = model.items(params)

    def of_user(row: Judged) -> jax.Array:
        query = model.query(params, {"user": row.user[None]})[0]
        hits, relevant = metrics.top_hits(items @ query, row.labels, k=k, where=row.where)
        return metrics.ndcg(hits, relevant)

    return jnp.mean(jax.lax.map(of_user, judged, batch_size=min(block, len(judged.user))))
