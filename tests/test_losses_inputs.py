"""What a loss makes of its inputs: large, missing, masked, of half precision, of the wrong shape or dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import (
    CASES,
    MASKABLE,
    arguments_of,
    assert_close,
    cast,
    compiled,
    covering,
    floats,
    leaves,
    loss_of,
    maskings,
    masks_of,
    settings_of,
    total,
    twin_of,
    value_of,
)

from recjax import losses


def large_arguments(key, turn):
    """Scores of +-1e4, 0 and 3, in another arrangement each turn; what is no score stays."""
    arguments = arguments_of(key)
    for position, array in enumerate(CASES[key].arguments):
        if array.score:
            flat = np.resize(np.roll([1e4, -1e4, 0, 1e4, -1e4, 3, 1e4], turn * position), arguments[position].size)
            arguments[position] = flat.reshape(arguments[position].shape).astype(np.float32)
    return arguments


@pytest.mark.parametrize("key", CASES)
def test_finite_at_large_scores(key):
    for turn in range(4):
        arguments = large_arguments(key, turn)
        for options in (settings_of(key, 0), settings_of(key, 2)) if CASES[key].swept else ({},):
            for masks in maskings(key):
                value, slopes = compiled(key)(*arguments, **options, **masks)
                for leaf in jax.tree.leaves((value, slopes)):
                    assert jnp.isfinite(leaf).all()
                twin = twin_of(key)(*arguments, **options, **masks)
                # what is small beside terms of 1e4 (or their squares) is lost in float32
                size = max(1.0, *(float(abs(leaf).max()) for leaf in leaves(twin)))
                assert_close(value, twin, rtol=1e-5, atol=1e-5 + 1e-6 * size)


@pytest.mark.parametrize("key", CASES)
def test_half_precision_is_rounded_once_at_the_end(key):
    for arguments in (arguments_of(key), large_arguments(key, 1)):
        half = [jnp.asarray(a, jnp.bfloat16) if a.dtype == np.float32 else jnp.asarray(a) for a in arguments]
        wide = [a.astype(jnp.float32) if a.dtype == jnp.bfloat16 else a for a in half]
        ours, theirs = (value_of(key)(*given, **settings_of(key, 2)) for given in (half, wide))
        for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert mine.dtype == jnp.bfloat16
            assert jnp.isfinite(mine).all()
            # bfloat16 keeps 8 bits; two programs of the same float32 sums may differ in their last
            np.testing.assert_allclose(mine.astype(jnp.float32), other, rtol=2**-8, atol=1e-5)


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
def test_all_masked_gives_zero(key):
    nothing = {name: np.zeros_like(where) for name, where in masks_of(key).items()}
    value, slopes = compiled(key)(*arguments_of(key), **settings_of(key, 2), **nothing)
    if CASES[key].empty is not None:
        assert all((leaf == CASES[key].empty).all() for leaf in leaves(value))
        assert all((leaf == 0).all() for leaf in leaves(slopes))


@pytest.mark.parametrize("key", MASKABLE)
@pytest.mark.parametrize("poison", [0.0, np.inf, -np.inf, np.nan])
def test_masked_values_have_no_effect(key, poison):
    masks, arguments = masks_of(key), cast(key, "float32")
    poisoned, hidden = list(arguments), {}
    for name, positions in CASES[key].masks.items():
        for position in positions:
            if position in floats(key):
                keep = hidden[position] = covering(key, name, position, masks[name])
                poisoned[position] = jnp.where(keep, poisoned[position], jnp.float32(poison))
    for index in (0, 2):
        options = settings_of(key, index)
        (value, slopes), (clean, expected) = (compiled(key)(*a, **masks, **options) for a in (poisoned, arguments))
        for ours, theirs in zip(jax.tree.leaves((value, slopes)), jax.tree.leaves((clean, expected)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for position, slope in zip(floats(key), slopes, strict=True):
            if position in hidden:
                assert (np.asarray(slope)[~hidden[position]] == 0).all()
    swept = {name: value for name, value in options.items() if isinstance(value, float)}
    if swept and np.isnan(poison):  # nor through a hyperparameter
        rest = {name: value for name, value in options.items() if name not in swept}
        slope = jax.jit(jax.grad(lambda h: total(loss_of(key)(*poisoned, **masks, **rest, **h))))
        assert all(jnp.isfinite(g) for g in slope(swept).values())


@pytest.mark.parametrize(
    ("key", "name"),
    [("rrd", "uninteresting_where"), ("dcd", "overestimated_where"), ("sampled-softmax", "where")],
)
def test_minus_infinity_is_masked_among_the_others(key, name):
    """No others at all are left in the first list: a log-sum-exp of nothing has NaN gradients of its own."""
    arguments, masks = cast(key, "float32"), masks_of(key)
    keep = masks[name]
    masks = {mask: np.ones_like(where) for mask, where in masks.items()}
    excluded = [*arguments[:-1], jnp.where(keep, arguments[-1], -jnp.inf)]
    ours = compiled(key)(*excluded, **masks, **settings_of(key, 1))
    theirs = compiled(key)(*arguments, **masks | {name: keep}, **settings_of(key, 1))
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert np.isfinite(ours[0]).all()


@pytest.mark.parametrize(
    "key",
    [
        "ce",
        "sampled-softmax",
        "mse",
        "kl",
        "soft-ce",
        "distillation",
        "top-k",
        "standardized",
        "dist",
        "listwise",
        "rd",
        "rrd",
        "dcd",
        "rce",
    ],
)
def test_empty_lists_give_zero(key):
    arguments = [
        x[..., :0] if array.axes[-1] in "ikl" else x
        for x, array in zip(arguments_of(key), CASES[key].arguments, strict=True)
    ]
    assert (np.asarray(value_of(key)(*arguments, **settings_of(key, 0))) == 0).all()


@pytest.mark.parametrize("key", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_strict_dtypes(key, dtype):
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
