"""A step of a study by hand, what padding and missing knowledge do to it, and what a trained grid gives back."""

import functools
import logging
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from family_cases import LOG

from recjax import evaluate, families, grid, metrics
from recjax.families import objectives
from recjax.study import NOTHING, Compression, Study, Taught, Training, initial, merged
from recjax.tasks import _scores, compression
from recjax.tasks.distillation import soft_targets
from recjax.teacher import Knowledge, knowledge

ANY = grid.Schedule(epochs=2, batch_size=6, chunk_epochs=1)
RNG = np.random.default_rng(0)
UNCOVERED = np.arange(LOG.users) < 5


def lists() -> Knowledge:
    """Lists of four items: three and a padded one, and nothing but padding for a few users."""
    items = np.argsort(RNG.random((LOG.users, LOG.items)), axis=1)[:, :4].astype(np.int32)
    items[:, 3] = -1
    items[UNCOVERED] = -1
    scores = np.where(items >= 0, -np.sort(RNG.random(items.shape), axis=1) - 1, 0)  # below 0, where padding has 0
    return Knowledge(jnp.asarray(scores, jnp.float32), jnp.asarray(items))


LISTS = lists()
LEARNERS = {
    "by query": lambda dataset: families.mf(dataset, 4),
    "pairs": lambda dataset: families.mf(dataset, 4, learn=functools.partial(objectives.bpr, schedule=ANY)),
}


@functools.cache
def study_of(name, whole):
    """A study with its compiled functions, of a method for the whole catalog or for lists."""
    model = LEARNERS[name](LOG)
    with mock.patch.object(_scores, "fits_whole", return_value=whole):
        study = Study(LOG, model, soft_targets(LOG, model), taught=LOG.users)
    return study, jax.jit(study.recipe.gather), jax.jit(jax.value_and_grad(study.recipe.loss))


def step(name, knows, alpha, *, whole=False):
    """The loss of a step, its gradient, its batch and the parameters."""
    study, gather, loss_of = study_of(name, whole)
    arrays = (study.objective.data, Taught(LOG.log, study.model.queries, knows))
    batch = gather(arrays, jnp.arange(LOG.users), jax.random.key(3))
    params = jax.tree.map(lambda leaf: leaf[0], {**initial(study.model, np.arange(1)), "fixed": {}})
    hparams = study.hparams._replace(alpha=jnp.float32(alpha), temperature=0.7)
    loss, slope = loss_of(params, batch, hparams, jax.random.key(0))
    return float(loss), jax.tree.map(np.asarray, slope["tables"]), batch, params


@pytest.mark.parametrize("name", LEARNERS)
def test_a_query_without_knowledge_learns_from_its_labels_at_full_weight(name):
    found, _, batch, params = step(name, LISTS, 0.8)
    taught = {key: np.asarray(batch["taught"][key]) for key in ("candidates", "teacher", "where", "covered")}
    users = np.asarray(batch["taught"]["batch"]["user"])
    covered = ~UNCOVERED[users]
    np.testing.assert_array_equal(taught["covered"], covered)
    assert 0 < covered.sum() < len(users)
    tables = {key: np.asarray(table, np.float64) for key, table in params["tables"].items()}
    scores = tables["user"][users] @ tables["item"].T + tables["item_bias"].T
    some = np.take_along_axis(scores, np.maximum(taught["candidates"], 0), axis=1)
    distilled = references.soft_target_kl(some, taught["teacher"], temperature=0.7, where=taught["where"])
    assert (distilled[~covered] == 0).all()
    assert (distilled[covered] > 0).all()
    if name == "by query":
        alone = references.softmax_cross_entropy(scores, np.asarray(batch["examples"]["labels"]))
    else:  # examples are not queries: their labels weigh more by the share of queries without knowledge
        alone = step(name, LISTS, 0.0)[0]
    expected = np.where(covered, 0.2 * alone + 0.8 * distilled, alone).mean()
    assert found == pytest.approx(expected, rel=1e-5)


