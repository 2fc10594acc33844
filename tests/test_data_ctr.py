"""From raw rows to a CTR data set: roles, the split, what is fitted on train alone, and every way to be wrong."""

import datetime
import gzip
import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import encode as twins

from recjax import data
from recjax.data.learned import Categories, Hashes, Intervals, Logarithm, Sets, Times
from recjax.data.split import hashed_parts
from recjax.errors import InputError

COUNT = 200
START = datetime.datetime(2024, 5, 30, 22, tzinfo=datetime.UTC)
NOW = [START + datetime.timedelta(minutes=37 * i) for i in range(COUNT)]
TABLE = {
    "user": [f"u{i % 9}" if i < 150 else f"new{i % 3}" for i in range(COUNT)],
    "price": ["" if i % 10 == 0 else f"{(i * 37) % 101 / 4}" for i in range(COUNT)],
    "pages": [str((i * i) % 77) for i in range(COUNT)],
    "weekday": [str(i % 7) for i in range(COUNT)],
    "zip": [f"0{i % 50:04}" for i in range(COUNT)],
    "item_id": [str(1000 + i % 40) for i in range(COUNT)],
    "genres": [["drama", "war|drama", "", "comedy| drama|war"][i % 4] for i in range(COUNT)],
    "when": [moment.isoformat() for moment in NOW],
    "key": [f"k{i}" for i in range(COUNT)],
    "number": [str(i) for i in range(COUNT)],
    "site": ["shop"] * COUNT,
    "note": [""] * COUNT,
    "click": [str(int(i % 3 == 0)) for i in range(COUNT)],
}
ROLES = {
    "user": Categories,
    "price": Intervals,
    "pages": Intervals,
    "weekday": Categories,
    "zip": Categories,
    "item_id": Categories,
    "genres": Sets,
    "when": Times,
}


def text(table, separator=","):
    rows = [separator.join(row) for row in zip(*table.values(), strict=True)]
    return "\n".join([separator.join(table), *rows, ""])


def write(folder, content, name="clicks.csv"):
    path = folder / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return data.read_ctr(write(tmp_path_factory.mktemp("clicks"), text(TABLE)))


def test_roles_are_found_by_type_and_number_of_values(dataset):
    encoding = dataset.encoding
    assert {name: type(column) for name, column in encoding.columns.items()} == ROLES
    assert encoding.label == "click"
    assert encoding.dropped == {
        "key": "a different value in every train row",
        "number": "a different value in every train row",
        "site": "the same value in all train rows",
        "note": "no value in any train row",
    }
    assert dataset.fields == encoding.fields == 1 + 1 + 1 + 1 + 1 + 1 + 3 + 2
    assert dataset.features == encoding.features
    for part in (dataset.train, dataset.valid, dataset.test):
        assert part.values is None
        assert part.fields.dtype == np.int32
    assert dataset.columns["price"] == (len(set(TABLE["price"][:160]) - {""}), pytest.approx(0.1))


def test_time_splits_and_train_alone_is_fitted(dataset):
    """The rows are in order of time: the first 80% are train; by twins that are written value by value."""
    sizes = [len(part.label) for part in (dataset.train, dataset.valid, dataset.test)]
    assert sizes == [160, 20, 20]
    assert dataset.split == "by time, column 'when'"
    fields = np.concatenate([part.fields for part in (dataset.train, dataset.valid, dataset.test)])
    label = np.concatenate([part.label for part in (dataset.train, dataset.valid, dataset.test)])
    assert label.tolist() == [float(x) for x in TABLE["click"]]
    encoding, at = dataset.encoding, 0
    for name, column in encoding.columns.items():
        start, values = encoding.offsets[name], TABLE[name]
        if isinstance(column, Categories):
            expected = [twins.category_ids(values, twins.vocabulary(values[:160], 2))]
        elif isinstance(column, Intervals):
            numbers = [None if x == "" else float(x) for x in values]
            edges = twins.edges([x for x in numbers[:160] if x is not None], 32)
            expected = [twins.interval_ids(numbers, edges)]
        elif isinstance(column, Sets):
            known = {"drama": 1, "war": 2, "comedy": 3}  # by how many train rows have each: 3/4, 2/4, 1/4
            rows = [sorted(known[x.strip()] for x in value.split("|") if x) for value in values]
            expected = np.transpose([row + [0] * (3 - len(row)) for row in rows])
        else:
            expected = [[1 + now.hour for now in NOW], [26 + now.weekday() for now in NOW]]
        for ids in expected:
            assert fields[:, at].tolist() == [start + i for i in ids], name
            at += 1
    assert "new0" in encoding.columns["user"].values  # rows 150 to 159
    assert at == dataset.fields


