"""Masks over trees, groups and slices against sorts in plain Python (references); PyTorch's where it has the same."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import Programs

import recjax

prune = Programs(recjax.prune)

QUICK = settings(max_examples=25, deadline=None, derandomize=True)
SHAPES = {"a": (3, 4), "b": (1,), "c": (2, 4, 2)}
SPARSITIES = [0.0, 0.1, 1 / 3, 0.5, 0.9, 1.0]
GLOBAL = jax.jit(prune.mask_smallest_globally)
LOWEST = jax.jit(prune.mask_lowest)
WITHIN = jax.jit(prune.mask_smallest, static_argnames="axis")
N_OF_M = jax.jit(prune.mask_n_of_m, static_argnames=("m", "axis"))
SLICES = jax.jit(prune.mask_slices, static_argnames="axis")
VALUES = st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, np.inf, -np.inf]), st.floats(width=32, allow_nan=False))


def tree(values):
    sizes = [int(np.prod(shape)) for shape in SHAPES.values()]
    parts = np.split(np.asarray(values, np.float32), np.cumsum(sizes)[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(SHAPES.items(), parts, strict=True)}


@QUICK
@given(st.lists(VALUES, min_size=29, max_size=29), st.sampled_from(SPARSITIES))
def test_one_threshold_for_a_tree(values, sparsity):
    layers = tree(values)
    for mask, signed in ((GLOBAL, False), (LOWEST, True)):
        found = mask(layers, sparsity)
        twin = references.mask_globally(list(layers.values()), sparsity, signed=signed)
        for name, expected in zip(layers, twin, strict=True):
            np.testing.assert_array_equal(found[name], expected)


@pytest.mark.parametrize("values", [np.zeros(29), np.ones(29), np.full(29, np.nan), np.arange(29) % 3 - 1])
def test_counts_are_exact_and_masks_nested(values):
    for mask in (GLOBAL, LOWEST):
        masks = [np.concatenate([np.ravel(m) for m in mask(tree(values), s).values()]) for s in SPARSITIES]
        assert [m.sum() for m in masks] == [references.kept_count(29, s) for s in SPARSITIES]
        for larger, smaller in itertools.pairwise(masks):
            assert (larger | ~smaller).all()


def test_nan_stays_and_a_single_leaf_is_as_the_array():
    values = np.random.default_rng(0).normal(size=29).astype(np.float32)
    values[[2, 20]] = [np.nan, -np.nan]
    for mask in (GLOBAL, LOWEST):
        found = mask(tree(values), 0.9)
        assert found["a"][0, 2]
        assert found["c"].ravel()[20 - 13]
    one = tree(values)["c"]
    np.testing.assert_array_equal(GLOBAL(one, 0.5), prune.mask_smallest(one, 0.5))
    for mask in (prune.mask_smallest_globally, prune.mask_lowest, prune.erk_sparsity):
        with pytest.raises(ValueError, match="at least one array"):
            mask({}, 0.5)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_ranking_of_its_own_for_each_position_of_an_axis(axis):
    scores = np.random.default_rng(1).integers(-3, 4, (4, 3, 5)).astype(np.float32)
    for sparsity in SPARSITIES:
        np.testing.assert_array_equal(
            WITHIN(scores, sparsity, axis=axis), references.mask_within(scores, sparsity, axis)
        )


@pytest.mark.parametrize("shapes", [[(100, 20), (20, 2)], [(8, 8), (8, 4), (4, 1), (3,)], [(5, 1)], [(4, 4), (4, 4)]])
def test_erk_densities(shapes):
    params = [jnp.zeros(shape) for shape in shapes]
    sizes = np.array([np.prod(shape) for shape in shapes])
    grid = np.array([0.0, 0.1, 0.5, 0.8, 0.99, 1.0], np.float32)
    found = np.stack(jax.jit(jax.vmap(lambda s: prune.erk_sparsity(params, s)))(grid), axis=1)
    for sparsity, ours in zip(grid, found, strict=True):
        np.testing.assert_allclose(1 - ours, references.erk_density(shapes, sparsity), rtol=0, atol=2e-6)
    np.testing.assert_allclose((1 - found) @ sizes / sizes.sum(), 1 - grid, rtol=0, atol=2e-6)


def test_erk_keeps_scalars_and_empty_arrays_dense():
    shapes = [(), (30, 20), (0, 3), (20, 2)]
    found = prune.erk_sparsity([jnp.zeros(shape) for shape in shapes], 0.8)
    np.testing.assert_allclose(1 - np.array(found), references.erk_density(shapes, 0.8), rtol=0, atol=2e-6)
    assert (found[0], found[2]) == (0, 0)
    assert prune.erk_sparsity([jnp.zeros(())], 0.5) == [0]


@pytest.mark.parametrize("nan", [np.nan, np.float32(np.nan), jnp.array(np.nan)])
def test_a_sparsity_that_is_nan_is_refused_and_where_traced_keeps_one(nan):
    scores = jnp.array([3.0, 1.0, 2.0])
    for mask in (recjax.prune.mask_smallest, recjax.prune.mask_lowest, recjax.prune.mask_smallest_globally):
        with pytest.raises(ValueError, match="sparsity: expected a number, got NaN"):
            mask(scores, nan)
    assert GLOBAL(scores, nan).tolist() == [True, False, False]


@QUICK
@given(st.lists(VALUES, min_size=24, max_size=24), st.integers(0, 4))
def test_n_of_m(values, n):
    scores = np.array(values, np.float32).reshape(3, 8)
    np.testing.assert_array_equal(N_OF_M(scores, n, m=4), references.mask_n_of_m(scores, n, 4))
    np.testing.assert_array_equal(N_OF_M(scores.T, n, m=4, axis=0), references.mask_n_of_m(scores, n, 4).T)


def test_n_of_m_counts_nan_and_refuses_a_remainder():
    scores = np.array([[np.nan, 1, np.nan, np.inf]], np.float32)
    assert N_OF_M(scores, 2, m=4).tolist() == [[True, False, True, False]]
    for shape, m in (((3, 6), 4), ((), 1), ((4,), 0)):
        with pytest.raises(ValueError, match="expected the length of axis -1 to be a multiple of m"):
            prune.mask_n_of_m(jnp.ones(shape), 1, m=m)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_slices(axis):
    scores = np.random.default_rng(2).normal(size=(4, 3, 5)).astype(np.float32)
    twin = references.slice_scores(scores, axis)
    np.testing.assert_allclose(prune.slice_scores(scores, axis=axis), twin, rtol=1e-6)
    for sparsity in (0.0, 0.4, 1.0):
        kept = references.mask_smallest(twin, sparsity)
        along = np.moveaxis(np.asarray(SLICES(scores, sparsity, axis=axis)), axis, 0)
        np.testing.assert_array_equal(along, np.broadcast_to(kept[:, None, None], along.shape))
    with pytest.raises(ValueError, match=r"axis: expected an axis of an array of shape \(2, 2\), got 2"):
        prune.slice_scores(jnp.ones((2, 2)), axis=2)


def test_magnitudes():
    layers = tree(np.random.default_rng(3).normal(size=29))
    found = jax.jit(prune.normalized_magnitude)(layers)
    for ours, twin in zip(found.values(), references.normalized_magnitude(list(layers.values())), strict=True):
        np.testing.assert_allclose(ours, twin, rtol=1e-6)
    np.testing.assert_array_equal(prune.magnitude(layers)["a"], np.abs(layers["a"]))
    assert (prune.normalized_magnitude(jnp.zeros(3)) == 0).all()


def test_one_program_for_all_knobs_and_no_sort():
    layers, traces = tree(np.arange(29.0)), 0

    def masks(layers, sparsity, n):
        nonlocal traces
        traces += 1
        sparsities = prune.erk_sparsity(layers, sparsity)
        return (
            prune.mask_smallest_globally(layers, sparsity),
            prune.mask_lowest(layers, sparsity),
            jax.tree.map(prune.mask_smallest, layers, sparsities),
            prune.mask_n_of_m(layers["a"], n, m=4),
            prune.mask_slices(layers["a"], sparsity, axis=0),
        )

    grid = jax.jit(jax.vmap(masks, in_axes=(None, 0, 0)))
    for shift in (0.0, 0.1):
        sparsities, n = jnp.array([0.2, 0.5, 0.8]) + shift, jnp.array([1, 2, 3])
        found = grid(layers, sparsities, n)
        for i in range(3):
            one = jax.tree.map(lambda leaf, i=i: leaf[i], found)
            np.testing.assert_array_equal(one[0]["c"], GLOBAL(layers, sparsities[i])["c"])
            np.testing.assert_array_equal(one[1]["c"], LOWEST(layers, sparsities[i])["c"])
            np.testing.assert_array_equal(one[3], N_OF_M(layers["a"], n[i], m=4))
            np.testing.assert_array_equal(one[4], SLICES(layers["a"], sparsities[i], axis=0))
    assert traces == 1
    program = str(jax.make_jaxpr(masks)(layers, 0.5, 2))
    assert not re.search(r"\b(sort|top_k|approx_top_k)\[", program)


def test_equals_pytorch():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    import torch
    from torch.nn.utils import prune as peer

    w = np.random.default_rng(4).normal(size=(6, 8)).astype(np.float32)
    for amount in (0.25, 0.5):
        layers = [torch.nn.Linear(8, 6), torch.nn.Linear(8, 6)]
        for layer, scale in zip(layers, (1.0, 2.0), strict=True):
            layer.weight.data = torch.from_numpy(w * np.float32(scale))
        peer.global_unstructured([(layer, "weight") for layer in layers], peer.L1Unstructured, amount=amount)
        ours = GLOBAL([w, 2 * w], amount)
        for layer, mask in zip(layers, ours, strict=True):
            np.testing.assert_array_equal(layer.weight_mask.numpy().astype(bool), mask)
        by_rows = torch.nn.Linear(8, 6)
        by_rows.weight.data = torch.from_numpy(w)
        peer.ln_structured(by_rows, "weight", amount=1 / 3, n=2, dim=0)
        np.testing.assert_array_equal(by_rows.weight_mask.numpy().astype(bool), SLICES(w, 1 / 3, axis=0))
