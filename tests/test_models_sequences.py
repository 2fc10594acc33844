"""Models of sequences: each by its own equations, causal, blind to padding, and trainable at every place."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from recjax import data, embed, models
from recjax.models.bsarec import _low_pass

ITEMS, LENGTH, DIM = 9, 6, 4
SIZES = {"items": ITEMS, "length": LENGTH, "dim": DIM}
HISTORIES = [[3, 0, 8, 3, 5, 1], [2, 7, 7], [4], []]
AGES = [[5000.0, 64.0, 63.0, 8.0, 1.0, 0.0], [3.0, 2.0, 0.0], [0.0], []]
CASES = {
    "sasrec": (
        models.sasrec(models.SasRec(**SIZES, blocks=2, heads=2)),
        lambda params, history, ages: references.sasrec_queries(params, history, blocks=2, heads=2),
    ),
    "bsarec": (
        models.bsarec(models.BsaRec(**SIZES, blocks=2, heads=2, alpha=0.6, cutoff=3)),
        lambda params, history, ages: references.bsarec_queries(
            params, history, blocks=2, heads=2, alpha=0.6, cutoff=3
        ),
    ),
    "gru4rec": (
        models.gru4rec(models.Gru4Rec(**SIZES, hidden=5, layers=2)),
        lambda params, history, ages: references.gru4rec_queries(params, history, layers=2),
    ),
    "hstu": (
        models.hstu(models.Hstu(**SIZES, blocks=2, heads=2, time_buckets=7)),
        lambda params, history, ages: references.hstu_queries(
            params, history, ages, blocks=2, heads=2, length=LENGTH, time_buckets=7
        ),
    ),
}
every = pytest.mark.parametrize("name", CASES)


def padded(rows, filler, length=LENGTH):
    return np.array([[filler] * (length - len(row)) + row[-length:] for row in rows])


BATCH = {"history": padded(HISTORIES, data.PADDING).astype(np.int32), "age": padded(AGES, 0.0).astype(np.float32)}


@functools.cache
def params_of(name):
    """All entries random, also those that start as zero."""
    shapes = jax.eval_shape(CASES[name][0].init, jax.random.key(0))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2, leaf.dtype), shapes)


@functools.cache
def program(name):
    return jax.jit(CASES[name][0].queries)


@every
def test_queries_are_those_of_the_equations(name):
    params = params_of(name)
    found = np.asarray(program(name)(params, BATCH))
    assert found.shape == (len(HISTORIES), LENGTH, DIM)
    for row, history, ages in zip(found, HISTORIES, AGES, strict=True):
        assert (row[: LENGTH - len(history)] == 0).all()
        if history:
            expected = CASES[name][1](params, history, ages)
            np.testing.assert_allclose(row[LENGTH - len(history) :], expected, rtol=1e-4, atol=1e-5)
    query = jax.jit(CASES[name][0].query)(params, BATCH)
    np.testing.assert_allclose(query, found[:, -1], rtol=1e-5, atol=1e-6)


@every
def test_a_later_item_changes_no_earlier_query(name):
    before = np.asarray(program(name)(params_of(name), BATCH))
    for place in (1, 3, 5):
        history = BATCH["history"].copy()
        history[0, place] = 6
        after = np.asarray(program(name)(params_of(name), {**BATCH, "history": history}))
        np.testing.assert_array_equal(after[0, :place], before[0, :place])
        assert np.abs(after[0, place:] - before[0, place:]).max(axis=-1).min() > 1e-4
        np.testing.assert_array_equal(after[1:], before[1:])


@every
@pytest.mark.parametrize("outside", [ITEMS, -7])
def test_padding_changes_nothing(name, outside):
    """Neither what stands for it, nor how much of it there is."""
    expected = np.asarray(program(name)(params_of(name), BATCH))
    other = {**BATCH, "history": np.where(BATCH["history"] < 0, outside, BATCH["history"])}
    np.testing.assert_array_equal(program(name)(params_of(name), other), expected)
    short = {part: column[1:, 3:] for part, column in BATCH.items()}
    found = program(name)(params_of(name), short)
    np.testing.assert_allclose(found, expected[1:, 3:], rtol=1e-5, atol=1e-6)


@every
def test_dropout_needs_a_key_and_its_rate_may_be_traced(name):
    run = jax.jit(lambda params, rate: CASES[name][0].queries(params, BATCH, jax.random.key(3), dropout=rate))
    plain = program(name)(params_of(name), BATCH)
    np.testing.assert_allclose(run(params_of(name), 0.0), plain, rtol=1e-5, atol=1e-6)
    dropped = np.asarray(run(params_of(name), 0.5))
    assert not np.allclose(dropped, plain, atol=1e-2)
    assert (dropped[3] == 0).all()


@every
def test_padding_gives_no_gradient_and_no_nan(name):
    """Neither in a table, nor in what all rows of a table share: the step of a quantizer."""
    model, params = CASES[name][0], params_of(name)

    @jax.jit
    def grads(table, step):
        def loss(table, step):
            tables = {"item": embed.LearnedStep(table, step, jnp.array(4.0))}
            return jnp.sum(jnp.sin(model.queries({**params, "tables": tables}, BATCH)))

        return jax.grad(loss, argnums=(0, 1))(table, step)

    table, step = grads(params["tables"]["item"], jnp.full((1, 1), 0.1))
    assert np.isfinite(step).all()
    moved = np.flatnonzero(np.abs(np.asarray(table)).max(axis=1))
    assert np.isfinite(table).all()
    assert set(moved) <= {item for history in HISTORIES for item in history}


def test_one_layer_is_the_gru_of_torch():
    torch = pytest.importorskip("torch")
    model = models.gru4rec(models.Gru4Rec(**SIZES, hidden=5, layers=1))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    net = params["net"]
    gru = torch.nn.GRU(DIM, 5, batch_first=True)
    with torch.no_grad():
        gru.weight_ih_l0.copy_(torch.from_numpy(net["input_0"]["kernel"].T))
        gru.bias_ih_l0.copy_(torch.from_numpy(net["input_0"]["bias"]))
        gru.weight_hh_l0.copy_(torch.from_numpy(net["state_0"].T))
        gru.bias_hh_l0.copy_(torch.from_numpy(np.concatenate([np.zeros(10, np.float32), net["candidate_bias_0"]])))
        states, _ = gru(torch.from_numpy(params["tables"]["item"][np.array(HISTORIES[:1])]))
    expected = states.numpy() @ net["output"]["kernel"] + net["output"]["bias"]
    found = jax.jit(model.queries)(jax.tree.map(jnp.asarray, params), {"history": np.array(HISTORIES[:1])})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_places_of_sasrec_count_from_the_latest_item():
    """A longer past leaves the places of the latest items as they were."""
    params = params_of("sasrec")
    net = {**params["net"], "position": params["net"]["position"].at[0].set(100.0)}
    found = program("sasrec")({**params, "net": net}, BATCH)
    np.testing.assert_allclose(found[1:], program("sasrec")(params, BATCH)[1:], rtol=1e-5, atol=1e-6)
    assert not np.allclose(found[0], program("sasrec")(params, BATCH)[0])


def test_bsarec_has_the_parameters_of_the_authors_on_beauty():
    """They are 878,208 with a row for padding and a bias of the keys of each block, which has no effect."""
    model = models.bsarec(models.BsaRec(items=12_102, length=50, dim=64, blocks=2))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 878_208 - 2 * 64


def test_the_low_pass_of_bsarec_is_that_of_a_series_worked_out():
    low = _low_pass(4, 3) @ np.array([1.0, 2, 3, 4])
    np.testing.assert_allclose(low, [1.5, 1.5, 3.5, 3.5])


def test_wrong_histories_are_named():
    for name, (model, _) in CASES.items():
        for shape in ((LENGTH,), (2, LENGTH + 1), (2, 0)):
            with pytest.raises(ValueError, match=r"history: expected shape \[batch, 1 to 6\], got"):
                model.query(params_of(name), {"history": np.zeros(shape, np.int32)})
            with pytest.raises(ValueError, match=r"history: expected shape \[batch, 1 to 6\], got"):
                model.queries(params_of(name), {"history": np.zeros(shape, np.int32)})
    with pytest.raises(ValueError, match=r'batch\["age"\]: expected the time .* got none'):
        CASES["hstu"][0].query(params_of("hstu"), {"history": BATCH["history"]})
    for settings in (models.SasRec, models.Hstu):
        with pytest.raises(ValueError, match="heads: expected a divisor of dim=4, got 3"):
            settings(**SIZES, heads=3)
