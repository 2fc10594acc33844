"""A data set of click-through rates: from rows in files to examples of fields in three parts."""

import dataclasses
import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from recjax.data.encoding import Encoding
from recjax.data.examples import Examples
from recjax.data.learned import Fitter, quantiles


class ColumnStats(NamedTuple):
    """What the train rows of a column are like.

    Attributes:
      distinct: number of different values.
      missing: share of the rows without a value.
    """

    distinct: int
    missing: float


@dataclasses.dataclass(frozen=True, eq=False)
class CTRDataset:
    """Train, validation and test examples of a CTR task.

    Attributes:
      train: examples to train on.
      valid: examples to select hyperparameters and epochs on.
      test: examples to report on.
      features: number of ids of all fields together, the rows of the embedding table.
      encoding: how the columns became fields; None where the files had fields already.
      columns: statistics of every column of the train rows, also of those that are dropped.
      counts: how many rows were read, dropped and put into each part.
      split: how, in words.
    """

    train: Examples
    valid: Examples
    test: Examples
    features: int
    encoding: Encoding | None = None
    columns: Mapping[str, ColumnStats] = dataclasses.field(default_factory=dict)
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    split: str = "ready parts"

    @property
    def fields(self) -> int:
        """Number of fields per example."""
        return self.train.fields.shape[1]


NUMBERS = quantiles(buckets=32)


@dataclasses.dataclass(frozen=True)
class ColumnOptions:
    """What a caller says of the columns of a table; the rest is found.

    Attributes:
      label: name of the column with the labels. None finds it: by a common name (``label``, ``click``, ``target``,
        ...), or as the only column of 0 and 1.
      min_rating: the label is whether the value of its column, ``rating`` if not named, is at least this.
      numeric: names of columns of numbers.
      categorical: names of columns of categories.
      drop: names of columns that are not read.
      min_count: a category in fewer train rows has the id of unknown ones.
      hash_above: a column with more categories than this is hashed into as many ids.
      numbers: how numeric columns are read: :func:`quantiles`, :func:`logarithm` or :func:`standard`.
    """

    label: str | None = None
    min_rating: float | None = None
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    min_count: int = 2
    hash_above: int = 1_000_000
    numbers: Fitter = NUMBERS


OPTIONS = ColumnOptions()


def read_ctr(
    path: str | os.PathLike[str],
    options: ColumnOptions = OPTIONS,
    *,
    by_time: bool | None = None,
    seed: int = 0,
    valid: float = 0.1,
    test: float = 0.1,
) -> CTRDataset:
    r"""A data set of click-through rates from one file of rows.

    CSV, TSV (also with semicolons or bars), Parquet, RecBole's ``.inter``, libfm (``label index:1 ...``) and Criteo's
    logs (a label, 13 numbers and 26 categories between tabs); text also gzipped. The format is told from the content.
    The whole file is read into memory.

    The roles of columns are found by type and number of values, on train rows alone, as is all that is fitted: numbers
    are numeric, except whole numbers with at most 20 values or the name of an id, which are categories; text is
    categories, or several categories where any value has a ``|``; ISO dates, and numbers in a column of a common name
    for times, are timestamps. Columns without values, with a single one, or with unique ids are dropped. Times become
    two fields, hour and weekday; several categories become a field each, five at most, in which a category has the
    same vector.

    Rows without a label, and without a time where time splits them, are dropped and counted.

    Args:
      path: the file.
      options: what is known of the columns.
      by_time: test has the last rows, valid those before; else a hash of its number decides on each row. None for
        by time where there is a column with times.
      seed: of the hash.
      valid: share of the rows, in (0, 1).
      test: share of the rows, in (0, 1).

    Returns:
      The :class:`CTRDataset`.

    Raises:
      InputError: for a file that isn't such a table, naming the row and the column; for labels of one kind.

    Examples:
      >>> import pathlib, tempfile
      >>> rows = [f"u{i % 3},{i / 7:.3f},{i % 2},same,k{i}" for i in range(100)]
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "clicks.csv")
      ...     _ = path.write_text("\n".join(["user,price,click,site,key", *rows]))
      ...     dataset = read_ctr(path)
      >>> {name: column.role for name, column in dataset.encoding.columns.items()}
      {'user': 'categorical', 'price': 'numeric'}
      >>> dataset.encoding.dropped["key"], dataset.fields, dict(dataset.counts)["train_rows"]
      ('a different value in every train row', 2, 81)
    """
    from recjax.data import _ctr

    return _ctr.read(path, options, by_time=by_time, seed=seed, valid=valid, test=test)


def read_ctr_split(
    train: str | os.PathLike[str],
    valid: str | os.PathLike[str] | None,
    test: str | os.PathLike[str],
    options: ColumnOptions = OPTIONS,
    *,
    seed: int = 0,
) -> CTRDataset:
    """A data set of click-through rates whose parts somebody else made, one file each.

    Args:
      train: file with the rows to learn from; what :func:`read_ctr` reads.
      valid: file with the rows to choose by; None draws a tenth of the rows of train by a hash of their numbers.
      test: file with the rows to report on.
      options: what is known of the columns.
      seed: of the draw.

    Returns:
      The :class:`CTRDataset`; roles and all that is fitted are of the train rows.

    Raises:
      InputError: as for :func:`read_ctr`, or if a file lacks a column of train.
    """
    from recjax.data import _ctr

    return _ctr.read_parts(train, valid, test, options, seed)


def has_label(path: str | os.PathLike[str]) -> bool:
    """Whether a file is of click-through rates: libfm, Criteo, or a column with a common name for labels.

    Args:
      path: the file.

    Raises:
      InputError: for a file that is no table.
    """
    from recjax.data import _ctr

    return _ctr.has_label(path)


def describe_ctr(dataset: CTRDataset) -> list[str]:
    """Lines of text on a data set: each column's role, values and missing share, the label rate, the parts.

    Args:
      dataset: from :func:`read_ctr` or :func:`read_ctr_split`.

    Returns:
      The lines.
    """
    encoding = dataset.encoding
    lines = []
    if encoding is not None:
        kind = "" if encoding.min_rating is None else f", 1 from {encoding.min_rating:g} on"
        lines.append(f"label {encoding.label!r}{kind}")
        rows = [("column", "role", "values", "missing", "fields", "ids")]
        for name, stats in dataset.columns.items():
            column = encoding.columns.get(name)
            seen = (f"{stats.distinct:,}", f"{stats.missing:.1%}")
            if column is None:
                rows.append((name, "dropped", *seen, "", encoding.dropped[name]))
            else:
                rows.append((name, column.role, *seen, str(column.slots), str(column)))
        lines += _aligned(rows)
    lines.append(f"{dataset.fields} fields, {dataset.features:,} ids in all")
    lines.append(f"split: {dataset.split}")
    for name in ("train", "valid", "test"):
        label = getattr(dataset, name).label
        lines.append(f"  {name:<5}  {len(label):>11,} rows, {np.mean(label):.2%} with label 1")
    for name, count in dataset.counts.items():
        if count and not name.endswith("_rows") and name != "rows_read":
            lines.append(f"dropped: {count:,} rows ({name.replace('_', ' ')})")
    return lines


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of a table with columns of one width; numbers are to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    right = (2, 3, 4)
    return [
        "  ".join(f"{cell:>{width}}" if at in right else f"{cell:<{width}}" for at, (cell, width) in cells).rstrip()
        for cells in ([*enumerate(zip(row, widths, strict=True))] for row in rows)
    ]
