"""Seconds to equal validation quality: distilling over every user once, over every interaction, and in PyTorch.

    RECJAX_DATA=FOLDER python -m benchmarks distill_time --json benchmarks/results/distill_time.json

CiteULike's public random split. A factorization of dim 400, trained by BPR and kept at its best validation, teaches one
of dim 20 by KL over all 25,181 items, Adam, batches of 256. What differs is whom a batch holds:

    over users          every user once an epoch: 20 steps
    over interactions   the users of the train rows, as often as they have some: 384 steps
    PyTorch             over users: the same batches and steps from the same start, autograd and ``torch.optim.Adam``

Every 20 steps the clock stops and NDCG@10 is taken on the validation part. The time counted is that until 99% of the
lowest of the three best values is first reached, so that all three reach it; by turns, a seed a turn. Compilation is
not counted. Two cores; ten minutes.
"""

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import grid_mf
from benchmarks.distill_step import BATCH, DIM, RATE, TEACHER_DIM, Hparams, recipe_of, torch_loop, torch_tables
from benchmarks.measure import row
from recjax import data, evaluate, grid, train
from recjax.families import inner_product, objectives
from recjax.models import MatrixFactorization, RetrievalModel, matrix_factorization

SEEDS, VALIDATIONS, EVERY, K, TAU = 3, 40, 20, 10, 1.0
TEACHER_RATE, TEACHER_EPOCHS = 1e-3, 15

Curve = list[tuple[float, float]]  # seconds of training so far, NDCG then


def taught(dataset: data.Dataset, dim: int, epochs: int) -> tuple[RetrievalModel, Any]:
    """The teacher at its best validation."""
    model, recipe = grid_mf.recipe(dataset.users, dataset.items, dim=dim)
    validate, held_out = evaluate.validation(inner_product(model), dataset, length=0, k=K, block=64)
    user, item = objectives.pair_arrays(dataset)
    fitted = grid.fit(
        recipe._replace(gather=grid_mf.drawn(dataset.items)),
        jax.vmap(model.init)(jax.random.key(99)[None]),
        grid.population(grid_mf.Hparams(TEACHER_RATE, 0.0), grid.product(learning_rate=[TEACHER_RATE])),
        data=(user, item, objectives.seen(dataset)),
        rows=jnp.arange(len(user), dtype=jnp.int32),
        validate=validate,
        held_out=held_out,
        schedule=grid.Schedule(epochs=epochs, batch_size=min(1024, len(user)), patience=3),
    )
    return model, {**jax.tree.map(lambda leaf: leaf[0, 0], fitted.params), "fixed": {}}


