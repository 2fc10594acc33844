"""What is learned of one column of a table, and how: categories, and numbers as buckets or as they are."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np


@dataclasses.dataclass(frozen=True)
class Categories:
    """A category a value; what is not among them, or nothing at all if that was rare, is 0.

    Attributes:
      values: those that have an id of their own, 1, 2, ... in this order; ``""`` stands for nothing.
    """

    values: tuple[str, ...]

    @property
    def size(self) -> int:
        """Ids of the field."""
        return 1 + len(self.values)


@dataclasses.dataclass(frozen=True)
class Hashes:
    """Categories by a hash of their text, which no vocabulary has to hold.

    Attributes:
      buckets: ids of the field, whatever the values; several values share one.
    """

    buckets: int

    @property
    def size(self) -> int:
        """Ids of the field."""
        return self.buckets


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Numbers by the interval that they lie in; nothing is 0.

    Attributes:
      edges: ascending; a number has the id 1 + how many of them are not above it.
    """

    edges: tuple[float, ...]

    @property
    def size(self) -> int:
        """Ids of the field."""
        return 2 + len(self.edges)


@dataclasses.dataclass(frozen=True)
class Logarithm:
    r"""A number as :math:`\mathrm{sign}(x) \log(1 + |x|)`, which multiplies the vector of id 1; nothing is id 0."""

    @property
    def size(self) -> int:
        """Ids of the field."""
        return 2


@dataclasses.dataclass(frozen=True)
class Standard:
    """A number less the mean and divided by the deviation, which multiplies the vector of id 1; nothing is id 0.

    Attributes:
      mean: of the train rows that have a number.
      deviation: theirs, of the population; where it is 0, every number becomes 0.
    """

    mean: float
    deviation: float

    @property
    def size(self) -> int:
        """Ids of the field."""
        return 2


Column: TypeAlias = Categories | Hashes | Intervals | Logarithm | Standard
KINDS = {kind.__name__: kind for kind in (Categories, Hashes, Intervals, Logarithm, Standard)}


class Fitter(NamedTuple):
    """What is to be learned of a column.

    Attributes:
      numbers: whether the column has numbers; else it has categories.
      fit: gives the :class:`Column` from the train rows: from their numbers, ``[known] float64`` without those that are
        missing, or from a polars series of their categories as text.
    """

    numbers: bool
    fit: Callable[[Any], Column]


def _at_least(least: int, **given: int) -> None:
    for name, value in given.items():
        if value < least:
            raise ValueError(f"expected {name} of at least {least}, got {value}")


def categories(*, min_count: int = 1) -> Fitter:
    """One id a category that is in so many train rows at least, the most frequent first.

    Rarer ones and those that train doesn't have share the id 0. Nothing is a category like any other.

    Args:
      min_count: least number of train rows.

    Returns:
      The fitter; it gives :class:`Categories`.

    Raises:
      ValueError: if ``min_count`` is below 1.
    """
    _at_least(1, min_count=min_count)

    def fit(texts: Any) -> Categories:
        counts = texts.alias("value").value_counts(name="count")
        kept = counts.filter(counts["count"] >= min_count).sort("count", "value", descending=[True, False])
        return Categories(tuple(kept["value"].to_list()))

    return Fitter(False, fit)


def hashes(*, buckets: int) -> Fitter:
    """One of so many ids by a hash of the category (BLAKE2b, the same everywhere).

    Args:
      buckets: how many ids.

    Returns:
      The fitter; it gives :class:`Hashes`, and needs no train rows for that.

    Raises:
      ValueError: if ``buckets`` is below 1.

    References:
      Weinberger et al., `Feature Hashing for Large Scale Multitask Learning <https://arxiv.org/abs/0902.2206>`_, 2009.
    """
    _at_least(1, buckets=buckets)
    return Fitter(False, lambda texts: Hashes(buckets))


def quantiles(*, buckets: int) -> Fitter:
    """One id an interval, the edges being quantiles of the train rows, so that each holds about as many of them.

    Edges that coincide, where one number is frequent, count once. Numbers beyond those of train are in the first or the
    last interval; a missing number has an id of its own.

    Args:
      buckets: how many intervals, at most.

    Returns:
      The fitter; it gives :class:`Intervals`.

    Raises:
      ValueError: if ``buckets`` is below 1.
    """
    _at_least(1, buckets=buckets)

    def fit(numbers: np.ndarray) -> Intervals:
        if not numbers.size:
            return Intervals(())
        edges = np.quantile(numbers, np.arange(1, buckets) / buckets)
        return Intervals(tuple(np.unique(edges).tolist()))

    return Fitter(True, fit)


def logarithm() -> Fitter:
    """The logarithm of the number, for counts and prices; see :class:`Logarithm`."""
    return Fitter(True, lambda numbers: Logarithm())


def standard() -> Fitter:
    """The number with mean 0 and deviation 1 in the train rows; see :class:`Standard`."""

    def fit(numbers: np.ndarray) -> Standard:
        if not numbers.size:
            return Standard(0.0, 0.0)
        constant = numbers.min() == numbers.max()  # whose mean may be off by a rounding
        return Standard(float(numbers.mean()), 0.0 if constant else float(numbers.std()))

    return Fitter(True, fit)
