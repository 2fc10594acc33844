"""Knowledge from any system and for any system: tables of scores, lists and labels, and embeddings, by raw id.

Needs polars (``pip install 'recjax[run]'``) when a function is called.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from recjax.data import Interactions
from recjax.errors import InputError
from recjax.files import atomic_file, writable
from recjax.teacher._knowledge import Knowledge, check_fits, check_question, deviation


def read_scores(
    path: str | os.PathLike[str],
    log: Interactions,
    *,
    length: int,
    standardize: bool = True,
    skip_unknown: bool = False,
) -> Knowledge:
    r"""A teacher from a table of its scores, whoever made it: boosted trees, a language model, another library.

    Parquet, CSV or TSV (also gzipped), one row for each pair of a user and an item that was scored, with a header that
    names the columns ``user``, ``item`` (or ``userId``, ``movieId`` and whatever else :func:`recjax.data.read` takes
    for them) and ``score``. Ids are compared as the text that they are in the log. Other columns are ignored, and the
    order of the rows plays no role.

    Args:
      path: the table.
      log: the log whose users and items are meant.
      length: keep each user's best ``length`` items; of equal scores the lower item position comes first. The list of a
        user with fewer rows, or none, is padded.
      standardize: whether scores are divided by their standard deviation over all rows of the table, as
        :func:`recjax.teacher.knowledge` divides them by that over users and items. False takes them as they are.
      skip_unknown: whether rows whose user or item the log hasn't are left out; if False, they are an error.

    Returns:
      The :class:`Knowledge`, one list for each of ``log.user_ids``.

    Raises:
      ValueError: if ``length`` is below 1 or above ``log.items``.
      InputError: for a file that isn't such a table; an id that the log hasn't; a pair that comes twice; a score that
        is no finite number. One line names the file, the row and the column.

    Examples:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> log = Interactions(np.int32([0]), np.int32([1]), np.array(["ann", "bob"]), np.array(["x", "y", "z"]))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "scores.csv")
      ...     _ = path.write_text("user,item,score\nann,z,1\nann,y,7\nann,x,3\nbob,x,5\n")
      ...     teacher = read_scores(path, log, length=2)
      >>> teacher.items.tolist()
      [[1, 0], [0, -1]]
      >>> [[f"{score:.2f}" for score in scores] for scores in teacher.scores]  # 1, 7, 3, 5 have a deviation of 2.24
      [['3.13', '1.34'], ['2.24', '0.00']]
    """
    from recjax.teacher import _frames

    check_question(log.items, length, False)
    rows = _frames.read_scores(path, log, skip_unknown=skip_unknown)
    scores = rows.frame["score"].to_numpy()
    scale = deviation(float(scores.var(dtype=np.float64))) if standardize else np.float32(1)
    kept, place = best_places(rows.user, np.lexsort((rows.item, -scores, rows.user)), length)
    return _padded((log.users, length), rows.user[kept], place, rows.item[kept], scores[kept] / scale)


def read_lists(
    path: str | os.PathLike[str], log: Interactions, *, length: int, skip_unknown: bool = False
) -> Knowledge:
    r"""A teacher from a table of ranked lists, where there are no scores.

    One of two forms, with columns named as for :func:`read_scores`:

    * one row a user and item, the best first; or in any order with a column ``rank``, which need not begin at 0 or 1
      nor be without gaps;
    * Parquet with one row a user and a list of item ids, the best first, in the column ``items``.

    The item at place :math:`r = 0, 1, \dots` of a list has the score :math:`-r / \mathrm{length}`, divided
    by the standard deviation of these scores over all lists. That is a choice and not the teacher's word: only the
    order means something, so prefer losses that read the order alone.

    Args:
      path: the table.
      log: the log whose users and items are meant.
      length: keep each user's best ``length`` items. The list of a user with fewer, or none, is padded.
      skip_unknown: whether rows whose user or item the log hasn't are left out, and the items behind them move up; if
        False, they are an error.

    Returns:
      The :class:`Knowledge`, one list for each of ``log.user_ids``.

    Raises:
      ValueError: if ``length`` is below 1 or above ``log.items``.
      InputError: for a file that isn't such a table; an id that the log hasn't; an item or a rank that comes twice in a
        list; a rank that is no finite number; a second list of a user. One line names the file, the row and the column.

    Examples:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> log = Interactions(np.int32([0]), np.int32([1]), np.array(["ann", "bob"]), np.array(["x", "y", "z"]))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "lists.tsv")
      ...     _ = path.write_text("user\titem\trank\nann\ty\t2\nann\tz\t1\nbob\tx\t1\n")
      ...     teacher = read_lists(path, log, length=2)
      >>> teacher.items.tolist()
      [[2, 1], [0, -1]]
    """
    from recjax.teacher import _frames

    check_question(log.items, length, False)
    rows, ranks = _frames.read_lists(path, log, skip_unknown=skip_unknown)
    kept, place = best_places(rows.user, np.lexsort((ranks, rows.user)), length)
    scores = -place / length
    return _padded((log.users, length), rows.user[kept], place, rows.item[kept], scores / deviation(scores.var()))


def best_places(users: np.ndarray, order: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are the first ``length`` of their user, in an order that goes user by user, and at which place."""
    users = users[order]
    place = np.arange(len(users)) - np.searchsorted(users, users)
    return order[place < length], place[place < length]


