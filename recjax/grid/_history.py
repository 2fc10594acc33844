"""The history of a population, and stopping rules: pure functions of NumPy arrays."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class History(NamedTuple):
    """The validations of a population so far.

    Attributes:
      steps: ``[validations]``, the steps done at each.
      loss: ``[validations, seeds, settings]``, the mean training loss since the last validation.
      valid: ``[validations, seeds, settings]``, the validation metric.
      score: ``[validations, seeds, settings]``, the criterion of the best parameters: the metric's mean over seeds, or
        each seed's own; minus infinity if a validation doesn't count or the setting has stopped.
      running: ``[validations, settings]`` bool, the settings that had not stopped; the curves of others are NaN.
    """

    steps: np.ndarray
    loss: np.ndarray
    valid: np.ndarray
    score: np.ndarray
    running: np.ndarray


Stop = Callable[[History, np.ndarray], np.ndarray]


def history(
    steps: np.ndarray, loss: np.ndarray, valid: np.ndarray, running: np.ndarray, *, count_from: int, by_seed: bool
) -> History:
    """A :class:`History` of curves; see :class:`Schedule` for ``count_from`` and ``by_seed``."""
    score = valid if by_seed else np.broadcast_to(valid.mean(axis=1, keepdims=True), valid.shape)
    score = np.where(np.isnan(score), np.finfo(np.float32).min, score)  # a NaN counts, as the worst score
    counts = (steps >= count_from)[:, None, None] & running[:, None]
    return History(steps, loss, valid, np.where(counts, score, -np.inf), running)


def best_at(past: History) -> np.ndarray:
    """``[seeds, settings]``, the first validation with the highest score; -1 if none counts yet."""
    if not len(past.steps):
        return np.full(past.score.shape[1:], -1)
    return np.where(past.score.max(axis=0) > -np.inf, past.score.argmax(axis=0), -1)


def plateaus(past: History, *, patience: int) -> np.ndarray:
    """The number of plateaus of each member: ``patience`` validations in a row that counted and were not its best.

    A plateau begins where the last one ended, so twice the patience gives two.

    Args:
      past: the history so far.
      patience: validations without improvement per plateau.

    Returns:
      ``[seeds, settings]`` int, never falling as the history grows.

    Examples:
      A learning rate that falls to a tenth at each plateau, as :attr:`Schedule.adapt`:

      >>> def adapt(hparams, past):
      ...     return hparams._replace(learning_rate=hparams.learning_rate * 0.1 ** plateaus(past, patience=2))
      >>> score = np.array([0.3, 0.5, 0.4, 0.5, 0.6, 0.1, 0.2, 0.1, 0.2]).reshape(-1, 1, 1)
      >>> past = History(np.arange(9), score, score, score, np.ones((9, 1), bool))
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


def never(past: History, running: np.ndarray) -> np.ndarray:
    """The default :attr:`Schedule.stop`: no setting stops before the whole population does."""
    return np.zeros_like(running)


def stagnant(past: History, running: np.ndarray, *, patience: int) -> np.ndarray:
    """Stops settings none of whose members improved in the last ``patience`` validations; for :attr:`Schedule.stop`.

    Args:
      past: the history so far.
      running: ``[settings]`` bool, those that haven't stopped.
      patience: validations without improvement.

    Returns:
      ``[settings]`` bool, those to stop.

    Examples:
      >>> score = np.array([[0.1, 0.3], [0.2, 0.1], [0.3, 0.2]])[:, None]
      >>> past = History(np.arange(3), score, score, score, running=np.ones((3, 2), bool))
      >>> stagnant(past, np.ones(2, bool), patience=2).tolist()
      [False, True]
    """
    at = best_at(past)
    return running & np.all((at >= 0) & (len(past.steps) - 1 - at >= patience), axis=0)


def halving(past: History, running: np.ndarray, *, every: int, keep: float = 0.5) -> np.ndarray:
    """Successive halving: stops the worst settings at regular validations; for :attr:`Schedule.stop`.

    Settings are ranked by their score at that validation, averaged over seeds; ties by order.

    Args:
      past: the history so far.
      running: ``[settings]`` bool, those that haven't stopped.
      every: validations between two cuts.
      keep: share of the settings that continue, rounded up.

    Returns:
      ``[settings]`` bool, those to stop.

    Examples:
      >>> score = np.array([[0.1, 0.4, 0.3, 0.2]])[:, None]
      >>> past = History(np.arange(1), score, score, score, running=np.ones((1, 4), bool))
      >>> halving(past, np.ones(4, bool), every=1).tolist()
      [True, False, False, True]

    References:
      Jamieson and Talwalkar, `Non-stochastic Best Arm Identification and Hyperparameter Optimization
      <https://arxiv.org/abs/1502.07943>`_, 2016, figure 3.
    """
    if len(past.steps) % every or not (past.score[-1] > -np.inf).any():
        return np.zeros_like(running)
    score = np.where(running, past.score[-1].mean(axis=0, dtype=np.float64), -np.inf)
    order = np.argsort(-score, kind="stable")
    stays = np.zeros_like(running)
    stays[order[: int(np.ceil(keep * running.sum()))]] = True
    return running & ~stays
