"""The whole road on a small log: what a run leaves behind, that it can be killed, and every way in.

One full run is shared by most tests; the others are as small as they can be.
"""

import dataclasses
import gzip
import itertools
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from references.params import read_params, read_texts
from run_cases import GRIDS, SETTINGS, SMALL, Recorder, make_log, make_rows, write_log

from recjax import artifact, checkpoint, grid, pipeline
from recjax.cli import main
from recjax.errors import InputError
from recjax.families import objectives
from recjax.pipeline import config as configs
from recjax.pipeline import source, stages
from recjax.pipeline.config import Config
from recjax.pipeline.job import Job
from recjax.pipeline.stages import Stages

STAGES = ["popularity", "teacher", "student_alone", "distilled", "pruned", "quantized", "packed"]


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory) -> Iterator[None]:
    """Runs of one shape share their programs: most of a run this small is compiling."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str, int, int]]:
    return make_rows()


@pytest.fixture(scope="module")
def log(rows, tmp_path_factory) -> str:
    return make_log(rows, tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def config(log) -> Config:
    return dataclasses.replace(SMALL, data=log)


class Run:
    """What a finished run left in its folder."""

    def __init__(self, folder, heard):
        self.folder, self.heard, self.model = folder, heard, artifact.load(folder / "artifact")
        self.lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        self.stages = {line["stage"]: line for line in self.lines if "stage" in line}
        self.members = [line for line in self.lines if "member" in line]
        self.curves = {line["curve"]: line for line in self.lines if "curve" in line}
        (self.summary,) = [line["summary"] for line in self.lines if "summary" in line]


def run(config, folder, *, resume=False, stop=lambda *_: False) -> Run:
    heard = Recorder(stop)
    pipeline.run(config, folder, heard, resume=resume)
    return Run(folder, heard)


@pytest.fixture(scope="module")
def done(config, tmp_path_factory, compiled_once) -> Run:
    return run(config, tmp_path_factory.mktemp("run") / "shop")


def weights(folder) -> dict[str, bytes]:
    files = [*folder.glob("stages/*/weights-*.safetensors"), folder / "artifact" / "weights.safetensors"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


# -- what a run leaves behind ----------------------------------------------------------------------------------------


def test_a_run_leaves_what_is_promised(done):
    assert sorted(os.listdir(done.folder)) == ["artifact", "config.json", "report.html", "results.jsonl", "stages"]
    assert sorted(os.listdir(done.folder / "artifact")) == [
        "ids.safetensors",
        "model.json",
        "seen.safetensors",
        "weights.safetensors",
    ]
    page = (done.folder / "report.html").read_text()
    assert len(page) > 10_000
    assert "<script src" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert pipeline.finished(done.folder)


def test_stages_come_in_order_with_all_keys(done):
    assert [line["stage"] for line in done.lines if "stage" in line] == STAGES
    assert [stage for event, stage in done.heard.events if event == "begin"] == ["popularity", *stages.ORDER]
    assert [stage for event, stage in done.heard.events if event == "end"] == ["popularity", *stages.ORDER]
    assert {"popularity", *stages.ORDER} == set(STAGES)
    for name, row in done.stages.items():
        seeds = 1 if name in ("popularity", "teacher") else 2
        assert row["seeds"] == list(range(seeds))
        for metric in ("ndcg@10", "recall@10", "valid_ndcg@10"):
            values = row[f"{metric}_by_seed"]
            assert len(values) == seeds
            assert row[metric] == pytest.approx(np.mean(values))
            assert row[f"{metric}_sd"] == (None if seeds == 1 else pytest.approx(np.std(values, ddof=1)))
            assert all(0 <= value <= 1 for value in values)
        assert isinstance(row["parameters"], int)
        assert isinstance(row["bytes"], int)
        assert row["p50_ms"] > 0
        assert row["users_per_second"] > 0
        assert row["seconds"] >= 0
        assert isinstance(row["hyperparameters"], dict)
        assert row["bytes"] == round(np.mean(row["bytes_by_seed"]))
        if name != "packed":  # whose files are those of the artifact
            files = sorted((done.folder / "stages" / name).glob("weights-*"))
            assert row["bytes_by_seed"] == [file.stat().st_size for file in files]


def test_every_line_is_strict_json(done):
    for line in (done.folder / "results.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_the_config_is_everything_needed_to_run_again(done, config):
    read, about = configs.read(done.folder / "config.json")
    assert read == config
    assert about["versions"]["recjax"]
    assert about["fingerprint"] == done.model.card["data"]["fingerprint"]


@pytest.mark.parametrize("name", list(GRIDS))
def test_members_are_seeds_times_settings(done, name):
    members = [member for member in done.members if member["grid"] == name]
    axes = GRIDS[name]
    settings = math.prod(len(values) for values in axes.values())
    assert len(members) == 2 * settings
    assert sorted(member["member"] for member in members) == list(range(2 * settings))
    assert {member["seed"] for member in members} == {0, 1}
    for axis, values in axes.items():
        assert sorted({member[axis] for member in members}) == sorted(values)
    assert all(0 <= member["valid_ndcg@10"] <= 1 for member in members)
    chosen = [member for member in members if member["chosen"]]
    assert sorted(member["seed"] for member in chosen) == [0, 1]
    hyperparameters = done.stages[name]["hyperparameters"]
    assert all(member[axis] == hyperparameters[axis] for member in chosen for axis in axes)


@pytest.mark.parametrize("name", list(GRIDS))
def test_curves_are_of_the_chosen_setting(done, name):
    curve = done.curves[name]
    assert len(curve["step"]) == len(curve["loss"]) == len(curve["valid_ndcg@10"]) > 0
    assert curve["step"] == sorted(curve["step"])
    axes = GRIDS[name]
    assert {axis: curve["hyperparameters"][axis] for axis in axes} == {
        axis: done.stages[name]["hyperparameters"][axis] for axis in axes
    }
    at = curve["step"].index(done.stages[name]["hyperparameters"]["steps"])
    chosen = [m["valid_ndcg@10"] for m in done.members if m["grid"] == name and m["chosen"]]
    assert curve["valid_ndcg@10"][at] == pytest.approx(np.mean(chosen), abs=1e-6)


@pytest.mark.parametrize("name", ["student_alone", "distilled"])
def test_the_best_setting_on_validation_is_chosen(done, name):
    members = [member for member in done.members if member["grid"] == name]
    means: dict[tuple, list[float]] = {}
    for member in members:
        means.setdefault(tuple(member[axis] for axis in GRIDS[name]), []).append(member["valid_ndcg@10"])
    best = max(means, key=lambda setting: np.mean(means[setting]))
    assert tuple(done.stages[name]["hyperparameters"][axis] for axis in GRIDS[name]) == best


def test_bytes_shrink_along_the_road(done):
    size = {name: done.stages[name]["bytes"] for name in STAGES}
    assert size["student_alone"] == size["distilled"] > size["pruned"] >= size["quantized"] > size["packed"]
    assert done.summary["compression"] == pytest.approx(size["teacher"] / size["packed"])
    assert done.summary["compression_of_student"] == pytest.approx(size["student_alone"] / size["packed"])


@pytest.mark.parametrize("name", ["pruned", "quantized", "packed"])
def test_pruned_tables_are_as_sparse_as_is_said(done, name):
    sparsity = done.stages["pruned"]["hyperparameters"]["sparsity"]
    for seed in range(2):
        tables = read_params(done.folder / "stages" / name / f"weights-{seed}.safetensors")["tables"]
        for table in ("user", "item"):
            assert np.count_nonzero(tables[table]) <= max(1, round(tables[table].size * (1 - sparsity)))
    assert done.stages["packed"]["hyperparameters"]["sparsity"] == sparsity


def test_quantized_and_packed_agree(done):
    """The vectors are the same floats; the bias is float16 in one, which may turn a near tie around."""
    before, after = (done.stages[name] for name in ("quantized", "packed"))
    assert after["valid_ndcg@10_by_seed"] == pytest.approx(before["valid_ndcg@10_by_seed"], abs=0.01)
    assert after["ndcg@10_by_seed"] == pytest.approx(before["ndcg@10_by_seed"], abs=0.01)
    bits = done.stages["quantized"]["hyperparameters"]["bits"]
    assert after["hyperparameters"]["bits"] == bits
    for seed in range(2):
        tables = [
            read_params(done.folder / "stages" / name / f"weights-{seed}.safetensors")["tables"]
            for name in ("quantized", "packed")
        ]
        for table in ("user", "item"):
            assert tables[0][table].tobytes() == tables[1][table].tobytes()
            assert len(np.unique(tables[0][table][0])) <= 2**bits - 1


def test_the_summary_counts_what_every_real_log_has(done, rows):
    counts = done.summary["counts"]
    assert counts["rows_read"] == len(rows) + 6
    assert counts["duplicates_collapsed"] == 5
    assert done.summary["precision"] == {"compute": "float32", "matmul": None}
    assert done.summary["users"] == 61
    assert done.summary["interactions"] == len(rows) + 1
    assert counts["train_rows"] + counts["valid_rows"] + counts["test_rows"] == len(rows) + 1
    assert counts["users_without_test"] >= 1
    assert set(done.summary["stage_seconds"]) == set(STAGES)


def test_differences_are_paired_over_the_evaluated_users(done):
    """The mean is that of the stage table, and the interval nearly the normal one."""
    users = done.summary["counts"]["users_evaluated_in_test"]
    pairs = [(row["of"], row["to"]) for row in done.summary["comparisons"]]
    assert pairs == list(itertools.product(("distilled", "packed"), ("student_alone",))) + list(
        itertools.product(("distilled", "packed"), ("teacher",))
    )
    for row in done.summary["comparisons"]:
        of, to = (done.stages[row[side]]["ndcg@10"] for side in ("of", "to"))
        assert (row["metric"], row["users"]) == ("ndcg@10", users)
        assert row["difference"] == pytest.approx(of - to, abs=1e-6)
        files = [np.load(done.folder / "stages" / row[side] / "users.npy").mean(axis=0) for side in ("of", "to")]
        error = float(np.subtract(*files).std(ddof=1)) / users**0.5
        assert [row["low"], row["high"]] == pytest.approx(
            [row["difference"] - 1.96 * error, row["difference"] + 1.96 * error], abs=0.5 * error
        )
    page = " ".join((done.folder / "report.html").read_text().split())
    assert page.index(f"{users} users evaluated") < page.index("<h1>")


def test_the_packed_row_is_what_the_files_answer(done, rows):
    """NDCG and recall again, in plain Python, from the log and the artifact's files alone."""
    folder = done.folder / "artifact"
    vocabulary = {name: read_texts(folder / "ids.safetensors", name) for name in ("users", "items")}
    tables = read_params(folder / "weights.safetensors")
    user, item, bias = (tables[name].astype(np.float64) for name in ("user", "item", "item_bias"))
    first: dict[tuple[str, str], int] = {}
    for u, i, _, t in [*rows, ("once", rows[0][1], 3, rows[0][3])]:
        first[u, i] = min(t, first.get((u, i), t))
    ordered = sorted(first.values())
    cuts = [ordered[len(ordered) - round(len(ordered) * share) - 1] for share in (0.2, 0.1)]
    parts: list[dict[str, set[str]]] = [{}, {}, {}]
    for (u, i), t in first.items():
        parts[sum(t > cut for cut in cuts)].setdefault(u, set()).add(i)
    train, valid, test = parts
    popularity = Counter(i for items in train.values() for i in items)
    line, head = 0, set()
    for i in sorted(vocabulary["items"], key=lambda i: (-popularity[i], vocabulary["items"].index(i))):
        if line < popularity.total() / 2:  # begins in the first half of all rows
            head.add(i)
        line += popularity[i]
    card = json.loads((folder / "model.json").read_text())
    assert card["known_users"] == len(train)
    for truth, excluded, metric in ((test, (train, valid), "ndcg@10"), (valid, (train,), "valid_ndcg@10")):
        ndcg, recall, tail = [], [], []
        for u in sorted(set(truth) & set(train)):
            had = set().union(*(part.get(u, set()) for part in excluded))
            scores = item @ user[vocabulary["users"].index(u)] + bias[:, 0]
            ranking = sorted(range(len(scores)), key=lambda i, scores=scores: -scores[i])
            ranking = [vocabulary["items"][i] for i in ranking]
            top = [raw for raw in ranking if raw not in had][:10]
            wanted = truth[u] - had
            gain = sum(1 / math.log2(rank + 2) for rank, raw in enumerate(top) if raw in wanted)
            ideal = sum(1 / math.log2(rank + 2) for rank in range(min(10, len(wanted))))
            ndcg.append(gain / ideal)
            recall.append(len(wanted & set(top)) / len(wanted))
            if wanted - head:
                tail.append(len((wanted - head) & set(top)) / len(wanted - head))
        row = done.stages["packed"]
        assert row[f"{metric}_by_seed"][card["seed"]] == pytest.approx(np.mean(ndcg), abs=1e-6)
        assert card["metrics"][metric] == pytest.approx(np.mean(ndcg), abs=1e-6)
        if metric == "ndcg@10":
            assert row["recall@10_by_seed"][card["seed"]] == pytest.approx(np.mean(recall), abs=1e-6)
            assert row["tail_recall@10_by_seed"][card["seed"]] == pytest.approx(np.mean(tail), abs=1e-6)


