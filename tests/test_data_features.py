"""Side tables, normalization, the synthetic log, and MovieLens-100K with its cache and its clients."""

import gzip
import hashlib
import importlib.util
import math
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from experiments.real import DATA
from recjax import data
from recjax.data import movielens
from recjax.errors import InputError

FOLDER = DATA / "ml-100k"
real = pytest.mark.skipif(not FOLDER.is_dir(), reason="no real data: set RECJAX_DATA to a folder that has ml-100k")


def strings(*ids: str) -> np.ndarray:
    return np.array(ids)


# normalize


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=1, max_dims=2),
        elements=st.floats(-1e6, 1e6) | st.sampled_from([np.nan, np.inf, -np.inf]),
    )
)
def test_normalize_against_a_loop(values):
    out = data.normalize(values)
    assert out.dtype == np.float32
    assert out.shape == values.shape
    for column, got in zip(values.reshape(len(values), -1).T, out.reshape(len(out), -1).T, strict=True):
        known = [x for x in column.tolist() if np.isfinite(x)]
        if len(set(known)) < 2:
            assert (got == 0).all()
            continue
        assert (got[~np.isfinite(column)] == 0).all()
        mean = sum(known) / len(known)
        deviation = math.hypot(*(x - mean for x in known)) / len(known) ** 0.5  # whose squares don't underflow
        if deviation > 1e-6 * max(map(abs, known)):  # below that the loop itself is only rounding
            np.testing.assert_allclose(got[np.isfinite(column)], [(x - mean) / deviation for x in known], atol=1e-4)


@pytest.mark.parametrize("scale", [1e-300, 1e-3, 1.0, 1e300])
def test_normalize_at_any_scale(scale):
    np.testing.assert_allclose(data.normalize(np.array([1.0, 3.0]) * scale), [-1, 1], rtol=1e-6)
    assert (data.normalize(np.full(7, 0.1) * scale) == 0).all()
    assert data.normalize(np.array([True, False])).tolist() == [1, -1]
    assert data.normalize(np.zeros((0, 3))).shape == (0, 3)


# read_table


def test_recbole_item_table(tmp_path):
    lines = [
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tprice:float\tvector:float_seq\tplot:token"
    ]
    for i in range(40):
        year = "unknown" if i == 7 else str(1990 + i % 5)
        lines.append(f'{i}\t"Film {i}\t{year}\t{["Drama", "Crime Drama", ""][i % 3]}\t{i * 0.5}\t1 2\tplot number {i}')
    path = tmp_path / "x.item.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    ids = strings("39", "7", "nobody", "0", "1")
    features, titles = data.read_table(path, ids)
    assert titles.tolist() == ['"Film 39', '"Film 7', "", '"Film 0', '"Film 1']
    # of the few rows that the log has, years are not numbers in 95 of 100, and too many differ: nothing
    assert features.names == ("class=Crime", "class=Drama", "price")
    assert features.values[:, :2].tolist() == [[0, 1], [1, 1], [0, 0], [0, 1], [1, 1]]
    np.testing.assert_allclose(features.values[:, 2], data.normalize(np.array([19.5, 3.5, np.nan, 0, 0.5])), atol=1e-6)
    features, _ = data.read_table(path, np.arange(40).astype(str))
    assert features.names == ("release_year", "class=Crime", "class=Drama", "price")
    assert features.values[7, 0] == 0
    assert features.values.dtype == np.float32


def test_csv_table_rules(tmp_path):
    rows = [f"{i},{['M', 'F'][i % 2]},{20 + i % 7},{10000 + i}-{i},{['a|b', 'b'][i % 2]},{i}.5," for i in range(20)]
    path = tmp_path / "users.csv"
    path.write_text("User ID,Gender,Age,Zip,Tags,Spent,Empty\n" + "\n".join(rows) + "\n0,F,99,again,c,9,\n")
    features, titles = data.read_table(path, np.arange(20).astype(str))
    assert titles is None
    assert features.names == ("Gender=F", "Gender=M", "Age", "Tags=a", "Tags=b", "Spent")
    assert features.values[:2, 0].tolist() == [0, 1]  # the first row of a repeated id counts
    assert features.values[:2, 3:5].tolist() == [[1, 1], [0, 1]]
    np.testing.assert_allclose(features.values[:, 2], data.normalize(20 + np.arange(20) % 7), atol=1e-6)


