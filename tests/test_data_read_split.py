"""Splits that come ready made as files, and the real data sets where they are at hand."""

import csv
import gzip

import numpy as np
import pytest
from read_cases import check_message, rows, write

from experiments.real import DATA
from recjax import data
from recjax.errors import InputError

real = pytest.mark.skipif(
    not DATA.is_dir(), reason="no real data: set RECJAX_DATA to a folder with ml-100k, citeulike, ..."
)


def test_read_split_lists_and_columns(tmp_path):
    train = write(tmp_path, "u1 a b c\nu2 a\n\nu3\nu4 d  a \r\n", "train.txt.gz")
    valid = write(tmp_path, "u1\td\nu9\ta\nu1\ta\n", "valid.tsv")
    test = write(tmp_path, "item,user,rating\nz,u1,5\nd,u1,5\nd,u1,1\na,u2,5\nb,u2,4\n", "test.csv")
    with pytest.raises(InputError, match="header"):  # ids that look like names: say which columns
        data.read_split(train, valid, test)
    valid = write(tmp_path, "user\titem\nu1\td\nu9\ta\nu1\ta\n", "valid.tsv")
    split = data.read_split(train, valid, test)
    assert rows(split.train) == [("u1", "a"), ("u1", "b"), ("u1", "c"), ("u2", "a"), ("u4", "d"), ("u4", "a")]
    assert rows(split.valid) == [("u1", "d"), ("u9", "a")]
    assert rows(split.test) == [("u1", "z"), ("u2", "b")]
    assert sorted(split.train.user_ids.tolist()) == ["u1", "u2", "u4", "u9"]  # u3 has nothing
    assert split.train.user_ids is split.test.user_ids
    assert split.counts == {
        "valid_rows_in_earlier_part": 1,
        "test_rows_in_earlier_part": 2,
        "train_rows": 6,
        "valid_rows": 2,
        "test_rows": 2,
        "users_not_in_train": 1,
        "users_without_valid": 2,
        "users_without_test": 2,
        "items_not_in_train": 1,
    }
    assert split.train.counts == {"rows_read": 14, "duplicates_collapsed": 1}


def test_read_split_keeps_what_every_file_has(tmp_path):
    text = "user,item,rating,time\n1,{0},{1},5\n2,{0},1,6\n"
    paths = [write(tmp_path, text.format(i, 3 + i), f"{i}.csv") for i in range(3)]
    split = data.read_split(*paths, min_rating=2)
    assert [rows(part) for part in split[:3]] == [[("1", str(i), 3.0 + i, 5.0)] for i in range(3)]
    assert split.train.counts == {"rows_read": 6, "below_rating": 3, "duplicates_collapsed": 0}


def test_read_split_draws_valid_from_train(tmp_path):
    lines = [" ".join([str(u), *(str(i) for i in range(n))]) for u, n in enumerate((1, 2, 4, 5, 14, 15, 40))]
    train, test = write(tmp_path, "\n".join(lines)), write(tmp_path, "6 99\n", "test.txt")
    split = data.read_split(train, None, test, seed=3)
    drawn = dict(zip(split.train.user_ids.tolist(), np.bincount(split.valid.user, minlength=7).tolist(), strict=True))
    assert drawn == {"0": 0, "1": 0, "2": 0, "3": 1, "4": 1, "5": 2, "6": 4}
    assert split.counts["valid_rows_drawn_from_train"] == 8
    assert "valid_rows_in_earlier_part" not in split.counts
    every = {(line.split()[0], item) for line in lines for item in line.split()[1:]}
    assert set(rows(split.train)) | set(rows(split.valid)) == every
    again, other = (data.read_split(train, None, test, seed=seed) for seed in (3, 4))
    assert rows(again.valid) == rows(split.valid)
    assert rows(other.valid) != rows(split.valid)
    assert len(split.train) + len(split.valid) == 81


def test_read_split_errors(tmp_path):
    train, test = write(tmp_path, "0 a b c\n", "train.txt"), write(tmp_path, "0 c\n", "test.txt")
    lonely, empty = write(tmp_path, "0\n", "lonely.txt"), write(tmp_path, "", "empty.txt")
    for paths, blamed, expected in (
        ((train, test, test), test, "expected valid rows"),  # its rows are all in train
        ((train, None, test), train, "expected valid rows"),  # three rows give no tenth
        ((lonely, None, test), lonely, "user with an item"),
        ((train, empty, test), empty, "empty file"),
    ):
        with pytest.raises(InputError) as caught:
            data.read_split(*paths)
        check_message(caught.value, blamed, [expected])


# Real data


@real
def test_movielens_file_against_pythons_csv():
    log = data.read(DATA / "ml-100k" / "ml-100k.inter.gz")
    with gzip.open(DATA / "ml-100k" / "ml-100k.inter.gz", "rt") as file:
        wanted = [(u, i, float(r), float(t)) for u, i, r, t in list(csv.reader(file, delimiter="\t"))[1:]]
    assert rows(log) == wanted
    assert (log.users, log.items, len(log)) == (943, 1682, 100_000)


@real
@pytest.mark.parametrize("name", ["citeulike", "citeulike-random"])
def test_citeulike(name):
    split = data.read_split(*(DATA / name / f"{part}.tsv.gz" for part in ("train", "valid", "test")))
    assert [len(part) for part in split[:3]] == [98_405, 12_451, 14_724]
    assert (split.users, split.items) == (5_219, 25_181)
    assert split.counts["users_not_in_train"] == 0


@real
def test_gowalla():
    split = data.read_split(DATA / "gowalla" / "train.txt.gz", None, DATA / "gowalla" / "test.txt.gz")
    assert (split.users, split.items) == (29_858, 40_981)
    assert len(split.train) + len(split.valid) == 810_128
    assert len(split.test) == 217_242
    with gzip.open(DATA / "gowalla" / "test.txt.gz", "rt") as file:
        wanted = [(u, i) for u, *items in map(str.split, file) for i in items]
    assert rows(split.test) == wanted
