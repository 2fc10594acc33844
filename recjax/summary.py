"""Mean and standard deviation over seeds, and paired differences over users with bootstrap intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import scipy.stats

CELLS = 2**22  # resampled values in memory at once


class Summary(NamedTuple):
    """A metric over seeds.

    Attributes:
      mean: over all values.
      sd: sample standard deviation; None for a single value.
    """

    mean: float
    sd: float | None


class Difference(NamedTuple):
    """The mean difference of a metric between two recommenders over the same users.

    Attributes:
      difference: mean over users of the first minus the second.
      low: lower end of the interval; None with a single user.
      high: upper end, likewise.
      users: number of users.
    """

    difference: float
    low: float | None
    high: float | None
    users: int

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval, the smallest difference that these users can resolve."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def summary(values: Sequence[float] | np.ndarray | jax.Array) -> Summary:
    """Mean and sample standard deviation of ``values [seeds]``, computed in float64.

    Raises:
      ValueError: if there is no value, or ``values`` has more than one axis.

    Examples:
      >>> summary([1.0, 2.0, 3.0])
      Summary(mean=2.0, sd=1.0)
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"values: expected shape [seeds], at least one, got {array.shape}")
    return Summary(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None)


def paired_difference(
    of: np.ndarray | jax.Array,
    to: np.ndarray | jax.Array,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Mean difference of a metric over users, with a percentile bootstrap interval.

    Each recommender's metric is averaged over its seeds. The interval covers the central ``confidence`` of the mean
    differences over ``resamples`` bootstrap samples of the users. Seeds are not resampled: the interval accounts for
    other users, not for another training run.

    Args:
      of: ``[users]`` or ``[seeds, users]`` float, each user's metric by one recommender.
      to: ``[users]`` or ``[seeds, users]`` float, by the other one; same users in the same order, any number of seeds.
      confidence: of the interval, between 0 and 1.
      resamples: number of bootstrap samples.
      seed: of the bootstrap.

    Raises:
      ValueError: if users differ in number or there is none.

    Examples:
      >>> of, to = np.array([0.5, 0.7, 0.2, 0.9]), np.array([0.4, 0.6, 0.2, 0.6])
      >>> found = paired_difference(of, to)
      >>> print(f"{found.difference:.3f} [{found.low:.3f}, {found.high:.3f}], {found.users} users")
      0.125 [0.025, 0.250], 4 users

    References:
      Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, section 13.3; paired over users as in Sakai,
      *Evaluating Evaluation Metrics based on the Bootstrap*, SIGIR 2006.
    """
    each, other = (np.asarray(values, np.float64) for values in (of, to))
    each, other = (values.mean(axis=0) if values.ndim == 2 else values for values in (each, other))
    if each.ndim != 1 or each.shape != other.shape or not each.size:
        raise ValueError(
            f"of and to: expected [users] or [seeds, users] with equal users, got {np.shape(of)} and {np.shape(to)}"
        )
    difference, users = each - other, len(each)
    if users == 1:
        return Difference(float(difference[0]), None, None, 1)
    found = scipy.stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, CELLS // users),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Difference(float(difference.mean()), float(found.low), float(found.high), users)
