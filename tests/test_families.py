"""One battery over every family: it learns, is distilled, is served as it scores, and candidates are scored alike.

Compiling is what this costs, so a family trains once: a grid of two settings, by the labels alone (alpha 0) and by a
stored teacher alone (alpha 1).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_cases import CTR, LOG, RETRIEVAL

from recjax import artifact, data, evaluate, families, grid
from recjax.errors import InputError
from recjax.study import Study, Training
from recjax.tasks import ctr, retrieval
from recjax.tasks.distillation import soft_targets
from recjax.teacher import Knowledge, knowledge

BATTERY = RETRIEVAL | CTR
RIGHT = np.arange(LOG.items) % 2 * 2 - 1  # of the taste for odd items


@functools.cache
def model_of(name):
    return BATTERY[name].family(BATTERY[name].dataset)


def by_taste(batch):
    """A teacher that knows the structure, by the history alone."""
    odd = np.where(batch["history"] < 0, 0, batch["history"] % 2 * 2 - 1).sum(axis=1, keepdims=True)
    return 3.0 * np.sign(odd) * RIGHT


def trained(name):
    """The parameters of both settings, or those of a closed form."""
    case, model = BATTERY[name], model_of(name)
    if model.objective is None:
        return [model.init(jax.random.key(0))]
    if name in CTR:
        method, validate = ctr.soft_targets(), ctr.validation(model, case.dataset)
        outputs = Knowledge(jnp.asarray(6 * case.dataset.train.label[:, None] - 3), None)
    else:
        method = soft_targets(LOG, model)
        validate = evaluate.validation(model.score, LOG, length=model.length, k=1)
        outputs = knowledge(by_taste, LOG, model.queries)
    study = Study(case.dataset, model, method, validate=validate, taught=16)
    training = Training(grid.Schedule(epochs=160, batch_size=16, chunk_epochs=160))
    fixed = {"learning_rate": 0.05, **case.fixed}
    result = study.run(grid.product(alpha=[0.0, 1.0]), outputs, fixed=fixed, training=training)
    return [result.params(0, setting) for setting in range(2)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * case.slow) for name, case in BATTERY.items()]
)
def test_learns_from_labels_alone_and_from_a_teacher_alone(name):
    case, model = BATTERY[name], model_of(name)
    for params in trained(name):
        if name in CTR:
            found = ctr.evaluate(model, params, case.dataset.test)["auc"]
        else:
            found = float(evaluate.rank(model.scorer(params), LOG, LOG.test, k=1).hits.mean())
        assert found >= case.least


@pytest.mark.parametrize("name", RETRIEVAL)
def test_candidates_and_what_is_served_score_as_the_model(name):
    model, key = model_of(name), jax.random.key(0, impl="rbg")
    params = model.init(key) if model.objective is None else jax.jit(model.init)(key)
    batch = data.history_batch(LOG.log, LOG.last, model.length)
    candidates = jnp.asarray(np.random.default_rng(0).integers(0, LOG.items, (LOG.users, 5)))
    scores, some = jax.jit(lambda params: (model.score(params, batch), model.score(params, batch, candidates)))(params)
    assert scores.shape == (LOG.users, LOG.items)
    np.testing.assert_allclose(some, np.take_along_axis(scores, candidates, axis=1), rtol=1e-4, atol=1e-5)
    if model.served is not None and model.served_by is not None:
        model, params = model.served_by, jax.jit(model.served)(params)
        np.testing.assert_allclose(model.score(params, batch), scores, rtol=1e-4, atol=1e-5)
    if model.kind is not None:
        tables = {table: np.asarray(part) for table, part in model.tables(params).items()}
        parts = {"kind": model.kind, "net": model.net, "history_exponent": model.history_exponent}
        ids = {"user_ids": LOG.user_ids, "item_ids": LOG.item_ids, "titles": LOG.titles}
        served = artifact.build(tables, seen=LOG.log, known_users=np.arange(LOG.users), **parts, **ids)
        history = np.asarray(batch["history"])
        found = served.scores(np.arange(LOG.users), history)
        new = ~(history[:, :, None] == np.arange(LOG.items)).any(axis=1)  # those of the history are never recommended
        np.testing.assert_allclose(found[new], np.asarray(scores)[new], rtol=1e-4, atol=1e-5)


def test_every_family_of_a_task_has_a_case():
    for families_of, cases in ((retrieval.FAMILIES, RETRIEVAL), (ctr.FAMILIES, CTR)):
        assert {name.replace("-", "_") for name in families_of} == set(cases)


@pytest.mark.parametrize("family", [families.sasrec, families.bsarec, families.gru4rec, families.hstu])
def test_ordered_histories_need_times(family):
    with pytest.raises(InputError, match="timestamps"):
        family(dataclasses.replace(LOG, timed=False))
