"""Every method on a step by hand: what it teaches, to whom, and some composed losses against their twins."""

import doctest
import functools
import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from family_cases import LOG

from recjax import data, families, grid
from recjax.errors import InputError
from recjax.study import Study, Taught, Training, initial
from recjax.tasks import _scores, compression, distillation
from recjax.tasks.distillation import METHODS
from recjax.teacher import knowledge

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "methods.md"
TEACHER = families.mf(LOG, 6)
TAUGHT_BY = TEACHER.init(jax.random.key(5))
STUDENTS = {"mf": functools.partial(families.mf, dim=4), "elsa": functools.partial(families.elsa, dim=4)}
UNCOVERED = np.arange(LOG.users) < 5
ON_LISTS = ("rd", "cd", "rrd", "ir-rrd", "dcd", "unkd", "cl-drd")
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
        items[:, 1:][:, -1:] = -1  # padded, as the list of a user who has most items is
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


def place(student, params):
    """The mean place in a student's list of the teacher's best item, of those that a user doesn't have."""
    models = (STUDENTS[student](LOG), {**params, "fixed": {}}), (TEACHER, TAUGHT_BY)
    ours, theirs = (np.array(of.score(own, data.history_batch(LOG.log, LOG.last, of.length))) for of, own in models)
    for user in range(LOG.users):
        ours[user, history(user)] = theirs[user, history(user)] = -np.inf
    best = theirs.argmax(axis=1)[:, None]
    return (ours > np.take_along_axis(ours, best, axis=1)).sum(axis=1)[~UNCOVERED].mean()


def history(user):
    """The items that a user has in training."""
    return LOG.log.items[LOG.log.offsets[user] : LOG.train_end[user]].tolist()


@pytest.mark.parametrize(("name", "student"), CASES)
def test_a_student_moves_to_its_teacher(name, student):
    _, known, params, step = case(name, student)
    taught, alone = (trained_by(name, student, alpha) for alpha in (1.0, 0.0))
    if name in ON_VECTORS:  # the distance falls, by the student's parameters and the projection's
        found, fresh, other = (float(step(p, known, 1.0, jax.random.key(99))[0]) for p in (taught, params, alone))
        assert found < 0.8 * min(fresh, other)
    else:
        assert place(student, taught) < min(place(student, params), place(student, alone)) - 0.5


@pytest.mark.parametrize(("name", "student"), CASES)
def test_users_without_knowledge_learn_from_their_labels_alone(name, student):
    _, known, params, step = case(name, student)
    (_, taught, batch), (_, alone, _) = (step(params, known, alpha, jax.random.key(3)) for alpha in (0.8, 0.0))
    assert (np.asarray(batch["covered"]) == ~UNCOVERED).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(taught))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(taught["auxiliary"]))
    assert not any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(alone["auxiliary"]))
    if student == "mf":
        mine, theirs = (np.asarray(slope["tables"]["user"]) for slope in (taught, alone))
        np.testing.assert_allclose(mine[UNCOVERED], theirs[UNCOVERED], rtol=1e-6, atol=1e-9)
        assert (np.abs(mine - theirs)[~UNCOVERED].max(axis=1) > 1e-5).all()


@pytest.mark.parametrize("name", ON_LISTS)
def test_padding_teaches_nothing(name):
    """Whatever score is beside it."""
    _, known, params, step = case(name, "mf")
    other = known._replace(scores=np.where(known.items < 0, np.float32(77), known.scores))
    one, two = (step(params, knows, 0.8, jax.random.key(3))[:2] for knows in (known, other))
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# -- composed losses ------------------------------------------------------------------------------------------------


def composed(name, whole=True):
    """The loss of a step of distillation alone, the batch, the knowledge, and the student's scores by hand."""
    _, known, params, step = case(name, "mf", whole)
    found, _, taught = step(params, known, 1.0, jax.random.key(3))
    tables = {key: np.asarray(table, np.float64) for key, table in params["tables"].items()}
    scores = tables["user"] @ tables["item"].T + tables["item_bias"].T
    alone = references.softmax_cross_entropy(scores, np.asarray(taught["batch"]["labels"]))
    taught = {key: np.asarray(value) for key, value in taught.items() if key not in ("batch", "key", "teacher")} | {
        "teacher": taught.get("teacher")
    }
    return float(found), taught, known, scores, lambda each: np.where(UNCOVERED, alone, each).mean()


