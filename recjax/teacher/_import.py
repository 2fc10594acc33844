"""The files that a teacher can be read from, whatever system wrote them."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recjax.data import Interactions
from recjax.errors import InputError
from recjax.teacher._files import best_places, read_embeddings

LONGEST = 1000  # items of a list that are kept
EMBEDDINGS = ("users.npy", "users.txt", "items.npy", "items.txt")


class Imported(NamedTuple):
    """A teacher's files, by the positions of a data set.

    Attributes:
      arrays: ``{"lists": {"items": [users, length] int32, "scores": [users, length] float32}}``, -1 where a list ends,
        or ``{"vectors": {"user": [users, dim], "item": [items, dim]}}`` float32, zeros for an id that the files lack.
      counts: rows of unknown users or items, which are left out, and users without a score.
    """

    arrays: dict[str, Any]
    counts: dict[str, int]


def read_teacher(path: str | os.PathLike[str], user_ids: np.ndarray, item_ids: np.ndarray) -> Imported:
    """A teacher from a file or a folder.

    * A table (Parquet, CSV, TSV) with the columns user, item and score: :func:`recjax.teacher.read_scores`.
    * A table with the columns user and item, best first or with a column rank, or user and items:
      :func:`recjax.teacher.read_lists`.
    * A folder with ``users.npy``, ``users.txt``, ``items.npy``, ``items.txt``, embeddings whose inner products are the
      scores: :func:`recjax.teacher.read_embeddings`.

    Unknown ids are left out and counted. Of each list the best 1,000 items are kept.

    Args:
      path: the file or the folder.
      user_ids: the data set's raw ids.
      item_ids: likewise.

    Returns:
      The :class:`Imported`.

    Raises:
      InputError: for a file that is none of these; one line names the file, the row and the column.
    """
    path = Path(path)
    if path.is_dir():
        return _embeddings(path, user_ids, item_ids)
    from recjax.teacher import _frames

    none = np.zeros(0, np.int32)
    log = Interactions(none, none, user_ids, item_ids)
    length = min(LONGEST, len(item_ids))
    if _frames.has_column(path, "score"):
        rows = _frames.read_scores(path, log, skip_unknown=True)
        values = rows.frame["score"].to_numpy()
        kept, place = best_places(rows.user, np.lexsort((rows.item, -values, rows.user)), length)
        values = values[kept]
    else:
        rows, ranks = _frames.read_lists(path, log, skip_unknown=True)
        kept, place = best_places(rows.user, np.lexsort((ranks, rows.user)), length)
        values = -place / length
    shape = (len(user_ids), int(place.max()) + 1)
    items, scores = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    items[rows.user[kept], place], scores[rows.user[kept], place] = rows.item[kept], values
    counts = {
        "teacher_rows_of_unknown_ids": rows.unknown,
        "teacher_rows_beyond_the_longest_list": len(rows.user) - len(kept),
        "users_without_teacher": int((items[:, 0] < 0).sum()),
    }
    return Imported({"lists": {"items": items, "scores": scores}}, counts)


def _embeddings(folder: Path, user_ids: np.ndarray, item_ids: np.ndarray) -> Imported:
    missing = [name for name in EMBEDDINGS if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: expected a folder with {', '.join(EMBEDDINGS)}, got none named {missing[0]}")
    vectors, counts = {}, {}
    for name, ids in (("user", user_ids), ("item", item_ids)):
        paths = folder / f"{name}s.npy", folder / f"{name}s.txt"
        vectors[name] = read_embeddings(*paths, ids, skip_missing=True)
        counts[f"{name}s_without_teacher"] = int((~vectors[name].any(axis=1)).sum())
    dims = {name: values.shape[1] for name, values in vectors.items()}
    if dims["user"] != dims["item"]:
        raise InputError(f"{folder}: expected users and items of one dim, got {dims['user']} and {dims['item']}")
    return Imported({"vectors": vectors}, counts)
