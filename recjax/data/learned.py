"""Column encodings fitted on the train rows: categories, hashes, buckets and scaled numbers."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np


@dataclasses.dataclass(frozen=True)
class Categories:
    """Vocabulary of a categorical column; id 0 is for unknown and rare categories.

    Attributes:
      values: the categories with ids 1, 2, ... in this order; ``""`` stands for a missing value.
    """

    values: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of ids of the field."""
        return 1 + len(self.values)


@dataclasses.dataclass(frozen=True)
class Hashes:
    """Categories by a hash of their text, without a vocabulary.

    Attributes:
      buckets: number of ids of the field; categories may collide.
    """

    buckets: int

    @property
    def size(self) -> int:
        """Number of ids of the field."""
        return self.buckets


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Numbers by their interval; id 0 is for missing values.

    Attributes:
      edges: ascending; the id of x is 1 + the number of edges that are at most x.
    """

    edges: tuple[float, ...]

    @property
    def size(self) -> int:
        """Number of ids of the field."""
        return 2 + len(self.edges)


@dataclasses.dataclass(frozen=True)
class Logarithm:
    r"""A number as :math:`\mathrm{sign}(x) \log(1 + |x|)`, a factor of the vector of id 1; id 0 if missing."""

    @property
    def size(self) -> int:
        """Number of ids of the field."""
        return 2


@dataclasses.dataclass(frozen=True)
class Standard:
    """A standardized number, a factor of the vector of id 1; id 0 if missing.

    Attributes:
      mean: of the known numbers of the train rows.
      deviation: their population standard deviation; if it is 0, every number becomes 0.
    """

    mean: float
    deviation: float

    @property
    def size(self) -> int:
        """Number of ids of the field."""
        return 2


Column: TypeAlias = Categories | Hashes | Intervals | Logarithm | Standard
KINDS = {kind.__name__: kind for kind in (Categories, Hashes, Intervals, Logarithm, Standard)}


class Fitter(NamedTuple):
    """How to fit the encoding of a column.

    Attributes:
      numbers: whether the column is numeric, else categorical.
      fit: makes the :class:`Column` from the train rows: from ``[known] float64`` without missing values, or from a
        polars series of categories as text.
    """

    numbers: bool
    fit: Callable[[Any], Column]


def _at_least(least: int, **given: int) -> None:
    for name, value in given.items():
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")


def categories(*, min_count: int = 1) -> Fitter:
    """One id per category with at least ``min_count`` train rows, the most frequent first.

    Other categories share id 0. A missing value is a category too.

    Args:
      min_count: least number of train rows.

    Returns:
      A fitter of :class:`Categories`.

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
    """Ids by a hash of the category (BLAKE2b, the same on every machine).

    Args:
      buckets: number of ids.

    Returns:
      A fitter of :class:`Hashes`; it needs no train rows.

    Raises:
      ValueError: if ``buckets`` is below 1.

    References:
      Weinberger et al., `Feature Hashing for Large Scale Multitask Learning <https://arxiv.org/abs/0902.2206>`_, 2009.
    """
    _at_least(1, buckets=buckets)
    return Fitter(False, lambda texts: Hashes(buckets))


def quantiles(*, buckets: int) -> Fitter:
    """One id per quantile bucket of the train rows, and one for missing values.

    Equal edges are merged. Numbers outside the range of train are in the first or last bucket.

    Args:
      buckets: largest number of buckets.

    Returns:
      A fitter of :class:`Intervals`.

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
        constant = numbers.min() == numbers.max()  # its std may be above 0 by a rounding error
        return Standard(float(numbers.mean()), 0.0 if constant else float(numbers.std()))

    return Fitter(True, fit)
