"""The benchmarks at toy size, where ours and the peers are compared, and the page that their results make."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import gpu, measure, table
from recjax import data

FIELDS = {"benchmark", "case", "peer", "ours", "theirs", "unit", "ratio", "device", "versions", "commit"}


def test_the_page_is_what_the_results_say():
    assert table.PAGE.read_text(encoding="utf-8") == table.page(), "run python -m benchmarks.table"


def test_a_stale_page_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "PAGE", tmp_path / "README.md")
    assert table.main(["--check"]) == 1
    assert table.main([]) == 0
    assert table.main(["--check"]) == 0
    (tmp_path / "README.md").write_text("old")
    assert table.main(["--check"]) == 1


@pytest.mark.parametrize(("ratio", "verdict"), [(50.0, "50, met"), (49.9, "50, missed")])
def test_a_bar_is_met_or_missed(ratio, verdict):
    row = {"case": "c", "members": 64, "peer": "p", "ours": 1234.5, "theirs": 0.012345, "unit": "s", "ratio": ratio}
    assert table.line(row | {"bar": 50.0}).endswith(f"| {verdict} |")
    assert "| 1,234 s | 0.0123 s |" in table.line(row)


def test_a_ratio_above_1_is_ours_faster(monkeypatch):
    monkeypatch.setattr(measure, "seconds", lambda work: work())
    monkeypatch.setattr(jax, "clear_caches", lambda: None)

    def of(**options):
        return measure.compare("b", "c", lambda: 2.0, lambda: 6.0, peer="p", package="numpy", repeats=3, **options)

    row = of(rows=7, bar=2.0)
    assert (row["ours"], row["theirs"], row["ratio"], row["rows"], row["bar"]) == (2.0, 6.0, 3.0, 7, 2.0)
    assert FIELDS <= row.keys() <= FIELDS | {"spread", "ours_first", "theirs_first", "rows", "bar", "command"}
    rate = of(work=(100, 30), unit="steps/s")
    assert (rate["ours"], rate["theirs"], rate["ratio"]) == (50.0, 5.0, 10.0)
    json.dumps(row)


def test_operations_are_those_of_the_shapes():
    def program(x, y):
        carried, _ = jax.lax.scan(lambda carry, _: (jnp.tanh(carry @ y), None), x, length=5)
        return jax.jit(jnp.einsum, static_argnums=0)("bi,bj->ij", carried, carried)

    jaxpr = jax.make_jaxpr(program)(jnp.ones((3, 4)), jnp.ones((4, 4))).jaxpr
    assert gpu.operations(jaxpr) == 5 * 2 * 3 * 4 * 4 + 2 * 4 * 4 * 3


def test_what_does_not_fit_is_skipped():
    case = gpu.large_tables(gpu.Sizes(), 10**8)
    assert case.needs == 4 * 10**8 * (64 + 130)  # the table, and Adam's moments and steps of its rows
    found = gpu.row(case, {}, memory=16 * 10**9, repeats=1)
    assert found["skipped"] == "needs 77.6 GB, of 16.0 GB"
    assert gpu.line(found).endswith("skipped, needs 77.6 GB, of 16.0 GB")


@pytest.mark.slow  # a program of every model
def test_the_gpu_benchmark_runs_at_toy_size(tmp_path, monkeypatch, capsys):
    path = tmp_path / "gpu.json"
    monkeypatch.setattr(gpu.machine, "one_device_per_core", lambda: None)  # the tests have their devices
    monkeypatch.setattr(sys, "argv", ["benchmarks", "gpu", "--smoke", "--json", str(path)])
    command.main()
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["config"]["mlp"] == [3]
    assert all(rate > 0 for rate in record["rates"].values())
    names = ["grid_mlp", "grid_mf", "rows", "distill_step", "sasrec", "hstu", "top_k", "top_k", "top_k"]
    assert [row["case"] for row in record["rows"]] == names
    assert len(capsys.readouterr().out.splitlines()) == len(names)
    for row in record["rows"]:
        assert row["bandwidth_fraction"] * record["rates"]["copy_bytes_per_second"] == pytest.approx(
            row["bytes"] / row["seconds"]
        )
    net, *_ = record["rows"]
    forward = 2 * 64 * (10 * 32 + 32 * 10)
    products = 2 * 3 * (3 * forward - 2 * 64 * 10 * 32)  # of two steps of three members; no gradient of the inputs
    assert products < net["operations"] < 1.05 * products  # and those of the loss with the teacher's probabilities
    assert net["bytes"] == 2 * 3 * 2 * 4 * (10 * 32 + 32 + 32 * 10 + 10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes", "count"),
    [
        ("grid_mlp", {"sizes": (1, 4), "steps": 5, "repeats": 1}, 6),
        ("grid_mf", {"sizes": (1, 2), "users": 30, "items": 50, "steps": 4, "repeats": 1}, 4),
        (
            "epoch",
            {
                "sizes": (1, 2),
                "frappe": {"features": 40, "hidden": (7, 6), "batch": 16, "steps": 3},
                "citeulike": {"users": 30, "items": 50, "steps": 2},
                "beauty": {"items": 30, "length": 5, "dim": 8, "batch": 4, "steps": 3},
                "repeats": 1,
            },
            6,
        ),
        (
            "recbole",
            {
                "sizes": (1, 2),
                "frappe": {"features": 100, "hidden": (100, 100), "batch": 16, "steps": 10},
                "citeulike": {"users": 300, "items": 500, "steps": 2},
                "beauty": {"items": 2000, "length": 5, "dim": 8, "batch": 128, "steps": 3},
                "repeats": 1,
            },
            6,
        ),
        (
            "products",
            {
                "sizes": (1, 2),
                "frappe": {"features": 40, "hidden": (7, 6), "batch": 16, "steps": 3},
                "beauty": {"items": 30, "length": 5, "dim": 8, "batch": 4, "steps": 3},
                "repeats": 1,
            },
            4,
        ),
        ("engine", {"users": 30, "items": 50, "batch": 4, "steps": 2, "lengths": (2, 3), "repeats": 1}, 2),
        (
            "stream",
            {
                "frappe": {"features": 40, "hidden": (7, 6), "batch": 16, "steps": 8},
                "criteo": {"features": 60, "fields": 5, "batch": 16, "steps": 8},
                "repeats": 1,
            },
            2,
        ),
        ("distill_step", {"users": 20, "items": 60, "batch": 8, "steps": 3, "repeats": 1}, 2),
        ("propagation", {"users": 30, "items": 50, "edges": 200, "members": (1, 2), "repeats": 1}, 4),
        ("losses", {"shape": (8, 50), "members": 6, "repeats": 1}, 15),
        (
            "compress",
            {"size": 20, "settings": 7, "table_rows": 50, "ids": 8, "batches": (1, 3), "width": 16, "repeats": 1},
            15,
        ),
    ],
)
def test_a_benchmark_runs(name, sizes, count, monkeypatch):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    if name in (peers := {"compress": "qwix", "recbole": "recbole"}):
        pytest.importorskip(peers[name], reason=f"{peers[name]} is not installed")
    module = pytest.importorskip(f"benchmarks.{name}")
    monkeypatch.setattr(module, "one_device_per_core", lambda: None, raising=False)  # the tests have their devices
    rows = module.run(**sizes)
    assert len(rows) == count
    for row in rows:
        assert row.keys() >= FIELDS
        assert row["benchmark"] == name
        assert row["ours"] > 0
        assert row["theirs"] > 0


@pytest.mark.slow
def test_three_ways_to_one_quality():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    distill_time = pytest.importorskip("benchmarks.distill_time")
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, (30, 40), (400, 2)), axis=0).astype(np.int32)
    log = data.Interactions(*pairs.T, np.arange(30).astype(str), np.arange(40).astype(str))
    split = data.split_random(log, 0)
    rows = distill_time.run(split, seeds=1, validations=3, batch=8, teacher_dim=5, teacher_epochs=2)
    assert [row["peer"] for row in rows] == ["PyTorch, over users", "over interactions"]
    for row in rows:
        assert row.keys() >= FIELDS
        assert row["ratio"] == pytest.approx(row["theirs"] / row["ours"])
        assert min(row["best_ours"], row["best_theirs"]) > 0