def test_the_artifact_answers_and_leaves_out_the_whole_history(done, rows):
    model = artifact.load(done.folder / "artifact")
    raw = model.user_ids[0]
    had = {i for u, i, *_ in rows if u == raw}
    found = model.recommend(raw, k=len(model.item_ids))
    assert {item.item for item in found} == set(model.item_ids) - had
    assert model.known(raw)
    assert not model.known("nobody")
    assert model.card["bytes"] == (done.folder / "artifact" / "weights.safetensors").stat().st_size
    best = np.argmax(done.stages["packed"]["valid_ndcg@10_by_seed"])
    assert model.card["seed"] == best
    assert model.card["bytes"] == done.stages["packed"]["bytes_by_seed"][best]


def test_the_chosen_student_is_trained_once_more_on_all_rows(done, config):
    """Every user is known then, and the figures of the run stay as they are."""
    finished = Stages(Job(config, source.load(config), done.folder, Recorder()))
    finished.go()
    again = finished.refit()
    card = again.save_artifact(done.folder.parent / "refit", 0, {"trained_on": "all rows"})
    model = artifact.load(done.folder.parent / "refit")
    assert len(finished.dataset.training_rows) < len(again.dataset.training_rows) == len(again.dataset.log.items)
    assert card["known_users"] == len(model.user_ids)
    assert [model.known(user) for user in model.user_ids] == [True] * len(model.user_ids)
    packed, own = finished.notes["packed"], again.notes["packed"]
    assert own["hyperparameters"] == packed["hyperparameters"]
    assert own["specs"] == packed["specs"]
    assert not [name for name in own["row"] if name.startswith(("ndcg", "valid", "recall"))]
    user = model.user_ids[0]
    assert {item.item for item in model.recommend(user, k=len(model.item_ids))} == {
        item.item for item in done.model.recommend(user, k=len(model.item_ids))
    }


