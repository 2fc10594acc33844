"""Ranking of the catalog against a sort in Python, query by query, from the rows of the log themselves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from recjax import data, evaluate, metrics

USERS, ITEMS, K, LENGTH = 19, 13, 5, 3
ABSENT = [2, 11]  # users with held-out events, but nothing to learn from


def _parts():
    """Events ``(user, item)`` of train, validation and test, repeats among them within and between parts."""
    rng = np.random.default_rng(3)
    parts = []
    for share in (4, 2, 2):
        counts = rng.integers(0, 2 * share, USERS)
        counts[ABSENT] = 0 if share == 4 else 2
        counts[0] = max(counts[0], 1)
        rows = np.stack([np.repeat(np.arange(USERS), counts), rng.integers(0, ITEMS, counts.sum())], axis=1)
        parts.append(rng.permutation(rows))
    train, valid, test = parts
    train = np.concatenate([train[train[:, 0] != 8], [(8, item) for item in range(ITEMS - 2)]])  # two items are left
    test = np.concatenate([test, [(8, ITEMS - 1), (8, ITEMS - 1), (8, 0)], [(0, test[test[:, 0] == 0][0, 1])] * 2])
    return train, valid, test


PARTS = _parts()
IDS = np.arange(USERS).astype(str), np.arange(ITEMS).astype(str)
DATASET = data.dataset(data.Split(*(data.Interactions(*np.int32(part).T, *IDS) for part in PARTS), {}))
LEARNED = len(set(PARTS[0][:, 0]))
ORDER = sorted(range(USERS), key=lambda user: (user not in PARTS[0][:, 0], user))  # those who can be learned from first

# Whole numbers: sums are exact in any order, and many scores are equal.
RNG = np.random.default_rng(1)
PARAMS = {
    "user": RNG.integers(-2, 3, (USERS, ITEMS)).astype(np.float32),
    "item": RNG.integers(-1, 2, (ITEMS, ITEMS)).astype(np.float32),
}
WEIGHTS = np.arange(1, LENGTH + 1).astype(np.float32)  # later events count for more


def score(params, batch):
    history = batch["history"]
    rows = jnp.where((history >= 0)[..., None], params["item"][jnp.maximum(history, 0)], 0)
    return params["user"][batch["user"]] + jnp.einsum("qli,l->qi", rows, jnp.asarray(WEIGHTS))


def events(number, user):
    """The items of one part and one user, in order; users as the data set numbers them."""
    return [int(item) for raw, item in PARTS[number] if raw == ORDER[user]]


def slow_scores(params, user, history):
    latest = history[-LENGTH:]
    return params["user"][user] + sum(
        weight * params["item"][item] for weight, item in zip(WEIGHTS[LENGTH - len(latest) :], latest, strict=True)
    )


def slow_queries(part):
    """``(user, history, wanted)`` of a part: validation 1 or test 2."""
    asked = [(u, [e for p in range(part) for e in events(p, u)], events(part, u)) for u in range(LEARNED)]
    return [query for query in asked if query[2]]


def slow_rank(params, part, k, *, exclude_known=True):
    """Lists, hits and the number of relevant items by sorting each query's allowed items."""
    items, hits, relevant = [], [], []
    for user, history, wanted in slow_queries(part):
        scores = slow_scores(params, user, history)
        allowed = [item for item in range(ITEMS) if not (exclude_known and item in history)]
        right = set(wanted) & set(allowed)
        key = {item: scores[item] if np.isfinite(scores[item]) else -np.inf for item in allowed}
        best = sorted(allowed, key=lambda item: (-key[item], item))[:k]
        items.append(best + [-1] * (k - len(best)))
        hits.append([item in right and np.isfinite(scores[item]) for item in best] + [False] * (k - len(best)))
        relevant.append(len(right))
    return np.array(items), np.array(hits), np.array(relevant)


def jax_scorer(params):
    return evaluate.Scorer(score, jax.tree.map(jnp.asarray, params), LENGTH)


def any_scorer(params):
    """The same model as a plain function of a batch."""

    def scores(batch):
        assert {type(values) for values in batch.values()} == {np.ndarray}
        histories = [[item for item in row.tolist() if item >= 0] for row in batch["history"]]
        return np.stack([slow_scores(params, *query) for query in zip(batch["user"], histories, strict=True)])

    return scores


