"""Files of examples as data sets: labels, the split, roles, and what is fitted on train."""

import os
from collections.abc import Mapping

import numpy as np

from recjax.data import _encode, _roles
from recjax.data._encode import Table, open_table
from recjax.data._polars import pl
from recjax.data._source import open_source
from recjax.data.ctr import ColumnOptions, ColumnStats, CTRDataset
from recjax.data.encoding import Encoding
from recjax.data.examples import Examples
from recjax.data.learned import Categories, Sets
from recjax.data.split import check_shares, hashed_parts, time_parts
from recjax.errors import InputError

PARTS = ("train", "valid", "test")


def read(
    path: str | os.PathLike[str], options: ColumnOptions, *, by_time: bool | None, seed: int, valid: float, test: float
) -> CTRDataset:
    """What :func:`recjax.data.read_ctr` returns."""
    table = open_table(path, _named(options))
    name = _roles.label_of(table, options)
    table, label, counts = _labeled(table, name, options)
    _roles.check_labels(table.source.path, name, label)
    column = None if by_time is False else _roles.time_of(table, options, name)
    if by_time and column is None:
        raise InputError(f"{table.source.path}: expected a column with times to split by, got none; split at random")
    if column is None:
        check_shares(valid, test)
        part, split = hashed_parts(len(label), seed, valid=valid, test=test), f"at random, seed {seed}"
    else:
        time = _encode.times(table, column)
        known = ~np.isnan(time)
        counts["without_a_time"] = int((~known).sum())
        table, label = table.take(known), label[known]
        part, split = time_parts(time[known], valid, test), f"by time, column {column!r}"
    parts = [(table.take(part == i), label[part == i]) for i in range(3)]
    return _dataset(parts, name, options, counts, split)


def read_parts(
    train: str | os.PathLike[str],
    valid: str | os.PathLike[str] | None,
    test: str | os.PathLike[str],
    options: ColumnOptions,
    seed: int,
) -> CTRDataset:
    """What :func:`recjax.data.read_ctr_split` returns."""
    first = open_table(train, _named(options))
    name = _roles.label_of(first, options)
    named = [*_named(options), *(first.columns if first.source.has_header else ())]
    tables = [first, *(open_table(path, named, first.names) for path in (valid, test) if path is not None)]
    total: dict[str, int] = {}
    parts = []
    for table in tables:
        table, label, counts = _labeled(table, name, options)
        parts.append((table, label))
        total = {key: total.get(key, 0) + count for key, count in counts.items()}
    split = "ready files"
    if valid is None:
        table, label = parts[0]
        drawn = hashed_parts(len(label), seed, valid=0.1, test=0.0) == 1
        parts[:1] = [(table.take(~drawn), label[~drawn]), (table.take(drawn), label[drawn])]
        split = f"ready files, a tenth of train drawn for valid, seed {seed}"
    return _dataset(parts, name, options, total, split)


def has_label(path: str | os.PathLike[str]) -> bool:
    """What :func:`recjax.data.has_label` returns."""
    if _encode.is_libfm(path):
        return True
    source = open_source(path)
    return _encode.is_criteo(source) or _roles.by_name(source.columns, _roles.LABELS) is not None


def _named(options: ColumnOptions) -> list[str]:
    names = [options.label, *options.numeric, *options.categorical, *options.drop]
    return [name for name in names if name is not None]


def _labeled(table: Table, name: str, options: ColumnOptions) -> tuple[Table, np.ndarray, dict[str, int]]:
    """The rows that have a label, their labels, and the counts."""
    label, known = _encode.labels(table, name, options.min_rating)
    counts = {"rows_read": len(label), "without_a_label": int((~known).sum())}
    return table.take(known), label[known], counts


def _dataset(
    parts: list[tuple[Table, np.ndarray]], name: str, options: ColumnOptions, counts: dict[str, int], split: str
) -> CTRDataset:
    for part, (table, label) in zip(PARTS, parts, strict=True):
        _roles.check_labels(f"{table.source.path}: {part}", name, label)
    train = parts[0][0]
    fitters, dropped = _roles.find_roles(train, options, name)
    columns = _encode.fitted(train, fitters)
    for at, column in list(columns.items()):
        if isinstance(column, Categories | Sets) and column.size == 1:
            dropped[at] = f"no value in {options.min_count} train rows or more"
            del columns[at]
    if not columns:
        raise InputError(f"{train.source.path}: expected columns beside the label to learn from, got {_why(dropped)}")
    encoding = Encoding(columns, name, train.names, options.min_rating, dropped)
    for table, _ in parts[1:]:
        for column in columns:
            table.position(column)

    def examples(table: Table, label: np.ndarray) -> Examples:
        found = _encode.read(table, encoding)
        return Examples(found.fields, label, found.values)

    counts |= {f"{part}_rows": len(label) for part, (_, label) in zip(PARTS, parts, strict=True)}
    stats = {column: _stats(train[column]) for column in train.columns if column != name}
    train, valid, test = (examples(table, label) for table, label in parts)
    return CTRDataset(train, valid, test, encoding.features, encoding, stats, counts, split)


def _why(dropped: Mapping[str, str]) -> str:
    return "; ".join(f"{name!r}: {why}" for name, why in list(dropped.items())[:3]) or "none"


def _stats(values: pl.Series) -> ColumnStats:
    known = values.drop_nulls()
    return ColumnStats(known.n_unique() if len(known) else 0, 1 - len(known) / len(values))