# -- killed and resumed ----------------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_to_the_same_weights(done, config, tmp_path, monkeypatch):
    """Stopped inside the training of one stage, then before another, then let go: bitwise the same."""
    monkeypatch.setattr(grid._fit, "CHECKPOINT_SHARE", np.inf)
    folder, restored = tmp_path / "run", []
    restore = checkpoint.restore

    def watched(manager, like):
        found = restore(manager, like)
        if "curves" in like:
            restored.append(found is not None)
        return found

    monkeypatch.setattr(checkpoint, "restore", watched)
    with pytest.raises(KeyboardInterrupt):
        run(config, folder, stop=lambda *heard: heard == ("advance", "distilled", 2))
    assert not pipeline.finished(folder)
    assert not (folder / "artifact").exists()
    assert sorted(path.name for path in (folder / "stages").iterdir()) == ["popularity", "teacher"]
    with pytest.raises(
        InputError, match=r"option --out: expected a new folder or --resume .*, got .*, which is in use"
    ):
        run(config, folder)
    assert restored == [False]  # the distilled student
    with pytest.raises(KeyboardInterrupt):
        run(config, folder, resume=True, stop=lambda *heard: heard == ("begin", "quantized", 1))
    assert restored == [False, True, False, False]  # the distilled student, the one alone, the pruned one
    resumed = run(config, folder, resume=True)
    assert [stage for event, stage in resumed.heard.events if event == "begin"] == ["quantized", "packed"]
    assert weights(folder) == weights(done.folder)
    for name, row in resumed.stages.items():
        for metric in ("ndcg@10_by_seed", "valid_ndcg@10_by_seed", "bytes", "hyperparameters"):
            assert row[metric] == done.stages[name][metric]
    assert resumed.members == done.members


