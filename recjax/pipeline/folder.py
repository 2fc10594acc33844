"""The folder of a run: stages that appear whole, one after the other, and are read back by the next.

A stage always reads its inputs from the files of an earlier one, never from memory: so a run that was killed and
resumed has, from there on, nothing that an uninterrupted one doesn't have.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError

from recjax import artifact
from recjax.errors import InputError
from recjax.files import whole

Tables = Mapping[str, np.ndarray | artifact.Packed]


class Stage(NamedTuple):
    """A finished stage, read from its files.

    Attributes:
      tables: ``{name: [rows, dim] float32}`` for each seed.
      specs: how they are stored; see :func:`recjax.artifact.save_tables`.
      sizes: bytes of each seed's ``weights.safetensors``.
      notes: what the stage found out: chosen hyperparameters, members, curves, figures.
    """

    tables: list[dict[str, np.ndarray]]
    specs: list[dict[str, Any]]
    sizes: list[int]
    notes: dict[str, Any]


def read_stage(folder: Path) -> Stage | None:
    """A stage, or None if it isn't finished."""
    try:
        content = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from None
    try:
        specs, notes = content["specs"], content["notes"]
        notes["row"]
    except (KeyError, TypeError) as error:
        raise _damaged(folder, error) from None
    return _read(folder, specs, notes)


def draft_stage(folder: Path, tables: Sequence[Tables]) -> Stage:
    """Writes the weights of a stage that is to appear in ``folder``, and reads them back to be measured."""
    partial = _partial(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    specs = [artifact.save_tables(partial / _weights(seed), table) for seed, table in enumerate(tables)]
    return _read(partial, specs, {})


def publish_stage(folder: Path, draft: Stage, notes: Mapping[str, Any]) -> Stage:
    """Lets a drafted stage appear, whole."""
    partial = _partial(folder)
    text = json.dumps({"specs": draft.specs, "notes": notes})
    (partial / "stage.json").write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)  # left without its stage.json, by hand: to be made again
    os.replace(partial, folder)
    return draft._replace(notes=json.loads(text)["notes"])  # as a later session will read them


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _weights(seed: int) -> str:
    return f"weights-{seed}.safetensors"


def _read(folder: Path, specs: list[dict[str, Any]], notes: dict[str, Any]) -> Stage:
    try:
        files = [(folder / _weights(seed)).read_bytes() for seed in range(len(specs))]
        tables = [artifact.load_tables(file, spec) for file, spec in zip(files, specs, strict=True)]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _damaged(folder, error) from None
    return Stage(tables, specs, [len(file) for file in files], notes)


def _damaged(folder: Path, error: Exception) -> InputError:
    return InputError(f"{folder}: found a damaged stage ({str(error).splitlines()[0]}), expected one of recjax run")


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
