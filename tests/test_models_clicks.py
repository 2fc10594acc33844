"""Every model of clicks against its slow twin, and what only they have: fields and dropout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from recjax import models

CONFIG = models.Fields(features=12, fields=3, dim=4, scale=0.5)
STREAMS = models.FinalMlp(hidden=((7, 6), (4,)), gate=(5,), heads=2)
MODELS = {
    "logistic_regression": models.logistic_regression(CONFIG),
    "factorization_machine": models.factorization_machine(CONFIG),
    "dnn": models.dnn(CONFIG, hidden=(7, 6)),
    "wide_and_deep": models.wide_and_deep(CONFIG, hidden=(7, 6)),
    "deepfm": models.deepfm(CONFIG, hidden=(7, 6)),
    "dcn_v2": models.dcn_v2(CONFIG, hidden=(7, 6), crosses=2),
    "finalmlp": models.finalmlp(CONFIG, dataclasses.replace(STREAMS, context=((0,), (2, 1)))),
    "finalmlp, gates of no field": models.finalmlp(CONFIG, STREAMS),
}
TWINS = {name: getattr(references, f"{name}_logit") for name in MODELS if "finalmlp" not in name} | {
    "finalmlp": functools.partial(references.finalmlp_logit, contexts=((0,), (2, 1))),
    "finalmlp, gates of no field": functools.partial(references.finalmlp_logit, contexts=((), ())),
}
DEEP = ("dnn", "wide_and_deep", "deepfm", "dcn_v2", "finalmlp")
FIELDS = jnp.asarray(np.random.default_rng(0).integers(0, 4, size=(5, 3)) + np.array([0, 4, 8]), jnp.int32)
BATCH = {"fields": FIELDS}

every = pytest.mark.parametrize("name", MODELS)
deep = pytest.mark.parametrize("name", DEEP)


@functools.cache
def params_of(name):
    """Nothing at zero, so that every term counts."""
    shapes, rng = jax.eval_shape(MODELS[name].init, jax.random.key(0)), np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape).astype(np.float32) / 2), shapes)


@functools.cache
def logit_of(name):
    return jax.jit(MODELS[name].logit)


@every
def test_equals_its_twin(name):
    params = params_of(name)
    expected = [[TWINS[name](params, values)] for values in FIELDS.tolist()]
    np.testing.assert_allclose(logit_of(name)(params, BATCH), expected, rtol=1e-5, atol=1e-5)


@every
def test_params_follow_the_contract(name):
    params, model = params_of(name), MODELS[name]
    assert sorted(params) == ["auxiliary", "fixed", "net", "tables"]
    assert params["fixed"] == params["auxiliary"] == {}
    shapes = {table: values.shape for table, values in params["tables"].items()}
    known = {"feature": (12, 4), "feature_weight": (12, 1)}
    assert shapes == {table: known[table] for table in shapes}
    touched = model.touched(BATCH)
    assert touched.keys() == params["tables"].keys()
    for ids in touched.values():
        np.testing.assert_array_equal(ids, FIELDS.ravel())


@every
def test_a_value_that_no_table_has_gives_nan(name):
    """Never a neighbor's row."""
    logits = logit_of(name)(params_of(name), {"fields": FIELDS.at[2, 1].set(12)})
    assert np.isnan(np.asarray(logits))[:, 0].tolist() == [False, False, True, False, False]


@every
@pytest.mark.parametrize("shape", [(4, 2), (3,), (2, 4, 3)])
def test_wrong_fields_are_named(name, shape):
    batch = {"fields": jnp.zeros(shape, jnp.int32)}
    for function in (MODELS[name].logit, lambda _, batch: MODELS[name].touched(batch)):
        with pytest.raises(ValueError, match=r"fields: expected shape \[batch, 3\], got"):
            function(params_of(name), batch)


@pytest.mark.parametrize("sizes", [(0, 3, 4), (12, 0, 4), (12, 3, 0)])
def test_impossible_sizes_are_named(sizes):
    with pytest.raises(ValueError, match="features, fields and dim: expected at least 1"):
        models.Fields(*sizes)


@pytest.mark.parametrize(
    "sizes", [{"heads": 0}, {"heads": 3}, {"hidden": ((7, 6), ())}, {"hidden": ((), (4,))}, {"context": ((3,), ())}]
)
def test_impossible_streams_are_named(sizes):
    with pytest.raises(ValueError, match=r"(hidden: expected last units divisible|context: expected fields in 0\.\.2)"):
        models.finalmlp(CONFIG, dataclasses.replace(STREAMS, **sizes))


