"""What a task measures, stores and teaches, against lists and sums in Python."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from family_cases import LOG, RETRIEVAL

from recjax import data, families, prune, quantize
from recjax.data import Examples, Queries
from recjax.tasks import _scores, compression, ctr, distillation, retrieval
from recjax.teacher import knowledge

RNG = np.random.default_rng(0)


# -- retrieval ------------------------------------------------------------------------------------------------------


def test_quality_is_that_of_lists_by_hand():
    rng, users, items, k = np.random.default_rng(1), 12, 15, 4
    parts = [np.stack([rng.integers(0, users, n), np.minimum(rng.geometric(0.2, n) - 1, 14)], 1) for n in (70, 5, 30)]
    ids = np.arange(users).astype(str), np.arange(items).astype(str)
    logs = [data.Interactions(*np.int32(part).T, *ids) for part in parts]
    found = data.dataset(data.Split(*logs, {}))
    assert found.users == users  # so positions are those of the rows
    scores = rng.normal(size=(users, items))
    quality = retrieval.quality(lambda batch: scores[batch["user"]], found, found.test, k=k)

    counts = np.bincount(parts[0][:, 1], minlength=items)
    head, total = set(), 0
    for item in sorted(range(items), key=lambda item: (-counts[item], item)):  # until half of the events are covered
        if total >= counts.sum() / 2:
            break
        head.add(item)
        total += counts[item]
    for row, user in enumerate(found.test.user):
        known = {i for part in parts[:2] for u, i in part if u == user}
        wanted = {int(i) for u, i in parts[2] if u == user} - known
        best = sorted((i for i in range(items) if i not in known), key=lambda i: -scores[user, i])[:k]
        hits = np.array([[item in wanted for item in best] + [False] * (k - len(best))])
        np.testing.assert_allclose(quality.ndcg[row], references.ndcg(hits, np.array([len(wanted)]))[0], rtol=1e-6)
        expected = len(wanted & set(best)) / len(wanted) if wanted else 0
        np.testing.assert_allclose(quality.recall[row], expected, rtol=1e-6)
        tail = wanted - head
        expected = len(tail & set(best)) / len(tail) if tail else np.nan
        np.testing.assert_allclose(quality.tail_recall[row], expected, rtol=1e-6)
    assert np.isnan(quality.tail_recall).any()
    means = quality.means()
    assert means["ndcg"] == pytest.approx(quality.ndcg.mean())
    assert means["tail_recall"] == pytest.approx(np.nanmean(quality.tail_recall))
    nothing = quality._replace(tail_recall=np.full_like(quality.ndcg, np.nan))
    assert nothing.means()["tail_recall"] == 0


def test_lists_are_kept_where_the_catalog_does_not_fit(monkeypatch):
    scores, student = RNG.normal(size=(LOG.users, LOG.items)), families.mf(LOG, 2)
    teacher = families.Model(lambda key: {}, lambda params, batch: jnp.asarray(scores)[batch["user"]], 0, LOG.last)

    def lists():
        return distillation.teach(teacher, {}, LOG, student, "soft-targets").items

    assert lists() is None
    monkeypatch.setattr(_scores, "fits_whole", lambda *_: False)
    monkeypatch.setattr(_scores, "LIST_LENGTH", 5)
    np.testing.assert_array_equal(lists(), np.argsort(-scores, axis=1)[:, :5])
    monkeypatch.setattr(_scores, "LIST_LENGTH", 100)
    assert lists().shape == (LOG.users, LOG.items)


@pytest.mark.parametrize("name", RETRIEVAL)
def test_no_teacher_sees_an_event_at_or_after_the_end_of_a_query(name):
    """What comes later in the log may be anything, whatever the family; parameters are fitted before."""
    model = RETRIEVAL[name].family(LOG)
    key = jax.random.key(0, impl="rbg")
    params = model.init(key) if model.objective is None else jax.jit(model.init)(key)
    middle = (LOG.log.offsets[: LOG.users] + 2).astype(np.int32)
    queries = Queries(LOG.last.user, middle)
    later = np.arange(len(LOG.log.items)) - np.repeat(LOG.log.offsets[:-1], np.diff(LOG.log.offsets)) >= 2
    items = np.where(later, (LOG.log.items + 5) % LOG.items, LOG.log.items).astype(np.int32)
    changed = dataclasses.replace(LOG, log=LOG.log._replace(items=items))
    expected, found = (knowledge(model.scorer(params), log, queries, length=4, masked=True) for log in (LOG, changed))
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_array_equal(found.scores, expected.scores)
    history = data.history_batch(LOG.log, queries, 2)["history"]
    assert not (np.asarray(found.items)[:, :, None] == np.asarray(history)[:, None]).any()
    np.testing.assert_array_equal(found.items >= 0, True)


# -- compression ----------------------------------------------------------------------------------------------------


def params_of(sparsity):
    rng = np.random.default_rng(2)
    params = {
        "tables": {"item": rng.normal(size=(40, 8)), "item_bias": rng.normal(size=(40, 1))},
        "net": {"layer": {"kernel": rng.normal(size=(8, 6)), "bias": rng.normal(size=6)}, "steps": np.arange(3)},
    }
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.int32 if x.dtype == np.int64 else jnp.float32), params)
    for tree, name in ((params["tables"], "item"), (params["net"]["layer"], "kernel")):
        tree[name] = jnp.asarray(np.where(references.mask_smallest(np.asarray(tree[name]), sparsity), tree[name], 0))
    return params


def test_matrices_are_those_of_more_than_one_column():
    assert compression.matrices(params_of(0.0)) == (["item"], ["net/layer/kernel"])


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
@pytest.mark.parametrize("bits", [None, 4])
def test_what_is_packed_is_read_back(bits, sparsity):
    params = params_of(sparsity)
    packed = compression.packed(params, bits)
    found, table, kernel = compression.dense(packed), params["tables"]["item"], params["net"]["layer"]["kernel"]
    if bits is None:
        expected = (table, kernel, params["tables"]["item_bias"], params["net"]["layer"]["bias"])
    else:
        half = (np.float32(np.float16(x)) for x in (params["tables"]["item_bias"], params["net"]["layer"]["bias"]))
        quantized = (references.fake_quant(np.asarray(x), bits=bits, axis=a) for x, a in ((table, 0), (kernel, -1)))
        expected = (*quantized, *half)
    layer = found["net"]["layer"]
    got = (found["tables"]["item"], layer["kernel"], found["tables"]["item_bias"], layer["bias"])
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert found["net"]["steps"].tolist() == [0, 1, 2]
    assert isinstance(packed["tables"]["item"], prune.SparseTensor) == (sparsity > 0.5)
    assert isinstance(packed["tables"]["item"], quantize.QTensor) == (sparsity < 0.5 and bits is not None)
    assert compression.non_zero(params) == sum((np.asarray(leaf) != 0).sum() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_a_predicted_form_has_the_size_of_the_packed_one(sparsity):
    params = params_of(sparsity)
    packed = compression.packed(params, 4)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    predicted = compression.predicted(shapes, bits=4, sparsity=sparsity)
    sizes = [sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree)) for tree in (predicted, packed)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


# -- CTR ------------------------------------------------------------------------------------------------------------

ROWS = Examples(RNG.integers(0, 9, (23, 3)).astype(np.int32), RNG.integers(0, 2, 23).astype(np.float32))
WEIGHTS = RNG.normal(size=9).astype(np.float32)


def logit(params, batch):
    return params[batch["fields"]].sum(axis=1, keepdims=True)


@pytest.mark.parametrize("block", [1, 5, 23, 100])
def test_logits_of_rows_whatever_the_block(block):
    found = ctr.logits(logit, WEIGHTS, jax.tree.map(jnp.asarray, ROWS), block=block)
    np.testing.assert_allclose(found, WEIGHTS[ROWS.fields].sum(axis=1), rtol=1e-5, atol=1e-6)


def test_click_metrics_and_knowledge_by_hand():
    model = families.Model(lambda key: WEIGHTS, logit, None, {})
    scores = WEIGHTS[ROWS.fields].astype(float).sum(axis=1)
    pairs = [(a, b) for a in scores[ROWS.label == 1] for b in scores[ROWS.label == 0]]
    auc = np.mean([(a > b) + (a == b) / 2 for a, b in pairs])
    entropy = np.log1p(np.exp(-(2 * ROWS.label - 1) * scores)).mean()
    found = ctr.evaluate(model, WEIGHTS, ROWS)
    assert found["auc"] == pytest.approx(auc, rel=1e-5)
    assert found["logloss"] == pytest.approx(entropy, rel=1e-5)
    assert float(ctr.Auc(logit)(WEIGHTS, ROWS)) == pytest.approx(auc, rel=1e-5)
    knows = ctr.knowledge(model, WEIGHTS, ROWS)
    assert knows.items is None
    np.testing.assert_allclose(knows.scores[:, 0], scores, rtol=1e-5, atol=1e-6)  # a logit is a probability: no scale


def test_soft_targets_of_clicks_are_their_equation():
    method, teacher = ctr.soft_targets(), RNG.normal(size=(23, 1)).astype(np.float32)
    taught = {"batch": {"fields": jnp.asarray(ROWS.fields)}, "teacher": jnp.asarray(teacher)}
    found = method.loss(logit, WEIGHTS, taught, ctr.Temperature(3.0))
    student = WEIGHTS[ROWS.fields].sum(axis=1)
    expected = 9.0 * references.soft_target_bce(student, teacher[:, 0], temperature=3.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