def test_cd_by_hand():
    found, taught, known, scores, expected = composed("cd")
    each = np.zeros(LOG.users)
    for user in np.flatnonzero(~UNCOVERED):
        listed = dict(zip(known.items[user].tolist(), known.scores[user].tolist(), strict=True))
        drawn = [item for item in taught["candidates"][user].tolist() if item >= 0]
        assert drawn == [item for item in known.items[user].tolist() if item >= 0]  # as many as the list has
        teacher = np.array([listed[item] for item in drawn])
        each[user] = references.collaborative_distillation(scores[user, drawn], teacher).mean()
    assert found == pytest.approx(expected(each), rel=1e-5)


def test_ir_rrd_by_hand():
    found, taught, known, scores, expected = composed("ir-rrd")
    interesting, each = known.items.shape[1], np.zeros(LOG.users)
    covered, shared = np.flatnonzero(~UNCOVERED), taught["candidates"][:, -LOG.users :]
    lists = {user: [item for item in known.items[user].tolist() if item >= 0] for user in covered}
    for user in covered:
        others = [item for item in taught["candidates"][user, interesting : -LOG.users].tolist() if item >= 0]
        assert set(others) == set(range(LOG.items)) - set(lists[user]) - set(history(user))  # fewer than are drawn
        of_user = references.relaxed_ranking(scores[user, lists[user]], scores[user, others]) / len(lists[user])
        item = shared[0, user]
        assert (shared[:, user] == item).all()
        value = {one: known.scores[one, lists[one].index(item)] for one in covered if item in lists[one]}
        order = sorted(value, key=lambda one: -value[one])
        rest = [one for one in covered if one not in value and item not in history(one)]
        of_item = references.relaxed_ranking(scores[order, item], scores[rest, item]) / max(1, len(order))
        each[user] = of_user + 0.5 * of_item
    assert found == pytest.approx(expected(each), rel=1e-5)


def test_dkd_of_a_sample_by_hand():
    found, taught, known, scores, expected = composed("dkd", whole=False)
    users = np.arange(LOG.users)[:, None]
    target, student = taught["candidates"][:, 0], scores[users, np.maximum(taught["candidates"], 0)]
    teacher, covered = np.asarray(taught["teacher"]), np.flatnonzero(~UNCOVERED)
    assert not taught["target"].any()
    assert len(set(target[covered].tolist())) > 3
    for user in covered:
        kept = known.items[user] >= 0
        listed = dict(zip(known.items[user][kept].tolist(), known.scores[user][kept].tolist(), strict=True))
        assert target[user] in history(user)
        assert teacher[user, 0] == listed.get(target[user], min(listed.values()))
        assert not (taught["where"][user, 1:] & (taught["candidates"][user, 1:] == target[user])).any()
    weights = {"alpha": 1.0, "beta": 0.5, "temperature": 1.0}
    each = references.decoupled_kl(student, teacher, taught["target"], where=taught["where"], **weights)
    assert found == pytest.approx(expected(each), rel=1e-5)


def test_freqd_by_hand():
    found, taught, known, _, expected = composed("freqd")
    _, _, params, _ = case("freqd", "mf")
    tables = {key: np.asarray(table, np.float64) for key, table in params["tables"].items()}
    seen = np.zeros((LOG.users, LOG.items))
    for user in range(LOG.users):
        seen[user, history(user)] = 1
    each, items = np.zeros(LOG.users), taught["items"].reshape(LOG.users, -1)
    ones = np.ones((LOG.users, 1))
    ours = {"query": np.hstack([tables["user"], ones]), "item": np.hstack([tables["item"], tables["item_bias"]])}
    theirs = {"query": known.query_vectors, "item": known.item_vectors}
    centers = {"query": np.arange(LOG.users), "item": items[:, 0]}
    for number, (side, rows) in enumerate({"query": seen, "item": seen.T}.items()):
        shared = rows @ rows.T
        np.fill_diagonal(shared, 0)
        near = np.argsort(-shared, axis=1, kind="stable")[:, :5]
        near = np.where(np.take_along_axis(shared, near, axis=1) > 0, near, np.arange(len(near))[:, None])
        source = near[centers[side]]
        if side == "item":
            np.testing.assert_array_equal(items[:, 1:], source)
        else:
            assert not taught["kept"][number][UNCOVERED[source]].any()
        weight = 2 * taught["kept"][number] / 5
        student = ours[side] @ np.asarray(params["auxiliary"][side]["kernel"], np.float64)
        for query, center in enumerate(centers[side]):
            edges = source[query], np.full(5, center), weight[query]
            each[query] += references.graph_filtered_hint(student, theirs[side], *edges, alpha=0.2)[center] / 2
    assert found == pytest.approx(expected(each), rel=1e-4)


