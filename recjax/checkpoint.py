"""A population on disk, so that a run that was killed goes on as if it had not been."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp


def open_folder(folder: Path) -> ocp.CheckpointManager:
    """The checkpoints in a folder, of which the newest is kept; use it as a context manager.

    A checkpoint appears whole or not at all, whenever the process dies. Arrays are written as they are: trained floats
    hardly compress, and to try takes the cores that train four times as long as to write them.
    """
    handler, registry = ocp.PyTreeCheckpointHandler(use_compression=False), ocp.DefaultCheckpointHandlerRegistry()
    for args in (ocp.args.PyTreeSave, ocp.args.PyTreeRestore):
        registry.add(None, args, handler)
    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    return ocp.CheckpointManager(folder.absolute(), options=options, handler_registry=registry)


def save(manager: ocp.CheckpointManager, step: int, items: Mapping[str, Any]) -> None:
    """Writes named pytrees of arrays, in the background.

    Args:
      manager: from :func:`open_folder`.
      step: a number that grows from one checkpoint to the next.
      items: the pytrees; they may be donated as soon as this returns.
    """
    manager.save(step, args=ocp.args.Composite(**{name: ocp.args.PyTreeSave(tree) for name, tree in items.items()}))


def restore(manager: ocp.CheckpointManager, like: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint, or None where there is none.

    Args:
      manager: from :func:`open_folder`.
      like: of every pytree to read, one of arrays with the structure, shapes, dtypes and shardings to restore to.

    Returns:
      The step it was saved at and the pytrees, bit for bit what was saved.
    """
    step = manager.latest_step()
    if step is None:
        return None
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), dict(like))
    placed = ocp.checkpoint_utils.construct_restore_args
    args = {name: ocp.args.PyTreeRestore(tree, placed(tree)) for name, tree in abstract.items()}
    found = manager.restore(step, args=ocp.args.Composite(**args))
    return step, {name: found[name] for name in like}
