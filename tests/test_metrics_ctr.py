"""Metrics of click prediction against explicit loops (references), scikit-learn, and exact integer arithmetic."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.metrics import log_loss, roc_auc_score

from recjax import metrics

QUICK = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**32 - 1)
LISTS = ["auc", "logloss", "normalized_entropy", "calibration_error", "calibration_ratio"]
# The twins are float64. Float32 rounds by 6e-8 relative at each of the few operations on each term, and all terms are
# positive; the calibration error alone is made of differences of means below 1, hence the absolute part.
TOLERANCE = {"float32": {"rtol": 2e-6, "atol": 3e-7}, "float64": {"rtol": 1e-12, "atol": 1e-14}}
# An AUC is a quotient of two exact counts: the counts, their products and their quotient are rounded once each.
EXACT = 3e-7


@functools.cache
def compiled(name, *static):
    return jax.jit(getattr(metrics, name), static_argnames=static)  # a compile costs more than all else here


def example(shape, seed=0, dtype=np.float32):
    """Logits with ties and labels that follow them a little."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-3, 4, shape) + rng.integers(0, 2, shape) * rng.normal(size=shape)
    return logits.astype(dtype), rng.random(shape) < 1 / (1 + np.exp(-logits))


def mask_for(shape, seed=1):
    """Which examples count: a random part, but in a batch nothing of the first list and two of the second."""
    where = np.random.default_rng(seed).random(shape) < 0.7
    if len(shape) > 1:
        where[0] = False
        where[1] = np.arange(shape[-1]) < 2
    return where


def exact_auc(logits, labels):
    """AUC of integer logits from counts by score, in Python's integers."""
    low, width = int(logits.min()), int(np.ptp(logits)) + 1
    places = (logits - low).astype(np.int64)
    positives = np.bincount(places[labels], minlength=width).tolist()
    negatives = np.bincount(places[~labels], minlength=width).tolist()
    twice, below = 0, 0
    for p, n in zip(positives, negatives, strict=True):
        twice, below = twice + p * (2 * below + n), below + n
    return twice / (2 * sum(positives) * sum(negatives))


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("shape", [(7,), (4, 9), (2, 3, 5)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equals_its_twin(name, shape, masked, dtype):
    logits, labels = example(shape, seed=len(shape), dtype=dtype)
    where = mask_for(shape) if masked else None
    expected = getattr(references, name)(logits, labels, where=where)
    with jax.enable_x64(dtype == "float64"):
        value = compiled(name)(jnp.asarray(logits), labels, where=where)
        assert value.dtype == dtype
        assert value.shape == shape[:-1]
        np.testing.assert_allclose(value, expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("bins", [1, 4, 15, 100])
def test_calibration_error_equals_its_twin_at_every_number_of_bins(bins):
    logits, labels = example((3, 60), seed=bins)
    logits += np.float32(0.01)  # not on an edge, where rounding decides
    value = compiled("calibration_error", "bins")(logits, labels, bins=bins)
    np.testing.assert_allclose(value, references.calibration_error(logits, labels, bins=bins), **TOLERANCE["float32"])


@pytest.mark.parametrize("seed", range(3))
def test_equals_sklearn(seed):
    logits, labels = example((400,), seed=seed)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    rate = np.full(400, labels.mean())
    loss, base = log_loss(labels, probabilities), log_loss(labels, rate)
    np.testing.assert_allclose(compiled("auc")(logits, labels), roc_auc_score(labels, logits), rtol=EXACT)
    np.testing.assert_allclose(compiled("logloss")(logits, labels), loss, rtol=1e-6)
    np.testing.assert_allclose(compiled("normalized_entropy")(logits, labels), loss / base, rtol=2e-6)


@pytest.mark.parametrize("name", LISTS)
def test_labels_may_be_booleans_or_numbers(name):
    logits, labels = example((3, 9))
    expected = compiled(name)(logits, labels)
    for dtype in (np.int32, np.float32):
        np.testing.assert_array_equal(compiled(name)(logits, labels.astype(dtype)), expected)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("poison", [np.inf, -np.inf, np.nan])
def test_what_does_not_count_reaches_nothing(name, poison):
    logits, labels = example((3, 9))
    where = mask_for((3, 9))
    where[0] = True
    expected = compiled(name)(logits, labels, where=where)
    poisoned = np.where(where, logits, np.float32(poison))
    np.testing.assert_array_equal(compiled(name)(poisoned, labels ^ ~where, where=where), expected)


@pytest.mark.parametrize("name", LISTS)
def test_nan_gives_nan(name):
    logits, labels = example((3, 9))
    clean = compiled(name)(logits, labels)
    logits[1, 4] = np.nan
    value = compiled(name)(logits, labels)
    assert np.isnan(value[1])
    np.testing.assert_array_equal(value[::2], clean[::2])  # and no other list suffers


@pytest.mark.parametrize(
    ("name", "no_positive", "no_negative", "nothing"),
    [
        ("auc", math.nan, math.nan, math.nan),  # no pair to order
        ("logloss", math.log1p(math.exp(0.5)), math.log1p(math.exp(-0.5)), 0),
        ("normalized_entropy", math.nan, math.nan, math.nan),  # a base rate of 0 or 1 has no entropy to divide by
        ("calibration_error", 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(0.5)), 0),
        ("calibration_ratio", math.nan, 1 / (1 + math.exp(-0.5)), math.nan),  # nothing happened to compare with
    ],
)
def test_one_class_or_none(name, no_positive, no_negative, nothing):
    logits, where = np.full((3, 6), 0.5, np.float32), np.ones((3, 6), bool)
    labels = np.zeros((3, 6), bool)
    labels[1], where[2] = True, False
    value = compiled(name)(logits, labels, where=where)
    np.testing.assert_allclose(value, [no_positive, no_negative, nothing], rtol=1e-6)


@pytest.mark.parametrize("name", ["logloss", "normalized_entropy", "calibration_error", "calibration_ratio"])
def test_large_logits_stay_finite(name):
    logits = np.array([1e4, -1e4, 1e4, -1e4], np.float32)
    labels = np.array([True, False, False, True])
    expected = getattr(references, name)(logits, labels)
    np.testing.assert_allclose(compiled(name)(logits, labels), expected, rtol=1e-6)
    for dtype in (jnp.bfloat16, jnp.float16):
        value = compiled(name)(jnp.asarray(logits, dtype), labels)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected, rtol=1e-2)  # bfloat16 has eight bits: 1e4 itself is off by 2e-3


# --------------------------------------------------------------------------------------------------------------- AUC


def test_auc_known_values():
    logits = jnp.array([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0], [2.0, 0.0, 2.0, 1.0]])
    labels = jnp.array([[True, True, False, False]] * 4)
    np.testing.assert_array_equal(compiled("auc")(logits, labels), [1, 0, 0.5, 0.375])


