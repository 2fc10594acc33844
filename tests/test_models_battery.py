"""One battery over every model; what a model is by its own equation is in the other files of models.

Compiling is what this costs, so each model has one program with its gradient, for most of the tests, and no program is
optimized.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import CASES, ITEMS, LIKES

from recjax import artifact, compress, embed, models, quantize, trees

every = pytest.mark.parametrize("name", CASES)
retrieval = pytest.mark.parametrize("name", [n for n in CASES if isinstance(CASES[n].model, models.RetrievalModel)])
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
pack = quick(functools.partial(quantize.quantize, bits=4), static_argnames="axis")
unpack = quick(quantize.dequantize)


@functools.cache
def start(name):
    """The parameters as a model starts, from a generator that is quicker to compile than JAX's own."""
    return quick(CASES[name].model.init)(jax.random.key(0, impl="rbg"))


def filled(tree, rng, scale):
    """Random entries; NumPy's, for which nothing is compiled."""
    return jax.tree.map(lambda leaf: (rng.normal(size=leaf.shape) * scale).astype(leaf.dtype), tree)


@functools.cache
def members(name):
    """Two members with all trained entries random, also those that start as zero."""
    rng = np.random.default_rng(1)
    return [{**filled(start(name), rng, 0.5), "fixed": start(name)["fixed"]} for _ in range(2)]


def scores(model, params, batch):
    """``[rows, outputs]``, or ``[rows, items]`` of a retrieval model."""
    if isinstance(model, models.CTRModel):
        return model.logit(params, batch)
    return jnp.einsum("bd,bcd->bc", model.query(params, batch), model.items(params, batch["item"]))


@functools.cache
def program(name):
    """``program(name)(params)``: the loss of the batch, the scores, and the gradient of the trained parts."""
    case = CASES[name]

    def loss(trained, params, batch):
        found = scores(case.model, {**params, **trained}, batch)
        return case.loss(found), found

    run = quick(jax.value_and_grad(loss, has_aux=True))

    def call(params):
        (value, found), grads = run({part: params[part] for part in ("tables", "net")}, params, case.batch)
        return float(value), np.asarray(found), jax.tree.map(np.asarray, grads)

    return call


@every
def test_shapes_follow_the_contract(name):
    case, params = CASES[name], start(name)
    rows = len(jax.tree.leaves(case.batch)[0])
    assert sorted(params) == ["auxiliary", "fixed", "net", "tables"]
    hidden_activations = jax.eval_shape(case.model.hidden_activations, params, case.batch)
    assert {name: value.shape for name, value in hidden_activations.items()} == {
        t: (rows, *rest) for t, rest in case.hidden_activations.items()
    }
    if isinstance(case.model, models.CTRModel):
        assert jax.eval_shape(case.model.logit, params, case.batch).shape == (rows, case.width)
        return
    assert jax.eval_shape(case.model.query, params, case.batch).shape == (rows, case.width)
    assert jax.eval_shape(case.model.items, params).shape == (ITEMS, case.width)
    for shape in ((), (4,), (3, 2)):
        assert jax.eval_shape(case.model.items, params, np.zeros(shape, np.int32)).shape == (*shape, case.width)


@retrieval
def test_some_items_are_rows_of_all_items(name):
    model, params = CASES[name].model, members(name)[0]
    ids = np.array([[7, 0], [3, 3], [ITEMS, -1]], np.int32)
    whole, some = quick(lambda params, ids: (model.items(params), model.items(params, ids)))(params, ids)
    np.testing.assert_allclose(some[:2], np.asarray(whole)[ids[:2]], rtol=1e-5, atol=1e-6)
    assert np.isnan(some[2]).all()  # never a neighbor's row


@every
def test_gradients_are_finite_and_reach_everything(name):
    params = members(name)[0]
    _, _, grads = program(name)(params)
    assert jax.tree.leaves(grads)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all(), path
        assert np.abs(grad).max() > 1e-5, path
    # along the gradient the loss grows by its squared length
    length, small = sum(float((grad**2).sum()) for grad in jax.tree.leaves(grads)) ** 0.5, 1e-3
    trained = {part: params[part] for part in grads}

    def along(far):
        moved = jax.tree.map(lambda leaf, grad: leaf + np.float32(far / length) * grad, trained, grads)
        return program(name)({**params, **moved})[0]

    assert (along(small) - along(-small)) / (2 * small) == pytest.approx(length, rel=2e-2)


@every
def test_touched_names_the_rows_whose_gradient_is_not_zero(name):
    case = CASES[name]
    touched = case.model.touched(case.batch)
    assert (touched is None) == case.dense
    if isinstance(case.model, models.RetrievalModel):  # scored on the whole catalog
        assert case.model.touched({part: of for part, of in case.batch.items() if part != "item"}) is None
    if touched is None:
        return
    _, _, grads = program(name)(members(name)[0])
    assert set(touched) == set(grads["tables"])
    for table, grad in grads["tables"].items():
        moved = np.flatnonzero(np.abs(grad).max(axis=1))
        assert moved.tolist() == np.unique(touched[table]).tolist(), table
        assert len(moved) < len(grad), table


