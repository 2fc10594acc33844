"""A log as text on disk, and its rows as Python lists."""

import gzip
from pathlib import Path

from recjax import data
from recjax.errors import InputError


def write(folder: Path, content: str | bytes, name: str = "log.csv") -> Path:
    path = folder / name
    data_bytes = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data_bytes) if name.endswith(".gz") else data_bytes)
    return path


def rows(log: data.Interactions) -> list[tuple]:
    columns = [log.user_ids[log.user].tolist(), log.item_ids[log.item].tolist()]
    columns += [values.tolist() for values in (log.rating, log.timestamp) if values is not None]
    return list(zip(*columns, strict=True))


def check_message(error: InputError, path: Path, expected: list[str]) -> None:
    message = str(error)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert "expected" in message
    assert len(message) < 420 + len(str(path))
    assert [part for part in expected if part not in message] == [], message
    assert error.__suppress_context__ or error.__context__ is None  # no second traceback behind it
