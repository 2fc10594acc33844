"""Ranking metrics against explicit sorting (references.py) and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from recjax import metrics

QUICK = settings(max_examples=30, deadline=None, derandomize=True)
TOP = jax.jit(metrics.top_hits, static_argnames="k")  # a compile costs more than all else here
RTOL = 1e-6  # float32 sums of at most ten positive terms: a few roundings of 6e-8 each


def example(shape, seed=0, tied=True):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, shape) if tied else rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)
    return scores.astype(np.float32), rng.random(shape) < 0.3, rng.random(shape) < 0.7


@pytest.mark.parametrize(("shape", "k"), [((6,), 3), ((40, 9), 1), ((40, 9), 5), ((3, 4, 5), 5)])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_explicit_sorting(shape, k, masked):
    scores, labels, where = example(shape, seed=k)
    if len(shape) > 1:
        where[0] = False  # nothing may be ranked
        labels[1] = False  # nothing to find
        where[2] = np.arange(shape[-1]) == 2  # fewer allowed items than k
    where = where if masked else None
    hits, relevant = TOP(scores, labels, k=k, where=where)
    expected_hits, expected_relevant = references.top_hits(scores, labels, k=k, where=where)
    assert hits.dtype == bool
    assert relevant.dtype == jnp.int32
    np.testing.assert_array_equal(hits, expected_hits)
    np.testing.assert_array_equal(relevant, expected_relevant)
    for name in ("ndcg", "recall"):
        value = getattr(metrics, name)(hits, relevant)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, getattr(references, name)(expected_hits, expected_relevant), rtol=RTOL)


@pytest.mark.parametrize("k", [4, 12])
def test_ndcg_equals_sklearn(k):
    scores, labels, _ = example((50, 12), seed=k, tied=False)
    labels[0] = False
    ours = metrics.ndcg(*TOP(scores, labels, k=k))
    peer = [ndcg_score(y[None], s[None], k=k, ignore_ties=True) for y, s in zip(labels * 1.0, scores, strict=True)]
    np.testing.assert_allclose(ours, peer, rtol=RTOL)


def test_known_values():
    hits = jnp.array([[True, False, True], [False, False, False], [True, True, True], [False, False, False]])
    relevant = jnp.array([2, 5, 7, 0], jnp.int32)
    first = (1 + 1 / 2) / (1 + 1 / np.log2(3))
    np.testing.assert_allclose(metrics.ndcg(hits, relevant), [first, 0, 1, 0], rtol=RTOL)
    np.testing.assert_allclose(metrics.recall(hits, relevant), [1, 0, 3 / 7, 0], rtol=RTOL)


def test_nothing_relevant_gives_zero_whatever_the_hits():
    hits, relevant = jnp.array([[False, True, False]]), jnp.zeros(1, jnp.int32)
    assert metrics.ndcg(hits, relevant) == 0
    assert metrics.recall(hits, relevant) == 0


@pytest.mark.parametrize("poison", [np.inf, np.nan, np.finfo(np.float32).max])
def test_items_left_out_never_rank(poison):
    scores, labels, where = example((20, 8), seed=3)
    expected = references.top_hits(scores, labels, k=5, where=where)
    scores = np.where(where, scores, np.float32(poison))
    for ours, twin in zip(TOP(scores, labels, k=5, where=where), expected, strict=True):
        np.testing.assert_array_equal(ours, twin)


@pytest.mark.parametrize("lowest", [-np.inf, np.finfo(np.float32).min])
def test_lowest_scores_still_rank_before_items_left_out(lowest):
    scores = np.array([5.0, 4.0, 3.0, lowest], np.float32)  # as a mask of the caller's own would write it
    where = np.array([False, False, True, True])
    hits, relevant = metrics.top_hits(scores, np.array([True, True, False, True]), k=2, where=where)
    np.testing.assert_array_equal(hits, [False, True])
    assert relevant == 1


def test_ties_prefer_the_lower_index():
    labels = np.array([False, True, False, True])
    hits, _ = metrics.top_hits(np.array([-0.0, 0.0, -0.0, 0.0], np.float32), labels, k=4)
    np.testing.assert_array_equal(hits, labels)


def test_a_score_of_nan_is_no_hit():
    hits, relevant = metrics.top_hits(np.array([1, np.nan, 2], np.float32), np.array([False, True, True]), k=3)
    np.testing.assert_array_equal(hits, [True, False, False])
    assert relevant == 2  # it is still missed by recall


@QUICK
@given(st.integers(0, 2**32 - 1))
def test_invariants(seed):
    scores, labels, where = example((6, 9), seed=seed, tied=False)
    hits, relevant = TOP(scores, labels, k=4, where=where)
    values = [metrics.ndcg(hits, relevant), metrics.recall(hits, relevant)]
    order = np.random.default_rng(seed).permutation(9)  # without ties, the order of the catalog does not matter
    moved = TOP(scores[:, order], labels[:, order], k=4, where=where[:, order])
    scaled = TOP(3 * scores - 7, labels, k=4, where=where)  # nor does a monotone map of the scores
    ideal = TOP(labels.astype(np.float32), labels, k=4, where=where)
    for metric, value in zip((metrics.ndcg, metrics.recall), values, strict=True):
        assert ((value >= 0) & (value <= 1)).all()
        np.testing.assert_array_equal(metric(*moved), value)
        np.testing.assert_array_equal(metric(*scaled), value)
        assert (metric(*ideal) >= value).all()
    np.testing.assert_allclose(metrics.ndcg(*ideal), np.asarray(relevant) > 0, rtol=RTOL)


def test_jit_vmap_and_strict_dtypes():
    scores, labels, where = example((7, 6))

    def both(scores, labels, where):
        hits, relevant = metrics.top_hits(scores, labels, k=3, where=where)
        return hits, relevant, metrics.ndcg(hits, relevant), metrics.recall(hits, relevant)

    whole = both(scores, labels, where)
    with jax.numpy_dtype_promotion("strict"):
        one_by_one = jax.jit(jax.vmap(both))(scores, labels, where)
        low = both(jnp.asarray(scores, jnp.bfloat16), jnp.asarray(labels), jnp.asarray(where))
    for a, b, c in zip(whole, one_by_one, low, strict=True):
        np.testing.assert_allclose(a, b, rtol=RTOL)
        np.testing.assert_allclose(a, c, rtol=RTOL)  # small integers are exact in bfloat16


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.top_hits(np.zeros((2, 5), np.float32), np.zeros((2, 4), bool), k=2),
        lambda: metrics.top_hits(np.zeros((2, 5), np.float32), np.zeros(5, bool), k=2),
        lambda: metrics.top_hits(np.zeros((2, 5), np.float32), np.zeros((2, 5), bool), k=2, where=np.ones(5, bool)),
        lambda: metrics.top_hits(np.zeros((2, 5), np.float32), np.zeros((2, 5), bool), k=6),
        lambda: metrics.ndcg(np.zeros((2, 3), bool), np.zeros(3, np.int32)),
        lambda: metrics.ndcg(np.zeros((2, 3), bool), np.zeros((2, 3), np.int32)),
        lambda: metrics.recall(np.zeros((2, 3), bool), np.zeros((), np.int32)),
    ],
)
def test_wrong_shapes_raise(call):
    with pytest.raises(ValueError):
        call()
