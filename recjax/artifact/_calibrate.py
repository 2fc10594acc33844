"""Platt scaling: from the logits of a model to calibrated probabilities."""

from typing import NamedTuple

import numpy as np


def sigmoid(x: np.ndarray) -> np.ndarray:
    """``1 / (1 + exp(-x))`` in float64, without overflow."""
    x = np.asarray(x, np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


class Calibration(NamedTuple):
    r"""Platt scaling, :math:`p = \sigma(a z + b)` of a logit :math:`z`; by default it changes nothing.

    Attributes:
      a: factor.
      b: summand.
    """

    a: float = 1.0
    b: float = 0.0

    def probability(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of logits, float64."""
        return sigmoid(self.a * np.asarray(logits, np.float64) + self.b)


def calibrate(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    r"""Platt scaling of logits, fitted by maximum likelihood.

    With logits :math:`z`, and targets :math:`t` that are :math:`(n_1 + 1) / (n_1 + 2)` for the :math:`n_1` labels of 1
    and :math:`1 / (n_0 + 2)` for the :math:`n_0` labels of 0,

    .. math::
        \min_{a, b} -\sum_i \left( t_i \log \sigma(a z_i + b) + (1 - t_i) \log(1 - \sigma(a z_i + b)) \right).

    The targets keep :math:`a` finite where the logits separate the labels. Newton's method with backtracking.

    Args:
      logits: ``[rows]`` finite, of rows that the model was not trained on.
      labels: ``[rows]``, 0 or 1.

    Returns:
      The :class:`Calibration`.

    Raises:
      ValueError: if shapes differ, there are no rows, or a logit is not finite.

    Examples:
      >>> logits = np.array([2.0, 2.0, 2.0, 2.0, -2.0, -2.0, -2.0, -2.0])  # too sure of themselves
      >>> labels = np.array([1, 1, 1, 0, 0, 0, 0, 1])
      >>> calibrate(logits, labels).probability(np.array([2.0, -2.0])).round(3).tolist()
      [0.667, 0.333]

    References:
      Platt, *Probabilistic Outputs for Support Vector Machines*, 1999; the targets and Newton's method of Lin, Lin and
      Weng, *A Note on Platt's Probabilistic Outputs for Support Vector Machines*, Machine Learning 68, 2007.
    """
    z, labels = np.asarray(logits, np.float64), np.asarray(labels) > 0.5
    if z.shape != labels.shape or z.ndim != 1 or not z.size or not np.isfinite(z).all():
        raise ValueError(f"expected finite logits and labels [rows], got {list(z.shape)} and {list(labels.shape)}")
    ones = int(labels.sum())
    zeros = len(z) - ones
    target = np.where(labels, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    x = np.stack([z, np.ones_like(z)])
    at = np.array([0.0, np.log((ones + 1) / (zeros + 1))])

    def loss(at: np.ndarray) -> float:
        margin = at @ x
        return float((np.logaddexp(0, margin) - target * margin).sum())

    best = loss(at)
    for _ in range(100):
        p = sigmoid(at @ x)
        gradient = x @ (p - target)
        if np.abs(gradient).max() <= 1e-9 * len(z) * max(1.0, np.abs(z).max()):
            break
        hessian = (x * (p * (1 - p))) @ x.T + 1e-12 * np.eye(2)
        step = -np.linalg.solve(hessian, gradient)
        length = 1.0
        while length > 1e-10 and not loss(at + length * step) <= best + 1e-4 * length * gradient @ step:
            length /= 2
        if length <= 1e-10:  # the loss can't be told from a lower one anymore
            break
        at = at + length * step
        best = loss(at)
    return Calibration(float(at[0]), float(at[1]))