@every
def test_records_in_place_of_tables_and_members_by_vmap(name):
    """Two members whose tables are records, side by side: as one after the other with the tables they stand for."""
    rng, key = np.random.default_rng(2), jax.random.key(0)

    def record(table):  # of low rank, and its rows by quotient and remainder
        low = jax.eval_shape(lambda: embed.low_rank(key, *table.shape, rank=2, sd=1))
        rows = jax.eval_shape(lambda: embed.quotient_sum(key, *low.table.shape, buckets=3, sd=1))
        return filled(embed.LowRank(rows, low.projection), rng, 1)

    both = [{**p, "tables": {table: record(leaf) for table, leaf in p["tables"].items()}} for p in members(name)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *({**params, "fixed": {}} for params in both))
    axes = {**dict.fromkeys(stacked, 0), "fixed": None}
    run = quick(jax.vmap(functools.partial(scores, CASES[name].model), in_axes=(axes, None)))
    together = np.asarray(run({**stacked, "fixed": both[0]["fixed"]}, CASES[name].batch))
    for params, found in zip(both, together, strict=True):
        dense = {table: unrecorded(leaf) for table, leaf in params["tables"].items()}
        np.testing.assert_allclose(found, program(name)({**params, "tables": dense})[1], rtol=1e-4, atol=1e-4)
    assert not np.allclose(together[0], together[1])


unrecorded = quick(embed.lookup)


def kernels_of(params):
    paths = jax.tree_util.tree_leaves_with_path({"net": params["net"]})
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in paths if leaf.ndim > 1]


@every
def test_what_is_compressed_is_what_is_packed_saved_and_read_back(name, tmp_path):
    """Pruned and of few bits in the step; the same numbers from the file, and the same scores from those."""
    params, kernels = members(name)[0], kernels_of(members(name)[0])[:2]  # the others are like them
    tables = list(params["tables"])
    plan = compress.chain(
        compress.magnitude_pruning([*tables, *kernels], sparsity=lambda bits, step: 0.5),
        compress.row_quantization(tables, bits=lambda bits: bits),
        compress.kernel_quantization(kernels, bits=lambda bits: bits),
    )
    places = {table: ("tables", table) for table in tables} | {path: path.split("/") for path in kernels}
    masks = {path: abs(leaf := trees.read(params, keys)) >= np.median(abs(leaf)) for path, keys in places.items()}

    @quick
    def compressed(params, masks, bits):
        return scores(CASES[name].model, plan.apply(params, ((), (), ()), (masks, (), ()), bits), CASES[name].batch)

    expected = compressed(params, masks, 4.0)
    small = params
    for path, keep in masks.items():
        leaf = np.where(keep, trees.read(params, places[path]), 0)
        small = trees.write(small, places[path], pack(leaf, axis=0 if path in tables else -1))
    artifact.save_params(tmp_path / "weights.safetensors", small)
    small = artifact.load_params(tmp_path / "weights.safetensors")
    for keys in places.values():
        small = trees.write(small, keys, unpack(trees.read(small, keys)))
    np.testing.assert_allclose(program(name)(small)[1], expected, rtol=1e-5, atol=1e-6)


@every
def test_parameters_survive_the_disk(name, tmp_path):
    params = members(name)[0]
    artifact.save_params(tmp_path / "weights.safetensors", params)
    found = artifact.load_params(tmp_path / "weights.safetensors")
    assert jax.tree.structure(found) == jax.tree.structure(params)
    np.testing.assert_array_equal(program(name)(found)[1], program(name)(params)[1])


@every
def test_a_planted_structure_is_learned(name):
    """Adam on all examples, from where the model starts."""
    case = CASES[name]
    if case.fit:  # its scores rank; they are no logits
        _, found, _ = program(name)(case.fit())
        assert (np.where(LIKES, found, np.inf).min(axis=1) > np.where(LIKES, -np.inf, found).max(axis=1)).all()
        return
    params, values = start(name), []
    leaves, tree = jax.tree.flatten({part: params[part] for part in ("tables", "net")})
    leaves, means, squares = [np.array(leaf) for leaf in leaves], [0] * len(leaves), [0] * len(leaves)
    for step in range(1, 201):
        value, _, grads = program(name)({**params, **tree.unflatten(leaves)})
        values.append(value)
        for i, grad in enumerate(jax.tree.leaves(grads)):
            means[i], squares[i] = 0.9 * means[i] + 0.1 * grad, 0.99 * squares[i] + 0.01 * grad**2
            move = means[i] / (1 - 0.9**step) / (np.sqrt(squares[i] / (1 - 0.99**step)) + 1e-8)
            leaves[i] = (leaves[i] - 0.05 * move).astype(np.float32)
    assert values[0] - case.least > 0.7 * (case.trivial - case.least)
    assert values[-1] - case.least < 0.1 * (case.trivial - case.least), values[::20]