def test_category_cap(tmp_path):
    values = [f"c{i:03d}" for i in range(100) for _ in range(2 + (i < 10))] + ["c099"] * 5
    path = tmp_path / "t.csv"
    path.write_text("id,kind\n" + "".join(f"{i},{value}\n" for i, value in enumerate(values)))
    features, _ = data.read_table(path, np.arange(len(values)).astype(str))
    wanted = sorted([f"c{i:03d}" for i in range(63)] + ["c099"])  # the most frequent, then by name
    assert features.names == tuple(f"kind={name}" for name in wanted)
    assert features.values.sum(0).tolist() == [values.count(name) for name in wanted]


def test_parquet_table(tmp_path):
    frame = pl.DataFrame(
        {
            "product_id": [3, 1, 2],
            "name": ["c", None, "b" * 500],
            "tags": [["x", "y"], ["x"], None],
            "flag": [True, False, None],
            "size": [1, None, 3],
            "blob": [b"1", b"2", b"3"],
            "years": [[1999], [1999, 2001], []],
            "vector": [[0.5], [0.25], [1.0]],
        }
    )
    frame.write_parquet(tmp_path / "items.parquet")
    features, titles = data.read_table(tmp_path / "items.parquet", strings("1", "2", "3"))
    assert titles.tolist() == ["", "b" * 200, "c"]
    assert features.names == ("tags=x", "tags=y", "flag", "size", "years=1999", "years=2001")
    assert features.values.tolist() == [[1, 0, -1, 0, 1, 1], [0, 0, 0, 1, 0, 0], [1, 1, 1, -1, 1, 0]]


@pytest.mark.parametrize("inner", [pl.Int64, pl.Categorical])
@pytest.mark.parametrize("array", [False, True])
def test_lists_of_whatever_has_a_text(tmp_path, inner, array):
    tags = pl.Series("tags", [["1", "2"], ["2", "3"], ["2", "3"]]).cast(pl.List(inner))
    frame = pl.DataFrame({"id": ["a", "b", "c"], "tags": tags.list.to_array(2) if array else tags})
    frame.write_parquet(tmp_path / "t.parquet")
    features, _ = data.read_table(tmp_path / "t.parquet", strings("a", "b", "c"))
    assert features.names == ("tags=1", "tags=2", "tags=3")
    assert features.values.tolist() == [[1, 1, 0], [0, 1, 1], [0, 1, 1]]


def test_table_without_header_and_named_columns(tmp_path):
    path = tmp_path / "movies.dat"
    path.write_text("1::Heat (1995)::Action|Crime\n2::Emma (1996)::Crime|Drama\n3::Up (2009)::Drama\n")
    features, titles = data.read_table(path, strings("2", "1"), title_column="2")
    assert titles.tolist() == ["Emma (1996)", "Heat (1995)"]
    features, _ = data.read_table(path, strings("2", "1", "3"), title_column="2")
    assert features.names == ("3=Action", "3=Crime", "3=Drama")
    path = tmp_path / "odd.csv"
    path.write_text("code,label,id\nA,first,9\nB,second,8\n")
    _, titles = data.read_table(path, strings("B"), id_column="code", title_column="label")
    assert titles.tolist() == ["second"]


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("a,b\nx,y\n", {}, "id_column, got columns 'a', 'b'"),
        ("id,b\nx,y\n", {"id_column": "key"}, "id_column='key'"),
        ("id,b\nx,y\n", {"title_column": "t"}, "title_column='t'"),
        ("id,b\nx,y\n", {"id_column": ""}, "id_column=''"),
        ("id,b\nx,y\n", {}, "column 'id': expected ids of the log, such as '1', got ids such as 'x'"),
        ("id,b\n1,y\n,z\n", {}, "row 3, column 'id': .*got nothing"),
        ("item_id:token\tsize:float\n1\t5\n2\tbig\n", {}, "row 3, column 'size': .*got 'big'"),
        ("id,b\n", {}, "only a header"),
    ],
)
def test_bad_tables(tmp_path, text, arguments, expected):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=expected) as caught:
        data.read_table(path, strings("1", "2"), **arguments)
    assert "\n" not in str(caught.value)


def test_with_features(tmp_path):
    log = data.synthetic(users=20, items=20, interactions_per_user=5)
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"{i},T{i}\n" for i in log.item_ids))
    (tmp_path / "users.csv").write_text("user_id,age\n" + "".join(f"{u},{n}\n" for n, u in enumerate(log.user_ids)))
    log = data.with_features(log, item_table=tmp_path / "items.csv", user_table=tmp_path / "users.csv")
    assert log.titles.tolist() == [f"T{i}" for i in log.item_ids]
    assert log.item_features is None
    assert log.user_features.names == ("age",)
    assert log.counts == {"rows_read": len(log), "duplicates_collapsed": 0}
    lines = [f"{u},{n},{n}-1\n" for n, u in enumerate(log.user_ids)]
    (tmp_path / "users.csv").write_text("user_id,age,zip\n" + "".join([*lines, lines[0], "nobody,3,4-1\n"]))
    log = data.with_features(log, user_table=tmp_path / "users.csv")
    left_out = {"columns_dropped": 1, "rows_of_other_ids": 1, "rows_of_repeated_ids": 1}
    assert {name.removeprefix("user_table_"): n for name, n in log.counts.items() if "table" in name} == left_out


# synthetic


def test_synthetic_is_a_log_that_can_be_learned():
    log = data.synthetic(3)
    again, other = data.synthetic(3), data.synthetic(4)
    assert all(
        np.array_equal(getattr(log, name), getattr(again, name)) for name in ("user", "item", "timestamp", "titles")
    )
    assert np.array_equal(log.item_features.values, again.item_features.values)
    assert not np.array_equal(log.user[:100], other.user[:100])
    assert log.users == 600
    assert 33_000 < len(log) < 39_000
    pairs = log.user.astype(np.int64) * log.items + log.item
    assert len(np.unique(pairs)) == len(log)
    for positions, vocabulary in ((log.user, log.user_ids), (log.item, log.item_ids)):
        assert set(positions.tolist()) == set(range(len(vocabulary)))
    split = data.split_by_time(log)
    assert split.counts["users_not_in_train"] < 6
    assert split.counts["users_without_test"] < 60

    # popularity is skewed, and taste says more than popularity: item-item regression beats it on what comes later
    train = np.zeros((log.users, log.items))
    train[split.train.user, split.train.item] = 1
    popularity = train.sum(0)
    assert np.sort(popularity)[::-1][:80].sum() > 0.25 * popularity.sum()
    gram = np.linalg.inv(train.T @ train + 100 * np.eye(log.items))
    weights = gram / -np.diag(gram)
    np.fill_diagonal(weights, 0)
    hits = []
    for scores in (train @ weights, np.tile(popularity, (log.users, 1))):
        ranked = np.where(train > 0, -np.inf, scores)
        top = np.argsort(-ranked, axis=1)[:, :10]
        test = np.zeros_like(train)
        test[split.test.user, split.test.item] = 1
        hits.append(np.take_along_axis(test, top, 1).mean())
    assert hits[0] > 1.3 * hits[1]

    # and the features carry some of it: users of a segment prefer some genres
    genre, segment = log.item_features.values[:, :6], log.user_features.values[:, :6]
    table = segment[log.user].T @ genre[log.item]
    expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    assert ((table - expected) ** 2 / expected).sum() > 1000


@pytest.mark.parametrize(
    "wrong",
    [{"users": 0}, {"items": 1, "interactions_per_user": 1}, {"rank": 0}, {"seed": -1}, {"interactions_per_user": 401}],
)
def test_synthetic_options(wrong):
    with pytest.raises(InputError, match="option"):
        data.synthetic(**wrong)


# MovieLens-100K


@pytest.fixture
def files() -> dict[str, bytes]:
    return {name: gzip.decompress((FOLDER / f"{name}.gz").read_bytes()) for name in movielens.SHA256}