def _padded(
    shape: tuple[int, int], user: np.ndarray, place: np.ndarray, item: np.ndarray, score: np.ndarray
) -> Knowledge:
    """Items and their scores at their places in the lists, and nothing elsewhere."""
    scores, items = np.zeros(shape, np.float32), np.full(shape, -1, np.int32)
    scores[user, place], items[user, place] = score, item
    return Knowledge(jnp.asarray(scores), jnp.asarray(items))


def read_labels(path: str | os.PathLike[str], log: Interactions) -> np.ndarray:
    r"""Soft labels for the rows of a log, from a table of probabilities.

    The table is as for :func:`read_scores`, with a column ``label`` from 0 to 1. Labels find their rows by the two ids
    and not by place. A pair that the log hasn't is ignored, so that one table serves every part of a split.

    Args:
      path: the table.
      log: the rows that need a label.

    Returns:
      ``[rows]`` float32 in the order of the log's rows.

    Raises:
      InputError: for a file that isn't such a table; a row of the log that has no label; a pair that comes twice; a
        label outside [0, 1]. One line names the file, the row and the column.

    Examples:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> log = Interactions(np.int32([0, 1]), np.int32([1, 0]), np.array(["ann", "bob"]), np.array(["x", "y"]))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "labels.csv")
      ...     _ = path.write_text("user,item,label\nbob,x,0.25\nann,y,0.75\n")
      ...     print(read_labels(path, log))
      [0.75 0.25]
    """
    from recjax.teacher import _frames

    rows = _frames.read_labels(path, log)
    pairs, wanted = (user.astype(np.int64) * log.items + item for user, item in (rows[:2], (log.user, log.item)))
    order = np.argsort(pairs)
    at = order[np.minimum(np.searchsorted(pairs, wanted, sorter=order), len(pairs) - 1)]
    missing = pairs[at] != wanted
    if missing.any():
        row = int(missing.argmax())
        ids = f"user {str(log.user_ids[log.user[row]])!r} and item {str(log.item_ids[log.item[row]])!r}"
        raise InputError(
            f"{os.fspath(path)}: expected a label for each row of the log, got none for {missing.sum():,} of "
            f"{len(wanted):,}, such as row {row + 1} of the log, {ids}"
        )
    return rows.frame["label"].to_numpy()[at]


