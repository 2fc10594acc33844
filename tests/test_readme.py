"""The README's figures are those of the committed JSON, and its example runs."""

import json
import pathlib
import re

import numpy as np
import pytest

from experiments import baselines_ctr, baselines_sequential, baselines_topn, quickstart

ROOT = pathlib.Path(__file__).parent.parent
README, RESULTS = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/results.md"))


@pytest.fixture(scope="module")
def figures():
    return json.loads((ROOT / "experiments/results/quickstart.json").read_text(encoding="utf-8"))


def test_the_table_is_the_one_of_the_json(figures):
    assert quickstart.table(figures) in README
    assert not figures["commit"].endswith("-dirty")


def test_a_newcomer_can_read_it_in_one_sitting():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("stage", ["distilled", "packed"])
def test_the_paired_differences_are_those_of_the_rows(figures, stage):
    rows = {row["stage"]: row for row in figures["rows"] if "stage" in row}
    pairs = zip(rows[stage]["ndcg@10_by_seed"], rows["student_alone"]["ndcg@10_by_seed"], strict=True)
    assert f"| {stage} | " + " | ".join(f"{ours - its:+.4f}" for ours, its in pairs) + " |" in README


def test_the_claims_in_words_are_those_of_the_rows(figures):
    rows = {row["stage"]: row for row in figures["rows"] if "stage" in row}
    packed = rows["packed"]
    assert f"{rows['teacher']['bytes'] / packed['bytes']:.0f} times smaller than the teacher" in README
    assert f"{rows['student_alone']['bytes'] / packed['bytes']:.0f} times smaller than the same student" in README
    assert f"at {packed['ndcg@10'] / rows['teacher']['ndcg@10']:.0%} of its NDCG@10" in README
    assert f"{figures['seconds']:.0f} s wall and {figures['peak_memory_bytes'] / 1e9:.1f} GB" in README


def test_what_was_measured_beside_pytorch_is_in_the_results():
    def ratios(name):
        rows = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
        return {(row["case"], row["peer"], row.get("members")): row["ratio"] for row in rows}

    (grid,) = (x for (_, peer, members), x in ratios("grid_mlp").items() if (peer, members) == ("PyTorch loop", 64))
    least, most = sorted(ratios("distill_step").values())
    told = " ".join(RESULTS.split())
    assert f"a grid of small students is {grid:.0f} times as fast as a PyTorch loop" in told
    assert f"over a whole catalog only {least:.1f} to {most:.1f} times" in told
    alone = [x for (_, _, members), x in ratios("epoch").items() if members == 1]
    assert f"an epoch of one DNN, MF or SASRec {min(alone):.1f} to {max(alone):.1f} times" in told
    nets, factors, sequences = (x for (_, _, members), x in ratios("recbole").items() if members == 1)
    assert f"RecBole's: {nets:.2f}, {factors:.1f} and, as it makes" in told
    assert f"of a history, {sequences:.0f} times" in told
    single = ratios("losses").values()
    assert (round(min(single), 1), round(max(single))) == (0.2, 2)
    assert "single losses from a fifth to twice as fast" in told


def test_the_ratio_is_that_of_the_benchmark():
    (row,) = json.loads((ROOT / "benchmarks/results/evaluate.json").read_text(encoding="utf-8"))
    assert f"{row['ratio']:.1f} times as fast as the same in PyTorch" in RESULTS
    assert row["ratio"] == row["theirs"] / row["ours"]
    assert not row["commit"].endswith("-dirty")


def test_what_it_says_of_rows_is_in_the_json():
    record = json.loads((ROOT / "experiments/results/rows_convergence.json").read_text(encoding="utf-8"))
    assert not record["commit"].endswith("-dirty")
    told = " ".join(RESULTS.split())
    of = {(name, line["optimizer"]): line for name, lines in record["figures"].items() for line in lines}
    for optimizer in ("Adam by rows", "dense Adam (optax)"):
        ends = [of[name, optimizer] for name in ("ml-100k", "citeulike")]
        said = " and ".join(f"{end['valid_ndcg@10']:.4f} ± {end['valid_ndcg@10_sd']:.4f}" for end in ends)
        assert said.replace("0.", ".") in told
        assert max(end["largest_gap_to_dense_at_this_rate"] for end in ends) < 1e-4
    lazy = " and ".join(f"{of[name, 'lazy Adam']['valid_ndcg@10']:.4f}" for name in ("ml-100k", "citeulike"))
    assert f"reaches {lazy}".replace("0.", ".") in told
    steps = json.loads((ROOT / "benchmarks/results/rows.json").read_text(encoding="utf-8"))
    (ratio,) = (x["ratio"] for x in steps if x["rows"] == 10**6 and x["peer"].startswith("optax"))
    assert f"{ratio:.0f} times as fast as optax's dense Adam" in told


