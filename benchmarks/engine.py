"""What :func:`recjax.grid.fit` costs on top of its steps: chunks, data orders, curves, best parameters, checkpoints.

    python -m benchmarks engine --json benchmarks/results/engine.json

The matrix factorization of ``grid_mf``, 8 members. The peer is ``train.run_chunk`` over as many steps of the same
shapes in one scan, with no visit of the host. The metric is one number of the parameters, so what is left of a
validation is the engine's: tables made current, the better ones kept, a line a member. A real metric is extra, and the
user's. A chunk is an epoch of CiteULike's interactions. What a fit costs once, whatever its length (planning its
memory, placing its arrays), weighs in the short case; the bar is that of a training of common length. Two cores; five
minutes.

The bar is missed: a chunk is 0.7 seconds of training here, after each of which all rows of all tables are made current
to be validated, and every 5 seconds a checkpoint is written by the cores that train. Neither grows with a chunk.
"""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks._population import chunks, fit
from benchmarks.grid_mf import BATCH, ITEMS, USERS, Hparams, recipe
from benchmarks.measure import compare
from recjax import grid
from recjax.machine import one_device_per_core

MEMBERS, STEPS, LENGTHS = 8, 48, (8, 24)
BAR = 0.95  # of issue 5: at most 5% on top


def run(
    users: int = USERS,
    items: int = ITEMS,
    batch: int = BATCH,
    steps: int = STEPS,
    lengths: tuple[int, ...] = LENGTHS,
    repeats: int = 3,
) -> list[dict[str, Any]]:
    """A whole fit, from nothing to its last checkpoint, beside its steps alone."""
    one_device_per_core()
    keys = jax.random.split(jax.random.key(0), 4)
    count = steps * batch
    data = {
        name: jax.random.randint(key, (count,), 0, rows)
        for name, rows, key in zip(("user", "positive", "negative"), (users, items, items), keys[:3], strict=True)
    }
    model, how = recipe(users, items)
    params = jax.jit(model.init)(keys[3])
    rates, decays = jnp.linspace(0.001, 0.01, MEMBERS), jnp.linspace(0.0, 0.01, MEMBERS)
    members = grid.population(Hparams(0, 0), grid.zip(learning_rate=rates.tolist(), weight_decay=decays.tolist()))
    starts = {**jax.tree.map(lambda leaf: leaf[None], params), "fixed": params["fixed"]}

    def one(epochs: int) -> dict[str, Any]:
        ids = jax.random.randint(keys[3], (epochs * steps, batch), 0, count)
        bare = chunks(how, params, Hparams(rates, decays), data, ids)

        def whole() -> grid.Fitted:
            return fit(how, starts, members, data, rows=count, epochs=epochs, batch=batch)

        assert len(whole().steps) == epochs
        return compare(
            "engine",
            f"{users} users x {items} items x 20, batch {batch}, {epochs} chunks of {steps} steps",
            whole,
            bare,
            peer="the same steps in one scan",
            package="jax",
            repeats=repeats,
            members=MEMBERS,
            rows=users + items,
            bar=BAR if epochs == max(lengths) else None,
        )

    return [one(epochs) for epochs in lengths]
