"""Tables of what a teacher says, row by row as positions in a log's vocabularies. Polars inside."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recjax.data import Interactions, _columns
from recjax.data._names import NAMES, plain
from recjax.data._polars import pl
from recjax.data._source import Source, check_text, open_source, read_bytes, unix
from recjax.errors import InputError

ID_NAMES = {role: NAMES[role] for role in ("user", "item")}  # every other role by its own name alone
SUFFIXES = {".parquet": "", ".tsv": "\t", ".csv": ","}


class Rows(NamedTuple):
    """The rows of a table whose users and items the log has.

    Attributes:
      user: ``[rows]`` positions.
      item: ``[rows]`` positions.
      frame: ``row``, ``user`` and ``item`` as text, and the other columns as they are in the file.
      unknown: rows that are left out, whose user or item the log does not have.
    """

    user: np.ndarray
    item: np.ndarray
    frame: pl.DataFrame
    unknown: int


def has_column(path: str | os.PathLike[str], name: str) -> bool:
    """Whether a table has a column of this name."""
    return name in map(plain, open_source(path).columns)


def read_scores(path: str | os.PathLike[str], log: Interactions, *, skip_unknown: bool) -> Rows:
    """The rows of a table of scores, ``score`` as finite float32."""
    source, at = _open(path, ("user", "item", "score"))
    frame = source.load(at)
    return _placed(source, at, _with_float32(source, at, frame, "score"), log, skip_unknown=skip_unknown)


def read_lists(path: str | os.PathLike[str], log: Interactions, *, skip_unknown: bool) -> tuple[Rows, np.ndarray]:
    """The rows of a table of lists, and ``[rows]`` numbers that grow along each user's list."""
    source, at = _open(path, ("user",), ("item", "items", "rank"))
    if "item" in at:
        at.pop("items", None)
        frame = source.load(at)
    elif "items" in at:
        frame, at = _unrolled(source, at)
    else:
        raise _no_column(source, "item", f"{_some('item')}; or items, with lists of them in Parquet")
    if "rank" in at:
        frame = frame.with_columns(_columns.as_numbers(source, frame, "rank", source.columns[at["rank"]]))
    rows = _placed(source, at, frame, log, skip_unknown=skip_unknown)
    if "rank" not in at:
        return rows, np.arange(len(rows.user))
    ranks = rows.frame["rank"].to_numpy()
    _blame_again(source, at, rows, "rank", ranks)
    return rows, ranks


def read_labels(path: str | os.PathLike[str], log: Interactions) -> Rows:
    """The rows of a table of labels whose user and item the log has, ``label`` as float32 from 0 to 1."""
    source, at = _open(path, ("user", "item", "label"))
    frame = source.load(at)
    labels = _with_float32(source, at, frame, "label")
    outside = ~labels["label"].is_between(0, 1)
    if outside.any():
        row = outside.arg_max() or 0
        found = frame["label"][row]
        raise source.error(frame["row"][row], source.columns[at["label"]], found, "a probability from 0 to 1")
    return _placed(source, at, labels, log, skip_unknown=True)