def test_options_override_what_is_found(tmp_path):
    path = write(tmp_path, text(TABLE))
    options = data.ColumnOptions(
        numeric=("weekday",),
        categorical=("price", "key"),
        drop=("genres", "user"),
        min_count=1,
        hash_above=50,
        numbers=data.logarithm(),
    )
    dataset = data.read_ctr(path, options, by_time=False)
    kinds = {name: type(column) for name, column in dataset.encoding.columns.items()}
    assert kinds == {
        "price": Hashes,  # about 80 values
        "pages": Logarithm,
        "weekday": Logarithm,
        "zip": Categories,
        "item_id": Categories,
        "when": Times,
        "key": Hashes,
    }
    assert dataset.train.values is not None
    assert dataset.encoding.dropped["user"] == "as an option says"
    assert dataset.split == "at random, seed 0"


def test_a_threshold_makes_labels_of_ratings(tmp_path):
    ratings = [str(1 + i % 5) for i in range(COUNT)]
    ratings[7] = ""
    path = write(tmp_path, text({"user_id": TABLE["user"], "item_id": TABLE["item_id"], "rating": ratings}, "\t"))
    dataset = data.read_ctr(path, data.ColumnOptions(min_rating=4))
    assert dataset.encoding.label == "rating"
    rate = np.concatenate([part.label for part in (dataset.train, dataset.valid, dataset.test)]).mean()
    assert rate == pytest.approx(80 / 199)
    assert dataset.counts["without_a_label"] == 1
    assert "dropped: 1 rows (without a label)" in data.describe_ctr(dataset)


def test_formats_are_read_alike(tmp_path, dataset):
    frame = pl.DataFrame(TABLE).with_columns(
        pl.col("click") == "1",
        pl.col("price").replace("", None).cast(pl.Float64),
        pl.col("pages", "weekday", "item_id", "number").cast(pl.Int64),
        pl.col("genres").str.split("|").list.eval(pl.element().str.strip_chars()),
        when=pl.Series(NOW),
        note=pl.lit(None, pl.String),
    )
    frame.write_parquet(tmp_path / "clicks.parquet")
    again = data.read_ctr(tmp_path / "clicks.parquet")
    assert again.encoding == dataset.encoding
    for name in ("train", "valid", "test"):
        np.testing.assert_array_equal(getattr(again, name).fields, getattr(dataset, name).fields)
    zipped = data.read_ctr(write(tmp_path, text(TABLE, "\t").replace("1\n", "true\n"), "clicks.tsv.gz"))
    assert zipped.encoding == dataset.encoding


def test_types_of_parquet_have_roles(tmp_path):
    some = range(60)
    columns = {
        "click": [i % 2 == 0 for i in some],
        "row": [f"r{i % 3}" for i in some],  # a name that the readers use themselves
        "floats": [[1.0, 2.0]] * 60,
        "records": [{"a": i % 3} for i in some],
        "day": [datetime.date(2024, 1, 1 + i % 28) for i in some],
        "gaps": [math.nan if i % 4 else 1.5 for i in some],  # NaN is a missing number
    }
    pl.DataFrame(columns).write_parquet(tmp_path / "clicks.parquet")
    dataset = data.read_ctr(tmp_path / "clicks.parquet", by_time=False)
    kinds = {name: type(column) for name, column in dataset.encoding.columns.items()}
    assert kinds == {"row": Categories, "day": Times, "gaps": Intervals}
    assert dataset.encoding.dropped["floats"] == "lists of Float64"
    assert 0.6 < dataset.columns["gaps"].missing < 0.9


def test_values_of_an_application_are_read_like_those_of_a_file(tmp_path, dataset):
    rows = data.read_rows(write(tmp_path, text(TABLE)), dataset.encoding)
    found = data.encode(TABLE, dataset.encoding)
    np.testing.assert_array_equal(found.fields, rows.fields)
    typed = {
        **TABLE,
        "price": [math.nan if x == "" else float(x) for x in TABLE["price"]],
        "pages": np.array(TABLE["pages"], int),
        "weekday": [float(x) for x in TABLE["weekday"]],
        "genres": [[x for x in value.split("|") if x] for value in TABLE["genres"]],
        "when": NOW,
    }
    found = data.encode(typed, dataset.encoding)
    np.testing.assert_array_equal(found.fields, rows.fields)
    assert (found.missing, found.ignored) == ((), ())
    (block, label), (rest, _) = data.read_blocks(
        write(tmp_path, text({**TABLE, "new": TABLE["key"]})), dataset.encoding, label="click", rows=150
    )
    np.testing.assert_array_equal(np.concatenate([block.fields, rest.fields]), rows.fields)
    np.testing.assert_array_equal(label, rows.label[:150])
    assert block.ignored == ("new",)
    rows_without = {name: values for name, values in TABLE.items() if name not in ("price", "click")}
    ((without, none),) = data.read_blocks(write(tmp_path, text(rows_without)), dataset.encoding)
    assert (without.missing, none) == (("price",), None)
    empty = data.encode({**TABLE, "price": [None] * COUNT}, dataset.encoding)
    np.testing.assert_array_equal(without.fields, empty.fields)


