"""What stands beside the losses: weights, ranks, rotations, curricula; and gradients that are stopped on purpose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from programs import Programs

import recjax

losses = Programs(recjax.losses)

QUICK = settings(max_examples=25, deadline=None, derandomize=True)
EXACT = {"rtol": 1e-12, "atol": 1e-13}  # float64 twins, a dozen operations


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# ------------------------------------------------------------------------------------------------ ranking distillation


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 20.0])
def test_position_weights(x64, sharpness):
    ours = losses.position_weights(7, sharpness=sharpness)
    np.testing.assert_allclose(ours, references.position_weights(7, sharpness=sharpness), **EXACT)
    np.testing.assert_allclose(ours.sum(), 1, rtol=1e-12)


def test_position_weights_at_the_ends():
    np.testing.assert_array_equal(losses.position_weights(3, sharpness=1e-9), [1, 0, 0])
    np.testing.assert_allclose(losses.position_weights(4, sharpness=1e9), 0.25, rtol=1e-6)
    check_grads(lambda a: losses.position_weights(5, sharpness=a), (jnp.float32(2.0),), order=1, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("items", [1, 101, 3_000_000, 2**31 - 1])
def test_estimated_ranks_are_exact_integers(x64, items):
    student, sampled = normal(3, 2, 4), normal(3, 2, 50, seed=1)
    student[0, 0, 0] = sampled[0, 0, 0]  # a tie is not above
    ours = losses.estimated_ranks(student, sampled, items=items)
    np.testing.assert_array_equal(ours, references.estimated_ranks(student, sampled, items=items))
    assert float(ours.max()) <= items


def test_estimated_ranks_bounds_and_nan():
    student = jnp.array([9.0, -9.0, jnp.nan])
    np.testing.assert_array_equal(losses.estimated_ranks(student, jnp.zeros(10), items=50), [1, 50, np.nan])
    slope = jax.grad(lambda s: losses.estimated_ranks(s, jnp.zeros(10), items=50)[:2].sum())(student)
    np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize("mu", [0.01, 0.1, 3.0])
def test_discrepancy_weights(x64, mu):
    ranks = np.array([[1.0, 5.0, 2.0, 400.0], [3.0, 2.0, 4.0, 1.0]])
    ours = losses.discrepancy_weights(ranks, mu=mu)
    np.testing.assert_allclose(ours, references.discrepancy_weights(ranks, mu=mu), **EXACT)
    np.testing.assert_array_equal(ours == 0, ranks <= np.arange(1, 5))


def test_listed_weights(x64):
    distances, agreed = np.abs(normal(3, 2, 5)), normal(3, 2, 5, seed=1) > 0
    for options in ({}, {"sharpness": 0.4, "position": 1.0, "confidence": 0.2, "consistency": 0.7}):
        ours = losses.listed_weights(distances, jnp.asarray(agreed), **options)
        np.testing.assert_allclose(ours, references.listed_weights(distances, agreed, **options), **EXACT)
        np.testing.assert_allclose(ours.sum(-1), 1, rtol=1e-12)
    alone = losses.listed_weights(distances, jnp.asarray(agreed), position=0.0, confidence=0.0, consistency=1.0)
    assert (np.asarray(alone)[agreed] > np.asarray(alone)[~agreed].max()).all()  # 1 beside 1e-8


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: losses.estimated_ranks(jnp.zeros((2, 3)), jnp.zeros(4), items=9), ValueError),
        (lambda: losses.estimated_ranks(jnp.zeros(3, jnp.int32), jnp.zeros(4), items=9), TypeError),
        (lambda: losses.discrepancy_weights(jnp.float32(1), mu=1.0), ValueError),
        (lambda: losses.discrepancy_weights(jnp.arange(3), mu=1.0), TypeError),
        (lambda: losses.listed_weights(jnp.zeros(3), jnp.zeros(4, bool)), ValueError),
        (lambda: losses.listed_weights(jnp.zeros(3), jnp.zeros(3)), TypeError),
        (lambda: losses.orthogonal_rows(jnp.zeros(3)), ValueError),
        (lambda: losses.orthogonal_rows(jnp.zeros((4, 3))), ValueError),
        (lambda: losses.orthogonal_rows(jnp.zeros((2, 3), jnp.int32)), TypeError),
        (lambda: losses.teacher_ready(jnp.zeros(3), jnp.zeros(4), 0), ValueError),
        (lambda: losses.teacher_ready(jnp.arange(3), jnp.zeros(3), 0), TypeError),
    ],
)
def test_wrong_arguments_raise(call, error):
    with pytest.raises(error, match="expected"):
        call()


# ---------------------------------------------------------------------------------------------------------- rotations


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (4, 4)])
def test_orthogonal_rows(x64, shape):
    weights = normal(*shape)
    ours = losses.orthogonal_rows(weights)
    np.testing.assert_allclose(ours, references.orthogonal_rows(weights), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours @ ours.T, np.eye(shape[0]), atol=1e-12)
    np.testing.assert_array_equal(losses.orthogonal_rows(np.zeros(shape)), np.eye(*shape))
    check_grads(losses.orthogonal_rows, (jnp.asarray(weights),), order=1, rtol=1e-6, atol=1e-8)


def test_a_projection_of_orthonormal_rows_keeps_lengths_and_angles(x64):
    student, teacher, weights = normal(6, 3), np.zeros((6, 5)), normal(3, 5, seed=2)
    np.testing.assert_allclose(
        losses.orthogonal_hint(student, teacher, weights), np.sum(np.square(student), axis=-1), rtol=1e-12
    )


# --------------------------------------------------------------------------------------------------------- curriculum

ITEMS, OBSERVED, LISTED = 40, 4, 20
HET_COMP = jax.jit(losses.het_comp)


def consensus(seed=0):
    """Scores, own items, listed items, and which items are unobserved; the second user has short lists."""
    rng = np.random.default_rng(seed)
    order = np.stack([rng.permutation(ITEMS) for _ in range(3)]).astype(np.int32)
    observed, unobserved = order[:, :OBSERVED].copy(), order[:, OBSERVED : OBSERVED + LISTED].copy()
    where = np.ones((3, ITEMS), bool)
    np.put_along_axis(where, observed, False, axis=1)
    observed[1, 2:], unobserved[1, 13:] = -1, -1
    return 2 * rng.normal(size=(3, ITEMS)), observed, unobserved, where


@pytest.mark.parametrize("hard", [False, True, np.array([True, False, True])])
def test_het_comp_equals_its_twin_and_has_its_gradient(x64, hard):
    student, observed, unobserved, where = consensus()
    arrays = jnp.asarray(observed), jnp.asarray(unobserved)
    given = {"where": jnp.asarray(where), "hard": jnp.asarray(hard)}
    twin = references.het_comp(student, observed, unobserved, where=where, hard=hard)
    np.testing.assert_allclose(HET_COMP(student, *arrays, **given), twin, rtol=1e-12)
    loss = jax.jit(lambda s: losses.het_comp(s, *arrays, **given))
    check_grads(loss, (jnp.asarray(student),), order=1, modes=("rev",), rtol=1e-6, atol=1e-7)


def test_hard_may_be_a_grid(x64):
    student, observed, unobserved, where = map(jnp.asarray, consensus())
    both = jax.jit(jax.vmap(lambda h: losses.het_comp(student, observed, unobserved, where=where, hard=h)))
    for found, hard in zip(both(jnp.array([False, True])), (False, True), strict=True):
        alone = HET_COMP(student, observed, unobserved, where=where, hard=jnp.array(hard))
        np.testing.assert_allclose(found, alone, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_het_comp_is_finite_and_masked(dtype):
    student, observed, unobserved, where = consensus(1)
    student = jnp.asarray(np.resize([1e4, -1e4, 0, 3], student.shape), dtype)
    outside = ~where
    np.put_along_axis(outside, np.maximum(observed, 0), False, axis=1)  # neither unobserved nor listed
    poisoned = jnp.where(outside, jnp.asarray(np.nan, dtype), student)
    observed, unobserved, where = map(jnp.asarray, (observed, unobserved, where))

    @jax.jit
    def loss(s, hard):
        value, pull = jax.vjp(lambda s: losses.het_comp(s, observed, unobserved, where=where, hard=hard), s)
        return value, pull(jnp.ones_like(value))[0]

    for hard in (jnp.array(False), jnp.array(True)):
        found = [loss(scores, hard) for scores in (student, poisoned)]
        for value, slope in found:
            assert value.dtype == dtype
            assert jnp.isfinite(value).all()
            assert jnp.isfinite(slope).all()
        np.testing.assert_array_equal(*(np.asarray(value, np.float32) for value, _ in found))
        nothing = jnp.full_like(observed, -1), jnp.full_like(unobserved, -1)
        np.testing.assert_array_equal(HET_COMP(student, *nothing, where=where, hard=hard), 0)
        assert jnp.isnan(HET_COMP(student, observed + ITEMS, nothing[1], where=where, hard=hard)).any()


def test_het_comp_masks_minus_infinity(x64):
    student, observed, unobserved, where = consensus()
    listed = np.zeros(where.shape, bool)
    for ids in (observed, unobserved):
        np.put_along_axis(listed, np.where(ids < 0, observed[:, :1], ids), True, axis=1)
    alone = np.where(listed, student, -np.inf)
    pull = jax.jit(jax.value_and_grad(lambda s, w, h: losses.het_comp(s, *arrays, where=w, hard=h).sum()))
    arrays = jnp.asarray(observed), jnp.asarray(unobserved)
    for hard in (jnp.array(False), jnp.array(True)):
        for ours, masked in zip(pull(alone, where, hard), pull(student, where & listed, hard), strict=True):
            np.testing.assert_allclose(ours, masked, **EXACT)
            assert np.isfinite(ours).all()


def test_het_comp_refuses():
    student, observed, unobserved, where = map(jnp.asarray, consensus())
    good = {"where": where, "hard": False}
    for arrays, options, error in [
        ((student[0], observed, unobserved), good, ValueError),
        ((student, observed[:2], unobserved), good, ValueError),
        ((student, observed, unobserved), {**good, "where": where[:, 1:]}, ValueError),
        ((student, observed, unobserved), {**good, "hard": jnp.array([True, False])}, ValueError),
        ((student, observed.astype(jnp.float32), unobserved), good, TypeError),
        ((student, observed, unobserved), {**good, "hard": 1.0}, TypeError),
        ((student.astype(jnp.int32), observed, unobserved), good, TypeError),
    ]:
        with pytest.raises(error, match="expected"):
            losses.het_comp(*arrays, **options)


def test_teacher_ready(x64):
    before, now = np.array([0.9, 0.9, 0.9, 0.9, 0.0, 0.0, 0.5]), np.array([0.6, 0.88, 0.95, 0.0, 0.0, 0.4, 0.5])
    for epoch in (0, 10, 100, 500):
        ours = losses.teacher_ready(before, now, epoch)
        np.testing.assert_array_equal(ours, references.teacher_ready(before, now, epoch))
    assert not losses.teacher_ready(before, now, 0)[1]
    assert losses.teacher_ready(before, now, 500)[1]  # the threshold falls below 1
    assert not losses.teacher_ready(np.array([np.nan]), np.array([0.1]), 0)[0]


# ----------------------------------------------------------------------------------------- gradients stopped on purpose


def test_bidirectional_detaches_the_teacher(x64):
    student, teacher = normal(5), normal(5, seed=1)
    slopes = jax.grad(lambda s, t: losses.bidirectional(s, t, scale=2.0).sum(), (0, 1))(student, teacher)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    np.testing.assert_allclose(slopes[0], sigmoid(student) - sigmoid(teacher / 2), **EXACT)
    np.testing.assert_array_equal(slopes[1], 0)


def test_privileged_teacher_learns_from_labels_alone(x64):
    student, teacher, labels = normal(5), normal(5, seed=1), (normal(5, seed=2) > 0) * 1.0
    slope = jax.grad(lambda s, t, w: losses.privileged_features(s, t, labels, weight=w).sum(), (0, 1))
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    of_student, of_teacher = slope(student, teacher, 3.0)
    np.testing.assert_allclose(of_teacher, sigmoid(teacher) - labels, **EXACT)
    expected = sigmoid(student) - labels + 3 * (sigmoid(student) - sigmoid(teacher))
    np.testing.assert_allclose(of_student, expected, **EXACT)


def test_mutual_learning_detaches_targets_and_weights(x64):
    students, labels = normal(3, 6), (normal(6, seed=1) > 0) * 1.0
    ours = jax.grad(lambda z: losses.mutual_learning(z, labels).sum())(students)
    p = 1 / (1 + np.exp(-students))
    ensemble = 1 / (1 + np.exp(-students.mean(0)))
    marks = (1 - np.abs(labels - p)).mean(1)
    w, fast = np.exp(-marks) / np.exp(-marks).sum(), p * (1 - p)
    expected = (p - labels) / 3 + w[:, None] * 2 * (p - ensemble) * fast
    for s in range(3):
        others = [b for b in range(3) if b != s]
        v = np.exp(marks[others]) / np.exp(marks[others]).sum()
        expected[s] += sum(share * 2 * (p[s] - p[b]) * fast[s] for share, b in zip(v, others, strict=True)) / 3
    np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-13)


def test_prototypes_are_detached(x64):
    """The gradient of the prototype term is that of cosines with constant vectors."""
    student, teacher, group = normal(6, 3), normal(6, 4, seed=1), jnp.array([0, 0, 1, 1, 2, 2])
    means = np.stack([student[2 * g : 2 * g + 2].mean(0) for g in range(3)])
    of_teacher = references.hierarchical_topology(student, teacher, np.asarray(group), groups=3)

    def frozen(s):
        cosine = s @ means.T / jnp.linalg.norm(s, axis=1)[:, None] / np.linalg.norm(means, axis=1)[None]
        t_means = np.stack([teacher[2 * g : 2 * g + 2].mean(0) for g in range(3)])
        norms = np.linalg.norm(teacher, axis=1)[:, None] * np.linalg.norm(t_means, axis=1)[None]
        return jnp.square(cosine - teacher @ t_means.T / norms).sum()

    def ours(s):
        return losses.hierarchical_topology(s, teacher, group, groups=3).prototypes.sum()

    np.testing.assert_allclose(jax.jit(ours)(student), of_teacher[1].sum(), rtol=1e-12)
    slopes = [jax.jit(jax.grad(f))(jnp.asarray(student)) for f in (ours, frozen)]
    np.testing.assert_allclose(*slopes, rtol=1e-10, atol=1e-12)
    between = jax.grad(lambda s: losses.hierarchical_topology(s, teacher, group, groups=3).between.sum())
    np.testing.assert_array_equal(jax.jit(between)(student), 0)
    entities = jax.jit(lambda s: losses.hierarchical_topology(s, teacher, group, groups=3).entities)
    check_grads(entities, (jnp.asarray(student),), order=1, modes=("rev",), rtol=1e-6, atol=1e-8)


# ----------------------------------------------------------------------------------------------------- sampled softmax

SAMPLED = jax.jit(losses.sampled_softmax)


@QUICK
@given(st.integers(0, 2**32 - 1))
def test_log_q_makes_a_sampled_softmax_a_full_one(seed):
    """With every other item once, and what was sampled twice as often counted half, the sum is the whole catalog's."""
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        scores = 2 * rng.normal(size=9)
        full = losses.softmax_cross_entropy(jnp.asarray(scores), jnp.array(0))
        plain = SAMPLED(jnp.asarray(scores[0]), jnp.asarray(scores[1:]))
        np.testing.assert_allclose(plain, full, rtol=1e-12)
        often = rng.permutation([1, 2, 3, 1, 2, 3, 1, 2])  # the same shapes for every example
        sampled = jnp.asarray(np.repeat(scores[1:], often))
        log_q = jnp.asarray(np.log(np.repeat(often, often)))
        corrected = SAMPLED(jnp.asarray(scores[0]), sampled, negatives_log_q=log_q)
        np.testing.assert_allclose(corrected, full, rtol=1e-12)
        hits = jnp.asarray(np.arange(len(sampled)) > 0)
        np.testing.assert_allclose(
            SAMPLED(jnp.asarray(scores[0]), sampled, negatives_log_q=log_q, where=hits),
            SAMPLED(jnp.asarray(scores[0]), sampled[1:], negatives_log_q=log_q[1:]),
            rtol=1e-12,
        )
