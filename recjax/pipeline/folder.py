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

import jax
import jax.numpy as jnp
import numpy as np

from recjax import artifact
from recjax.errors import InputError
from recjax.files import atomic_file
from recjax.models import Params


class Stage(NamedTuple):
    """A finished stage, read from its files.

    Attributes:
      params: the dense parameters of each seed.
      sizes: bytes of each seed's ``weights.safetensors``.
      notes: what the stage found out: chosen hyperparameters, members, curves, figures.
    """

    params: list[Params]
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
        seeds, notes = int(content["seeds"]), content["notes"]
        notes["row"]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, error) from None
    return _read(folder, seeds, notes)


def draft_stage(folder: Path, stored: Sequence[Params]) -> Stage:
    """Writes the weights of a stage that is to appear in ``folder``, and reads them back to be measured."""
    partial = _partial(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for seed, params in enumerate(stored):
        artifact.save_params(partial / _weights(seed), params)
    return _read(partial, len(stored), {})


def publish_stage(folder: Path, draft: Stage, users: np.ndarray, notes: Mapping[str, Any]) -> Stage:
    """Lets a drafted stage appear, whole, with :meth:`recjax.pipeline.stages.Stages.users` of the test part."""
    partial = _partial(folder)
    np.save(partial / "users.npy", users, allow_pickle=False)
    text = json.dumps({"seeds": len(draft.params), "notes": notes})
    (partial / "stage.json").write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)  # left without its stage.json, by hand: to be made again
    os.replace(partial, folder)
    return draft._replace(notes=json.loads(text)["notes"])  # as a later session will read them


def stored_params(folder: Path, seed: int) -> Params:
    """The weights of one seed as they are stored."""
    return artifact.load_params(folder / _weights(seed))


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _weights(seed: int) -> str:
    return f"weights-{seed}.safetensors"


def _read(folder: Path, seeds: int, notes: dict[str, Any]) -> Stage:
    try:
        params = [jax.tree.map(_dense, artifact.open_params(folder / _weights(seed))) for seed in range(seeds)]
        sizes = [(folder / _weights(seed)).stat().st_size for seed in range(seeds)]
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from None
    return Stage(params, sizes, notes)


def _dense(leaf: Any) -> jax.Array:
    """A stored array or table as a dense one; decoded by NumPy, which compiles nothing."""
    values = leaf if isinstance(leaf, np.ndarray) else leaf.rows(slice(0, leaf.shape[0]))
    return jnp.asarray(values.astype(np.float32) if values.dtype == np.float16 else values)


def _damaged(folder: Path, error: Exception) -> InputError:
    return InputError(f"{folder}: expected a stage of recjax run, got damaged files ({str(error).splitlines()[0]})")


def write_text(path: Path, text: str) -> None:
    """Writes a file atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