def read_embeddings(
    path: str | os.PathLike[str],
    ids_path: str | os.PathLike[str],
    ids: np.ndarray | Sequence[str],
    *,
    skip_missing: bool = False,
) -> np.ndarray:
    r"""A teacher's vectors in the order of a vocabulary, from NumPy's ``.npy`` and a file of ids.

    Only the rows that are asked for are read into memory. Rows of ids that the vocabulary hasn't are ignored.

    Args:
      path: ``[rows, dim]`` float16, float32 or float64. Pickled objects are refused: reading runs no code.
      ids_path: text, the raw id of each row, one a line.
      ids: the vocabulary, such as ``log.item_ids``.
      skip_missing: whether an id that the files lack has a row of zeros; if False, it is an error.

    Returns:
      ``[len(ids), dim]`` float32.

    Raises:
      InputError: for files that aren't such; another number of ids than of rows; an id that comes twice or is missing;
        a number that isn't finite in float32. One line names the file and the row.

    Examples:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path, ids_path = pathlib.Path(folder, "items.npy"), pathlib.Path(folder, "items.txt")
      ...     np.save(path, np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
      ...     _ = ids_path.write_text("x\ny\nz\n")
      ...     print(read_embeddings(path, ids_path, np.array(["z", "x"])))
      [[5. 6.]
       [1. 2.]]
    """
    from recjax.teacher import _frames

    name, ids_name, wanted = os.fspath(path), os.fspath(ids_path), list(map(str, ids))
    vectors = _open_vectors(name)
    lines, first_line = _frames.read_lines(ids_path)
    if len(lines) != len(vectors):
        raise InputError(f"{name}: expected {len(lines):,} rows, one per id in {ids_name}, got {len(vectors):,}")
    row_of: dict[str, int] = {}
    for row, raw in enumerate(lines):
        if not raw or raw in row_of:
            found = f"{raw!r} again" if raw else "nothing"
            raise InputError(f"{ids_name}: row {row + first_line}: expected distinct ids, got {found}")
        row_of[raw] = row
    missing = [raw for raw in wanted if raw not in row_of]
    if missing and not skip_missing:
        found = f"none for {len(missing):,}, such as {missing[0]!r}"
        raise InputError(f"{ids_name}: expected a row for each of {len(wanted):,} ids, got {found}")
    rows = np.array([row_of.get(raw, -1) for raw in wanted], np.int64)
    with np.errstate(over="ignore"):  # too large for float32: named below
        chosen = np.where(rows[:, None] >= 0, np.asarray(vectors[rows], np.float32), np.float32(0))
    wrong = np.argwhere(~np.isfinite(chosen))
    if len(wrong):
        at, column = wrong[0]
        where = f"row {rows[at] + 1} (id {wanted[at]!r}), column {column + 1}"
        raise InputError(f"{name}: {where}: expected a finite float32 number, got {vectors[rows[at], column]}")
    return chosen


def _open_vectors(name: str) -> np.ndarray:
    """The array in an .npy file, on disk as long as nobody reads it."""
    expected = "NumPy's .npy with floats [rows, dim]"
    try:
        with open(name, "rb") as file:
            magic = file.read(6)
        vectors = np.load(name, mmap_mode="r", allow_pickle=False) if magic == b"\x93NUMPY" else None
    except FileNotFoundError:
        raise InputError(f"{name}: expected {expected}, got no such file") from None
    except IsADirectoryError:
        raise InputError(f"{name}: expected {expected}, got a folder") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{name}: expected {expected}, got an error ({reason})") from None
    except Exception as error:  # a header is parsed as Python's literals, which fails in every way that Python has
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(f"{name}: expected {expected}, got a damaged or pickled array ({reason})") from None
    if vectors is None:
        raise InputError(f"{name}: expected {expected}, got another format")
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or vectors.dtype.itemsize > 8:
        raise InputError(f"{name}: expected {expected}, got {vectors.dtype} {list(vectors.shape)}")
    return vectors


