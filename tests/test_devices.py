"""A population on one device and the same on several: what it learns, what is exchanged, and what lies where."""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from toy import Hparams

from recjax import devices, embed, models, rows, train

OPTIMIZED = True

SEEDS, SETTINGS, STEPS, BATCH = 2, 8, 3, 8
DENSE = toy.PLAIN
BY_ROWS = toy.PLAIN._replace(rows=train.RowSparse(lambda hparams: rows.adagrad(hparams.learning_rate), toy.touched))
MASKED = toy.compression("item", every=STEPS)  # one mask, that of the first step: a flip later would tell nothing
COMPRESSED = BY_ROWS._replace(transform=MASKED)
HPARAMS = Hparams(
    *(
        jnp.broadcast_to(jnp.asarray(values, jnp.float32), (SEEDS, SETTINGS))
        for values in (np.linspace(0.01, 0.08, SETTINGS)[None], np.linspace(0, 0.7, SETTINGS)[None], 16.0)
    )
)
EXCHANGES = "all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter"


def arguments(count):
    """Ids, keys and data of a log in which a table's every part is touched; item rows below 16 are negatives too."""
    rng = np.random.default_rng(4)
    data = toy.Rows(*(jnp.asarray(rng.integers(count, size=64), jnp.int32) for _ in range(2)))
    ids = jnp.asarray(rng.integers(64, size=(STEPS, SEEDS, BATCH)), jnp.int32)
    return ids, jax.random.split(jax.random.key(2), SEEDS), data


def init(recipe, count):
    """The state of tables with so many rows."""
    model = models.matrix_factorization(models.MatrixFactorization(users=count, items=count, dim=toy.DIM))
    return toy.start(recipe, jax.vmap(model.init)(jax.random.split(jax.random.key(3), SEEDS)), HPARAMS)


@functools.cache
def laid_out(recipe, count, tables=(), **axes):
    """All that a chunk takes, put on a mesh, and the chunk compiled for it."""
    mesh, state = devices.mesh(**axes), init(recipe, count)
    state = jax.device_put(state, devices.state_layout(mesh, state, tables=tables))
    rest = jax.device_put((HPARAMS, *arguments(count), {}), devices.argument_layout(mesh))
    return (state, *rest), train.program(()).lower(recipe, state, *rest).compile()


def exchanged(program):
    """``[(kind, elements of each array)]`` of every collective operation of a compiled program."""
    found = re.findall(rf" = (.*?) ({EXCHANGES})(?:-start)?\(", program.as_text())
    shapes = ((kind, re.findall(r"\w+\[([\d,]*)\]", result)) for result, kind in found)
    return [(kind, [int(np.prod([int(n) for n in dims.split(",") if n])) for dims in all]) for kind, all in shapes]


@functools.cache
def on_one_device(recipe, count):
    return jax.device_get(train.run_chunk(recipe, init(recipe, count), HPARAMS, *arguments(count), {}))


