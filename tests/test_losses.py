"""The promises that all losses share: each against its NumPy twin (references), its mask, its gradient, its grid."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from jax.test_util import check_grads
from loss_cases import CASES, MASKABLE, SWEPT, arguments_of, covering, floats, masks_of, settings_of

from recjax import losses

# Twins are float64. In float64 only the order of some dozen additions differs; in float32 each operation adds 6e-8
# relative to terms of size ten at most, and a divergence near zero is a difference of such terms: hence the atol.
TOLERANCE = {"float64": {"rtol": 1e-11, "atol": 1e-12}, "float32": {"rtol": 1e-5, "atol": 1e-5}}


def loss_of(key):
    return functools.partial(getattr(losses, CASES[key].name), **CASES[key].static)


def twin_of(key):
    return functools.partial(getattr(references, CASES[key].name), **CASES[key].static)


def leaves(value):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(value)]


def assert_close(ours, twin, **tolerance):
    ours, twin = leaves(ours), [np.asarray(leaf) for leaf in (twin if isinstance(twin, tuple) else (twin,))]
    assert len(ours) == len(twin)
    for mine, other in zip(ours, twin, strict=True):
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine, other, **tolerance)


def total(value):
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(value))


def cast(key, dtype, **options):
    return [jnp.asarray(a, dtype) if a.dtype == np.float32 else jnp.asarray(a) for a in arguments_of(key, **options)]


@functools.cache
def compiled(key):
    """The loss and the gradients of its sum to every float argument: a compile costs more than all else here."""

    def both(*arguments, **options):
        loss = loss_of(key)
        slopes = jax.grad(lambda *a: total(loss(*a, **options)), floats(key))(*arguments)
        return loss(*arguments, **options), slopes

    return jax.jit(both)


@functools.cache
def value_of(key):
    return jax.jit(loss_of(key))


def maskings(key):
    """Without a mask, and with all of them."""
    masks = masks_of(key)
    return [{}, masks] if masks else [{}]


@pytest.mark.parametrize("key", CASES)
@pytest.mark.parametrize(("dtype", "lead"), [("float32", (2, 3)), ("float64", ())])
def test_equals_its_twin(key, lead, dtype):
    arguments = arguments_of(key, lead, dtype)
    options = [settings_of(key, index) for index in range(3)] if CASES[key].swept else []
    if CASES[key].defaults:
        options.append({})
    with jax.enable_x64(dtype == "float64"):
        for given in options:
            ours = value_of(key)(*arguments, **given)
            assert all(leaf.dtype == dtype for leaf in leaves(ours))
            assert_close(ours, twin_of(key)(*arguments, **given), **TOLERANCE[dtype])


@pytest.mark.parametrize("key", [key for key, case in CASES.items() if not case.frozen])
def test_gradients(key):
    with jax.enable_x64(True):
        arguments, moving = arguments_of(key, (2,), "float64"), floats(key)
        options = settings_of(key, 1)
        swept = [name for name, value in options.items() if isinstance(value, float)]
        masks = masks_of(key, (2,), seed=2)

        def function(differentiated, hyperparameters):
            full = list(arguments)
            for position, value in zip(moving, differentiated, strict=True):
                full[position] = value
            return loss_of(key)(*full, **options | dict(zip(swept, hyperparameters, strict=True)), **masks)

        point = ([jnp.asarray(arguments[i]) for i in moving], [0.4 + i for i in range(len(swept))])
        check_grads(jax.jit(function), point, order=1, modes=("fwd", "rev"), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("key", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_finite_at_large_scores(key, dtype):
    large = np.array([1e4, -1e4, 0, 1e4, -1e4, 3, 1e4])
    for turn in range(4):
        arguments = arguments_of(key)
        for position, array in enumerate(CASES[key].arguments):
            if array.score:
                flat = np.resize(np.roll(large, turn * position), arguments[position].size)
                arguments[position] = flat.reshape(arguments[position].shape).astype(np.float32)
        given = [jnp.asarray(a, dtype) if a.dtype == np.float32 else jnp.asarray(a) for a in arguments]
        for options in (settings_of(key, 0), settings_of(key, 2)) if CASES[key].swept else ({},):
            for masks in maskings(key) if dtype == "float32" else maskings(key)[-1:]:
                value, slopes = compiled(key)(*given, **options, **masks)
                for leaf in jax.tree.leaves((value, slopes)):
                    assert jnp.isfinite(leaf).all()
                assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(value))
                if dtype == "float32":
                    twin = twin_of(key)(*arguments, **options, **masks)
                    # what is small beside terms of 1e4 (or their squares) is lost in float32
                    size = max(1.0, *(float(abs(leaf).max()) for leaf in leaves(twin)))
                    assert_close(value, twin, rtol=1e-5, atol=1e-5 + 1e-6 * size)


@pytest.mark.parametrize("key", CASES)
def test_nan_in_gives_nan(key):
    everything = {name: np.ones_like(where) for name, where in masks_of(key).items()}
    for position in floats(key):
        poisoned = arguments_of(key)
        poisoned[position].flat[0] = np.nan
        for masks in [{}] + [everything] * bool(everything):
            value = compiled(key)(*poisoned, **settings_of(key, 2), **masks)[0]
            assert any(np.isnan(leaf).any() for leaf in leaves(value)), position
            if CASES[key].arguments[position].axes[0] == "b":  # one list's NaN stays in its list
                assert all(np.isfinite(leaf[1:]).all() for leaf in leaves(value))


@pytest.mark.parametrize("key", MASKABLE)
def test_where_is_slicing(key):
    arguments, masks = arguments_of(key, dtype="float64"), masks_of(key)
    alone = [{name: where} for name, where in masks.items()] if len(masks) > 1 else []
    everything = {name: np.ones_like(where) for name, where in masks.items()}
    with jax.enable_x64(True):
        for options in (settings_of(key, 0), settings_of(key, 2)):
            for given in (*alone, masks, everything):  # twins cut the lists down
                twin = twin_of(key)(*arguments, **given, **options)
                assert_close(value_of(key)(*arguments, **given, **options), twin, **TOLERANCE["float64"])
            whole = twin_of(key)(*arguments, **options)
            assert_close(value_of(key)(*arguments, **everything, **options), whole, **TOLERANCE["float64"])


@pytest.mark.parametrize("key", MASKABLE)
def test_nothing_left_costs_nothing(key):
    nothing = {name: np.zeros_like(where) for name, where in masks_of(key).items()}
    value, slopes = compiled(key)(*arguments_of(key), **settings_of(key, 2), **nothing)
    if CASES[key].empty is not None:
        assert all((leaf == CASES[key].empty).all() for leaf in leaves(value))
        assert all((leaf == 0).all() for leaf in leaves(slopes))


@pytest.mark.parametrize("key", MASKABLE)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("poison", [0.0, np.inf, -np.inf, np.nan])
def test_what_is_masked_never_arrives(key, dtype, poison):
    masks, arguments = masks_of(key), cast(key, dtype)
    poisoned, hidden = list(arguments), {}
    for name, positions in CASES[key].masks.items():
        for position in positions:
            if position in floats(key):
                keep = hidden[position] = covering(key, name, position, masks[name])
                poisoned[position] = jnp.where(keep, poisoned[position], jnp.asarray(poison, dtype))
    for index in (0, 2):
        options = settings_of(key, index)
        (value, slopes), (clean, expected) = (compiled(key)(*a, **masks, **options) for a in (poisoned, arguments))
        for ours, theirs in zip(jax.tree.leaves((value, slopes)), jax.tree.leaves((clean, expected)), strict=True):
            np.testing.assert_array_equal(ours.astype(jnp.float32), theirs.astype(jnp.float32))
        for position, slope in zip(floats(key), slopes, strict=True):
            if position in hidden:
                assert (np.asarray(slope, np.float32)[~hidden[position]] == 0).all()
    swept = {name: value for name, value in options.items() if isinstance(value, float)}
    if swept and dtype == "float32":  # nor through a hyperparameter
        rest = {name: value for name, value in options.items() if name not in swept}
        slope = jax.jit(jax.grad(lambda h: total(loss_of(key)(*poisoned, **masks, **rest, **h))))
        assert all(jnp.isfinite(g) for g in slope(swept).values())


@pytest.mark.parametrize("key", SWEPT)
def test_vmap_over_hyperparameters_is_a_loop_and_one_trace(key):
    arguments = list(map(jnp.asarray, arguments_of(key)))
    traces = 0

    def counted(hyperparameters):
        nonlocal traces
        traces += 1
        return loss_of(key)(*arguments, **hyperparameters)

    grid = jax.jit(jax.vmap(counted))
    loop = [value_of(key)(*arguments, **settings_of(key, i)) for i in range(3)]
    for shift in (0, 1):
        stacked = {name: jnp.array(v) + shift for name, v in CASES[key].swept.items()}
        out = grid(stacked)
        if not shift:
            assert_close(out, jnp.stack(loop), **TOLERANCE["float32"])
    assert traces == 1


@pytest.mark.parametrize("key", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_strict_dtypes_and_jit(key, dtype):
    arguments = cast(key, dtype)
    traced = {
        name: jnp.asarray(value, dtype if isinstance(value, float) else jnp.int32)
        for name, value in settings_of(key, 2).items()
    }
    with jax.numpy_dtype_promotion("strict"):
        for masks in maskings(key):  # promotion is decided while tracing: no need to compile
            for options in (settings_of(key, 2), traced):
                shapes = jax.eval_shape(compiled(key), *arguments, **options, **masks)[0]
                assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(shapes))
    if dtype == "float32":
        value = compiled(key)(*arguments, **settings_of(key, 2))[0]
        assert_close(value, tuple(leaves(loss_of(key)(*arguments, **settings_of(key, 2)))), **TOLERANCE["float32"])


@pytest.mark.parametrize("key", CASES)
def test_wrong_shapes_raise(key):
    case, arguments = CASES[key], cast(key, "float32")
    for position, array in enumerate(case.arguments):
        for axis, letter in enumerate(array.axes):
            others = [a.axes for i, a in enumerate(case.arguments) if i != position]
            if letter in case.free or not any(letter in axes for axes in others):
                continue  # nothing else has this axis
            for size in (slice(1), slice(2)):
                wrong = list(arguments)
                wrong[position] = wrong[position][(slice(None),) * axis + (size,)]
                with pytest.raises(ValueError, match=r"\d"):  # the message holds the shapes
                    loss_of(key)(*wrong, **settings_of(key, 0))
    for name, where in masks_of(key).items():
        for wrong in (where[:1], where[None], where[..., :1]):
            with pytest.raises(ValueError, match=r"\d"):
                loss_of(key)(*arguments, **{name: jnp.asarray(wrong)}, **settings_of(key, 0))


@pytest.mark.parametrize("key", CASES)
def test_wrong_dtypes_raise(key):
    arguments = cast(key, "float32")
    with pytest.raises(TypeError, match="int32"):
        loss_of(key)(arguments[0].astype(jnp.int32), *arguments[1:], **settings_of(key, 0))
    for name, where in masks_of(key).items():
        with pytest.raises(TypeError, match="float32"):
            loss_of(key)(*arguments, **{name: jnp.asarray(where, jnp.float32)}, **settings_of(key, 0))
    for position, array in enumerate(CASES[key].arguments):
        if arguments[position].dtype == jnp.bool_ or (arguments[position].dtype == jnp.int32 and array.axes != "b"):
            wrong = list(arguments)
            wrong[position] = wrong[position].astype(jnp.float32)
            with pytest.raises(TypeError, match="float32"):
                loss_of(key)(*wrong, **settings_of(key, 0))


def test_an_id_outside_of_the_list_is_not_another_item():
    value = losses.softmax_cross_entropy(jnp.zeros((3, 4)), jnp.array([-1, 4, 3]))
    np.testing.assert_array_equal(np.isnan(value), [True, True, False])


WEIGHTS = {"discrepancy_weights", "estimated_ranks", "listed_weights", "orthogonal_rows", "position_weights"}
ELSEWHERE = WEIGHTS | {"het_comp", "teacher_ready", "Hierarchy"}  # test_losses_weights.py


def test_every_loss_is_checked():
    assert set(losses.__all__) == {case.name for case in CASES.values()} | ELSEWHERE
