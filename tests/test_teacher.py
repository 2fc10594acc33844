"""A teacher's answers against one dense product in NumPy, its ranks against Python's sort."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recjax.data import Seen
from recjax.models import Ease, MatrixFactorization, Mlp, ease, matrix_factorization, mlp
from recjax.teacher import activations, input_gradients, knowledge, ranks

USERS, ITEMS, DIM = 11, 9, 3
RNG = np.random.default_rng(0)
HISTORY = RNG.random((USERS, ITEMS)) < 0.4
HISTORY[4] = False  # a user with nothing
SEEN = Seen(
    np.concatenate([[0], HISTORY.sum(axis=1).cumsum()]).astype(np.int32), np.argwhere(HISTORY)[:, 1].astype(np.int32)
)


def teacher(kind, offset=0.0):
    """A model, its parameters, and the scores that NumPy gives it."""
    if kind == "ease":
        table = RNG.normal(size=(ITEMS, ITEMS)).astype(np.float32)
        params = {"tables": {"item": jnp.asarray(table)}, "net": {}, "fixed": {}, "aids": {}}
        return ease(Ease(items=ITEMS)), params, HISTORY.astype(float) @ table.astype(float).T
    shapes = {"user": (USERS, DIM), "item": (ITEMS, DIM), "item_bias": (ITEMS, 1)}
    tables = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    tables["item_bias"] += np.float32(offset)
    scores = tables["user"].astype(float) @ tables["item"].astype(float).T + tables["item_bias"].astype(float).T
    params = {"tables": jax.tree.map(jnp.asarray, tables), "net": {}, "fixed": {}, "aids": {}}
    return matrix_factorization(MatrixFactorization(users=USERS, items=ITEMS, dim=DIM)), params, scores


@pytest.mark.parametrize(("kind", "block"), [("mf", 512), ("mf", 4), ("ease", 512), ("ease", 4), ("mf", 1)])
def test_scores_are_one_dense_product_over_its_deviation(kind, block):
    model, params, scores = teacher(kind)
    told = []
    found = knowledge(model, params, SEEN, items=ITEMS, block=block, progress=lambda *args: told.append(args))
    assert found.items is None
    assert (found.scores.shape, found.scores.dtype) == ((USERS, ITEMS), jnp.float32)
    np.testing.assert_allclose(found.scores, scores / scores.std(), rtol=1e-4, atol=1e-5)
    assert np.std(found.scores) == pytest.approx(1.0, rel=1e-4)
    assert told == [(min(start + block, USERS), USERS) for start in range(0, USERS, block)]


@pytest.mark.parametrize("block", [512, 4])
@pytest.mark.parametrize("length", [1, 4, ITEMS])
def test_lists_are_the_best_items_best_first(length, block):
    model, params, scores = teacher("mf")
    found = knowledge(model, params, SEEN, items=ITEMS, length=length, block=block)
    order = np.argsort(-scores, axis=1)[:, :length]
    assert found.items.dtype == jnp.int32
    np.testing.assert_array_equal(found.items, order)
    expected = np.take_along_axis(scores, order, 1) / scores.std()  # over the whole catalogue, not over the lists
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4, atol=1e-5)


def test_a_scale_of_the_teacher_is_taken_out_and_an_offset_is_no_scale():
    model, params, _ = teacher("mf", offset=-3000.0)
    found = knowledge(model, params, SEEN, items=ITEMS, block=4)
    assert np.std(np.asarray(found.scores, np.float64)) == pytest.approx(1.0, rel=1e-3)
    tables = params["tables"]
    larger = {**tables, "user": tables["user"] * 32, "item_bias": tables["item_bias"] * 32}
    again = knowledge(model, {**params, "tables": larger}, SEEN, items=ITEMS, block=4)
    np.testing.assert_allclose(again.scores, found.scores, rtol=1e-5)


def test_a_teacher_that_says_the_same_of_all_stays_finite():
    model, params, _ = teacher("ease")
    nothing = jax.tree.map(jnp.zeros_like, params)
    assert (np.asarray(knowledge(model, nothing, SEEN, items=ITEMS).scores) == 0).all()


@pytest.mark.parametrize("length", [0, -1, ITEMS + 1])
def test_a_length_that_cannot_be_is_named(length):
    model, params, _ = teacher("mf")
    with pytest.raises(ValueError, match=f"expected length from 1 to {ITEMS}, got {length}"):
        knowledge(model, params, SEEN, items=ITEMS, length=length)


# -- lists that leave out what a user has ---------------------------------------------------------------------------


@pytest.mark.parametrize("block", [512, 4])
@pytest.mark.parametrize("kind", ["mf", "ease"])
def test_masked_lists_leave_out_what_the_user_has_and_are_padded(kind, block):
    model, params, scores = teacher(kind)
    found = knowledge(model, params, SEEN, items=ITEMS, length=ITEMS, masked=True, block=block)
    for user in range(USERS):
        free = np.flatnonzero(~HISTORY[user])
        expected = free[np.argsort(-scores[user, free], kind="stable")]
        padding = ITEMS - len(free)
        assert found.items[user].tolist() == [*expected.tolist(), *[-1] * padding]
        wanted = np.append(scores[user, expected], np.zeros(padding)) / scores.std()  # of all scores, not of those left
        np.testing.assert_allclose(found.scores[user], wanted, rtol=1e-4, atol=1e-5)
    assert (found.items.dtype, found.scores.dtype) == (jnp.int32, jnp.float32)


def test_a_user_with_the_whole_catalogue_has_nothing_but_padding():
    model, params, _ = teacher("mf")
    everything = Seen(np.array([0, *[ITEMS] * USERS]), np.arange(ITEMS, dtype=np.int32))
    found = knowledge(model, params, everything, items=ITEMS, length=3, masked=True)
    assert found.items[0].tolist() == [-1, -1, -1]
    assert found.scores[0].tolist() == [0, 0, 0]
    assert (np.asarray(found.items[1:]) >= 0).all()


def test_masking_the_whole_catalogue_has_no_answer():
    model, params, _ = teacher("mf")
    with pytest.raises(ValueError, match="expected a length with masked=True, got None"):
        knowledge(model, params, SEEN, items=ITEMS, masked=True)


@pytest.mark.parametrize("block", [0, -3])
def test_a_block_of_no_rows_is_refused(block):
    model, params, _ = teacher("mf")
    with pytest.raises(ValueError, match=f"expected block of at least 1, got {block}"):
        knowledge(model, params, SEEN, items=ITEMS, block=block)
    with pytest.raises(ValueError, match=f"expected block of at least 1, got {block}"):
        activations(model.taps, params, {"user": np.arange(3)}, block=block)


def test_a_teacher_that_says_one_number_of_all_keeps_it():
    model, params, _ = teacher("mf")
    tables = jax.tree.map(jnp.zeros_like, params["tables"]) | {"item_bias": jnp.full((ITEMS, 1), 2.0)}
    found = knowledge(model, {**params, "tables": tables}, SEEN, items=ITEMS)
    assert (np.asarray(found.scores) == 2).all()


# -- ranks ----------------------------------------------------------------------------------------------------------

few_values = hnp.arrays(
    np.float32, st.sampled_from([(1,), (6,), (2, 5), (2, 1, 4)]), elements=st.sampled_from([-2.0, -0.0, 0.0, 1.5])
)


@settings(deadline=None, max_examples=60)
@given(scores=few_values, seed=st.integers(0, 9))
def test_ranks_are_pythons_sort(scores, seed):
    where = np.random.default_rng(seed).random(scores.shape) < 0.6
    plain, masked = ranks(jnp.asarray(scores)), ranks(jnp.asarray(scores), where=jnp.asarray(where))
    assert (plain.shape, plain.dtype) == (scores.shape, jnp.int32)
    for place in np.ndindex(scores.shape[:-1]):
        for found, counts in ((plain, np.ones(scores.shape[-1], bool)), (masked, where[place])):
            order = sorted(range(scores.shape[-1]), key=lambda i: (not counts[i], -scores[place][i], i))
            assert np.asarray(found)[place].tolist() == [order.index(i) for i in range(scores.shape[-1])]


def test_ranks_put_infinities_at_the_ends_and_nan_behind_every_number():
    scores = jnp.array([jnp.nan, -jnp.inf, 3.0, jnp.inf])
    assert ranks(scores).tolist() == [3, 2, 1, 0]
    assert ranks(scores, where=jnp.array([True, True, True, False])).tolist() == [2, 1, 0, 3]


def test_ranks_under_jit_vmap_strict_promotion_and_half_precision():
    scores = jax.random.normal(jax.random.key(0), (3, 4, 9)).astype(jnp.bfloat16)
    where = scores < 1
    with jax.numpy_dtype_promotion("strict"):
        expected = ranks(scores, where=where)
        found = jax.jit(jax.vmap(lambda s, w: ranks(s, where=w)))(scores, where)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("scores", "where", "error", "message"),
    [
        (1.0, None, ValueError, "got a scalar"),
        (jnp.arange(3), None, TypeError, "expected scores of a floating dtype, got int32"),
        (jnp.ones(3), jnp.ones(3), TypeError, "expected where of dtype bool"),
        (jnp.ones(3), jnp.ones(2, bool), ValueError, "expected where of shape"),
    ],
)
def test_ranks_of_what_has_none(scores, where, error, message):
    with pytest.raises(error, match=message):
        ranks(scores, where=where)


# -- activations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [512, 7, 4, 1])
def test_activations_in_blocks_are_the_taps_of_all_rows(block):
    model = mlp(Mlp(widths=(3, 5, 4, 1)))
    params = model.init(jax.random.key(0))
    inputs = RNG.normal(size=(7, 3)).astype(np.float32)
    expected = model.taps(params, {"inputs": jnp.asarray(inputs)})
    for given_inputs in (inputs, jnp.asarray(inputs)):
        found = activations(model.taps, params, {"inputs": given_inputs}, block=block)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for name, tap in found.items():
            assert isinstance(tap, np.ndarray)
            np.testing.assert_allclose(tap, expected[name], rtol=1e-5, atol=1e-6)


def test_activations_of_any_function_and_pytree_and_of_no_rows():
    model, params, _ = teacher("mf")
    wanted = np.array([3, 0, 3], np.int32)
    found = activations(
        lambda p, batch: (model.items(p, batch["item"]), {"twice": 2 * batch["item"]}),
        params,
        {"item": wanted},
        block=2,
    )
    np.testing.assert_array_equal(found[0][:, :-1], np.asarray(params["tables"]["item"])[wanted])
    assert found[1]["twice"].tolist() == [6, 0, 6]
    assert activations(model.taps, params, {"user": np.zeros(0, np.int32)})["user"].shape == (0, DIM)


@pytest.mark.parametrize(
    "batch", [{}, {"user": np.int32(3)}, {"user": np.zeros(2, np.int32), "item": np.zeros(3, np.int32)}]
)
def test_activations_of_no_batch(batch):
    with pytest.raises(ValueError, match="of equal rows, got"):
        activations(lambda params, batch: batch, {}, batch)


def test_activations_that_are_no_rows_are_named():
    with pytest.raises(ValueError, match=r"\['sum'\]: expected shape \[3, ...\], one row a row, got \[\]"):
        activations(lambda params, batch: {"sum": batch["user"].sum()}, {}, {"user": np.arange(3)})
    with pytest.raises(ValueError, match="taps: expected shape"):
        activations(lambda params, batch: batch["user"][:1], {}, {"user": np.arange(3)})


# -- input gradients ------------------------------------------------------------------------------------------------


def squared_sine(weights, x):
    return jnp.square(jnp.sin(x @ weights))


def test_input_gradients_are_those_of_each_row_alone():
    inputs, weights = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32), jnp.array([0.5, -1.0, 2.0])
    found = input_gradients(lambda x: squared_sine(weights, x), inputs)
    expected = [jax.grad(lambda x: squared_sine(weights, x))(row) for row in inputs]
    np.testing.assert_allclose(found, jnp.stack(expected), rtol=1e-6)
    deeper = input_gradients(lambda x: squared_sine(weights, x), inputs.reshape(2, 3, 3))
    np.testing.assert_allclose(deeper.reshape(6, 3), found, rtol=1e-6)


def test_input_gradients_of_a_model_stand_inside_a_loss():
    model = mlp(Mlp(widths=(3, 8, 1)))
    params = model.init(jax.random.key(1))
    inputs = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)

    def loss(params):
        gradients = input_gradients(lambda x: model.logit(params, {"inputs": x})[:, 0], inputs)
        return jnp.square(gradients).sum()

    kernel, output = params["net"]["hidden_0"]["kernel"], params["net"]["output"]["kernel"]
    active = np.asarray(inputs @ kernel > 0, np.float32)  # the biases start at 0
    by_hand = (active * output[None, :, 0]) @ kernel.T
    assert float(loss(params)) == pytest.approx(float(jnp.square(by_hand).sum()), rel=1e-5)
    slope = jax.jit(jax.grad(loss))(params)["net"]["output"]["kernel"]
    by_hand = 2 * jnp.sum(active * ((active * output[None, :, 0]) @ (kernel.T @ kernel)), axis=0)
    np.testing.assert_allclose(slope[:, 0], by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "inputs", "error", "message"),
    [
        (jnp.sum, jnp.ones((2, 3)), ValueError, r"expected outputs of shape \(2,\), one a row, found \(\)"),
        (lambda x: x, jnp.ones((2, 3)), ValueError, "expected outputs of shape"),
        (lambda x: x, jnp.float32(1), ValueError, "got a scalar"),
        (lambda x: x.sum(-1), jnp.ones((2, 3), jnp.int32), TypeError, "expected inputs of a floating dtype"),
    ],
)
def test_input_gradients_of_what_has_none(function, inputs, error, message):
    with pytest.raises(error, match=message):
        input_gradients(function, inputs)


# -- what importing costs -------------------------------------------------------------------------------------------


def test_importing_the_teacher_room_imports_no_polars():
    code = "import sys, recjax.teacher; sys.exit('polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
