"""Readers against Python's own csv module, and every way in which a file can be wrong."""

import csv
import datetime
import gzip
import io
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from read_cases import check_message, rows, write
from references.encode import by_hash

from recjax import data
from recjax.errors import InputError

ROWS = [("007", "x y", 4.5, 881250949.0), ("8", "b", 1.0, 881250000.0), ("007", "é", 3.0, 5.0), ("zoë", "b", 2.0, 7.0)]


def delimited(separator: str, header: str | None, end: str = "\n") -> str:
    lines = [] if header is None else [header]
    return end.join(lines + [separator.join(map(str, row)) for row in ROWS]) + end


FORMATS = {
    "ratings.csv": delimited(",", "userId,movieId,rating,timestamp"),
    "tabs.tsv": delimited("\t", "user_id\titem_id\trating\ttimestamp"),
    "excel.csv": "\ufeff" + delimited(";", "User-ID;ISBN;Book-Rating;Date", "\r\n") + "\r\n\r\n",
    "bars.txt": delimited("|", "customer|product|stars|unix_time"),
    "ratings.dat": delimited("::", None),
    "u.data": delimited("\t", None),
    "amazon.csv": delimited(",", None),
    "log.inter": delimited("\t", "user_id:token\titem_id:token\trating:float\ttimestamp:float"),
    "blanks.csv": "\n \n"
    + delimited(",", "user, item, rating, time").replace(",", " , ").replace("\n8", "\n\n8")
    + "\n\n",
    "mac.csv": delimited(",", "user,item,rating,time", "\r"),
    "wide.csv": "note,time,RATING,Item,User\n" + "".join(f'"a, ""b""",{t},{r},{i},{u}\n' for u, i, r, t in ROWS),
}


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name", FORMATS)
def test_formats_give_the_same_log(tmp_path, name, zipped):
    log = data.read(write(tmp_path, FORMATS[name], name + ".gz" * zipped))
    assert rows(log) == ROWS
    assert sorted(log.user_ids.tolist()) == ["007", "8", "zoë"]  # text as it stands
    assert sorted(log.item_ids.tolist()) == ["b", "x y", "é"]
    assert log.user_ids.dtype.kind == "U"
    assert (log.user.dtype, log.rating.dtype, log.timestamp.dtype) == (np.int32, np.float32, np.float64)
    assert log.counts == {"rows_read": 4, "duplicates_collapsed": 0}


def test_quoted_fields_with_separators_quotes_and_line_breaks(tmp_path):
    wanted = [('a,"b"', "x\ny", 1.0), ("c", '12" vinyl', 2.0), (",", "'", 3.0)]
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("user", "item", "rating"), *wanted])
    assert rows(data.read(write(tmp_path, text.getvalue()))) == wanted


def test_a_quote_inside_a_field_is_only_a_character(tmp_path):
    assert rows(data.read(write(tmp_path, 'user,item\n1,12" vinyl\n2,7"\n'))) == [("1", '12" vinyl'), ("2", '7"')]


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"user": [7, 8], "item": ["a", "b"]}, [("7", "a"), ("8", "b")]),
        ({"user": [7.0, 8.0], "item": [1, 2], "rating": [1, 5]}, [("7", "1", 1.0), ("8", "2", 5.0)]),
        (
            {
                "user": ["007", "8"],
                "item": ["a", "b"],
                "date": [datetime.datetime(1970, 1, 2), datetime.datetime(2001, 9, 9)],
            },
            [("007", "a", 86400.0), ("8", "b", 999993600.0)],
        ),
        (
            {"user": ["1", "2"], "item": ["a", "b"], "date": [datetime.date(1970, 1, 2)] * 2},
            [("1", "a", 86400.0), ("2", "b", 86400.0)],
        ),
    ],
)
def test_parquet(tmp_path, columns, wanted):
    pl.DataFrame(columns).write_parquet(tmp_path / "log.parquet")
    assert rows(data.read(tmp_path / "log.parquet")) == wanted