def test_what_it_says_of_frappe_is_in_the_json():
    record = json.loads((ROOT / "experiments/results/frappe.json").read_text(encoding="utf-8"))
    small, whole = (record["forms"][name] for name in ("int8, 90% of the net zero", "float"))
    sizes = [f"{form['bytes']['mean']:,.0f}" for form in (small, whole)]
    scores = [f"{form['test_auc']['mean']:.4f}".lstrip("0") for form in (small, whole)]
    said = f"takes {sizes[0]} bytes at {scores[0]}, where float32 takes {sizes[1]} at {scores[1]}"
    assert said in " ".join(RESULTS.split())
    assert not record["commit"].endswith("-dirty")


def test_what_it_says_of_clicks_is_in_the_json():
    record = json.loads((ROOT / "experiments/results/baselines_ctr.json").read_text(encoding="utf-8"))
    assert baselines_ctr.table(record) in RESULTS
    assert not record["commit"].endswith("-dirty")
    models = record["models"]
    assert list(models) == list(baselines_ctr.BASELINES)
    assert all(model["within"] for model in models.values())
    assert [name for name, model in models.items() if model["difference"] < 0] == ["FinalMLP"]
    deep = [model["difference"] for model in list(models.values())[2:]]
    told = " ".join(RESULTS.split())
    assert (
        f"they are {record['shift']:+.4f} from the published ones on average, the deep ones {np.mean(deep):+.4f}"
        in told
    )


def test_what_it_says_of_sequences_is_in_the_json():
    record = json.loads((ROOT / "experiments/results/baselines_sequential.json").read_text(encoding="utf-8"))
    assert baselines_sequential.table(record) in RESULTS
    assert not any(model["commit"].endswith("-dirty") for model in record["models"].values())
    models = record["models"]
    assert list(models) == list(baselines_sequential.BASELINES)
    told = " ".join(RESULTS.split())
    one = models["SASRec, one negative"]
    assert all(abs(one["test"][metric]["mean"] / value - 1) < 0.01 for metric, value in one["published"].items())
    assert "With one negative a label, as published, our SASRec is within 1% of its published figures" in told
    assert one["epochs"] == 120
    assert "its rate falls to zero over 120 epochs" in told


