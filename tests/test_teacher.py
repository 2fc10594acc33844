"""A teacher's answers against one dense product in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data import Seen
from recjax.models import Ease, MatrixFactorization, ease, matrix_factorization
from recjax.teacher import knowledge

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
