"""What is known about items and users beside the log: side tables as numbers in the order of the vocabulary."""

import dataclasses
import os
from typing import Any

import numpy as np

from recjax.data.interactions import Features, Interactions


def read_table(
    path: str | os.PathLike[str], ids: np.ndarray, *, id_column: str | None = None, title_column: str | None = None
) -> tuple[Features, np.ndarray | None]:
    r"""A side table of items or users as features, aligned with a vocabulary.

    RecBole's ``.item`` and ``.user`` (typed header), CSV, TSV and Parquet, as :func:`recjax.data.read` takes them; also
    gzipped. A column becomes

    * one standardized number (:func:`normalize`), if its type is float or all its values are numbers, or at least 95 of
      100 are and the next rule doesn't skip it (the others are missing then);
    * nothing, if it is text with more different values than half the rows that have one, such as zip codes: an
      identifier in disguise; likewise lists of words with more different words than rows;
    * zeros and ones, a column for each of its 64 most frequent values, named ``column=value``. ``token_seq`` (words
      separated by blanks), text with bars (``Action|Drama``) and Parquet lists of text or whole numbers give one for
      each word in them.

    The id, the title and ``float_seq`` columns become nothing. An id that the table lacks has zeros and the title
    ``""``; of a repeated id the first row counts; rows of other ids play no role.

    Args:
      path: the table.
      ids: ``[rows]`` str, the vocabulary, such as ``log.item_ids``.
      id_column: name of the column with the ids, where it isn't found (``item_id``, ``movieId``, ``user_id``, ``id``,
        ...; without a header: the first).
      title_column: name of the column with the titles, likewise (``movie_title``, ``title``, ``name``, ...).

    Returns:
      The features, and ``[rows]`` str titles (cut at 200 characters), or None if there is no such column.

    Raises:
      InputError: for a file that isn't such a table, or has none of the ids.

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
    """The same log with the titles and features of :func:`read_table`; a table without features leaves None.

    ``counts`` gains, for each table and where there are any, ``item_table_columns_dropped`` (columns that become
    nothing), ``item_table_rows_of_other_ids`` and ``item_table_rows_of_repeated_ids``; likewise ``user_table_...``.
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
