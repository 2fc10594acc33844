"""Mean and standard deviation over seeds, and paired differences over users with a bootstrap interval."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import scipy.stats

CELLS = 2**22  # resampled values in memory at once


class Summary(NamedTuple):
    """What a metric comes to over seeds.

    Attributes:
      mean: over all values.
      sd: sample standard deviation; None of a single value.
    """

    mean: float
    sd: float | None


class Difference(NamedTuple):
    """The mean difference of a metric between two recommenders, over the same users.

    Attributes:
      difference: the mean over users of the first minus the second.
      low: lower end of the interval; None with a single user.
      high: upper end, likewise.
      users: how many users were compared.
    """

    difference: float
    low: float | None
    high: float | None
    users: int

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval: a smaller difference is not resolved with these users."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def summary(values: Sequence[float] | np.ndarray | jax.Array) -> Summary:
    """Mean and sample standard deviation.

    Args:
      values: ``[seeds]`` float, at least one.

    Returns:
      A :class:`Summary`, computed in float64.

    Raises:
      ValueError: if there is no value, or ``values`` has more than one axis.

    Examples:
      >>> summary([1.0, 2.0, 3.0])
      Summary(mean=2.0, sd=1.0)
      >>> summary([0.5])
      Summary(mean=0.5, sd=None)
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"expected values [seeds], at least one, got shape {array.shape}")
    return Summary(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None)


def paired_difference(
    of: np.ndarray | jax.Array,
    to: np.ndarray | jax.Array,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    r"""Mean over users of a metric's difference, with a percentile bootstrap interval.

    With :math:`d_u` the difference of user :math:`u`, each recommender's metric averaged over its seeds, the interval
    holds the central ``confidence`` of the means of ``resamples`` samples of the :math:`d_u`, as many as there are
    users, drawn with replacement. Users are resampled and seeds are not, so it says how much another set of users would
    change the difference, not how much another training would.

    Args:
      of: ``[users]`` or ``[seeds, users]`` float, each user's metric by one recommender.
      to: ``[users]`` or ``[seeds, users]`` float, by the other one; of the same users in the same order, and as many
        seeds as it likes.
      confidence: of the interval, between 0 and 1.
      resamples: how many samples are drawn.
      seed: of the samples, fixed so that a result can be repeated.

    Returns:
      A :class:`Difference`.

    Raises:
      ValueError: if users differ in number or there is none.

    Examples:
      >>> of, to = np.array([0.5, 0.7, 0.2, 0.9]), np.array([0.4, 0.6, 0.2, 0.6])
      >>> found = paired_difference(of, to)
      >>> print(f"{found.difference:.3f} [{found.low:.3f}, {found.high:.3f}], {found.users} users")
      0.125 [0.025, 0.250], 4 users
      >>> paired_difference(np.stack([of, of]), of).difference
      0.0

    References:
      Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, section 13.3; paired over users as in Sakai,
      *Evaluating Evaluation Metrics based on the Bootstrap*, SIGIR 2006.
    """
    each, other = (np.asarray(values, np.float64) for values in (of, to))
    each, other = (values.mean(axis=0) if values.ndim == 2 else values for values in (each, other))
    if each.ndim != 1 or each.shape != other.shape or not each.size:
        raise ValueError(
            f"expected [users] or [seeds, users] of the same users, at least one, got {np.shape(of)} and {np.shape(to)}"
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
