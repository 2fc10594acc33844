"""What is drawn on the device, against brute force and by its distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recjax import data


def csr(lists: list[list[int]]) -> data.Seen:
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int32)
    return data.Seen(offsets, np.array([i for items in lists for i in sorted(items)], np.int32))


@pytest.mark.parametrize(("count", "batch_size"), [(10, 3), (12, 4), (5, 5), (7, 1), (1000, 64)])
def test_epoch_batches(count, batch_size):
    batches = data.epoch_batches(jax.random.key(0), count, batch_size)
    assert batches.shape == (count // batch_size, batch_size)
    assert batches.dtype == jnp.int32
    used = np.asarray(batches).ravel()
    assert len(set(used)) == used.size
    assert used.min() >= 0
    assert used.max() < count
    assert (data.epoch_batches(jax.random.key(0), count, batch_size) == batches).all()


def test_epoch_batches_leaves_out_other_rows_each_epoch():
    keys = jax.random.split(jax.random.key(1), 2000)
    epochs = jax.jit(jax.vmap(lambda key: data.epoch_batches(key, 10, 4)))(keys)
    used = np.bincount(np.asarray(epochs).ravel(), minlength=10)
    assert np.abs(used - 1600).max() < 5 * np.sqrt(2000 * 0.8 * 0.2)
    first = np.bincount(np.asarray(epochs[:, 0, 0]), minlength=10)
    assert np.abs(first - 200).max() < 5 * np.sqrt(2000 * 0.1 * 0.9)


@pytest.mark.parametrize("batch_size", [0, -1, 6])
def test_epoch_batches_refuses(batch_size):
    with pytest.raises(ValueError, match="batch_size: expected 1 to 5"):
        data.epoch_batches(jax.random.key(0), 5, batch_size)


ITEMS, USERS = 13, 6  # one shape, so one program for every example
draw_64 = jax.jit(lambda key, has: data.uniform_negatives(key, jnp.arange(USERS), has, items=ITEMS, count=64))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sets(st.integers(0, ITEMS - 1)), min_size=USERS, max_size=USERS), st.integers(0, 2**31 - 1))
def test_negatives_are_never_positives(sets, seed):
    offsets, have = csr([list(items) for items in sets])
    have = np.concatenate([have, np.zeros(ITEMS * USERS - len(have), np.int32)])  # rows behind the last user: nobody's
    draw = draw_64(jax.random.key(seed), data.Seen(offsets, have))
    assert draw.shape == (USERS, 64)
    assert draw.dtype == jnp.int32
    for mine, row in zip(sets, np.asarray(draw), strict=True):
        free = set(range(ITEMS)) - mine
        assert set(row.tolist()) <= (free or {-1})


@pytest.mark.parametrize("items", [1, 2, 3, 8, 9, 17])
def test_every_rank_maps_to_its_free_item(items, monkeypatch):
    """Brute force over all subsets (or many) and all ranks: the r-th free item, exactly."""
    subsets = [[i for i in range(items) if bits >> i & 1] for bits in range(2**items)]
    subsets = subsets if items <= 9 else subsets[:: 2**items // 512 - 1]
    ranks = jnp.broadcast_to(jnp.arange(items), (len(subsets), items)).astype(jnp.int32)
    monkeypatch.setattr(jax.random, "randint", lambda *_: ranks)
    draw = data.uniform_negatives(jax.random.key(0), jnp.arange(len(subsets)), csr(subsets), items=items, count=items)
    for mine, row in zip(subsets, np.asarray(draw).tolist(), strict=True):
        free = [i for i in range(items) if i not in mine]
        assert row[: len(free)] == free


def test_negatives_are_uniform():
    lists = [[], [0], [9], [0, 1, 2, 3, 4], [1, 3, 5, 7, 9], [i for i in range(10) if i != 6], list(range(10))]
    count = 20_000
    draw = data.uniform_negatives(jax.random.key(7), jnp.arange(7), csr(lists), items=10, count=count)
    for mine, row in zip(lists, np.asarray(draw), strict=True):
        free = sorted(set(range(10)) - set(mine))
        if not free:
            assert (row == -1).all()
            continue
        got = np.bincount(row, minlength=10)
        assert got[mine].sum() == 0
        expected = count / len(free)
        chi_square = ((got[free] - expected) ** 2 / expected).sum()
        freedom = len(free) - 1
        assert chi_square <= freedom + 5 * np.sqrt(2 * freedom) + 10


def test_users_may_repeat_and_have_any_shape_under_jit_and_vmap():
    has = jax.tree.map(jnp.asarray, csr([[0, 2], [], [1, 2, 3]]))
    users = jnp.array([[0, 2, 0], [1, 1, 2]])
    key = jax.random.key(3)
    plain = data.uniform_negatives(key, users, has, items=5, count=4)
    assert plain.shape == (2, 3, 4)
    assert (plain[0, 0] != plain[0, 2]).any()  # a user met twice draws twice

    traces = []

    @jax.jit
    def draw(key, users, has):
        traces.append(1)
        return data.uniform_negatives(key, users, has, items=5, count=4)

    assert (draw(key, users, has) == plain).all()
    draw(jax.random.key(4), users * 0, has)
    assert len(traces) == 1
    keys = jax.random.split(key, 3)
    many = jax.vmap(draw, in_axes=(0, None, None))(keys, users, has)
    assert all((many[i] == draw(keys[i], users, has)).all() for i in range(3))


def test_nobody_has_anything():
    draw = data.uniform_negatives(jax.random.key(0), jnp.arange(2), csr([[], []]), items=3, count=300)
    assert set(np.asarray(draw).ravel().tolist()) == {0, 1, 2}


def test_a_large_catalog():
    random = np.random.default_rng(0)
    lists = [sorted(random.choice(50_000, size, replace=False).tolist()) for size in (0, 1, 49_999, 25_000, 3)]
    draw = np.asarray(data.uniform_negatives(jax.random.key(0), jnp.arange(5), csr(lists), items=50_000, count=2000))
    for mine, row in zip(lists, draw, strict=True):
        assert not np.isin(row, mine).any()
        assert row.min() >= 0
        assert row.max() < 50_000
    assert len(set(draw[2].tolist())) == 1


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(0, 8), unique=True), min_size=1, max_size=5))
def test_has_is_membership(lists):
    users, items = np.meshgrid(np.arange(len(lists)), np.arange(-1, 10), indexing="ij")
    found = data.has(users, items, csr(lists))
    np.testing.assert_array_equal(found, [[i in lists[u] for i in range(-1, 10)] for u in range(len(lists))])
