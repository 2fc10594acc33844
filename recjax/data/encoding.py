"""What was learned of a table's columns, as a value that is saved as JSON."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recjax.data.learned import KINDS, Column
from recjax.errors import InputError
from recjax.files import atomic_file

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How a table is read as fields: what was learned of its columns.

    Attributes:
      columns: by name, in the order of the fields.
      label: the name of the column with the labels.
      names: of the columns of a file that has no header; None where the file names them.
    """

    columns: Mapping[str, Column]
    label: str
    names: tuple[str, ...] | None = None

    @property
    def features(self) -> int:
        """Ids of all fields together, the rows of a model's tables: ``models.Fields(features=..., fields=...)``."""
        return sum(column.size for column in self.columns.values())

    @property
    def offsets(self) -> dict[str, int]:
        """The first id of each field; the fields share one numbering."""
        ends = np.cumsum([0, *(column.size for column in self.columns.values())])
        return dict(zip(self.columns, ends.tolist(), strict=False))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON, whole or not at all."""
        columns = {
            name: {"kind": type(column).__name__, **dataclasses.asdict(column)} for name, column in self.columns.items()
        }
        content = {"format": FORMAT, "label": self.label, "names": self.names, "columns": columns}
        with atomic_file(Path(path)) as partial:
            partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def load_encoding(path: str | os.PathLike[str]) -> Encoding:
    """Reads what :meth:`Encoding.save` wrote.

    Args:
      path: the file.

    Returns:
      The same encoding.

    Raises:
      InputError: if the file is missing, damaged or foreign; the message names it.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, this version reads {FORMAT}")

        def column(kind: str, **fields: Any) -> Column:
            make: Any = KINDS[kind]
            return make(**{name: tuple(part) if isinstance(part, list) else part for name, part in fields.items()})

        columns = {name: column(**parts) for name, parts in content["columns"].items()}
        names = content["names"]
        return Encoding(columns, content["label"], None if names is None else tuple(names))
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{os.fspath(path)}: expected an encoding, got {type(error).__name__}: {error}") from error
