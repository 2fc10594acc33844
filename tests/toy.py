"""One small problem that several files train on: matrix factorization of 24 users and 16 items by BPR."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from recjax import compress, evaluate, losses, train
from recjax.data import Interactions, Split, dataset
from recjax.families import inner_product
from recjax.models import MatrixFactorization, matrix_factorization

USERS, ITEMS, DIM = 24, 16, 4
MODEL = matrix_factorization(MatrixFactorization(users=USERS, items=ITEMS, dim=DIM))


class Hparams(NamedTuple):
    learning_rate: Any = 0.05
    sparsity: Any = 0.0
    bits: Any = 16.0


class Rows(NamedTuple):
    user: jax.Array
    item: jax.Array


def interactions(pairs: np.ndarray, users: int = USERS, items: int = ITEMS) -> Interactions:
    """A log of ``[rows, 2]`` positions; the raw ids are the positions as text."""
    user, item = np.asarray(pairs, np.int32).reshape(-1, 2).T
    return Interactions(user, item, np.arange(users).astype(str), np.arange(items).astype(str))


def logs() -> tuple[Interactions, Interactions]:
    """Train and held-out rows: a user likes items that leave the same remainder modulo 4."""
    rng = np.random.default_rng(5)
    likes = (np.arange(USERS)[:, None] % 4 == np.arange(ITEMS) % 4) | (rng.random((USERS, ITEMS)) < 0.1)
    pairs = rng.permutation(np.argwhere(likes))
    return interactions(pairs[: len(pairs) * 3 // 4]), interactions(pairs[len(pairs) * 3 // 4 :])


def held_out(k: int) -> tuple[evaluate.Ndcg, Any]:
    """NDCG at ``k`` of the held-out rows, and its data: what a grid validates by."""
    known, others = logs()
    data = dataset(Split(known, others, known.take(slice(0)), {}))
    assert data.users == USERS  # so positions are those of the logs
    return evaluate.validation(inner_product(MODEL), data, length=0, k=k, block=5)


def rows(log: Interactions) -> Rows:
    return Rows(jnp.asarray(log.user), jnp.asarray(log.item))


def gather(data: Rows, ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
    item = data.item[ids]  # a negative is any other item: quick to compile
    others = (jax.random.bits(key, item.shape) % (ITEMS - 1)).astype(jnp.int32)
    return {"user": data.user[ids], "item": item, "negative": (item + 1 + others) % ITEMS}


def loss(params: Any, batch: dict[str, jax.Array], hparams: Any, key: jax.Array) -> jax.Array:
    query = MODEL.query(params, batch)
    positive, negative = (jnp.sum(query * MODEL.items(params, batch[name]), axis=-1) for name in ("item", "negative"))
    return losses.bpr(positive, negative).mean()


def adam(hparams: Any) -> optax.GradientTransformation:
    return optax.adam(hparams.learning_rate)


def compression(*tables: str, every: int = 2) -> compress.Transform:
    """Tables pruned to ``sparsity`` and quantized to ``bits``."""
    return compress.chain(
        compress.magnitude_pruning(tables, sparsity=lambda hparams, step: hparams.sparsity, every=every),
        compress.row_quantization(tables, bits=lambda hparams: hparams.bits),
    )


PLAIN = train.Recipe(loss, adam, compress.chain(), gather)
COMPRESSED = train.Recipe(loss, adam, compression("item"), gather)  # one table: half as long to compile


def starts(seeds: int) -> dict[str, Any]:
    """Parameters, one set a seed."""
    rng = np.random.default_rng(1)
    shapes = {"user": (USERS, DIM), "item": (ITEMS, DIM), "item_bias": (ITEMS, 1)}
    tables = {name: rng.normal(size=(seeds, *shape)) / 10 for name, shape in shapes.items()}
    tables = {name: jnp.asarray(table, jnp.float32) for name, table in tables.items()}
    return {"tables": tables, "net": {}, "fixed": {}, "auxiliary": {}}


@functools.partial(jax.jit, static_argnums=0)
def start(recipe: train.Recipe, params: Any, hparams: Any) -> train.TrainState:
    """The state of a population before its first step; params lead with seeds, hparams with seeds and settings."""

    def of_seed(params: Any, hparams: Any, key: jax.Array) -> train.TrainState:
        return jax.vmap(lambda h: train.init_state(recipe, params, h, key), out_axes=train.MEMBER_AXES)(hparams)

    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(hparams)[0]))
    return jax.vmap(of_seed, out_axes=train.MEMBER_AXES)(params, hparams, keys)


def touched(batch: dict[str, jax.Array]) -> dict[str, jax.Array] | None:
    return MODEL.touched({"user": batch["user"], "item": jnp.concatenate([batch["item"], batch["negative"]])})


def same_bits(a: Any, b: Any) -> None:
    """Two pytrees are equal to the last bit; typed keys are compared by their data."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        x, y = (jax.random.key_data(v) if jax.dtypes.issubdtype(v.dtype, jax.dtypes.prng_key) else v for v in (x, y))
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape), path
        assert x.tobytes() == y.tobytes(), jax.tree_util.keystr(path)


@functools.partial(jax.jit, static_argnums=0)
def current(recipe, state, hparams):
    """What a population's parameters read as, members ``[seeds, settings]``."""
    member = functools.partial(train.current, recipe)
    return jax.vmap(jax.vmap(member, (train.MEMBER_AXES, 0)), (train.MEMBER_AXES, 0))(state, hparams)
