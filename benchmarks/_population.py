"""A population that trains: in chunks with nothing between them, and as :func:`recjax.grid.fit` drives it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from recjax import grid, train
from recjax.devices import argument_layout, mesh, state_layout


def chunks(recipe: train.Recipe, params: Any, hparams: Any, data: Any, ids: jax.Array) -> Callable[[], jax.Array]:
    """A function that trains every member for one chunk more, and waits for it.

    Args:
      recipe: what is trained and how.
      params: where all members start.
      hparams: leaves ``[members]``: one seed, so that batches are shared.
      data: what batches are gathered from.
      ids: ``[steps, batch]``.

    Returns:
      The function; it gives the losses ``[steps, members]``.
    """
    members = len(jax.tree.leaves(hparams)[0])
    devices = next(n for n in range(min(members, jax.device_count()), 0, -1) if members % n == 0)
    over = mesh(members=devices)
    split, *_, shared = argument_layout(over)
    hparams = jax.device_put(jax.tree.map(lambda x: x[None], hparams), split)
    data, fixed, ids, key = jax.device_put((data, params["fixed"], ids[:, None], jax.random.key(1)), shared)

    def member(hparams: Any) -> train.TrainState:
        return train.init_state(recipe, params, hparams, key)

    axes = train.MEMBER_AXES
    state = jax.jit(jax.vmap(jax.vmap(member, out_axes=axes), out_axes=axes))(hparams)
    kept = [jax.device_put(state, state_layout(over, state))]

    def chunk() -> jax.Array:
        kept[0], losses = train.run_chunk(recipe, kept[0], hparams, ids, key[None], data, fixed)
        return jax.block_until_ready((kept[0], losses))[1][:, 0]

    return chunk


def _first_entry(params: Any, held_out: Any) -> jax.Array:
    """A metric that costs nothing."""
    leaf = jax.tree.leaves(params)[0]
    return leaf[(0,) * leaf.ndim]


def fit(
    recipe: train.Recipe,
    starts: Any,
    members: grid.Population,
    data: Any,
    *,
    rows: int,
    epochs: int,
    batch: int,
) -> grid.Fitted:
    """A whole fit, from nothing to its last checkpoint, validated by a metric that costs nothing.

    Args:
      recipe: what is trained and how.
      starts: as of :func:`recjax.grid.fit`.
      members: who is trained.
      data: what batches are gathered from.
      rows: how many there are, or in a window of a stream.
      epochs: as many chunks.
      batch: rows a step.

    Returns:
      What was fitted, computed.
    """
    return jax.block_until_ready(
        grid.fit(
            recipe,
            starts,
            members,
            data=data,
            rows=jnp.arange(rows, dtype=jnp.int32),
            validate=_first_entry,
            held_out=(),
            schedule=grid.Schedule(epochs=epochs, batch_size=batch, patience=epochs),
        )
    )
