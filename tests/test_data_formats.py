"""From bytes to rows: every format against a slow reader, and what must not merge, vanish or change its meaning."""

import datetime
import decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from references import read as slow

from recjax import data
from recjax.errors import InputError


def write(folder, content, name="log.csv"):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pairs(log):
    return list(zip(log.user_ids[log.user].tolist(), log.item_ids[log.item].tolist(), strict=True))


# Any text: fields of few characters, among them everything that means something to a reader.
fields = st.text(st.sampled_from(["a", "b", "0", '"', '"', " ", "\t", "\u00a0", "'", "é"]), max_size=4)
whole = st.text(st.sampled_from(["a", "7", " ", ",", ";", '"', "\n", "\r"]), max_size=4).map(
    lambda text: '"' + text.replace('"', '""') + '"'
)
cells = st.one_of(fields, fields, whole)
ends = st.sampled_from(["\n", "\r\n", "\r"])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.lists(st.tuples(st.lists(cells, min_size=1, max_size=4), ends), min_size=1, max_size=6),
    separator=st.sampled_from(slow.SEPARATORS),
    end=ends,
    quoted=st.booleans(),
)
def test_any_text_is_read_as_the_slow_reader_reads_it(tmp_path, table, separator, end, quoted):
    header = ['"user"' if quoted and separator != "::" else "user", "item", "note"]
    lines = [(header, end), *table]
    text = "".join(separator.join(row) + end for row, end in lines)
    path = write(tmp_path, text)
    last = text.rstrip("\r\n ")
    if slow.records(last + "\nEND", slow.separator_of(text))[-1][1] != ["END"]:  # a quote is left open
        with pytest.raises(InputError):
            data.read(path, repeats=True)
        return
    try:
        expected = slow.read(last)
    except slow.Refused as refused:
        with pytest.raises(InputError, match=f"log.csv: row {refused.args[0]}[,:]"):
            data.read(path, repeats=True)
        return
    if not expected:
        with pytest.raises(InputError, match="only a header"):
            data.read(path, repeats=True)
        return
    log = data.read(path, repeats=True)
    assert pairs(log) == expected
    assert log.counts == {"rows_read": len(expected)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1;2;4,5\n3;4;3,5\n", [4.5, 3.5]),
        ("user;item;rating\n1;2;4,5\n3;4;3,5\n", [4.5, 3.5]),
        ("user;item;rating\n1;2;4\n3;4;-3,25\n", [4.0, -3.25]),
        ("user|item|rating;x\n1|2|4\n3|4|3\n", None),
        ("1::2::4.5\n3::4::3.5\n", [4.5, 3.5]),
    ],
)
def test_the_separator_splits_all_rows_alike(tmp_path, text, expected):
    log = data.read(write(tmp_path, text), min_rating=-9) if expected else data.read(write(tmp_path, text))
    assert pairs(log) == [("1", "2"), ("3", "4")]
    assert (None if log.rating is None else log.rating.tolist()) == expected


def test_decimal_commas_are_read_wherever_numbers_are(tmp_path):
    path = write(tmp_path, "id;size;kind\n1;4,5;1,5\n2;3,5;1,5\n")
    features, _ = data.read_table(path, np.array(["1", "2"]))
    assert features.values[:, 0].tolist() == [1, -1]
    path = write(tmp_path, "size;kind;click\n4,5;1,5;1\n3,5;2,5;0\n")
    encoding = data.fit_encoding(path, {"size": data.standard(), "kind": data.categories()}, label="click")
    assert encoding.columns["size"].mean == 4
    assert encoding.columns["kind"].values == ("1,5", "2,5")  # text stays what it is
    with pytest.raises(InputError, match=r"row 2, column 'rating': .*'1.234,5'"):
        data.read(write(tmp_path, "user;item;rating\n1;2;1.234,5\n"))
    with pytest.raises(InputError, match=r"row 2, column 'rating': .*'4,5'"):
        data.read(write(tmp_path, 'user,item,rating\n1,2,"4,5"\n'))  # which may be 45 as well


