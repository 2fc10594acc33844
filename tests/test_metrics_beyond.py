"""Metrics beyond accuracy against explicit loops (references), SciPy, and closed forms."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import Programs
from scipy.stats import entropy as scipy_entropy
from scipy.stats import kendalltau

import recjax

metrics = Programs(recjax.metrics)

QUICK = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**32 - 1)
CATALOG = 12
# The twins are float64. Float32 rounds by 6e-8 relative at each of the few operations on each term; Gini's index and
# the distances are differences of sums near 1, hence the absolute part.
TOLERANCE = {"float32": {"rtol": 2e-6, "atol": 1e-6}, "float64": {"rtol": 1e-12, "atol": 1e-14}}


@functools.cache
def compiled(name, *static):
    return jax.jit(getattr(metrics, name), static_argnames=static)  # a compile costs more than all else here


def lists_of(shape, seed=0):
    """Distinct ids in each list, some of them no item."""
    rng = np.random.default_rng(seed)
    ids = rng.permuted(np.broadcast_to(np.arange(CATALOG), (*shape[:-1], CATALOG)), axis=-1)[..., : shape[-1]]
    return np.where(rng.random(shape) < 0.2, -1, ids).astype(np.int32)


def counts_of(shape, seed=0, dtype=np.int32):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, shape) ** 3
    if len(shape) > 1:
        counts[0], counts[1] = 0, 7  # nothing listed; all alike
    return counts.astype(dtype)


def scores_of(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 4, shape).astype(np.float32), rng.integers(0, 6, shape).astype(np.float32)


def mask_for(shape, seed=1):
    where = np.random.default_rng(seed).random(shape) < 0.7
    if len(shape) > 1:
        where[0] = False
        where[1] = np.arange(shape[-1]) == 2  # one is not enough for a pair
    return where


def close(value, expected, dtype="float32"):
    assert value.dtype == dtype
    assert value.shape == expected.shape
    np.testing.assert_allclose(value, expected, **TOLERANCE[dtype])


# ------------------------------------------------------------------------------------------- exposure of the catalog


@pytest.mark.parametrize("shape", [(5,), (4, 6), (2, 3, 4)])
def test_exposure_equals_its_twin(shape):
    items = lists_of(shape, seed=len(shape))
    counts = compiled("exposure", "catalog")(items, catalog=CATALOG)
    assert counts.dtype == jnp.int32
    np.testing.assert_array_equal(counts, references.exposure(items, catalog=CATALOG))


def test_no_item_exposes_none():
    counts = compiled("exposure", "catalog")(
        np.array([[-1, -1], [3, -1]], np.int32), catalog=4
    )  # minus one is not the last item
    np.testing.assert_array_equal(counts, [0, 0, 0, 1])


@pytest.mark.parametrize("name", ["coverage", "gini", "entropy"])
@pytest.mark.parametrize("shape", [(5,), (4, 9), (2, 3, 5)])
@pytest.mark.parametrize("dtype", ["int32", "float32", "float64"])
def test_concentration_equals_its_twin(name, shape, dtype):
    counts = counts_of(shape, seed=len(shape), dtype=dtype)
    with jax.enable_x64(dtype == "float64"):
        value = compiled(name)(jnp.asarray(counts))
        close(value, getattr(references, name)(counts), "float64" if dtype == "float64" else "float32")


def test_entropy_equals_scipy():
    counts = counts_of((5, 30))[1:]
    np.testing.assert_allclose(compiled("entropy")(counts), scipy_entropy(counts, axis=-1), rtol=2e-6)


def test_concentration_known_values():
    counts = jnp.array([[1, 2, 3, 4], [0, 0, 0, 9], [5, 5, 5, 5], [0, 0, 0, 0]], jnp.int32)
    np.testing.assert_allclose(compiled("coverage")(counts), [1, 0.25, 1, 0])
    np.testing.assert_allclose(compiled("gini")(counts), [0.25, 0.75, 0, 0], atol=1e-7)
    np.testing.assert_allclose(compiled("entropy")(counts)[1:], [0, math.log(4), 0], rtol=1e-6, atol=1e-7)


def test_concentration_of_a_large_catalog():
    items, most = 100_000, 20_000
    counts = np.arange(items, dtype=np.int64) % most + 1  # each of 1..20000 five times: 1e9 listings
    closed = (most - 1) / (3 * most)  # of the uniform distribution on 1..most
    np.testing.assert_allclose(compiled("gini")(counts.astype(np.int32)), closed, rtol=1e-5)
    np.testing.assert_allclose(compiled("entropy")(counts.astype(np.int32)), scipy_entropy(counts), rtol=1e-5)
    assert compiled("gini")(np.full(items, most, np.int32)) < 1e-5


def test_concentration_where_the_total_exceeds_an_int32():
    counts = np.array([2**30, 2**30, 2**30, 0, 2**29], np.int32)
    for name in ("coverage", "gini", "entropy"):
        close(compiled(name)(counts), getattr(references, name)(counts))


@QUICK
@given(SEEDS, st.integers(1, 50))
def test_concentration_invariants(seed, scale):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 9, 15).astype(np.int32)
    counts[rng.integers(15)] += 2
    gini, entropy, coverage = compiled("gini"), compiled("entropy"), compiled("coverage")
    assert -1e-6 <= gini(counts) <= 14 / 15 + 1e-6
    assert -1e-6 <= entropy(counts) <= math.log((counts > 0).sum()) + 1e-6  # at most that of the uniform
    for name in (gini, entropy, coverage):
        value = name(counts)
        np.testing.assert_allclose(name(counts * scale), value, **TOLERANCE["float32"])
        np.testing.assert_allclose(name(rng.permutation(counts)), value, **TOLERANCE["float32"])
    alike, alone = np.full(15, scale, np.int32), scale * (np.arange(15) == 4).astype(np.int32)
    np.testing.assert_allclose([gini(alike), gini(alone)], [0, 14 / 15], atol=1e-6)
    np.testing.assert_allclose([entropy(alike), entropy(alone)], [math.log(15), 0], atol=1e-6)
    np.testing.assert_allclose([coverage(alike), coverage(alone)], [1, 1 / 15], rtol=1e-6)
    rich, poor = counts.argmax(), counts.argmin()
    if counts[rich] - counts[poor] >= 2:  # Dalton's principle of transfers
        fairer = counts.copy()
        fairer[rich] -= 1
        fairer[poor] += 1
        assert gini(fairer) < gini(counts)
        assert entropy(fairer) > entropy(counts)


@QUICK
@given(SEEDS)
def test_exposure_invariants(seed):
    exposure = compiled("exposure", "catalog")
    one, other = lists_of((4, 5), seed=seed), lists_of((4, 5), seed=seed + 1)
    counts = exposure(one, catalog=CATALOG)
    assert counts.sum() == (one >= 0).sum()
    both = exposure(np.concatenate([one, other]), catalog=CATALOG)
    np.testing.assert_array_equal(both, counts + exposure(other, catalog=CATALOG))
    np.testing.assert_array_equal(exposure(one[:, ::-1], catalog=CATALOG), counts)


# ----------------------------------------------------------------------------------------------------------- novelty


@pytest.mark.parametrize("shape", [(5,), (4, 6), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_novelty_equals_its_twin(shape, dtype):
    items = lists_of(shape, seed=len(shape))
    if len(shape) > 1:
        items[0] = -1
    popularity = (np.arange(CATALOG) ** 2 % 50).astype(dtype)  # 0 and 1 occur
    popularity[-1] = 0
    close(compiled("novelty")(items, popularity, users=60), references.novelty(items, popularity, users=60))


def test_novelty_known_values():
    popularity = jnp.array([8, 4, 2, 1, 0])
    items = jnp.array([[0, 0, -1], [1, 3, -1], [2, 4, 3], [-1, -1, -1]])
    np.testing.assert_allclose(compiled("novelty")(items, popularity, users=8), [0, 2, 8 / 3, 0], rtol=1e-6)


def test_novelty_of_many_users_may_be_traced():
    popularity = np.array([3, 2**20, 2**24], np.int32)
    items = np.array([[0, 1], [2, 2]], np.int32)
    value = compiled("novelty")(items, popularity, users=2**25)
    np.testing.assert_allclose(value, references.novelty(items, popularity, users=2**25), rtol=2e-6)


@QUICK
@given(SEEDS)
def test_novelty_invariants(seed):
    rng = np.random.default_rng(seed)
    items, popularity = lists_of((4, 5), seed=seed), rng.integers(1, 40, CATALOG).astype(np.int32)
    novelty = compiled("novelty")
    value = novelty(items, popularity, users=40)
    assert (value >= 0).all()
    assert (value <= math.log2(40) + 1e-5).all()
    np.testing.assert_allclose(novelty(items[:, ::-1], popularity, users=40), value, **TOLERANCE["float32"])
    listed = (items >= 0).any(-1)
    twice = novelty(items, 2 * popularity, users=40)  # one bit less of surprise
    np.testing.assert_allclose(twice, value - listed, **TOLERANCE["float32"])


# ----------------------------------------------------------------------------------------------- distance in the list


@pytest.mark.parametrize("shape", [(5, 3), (4, 6, 2), (2, 3, 4, 8)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_intra_list_distance_equals_its_twin(shape, masked, dtype):
    vectors = np.random.default_rng(len(shape)).normal(size=shape).astype(dtype)
    vectors[..., 1, :] = 0  # no direction: as far from all as a right angle
    vectors[..., 3, :] = vectors[..., 0, :] * 2
    where = mask_for(shape[:-1]) if masked else None
    with jax.enable_x64(dtype == "float64"):
        value = compiled("intra_list_distance")(jnp.asarray(vectors), where=where)
        close(value, references.intra_list_distance(vectors, where=where), dtype)


@pytest.mark.parametrize("poison", [np.inf, np.nan])
def test_vectors_left_out_reach_nothing(poison):
    vectors, where = np.random.default_rng(0).normal(size=(4, 6, 2)).astype(np.float32), mask_for((4, 6))
    distance = compiled("intra_list_distance")
    poisoned = np.where(where[..., None], vectors, np.float32(poison))
    np.testing.assert_array_equal(distance(poisoned, where=where), distance(vectors, where=where))


def test_a_vector_of_nan_gives_nan():
    vectors = np.ones((2, 3, 2), np.float32)
    vectors[1, 2, 0] = np.nan
    np.testing.assert_allclose(compiled("intra_list_distance")(vectors), [0, np.nan], atol=1e-6)


def test_intra_list_distance_edges():
    distance = compiled("intra_list_distance")
    assert distance(np.ones((1, 4), np.float32)) == 0  # no pair
    directions = np.array([[[1, 0], [0, 3]], [[1, 0], [-3, 0]], [[1, 0], [3, 0]]], np.float32)
    for scale in (1e-15, 1e15):  # squares are still in the range of float32
        np.testing.assert_allclose(distance(directions * np.float32(scale)), [1, 2, 0], rtol=1e-6, atol=1e-6)


@QUICK
@given(SEEDS)
def test_intra_list_distance_invariants(seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(6, 3)).astype(np.float32)
    distance = compiled("intra_list_distance")
    value = distance(vectors)
    assert -1e-6 <= value <= 1.2 + 1e-6  # of k unit vectors the cosines sum to at least -k/2: at most k / (k - 1)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(np.float32)
    lengths = rng.uniform(0.1, 9, (6, 1)).astype(np.float32)
    for same in (rng.permutation(vectors), vectors * lengths, vectors @ turn, -vectors):
        np.testing.assert_allclose(distance(same), value, atol=3e-6)
    np.testing.assert_allclose(distance(lengths * vectors[:1]), 0, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- recall by group


def by_group(shape, groups=3, seed=0):
    rng = np.random.default_rng(seed)
    items = lists_of(shape, seed=seed)
    group = rng.integers(0, groups - 1, CATALOG).astype(np.int32)  # nothing is in the last group
    hits = (items >= 0) & (rng.random(shape) < 0.5)
    found = np.stack([(hits & (group[items] == g)).sum(-1) for g in range(groups)], -1)
    return hits, items, (found + rng.integers(0, 3, found.shape)).astype(np.int32), group


@pytest.mark.parametrize("shape", [(5,), (4, 6), (2, 3, 4)])
def test_recall_by_group_equals_its_twin(shape):
    example = by_group(shape, seed=len(shape))
    close(compiled("recall_by_group")(*example), references.recall_by_group(*example))


@QUICK
@given(SEEDS)
def test_recall_by_group_invariants(seed):
    hits, items, truth_counts, group = by_group((4, 6), seed=seed)
    value = compiled("recall_by_group")(hits, items, truth_counts, group)
    assert ((value >= 0) & (value <= 1)).all()
    np.testing.assert_allclose((value * truth_counts).sum(-1), hits.sum(-1), rtol=1e-6)
    whole = compiled("recall_by_group")(hits, items, truth_counts.sum(-1, keepdims=True), np.zeros_like(group))
    np.testing.assert_allclose(whole[:, 0], compiled("recall")(hits, truth_counts.sum(-1)), rtol=1e-6)


# ------------------------------------------------------------------------------------------ agreement with a teacher


@pytest.mark.parametrize("shape", [(5,), (4, 6), (2, 3, 4)])
def test_overlap_equals_its_twin(shape):
    student, teacher = lists_of(shape, seed=1), lists_of(shape, seed=2)
    close(compiled("overlap")(student, teacher), references.overlap(student, teacher))


def test_overlap_known_values():
    student = jnp.array([[1, 2, 3, 4], [1, 2, -1, -1], [-1, -1, -1, -1]])
    teacher = jnp.array([[4, 3, 9, 8], [2, 1, -1, -1], [-1, -1, -1, -1]])
    np.testing.assert_array_equal(compiled("overlap")(student, teacher), [0.5, 0.5, 0])


@QUICK
@given(SEEDS)
def test_overlap_invariants(seed):
    student, teacher = lists_of((4, 6), seed=seed), lists_of((4, 6), seed=seed + 1)
    overlap = compiled("overlap")
    value = overlap(student, teacher)
    np.testing.assert_array_equal(overlap(teacher, student), value)
    np.testing.assert_array_equal(overlap(student[:, ::-1], teacher), value)
    np.testing.assert_allclose(overlap(student, student), (student >= 0).mean(-1), rtol=1e-6)
    assert ((value >= 0) & (value <= overlap(student, student))).all()


@pytest.mark.parametrize("shape", [(7,), (4, 9), (2, 3, 5)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kendall_tau_equals_its_twin(shape, masked, dtype):
    student, teacher = (scores.astype(dtype) for scores in scores_of(shape, seed=len(shape)))
    where = mask_for(shape) if masked else None
    expected = references.kendall_tau(student, teacher, where=where)
    with jax.enable_x64(dtype == "float64"):
        value = compiled("kendall_tau")(jnp.asarray(student), jnp.asarray(teacher), where=where)
        close(value, expected, dtype)


def test_kendall_tau_equals_scipy():
    student, teacher = scores_of((6, 30))
    student[0] = np.random.default_rng(0).permutation(30)  # no ties
    expected = [kendalltau(s, t).statistic for s, t in zip(student, teacher, strict=True)]
    np.testing.assert_allclose(compiled("kendall_tau")(student, teacher), expected, rtol=2e-6, atol=1e-7)


def test_kendall_tau_of_a_long_list():
    rng = np.random.default_rng(0)
    teacher = rng.integers(0, 40, 1000).astype(np.float32)
    student = np.round(teacher + 5 * rng.normal(size=1000)).astype(np.float32)
    expected = kendalltau(student, teacher).statistic  # half a million pairs
    np.testing.assert_allclose(compiled("kendall_tau")(student, teacher), expected, rtol=2e-6)


def test_kendall_tau_undefined():
    student = np.array([[1, 1, 1], [1, 2, 3], [1, 2, 3], [1, 2, np.nan]], np.float32)
    teacher = np.array([[1, 2, 3], [4, 4, 4], [1, 2, 3], [1, 2, 3]], np.float32)
    where = np.array([[True] * 3, [True] * 3, [False] * 3, [True] * 3])
    assert np.isnan(compiled("kendall_tau")(student, teacher, where=where)).all()


@pytest.mark.parametrize("poison", [np.inf, np.nan])
def test_scores_left_out_reach_nothing(poison):
    student, teacher = scores_of((4, 9))
    where = mask_for((4, 9))
    tau = compiled("kendall_tau")
    poisoned = (np.where(where, scores, np.float32(poison)) for scores in (student, teacher))
    np.testing.assert_array_equal(tau(*poisoned, where=where), tau(student, teacher, where=where))


def test_infinite_scores_tie():
    student = np.array([-np.inf, -np.inf, 0, 2, np.inf], np.float32)  # as a mask of the caller's own would write them
    teacher = np.array([0, 1, 2, 1, np.inf], np.float32)
    expected = references.kendall_tau(student, teacher)
    np.testing.assert_allclose(compiled("kendall_tau")(student, teacher), expected, rtol=1e-6)


@QUICK
@given(SEEDS)
def test_kendall_tau_invariants(seed):
    rng = np.random.default_rng(seed)
    student, teacher = scores_of((3, 9), seed=seed)
    student[:, :2], teacher[:, :2] = (0, 1), (0, 1)  # not all alike
    tau = compiled("kendall_tau")
    value = tau(student, teacher)
    assert (np.abs(value) <= 1 + 1e-6).all()
    np.testing.assert_allclose(tau(teacher, student), value, atol=1e-6)
    np.testing.assert_allclose(tau(-student, teacher), -value, atol=1e-6)
    np.testing.assert_allclose(tau(student, -teacher), -value, atol=1e-6)
    np.testing.assert_allclose(tau(student, student), 1, rtol=1e-6)
    np.testing.assert_allclose(tau(np.exp(student) * 100 - 7, teacher), value, atol=1e-6)  # the order is what counts
    order = rng.permutation(9)
    np.testing.assert_allclose(tau(student[:, order], teacher[:, order]), value, atol=1e-6)


# -------------------------------------------------------------------------------------------------------- all of them


def test_jit_and_vmap_equal_a_loop_under_strict_dtypes():
    shape = (3, 6)
    items, others, counts = map(jnp.asarray, (lists_of(shape), lists_of(shape, seed=1), counts_of((3, CATALOG))))
    student, teacher = map(jnp.asarray, scores_of(shape))
    where = jnp.asarray(mask_for(shape)).at[:2].set(True)
    hits, _, truth_counts, group = map(jnp.asarray, by_group(shape))
    vectors = jax.random.normal(jax.random.key(0), (3, 6, 4))

    def everything(items, others, counts, student, teacher, where, hits, truth_counts, vectors):
        return (
            metrics.exposure(items, catalog=CATALOG),
            *(metric(counts) for metric in (metrics.coverage, metrics.gini, metrics.entropy)),
            metrics.novelty(items, counts, users=300),
            metrics.intra_list_distance(vectors, where=where),
            metrics.recall_by_group(hits & (items >= 0), items, truth_counts, group),
            metrics.overlap(items, others),
            metrics.kendall_tau(student, teacher, where=where),
        )

    arguments = (items, others, counts, student, teacher, where, hits, truth_counts, vectors)
    one = jax.jit(everything)
    loop = [one(*(x[i] for x in arguments)) for i in range(3)]
    loop = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop)
    with jax.numpy_dtype_promotion("strict"):
        at_once = jax.jit(jax.vmap(everything))(*arguments)
        half = [x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x for x in arguments]
        low = jax.eval_shape(jax.vmap(everything), *half)
    jax.tree.map(functools.partial(np.testing.assert_allclose, **TOLERANCE["float32"]), at_once, loop)
    assert [x.dtype for x in low] == [x.dtype for x in at_once]


IDS, SCORES, MASK = jnp.zeros((2, 4), jnp.int32), jnp.zeros((2, 4)), jnp.ones((2, 4), bool)
GROUP, TRUTH = jnp.zeros(9, jnp.int32), jnp.ones((2, 3), jnp.int32)


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (TypeError, lambda: metrics.exposure(SCORES, catalog=9)),
        (ValueError, lambda: metrics.coverage(jnp.zeros((), jnp.int32))),
        (ValueError, lambda: metrics.gini(jnp.zeros((), jnp.int32))),
        (ValueError, lambda: metrics.entropy(jnp.zeros((), jnp.int32))),
        (TypeError, lambda: metrics.novelty(SCORES, GROUP, users=5)),
        (ValueError, lambda: metrics.novelty(IDS, jnp.zeros((3, 3)), users=5)),
        (ValueError, lambda: metrics.novelty(jnp.zeros((), jnp.int32), GROUP, users=5)),
        (ValueError, lambda: metrics.intra_list_distance(jnp.zeros(4))),
        (ValueError, lambda: metrics.intra_list_distance(SCORES, where=MASK)),
        (TypeError, lambda: metrics.intra_list_distance(SCORES, where=jnp.ones(2))),
        (TypeError, lambda: metrics.intra_list_distance(IDS)),
        (ValueError, lambda: metrics.recall_by_group(MASK[:, :3], IDS, TRUTH, GROUP)),
        (ValueError, lambda: metrics.recall_by_group(MASK, IDS, TRUTH[:1], GROUP)),
        (ValueError, lambda: metrics.recall_by_group(MASK, IDS, TRUTH, GROUP[None])),
        (TypeError, lambda: metrics.recall_by_group(IDS, IDS, TRUTH, GROUP)),
        (TypeError, lambda: metrics.recall_by_group(MASK, SCORES, TRUTH, GROUP)),
        (TypeError, lambda: metrics.recall_by_group(MASK, IDS, TRUTH, jnp.zeros(9))),
        (ValueError, lambda: metrics.overlap(IDS, IDS[:, :3])),
        (ValueError, lambda: metrics.overlap(IDS, IDS[0])),
        (TypeError, lambda: metrics.overlap(IDS, SCORES)),
        (ValueError, lambda: metrics.kendall_tau(SCORES, SCORES[:, :3])),
        (ValueError, lambda: metrics.kendall_tau(jnp.zeros(()), jnp.zeros(()))),
        (ValueError, lambda: metrics.kendall_tau(SCORES, SCORES, where=MASK[0])),
        (TypeError, lambda: metrics.kendall_tau(SCORES, SCORES, where=IDS)),
        (TypeError, lambda: metrics.kendall_tau(IDS, SCORES)),
    ],
)
def test_wrong_shapes_and_dtypes_raise(error, call):
    with pytest.raises(error, match="expected"):
        call()
