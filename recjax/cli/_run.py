"""``recjax run``: from a log to a served model, with progress on the terminal."""

import contextlib
import dataclasses
import io
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.progress
import rich.text
import tyro

from recjax import report
from recjax.cli._values import missing_value
from recjax.errors import InputError
from recjax.pipeline.config import Config


@dataclasses.dataclass(frozen=True)
class Run(Config):
    """From a log to a served model: teacher, distilled, pruned and quantized student, report, artifact.

    Attributes:
      out: folder of the run; runs/NAME if missing, with a number where that is taken.
      resume: go on with the run in this folder, with its own settings.
      profile: folder for a trace of what takes how long, which TensorBoard and Perfetto open.
    """

    out: Path | None = None
    resume: Path | None = None
    profile: Path | None = None


class Screen:
    """A :class:`recjax.pipeline.Listener`: bars on a terminal, plain lines elsewhere."""

    def __init__(self, console: rich.console.Console):
        self.console = console
        self.began = time.monotonic()
        self.bars: rich.progress.Progress | None = None
        self.tasks: dict[str, rich.progress.TaskID] = {}
        if console.is_terminal:
            self.bars = rich.progress.Progress(
                rich.progress.TextColumn("{task.description:<20}", markup=False),
                rich.progress.BarColumn(),
                rich.progress.TimeElapsedColumn(),
                rich.progress.TextColumn("{task.fields[detail]}", markup=False),
                console=console,
            )

    def __enter__(self) -> "Screen":
        if self.bars is not None:
            self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bars is not None:
            self.bars.stop()

    def begin(self, stage: str) -> None:
        """A stage starts."""
        if self.bars is None:
            self._line(f"{report.label(stage)} ...")
        else:
            self.tasks[stage] = self.bars.add_task(report.label(stage), total=None, detail="")

    def advance(self, stage: str, done: int, total: int, detail: str) -> None:
        """A stage has done so much; without bars, a tenth is worth a line."""
        if self.bars is not None:
            self.bars.update(self.tasks[stage], completed=done, total=total, detail=detail)
        elif done * 10 // total > (done - 1) * 10 // total:
            self._line(f"  {report.label(stage)}: {done} of {total}, {detail}")

    def end(self, stage: str, row: Mapping[str, Any]) -> None:
        """A stage is done, now or in an earlier session of this run."""
        metrics = [f"{name.upper()} {row[name]:.4f}, " for name in row if re.fullmatch(r"ndcg@\d+|auc", name)]
        detail = f"{''.join(metrics)}{row['bytes']:,} bytes"
        if self.bars is None:
            self._line(f"{report.label(stage)}: {detail}")
            return
        task = self.tasks.get(stage)
        if task is None:
            task = self.bars.add_task(report.label(stage), total=1, detail="")
        total = self.bars.tasks[task].total or 1
        self.bars.update(task, completed=total, total=total, detail=detail)

    def say(self, text: str) -> None:
        """A line for the reader, as it is: ``[/b]`` and ``:key:`` in a path are no markup."""
        self._print(rich.text.Text(text))

    def _line(self, text: str) -> None:
        self._print(rich.text.Text.assemble((f"{time.monotonic() - self.began:6.1f} s", "dim"), f"  {text}"))

    def _print(self, text: rich.text.Text) -> None:
        self.console.print(text, soft_wrap=True)