def test_what_it_says_of_top_n_is_in_the_json():
    record = json.loads((ROOT / "experiments/results/baselines_topn.json").read_text(encoding="utf-8"))
    assert baselines_topn.table(record) in RESULTS
    rows = {(name, model): row for name, found in record.items() for model, row in found["models"].items()}
    assert not any(row["commit"].endswith("-dirty") for row in rows.values())
    told, of = " ".join(RESULTS.split()), {}
    for place, row in rows.items():
        published = {metric: value for metric, value in (row["published"] or {}).items() if metric != "from"}
        of |= {(*place, metric): row["test"][metric]["mean"] / value for metric, value in published.items()}
    simplex = ("SimpleX, 64-d", "SimpleX, 64-d, 60 epochs", "SimpleX, 64-d, by 16 rows")
    of_gowalla = {("gowalla", model) for model in ("MF by softmax, 64-d", *simplex, "LightGCN by BPR, 64-d")}
    assert {place[:2] for place, ratio in of.items() if ratio < 0.98} == {("citeulike", "MF by BPR, 20-d"), *of_gowalla}
    by_bpr, ours = (of["citeulike", model, "ndcg@10"] for model in ("MF by BPR, 20-d", "MF, 20-d"))
    assert f"{ours:.2f} times what is published for them, and by BPR {by_bpr:.2f} of it".replace(" 0.", " .") in told
    few, graph, many, ease = (
        rows["citeulike-random", model]["test"]["ndcg@20"]["mean"]
        for model in ("MF, 20-d", "LightGCN, 64-d", "MF, 400-d", "EASE")
    )
    assert round(many, 4) == round(ease, 4)
    assert f"LightGCN's 64 keep {graph / many:.0%} of their NDCG@20, and 20 keep {few / many:.0%}" in told
    assert all(of["gowalla", "MF, 64-d", metric] > 1 for metric in ("recall@20", "ndcg@20"))
    assert "On `gowalla` MF is above BARS's tuned BPR in recall and in NDCG" in told
    for model, said in (
        ("MF", "and {:.1%} and {:.1%} are missing to that"),
        ("MF by softmax", "validated better, it is {:.1%} and {:.1%} below theirs"),
    ):
        found = rows["gowalla", f"{model}, 64-d"]["test"]
        below = [1 - found[key]["mean"] / best for key, best in (("recall@20", 0.1837), ("ndcg@20", 0.1493))]
        assert said.format(*below) in told
    items, users = (rows["gowalla", f"{side}-kNN"] for side in ("item", "user"))
    best = [max(value for *_, value in near["validation"]) for near in (items, users)]
    assert "there item-kNN has {:.4f} for NDCG@20 and user-kNN {:.4f}".format(*best) in told
    assert "on test {:.4f} and {:.4f}".format(*(near["test"]["ndcg@20"]["mean"] for near in (items, users))) in told
    assert f"the published one 2,000, and is {of['citeulike', 'LightGCN, 64-d', 'ndcg@10'] - 1:.0%} above it" in told
    short = {
        model: tuple(1 - of["gowalla", f"{model}, 64-d", metric] for metric in ("recall@20", "ndcg@20"))
        for model in ("SimpleX", "LightGCN", "LightGCN by BPR")
    }
    said = "SimpleX is {:.0%} below its published recall and {:.0%} below its published NDCG"
    assert said.format(*short["SimpleX"]) in told
    longer, more = (
        tuple(1 - of["gowalla", model, metric] for metric in ("recall@20", "ndcg@20")) for model in simplex[1:]
    )
    assert "tried after that test, it is {:.1%} and {:.1%} below".format(*longer) in told
    assert "16 rows to 1,000, {:.1%} and {:.1%}".format(*more) in told
    (recall, ndcg), by_softmax = short["LightGCN"], rows["gowalla", "LightGCN, 64-d"]
    assert f"LightGCN is {-recall:.1%} above its published recall and {ndcg:.1%} below its published NDCG" in told
    seeds, minutes = len(by_softmax["test"]["ndcg@20"]["by_seed"]), by_softmax["seconds"] / 60
    assert f"{seeds} seeds in {minutes:.0f} minutes on two cores" in told
    assert f"the L2 penalty, {by_softmax['chosen']['l2']:.2g}: with less" in told
    assert "{:.0%} and {:.0%} below by BPR".format(*short["LightGCN by BPR"]) in told
    by_users, later = (
        rows["citeulike", model]["test"]["ndcg@10"]["mean"] for model in ("user-kNN", baselines_topn.LATER)
    )
    assert f"{later:.4f} for {by_users:.4f}" in told
    peers = json.loads((ROOT / "experiments/results/peers_topn.json").read_text(encoding="utf-8"))["models"]
    of_fifty = (peers[f"{name}-kNN, 50"] for name in ("item", "user"))
    most = max(abs(row["ours"][key] - row["peer"][key]) for row in of_fifty for key in row["ours"])
    assert f"ties make a difference of up to {most:.4f}".replace(" 0.", " .") in told


def test_the_loss_example_runs(capsys):
    (example,) = (code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "losses" in code)
    exec(compile(example, "README.md", "exec"), {})
    losses = np.array(capsys.readouterr().out.strip(" []\n").split(), float)
    p, q = (np.exp(x / 2) / np.exp(x / 2).sum() for x in (np.array([3.0, 1, 0]), np.array([2.0, 1, 0])))
    assert losses.shape == (3,)
    np.testing.assert_allclose(losses[1], 4 * (p * np.log(p / q)).sum(), rtol=1e-5)


@pytest.mark.slow
def test_the_example_of_a_study_runs(capsys):
    (example,) = (code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "Study(" in code)
    assert len(example.splitlines()) <= 25
    scope = {}
    exec(compile(example, "README.md", "exec"), scope)
    result = scope["result"]
    assert result.fitted.valid.shape == (5, 27)
    assert result.fitted.programs == 1
    assert "Hparams(" in capsys.readouterr().out
