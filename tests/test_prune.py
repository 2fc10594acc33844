"""Masks and schedules against a full sort and exact fractions (references)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recjax.prune import cubic_sparsity, mask_smallest
from recjax.prune._masks import _kept_count

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
FLAT = jax.jit(mask_smallest)  # traced sparsity; one compile for each length
SPARSITIES = [-0.5, 0.0, 0.1, 1 / 3, 0.5, 0.8, 0.99, 1.0, 1.5]

DENORMAL = float(np.float32(1e-45))
TIED = [0.0, -0.0, DENORMAL, -DENORMAL, 3e-40, 1.0, -1.0, float(np.float32(1 + 2**-23)), 2.0, -3.4e38, np.inf, -np.inf]


def scores_of(kind, n, seed=0):
    rng = np.random.default_rng(seed)
    values = {
        "random": rng.normal(size=n),
        "ties": rng.choice([-2.0, -1.0, 0.0, 1.0, 2.0], n),
        "equal": np.full(n, -0.25),
        "zeros": rng.choice([0.0, -0.0], n),
        "denormals": rng.integers(-3, 4, n) * 1e-45,
        "magnitudes": rng.normal(size=n) * 10.0 ** rng.integers(-44, 38, n),
        "extremes": rng.choice(TIED, n),
    }
    return values[kind].astype(np.float32)


@pytest.mark.parametrize("kind", ["random", "ties", "equal", "zeros", "denormals", "magnitudes", "extremes"])
@pytest.mark.parametrize("n", [1, 3, 33])
def test_equals_a_full_sort(kind, n):
    scores = scores_of(kind, n)
    for sparsity in SPARSITIES:
        mask = FLAT(scores, sparsity)
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, references.mask_smallest(scores, sparsity), err_msg=f"{sparsity=}")


@QUICK
@given(st.sampled_from([1, 3, 33]), st.floats(0, 1, width=32), st.data())
def test_equals_a_full_sort_on_anything(n, sparsity, data):
    values = st.one_of(st.sampled_from(TIED), st.floats(width=32, allow_nan=False))
    scores = np.array(data.draw(st.lists(values, min_size=n, max_size=n)), np.float32)
    np.testing.assert_array_equal(FLAT(scores, sparsity), references.mask_smallest(scores, sparsity))


@QUICK
@given(st.sampled_from([3, 33, 99_999]), st.floats(0, 1, width=32))
@example(3, 0.5)  # 1.5
@example(33, 0.5)  # 16.5
@example(33, 0.25)  # 24.75
@example(99_999, 0.5)  # 49999.5
@example(99_999, float(np.float32(5e-6)))  # 99998.500005 but for the rounding of float32
def test_count_is_exact(n, sparsity):
    assert FLAT(np.arange(n, dtype=np.float32), sparsity).sum() == references.kept_count(n, sparsity)


def test_count_is_exact_beyond_the_integers_of_float32():
    n = 2**24 + 3  # odd, so the product n * (1 - sparsity) itself is no float32
    scores = np.zeros(n, np.float32)
    for sparsity in [0.1, 0.5]:
        mask = np.asarray(FLAT(scores, np.float32(sparsity)))
        expected = references.kept_count(n, sparsity)
        assert mask.sum() == expected, sparsity
        assert mask[:expected].all(), sparsity  # all tied: the lowest indices are kept


def test_count_is_exact_up_to_two_billion():
    """The private count, because an array of this size takes 8 GB."""
    rng = np.random.default_rng(0)
    n = np.append(rng.integers(1, 2**31, 3000), [2**31 - 1, 2**31 - 2, 2**30 + 1, 2**24 + 1] * 250).astype(np.uint32)
    halves = (rng.integers(0, n) + 0.5) / n
    sparsity = np.where(rng.random(n.size) < 0.5, halves, 10.0 ** rng.uniform(-40, 0, n.size))
    sparsity[::7] = rng.integers(1, 64, sparsity[::7].size) / 64  # products that are exactly halves
    sparsity = sparsity.astype(np.float32)
    twin = [references.kept_count(int(a), b) for a, b in zip(n, sparsity, strict=True)]
    np.testing.assert_array_equal(jax.jit(jax.vmap(_kept_count))(n, sparsity), twin)


@pytest.mark.parametrize(("shape", "dtype"), [((4, 6), jnp.float32), ((2, 3, 4), jnp.bfloat16), ((8, 1), jnp.float16)])
def test_any_shape_and_precision(shape, dtype):
    scores = jnp.asarray(scores_of("random", int(np.prod(shape))).reshape(shape), dtype)
    for sparsity in (0.0, 0.4, 1.0):
        np.testing.assert_array_equal(FLAT(scores, sparsity), references.mask_smallest(scores, sparsity))
    if dtype == jnp.float32:
        np.testing.assert_array_equal(mask_smallest(scores, 0.4), FLAT(scores, 0.4))  # and without jit


def test_vmap_over_sparsity_and_scores_compiles_once():
    traces = 0

    def counted(scores, sparsity):
        nonlocal traces
        traces += 1
        return mask_smallest(scores, sparsity)

    grid = jax.jit(jax.vmap(counted))
    scores = np.stack([scores_of("ties", 33, seed) for seed in range(len(SPARSITIES))])
    for shift in (0.0, 0.05):
        sparsities = np.array(SPARSITIES, np.float32) + np.float32(shift)
        loop = [references.mask_smallest(s, p) for s, p in zip(scores, sparsities, strict=True)]
        np.testing.assert_array_equal(grid(scores, sparsities), loop)
    assert traces == 1
    shared = jax.vmap(mask_smallest, in_axes=(None, 0))(jnp.asarray(scores[0]), jnp.asarray(sparsities))
    np.testing.assert_array_equal(shared, [references.mask_smallest(scores[0], p) for p in sparsities])


def test_no_scores_but_nan_still_counts_exactly():
    scores = scores_of("random", 33)
    scores[[3, 7, 11]] = [np.nan, -np.nan, np.nan]
    for sparsity in SPARSITIES:
        assert FLAT(scores, sparsity).sum() == references.kept_count(33, sparsity)
    assert FLAT(np.full(3, np.nan, np.float32), 0.5).sum() == references.kept_count(3, 0.5)


def test_masks_are_nested_and_pass_no_gradient():
    scores = scores_of("ties", 33)
    masks = [np.asarray(FLAT(scores, s)) for s in np.linspace(0, 1, 9)]
    for larger, smaller in itertools.pairwise(masks):
        assert (larger | ~smaller).all()
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(x * FLAT(x, 0.5)))(scores), FLAT(scores, 0.5))


def test_strict_dtypes():
    with jax.numpy_dtype_promotion("strict"):
        FLAT(jnp.ones((4, 6)), 0.5)
        FLAT(jnp.ones((2, 3, 4), jnp.bfloat16), jnp.float32(0.5))
        cubic_sparsity(jnp.int32(5), begin=0, end=10, final=0.5)
        cubic_sparsity(jnp.int32(5), begin=jnp.int32(0), end=jnp.int32(10), final=jnp.float32(0.5))


@pytest.mark.parametrize(("begin", "end", "final"), [(0, 10, 0.9), (3, 8, 0.5), (100, 25_000, 0.8), (5, 5, 0.7)])
def test_cubic_schedule(begin, end, final):
    steps = np.unique(np.linspace(0, end + 10, 60).astype(np.int32))
    steps = np.unique(np.append(steps, [begin - 1, begin, begin + 1, end - 1, end, end + 1])).astype(np.int32)
    schedule = jax.jit(jax.vmap(lambda step: cubic_sparsity(step, begin=begin, end=end, final=final)))
    ours = np.asarray(schedule(steps))
    twin = [references.cubic_sparsity(int(step), begin=begin, end=end, final=final) for step in steps]
    # the cube amplifies p's rounding (6e-8) threefold and 1 - (1 - p)^3 cancels near p = 0: absolute, not relative
    np.testing.assert_allclose(ours, twin, rtol=0, atol=4e-7)
    assert (np.diff(ours) >= 0).all()
    assert (ours[steps < begin] == 0).all()
    assert (ours[steps >= end] == np.float32(final)).all()


def test_cubic_schedule_with_every_argument_traced():
    begin, end, final = jnp.array([0, 4, 6]), jnp.array([10, 4, 9]), jnp.array([0.9, 0.5, 1.0])
    traces = 0

    def counted(step, begin, end, final):
        nonlocal traces
        traces += 1
        return cubic_sparsity(step, begin=begin, end=end, final=final)

    grid = jax.jit(jax.vmap(counted, in_axes=(None, 0, 0, 0)))
    for step in (0, 3, 4, 7, 20):
        twin = [
            references.cubic_sparsity(step, begin=int(b), end=int(e), final=float(f))
            for b, e, f in zip(begin, end, final, strict=True)
        ]
        np.testing.assert_allclose(grid(jnp.int32(step), begin, end, final), twin, rtol=0, atol=4e-7)
    assert traces == 1
