"""Checkpoints of a population, from which an interrupted run resumes bit for bit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp


def open_folder(folder: Path) -> ocp.CheckpointManager:
    """A manager of the checkpoints in a folder, which keeps the newest; use it as a context manager.

    Checkpoints are written atomically.
    """
    # Trained floats hardly compress, and trying takes four times as long as writing them.
    handler, registry = ocp.PyTreeCheckpointHandler(use_compression=False), ocp.DefaultCheckpointHandlerRegistry()
    for args in (ocp.args.PyTreeSave, ocp.args.PyTreeRestore):
        registry.add(None, args, handler)
    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    return ocp.CheckpointManager(folder.absolute(), options=options, handler_registry=registry)


def save(manager: ocp.CheckpointManager, step: int, items: Mapping[str, Any]) -> None:
    """Writes named pytrees of arrays, in the background.

    Args:
      manager: from :func:`open_folder`.
      step: larger than that of the checkpoint before.
      items: the pytrees; they may be donated as soon as this returns.
    """
    manager.save(step, args=ocp.args.Composite(**{name: ocp.args.PyTreeSave(tree) for name, tree in items.items()}))


def restore(manager: ocp.CheckpointManager, like: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """The step and pytrees of the newest checkpoint, bit for bit as saved, or None if there is none.

    Args:
      manager: from :func:`open_folder`.
      like: for each pytree to read, one with the structure, shapes, dtypes and shardings to restore to.
    """
    step = manager.latest_step()
    if step is None:
        return None
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), dict(like))
    placed = ocp.checkpoint_utils.construct_restore_args
    args = {name: ocp.args.PyTreeRestore(tree, placed(tree)) for name, tree in abstract.items()}
    found = manager.restore(step, args=ocp.args.Composite(**args))
    return step, {name: found[name] for name in like}
