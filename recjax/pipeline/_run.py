"""A run from a log to a served model."""

import datetime
import json
import resource
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recjax.artifact import Artifact, CTRArtifact, load
from recjax.errors import InputError
from recjax.pipeline import config as configs
from recjax.pipeline import source as sources
from recjax.pipeline.config import Config
from recjax.pipeline.folder import write_text
from recjax.pipeline.job import Job, Listener
from recjax.pipeline.stages import Stages
from recjax.provenance import device, versions
from recjax.report import STAGES, write_report
from recjax.summary import paired_difference
from recjax.train import Precision

__all__ = ["Config", "Listener", "finished", "run"]

RESULTS = "results.jsonl"


def finished(folder: Path) -> bool:
    """Whether a run came to its end."""
    return (folder / RESULTS).exists()


def run(config: Config, folder: str | Path, listener: Listener, *, resume: bool = False) -> Artifact | CTRArtifact:
    """A log in, a served model out: ranked lists, or with task ctr click probabilities.

    Args:
      config: what to do.
      folder: where: ``config.json``, ``results.jsonl``, ``report.html``, ``stages/`` with the weights of every row of
        the table, and ``artifact/``; where that is trained once more on all rows, ``evaluated/`` is the measured one.
      listener: hears how it goes on.
      resume: go on with the run that ``folder`` holds; ``config`` must be its own.

    Returns:
      The deployed model.

    Raises:
      InputError: for everything that the files or the options get wrong.
    """
    folder = Path(folder)
    config.check()
    source = sources.load(config)
    stages = Stages(Job(config, source, folder, listener))  # refuses what can't be before anything is written
    if resume:
        _, about = configs.read(folder / "config.json")
        if about.get("fingerprint") != source.fingerprint:
            raise InputError(
                f"{config.data or config.name}: expected the log that this run began with, got another one"
            )
    else:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                resume_it = f"--resume {configs.typed_path(folder)}"
                raise InputError(f"option --out: expected a new folder or {resume_it}, got {folder}, which is in use")
            configs.write(config, folder / "config.json", fingerprint=source.fingerprint, versions=versions())
        except OSError as error:
            reason = error.strerror
            raise InputError(f"option --out: expected a folder to write to, got {folder} ({reason})") from None
    task = stages.task
    for line in (*task.about(), *stages.teachers.about()):
        listener.say(line)
    stages.go()
    rows = _results(stages)
    best = max(range(config.seeds), key=lambda seed: rows["packed"][f"valid_{task.metric}_by_seed"][seed])
    (student,) = stages.notes["packed"]["specs"]
    about: dict[str, Any] = {
        "data": {"name": config.name, "split": source.rule, "fingerprint": source.fingerprint, **task.sizes()},
        "metrics": {
            metric: rows["packed"][f"{metric}_by_seed"][best] for metric in (*task.metrics, f"valid_{task.metric}")
        },
        "seed": best,
        "family": stages.notes["distilled"]["student"][0],
        "hyperparameters": {**rows["distilled"]["hyperparameters"], **student[1], **stages.compression()},
        "stages": [
            {"stage": name, task.metric: row[task.metric], "bytes": row["bytes"], "ms": row[task.milliseconds]}
            for name, row in rows.items()
        ],
        "versions": versions(),
    }
    measured = folder / ("evaluated" if config.refit else "artifact")
    stages.save_artifact(measured, best, {**about, "trained_on": "the train part; the metrics are its own"})
    if config.refit:
        said = "all rows; the metrics are those of the artifact in evaluated/, which learned from the train part alone"
        stages.refit().save_artifact(folder / "artifact", 0, {**about, "seed": 0, "trained_on": said})
    summary = _summary(stages, rows)
    lines = [*rows.values(), *_details(stages), {"summary": summary}]
    write_report(lines, folder / "report.html")
    write_text(folder / RESULTS, "".join(json.dumps(line) + "\n" for line in lines))
    for name in ("checkpoints", "refit"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return load(folder / "artifact")


def _results(stages: Stages) -> dict[str, dict[str, Any]]:
    return {name: stages.notes[name]["row"] for name in STAGES if name in stages.notes}


def _details(stages: Stages) -> list[dict[str, Any]]:
    """Rows of grid members and of learning curves."""
    notes = [stages.notes[name] for name in STAGES if name in stages.notes]
    members = [member for note in notes for member in note.get("members", [])]
    return members + [note["curve"] for note in notes if "curve" in note]


def _summary(stages: Stages, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    config = stages.job.config
    metric = stages.task.metric
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {
        "name": config.name,
        "task": config.task,
        "command": configs.command(config),
        "data": config.data or config.train or ("synthetic log" if config.synthetic else "MovieLens-100K"),
        "split": stages.job.source.rule,
        **stages.task.sizes(),
        "device": device(),
        "precision": Precision()._asdict(),
        "versions": versions(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": sum(row["seconds"] for row in rows.values()),
        "stage_seconds": {name: row["seconds"] for name, row in rows.items()},
        "peak_memory_mb": round(memory),
        "comparisons": _comparisons(stages),
        "compression": rows["teacher"]["bytes"] / rows["packed"]["bytes"],
        "compression_of_student": rows["student_alone"]["bytes"] / rows["packed"]["bytes"],
        "quality_kept": rows["packed"][metric] / max(rows["teacher"][metric], 1e-12),
        "teacher_beats_alone_on_validation": rows["teacher"][f"valid_{metric}"]
        > rows["student_alone"][f"valid_{metric}"],
    }


COMPARED = (
    ("distilled", "student_alone"),
    ("packed", "student_alone"),
    ("distilled", "teacher"),
    ("packed", "teacher"),
)


def _comparisons(stages: Stages) -> list[dict[str, Any]]:
    """Paired differences of the test NDCG over users, or log loss over rows, with a bootstrap interval."""
    found = []
    for of, to in COMPARED:
        difference = paired_difference(stages.users(of), stages.users(to))
        found.append({"of": of, "to": to, "metric": stages.task.paired, **difference._asdict()})
    return found
