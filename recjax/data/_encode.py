"""Tables in files as fields. Polars inside; nothing here loops over rows."""

import dataclasses
import gzip
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from recjax.data import _columns, _libfm
from recjax.data._polars import pl
from recjax.data._source import Source, open_source
from recjax.data.encode import CRITEO
from recjax.data.encoding import TEXT, Encoded, Encoding, Raw, joined
from recjax.data.examples import Examples
from recjax.data.learned import Column, Fitter, Times
from recjax.errors import InputError

LIBFM = re.compile(rb"[+-]?[01](\.0*)?([ \t]+\d+:\S+)+")
BOOLEANS = {"true": "1", "false": "0"}


@dataclasses.dataclass(frozen=True)
class Table:
    """A file's columns, and the lines of the file to blame.

    Attributes:
      source: for messages, and whether commas are decimal.
      columns: their names.
      kinds: RecBole's types, ``""`` elsewhere.
      names: those of a format without a header that is known, else None.
      frame: ``row``, and the columns as ``"0"``, ``"1"``, ...
    """

    source: Source
    columns: tuple[str, ...]
    kinds: tuple[str, ...]
    names: tuple[str, ...] | None
    frame: pl.DataFrame

    def __getitem__(self, name: str) -> pl.Series:
        """A column, null where a value is missing; NaN is a missing number."""
        values = self.frame[str(self.position(name))]
        return values.fill_nan(None) if values.dtype.is_float() else values

    def position(self, name: str) -> int:
        """Where a column is."""
        if name not in self.columns:
            message = f"{self.source.path}: expected a column {name!r}, got columns {_columns.listed(self.source)}"
            raise InputError(message)
        return _columns.only(self.source, self.columns, name)

    def take(self, rows: np.ndarray) -> "Table":
        """The table of some rows, ``[rows]`` bool."""
        return dataclasses.replace(self, frame=self.frame.filter(pl.Series(rows)))

    def blame(self, name: str, wrong: pl.Series, expected: str) -> None:
        """Raises for the first row that is wrong, if any."""
        _columns.blame(self.source, self.frame, name, self[name], wrong, expected)


def open_table(
    path: str | os.PathLike[str],
    named: Sequence[str],
    names: Sequence[str] | None = None,
    *,
    without_label: bool = False,
) -> Table:
    """The table in a file: CSV, TSV, Parquet, RecBole's atomic files, libfm, Criteo.

    Args:
      path: the file.
      named: columns that are known to be in the header, if there is one.
      names: of all columns, for a file that has no header.
      without_label: whether the first of ``names``, the label, may be missing from the file.
    """
    if is_libfm(path):
        fields, label = _libfm.parse(path)
        names = ("label", *map(str, range(1, fields.shape[1] + 1)))
        frame = pl.DataFrame({"0": label, **{str(1 + i): column for i, column in enumerate(fields.T)}})
        source = Source(os.fspath(path), names, ("",) * len(names), False, b"", " ")
        return Table(source, names, ("", *["token"] * (len(names) - 1)), None, frame.with_row_index("row", 1))
    source = open_source(path, () if names is not None else named)
    frame = source.load({str(at): at for at in range(len(source.columns))})
    if names is None and is_criteo(source):
        names = CRITEO
    if names is None:
        return Table(source, source.columns, source.kinds, None, frame)
    names = tuple(names)
    if len(source.columns) not in (len(names), len(names) - without_label):
        raise InputError(f"{source.path}: expected {len(names)} columns, got {len(source.columns)}")
    if source.has_header:
        row = source.first_row
        raise InputError(f"{source.path}: row {row}: expected no header, got {_columns.listed(source)}")
    columns = names[len(names) - len(source.columns) :]
    return Table(source, columns, ("",) * len(columns), names, frame)


def is_libfm(path: str | os.PathLike[str]) -> bool:
    """Whether the first line that isn't blank is ``label index:value ...``; errors are left to those who read all."""
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else open(path, "rb") as file:
            first = next((line for line in file if line.strip()), b"")
    except (OSError, EOFError, ValueError, zlib.error):
        return False
    return LIBFM.fullmatch(first.removeprefix(b"\xef\xbb\xbf").strip()) is not None


def is_criteo(source: Source) -> bool:
    """Whether a file is a log of Criteo: 40 columns with tabs between them, the first 0 or 1, and no header."""
    without_header = not source.has_header and source.separator == "\t" and len(source.columns) == len(CRITEO)
    return without_header and source.body[:2] in (b"0\t", b"1\t")


def labels(table: Table, name: str, min_rating: float | None) -> tuple[np.ndarray, np.ndarray]:
    """``[rows]`` float32, 0 or 1, and ``[rows]`` bool, which rows have a label."""
    values = table[name]
    if values.dtype == pl.String:
        values = values.str.to_lowercase().replace(BOOLEANS)
    numbers = _columns.numeric(_columns.decimal(table.source, values))
    known = values.is_not_null()
    if min_rating is not None:
        table.blame(name, known & ~numbers.is_finite().fill_null(False), "a rating: a finite number")
        return (numbers.fill_null(0.0).to_numpy() >= min_rating).astype(np.float32), known.to_numpy()
    expected = "a label of 1, 0 or -1, true or false (or min_rating, which makes one of a rating)"
    table.blame(name, known & ~numbers.is_in([-1.0, 0.0, 1.0]).fill_null(False), expected)
    return (numbers.fill_null(0.0).to_numpy() > 0).astype(np.float32), known.to_numpy()


