"""BPR matrix factorization of CiteULike's size, dim 20, batches of 2,048 triples: 1, 8 and 64 members at once.

    python -m benchmarks grid_mf --json benchmarks/results/grid_mf.json

A member has its own learning rate and weight decay (decoupled, as AdamW's); all see the same triples, drawn beforehand
and uniform. Ours is ``train.run_chunk`` with the tables trained by the rows that a batch touches, members spread over
one JAX device a core. The peer trains one member after the other: ``nn.Embedding`` and an optimizer of
``torch.optim``, both dense. :func:`recjax.rows.adam` is AdamW and :func:`recjax.rows.adagrad` Adagrad, the same
algorithms, so the losses are compared before anything is timed. Two cores; four minutes.

The bar is missed. A step of a member gathers and scatters 6,144 rows of values and of what the optimizer keeps, which
XLA does element by element on a CPU, the more so for Adam, which keeps twice as much as Adagrad. The peer sweeps over
whole tables, which at 30,400 rows costs little: how that grows with the table is what ``rows`` measures.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._population import chunks
from benchmarks.measure import compare
from recjax import compress, losses, train
from recjax.data import Seen, uniform_negatives
from recjax.machine import one_device_per_core
from recjax.models import MatrixFactorization, matrix_factorization
from recjax.rows import RowOptimizer, adagrad, adam

USERS, ITEMS, DIM, BATCH = 5219, 25181, 20, 2048
SIZES = (1, 8, 64)
OPTIMIZERS = {"AdamW": adam, "Adagrad": adagrad}  # those of torch.optim, and the same by rows
BARS = {8: 5.0}  # of issue 5, on two cores


class Hparams(NamedTuple):
    """What the members differ in."""

    learning_rate: Any
    weight_decay: Any


def recipe(
    users: int, items: int, optimizer: Callable[..., RowOptimizer] = adam, dim: int = DIM
) -> tuple[Any, train.Recipe]:
    """The model, and how it is trained: BPR, and an optimizer of touched rows."""
    model = matrix_factorization(MatrixFactorization(users=users, items=items, dim=dim))

    def loss(params: Any, batch: dict[str, jax.Array], hparams: Hparams, key: jax.Array) -> jax.Array:
        pairs = model.items(params, batch["item"])  # [batch, 2, dim], read at once
        scores = jnp.einsum("bpd,bd->bp", pairs, model.query(params, batch))
        return losses.bpr(scores[:, 0], scores[:, 1]).mean()

    return model, train.Recipe(
        loss=loss,
        optimizer=lambda hparams: optax.identity(),  # nothing is left outside of the tables
        transform=compress.chain(),
        gather=lambda data, ids, key: {
            "user": data["user"][ids],
            "item": jnp.stack([data["positive"][ids], data["negative"][ids]], axis=1),
        },
        rows=train.RowSparse(
            optimizer=lambda hparams: optimizer(hparams.learning_rate, weight_decay=hparams.weight_decay),
            touched=model.touched,
        ),
    )


def drawn(items: int) -> Callable[..., dict[str, jax.Array]]:
    """How a batch is gathered from users, items and what every user has: a negative for each row is drawn."""

    def gather(rows: tuple[jax.Array, jax.Array, Seen], ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        user, item, seen = rows[0][ids], rows[1][ids], rows[2]
        negative = uniform_negatives(key, user, seen, items=items, count=1)
        return {"user": user, "item": jnp.concatenate([item[:, None], negative], axis=1)}

    return gather


def torch_loop(
    params: Any, hparams: Hparams, data: dict[str, jax.Array], ids: jax.Array, name: str
) -> Callable[[], list[float]]:
    """One member's steps in PyTorch by an optimizer of ``torch.optim``; ``hparams`` are scalars."""
    import torch

    tables = {name: torch.from_numpy(np.array(table)) for name, table in params["tables"].items()}
    tables = {name: torch.nn.Embedding.from_pretrained(table, freeze=False) for name, table in tables.items()}
    columns = {name: torch.from_numpy(np.array(column)).long() for name, column in data.items()}
    rate, decay = (float(x) for x in hparams)
    weights = [table.weight for table in tables.values()]
    optimizer = getattr(torch.optim, name)(weights, lr=rate, weight_decay=decay)
    batches = torch.from_numpy(np.array(ids)).long()

    def score(query: Any, items: Any) -> Any:
        return (query * tables["item"](items)).sum(-1) + tables["item_bias"](items)[:, 0]

    def run() -> list[float]:
        found = []
        for rows in batches:
            optimizer.zero_grad()
            query = tables["user"](columns["user"][rows])
            gap = score(query, columns["positive"][rows]) - score(query, columns["negative"][rows])
            loss = -torch.nn.functional.logsigmoid(gap).mean()
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return [float(loss) for loss in found]

    return run


def run(
    sizes: tuple[int, ...] = SIZES, users: int = USERS, items: int = ITEMS, steps: int = 48, repeats: int = 5
) -> list[dict[str, Any]]:
    """Ours beside the peer at each size, checked to give the same losses."""
    one_device_per_core()
    keys = jax.random.split(jax.random.key(0), 5)
    triples = 8 * BATCH
    data = {
        name: jax.random.randint(key, (triples,), 0, rows)
        for name, rows, key in zip(("user", "positive", "negative"), (users, items, items), keys[:3], strict=True)
    }
    ids = jax.random.randint(keys[3], (steps, BATCH), 0, triples)
    rows = []
    for name, optimizer in OPTIMIZERS.items():
        model, how = recipe(users, items, optimizer)
        params = jax.jit(model.init)(keys[4])
        for count in sizes:
            # PyTorch's Adagrad has no decoupled decay.
            decays = jnp.linspace(0.0, 0.01 if optimizer is adam else 0.0, count)
            hparams = Hparams(jnp.linspace(0.001, 0.01, count), decays)
            few = ids[: max(2, steps * 8 // max(count, 8))]
            first = jax.tree.map(lambda x: x[0], hparams)
            ours, theirs = chunks(how, params, hparams, data, few), torch_loop(params, first, data, ids, name)
            np.testing.assert_allclose(ours()[:, 0], theirs()[: len(few)], rtol=1e-3)
            rows.append(
                compare(
                    "grid_mf",
                    f"{users} users x {items} items x {DIM}, batch {BATCH}, {name}",
                    ours,
                    theirs,
                    peer=f"PyTorch loop, dense {name}",
                    package="torch",
                    repeats=repeats,
                    work=(count * len(few), steps),
                    unit="student-steps/s",
                    members=count,
                    rows=users + items,
                    bar=BARS.get(count),
                )
            )
    return rows
