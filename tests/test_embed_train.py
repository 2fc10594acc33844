"""Compressed tables trained by the training step, by rows and densely, all in one program each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from embed_cases import DIM, INIT, ROWS, TRAINED, table_of
from toy import Hparams, current

from recjax import artifact, embed, models, rows, train

USERS, STEPS, BATCH = 6, 4, 5
FACTORS = models.matrix_factorization(models.MatrixFactorization(users=USERS, items=ROWS, dim=DIM))
FIXED = {"user": jnp.linspace(-1, 1, USERS * 2).reshape(USERS, 2), "item": jnp.linspace(1, -1, ROWS).reshape(ROWS, 1)}
TOWERS = models.two_tower(
    models.TwoTower(users=USERS, items=ROWS, user_features=2, item_features=1, dim=DIM, hidden=5),
    FIXED["user"],
    FIXED["item"],
)
KINDS = [*INIT, "product quantized", "low rank of quantized"]


def gather(data, ids, key):
    user, item = data.user[ids], data.item[ids]
    return {"user": user, "item": item, "negative": (item + 1 + user) % ROWS}


def fit(query, pair):
    """Scores of pairs pulled to 1 and of negatives to -1: unlike their difference, this moves an item's bias too."""
    return jnp.square(jnp.einsum("bd,kbd->kb", query, pair) - jnp.array([[1.0], [-1.0]])).mean()


def pair_of(batch):
    return jnp.stack([batch["item"], batch["negative"]])


def touched(batch):
    items = pair_of(batch)
    return {"user": batch["user"], "item": items, "item_bias": items}


def loss_of_all(params, batch, hparams, key):
    tables = params["tables"]
    shared = {name: tables[name] for name in ("user", "item_bias")}
    query, ids = FACTORS.query(params, batch), pair_of(batch)
    of_each = [fit(query, FACTORS.items({**params, "tables": {**shared, "item": tables[kind]}}, ids)) for kind in KINDS]
    return sum(of_each) + tables["learned product"].commitment(batch["item"]).mean()


def touched_of_all(batch):
    ids = touched(batch)
    return {"user": ids["user"], "item_bias": ids["item_bias"], **dict.fromkeys(KINDS, ids["item"])}


def run(recipe, tables, net, fixed):
    """The parameters of one member after a few steps."""
    data = toy.Rows(jnp.arange(20) % USERS, jnp.arange(20) % 9)  # items from 10 on are touched as negatives or not
    ids = jnp.asarray(np.random.default_rng(2).integers(20, size=(STEPS, 1, BATCH)), jnp.int32)
    params = jax.tree.map(lambda leaf: np.asarray(leaf)[None], {"tables": tables, "net": net, "auxiliary": {}})
    hparams = jax.tree.map(lambda leaf: jnp.full((1, 1), leaf, jnp.float32), Hparams())
    state = toy.start(recipe, params, hparams)
    state, values = train.run_chunk(recipe, state, hparams, ids, jax.random.split(jax.random.key(2), 1), data, fixed)
    assert np.isfinite(values).all()
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0, 0], current(recipe, state, hparams))


def dense(loss):
    return toy.PLAIN._replace(loss=loss, gather=gather, optimizer=lambda hparams: optax.adagrad(hparams.learning_rate))


def by_rows(loss, ids):
    optimizer = lambda hparams: rows.adagrad(hparams.learning_rate, initial=0.1)  # noqa: E731
    return dense(loss)._replace(rows=train.RowSparse(optimizer, ids))


@functools.cache
def trained_of_all():
    shared = {"user": TRAINED[:USERS], "item_bias": np.zeros((ROWS, 1), np.float32)}
    tables = shared | {kind: table_of(kind) for kind in KINDS}
    return [run(recipe, tables, {}, {}) for recipe in (dense(loss_of_all), by_rows(loss_of_all, touched_of_all))]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_float_trains_by_rows_as_densely_and_the_rest_stays(kind, tmp_path):
    before, (whole, few) = table_of(kind), (params["tables"][kind] for params in trained_of_all())
    assert jax.tree.structure(whole) == jax.tree.structure(few) == jax.tree.structure(before)
    is_packed = lambda part: isinstance(part, embed.Packed)  # noqa: E731
    for was, one, other in zip(*(jax.tree.leaves(t, is_leaf=is_packed) for t in (before, whole, few)), strict=True):
        if is_packed(was) or was.dtype != jnp.float32:
            toy.same_bits(one, was)
            toy.same_bits(other, was)
        else:
            assert np.abs(np.asarray(one) - np.asarray(was)).max() > 0.01
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=2e-5)
    artifact.save_params(tmp_path / "weights.safetensors", {"item": few})
    toy.same_bits(artifact.load_params(tmp_path / "weights.safetensors")["item"], few)


def test_a_two_tower_trains_on_a_record_with_whole_numbers():
    loss = lambda params, batch, hparams, key: fit(TOWERS.query(params, batch), TOWERS.items(params, pair_of(batch)))  # noqa: E731
    start, pruned = TOWERS.init(jax.random.key(3)), table_of("pruned rows")
    found = run(by_rows(loss, touched), start["tables"] | {"item": pruned}, start["net"], start["fixed"])
    item = found["tables"]["item"]
    assert np.abs(item.table - np.asarray(pruned.table)).max() > 0.01
    toy.same_bits((item.words, item.before), (pruned.words, pruned.before))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
