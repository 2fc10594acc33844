"""Columns of a table as ids: categories, sets of them, numbers and times, and what is fitted on train rows."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

from recjax.ids import id_hash

EPOCH = 1e8  # numbers that are times since 1970, in seconds or finer, are above it: March 1973
Read: TypeAlias = tuple[np.ndarray, np.ndarray | None]  # ids [rows, slots] from 0, and what multiplies their vectors


@dataclasses.dataclass(frozen=True)
class Categories:
    """One id for each known category; any other value has the id 0, and so has a missing one if that was rare.

    Attributes:
      values: the categories with the ids 1, 2, ... in this order; ``""`` is the missing value.
    """

    values: tuple[str, ...]
    role: ClassVar[str] = "categorical"
    slots: ClassVar[int] = 1

    @property
    def size(self) -> int:
        """Ids of the column."""
        return 1 + len(self.values)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {text: 1 + i for i, text in enumerate(self.values)}

    def example(self, i: int) -> Any:
        """A raw value: a missing one for 0, else the i-th of a few that differ where the column has so many."""
        return self.values[(i - 1) % len(self.values)] if i and self.values else None

    def encode(self, texts: Sequence[str]) -> Read:
        """The ids of some texts."""
        return np.array([self._ids.get(text, 0) for text in texts], np.int32).reshape(-1, 1), None

    def unknown(self, texts: Sequence[str]) -> np.ndarray:
        """``[texts]`` bool, which are no missing value and have no id of their own."""
        return np.array([text != "" and text not in self._ids for text in texts], bool)

    def __str__(self) -> str:
        return f"{self.size:,} ids"


@dataclasses.dataclass(frozen=True)
class Hashes:
    """Categories by a hash of their text, so that no vocabulary is stored.

    Attributes:
      buckets: ids of the column; several values share one.
    """

    buckets: int
    role: ClassVar[str] = "categorical"
    slots: ClassVar[int] = 1

    @property
    def size(self) -> int:
        """Ids of the column."""
        return self.buckets

    def example(self, i: int) -> Any:
        """A raw value: a missing one for 0, else the i-th of a few that differ where the column has so many."""
        return f"value {i}" if i else None

    def encode(self, texts: Sequence[str]) -> Read:
        """The ids of some texts."""
        return (id_hash(texts) % np.uint64(self.buckets)).astype(np.int32).reshape(-1, 1), None

    def unknown(self, texts: Sequence[str]) -> np.ndarray:
        """``[texts]`` bool, False throughout: every text has a bucket."""
        return np.zeros(len(texts), bool)

    def __str__(self) -> str:
        return f"hashed into {self.buckets:,} ids"


@dataclasses.dataclass(frozen=True)
class Sets:
    """Several categories in one value, such as ``"comedy|drama"``: a field for each of the first few of them.

    A row's known categories, each once and the most frequent of train first, fill its fields from the left; fields
    that are left over have the id 0, and categories beyond the last field are left out. The fields share their ids,
    so a category has one vector, whichever field it is in.

    Attributes:
      values: the known categories with the ids 1, 2, ..., the most frequent first.
      slots: fields of the column.
      separator: between categories.
    """

    values: tuple[str, ...]
    slots: int
    separator: str = "|"
    role: ClassVar[str] = "multi-valued"

    @property
    def size(self) -> int:
        """Ids of the column."""
        return 1 + len(self.values)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {text: 1 + i for i, text in enumerate(self.values)}

    def example(self, i: int) -> Any:
        """A raw value: a missing one for 0, else the i-th of a few that differ where the column has so many."""
        return self.separator.join(self.values[:i]) if i else None

    def encode(self, texts: Sequence[str]) -> Read:
        """The ids of some texts."""
        ids = np.zeros((len(texts), self.slots), np.int32)
        for row, text in enumerate(texts):
            found = sorted({self._ids.get(part, 0) for part in parts_of(text, self.separator)} - {0})[: self.slots]
            ids[row, : len(found)] = found
        return ids, None

    def unknown(self, texts: Sequence[str]) -> np.ndarray:
        """``[texts]`` bool, which have a category without an id."""
        parts = [parts_of(text, self.separator) for text in texts]
        return np.array([any(part not in self._ids for part in each) for each in parts], bool)

    def __str__(self) -> str:
        return f"at most {self.slots} of {len(self.values):,} known values a row"


def parts_of(text: str, separator: str) -> list[str]:
    """The categories in a value, without blanks around them and without empty ones."""
    return [part for part in map(str.strip, text.split(separator)) if part]


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Numbers by the interval that they lie in; a missing number has the id 0.

    Attributes:
      edges: ascending; the id of x is 1 + the number of edges that are at most x.
    """

    edges: tuple[float, ...]
    role: ClassVar[str] = "numeric"
    slots: ClassVar[int] = 1

    @property
    def size(self) -> int:
        """Ids of the column."""
        return 2 + len(self.edges)

    def example(self, i: int) -> Any:
        """A raw value: a missing one for 0, else the i-th of a few that differ where the column has so many."""
        return (self.edges[(i - 1) * len(self.edges) // 4] if self.edges else 1.0) if i else None

    def encode(self, numbers: np.ndarray) -> Read:
        """The ids of some numbers."""
        ids = 1 + np.searchsorted(np.array(self.edges), numbers, side="right")
        return np.where(np.isnan(numbers), 0, ids).astype(np.int32)[:, None], None

    def __str__(self) -> str:
        return f"{1 + len(self.edges)} intervals between quantiles of train"


class _Scaled(abc.ABC):
    """A number that multiplies the vector of id 1; a missing one is id 0."""

    role: ClassVar[str] = "numeric"
    slots: ClassVar[int] = 1
    size: ClassVar[int] = 2

    @abc.abstractmethod
    def _scale(self, numbers: np.ndarray) -> np.ndarray:
        """What multiplies the vector, in float64."""

    def example(self, i: int) -> Any:
        """A raw value: a missing one for 0, else the i-th of a few that differ where the column has so many."""
        return float(i) if i else None

    def encode(self, numbers: np.ndarray) -> Read:
        """The ids of some numbers, and what multiplies their vectors."""
        missing = np.isnan(numbers)
        limit = np.finfo(np.float32).max  # of a column with a tiny deviation, other numbers may be beyond it
        with np.errstate(over="ignore"):
            values = np.where(missing, 1, np.clip(self._scale(numbers), -limit, limit)).astype(np.float32)
        return np.where(missing, 0, 1).astype(np.int32)[:, None], values[:, None]


@dataclasses.dataclass(frozen=True)
class Logarithm(_Scaled):
    r"""A number as :math:`\mathrm{sign}(x) \log(1 + |x|)`, times the vector of id 1; a missing one is id 0."""

    def _scale(self, numbers: np.ndarray) -> np.ndarray:
        return np.sign(numbers) * np.log1p(np.abs(numbers))

    def __str__(self) -> str:
        return "logarithm of the number times one vector"


@dataclasses.dataclass(frozen=True)
class Standard(_Scaled):
    """A number less the mean and divided by the deviation, which multiplies the vector of id 1; a missing one is id 0.

    Attributes:
      mean: of the known numbers of the train rows.
      deviation: their population standard deviation; if it is 0, every number becomes 0.
    """

    mean: float
    deviation: float

    def _scale(self, numbers: np.ndarray) -> np.ndarray:
        return (numbers - self.mean) / self.deviation if self.deviation else np.zeros_like(numbers)

    def __str__(self) -> str:
        return "standardized number times one vector"


@dataclasses.dataclass(frozen=True)
class Times:
    """Times as two fields: the hour of the day (ids 1 to 24) and the day of the week (26 to 32), both in UTC.

    A missing time has the ids 0 and 25.

    Attributes:
      unit: how many of a number's units make a second: 1, or 1000 for milliseconds, ...
    """

    unit: float = 1.0
    role: ClassVar[str] = "timestamp"
    slots: ClassVar[int] = 2
    size: ClassVar[int] = 33

    def example(self, i: int) -> Any:
        """A raw value: a missing one for 0, else the i-th of a few that differ where the column has so many."""
        return (90000 * i + 1e9) * self.unit if i else None

    def encode(self, numbers: np.ndarray) -> Read:
        """The ids of some times since 1970 in the column's unit."""
        missing = np.isnan(numbers)
        whole = np.where(missing, 0, np.floor(numbers / self.unit)).astype(np.int64)
        hour, weekday = whole // 3600 % 24, (whole // 86400 + 3) % 7  # 1970 began on a Thursday
        ids = np.stack([np.where(missing, 0, 1 + hour), np.where(missing, 25, 26 + weekday)], axis=1)
        return ids.astype(np.int32), None

    def __str__(self) -> str:
        return "hour of the day and day of the week, UTC"


Column: TypeAlias = Categories | Hashes | Sets | Intervals | Logarithm | Standard | Times
KINDS = {kind.__name__: kind for kind in (Categories, Hashes, Sets, Intervals, Logarithm, Standard, Times)}


class Fitter(NamedTuple):
    """How a column is read, and what is fitted on its train rows.

    Attributes:
      kind: the class of the :class:`Column`, which says what the column's values are.
      fit: gives the :class:`Column` of train: from the known numbers or seconds ``[known] float64``; for text, from
        the distinct values and ``[distinct]`` how many rows have each.
    """

    kind: type[Column]
    fit: Callable[..., Column]


def _at_least(least: int, **given: int) -> None:
    for name, value in given.items():
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")


def categories(*, min_count: int = 1, hash_above: int | None = None) -> Fitter:
    """One id a category that is in at least ``min_count`` train rows, the most frequent first.

    Rarer ones and those that train doesn't have share the id 0. A missing value is a category like any other.

    Args:
      min_count: least number of train rows.
      hash_above: where there are more such categories, they are hashed into so many ids instead; None for never.

    Returns:
      The fitter; it gives :class:`Categories` or :class:`Hashes`.

    Raises:
      ValueError: if ``min_count`` or ``hash_above`` is below 1.
    """
    _at_least(1, min_count=min_count, hash_above=1 if hash_above is None else hash_above)

    def fit(texts: Sequence[str], counts: np.ndarray) -> Column:
        kept = _frequent(texts, counts, min_count)
        return Categories(kept) if hash_above is None or len(kept) <= hash_above else Hashes(hash_above)

    return Fitter(Categories, fit)


def _frequent(texts: Sequence[str], counts: np.ndarray, min_count: int) -> tuple[str, ...]:
    """The texts with such a count, the most frequent first, those of equal counts by text."""
    kept = [(-int(count), text) for text, count in zip(texts, counts.tolist(), strict=True) if count >= min_count]
    return tuple(text for _, text in sorted(kept))


def sets(*, min_count: int = 1, slots: int = 5, separator: str = "|") -> Fitter:
    """Several categories in one value; see :class:`Sets`.

    Args:
      min_count: least number of train rows of a category that has an id of its own.
      slots: fields of the column, at most; fewer where nine train rows in ten have no more categories.
      separator: between categories.

    Returns:
      The fitter; it gives :class:`Sets`.

    Raises:
      ValueError: if ``min_count`` or ``slots`` is below 1.
    """
    _at_least(1, min_count=min_count, slots=slots)

    def fit(texts: Sequence[str], counts: np.ndarray) -> Sets:
        parts = [set(parts_of(text, separator)) for text in texts]
        totals: dict[str, int] = {}
        for each, count in zip(parts, counts.tolist(), strict=True):
            for part in each:
                totals[part] = totals.get(part, 0) + count
        lengths = np.repeat([len(each) for each in parts], counts)
        longest = int(np.quantile(lengths, 0.9, method="higher")) if lengths.size else 1
        kept = _frequent(list(totals), np.array(list(totals.values()), int), min_count)
        return Sets(kept, min(max(longest, 1), slots), separator)

    return Fitter(Sets, fit)


def times() -> Fitter:
    """Hour and weekday, see :class:`Times`. Numbers above 1e11 are milli-, 1e14 micro-, 1e17 nanoseconds."""
    return Fitter(Times, lambda numbers: Times(time_unit(numbers)))


def time_unit(numbers: np.ndarray) -> float:
    """How many units of some times since 1970 make a second, by the largest of them."""
    top = float(np.max(numbers, initial=0.0))
    return next((unit for limit, unit in ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3)) if top > limit), 1.0)


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
    return Fitter(Hashes, lambda texts, counts: Hashes(buckets))


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

    return Fitter(Intervals, fit)


def logarithm() -> Fitter:
    """The logarithm of the number, for counts and prices; see :class:`Logarithm`."""
    return Fitter(Logarithm, lambda numbers: Logarithm())


def standard() -> Fitter:
    """The number with mean 0 and deviation 1 in the train rows; see :class:`Standard`."""

    def fit(numbers: np.ndarray) -> Standard:
        if not numbers.size:
            return Standard(0.0, 0.0)
        constant = numbers.min() == numbers.max()  # its std may be above 0 by a rounding error
        return Standard(float(numbers.mean()), 0.0 if constant else float(numbers.std()))

    return Fitter(Standard, fit)
