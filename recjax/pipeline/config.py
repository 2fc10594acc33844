"""Everything that decides a run, as one frozen record that goes to ``config.json`` and back."""

import dataclasses
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from recjax.errors import InputError
from recjax.files import atomic_file

K = 10  # the cut-off of every NDCG and recall of a run
BITS = (2, 3, 4, 8)
Task = Literal["retrieval", "ctr"]
TASKS = get_args(Task)
Split = Literal["time", "last-out", "random"]
SPLITS = get_args(Split)
# Options of one task alone.
OWN = {
    "retrieval": (
        "synthetic", "user_column", "item_column", "rating_column", "timestamp_column", "item_table", "user_table",
        "k_core", "teacher_members", "teacher_dim", "teacher_learning_rate", "regularization", "weight_decay",
        "distill_weight_decay",
    ),
    "ctr": ("label", "numeric", "categorical", "drop", "min_count"),
}  # fmt: skip
FILES = ("data", "train", "valid", "test", "item_table", "user_table")
LIMITS = {
    "min_rating": (-1e12, 1e12),
    "k_core": (0, 10**6),
    "valid_share": (1e-6, 0.9),
    "test_share": (1e-6, 0.9),
    "teacher_members": (1, 1000),
    "teacher_dim": (1, 4096),
    "teacher_learning_rate": (1e-12, 1e3),
    "regularization": (1e-9, 1e12),
    "dim": (1, 4096),
    "seeds": (1, 1000),
    "epochs": (1, 10**6),
    "batch_size": (1, 10**7),
    "patience": (1, 10**6),
    "learning_rate": (1e-12, 1e3),
    "weight_decay": (0.0, 1e3),
    "distill_weight_decay": (0.0, 1e3),
    "temperature": (1e-6, 1e6),
    "alpha": (0.0, 1.0),
    "sparsity": (0.0, 0.999),
}
DIMS = (64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run; the defaults are what ``recjax run`` does with no option.

    Attributes:
      task: retrieval: a log of users and items, ranked lists; ctr: rows with labels of 0 and 1, click probabilities.
      data: your log: CSV, TSV, Parquet, ratings.dat, u.data or .inter, gzipped or not. Without it, MovieLens-100K.
      synthetic: a made-up log; needs no file and no network.
      train: ready-made split: the rows to learn from. Goes with --test.
      valid: ready-made split: the rows to choose by; drawn from --train if missing.
      test: ready-made split: the rows to report on.
      user_column: name of the column with users; found by its usual names if missing.
      item_column: name of the column with items.
      rating_column: name of the column with ratings.
      timestamp_column: name of the column with timestamps.
      item_table: table of items, with titles and side features.
      user_table: table of users, with side features.
      label: ctr: name of the column with labels; found if missing, as are the roles of all columns.
      numeric: ctr: names of columns of numbers.
      categorical: ctr: names of columns of categories.
      drop: ctr: names of columns that are not read.
      min_count: ctr: categories in fewer train rows share one id.
      min_rating: leave out rows with a lower rating; ctr: the label is whether the rating is at least this.
      k_core: keep users and items with at least so many rows, 0 for all.
      split: time: the whole log in order of time, first 80% / next 10% / last 10%, rows of one timestamp never
        separated; last-out: each user's last row is test, the one before valid; random: a share of each user's rows.
        Missing: time; of a ctr table without times random.
      valid_share: share of the rows for validation (time, random).
      test_share: share of the rows for test (time, random).
      teacher: one or more families (ease, mf, lightgcn, sasrec, item-knn, ...) or files of scores, lists or embeddings;
        several make an ensemble whose weights are chosen on validation. auto: ease where it fits, and mf.
        ctr: one or more of lr, fm, dnn, wide-and-deep, deepfm, dcn-v2 and finalmlp; several: the mean of their logits.
        auto: dnn.
      teacher_members: models in the ensemble of a teacher that knows users by their vectors, such as mf.
      teacher_dim: length of the vectors of each of them.
      teacher_learning_rate: of each of them; their weight decay is chosen from --weight-decay.
      regularization: of the ease teacher; the best on validation is taken.
      student: a family: elsa, mf, sasrec, ...; auto: of elsa and mf the smaller one whose validation metric is within
        one standard error of the best. ctr: a family of the teacher's, with few and small hidden layers; auto: of dnn
        and lr likewise.
      distill: one or more methods: soft-targets, rrd, rce-kd, hint, ...; the best on validation goes on. ctr:
        soft-targets.
      dim: length of the student's vectors; that of the family if missing.
      budget: largest weights.safetensors of the packed student in bytes, such as 20KB or 1.5MB; chooses dim,
        sparsity and bits to fit.
      refit: after the figures are made, train once more on all rows, for the artifact that is served.
      seeds: how many seeds every setting is trained with.
      epochs: passes over the training data, at most; those of the family if missing, as for the two that follow.
      batch_size: examples a step.
      patience: stop after so many validations in which no setting got better.
      learning_rate: values for both grids of students; those of the family if missing, as for the three that follow.
      weight_decay: values for the student alone.
      distill_weight_decay: of the distilled students, which the teacher regularizes too; that of the family if missing.
      temperature: values for the distilled students.
      alpha: values for the distilled students: the share of the teacher in the loss.
      sparsity: shares of zeros to try.
      bits: widths to try, of 2, 3, 4 and 8.
    """

    task: Task = "retrieval"
    data: str | None = None
    synthetic: bool = False
    train: str | None = None
    valid: str | None = None
    test: str | None = None
    user_column: str | None = None
    item_column: str | None = None
    rating_column: str | None = None
    timestamp_column: str | None = None
    item_table: str | None = None
    user_table: str | None = None
    label: str | None = None
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    min_count: int = 2
    min_rating: float | None = None
    k_core: int = 0
    split: Split | None = None
    valid_share: float = 0.1
    test_share: float = 0.1
    teacher: tuple[str, ...] = ("auto",)
    teacher_members: int = 10
    teacher_dim: int = 32
    teacher_learning_rate: float = 0.01
    regularization: tuple[float, ...] = (20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
    student: str = "auto"
    distill: tuple[str, ...] = ("soft-targets",)
    dim: int | None = None
    budget: str | None = None
    refit: bool = True
    seeds: int = 5
    epochs: int | None = None
    batch_size: int | None = None
    patience: int | None = None
    learning_rate: tuple[float, ...] | None = None
    weight_decay: tuple[float, ...] | None = None
    distill_weight_decay: float | None = None
    temperature: tuple[float, ...] | None = None
    alpha: tuple[float, ...] | None = None
    sparsity: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    bits: tuple[int, ...] = (2, 3, 4, 8)

    def check(self) -> None:
        """Raises InputError for the first option that can't be."""
        self._check_task()
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if value is None:
                continue
            values = value if isinstance(value, tuple) else (value,)
            wrong = [value for value in values if not low <= value <= high]
            if wrong or not values:
                kind = "a whole number" if isinstance(low, int) else "a number"
                got = ", ".join(map(_typed, wrong)) or "none"
                raise InputError(
                    f"option {option(name)}: expected {kind} from {_typed(low)} to {_typed(high)}, got {got}"
                )
        self._check_names()
        if not self.bits or not set(self.bits) <= set(BITS):
            got = ", ".join(map(str, self.bits)) or "none"
            raise InputError(f"option --bits: expected some of 2, 3, 4 and 8, got {got}")
        if self.valid_share + self.test_share >= 1:
            total = self.valid_share + self.test_share
            raise InputError(f"option --valid-share: expected less than 1 together with --test-share, got {total:g}")
        sources = {"--data": self.data, "--synthetic": self.synthetic or None, "--train": self.train}
        given = [name for name, value in sources.items() if value is not None]
        if len(given) > 1:
            raise InputError(f"option {given[1]}: expected one source of data, got {given[0]} too")
        if (self.train is None) != (self.test is None) or (self.valid is not None and self.train is None):
            raise InputError("option --train: expected --train and --test together, with or without --valid, got one")
        budget_bytes(self.budget)

    def _check_task(self) -> None:
        if self.task not in TASKS:
            raise InputError(f"option --task: expected {' or '.join(TASKS)}, got {self.task}")
        (other,) = set(TASKS) - {self.task}
        for name in OWN[other]:
            if getattr(self, name) != getattr(Config, name):
                raise InputError(f"option {option(name)}: expected --task {other} for it, got --task {self.task}")
        if self.task == "ctr":
            if self.min_count < 1:
                raise InputError(f"option --min-count: expected at least 1, got {self.min_count}")
            if self.split == "last-out":
                raise InputError("option --split: expected time or random for --task ctr, got last-out")
            if self.data is None and self.train is None:
                raise InputError("option --task: expected --data, or --train and --test, for ctr, got no rows")

    def _check_names(self) -> None:
        splits = () if self.split is None else (self.split,)
        choices = {"split": (splits, SPLITS), **self._families()}
        for name, (given, known) in choices.items():
            for value in given:
                if value not in known:
                    raise InputError(f"option {option(name)}: expected {', '.join(known)}, got {value}")
        for name, given in (("teacher", self.teacher), ("distill", self.distill)):
            repeated = len(set(given)) < len(given) or not given
            if repeated or ("auto" in given and len(given) > 1):
                got = " ".join(given) or "none"
                raise InputError(f"option {option(name)}: expected distinct names, or auto alone, got {got}")

    def _families(self) -> dict[str, tuple[Sequence[str], Sequence[str]]]:
        """Names of models and methods that are given, and those that there are."""
        from recjax.tasks import ctr, distillation, retrieval  # import JAX, which the command's help does without

        if self.task == "ctr":
            return {
                "teacher": (self.teacher, ("auto", *ctr.FAMILIES)),
                "student": ((self.student,), ("auto", *ctr.STUDENTS)),
                "distill": (self.distill, ("soft-targets",)),
            }
        teachers = [name for name in self.teacher if not is_file(name)]
        return {
            "teacher": (teachers, ("auto", *retrieval.FAMILIES, "or a file of scores, lists or embeddings")),
            "student": ((self.student,), ("auto", *retrieval.STUDENTS)),
            "distill": (self.distill, tuple(distillation.METHODS)),
        }

    @property
    def name(self) -> str:
        """What the data is called; names the run's folder."""
        if self.synthetic:
            return "synthetic"
        path = self.data or self.train
        return Path(path).name.split(".")[0] or "run" if path else "ml-100k"


def is_file(teacher: str) -> bool:
    """Whether a teacher is a path rather than the name of a family."""
    return os.path.exists(teacher) or os.sep in teacher or "." in teacher


def option(field: str) -> str:
    """How a field is typed on the command line."""
    return "--" + field.replace("_", "-")


def budget_bytes(budget: str | None) -> int | None:
    """Bytes of a budget such as ``20KB`` (1 KB is 1,000 bytes, 1 KiB 1,024).

    Examples:
      >>> budget_bytes("20KB"), budget_bytes("1.5MiB"), budget_bytes("4096")
      (20000, 1572864, 4096)
    """
    if budget is None:
        return None
    units = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9, "b": 1, "": 1}
    text = budget.strip().lower()
    unit = next(unit for unit in units if text.endswith(unit))
    try:
        size = float(text[: len(text) - len(unit)]) * units[unit]
    except ValueError:
        size = -1.0
    if not 1 <= size <= 1e15:
        raise InputError(f"option --budget: expected 1B to 1000000GB, such as 20KB or 1.5MB, got {budget!r}")
    return int(size)