def test_a_gate_starts_near_leaving_everything_as_it_is():
    """2 sigmoid(0) = 1: with gates of zeros the streams read the vectors themselves."""
    params = params_of("finalmlp")
    net = {name: jax.tree.map(jnp.zeros_like, part) if "gate" in name else part for name, part in params["net"].items()}
    hidden_activations = MODELS["finalmlp"].hidden_activations({**params, "net": net}, BATCH)
    layer = net["stream_1"]["output"]
    expected = np.maximum(hidden_activations["embedding"] @ layer["kernel"] + layer["bias"][None], 0)
    np.testing.assert_allclose(hidden_activations["stream_1_output"], expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(MODELS["finalmlp"].hidden_activations(params, BATCH)["stream_1_output"], expected)


def test_taps_are_what_the_logit_is_made_of():
    for name in ("factorization_machine", *DEEP):
        tables = params_of(name)["tables"]["feature"]
        hidden_activations = MODELS[name].hidden_activations(params_of(name), BATCH)
        np.testing.assert_array_equal(
            hidden_activations["embedding"], np.asarray(tables)[np.asarray(FIELDS)].reshape(5, 12)
        )
    assert MODELS["logistic_regression"].hidden_activations(params_of("logistic_regression"), BATCH) == {}
    params = params_of("dcn_v2")
    hidden_activations, net = MODELS["dcn_v2"].hidden_activations(params, BATCH), params["net"]
    assert list(hidden_activations) == ["embedding", "hidden_0", "hidden_1", "cross_0", "cross_1"]
    ends = (
        hidden_activations["cross_1"] @ net["cross_output"]["kernel"]
        + hidden_activations["hidden_1"] @ net["output"]["kernel"]
    )
    np.testing.assert_allclose(ends + net["output"]["bias"][None], logit_of("dcn_v2")(params, BATCH), rtol=1e-5)


@deep
def test_a_rate_of_zero_and_no_key_drop_nothing(name):
    params = params_of(name)
    for logits in (
        MODELS[name].logit(params, BATCH, jax.random.key(3)),
        MODELS[name].logit(params, BATCH, dropout=0.9),
    ):
        np.testing.assert_allclose(logits, logit_of(name)(params, BATCH), rtol=1e-6, atol=1e-6)
    kept = MODELS[name].logit(params, BATCH, jax.random.key(3), dropout=0.5)
    assert not np.allclose(kept, logit_of(name)(params, BATCH))


def test_dropout_drops_its_share_and_keeps_the_mean():
    """One program for all rates; the output layer hands the hidden units on as they are."""
    width, rows = 401, 64
    model = models.mlp(models.Mlp(widths=(1, width, width)))
    net = {
        "hidden_0": {"kernel": jnp.zeros((1, width)), "bias": jnp.ones(width)},
        "output": {"kernel": jnp.eye(width), "bias": jnp.zeros(width)},
    }
    traces = []

    @jax.jit
    def units(key, rate):
        traces.append(rate)
        return model.logit({"net": net}, {"inputs": jnp.ones((rows, 1))}, key, dropout=rate)

    for seed, rate in enumerate((0.0, 0.1, 0.25, 0.5, 0.9)):
        found = np.asarray(units(jax.random.key(seed), jnp.float32(rate)))
        dropped = (found == 0).mean()
        np.testing.assert_allclose(found[found != 0], 1 / (1 - rate), rtol=1e-6)
        assert abs(dropped - rate) <= 5 * np.sqrt(rate * (1 - rate) / found.size)
        columns = (found == 0).mean(axis=0) - rate
        assert abs(columns).max() <= 5.5 * np.sqrt(rate * (1 - rate) / rows)
    assert len(traces) == 1
    halves = np.asarray(units(jax.random.key(9), jnp.float32(0.5))) == 0
    assert not (halves[:-1] == halves[1:]).all(axis=1).any()
    assert abs((halves[:, 0:-1:2] == halves[:, 1::2]).mean() - 0.5) < 0.03  # the two halves of a word have no tie
    again = np.asarray(units(jax.random.key(9), jnp.float32(0.5))) == 0
    np.testing.assert_array_equal(again, halves)


def test_layers_drop_apart():
    """Two hidden layers of one width that hand on what they get: a unit lost in the first is still lost by chance."""
    width = 256
    model = models.mlp(models.Mlp(widths=(1, width, width, width)))
    plain = {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}
    first = {"kernel": jnp.ones((1, width)), "bias": jnp.zeros(width)}
    net = {"hidden_0": first, "hidden_1": plain, "output": plain}
    found = np.asarray(model.logit({"net": net}, {"inputs": jnp.ones((64, 1))}, jax.random.key(0), dropout=0.5))
    assert abs((found != 0).mean() - 0.25) < 0.02