@real
def test_movielens_from_the_cache(tmp_path, files, monkeypatch):
    for name, content in files.items():
        assert hashlib.sha256(content).hexdigest() == movielens.SHA256[name]
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(movielens, "_run", lambda command: pytest.fail("nothing to fetch"))
    log = data.movielens_100k(tmp_path)
    assert (log.users, log.items, len(log)) == (943, 1682, 100_000)
    titles = dict(zip(log.item_ids.tolist(), log.titles.tolist(), strict=True))
    assert (titles["1"], titles["267"]) == ("Toy Story (1995)", "unkonwn")
    assert log.item_features.names[0] == "release_year"
    assert len(log.item_features.names) == 20
    assert {"age", "gender=F", "occupation=writer"} <= set(log.user_features.names)
    assert not any(name.startswith("zip") for name in log.user_features.names)
    first = np.flatnonzero(log.item_ids == "1")[0]
    on = {
        name for name, value in zip(log.item_features.names, log.item_features.values[first], strict=True) if value == 1
    }
    assert on == {"class=Animation", "class=Children's", "class=Comedy"}


@real
@pytest.mark.parametrize("client", ["pip", "uv"])
def test_movielens_is_fetched_once_and_repaired(tmp_path, files, monkeypatch, client):
    wheel = tmp_path / "made.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{movielens.MEMBERS}/{name}", content)
    monkeypatch.setattr(movielens, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    commands = []

    def run(command, **_):
        commands.append(command)
        assert "--no-deps" in command
        assert not any("://" in word for word in command)  # the user's own index, not one of ours
        if client == "pip":
            shutil.copy(wheel, Path(command[command.index("-d") + 1]) / "recbole-1.2.1-py3-none-any.whl")
        else:
            zipfile.ZipFile(wheel).extractall(command[command.index("--target") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if client == "pip" else None)
    monkeypatch.setattr(shutil, "which", lambda name: "/somewhere/uv")
    cache = tmp_path / "deep" / "cache"
    assert len(data.movielens_100k(cache)) == 100_000
    assert sorted(path.name for path in cache.iterdir()) == sorted(files)
    assert commands[0][:3] == (
        [sys.executable, "-m", "pip"] if client == "pip" else ["/somewhere/uv", "pip", "install"]
    )
    data.movielens_100k(cache)
    assert len(commands) == 1
    (cache / "ml-100k.user").write_bytes(b"spoiled")
    assert data.movielens_100k(cache).users == 943
    assert len(commands) == 2


def _says(monkeypatch, outcome):
    def run(command, **_):
        if isinstance(outcome, Exception):
            raise outcome
        for name, content in outcome[2].items():
            (Path(command[command.index("-d") + 1]) / name).write_bytes(content)
        return subprocess.CompletedProcess(command, outcome[0], "", outcome[1])

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (
            (1, "WARNING: retrying\nERROR: No matching distribution\nnote: bye\n", {}),
            "from pip, got an error .*No matching distribution",
        ),
        ((1, "", {}), "no message"),
        (subprocess.TimeoutExpired("pip", 300), "no answer to pip"),
        ((0, "", {}), "sha256 9c99"),
        ((0, "", {"recbole.whl": b"other"}), "sha256 9c99.*, got "),
    ],
)
def test_movielens_failures_say_what_to_do(tmp_path, monkeypatch, outcome, expected):
    _says(monkeypatch, outcome)
    with pytest.raises(InputError, match=expected) as caught:
        data.movielens_100k(tmp_path / "cache")
    assert "--synthetic" in str(caught.value)
    assert "--data" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_movielens_without_a_client_or_a_place(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"expected pip or uv .*got neither.*--synthetic"):
        data.movielens_100k(tmp_path)
    monkeypatch.setattr(movielens, "_fetch", lambda: dict.fromkeys(movielens.SHA256, b""))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"expected a writable cache folder"):
        data.movielens_100k(tmp_path / "file" / "cache")


def test_terms():
    for words in ("research use", "no redistribution", "no commercial", "Harper", "2015"):
        assert words in data.MOVIELENS_TERMS
    assert "\n" not in data.MOVIELENS_TERMS
