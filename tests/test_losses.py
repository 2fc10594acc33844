"""Every loss against its NumPy twin (references.py), a peer where there is one, and the promises that all share."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.test_util import check_grads

from recjax import losses

QUICK = settings(max_examples=25, deadline=None, derandomize=True)
# Twins are float64. In float64 only the order of a dozen additions differs; in float32 each operation adds 6e-8
# relative to terms of size ten at most, and a divergence near zero is a difference of such terms: hence the atol.
TOLERANCE = {"float64": {"rtol": 1e-12, "atol": 1e-13}, "float32": {"rtol": 5e-6, "atol": 5e-6}}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def two(rng, shape):
    return 2 * rng.normal(size=shape), 2 * rng.normal(size=shape)


def one(rng, shape):
    return (2 * rng.normal(size=shape),)


def probabilities(rng, shape):
    return 2 * rng.normal(size=shape), softmax(2 * rng.normal(size=shape))


def ids(rng, shape):
    return 2 * rng.normal(size=shape), rng.integers(0, shape[-1], shape[:-1]).astype(np.int32)


class Case(NamedTuple):
    name: str
    arguments: Callable
    hyperparameters: dict[str, list[float]] = {}  # noqa: RUF012
    per_list: bool = True  # reduces the last axis
    maskable: bool = False


SWEEP = {"alpha": [0.0, 0.3, 1.0], "temperature": [0.5, 1.0, 4.0]}
TAU = {"temperature": SWEEP["temperature"]}
CASES = {
    "bce": Case("binary_cross_entropy", probabilities, per_list=False),
    "ce": Case("softmax_cross_entropy", probabilities, maskable=True),
    "ce-ids": Case("softmax_cross_entropy", ids, maskable=True),
    "bpr": Case("bpr", two, per_list=False),
    "mse": Case("mean_squared_error", two),
    "l1": Case("l1", one, {"weight": [0.0, 1.0, 0.3]}, per_list=False),
    "kl": Case("soft_target_kl", two, TAU, maskable=True),
    "distillation": Case("distillation", lambda r, s: (*two(r, s), probabilities(r, s)[1]), SWEEP, maskable=True),
    "distillation-ids": Case("distillation", lambda r, s: (*two(r, s), ids(r, s)[1]), SWEEP, maskable=True),
    "hint": Case("hint", two),
}
MASKABLE = [key for key, case in CASES.items() if case.maskable]
SWEPT = [key for key, case in CASES.items() if case.hyperparameters]


def loss_of(key):
    return getattr(losses, CASES[key].name)


def twin_of(key):
    return getattr(references, CASES[key].name)


def arguments_of(key, shape=(4, 6), dtype="float32", seed=0):
    arguments = CASES[key].arguments(np.random.default_rng(seed), shape)
    return [a if a.dtype == np.int32 else a.astype(dtype) for a in arguments]


def settings_of(key, index=2):
    return {name: values[index] for name, values in CASES[key].hyperparameters.items()}


def floats(arguments):
    return tuple(i for i, a in enumerate(arguments) if jnp.issubdtype(a.dtype, jnp.floating))


def mask_for(shape, seed=1):
    where = np.random.default_rng(seed).random(shape) < 0.6
    where[0] = False  # no valid item
    where[1] = np.arange(shape[-1]) == 2  # one valid item
    where[2] = True
    return where


@functools.cache
def compiled(key):
    """The loss and the gradients of its sum to every float argument: a compile costs more than all else here."""

    def both(*arguments, **options):
        loss = loss_of(key)
        return loss(*arguments, **options), jax.grad(lambda *a: jnp.sum(loss(*a, **options)), floats(arguments))(
            *arguments
        )

    return jax.jit(both)


@pytest.mark.parametrize("key", CASES)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equals_its_twin(key, shape, dtype):
    arguments = arguments_of(key, shape, dtype)
    options = [settings_of(key, index) for index in range(3)] if CASES[key].hyperparameters else [{}]
    if "alpha" not in CASES[key].hyperparameters:
        options.append({})  # the defaults
    with jax.enable_x64(dtype == "float64"):
        for given_options in options:
            ours = loss_of(key)(*map(jnp.asarray, arguments), **given_options)
            assert ours.dtype == dtype
            assert ours.shape == (shape[:-1] if CASES[key].per_list else shape)
            np.testing.assert_allclose(ours, twin_of(key)(*arguments, **given_options), **TOLERANCE[dtype])


def test_equals_its_peer():
    with jax.enable_x64(True):
        logits, labels = map(jnp.asarray, arguments_of("ce", dtype="float64"))
        student, teacher = map(jnp.asarray, arguments_of("kl", dtype="float64"))
        _, classes = map(jnp.asarray, arguments_of("ce-ids", dtype="float64"))
        where = jnp.asarray(mask_for((4, 6)).astype(bool)).at[0].set(True)
        tau = 3.0
        log_q = jax.nn.log_softmax(student / tau)
        pairs = [
            (losses.binary_cross_entropy(logits, labels), optax.sigmoid_binary_cross_entropy(logits, labels)),
            (losses.softmax_cross_entropy(logits, labels), optax.softmax_cross_entropy(logits, labels)),
            (
                losses.softmax_cross_entropy(logits, labels, where=where),
                optax.softmax_cross_entropy(logits, labels, where=where),
            ),
            (
                losses.softmax_cross_entropy(logits, classes),
                optax.softmax_cross_entropy_with_integer_labels(logits, classes),
            ),
            (
                losses.soft_target_kl(student, teacher, temperature=tau),
                tau**2 * optax.kl_divergence(log_q, jax.nn.softmax(teacher / tau)),
            ),
            (losses.mean_squared_error(student, teacher), optax.squared_error(student, teacher).mean(-1)),
            (losses.hint(student, teacher), optax.squared_error(student, teacher).sum(-1)),
        ]
    for ours, peer in pairs:
        np.testing.assert_allclose(ours, peer, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("key", CASES)
def test_gradients(key):
    with jax.enable_x64(True):
        arguments = arguments_of(key, (2, 4), "float64")
        names = list(CASES[key].hyperparameters)
        moving = floats(arguments)
        mask = {"where": jnp.array([[True] * 4, [False, False, True, True]])} if CASES[key].maskable else {}

        def function(differentiated, hyperparameters):
            full = list(arguments)
            for position, value in zip(moving, differentiated, strict=True):
                full[position] = value
            return loss_of(key)(*full, **dict(zip(names, hyperparameters, strict=True)), **mask)

        point = ([jnp.asarray(arguments[i]) for i in moving], [0.4 + i for i in range(len(names))])
        check_grads(jax.jit(function), point, order=1, modes=("fwd", "rev"), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("key", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_finite_at_large_logits(key, dtype):
    large = np.array([1e4, -1e4, 0, 1e4, -1e4, 3])
    for turn in range(6):
        arguments = arguments_of(key)
        rows = [np.stack([np.roll(large, i * step) for i in range(4)]) for step in (1, turn)]
        arguments[0] = rows[0].astype(np.float32)
        if CASES[key].arguments not in (one, probabilities, ids):
            arguments[1] = rows[1].astype(np.float32)
        cast = [jnp.asarray(a, a.dtype if a.dtype == np.int32 else dtype) for a in arguments]
        for options in (settings_of(key, 0), settings_of(key, 2)):
            masks = [{}] + [{"where": jnp.asarray(mask_for((4, 6)))}] * CASES[key].maskable
            for where in masks:
                value, gradients = compiled(key)(*cast, **options, **where)
                assert value.dtype == dtype
                assert jnp.isfinite(value).all()
                assert all(np.isfinite(g.astype(np.float32)).all() for g in map(np.asarray, gradients))
                if dtype == "float32":
                    twin = twin_of(key)(*arguments, **options, **where)
                    np.testing.assert_allclose(value, twin, rtol=5e-6, atol=5e-6)


@pytest.mark.parametrize("key", CASES)
def test_nan_in_gives_nan(key):
    arguments = arguments_of(key)
    masks = [{}] + [{"where": jnp.ones((4, 6), bool)}] * CASES[key].maskable
    for position in floats(arguments):
        poisoned = [a.copy() for a in arguments]
        poisoned[position][1, 3] = np.nan
        for where in masks:
            value = np.asarray(compiled(key)(*poisoned, **settings_of(key, 1), **where)[0])
            hit = np.zeros(value.shape, bool)
            hit[1 if CASES[key].per_list else (1, 3)] = True
            np.testing.assert_array_equal(np.isnan(value), hit, err_msg=f"argument {position}")


@pytest.mark.parametrize("key", MASKABLE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_where_is_slicing(key, dtype):
    arguments, where = arguments_of(key, dtype=dtype), mask_for((4, 6))
    with jax.enable_x64(dtype == "float64"):
        for index in (0, 2):
            options = settings_of(key, index)
            ours = compiled(key)(*arguments, where=where, **options)[0]
            np.testing.assert_allclose(ours, twin_of(key)(*arguments, where=where, **options), **TOLERANCE[dtype])
            everything = compiled(key)(*arguments, where=np.ones((4, 6), bool), **options)[0]
            plain = compiled(key)(*arguments, **options)[0]
            np.testing.assert_allclose(everything, plain, rtol=TOLERANCE[dtype]["rtol"])
            if not key.endswith("ids"):  # an id does not survive slicing; its twin above does without
                row = where[3]
                cut = loss_of(key)(*(jnp.asarray(a[3][row]) for a in arguments), **options)
                np.testing.assert_allclose(ours[3], cut, **TOLERANCE[dtype])


@pytest.mark.parametrize("key", MASKABLE)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("poison", [0.0, np.inf, -np.inf, np.nan])
def test_what_is_masked_never_arrives(key, dtype, poison):
    where = mask_for((4, 6))
    arguments = [jnp.asarray(a, a.dtype if a.dtype == np.int32 else dtype) for a in arguments_of(key)]
    poisoned = [a if a.dtype == jnp.int32 else jnp.where(where, a, jnp.asarray(poison, a.dtype)) for a in arguments]
    for index in (0, 2):
        options = settings_of(key, index)
        (value, gradients), (clean, expected) = (
            compiled(key)(*a, where=where, **options) for a in (poisoned, arguments)
        )
        np.testing.assert_array_equal(value.astype(np.float32), clean.astype(np.float32))
        assert value[0] == 0
        for ours, theirs in zip(map(np.asarray, gradients), map(np.asarray, expected), strict=True):
            np.testing.assert_array_equal(ours.astype(np.float32), theirs.astype(np.float32))
            assert (ours[~where] == 0).all()
    if options and dtype == "float32":  # nor through a hyperparameter
        summed = jax.jit(jax.grad(lambda h: jnp.sum(loss_of(key)(*poisoned, where=where, **h))))
        assert all(jnp.isfinite(g) for g in summed(options).values())


@pytest.mark.parametrize("key", ["ce", "distillation"])
def test_labels_without_mass_cost_nothing(key):
    arguments = arguments_of(key)
    arguments[-1][1] = 0
    options = {"alpha": 0.0} if key == "distillation" else {}
    value, gradients = compiled(key)(*arguments, **options)
    assert value[1] == 0
    assert (gradients[0][1] == 0).all()
    assert (np.asarray(value)[[0, 2, 3]] > 0).all()


@pytest.mark.parametrize("key", SWEPT)
def test_vmap_over_hyperparameters_is_a_loop_and_one_trace(key):
    arguments = list(map(jnp.asarray, arguments_of(key)))
    traces = 0

    def counted(hyperparameters):
        nonlocal traces
        traces += 1
        return loss_of(key)(*arguments, **hyperparameters)

    single, grid = jax.jit(counted), jax.jit(jax.vmap(counted))
    loop = [single({name: v[i] for name, v in CASES[key].hyperparameters.items()}) for i in range(3)]
    assert traces == 1
    for shift in (0.0, 0.25):
        stacked = {name: jnp.array(v) + shift for name, v in CASES[key].hyperparameters.items()}
        out = grid(stacked)
        if not shift:
            np.testing.assert_allclose(out, jnp.stack(loop), **TOLERANCE["float32"])
    assert traces == 2


@pytest.mark.parametrize("key", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_strict_dtypes_and_jit(key, dtype):
    arguments = [jnp.asarray(a, a.dtype if a.dtype == np.int32 else dtype) for a in arguments_of(key)]
    masks = [{}] + [{"where": jnp.asarray(mask_for((4, 6)))}] * CASES[key].maskable
    arrays = {name: jnp.asarray(value, dtype) for name, value in settings_of(key).items()}
    with jax.numpy_dtype_promotion("strict"):
        for where in masks:  # promotion is decided while tracing: no need to compile
            for options in (settings_of(key), arrays):
                assert jax.eval_shape(compiled(key), *arguments, **options, **where)[0].dtype == dtype
    if dtype == "float32":
        value, _ = compiled(key)(*arguments, **settings_of(key))
        np.testing.assert_allclose(value, loss_of(key)(*arguments, **settings_of(key)), **TOLERANCE["float32"])


A, B, C = np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32), np.zeros(3, np.float32)
I2, I3 = np.zeros(2, np.int32), np.zeros(3, np.int32)


@pytest.mark.parametrize("name", ["binary_cross_entropy", "bpr", "mean_squared_error", "soft_target_kl", "hint"])
@pytest.mark.parametrize(("first", "second"), [(A, B), (A, C), (C, A), (A, A[:, :1]), (A, A[:1])])
def test_unequal_shapes_raise(name, first, second):
    with pytest.raises(ValueError) as error:
        getattr(losses, name)(jnp.asarray(first), jnp.asarray(second))
    assert str(first.shape) in str(error.value)
    assert str(second.shape) in str(error.value)


@pytest.mark.parametrize(
    "call",
    [
        *(lambda labels=labels: losses.softmax_cross_entropy(A, labels) for labels in (B, C, I3, I2[:, None], A[:1])),
        lambda: losses.softmax_cross_entropy(A, A, where=B > 0),
        lambda: losses.softmax_cross_entropy(A, I2, where=C > 0),
        lambda: losses.soft_target_kl(A, A, where=B > 0),
        lambda: losses.soft_target_kl(A, A, where=A[:, :1] > 0),
        lambda: losses.distillation(A, B, I2, alpha=0.5),
        lambda: losses.distillation(A, A, I3, alpha=0.5),
        lambda: losses.distillation(A, A, B, alpha=0.5),
        lambda: losses.distillation(A, A, I2, alpha=0.5, where=C > 0),
    ],
)
def test_wrong_labels_and_masks_raise(call):
    with pytest.raises(ValueError, match=r"\d"):  # the message holds the shapes
        call()


def test_integer_scores_and_float_masks_raise():
    for call in (
        lambda: losses.softmax_cross_entropy(jnp.zeros((2, 3), jnp.int32), I2),
        lambda: losses.soft_target_kl(jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 3))),
        lambda: losses.soft_target_kl(A, A, where=jnp.ones((2, 3))),
    ):
        with pytest.raises(TypeError):
            call()


def test_an_id_outside_of_the_list_is_not_another_item():
    value = losses.softmax_cross_entropy(jnp.zeros((3, 4)), jnp.array([-1, 4, 3]))
    np.testing.assert_array_equal(np.isnan(value), [True, True, False])


def test_every_loss_is_checked():
    assert set(losses.__all__) == {case.name for case in CASES.values()}


# ------------------------------------------------------------------------------------------------------ invariants

ROWS = hnp.arrays(np.float64, (3, 5), elements=st.floats(-30, 30))
TEMPERATURES = st.floats(0.25, 8)
KL = jax.jit(losses.soft_target_kl)
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