# -- what a teacher must have ---------------------------------------------------------------------------------------


def test_a_teacher_without_hidden_activations_is_refused():
    teacher, student = families.ease(LOG), families.mf(LOG, 4)
    with pytest.raises(InputError, match=r"^option --distill: expected a teacher with hidden activations for hint,"):
        distillation.teach(teacher, {}, LOG, student, "hint")
    with pytest.raises(ValueError, match="expected a teacher with hidden activations, got one without"):
        distillation.outputs(teacher, {}, LOG, student, METHODS["hint"](LOG, student))
    with pytest.raises(ValueError, match="expected a student with hidden activations, got one without"):
        METHODS["hint"](LOG, teacher)
    lists, whole = (distillation.teach(TEACHER, TAUGHT_BY, LOG, student, name) for name in ("rrd", "soft-targets"))
    for name, known, expected in (("hint", lists, "hidden activations"), ("rrd", whole, "lists of the teacher's best")):
        method = METHODS[name](LOG, student)
        with pytest.raises(ValueError, match=f"expected .*{expected}.*, got"):
            method.gather(Taught(LOG.log, LOG.last, known), jnp.arange(2), jax.random.key(0))


def test_hidden_activations_are_vectors_of_mean_length_one_whose_products_order_as_the_scores():
    known = distillation.teach(TEACHER, TAUGHT_BY, LOG, families.mf(LOG, 4), "hint")
    for rows, count in ((known.query_vectors, LOG.users), (known.item_vectors, LOG.items)):
        assert rows.shape == (count, 7)
        assert rows.dtype == np.float32
        assert np.square(rows).sum(axis=1).mean() == pytest.approx(1, rel=1e-6)
    scores = np.asarray(TEACHER.score(TAUGHT_BY, data.history_batch(LOG.log, LOG.last, 0)))
    products = known.query_vectors @ known.item_vectors.T
    np.testing.assert_allclose(products / products.std(), scores / scores.std(), rtol=1e-4, atol=1e-5)


def test_equal_scores_are_no_knowledge():
    """Whatever they are: their mean is not exactly one of them."""
    values = np.where(np.arange(LOG.users) < 3, 0.1, 0)[:, None] * np.ones(LOG.items) + 7
    values[4:] += np.arange(LOG.items)
    known = knowledge(lambda batch: values[batch["user"]], LOG, LOG.last)
    np.testing.assert_array_equal(known.covered(np.arange(LOG.users)), np.arange(LOG.users) >= 4)


def test_auxiliary_parameters_train_and_are_dropped_when_packed():
    student = families.mf(LOG, 4)
    known = distillation.teach(TEACHER, TAUGHT_BY, LOG, student, "hint")
    nothing = (lambda params, held_out: jnp.zeros(()), jnp.zeros(()))
    study = Study(LOG, student, METHODS["hint"](LOG, student), validate=nothing)
    settings, training = grid.product(alpha=[0.0, 0.9], seed=[1, 2]), Training(grid.Schedule(epochs=2, batch_size=9))
    result = study.run(settings, known, fixed={"weight_decay": 0.0}, training=training)
    (alone, taught), (other, _) = ([result.params(seed, one)["auxiliary"] for one in range(2)] for seed in range(2))
    assert alone["query"]["kernel"].shape == (5, 7)
    assert np.abs(taught["item"]["kernel"] - alone["item"]["kernel"]).max() > 1e-3
    assert np.abs(other["item"]["kernel"] - alone["item"]["kernel"]).max() > 1e-3
    packed = compression.packed(result.params(0, 1), 4)
    assert packed["auxiliary"] == {}
    assert set(packed["tables"]) == {"user", "item", "item_bias"}


def test_the_page_runs():
    with jax.numpy_rank_promotion("warn"):  # a reader has no such setting
        failed, run = doctest.testfile(str(PAGE), module_relative=False)
    assert run > 10
    assert not failed


def test_the_page_has_every_method_with_its_defaults():
    page = PAGE.read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == list(METHODS)
    student = families.mf(LOG, 4)
    for name, needs, hparams, *_ in rows:
        method = METHODS[name.strip("`")](LOG, student)
        expected = ", ".join(f"`{key}` {value:g}" for key, value in method.hparams._asdict().items())
        assert hparams == (expected or "none")
        assert ("hidden activations" in needs) == method.needs.vectors
        assert ("lists" in needs) == method.needs.masked
