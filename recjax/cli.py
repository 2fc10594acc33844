"""The ``recjax`` command: run the whole road, ask what came out."""

import contextlib
import dataclasses
import io
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import rich.console
import rich.progress
import rich.table
import rich.text
import tyro

from recjax.errors import InputError
from recjax.pipeline.config import Config

NAMES = {
    "popularity": "popularity baseline",
    "teacher": "teacher",
    "student_alone": "student alone",
    "distilled": "student distilled",
    "pruned": "+ pruned",
    "quantized": "+ quantized",
    "packed": "packed artifact",
}


@dataclasses.dataclass(frozen=True)
class Run(Config):
    """From a log to a served model: teacher, distilled, pruned and quantized student, report, artifact.

    Attributes:
      out: folder of the run; runs/NAME if missing, with a number where that is taken.
      resume: go on with the run in this folder, with its own settings; other options are not looked at.
      profile: folder for a trace of what takes how long, which TensorBoard and Perfetto open.
    """

    out: Path | None = None
    resume: Path | None = None
    profile: Path | None = None


@dataclasses.dataclass(frozen=True)
class Recommend:
    """The best items for one user, from an artifact.

    Attributes:
      artifact: folder of the artifact.
      user: raw id of the user, as the log has it.
      k: how many items.
      include_seen: also items that the user already has.
    """

    artifact: Annotated[Path, tyro.conf.Positional]
    user: str
    k: int = 10
    include_seen: bool = False