def test_quotes_are_what_they_are_in_csv(tmp_path):
    text = 'user,item,note\n1,2,5" disc\n1,"Good" they said,x\n3,"a\r\nb","c,""d"""\n"4",x,y\n'
    log = data.read(write(tmp_path, text))
    assert pairs(log) == [("1", "2"), ("1", "Good they said"), ("3", "a\r\nb"), ("4", "x")]
    for text, row, message in (
        ('user,item,note\n1,2,5" disc\n1,"2",3,4\n', 3, "got 4"),
        ('user,item,note\n1,"2\n2",5\n1,,x\n', 4, "nothing"),
        ('user,item,note\n1,2,"a"\n1,2,"b\n3,4,c\n', 3, "closing quote"),
        ('user,item\n1,"' + "x" * 200_000 + '"\n', 2, "unclosed quote"),
    ):
        with pytest.raises(InputError, match=f"row {row}[:,].*{message}"):
            data.read(write(tmp_path, text))


MIXED = "user,item,score\r1,2,3\r\n3,4,5\n"


def test_line_ends_of_any_kind(tmp_path):
    assert pairs(data.read(write(tmp_path, MIXED))) == [("1", "2"), ("3", "4")]
    assert pairs(data.read(write(tmp_path, MIXED.replace("4", '"4"')))) == [("1", "2"), ("3", "4")]
    log = data.read_sequences(write(tmp_path, "1 2 3\r2 3\r\n3 4\n"))
    assert pairs(log) == [("1", "2"), ("1", "3"), ("2", "3"), ("3", "4")]
    features, _ = data.read_table(write(tmp_path, "id,size\r1,2\r\n2,3\n"), np.array(["2", "1"]))
    assert features.values[:, 0].tolist() == [1, -1]
    assert data.read_libfm(write(tmp_path, "1 0:1\r0 1:1\r\n1 2:1\n")).fields.tolist() == [[0], [1], [2]]
    with pytest.raises(InputError, match="row 3, column 'rating'"):
        data.read(write(tmp_path, "user,item,rating\r1,2,3\r\n3,4,x\n"))


@pytest.mark.parametrize("blank", ["\t", " ", "\u00a0", "\u3000"])
@pytest.mark.parametrize("elsewhere", ["", "8 9,x\n"])
def test_whitespace_around_an_id_is_never_part_of_it(tmp_path, blank, elsewhere):
    log = data.read(write(tmp_path, f'user,item\n{blank}007,a\n007{blank},b\n"{blank}007",c\n' + elsewhere))
    assert [user for user, _ in pairs(log)][:3] == ["007"] * 3


TRIPLES = "1 2 4.5\n1 3 2\n2 2 3\n"


def test_columns_between_blanks(tmp_path):
    typed = write(tmp_path, "user_id:token item_id:token rating:float\n" + TRIPLES, "typed.inter")
    known = write(tmp_path, "user  item rating \n" + TRIPLES.replace(" ", " \t"), "known.txt")
    for path in (typed, known):
        log = data.read(path)
        assert pairs(log) == [("1", "2"), ("1", "3"), ("2", "2")]
        assert log.rating.tolist() == [4.5, 2.0, 3.0]
        split = data.read_split(path, write(tmp_path, "1 7\n", "v"), write(tmp_path, "2\t8\n", "t"))
        assert pairs(split.train) == pairs(log)
        assert pairs(split.valid) + pairs(split.test) == [("1", "7"), ("2", "8")]


def test_lists_and_triples_are_told_apart_or_refused(tmp_path):
    unclear, ints, header = (
        write(tmp_path, text, name)
        for name, text in (("a", TRIPLES), ("b", "1 2 4 88\n1 3 2 89\n"), ("c", "uid_x iid_x points\n" + TRIPLES))
    )
    lists, other = write(tmp_path, "1 7 8 9 3 4\n2 5\n", "lists"), write(tmp_path, "1 77\n2 78\n", "pairs")
    for path in (unclear, ints, header):
        for paths in ((path, other, other), (other, None, path)):
            with pytest.raises(InputError, match=f"{path}: .*user_column='1' and item_column='2'"):
                data.read_split(*paths)
        with pytest.raises(InputError, match="columns"):
            data.read(path)
    split = data.read_split(unclear, other, other, user_column="1", item_column="2", repeats=True)
    assert pairs(split.train) == [("1", "2"), ("1", "3"), ("2", "2")]
    split = data.read_split(lists, other, write(tmp_path, "2 8 9\n", "two"))  # a list, as those of train are
    assert pairs(split.test) == [("2", "8"), ("2", "9")]