def test_libfm_and_criteo_are_told_from_their_content(tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"{rng.choice([-1, 1])} {rng.integers(5)}:1 {5 + rng.integers(9)}:1" for _ in range(COUNT)]
    path = write(tmp_path, "\n".join(lines), "rows.libfm.gz")
    dataset = data.read_ctr(path)
    assert list(dataset.encoding.columns) == ["1", "2"]
    first = dataset.encoding.columns["1"]
    assert sorted(first.values) == ["0", "1", "2", "3", "4"]
    rows, whole = data.read_libfm(path), data.read_rows(path, dataset.encoding)
    expected = [1 + first.values.index(str(i)) for i in rows.fields[:, 0]]
    assert whole.fields[:, 0].tolist() == expected
    np.testing.assert_array_equal(whole.label, rows.label)
    logs = []
    for i in range(COUNT):
        numbers = ["" if rng.random() < 0.2 else str(rng.integers(-2, 500)) for _ in range(13)]
        texts = [f"{rng.integers(5):08x}" for _ in range(26)]
        logs.append("\t".join([str(i % 2), *numbers, *texts]))
    dataset = data.read_ctr(write(tmp_path, "\n".join(logs), "day_0"))
    kinds = {name: type(column) for name, column in dataset.encoding.columns.items()}
    assert kinds == {name: Intervals if name[0] == "I" else Categories for name in data.CRITEO[1:]}
    labelless = "\n".join(line.split("\t", 1)[1] for line in logs)
    ((block, _),) = data.read_blocks(write(tmp_path, labelless, "day_1"), dataset.encoding)
    np.testing.assert_array_equal(block.fields, data.read_rows(tmp_path / "day_0", dataset.encoding).fields)
    assert all(data.has_label(tmp_path / name) for name in ("rows.libfm.gz", "day_0"))


def test_ready_parts_share_what_train_fitted(tmp_path):
    def part(start, stop):
        return text({name: values[start:stop] for name, values in TABLE.items()})

    train, valid, test = (write(tmp_path, part(*at), f"{at[0]}.csv") for at in ((0, 100), (100, 150), (150, COUNT)))
    dataset = data.read_ctr_split(train, valid, test)
    assert dataset.counts == {
        "rows_read": COUNT,
        "without_a_label": 0,
        "train_rows": 100,
        "valid_rows": 50,
        "test_rows": 50,
    }
    assert "new0" not in dataset.encoding.columns["user"].values
    assert (dataset.test.fields[:, 0] == dataset.encoding.offsets["user"]).all()
    drawn = data.read_ctr_split(train, None, test, seed=1)
    assert drawn.counts["train_rows"] + drawn.counts["valid_rows"] == 100
    assert 0 < drawn.counts["valid_rows"] < 30
    np.testing.assert_array_equal(drawn.test.label, dataset.test.label)
    other = write(tmp_path, text({"usr": TABLE["user"], "click": TABLE["click"]}), "other.csv")
    with pytest.raises(InputError, match=r"other\.csv: expected a column 'user', got columns 'usr', 'click'"):
        data.read_ctr_split(train, valid, other)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(0, 100), st.integers(0, 5))
def test_a_row_stays_in_its_part_when_rows_are_appended(rows, more, seed):
    parts = hashed_parts(rows + more, seed, valid=0.2, test=0.1)
    np.testing.assert_array_equal(hashed_parts(rows, seed, valid=0.2, test=0.1), parts[:rows])


def test_hashed_parts_have_their_shares():
    parts = hashed_parts(100_000, 0, valid=0.2, test=0.1)
    np.testing.assert_allclose(np.bincount(parts) / 100_000, [0.7, 0.2, 0.1], atol=0.005)
    others = hashed_parts(100_000, 1, valid=0.2, test=0.1)
    np.testing.assert_allclose((parts == others).mean(), 0.7**2 + 0.2**2 + 0.1**2, atol=0.01)  # independent


