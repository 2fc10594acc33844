"""Labeled examples of categorical fields, the training data of CTR models."""

import os
from typing import NamedTuple

import numpy as np


class Examples(NamedTuple):
    """Labeled examples of categorical fields (NumPy arrays).

    Attributes:
      fields: ``[rows, fields]`` int32, one id per field; all fields share one numbering.
      label: ``[rows]`` float32, 0 or 1.
      values: ``[rows, fields]`` float32 factors of the embedding vectors; None if all are 1.
    """

    fields: np.ndarray
    label: np.ndarray
    values: np.ndarray | None = None


def read_libfm(path: str | os.PathLike[str]) -> Examples:
    r"""Labeled examples from a file in libFM format with categorical features only.

    One example per line, ``label index:1 index:1 ...``, separated by blanks, with the same number of fields in every
    line; also gzipped. Label 1 is a click, 0 or -1 is none. The n-th index of a line belongs to field n. The whole file
    is read into memory.

    Args:
      path: the file.

    Returns:
      The examples in file order, with the indices of the file, so files of one log can be read one by one.

    Raises:
      InputError: for a malformed file, naming the row and the column.

    Examples:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "train.libfm")
      ...     _ = path.write_text("1 0:1 7:1\n-1 3:1 9:1\n")
      ...     rows = read_libfm(path)
      >>> rows.fields.tolist(), rows.label.tolist()
      ([[0, 7], [3, 9]], [1.0, 0.0])

    References:
      Rendle, *Factorization Machines with libFM*, ACM TIST 3, 2012, section 5.
    """
    from recjax.data import _libfm

    return Examples(*_libfm.parse(path))
