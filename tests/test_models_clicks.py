"""One battery over every model of clicks, each against its slow twin."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references

from recjax import embed, losses, metrics, models

CONFIG = models.Fields(features=12, fields=3, dim=4, scale=0.5)
MODELS = {
    "logistic_regression": models.logistic_regression(CONFIG),
    "factorization_machine": models.factorization_machine(CONFIG),
    "dnn": models.dnn(CONFIG, hidden=(7, 6)),
    "wide_and_deep": models.wide_and_deep(CONFIG, hidden=(7, 6)),
    "deepfm": models.deepfm(CONFIG, hidden=(7, 6)),
    "dcn_v2": models.dcn_v2(CONFIG, hidden=(7, 6), crosses=2),
}
DEEP = ("dnn", "wide_and_deep", "deepfm", "dcn_v2")
FIELDS = jnp.asarray(np.random.default_rng(0).integers(0, 4, size=(5, 3)) + np.array([0, 4, 8]), jnp.int32)
BATCH = {"fields": FIELDS}

every = pytest.mark.parametrize("name", MODELS)
deep = pytest.mark.parametrize("name", DEEP)


@functools.cache
def params_of(name):
    """Nothing at zero, so that every term counts."""
    params = jax.jit(MODELS[name].init)(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    return tree.unflatten([leaf + jnp.asarray(rng.normal(size=leaf.shape) / 3, jnp.float32) for leaf in leaves])


@functools.cache
def logit_of(name):
    return jax.jit(MODELS[name].logit)


@every
def test_equals_its_twin(name):
    params = params_of(name)
    twin = getattr(references, f"{name}_logit")
    expected = [[twin(params, values)] for values in FIELDS.tolist()]
    np.testing.assert_allclose(logit_of(name)(params, BATCH), expected, rtol=1e-5, atol=1e-5)


@every
def test_params_follow_the_contract(name):
    params, model = params_of(name), MODELS[name]
    assert sorted(params) == ["aids", "fixed", "net", "tables"]
    assert params["fixed"] == params["aids"] == {}
    shapes = {table: values.shape for table, values in params["tables"].items()}
    known = {"feature": (12, 4), "feature_weight": (12, 1)}
    assert shapes == {table: known[table] for table in shapes}
    touched = model.touched(BATCH)
    assert touched.keys() == params["tables"].keys()
    for ids in touched.values():
        np.testing.assert_array_equal(ids, FIELDS.ravel())


@every
def test_only_touched_rows_have_a_gradient_and_everything_in_them_counts(name):
    """The vectors start so small that a model would learn nothing at 0: none of the gradients vanishes."""
    params = params_of(name)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(MODELS[name].logit(p, BATCH)))))(params)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all(), path
        assert (np.asarray(grad) != 0).any(), path
    rest = np.setdiff1d(np.arange(12), FIELDS)
    for grad in grads["tables"].values():
        assert (np.asarray(grad)[rest] == 0).all()
        assert (np.asarray(grad)[np.unique(FIELDS)] != 0).any(axis=1).all()


@every
def test_members_by_vmap_equal_members_alone(name):
    members = [params_of(name), jax.tree.map(lambda x: -0.5 * x, params_of(name))]
    together = jax.vmap(MODELS[name].logit, in_axes=(0, None))(jax.tree.map(lambda *x: jnp.stack(x), *members), BATCH)
    for params, logits in zip(members, together, strict=True):
        np.testing.assert_allclose(logits, logit_of(name)(params, BATCH), rtol=1e-5, atol=1e-6)


@every
def test_tables_are_read_through_the_door(name):
    """Records in place of tables, and an id that no table has gives NaN instead of a neighbor's row."""
    params = params_of(name)
    masked = {table: embed.Masked(values, jnp.zeros(values.shape, bool)) for table, values in params["tables"].items()}
    zeros = jax.tree.map(jnp.zeros_like, params["tables"])
    of = MODELS[name].logit
    np.testing.assert_allclose(of({**params, "tables": masked}, BATCH), of({**params, "tables": zeros}, BATCH))
    logits = of(params, {"fields": FIELDS.at[2, 1].set(12)})
    assert np.isnan(np.asarray(logits))[:, 0].tolist() == [False, False, True, False, False]


@every
@pytest.mark.parametrize("shape", [(4, 2), (3,), (2, 4, 3)])
def test_wrong_fields_are_named(name, shape):
    batch = {"fields": jnp.zeros(shape, jnp.int32)}
    for function in (MODELS[name].logit, lambda _, batch: MODELS[name].touched(batch)):
        with pytest.raises(ValueError, match=r"expected fields of shape \[batch, 3\], found"):
            function(params_of(name), batch)


@pytest.mark.parametrize("sizes", [(0, 3, 4), (12, 0, 4), (12, 3, 0)])
def test_impossible_sizes_are_named(sizes):
    with pytest.raises(ValueError, match="expected features, fields and dim of at least 1"):
        models.Fields(*sizes)


def test_taps_are_what_the_logit_is_made_of():
    for name in ("factorization_machine", *DEEP):
        tables = params_of(name)["tables"]["feature"]
        taps = MODELS[name].taps(params_of(name), BATCH)
        np.testing.assert_array_equal(taps["embedding"], np.asarray(tables)[np.asarray(FIELDS)].reshape(5, 12))
    assert MODELS["logistic_regression"].taps(params_of("logistic_regression"), BATCH) == {}
    params = params_of("dcn_v2")
    taps, net = MODELS["dcn_v2"].taps(params, BATCH), params["net"]
    assert list(taps) == ["embedding", "hidden_0", "hidden_1", "cross_0", "cross_1"]
    ends = taps["cross_1"] @ net["cross_output"]["kernel"] + taps["hidden_1"] @ net["output"]["kernel"]
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
    width, rows = 401, 64  # odd: half a word is left over
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


def test_a_planted_interaction_is_learned_but_not_by_logistic_regression():
    """A click is where two fields of three agree in parity: no weights of single values can tell."""
    rng = np.random.default_rng(3)
    values = rng.integers(0, 4, size=(400, 3))
    label = jnp.asarray((values[:, 0] + values[:, 2]) % 2 == 0, jnp.float32)
    fields = jnp.asarray(values + np.array([0, 4, 8]), jnp.int32)
    train, test = slice(0, 300), slice(300, None)
    optimizer = optax.adam(0.03)

    def fit(model):
        def step(carry, _):
            params, moments = carry
            grads = jax.grad(
                lambda p: losses.binary_cross_entropy(
                    model.logit(p, {"fields": fields[train]})[:, 0], label[train]
                ).mean()
            )(params)
            updates, moments = optimizer.update(grads, moments)
            return (optax.apply_updates(params, updates), moments), None

        params = model.init(jax.random.key(0))
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=80)
        return metrics.auc(model.logit(params, {"fields": fields[test]})[:, 0], label[test])

    tried = ("logistic_regression", "factorization_machine", "dnn", "dcn_v2")  # the other two are sums of these
    found = {name: float(jax.jit(functools.partial(fit, MODELS[name]))()) for name in tried}
    assert found.pop("logistic_regression") < 0.6
    assert min(found.values()) > 0.99, found