def write_scores(path: str | os.PathLike[str], knowledge: Knowledge, log: Interactions) -> None:
    """Knowledge as a table with the columns ``user``, ``item`` and ``score``, for any other system.

    Users in the order of the log; the items of each as in its list, or in the order of the catalog. Padding is left
    out. :func:`read_scores` with ``standardize=False`` reads the same numbers back, bit for bit.

    Args:
      path: where; the end of its name decides the format: ``.parquet``, ``.tsv`` or ``.csv``.
      knowledge: of the log's first users, or of all.
      log: whose raw ids are written.

    Raises:
      ValueError: if the knowledge is of more users than the log, or of another catalog, or isn't finite.
      InputError: for another end of the name, a raw id that text can't hold, or a place that can't be written.

    Examples:
      >>> import pathlib, tempfile
      >>> import jax.numpy as jnp, numpy as np
      >>> log = Interactions(np.int32([0]), np.int32([1]), np.array(["ann", "bob"]), np.array(["x", "y"]))
      >>> teacher = Knowledge(jnp.array([[2.5, 1.0], [0.5, 0.0]]), jnp.array([[1, 0], [0, -1]]))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "scores.csv")
      ...     write_scores(path, teacher, log)
      ...     print(path.read_text().strip())
      user,item,score
      ann,y,2.5
      ann,x,1.0
      bob,x,0.5
    """
    from recjax.teacher import _frames

    path = Path(path)
    users = np.shape(knowledge.scores)[0]
    if users > log.users:
        raise ValueError(f"scores: expected at most the log's {log.users} users, got {users}")
    check_fits(knowledge, users, log.items)
    scores = np.asarray(knowledge.scores, np.float32)
    items = np.broadcast_to(np.arange(log.items), scores.shape) if knowledge.items is None else knowledge.items
    items = np.asarray(items)
    user, place = np.nonzero(items >= 0)
    scores, items = scores[user, place], items[user, place]
    _check_finite("scores", scores)
    table = _frames.score_table(path, user, items, scores, log)
    with writable(path), atomic_file(path) as partial:
        _frames.write(partial, table, path.suffix.lower())


def write_embeddings(
    path: str | os.PathLike[str],
    ids_path: str | os.PathLike[str],
    vectors: np.ndarray,
    ids: np.ndarray | Sequence[str],
) -> None:
    """Vectors as NumPy's ``.npy`` in float32 and their raw ids as text, one a line: what :func:`read_embeddings` reads.

    Args:
      path: where the vectors go.
      ids_path: where the ids go.
      vectors: ``[rows, dim]`` float, NumPy's or JAX's.
      ids: ``[rows]`` raw ids.

    Raises:
      ValueError: if the vectors aren't ``[rows, dim]`` with as many rows as there are ids, or aren't finite.
      InputError: for an id that can't be a line or comes twice, or a place that can't be written.

    Examples:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path, ids_path = pathlib.Path(folder, "items.npy"), pathlib.Path(folder, "items.txt")
      ...     write_embeddings(path, ids_path, np.eye(2), ["x", "y"])
      ...     print(read_embeddings(path, ids_path, ["y", "x"]))
      [[0. 1.]
       [1. 0.]]
    """
    path, ids_path, lines = Path(path), Path(ids_path), list(map(str, ids))
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or len(vectors) != len(lines):
        raise ValueError(f"vectors: expected shape [{len(lines)}, dim], one row an id, got {list(vectors.shape)}")
    _check_finite("vectors", vectors)
    seen = set()
    for raw in lines:
        if (
            not raw
            or raw in seen
            or raw != raw.strip().lstrip("\ufeff")
            or any(mark in raw for mark in ("\n", "\r", "\0"))
        ):
            raise InputError(f"{ids_path}: expected distinct ids of one line each, got {raw!r}")
        seen.add(raw)
    with writable(path), atomic_file(path) as partial, open(partial, "wb") as file:
        np.save(file, vectors, allow_pickle=False)
    with writable(ids_path), atomic_file(ids_path) as partial:
        partial.write_text("".join(f"{raw}\n" for raw in lines), encoding="utf-8")


def _check_finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: expected finite numbers, got {values[~np.isfinite(values)][0]}")
