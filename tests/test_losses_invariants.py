"""What must hold of a loss whatever the numbers: at the teacher, under shifts, orders, rotations, and by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from loss_cases import CASES, arguments_of, softmax
from programs import Programs

import recjax

losses = Programs(recjax.losses)

QUICK = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.mark.parametrize("key", ["ce", "distillation"])
def test_labels_without_mass_give_zero(key):
    arguments = arguments_of(key)
    arguments[-1][1] = 0
    options = {"alpha": 0.0} if key == "distillation" else {}
    loss = functools.partial(getattr(losses, CASES[key].name), **options)
    value, slope = loss(*arguments), jax.grad(lambda logits: loss(logits, *arguments[1:]).sum())(arguments[0])
    assert value[1] == 0
    assert (slope[1] == 0).all()
    assert (np.asarray(value)[[0, 2, 3]] > 0).all()


# ------------------------------------------------------------------------------------------------------ invariants

ROWS = hnp.arrays(np.float64, (3, 5), elements=st.floats(-30, 30))
TEMPERATURES = st.floats(0.25, 8)
KL, DECOUPLED = jax.jit(losses.soft_target_kl), jax.jit(losses.decoupled_kl)
KL_GRADIENT = jax.jit(jax.grad(lambda s, t, tau: jnp.sum(losses.soft_target_kl(s, t, temperature=tau))))


@QUICK
@given(ROWS, ROWS, st.floats(-50, 50), st.floats(-50, 50), TEMPERATURES)
def test_shifting_all_scores_changes_nothing(student, teacher, a, b, tau):
    with jax.enable_x64(True):
        moved = KL(student + a, teacher + b, temperature=tau)
        still = KL(student, teacher, temperature=tau)
        # a shift of 50 rounds each score by 7e-15, times tau <= 8 and up to 240 nats
        np.testing.assert_allclose(moved, still, rtol=1e-11, atol=1e-11)
        labels = jnp.array([0, 4, 2])
        np.testing.assert_allclose(
            losses.softmax_cross_entropy(jnp.asarray(student + a), labels),
            losses.softmax_cross_entropy(jnp.asarray(student), labels),
            rtol=1e-12, atol=1e-12,
        )  # fmt: skip


@QUICK
@given(ROWS, ROWS, st.permutations(range(5)))
def test_the_order_of_items_does_not_matter(student, teacher, order):
    with jax.enable_x64(True):
        order = np.array(order)
        weights = softmax(teacher)
        for name, other in [
            ("soft_target_kl", teacher), ("softmax_cross_entropy", weights), ("mean_squared_error", teacher),
            ("hint", teacher), ("bpr", teacher), ("binary_cross_entropy", weights),
        ]:  # fmt: skip
            loss = getattr(losses, name)
            moved = loss(jnp.asarray(student[:, order]), jnp.asarray(other[:, order]))
            still = loss(jnp.asarray(student), jnp.asarray(other))
            still = still if still.ndim == 1 else still[:, order]
            np.testing.assert_allclose(moved, still, rtol=1e-11, atol=1e-12, err_msg=name)


@QUICK
@given(ROWS, ROWS, TEMPERATURES)
def test_divergence_is_positive_and_zero_at_the_teacher(student, teacher, tau):
    with jax.enable_x64(True):
        student, teacher = jnp.asarray(student), jnp.asarray(teacher)
        assert (KL(student, teacher, temperature=tau) >= -1e-12).all()
        assert (abs(KL(teacher, teacher, temperature=tau)) <= 1e-12).all()
        np.testing.assert_allclose(KL_GRADIENT(teacher, teacher, tau), np.zeros((3, 5)), atol=1e-13)
        for name in ("mean_squared_error", "hint"):
            assert (getattr(losses, name)(student, teacher) >= 0).all()
            assert (getattr(losses, name)(teacher, teacher) == 0).all()


@QUICK
@given(ROWS, ROWS, TEMPERATURES)
def test_temperature_squared_keeps_the_gradient_in_scale(student, teacher, tau):
    with jax.enable_x64(True):
        ours = KL_GRADIENT(student, teacher, tau)
        # d/ds of tau^2 KL is tau (q - p): Hinton et al. 2015, equation 2, times tau^2
        np.testing.assert_allclose(ours, tau * (softmax(student / tau) - softmax(teacher / tau)), atol=1e-12)
        # and at a high temperature it is the gradient of matching centered logits, equation 4, times tau^2
        center = lambda x: x - x.mean(-1, keepdims=True)  # noqa: E731
        hot = KL_GRADIENT(student, teacher, 1e7)
        np.testing.assert_allclose(hot, (center(student) - center(teacher)) / 5, atol=1e-4)


def test_signs_and_directions():
    """Facts that a swapped argument or sign would break, in numbers worked by hand."""
    s, t = jnp.array([0.0, 0.0]), jnp.array([jnp.log(3.0), 0.0])
    np.testing.assert_allclose(losses.soft_target_kl(s, t), 0.75 * np.log(1.5) + 0.25 * np.log(0.5), rtol=1e-6)
    np.testing.assert_allclose(losses.soft_target_kl(t, s), 0.5 * np.log(2 / 3) + 0.5 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(losses.bpr(jnp.array(1e4), jnp.array(-1e4)), 0)
    np.testing.assert_allclose(losses.bpr(jnp.array(-1e4), jnp.array(1e4)), 2e4)
    np.testing.assert_allclose(losses.binary_cross_entropy(jnp.array([1e4, 1e4]), jnp.array([1.0, 0.0])), [0, 1e4])
    np.testing.assert_allclose(losses.l1(jnp.array([-4.0, 2.0]), weight=0.5), [1, 0.5])
    both = losses.distillation(s, t, jnp.array(0), alpha=1.0, temperature=2.0)
    np.testing.assert_allclose(both, losses.soft_target_kl(s, t, temperature=2.0))
    alone = losses.distillation(s, t, jnp.array(0), alpha=0.0, temperature=2.0)
    np.testing.assert_allclose(alone, np.log(2), rtol=1e-6)


# ------------------------------------------------------------------------------------------------- of the newer losses

VECTORS = hnp.arrays(np.float64, (5, 3), elements=st.floats(-30, 30).map(lambda x: round(x, 3)))
NONE_AT_TEACHER = {  # smallest, and 0 or the entropy of the target, where the student is the teacher
    "logit_mse": losses.logit_mse,
    "top_k_kl": functools.partial(losses.top_k_kl, k=3),
    "standardized_kl": losses.standardized_kl,
    "cosine_hint": losses.cosine_hint,
    "gradient_match": losses.gradient_match,
    "relational_distance": losses.relational_distance,
    "relational_angle": losses.relational_angle,
    "similarity_preserving": losses.similarity_preserving,
    "gram": losses.gram,
    "topology": losses.topology,
    "attention_transfer": lambda s, t: losses.attention_transfer(s[None], t[None]),
    "orthogonal_hint": lambda s, t: losses.orthogonal_hint(s, t, jnp.zeros((3, 3))),
}
NONE_AT_TEACHER = {name: jax.jit(loss) for name, loss in NONE_AT_TEACHER.items()}


@pytest.mark.parametrize("name", NONE_AT_TEACHER)
@QUICK
@given(VECTORS, VECTORS)
def test_zero_at_the_teacher_and_never_below(name, student, teacher):
    loss = NONE_AT_TEACHER[name]
    teacher = teacher + np.arange(15).reshape(5, 3)  # no zero vectors, which have no direction
    with jax.enable_x64(True):
        here = np.asarray(loss(jnp.asarray(teacher), jnp.asarray(teacher)))
        np.testing.assert_allclose(here, 0, atol=1e-11)
        assert (np.asarray(loss(jnp.asarray(student), jnp.asarray(teacher))) >= -1e-11).all()


@QUICK
@given(ROWS, ROWS, TEMPERATURES)
def test_soft_cross_entropies_are_least_at_the_teacher(student, teacher, tau):
    with jax.enable_x64(True):
        student, teacher = jnp.asarray(student), jnp.asarray(teacher)
        for loss in (losses.soft_target_ce, losses.soft_target_bce):
            least = loss(teacher, teacher, temperature=tau)
            assert (loss(student, teacher, temperature=tau) >= least - 1e-11).all()
        entropy = -(softmax(teacher / tau) * jax.nn.log_softmax(teacher / tau)).sum(-1)
        np.testing.assert_allclose(losses.soft_target_ce(teacher, teacher, temperature=tau), entropy, atol=1e-11)
        difference = losses.soft_target_ce(student, teacher, temperature=tau) - entropy
        np.testing.assert_allclose(KL(student, teacher, temperature=tau), tau**2 * difference, rtol=1e-9, atol=1e-9)


@QUICK
@given(ROWS, ROWS, st.floats(0.1, 20), st.floats(-30, 30))
def test_standardized_scores_have_no_scale_and_no_level(student, teacher, scale, shift):
    student, teacher = (x + 10 * np.arange(5) for x in (student, teacher))  # a deviation far above epsilon
    with jax.enable_x64(True):
        moved = losses.standardized_kl(jnp.asarray(scale * student + shift), jnp.asarray(teacher), epsilon=0.0)
        still = losses.standardized_kl(jnp.asarray(student), jnp.asarray(teacher), epsilon=0.0)
        np.testing.assert_allclose(moved, still, rtol=1e-9, atol=1e-10)


@QUICK
@given(ROWS, ROWS, TEMPERATURES)
def test_the_unbiased_deviation_is_a_higher_temperature(student, teacher, tau):
    student, teacher = (x + 10 * np.arange(5) for x in (student, teacher))  # a deviation far above epsilon
    s, t = ((x - x.mean(-1, keepdims=True)) / x.std(-1, ddof=1, keepdims=True) / tau for x in (student, teacher))
    with jax.enable_x64(True):
        ours = losses.standardized_kl(student, teacher, temperature=tau * np.sqrt(5 / 4), epsilon=0.0)
        np.testing.assert_allclose(ours, 5 / 4 * tau**2 * KL(s, t, temperature=1.0), rtol=1e-9, atol=1e-10)


@QUICK
@given(ROWS, ROWS, TEMPERATURES, st.integers(1, 5))
def test_top_k_is_the_divergence_over_the_teachers_best(student, teacher, tau, k):
    teacher = teacher + 100 * np.arange(5)  # distinct
    with jax.enable_x64(True):
        ours = losses.top_k_kl(jnp.asarray(student), jnp.asarray(teacher), k=k, temperature=tau)
        cut = KL(jnp.asarray(student[:, -k:]), jnp.asarray(teacher[:, -k:]), temperature=tau)
        np.testing.assert_allclose(ours, cut, rtol=1e-10, atol=1e-10)


RELATIONS = {
    name: jax.jit(getattr(losses, name))
    for name in ("relational_distance", "relational_angle", "similarity_preserving", "gram", "topology")
}


@QUICK
@given(VECTORS, VECTORS, st.permutations(range(5)))
def test_relations_follow_the_order_of_the_members(student, teacher, order):
    order = np.array(order)
    with jax.enable_x64(True):
        for name in ("relational_distance", "similarity_preserving", "gram", "topology"):
            loss = RELATIONS[name]
            still = loss(jnp.asarray(student), jnp.asarray(teacher))
            moved = loss(jnp.asarray(student[order]), jnp.asarray(teacher[order]))
            np.testing.assert_allclose(moved, still[order][:, order], rtol=1e-8, atol=1e-8, err_msg=name)


@QUICK
@given(st.integers(0, 2**32 - 1))
def test_relations_do_not_see_a_rotation(seed):
    rng = np.random.default_rng(seed)
    student, teacher, shift = rng.normal(size=(6, 3)), rng.normal(size=(6, 4)), rng.normal(size=3)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    with jax.enable_x64(True):
        for name in ("relational_distance", "relational_angle", "similarity_preserving", "gram", "topology"):
            loss = RELATIONS[name]
            still, turned = loss(student, teacher), loss(student @ turn, teacher)
            np.testing.assert_allclose(turned, still, rtol=1e-9, atol=1e-10, err_msg=name)
        for name in ("relational_distance", "relational_angle"):  # nor a shift or a scale
            loss = RELATIONS[name]
            moved = loss(7 * student + shift, teacher)
            np.testing.assert_allclose(moved, loss(student, teacher), rtol=1e-9, atol=1e-10, err_msg=name)


@QUICK
@given(st.integers(0, 2**32 - 1), st.floats(-50, 50))
def test_relaxed_ranking_is_a_likelihood(seed, shift):
    """Over all orders of the interesting items, the probabilities that they come first, in that order, sum to 1."""
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        scores = 2 * rng.normal(size=4)
        orders = np.array(list(itertools.permutations(range(4))))
        none = jnp.zeros((24, 1)), jnp.zeros((24, 1), bool)
        nll = losses.relaxed_ranking(jnp.asarray(scores[orders]), none[0], uninteresting_where=none[1])
        np.testing.assert_allclose(jnp.exp(-nll).sum(), 1, rtol=1e-10)
        pairs = np.array(list(itertools.permutations(range(4), 2)))  # the first two of four
        rest = np.array([[i for i in range(4) if i not in pair] for pair in pairs])
        nll = losses.relaxed_ranking(jnp.asarray(scores[pairs]), jnp.asarray(scores[rest]))
        np.testing.assert_allclose(jnp.exp(-nll).sum(), 1, rtol=1e-10)
        moved = losses.relaxed_ranking(jnp.asarray(scores[pairs] + shift), jnp.asarray(scores[rest] + shift))
        np.testing.assert_allclose(moved, nll, rtol=1e-10, atol=1e-10)
        best = int(np.argmin(np.asarray(nll)))
        assert list(pairs[best]) == list(np.argsort(-scores)[:2])


@QUICK
@given(ROWS, ROWS)
def test_rejuvenated_ce_between_its_two_halves(student, teacher):
    with jax.enable_x64(True):
        student, teacher = jnp.asarray(student), jnp.asarray(teacher)
        own, best = student > 0, teacher > 0
        none, all_items = jnp.zeros_like(own), jnp.ones_like(own)
        # nothing sampled: weight 1 on the teacher's best that the student hasn't; all sampled, beta high: the student's
        alone = losses.rejuvenated_ce(student, teacher, own, best, none, beta=5.0)
        np.testing.assert_allclose(alone, losses.soft_target_ce(student, teacher, where=best & ~own), atol=1e-11)
        covered = losses.rejuvenated_ce(student, teacher, own, all_items, all_items, beta=1e4)
        np.testing.assert_allclose(covered, losses.soft_target_ce(student, teacher, where=own), atol=1e-11)


@QUICK
@given(st.integers(0, 2**32 - 1))
def test_linear_cases_of_the_feature_losses(seed):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        experts, teacher = rng.normal(size=(6, 4, 3)), rng.normal(size=(6, 3))
        chosen = np.eye(4)[rng.integers(0, 4, 6)]
        hard = losses.distillation_experts(experts, teacher, chosen)
        np.testing.assert_allclose(hard, losses.hint((experts * chosen[..., None]).sum(1), teacher), rtol=1e-12)
        student, edges = rng.normal(size=(6, 3)), rng.integers(0, 6, (2, 9))
        filtered = functools.partial(losses.graph_filtered_hint, student, teacher, *edges, rng.random(9))
        np.testing.assert_allclose(filtered(alpha=0.0), losses.hint(student, teacher), rtol=1e-12)
        np.testing.assert_allclose(
            losses.graph_filtered_hint(student, teacher, *edges, np.zeros(9), alpha=0.5),
            losses.hint(student, teacher) / 4,
            rtol=1e-12,
        )
        gates = losses.gated_teachers(teacher, 100 * np.eye(3)[rng.integers(0, 3, 6)])
        assert (gates.min() > 0) & (gates.max() < 1)
        heads = losses.layer_heads(teacher[:, 0], teacher[:, 1], np.tile(teacher[:, :1], 3), beta=1.0)
        np.testing.assert_allclose(heads, 4 * losses.soft_target_bce(teacher[:, 0], teacher[:, 1]), rtol=1e-12)


def test_published_anchors():
    """Numbers that the authors' code gave for these inputs."""
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)  # six decimals were noted
    s, t, y = jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 1.0, 1.0]), jnp.array(0)
    for tau, (target, rest) in {1.0: (0.035968, 0.120115), 4.0: (0.034767, 0.124676)}.items():
        close(losses.decoupled_kl(s, t, y, alpha=1.0, beta=0.0, temperature=tau), target)
        close(losses.decoupled_kl(s, t, y, alpha=0.0, beta=1.0, temperature=tau), rest)
    s, t = jnp.array([[2.0, 1.0, 1.0], [3.0, 1.5, 2.5]]), jnp.array([[2.5, 1.5, 2.0], [3.0, 2.0, 2.5]])
    close(losses.margin_mse(s, t).mean() * 2 / 3, 1 / 9)  # there over all 9 pairs of a list, here over 6
    s, grades = jnp.array([[1.23, 2.01, 0.4, 1.02], [0.45, 1.04, 1.02, 3.12]]), jnp.array([1, 0.5, 0, 0])
    sums = losses.inverse_rank_pairs(s, jnp.broadcast_to(grades, s.shape))
    close(sums, [1.115399, 3.608059])
    close(sums.sum() / 10, 0.472346)