@settings(max_examples=50, deadline=None)
@given(st.datetimes(datetime.datetime(1973, 6, 1), datetime.datetime(2200, 1, 1)), st.sampled_from([1, 1e3, 1e6, 1e9]))
def test_times_are_hours_and_weekdays(moment, unit):
    seconds = moment.replace(microsecond=0, tzinfo=datetime.UTC).timestamp()
    column = data.times().fit(np.array([seconds * unit]))
    assert column == Times(unit)
    encoding = data.Encoding({"t": column}, "click")
    expected = [1 + moment.hour, 26 + moment.weekday()]
    for value in (seconds * unit, moment, moment.isoformat(), moment.strftime("%Y/%m/%d %H:%M:%S") + "+00:00"):
        assert data.encode({"t": [value]}, encoding).fields.tolist() == [expected]
    assert data.encode({"t": [None]}, encoding).fields.tolist() == [[0, 25]]


def test_an_encoding_is_plain_json(dataset):
    content = json.loads(json.dumps(dataset.encoding.as_json()))
    assert data.encoding_from_json(content) == dataset.encoding
    for wrong in (3, {**content, "format": 9}, {**content, "columns": {"a": {"kind": "os.system"}}}, {}):
        with pytest.raises(ValueError):
            data.encoding_from_json(wrong)


def test_a_description_has_every_column_and_part(dataset):
    lines = data.describe_ctr(dataset)
    for name in TABLE:
        assert sum(name in line.split() or f"'{name}'" in line for line in lines) >= 1, name
    assert any("train" in line and "160 rows" in line and "33.75%" in line for line in lines)
    assert any(line.split()[:3] == ["user", "categorical", "12"] for line in lines)


def bad(**changes):
    return text({name: values[:40] for name, values in TABLE.items()} | changes)


def but(values, row, value):
    return [*values[:row], value, *values[row + 1 :]]


CLICK = TABLE["click"][:40]
WRONG = {
    "a third value": (bad(click=but(CLICK, 5, "2")), {}, r"row 7, column 'click': expected a label of 1, 0.*got '2'"),
    "a constant": (bad(click=["1"] * 40), {}, r"column 'click': expected labels of 0 and of 1, got 40 rows of 1"),
    "no label": (text({"user": TABLE["user"]}), {}, r"expected a column with the label.*got none of 0 and 1"),
    "two labels": (text({"a": CLICK, "b": CLICK}), {}, r"got 2 columns of 0 and 1 \('a', 'b'\) among"),
    "a rating that is none": (
        bad(rating=but(["3"] * 40, 5, "good")),
        {"min_rating": 3},
        r"row 7, column 'rating': exp",
    ),
    "unique ids alone": (text({"key": TABLE["key"], "click": TABLE["click"]}), {}, r"got 'key': a different value in"),
    "a name": (bad(), {"drop": ("nix",)}, r"expected a column 'nix' as an option says, got 'user'"),
    "a named label": (bad(), {"label": "nix"}, r"expected a column 'nix', got columns 'user'"),
    "two roles": (bad(), {"drop": ("user",), "numeric": ("user",)}, r"column 'user': expected one role, got two"),
    "text as numbers": (bad(), {"numeric": ("user",)}, r"row 2, column 'user': expected a finite number or nothing"),
    "rare values": (
        text({"user": TABLE["user"], "click": TABLE["click"]}),
        {"min_count": 999},
        r"no value in 999 train",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(tmp_path, name):
    content, options, message = WRONG[name]
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=message) as caught:
        data.read_ctr(path, data.ColumnOptions(**options), by_time=False)
    assert len(str(caught.value).splitlines()) == 1


def test_a_time_split_needs_times(tmp_path):
    table = {name: TABLE[name] for name in ("user", "price", "click")}
    with pytest.raises(InputError, match="expected a column with times to split by"):
        data.read_ctr(write(tmp_path, text(table)), by_time=True)
    when = but(TABLE["when"], 3, "")
    dataset = data.read_ctr(write(tmp_path, text({**table, "when": TABLE["when"]})))
    assert dataset.split == "by time, column 'when'"
    dataset = data.read_ctr(write(tmp_path, text({**table, "when": when})), valid=0.2)
    assert dataset.counts["without_a_time"] == 1
    assert [len(part.label) for part in (dataset.train, dataset.valid, dataset.test)] == [139, 40, 20]
