"""The Frappe experiment on a net of a few units: what it trains is what it stores, reads back and evaluates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import frappe
from recjax import data, embed, families, models, prune
from recjax.tasks import ctr

FIELDS = models.Fields(features=40, fields=10, dim=10, scale=0.5)
WIDTHS = (24, 16, 8)


def family(features, hidden):
    part = data.Examples(np.zeros((1, 10), np.int32), np.zeros(1, np.float32))
    return families.dnn(data.CTRDataset(part, part, part, features), hidden=hidden)


@pytest.fixture(scope="module")
def params():
    return jax.jit(models.dnn(FIELDS, hidden=WIDTHS).init)(jax.random.key(0))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return data.Examples(rng.integers(0, 40, (37, 10)).astype(np.int32), (rng.random(37) < 0.4).astype(np.float32))


def arrays(tree):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize("technique", [form for form, _ in (frappe.POST_TRAINING | frappe.FINE_TUNED).values()])
def test_what_is_trained_is_what_is_read_back(params, tmp_path, technique):
    hparams = technique._replace(ramp=0.0)
    transform = frappe.SMALL
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
            assert frappe.ramped(frappe.Form(sparsity=0.9, ramp=ramp), jnp.array(refreshed[-1])) == jnp.float32(0.9)


def test_shrunk_is_the_same_function_with_fewer_units(params, rows):
    masks = {name: jnp.arange(width) % 4 == 1 for name, width in zip(frappe.LAYERS, WIDTHS, strict=False)}
    small = prune.shrink(params, masks, frappe.COUPLINGS)
    zeroed = prune.mask_coupled(params, masks, frappe.COUPLINGS)
    assert [small["net"][layer]["bias"].size for layer in frappe.LAYERS] == [6, 4, 2, 1]
    batch = {"fields": jnp.asarray(rows.fields)}
    logits = family(40, (6, 4, 2)).score(small, batch)
    np.testing.assert_allclose(logits, family(40, WIDTHS).score(zeroed, batch), rtol=1e-5, atol=1e-6)
    assert not np.allclose(logits, family(40, WIDTHS).score(params, batch))


def test_a_quarter_of_the_perceptron_is_kept():
    def entries(hidden):
        params = jax.eval_shape(
            models.dnn(models.Fields(features=5382, fields=10), hidden=hidden).init, jax.random.key(0)
        )
        return sum(leaf.size for leaf in jax.tree.leaves(params["net"]))

    whole, kept = entries((400, 400, 400)), entries((frappe.UNITS_KEPT,) * 3)
    assert 4 * kept <= whole < 4 * entries((frappe.UNITS_KEPT + 1,) * 3)


def test_blocks_score_every_row_once(params, rows):
    model, fields = family(40, WIDTHS), jnp.asarray(rows.fields)
    expected = models.dnn(FIELDS, hidden=WIDTHS).logit(params, {"fields": fields})[:, 0]
    logits = ctr.logits(model.score, params, data.Examples(fields, jnp.asarray(rows.label)), block=16)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    won = [(a > b) + 0.5 * (a == b) for a in logits[rows.label == 1].tolist() for b in logits[rows.label == 0].tolist()]
    np.testing.assert_allclose(ctr.evaluate(model, params, rows)["auc"], np.mean(won), rtol=1e-6)
    np.testing.assert_allclose(ctr.Auc(model.score, 16)(params, rows), np.mean(won), rtol=1e-6)


def test_differences_are_seed_by_seed():
    base = frappe.Measured([0.5, 0.7], [0.0, 0.0], [10.0, 10.0], [1.0, 1.0])
    form = frappe.Measured([0.4, 0.8], [0.0, 0.0], [4.0, 6.0], [1.0, 1.0])
    found = frappe.entry(form, base, 0.001)
    np.testing.assert_allclose(found["difference"]["by_seed"], [-0.1, 0.1])
    np.testing.assert_allclose([found["difference"]["sd"], found["bytes"]["mean"]], [np.sqrt(0.02), 5.0])
    assert found["within"]
    assert not frappe.entry(form._replace(test=[0.4, 0.79]), base, 0.001)["within"]
    assert "within" not in frappe.entry(form, base, None)