class Screen:
    """A :class:`recjax.pipeline.Listener`: bars on a terminal, plain lines elsewhere."""

    def __init__(self, console: rich.console.Console):
        self.console = console
        self.began = time.monotonic()
        self.bars: rich.progress.Progress | None = None
        self.tasks: dict[str, rich.progress.TaskID] = {}
        if console.is_terminal:
            self.bars = rich.progress.Progress(
                rich.progress.TextColumn("{task.description:<20}"),
                rich.progress.BarColumn(),
                rich.progress.TimeElapsedColumn(),
                rich.progress.TextColumn("{task.fields[detail]}"),
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
            self._line(f"{NAMES[stage]} ...")
        else:
            self.tasks[stage] = self.bars.add_task(NAMES[stage], total=None, detail="")

    def advance(self, stage: str, done: int, total: int, detail: str) -> None:
        """A stage has done so much; without bars, a tenth is worth a line."""
        if self.bars is not None:
            self.bars.update(self.tasks[stage], completed=done, total=total, detail=detail)
        elif done * 10 // total > (done - 1) * 10 // total:
            self._line(f"  {NAMES[stage]}: {done} of {total}, {detail}")

    def end(self, stage: str, row: Mapping[str, Any]) -> None:
        """A stage is done, now or in an earlier session of this run."""
        metric = next(name for name in row if name.startswith("ndcg@"))
        detail = f"{metric.upper()} {row[metric]:.4f}, {row['bytes']:,} bytes"
        if self.bars is None:
            self._line(f"{NAMES[stage]}: {detail}")
            return
        task = self.tasks.get(stage)
        if task is None:
            task = self.bars.add_task(NAMES[stage], total=1, detail="")
        total = self.bars.tasks[task].total or 1
        self.bars.update(task, completed=total, total=total, detail=detail)

    def say(self, text: str) -> None:
        """Something to know."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def _line(self, text: str) -> None:
        self.say(f"[dim]{time.monotonic() - self.began:6.1f} s[/dim]  {text}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the ``recjax`` command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # a title that the terminal's encoding lacks is no reason to stop
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Into a file or a pipe, lines are as long as they are.
    console = rich.console.Console(width=None if sys.stdout.isatty() else 10_000)
    try:
        command = _parse(arguments)
        return run(command, console) if isinstance(command, Run) else recommend(command, console)
    except InputError as error:
        print("recjax:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    except OSError as error:  # a disk that is full, a folder that has gone
        print(f"recjax: {error.filename or 'a file'}: {error.strerror}; go on with --resume", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("recjax: interrupted" + "".join(stop.args), file=sys.stderr)
        return 130


def _parse(arguments: Sequence[str]) -> Run | Recommend:
    """The command line as a record. What is wrong with it becomes one line, not the parser's box."""
    if list(arguments[:1]) == ["--version"]:
        from recjax.provenance import versions

        print(" ".join(f"{name} {version}" for name, version in versions().items()))
        raise SystemExit(0)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            commands = {"run": Run, "recommend": Recommend}
            return tyro.extras.subcommand_cli_from_dict(commands, args=list(arguments), prog="recjax")
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        text = re.sub(r"\x1b\[[0-9;]*m", "", errors.getvalue())
        lines = [re.sub("[─│╰╯]", " ", line).strip() for line in text.splitlines() if "╭" not in line]
        message = " ".join(line for line in lines if line)
        raise InputError(message or "can't read the command line, see recjax --help") from None


def run(command: Run, console: rich.console.Console) -> int:
    """``recjax run``."""
    from recjax import data, machine, pipeline, report
    from recjax.pipeline import config as configs

    with contextlib.suppress(RuntimeError):  # called from a process in which JAX runs already: as it is
        machine.one_device_a_core()
        machine.keep_programs()
    fields = {field.name: getattr(command, field.name) for field in dataclasses.fields(Config)}
    config, folder = Config(**fields), command.out
    if command.resume is not None:
        folder = command.resume
        config, _ = configs.read(folder / "config.json")
        if pipeline.finished(folder):
            print(f"{folder} is finished; nothing to do. Its report: {folder / 'report.html'}")
            return 0
    config.check()
    folder = folder or _free(Path("runs") / config.name)
    screen = Screen(console)
    if config.name == "ml-100k" and config.data is None and config.train is None:
        screen.say(f"[dim]{data.MOVIELENS_TERMS}[/dim]\n")
    try:
        with screen, _profiled(command.profile):
            pipeline.run(config, folder, screen, resume=command.resume is not None)
    except KeyboardInterrupt:
        begun = (folder / "config.json").exists()
        raise KeyboardInterrupt(*([f"; go on with recjax run --resume {folder}"] if begun else [])) from None
    rows = report.read_rows(folder / pipeline.RESULTS)
    console.print(report.stage_table(rows))
    for line in _in_words(next(row["summary"] for row in rows if "summary" in row)):
        screen.say(line)
    screen.say(f"report   {folder / 'report.html'}")
    screen.say(f"answers  recjax recommend {folder / 'artifact'} --user ID --k 10")
    return 0


def _profiled(folder: Path | None) -> contextlib.AbstractContextManager[Any]:
    """Writes a trace of what is computed meanwhile. Calls in Python are left out: there are millions of them."""
    import jax

    if folder is None:
        return contextlib.nullcontext()
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    return jax.profiler.trace(folder, profiler_options=options)


def _in_words(summary: Mapping[str, Any]) -> list[str]:
    """What the table comes to."""
    lines = [
        f"packed: {summary['compression']:.0f} times smaller than the teacher, "
        f"{summary['compression_of_student']:.1f} times smaller than the student in float32; "
        f"{summary['quality_kept']:.1%} of the teacher's NDCG@10"
    ]
    for name, differences in summary["paired"].items():
        text = ", ".join(f"{difference:+.4f}" for difference in differences)
        lines.append(f"{name.replace('_', ' ')}, NDCG@10 seed by seed: {text}")
    if not summary["teacher_beats_alone_on_validation"]:
        lines.append("the teacher is not above the student alone on validation: distillation has little to give here")
    return lines


def _free(folder: Path) -> Path:
    """The folder, or the first one with a number behind it that isn't there."""
    number, free = 2, folder
    while free.exists():
        free, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return free


def recommend(command: Recommend, console: rich.console.Console) -> int:
    """``recjax recommend``."""
    from recjax import artifact

    model = artifact.load(command.artifact)
    if not 1 <= command.k <= len(model.item_ids):
        size = len(model.item_ids)
        raise InputError(f"option --k: expected 1 to {size}, the size of the catalogue, got {command.k}")
    known = model.known(command.user)
    items = model.recommend(command.user, k=command.k, include_seen=command.include_seen)
    if not known:
        print(f"user {command.user} is not known to this model: these are the most popular items")
    table = rich.table.Table(title=rich.text.Text(f"user {command.user}"), title_justify="left", box=None)
    table.add_column("rank", justify="right")
    table.add_column("item", overflow="fold")
    if any(item.title for item in items):
        table.add_column("title")
    table.add_column("score" if known else "users", justify="right")
    for rank, item in enumerate(items, start=1):
        cells = [str(rank), item.item, item.title, f"{item.score:.4f}" if known else f"{item.score:.0f}"]
        shown = cells if len(table.columns) == 4 else cells[:2] + cells[3:]
        table.add_row(*(rich.text.Text(cell) for cell in shown))  # not as markup: "[rec]" is a title
    console.print(table)
    return 0
