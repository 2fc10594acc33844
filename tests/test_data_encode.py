"""Tables as fields against plain Python, what an encoding promises of any table, and every way to be wrong."""

import gzip
import itertools
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from references import encode as twins

from recjax import data, models
from recjax.errors import InputError

COLUMNS = {
    "user": data.categories(min_count=2),
    "page": data.hashes(buckets=7),
    "age": data.quantiles(buckets=3),
    "price": data.logarithm(),
    "score": data.standard(),
}
TEXT = """click,user,page,age,price,score,unused
1,ann,p1,31,2.5,10,x
0,bob,p2,,-4,12,x
-1,ann,,44,,14,x
1, bob ,p1,18,0,,x
0,cid,p9,27,1e3,10,x
"""
TRAIN = {
    "user": ["ann", "bob", "ann", "bob", "cid"],
    "page": ["p1", "p2", "", "p1", "p9"],
    "age": [31.0, None, 44.0, 18.0, 27.0],
    "price": [2.5, -4.0, None, 0.0, 1000.0],
    "score": [10.0, 12.0, 14.0, None, 10.0],
}
LABEL = [1, 0, 0, 1, 0]


def write(folder, text, name="train.csv"):
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def by_hand(table, train=TRAIN):
    """``(fields, values)`` of a table, one value at a time."""

    def known(name):
        return [x for x in train[name] if x is not None]

    ids = {
        "user": twins.category_ids(table["user"], twins.vocabulary(train["user"], 2)),
        "page": [twins.hash_id(text, 7) for text in table["page"]],
        "age": twins.interval_ids(table["age"], twins.edges(known("age"), 3)),
        "price": [int(x is not None) for x in table["price"]],
        "score": [int(x is not None) for x in table["score"]],
    }
    mean, deviation = twins.standard(known("score"))
    ones = [1.0] * len(table["user"])
    values = {
        "price": [1.0 if x is None else twins.logarithm(x) for x in table["price"]],
        "score": [1.0 if x is None else (x - mean) / deviation for x in table["score"]],
    }
    sizes = [1 + len(twins.vocabulary(train["user"], 2)), 7, 2 + len(twins.edges(known("age"), 3)), 2, 2]
    offsets = [sum(sizes[:i]) for i in range(5)]
    fields = [[offset + i for i in ids[name]] for name, offset in zip(ids, offsets, strict=True)]
    return np.transpose(fields), np.transpose([values.get(name, ones) for name in ids]), sum(sizes)


FORMATS = {
    "train.csv": TEXT,
    "train.csv.gz": TEXT,
    "train.tsv": TEXT.replace(",", "\t"),
    "windows.csv": "\ufeff" + TEXT.replace("\n", "\r\n"),
    "quoted.csv": TEXT.replace("ann", '"ann"'),
}


@pytest.mark.parametrize("name", FORMATS)
def test_reads_what_is_written(tmp_path, name):
    path = write(tmp_path, FORMATS[name], name)
    encoding = data.fit_encoding(path, COLUMNS, label="click")
    rows = data.read_rows(path, encoding)
    fields, values, features = by_hand(TRAIN)
    assert (rows.fields.dtype, rows.label.dtype, rows.values.dtype) == (np.int32, np.float32, np.float32)
    np.testing.assert_array_equal(rows.fields, fields)
    np.testing.assert_allclose(rows.values, values, rtol=1e-6)
    assert rows.label.tolist() == LABEL
    assert encoding.features == features


def test_parquet_is_read_like_text(tmp_path):
    frame = pl.DataFrame({"click": [v == 1 for v in LABEL], **TRAIN, "number": [7, 8, None, 7, 7]})
    frame.write_parquet(tmp_path / "train.parquet")
    encoding = data.fit_encoding(tmp_path / "train.parquet", COLUMNS, label="click")
    assert encoding == data.fit_encoding(write(tmp_path, TEXT), COLUMNS, label="click")
    rows = data.read_rows(tmp_path / "train.parquet", encoding)
    np.testing.assert_array_equal(rows.fields, by_hand(TRAIN)[0])
    # whole numbers are categories by their text, whether or not gaps have made floats of them
    for column in (frame["number"], frame["number"].cast(pl.Float64), frame["number"].cast(pl.String)):
        frame.with_columns(column).write_parquet(tmp_path / "again.parquet")
        again = data.fit_encoding(tmp_path / "again.parquet", {"number": data.categories()}, label="click")
        assert again.columns["number"].values == ("7", "", "8")