def test_a_resumed_run_must_have_its_own_log(done, config, rows, tmp_path):
    content = (done.folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(content)
    changed = dataclasses.replace(config, data=write_log(tmp_path / "shop.csv", rows[:-1]))
    with pytest.raises(InputError, match=r"shop.csv: expected the log that this run began with, got another one"):
        pipeline.run(changed, tmp_path, Recorder(), resume=True)


def test_a_damaged_stage_is_named(done, config, tmp_path):
    (tmp_path / "config.json").write_text((done.folder / "config.json").read_text())
    stage = tmp_path / "stages" / "popularity"
    for content in ("", "{}", "[]", '{"sizes": [0], "notes": {"row": {"stage": "popularity"}}}', "\0"):
        stage.mkdir(parents=True, exist_ok=True)
        (stage / "stage.json").write_text(content)
        with pytest.raises(InputError, match="popularity: expected a stage of recjax run, got damaged files") as caught:
            pipeline.run(config, tmp_path, Recorder(), resume=True)
        assert len(str(caught.value).splitlines()) == 1


MAIN = "from recjax.cli import main; raise SystemExit(main())"
OPTIONS = "--teacher ease --student mf --no-refit --seeds 2 --epochs 40 --dim 8 --batch-size 8 --regularization 5 20"
TYPED = [
    *shlex.split(OPTIONS),
    *(word for name, values in SETTINGS.items() for word in ("--" + name.replace("_", "-"), *map(str, values))),
]


@pytest.mark.slow  # about five minutes in all on two busy cores
@pytest.mark.parametrize("line", ["Distilled ...", "Distilled: ", "+ pruned: NDCG", "Packed artifact ..."])
def test_a_killed_process_goes_on_to_the_same_weights(log, tmp_path_factory, line, monkeypatch):
    """SIGKILL when a line of the output appears: at the edge of stages and inside one."""
    folder = tmp_path_factory.getbasetemp() / "uninterrupted"
    command = [sys.executable, "-c", MAIN, "run"]
    if not folder.exists():
        subprocess.run([*command, "--data", log, *TYPED, "--out", folder], check=True, capture_output=True)
    killed = tmp_path_factory.mktemp("killed") / "run"
    impatient = MAIN.replace("; ", "; from recjax import grid; grid._fit.CHECKPOINT_SHARE = 1e9; ", 1)
    with subprocess.Popen(
        [sys.executable, "-u", "-c", impatient, "run", "--data", log, *TYPED, "--out", killed],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert any(line in printed for printed in process.stdout)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    assert not (killed / "results.jsonl").exists()
    subprocess.run([*command, "--resume", killed], check=True, capture_output=True)
    assert weights(killed) == weights(folder)
    again = subprocess.run([*command, "--resume", killed], check=True, capture_output=True, text=True)
    assert "is finished; nothing to do" in again.stdout


# -- other roads -----------------------------------------------------------------------------------------------------


@pytest.mark.slow  # half a minute
def test_the_other_roads_in_one_run(rows, tmp_path, monkeypatch, capsys):
    """One line a user, as gowalla has it; a trained teacher; sampled lessons; a two-tower student; a budget."""
    monkeypatch.setattr(objectives, "WHOLE_CELLS", 0)
    place = tmp_path / "a [/b] :run:"
    random = np.random.default_rng(0)
    histories: dict[str, list[str]] = {}
    for u, i, *_ in rows:
        histories.setdefault(u, []).append(i)
    with open(tmp_path / "train.txt", "w") as train, gzip.open(tmp_path / "test.txt.gz", "wt") as test:
        for u, items in histories.items():
            items = random.permutation(items).tolist()
            print(u, *items[3:], file=train)
            print(u, *items[:3], file=test)
    for name, ids in (("item", {row[1] for row in rows}), ("user", histories)):
        lines = [f"{raw},{raw} [the (/) {name}],{'abc'[n % 3]},{1990 + n}" for n, raw in enumerate(sorted(ids))]
        (tmp_path / f"{name}s.csv").write_text("\n".join([f"{name}_id,title,group,year", *lines]))
    options = {
        **{"train": tmp_path / "train.txt", "test": tmp_path / "test.txt.gz", "out": place},
        **{"item-table": tmp_path / "items.csv", "user-table": tmp_path / "users.csv"},
        **{
            "teacher": "mf",
            "teacher-dim": 8,
            "teacher-members": 2,
            "student": "two-tower",
            "budget": "1.7KB",
            "seeds": 1,
            "epochs": 2,
        },
        **{"batch-size": 16, "learning-rate": 0.02, "weight-decay": 0.01, "temperature": 1, "alpha": 0.5},
        **{"sparsity": 0.5, "bits": 4},
    }
    words = (word for name, value in options.items() for word in (f"--{name}", str(value)))
    code = main(["run", *words, "--no-refit"])
    printed = capsys.readouterr()
    assert code == 0
    assert printed.err == ""
    assert f"recjax recommend {shlex.quote(str(place / 'artifact'))} --user ID --k 10" in printed.out
    run = Run(place, None)
    assert list(run.stages) == STAGES
    assert run.stages["teacher"]["hyperparameters"]["model"] == "2 x mf"
    assert run.summary["split"] == "as given by the files"
    assert run.summary["counts"]["valid_rows_drawn_from_train"] > 0
    assert max(run.stages["packed"]["bytes_by_seed"]) <= 1700
    assert run.model.card["bytes"] <= 1700
    assert {m["grid"] for m in run.members} == {"teacher_mf", "student_alone", "distilled", "pruned", "quantized"}
    assert all(row["ndcg@10_sd"] is None for row in run.stages.values())
    assert (np.array(run.stages["packed"]["ndcg@10_by_seed"]) > 0).all()

    user = next(iter(histories))
    assert main(["recommend", str(place / "artifact"), "--user", user, "--k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[-3:]] == [item.item for item in run.model.recommend(user, k=3)]
    assert all(f"{line.split()[1]} [the (/) item]" in line for line in lines[-3:])
    assert main(["run", "--resume", str(place)]) == 0
    assert "is finished; nothing to do" in capsys.readouterr().out
