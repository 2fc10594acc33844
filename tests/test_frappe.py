"""The Frappe experiment on a net of a few units: what it trains is what it stores, reads back and judges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import clicks, frappe
from recjax import data, embed, grid, models, prune

FIELDS = models.Fields(features=40, fields=10, dim=10, scale=0.5)
WIDTHS = (24, 16, 8)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(frappe, "FIELDS", FIELDS)
    monkeypatch.setattr(clicks, "BLOCK", 16)


@pytest.fixture(scope="module")
def params():
    return jax.jit(models.dnn(FIELDS, hidden=WIDTHS).init)(jax.random.key(0))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return data.Rows(rng.integers(0, 40, (37, 10)).astype(np.int32), (rng.random(37) < 0.4).astype(np.float32))


def arrays(tree):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize("technique", [*frappe.POST_TRAINING.values(), *frappe.FINE_TUNED.values()])
def test_what_is_trained_is_what_is_read_back(params, tmp_path, technique):
    knobs = {"table_bits": technique.table_bits, "net_bits": technique.net_bits, "sparsity": technique.sparsity}
    hparams = frappe.Hparams(**knobs)._replace(ramp=0.0)
    transform = frappe.SMALL.transform
    learned, state = transform.init(jax.random.key(0), params, hparams)
    state = transform.update(params, learned, state, None, jnp.array(0), hparams)
    effective = transform.apply(params, learned, state, hparams)
    effective["tables"] = {"feature": embed.lookup(effective["tables"]["feature"])}
    form = frappe.packed(params, technique, state[0] if technique.sparsity else {})
    read, size = frappe.stored(form, tmp_path)
    expected, found = arrays({"tables": effective["tables"], "net": effective["net"]}), arrays(read)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    content = sum(leaf.nbytes for leaf in jax.tree.leaves(form))
    assert content < size < content + 3000  # the header names every array
    kernels = [found[f"['net']['{layer}']['kernel']"] for layer in frappe.LAYERS]
    size, zeros = sum(kernel.size for kernel in kernels), sum(int((kernel == 0).sum()) for kernel in kernels)
    assert zeros >= size - max(1, round(size * (1 - technique.sparsity)))


def test_the_last_mask_before_it_counts_has_the_whole_sparsity():
    """Masks change every so many steps; a form is chosen among those that have all their zeros."""
    for steps in (3, 10, 49, 50):
        for epochs in (1, 4):
            ramp = frappe.ramp_steps(frappe.Config(ramp_epochs=epochs), steps)
            refreshed = range(0, steps * epochs, frappe.EVERY)
            assert frappe.ramped(frappe.Hparams(sparsity=0.9, ramp=ramp), jnp.array(refreshed[-1])) == jnp.float32(0.9)


def test_shrunk_is_the_same_function_with_fewer_units(params, rows):
    masks = {name: jnp.arange(width) % 4 == 1 for name, width in zip(frappe.LAYERS, WIDTHS, strict=False)}
    small = prune.shrink(params, masks, frappe.COUPLINGS)
    zeroed = prune.mask_coupled(params, masks, frappe.COUPLINGS)
    assert [small["net"][layer]["bias"].size for layer in frappe.LAYERS] == [6, 4, 2, 1]
    logits = clicks.predict(frappe.model_of(small), small, jnp.asarray(rows.fields))
    np.testing.assert_allclose(
        logits, clicks.predict(frappe.model_of(zeroed), zeroed, jnp.asarray(rows.fields)), rtol=1e-5, atol=1e-6
    )
    assert not np.allclose(logits, clicks.predict(frappe.model_of(params), params, jnp.asarray(rows.fields)))


def test_a_quarter_of_the_perceptron_is_kept():
    def entries(hidden):
        params = jax.eval_shape(models.dnn(frappe.FIELDS, hidden=hidden).init, jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(params["net"]))

    whole, kept = entries((400, 400, 400)), entries((frappe.UNITS_KEPT,) * 3)
    assert 4 * kept <= whole < 4 * entries((frappe.UNITS_KEPT + 1,) * 3)


def test_blocks_judge_every_row_once(params, rows):
    fields = jnp.asarray(rows.fields)
    expected = models.dnn(FIELDS, hidden=WIDTHS).logit(params, {"fields": fields})[:, 0]
    logits = clicks.predict(frappe.model_of(params), params, fields)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    won = [(a > b) + 0.5 * (a == b) for a in logits[rows.label == 1].tolist() for b in logits[rows.label == 0].tolist()]
    np.testing.assert_allclose(frappe.auc(params, data.Rows(fields, rows.label)), np.mean(won), rtol=1e-6)


def test_the_learning_rate_falls_after_each_validation_that_is_not_the_best():
    score = np.array([[0.5, 0.6], [0.6, 0.5], [0.55, 0.4], [0.7, 0.65]]).reshape(4, 2, 1)
    hparams = frappe.Hparams(learning_rate=jnp.full((2, 1), 1e-3))
    ran = np.ones((4, 1), bool)
    pasts = [grid.History(np.arange(n), score[:n], score[:n], score[:n], ran[:n]) for n in range(5)]
    rates = [np.asarray(clicks.falling(hparams, past).learning_rate) for past in pasts]
    expected = [[1e-3, 1e-3], [1e-3, 1e-3], [1e-3, 1e-4], [1e-4, 1e-5], [1e-4, 1e-5]]
    np.testing.assert_allclose(np.stack(rates)[..., 0], expected, rtol=1e-5)


def test_the_penalty_is_half_of_the_sum_of_squares_of_the_whole_table(params, rows):
    batch = {"fields": jnp.asarray(rows.fields[:4]), "label": jnp.asarray(rows.label[:4])}
    plain, penalized = (
        frappe.loss(params, batch, frappe.Hparams(l2=l2, dropout=0.0), jax.random.key(0)) for l2 in (0.0, 0.5)
    )
    squares = np.square(np.asarray(params["tables"]["feature"], np.float64)).sum()
    np.testing.assert_allclose(penalized - plain, 0.25 * squares, rtol=1e-4)
    logits = np.asarray(models.dnn(FIELDS, hidden=WIDTHS).logit(params, batch), np.float64)[:, 0]
    signs = 2 * np.asarray(batch["label"], np.float64) - 1
    np.testing.assert_allclose(plain, np.log1p(np.exp(-signs * logits)).mean(), rtol=1e-5)


def test_differences_are_seed_by_seed():
    base = frappe.Measured([0.5, 0.7], [0.0, 0.0], [10.0, 10.0], [1.0, 1.0])
    form = frappe.Measured([0.4, 0.8], [0.0, 0.0], [4.0, 6.0], [1.0, 1.0])
    found = frappe.entry(form, base, 0.001)
    np.testing.assert_allclose(found["difference"]["by_seed"], [-0.1, 0.1])
    np.testing.assert_allclose([found["difference"]["sd"], found["bytes"]["mean"]], [np.sqrt(0.02), 5.0])
    assert found["within"]
    assert not frappe.entry(form._replace(test=[0.4, 0.79]), base, 0.001)["within"]
    assert "within" not in frappe.entry(form, base, None)