def test_what_was_fitted_on_train_holds_for_other_rows(tmp_path):
    """New categories, numbers beyond those of train, everything missing; from a file, and as an application asks."""
    encoding = data.fit_encoding(write(tmp_path, TEXT), COLUMNS, label="click")
    later = {
        "user": ["ann", "zoe", ""],
        "page": ["new", "p1", ""],
        "age": [-5.0, 1e6, None],
        "price": [-7.0, 3.0, None],
        "score": [100.0, 10.0, None],
    }
    lines = [",".join("" if x is None else str(x) for x in row) for row in zip(*later.values(), strict=True)]
    text = "\n".join([",".join([*later, "click"]), *(f"{line},0" for line in lines)])
    fields, values, _ = by_hand(later)
    rows = data.read_rows(write(tmp_path, text, "test.csv"), encoding)
    np.testing.assert_array_equal(rows.fields, fields)
    np.testing.assert_allclose(rows.values, values, rtol=1e-6)
    as_asked = {**later, "user": ["ann", "zoe", None], "score": ["100", 10, None], "age": np.array([-5.0, 1e6, np.nan])}
    found = data.encode(as_asked, encoding)
    np.testing.assert_array_equal(found.fields, fields)
    np.testing.assert_allclose(found.values, values, rtol=1e-6)


def test_an_encoding_survives_its_file(tmp_path):
    encoding = data.fit_encoding(write(tmp_path, TEXT), COLUMNS, label="click")
    encoding.save(tmp_path / "encoding.json")
    assert data.load_encoding(tmp_path / "encoding.json") == encoding
    columns = {name: data.standard() if name[0] == "I" else data.categories(min_count=2) for name in data.CRITEO[1:]}
    encoding = data.fit_encoding(write(tmp_path, criteo_text(20)), columns, label="label")
    assert encoding.names == data.CRITEO
    encoding.save(tmp_path / "encoding.json")
    assert data.load_encoding(tmp_path / "encoding.json") == encoding


DAMAGED = {
    "not json": "got JSONDecodeError",
    "[]": "got ValueError: TypeError",
    "{}": "got ValueError: KeyError: 'format'",
    '{"format": 9}': "got ValueError: expected format 2, got 9",
    '{"format": 2, "label": "y", "names": null, "columns": {"a": {"kind": "Other"}}}': "KeyError: 'Other'",
    '{"format": 2, "label": "y", "names": null, "columns": {"a": {"kind": "Hashes"}}}': "TypeError: .*'buckets'",
}


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_encoding_is_named(tmp_path, content):
    path = write(tmp_path, content, "encoding.json")
    with pytest.raises(InputError, match=DAMAGED[content]) as caught:
        data.load_encoding(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def criteo_text(rows):
    rng = np.random.default_rng(0)

    def line(label):
        numbers = ["" if rng.random() < 0.2 else str(rng.integers(-2, 500)) for _ in range(13)]
        texts = ["" if rng.random() < 0.2 else f"{rng.integers(5):08x}" for _ in range(26)]
        return "\t".join([str(label), *numbers, *texts])

    return "".join(line(i % 2) + "\n" for i in range(rows))


@pytest.mark.parametrize("name", ["train.txt", "train.txt.gz"])
def test_criteo_against_a_loop(tmp_path, name):
    text = criteo_text(60)
    path = write(tmp_path, text, name)
    numbers, texts = data.quantiles(buckets=6), data.categories(min_count=10)
    columns = {name: numbers if name[0] == "I" else texts for name in data.CRITEO[1:]}
    encoding = data.fit_encoding(path, columns, label="label", names=data.CRITEO)
    rows = data.read_rows(path, encoding)
    assert rows.values is None
    table = list(zip(*(line.split("\t") for line in text.splitlines()), strict=True))
    assert rows.label.tolist() == [float(x) for x in table[0]]
    offset = 0
    for field, texts in enumerate(table[1:]):
        if field < 13:
            numbers = [None if x == "" else float(x) for x in texts]
            edges = twins.edges([x for x in numbers if x is not None], 6)
            ids, size = twins.interval_ids(numbers, edges), 2 + len(edges)
        else:
            known = twins.vocabulary(texts, 10)
            ids, size = twins.category_ids(texts, known), 1 + len(known)
        assert rows.fields[:, field].tolist() == [offset + i for i in ids], data.CRITEO[1 + field]
        offset += size
    assert encoding.features == offset


WRONG = {
    ("user,click\na,1\nb,2\n", "user"): "row 3, column 'click': expected a label of 1, 0 or -1.*got '2'",
    ("user,click\na,1\nb,\n", "user"): "row 3, column 'click': expected a label.*got nothing",
    ("age,click\n3,1\nold,0\n", "age"): "row 3, column 'age': expected a finite number or nothing.*got 'old'",
    ("age,click\n3,1\ninf,0\n", "age"): "row 3, column 'age': expected a finite number or nothing.*got 'inf'",
    ("age,click\n3,1\nnan,0\n", "age"): "row 3, column 'age': expected a finite number or nothing.*got 'nan'",
    ("age,click\n3,1\n1e39,0\n", "age"): "row 3, column 'age': expected a finite number or nothing.*got '1e39'",
    ("age,y\n3,1\n", "age"): "expected a column 'click', got columns 'age', 'y'",
    ("click,user\n1,a\n", "age"): "expected a column 'age', got columns 'click', 'user'",
    ("user,click\n", "user"): "expected rows of data.*got only a header",
    ("user,click\na,1,3\n", "user"): "row 2: expected 2 fields, got 3",
    ("", "user"): "got an empty file",
}


@pytest.mark.parametrize(("text", "column"), WRONG)
def test_what_is_wrong_with_a_table_is_named(tmp_path, text, column):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=WRONG[text, column]) as caught:
        data.fit_encoding(path, {column: COLUMNS[column]}, label="click")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    (train := tmp_path / "whole.csv").write_text("user,age,click\nann,3,1\n")
    encoding = data.fit_encoding(train, {column: COLUMNS[column]}, label="click")
    with pytest.raises(InputError, match=WRONG[text, column]):
        data.read_rows(path, encoding)


