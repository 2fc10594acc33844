"""Row-sparse optimizers beside dense Adam: validation NDCG@10 after every epoch, on the same batches.

Command:   python -m experiments.rows_convergence --json experiments/results/rows_convergence.json
Hardware:  two CPU cores, no accelerator
Wall time: a quarter of an hour; the seconds in the JSON that is committed have three quarters of an hour in them in
           which the process was stopped
Expected:  Adam by rows ends within two standard deviations of dense Adam on both data sets and its curve stays on
           dense Adam's; plain lazy Adam, Adagrad and row-wise Adagrad are what they are

Matrix factorization (dim 20, item biases) by BPR with one uniform negative, batches of 1,024, on MovieLens-100K (a
random tenth of each user's rows for validation) and CiteULike (the public random split). Each optimizer trains one
population of five seeds and three learning rates, whose best is chosen on validation; a seed's batches, negatives and
start are the same for every optimizer. On CiteULike about 1,300 users are evaluated.
"""

import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.real import DATA
from experiments.record import over_seeds
from recjax import compress, data, evaluate, families, grid, losses, machine, rows, train
from recjax.families import objectives
from recjax.files import write_json
from recjax.models import MatrixFactorization, RetrievalModel, matrix_factorization
from recjax.provenance import provenance

COMMAND = "python -m experiments.rows_convergence --json experiments/results/rows_convergence.json"
SEEDS, EPOCHS, BATCH, DIM, K = range(5), 25, 1024, 20, 10
CELLS = 2**25  # users x items that are ranked
DENSE = "dense Adam (optax)"


class Hparams(NamedTuple):
    """What is swept."""

    learning_rate: Any


def lazy_adam(learning_rate: Any) -> rows.RowOptimizer:
    """Adam as ``torch.optim.SparseAdam`` has it: rows that a batch doesn't touch stand still, moments included."""
    dense = optax.adam(learning_rate)

    def init(table: jax.Array) -> jax.Array:
        return jnp.zeros((table.shape[0], 2 * table.shape[1]), table.dtype)

    def update(slots: jax.Array, values: jax.Array, grads: jax.Array, step: Any) -> tuple[jax.Array, jax.Array]:
        first, second = jnp.split(slots, 2, axis=1)
        state = (optax.ScaleByAdamState(jnp.asarray(step), first, second), *dense.init(values)[1:])
        updates, (after, *_) = dense.update(grads, state)
        return jnp.concatenate([after.mu, after.nu], axis=1), values + updates

    return rows.RowOptimizer(init, lambda slots, values, step: (slots, values), update)


OPTIMIZERS = {  # and the learning rates to choose from; None trains densely
    DENSE: (None, (1e-3, 3e-3, 1e-2)),
    "Adam by rows": (rows.adam, (1e-3, 3e-3, 1e-2)),
    "lazy Adam": (lazy_adam, (1e-3, 3e-3, 1e-2)),
    "Adagrad by rows": (rows.adagrad, (0.03, 0.1, 0.3)),
    "row-wise Adagrad": (rows.rowwise_adagrad, (0.03, 0.1, 0.3)),
}


def splits() -> dict[str, data.Split]:
    """The two data sets."""
    movies = data.read(DATA / "ml-100k" / "ml-100k.inter.gz")
    papers = (DATA / "citeulike-random" / f"{part}.tsv.gz" for part in ("train", "valid", "test"))
    return {"ml-100k": data.split_random(movies, 0), "citeulike": data.read_split(*papers)}


