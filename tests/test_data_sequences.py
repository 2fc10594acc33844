"""Sequences and their windows against plain Python, and every way in which a file of them can be wrong."""

import gzip
import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from experiments.real import DATA
from recjax import data
from recjax.errors import InputError

real = pytest.mark.skipif(
    not (DATA / "beauty").is_dir(), reason="no real data: set RECJAX_DATA to a folder that has beauty"
)


def write(folder, content, name="sequences.txt"):
    path = folder / name
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def by_hand(text):
    """``{user: items}``, an item that comes again left out."""
    return {line.split()[0]: list(dict.fromkeys(line.split()[1:])) for line in text.splitlines() if line.strip()}


def raw(*logs):
    """``{user: items}`` in the order of time, under the ids of the file."""
    offsets, items, _ = data.sequences(*logs)
    items = logs[0].item_ids[items]
    return {user: items[offsets[u] : offsets[u + 1]].tolist() for u, user in enumerate(logs[0].user_ids)}


TEXT = "7 3 1 2\n1 2 9 2 3\nann 5\n"
SAME = {
    "plain": TEXT,
    "windows": "\ufeff" + TEXT.replace("\n", "\r\n"),
    "blanks": "\n  \n" + TEXT.replace(" ", " \t ").replace("\n", "  \n \n\n"),
    "mac": TEXT.replace("\n", "\r"),
    "no last line end": TEXT.rstrip(),
}


@pytest.mark.parametrize("name", ["sequences.txt", "sequences.txt.gz"])
@pytest.mark.parametrize("kind", SAME)
def test_reads_what_is_written(tmp_path, kind, name):
    log = data.read_sequences(write(tmp_path, SAME[kind], name))
    assert raw(log) == by_hand(TEXT) == {"7": ["3", "1", "2"], "1": ["2", "9", "3"], "ann": ["5"]}
    assert sorted(log.user_ids.tolist()) == ["1", "7", "ann"]
    assert sorted(log.item_ids.tolist()) == ["1", "2", "3", "5", "9"]
    assert log.timestamp.tolist() == [0, 1, 2, 0, 1, 3, 0]
    assert log.counts == {"rows_read": 8, "duplicates_collapsed": 1}


def test_repeats_keep_every_item_of_a_line(tmp_path):
    log = data.read_sequences(write(tmp_path, "7 3 3 1 3\n1 2\n"), repeats=True)
    assert raw(log) == {"7": ["3", "3", "1", "3"], "1": ["2"]}
    assert log.counts == {"rows_read": 5}
    split = data.leave_last_out(log)
    assert raw(split.train)["7"] == ["3", "3"]
    assert raw(split.test)["7"] == ["3"]


WRONG = {
    "1 2 3\n2\n3 4\n": "row 2: expected 'user item item ...'.*got user '2' without an item",
    "\n\n1\n": "row 3: .*got user '1' without an item",
    "1 2 3\n\n2 3\n1 4\n": "row 4: expected one line per user, got user '1' again .row 1.",
    "\n": "got only blank lines",
    "": "got an empty file",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_named(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=WRONG[text]) as caught:
        data.read_sequences(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(InputError, match="got no such file"):
        data.read_sequences(tmp_path / "none.txt")
    with pytest.raises(InputError, match=r"row 2: expected UTF-8 text.*got the byte 0xff"):
        data.read_sequences(write(tmp_path, b"1 2\n\xff 3\n"))


def test_the_past_of_what_is_held_out(tmp_path):
    """The last item of a line is test, the last but one valid, and what comes before is what a model may see."""
    log = data.read_sequences(write(tmp_path, "a 1 2 3 4 5\nb 6 7\nc 3 2 1\n"))
    split = data.leave_last_out(log)
    assert raw(split.train) == {"a": ["1", "2", "3"], "b": ["6", "7"], "c": ["3"]}
    assert raw(split.valid) == {"a": ["4"], "b": [], "c": ["2"]}
    assert raw(split.test) == {"a": ["5"], "b": [], "c": ["1"]}
    assert raw(split.train, split.valid) == {"a": ["1", "2", "3", "4"], "b": ["6", "7"], "c": ["3", "2"]}


def test_equal_timestamps_keep_the_order_of_the_rows():
    ids, zeros = np.array(["a", "b"]), np.zeros(5, np.int32)
    items = np.array(["v", "w", "x", "y", "z"])
    time = np.array([2.0, 1.0, 2.0, 2.0, 1.0])
    log = data.Interactions(zeros, np.arange(5, dtype=np.int32), ids, items, timestamp=time)
    offsets, ordered, times = data.sequences(log)
    assert (offsets.tolist(), ordered.tolist(), times.tolist()) == ([0, 5, 5], [1, 4, 0, 2, 3], [1, 1, 2, 2, 2])
    split = data.leave_last_out(log)
    assert data.sequences(split.train, split.valid, split.test).items.tolist() == ordered.tolist()


def test_logs_that_have_no_order_are_refused():
    ids = np.array(["a", "b"])
    log = data.Interactions(np.int32([0, 1]), np.int32([1, 0]), ids, ids)
    with pytest.raises(InputError, match=r"sequences: expected a log with timestamps, got none"):
        data.sequences(log)
    timed = data.Interactions(log.user, log.item, ids, np.array(["a", "b", "c"]), timestamp=np.zeros(2))
    with pytest.raises(ValueError, match=r"expected logs of one vocabulary, got \(users, items\) \[\(2, 2\), \(2, 3\)"):
        data.sequences(log, timed)
    with pytest.raises(ValueError, match="expected logs of one vocabulary"):
        data.sequences()


def window(items, times, end, length):
    """The items before a place, and their ages, with padding in front."""
    start = max(0, end - length)
    pad = length - (end - start)
    ages = [times[end - 1] - t for t in times[start:end]]
    return [data.PADDING] * pad + items[start:end], [0.0] * pad + ages


lists = st.lists(st.lists(st.integers(0, 6), max_size=9), min_size=1, max_size=5)


@hypothesis.given(lists, st.integers(1, 6))
@hypothesis.settings(deadline=None, max_examples=60)
def test_windows_are_those_of_plain_python(taken, length):
    times = [[float(i * i) for i, _ in enumerate(items)] for items in taken]
    offsets = np.cumsum([0, *map(len, taken)]).astype(np.int32)
    rows, at = (list(itertools.chain.from_iterable(part)) for part in (taken, times))
    of = data.Sequences(offsets, np.array(rows, np.int32), np.array(at, np.float64))
    last = data.last_items(of, length=length)
    expected = [window(items, t, len(items), length) for items, t in zip(taken, times, strict=True)]
    assert last.user.tolist() == list(range(len(taken)))
    assert [row for row, _ in expected] == last.item.tolist()
    assert [row for _, row in expected] == last.age.tolist()
    if length < 2:
        return
    cut, expected = data.windows(of, length=length), []
    for user, (items, at) in enumerate(zip(taken, times, strict=True)):
        ends = list(range(len(items), 1, -(length - 1)))[::-1]
        expected += [(user, *window(items, at, end, length)) for end in ends]
    found = list(zip(cut.user.tolist(), cut.item.tolist(), cut.age.tolist(), strict=True))
    assert found == [(user, row, age) for user, row, age in expected]
    assert (cut.user.dtype, cut.item.dtype, cut.age.dtype) == (np.int32, np.int32, np.float32)
    labels = [[] for _ in taken]  # every item but a user's first, once and in order
    for user, row, _ in found:
        labels[user] += [item for before, item in itertools.pairwise(row) if before != data.PADDING]
    assert labels == [items[1:] for items in taken]


def test_impossible_lengths_are_named():
    of = data.Sequences(np.array([0, 2]), np.array([0, 1]), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="length: expected at least 1, got 0"):
        data.last_items(of, length=0)
    with pytest.raises(ValueError, match="length: expected at least 2, got 1"):
        data.windows(of, length=1)


@real
def test_beauty_is_what_its_readme_says():
    path = DATA / "beauty" / "sequences.txt.gz"
    log = data.read_sequences(path)
    assert (log.users, log.items, len(log)) == (22_363, 12_101, 198_502)
    assert log.counts == {"rows_read": 198_502, "duplicates_collapsed": 0}
    assert raw(log) == by_hand(gzip.decompress(path.read_bytes()).decode())
    split = data.leave_last_out(log)
    assert [len(part) for part in split[:3]] == [153_776, 22_363, 22_363]


@real
def test_grocery_has_its_order_from_timestamps():
    path = DATA / "grocery" / "interactions.tsv.gz"
    log = data.read(path)
    assert (log.users, log.items, len(log)) == (14_681, 8_687, 121_892)
    lines = [line.split("\t") for line in gzip.decompress(path.read_bytes()).decode().splitlines()[1:]]
    by_time = {}
    for user, item, _ in sorted(lines, key=lambda line: int(line[2])):  # stable
        by_time.setdefault(user, []).append(item)
    assert raw(log) == by_time
