"""Settings drawn from ranges: at random, or evenly by a Sobol sequence."""

from typing import NamedTuple

import numpy as np

# Primitive polynomials and first direction numbers of dimensions 2 to 12: degree, coefficients, m_1 ... m_degree.
_JOE_KUO = (
    (1, 0, (1,)),
    (2, 1, (1, 3)),
    (3, 1, (1, 3, 1)),
    (3, 2, (1, 1, 1)),
    (4, 1, (1, 1, 3, 3)),
    (4, 4, (1, 3, 5, 13)),
    (5, 2, (1, 1, 5, 5, 17)),
    (5, 4, (1, 1, 5, 5, 5)),
    (5, 7, (1, 1, 7, 11, 19)),
    (5, 11, (1, 1, 5, 1, 1)),
    (5, 13, (1, 1, 1, 3, 11)),
)
BITS = 30


class Range(NamedTuple):
    """Values from ``low`` to ``high``.

    Attributes:
      low: the least.
      high: the greatest.
      log: whether their logarithms are spread evenly, and not they themselves.
    """

    low: float
    high: float
    log: bool = False

    def at(self, share: np.ndarray) -> np.ndarray:
        """The values at some shares of the way, ``[...]`` in [0, 1) to ``[...]`` float32."""
        low, high = (np.log([self.low, self.high])) if self.log else (self.low, self.high)
        value = low + share * (high - low)
        return np.clip(np.exp(value) if self.log else value, self.low, self.high).astype(np.float32)


def _of_shares(shares: np.ndarray, ranges: dict[str, Range]) -> dict[str, np.ndarray]:
    return {name: limits.at(share) for (name, limits), share in zip(ranges.items(), shares.T, strict=True)}


def random(count: int, *, key: int = 0, **ranges: Range) -> dict[str, np.ndarray]:
    """Settings drawn from ranges, each name on its own.

    Args:
      count: how many.
      key: another number gives other settings.
      **ranges: a name and its :class:`Range` each.

    Returns:
      What :func:`product` returns, so that ``product(random(...), seed=range(5))`` trains each with five seeds.

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
    """Settings spread evenly over ranges: any first ``2**n`` of them have one in each cell of many equal divisions.

    The first point of the sequence, all at ``low``, is left out.

    Args:
      count: how many; a power of two less one spreads best.
      **ranges: a name and its :class:`Range` each, twelve at most.

    Returns:
      What :func:`product` returns.

    Raises:
      ValueError: if there are more than twelve names.

    Examples:
      >>> {name: column.tolist() for name, column in sobol(3, alpha=Range(0, 1), bits=Range(2, 10)).items()}
      {'alpha': [0.5, 0.75, 0.25], 'bits': [6.0, 4.0, 8.0]}

    References:
      Joe and Kuo, `Constructing Sobol Sequences with Better Two-Dimensional Projections
      <https://doi.org/10.1137/070709359>`_, 2008, section 2; direction numbers ``new-joe-kuo-6.21201``.
    """
    if len(ranges) > 1 + len(_JOE_KUO):
        raise ValueError(f"expected at most {1 + len(_JOE_KUO)} names, got {len(ranges)}")
    return _of_shares(_sobol(count + 1, len(ranges))[1:], ranges)


def _sobol(count: int, dims: int) -> np.ndarray:
    """``[count, dims]`` in [0, 1), the first points of the sequence, in the order of the Gray code."""
    directions = np.zeros((dims, BITS), np.int64)
    directions[0] = 1 << np.arange(BITS - 1, -1, -1)
    for dim, (degree, coefficients, first) in enumerate(_JOE_KUO[: dims - 1], start=1):
        m = list(first)
        for i in range(degree, BITS):
            value = m[i - degree] ^ (m[i - degree] << degree)
            for k in range(1, degree):
                value ^= ((coefficients >> (degree - 1 - k)) & 1) * (m[i - k] << k)
            m.append(value)
        directions[dim] = [value << (BITS - 1 - i) for i, value in enumerate(m)]
    points = np.zeros((count, dims), np.int64)
    for i in range(1, count):
        lowest_zero = ((i - 1) ^ i).bit_length() - 1  # of i - 1: the bit in which the Gray codes of the two differ
        points[i] = points[i - 1] ^ directions[:, lowest_zero]
    return points / 2.0**BITS
