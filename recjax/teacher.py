"""What students ask a teacher, computed once and in blocks of users."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax.data import Seen
from recjax.evaluate import dense
from recjax.models import Retrieval


class Knowledge(NamedTuple):
    """A teacher's answers for every user it knows.

    Scores are divided by their standard deviation over users and items, one number for the whole teacher. Inner
    products of one model and regression weights of another then share a scale, and a temperature means the same to
    both.

    Attributes:
      scores: ``[users, items]`` float32 over the whole catalogue, or ``[users, length]`` of each user's ``items``.
      items: ``[users, length]`` int32, each user's best items by the teacher, best first; None for whole-catalogue
        scores.
    """

    scores: jax.Array
    items: jax.Array | None


def knowledge(
    model: Retrieval,
    params: dict[str, Any],
    histories: Seen,
    *,
    items: int,
    length: int | None = None,
    block: int = 512,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Knowledge:
    """Asks a teacher for its scores of every user.

    Args:
      model: the teacher.
      params: its parameters.
      histories: what each user has; given to the teacher as ``batch["history"]``. The items of a history keep their
        scores: a student learns from what the teacher thinks of them.
      items: size of the catalogue.
      length: keep each user's best ``length`` items only, where the whole matrix would not fit; None keeps all.
      block: users that are scored at once.
      progress: called with users done and users in all.

    Returns:
      The :class:`Knowledge`.

    Raises:
      ValueError: if ``length`` is below 1 or above ``items``.
    """
    if length is not None and not 1 <= length <= items:
        raise ValueError(f"expected length from 1 to {items}, got {length}")
    count = len(histories.offsets) - 1
    vectors = jax.jit(model.items)(params)

    @jax.jit
    def ask(params: dict[str, Any], vectors: jax.Array, user: jax.Array, history: jax.Array) -> tuple:
        scores = model.query(params, {"user": user, "history": history}) @ vectors.T
        best = (scores, None) if length is None else jax.lax.top_k(scores, length)
        mean = scores.mean(dtype=jnp.float32)
        return *best, mean, jnp.square(scores - mean).mean(dtype=jnp.float32)

    parts, moments = [], []
    for start in range(0, count, block):
        users = np.arange(start, min(start + block, count))
        history = jnp.asarray(dense(histories, users, items), jnp.float32)
        scores, ids, *moment = ask(params, vectors, jnp.asarray(users, jnp.int32), history)
        parts.append((np.asarray(scores), None if ids is None else np.asarray(ids)))
        moments.append(moment)
        progress(int(users[-1]) + 1, count)
    # Within blocks and between them: the mean of squares less the square of the mean would cancel where scores are far
    # from 0.
    means, within = np.array(moments, np.float64).T
    share = np.array([len(scores) for scores, _ in parts]) / count
    variance = share @ within + share @ (means - share @ means) ** 2
    scores = np.concatenate([scores for scores, _ in parts]) / np.float32(max(variance, 1e-12) ** 0.5)
    ids = None if length is None else jnp.asarray(np.concatenate([ids for _, ids in parts]))
    return Knowledge(jnp.asarray(scores), ids)
