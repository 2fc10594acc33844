"""One mesh for a population on many devices, and where each array of a run lies on it.

A program is compiled for the arrays that it is called with: :func:`recjax.train.run_chunk` is the same on one device
and on a thousand, and what differs is where its arguments were put. The mesh has three axes, any of which may be 1:

* ``members``: each device has some of the settings. Nothing is exchanged within a step.
* ``batch``: each device has some of the rows of a batch; gradients are summed.
* ``rows``: each device has some of the rows of a table. A step exchanges the rows that its batch touches, never a
  table; each device updates the rows that it has.

On several machines call ``jax.distributed.initialize`` first, and put arrays in place by
``jax.jit(lambda tree: tree, out_shardings=layout)``, which unlike ``jax.device_put`` takes random keys there.
"""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from recjax import embed
from recjax.train import TrainState

MEMBERS, BATCH, ROWS = AXES = ("members", "batch", "rows")


def mesh(*, members: int = 1, batch: int = 1, rows: int = 1) -> Mesh:
    """Devices in three axes, ``members``, ``batch`` and ``rows``.

    Args:
      members: how many parts the settings of a population are split into.
      batch: how many parts each batch is split into.
      rows: how many parts the large tables are split into.

    Returns:
      A mesh of ``members * batch * rows`` of the devices there are. Its axes are ``AxisType.Auto``: the compiler finds
      what has to be exchanged.

    Examples:
      >>> dict(mesh(members=1).shape)
      {'members': 1, 'batch': 1, 'rows': 1}
    """
    return jax.make_mesh((members, batch, rows), AXES, axis_types=(AxisType.Auto,) * 3)


def state_layout(mesh: Mesh, state: TrainState, *, tables: Collection[str] = ()) -> TrainState:
    """Where each array of a population's state lies.

    The parts of a table that are indexed by rows are split, and with them whatever the optimizers, the transform or a
    mask keep of each row, which is found by the table's name. Split the tables that train by rows
    (:class:`recjax.train.RowSparse`): a dense optimizer's step over a batch axis sums gradients as large as the table.

    Args:
      mesh: see :func:`mesh`.
      state: leaves ``[seeds, settings, ...]``, arrays or only their shapes: with ``jax.eval_shape`` and
        ``jax.jit(..., out_shardings=...)`` a state is made in place that no single device could hold.
      tables: names of the tables whose rows are split; their rows must be a multiple of the axis ``rows``. Rows may be
        added at a table's end that no id names.

    Returns:
      A state of shardings, for ``jax.device_put``, ``out_shardings``, or a checkpoint to be restored on other devices.

    Raises:
      ValueError: if a table isn't there, or settings or rows are no multiple of their axis.

    Examples:
      >>> from recjax.train import Moments
      >>> tables = {"item": jnp.zeros((1, 4, 8, 2)), "genre": jnp.zeros((1, 4, 3, 2))}
      >>> state = TrainState({"tables": tables}, {}, {}, Moments((), {}), jnp.zeros((1, 4)), jnp.zeros(()))
      >>> state = jax.device_put(state, state_layout(mesh(), state, tables={"item"}))
      >>> [tuple(state.params["tables"][name].sharding.spec) for name in ("item", "genre")]
      [(None, 'members', 'rows'), (None, 'members')]
    """
    missing = set(tables) - set(state.params["tables"])
    if missing:
        raise ValueError(f"expected names of tables among {sorted(state.params['tables'])}, got {sorted(missing)}")
    counts = {name: _row_counts(state.params["tables"][name]) for name in tables}

    def of_leaf(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = [name for name in counts if jax.tree_util.DictKey(name) in path]
        by_rows = leaf.ndim > 2 and any(leaf.shape[2] in counts[name] for name in names)
        axes = (None, MEMBERS, ROWS)[: 3 if by_rows else 2 if leaf.ndim >= 2 else 0]
        for size, axis in zip(leaf.shape, axes, strict=False):
            if axis and size % mesh.shape[axis]:
                where = jax.tree_util.keystr(path)
                raise ValueError(f"expected a multiple of {mesh.shape[axis]} {axis}, got {size} in {where}")
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree_util.tree_map_with_path(of_leaf, state)


def argument_layout(mesh: Mesh) -> tuple[NamedSharding, ...]:
    """Where the other arguments of :func:`recjax.train.run_chunk` lie.

    Args:
      mesh: see :func:`mesh`.

    Returns:
      The shardings of ``hparams``, ``ids``, ``keys``, ``data`` and ``fixed``, for ``jax.device_put`` of the five. The
      batch must be a multiple of the axis ``batch``; data and fixed arrays are on every device.

    Examples:
      >>> [tuple(layout.spec) for layout in argument_layout(mesh())][:2]
      [(None, 'members'), (None, None, 'batch')]
    """
    specs = PartitionSpec(None, MEMBERS), PartitionSpec(None, None, BATCH), *[PartitionSpec()] * 3
    return tuple(NamedSharding(mesh, spec) for spec in specs)


def _row_counts(table: Any) -> set[int]:
    """How many rows each part of a table has that is indexed by rows; leaves ``[seeds, settings, ...]``."""
    one = jax.eval_shape(lambda table: jax.tree.map(lambda leaf: leaf[0, 0], table), table)
    places = jax.eval_shape(lambda table: embed.touched(table, jnp.zeros(1, jnp.int32)), one)
    counts = jax.tree.map(
        lambda at, part: None if at is None else part.shape[0], places, one, is_leaf=lambda at: at is None
    )
    return set(jax.tree.leaves(counts))
