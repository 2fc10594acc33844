"""The k best of many with NumPy: exact, from the maxima of groups."""

import numpy as np

GROUP = 64


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Positions of the ``k`` largest scores of each row, the best first and the lower position first among equals.

    The ``k`` groups of 64 neighbors with the largest maxima hold the ``k`` largest scores, so only they are searched.

    Args:
      scores: ``[rows, items]`` float.
      k: at most the number of items.

    Returns:
      ``[rows, k]`` int64.

    Raises:
      ValueError: if a score is NaN.

    Examples:
      >>> import numpy as np
      >>> top_k(np.array([[1.0, 3.0, 2.0, 3.0, 2.0]]), 3).tolist()
      [[1, 3, 2]]
    """
    rows, items = scores.shape
    whole = items // GROUP * GROUP
    if whole <= 4 * k * GROUP:  # the groups would be a large share of the list
        return _select(scores, k)
    winners = np.sort(_select(scores[:, :whole].reshape(rows, -1, GROUP).max(axis=2), k), axis=1)
    inside = (winners[:, :, None] * GROUP + np.arange(GROUP)).reshape(rows, -1)
    rest = np.broadcast_to(np.arange(whole, items), (rows, items - whole))
    finalists = np.concatenate([inside, rest], axis=1)
    best = _select(np.take_along_axis(scores, finalists, 1), k)
    return np.take_along_axis(finalists, best, 1)


def diverse(scores: np.ndarray, rows: np.ndarray, k: int, diversity: float) -> list[int]:
    """Places of the ``k`` items of the highest marginal relevance, in the order in which they are chosen.

    Args:
      scores: ``[items]``.
      rows: ``[items, dim]``, compared by their cosine.
      k: how many, or all where there are fewer.
      diversity: 0 to 1; see :meth:`recjax.artifact.Artifact.recommend`.
    """
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    low, high = scores.min(initial=np.inf), scores.max(initial=-np.inf)
    gain = (1 - diversity) * (scores - low) / max(high - low, np.finfo(np.float32).tiny)
    nearest, chosen = np.full(len(scores), -np.inf), []
    for _ in range(min(k, len(scores))):
        marginal = gain - (diversity * nearest if chosen else 0)
        marginal[chosen] = -np.inf
        chosen.append(int(marginal.argmax()))
        nearest = np.maximum(nearest, rows @ rows[chosen[-1]])
    return chosen


def _select(scores: np.ndarray, k: int) -> np.ndarray:
    count = scores.shape[1]
    if np.isnan(scores).any():
        raise ValueError("scores: expected numbers, got NaN")
    if k >= count:
        return np.argsort(-scores, axis=1, kind="stable")[:, :k]
    kth = np.partition(scores, count - k, axis=1)[:, count - k, None]
    # Every score above the k-th is in; of those equal to it, the first ones fill what is left.
    chosen = scores >= kth
    if np.count_nonzero(chosen) > len(scores) * k:
        above, tied = scores > kth, scores == kth
        chosen = above | (tied & (np.cumsum(tied, axis=1) <= k - above.sum(axis=1, keepdims=True)))
    ids = np.nonzero(chosen)[1].reshape(len(scores), k)
    order = np.argsort(-np.take_along_axis(scores, ids, 1), axis=1, kind="stable")
    return np.take_along_axis(ids, order, 1)