def test_users_without_knowledge_get_the_gradient_of_their_labels():
    slope, alone, other = (step("by query", LISTS, alpha)[1]["user"] for alpha in (0.8, 0.0, 1.0))
    np.testing.assert_allclose(slope[UNCOVERED], alone[UNCOVERED], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(other[UNCOVERED], alone[UNCOVERED], rtol=1e-5, atol=1e-8)
    assert np.abs(slope - alone)[~UNCOVERED].max() > 1e-4


@pytest.mark.parametrize("name", LEARNERS)
def test_padding_is_never_taught(name):
    """Whatever score is beside it."""
    scores = jnp.where(LISTS.items >= 0, LISTS.scores, 77.0)
    one, other = step(name, LISTS, 0.8), step(name, Knowledge(scores, LISTS.items), 0.8)
    assert one[0] == other[0]
    for ours, theirs in zip(jax.tree.leaves(one[1]), jax.tree.leaves(other[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    taught = {key: np.asarray(one[2]["taught"][key]) for key in ("candidates", "teacher", "where")}
    users = np.asarray(one[2]["taught"]["batch"]["user"])
    assert not (taught["where"] & (taught["candidates"] < 0)).any()
    assert (taught["candidates"] < 0).any()
    items, scores = np.asarray(LISTS.items), np.asarray(LISTS.scores)
    for row, user in enumerate(users):
        known = dict(zip(items[user].tolist(), scores[user].tolist(), strict=True))
        history = set(LOG.log.items[LOG.log.offsets[user] : LOG.train_end[user]].tolist())
        for place, item in enumerate(taught["candidates"][row].tolist()):
            if not taught["where"][row, place]:
                continue
            drawn = place >= _scores.LISTED
            assert taught["teacher"][row, place] == (min(scores[user, :3].tolist()) if drawn else known[item])
            assert not (drawn and item in history)


def test_half_precision_of_a_cache_teaches_the_same():
    half = Knowledge(np.asarray(LISTS.scores, np.float16), np.asarray(LISTS.items))
    assert step("by query", half, 0.8)[0] == pytest.approx(step("by query", LISTS, 0.8)[0], rel=1e-3)


def test_a_method_of_lists_refuses_scores_of_the_catalog():
    whole = Knowledge(jnp.zeros((LOG.users, LOG.items)), None)
    with pytest.raises(ValueError, match="expected lists of the teacher's best items, got scores"):
        step("by query", whole, 0.8)


def test_scores_of_the_whole_catalog_by_hand():
    knows = Knowledge(jnp.asarray(RNG.normal(size=(LOG.users, LOG.items)), jnp.float32), None)
    found, _, batch, params = step("by query", knows, 0.8, whole=True)
    users = np.asarray(batch["taught"]["batch"]["user"])
    tables = {key: np.asarray(table, np.float64) for key, table in params["tables"].items()}
    scores = tables["user"][users] @ tables["item"].T + tables["item_bias"].T
    alone = references.softmax_cross_entropy(scores, np.asarray(batch["examples"]["labels"]))
    distilled = references.soft_target_kl(scores, np.asarray(knows.scores)[users], temperature=0.7)
    assert found == pytest.approx((0.2 * alone + 0.8 * distilled).mean(), rel=1e-5)


# -- grids ----------------------------------------------------------------------------------------------------------


class Messages(logging.Handler):
    """Collects what is logged."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


@pytest.fixture(scope="module")
def trained():
    """Two seeds and two settings of a compressed student, by two teachers, and the programs of each run."""
    model = families.mf(LOG, 4)
    small = compression.pruned_and_quantized(model)
    study = Study(LOG, model, soft_targets(LOG, model), small)
    settings = grid.product(grid.zip(bits=[16.0, 3.0], sparsity=[0.0, 0.5]), seed=[4, 7])
    results, compiled = [], []
    for seed in range(2):
        table = np.random.default_rng(seed).normal(size=(LOG.users, LOG.items))
        knows = knowledge(lambda batch, table=table: table[batch["user"]], LOG, model.queries)
        messages = Messages()
        logging.getLogger("jax").addHandler(messages)
        with jax.log_compiles():
            results.append(study.run(settings, knows, fixed={"alpha": 0.9}, training=Training(ANY)))
        logging.getLogger("jax").removeHandler(messages)
        compiled.append(sum(text.startswith("Compiling jit(_run_chunk)") for text in messages.texts))
    return results, compiled


def test_a_second_teacher_compiles_nothing_and_teaches_something_else(trained):
    results, compiled = trained
    assert compiled == [1, 0]
    one, other = (np.asarray(result.params(0, 0)["tables"]["user"]) for result in results)
    assert np.abs(one - other).max() > 1e-3


def test_members_know_their_hyperparameters(trained):
    result = trained[0][0]
    assert result.population.seeds.tolist() == [4, 7]
    first, second = (result.hparams(1, setting) for setting in range(2))
    assert (float(first.bits), float(first.sparsity), float(second.bits), float(second.sparsity)) == (16, 0, 3, 0.5)
    assert float(first.alpha) == pytest.approx(0.9)
    assert float(first.steps) == 2 * (LOG.users // ANY.batch_size)
    assert result.best == result.fitted.valid.mean(axis=0).argmax()


def test_parameters_are_given_back_as_they_are_read(trained):
    result = trained[0][0]
    for seed in range(2):
        plain, small = (result.params(seed, setting)["tables"] for setting in range(2))
        assert {name: table.shape for name, table in plain.items()} == {
            "user": (LOG.users, 4), "item": (LOG.items, 4), "item_bias": (LOG.items, 1)
        }  # fmt: skip
        for name in ("user", "item"):
            table = np.asarray(small[name])
            assert (table == 0).sum() >= table.size // 2
            steps = table / np.where((top := np.abs(table).max(axis=1, keepdims=True)) > 0, top, 1) * 3  # of 3 bits
            np.testing.assert_allclose(steps, np.round(steps), atol=2e-3)
            assert len(np.unique(plain[name])) > table.size // 2
    for one, other in zip(result.members(1), (result.params(seed, 1) for seed in range(2)), strict=True):
        for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_validation_is_the_ranking_of_the_parameters_that_are_kept(trained):
    result = trained[0][0]
    for seed, setting in np.ndindex(2, 2):
        found = evaluate.rank(result.study.model.scorer(result.params(seed, setting)), LOG, LOG.valid, k=10)
        expected = float(metrics.ndcg(found.hits, found.relevant).mean())
        assert float(result.fitted.valid[seed, setting]) == pytest.approx(expected, rel=1e-5)


def test_a_study_alone_needs_no_teacher():
    model = families.mf(LOG, 4)
    study = Study(LOG, model)
    assert "alpha" not in study.hparams._fields
    result = study.run(grid.product(learning_rate=[0.01]), training=Training(ANY))
    assert result.population.seeds.tolist() == [0]
    start = jax.tree.map(lambda leaf: leaf[0], initial(model, np.arange(1))["tables"])
    assert np.abs(np.asarray(result.params(0, 0)["tables"]["user"]) - np.asarray(start["user"])).max() > 1e-3


def test_what_is_no_study_is_refused():
    with pytest.raises(ValueError, match="expected a model that is trained, got one in closed form"):
        Study(LOG, families.popularity(LOG)).run(grid.product(seed=[0]))
    model = families.mf(LOG, 4)
    with pytest.raises(ValueError, match="expected every hyperparameter once"):
        _ = Study(LOG, model, compression=Compression(NOTHING.transform, _scores.Temperature()),
                  method=soft_targets(LOG, model)).hparams  # fmt: skip
    with pytest.raises(ValueError, match=r"settings: expected at least one, among .*got \['speed'\]"):
        Study(LOG, model).run({"speed": np.ones(1)}, training=Training(ANY))
    assert merged(_scores.Temperature(2.0))._asdict() == {"temperature": 2.0}
