"""``recjax recommend``: the best items of one user, as a table. Imports NumPy and no JAX."""

import argparse
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from recjax import artifact
from recjax.artifact import Recommendations
from recjax.cli._values import Parser
from recjax.errors import InputError


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    found = Parser("recjax recommend", description="The best items for one user.", allow_abbrev=False)
    found.add_argument("artifact", type=Path, metavar="ARTIFACT", help="folder of the artifact")
    asked = found.add_mutually_exclusive_group(required=True)
    asked.add_argument("--user", metavar="ID", help="raw id of a user of the log")
    asked.add_argument(
        "--history",
        nargs="+",
        action="extend",
        metavar="ID",
        help="raw ids of the items of a user who is not in the log, oldest first",
    )
    found.add_argument("--k", type=int, default=10, metavar="COUNT", help="how many items (default: 10)")
    found.add_argument("--include-seen", action="store_true", help="also items that the user already has")
    return found


def recommend(arguments: Sequence[str]) -> int:
    """Prints the best items of a user or of a history; returns the exit code."""
    options = parser().parse_args(arguments)
    model = artifact.load(options.artifact)
    if not isinstance(model, artifact.Artifact):
        raise InputError(f"{options.artifact}: expected the artifact of a recommender, got one for recjax score")
    found = model.recommend(options.user, history=options.history, k=options.k, include_seen=options.include_seen)
    subject = "this history" if options.user is None else f"user {options.user}"
    for line in _remarks(subject, found, options):
        print(line)
    if found:
        print(_printable(subject))
        for line in _table(found):
            print(line)
    return 0


def _remarks(subject: str, found: Recommendations, options: argparse.Namespace) -> Iterator[str]:
    """What the reader of the table must know of it."""
    subject = _printable(subject)
    if found.unknown_items:
        count = len(options.history)
        yield f"{found.unknown_items} of {count} items of {subject} are not in the catalog"
    if not found.known:
        what = "has no item of the catalog" if options.user is None else "is not known to this model"
        yield f"{subject} {what}: these are the most popular items"
    if len(found) < options.k:
        left = f"all but {len(found)} items" if found else "every item"
        yield f"{subject} has {left} of the catalog; --include-seen lists those too"


def _table(found: Recommendations) -> list[str]:
    """Rank, item, score and title in columns; titles come last, since some are longer than a line."""
    head = ("rank", "item", "score" if found.known else "users", "title")
    rows = [
        (str(rank), _printable(item.item), f"{item.score:.4f}" if found.known else f"{item.score:.0f}", item.title)
        for rank, item in enumerate(found, start=1)
    ]
    ranks, items, scores = (
        max(map(_width, column)) for column in zip(*[row[:3] for row in (head, *rows)], strict=True)
    )
    if not any(title for *_, title in rows):
        head = (*head[:3], "")
    return [
        f"{rank:>{ranks}}  {item}{' ' * (items - _width(item))}  {score:>{scores}}  {_printable(title)}".rstrip()
        for rank, item, score, title in (head, *rows)
    ]


def _printable(text: str) -> str:
    """Text without what would move the cursor or color the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )
