"""Lazy rows against dense twins that visit every row at every step, and against PyTorch and optax where they agree."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import rows as twins

from recjax import rows
from recjax.trees import nbytes

ROWS, DIM, STEPS = 10, 3, 60
PAD = np.iinfo(np.int32).max


class Knobs(NamedTuple):
    """Every number that an optimizer takes; all of them traced."""

    rate: Any = 0.02
    slope: Any = 0.0  # of the learning rate, from 1 at the first step
    b1: Any = 0.9
    b2: Any = 0.999
    eps: Any = 1e-8
    initial: Any = 0.0
    decay: Any = 0.0


def schedule(knobs):
    return lambda step: knobs.rate * (1 - knobs.slope * step)


def adam(knobs):
    return rows.adam(schedule(knobs), b1=knobs.b1, b2=knobs.b2, eps=knobs.eps, weight_decay=knobs.decay)


def adagrad(knobs):
    return rows.adagrad(schedule(knobs), eps=knobs.eps, initial=knobs.initial, weight_decay=knobs.decay)


def rowwise(knobs):
    return rows.rowwise_adagrad(schedule(knobs), eps=knobs.eps, initial=knobs.initial, weight_decay=knobs.decay)


def twin(make, knobs, table, grads):
    rate = [knobs.rate * (1 - knobs.slope * step) for step in range(len(grads))]
    if make is adam:
        own = {"b1": knobs.b1, "b2": knobs.b2}
        return twins.adam(table, grads, rate, eps=knobs.eps, weight_decay=knobs.decay, **own)
    of = twins.adagrad if make is adagrad else twins.rowwise_adagrad
    return of(table, grads, rate, eps=knobs.eps, initial=knobs.initial, weight_decay=knobs.decay)


def one_step(optimizer, table, slots, step, ids, grads):
    kept, values = optimizer.current(rows.take(slots, ids), rows.take(table, ids), step)
    kept, values = optimizer.update(kept, values, rows.take(grads, ids), step)
    return rows.put(table, ids, values), rows.put(slots, ids, kept)


@functools.partial(jax.jit, static_argnums=0)
def lazily(make, knobs, table, grads, touched):
    """The table that is read after every step, rows that the step didn't touch included."""
    optimizer = make(knobs)

    def body(carry, at):
        table, slots, step = carry
        grads, touched = at
        ids = jnp.sort(jnp.where(touched, jnp.arange(ROWS), PAD))
        table, slots = one_step(optimizer, table, slots, step, ids, grads)
        return (table, slots, step + 1), optimizer.current(slots, table, step + 1)[1]

    return jax.lax.scan(body, (table, optimizer.init(table), jnp.int32(0)), (grads, touched))[1]


@pytest.fixture(scope="module")
def problem():
    """A table, gradients and who is touched: row 0 never, row 1 once, row 2 always, the others seldom."""
    rng = np.random.default_rng(0)
    touched = rng.random((STEPS, ROWS)) < 0.12
    touched[:, 0], touched[:, 1], touched[:, 2] = False, np.arange(STEPS) == 4, True
    grads = (rng.normal(size=(STEPS, ROWS, DIM)) * touched[..., None]).astype(np.float32)
    return rng.normal(size=(ROWS, DIM)).astype(np.float32), grads, touched


KNOBS = {
    "published": Knobs(),
    "decay": Knobs(decay=0.3, initial=0.1),
    "decay under a falling rate": Knobs(rate=0.03, slope=1 / STEPS, decay=0.2, b1=0.0),
    "short memory": Knobs(b1=0.5, b2=0.9, rate=0.05, eps=1e-6),
    "no momentum": Knobs(b1=0.0, b2=0.99, eps=1e-4, decay=0.1),
}


@pytest.mark.parametrize("make", [adam, adagrad, rowwise])
@pytest.mark.parametrize("name", KNOBS)
def test_rows_that_skip_steps_are_where_the_dense_algorithm_has_them(problem, make, name):
    table, grads, _ = problem
    programs = lazily._cache_size()
    found = lazily(make, KNOBS[name], *problem)
    np.testing.assert_allclose(found, twin(make, KNOBS[name], table, grads), rtol=2e-6, atol=2e-6)
    assert lazily._cache_size() - programs <= (name == "published")  # new numbers, same program
    if KNOBS[name].decay == 0:
        np.testing.assert_array_equal(found[-1, 0], table[0])


def test_the_sum_of_skipped_moves_is_exact():
    """In float64 nothing but the closed form could differ; a hundred steps apart, and an epsilon that is nothing."""
    rng = np.random.default_rng(1)
    knobs = Knobs(rate=0.1, b1=0.7, b2=0.95, eps=1e-30, decay=0.05)
    touched = np.zeros((STEPS, ROWS), bool)
    for row in range(ROWS):
        touched[row :: 3 * row + 1, row] = True
    grads, table = rng.normal(size=(STEPS, ROWS, DIM)) * touched[..., None], rng.normal(size=(ROWS, DIM))
    with jax.enable_x64(True):
        found = lazily(adam, knobs, jnp.asarray(table), jnp.asarray(grads), jnp.asarray(touched))
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, twin(adam, knobs, table, grads), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("every", "tolerance"), [(2, 2e-6), (7, 2e-2)])
def test_an_epsilon_as_large_as_the_gradients(every, tolerance):
    """Exact for one skipped step; for more, the mean epsilon stands for each (relative to how far rows move)."""
    rng = np.random.default_rng(2)
    touched = np.broadcast_to((np.arange(STEPS) % every == 0)[:, None], (STEPS, ROWS))
    grads = (1e-3 * rng.normal(size=(STEPS, ROWS, DIM)) * touched[..., None]).astype(np.float32)
    table, knobs = np.zeros((ROWS, DIM), np.float32), Knobs(rate=0.1, eps=1e-3)
    expected = twin(adam, knobs, table, grads)
    found = lazily(adam, knobs, table, grads, jnp.asarray(touched))
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def test_long_memory(problem):
    """Where the terms added one by one don't reach, the mean place of the others stands for them."""
    table, grads, _ = problem
    knobs = Knobs(rate=0.05, b1=0.99, b2=0.9995)
    expected = twin(adam, knobs, table, grads)
    np.testing.assert_allclose(lazily(adam, knobs, *problem), expected, rtol=0, atol=5e-3)


OPTAX = {
    adam: lambda k: optax.adamw(k.rate, b1=k.b1, b2=k.b2, eps=k.eps, weight_decay=k.decay),
    adagrad: lambda k: optax.chain(
        optax.scale_by_rss(initial_accumulator_value=k.initial, eps=k.eps),
        optax.add_decayed_weights(k.decay),
        optax.scale(-k.rate),
    ),
}


@pytest.mark.parametrize("make", OPTAX)
def test_optax_where_every_row_is_touched(problem, make):
    table, knobs = problem[0], Knobs(decay=0.1, initial=0.1)
    grads = np.random.default_rng(3).normal(size=(STEPS, ROWS, DIM)).astype(np.float32)
    optimizer = OPTAX[make](knobs)

    @jax.jit
    def dense(table, grads):
        def body(carry, grads):
            table, state = carry
            updates, state = optimizer.update(grads, state, table)
            table = optax.apply_updates(table, updates)
            return (table, state), table

        return jax.lax.scan(body, (table, optimizer.init(table)), grads)[1]

    found = lazily(make, knobs, table, grads, jnp.ones((STEPS, ROWS), bool))
    np.testing.assert_allclose(found, dense(table, grads), rtol=3e-5, atol=1e-6)  # optax has 1 - b2 in two roundings


def torch_run(optimizer, table, grads, touched, *, sparse, **knobs):
    """The table after every step; ``optimizer`` is a name in ``torch.optim``."""
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.from_numpy(table.copy()))
    stepper, after = getattr(torch.optim, optimizer)([weight], lr=0.02, **knobs), []
    with torch.sparse.check_sparse_tensor_invariants():
        for grad, now in zip(grads, touched, strict=True):
            (ids,) = np.nonzero(now)
            weight.grad = torch.sparse_coo_tensor(ids[None], torch.from_numpy(grad[ids]), (ROWS, DIM))
            if not sparse:
                weight.grad = weight.grad.to_dense()
            stepper.step()
            after.append(weight.detach().numpy().copy())
    return np.stack(after)


def test_torch_adagrad_with_sparse_gradients(problem):
    expected = torch_run("Adagrad", *problem, sparse=True, eps=1e-8)
    np.testing.assert_allclose(lazily(adagrad, Knobs(), *problem), expected, rtol=1e-6, atol=1e-6)


def test_torch_adamw_with_dense_gradients(problem):
    expected = torch_run("AdamW", *problem, sparse=False, weight_decay=0.3)
    np.testing.assert_allclose(lazily(adam, Knobs(decay=0.3), *problem), expected, rtol=1e-5, atol=1e-5)


def test_torch_sparse_adam_agrees_until_a_row_skips_a_step(problem):
    expected = torch_run("SparseAdam", *problem, sparse=True)
    found = np.asarray(lazily(adam, Knobs(), *problem))
    np.testing.assert_allclose(found[:, 2], expected[:, 2], rtol=1e-5, atol=1e-5)  # touched at every step
    assert np.abs(found[-1, 3:] - expected[-1, 3:]).max() > 0.02  # a whole step of the learning rate


@pytest.mark.parametrize("make", [adam, adagrad, rowwise])
def test_a_step_leaves_other_rows_as_they_are_and_drops_ids_outside(problem, make):
    table = jnp.asarray(problem[0])
    optimizer = make(Knobs(decay=0.1))
    slots = jax.tree.map(lambda leaf: leaf + 0.25, optimizer.init(table))
    ids = jnp.array([-3, 0, 5, ROWS, PAD])
    moved, kept = jax.jit(functools.partial(one_step, optimizer))(table, slots, 7, ids, jnp.ones_like(table))
    others = np.setdiff1d(np.arange(ROWS), [0, 5])
    for before, after in zip(*map(jax.tree.leaves, ((table, slots), (moved, kept))), strict=True):
        np.testing.assert_array_equal(after[others], before[others])
        assert (np.asarray(after)[[0, 5]] != np.asarray(before)[[0, 5]]).any(axis=1).all()


def test_padding_reads_as_nan():
    np.testing.assert_array_equal(rows.take(jnp.ones((2, 3)), jnp.array([-1, 1, 2]))[:, 0], [np.nan, 1, np.nan])


@pytest.mark.parametrize("make", [adam, adagrad, rowwise])
def test_members_equal_a_loop(problem, make):
    table, grads, touched = problem
    members = Knobs(*(np.float32(v) for v in ((0.1, 0.01), (0, 0.01), (0.9, 0.5), (0.999, 0.9), (1e-8, 1e-3))))
    members = members._replace(initial=np.float32((0, 0.5)), decay=np.float32((0.2, 0)))
    alone = [lazily(make, jax.tree.map(lambda leaf, at=at: leaf[at], members), *problem) for at in range(2)]
    found = jax.vmap(functools.partial(lazily, make), in_axes=(0, None, None, None))(members, table, grads, touched)
    np.testing.assert_allclose(found, np.stack(alone), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [adam, rowwise])
def test_a_donated_step_works_in_place_whatever_the_table_holds(make):
    """The compiled step aliases table and slots, and needs no more room for a table eight times as long."""
    room = []
    for count in (2_000, 16_000):
        optimizer = make(Knobs())
        table = jax.ShapeDtypeStruct((count, 8), np.float32)
        slots = jax.eval_shape(optimizer.init, table)
        step, ids, grads = jnp.int32(0), jnp.arange(4), jnp.ones((4, 8))

        def body(carry, _, optimizer=optimizer, ids=ids, grads=grads):
            table, slots, step = carry
            kept, values = optimizer.current(rows.take(slots, ids), rows.take(table, ids), step)
            kept, values = optimizer.update(kept, values, grads, step)
            return (rows.put(table, ids, values), rows.put(slots, ids, kept), step + 1), values.sum()

        chunk = jax.jit(lambda carry, body=body: jax.lax.scan(body, carry, length=3), donate_argnums=0)
        memory = chunk.lower((table, slots, step)).compile().memory_analysis()
        assert memory.alias_size_in_bytes >= nbytes((table, slots))
        room.append(memory.temp_size_in_bytes)
    assert room[0] == room[1]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    first=st.integers(0, 200),
    second=st.integers(0, 200),
    b1=st.sampled_from([0.0, 0.5, 0.9]),
    decay=st.sampled_from([0.0, 0.5]),
)
def test_skipping_steps_twice_is_skipping_them_once(seed, first, second, b1, decay):
    values, grads = np.random.default_rng(seed).normal(size=(2, ROWS, DIM)).astype(np.float32)
    middle, end = 1 + first, 1 + first + second
    once, twice = skip(Knobs(b1=b1, decay=decay, rate=0.05), values, grads, middle, end)
    for a, b in zip(*map(jax.tree.leaves, (once, twice)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-6)


@jax.jit
def skip(knobs, values, grads, middle, end):
    optimizer = adam(knobs)
    start = optimizer.update(optimizer.init(values), values, grads, 0)
    return optimizer.current(*start, end), optimizer.current(*optimizer.current(*start, middle), end)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(ROWS)), power=st.integers(-8, 8))
def test_rows_do_not_know_their_place_and_adam_not_the_scale_of_the_gradients(problem, order, power):
    table, grads, touched = problem
    knobs, order = Knobs(eps=1e-30), np.array(order)
    straight = np.asarray(lazily(adam, knobs, table, grads, touched))
    shuffled = lazily(adam, knobs, table[order], grads[:, order] * np.float32(2.0**power), touched[:, order])
    np.testing.assert_allclose(shuffled, straight[:, order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [adam, adagrad, rowwise])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_no_number_spoils_its_row_alone(problem, make, bad):
    table, grads, touched = problem
    spoiled = grads.copy()
    spoiled[4, 1, 0] = bad
    clean, found = (
        lazily(make, Knobs(), table, grads, touched),
        np.asarray(lazily(make, Knobs(), table, spoiled, touched)),
    )
    np.testing.assert_array_equal(np.delete(found, 1, axis=1), np.delete(clean, 1, axis=1))
    assert np.isnan(found[4:, 1, 0]).all()
    assert np.isfinite(found[:4]).all()


@pytest.mark.parametrize("make", [adam, adagrad, rowwise])
def test_tables_that_cannot_be(make):
    with pytest.raises(ValueError, match=r"table: expected shape \[rows, dim\], got \(3,\)"):
        make(Knobs()).init(jnp.ones(3))
    with pytest.raises(TypeError, match="table: expected float32 or float64, got bfloat16"):
        make(Knobs()).init(jnp.ones((3, 2), jnp.bfloat16))
    assert all(len(leaf) == 1 for leaf in jax.tree.leaves(make(Knobs()).init(jnp.ones((1, 1)))))
