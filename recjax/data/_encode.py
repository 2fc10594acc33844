"""Columns of a table as fields, by what was learned of them. Polars inside; nothing here loops over rows."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from recjax.data import _columns
from recjax.data._polars import pl
from recjax.data._source import open_source, shown
from recjax.data.encoding import Encoding
from recjax.data.examples import Examples
from recjax.data.learned import Categories, Column, Fitter, Hashes, Intervals, Logarithm, Standard
from recjax.errors import InputError
from recjax.ids import id_hash

Blame = Callable[[str, pl.Series, pl.Series, str], None]  # column, values, which are wrong, what was expected


def fitted(
    path: str | os.PathLike[str], columns: Mapping[str, Fitter], label: str, names: Sequence[str] | None
) -> dict[str, Column]:
    """The columns of :func:`recjax.data.fit_encoding`."""
    numbers = [name for name, fitter in columns.items() if fitter.numbers]
    frame, blame = _load(path, [label, *columns], names, numbers=[label, *numbers])
    _labels(frame, label, blame)

    def learned(name: str, fitter: Fitter) -> Column:
        if not fitter.numbers:
            return fitter.fit(_texts(frame[name], name, blame))
        return fitter.fit(_numbers(frame[name], name, blame).drop_nulls().to_numpy())

    return {name: learned(name, fitter) for name, fitter in columns.items()}


def read(path: str | os.PathLike[str], encoding: Encoding) -> Examples:
    """What :func:`recjax.data.read_rows` returns."""
    numbers = [name for name, kind in encoding.columns.items() if not isinstance(kind, Categories | Hashes)]
    wanted = [encoding.label, *encoding.columns]
    frame, blame = _load(path, wanted, encoding.names, numbers=[encoding.label, *numbers])
    label = _labels(frame, encoding.label, blame)
    found = _fields({name: frame[name] for name in encoding.columns}, encoding, blame)
    return Examples(found["fields"], label, found.get("values"))


def batch(columns: Mapping[str, Sequence[Any]], encoding: Encoding) -> dict[str, np.ndarray]:
    """What :func:`recjax.data.encode` returns."""
    if missing := [name for name in encoding.columns if name not in columns]:
        raise ValueError(f"expected the columns {list(encoding.columns)}, got none of {missing}")
    lengths = {name: len(columns[name]) for name in encoding.columns}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"expected as many values of every column, got {lengths}")

    def blame(name: str, values: pl.Series, wrong: pl.Series, expected: str) -> None:
        if wrong.any():
            at = wrong.arg_max() or 0
            raise InputError(f"column {name!r}, row {at + 1}: expected {expected}, got {shown(columns[name][at])}")

    def series(name: str) -> pl.Series:
        given = [value.item() if isinstance(value, np.generic) else value for value in columns[name]]
        if any(value is not None and not isinstance(value, bool | int | float) for value in given):
            given = [None if value is None else str(value) for value in given]  # text, or among text
        elif any(isinstance(value, float) for value in given):
            given = [None if value is None else float(value) for value in given]
        return pl.Series(name, given)

    return _fields({name: series(name) for name in encoding.columns}, encoding, blame)


def _load(
    path: str | os.PathLike[str], wanted: list[str], names: Sequence[str] | None, *, numbers: list[str]
) -> tuple[pl.DataFrame, Blame]:
    source = open_source(path, () if names is not None else wanted)
    known = source.columns
    if names is not None:
        if len(known) != len(names):
            raise InputError(f"{source.path}: expected {len(names)} columns, got {len(known)}")
        if source.has_header:
            row = source.first_row
            raise InputError(f"{source.path}: row {row}: expected no header, got {_columns.listed(source)}")
        known = tuple(names)
    for name in wanted:
        if name not in known:
            raise InputError(f"{source.path}: expected a column {name!r}, got columns {_columns.listed(source)}")
    frame = source.load({name: _columns.only(source, known, name) for name in wanted})
    frame = frame.with_columns(_columns.decimal(source, frame[name]) for name in numbers)

    def blame(name: str, values: pl.Series, wrong: pl.Series, expected: str) -> None:
        _columns.blame(source, frame, name, values, wrong, expected)

    return frame, blame


def _labels(frame: pl.DataFrame, name: str, blame: Blame) -> np.ndarray:
    """``[rows]`` float32, 0 or 1."""
    numbers = _columns.numeric(frame[name])
    blame(name, frame[name], ~numbers.is_in([-1.0, 0.0, 1.0]).fill_null(False), "a label of 1, 0 or -1")
    return (numbers.to_numpy() > 0).astype(np.float32)


def _texts(values: pl.Series, name: str, blame: Blame) -> pl.Series:
    """Categories as text, ``""`` where there is none."""
    texts = _columns.as_text(values.fill_nan(None) if values.dtype.is_float() else values)
    wrong = values.is_not_null() if texts is None else values.is_not_null() & texts.is_null()
    if values.dtype.is_float():
        wrong &= values.is_not_nan()
    blame(name, values, wrong, "a category: text or a whole number")
    return pl.Series(name, [""] * len(values)) if texts is None else texts.fill_null("")


def _numbers(values: pl.Series, name: str, blame: Blame) -> pl.Series:
    """Float64, null where there is none; a NaN that the file has as a number is none."""
    if values.dtype.is_float():
        values = values.fill_nan(None)
    numbers = _columns.numeric(values)
    wrong = values.is_not_null() & ~(numbers.abs() <= _columns.FLOAT32_MAX).fill_null(False)
    blame(name, values, wrong, "a finite number or nothing")
    return numbers


def _fields(columns: Mapping[str, pl.Series], encoding: Encoding, blame: Blame) -> dict[str, np.ndarray]:
    """``fields``, and ``values`` where a column is a number that multiplies a vector."""
    offsets = encoding.offsets
    read = {name: _read(column, columns[name], name, blame) for name, column in encoding.columns.items()}
    fields = np.stack([ids.astype(np.int32) + np.int32(offsets[name]) for name, (ids, _) in read.items()], axis=1)
    if all(values is None for _, values in read.values()):
        return {"fields": fields}
    ones = np.ones(len(fields), np.float32)
    values = [ones if values is None else values.astype(np.float32) for _, values in read.values()]
    return {"fields": fields, "values": np.stack(values, axis=1)}


def _read(column: Column, values: pl.Series, name: str, blame: Blame) -> tuple[np.ndarray, np.ndarray | None]:
    """The ids of one field, from 0, and what multiplies their vectors."""
    match column:
        case Categories(values=known):
            return _of_each(_texts(values, name, blame), {text: 1 + i for i, text in enumerate(known)}), None
        case Hashes(buckets=buckets):
            texts = _texts(values, name, blame)
            distinct = texts.unique().to_list()
            return _of_each(texts, dict(zip(distinct, (id_hash(distinct) % buckets).tolist(), strict=True))), None
    numbers = _numbers(values, name, blame).to_numpy()  # NaN where there is none
    missing = np.isnan(numbers)
    match column:
        case Intervals(edges=edges):
            return np.where(missing, 0, 1 + np.searchsorted(np.array(edges), numbers, side="right")), None
        case Logarithm():
            scaled = np.sign(numbers) * np.log1p(np.abs(numbers))
        case Standard(mean=mean, deviation=deviation):
            scaled = (numbers - mean) / deviation if deviation else np.zeros_like(numbers)
    return np.where(missing, 0, 1), np.where(missing, 1, scaled)


def _of_each(texts: pl.Series, ids: dict[str, int]) -> np.ndarray:
    """The id of each text, 0 where it has none."""
    if not ids:
        return np.zeros(len(texts), np.int32)
    return texts.replace_strict(list(ids), list(ids.values()), default=0, return_dtype=pl.Int32).to_numpy()
