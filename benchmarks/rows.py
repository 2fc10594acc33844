"""A training step of tables of 10,000 to 10,000,000 rows x 64, BPR on 4,096 triples, by rows and densely.

    python -m benchmarks rows --json benchmarks/results/rows.json

Half the rows are users and half are items, and a batch draws from all of them alike: what a cache can do for popular
items, it doesn't here. Ours is ``train.run_chunk`` with a recipe that trains by rows; the peers are the same recipe
with optax's Adam on whole tables, and PyTorch with the same loss on ``nn.Embedding``. The last case sets our step at
10,000,000 rows beside our own at 100,000. Two cores; five minutes and 20 GB.

Two bars are missed: a step at 10,000,000 rows was to take at most 1.7 times one at 100,000, and Adam at 1,000,000 to be
1.5 times as fast as SparseAdam, which does less: ours makes up for the steps that a row has missed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.measure import compare
from recjax import compress, embed, losses, rows, train

DIM, BATCH, STEPS, RATE = 64, 4096, 10, 1e-3
SIZES, DENSE = (10_000, 100_000, 1_000_000, 10_000_000), 1_000_000
REPEATS = 5


class Hparams(NamedTuple):
    """The one number that a step takes."""

    learning_rate: jax.Array


def _touched(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {"user": batch["user"], "item": jnp.concatenate([batch["positive"], batch["negative"]])}


def _loss(params: Any, batch: dict[str, jax.Array], hparams: Hparams, key: jax.Array) -> jax.Array:
    tables = params["tables"]
    user = embed.lookup(tables["user"], batch["user"])
    scores = (jnp.sum(user * embed.lookup(tables["item"], batch[name]), axis=-1) for name in ("positive", "negative"))
    return losses.bpr(*scores).mean()


def _gather(data: dict[str, jax.Array], ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
    return jax.tree.map(lambda column: column[ids], data)


DENSELY = train.Recipe(_loss, lambda hparams: optax.adam(hparams.learning_rate), compress.chain(), _gather)
ADAM, ADAGRAD = (
    DENSELY._replace(rows=train.RowSparse(lambda hparams, by=by: by(hparams.learning_rate), _touched))
    for by in (rows.adam, rows.adagrad)
)


def triples(size: int) -> dict[str, np.ndarray]:
    """``[STEPS * BATCH]`` int32 each, uniform."""
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(size // 2, size=STEPS * BATCH, dtype=np.int32) for name in ("user", "positive", "negative")
    }


def tables(size: int) -> dict[str, np.ndarray]:
    """``[size / 2, DIM]`` float32 each."""
    rng = np.random.default_rng(1)
    return {name: 0.1 * rng.standard_normal((size // 2, DIM), np.float32) for name in ("user", "item")}


def ours(recipe: train.Recipe, size: int) -> Callable[[], Any]:
    """A call trains one member for ``STEPS`` steps and gives its tables, ``[1, 1, rows, DIM]``."""
    hparams = Hparams(jnp.full((1, 1), RATE))
    data = jax.tree.map(jnp.asarray, triples(size))
    ids = jnp.arange(STEPS * BATCH, dtype=jnp.int32).reshape(STEPS, 1, BATCH)
    keys = jax.random.split(jax.random.key(0), 1)

    def of_member(tables: Any, hparams: Hparams, key: jax.Array) -> train.TrainState:
        params = {"tables": tables, "net": {}, "auxiliary": {}}
        return train.init_state(recipe, params, hparams, key)

    def start(tables: Any) -> train.TrainState:
        over = jax.vmap(of_member, out_axes=train.MEMBER_AXES)
        return jax.vmap(over, (0, 0, None), train.MEMBER_AXES)(tables, hparams, keys)

    whole = jax.tree.map(lambda table: jnp.asarray(table)[None, None], tables(size))
    held = [jax.jit(start, donate_argnums=0)(whole)]

    def work() -> Any:
        held[0], _ = jax.block_until_ready(train.run_chunk(recipe, held[0], hparams, ids, keys, data, {}))
        return held[0].params["tables"]

    return work


def torchs(optimizer: str, size: int, *, sparse: bool) -> Callable[[], Any]:
    """The same steps in PyTorch; ``optimizer`` is a name in ``torch.optim``."""
    import torch

    ids = {name: torch.from_numpy(column).long().view(STEPS, BATCH) for name, column in triples(size).items()}
    modules = {
        name: torch.nn.Embedding.from_pretrained(torch.from_numpy(table), freeze=False, sparse=sparse)
        for name, table in tables(size).items()
    }
    stepper = getattr(torch.optim, optimizer)([module.weight for module in modules.values()], lr=RATE)

    def work() -> Any:
        for at in range(STEPS):
            user = modules["user"](ids["user"][at])
            positive, negative = ((user * modules["item"](ids[name][at])).sum(-1) for name in ("positive", "negative"))
            stepper.zero_grad()
            torch.nn.functional.softplus(negative - positive).mean().backward()
            stepper.step()
        return {name: module.weight.detach() for name, module in modules.items()}

    return work


def check() -> None:
    """Adagrad and dense Adam train the same tables in both libraries."""
    pairs = ((ADAGRAD, "Adagrad", True), (DENSELY, "Adam", False))
    for recipe, optimizer, sparse in pairs:
        mine, other = ours(recipe, SIZES[0])(), torchs(optimizer, SIZES[0], sparse=sparse)()
        for name, table in other.items():
            np.testing.assert_allclose(np.asarray(mine[name])[0, 0], table.numpy(), rtol=0, atol=2e-5)


def run() -> list[dict[str, Any]]:
    """Every size beside every peer that can hold it."""
    check()
    found = []

    def add(mine: tuple[str, train.Recipe], peer: str, package: str, size: int, theirs: Callable[[], Any]) -> None:
        name, recipe = mine
        case = f"{name} by rows, {size} rows x {DIM}, {STEPS} steps of {BATCH} triples"
        row = compare(
            "rows", case, ours(recipe, size), theirs, peer=peer, package=package, repeats=REPEATS, members=1, rows=size
        )
        found.append(row)

    adam, adagrad = ("Adam", ADAM), ("Adagrad", ADAGRAD)
    for size in SIZES:
        add(adam, "torch.optim.SparseAdam", "torch", size, torchs("SparseAdam", size, sparse=True))
        add(adagrad, "torch.optim.Adagrad, sparse gradients", "torch", size, torchs("Adagrad", size, sparse=True))
        if size <= DENSE:
            add(adam, "optax.adam on whole tables", "optax", size, ours(DENSELY, size))
            add(adam, "torch.optim.Adam on whole tables", "torch", size, torchs("Adam", size, sparse=False))
    add(adam, f"our own step at {SIZES[1]} rows", "jax", SIZES[-1], ours(ADAM, SIZES[1]))
    return found