def test_what_is_wrong_with_values_is_named(tmp_path):
    encoding = data.fit_encoding(write(tmp_path, TEXT), COLUMNS, label="click")
    good = {name: column[:2] for name, column in TRAIN.items()}
    for changed, message in (
        ({"age": [3, "x"]}, "column 'age', row 2: expected a finite number or nothing.*got 'x'"),
        ({"price": [math.inf, 1]}, "column 'price', row 1: expected a finite number.*got inf"),
        ({"user": ["a", 0.5]}, "column 'user', row 2: expected a category: text or a whole number.*got 0.5"),
        ({"user": [0.5, 1.0]}, "column 'user', row 1: expected a category: text or a whole number.*got 0.5"),
    ):
        with pytest.raises(InputError, match=message):
            data.encode(good | changed, encoding)
    with pytest.raises(ValueError, match=r"expected as many values of every column, got .*'age': 3"):
        data.encode(good | {"age": [1, 2, 3]}, encoding)
    with pytest.raises(InputError, match=r"expected some of the columns \['user', .*got \['agee'\]"):
        data.encode({"agee": [1, 2]}, encoding)


def test_a_file_without_a_header_has_the_names_it_is_given(tmp_path):
    columns = {"a": data.categories()}
    with pytest.raises(InputError, match=r"expected 3 columns, got 2"):
        data.fit_encoding(write(tmp_path, "1,x\n"), columns, label="y", names=["y", "a", "b"])
    with pytest.raises(InputError, match=r"row 1: expected no header, got 'y', 'a'"):
        data.fit_encoding(write(tmp_path, "y,a\n1,x\n"), columns, label="y", names=["y", "a"])


@pytest.mark.parametrize("make", [data.hashes, data.quantiles])
def test_impossible_arguments_are_named(tmp_path, make):
    with pytest.raises(ValueError, match="buckets: expected at least 1, got 0"):
        make(buckets=0)
    with pytest.raises(ValueError, match="min_count: expected at least 1, got 0"):
        data.categories(min_count=0)
    for columns in ({}, {"click": data.categories()}):
        with pytest.raises(ValueError, match="expected columns, and the label 'click' not among them"):
            data.fit_encoding(write(tmp_path, TEXT), columns, label="click")


