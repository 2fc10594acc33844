"""A device mesh for a population, and the shardings of its arrays.

:func:`recjax.train.run_chunk` is the same on one device and on many; only the shardings of its arguments differ. The
mesh has three axes, any of which may be 1:

* ``members``: settings are split. A step needs no communication.
* ``batch``: the rows of a batch are split; gradients are summed.
* ``rows``: the rows of tables are split. A step exchanges the rows that its batch touches, never a table.

With several processes call ``jax.distributed.initialize`` first, and place arrays by ``jax.jit(lambda tree: tree,
out_shardings=layout)``, which unlike ``jax.device_put`` supports random keys there.
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
    """A mesh with the axes ``members``, ``batch`` and ``rows``, of ``AxisType.Auto``, and as many devices along each.

    Examples:
      >>> dict(mesh(members=1).shape)
      {'members': 1, 'batch': 1, 'rows': 1}
    """
    return jax.make_mesh((members, batch, rows), AXES, axis_types=(AxisType.Auto,) * 3)


def state_layout(mesh: Mesh, state: TrainState, *, tables: Collection[str] = ()) -> TrainState:
    """The shardings of a population's state.

    The parts of ``tables`` that are indexed by rows are split, with their rows of optimizer states, transforms and
    masks, which are found by the table's name. Split only tables with row-sparse training
    (:class:`recjax.train.RowSparse`): over a batch axis, a dense optimizer sums gradients as large as the table.

    Args:
      mesh: see :func:`mesh`.
      state: leaves ``[seeds, settings, ...]``, arrays or shapes.
      tables: names of the tables to split; their rows must be a multiple of the axis ``rows`` (pad them with unused
        rows).

    Returns:
      A state of shardings, for ``jax.device_put``, ``out_shardings``, or restoring a checkpoint on other devices.

    Raises:
      ValueError: if a table doesn't exist, or settings or rows are not a multiple of their axis.

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
        raise ValueError(f"tables: expected names among {sorted(state.params['tables'])}, got {sorted(missing)}")
    counts = {name: _row_counts(state.params["tables"][name]) for name in tables}

    def of_leaf(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = [name for name in counts if jax.tree_util.DictKey(name) in path]
        by_rows = leaf.ndim > 2 and any(leaf.shape[2] in counts[name] for name in names)
        axes = (None, MEMBERS, ROWS)[: 3 if by_rows else 2 if leaf.ndim >= 2 else 0]
        for size, axis in zip(leaf.shape, axes, strict=False):
            if axis and size % mesh.shape[axis]:
                where = jax.tree_util.keystr(path)
                raise ValueError(f"{where}: expected a multiple of {mesh.shape[axis]} {axis}, got {size}")
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree_util.tree_map_with_path(of_leaf, state)


def argument_layout(mesh: Mesh) -> tuple[NamedSharding, ...]:
    """The shardings of ``hparams``, ``ids``, ``keys``, ``data`` and ``fixed``, for ``jax.device_put`` of the five.

    These are the other arguments of :func:`recjax.train.run_chunk`. The batch must be a multiple of the axis ``batch``;
    data and fixed arrays are replicated.

    Examples:
      >>> [tuple(layout.spec) for layout in argument_layout(mesh())][:2]
      [(None, 'members'), (None, None, 'batch')]
    """
    specs = PartitionSpec(None, MEMBERS), PartitionSpec(None, None, BATCH), *[PartitionSpec()] * 3
    return tuple(NamedSharding(mesh, spec) for spec in specs)


def _row_counts(table: Any) -> set[int]:
    """The numbers of rows of the parts of a table that are indexed by rows; leaves ``[seeds, settings, ...]``."""
    one = jax.eval_shape(lambda table: jax.tree.map(lambda leaf: leaf[0, 0], table), table)
    places = jax.eval_shape(lambda table: embed.touched(table, jnp.zeros(1, jnp.int32)), one)
    counts = jax.tree.map(
        lambda at, part: None if at is None else part.shape[0], places, one, is_leaf=lambda at: at is None
    )
    return set(jax.tree.leaves(counts))
