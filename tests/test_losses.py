"""Each loss against its NumPy twin (references): value, gradient, mask, and a grid of its hyperparameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from loss_cases import (
    CASES,
    MASKABLE,
    SWEPT,
    TOLERANCE,
    arguments_of,
    assert_close,
    floats,
    leaves,
    loss_of,
    masks_of,
    settings_of,
    twin_of,
    value_of,
)

from recjax import losses


@pytest.mark.parametrize("key", CASES)
@pytest.mark.parametrize(("dtype", "lead"), [("float32", (2, 3)), ("float64", ())])
def test_equals_the_reference(key, lead, dtype):
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
        check_grads(jax.jit(function), point, order=1, modes=("rev",), rtol=2e-6, atol=1e-7)


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


WEIGHTS = {"discrepancy_weights", "estimated_ranks", "listed_weights", "orthogonal_rows", "position_weights"}
ELSEWHERE = WEIGHTS | {"het_comp", "teacher_ready", "Hierarchy"}  # test_losses_weights.py


def test_every_loss_is_checked():
    assert set(losses.__all__) == {case.name for case in CASES.values()} | ELSEWHERE
