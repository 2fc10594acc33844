"""Parser of libFM lines ``label index:1 index:1 ...``, vectorized by column."""

import os

import numpy as np

from recjax.data._polars import pl
from recjax.data._source import check_text, read_bytes, read_lines, shown
from recjax.errors import InputError

LABEL = r"^([+-]?[01])(?:\.0*)?$"
FIELD = r"^(\d+):\+?1(?:\.0*)?$"


def parse(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Fields and labels, for :func:`recjax.data.read_libfm`."""
    name = os.fspath(path)
    body, first_line = check_text(name, read_bytes(path))
    lines = read_lines(name, body)
    frame = pl.DataFrame({"words": lines.fill_null("").str.extract_all(r"\S+")}).with_row_index("record", first_line)
    frame = frame.filter(pl.col("words").list.len() > 0)
    record, words = frame["record"], frame["words"]
    width = len(words[0])
    if width < 2:
        raise InputError(
            f"{name}: row {first_line}: expected 'label index:1 index:1 ...', got {shown(words[0].to_list()[0])}"
        )
    wrong = (words.list.len() != width).to_numpy()
    if wrong.any():
        at = int(wrong.argmax())
        raise InputError(
            f"{name}: row {record[at]}: expected {width - 1} fields as in row {record[0]}, got {len(words[at]) - 1}"
        )

    def numbers(column: int, pattern: str, expected: str) -> np.ndarray:
        texts = words.list.get(column)
        values = texts.str.extract(pattern).cast(pl.Int32, strict=False)
        if values.null_count():
            at = int(values.is_null().to_numpy().argmax())
            raise InputError(
                f"{name}: row {record[at]}, column '{column + 1}': expected {expected}, got {shown(texts[at])}"
            )
        return values.to_numpy()

    label = numbers(0, LABEL, "a label of 1, 0 or -1")
    at_most = np.iinfo(np.int32).max
    fields = [numbers(column, FIELD, f"index:1 with a whole index of at most {at_most}") for column in range(1, width)]
    return np.stack(fields, axis=1), (label > 0).astype(np.float32)
