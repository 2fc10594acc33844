"""Tables of what a teacher says against Python's own loops; what is written is read back; what is wrong is named."""

import gzip
import os

import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from teacher_cases import ITEMS, LOG, USERS, finite, raw_ids, refused, relaxed, vectors

from recjax.data import Interactions
from recjax.teacher import (
    Knowledge,
    read_embeddings,
    read_labels,
    read_lists,
    read_scores,
    write_embeddings,
    write_scores,
)

SCORES = [("7", "z", 1.5), ("ann", "007", -2.0), ("ann", "x", 4.0), ("7", "x", 0.25), ("ann", "y y", 4.0)]
LISTS = {"ann": ["007", "x", "z"], "7": ["y y"]}
LISTED = [("ann", "007", 10.0), ("7", "y y", 3.0), ("ann", "x", 11.5), ("ann", "z", 70.0)]
LABELS = [("7", "z", 0.25), ("ann", "x", 1.0), ("né ☃", "007", 0.0), ("nobody", "x", 0.5), ("ann", "y y", 0.1)]


def table(folder, rows, columns, name):
    """A table in the format that its name ends in."""
    path = folder / name
    if name.endswith(".parquet"):
        pl.DataFrame(rows, schema=list(columns), orient="row").write_parquet(path)
        return path
    separator = "\t" if ".tsv" in name else ","
    text = "\n".join(separator.join(map(str, row)) for row in [columns, *rows]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


FORMATS = ["t.parquet", "t.csv", "t.tsv", "t.csv.gz"]


# -- scores ---------------------------------------------------------------------------------------------------------


def by_hand(rows, length, scale):
    """Python's own: each user's best, of equal scores the lower item position first, padded."""
    items, scores = [], []
    for user in USERS:
        mine = sorted((-score, ITEMS.index(item)) for owner, item, score in rows if owner == user)[:length]
        items.append([at for _, at in mine] + [-1] * (length - len(mine)))
        scores.append([-score / scale for score, _ in mine] + [0.0] * (length - len(mine)))
    return items, scores


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("name", FORMATS)
def test_scores_become_each_users_best(tmp_path, name, length, standardize):
    path = table(tmp_path, SCORES, ("userId", "Item_ID", "Score"), name)
    found = read_scores(path, LOG, length=length, standardize=standardize)
    items, scores = by_hand(SCORES, length, np.std([score for *_, score in SCORES]) if standardize else 1.0)
    assert isinstance(found, Knowledge)
    assert (found.scores.dtype, found.items.dtype) == (jnp.float32, jnp.int32)
    assert found.items.tolist() == items
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6)


def test_other_columns_and_their_order_play_no_role(tmp_path):
    rows = [("note", score, item, "", user) for user, item, score in SCORES]
    path = table(tmp_path, rows, ("why", "score", "movieId", "rating", "customer"), "t.csv")
    expected = read_scores(table(tmp_path, SCORES, ("user", "item", "score"), "s.csv"), LOG, length=3)
    found = read_scores(path, LOG, length=3)
    assert found.items.tolist() == expected.items.tolist()
    assert found.scores.tolist() == expected.scores.tolist()


def test_numbers_as_ids_and_scores_of_any_number_type(tmp_path):
    log = Interactions(np.int32([0]), np.int32([0]), np.array(["7", "8"]), np.array(["1", "2"]))
    frame = pl.DataFrame({"user": [7, 8, 8], "item": [1.0, 2.0, 1.0], "score": [3, 1, 2]}).cast({"score": pl.Int8})
    frame.write_parquet(tmp_path / "t.parquet")
    assert read_scores(tmp_path / "t.parquet", log, length=2).items.tolist() == [[0, -1], [0, 1]]


def test_one_score_for_all_stays_what_it_is(tmp_path):
    rows = [(user, item, 3.0) for user, item, _ in SCORES]
    found = read_scores(table(tmp_path, rows, ("user", "item", "score"), "t.csv"), LOG, length=2)
    assert found.scores.tolist() == [[3, 3], [0, 0], [3, 3], [0, 0]]


UNKNOWN = [*SCORES[:2], ("zed", "x", 9.0), ("ann", "q", 1e6), *SCORES[2:]]