def test_minus_zero_ties_with_zero_and_infinities_with_themselves():
    logits = jnp.array([[0.0, -0.0, 0.0, -0.0], [jnp.inf, jnp.inf, -jnp.inf, -jnp.inf]])
    labels = jnp.array([[True, False, False, True], [True, False, False, True]])
    np.testing.assert_array_equal(compiled("auc")(logits, labels), [0.5, 0.5])
    np.testing.assert_array_equal(compiled("auc")(logits, jnp.array([[True, True, False, False]] * 2)), [0.5, 1])


@pytest.mark.parametrize("masked", [np.inf, -np.inf])
def test_an_infinite_score_does_not_tie_with_what_is_left_out(masked):
    logits = np.array([np.inf, -np.inf, 0, masked, masked], np.float32)
    where = np.array([True, True, True, False, False])
    for labels in ([1, 0, 0, 1, 0], [0, 1, 0, 1, 0], [0, 1, 1, 0, 1]):
        labels = np.array(labels, bool)
        expected = references.auc(logits, labels, where=where)
        np.testing.assert_allclose(compiled("auc")(logits, labels, where=where), expected, rtol=EXACT)


@pytest.mark.parametrize("rate", [1e-4, 0.03, 0.5, 0.9999])
@pytest.mark.parametrize("scores", [10, 10**6])
def test_auc_is_exact_where_pairs_exceed_an_int32(rate, scores):
    rng = np.random.default_rng(0)
    n = 150_001  # up to 5.6e9 pairs
    logits, labels = rng.integers(0, scores, n).astype(np.float32), rng.random(n) < rate
    logits[labels] += scores // 20
    np.testing.assert_allclose(compiled("auc")(logits, labels), exact_auc(logits, labels), rtol=EXACT)


