"""Embeddings of a teacher, read by id and written back; files that are no arrays or not of these ids are named."""

import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from teacher_cases import LOG, finite, raw_ids, refused, relaxed, vectors

from recjax.teacher import (
    read_embeddings,
    write_embeddings,
)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_embeddings_come_in_the_order_of_the_vocabulary(tmp_path, dtype, order):
    array = np.arange(15).reshape(5, 3).astype(dtype, order=order)
    found = read_embeddings(*vectors(tmp_path, array), LOG.item_ids)
    assert found.dtype == np.float32
    assert found.tolist() == array[[1, 4, 3, 0]].tolist()
    assert read_embeddings(*vectors(tmp_path, array), ["z"]).tolist() == [[0, 1, 2]]


def test_ids_of_windows_with_blanks_around_them(tmp_path):
    path, ids_path = vectors(tmp_path, np.eye(2))
    ids_path.write_bytes("\n\ufeff".encode()[1:] + b"\r\n  x \r\n\ty y\r\n\r\n")
    assert read_embeddings(path, ids_path, ["y y", "x"]).tolist() == [[0, 1], [1, 0]]


def npy(shape="(2, 2)", content=b""):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


class Bomb:
    """Fails the test where it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("code of a file was run",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Bomb()), "expected NumPy's .npy ... got another format"),
        (b"PK\x03\x04", "expected NumPy's .npy ... got another format"),
        (b"", "expected NumPy's .npy ... got another format"),
        (npy()[:7], "... got a damaged or pickled array (EOF"),
        (npy()[:40], "... got a damaged or pickled array (EOF"),
        (npy(content=b"\0" * 15), "... got a damaged or pickled array (mmap length is greater than file size)"),
        (npy("(1000000000000, 1000)"), "... got a damaged or pickled array (mmap length is greater than file size)"),
        (npy("__import__('os')"), "... got a damaged or pickled array ("),
        (npy("(2, "), "... got a damaged or pickled array ("),
    ],
)
def test_files_that_are_no_arrays(tmp_path, content, message):
    path, ids_path = vectors(tmp_path, np.eye(5))
    path.write_bytes(content)
    refused(lambda: read_embeddings(path, ids_path, ["x"]), f"{path}: {message}")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.array([Bomb()] * 5, object),
            "... got a damaged or pickled array (Array can't be memory-mapped: Python objects",
        ),
        (np.ones((5, 2), int), "expected NumPy's .npy with floats [rows, dim] ... got int64 [5, 2]"),
        (np.ones((5, 2), complex), "... got complex128 [5, 2]"),
        (np.ones(5), "... got float64 [5]"),
        (np.ones((5, 2, 2)), "... got float64 [5, 2, 2]"),
        (np.float32(1), "... got float32 []"),
        (np.ones((4, 2)), "expected 5 rows, one per id in  ... got 4"),
        (np.ones((0, 2)), "expected 5 rows, one per id in  ... got 0"),
        (
            np.array([[0, 0], [0, np.nan]] + [[0, 0]] * 3),
            "row 2 (id 'x'), column 2: expected a finite float32 ... got nan",
        ),
        (
            np.array([[0, 0], [1e39, 0]] + [[0, 0]] * 3),
            "row 2 (id 'x'), column 1: expected a finite float32 ... got 1e+39",
        ),
    ],
)
def test_arrays_that_are_no_embeddings(tmp_path, array, message):
    path, ids_path = vectors(tmp_path, array)
    refused(lambda: read_embeddings(path, ids_path, LOG.item_ids), f"{path}: {message}")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (("z", "x", "z", "007", "y y"), "row 3: expected distinct ids ... got 'z' again"),
        (("z", "x", "", "007", "y y"), "row 3: expected distinct ids ... got nothing"),
        (("z", "a", "b", "c", "y y"), "expected a row for each of 4 ids, got none for 2, such as 'x'"),
        ((), "expected rows of data ... got an empty file"),
    ],
)
def test_ids_that_are_not_those_of_the_vectors(tmp_path, ids, message):
    path, ids_path = vectors(tmp_path, np.ones((5, 2)), ids)
    refused(lambda: read_embeddings(path, ids_path, LOG.item_ids), f"{ids_path}: {message}")


def test_embeddings_that_are_not_there(tmp_path):
    path, ids_path = vectors(tmp_path, np.ones((5, 2)))
    refused(
        lambda: read_embeddings(tmp_path / "no.npy", ids_path, ["x"]), "no.npy: expected NumPy's ... got no such file"
    )
    refused(lambda: read_embeddings(tmp_path, ids_path, ["x"]), f"{tmp_path}: expected NumPy's ... got a folder")
    refused(lambda: read_embeddings(path / "under", ids_path, ["x"]), "... got an error (Not a directory)")
    refused(lambda: read_embeddings(path, tmp_path / "no.txt", ["x"]), "no.txt:  ... got no such file")


@relaxed
@given(ids=raw_ids, array=hnp.arrays(np.float32, (3, 2), elements=finite), order=st.permutations(range(3)))
def test_written_embeddings_are_read_back_bit_for_bit(tmp_path, ids, array, order):
    path, ids_path = tmp_path / "v.npy", tmp_path / "ids.txt"
    if any(mark in "".join(ids) for mark in "\r\n") or "\ufeff" in {raw[0] for raw in ids}:
        refused(lambda: write_embeddings(path, ids_path, array, ids), "expected distinct ids of one line each")
        return
    write_embeddings(path, ids_path, jnp.asarray(array), np.array(ids, object))
    found = read_embeddings(path, ids_path, [ids[i] for i in order])
    assert found.tobytes() == array[list(order)].tobytes()


@pytest.mark.parametrize("ids", [("a", "a"), ("", "a"), (" a", "b"), ("a\nb", "c"), ("a\rb", "c"), ("\0", "c")])
def test_ids_that_are_no_lines(tmp_path, ids):
    refused(
        lambda: write_embeddings(tmp_path / "v", tmp_path / "i", np.eye(2), ids),
        "expected distinct ids of one line each",
    )
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.eye(3), r"vectors: expected shape \[2, dim\], one row an id, got \[3, 3\]"),
        (np.ones(2), "vectors: expected shape"),
        (np.array([[1.0], [np.inf]]), "vectors: expected finite numbers, got inf"),
    ],
)
def test_vectors_that_are_none(tmp_path, array, message):
    with pytest.raises(ValueError, match=message):
        write_embeddings(tmp_path / "v", tmp_path / "i", array, ["a", "b"])
