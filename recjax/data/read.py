"""Logs from files: one log, or the files of a published split. Needs polars (``pip install 'recjax[run]'``)."""

import collections
import dataclasses
import os

import numpy as np

from recjax.data.interactions import Features, Interactions, Split
from recjax.data.split import make_split, random_parts
from recjax.errors import InputError


def read(
    path: str | os.PathLike[str],
    *,
    user_column: str | None = None,
    item_column: str | None = None,
    rating_column: str | None = None,
    timestamp_column: str | None = None,
    min_rating: float | None = None,
    repeats: bool = False,
) -> Interactions:
    r"""A log of interactions from a file.

    CSV and TSV (also with semicolons or bars), Parquet, MovieLens ``ratings.dat`` and ``u.data``, RecBole ``.inter``;
    text also gzipped. The format is detected from the content. Quoting follows Python's ``csv``; semicolon-separated
    files may have decimal commas. The whole file is read into memory.

    Columns are found by common names, ignoring case (``user_id``, ``userId``, ``customer``; ``item``, ``movieId``,
    ``product_id``; ``rating``, ``stars``; ``timestamp``, ``unix_time``, ``date``; ...). Rating and timestamp are
    optional. Without a header (a first line with a number or a date is none) the columns are user, item, rating and
    timestamp, called "1", "2", "3" and "4" here.

    Ids are text: ``007`` is ``"007"``; 7 in Parquet is ``"7"``. Timestamps are numbers of at least 0 in their own unit;
    ISO dates and times become seconds since 1970, UTC without an offset.

    Every row is a positive interaction: rows with a rating of 0 or below are dropped unless ``min_rating`` is given,
    and ratings that are all equal count as no ratings. Of a repeated pair (user, item), the earliest row by timestamp,
    then by file order, is kept, unless ``repeats``.

    Args:
      path: the file.
      user_column: name of the column, if detection fails.
      item_column: as ``user_column``.
      rating_column: as ``user_column``; ``""`` reads none.
      timestamp_column: as ``user_column``; ``""`` reads none.
      min_rating: drop rows with a lower rating.
      repeats: keep repeated pairs (user, item).

    Returns:
      The log in file order. ``counts`` has ``rows_read``; ``below_rating`` (with ``min_rating``) or ``not_positive``
      (if any); ``constant_rating``, the rows of a rating column whose values are all equal (if so);
      ``duplicates_collapsed`` (without ``repeats``).

    Raises:
      InputError: for a malformed file, naming the row and the column.

    Examples:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "ratings.csv")
      ...     rows = "007,x,5,2024-05-31", "007,x,4,2024-05-30", "8,y,1,2024-05-01"
      ...     _ = path.write_text("\n".join(["userId,movieId,rating,date", *rows]))
      ...     log = read(path, min_rating=2)
      >>> log.user_ids.tolist(), log.item_ids.tolist(), log.rating.tolist()
      (['007'], ['x'], [4.0])
      >>> log.counts
      {'rows_read': 3, 'below_rating': 1, 'duplicates_collapsed': 1}
    """
    from recjax.data import _log

    columns = _log.Columns(user_column, item_column, rating_column, timestamp_column)
    rows, counts = _log.read_rows(path, columns, min_rating)
    log, _, dropped = _log.encode([rows], repeats=repeats)
    return dataclasses.replace(log, counts=counts | dropped)