SCORERS = {"jax": jax_scorer, "callable": any_scorer}


def held_out(part, dataset=DATASET):
    return (dataset.valid, dataset.test)[part - 1]


def same(found, expected):
    for ours, theirs in zip(found[1:], expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_log_has_what_a_ranking_can_get_wrong():
    everyone = [query for part in (1, 2) for query in slow_queries(part)]
    assert any(len(set(wanted)) < len(wanted) for *_, wanted in everyone)
    assert any(set(wanted) <= set(history) for _, history, wanted in everyone)
    assert any(len(set(history)) == ITEMS - 2 for _, history, _ in everyone)
    assert any(len(history) < LENGTH for _, history, _ in everyone)
    assert len(DATASET.test.user) % 8  # a last block that is not full, on any number of devices


@pytest.mark.parametrize("kind", SCORERS)
@pytest.mark.parametrize("exclude_known", [True, False])
@pytest.mark.parametrize(("part", "k", "block"), [(1, K, 128), (2, K, 4), (2, 1, 1), (2, ITEMS, 3)])
def test_ranks_as_by_hand(kind, exclude_known, part, k, block):
    protocol = evaluate.Protocol(exclude_known=exclude_known)
    found = evaluate.rank(SCORERS[kind](PARAMS), DATASET, held_out(part), k=k, protocol=protocol, block=block)
    np.testing.assert_array_equal(found.user, [user for user, *_ in slow_queries(part)])
    same(found, slow_rank(PARAMS, part, k, exclude_known=exclude_known))
    assert {leaf.dtype.name for leaf in found} == {"int32", "bool"}


@pytest.mark.parametrize("devices", [1, 3, 8])
def test_any_number_of_devices_ranks_alike(devices, monkeypatch):
    chosen = jax.local_devices()[:devices]
    monkeypatch.setattr(jax, "local_devices", lambda: chosen)
    found = evaluate.rank(jax_scorer(PARAMS), DATASET, DATASET.test, k=K, block=2)
    same(found, slow_rank(PARAMS, 2, K))


@pytest.mark.parametrize("kind", SCORERS)
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_no_hit(kind, broken):
    user, item = DATASET.test.user[1], slow_queries(2)[4][2][0]
    params = {"user": PARAMS["user"].copy(), "item": PARAMS["item"]}
    params["user"][user], params["user"][:, item] = broken, broken
    found = evaluate.rank(SCORERS[kind](params), DATASET, DATASET.test, k=ITEMS)
    expected = slow_rank(params, 2, ITEMS)
    same(found, expected)
    assert not found.hits[1].any()
    assert not (np.asarray(found.hits) & (np.asarray(found.items) == item)).any()


def test_minus_zero_equals_zero():
    zeros = np.zeros((USERS, ITEMS), np.float32)
    zeros[:, ::2] = -0.0
    found = evaluate.rank(lambda batch: zeros[batch["user"]], DATASET, DATASET.test, k=ITEMS)
    same(found, slow_rank({"user": abs(zeros), "item": zeros[:ITEMS]}, 2, ITEMS))


def test_a_score_of_a_known_item_changes_nothing_and_a_perfect_model_gets_one():
    known, wanted = (np.zeros((USERS, ITEMS), np.float32) for _ in range(2))
    for user, history, held in slow_queries(2):
        known[user, history], wanted[user, held] = 1, 1

    def ndcg(scores):
        found = evaluate.rank(lambda batch: scores[batch["user"]], DATASET, DATASET.test, k=K)
        values = np.asarray(metrics.ndcg(found.hits, found.relevant))
        assert (values[np.asarray(found.relevant) == 0] == 0).all()
        return values[np.asarray(found.relevant) > 0]

    scores = PARAMS["user"]
    np.testing.assert_array_equal(ndcg(scores + 100 * known), ndcg(scores))
    np.testing.assert_allclose(ndcg(wanted + 2 * known), 1, rtol=1e-6)
    assert ndcg(-wanted).mean() < ndcg(scores).mean() < 1


# ---------------------------------------------------------------------------------------------- sampled negatives


@pytest.mark.parametrize("kind", SCORERS)
def test_sampled_negatives(kind):
    protocol, scorer = evaluate.Protocol(negatives=3), SCORERS[kind](PARAMS)
    once, again, other = (
        evaluate.rank(scorer, DATASET, DATASET.test, k=K, protocol=protocol, block=4, key=jax.random.key(seed))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(once.items, again.items)
    assert (np.asarray(once.items) != np.asarray(other.items)).any()
    for (user, history, wanted), items, hits, relevant in zip(slow_queries(2), *map(np.asarray, once[1:]), strict=True):
        scores, right = slow_scores(PARAMS, user, history), set(wanted) - set(history)
        listed = items[items >= 0].tolist()
        assert relevant == len(right)
        assert hits[: len(listed)].tolist() == [item in right for item in listed]
        assert not hits[len(listed) :].any()
        assert not set(listed) & set(history)
        of_right = [item for item in listed if item in right]
        assert len(of_right) == len(set(of_right))  # an item that is held out twice is one item to find
        assert (np.diff(scores[listed]) <= 0).all()
        free = ITEMS - len(set(history) | set(wanted))
        assert len(listed) == min(K, relevant + (3 if free else 0))
        missed = [item for item in right if item not in listed]  # what is left out is no better than all that is listed
        assert all(scores[item] <= scores[listed].min() for item in missed)


def test_of_sampled_negatives_a_perfect_model_gets_one_and_a_constant_one_nothing():
    protocol, wanted = evaluate.Protocol(negatives=3), np.zeros((USERS, ITEMS), np.float32)
    for user, _, held in slow_queries(2):
        wanted[user, held] = 1
    found = evaluate.rank(
        lambda batch: wanted[batch["user"]], DATASET, DATASET.test, k=K, protocol=protocol, key=jax.random.key(2)
    )
    values = metrics.ndcg(found.hits, found.relevant)
    np.testing.assert_allclose(values, np.asarray(found.relevant) > 0, rtol=1e-6)
    constant = evaluate.rank(
        lambda batch: 0 * wanted[batch["user"]], DATASET, DATASET.test, k=1, protocol=protocol, key=jax.random.key(2)
    )
    free = np.array([len(set(history) | set(held)) < ITEMS for _, history, held in slow_queries(2)])
    assert free.any()
    assert not np.asarray(constant.hits)[free].any()  # of equal scores the held-out item comes last


# ---------------------------------------------------------------------------------------------- inside a training step


def slow_ndcg(params, users=None):
    _, hits, relevant = slow_rank(params, 1, K)
    values = references.ndcg(hits, relevant)
    every = [user for user, *_ in slow_queries(1)]
    return float(np.mean(values if users is None else values[np.searchsorted(every, users)]))


@pytest.fixture(scope="module")
def members():
    noise = np.random.default_rng(7).integers(-2, 3, (3, USERS, ITEMS)).astype(np.float32)
    return {"user": PARAMS["user"] + noise, "item": np.stack([PARAMS["item"]] * 3)}


@pytest.mark.parametrize("block", [1, 5, 256])
def test_validation_is_the_mean_by_hand_whatever_the_block(block):
    validate, part = evaluate.validation(score, DATASET, length=LENGTH, k=K, block=block)
    found = float(jax.jit(validate)(PARAMS, part))
    assert found == pytest.approx(slow_ndcg(PARAMS), rel=1e-5)
    assert 0.05 < found < 0.95


def test_members_by_vmap_equal_members_alone(members):
    validate, part = evaluate.validation(score, DATASET, length=LENGTH, k=K, block=4)
    together = jax.jit(jax.vmap(validate, (0, None)))(members, part)
    alone = [slow_ndcg(jax.tree.map(lambda leaf, m=m: leaf[m], members)) for m in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert len(set(alone)) == 3


def test_a_validation_equals_another_of_the_same_settings():
    one, other, shorter = (evaluate.validation(score, DATASET, length=LENGTH, k=k)[0] for k in (K, K, 1))
    assert one == other
    assert hash(one) == hash(other)
    assert one != shorter


def test_a_sample_of_queries_where_there_are_too_many():
    every = held_out(1)

    def sample(**how):
        return jax.tree.map(np.asarray, evaluate.validation(score, DATASET, length=LENGTH, k=K, **how)[1][1])

    samples = [sample(cells=6 * ITEMS + 5, seed=seed) for seed in (0, 0, 1, 2)]
    for part in samples:
        assert len(part.user) == 6
        assert (np.diff(part.user) > 0).all()
        rows = np.searchsorted(every.user, part.user)
        for ours, theirs in zip(part, every, strict=True):
            np.testing.assert_array_equal(ours, theirs[rows])
    chosen = [tuple(part.user) for part in samples]
    assert chosen[0] == chosen[1]
    assert len(set(chosen)) > 1
    assert len(sample(cells=1).user) == 1
    np.testing.assert_array_equal(sample(cells=len(every.user) * ITEMS).user, every.user)
    validate, part = evaluate.validation(score, DATASET, length=LENGTH, k=K, cells=6 * ITEMS)
    assert float(jax.jit(validate)(PARAMS, part)) == pytest.approx(slow_ndcg(PARAMS, part[1].user), rel=1e-5)


# ---------------------------------------------------------------------------------------------- sizes and refusals


def test_users_without_held_out_events_may_count_as_zero():
    counted = dataclasses.replace(DATASET, count_empty=True)
    found = evaluate.rank(jax_scorer(PARAMS), counted, counted.test, k=K)
    np.testing.assert_array_equal(found.user, np.arange(LEARNED))
    empty = ~np.isin(np.asarray(found.user), DATASET.test.user)
    assert empty.any()
    assert not np.asarray(found.relevant)[empty].any()
    _, hits, relevant = slow_rank(PARAMS, 2, K)
    total = float(metrics.ndcg(found.hits, found.relevant).sum())
    assert total == pytest.approx(references.ndcg(hits, relevant).sum(), rel=1e-5)


def test_relevant_items_by_group():
    group = np.random.default_rng(2).integers(0, 3, ITEMS)
    found = evaluate.relevant_by_group(DATASET, DATASET.test, group, 3)
    for row, (_, history, wanted) in zip(found, slow_queries(2), strict=True):
        assert row.tolist() == [sum(group[item] == g for item in set(wanted) - set(history)) for g in range(3)]
    np.testing.assert_array_equal(found.sum(axis=1), slow_rank(PARAMS, 2, K)[2])


def test_memory_is_bounded_by_the_block():
    """The program's temporaries are a few blocks of scores, however many queries there are."""
    queries, items, block = 4096, 2000, 32
    mesh = jax.make_mesh((1,), ("blocks",), axis_types=(jax.sharding.AxisType.Auto,))
    log = data.Histories(jnp.arange(queries + 1), jnp.zeros(queries, jnp.int32), jnp.ones(queries))
    held = data.HeldOut(*jnp.zeros((3, queries // block, block), jnp.int32))
    select = evaluate._Select(10, items, known=5, wanted=5)

    def scores(params, batch):
        return params[batch["user"]] @ jnp.ones((8, items))

    params = jnp.zeros((queries, 8))
    lowered = evaluate._over_devices.lower(select, scores, 1, items, mesh, (params, log, ()), held)
    constants = params.nbytes + 8 * items * 4
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 4 * block * items * 4 + constants


@pytest.mark.parametrize(
    ("scorer", "k", "protocol"),
    [
        (jax_scorer(PARAMS), 0, evaluate.Protocol()),
        (jax_scorer(PARAMS), ITEMS + 1, evaluate.Protocol()),
        (jax_scorer(PARAMS), K, evaluate.Protocol(negatives=9)),
        (evaluate.Scorer(lambda params, batch: score(params, batch)[:, 1:], PARAMS, LENGTH), K, evaluate.Protocol()),
        (lambda batch: any_scorer(PARAMS)(batch)[:, 1:], K, evaluate.Protocol()),
        (lambda batch: any_scorer(PARAMS)(batch)[:1], K, evaluate.Protocol()),
        (lambda batch: any_scorer(PARAMS)(batch)[0], K, evaluate.Protocol()),
    ],
)
def test_what_cannot_be_ranked_is_refused(scorer, k, protocol):
    with pytest.raises(ValueError, match="expected"):
        evaluate.rank(scorer, DATASET, DATASET.test, k=k, protocol=protocol)