def batches(rng: np.random.Generator, users: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    """``[EVERY, batch]`` users at a time, shuffled anew when they have all been seen."""
    waiting = np.zeros(0, np.int32)
    while True:
        while len(waiting) < EVERY * batch:
            waiting = np.concatenate([waiting, rng.permutation(users)])
        yield waiting[: EVERY * batch].reshape(EVERY, batch).astype(np.int32)
        waiting = waiting[EVERY * batch :]


def timed(
    chunk: Callable[[np.ndarray], Any], validate: Callable[[], float], ids: Iterator[np.ndarray], n: int
) -> Curve:
    """Trains for ``n`` chunks, on a clock that stops for each validation."""
    spent, curve = 0.0, []
    for _ in range(n):
        rows = next(ids)
        start = time.perf_counter()
        chunk(rows)
        spent += time.perf_counter() - start
        curve.append((spent, validate()))
    return curve


def until(curve: Curve, goal: float) -> float:
    """Seconds to the first value that reaches a goal."""
    return next(seconds for seconds, value in curve if value >= goal)


def run(
    split: data.Split | None = None,
    seeds: int = SEEDS,
    validations: int = VALIDATIONS,
    batch: int = BATCH,
    teacher_dim: int = TEACHER_DIM,
    teacher_epochs: int = TEACHER_EPOCHS,
) -> list[dict[str, Any]]:
    """Three ways to one quality."""
    import torch

    if split is None:
        folder = pathlib.Path(os.environ["RECJAX_DATA"], "citeulike-random")
        split = data.read_split(*(folder / f"{part}.tsv.gz" for part in ("train", "valid", "test")))
    dataset = data.dataset(split)
    teacher, knows = taught(dataset, teacher_dim, teacher_epochs)
    scores = teacher.query(knows, {"user": jnp.arange(dataset.users)}) @ teacher.items(knows).T
    theirs = torch.from_numpy(np.array(scores))
    model = matrix_factorization(MatrixFactorization(users=dataset.users, items=dataset.items, dim=DIM))
    recipe = recipe_of(model, lambda scores, ids, key: {"user": ids, "teacher": scores[ids]})
    validate, held_out = evaluate.validation(inner_product(model), dataset, length=0, k=K, block=64)
    ndcg = jax.jit(lambda tables: validate({"tables": tables, "fixed": {}}, held_out))
    hparams = Hparams(jnp.full((1, 1), RATE), jnp.full((1, 1), TAU))
    users = np.asarray(objectives.pair_arrays(dataset)[0])
    everybody = np.unique(users)

    def start(seed: int) -> Any:
        return jax.jit(model.init)(jax.random.key(seed))

    def ours(seed: int, users: np.ndarray, n: int) -> Curve:
        key = jax.random.key(seed)
        state = train.init_state(recipe, start(seed), Hparams(RATE, TAU), key)
        kept = [jax.tree.map(lambda leaf: leaf[None, None], state._replace(step=None))._replace(step=state.step)]

        def chunk(ids: np.ndarray) -> None:
            kept[0], _ = train.run_chunk(recipe, kept[0], hparams, jnp.asarray(ids)[:, None], key[None], scores, {})
            jax.block_until_ready(kept[0])

        def quality() -> float:
            return float(ndcg(jax.tree.map(lambda leaf: leaf[0, 0], kept[0].params["tables"])))

        return timed(chunk, quality, batches(np.random.default_rng(seed), users, batch), n)

    def in_torch(seed: int, n: int) -> Curve:
        tables = torch_tables(start(seed))
        work = torch_loop(tables, lambda rows: theirs[rows], TAU)

        def quality() -> float:
            return float(ndcg({name: jnp.asarray(table.detach().numpy()) for name, table in tables.items()}))

        every = batches(np.random.default_rng(seed), everybody, batch)
        return timed(lambda ids: work(torch.from_numpy(ids).long()), quality, every, n)

    ours(0, everybody, 1)  # compiles
    in_torch(0, 1)
    curves = [
        {
            "over users": ours(seed, everybody, validations),
            "over interactions": ours(seed, users, validations),
            "PyTorch, over users": in_torch(seed, validations),
        }
        for seed in range(seeds)
    ]
    goal = 0.99 * min(max(value for _, value in curve) for turn in curves for curve in turn.values())
    times = {name: [until(turn[name], goal) for turn in curves] for name in curves[0]}
    best = {name: [max(value for _, value in turn[name]) for turn in curves] for name in curves[0]}
    of_teacher = dataclasses.replace(validate, score=inner_product(teacher))
    taught_to = float(jax.jit(of_teacher)(knows, held_out))
    return [
        row(
            "distill_time",
            f"{dataset.items} items, NDCG@{K} of {goal:.4f} on validation (teacher {taught_to:.4f}), {mine}",
            times[mine],
            times[peer],
            peer=peer,
            package=package,
            members=1,
            rows=dataset.items,
            best_ours=float(np.mean(best[mine])),
            best_theirs=float(np.mean(best[peer])),
        )
        for mine, peer, package in (
            ("over users", "PyTorch, over users", "torch"),
            ("over users", "over interactions", "jax"),
        )
    ]
