"""Roles of the columns of a table of examples: the label, and how each other column is read."""

from collections.abc import Sequence

import numpy as np

from recjax.data import _columns
from recjax.data._encode import BOOLEANS, Table
from recjax.data._names import NAMES, plain
from recjax.data._polars import pl
from recjax.data._source import shown
from recjax.data.ctr import ColumnOptions
from recjax.data.encode import CRITEO
from recjax.data.learned import EPOCH, Fitter, categories, sets, times
from recjax.errors import InputError

LABELS = ("label", "click", "clicked", "isclick", "isclicked", "target", "y", "converted", "conversion", "response")
FEW = 20  # whole numbers with at most so many values are categories; a column with as few rows is no column of ids


def label_of(table: Table, options: ColumnOptions) -> str:
    """The name of the column with the labels: named, or known by its name, or the only one of 0 and 1."""
    if options.label is not None:
        table.position(options.label)
        return options.label
    roles = NAMES["rating"] if options.min_rating is not None else LABELS
    if (found := by_name(table.columns, roles)) is not None:
        return found
    binary = [name for name in table.columns if options.min_rating is None and _is_binary(table[name])]
    if len(binary) == 1:
        return binary[0]
    got = f"{len(binary)} columns of 0 and 1 ({', '.join(map(shown, binary[:6]))})" if binary else "none of 0 and 1"
    path, columns = table.source.path, _columns.listed(table.source)
    raise InputError(f"{path}: expected a column with the label, named in option label, got {got} among {columns}")


def by_name(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """The column with the first of some names."""
    known = {plain(name): name for name in reversed(columns)}
    return next((known[name] for name in names if name in known), None)


def _is_binary(values: pl.Series) -> bool:
    if values.dtype == pl.String:
        values = values.str.to_lowercase().replace(BOOLEANS)
    found = set(_columns.numeric(values).unique().to_list())
    return found in ({0.0, 1.0}, {-1.0, 1.0})


def time_of(table: Table, options: ColumnOptions, label: str) -> str | None:
    """The column to split by: of those with times, one of a common name, or else the first."""
    overridden = {label, *options.numeric, *options.categorical, *options.drop}
    found = [name for name in table.columns if name not in overridden and _is_time(table, name)]
    return by_name(found, NAMES["timestamp"]) or next(iter(found), None)


def _is_time(table: Table, name: str) -> bool:
    values = table[name]
    known = values.drop_nulls()
    if not len(known) or table.kinds[table.position(name)].startswith("token"):
        return False
    if values.dtype.is_temporal():
        return values.dtype in (pl.Date, pl.Datetime)
    if values.dtype == pl.String and all(_columns.iso_seconds(part).null_count() == 0 for part in (known[:1], known)):
        return True
    return plain(name) in NAMES["timestamp"] and bool((_columns.numeric(known) > EPOCH).fill_null(False).all())


def find_roles(table: Table, options: ColumnOptions, label: str) -> tuple[dict[str, Fitter], dict[str, str]]:
    """How each column is read, by its name, and why the others are not; of train rows.

    The options come first. Numbers are numeric; whole ones are categories if they have few values or the name of an
    id. Text is categories, several ones if any value has a ``|``. Columns that are empty, constant or of unique ids
    are dropped.
    """
    named = [*options.numeric, *options.categorical, *options.drop]
    for name in named:
        if name not in table.columns:
            columns = _columns.listed(table.source)
            raise InputError(f"{table.source.path}: expected a column {name!r} as an option says, got {columns}")
        if named.count(name) > 1 or name == label:
            raise InputError(f"column {name!r}: expected one role, got two")
    fitters, dropped = {}, {}
    for name in table.columns:
        if name == label:
            continue
        role = _role(table, name, options)
        if isinstance(role, str):
            dropped[name] = role
        else:
            fitters[name] = role
    return fitters, dropped


def _role(table: Table, name: str, options: ColumnOptions) -> Fitter | str:
    """How one column is read, or why it is not."""
    values, kind = table[name], table.kinds[table.position(name)]
    category = categories(min_count=options.min_count, hash_above=options.hash_above)
    if name in options.drop:
        return "as an option says"
    if name in options.numeric or name in options.categorical:
        return options.numbers if name in options.numeric else category
    if values.null_count() == len(values):
        return "no value in any train row"
    if table.names == CRITEO:
        return options.numbers if name.startswith("I") else category
    if isinstance(values.dtype, pl.List | pl.Array):
        inner = values.dtype.inner
        text = inner.is_integer() or inner in (pl.String, pl.Categorical, pl.Enum)
        return sets(min_count=options.min_count) if text else f"lists of {inner}"
    if values.dtype.is_nested() or values.dtype in (pl.Time, pl.Duration) or kind == "float_seq":
        return "values that are neither text, numbers nor times"
    if _is_time(table, name):
        return times()
    if kind == "token_seq":
        return sets(min_count=options.min_count, separator=" ")
    known = values.drop_nulls()
    distinct = known.n_unique()
    if distinct == 1 and len(known) == len(values):
        return "the same value in all train rows"
    if values.dtype == pl.String and kind == "" and known.str.contains("|", literal=True).any():
        return sets(min_count=options.min_count)
    whole = _whole(table, known)
    if whole is False and kind != "token":
        return options.numbers
    if distinct == len(known) > FEW:
        return "a different value in every train row"
    is_id = plain(name).endswith("id") or plain(name) in (*NAMES["user"], *NAMES["item"])
    return options.numbers if whole and not (is_id or kind == "token" or distinct <= FEW) else category


def _whole(table: Table, known: pl.Series) -> bool | None:
    """Whether numbers are whole; None where they are no numbers, or text such as 007."""
    if known.dtype == pl.Boolean:
        return None
    found = _columns.numeric(_columns.decimal(table.source, known))
    if found.null_count() or found.is_nan().any():
        return None
    if known.dtype == pl.String and known.str.contains(r"^[+-]?0\d").any():
        return None
    return bool((found == found.round()).all())


def check_labels(path: str, name: str, label: np.ndarray) -> None:
    """Refuses labels of one kind: nothing can be learned from them, or evaluated with them."""
    kinds = np.unique(label).tolist()
    if len(kinds) < 2:
        got = f"{len(label):,} rows of {int(kinds[0])}" if kinds else "no rows"
        raise InputError(f"{path}: column {name!r}: expected labels of 0 and of 1, got {got}")