def test_parquet_categories(tmp_path):
    pl.DataFrame({"user": ["b", "a", "b"], "item": ["x", "y", "z"]}).cast(pl.Categorical).write_parquet(
        tmp_path / "c.pq"
    )
    assert rows(data.read(tmp_path / "c.pq")) == [("b", "x"), ("a", "y"), ("b", "z")]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02", 86400.0),
        ("1970-01-01 00:01", 60.0),
        ("1970-01-01T00:00:01", 1.0),
        ("1970-01-01T00:00:01.25Z", 1.25),
        ("1970-01-01 02:00:00+02:00", 0.0),
        ("1970-01-01T00:00:00-0530", 19800.0),
        ("1970-01-01 00:00:10+00", 10.0),
        ("1970/01/02 00:00:00 UTC", 86400.0),
        ("2011-03-08T12:00:00Z", 1299585600.0),
    ],
)
def test_iso_times(tmp_path, text, seconds):
    log = data.read(write(tmp_path, f"user,item,date\n1,2,{text}\n1,3,2020-02-29\n"))
    assert log.timestamp.tolist() == [seconds, 1582934400.0]


def test_named_columns(tmp_path):
    path = write(tmp_path, "a,b,c,d,user\n1,2,3,4,9\n")
    log = data.read(path, user_column="B", item_column="a", rating_column="d", timestamp_column="c")
    assert rows(log) == [("2", "1", 4.0, 3.0)]
    path = write(tmp_path, "B00,ann,5.0,77\n", "meta.csv")  # no header, and the item first
    assert rows(data.read(path, user_column="2", item_column="1")) == [("ann", "B00", 5.0, 77.0)]
    assert rows(data.read(path, rating_column="", timestamp_column="")) == [("B00", "ann")]
    path = write(tmp_path, "1,2,77\n", "three.csv")
    assert rows(data.read(path, timestamp_column="3")) == [("1", "2", 77.0)]
    path = write(tmp_path, "2019,2020\n1,2\n", "years.csv")  # a header of numbers isn't seen as one
    assert len(data.read(path)) == 2


def test_extra_and_missing_optional_columns(tmp_path):
    log = data.read(write(tmp_path, "user,item\n1,2\n"))
    assert log.rating is None
    assert log.timestamp is None


def test_duplicates_collapse_to_the_earliest_after_the_threshold(tmp_path):
    text = "user,item,rating,time\n1,a,5,30\n1,a,1,10\n1,a,4,20\n1,a,3,20\n2,a,1,5\n1,b,3,9\n"
    log = data.read(write(tmp_path, text), min_rating=3)
    assert rows(log) == [("1", "a", 4.0, 20.0), ("1", "b", 3.0, 9.0)]
    assert log.counts == {"rows_read": 6, "below_rating": 2, "duplicates_collapsed": 2}
    assert log.user_ids.tolist() == ["1"]  # whoever is filtered out is in no vocabulary


def test_ratings_of_zero_and_below_are_no_positives(tmp_path):
    path = write(tmp_path, "user,item,rating\n1,a,1\n1,b,-1\n2,a,-1\n2,b,0\n2,c,1\n")
    log = data.read(path)
    assert rows(log) == [("1", "a"), ("2", "c")]  # and those that are left say nothing more
    assert log.counts == {"rows_read": 5, "not_positive": 3, "constant_rating": 2, "duplicates_collapsed": 0}
    every = data.read(path, min_rating=-1)
    assert rows(every) == [("1", "a", 1), ("1", "b", -1), ("2", "a", -1), ("2", "b", 0), ("2", "c", 1)]
    assert every.counts == {"rows_read": 5, "below_rating": 0, "duplicates_collapsed": 0}
    assert rows(data.read(path, min_rating=0)) == [("1", "a", 1), ("2", "b", 0), ("2", "c", 1)]
    assert len(data.read(path, rating_column="")) == 5
    parts = [write(tmp_path, f"user,item,rating\n1,{i},{r}\n1,x{i},0\n", f"{i}.csv") for i, r in enumerate((1, 1, 2))]
    split = data.read_split(*parts)
    assert [rows(part) for part in split[:3]] == [[("1", "0", 1)], [("1", "1", 1)], [("1", "2", 2)]]
    assert split.train.counts == {"rows_read": 6, "not_positive": 3, "duplicates_collapsed": 0}
    with pytest.raises(
        InputError, match=r"column 'rating': expected a rating above 0, got none; min_rating.*rating_col"
    ):
        data.read(write(tmp_path, "user,item,rating\n1,a,0\n1,b,-1\n"))


