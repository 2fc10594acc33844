"""Tables of categories and numbers as the fields that CTR models read, one role a column as the caller says.

What is fitted of a column (its vocabulary, the edges of its intervals, its mean) is fitted on the train rows alone. It
is a value, an :class:`Encoding`, that is saved as JSON and applied to validation, test and serving as it is.
:func:`recjax.data.read_ctr` finds the roles by itself.
"""

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from recjax.data.encoding import Encoded, Encoding
from recjax.data.examples import Examples
from recjax.data.learned import Fitter

CRITEO = ("label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27)))


def fit_encoding(
    path: str | os.PathLike[str],
    columns: Mapping[str, Fitter],
    *,
    label: str,
    names: Sequence[str] | None = None,
) -> Encoding:
    r"""What there is to learn of a table's columns, from its train rows.

    CSV and TSV (also with semicolons or bars), Parquet; text also gzipped, as :func:`recjax.data.read` takes them. The
    whole file is read into memory. Columns that are not named play no role.

    Args:
      path: the table with the train rows, and these alone.
      columns: a fitter a column, by its name, in the order that the fields are to have: :func:`categories`,
        :func:`hashes`, :func:`quantiles`, :func:`logarithm`, :func:`standard`.
      label: the name of the column with the labels: 1 is a click, 0 or -1 is none.
      names: of all columns, for a file without a header; those of Criteo's logs, :data:`CRITEO`, are known.

    Returns:
      The encoding.

    Raises:
      InputError: for a file that isn't such a table, naming the row and the column.
      ValueError: if no column is named, or the label among them.

    Examples:
      >>> import pathlib, tempfile
      >>> from recjax import data
      >>> from recjax.data import categories, quantiles
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "train.csv")
      ...     _ = path.write_text("user,price,click\na,9,1\na,2,0\nb,,0\n")
      ...     encoding = fit_encoding(
      ...         path, {"user": categories(min_count=2), "price": quantiles(buckets=2)}, label="click"
      ...     )
      ...     rows = read_rows(path, encoding)
      >>> encoding.columns["user"], encoding.columns["price"]
      (Categories(values=('a',)), Intervals(edges=(5.5,)))
      >>> rows.fields.tolist(), rows.label.tolist()
      ([[1, 4], [1, 3], [0, 2]], [1.0, 0.0, 0.0])
      >>> data.encode({"user": ["a", "zoe"], "price": [7, None]}, encoding).fields.tolist()
      [[1, 4], [0, 2]]
    """
    from recjax.data import _encode

    if not columns or label in columns:
        raise ValueError(f"expected columns, and the label {label!r} not among them, got {list(columns)}")
    return _encode.fit_encoding(path, columns, label, names)


def read_rows(path: str | os.PathLike[str], encoding: Encoding) -> Examples:
    """The examples of a table: train, validation and test by the same encoding.

    Args:
      path: a table with the columns of the one that the encoding was fitted on.
      encoding: what :func:`fit_encoding` gave.

    Returns:
      The examples in file order; ``values`` is None where no column is a number that multiplies a vector.

    Raises:
      InputError: for a file that isn't such a table, naming the row and the column.
    """
    from recjax.data import _encode

    return _encode.read_rows(path, encoding)


def read_blocks(
    path: str | os.PathLike[str], encoding: Encoding, *, label: str | None = None, rows: int = 65536
) -> Iterator[tuple[Encoded, np.ndarray | None]]:
    """The rows of a table as fields, a block at a time: for scoring. The file itself is read into memory.

    Args:
      path: a table with some of the columns that the encoding was fitted on; see :func:`encode` for those it lacks.
      encoding: what :func:`fit_encoding` or :func:`read_ctr` gave.
      label: name of the column with the labels, if they are to be read.
      rows: rows of a block.

    Yields:
      The :class:`Encoded` rows, and their labels, ``[rows]`` float32 or None.

    Raises:
      InputError: for a file that isn't such a table, naming the row and the column.
    """
    from recjax.data import _encode

    return _encode.read_blocks(path, encoding, label, rows)
