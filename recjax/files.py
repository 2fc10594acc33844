"""Atomic writes of files and folders."""

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
    """Writes a file atomically: yields a temporary path beside it, which replaces it at the end.

    If several processes write the same file, the last one wins.

    Examples:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), "notes.txt")
      >>> with atomic_file(path) as partial:
      ...     _ = partial.write_text("all of it")
      >>> path.read_text()
      'all of it'
    """
    path = Path(os.path.realpath(path))  # replaces the target of a symbolic link, not the link
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(value: Any, path: Path) -> None:
    """Writes a value as JSON, atomically, and creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def atomic_folder(folder: Path, *, kind: str, card: str) -> Iterator[Path]:
    """Writes a folder atomically: yields a temporary folder, which is renamed at the end.

    Args:
      folder: its path; an empty folder or one with the file ``card`` is replaced.
      kind: what the folder is, for the error message.
      card: name of a file that identifies a folder of this kind.

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
    named, folder = folder, Path(os.path.realpath(folder))  # resolves ".", ".." and symbolic links
    partial, previous = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "previous"))
    if previous.exists() and not folder.exists():  # a process was killed between the two renames below
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
    """Turns an ``OSError`` while writing to ``path`` into an :class:`~recjax.errors.InputError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{path}: expected a writable path, got an error ({reason})") from None
