"""The page on scale: its tables are those of the formulas and of the JSON, the formulas those of the library."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import scale
from recjax import quantize, rows
from recjax.trees import nbytes

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def record():
    return json.loads((ROOT / "benchmarks/results/scale.json").read_text(encoding="utf-8"))


def test_the_page_has_the_tables_of_the_formulas_and_of_the_json(record):
    page = scale.PAGE.read_text(encoding="utf-8")
    assert scale.fill(page, record) == page, "run python -m benchmarks.scale --json F --page"
    assert all(table in page for table in (scale.stored(), scale.stepped(), scale.measured(record)))
    assert not record["commit"].endswith("-dirty")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_bytes_of_a_table_are_those_of_the_packed_record(bits):
    table = jnp.asarray(np.random.default_rng(0).normal(size=(7, 20)), jnp.float32)
    assert scale.table_bytes(7, 20, bits) == quantize.quantize(table, bits=bits, axis=0).nbytes
    assert scale.table_bytes(7, 20, 32) == table.nbytes


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [("row-wise Adagrad", rows.rowwise_adagrad), ("Adagrad", rows.adagrad), ("Adam", rows.adam)],
)
def test_the_bytes_of_slots_are_those_of_the_optimizer(name, optimizer):
    assert scale.slot_bytes(7, 20, name) == nbytes(jax.eval_shape(optimizer(0.1).init, jnp.zeros((7, 20))))


def test_distinct_rows_are_those_of_draws():
    rng = np.random.default_rng(0)
    counts = [len(np.unique(rng.integers(50, size=60))) for _ in range(4000)]
    np.testing.assert_allclose(scale.distinct(50, 60), np.mean(counts), rtol=5e-3)
    np.testing.assert_allclose(scale.distinct(10**9, 1000), 1000, rtol=1e-5)


def test_a_ring_sends_twice_all_but_one_part():
    assert scale.exchange(10, 3, 2, 2) == 4 * 10 * 5
    assert scale.exchange(10, 3, 2, 4) == 1.5 * 4 * 10 * 5
    assert scale.traffic(10, 3, 2) == 2 * 4 * 10 * 5


def test_the_record_follows_the_formulas(record):
    assert [(row["optimizer"], row["rows"]) for row in record["rows"]] == [
        (optimizer, size) for optimizer in scale.OPTIMIZERS for size in scale.SIZES
    ]
    for row in record["rows"]:
        slots = scale.slot_bytes(row["rows"], row["dim"], row["optimizer"])
        assert row["state_bytes"] == scale.table_bytes(row["rows"], row["dim"], 32) + slots
        np.testing.assert_allclose(row["touched"], row["touched_predicted"], rtol=2e-3)
        np.testing.assert_allclose(row["least_seconds"], row["moved_bytes"] / record["bandwidth"])
    for first in (0, 3):
        assert record["rows"][first]["predicted_seconds"] == pytest.approx(record["rows"][first]["seconds"])


def test_the_sentences_of_the_page():
    page = " ".join(scale.PAGE.read_text(encoding="utf-8").split())
    dense = 24 * 10**9 * 64
    assert f"that is {dense / 1e12:.1f} TB" in page
    whole = 8 * 10**9 * (64 + 2) / 8
    assert f"{whole / 1e9:.0f} GB, or {1e3 * whole / scale.MEMORY:.0f} ms" in page
    assert f"batches of {scale.TRIPLES:,} triples ({3 * scale.TRIPLES:,} rows)" in page
    assert "exchanges a third of what Adam does" in page
    assert pytest.approx(1 / 3, abs=0.01) == (64 + 2) / (64 + 130)