@pytest.mark.parametrize("name", FORMATS)
def test_unknown_ids_are_named_or_skipped(tmp_path, name):
    path = table(tmp_path, UNKNOWN, ("user", "item", "score"), name)
    row = 3 if name == "t.parquet" else 4  # in text, the header is row 1
    message = f"row {row}, column 'user': expected a user of the log (2 of 7 pairs lack one; skip_unknown="
    refused(lambda: read_scores(path, LOG, length=2), f"{path}: {message}True leaves them out), got 'zed'")
    found = read_scores(path, LOG, length=2, skip_unknown=True)
    expected = read_scores(table(tmp_path, SCORES, ("user", "item", "score"), "k.csv"), LOG, length=2)
    assert found.items.tolist() == expected.items.tolist()
    assert found.scores.tolist() == expected.scores.tolist()  # of the deviation, too, skipped rows are no part


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,item,score\nann,q,1\n", "row 2, column 'item': expected an item of the log (1 of 1 pairs ... got 'q'"),
        ("user,item,score\nann,x,1\n7,x,1\nann,x,2\n", "row 4, column 'item': expected an item that user ... got 'x'"),
        ("user,item,score\nann,x,nan\n", "row 2, column 'score': expected a finite number ... got 'nan'"),
        ("user,item,score\nann,x,1\nann,z,-inf\n", "row 3, column 'score': expected a finite number ... got '-inf'"),
        ("user,item,score\nann,x,1e39\n", "row 2, column 'score': expected a finite number ... got '1e39'"),
        ("user,item,score\nann,x,\n", "row 2, column 'score': expected a finite number ... got nothing"),
        ("user,item,score\n,x,1\n", "row 2, column 'user': expected an id ... got nothing"),
        ("user,item,score\nann,x,good\n", "row 2, column 'score': expected a finite number ... got 'good'"),
        ("user,item,score\nann,x,1,2\n", "row 2: expected 3 fields, got 4"),
        ("user,item,score\n", "expected rows of data ... got only a header"),
        (
            "user,item,points\nann,x,1\n",
            "expected a column for the score (score) ... got columns 'user', 'item', 'points'",
        ),
        (
            "who,item,score\nann,x,1\n",
            "expected a column for the user (userid, user, ... got columns 'who', 'item', 'score'",
        ),
        (
            "user,what,score\nann,x,1\n",
            "expected a column for the item (itemid, ... got columns 'user', 'what', 'score'",
        ),
        ("ann,x,1\n", "expected a header line that names the columns (userid, user, uid, username, ... got none"),
        ("", "expected rows of data ... got an empty file"),
    ],
)
def test_wrong_tables_of_scores(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    refused(lambda: read_scores(tmp_path / "t.csv", LOG, length=2), f"{tmp_path / 't.csv'}: {message}")


def test_rows_of_nobody_are_refused_even_if_unknown_ones_are_skipped(tmp_path):
    path = table(tmp_path, [("zed", "x", 1), ("ann", "q", 1)], ("user", "item", "score"), "t.csv")
    message = "row 2, column 'user': expected a user of the log in at least one of 2 pairs with an item ... got 'zed'"
    refused(lambda: read_scores(path, LOG, length=2, skip_unknown=True), message)


@pytest.mark.parametrize("cut", [4, 40, 300])
def test_truncated_parquet(tmp_path, cut):
    path = table(tmp_path, SCORES, ("user", "item", "score"), "t.parquet")
    path.write_bytes(path.read_bytes()[:-cut])
    refused(lambda: read_scores(path, LOG, length=2), f"{path}: expected a Parquet file, got a corrupt one (")


def test_files_that_are_not_there(tmp_path):
    refused(lambda: read_scores(tmp_path / "none.csv", LOG, length=2), "none.csv:  ... got no such file")
    refused(lambda: read_scores(tmp_path, LOG, length=2), "expected a file ... got a folder")


@pytest.mark.parametrize("length", [0, 5])
@pytest.mark.parametrize("read", [read_scores, read_lists])
def test_lengths_that_cannot_be(tmp_path, read, length):
    with pytest.raises(ValueError, match=f"expected length from 1 to 4, got {length}"):
        read(tmp_path / "unread.csv", LOG, length=length)


# -- lists ----------------------------------------------------------------------------------------------------------

ITEMS_OF_ANN = [ITEMS.index(item) for item in LISTS["ann"]]


def check_lists(found, length):
    """The lists above; nothing for the other two users."""
    padded = [(ITEMS_OF_ANN + [-1] * 4)[:length], [-1] * length, ([1] + [-1] * 4)[:length], [-1] * length]
    assert found.items.tolist() == padded
    raw = np.where(np.array(padded) >= 0, -np.arange(length) / length, 0)
    scale = raw[np.array(padded) >= 0].std()
    np.testing.assert_allclose(found.scores, raw / (scale if scale > 0 else 1), rtol=1e-6)
    assert (found.scores.dtype, found.items.dtype) == (jnp.float32, jnp.int32)


@pytest.mark.parametrize("length", [1, 2, 3, 4])
@pytest.mark.parametrize("name", FORMATS)
def test_lists_in_the_order_of_the_rows_or_by_rank(tmp_path, name, length):
    rows = [row[:2] for row in LISTED]
    check_lists(read_lists(table(tmp_path, rows, ("user", "item"), "o" + name), LOG, length=length), length)
    shuffled = [LISTED[i] for i in (3, 1, 2, 0)]
    path = table(tmp_path, shuffled, ("user", "item", "rank"), "r" + name)
    check_lists(read_lists(path, LOG, length=length), length)


@pytest.mark.parametrize("kind", [pl.List(pl.String), pl.List(pl.Categorical), pl.Array(pl.String, 3)])
def test_lists_of_parquet(tmp_path, kind):
    if kind == pl.Array(pl.String, 3):
        frame = pl.DataFrame({"user": ["ann"], "items": [LISTS["ann"]]}, schema={"user": pl.String, "items": kind})
        frame.write_parquet(tmp_path / "t.parquet")
        assert read_lists(tmp_path / "t.parquet", LOG, length=2).items[0].tolist() == ITEMS_OF_ANN[:2]
        return
    lists = {**LISTS, "né ☃": [], "nobody": None}
    frame = pl.DataFrame(
        {"user": list(lists), "items": list(lists.values())}, schema={"user": pl.String, "items": kind}
    )
    frame.write_parquet(tmp_path / "t.parquet")
    check_lists(read_lists(tmp_path / "t.parquet", LOG, length=3), 3)


def test_unknown_items_of_a_list_are_named_or_those_behind_move_up(tmp_path):
    frame = pl.DataFrame({"user": ["7", "ann"], "items": [["y y"], ["007", "q", "x", "z"]]})
    frame.write_parquet(tmp_path / "t.parquet")
    message = "row 2, column 'items': expected an item of the log (1 of 5 pairs lack one ... got 'q'"
    refused(lambda: read_lists(tmp_path / "t.parquet", LOG, length=3), message)
    check_lists(read_lists(tmp_path / "t.parquet", LOG, length=3, skip_unknown=True), 3)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"user": ["ann"], "score": [1.0]},
            "expected a column for the item (itemid, item, ... got columns 'user', 'score'",
        ),
        ({"user": ["ann"], "items": ["x"]}, "column 'items': expected lists of ids ... got String values"),
        ({"user": ["ann"], "items": [[["x"]]]}, "column 'items': expected ids ... got List(String) values"),
        ({"user": ["a", "a"], "items": [["x"], ["z"]]}, "row 2, column 'user': expected one list for each ... got 'a'"),
        (
            {"user": ["ann", "7"], "items": [["x"], ["z", "z"]]},
            "row 2, column 'items': expected an item that ... got 'z'",
        ),
        (
            {"user": ["ann", "7"], "items": [["x"], ["z", None]]},
            "row 2, column 'items': expected an id ... got nothing",
        ),
        ({"user": ["ann", None], "items": [["x"], ["z"]]}, "row 2, column 'user': expected an id ... got nothing"),
        ({"user": ["ann", "ann"], "item": ["x", "x"]}, "row 2, column 'item': expected an item that user ... got 'x'"),
        (
            {"user": ["ann", "7", "ann"], "item": ["x", "x", "z"], "rank": [1, 1, 1]},
            "row 3, column 'rank': expected a rank that user 'ann' has only once ... got 1.0",
        ),
        (
            {"user": ["ann"], "item": ["x"], "rank": ["first"]},
            "row 1, column 'rank': expected a finite ... got 'first'",
        ),
    ],
)
def test_wrong_tables_of_lists(tmp_path, columns, message):
    path = tmp_path / "t.parquet"
    pl.DataFrame(columns).write_parquet(path)
    refused(lambda: read_lists(path, LOG, length=2), f"{path}: {message}")


