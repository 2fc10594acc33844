"""What a population has reached so far, and decisions that follow from it: pure functions of NumPy arrays."""

from typing import NamedTuple

import numpy as np


class History(NamedTuple):
    """The validations of a population so far.

    Attributes:
      steps: ``[validations]``, the steps done at each.
      loss: ``[validations, seeds, settings]``, the mean training loss since the validation before.
      valid: ``[validations, seeds, settings]``, the validation metric.
      score: ``[validations, seeds, settings]``, what the best parameters are chosen by: the metric's mean over the
        seeds, or each seed's own; minus infinity where a validation doesn't count.
    """

    steps: np.ndarray
    loss: np.ndarray
    valid: np.ndarray
    score: np.ndarray


def history(steps: np.ndarray, loss: np.ndarray, valid: np.ndarray, *, count_from: int, by_seed: bool) -> History:
    """The history of some curves; see :class:`Schedule` for ``count_from`` and ``by_seed``."""
    score = valid if by_seed else np.broadcast_to(valid.mean(axis=1, keepdims=True), valid.shape)
    score = np.where(np.isnan(score), np.finfo(np.float32).min, score)  # worse than any number, better than nothing
    return History(steps, loss, valid, np.where((steps >= count_from)[:, None, None], score, -np.inf))


def best_at(past: History) -> np.ndarray:
    """``[seeds, settings]``, the first validation with the highest score; -1 where none counts yet."""
    if not len(past.steps):
        return np.full(past.score.shape[1:], -1)
    return np.where(past.score.max(axis=0) > -np.inf, past.score.argmax(axis=0), -1)


def plateaus(past: History, *, patience: int) -> np.ndarray:
    """How often each member has stood still: so many validations in a row that counted and were not its best.

    Each plateau begins where the one before ended, so a member that stands still for twice as long has two.

    Args:
      past: the history so far.
      patience: validations without a better one that make a plateau.

    Returns:
      ``[seeds, settings]`` whole numbers, which never fall as the history grows.

    Examples:
      A learning rate that falls to a tenth at each plateau, as :attr:`Schedule.adapt`:

      >>> def adapt(hparams, past):
      ...     return hparams._replace(learning_rate=hparams.learning_rate * 0.1 ** plateaus(past, patience=2))
      >>> score = np.array([0.3, 0.5, 0.4, 0.5, 0.6, 0.1, 0.2, 0.1, 0.2]).reshape(-1, 1, 1)
      >>> past = History(np.arange(9), score, score, score)
      >>> plateaus(past, patience=2).item()
      3
    """
    shape = past.score.shape[1:]
    best, still, count = np.full(shape, -np.inf), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for score in past.score:
        still = np.where(score > best, 0, still + (score > -np.inf))
        best = np.maximum(best, score)
        count += still == patience
        still = np.where(still == patience, 0, still)
    return count