def read_split(
    train: str | os.PathLike[str],
    valid: str | os.PathLike[str] | None,
    test: str | os.PathLike[str],
    *,
    seed: int | None = None,
    user_column: str | None = None,
    item_column: str | None = None,
    rating_column: str | None = None,
    timestamp_column: str | None = None,
    min_rating: float | None = None,
    repeats: bool = False,
) -> Split:
    r"""A published split, one file per part, over one vocabulary.

    Each file is one that :func:`read` reads (also ``user<TAB>item`` without a header), or has one line per user,
    ``user item item ...``, separated by blanks. Blanks also separate columns below a header that names a user and an
    item column, or if ``user_column`` and ``item_column`` are numbers. Without a validation file, a random tenth of
    each user's train rows becomes valid, as in :func:`split_random`. A row of valid or test whose pair (user, item) is
    in an earlier part is dropped and counted, unless ``repeats``. Rating and timestamp are kept if every file has them.

    Args:
      train: file with the training rows.
      valid: file with the validation rows, or None to draw them from train.
      test: file with the test rows.
      seed: of the draw, only if ``valid`` is None; 0 by default.
      user_column: as in :func:`read`, as are the following arguments.
      item_column: see :func:`read`.
      rating_column: see :func:`read`.
      timestamp_column: see :func:`read`.
      min_rating: see :func:`read`; for every part.
      repeats: see :func:`read`.

    Returns:
      The parts. Their ``counts`` (the same for all three) are those of :func:`read`, of all files together; the
      split's has ``valid_rows_in_earlier_part`` and ``test_rows_in_earlier_part`` (without ``repeats``), and
      ``valid_rows_drawn_from_train`` without a validation file.

    Raises:
      InputError: as for :func:`read`, or if a part is empty in the end.

    Examples:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     train, test = pathlib.Path(folder, "train.txt"), pathlib.Path(folder, "test.txt")
      ...     _ = train.write_text("0 1 2 3 4 5\n"), test.write_text("0 6 5\n")
      ...     split = read_split(train, None, test)
      >>> len(split.train), len(split.valid), split.test.item_ids[split.test.item].tolist()
      (4, 1, ['6'])
      >>> split.counts["valid_rows_drawn_from_train"], split.counts["test_rows_in_earlier_part"]
      (1, 1)
    """
    from recjax.data import _log

    if valid is not None and seed is not None:
        raise InputError(f"seed: expected none with a file for valid, got {seed}")
    columns = _log.Columns(user_column, item_column, rating_column, timestamp_column)
    read_parts = _log.read_parts([path for path in (train, valid, test) if path is not None], columns, min_rating)
    parts, read_counts = [rows for rows, _ in read_parts], collections.Counter()
    for _, each in read_parts:
        read_counts.update(each)
    if valid is None:
        parts.insert(1, parts[0].clear())
    counts = dict(read_counts)
    log, part, dropped = _log.encode(parts, repeats=repeats)
    counts |= {name: dropped.pop(name) for name in ("constant_rating", "duplicates_collapsed") if name in dropped}
    log = dataclasses.replace(log, counts=counts)
    if valid is None:
        mine = np.flatnonzero(part == 0)
        part[mine] = random_parts(log.take(mine), seed or 0, valid=0.1, test=0.0)
        dropped.pop("valid_rows_in_earlier_part", None)
        dropped["valid_rows_drawn_from_train"] = int((part == 1).sum())
    split = make_split(log, part, dropped)
    for name, path, rows in zip(("train", "valid", "test"), (train, valid, test), split[:3], strict=True):
        if not len(rows):
            why = "rows whose user and item are in an earlier part are dropped"
            raise InputError(f"{os.fspath(path or train)}: expected {name} rows, got none ({why})")
    return split


def k_core(log: Interactions, k: int) -> Interactions:
    """The k-core of a log: its largest part in which every user and every item has at least ``k`` rows.

    The vocabularies lose the dropped ids and keep their order; titles and features follow.

    Args:
      log: any log; repeated pairs count as often as they occur.
      k: least number of rows, at least 1.

    Returns:
      The remaining rows; ``counts`` gains ``k_core_dropped`` (rows), ``k_core_dropped_users`` and
      ``k_core_dropped_items``.

    Raises:
      InputError: if ``k`` is below 1 or nothing is left.

    Examples:
      >>> users, items = np.array(["a", "b", "c"]), np.array(["x", "y", "z"])
      >>> log = Interactions(np.int32([0, 0, 1, 1, 2, 2]), np.int32([0, 1, 0, 1, 1, 2]), users, items)
      >>> core = k_core(log, 2)  # z has one row; without it, c has one row
      >>> core.user_ids.tolist(), core.item_ids.tolist(), core.counts["k_core_dropped"]
      (['a', 'b'], ['x', 'y'], 2)
    """
    if k < 1:
        raise InputError(f"option k-core: expected a whole number of at least 1, got {k}")
    rows = np.arange(len(log))
    while True:
        users, items = (np.bincount(ids[rows], minlength=1) for ids in (log.user, log.item))
        kept = (users[log.user[rows]] >= k) & (items[log.item[rows]] >= k)
        if kept.all():
            break
        rows = rows[kept]
    if not len(rows):
        raise InputError(
            f"option k-core: expected users and items with at least {k} rows, got none in {len(log):,} rows; try a "
            "smaller number"
        )
    user, user_at = _renumber(log.user[rows], log.users)
    item, item_at = _renumber(log.item[rows], log.items)
    counts = {
        "k_core_dropped": len(log) - len(rows),
        "k_core_dropped_users": log.users - len(user_at),
        "k_core_dropped_items": log.items - len(item_at),
    }
    return dataclasses.replace(
        log.take(rows),
        user=user,
        item=item,
        user_ids=log.user_ids[user_at],
        item_ids=log.item_ids[item_at],
        titles=None if log.titles is None else log.titles[item_at],
        user_features=_slice(log.user_features, user_at),
        item_features=_slice(log.item_features, item_at),
        counts=log.counts | counts,
    )


def _renumber(positions: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions among the ids that occur, and those ids, ascending."""
    kept = np.flatnonzero(np.bincount(positions, minlength=size))
    new = np.zeros(size, np.int32)
    new[kept] = np.arange(len(kept), dtype=np.int32)
    return new[positions], kept


def _slice(features: Features | None, rows: np.ndarray) -> Features | None:
    return None if features is None else features._replace(values=features.values[rows])
