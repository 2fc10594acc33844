"""Features of items and users from side tables, aligned with the vocabulary of a log."""

import dataclasses
import os
from typing import Any

import numpy as np

from recjax.data.interactions import Features, Interactions


def read_table(
    path: str | os.PathLike[str], ids: np.ndarray, *, id_column: str | None = None, title_column: str | None = None
) -> tuple[Features, np.ndarray | None]:
    r"""Features of items or users from a side table, aligned with a vocabulary.

    RecBole's ``.item`` and ``.user`` (typed header), CSV, TSV and Parquet, as in :func:`recjax.data.read`; also
    gzipped. Each column becomes one of

    * a standardized number (:func:`normalize`), if its type is float or at least 95 % of its values are numbers (others
      are missing);
    * nothing, if it is text with more distinct values than half of its rows, such as zip codes or names; also lists of
      words with more distinct words than rows, and ``float_seq``;
    * zeros and ones, one column named ``column=value`` for each of its 64 most frequent values. In ``token_seq`` (words
      separated by blanks), text with bars (``Action|Drama``) and Parquet lists, each word is a value.

    An id missing from the table gets zeros and the title ``""``; of a repeated id the first row counts; rows of other
    ids are ignored.

    Args:
      path: the table.
      ids: ``[rows]`` str, the vocabulary, such as ``log.item_ids``.
      id_column: name of the id column; by default a common one (``item_id``, ``movieId``, ``user_id``, ``id``, ...), or
        the first without a header.
      title_column: name of the title column; by default a common one (``movie_title``, ``title``, ``name``, ...).

    Returns:
      The features, and ``[rows]`` str titles (cut at 200 characters), or None if there is no such column.

    Raises:
      InputError: for a malformed file, or one without any of the ids.

    Examples:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "movies.csv")
      ...     _ = path.write_text("movieId,title,genres\n1,Heat,Crime|Drama\n2,Emma,Drama\n3,Jaws,Crime\n")
      ...     features, titles = read_table(path, np.array(["2", "9", "1"]))
      >>> features.names, features.values.tolist(), titles.tolist()
      (('genres=Crime', 'genres=Drama'), [[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]], ['Emma', '', 'Heat'])
    """
    from recjax.data import _table

    features, titles, _ = _table.read_aligned(path, ids, id_column, title_column)
    return features, titles


def with_features(
    log: Interactions,
    *,
    item_table: str | os.PathLike[str] | None = None,
    user_table: str | os.PathLike[str] | None = None,
) -> Interactions:
    """The same log with the titles and features of :func:`read_table`; None for a table without features.

    ``counts`` gains, where positive, ``item_table_columns_dropped``, ``item_table_rows_of_other_ids`` and
    ``item_table_rows_of_repeated_ids``; likewise ``user_table_...``.
    """
    from recjax.data import _table

    for side, path, ids in (("item", item_table, log.item_ids), ("user", user_table, log.user_ids)):
        if path is None:
            continue
        features, titles, left_out = _table.read_aligned(path, ids, None, None)
        counts = log.counts | {f"{side}_table_{name}": count for name, count in left_out.items() if count}
        changed: dict[str, Any] = {f"{side}_features": features if features.names else None, "counts": counts}
        if side == "item":
            changed["titles"] = titles
        log = dataclasses.replace(log, **changed)
    return log