def test_lists_of_nothing(tmp_path):
    frame = pl.DataFrame({"user": ["ann"], "items": [[]]}, schema={"user": pl.String, "items": pl.List(pl.String)})
    frame.write_parquet(tmp_path / "t.parquet")
    refused(lambda: read_lists(tmp_path / "t.parquet", LOG, length=2), "expected items ... got only empty lists")


# -- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_labels_find_their_rows_by_id(tmp_path, name):
    rows = [*LABELS, ("zed", "x", 1.0), ("zed", "x", 0.0)]  # nobody of ours
    path = table(tmp_path, rows, ("user", "item", "label"), name)
    found = read_labels(path, LOG)
    assert found.dtype == np.float32
    assert found.tolist() == [np.float32(0.1), 1.0, 0.0, 0.25]
    order = np.array([2, 0, 3, 1, 0])  # also where a pair of a log comes twice
    assert read_labels(path, LOG.take(order)).tolist() == found[order].tolist()
    assert read_labels(path, LOG.take(slice(0))).shape == (0,)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            LABELS[:1] + LABELS[2:],
            "expected a label for each row of the log, got none for 1 of 4, such as row 2",
        ),
        (LABELS[:1], "... got none for 3 of 4, such as row 1 of the log, user 'ann' and item 'y y'"),
        ([*LABELS, LABELS[1]], "row 7, column 'item': expected an item that user 'ann' has only once ... got 'x'"),
        ([*LABELS, ("ann", "z", 1.0001)], "row 7, column 'label': expected a probability from 0 to 1 ... got '1.0001'"),
        ([*LABELS, ("ann", "z", -0.1)], "row 7, column 'label': expected a probability from 0 to 1 ... got '-0.1'"),
        ([*LABELS, ("ann", "z", "nan")], "row 7, column 'label': expected a finite number ... got 'nan'"),
        (
            [("zed", "x", 1)],
            "row 2, column 'user': expected a user of the log in at least one of 1 pairs ... got 'zed'",
        ),
        ([("nobody", "z", 1)], "such as row 1 of the log, user 'ann' and item 'y y'"),
    ],
)
def test_wrong_tables_of_labels(tmp_path, changed, message):
    path = table(tmp_path, changed, ("user", "item", "label"), "t.csv")
    refused(lambda: read_labels(path, LOG), f"{path}: ")
    refused(lambda: read_labels(path, LOG), message)


