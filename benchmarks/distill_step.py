"""Distillation over a whole catalog of 25,181 items: a factorization of dim 400 teaches one of dim 20.

    python -m benchmarks distill_step --json benchmarks/results/distill_step.json

A step takes 256 of CiteULike's 5,219 users, scores every item for them by teacher and student, and moves the student by
Adam on KL at temperature 2, one member. The teacher is Gaussian: a step costs the same whatever it knows. What it says
is computed in the step ("scored") or once for all users, 0.5 GB ("cached"), the same for the peer: PyTorch, autograd
and ``torch.optim.Adam``. The losses of every step are compared first. What the steps lead to is in ``distill_time``.
Two cores; two minutes.

The bar is missed. The exponentials of 6.4 million scores of teacher and student, and arrays of 26 MB that pass through
memory several times forward and backward, are the same work on both sides, and so is a scored step's product of 400
dimensions: what a compiler saves is what it fuses.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._population import chunks
from benchmarks.measure import compare
from recjax import compress, losses, train
from recjax.models import MatrixFactorization, RetrievalModel, matrix_factorization

USERS, ITEMS, DIM, TEACHER_DIM, BATCH, TAU, RATE = 5219, 25181, 20, 400, 256, 2.0, 0.01
BAR = 3.0  # of issue 5, on two cores


class Hparams(NamedTuple):
    """Of the one member."""

    learning_rate: Any
    temperature: Any


def recipe_of(model: RetrievalModel, gather: Any) -> train.Recipe:
    """KL between the scores of all items, and Adam; a batch has ``user`` and the ``teacher``'s scores."""

    def loss(params: Any, batch: dict[str, jax.Array], hparams: Hparams, key: jax.Array) -> jax.Array:
        scores = model.query(params, batch) @ model.items(params).T
        return losses.soft_target_kl(scores, batch["teacher"], temperature=hparams.temperature).mean()

    return train.Recipe(loss, lambda hparams: optax.adam(hparams.learning_rate), compress.chain(), gather)


def torch_tables(params: Any) -> dict[str, Any]:
    """The student's tables in PyTorch."""
    import torch

    return {name: torch.from_numpy(np.array(x)).requires_grad_() for name, x in params["tables"].items()}


def torch_loop(tables: dict[str, Any], teach: Callable[[Any], Any], temperature: float) -> Callable[[Any], list[float]]:
    """The same steps in PyTorch: ``teach`` gives the teacher's scores of some users, the function takes batches."""
    import torch
    from torch.nn import functional as F

    optimizer = torch.optim.Adam(list(tables.values()), lr=RATE)

    def work(batches: Any) -> list[float]:
        found = []
        for rows in batches:
            optimizer.zero_grad()
            scores = tables["user"][rows] @ tables["item"].T + tables["item_bias"].T
            soft, mine = ((x / temperature).log_softmax(-1) for x in (teach(rows), scores))
            value = temperature**2 * F.kl_div(mine, soft, reduction="batchmean", log_target=True)
            value.backward()
            optimizer.step()
            found.append(value.detach())
        return [float(value) for value in found]

    return work


def run(
    users: int = USERS, items: int = ITEMS, batch: int = BATCH, steps: int = 4, repeats: int = 5
) -> list[dict[str, Any]]:
    """Ours beside PyTorch, the teacher scored in the step and cached."""
    import torch

    model = matrix_factorization(MatrixFactorization(users=users, items=items, dim=DIM))
    params = jax.jit(model.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    queries, vectors = (rng.normal(size=(n, TEACHER_DIM)).astype(np.float32) * 0.3 for n in (users, items))
    ids = rng.integers(0, users, (steps, batch))

    def scored(data: tuple[jax.Array, jax.Array], ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        return {"user": ids, "teacher": data[0][ids] @ data[1].T}

    def cached(data: jax.Array, ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        return {"user": ids, "teacher": data[ids]}

    q, v = torch.from_numpy(queries), torch.from_numpy(vectors)
    whole = queries @ vectors.T
    w = torch.from_numpy(whole)
    ways = (
        ("scored", scored, (jnp.asarray(queries), jnp.asarray(vectors)), lambda rows: q[rows] @ v.T),
        ("cached", cached, jnp.asarray(whole), lambda rows: w[rows]),
    )
    hparams = Hparams(jnp.full(1, RATE), jnp.full(1, TAU))
    found = []
    for name, gather, data, teach in ways:
        recipe = recipe_of(model, gather)
        ours = chunks(recipe, params, hparams, data, jnp.asarray(ids, jnp.int32))
        twin = torch_loop(torch_tables(params), teach, TAU)
        theirs = functools.partial(twin, torch.from_numpy(ids))
        np.testing.assert_allclose(ours()[:, 0], theirs(), rtol=1e-2)
        case = f"{items} items, teacher {name}, batch {batch} users"
        found.append(
            compare(
                "distill_step",
                case,
                ours,
                theirs,
                peer="PyTorch, the same step",
                package="torch",
                repeats=repeats,
                work=(steps * batch, steps * batch),
                unit="users/s",
                members=1,
                rows=items,
                bar=BAR,
            )
        )
    return found
