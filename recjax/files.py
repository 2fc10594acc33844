"""Files and folders that appear whole or not at all, whenever the process dies."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recjax.errors import InputError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Writes a file atomically: yields a path beside it, which replaces it at the end.

    Processes that write the same file at once don't disturb each other; the last one's file stays.

    Examples:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), "notes.txt")
      >>> with atomic_file(path) as partial:
      ...     _ = partial.write_text("all of it")
      >>> path.read_text()
      'all of it'
    """
    path = Path(os.path.realpath(path))  # what a symbolic link leads to is replaced, the link stays
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(value: Any, path: Path) -> None:
    """Writes a value as JSON, atomically, and makes the folder that it is in.

    Examples:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), "results", "figures.json")
      >>> write_json({"ndcg@10": 0.5}, path)
      >>> json.loads(path.read_text())
      {'ndcg@10': 0.5}
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def atomic_folder(folder: Path, *, kind: str, card: str) -> Iterator[Path]:
    """A place to fill a folder that then appears at its path, whole or not at all.

    A process that is killed between the two renames leaves the folder that was there under another name: the next call
    puts it back first.

    Args:
      folder: its path; an empty folder or one of its kind is replaced.
      kind: what it is, in words.
      card: the name of the file that a folder of its kind has.

    Raises:
      InputError: if something else is there.

    Examples:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp(), "notes")
      >>> with atomic_folder(folder, kind="notes", card="first.txt") as partial:
      ...     _ = (partial / "first.txt").write_text("all of it")
      >>> [path.name for path in folder.parent.glob("**/*")]
      ['notes', 'first.txt']
    """
    named, folder = folder, Path(os.path.realpath(folder))  # the name of "." or "..", or what a symbolic link leads to
    partial, previous = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "previous"))
    if previous.exists() and not folder.exists():
        os.replace(previous, folder)
    if folder.exists() and not (folder / card).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise InputError(f"{named}: expected {kind} to replace or nothing, got something else")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(previous, ignore_errors=True)
        if folder.exists():
            os.replace(folder, previous)
        try:
            os.replace(partial, folder)
        except OSError:
            if previous.exists():
                os.replace(previous, folder)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(previous, ignore_errors=True)


@contextlib.contextmanager
def writable(path: Path) -> Iterator[None]:
    """A place that can't be written is an input that is wrong: :class:`~recjax.errors.InputError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{path}: found a place that can't be written ({reason}), expected one that can") from None
