"""Logs as data frames: text rows to integer positions, vectorized in polars."""

import dataclasses
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recjax.data import _columns
from recjax.data._polars import pl
from recjax.data._source import check_text, has_columns, open_source, read_bytes, shown
from recjax.data._source import read_lines as source_lines
from recjax.data.interactions import Interactions
from recjax.errors import InputError
from recjax.ids import vocabulary_order


class Columns(NamedTuple):
    """Column names given by the caller; None: find it by its common names, ``""``: no such column."""

    user: str | None = None
    item: str | None = None
    rating: str | None = None
    timestamp: str | None = None


def read_rows(
    path: str | os.PathLike[str], columns: Columns, min_rating: float | None
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The rows kept by the rating threshold: ``user``, ``item`` as text, ``rating`` and ``timestamp`` if present."""
    source = open_source(path, columns)
    taken: dict[str, int] = {}
    named_first = sorted(columns._asdict().items(), key=lambda pair: not pair[1])
    for role, name in named_first:
        at = _columns.find(source, role, name, taken)
        taken |= {} if at is None else {role: at}
    positions = {role: taken[role] for role in Columns._fields if role in taken}
    if len(set(positions.values())) < len(positions):
        raise InputError(f"{source.path}: expected different columns, got one for two of {', '.join(positions)}")
    if min_rating is not None and "rating" not in positions:
        raise InputError(
            f"{source.path}: expected a rating column, since min_rating is given, got columns "
            f"{_columns.listed(source)}; name it in rating_column"
        )
    frame = source.load(positions)
    read = {
        "user": _columns.as_ids,
        "item": _columns.as_ids,
        "rating": _columns.as_numbers,
        "timestamp": _columns.as_times,
    }
    parts = [read[role](source, frame, role, source.columns[at]) for role, at in positions.items()]
    rows = pl.DataFrame([part.alias(role) for part, role in zip(parts, positions, strict=True)])
    counts = {"rows_read": rows.height}
    if min_rating is not None:
        kept = rows.filter(pl.col("rating") >= min_rating)
        counts["below_rating"] = rows.height - kept.height
        if kept.height == 0:
            best = rows["rating"].max()
            raise InputError(
                f"{source.path}: expected a rating of at least min_rating={min_rating}, got none (the highest of "
                f"{rows.height:,} is {best})"
            )
        rows = kept
    elif "rating" in positions:
        kept = rows.filter(pl.col("rating") > 0)
        if kept.height < rows.height:
            counts["not_positive"] = rows.height - kept.height
        if kept.height == 0:
            raise InputError(
                f"{source.path}: column {source.columns[positions['rating']]!r}: expected a rating above 0, got none; "
                "min_rating keeps lower ones, rating_column='' reads no ratings"
            )
        rows = kept
    return rows, counts


def read_parts(
    paths: Sequence[str | os.PathLike[str]], columns: Columns, min_rating: float | None
) -> list[tuple[pl.DataFrame, dict[str, int]]]:
    """:func:`read_rows` for each file, which may also have lines ``user item item ...``.

    Lines of a user, an item and one or two numbers are ambiguous: they count as lists if another file surely has lists.
    """
    lists = [_lists(path, columns) for path in paths]
    kinds = [None if users is None else _kind(users) for users in lists]
    if "unclear" in kinds and "lists" not in kinds:
        raise InputError(
            f"{os.fspath(paths[kinds.index('unclear')])}: expected columns, named by user_column='1' and "
            "item_column='2', or lines 'user item', got lines that may be 'user item rating' or 'user item item'"
        )
    parts = []
    for path, users in zip(paths, lists, strict=True):
        if users is None:
            parts.append(read_rows(path, columns, min_rating))
            continue
        if min_rating is not None or any(columns):
            given = "min_rating" if min_rating is not None else "a column"
            found = "lines 'user item item ...'"
            raise InputError(f"{os.fspath(path)}: expected columns, since {given} is given, got {found}")
        rows = users.filter(pl.col("item").list.len() > 0).explode("item")
        if rows.height == 0:
            raise InputError(
                f"{os.fspath(path)}: expected columns or lines 'user item item ...', got no user with an item"
            )
        parts.append((rows, {"rows_read": rows.height}))
    return parts


def _lists(path: str | os.PathLike[str], columns: Columns) -> pl.DataFrame | None:
    """The lines ``user item item ...`` of a file, from :func:`_lines`; None for a table."""
    name, data = os.fspath(path), read_bytes(path)
    if data.startswith(b"PAR1"):
        return None
    body, _ = check_text(name, data)
    return None if has_columns(body, columns) else _lines(name, body)


def _kind(users: pl.DataFrame) -> str:
    """``"pairs"``, ``"lists"``, or ``"unclear"`` where lines may be ``user item rating (timestamp)``."""
    items = users.filter(pl.col("user").is_not_null())["item"]
    lengths, below = set(items.list.len()), items[1:] if len(items) > 1 else items  # the first may be a header
    if lengths == {1}:
        return "pairs"
    numbers = below.list.slice(1).explode().cast(pl.Float64, strict=False)
    return "unclear" if lengths in ({2}, {3}) and not numbers.null_count() else "lists"


def _lines(name: str, body: bytes) -> pl.DataFrame:
    """Lines ``user item item ...``: ``user``, and ``item`` as lists; null and empty for blank lines."""
    words = source_lines(name, body).fill_null("").str.extract_all(r"\S+")
    return pl.DataFrame({"user": words.list.first(), "item": words.list.slice(1)})


def read_lines(path: str | os.PathLike[str], *, repeats: bool) -> Interactions:
    """The log of :func:`recjax.data.read_sequences`."""
    name = os.fspath(path)
    body, first_row = check_text(name, read_bytes(path))
    lines = _lines(name, body).with_row_index("row", first_row).filter(pl.col("user").is_not_null())
    alone = lines.filter(pl.col("item").list.len() == 0)
    if alone.height:
        found = f"user {shown(alone['user'][0])} without an item"
        raise InputError(f"{name}: row {alone['row'][0]}: expected 'user item item ...', got {found}")
    again = lines.filter(~pl.col("user").is_first_distinct())
    if again.height:
        user = again["user"][0]
        first = lines.filter(pl.col("user") == user)["row"][0]
        raise InputError(
            f"{name}: row {again['row'][0]}: expected one line per user, got user {shown(user)} again (row {first})"
        )
    places = pl.int_ranges(0, pl.col("item").list.len()).cast(pl.List(pl.Float64))
    rows = lines.select("user", "item", timestamp=places).explode("item", "timestamp")
    log, _, dropped = encode([rows], repeats=repeats)
    return dataclasses.replace(log, counts={"rows_read": rows.height, **dropped})


def encode(parts: Sequence[pl.DataFrame], *, repeats: bool) -> tuple[Interactions, np.ndarray, dict[str, int]]:
    """Maps all parts to one vocabulary and, without ``repeats``, keeps each pair (user, item) once.

    A pair stays in the earliest part that has it, as its earliest row by timestamp, else by file order. Ratings that
    are all equal are dropped.

    Returns:
      The log, in the order of parts and files; the part of each row, ``[rows]``; counts of dropped rows.
    """
    columns = [name for name in parts[0].columns if all(name in part.columns for part in parts)]
    rows = pl.concat([part.select(columns) for part in parts])
    part = np.repeat(np.arange(len(parts)), [frame.height for frame in parts])
    user, user_ids = _positions(rows["user"])
    item, item_ids = _positions(rows["item"])
    rating, timestamp = (rows[name].to_numpy() if name in columns else None for name in ("rating", "timestamp"))
    counts = {}
    if rating is not None and len(rating) > 1 and (rating == rating[0]).all():
        counts["constant_rating"], rating = len(rating), None
    log = Interactions(
        user=user,
        item=item,
        user_ids=user_ids,
        item_ids=item_ids,
        rating=None if rating is None else rating.astype(np.float32),
        timestamp=timestamp,
    )
    if repeats:
        return log, part, counts
    pair = user.astype(np.int64) * len(item_ids) + item
    again = np.flatnonzero(pl.Series(pair).is_duplicated().to_numpy())  # only these need to be put in order
    if timestamp is not None:
        again = again[np.lexsort((timestamp[again], part[again]))]  # stable: the file's order among equals
    kept, in_part = np.ones((2, len(pair)), bool)
    kept[again] = pl.Series(pair[again]).is_first_distinct().to_numpy()
    in_part[again] = pl.Series(pair[again] * len(parts) + part[again]).is_first_distinct().to_numpy()
    counts["duplicates_collapsed"] = int((~in_part).sum())
    if len(parts) > 1:
        earlier = np.bincount(part[in_part & ~kept], minlength=3)
        counts |= {"valid_rows_in_earlier_part": int(earlier[1]), "test_rows_in_earlier_part": int(earlier[2])}
    return log.take(kept), part[kept], counts


def _positions(ids: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Each row's int32 position in the vocabulary, and the vocabulary."""
    distinct = np.array(ids.unique().to_list())
    vocabulary = distinct[vocabulary_order(distinct)]
    positions = ids.cast(pl.Enum(vocabulary.tolist())).to_physical().to_numpy().astype(np.int32)
    return positions, vocabulary