@pytest.mark.parametrize("balanced", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_auc_is_exact_beyond_the_integers_of_float32(balanced, monkeypatch):
    rng = np.random.default_rng(0)
    n = 2**24 + 2**16 + 1
    logits = np.repeat(np.arange(1000), rng.multinomial(n, np.full(1000, 1e-3))).astype(np.float32)
    monkeypatch.setattr(jax.lax, "sort", lambda operands, **_: operands)  # sorted already: XLA takes 20 s for that
    if balanced:
        labels = rng.random(n, np.float32) < (logits + 500) / 2000
    else:  # three negatives: the ranks of the positives add up to 1.4e14, of which at most 5e7 is the answer
        labels = np.ones(n, bool)
        labels[[5, n // 2, n - 9999]] = False
        counts, positives = (np.bincount(part.astype(np.int16)) for part in (logits, logits[labels]))
        midranks = np.cumsum(counts) - (counts - 1) / 2
        naive = np.sum(midranks * positives, dtype=np.float32) - np.float32((n - 3) * (n - 2) / 2)
        assert abs(naive / (3 * (n - 3)) - exact_auc(logits, labels)) > 0.01  # the textbook's formula fails here
    value = jax.jit(lambda *arrays: metrics.auc(*arrays))(logits, labels)
    np.testing.assert_allclose(value, exact_auc(logits, labels), rtol=EXACT)


@QUICK
@given(SEEDS)
def test_auc_invariants(seed):
    rng = np.random.default_rng(seed)
    logits, labels = example((2, 24), seed=seed)
    labels[:, :2] = True, False  # both classes
    auc = compiled("auc")
    value = auc(logits, labels)
    assert ((value >= 0) & (value <= 1)).all()
    order = rng.permutation(24)
    np.testing.assert_array_equal(auc(logits[:, order], labels[:, order]), value)
    for monotone in (4 * logits, logits**3 * 8, np.where(logits > 0, logits * 2, logits)):  # exact or injective
        ranked = rankdata(monotone, axis=1) == rankdata(logits, axis=1)
        assert ranked.all()
        np.testing.assert_array_equal(auc(monotone.astype(np.float32), labels), value)
    np.testing.assert_allclose(auc(logits, ~labels), 1 - value, atol=EXACT)
    np.testing.assert_allclose(auc(-logits, labels), 1 - value, atol=EXACT)
    np.testing.assert_allclose(auc(labels.astype(np.float32), labels), 1)
    twice = auc(np.concatenate([logits, logits], -1), np.concatenate([labels, labels], -1))
    np.testing.assert_allclose(twice, value, rtol=EXACT)  # a share of pairs: repeating the data changes nothing


# ----------------------------------------------------------------------------------------------------- streaming AUC


def streamed(logits, labels, bins, parts=1, where=None):
    histogram = metrics.auc_histogram(bins)
    for part in np.array_split(np.arange(len(logits)), parts):
        options = {} if where is None else {"where": where[part]}
        histogram = compiled("auc_update")(histogram, logits[part], labels[part], **options)
    return histogram


@pytest.mark.parametrize("bins", [1, 7, 100])
@pytest.mark.parametrize("masked", [False, True])
def test_histogram_equals_its_twin(bins, masked):
    logits, labels = example((60,), seed=bins)
    logits += np.float32(0.01)  # not on an edge, where rounding decides
    where = mask_for((60,)) if masked else None
    histogram = streamed(logits, labels, bins, where=where)
    expected = references.auc_update(references.auc_histogram(bins), logits, labels, where=where)
    assert isinstance(histogram, metrics.AucHistogram)
    np.testing.assert_array_equal(histogram.positives, expected[0])
    np.testing.assert_array_equal(histogram.negatives, expected[1])
    bounds = compiled("auc_bounds")(histogram)
    np.testing.assert_allclose(bounds, references.auc_bounds(expected), rtol=1e-6)
    assert all(bound.dtype == jnp.float32 for bound in bounds)


def test_parts_add_up_to_the_whole():
    logits, labels = example((64,))
    whole = streamed(logits, labels, 10)
    for one, other in zip(whole, streamed(logits, labels, 10, parts=4), strict=True):
        np.testing.assert_array_equal(one, other)
    halves = streamed(logits[:32], labels[:32], 10), streamed(logits[32:], labels[32:], 10)
    for one, other in zip(whole, jax.tree.map(jnp.add, *halves), strict=True):  # as devices would add theirs
        np.testing.assert_array_equal(one, other)


@QUICK
@given(SEEDS, st.sampled_from([1, 3, 32]))
def test_the_exact_auc_is_within_the_bound(seed, bins):
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=30) * 10.0 ** rng.integers(-2, 3)).astype(np.float32)
    logits = np.where(rng.random(30) < 0.3, np.round(logits), logits).astype(np.float32)  # ties
    labels = rng.random(30) < rng.uniform(0.1, 0.9)
    labels[:2] = True, False
    value, error = compiled("auc_bounds")(streamed(logits, labels, bins))
    finer = compiled("auc_bounds")(streamed(logits, labels, 2 * bins))
    exact = float(references.auc(logits, labels))
    assert abs(float(value) - exact) <= float(error) + EXACT
    assert 0 <= error <= 0.5
    assert finer[1] <= error + EXACT  # halving every bin can only untie
    if bins == 1:
        np.testing.assert_allclose((value, error), 0.5)


def test_extreme_logits_fall_into_the_first_and_the_last_bin():
    logits = np.array([-np.inf, -1e4, -200, 200, 1e4, np.inf], np.float32)
    histogram = streamed(logits, np.array([True, False, False, True, True, False]), 5)
    np.testing.assert_array_equal(histogram.positives, [1, 0, 0, 0, 2])
    np.testing.assert_array_equal(histogram.negatives, [2, 0, 0, 0, 1])


def test_counts_stay_exact_beyond_the_integers_of_float32():
    many = 2**24
    histogram = jax.tree.map(lambda counts: jnp.full_like(counts, many), metrics.auc_histogram(3))
    histogram = compiled("auc_update")(histogram, np.zeros(3, np.float32), np.array([True, False, True]))
    np.testing.assert_array_equal(np.asarray(histogram.positives, np.int64), [many, many + 2, many])
    np.testing.assert_array_equal(np.asarray(histogram.negatives, np.int64), [many, many + 1, many])
    np.testing.assert_allclose(compiled("auc_bounds")(histogram), references.auc_bounds(histogram), rtol=1e-6)


def test_bounds_of_large_counts():
    rng = np.random.default_rng(0)
    empty = metrics.auc_histogram(64)
    counts = [rng.integers(0, 10**7, 64) for _ in range(2)]  # 6e8 examples, 1e17 pairs
    histogram = type(empty)(*(jnp.asarray(c, e.dtype) for c, e in zip(counts, empty, strict=True)))
    np.testing.assert_allclose(compiled("auc_bounds")(histogram), references.auc_bounds(counts), rtol=1e-6)


def test_bounds_of_one_class_are_undefined():
    empty = metrics.auc_histogram(4)
    assert np.isnan(compiled("auc_bounds")(empty)[0])
    assert np.isnan(compiled("auc_bounds")(streamed(np.zeros(3, np.float32), np.ones(3, bool), 4))[0])


# ------------------------------------------------------------------------------------------------------- grouped AUC


def grouped(seed=0, n=40, groups=6):
    rng = np.random.default_rng(seed)
    logits, labels = example((n,), seed=seed)
    group = rng.integers(0, groups - 1, n)
    labels[group == 1] = True  # one class only; and the last group has nobody
    return logits, labels, group.astype(np.int32)


GROUPED = compiled("grouped_auc", "groups")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_grouped_auc_equals_its_twin(seed, dtype):
    logits, labels, group = grouped(seed)
    expected = references.grouped_auc(logits, labels, group, groups=6)
    with jax.enable_x64(dtype == "float64"):
        value = GROUPED(jnp.asarray(logits, dtype), labels, group, groups=6)
        assert value.dtype == dtype
        assert value.shape == ()
        np.testing.assert_allclose(value, expected, rtol=1e-6 if dtype == "float32" else 1e-12)


def test_grouped_auc_equals_a_loop_over_sklearn():
    rng = np.random.default_rng(0)
    n, groups = 120_000, 300  # 3e9 pairs over all groups, 8e4 at most within one
    logits, group = rng.integers(0, 50, n).astype(np.float32), (groups * rng.random(n) ** 2).astype(np.int32)
    labels = rng.random(n) < 0.1 + 0.01 * logits
    values = [roc_auc_score(labels[group == g], logits[group == g]) for g in range(groups)]
    expected = np.average(values, weights=np.bincount(group, minlength=groups))
    np.testing.assert_allclose(GROUPED(logits, labels, group, groups=groups), expected, rtol=1e-6)


def test_grouped_auc_of_one_large_group_is_the_auc():
    rng = np.random.default_rng(0)
    n = 150_001
    logits, labels = rng.integers(0, 1000, n).astype(np.float32), rng.random(n) < 0.4
    value = GROUPED(logits, labels, np.full(n, 2, np.int32), groups=4)
    np.testing.assert_allclose(value, exact_auc(logits, labels), rtol=EXACT)


@QUICK
@given(SEEDS)
def test_grouped_auc_invariants(seed):
    rng = np.random.default_rng(seed)
    logits, labels, group = grouped(seed)
    labels[group == 0] = rng.permutation(np.arange((group == 0).sum()) % 2 == 0)
    value = GROUPED(logits, labels, group, groups=6)
    order, names = rng.permutation(40), rng.permutation(6).astype(np.int32)
    np.testing.assert_allclose(GROUPED(logits[order], labels[order], group[order], groups=6), value, rtol=EXACT)
    np.testing.assert_allclose(GROUPED(logits, labels, names[group], groups=6), value, rtol=EXACT)
    shift = rng.integers(-99, 99, 6).astype(np.float32)  # only the order within a group matters
    rounded = np.round(logits)
    by_group = GROUPED(rounded + shift[group], labels, group, groups=6)
    np.testing.assert_allclose(by_group, GROUPED(rounded, labels, group, groups=6), rtol=EXACT)
    np.testing.assert_allclose(GROUPED(-logits, labels, group, groups=6), 1 - value, atol=EXACT)


def test_grouped_auc_without_a_group_of_both_classes_is_undefined():
    group = np.array([0, 0, 1, 1], np.int32)
    assert np.isnan(GROUPED(np.arange(4, dtype=np.float32), group == 1, group, groups=2))


def test_grouped_auc_of_nan_is_nan():
    logits, labels, group = grouped()
    logits[3] = np.nan
    labels[:], group[:] = np.arange(40) % 3 == 0, np.arange(40) % 2  # the groups have both classes
    assert np.isnan(GROUPED(logits, labels, group, groups=6))


# ------------------------------------------------------------------------------------------------------- calibration


@QUICK
@given(SEEDS)
def test_calibration_invariants(seed):
    logits, labels = example((2, 24), seed=seed)
    labels[:, :2] = True, False
    rate = labels.mean(-1, keepdims=True)
    base = np.broadcast_to(np.log(rate / (1 - rate)), logits.shape).astype(np.float32)
    np.testing.assert_allclose(compiled("normalized_entropy")(base, labels), 1, rtol=2e-6)
    np.testing.assert_allclose(compiled("calibration_ratio")(base, labels), 1, rtol=2e-6)
    np.testing.assert_allclose(compiled("calibration_error")(base, labels), 0, atol=1e-6)
    loss = compiled("logloss")(logits, labels)
    np.testing.assert_allclose(compiled("logloss")(-logits, ~labels), loss, rtol=2e-6)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    gap = np.abs(probabilities.mean(-1) - rate[:, 0])
    by_bins = compiled("calibration_error", "bins")
    np.testing.assert_allclose(by_bins(logits, labels, bins=1), gap, atol=1e-6)
    assert (by_bins(logits, labels, bins=15) >= gap - 1e-6).all()  # triangle inequality
    ratio = compiled("calibration_ratio")(logits, labels)
    np.testing.assert_allclose(ratio, probabilities.mean(-1) / rate[:, 0], rtol=2e-6)


def test_long_means_do_not_stall():
    n = 2**24 + 2**16  # a running float32 sum of terms below 1 stands still at 2^24
    logits = np.full(n, -2.0, np.float32)
    labels = np.zeros(n, np.int8)
    labels[::4] = 1
    p = 1 / (1 + math.exp(2))
    expected = {
        "logloss": 0.25 * math.log1p(math.exp(2)) + 0.75 * math.log1p(math.exp(-2)),
        "calibration_error": 0.25 - p,
        "calibration_ratio": p / 0.25,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(compiled(name)(logits, labels), value, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------ all of them


def test_jit_and_vmap_equal_a_loop_under_strict_dtypes():
    shape = (3, 12)
    logits, labels = map(jnp.asarray, example(shape))
    where = jnp.asarray(mask_for(shape)).at[0].set(True)
    group = jnp.asarray(np.random.default_rng(0).integers(0, 3, shape), jnp.int32)

    def everything(logits, labels, where, group):
        histogram = metrics.auc_update(metrics.auc_histogram(8), logits, labels, where=where)
        values = {name: getattr(metrics, name)(logits, labels, where=where) for name in LISTS}
        return (
            values,
            histogram,
            metrics.auc_bounds(histogram),
            metrics.grouped_auc(logits, labels, group, groups=3),
        )

    one = jax.jit(everything)
    loop = [one(*(x[i] for x in (logits, labels, where, group))) for i in range(3)]
    loop = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop)
    with jax.numpy_dtype_promotion("strict"):
        at_once = jax.jit(jax.vmap(everything))(logits, labels, where, group)
        low = jax.eval_shape(
            everything, logits[0].astype(jnp.bfloat16), labels[0].astype(jnp.int32), where[0], group[0]
        )
        jax.eval_shape(everything, logits[0], labels[0].astype(jnp.float32), where[0], group[0])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=3e-7), at_once, loop)
    assert jax.tree.map(lambda x: x.dtype, low) == jax.tree.map(lambda x: x.dtype, at_once)