def make_recipe(model: RetrievalModel, items: int, optimizer: Any) -> train.Recipe:
    """BPR on a batch of rows with one negative each."""

    def gather(log: tuple[jax.Array, jax.Array, data.Seen], ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        user, item, seen = log[0][ids], log[1][ids], log[2]
        negative = data.uniform_negatives(key, user, seen, items=items, count=1)[:, 0]
        return {"user": user, "item": jnp.stack([item, negative])}

    def loss(params: Any, batch: dict[str, jax.Array], hparams: Hparams, key: jax.Array) -> jax.Array:
        pairs = model.items(params, batch["item"])
        positive, negative = jnp.einsum("pbd,bd->pb", pairs, model.query(params, batch))
        return losses.bpr(positive, negative).mean()

    by_rows = optimizer and train.RowSparse(lambda hparams: optimizer(hparams.learning_rate), model.touched)
    return train.Recipe(loss, lambda hparams: optax.adam(hparams.learning_rate), compress.chain(), gather, by_rows)


def curves(split: data.Split, epochs: int) -> dict[str, np.ndarray]:
    """Validation NDCG, ``[epochs, seeds, rates]`` an optimizer."""
    dataset = data.dataset(split)
    model = matrix_factorization(MatrixFactorization(users=dataset.users, items=dataset.items, dim=DIM))
    arrays = (*objectives.pair_arrays(dataset), objectives.seen(dataset))
    score = families.inner_product(model)
    validate, held_out = evaluate.validation(score, dataset, length=0, k=K, block=64, cells=CELLS)
    starts = jax.vmap(model.init)(jax.vmap(jax.random.key)(jnp.array(SEEDS)))
    found = {}
    for name, (optimizer, rates) in OPTIMIZERS.items():
        found[name] = grid.fit(
            make_recipe(model, dataset.items, optimizer),
            starts,
            grid.population(Hparams(0.0), grid.product(learning_rate=rates, seed=SEEDS)),
            data=arrays,
            rows=jnp.arange(len(arrays[0]), dtype=jnp.int32),
            validate=validate,
            held_out=held_out,
            schedule=grid.Schedule(epochs=epochs, batch_size=BATCH, patience=epochs),
        ).valid_curve
    return found


def summary(found: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One row an optimizer: the best learning rate's curve, and how far from dense Adam's at the same rate."""
    lines = []
    goal = 0.99 * found[DENSE].mean(axis=1).max()
    for name, curve in found.items():
        means = curve.mean(axis=1)
        epoch, at = np.unravel_index(means.argmax(), means.shape)
        own, dense = curve[:, :, at], found[DENSE][:, :, at]
        reached = np.flatnonzero(means[:, at] >= goal)
        same = OPTIMIZERS[name][1] == OPTIMIZERS[DENSE][1]
        validation = over_seeds(own[epoch])
        lines.append(
            {
                "optimizer": name,
                "learning_rate": OPTIMIZERS[name][1][at],
                "best_epoch": int(epoch) + 1,
                "valid_ndcg@10": validation["mean"],
                "valid_ndcg@10_sd": validation["sd"],
                "epochs_to_99%_of_dense": int(reached[0]) + 1 if len(reached) else None,
                "largest_gap_to_dense_at_this_rate": float(np.abs(means[:, at] - dense.mean(axis=1)).max())
                if same
                else None,
                "curve": means[:, at].tolist(),
                "by_rate": {str(rate): float(means[:, i].max()) for i, rate in enumerate(OPTIMIZERS[name][1])},
            }
        )
    return lines


def run(epochs: int = EPOCHS) -> dict[str, Any]:
    """Everything that the JSON holds."""
    about, start = provenance(COMMAND), time.perf_counter()
    figures = {name: summary(curves(split, epochs)) for name, split in splits().items()}
    settings = {"seeds": len(SEEDS), "epochs": epochs, "batch": BATCH, "dim": DIM, "judged_cells": CELLS}
    return {**about, "seconds": time.perf_counter() - start, "config": settings, "figures": figures}


def main(json: pathlib.Path | None = None, epochs: int = EPOCHS) -> None:
    """Trains with every optimizer and prints how each converges.

    Args:
      json: where to write the figures too; nowhere if not given.
      epochs: passes over the training rows.
    """
    machine.one_device_per_core()
    machine.enable_compilation_cache()
    figures = run(epochs)
    for name, lines in figures["figures"].items():
        for line in lines:
            print(
                f"{name:10} {line['optimizer']:20} rate {line['learning_rate']:g}, epoch {line['best_epoch']}: "
                f"{line['valid_ndcg@10']:.4f} ± {line['valid_ndcg@10_sd']:.4f}; 99% of dense Adam after "
                f"{line['epochs_to_99%_of_dense']} epochs; largest gap {line['largest_gap_to_dense_at_this_rate']}"
            )
    print(f"{figures['seconds']:.0f} s")
    if json is not None:
        write_json(figures, json)


if __name__ == "__main__":
    import tyro  # of the extra "run": reading this file for its functions doesn't need it

    tyro.cli(main)
