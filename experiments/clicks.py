"""What the experiments on click prediction share: how any model of fields is trained and judged on Frappe."""

import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from recjax import compress, data, embed, grid, losses, metrics, models, train
from recjax.machine import own_products

FEATURES, FIELDS = 5382, 10  # of Frappe
BLOCK = 8192  # rows judged at once


def read(frappe: pathlib.Path) -> dict[str, data.Rows]:
    """The three parts."""
    return {part: data.read_libfm(frappe / f"{part}.libfm.gz") for part in ("train", "valid", "test")}


def gather(rows: data.Rows, ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
    """The examples of a batch."""
    return {"fields": rows.fields[ids], "label": rows.label[ids]}


def loss(logit: jax.Array, tables: dict[str, Any], label: jax.Array, l2: jax.typing.ArrayLike) -> jax.Array:
    """Cross-entropy and the L2 penalty, on the whole of all tables at every step, as FuxiCTR has it."""
    squares = sum(jnp.sum(jnp.square(embed.lookup(table))) for table in tables.values())
    return losses.binary_cross_entropy(logit[:, 0], label).mean() + l2 / 2 * squares


def recipe(loss: Callable[..., jax.Array], optimizer: Callable[[Any], optax.GradientTransformation]) -> train.Recipe:
    """How a model is trained; what its steps cost are the products of dense layers."""
    return train.Recipe(loss, optimizer, compress.chain(), gather, compiler_options=own_products())


def predict(model: models.Ranking, params: Any, fields: jax.Array) -> jax.Array:
    """``[rows]`` logits, a block of rows at a time."""
    rows = len(fields)
    blocks = jnp.pad(fields, ((0, -rows % BLOCK), (0, 0))).reshape(-1, BLOCK, fields.shape[1])
    return jax.lax.map(lambda block: model.logit(params, {"fields": block})[:, 0], blocks).reshape(-1)[:rows]


def auc(model: models.Ranking, params: Any, rows: data.Rows) -> jax.Array:
    """What is chosen by, and reported."""
    return metrics.auc(predict(model, params, rows.fields), rows.label)


def falling(hparams: Any, past: grid.History) -> Any:
    """A tenth of the learning rate after every validation that was not a member's best."""
    return hparams._replace(learning_rate=hparams.learning_rate * 0.1 ** grid.plateaus(past, patience=1))


def fit(
    name: str,
    recipe: train.Recipe,
    starts: Any,
    population: grid.Population,
    schedule: grid.Schedule,
    rows: dict[str, data.Rows],
    validate: Callable[[Any, data.Rows], jax.Array],
) -> grid.Fitted:
    """Trains a population on the train rows and keeps what validates best."""
    began = time.perf_counter()

    def progress(done: int, total: int, best: float | None) -> None:
        print(
            f"{name}: epoch {done} of at most {total}, best validation AUC {best}, {time.perf_counter() - began:.0f} s",
            flush=True,
        )

    with tempfile.TemporaryDirectory() as folder:
        return grid.fit(
            recipe,
            starts,
            population,
            data=rows["train"],
            rows=jnp.arange(len(rows["train"].label), dtype=jnp.int32),
            validate=validate,
            held_out=rows["valid"],
            schedule=schedule,
            folder=pathlib.Path(folder),
            progress=progress,
        )


def members(fitted: Any) -> list[Any]:
    """What belongs to each seed, of a population of one setting."""
    only = jax.tree.map(lambda leaf: np.asarray(leaf[:, 0]), fitted)
    seeds = len(jax.tree.leaves(only)[0])
    return [jax.tree.map(lambda leaf, seed=seed: leaf[seed], only) for seed in range(seeds)]