@pytest.mark.parametrize("name", LISTS)
def test_wrong_shapes_and_dtypes_raise(name):
    metric = getattr(metrics, name)
    logits, labels = jnp.zeros((2, 5)), jnp.zeros((2, 5), bool)
    for wrong in ((jnp.zeros((2, 4), bool), None), (jnp.zeros(5, bool), None), (labels, jnp.ones(5, bool))):
        with pytest.raises(ValueError, match="expected"):
            metric(logits, wrong[0], where=wrong[1])
    with pytest.raises(ValueError, match="expected"):
        metric(jnp.zeros(()), jnp.zeros((), bool))
    with pytest.raises(TypeError, match="expected"):
        metric(jnp.zeros((2, 5), jnp.int32), labels)
    with pytest.raises(TypeError, match="expected"):
        metric(logits, labels, where=jnp.ones((2, 5)))


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ValueError, lambda h: metrics.auc_update(h, jnp.zeros(3), jnp.zeros(2, bool))),
        (ValueError, lambda h: metrics.auc_update(h, jnp.zeros((2, 3)), jnp.zeros(3, bool))),
        (ValueError, lambda h: metrics.auc_update(h, jnp.zeros(3), jnp.zeros(3, bool), where=jnp.ones(2, bool))),
        (TypeError, lambda h: metrics.auc_update(h, jnp.zeros(3, jnp.int32), jnp.zeros(3, bool))),
        (TypeError, lambda h: metrics.auc_update(h, jnp.zeros(3), jnp.zeros(3, bool), where=jnp.ones(3))),
        (ValueError, lambda h: metrics.auc_bounds(h._replace(positives=jnp.zeros(3, jnp.int32)))),
        (ValueError, lambda _: metrics.grouped_auc(jnp.zeros(3), jnp.zeros(3, bool), jnp.zeros(2, int), groups=2)),
        (ValueError, lambda _: metrics.grouped_auc(jnp.zeros(3), jnp.zeros(2, bool), jnp.zeros(3, int), groups=2)),
        (TypeError, lambda _: metrics.grouped_auc(jnp.zeros(3), jnp.zeros(3, bool), jnp.zeros(3), groups=2)),
        (TypeError, lambda _: metrics.grouped_auc(jnp.zeros(3, int), jnp.zeros(3, bool), jnp.zeros(3, int), groups=2)),
    ],
)
def test_wrong_shapes_and_dtypes_of_the_others_raise(error, call):
    with pytest.raises(error, match="expected"):
        call(metrics.auc_histogram(8))
