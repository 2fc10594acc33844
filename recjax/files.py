"""Files that appear whole or not at all, whenever the process dies."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place to write a file that then appears at its path, whole or not at all.

    Examples:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), "notes.txt")
      >>> with whole(path) as partial:
      ...     _ = partial.write_text("all of it")
      >>> path.read_text()
      'all of it'
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