def parse(arguments: Sequence[str]) -> Run:
    """The command line as a record. What is wrong with it becomes one line, not the parser's box."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(Run, args=arguments, prog="recjax run")
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        text = re.sub(r"\x1b\[[0-9;]*m", "", errors.getvalue())
    if missing := re.search(r"Missing value for argument '(--[a-z-]+)'", text):
        raise missing_value(missing[1])
    lines = [re.sub("[─│╰╯]", " ", line).strip() for line in text.splitlines() if "╭" not in line]
    message = " ".join(line for line in lines if line)
    raise InputError(message or "can't read the command line, see recjax run --help")


def run(arguments: Sequence[str]) -> int:
    """Runs a config, or goes on with a run; returns the exit code."""
    command = parse(arguments)
    from recjax import data, machine, pipeline
    from recjax.pipeline import config as configs

    with contextlib.suppress(RuntimeError):  # called from a process in which JAX runs already: as it is
        machine.one_device_per_core()
        machine.enable_compilation_cache()
    fields = {field.name: getattr(command, field.name) for field in dataclasses.fields(Config)}
    config, folder = Config(**fields), command.out
    if command.resume is not None:
        for name in ("out", *fields):
            if getattr(command, name) != getattr(Run(), name):
                own = "the settings of the run that --resume names"
                raise InputError(f"option {configs.option(name)}: expected {own}, got {getattr(command, name)} too")
        folder = command.resume
        config, _ = configs.read(folder / "config.json")
        if pipeline.finished(folder):
            print(f"{folder} is finished; nothing to do. Its report: {folder / 'report.html'}")
            return 0
    config.check()
    folder = folder or _free(Path("runs") / config.name)
    # Into a file or a pipe, lines are as long as they are.
    console = rich.console.Console(width=None if sys.stdout.isatty() else 10_000)
    screen = Screen(console)
    if config.name == "ml-100k" and config.data is None and config.train is None:
        screen.say(f"{data.MOVIELENS_TERMS}\n")
    again = f"; go on with recjax run --resume {configs.typed_path(folder)}"
    try:
        with screen, _profiled(command.profile):
            pipeline.run(config, folder, screen, resume=command.resume is not None)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(*([again] if (folder / "config.json").exists() else [])) from None
    except OSError as error:  # a disk that is full, a folder that has gone
        begun = again if (folder / "config.json").exists() else ""
        raise InputError(f"{error.filename or folder}: {error.strerror}{begun}") from None
    rows = report.read_rows(folder / pipeline.RESULTS)
    few = report.unresolved(rows)
    if few is not None:
        screen.say(_unresolved(few))
    console.print(report.stage_table(rows))
    for line in _in_words(rows):
        screen.say(line)
    screen.say(f"report     {folder / 'report.html'}")
    path = configs.typed_path(folder / "artifact")
    if config.task == "ctr":
        screen.say(f"score      recjax score {path} rows.csv --out scores.csv")
    else:
        screen.say(f"recommend  recjax recommend {path} --user ID --k 10")
    return 0


def _profiled(folder: Path | None) -> contextlib.AbstractContextManager[Any]:
    """Writes a trace of what is computed meanwhile. Calls in Python are left out: there are millions of them."""
    import jax

    if folder is None:
        return contextlib.nullcontext()
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    return jax.profiler.trace(folder, profiler_options=options)


def _unresolved(few: Mapping[str, Any]) -> str:
    """What too few evaluated users, or rows, don't resolve, said before any figure."""
    width = few["half_width"]
    below = "small differences" if width is None else f"differences below about {width:.4f}"
    name = report.metric(few["metric"] or "ndcg@10")
    return f"{few['users']} evaluated {few['unit']}s: {below} in {name} are not resolved"


def _in_words(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the table comes to."""
    summary = next(row["summary"] for row in rows if "summary" in row)
    stages, ctr = {row["stage"]: row for row in rows if "stage" in row}, summary.get("task") == "ctr"
    kept = f"{summary['quality_kept']:.1%} of the teacher's NDCG@10"
    if ctr:
        kept = f"AUC {stages['packed']['auc']:.4f}, the teacher's {stages['teacher']['auc']:.4f}"
    yield (
        f"packed: {summary['compression']:.0f} times smaller than the teacher, "
        f"{summary['compression_of_student']:.1f} times smaller than the student in float32; {kept}"
    )
    for row in summary["comparisons"]:
        of, to = (row[side].replace("_", " ") for side in ("of", "to"))
        interval = "" if row["low"] is None else f" [{row['low']:+.4f}, {row['high']:+.4f}]"
        count = f"{row['users']:,} {'rows, lower is better' if ctr else 'users'}"
        yield f"{of} minus {to}: {report.metric(row['metric'])} {row['difference']:+.4f}{interval}, {count}"
    if not summary["teacher_beats_alone_on_validation"]:
        yield "the teacher is not above the student alone on validation: distillation has little to give here"


def _free(folder: Path) -> Path:
    """The folder, or the first one with a number behind it that isn't there."""
    number, free = 2, folder
    while free.exists():
        free, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return free
