import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.models.mlp import Mlp, mlp

MODEL = mlp(Mlp(widths=(5, 7, 4, 3)))


@pytest.fixture(scope="module")
def members():
    """Four sets of parameters of one model."""
    init = jax.jit(MODEL.init)
    return [init(jax.random.key(seed)) for seed in (0, 0, 1, 2)]


@pytest.fixture(scope="module")
def batch():
    return {"inputs": jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32)}


def test_equals_numpy_layer_by_layer(members, batch):
    x, net = np.asarray(batch["inputs"]), jax.tree.map(np.asarray, members[0]["net"])
    hidden_activations = MODEL.hidden_activations(members[0], batch)
    assert list(hidden_activations) == ["hidden_0", "hidden_1"]
    for name in ("hidden_0", "hidden_1"):
        x = np.maximum(x @ net[name]["kernel"] + net[name]["bias"], 0)
        np.testing.assert_allclose(hidden_activations[name], x, rtol=1e-5, atol=1e-6)
    expected = x @ net["output"]["kernel"] + net["output"]["bias"]
    np.testing.assert_allclose(MODEL.logit(members[0], batch), expected, rtol=1e-5, atol=1e-6)


def test_params_follow_the_contract(members):
    params = jax.eval_shape(mlp(Mlp(widths=(10, 64, 32, 10))).init, jax.random.key(0))
    assert sorted(params) == ["auxiliary", "fixed", "net", "tables"]
    assert params["tables"] == params["fixed"] == params["auxiliary"] == {}
    assert type(params["net"]) is dict
    shapes = {name: (layer["kernel"].shape, layer["bias"].shape) for name, layer in params["net"].items()}
    assert shapes == {"hidden_0": ((10, 64), (64,)), "hidden_1": ((64, 32), (32,)), "output": ((32, 10), (10,))}
    assert all((np.asarray(layer["bias"]) == 0).all() for layer in members[0]["net"].values())


def test_has_no_tables(batch):
    assert MODEL.touched(batch) is None


def test_init_is_a_function_of_its_key(members):
    one, same, other, _ = members
    assert jax.tree.all(jax.tree.map(np.array_equal, one, same))
    assert not np.array_equal(one["net"]["output"]["kernel"], other["net"]["output"]["kernel"])


def test_no_hidden_layer_is_linear():
    model = mlp(Mlp(widths=(3, 2)))
    kernel, bias = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([1, -1], np.float32)
    params = {"tables": {}, "net": {"output": {"kernel": kernel, "bias": bias}}, "fixed": {}, "auxiliary": {}}
    inputs = jnp.array([[1.0, -2.0, 0.5]])
    assert model.hidden_activations(params, {"inputs": inputs}) == {}
    np.testing.assert_allclose(model.logit(params, {"inputs": inputs}), np.asarray(inputs) @ kernel + bias, rtol=1e-6)


def test_the_key_is_taken_and_not_used(members, batch):
    assert np.array_equal(MODEL.logit(members[0], batch), MODEL.logit(members[0], batch, key=jax.random.key(5)))


@pytest.mark.parametrize("shape", [(4, 2), (5,), (2, 4, 5)])
def test_wrong_inputs_are_named(members, shape):
    for function in (MODEL.logit, MODEL.hidden_activations):
        with pytest.raises(ValueError, match=r"inputs: expected shape \[batch, 5\], got"):
            function(members[0], {"inputs": jnp.zeros(shape)})


@pytest.mark.parametrize("widths", [(), (3,), (3, 0, 2), (3, -1)])
def test_impossible_widths_are_named(widths):
    with pytest.raises(ValueError, match="widths: expected"):
        Mlp(widths=widths)
