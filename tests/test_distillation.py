"""Every method on a step by hand: what it teaches, to whom, and some composed losses against their twins."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from family_cases import LOG

from recjax import families
from recjax.errors import InputError
from recjax.study import Study, Taught, initial
from recjax.tasks import _lists, _scores, compression, distillation
from recjax.tasks.distillation import METHODS

TEACHER = families.mf(LOG, 6)
TAUGHT_BY = TEACHER.init(jax.random.key(5))
STUDENTS = {"mf": functools.partial(families.mf, dim=4), "elsa": functools.partial(families.elsa, dim=4)}
UNCOVERED = np.arange(LOG.users) < 5
ON_VECTORS = ("hint", "info-nce", "de", "ftd", "htd", "freqd")
# Every method with a student that has vectors of users, and one of each kind with a student that has none.
CASES = [(name, "mf") for name in METHODS] + [(name, "elsa") for name in ("soft-targets", "ir-rrd", "hint", "freqd")]


@functools.cache
def case(name, student, whole=True):
    """A study, what a teacher knows, but of five users, fresh parameters, and a compiled step."""
    with mock.patch.object(_scores, "fits_whole", return_value=whole):
        model = STUDENTS[student](LOG)
        method = METHODS[name](LOG, model)
        known = distillation.teach(TEACHER, TAUGHT_BY, LOG, model, name)
        study = Study(LOG, model, method)
    scores, items = np.array(known.scores), known.items
    scores[UNCOVERED] = 0
    if items is not None:
        items = np.array(items)
        items[:, -1] = -1  # padded, as the list of a user who has most items is
        items[UNCOVERED & (np.arange(LOG.users) % 2 == 0)] = -1
        scores[items < 0] = 0
    known = known._replace(scores=scores, items=items)
    params = jax.tree.map(lambda leaf: leaf[0], initial(model, np.arange(1)))
    params["tables"]["item"] = params["tables"]["item"] * 0.3
    params["auxiliary"] = method.init(jax.random.key(1), known)

    @jax.jit
    def step(trained, known, alpha, key):
        """The loss, its gradient and the batch."""
        arrays = (study.objective.data, Taught(LOG.log, model.queries, known))
        hparams = study.hparams._replace(alpha=alpha)
        batch = study.recipe.gather(arrays, jnp.arange(LOG.users), key)
        loss = lambda trained: study.recipe.loss({**trained, "fixed": params["fixed"]}, batch, hparams, key)  # noqa: E731
        return *jax.value_and_grad(loss)(trained), batch["taught"]

    trained = {part: params[part] for part in ("tables", "net", "auxiliary")}
    return study, known, trained, step


def trained_by(name, student, alpha, *, steps=60):
    """The parameters after some steps of gradient descent."""
    _, known, params, step = case(name, student)
    for number in range(steps):
        _, slope, _ = step(params, known, alpha, jax.random.key(number))
        norm = np.sqrt(sum(float(jnp.sum(jnp.square(leaf))) for leaf in jax.tree.leaves(slope)))
        params = jax.tree.map(lambda leaf, by, norm=norm: leaf - 0.3 * by / norm, params, slope)
    return params


def place(name, student, params):
    """The mean place in the student's list of the teacher's best item that a user doesn't have."""
    study, *_ = case(name, student)
    scores = np.array(study.model.score({**params, "fixed": {}}, batch_of(study.model)))
    known = np.array(TEACHER.score(TAUGHT_BY, batch_of(TEACHER)))
    for user in np.flatnonzero(~UNCOVERED):
        mine = LOG.log.items[LOG.log.offsets[user] : LOG.train_end[user]]
        known[user, mine] = scores[user, mine] = -np.inf
    best = known.argmax(axis=1)
    rank = (scores > np.take_along_axis(scores, best[:, None], axis=1)).sum(axis=1)
    return rank[~UNCOVERED].mean()


def batch_of(model):
    from recjax.data import history_batch

    return history_batch(LOG.log, LOG.last, model.length)


@pytest.mark.parametrize(("name", "student"), CASES)
def test_report(name, student):
    import time
    t = time.time()
    _, known, params, step = case(name, student)
    taught, alone = (trained_by(name, student, alpha) for alpha in (1.0, 0.0))
    a = [place(name, student, p) for p in (params, taught, alone)]
    b = [float(step(p, known, 1.0, jax.random.key(99))[0]) for p in (params, taught, alone)]
    print("\nREPORT", name, student, np.round(a, 2), np.round(b, 3), round(time.time() - t, 1))
