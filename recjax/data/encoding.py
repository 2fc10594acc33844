"""Encoding of a table as the fields of CTR models: fitted on train rows, applied with NumPy, saved as JSON."""

import dataclasses
import datetime
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from recjax.data.learned import KINDS, Categories, Column, Hashes, Sets, Times
from recjax.errors import InputError
from recjax.files import atomic_file

FORMAT = 2
FLOAT32_MAX = 3.4e38
TEXT = (Categories, Hashes, Sets)  # columns that encode text; the others encode numbers
Raw: TypeAlias = Any  # numbers [rows], or distinct texts and [rows] which of them each row has


@dataclasses.dataclass(frozen=True)
class Encoding:
    """The roles of a table's columns, and what was fitted of them on the train rows.

    Attributes:
      columns: by name, in the order of the fields; the class of each says its role and holds what was fitted.
      label: the name of the column with the labels.
      names: of the columns of a file that has no header; None where the file names them.
      min_rating: the label is whether the value of its column is at least this; None for labels of 0 and 1.
      dropped: why further columns are not read, by name.
    """

    columns: Mapping[str, Column]
    label: str
    names: tuple[str, ...] | None = None
    min_rating: float | None = None
    dropped: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def features(self) -> int:
        """Ids of all fields together, the rows of a model's tables: ``models.Fields(features=..., fields=...)``."""
        return sum(column.size for column in self.columns.values())

    @property
    def fields(self) -> int:
        """Number of fields: one a column, two of a timestamp, several of a multi-valued column."""
        return sum(column.slots for column in self.columns.values())

    @property
    def offsets(self) -> dict[str, int]:
        """The first id of each column; the columns share one numbering."""
        ends = np.cumsum([0, *(column.size for column in self.columns.values())])
        return dict(zip(self.columns, ends.tolist(), strict=False))

    def as_json(self) -> dict[str, Any]:
        """The encoding as plain JSON, which :func:`encoding_from_json` reads back."""
        columns = {
            name: {"kind": type(column).__name__, **dataclasses.asdict(column)} for name, column in self.columns.items()
        }
        fields = {name: getattr(self, name) for name in ("label", "names", "min_rating")}
        return {"format": FORMAT, **fields, "dropped": dict(self.dropped), "columns": columns}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON atomically."""
        with atomic_file(Path(path)) as partial:
            partial.write_text(json.dumps(self.as_json(), ensure_ascii=False), encoding="utf-8")


def encoding_from_json(content: Any) -> Encoding:
    """An encoding from plain JSON; no code is run from it.

    Args:
      content: what :meth:`Encoding.as_json` gave.

    Returns:
      The same encoding.

    Raises:
      ValueError: if it is something else.
    """
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {content['format']!r:.20}")
        columns = {name: _column(**parts) for name, parts in content["columns"].items()}
        names = content["names"]
        return Encoding(
            columns,
            content["label"],
            None if names is None else tuple(names),
            content["min_rating"],
            dict(content["dropped"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _column(kind: str, **fields: Any) -> Column:
    make: Any = KINDS[kind]
    return make(**{name: tuple(part) if isinstance(part, list) else part for name, part in fields.items()})


def load_encoding(path: str | os.PathLike[str]) -> Encoding:
    """Reads what :meth:`Encoding.save` wrote.

    Args:
      path: the file.

    Returns:
      The same encoding.

    Raises:
      InputError: if the file is missing, damaged or foreign; the message names it.
    """
    try:
        return encoding_from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"{os.fspath(path)}: expected an encoding, got {type(error).__name__}: {error}") from error


class Encoded(NamedTuple):
    """Rows as fields, and what of them the encoding does not know.

    Attributes:
      fields: ``[rows, fields]`` int32.
      values: ``[rows, fields]`` float32, what multiplies the vectors; None where that is 1 throughout.
      unknown: by column, how many rows have a value without an id of its own, which train had rarely or not at all;
        0 is left out.
      missing: columns of the encoding that were not given: all their values are missing.
      ignored: columns that the encoding does not read.
    """

    fields: np.ndarray
    values: np.ndarray | None
    unknown: dict[str, int]
    missing: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def batch(self) -> dict[str, np.ndarray]:
        """What a CTR model reads: ``fields``, and ``values`` if any."""
        return {"fields": self.fields} | ({} if self.values is None else {"values": self.values})


def joined(encoding: Encoding, rows: int, given: Sequence[str], read: Callable[[str, Column], Raw]) -> Encoded:
    """The columns side by side.

    Args:
      encoding: what is to be read.
      rows: how many there are.
      given: names of the columns that are there.
      read: the values of such a column: numbers ``[rows]``, or distinct texts and ``[rows]`` which of them each row
        has.
    """
    parts, scales, unknown = [], [], {}
    for (name, column), offset in zip(encoding.columns.items(), encoding.offsets.values(), strict=True):
        codes = np.zeros(rows, np.int64)
        if isinstance(column, TEXT):
            texts, codes = read(name, column) if name in given else ([""], codes)
            strange = int(column.unknown(texts)[codes].sum())
            unknown |= {name: strange} if strange and name in given else {}
            ids, scale = column.encode(texts)
        else:
            numbers, codes = (read(name, column), slice(None)) if name in given else (np.full(1, np.nan), codes)
            ids, scale = column.encode(numbers)
        parts.append(ids[codes] + np.int32(offset))
        scales.append(None if scale is None else scale[codes])
    missing = tuple(name for name in encoding.columns if name not in given)
    known = {encoding.label, *encoding.columns, *encoding.dropped}
    ignored = tuple(name for name in given if name not in known)
    values = None
    if any(scale is not None for scale in scales):
        pairs = zip(parts, scales, strict=True)
        values = np.concatenate([np.ones(p.shape, np.float32) if s is None else s for p, s in pairs], axis=1)
    return Encoded(np.concatenate(parts, axis=1), values, unknown, missing, ignored)


def encode(columns: Mapping[str, Sequence[Any]], encoding: Encoding) -> Encoded:
    """Rows as fields, from values as an application has them. Only NumPy is needed.

    A value that train didn't have has the column's id of unknown values (hashed columns have none: it shares a
    bucket). None, NaN and ``""`` are missing and have the id that missing values of train have, or that of unknown
    ones if these were rare. A column that isn't given is missing in all rows.

    Args:
      columns: the values of columns by name, each ``[rows]``: text or whole numbers where the encoding has categories,
        numbers where it has numbers, numbers, ISO dates or datetimes where it has times, text with separators or lists
        where it has several categories. Further columns are ignored.
      encoding: what :func:`fit_encoding` or :func:`read_ctr` gave.

    Returns:
      The :class:`Encoded` rows.

    Raises:
      InputError: for a value that is no such thing, naming the column and the row, counted from 1; if none of the
        columns is given.
      ValueError: if one column is longer than another.
    """
    lengths = {name: len(columns[name]) for name in encoding.columns if name in columns}
    if not lengths:
        raise InputError(f"expected some of the columns {list(encoding.columns)!r:.200}, got {list(columns)!r:.200}")
    if len(set(lengths.values())) > 1:
        raise ValueError(f"expected as many values of every column, got {lengths}")

    def read(name: str, column: Column) -> Raw:
        return _raw(name, columns[name], column)

    return joined(encoding, next(iter(lengths.values())), list(columns), read)


def _raw(name: str, given: Sequence[Any], column: Column) -> Raw:
    """The values of one column; each distinct one is converted once."""
    values = given.tolist() if isinstance(given, np.ndarray) else given
    if isinstance(column, Sets):
        values = [column.separator.join(map(str, v)) if isinstance(v, list | tuple) else v for v in values]
    distinct: dict[Any, int] = {}
    try:
        codes = np.array([distinct.setdefault(value, len(distinct)) for value in values], np.int64)
    except TypeError:
        raise InputError(f"column {name!r}: expected text, numbers or times, got values of other types") from None
    if isinstance(column, TEXT):
        return _converted(name, distinct, codes, _text, "a category: text or a whole number"), codes
    expected = "a finite number or nothing"
    convert = _number
    if isinstance(column, Times):
        expected, convert = "a time: a number of at least 0, an ISO date or nothing", partial(_time, unit=column.unit)
    return np.array(_converted(name, distinct, codes, convert, expected), np.float64)[codes]


def _converted(
    name: str, values: Iterable[Any], codes: np.ndarray, convert: Callable[[Any], Any], expected: str
) -> list[Any]:
    found = []
    for code, value in enumerate(values):
        try:
            found.append(convert(value.item() if isinstance(value, np.generic) else value))
        except (TypeError, ValueError):
            row = 1 + int(np.argmax(codes == code))
            raise InputError(f"column {name!r}, row {row}: expected {expected}, got {value!r:.60}") from None
    return found


def _is_missing(value: Any) -> bool:
    return value is None or value != value or value == ""


def _text(value: Any) -> str:
    """A category as text, ``""`` where it is missing."""
    if _is_missing(value):
        return ""
    if isinstance(value, bool):
        return str(value).lower()  # as polars writes it
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError(value)
        return str(int(value))
    return str(value).strip()


def _number(value: Any) -> float:
    if _is_missing(value):
        return math.nan
    number = float(value)
    if not abs(number) <= FLOAT32_MAX:
        raise ValueError(number)
    return number


def _time(value: Any, unit: float) -> float:
    """Since 1970 in some unit; UTC where no offset stands."""
    if isinstance(value, str) and value:
        try:
            return _time(float(value), unit)
        except ValueError:
            value = datetime.datetime.fromisoformat(value.strip().replace("/", "-"))
    if isinstance(value, datetime.date):
        if not isinstance(value, datetime.datetime):
            value = datetime.datetime(value.year, value.month, value.day)
        value = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
        return value.timestamp() * unit
    number = _number(value)
    if number < 0:
        raise ValueError(number)
    return number
