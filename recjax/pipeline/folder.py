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

import jax.numpy as jnp
import numpy as np

from recjax import artifact, prune
from recjax.errors import InputError
from recjax.files import whole

Tables = Mapping[str, Any]


class Stage(NamedTuple):
    """A finished stage, read from its files.

    Attributes:
      tables: ``{name: [rows, dim] float32}`` for each seed.
      sizes: bytes of each seed's ``weights.safetensors``.
      notes: what the stage found out: chosen hyperparameters, members, curves, figures.
    """

    tables: list[dict[str, np.ndarray]]
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
        seeds, notes = len(content["sizes"]), content["notes"]
        notes["row"]
    except (KeyError, TypeError) as error:
        raise _damaged(folder, error) from None
    return _read(folder, seeds, notes)


def draft_stage(folder: Path, tables: Sequence[Tables]) -> Stage:
    """Writes the weights of a stage that is to appear in ``folder``, and reads them back to be measured."""
    partial = _partial(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for seed, table in enumerate(tables):
        stored = {k: prune.smallest(jnp.asarray(v)) if isinstance(v, np.ndarray) else v for k, v in table.items()}
        artifact.save_params(partial / _weights(seed), stored)
    return _read(partial, len(tables), {})


def publish_stage(folder: Path, draft: Stage, notes: Mapping[str, Any]) -> Stage:
    """Lets a drafted stage appear, whole."""
    partial = _partial(folder)
    text = json.dumps({"sizes": draft.sizes, "notes": notes})
    (partial / "stage.json").write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)  # left without its stage.json, by hand: to be made again
    os.replace(partial, folder)
    return draft._replace(notes=json.loads(text)["notes"])  # as a later session will read them


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _weights(seed: int) -> str:
    return f"weights-{seed}.safetensors"


def _read(folder: Path, seeds: int, notes: dict[str, Any]) -> Stage:
    files = [folder / _weights(seed) for seed in range(seeds)]
    try:
        opened = [artifact.open_params(file) for file in files]
        tables = [
            {k: np.array(v) if isinstance(v, np.ndarray) else v.rows(slice(0, v.shape[0])) for k, v in part.items()}
            for part in opened
        ]
    except (ValueError, AttributeError) as error:
        raise _damaged(folder, error) from None
    return Stage(tables, [file.stat().st_size for file in files], notes)


def _damaged(folder: Path, error: Exception) -> InputError:
    return InputError(f"{folder}: found a damaged stage ({str(error).splitlines()[0]}), expected one of recjax run")


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
