"""Settings sampled from ranges: at random, or by a Sobol sequence."""

from typing import NamedTuple

import numpy as np
import scipy.stats


class Range(NamedTuple):
    """An interval of values.

    Attributes:
      low: the smallest.
      high: the largest.
      log: sample uniformly on a logarithmic scale.
    """

    low: float
    high: float
    log: bool = False

    def at(self, share: np.ndarray) -> np.ndarray:
        """The values at some shares of the interval, ``[...]`` in [0, 1) to ``[...]`` float32."""
        low, high = (np.log([self.low, self.high])) if self.log else (self.low, self.high)
        value = low + share * (high - low)
        return np.clip(np.exp(value) if self.log else value, self.low, self.high).astype(np.float32)


def _of_shares(shares: np.ndarray, ranges: dict[str, Range]) -> dict[str, np.ndarray]:
    return {name: limits.at(share) for (name, limits), share in zip(ranges.items(), shares.T, strict=True)}


def random(count: int, *, key: int = 0, **ranges: Range) -> dict[str, np.ndarray]:
    """Settings sampled at random, independently for each name.

    Args:
      count: number of settings.
      key: seed of the NumPy generator.
      **ranges: a :class:`Range` per name.

    Returns:
      As :func:`product`, so that ``product(random(...), seed=range(5))`` trains each with five seeds.

    Examples:
      >>> settings = random(3, learning_rate=Range(1e-4, 1e-1, log=True), alpha=Range(0, 1))
      >>> {name: column.shape for name, column in settings.items()}
      {'learning_rate': (3,), 'alpha': (3,)}

    References:
      Bergstra and Bengio, `Random Search for Hyper-Parameter Optimization
      <https://jmlr.org/papers/v13/bergstra12a.html>`_, 2012, section 2.
    """
    return _of_shares(np.random.default_rng(key).random((count, len(ranges))), ranges)


def sobol(count: int, **ranges: Range) -> dict[str, np.ndarray]:
    """Settings of a Sobol sequence, which covers the ranges evenly; without its first point, all at ``low``.

    Args:
      count: number of settings; a power of two minus one covers best.
      **ranges: a :class:`Range` per name.

    Returns:
      As :func:`product`.

    Examples:
      >>> {name: column.tolist() for name, column in sobol(3, alpha=Range(0, 1), bits=Range(2, 10)).items()}
      {'alpha': [0.5, 0.75, 0.25], 'bits': [6.0, 4.0, 8.0]}

    References:
      Joe and Kuo, `Constructing Sobol Sequences with Better Two-Dimensional Projections
      <https://doi.org/10.1137/070709359>`_, 2008, section 2.
    """
    points = scipy.stats.qmc.Sobol(len(ranges), scramble=False).fast_forward(1)
    return _of_shares(points.random(count), ranges)
