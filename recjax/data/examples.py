"""Examples with labels, as models of clicks learn from: categorical fields in, 0 or 1 out."""

import os
from typing import NamedTuple

import numpy as np


class Examples(NamedTuple):
    """Labeled examples of fields. NumPy at rest.

    Attributes:
      fields: ``[rows, fields]`` int32, one value a field; the values of all fields share one numbering.
      label: ``[rows]`` float32, 0 or 1.
      values: ``[rows, fields]`` float32, what multiplies the vector of each value; None where that is 1 throughout.
    """

    fields: np.ndarray
    label: np.ndarray
    values: np.ndarray | None = None


def read_libfm(path: str | os.PathLike[str]) -> Examples:
    r"""Labeled examples from a file in the libfm format whose features are all categorical.

    One example a line, ``label index:1 index:1 ...`` separated by blanks, every line with as many fields as the first;
    also gzipped. A label of 1 is a click, 0 or -1 is none. An index is the number of a value, and which field it
    belongs to is told by its place in the line. Blank lines, CRLF and a byte order mark are nothing special. The whole
    file is read into memory.

    Args:
      path: the file.

    Returns:
      The examples in file order, under the indices of the file: parts of one log read one by one belong together.

    Raises:
      InputError: for a file that isn't so, naming the row and the column.

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