# -- what is written ------------------------------------------------------------------------------------------------


def same_lists(found, expected):
    assert np.asarray(found.items).tobytes() == np.asarray(expected.items).tobytes()
    assert np.asarray(found.scores).tobytes() == np.asarray(expected.scores).tobytes()


@pytest.mark.parametrize("suffix", [".parquet", ".tsv", ".csv", ".CSV"])
@relaxed
@given(users=raw_ids, items=raw_ids, scores=hnp.arrays(np.float32, (3, 3), elements=finite), lengths=st.data())
def test_written_lists_are_read_back_bit_for_bit(tmp_path, suffix, users, items, scores, lengths):
    log = Interactions(np.int32([0]), np.int32([0]), np.array(users, object), np.array(items, object))
    order = np.argsort(-scores, axis=1, kind="stable").astype(np.int32)
    scores = np.take_along_axis(scores, order, 1)
    length = np.array(lengths.draw(st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any)))
    padding = np.arange(3) >= length[:, None]
    lists = Knowledge(jnp.asarray(np.where(padding, 0, scores)), jnp.asarray(np.where(padding, -1, order)))
    path = tmp_path / f"scores{suffix}"
    write_scores(path, lists, log)
    same_lists(read_scores(path, log, length=3, standardize=False), lists)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".parquet", ".tsv", ".csv"])