def test_a_constant_rating_is_none(tmp_path):
    path = write(tmp_path, "user,item,rating\n1,a,5\n1,b,5.0\n")
    log = data.read(path)
    assert log.rating is None
    assert log.counts == {"rows_read": 2, "constant_rating": 2, "duplicates_collapsed": 0}
    valid, test = write(tmp_path, "user,item,rating\n1,c,5\n", "v.csv"), write(tmp_path, "1\t9\n", "t.tsv")
    split = data.read_split(path, valid, test)
    assert split.train.counts == {"rows_read": 4, "duplicates_collapsed": 0}  # not every part has ratings


def test_repeats_keep_every_row(tmp_path):
    path = write(tmp_path, "user,item,time\n1,a,3\n1,a,1\n2,b,5\n1,a,3\n")
    log = data.read(path, repeats=True)
    assert rows(log) == [("1", "a", 3.0), ("1", "a", 1.0), ("2", "b", 5.0), ("1", "a", 3.0)]
    assert log.counts == {"rows_read": 4}
    split = data.read_split(path, path, path, repeats=True)
    assert [rows(part) for part in split[:3]] == [rows(log)] * 3
    assert split.train.counts == {"rows_read": 12}
    assert "test_rows_in_earlier_part" not in split.counts
    assert data.k_core(log, 3).user_ids.tolist() == ["1"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_against_pythons_csv(tmp_path, draw):
    ids = st.text(
        st.characters(codec="utf-8", exclude_characters="\0\r\x1f", exclude_categories=["Cs", "Z", "Cc"]),
        min_size=1,
        max_size=5,
    )
    some = draw.draw(st.lists(ids.map(str.strip).filter(bool), min_size=1, max_size=4))
    log_rows = draw.draw(
        st.lists(
            st.tuples(st.sampled_from(some), st.sampled_from(some), st.integers(0, 3), st.integers(0, 5)),
            min_size=1,
            max_size=30,
        )
    )
    text = io.StringIO()
    separator = draw.draw(st.sampled_from(",;\t|"))
    csv.writer(
        text, delimiter=separator, quoting=draw.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    ).writerows([("user", "item", "rating", "time"), *log_rows])
    log = data.read(write(tmp_path, text.getvalue()), min_rating=0)

    first = {}  # the slow twin: sort by time, keep what comes first
    for place, row in sorted(enumerate(log_rows), key=lambda pair: (pair[1][3], pair[0])):
        first.setdefault(row[:2], place)
    told = len(log_rows) == 1 or len({row[2] for row in log_rows}) > 1  # else the ratings say nothing
    assert rows(log) == [
        (u, i, *[float(r)] * told, float(t)) for u, i, r, t in (log_rows[place] for place in sorted(first.values()))
    ]
    assert log.user_ids.tolist() == by_hash(row[0] for row in log_rows)
    assert log.item_ids.tolist() == by_hash(row[1] for row in log_rows)
    assert log.counts["duplicates_collapsed"] == len(log_rows) - len(first)


BAD = {  # content, what the message must say
    "empty": ("", ["empty file"]),
    "only blank lines": ("\n\r\n  \n", ["blank lines"]),
    "only a header": ("user,item,rating\n", ["only a header"]),
    "no user column": ("foo,item\n1,2\n", ["'foo', 'item'", "user", "user_column"]),
    "no item column": ("user,bar\n1,2\n", ["'user', 'bar'", "item_column"]),
    "no header and no numbers": ("ann,bread\nbob,milk\n", ["'ann', 'bread'", "header line"]),
    "one column": ("hello\nyou\n", ["'hello'", "user"]),
    "too many without header": ("1\t2\t3\t4\t5\n", ["5 columns", "no header"]),
    "rating": ("user,item,rating\n1,2,3\n1,3,good\n", ["row 3", "'rating'", "'good'", "finite number"]),
    "rating after blank lines": ("\nuser,item,rating\n\n1,2,3\n\n1,3,good\n", ["row 6", "'good'"]),
    "rating after a quoted line break": ('user,item,rating\n"a\nb",2,3\n1,3,good\n', ["row 4", "'good'"]),
    "rating without header": ("1::2::3::4\n1::2::x::4\n", ["row 2", "'3'", "'x'"]),
    "rating missing": ("user,item,rating\n1,2,3\n1,3,\n", ["row 3", "nothing"]),
    "rating nan": ("user,item,rating\n1,2,nan\n", ["row 2", "'nan'"]),
    "rating infinite": ("user,item,rating\n1,2,inf\n", ["row 2", "'inf'"]),
    "rating beyond float32": ("user,item,rating\n1,2,1e39\n", ["row 2", "'1e39'"]),
    "time nan": ("user,item,time\n1,2,NaN\n", ["row 2", "'time'", "'NaN'"]),
    "time infinite": ("user,item,time\n1,2,3\n1,2,-inf\n", ["row 3", "'-inf'"]),
    "time negative": ("user,item,time\n1,2,3\n1,2,-1\n", ["row 3", "'-1'", "at least 0"]),
    "time missing": ("user,item,time\n1,2,3\n1,2,\n", ["row 3", "nothing"]),
    "date before a number": ("user,item,date\n1,2,2020-01-01\n1,2,5\n", ["row 3", "'5'", "ISO"]),
    "number before a date": ("user,item,date\n1,2,5\n1,2,2020-01-01\n", ["row 3", "'2020-01-01'"]),
    "date that isn't ISO": ("user,item,date\n1,2,31.12.2020\n", ["row 2", "'31.12.2020'", "ISO"]),
    "date that doesn't exist": ("user,item,date\n1,2,2023-02-29\n", ["row 2", "'2023-02-29'"]),
    "missing user": ("user,item\n1,2\n,3\n", ["row 3", "'user'", "nothing", "an id"]),
    "missing item": ("user,item\n1,2\n3\n", ["row 3", "'item'", "nothing"]),
    "missing ids in a row that isn't blank": ("user,item,note\n1,2,a\n,,b\n", ["row 3", "'user'"]),
    "blank id": ('user,item\n1,2\n"  ",3\n', ["row 3", "'user'"]),
    "too many fields": ("user,item\n1,2\n1,2,3\n", ["row 3", "got 3", "expected 2 fields"]),
    "too many fields in a column nobody reads": ("user,item,note\n1,2,a\n1,2,a,b\n", ["row 3", "got 4"]),
    "a quote never closed": ('user,item\n1,2\n"1,3\n1,4\n', ["row 3", "quote"]),
    "endless id": ("user,item\n1," + "x" * 600 + "\n", ["row 2", "512"]),
    "latin-1": (b"user,item\n1,2\n3,caf\xe9\n", ["row 3", "0xe9", "UTF-8"]),
    "utf-16": ("user,item\n1,2\n".encode("utf-16"), ["row 1", "UTF-8"]),
    "utf-16 without a mark": ("user,item\n1,2\n".encode("utf-16-le"), ["NUL"]),
    "zip": (b"PK\x03\x04rest", ["zip"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_content_is_one_line(tmp_path, name):
    content, expected = BAD[name]
    path = write(tmp_path, content)
    with pytest.raises(InputError) as caught:
        data.read(path)
    check_message(caught.value, path, expected)


def test_bad_files(tmp_path):
    whole = gzip.compress(b"user,item\n" + b"1,2\n" * 1000)
    missing, folder, truncated, corrupt, plain, locked = (
        tmp_path / n for n in ("no.csv", "dir", "t.gz", "c.gz", "p.gz", "l.csv")
    )
    folder.mkdir()
    truncated.write_bytes(whole[:-20])
    corrupt.write_bytes(whole[:12] + b"\xff\xff\xff" + whole[15:])
    plain.write_text("user,item\n1,2\n")
    locked.write_text("user,item\n1,2\n")
    locked.chmod(0)
    cases = [
        (missing, "no such file"),
        (folder, "folder"),
        (truncated, "gzip file, got a truncated"),
        (corrupt, "gzip file, got a corrupt"),
        (plain, "gzip file from its name"),
    ]
    if not os.access(locked, os.R_OK):  # root reads everything
        cases.append((locked, "readable file"))
    for path, expected in cases:
        for reader in (data.read, lambda p: data.read_split(p, p, p)):
            with pytest.raises(InputError) as caught:
                reader(path)
            check_message(caught.value, path, [expected])


def test_unreadable_file_names_the_reason(tmp_path, monkeypatch):
    def deny(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", deny)
    with pytest.raises(InputError, match="Permission denied"):
        data.read(tmp_path / "x.csv")


def test_bad_arguments(tmp_path):
    path = write(tmp_path, "user,item,rating\n1,2,3\n")
    for arguments, expected in (
        ({"user_column": "who"}, ["user_column='who'", "'user', 'item', 'rating'"]),
        ({"timestamp_column": "when"}, ["timestamp_column='when'"]),
        ({"user_column": "item", "item_column": "item"}, ["one for two"]),
        ({"min_rating": 4}, ["min_rating=4", "3.0"]),
        ({"min_rating": 4, "rating_column": ""}, ["rating_column"]),
    ):
        with pytest.raises(InputError) as caught:
            data.read(path, **arguments)
        check_message(caught.value, path, expected)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ({"user": [1, None], "item": [1, 2]}, ["row 2", "'user'", "nothing"]),
        ({"user": [1.0, 2.5], "item": [1, 2]}, ["row 2", "2.5", "whole number"]),
        ({"user": [[1], [2]], "item": [1, 2]}, ["'user'", "List"]),
        ({"user": ["a", ""], "item": [1, 2]}, ["row 2", "'user'"]),
        ({"user": [1, 2], "item": [1, 2], "rating": ["5", "x"]}, ["row 2", "'x'"]),
        ({"user": [1, 2], "item": [1, 2], "rating": [[5], [6]]}, ["row 1", "'rating'"]),
        ({"user": [1, 2], "item": [1, 2], "time": [0.5, float("nan")]}, ["row 2", "nan"]),
        ({"user": [1, 2], "item": [1, 2], "time": [5, -5]}, ["row 2", "-5"]),
        ({"user": [1, 2], "item": [1, 2], "time": [datetime.time(1), datetime.time(2)]}, ["row 1", "'time'"]),
        ({"user": [1, 2], "item": [1, 2], "date": [datetime.date(2000, 1, 1), datetime.date(1960, 1, 1)]}, ["row 2"]),
        ({"a": [1], "b": [1]}, ["'a', 'b'"]),
        ({"user": pl.Series([], dtype=pl.Int64), "item": pl.Series([], dtype=pl.Int64)}, ["expected rows"]),
    ],
)
def test_bad_parquet_values(tmp_path, frame, expected):
    path = tmp_path / "log.parquet"
    pl.DataFrame(frame).write_parquet(path)
    with pytest.raises(InputError) as caught:
        data.read(path)
    check_message(caught.value, path, expected)


def test_corrupt_parquet_never_escapes(tmp_path, capfd):
    path = tmp_path / "log.parquet"
    pl.DataFrame({"user": list(range(500)), "item": ["x", "y"] * 250}).write_parquet(path)
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(60):
        if draw.random() < 0.4:
            broken = whole[: draw.randrange(4, len(whole))]
        else:
            broken = bytearray(whole)
            for _ in range(6):
                broken[draw.randrange(4, len(whole))] = draw.randrange(256)
        path.write_bytes(broken)
        try:
            data.read(path)  # a byte of an id may have changed unnoticed
        except InputError as error:
            check_message(error, path, [])
    path.write_text("user,item\n1,2\n")
    with pytest.raises(InputError, match="expected a Parquet file"):
        data.read(path)


def test_reading_without_polars_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['polars'] = None\n"
        "import recjax.data as data\n"
        "log = data.synthetic(users=20, items=20, interactions_per_user=5)\n"
        "data.split_by_time(log); data.seen(log)\n"
        "try: data.read('x.csv')\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert "pip install 'recjax[run]'" in done.stdout, done.stderr