def same(recipe, count, found):
    """Every number of the state, and the losses, are those of one device, up to the order of a sum."""
    expected = on_one_device(recipe, count)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, leaf), here in zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(found), strict=True):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf, here = jax.random.key_data(leaf), jax.random.key_data(here)
        np.testing.assert_allclose(here, leaf, rtol=2e-4, atol=2e-6, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    ("recipe", "members"), [(DENSE, 2), (COMPRESSED, 8)], ids=["two", "eight_by_rows_and_compressed"]
)
def test_members_apart_exchange_nothing(recipe, members):
    state, program = laid_out(recipe, 64, members=members)
    assert exchanged(program) == []
    after, values = program(*state)
    same(recipe, 64, (after, values))
    assert {leaf.sharding.num_devices for leaf in jax.tree.leaves(after)} == {members}
    shard = after.params["tables"]["user"].addressable_shards[0].data
    assert shard.shape == (SEEDS, SETTINGS // members, 64, toy.DIM)


def test_members_of_lightgcn_apart_exchange_nothing():
    edges = np.array([0, 0, 1, 3, 5]), np.array([1, 4, 4, 0, 2])
    model = models.lightgcn(models.LightGcn(users=6, items=5, dim=3, layers=2), *edges)

    def slopes(tables, fixed):
        def loss(tables):
            found = models.propagate({"tables": tables, "net": {}, "fixed": fixed, "auxiliary": {}}, 2)
            return sum(jnp.sum(jnp.square(table)) for table in found["tables"].values())

        return jax.grad(loss)(tables)

    every = jax.jit(jax.vmap(jax.vmap(slopes, in_axes=(0, None)), in_axes=(0, None)))
    keys = jax.random.split(jax.random.key(6), (SEEDS, SETTINGS))
    tables, fixed = jax.vmap(jax.vmap(model.init))(keys)["tables"], model.init(keys[0, 0])["fixed"]
    expected = every(tables, fixed)
    split, *_, shared = devices.argument_layout(devices.mesh(members=4))
    program = every.lower(jax.device_put(tables, split), jax.device_put(fixed, shared)).compile()
    assert exchanged(program) == []
    found = program(jax.device_put(tables, split), jax.device_put(fixed, shared))
    for name, slope in found.items():
        np.testing.assert_allclose(slope, expected[name], rtol=1e-6)
        assert slope.addressable_shards[0].data.shape[:2] == (SEEDS, SETTINGS // 4)


@pytest.mark.parametrize("batch", [2, 8])
def test_a_batch_apart_sums_its_gradients(batch):
    state, program = laid_out(DENSE, 64, batch=batch)
    same(DENSE, 64, program(*state))
    assert {kind for kind, _ in exchanged(program)} == {"all-reduce"}


@pytest.mark.parametrize(("members", "batch", "parts"), [(1, 1, 2), (1, 1, 8), (2, 2, 2)])
def test_rows_apart_exchange_what_the_batch_touches(members, batch, parts):
    count = 1024
    state, program = laid_out(BY_ROWS, count, ("user", "item"), members=members, batch=batch, rows=parts)
    sizes = [size for _, found in exchanged(program) for size in found]
    here, slots = SEEDS * SETTINGS // members, toy.DIM + 1
    assert sizes
    assert max(sizes) <= here * 2 * BATCH * slots < here * count // parts * toy.DIM  # items and negatives
    if parts == 8:  # nothing but the rows and the slots of users, items and negatives
        assert {kind for kind, _ in exchanged(program)} == {"all-reduce"}
        assert sum(sizes) == here * 3 * BATCH * (toy.DIM + slots)
    after, values = program(*state)
    same(BY_ROWS, count, (after, values))
    own = (SEEDS, SETTINGS // members, count // parts)
    for name, slots in after.optimizer.rows.items():
        expected = own if name in {"user", "item"} else (*own[:2], count)
        for leaf in (after.params["tables"][name], slots):
            assert {shard.data.shape[:3] for shard in leaf.addressable_shards} == {expected}


def test_what_is_exchanged_does_not_grow_with_the_tables():
    axes = {"members": 1, "batch": 1, "rows": 8}
    small, large = (laid_out(BY_ROWS, count, ("user", "item"), **axes)[1] for count in (1024, 2048))
    assert exchanged(small) == exchanged(large)
    grown = large.memory_analysis().temp_size_in_bytes - small.memory_analysis().temp_size_in_bytes
    assert grown == 0  # so no table is copied or gathered


def test_a_dense_step_splits_a_table_with_its_moments_and_its_mask():
    recipe = DENSE._replace(transform=MASKED)
    state = jax.eval_shape(functools.partial(init, recipe, 64))
    layout = devices.state_layout(devices.mesh(rows=8), state, tables={"item"})
    split = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(layout)
        if "rows" in leaf.spec
    }
    assert "params/tables/item" in split
    assert all(path.rsplit("/", 1)[-1] == "item" for path in split)
    moments = [path for path in split if path.startswith("optimizer")]
    masks = [path for path in split if path.startswith("compression")]
    assert (len(moments), len(masks), len(split)) == (2, 1, 4)


class Sum(NamedTuple):
    """A record of parts with rows of their own, and one without."""

    quotient: jax.Array
    remainder: jax.Array
    projection: jax.Array

    def touched(self, ids):
        return Sum(embed.touched(self.quotient, ids // 4), embed.touched(self.remainder, ids % 4), None)


def test_parts_of_a_record_are_split_by_their_own_rows():
    shapes = [(1, 2, rows, 6) for rows in (8, 4, 6)]
    table = Sum(*(jnp.zeros(shape) for shape in shapes))
    state = train.TrainState(
        {"tables": {"item": table}}, {}, {}, train.Moments((), {}), jnp.zeros((1, 2)), jnp.zeros(())
    )
    layout = devices.state_layout(devices.mesh(rows=2), state, tables={"item"})
    assert ["rows" in leaf.spec for leaf in layout.params["tables"]["item"]] == [True, True, False]


@pytest.mark.parametrize(
    ("axes", "tables", "message"),
    [
        ({"members": 3}, (), r"\.params.*: expected a multiple of 3 members, got 8"),
        ({"rows": 5}, {"item"}, r"\.params\['tables'\]\['item'\]: expected a multiple of 5 rows, got 64"),
        ({}, {"items"}, r"tables: expected names among .*'item_bias'.*, got \['items'\]"),
    ],
)
def test_what_does_not_divide_or_is_not_there(axes, tables, message):
    state = jax.eval_shape(functools.partial(init, DENSE, 64))
    with pytest.raises(ValueError, match=message):
        devices.state_layout(devices.mesh(**axes), state, tables=tables)
