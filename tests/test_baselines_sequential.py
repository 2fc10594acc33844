"""The experiment on sequences, on a log of a few users: what it trains on, and what it judges by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import baselines_sequential as experiment
from recjax import data, evaluate, metrics, models

ITEMS = 30


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    rng = np.random.default_rng(0)
    lines = [
        " ".join(map(str, [user, *(rng.permutation(ITEMS)[: rng.integers(3, 12)] if user else range(ITEMS))]))
        for user in range(17)
    ]
    path = tmp_path_factory.mktemp("log") / "sequences.txt"
    path.write_text("\n".join(lines))
    return experiment.read(path)


@pytest.fixture(scope="module")
def model_and_params():
    model = models.gru4rec(models.Gru4Rec(items=ITEMS, length=experiment.LENGTH, dim=4, hidden=3))
    return model, jax.jit(model.init)(jax.random.key(0))


def test_validation_is_what_the_library_ranks(split, model_and_params, monkeypatch):
    monkeypatch.setattr(experiment, "BLOCK", 8)
    model, params = model_and_params
    before = data.sequences(split.train)
    history = data.last_items(before, length=experiment.LENGTH).item
    queries = jax.jit(model.query)(params, {"history": jnp.asarray(history)})
    ranking = evaluate.rank(queries, model.items(params), split.valid, split.train, k=experiment.K)
    held = experiment.held_out(before, split.valid)
    found = jax.jit(lambda params: experiment.ndcg(model, params, held))(params)
    np.testing.assert_allclose(found, metrics.ndcg(ranking.hits, ranking.relevant).mean(), rtol=1e-5)
    assert 0 < found < 1


@pytest.mark.parametrize("filler", [0.0, np.nan])
def test_a_model_that_says_nothing_finds_nothing(split, model_and_params, filler):
    model, params = model_and_params
    empty = jax.tree.map(lambda leaf: jnp.full_like(leaf, filler), params)
    held = experiment.held_out(data.sequences(split.train), split.valid)
    shorter = jax.tree.map(lambda column: column[1:], held)  # the first user has nearly all items already
    assert jax.jit(lambda params: experiment.ndcg(model, params, shorter))(empty) == 0


@pytest.mark.parametrize("name", ["SASRec, 1,024 negatives", "SASRec, one negative"])
def test_a_batch_has_every_label_of_its_windows(split, name):
    """The long ones first, and each after the items that were before it."""
    cut = data.windows(data.sequences(split.train), length=experiment.LENGTH + 1)
    rows = experiment.Rows(jnp.asarray(cut.user), jnp.asarray(cut.item), data.seen(split.train))
    picked = np.arange(1, len(cut.user))  # without the first, in which there are more than the average
    batch = experiment.gather(experiment.BASELINES[name], ITEMS)(rows, jnp.asarray(picked), jax.random.key(0))
    counts = np.asarray(batch["place"]) >= 0
    windows, long = cut.item[picked], int(experiment.LONG * len(picked))
    order = np.argsort(windows[:, experiment.LENGTH - experiment.SHORT - 1] < 0, stable=True)
    picked, windows = picked[order], windows[order]
    expected = [  # (user, history, label)
        (user, tuple(window[:at][window[:at] >= 0]), window[at])
        for user, window in zip(cut.user[picked], windows, strict=True)
        for at in range(1, len(window))
        if window[at - 1] >= 0
    ]
    place, histories = np.asarray(batch["place"])[counts], [np.asarray(part) for part in batch["histories"]]
    assert [part.shape for part in histories] == [(long, experiment.LENGTH), (len(picked) - long, experiment.SHORT)]
    ends = [row[: at + 1] for part in histories for row in part for at in range(len(row))]
    found = [tuple(end[end >= 0]) for end in ends]
    assert [found[at] for at in place] == [history for _, history, _ in expected]
    np.testing.assert_array_equal(np.asarray(batch["label"])[counts], [label for *_, label in expected])
    assert not counts.all()
    if name.endswith("one negative"):
        user = np.array([user for user, *_ in expected])
        wrong = np.asarray(batch["wrong"])[counts]
        have = evaluate.dense(data.seen(split.train), np.arange(split.users), ITEMS)
        assert not have[user, wrong].any()


@pytest.mark.parametrize("name", ["SASRec, 1,024 negatives", "SASRec, one negative"])
def test_the_loss_is_the_mean_over_labels(split, name):
    """By hand from queries and vectors; what stands at padding moves nothing."""
    baseline = experiment.BASELINES[name]
    model = models.gru4rec(models.Gru4Rec(items=ITEMS, length=3, dim=4, hidden=3))
    params = jax.jit(model.init)(jax.random.key(1))
    histories = np.int32([[-1, 4, 7]]), np.int32([[-1, 2]])
    label, wrong = np.int32([7, 9, 5]), np.int32([3, 9, 20] if name.endswith("one negative") else [3, 9, 20, 5])
    batch = {"histories": histories, "place": np.int32([1, 2, 4, -1]), "label": np.int32([*label, 11])}
    batch["wrong"] = np.int32([*wrong, 0]) if name.endswith("one negative") else np.tile(wrong, 2)
    loss = jax.jit(experiment.recipe(model, baseline, ITEMS, 1).loss)
    found = loss(params, jax.tree.map(jnp.asarray, batch), experiment.Hparams(dropout=0.0), jax.random.key(0))
    table = np.asarray(params["tables"]["item"], np.float64)
    history = np.int32([[-1, 4, 7], [-1, -1, 2]])
    queries = np.asarray(jax.jit(model.queries)(params, {"history": history}), np.float64).reshape(-1, 4)[[1, 2, 5]]
    expected = []
    for query, right, own in zip(queries, label, wrong, strict=False):
        score = query @ table[right]
        if name.endswith("one negative"):
            other = np.logaddexp(0, query @ table[own]) if own != right else 0.0
            expected.append(np.logaddexp(0, -score) + other)
        else:
            others = [query @ table[item] for item in batch["wrong"] if item != right]
            expected.append(np.log(np.exp([score, *others]).sum()) - score)
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-5)
