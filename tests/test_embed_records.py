"""Compressed tables, all by one battery: twins, ids of every kind, views, gradients, bytes, files, training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from jax.test_util import check_grads
from references import tables as twins

from recjax import artifact, embed, models, prune, quantize
from recjax.embed import lookup

ROWS, DIM = 22, 8
KEY = jax.random.key(3)
KEEP = np.random.default_rng(0).random(ROWS) < 0.6
CUTS = dict(rows=(3, 4, 2), dims=(2, 2, 2), ranks=(3, 2))
TRAINED = np.asarray(jax.random.normal(jax.random.key(9), (ROWS, DIM)))

INIT = {
    "hashed": lambda: embed.hashed(KEY, ROWS, DIM, buckets=5, sd=0.5),
    "quotient sum": lambda: embed.quotient_sum(KEY, ROWS, DIM, buckets=5, sd=0.5),
    "quotient product": lambda: embed.quotient_product(KEY, ROWS, DIM, buckets=5, sd=0.5),
    "quotient concat": lambda: embed.quotient_concat(KEY, ROWS, DIM, buckets=5, width=3, sd=0.5),
    "mem com": lambda: embed.mem_com(KEY, ROWS, DIM, buckets=5, sd=0.5),
    "low rank": lambda: embed.low_rank(KEY, ROWS, DIM, rank=3, sd=0.5),
    "tensor train": lambda: embed.tensor_train(KEY, ROWS, **CUTS, sd=0.5),
    "learned product": lambda: embed.learned_product(KEY, ROWS, DIM, parts=2, codes=5, sd=0.5),
    "deep hash": lambda: embed.deep_hash(KEY, ROWS, DIM, hashes=4, widths=(6, 5), sd=0.5),
    "robe": lambda: embed.robe(KEY, ROWS, DIM, size=13, block=4, sd=0.5),
    "pruned rows": lambda: embed.pruned_rows(jnp.asarray(TRAINED), KEEP),
    "mixed dims": lambda: embed.mixed_dims(KEY, (4, 18), DIM, widths=(8, 2), sd=0.5),
    "pruned low rank": lambda: embed.LowRank(
        embed.pruned_rows(jnp.asarray(TRAINED[:, :3]), KEEP), jnp.asarray(TRAINED[:3])
    ),
}
PACKED = {
    "product quantized": lambda: embed.pack_product(INIT["learned product"]()),
    "low rank of quantized": lambda: embed.quantized(INIT["low rank"](), bits=4),
    "pruned of quantized": lambda: embed.quantized(INIT["pruned rows"](), bits=2),
    "quotients of quantized": lambda: embed.quantized(INIT["quotient product"](), bits=8),
    "rows with scale and bias": lambda: quantize.quantize_rows(jnp.asarray(TRAINED), bits=4),
}
BYTES = {  # the formulas of the docstrings
    "hashed": 4 * 5 * 8,
    "quotient sum": 4 * (5 + 5) * 8,
    "quotient product": 4 * (5 + 5) * 8,
    "quotient concat": 4 * (5 * 5 + 5 * 3),
    "mem com": 4 * (5 * 8 + 22),
    "low rank": 4 * 3 * (22 + 8),
    "tensor train": 4 * (3 * 2 * 3 + 4 * 3 * 2 * 2 + 2 * 2 * 2),
    "learned product": 4 * (22 + 5) * 8,
    "deep hash": 4 * (5 * 6 + 7 * 5 + 6 * 8),
    "robe": 4 * 13,
    "pruned rows": 4 * int(KEEP.sum()) * 8 + 8,
    "mixed dims": 4 * (8 * (4 + 8) + 2 * (18 + 8)),
    "product quantized": 22 * 1 + 4 * 5 * 8,  # two codes of 3 bits
    "low rank of quantized": 22 * (2 + 2) + 4 * 3 * 8,
    "rows with scale and bias": 22 * (4 + 4),
    "masked": 4 * 22 * 8 + 22,
    "fake quantized": 4 * 22 * 8 + 4,
    "fake quantized, packed": 22 * (3 + 2),
    "learned step": 4 * 22 * 8 + 4 * 22 + 4,
    "learned step, packed": 22 * 3 + 2 * 22,
    "bitmap": 22 + 4 * 40,
    "bitmap of packed": 22 + 15 + 2 * 22,  # 40 kept of 3 bits
}
MASK = (np.arange(ROWS * DIM) < 40).reshape(ROWS, DIM)
STEP = jnp.full((ROWS, 1), 0.25)
AT_REST = {
    "masked": lambda: embed.Masked(jnp.asarray(TRAINED), jnp.asarray(MASK)),
    "fake quantized": lambda: embed.FakeQuantized(jnp.asarray(TRAINED), jnp.float32(3)),
    "fake quantized, packed": lambda: quantize.quantize(jnp.asarray(TRAINED), bits=3, axis=0),
    "learned step": lambda: embed.LearnedStep(jnp.asarray(TRAINED), STEP, jnp.float32(3)),
    "learned step, packed": lambda: quantize.quantize_with(
        jnp.asarray(TRAINED), quantize.usable_step(STEP), bits=3, full_range=True
    ),
    "bitmap": lambda: prune.sparsify(jnp.asarray(TRAINED), jnp.asarray(MASK)),
    "bitmap of packed": lambda: prune.sparsify(AT_REST["fake quantized, packed"](), jnp.asarray(MASK)),
}


@functools.cache
def table_of(kind):
    return (INIT | PACKED | AT_REST)[kind]()


def twin_of(kind):
    t = table_of(kind)
    return {
        "hashed": lambda: twins.hashed(t.table, ROWS),
        "quotient sum": lambda: twins.quotient_remainder(t.quotient, t.remainder, ROWS, np.add),
        "quotient product": lambda: twins.quotient_remainder(t.quotient, t.remainder, ROWS, np.multiply),
        "quotient concat": lambda: twins.quotient_remainder(
            t.quotient, t.remainder, ROWS, lambda a, b: np.concatenate([a, b])
        ),
        "mem com": lambda: twins.mem_com(np.asarray(t.table), np.asarray(t.scale)),
        "low rank": lambda: np.asarray(t.table, np.float64) @ np.asarray(t.projection, np.float64),
        "tensor train": lambda: twins.tensor_train((t.first, t.second, t.third), total=ROWS, **CUTS),
        "learned product": lambda: twins.product_quantized(t.table, np.asarray(t.books)),
        "deep hash": lambda: twins.deep_hash(t.layers, ROWS),
        "robe": lambda: twins.robe(np.asarray(t.memory), ROWS, DIM, 4),
        "pruned rows": lambda: twins.pruned_rows(TRAINED, KEEP),
        "mixed dims": lambda: twins.mixed_dims(t.tables, t.projections),
        "pruned low rank": lambda: twins.pruned_rows(TRAINED[:, :3], KEEP) @ TRAINED[:3].astype(np.float64),
    }[kind]()


LOOKUP = jax.jit(lookup)


@pytest.mark.parametrize("kind", list(INIT))
def test_every_row_is_the_twins(kind):
    np.testing.assert_allclose(LOOKUP(table_of(kind)), twin_of(kind), atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("kind", list(INIT | PACKED))
def test_rows_by_id_are_rows_of_the_whole_and_nan_outside(kind):
    table = table_of(kind)
    whole = np.asarray(LOOKUP(table))
    assert whole.shape == table.shape == (ROWS, DIM)

    @given(arrays.arrays(np.int32, (2, 3), elements=st.integers(-3, ROWS + 3) | st.sampled_from([2**31 - 1, -(2**31)])))
    @settings(max_examples=20, deadline=None)
    def check(ids):
        held = (ids >= 0) & (ids < ROWS)
        expected = np.where(held[..., None], whole[np.where(held, ids, 0)], np.nan)
        np.testing.assert_allclose(LOOKUP(table, ids), expected, atol=1e-6)

    check()
    assert lookup(table, jnp.zeros((0,), jnp.int32)).shape == (0, DIM)


IDS = np.array([[7, 2, 7], [0, 21, 13]], np.int32)


@pytest.mark.parametrize("kind", list(INIT | PACKED))
def test_a_view_of_what_a_batch_touches_reads_as_the_whole_and_takes_its_gradient(kind):
    table = table_of(kind)
    places = jax.jit(embed.touched)(table, IDS)
    whole = np.asarray(LOOKUP(table, IDS))
    np.testing.assert_allclose(LOOKUP(embed.view(table, places), IDS), whole, atol=1e-6)
    if kind in PACKED:
        return
    weights = jnp.asarray(np.random.default_rng(1).normal(size=whole.shape).astype(np.float32))
    grads = jax.jit(jax.grad(lambda t: (lookup(t, IDS) * weights).sum(), allow_int=True))
    dense, few = grads(table), grads(embed.view(table, places))

    def same(ids, whole, part):
        if ids is None:
            return [None if whole.dtype == jax.dtypes.float0 else np.testing.assert_allclose(part, whole, atol=1e-5)]
        held = np.asarray(ids) < whole.shape[0]
        np.testing.assert_allclose(part.values[held], whole[ids[held]], atol=1e-5)
        rest = np.setdiff1d(np.arange(whole.shape[0]), ids)
        np.testing.assert_array_equal(whole[rest], 0)  # no row is moved that wasn't said to be touched

    jax.tree.map(same, places, dense, few, is_leaf=lambda x: x is None)


@pytest.mark.parametrize("kind", [k for k in INIT if k != "learned product"])
def test_gradients_are_those_of_finite_differences(kind):
    with jax.enable_x64(True):
        leaves, tree = jax.tree.flatten(table_of(kind))
        floats = [jnp.asarray(x, jnp.float64) if x.dtype == jnp.float32 else None for x in leaves]

        def read(floats):
            parts = [x if f is None else f for x, f in zip(leaves, floats, strict=True)]
            return lookup(jax.tree.unflatten(tree, parts), IDS)

        check_grads(read, (floats,), order=1, modes=["rev"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", list(INIT))
def test_an_id_outside_leaves_no_nan_in_the_gradient(kind):
    ids = jnp.array([1, ROWS, -1])
    grads = jax.grad(lambda t: jnp.nansum(lookup(t, ids)), allow_int=True)(table_of(kind))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads) if g.dtype != jax.dtypes.float0)


@pytest.mark.parametrize("kind", list(BYTES))
def test_bytes_are_those_of_the_formula(kind):
    assert table_of(kind).nbytes == BYTES[kind]


@pytest.mark.parametrize("kind", list(INIT | PACKED))
def test_bytes_are_as_stored_and_the_file_reads_back_the_same(kind, tmp_path):
    table = table_of(kind)
    path = tmp_path / "weights.safetensors"
    size = artifact.save_params(path, {"tables": {"item": table}})
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert header % 8 == 0
    assert path.stat().st_size == size == header + table.nbytes
    loaded = artifact.load_params(path)["tables"]["item"]
    assert jax.tree.structure(loaded) == jax.tree.structure(table)
    for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(table), strict=True):
        assert one.dtype == other.dtype
    np.testing.assert_array_equal(LOOKUP(loaded), LOOKUP(table))
    np.testing.assert_array_equal(LOOKUP(loaded, IDS), LOOKUP(table, IDS))


@pytest.mark.parametrize("kind", [k for k in INIT if "pruned" not in k])
def test_a_model_trains_on_it_packs_loads_and_answers_the_same(kind, tmp_path):
    model = models.matrix_factorization(models.MatrixFactorization(users=6, items=ROWS, dim=DIM))
    params = model.init(KEY)
    params["tables"]["item"] = table_of(kind)
    optimizer = optax.sgd(0.5)

    @jax.jit
    def step(params):
        def loss(params):
            scores = model.query(params, {"user": jnp.arange(6)}) @ model.items(params, jnp.arange(ROWS)).T
            return jnp.square(scores - jnp.eye(6, ROWS)).mean()

        value, grads = jax.value_and_grad(loss)(params)
        return optax.apply_updates(params, optimizer.update(grads, optimizer.init(params))[0]), value

    first = step(params)[1]
    for _ in range(10):
        params, last = step(params)
    assert last < first
    if kind == "learned product":
        params["tables"]["item"] = embed.pack_product(params["tables"]["item"])
    artifact.save_params(tmp_path / "weights.safetensors", params)
    loaded = artifact.load_params(tmp_path / "weights.safetensors")
    np.testing.assert_array_equal(model.items(loaded), model.items(params))
