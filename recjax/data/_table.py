"""Side tables of items or users as feature columns aligned with a vocabulary."""

import os

import numpy as np

from recjax.data import _columns
from recjax.data._names import NAMES, plain
from recjax.data._normalize import normalize
from recjax.data._polars import pl
from recjax.data._source import Source, open_source, shown
from recjax.data.interactions import Features
from recjax.errors import InputError

IDS = (*NAMES["item"], *NAMES["user"], "id")
TITLES = (
    "movietitle",
    "title",
    "name",
    "itemname",
    "itemtitle",
    "productname",
    "producttitle",
    "booktitle",
    "trackname",
)
NUMERIC_SHARE = 0.95
MAX_CATEGORIES = 64  # per column; rarer ones are dropped
MAX_TITLE = 200  # characters


def read_aligned(
    path: str | os.PathLike[str], ids: np.ndarray, id_column: str | None, title_column: str | None
) -> tuple[Features, np.ndarray | None, dict[str, int]]:
    """The results of :func:`recjax.data.read_table`, and counts of what was left out."""
    source = open_source(path, (id_column, title_column))
    at_id, at_title = _pick(source, "id_column", id_column, IDS), _pick(source, "title_column", title_column, TITLES)
    if at_id is None and source.has_header:
        raise InputError(
            f"{source.path}: expected a column of ids (item_id, user_id, id, ...) or its name in id_column, got "
            f"columns {_columns.listed(source)}"
        )
    at_id = at_id or 0
    frame = source.load({"id": at_id} | {str(i): i for i in range(len(source.columns))})
    frame = frame.with_columns(_columns.as_ids(source, frame, "id", source.columns[at_id]))
    read = frame.height
    frame = frame.unique("id", keep="first", maintain_order=True)
    wanted = pl.DataFrame({"id": pl.Series(ids.tolist(), dtype=pl.String)}).with_row_index("position")
    rows = wanted.join(frame, on="id", how="left").sort("position")
    if rows["row"].is_null().all():
        raise InputError(
            f"{source.path}: column {source.columns[at_id]!r}: expected ids of the log, such as "
            f"{shown(ids.tolist()[0])}, got ids such as {shown(frame['id'][0])}"
        )
    blocks = [
        _feature(source, rows, i, name, kind)
        for i, (name, kind) in enumerate(zip(source.columns, source.kinds, strict=True))
        if i not in (at_id, at_title)
    ]
    values = np.concatenate([np.zeros((len(ids), 0), np.float32), *(values for values, _ in blocks)], axis=1)
    features = Features(values, tuple(name for _, names in blocks for name in names))
    found = rows["row"].len() - rows["row"].null_count()
    counts = {
        "rows_of_other_ids": frame.height - found,
        "rows_of_repeated_ids": read - frame.height,
        "columns_dropped": sum(not names for _, names in blocks),
    }
    if at_title is None:
        return features, None, counts
    titles = _columns.as_text(rows[str(at_title)])
    if titles is None:
        column, dtype = source.columns[at_title], rows[str(at_title)].dtype
        raise InputError(
            f"{source.path}: column {column!r}: expected titles as text, got {dtype} values; name another column in "
            "title_column"
        )
    return features, np.array(titles.fill_null("").str.slice(0, MAX_TITLE).to_list()), counts


def _pick(source: Source, argument: str, named: str | None, names: tuple[str, ...]) -> int | None:
    columns = [plain(column) for column in source.columns]
    if named is None:
        there = [name for name in names if name in columns and source.has_header]
        return _columns.only(source, columns, there[0]) if there else None
    if named in source.columns:
        return _columns.only(source, source.columns, named)
    if plain(named) in columns:
        return _columns.only(source, columns, plain(named))
    raise InputError(
        f"{source.path}: {argument}={named!r}: expected a column {named!r}, got columns {_columns.listed(source)}"
    )


def _feature(source: Source, rows: pl.DataFrame, at: int, name: str, kind: str) -> tuple[np.ndarray, list[str]]:
    """One table column as feature columns: none, one number, or one per category; see ``read_table`` for the rules."""
    values = rows[str(at)]
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    present = values.len() - values.null_count()
    if kind == "float_seq" or present == 0:
        return _nothing(rows)
    if kind == "token_seq":
        return _multi_hot(rows, name, values.str.extract_all(r"\S+"), present)
    if isinstance(values.dtype, pl.List | pl.Array):
        inner = values.dtype.inner
        if inner.is_integer() or inner in (pl.String, pl.Categorical, pl.Enum, pl.Boolean):
            return _multi_hot(rows, name, values.cast(pl.List(pl.String)), present)
        return _nothing(rows)
    if values.dtype.is_temporal():
        values = _columns.epoch_seconds(values)
    numbers = _columns.numeric(_columns.decimal(source, values))
    numbers = numbers.set(~numbers.is_finite().fill_null(False), None)
    share = (numbers.len() - numbers.null_count()) / present
    if kind == "float" and share < 1:
        wrong = (numbers.is_null() & values.is_not_null()).arg_max() or 0
        raise source.error(rows["row"][wrong], name, values[wrong], "a finite number, since its type is float")
    if share == 1 or values.dtype.is_numeric():
        return _number(numbers, name)
    if values.dtype != pl.String:
        return _nothing(rows)
    if kind == "" and values.str.contains("|", literal=True).any():
        return _multi_hot(rows, name, values.str.split("|"), present)
    if values.drop_nulls().n_unique() > present / 2:
        return _nothing(rows)
    if share >= NUMERIC_SHARE:
        return _number(numbers, name)
    return _multi_hot(rows, name, values.to_frame().select(pl.concat_list(pl.all())).to_series(), present)


def _nothing(rows: pl.DataFrame) -> tuple[np.ndarray, list[str]]:
    return np.zeros((rows.height, 0), np.float32), []


def _number(numbers: pl.Series, name: str) -> tuple[np.ndarray, list[str]]:
    return normalize(numbers.fill_null(float("nan")).to_numpy())[:, None], [name]


def _multi_hot(rows: pl.DataFrame, name: str, words: pl.Series, present: int) -> tuple[np.ndarray, list[str]]:
    """One column of zeros and ones for each of the most frequent words."""
    pairs = pl.DataFrame({"row": rows["position"], "word": words}).explode("word").drop_nulls()
    pairs = pairs.with_columns(pl.col("word").str.strip_chars()).filter(pl.col("word") != "").unique()
    counts = pairs.group_by("word").len().sort(["len", "word"], descending=[True, False])
    if counts.height > present:
        return _nothing(rows)
    kept = sorted(counts["word"].head(MAX_CATEGORIES).to_list())
    pairs = pairs.filter(pl.col("word").is_in(kept))
    values = np.zeros((rows.height, len(kept)), np.float32)
    columns = pairs["word"].cast(pl.Enum(kept)).to_physical().to_numpy()
    values[pairs["row"].to_numpy(), columns] = 1
    return values, [f"{name}={word}" for word in kept]
