"""The libfm reader against plain Python, and every way in which a file can be wrong."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from experiments.real import DATA
from recjax import data
from recjax.errors import InputError

real = pytest.mark.skipif(
    not (DATA / "frappe").is_dir(), reason="no real data: set RECJAX_DATA to a folder that has frappe"
)


def write(folder: Path, content: str | bytes, name: str = "train.libfm") -> Path:
    path = folder / name
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def by_hand(text: str) -> tuple[list[list[int]], list[float]]:
    lines = [line.split() for line in text.splitlines() if line.strip()]
    fields = [[int(word.partition(":")[0]) for word in line[1:]] for line in lines]
    return fields, [float(float(line[0]) > 0) for line in lines]


TEXT = "1 0:1 17:1 2147483647:1\n-1 3:1 3:1 9:1\n0 4:1 8:1 007:1\n"
SAME = {
    "plain": TEXT,
    "numbers as floats": TEXT.replace("\n", " \n").replace(":1 ", ":1.0 ").replace("1 0:", "+1.00 0:"),
    "windows": "\ufeff" + TEXT.replace("\n", "\r\n"),
    "blanks": "\n  \n" + TEXT.replace(" ", " \t ").replace("\n", "\n \n\n"),
    "mac": TEXT.replace("\n", "\r"),
    "no last line end": TEXT.rstrip(),
}


@pytest.mark.parametrize("name", ["train.libfm", "train.libfm.gz", "train.txt"])
@pytest.mark.parametrize("kind", SAME)
def test_reads_what_is_written(tmp_path, kind, name):
    rows = data.read_libfm(write(tmp_path, SAME[kind], name))
    assert (rows.fields.dtype, rows.label.dtype) == (np.int32, np.float32)
    assert rows.fields.tolist() == [[0, 17, 2147483647], [3, 3, 9], [4, 8, 7]]
    assert rows.label.tolist() == [1, 0, 0]


def test_one_row_of_one_field_is_enough(tmp_path):
    rows = data.read_libfm(write(tmp_path, "-1 5:1"))
    assert rows.fields.tolist() == [[5]]
    assert rows.label.tolist() == [0]


WRONG = {
    "1 0:1 1:1\n1 0:1\n": "row 2: expected 2 fields as in row 1, got 1",
    "\n1 0:1 1:1\n\n1 0:1 1:1 2:1\n": "row 4: expected 2 fields as in row 2, got 3",
    "1 0:1 1:1\n2 0:1 1:1\n": "row 2, column '1': expected a label of 1, 0 or -1.*got '2'",
    "1 0:1 1:1\nyes 0:1 1:1\n": "row 2, column '1': expected a label.*got 'yes'",
    "1 0:1 1:1\n-1 0:1 1:0.5\n": "row 2, column '3': expected index:1.*got '1:0.5'",
    "1 0:1 1:1\n-1 0:1 1:10\n": "row 2, column '3': expected index:1.*got '1:10'",
    "1 0:1 1:1\n-1 0:1 -1:1\n": "row 2, column '3': expected index:1.*got '-1:1'",
    "1 0:1 1:1\n-1 2147483648:1 1:1\n": "row 2, column '2': expected index:1 .* at most 214748.*got '2147483648:1'",
    "1 0:1 1:1\n-1 0:1 x:1\n": "row 2, column '3': expected index:1.*got 'x:1'",
    "1 0 1\n": "row 1, column '2': expected index:1.*got '0'",
    "user,item\n1,2\n": "row 1: expected 'label index:1 index:1 ...', got 'user,item'",
    "1\n1\n": "row 1: .*got '1'",
    "\n\n": "got only blank lines",
    "": "got an empty file",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_named(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=WRONG[text]) as caught:
        data.read_libfm(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(InputError, match="got no such file"):
        data.read_libfm(tmp_path / "none.libfm")
    with pytest.raises(InputError, match=r"row 2: expected UTF-8 text.*got the byte 0xff"):
        data.read_libfm(write(tmp_path, b"1 0:1\n\xff 0:1\n"))


@real
def test_frappe_is_what_its_readme_says():
    parts = {name: data.read_libfm(DATA / "frappe" / f"{name}.libfm.gz") for name in ("train", "valid", "test")}
    assert {name: rows.fields.shape for name, rows in parts.items()} == {
        "train": (202_027, 10),
        "valid": (57_722, 10),
        "test": (28_860, 10),
    }
    assert {name: int(rows.label.sum()) for name, rows in parts.items()} == {
        "train": 67_604,
        "valid": 19_063,
        "test": 9_536,
    }
    assert max(rows.fields.max() for rows in parts.values()) == 5381
    fields, label = by_hand(gzip.decompress((DATA / "frappe" / "test.libfm.gz").read_bytes()).decode())
    np.testing.assert_array_equal(parts["test"].fields, fields)
    np.testing.assert_array_equal(parts["test"].label, label)