def test_a_written_matrix_is_read_back_as_lists(tmp_path, suffix):
    matrix = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)  # of the log's first users
    write_scores(tmp_path / f"s{suffix}", Knowledge(jnp.asarray(matrix), None), LOG)
    found = read_scores(tmp_path / f"s{suffix}", LOG, length=4, standardize=False)
    assert found.items[3].tolist() == [-1] * 4
    dense = np.zeros((3, 4), np.float32)
    np.put_along_axis(dense, np.asarray(found.items[:3]), np.asarray(found.scores[:3]), 1)
    assert dense.tobytes() == matrix.tobytes()
    again = read_scores(tmp_path / f"s{suffix}", LOG, length=4)
    np.testing.assert_allclose(again.scores[:3], found.scores[:3] / matrix.std(), rtol=1e-5)


def test_every_float32_goes_through_text_unrounded(tmp_path):
    bits = np.random.default_rng(1).integers(0, 2**32, 20_000, np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values) & (np.abs(values) < 3.3e38)]
    ids = np.arange(len(values)).astype(str)
    log = Interactions(np.int32([0]), np.int32([0]), np.array(["u"]), ids)
    write_scores(tmp_path / "s.csv", Knowledge(jnp.asarray(values[None]), None), log)
    found = read_scores(tmp_path / "s.csv", log, length=len(ids), standardize=False)
    assert np.asarray(found.scores)[0].tobytes() == values[np.asarray(found.items)[0]].tobytes()


def test_any_id_goes_into_parquet(tmp_path):
    log = Interactions(np.int32([0]), np.int32([0]), np.array([" a", "a"]), np.array(["b\0", "\t"]))
    matrix = Knowledge(jnp.asarray([[2.0, 1.0], [4.0, 3.0]]), None)
    write_scores(tmp_path / "s.parquet", matrix, log)
    same_lists(
        read_scores(tmp_path / "s.parquet", log, length=2, standardize=False),
        Knowledge(matrix.scores, jnp.asarray([[0, 1], [0, 1]], jnp.int32)),
    )
    refused(
        lambda: write_scores(tmp_path / "s.csv", matrix, log), "s.csv: expected ids that aren't ... got the id ' a'"
    )
    assert not (tmp_path / "s.csv").exists()


PAIR = Knowledge(jnp.ones((4, 2)), jnp.zeros((4, 2), jnp.int32))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Knowledge(jnp.ones((5, 4)), None), "expected at most the log's 4 users, got 5"),
        (Knowledge(jnp.ones((4, 3)), None), r"scores: expected shape \[4, 4\], got \[4, 3\]"),
        (Knowledge(jnp.ones((4, 2)), jnp.full((4, 2), 4)), "items: expected positions in -1..3"),
        (PAIR._replace(scores=PAIR.scores * jnp.nan), "scores: expected finite numbers, got nan"),
    ],
)
def test_knowledge_of_another_log_is_not_written(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        write_scores(tmp_path / "s.csv", wrong, LOG)
    assert not any(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    refused(lambda: write_scores(tmp_path / "s.json", PAIR, LOG), "expected a name that ends in .parquet,")
    refused(
        lambda: write_scores(tmp_path / "no" / "s.csv", PAIR, LOG),
        "writable path, got an error (No such file or directory)",
    )
    refused(lambda: write_scores(tmp_path / "folder.csv", PAIR, LOG), "writable path, got an error (Is a directory)")
    refused(
        lambda: write_embeddings(tmp_path / "no" / "v", tmp_path / "i", np.eye(1), "a"), "no/v: expected a writable"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_places_that_are_forbidden(tmp_path):
    path, ids_path = vectors(tmp_path, np.eye(5))
    path.chmod(0)
    refused(lambda: read_embeddings(path, ids_path, ["x"]), "... got an error (Permission denied)")
    tmp_path.chmod(0o500)
    refused(lambda: write_scores(tmp_path / "s.csv", PAIR, LOG), "writable path, got an error (Permission denied)")
    tmp_path.chmod(0o700)