def texts(table: Table, name: str) -> pl.Series:
    """Categories as text, ``""`` where a value is missing."""
    values = table[name]
    if isinstance(values.dtype, pl.List | pl.Array):
        values = values.cast(pl.List(pl.String)).list.join("|")
    found = _columns.as_text(values)
    wrong = values.is_not_null() if found is None else values.is_not_null() & found.is_null()
    table.blame(name, wrong, "a category: text or a whole number")
    return pl.Series(name, [""] * len(values)) if found is None else found.fill_null("")


def numbers(table: Table, name: str) -> np.ndarray:
    """``[rows]`` float64, NaN where a value is missing."""
    values = table[name]
    found = _columns.numeric(_columns.decimal(table.source, values))
    wrong = values.is_not_null() & ~(found.abs() <= _columns.FLOAT32_MAX).fill_null(False)
    table.blame(name, wrong, "a finite number or nothing")
    return found.to_numpy()


def times(table: Table, name: str, unit: float = 1.0) -> np.ndarray:
    """``[rows]`` float64 since 1970: numbers in their own unit, dates in ``unit``; NaN where a value is missing."""
    values = table[name]
    if values.dtype.is_temporal():
        found = _columns.epoch_seconds(values) * unit
    else:
        found = _columns.numeric(_columns.decimal(table.source, values)).fill_nan(None)
        if values.dtype == pl.String and found.null_count() > values.null_count():
            found = found.fill_null(_columns.iso_seconds(values) * unit)
    wrong = values.is_not_null() & ~(found.is_finite() & (found >= 0)).fill_null(False)
    table.blame(name, wrong, "a time: a number of at least 0, an ISO date such as 2024-05-31T23:59:59Z, or nothing")
    return found.to_numpy()


def fitted(table: Table, columns: Mapping[str, Fitter]) -> dict[str, Column]:
    """What is fitted of some columns on all rows of a table."""

    def fit(name: str, fitter: Fitter) -> Column:
        if fitter.kind in TEXT:
            counts = texts(table, name).alias("value").value_counts(name="count")
            return fitter.fit(counts["value"].to_list(), counts["count"].to_numpy())
        found = times(table, name) if fitter.kind is Times else numbers(table, name)
        return fitter.fit(found[~np.isnan(found)])

    return {name: fit(name, fitter) for name, fitter in columns.items()}


def read(table: Table, encoding: Encoding) -> Encoded:
    """All rows of a table as fields."""

    def raw(name: str, column: Column) -> Raw:
        if isinstance(column, TEXT):
            return distinct_codes(texts(table, name))
        return times(table, name, column.unit) if isinstance(column, Times) else numbers(table, name)

    return joined(encoding, table.frame.height, table.columns, raw)


def read_blocks(
    path: str | os.PathLike[str], encoding: Encoding, label: str | None, rows: int
) -> Iterator[tuple[Encoded, np.ndarray | None]]:
    """What :func:`recjax.data.read_blocks` yields."""
    named = [encoding.label if label is None else label, *encoding.columns]
    table = open_table(path, named, encoding.names, without_label=True)
    if not set(encoding.columns) & set(table.columns):
        columns = _columns.listed(table.source)
        raise InputError(f"{table.source.path}: expected some of {list(encoding.columns)!r:.200}, got {columns}")
    for start in range(0, table.frame.height, rows):
        block = dataclasses.replace(table, frame=table.frame.slice(start, rows))
        yield read(block, encoding), None if label is None else all_labels(block, label, encoding.min_rating)


def distinct_codes(values: pl.Series) -> tuple[list[str], np.ndarray]:
    """The distinct texts, and ``[rows]`` which of them each row has."""
    distinct = values.unique()
    return distinct.to_list(), values.cast(pl.Enum(distinct)).to_physical().to_numpy()


def fit_encoding(
    path: str | os.PathLike[str], columns: Mapping[str, Fitter], label: str, names: Sequence[str] | None
) -> Encoding:
    """What :func:`recjax.data.fit_encoding` returns."""
    table = open_table(path, [label, *columns], names)
    for name in (label, *columns):
        table.position(name)
    all_labels(table, label, None)
    return Encoding(fitted(table, columns), label, table.names)


def read_rows(path: str | os.PathLike[str], encoding: Encoding) -> Examples:
    """What :func:`recjax.data.read_rows` returns."""
    table = open_table(path, [encoding.label, *encoding.columns], encoding.names)
    for name in (encoding.label, *encoding.columns):
        table.position(name)
    label, found = all_labels(table, encoding.label, encoding.min_rating), read(table, encoding)
    return Examples(found.fields, label, found.values)


def all_labels(table: Table, name: str, min_rating: float | None) -> np.ndarray:
    """As :func:`labels`, of rows that must all have one."""
    label, known = labels(table, name, min_rating)
    table.blame(name, ~pl.Series(known), "a label of 1 or 0")
    return label
