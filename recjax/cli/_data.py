"""``recjax data``: what a file has, and how it would be read. Trains nothing."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from recjax import data
from recjax.cli._values import Parser
from recjax.errors import InputError

COLUMNS = ("user_column", "item_column", "rating_column", "timestamp_column")
ROLES = ("numeric", "categorical", "drop")


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    found = Parser("recjax data", description="What a file has, and how it would be read.", allow_abbrev=False)
    found.add_argument("file", type=Path, metavar="FILE", help="CSV, TSV, Parquet, ratings.dat, .inter, libfm, Criteo")
    found.add_argument("--task", choices=("retrieval", "ctr"), help="found from the columns if missing")
    found.add_argument(
        "--min-rating", type=float, metavar="RATING", help="leave out lower ones; ctr: label 1 from here"
    )
    for name in COLUMNS:
        found.add_argument(f"--{name.replace('_', '-')}", metavar="COLUMN", help="retrieval: name of the column")
    found.add_argument("--label", metavar="COLUMN", help="ctr: name of the column with labels")
    for name in ROLES:
        found.add_argument(
            f"--{name}", nargs="+", action="extend", default=[], metavar="COLUMN", help="ctr: its columns"
        )
    found.add_argument("--min-count", type=int, default=2, metavar="ROWS", help="ctr: rarer categories share one id")
    found.add_argument("--hash-above", type=int, default=1_000_000, metavar="IDS", help="ctr: hash more categories")
    found.add_argument("--split", choices=("time", "random"), help="ctr: by time if missing and there are times")
    return found


def describe(arguments: Sequence[str]) -> int:
    """Prints what a file has; returns the exit code."""
    options = parser().parse_args(arguments)
    named = {name: getattr(options, name) for name in COLUMNS}
    task = options.task
    if task is None:
        task = "ctr" if options.label or (not any(named.values()) and data.has_label(options.file)) else "retrieval"
    if task == "ctr":
        lines = data.describe_ctr(_dataset(options))
    else:
        lines = data.describe_log(data.read(options.file, min_rating=options.min_rating, **named))
    print(f"{options.file}: task {task}")
    for line in lines:
        print(line)
    return 0


def _dataset(options: argparse.Namespace) -> data.CTRDataset:
    for name in ("min_count", "hash_above"):
        if getattr(options, name) < 1:
            raise InputError(f"option --{name.replace('_', '-')}: expected at least 1, got {getattr(options, name)}")
    columns = data.ColumnOptions(
        label=options.label,
        min_rating=options.min_rating,
        min_count=options.min_count,
        hash_above=options.hash_above,
        numeric=tuple(options.numeric),
        categorical=tuple(options.categorical),
        drop=tuple(options.drop),
    )
    return data.read_ctr(options.file, columns, by_time=None if options.split is None else options.split == "time")