def _open(
    path: str | os.PathLike[str], required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> tuple[Source, dict[str, int]]:
    """A table and where its columns are, by role."""
    source = open_source(path)
    expected = " and ".join(_some(role) for role in required)
    if not source.has_header:
        raise InputError(f"{source.path}: expected a header line that names the columns ({expected}), got none")
    columns = [plain(name) for name in source.columns]
    at = {}
    for role in (*required, *optional):
        there = [name for name in ID_NAMES.get(role, (role,)) if name in columns]
        if there:
            at[role] = _columns.only(source, columns, there[0])
        elif role in required:
            raise _no_column(source, role, _some(role))
    return source, at


def _some(role: str) -> str:
    """The names of a column, for a message."""
    return f"{', '.join(ID_NAMES[role][:4])}, ..." if role in ID_NAMES else role


def _no_column(source: Source, role: str, names: str) -> InputError:
    return InputError(
        f"{source.path}: expected a column for the {role} ({names}), got columns {_columns.listed(source)}"
    )


def _with_float32(source: Source, at: dict[str, int], frame: pl.DataFrame, role: str) -> pl.DataFrame:
    """A column as finite numbers. Text goes to float32 at once: by way of float64 it would be rounded twice."""
    _columns.as_numbers(source, frame, role, source.columns[at[role]])
    return frame.with_columns(_columns.decimal(source, frame[role]).cast(pl.Float32))


def _unrolled(source: Source, at: dict[str, int]) -> tuple[pl.DataFrame, dict[str, int]]:
    """One row for each item of the lists in the column ``items``."""
    at = {"user": at["user"], "item": at["items"]}
    frame, column = source.load(at), source.columns[at["item"]]
    lists = frame["item"]
    if isinstance(lists.dtype, pl.Array):
        lists = lists.arr.to_list()
    if not isinstance(lists.dtype, pl.List):
        raise InputError(f"{source.path}: column {column!r}: expected lists of ids, got {lists.dtype} values")
    again = ~frame["user"].is_first_distinct()
    if again.any():
        row = again.arg_max() or 0
        expected = "one list for each user, who has another above"
        raise source.error(frame["row"][row], source.columns[at["user"]], frame["user"][row], expected)
    frame = frame.with_columns(lists.alias("item")).filter(pl.col("item").list.len() > 0).explode("item")
    if frame.height == 0:
        raise InputError(f"{source.path}: column {column!r}: expected items, got only empty lists")
    return frame, at


def _placed(source: Source, at: dict[str, int], frame: pl.DataFrame, log: Interactions, *, skip_unknown: bool) -> Rows:
    """The rows whose user and item the log has, each pair once."""
    ids = [_columns.as_ids(source, frame, role, source.columns[at[role]]).alias(role) for role in ("user", "item")]
    frame = frame.with_columns(ids)
    user, item = (_positions(frame[role], known) for role, known in (("user", log.user_ids), ("item", log.item_ids)))
    known = (user >= 0) & (item >= 0)
    if not known.all() and not (skip_unknown and known.any()):
        row = int(known.argmin())
        role = "user" if user[row] < 0 else "item"
        expected = f"{'a user' if role == 'user' else 'an item'} of the log"
        if skip_unknown:
            expected += f" in at least one of {len(known):,} pairs with an item of the log"
        else:
            expected += f" ({(~known).sum():,} of {len(known):,} pairs lack one; skip_unknown=True leaves them out)"
        raise source.error(frame["row"][row], source.columns[at[role]], frame[role][row], expected)
    rows = Rows(user[known], item[known], frame.filter(pl.Series(known)), int((~known).sum()))
    _blame_again(source, at, rows, "item", rows.item)
    return rows


def _positions(ids: pl.Series, vocabulary: np.ndarray) -> np.ndarray:
    """Each id's place in the vocabulary, -1 where it has none."""
    places = ids.cast(pl.Enum(vocabulary.tolist()), strict=False).to_physical()
    return places.cast(pl.Int64).fill_null(-1).to_numpy()


def _blame_again(source: Source, at: dict[str, int], rows: Rows, role: str, values: np.ndarray) -> None:
    """Raises for the first row that repeats a value of the same user."""
    order = np.lexsort((values, rows.user))  # stable: a row that repeats another comes after it
    again = order[1:][(np.diff(rows.user[order]) == 0) & (np.diff(values[order]) == 0)]
    if again.size:
        row = int(again.min())
        expected = f"{'an' if role == 'item' else 'a'} {role} that user {rows.frame['user'][row]!r} has only once"
        raise source.error(rows.frame["row"][row], source.columns[at[role]], rows.frame[role][row], expected)


def read_lines(path: str | os.PathLike[str]) -> tuple[list[str], int]:
    """The lines of a text without blanks around them, and the 1-based line of the file where they begin."""
    body, first_line = check_text(os.fspath(path), read_bytes(path))
    return [line.strip() for line in unix(body).decode().split("\n")], first_line


def score_table(path: Path, user: np.ndarray, item: np.ndarray, score: np.ndarray, log: Interactions) -> pl.DataFrame:
    """The columns ``user``, ``item`` and ``score``, with the raw ids."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}, got {suffix!r}")
    columns = {}
    for name, at, ids in (("user", user, log.user_ids), ("item", item, log.item_ids)):
        raw = ids.tolist()
        if suffix != ".parquet":
            _check_text_ids(path, raw)
        columns[name] = pl.Series(raw, dtype=pl.String).gather(at)
    return pl.DataFrame({**columns, "score": score})


def _check_text_ids(path: Path, ids: list[str]) -> None:
    """Readers of text drop the blanks around a field, and a NUL says that it is no text."""
    for raw in ids:
        if raw != raw.strip() or not raw or "\0" in raw:
            expected = "ids that aren't empty, with no blanks around them and no NUL; .parquet takes any"
            raise InputError(f"{path}: expected {expected}, got the id {raw!r}")


def write(path: Path, table: pl.DataFrame, suffix: str) -> None:
    """Writes a table; ``suffix`` is a key of :data:`SUFFIXES`."""
    with open(path, "wb") as file:
        if SUFFIXES[suffix]:
            table.write_csv(file, separator=SUFFIXES[suffix])
        else:
            table.write_parquet(file)
