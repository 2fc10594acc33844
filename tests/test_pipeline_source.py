"""The way into a run: splits, ready-made files, fingerprints, and what is refused before anything is written."""

import dataclasses
import gzip
import itertools
import os

import pytest
from run_cases import SMALL, Recorder, make_log, make_rows, write_log

from recjax import pipeline
from recjax.errors import InputError
from recjax.pipeline import source, stages
from recjax.pipeline.config import Config
from recjax.pipeline.job import Job
from recjax.pipeline.stages import Stages


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str, int, int]]:
    return make_rows()


@pytest.fixture(scope="module")
def log(rows, tmp_path_factory) -> str:
    return make_log(rows, tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def config(log) -> Config:
    return dataclasses.replace(SMALL, data=log)


@pytest.mark.parametrize(("split", "rule"), [("time", "by time"), ("last-out", "last row"), ("random", "at random")])
def test_every_split_puts_each_row_in_one_part(config, rows, split, rule):
    loaded = source.load(dataclasses.replace(config, split=split))
    assert rule in loaded.rule
    train, valid, test = parts_of(loaded.dataset)
    assert set().union(train, valid, test) == {row[:2] for row in rows} | {("once", rows[0][1])}
    assert len(train) + len(valid) + len(test) == len(loaded.dataset.log.items) == len(rows) + 1
    assert {u for u, _ in train} == set(loaded.dataset.user_ids[: loaded.dataset.users].tolist())
    if split != "time":
        assert "once" in loaded.dataset.user_ids[: loaded.dataset.users]


def parts_of(dataset) -> list[set[tuple[str, str]]]:
    """Raw pairs of training, validation and test."""
    found: list[set[tuple[str, str]]] = [set(), set(), set()]
    for u, raw in enumerate(dataset.user_ids):
        ends = (dataset.log.offsets[u], dataset.train_end[u], dataset.valid_end[u], dataset.log.offsets[u + 1])
        for part, (start, stop) in zip(found, itertools.pairwise(ends), strict=True):
            part |= {(raw, dataset.item_ids[i]) for i in dataset.log.items[start:stop]}
    return found


def test_ready_made_pairs_as_citeulike_has_them(rows, tmp_path):
    users, items = ({raw: n for n, raw in enumerate(sorted({row[i] for row in rows}))} for i in (0, 1))
    for part, name in enumerate(("train", "valid", "test")):
        lines = [
            f"{users[u]}\t{items[i]}\n"
            for n, (u, i, *_) in enumerate(rows)
            if min(n % 10 // 8 + n % 10 // 9, 2) == part
        ]
        with gzip.open(tmp_path / f"{name}.tsv.gz", "wt") as file:
            file.writelines(lines)
    files = {name: str(tmp_path / f"{name}.tsv.gz") for name in ("train", "valid", "test")}
    loaded = source.load(dataclasses.replace(SMALL, **files))
    assert [len(part) for part in parts_of(loaded.dataset)] == [
        sum(min(n % 10 // 8 + n % 10 // 9, 2) == part for n in range(len(rows))) for part in range(3)
    ]
    assert loaded.dataset.items == 50
    assert (loaded.dataset.log.weight == 1).all()


def test_the_fingerprint_sees_every_change(config, log, rows, tmp_path):
    items = sorted({row[1] for row in rows})
    table = tmp_path / "items.csv"

    def fingerprint(year: int = 0, title: str = "", rating: int = 0) -> str:
        lines = [f"{raw},{title}{n},{1990 + n + year}" for n, raw in enumerate(items)]
        table.write_text("\n".join(["item_id,title,year", *lines]))
        changed = [(u, i, (rating or r), t) for u, i, r, t in rows[:1]] + rows[1:]
        path = write_log(tmp_path / "log.csv", changed)
        return source.load(dataclasses.replace(config, data=path, item_table=str(table))).fingerprint

    rows = [(u, i, 4, t) for u, i, _, t in rows]
    table.write_text("")
    same = fingerprint()
    assert fingerprint() == same
    assert len({same, fingerprint(title="x"), fingerprint(rating=1)}) == 3
    lines = [f"{raw},{n},{1990 + n % 7}" for n, raw in enumerate(items)]
    other = tmp_path / "other.csv"
    other.write_text("\n".join(["item_id,title,year", *lines]))
    path = write_log(tmp_path / "log.csv", rows)
    assert source.load(dataclasses.replace(config, data=path, item_table=str(other))).fingerprint != same


@pytest.mark.parametrize("side", [{"teacher": ("two-tower",)}, {"student": "two-tower"}])
def test_a_two_tower_without_features_is_refused_before_anything_is_written(config, tmp_path, side):
    with pytest.raises(
        InputError, match="option --user-table: expected side features of users for a two-tower, got none"
    ):
        pipeline.run(dataclasses.replace(config, **side), tmp_path / "run", Recorder())
    assert not (tmp_path / "run").exists()


def test_a_refused_budget_leaves_nothing_behind(config, tmp_path, few_dims):
    with pytest.raises(InputError, match="option --budget"):
        pipeline.run(dataclasses.replace(config, budget="100B"), tmp_path / "run", Recorder())
    assert not (tmp_path / "run").exists()


@pytest.fixture
def few_dims(monkeypatch):
    """Each dim that a budget tries compiles programs of its own."""
    monkeypatch.setattr(stages, "DIMS", (64, 8, 2))


def test_a_budget_that_cannot_be_met_is_refused(config, tmp_path, few_dims):
    loaded = source.load(config)

    def dim(budget):
        job = Job(dataclasses.replace(config, budget=budget), loaded, tmp_path, Recorder())
        return Stages(job).sized("mf").size["dim"]

    with pytest.raises(InputError, match=r"option --budget: expected at least \d+ bytes for this log, got 100B"):
        dim("100B")
    dims = [dim(budget) for budget in ("1.6KB", "2KB", "1MB")]
    assert dims == sorted(dims)
    assert (dims[0], dims[-1]) == (2, 64)
    assert os.listdir(tmp_path) == []