@QUICK
@given(ROWS, ROWS, TEMPERATURES)
def test_decoupled_kl_is_the_kl_with_the_rest_unsuppressed(student, teacher, tau):
    with jax.enable_x64(True):
        labels = np.array([0, 3, 4])
        rest = 1 - softmax(teacher / tau)[np.arange(3), labels]
        parts = [DECOUPLED(student, teacher, labels, alpha=a, beta=1.0 - a, temperature=tau) for a in (1.0, 0.0)]
        np.testing.assert_allclose(
            parts[0] + rest * parts[1], KL(student, teacher, temperature=tau), rtol=1e-8, atol=1e-8
        )


def test_signs_of_the_newer_losses():
    """A swapped pair, a lost sign or factor changes one of these, worked by hand."""
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    close(losses.sampled_softmax(jnp.array(0.0), jnp.array([0.0]), positive_log_q=jnp.log(0.5)), np.log(1.5))
    close(losses.sampled_softmax(jnp.array(0.0), jnp.array([0.0]), negatives_log_q=jnp.log(0.5)), np.log(3))
    close(losses.cosine_contrastive(jnp.array(0.5), jnp.array([0.8, 0.1]), margin=0.6, weight=3.0), 0.5 + 3 * 0.2 / 2)
    close(losses.unbiased_pairs(jnp.array(1e4), jnp.array(-1e4)), 0)
    close(losses.collaborative_distillation(jnp.array(0.0), jnp.array(3.0)), np.log(2))
    close(losses.ranking_distillation(jnp.array([1e4, -1e4]), jnp.array([1.0, 0.5])), 5e3)
    close(losses.dual_correction(jnp.array([0.0]), jnp.array([jnp.log(3.0)])), np.log(4))
    close(losses.dual_correction(jnp.array([jnp.log(3.0)]), jnp.array([0.0])), np.log(4 / 3))
    hot, cold = jnp.array([2.0, 0.0]), jnp.array([0.0, 0.0])
    close(losses.soft_target_ce(cold, hot, temperature=2.0), np.log(2))  # no tau^2
    close(losses.top_k_kl(hot, cold, k=2, temperature=2.0), losses.soft_target_kl(hot, cold, temperature=2.0))
    close(losses.dist(jnp.eye(2), 1 - jnp.eye(2), beta=1.0, gamma=0.0), np.full((2, 2), 2.0))
    close(losses.dist(jnp.eye(2), 1 - jnp.eye(2), beta=0.0, gamma=1.0, temperature=3.0), np.full((2, 2), 18.0))
    close(losses.attention_transfer(jnp.array([[1.0], [0.0]]), jnp.array([[0.0], [1.0]])), 1)
    close(losses.gradient_match(jnp.array([2.0, 0.0]), jnp.array([-3.0, 0.0])), 4)