def test_options_that_cannot_apply_are_refused(tmp_path):
    lists, test = write(tmp_path, "1 7 8 9 3 4\n", "lists"), write(tmp_path, "user,item,rating\n1,5,5\n", "test")
    for option in ({"min_rating": 4}, {"timestamp_column": "time"}, {"rating_column": "3"}):
        with pytest.raises(InputError, match="lists: "):
            data.read_split(lists, None, test, **option)
    with pytest.raises(InputError, match="seed: "):
        data.read_split(lists, test, test, seed=3)
    with pytest.raises(InputError, match=r"test: .*min_rating"):
        data.read(write(tmp_path, "user,item\n1,5\n", "test"), min_rating=3)


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        (pl.Series([7, 10], dtype=pl.Decimal(38, 0)), ["7", "10"]),
        (pl.Series([decimal.Decimal("7.00"), decimal.Decimal("10.00")]), ["7", "10"]),
        (pl.Series([7.0, 10.0]), ["7", "10"]),
        (pl.Series([2**64 - 1, 10], dtype=pl.UInt64), ["18446744073709551615", "10"]),
        (pl.Series([b"7", "é".encode()]), ["7", "é"]),
        (pl.Series([True, False]), ["true", "false"]),
        (pl.Series([datetime.date(2020, 1, 2), datetime.date(2021, 1, 2)]), ["2020-01-02", "2021-01-02"]),
    ],
)
def test_whatever_has_a_text_is_an_id(tmp_path, column, ids):
    pl.DataFrame({"user": column, "item": [1, 2]}).write_parquet(tmp_path / "log.parquet")
    log = data.read(tmp_path / "log.parquet")
    assert [user for user, _ in pairs(log)] == ids


@pytest.mark.parametrize(
    ("column", "row"),
    [
        (pl.Series([decimal.Decimal("7.00"), decimal.Decimal("10.50")]), 2),
        (pl.Series([b"7", b"\xff"]), 2),
        (pl.Series([1e19, 1.0]), 1),
        (pl.Series(["a", "a\0"]), 2),  # NumPy would cut the second one to the first
    ],
)
def test_ids_that_would_change_are_refused(tmp_path, column, row):
    pl.DataFrame({"user": column, "item": [1, 2]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(InputError, match=f"row {row}, column 'user': .* an id"):
        data.read(tmp_path / "log.parquet")


def test_decimals_are_categories_and_numbers(tmp_path):
    frame = pl.DataFrame({"kind": pl.Series([1, 2], dtype=pl.Decimal(9, 0)), "price": [decimal.Decimal("1.5")] * 2})
    frame.with_columns(click=pl.Series([1, 0])).write_parquet(tmp_path / "t.parquet")
    columns = {"kind": data.categories(), "price": data.standard()}
    encoding = data.fit_encoding(tmp_path / "t.parquet", columns, label="click")
    assert (encoding.columns["kind"].values, encoding.columns["price"].mean) == (("1", "2"), 1.5)


def test_a_name_that_two_columns_have_is_refused(tmp_path):
    path = write(tmp_path, "user,user_id,userId,item,title,title,click\n1,2,3,4,5,6,1\n")
    for read in (
        lambda: data.read(path),
        lambda: data.read(path, user_column="USER_ID"),
        lambda: data.read_table(path, np.array(["4"])),
        lambda: data.fit_encoding(path, {"title": data.categories()}, label="click"),
    ):
        with pytest.raises(InputError, match=r"expected one column '\w+', got 2"):
            read()
    assert pairs(data.read(path, user_column="userId")) == [("3", "4")]


def test_titles_of_parquet(tmp_path):
    pl.DataFrame({"id": [1, 2], "title": [b"x", b"\xff"]}).write_parquet(tmp_path / "t.parquet")
    assert data.read_table(tmp_path / "t.parquet", np.array(["1", "2"]))[1].tolist() == ["x", ""]
    pl.DataFrame({"id": [1, 2], "title": [["x"], ["y"]]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"column 'title': expected titles as text, got List"):
        data.read_table(tmp_path / "t.parquet", np.array(["1", "2"]))
