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

from recjax.data import Interactions, Queries, Split, dataset
from recjax.evaluate import Scorer
from recjax.families import inner_product
from recjax.models import Ease, MatrixFactorization, Mlp, ease, matrix_factorization, mlp
from recjax.teacher import activations, input_gradients, knowledge, ranks

USERS, ITEMS, DIM = 11, 9, 3
RNG = np.random.default_rng(0)
EVENTS = [RNG.integers(0, ITEMS, count).tolist() for count in RNG.integers(1, 9, USERS)]  # in order, with repeats
EVENTS[5] = [*range(ITEMS), 2]  # a user with the whole catalog


def data_set(events):
    owner = np.repeat(np.arange(USERS, dtype=np.int32), [len(own) for own in events])
    ids = np.arange(USERS).astype(str), np.arange(ITEMS).astype(str)
    log = Interactions(owner, np.int32([item for own in events for item in own]), *ids)
    return dataset(Split(log, log.take(slice(0)), log.take(slice(0)), {}))


DATASET = data_set(EVENTS)
MOMENTS = [(user, count) for user, own in enumerate(EVENTS) for count in {0, 1, len(own) // 2, len(own)}]
QUERIES = Queries(
    np.int32([user for user, _ in MOMENTS]), np.int32([DATASET.log.offsets[user] + count for user, count in MOMENTS])
)
HISTORIES = [EVENTS[user][:count] for user, count in MOMENTS]


def teacher(kind, offset=0.0):
    """A model as a scorer, and the scores of the queries by NumPy."""
    rng = np.random.default_rng(7)
    if kind == "ease":
        table = rng.normal(size=(ITEMS, ITEMS)).astype(np.float32)
        params = {"tables": {"item": jnp.asarray(table)}, "net": {}, "fixed": {}, "auxiliary": {}}
        had = np.array([[item in history for item in range(ITEMS)] for history in HISTORIES])
        scorer = Scorer(inner_product(ease(Ease(items=ITEMS))), params, max(map(len, EVENTS)))
        return scorer, had.astype(float) @ table.astype(float).T
    shapes = {"user": (USERS, DIM), "item": (ITEMS, DIM), "item_bias": (ITEMS, 1)}
    tables = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    tables["item_bias"] += np.float32(offset)
    scores = tables["user"].astype(float) @ tables["item"].astype(float).T + tables["item_bias"].astype(float).T
    params = {"tables": jax.tree.map(jnp.asarray, tables), "net": {}, "fixed": {}, "auxiliary": {}}
    model = matrix_factorization(MatrixFactorization(users=USERS, items=ITEMS, dim=DIM))
    return Scorer(inner_product(model), params, 0), scores[QUERIES.user]


def scaled(scores):
    return (scores - scores.mean(axis=1, keepdims=True)) / (scores.std(axis=1, keepdims=True) + 1e-6)


@pytest.mark.parametrize(("kind", "block"), [("mf", 512), ("mf", 1), ("ease", 4)])
def test_scores_are_one_dense_product_over_the_deviation_of_each_query(kind, block):
    scorer, scores = teacher(kind)
    found = knowledge(scorer, DATASET, QUERIES, block=block)
    assert found.items is None
    assert (found.scores.shape, found.scores.dtype) == ((len(MOMENTS), ITEMS), jnp.float32)
    np.testing.assert_allclose(found.scores, scaled(scores), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", [512, 4])
@pytest.mark.parametrize("length", [1, 4, ITEMS])
def test_lists_are_the_best_items_best_first(length, block):
    scorer, scores = teacher("mf")
    found = knowledge(scorer, DATASET, QUERIES, length=length, block=block)
    order = np.argsort(-scores, axis=1)[:, :length]
    assert found.items.dtype == jnp.int32
    np.testing.assert_array_equal(found.items, order)
    expected = np.take_along_axis(scaled(scores), order, 1)  # over the whole catalog, not over the lists
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4, atol=1e-5)


def test_of_equal_scores_the_lower_item_comes_first():
    found = knowledge(
        lambda batch: np.tile(np.float32([0, 1, 1] * 3), (len(batch["user"]), 1)), DATASET, QUERIES, length=7
    )
    assert (np.asarray(found.items) == [1, 2, 4, 5, 7, 8, 0]).all()


def test_a_scale_of_the_teacher_is_taken_out_and_an_offset_is_no_scale():
    scorer, _ = teacher("mf", offset=-3000.0)
    found = knowledge(scorer, DATASET, QUERIES)
    np.testing.assert_allclose(np.std(np.asarray(found.scores, np.float64), axis=1), 1, rtol=1e-3)
    tables = scorer.params["tables"]
    larger = {**tables, "user": tables["user"] * 32, "item_bias": tables["item_bias"] * 32}
    again = knowledge(scorer._replace(params={**scorer.params, "tables": larger}), DATASET, QUERIES)
    np.testing.assert_allclose(again.scores, found.scores, rtol=1e-5)


def test_a_teacher_that_says_the_same_of_all_stays_finite():
    scorer, scores = teacher("ease")
    nothing = np.array([not history for history in HISTORIES])
    found = np.asarray(knowledge(scorer, DATASET, QUERIES).scores)
    assert (scores[nothing] == 0).all()
    assert (found[nothing] == 0).all()
    found = np.asarray(knowledge(lambda batch: np.full((len(batch["user"]), ITEMS), 2.0), DATASET, QUERIES).scores)
    assert np.isfinite(found).all()
    assert (found == found[0, 0]).all()


@pytest.mark.parametrize("length", [0, -1, ITEMS + 1])
def test_a_length_that_cannot_be_is_named(length):
    with pytest.raises(ValueError, match=f"expected length from 1 to {ITEMS}, got {length}"):
        knowledge(teacher("mf")[0], DATASET, QUERIES, length=length)


# -- what a teacher sees --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "masked"), [(None, False), (4, False), (4, True)])
def test_no_teacher_sees_an_event_at_or_after_the_end_of_a_query(length, masked):
    """A callable is given exactly the events before; a JAX model's scores don't depend on the others."""
    given_histories = []

    def records(batch):
        given_histories.extend(row[row >= 0].tolist() for row in batch["history"])
        assert all((np.diff(row >= 0) >= 0).all() for row in batch["history"])  # padded in front
        return np.zeros((len(batch["user"]), ITEMS))

    knowledge(records, DATASET, QUERIES, length=length, masked=masked, block=5)
    assert given_histories[: len(MOMENTS)] == HISTORIES
    expected = knowledge(teacher("ease")[0], DATASET, QUERIES, length=length, masked=masked)
    half = [moment for moment, (user, count) in enumerate(MOMENTS) if count == len(EVENTS[user]) // 2]
    later = [own[: len(own) // 2] + [(item + 1) % ITEMS for item in own[len(own) // 2 :]] for own in EVENTS]
    some = jax.tree.map(lambda column: column[half], QUERIES)
    found = knowledge(teacher("ease")[0], data_set(later), some, length=length, masked=masked)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, np.asarray(theirs)[half], rtol=1e-5, atol=1e-6)


def test_a_plain_function_teaches_what_a_model_does():
    scorer, scores = teacher("mf")
    table = {user: row for user, row in zip(QUERIES.user.tolist(), scores, strict=True)}
    ours, theirs = (
        knowledge(of, DATASET, QUERIES, length=4, masked=True, block=5)
        for of in (scorer, lambda batch: np.stack([table[user] for user in batch["user"].tolist()]))
    )
    np.testing.assert_array_equal(ours.items, theirs.items)
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-4, atol=1e-5)


# -- lists that leave out what a user has ---------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "block"), [("mf", 512), ("ease", 4)])
def test_masked_lists_leave_out_the_history_of_the_query_and_are_padded(kind, block):
    scorer, scores = teacher(kind)
    found = knowledge(scorer, DATASET, QUERIES, length=ITEMS, masked=True, block=block)
    for row, history in enumerate(HISTORIES):
        free = np.array([item for item in range(ITEMS) if item not in history], np.int32)
        expected = free[np.argsort(-scores[row, free], kind="stable")]
        padding = ITEMS - len(free)
        assert found.items[row].tolist() == [*expected.tolist(), *[-1] * padding]
        wanted = np.append(scaled(scores)[row, expected], np.zeros(padding))  # of all scores, not of those left
        np.testing.assert_allclose(found.scores[row], wanted, rtol=1e-4, atol=1e-5)
    assert (found.items.dtype, found.scores.dtype) == (jnp.int32, jnp.float32)


def test_a_user_with_the_whole_catalog_has_nothing_but_padding():
    found = knowledge(teacher("mf")[0], DATASET, DATASET.last, length=3, masked=True)
    assert found.items[5].tolist() == [-1, -1, -1]
    assert found.scores[5].tolist() == [0, 0, 0]
    assert (np.asarray(found.items)[:5, 0] >= 0).all()


def test_masking_the_whole_catalog_has_no_answer():
    with pytest.raises(ValueError, match="expected a length with masked=True, got None"):
        knowledge(teacher("mf")[0], DATASET, QUERIES, masked=True)


@pytest.mark.parametrize("block", [0, -3])
def test_a_block_of_no_rows_is_refused(block):
    with pytest.raises(ValueError, match=f"expected block of at least 1, got {block}"):
        knowledge(teacher("mf")[0], DATASET, QUERIES, block=block)
    with pytest.raises(ValueError, match=f"expected block of at least 1, got {block}"):
        activations(lambda params, batch: batch, {}, {"user": np.arange(3)}, block=block)


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
        (jnp.arange(3), None, TypeError, "scores: expected a floating dtype, got int32"),
        (jnp.ones(3), jnp.ones(3), TypeError, "where: expected dtype bool"),
        (jnp.ones(3), jnp.ones(2, bool), ValueError, "where: expected shape"),
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
    expected = model.hidden_activations(params, {"inputs": jnp.asarray(inputs)})
    for given_inputs in (inputs, jnp.asarray(inputs)):
        found = activations(model.hidden_activations, params, {"inputs": given_inputs}, block=block)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for name, value in found.items():
            assert isinstance(value, np.ndarray)
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)


def test_activations_of_any_function_and_pytree_and_of_no_rows():
    model = matrix_factorization(MatrixFactorization(users=USERS, items=ITEMS, dim=DIM))
    params = teacher("mf")[0].params
    wanted = np.array([3, 0, 3], np.int32)
    found = activations(
        lambda p, batch: (model.items(p, batch["item"]), {"twice": 2 * batch["item"]}),
        params,
        {"item": wanted},
        block=2,
    )
    np.testing.assert_array_equal(found[0][:, :-1], np.asarray(params["tables"]["item"])[wanted])
    assert found[1]["twice"].tolist() == [6, 0, 6]
    assert activations(model.hidden_activations, params, {"user": np.zeros(0, np.int32)})["user"].shape == (0, DIM)


@pytest.mark.parametrize(
    "batch", [{}, {"user": np.int32(3)}, {"user": np.zeros(2, np.int32), "item": np.zeros(3, np.int32)}]
)
def test_activations_of_no_batch(batch):
    with pytest.raises(ValueError, match="of equal rows, got"):
        activations(lambda params, batch: batch, {}, batch)


def test_activations_that_are_no_rows_are_named():
    with pytest.raises(ValueError, match=r"\['sum'\]: expected shape \[3, ...\], one row a row, got \[\]"):
        activations(lambda params, batch: {"sum": batch["user"].sum()}, {}, {"user": np.arange(3)})
    with pytest.raises(ValueError, match="hidden_activations: expected shape"):
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
        (jnp.sum, jnp.ones((2, 3)), ValueError, r"expected outputs of shape \(2,\), one per row, got \(\)"),
        (lambda x: x, jnp.ones((2, 3)), ValueError, "expected outputs of shape"),
        (lambda x: x, jnp.float32(1), ValueError, "got a scalar"),
        (lambda x: x.sum(-1), jnp.ones((2, 3), jnp.int32), TypeError, "inputs: expected a floating dtype"),
    ],
)
def test_input_gradients_of_what_has_none(function, inputs, error, message):
    with pytest.raises(error, match=message):
        input_gradients(function, inputs)


# -- what importing costs -------------------------------------------------------------------------------------------


def test_importing_the_teacher_room_imports_no_polars():
    code = "import sys, recjax.teacher; sys.exit('polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