number = st.none() | st.floats(-(2.0**90), 2.0**90, width=32) | st.integers(-3, 3).map(float)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), max_size=3)
tables = st.lists(st.tuples(texts, texts, number, number, number, st.sampled_from([0, 1])), min_size=1, max_size=20)


@settings(max_examples=30, deadline=None)
@given(tables, tables)
@example([("", "", None, None, 0.0, 0), ("", "", None, None, 1.7e-39, 0)], [("", "", None, None, 1.0, 0)])
def test_any_table_gives_ids_inside_their_fields(tmp_path_factory, train, later):
    """Whatever the rows: every field in its own range, larger numbers in no lower interval, and the twin's ids."""
    folder = tmp_path_factory.mktemp("tables")
    schema = dict(zip(COLUMNS, [pl.String] * 2 + [pl.Float64] * 3, strict=True)) | {"click": pl.Int8}
    parts = []
    for name, rows in (("train", train), ("later", later)):
        pl.DataFrame(rows, schema=schema, orient="row").write_parquet(folder / f"{name}.parquet")
        parts.append({name: list(column) for name, column in zip(schema, zip(*rows, strict=True), strict=True)})
    encoding = data.fit_encoding(folder / "train.parquet", COLUMNS, label="click")
    starts = [*encoding.offsets.values(), encoding.features]
    for name in ("train", "later"):
        rows = data.read_rows(folder / f"{name}.parquet", encoding)
        assert np.isfinite(rows.values).all()
        for field, (low, high) in enumerate(itertools.pairwise(starts)):
            assert ((rows.fields[:, field] >= low) & (rows.fields[:, field] < high)).all()
    known = [(age, i) for age, i in zip(parts[1]["age"], rows.fields[:, 2].tolist(), strict=True) if age is not None]
    assert [i for _, i in sorted(known)] == sorted(i for _, i in known)
    vocabulary = twins.vocabulary(parts[0]["user"], 2)
    assert rows.fields[:, 0].tolist() == twins.category_ids(parts[1]["user"], vocabulary)
    pages = [starts[1] + twins.hash_id(text, 7) for text in parts[1]["page"]]
    assert rows.fields[:, 1].tolist() == pages


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=40, max_size=200, unique=True), st.integers(1, 10))
def test_intervals_hold_about_as_many_train_rows_each(numbers, buckets):
    column = data.quantiles(buckets=buckets).fit(np.array(numbers))
    counts = np.bincount(twins.interval_ids(numbers, list(column.edges)), minlength=column.size)
    assert counts[0] == 0  # none is missing
    assert len(column.edges) == buckets - 1
    assert counts[1:].max() - counts[1:].min() <= 2


def test_a_model_of_fields_reads_the_batch(tmp_path):
    """A number multiplies its vector and its weight: the logit of a factorization machine by hand."""
    encoding = data.fit_encoding(write(tmp_path, TEXT), COLUMNS, label="click")
    rows = data.read_rows(write(tmp_path, TEXT), encoding)
    model = models.factorization_machine(models.Fields(features=encoding.features, fields=5, dim=3))
    rng = np.random.default_rng(0)
    tables = {
        "feature": rng.normal(size=(encoding.features, 3)),
        "feature_weight": rng.normal(size=(encoding.features, 1)),
    }
    params = {"tables": tables, "net": {"bias": np.array([0.5])}, "fixed": {}, "auxiliary": {}}
    params = {part: {name: leaf.astype(np.float32) for name, leaf in of.items()} for part, of in params.items()}
    found = model.logit(params, {"fields": rows.fields, "values": rows.values})[:, 0]
    for logit, ids, values in zip(found, rows.fields, rows.values, strict=True):
        vectors = [x * tables["feature"][i] for i, x in zip(ids, values, strict=True)]
        pairs = sum(vectors[a] @ vectors[b] for b in range(5) for a in range(b))
        linear = sum(x * tables["feature_weight"][i, 0] for i, x in zip(ids, values, strict=True))
        assert float(logit) == pytest.approx(0.5 + linear + pairs, rel=1e-4, abs=1e-4)
    with pytest.raises(ValueError, match=r"values: expected the shape of the fields, \(5, 5\), got \(5, 4\)"):
        model.logit(params, {"fields": rows.fields, "values": rows.values[:, :4]})