def command(config: Config) -> str:
    """The command line that gives this config."""
    words = ["recjax", "run"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        if value is False:  # a switch that is on unless it is turned off
            words.append("--no-" + option(field.name)[2:])
            continue
        values = value if isinstance(value, tuple) else () if value is True else (value,)
        typed = [_typed(v) for v in values]
        dashed = isinstance(value, str) and value.startswith("-")
        words += [f"{option(field.name)}={value}"] if dashed else [option(field.name), *typed]
    return shlex.join(words)


def typed_path(path: str | Path) -> str:
    """A path as an argument of a command line: quoted, and no option where it begins with a dash.

    Examples:
      >>> print(typed_path("my runs/shop"), typed_path("-runs"))
      'my runs/shop' ./-runs
    """
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def _typed(value: object) -> str:
    """A value as it is typed on the command line."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def write(config: Config, path: Path, **about: object) -> None:
    """Writes a config and what else is needed to run it again, atomically; its files by their absolute paths."""
    files = {name: os.path.abspath(value) for name in FILES if (value := getattr(config, name)) is not None}
    teacher = [os.path.abspath(name) if is_file(name) else name for name in config.teacher]
    values = {**dataclasses.asdict(config), **files, "teacher": teacher}
    with atomic_file(path) as partial:
        partial.write_text(json.dumps({**about, "config": values}, indent=2), encoding="utf-8")


def read(path: Path) -> tuple[Config, dict[str, object]]:
    """Reads what :func:`write` wrote: the config and what came with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        values: dict[str, Any] = content.pop("config")
        restored: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        config = Config(**restored)
        config.check()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: expected the config.json of a run, got a file that can't be used ({reason})"
        ) from None
    return config, content
