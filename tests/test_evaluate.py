"""Full ranking against a sort in NumPy, user by user (references)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from recjax import data, evaluate, metrics
from recjax.data import Interactions, seen
from recjax.models import MatrixFactorization, matrix_factorization

USERS, ITEMS, K = 19, 13, 5
MODEL = matrix_factorization(MatrixFactorization(users=USERS, items=ITEMS, dim=3))
NDCG = jax.jit(evaluate.ndcg, static_argnames=("model", "k", "block"))


def log(table):
    user, item = np.argwhere(table).astype(np.int32).T
    order = np.random.default_rng(9).permutation(len(user))
    return Interactions(user[order], item[order], np.arange(USERS).astype(str), np.arange(ITEMS).astype(str))


def _tables():
    rng = np.random.default_rng(3)
    train = rng.random((USERS, ITEMS)) < 0.3
    truth = (rng.random((USERS, ITEMS)) < 0.25) & ~train
    train[[2, 11]] = False  # held-out rows, but nothing to learn from
    truth[2] = truth[11] = truth[5] = False
    truth[2, :4] = truth[11, 7] = True
    train[5, 0] = True  # learned from, but nothing held out
    train[8], truth[8] = True, False  # fewer items left than ranks
    train[8, [1, 6, 12]], truth[8, [6, 12]] = False, True
    return train, truth


TRAIN, TRUTH = _tables()
USERS_JUDGED = [u for u in range(USERS) if TRAIN[u].any() and TRUTH[u].any()]


@pytest.fixture(scope="module")
def members():
    rng = np.random.default_rng(1)
    shapes = {"user": (USERS, 3), "item": (ITEMS, 3), "item_bias": (ITEMS, 1)}
    tables = {name: jnp.asarray(rng.normal(size=(3, *shape)), jnp.float32) for name, shape in shapes.items()}
    return {"tables": tables, "net": {}, "fixed": {}, "aids": {}}


def by_hand(params, users):
    user, item, bias = (np.asarray(params["tables"][name], np.float64) for name in ("user", "item", "item_bias"))
    total = 0.0
    for u in users:
        hits, relevant = references.top_hits(item @ user[u] + bias[:, 0], TRUTH[u], k=K, where=~TRAIN[u])
        total += float(references.ndcg(hits, relevant))
    return total / len(users)


def test_who_is_judged_on_what():
    assert {2, 11} <= set(np.flatnonzero(TRUTH.any(axis=1)))
    assert 5 in np.flatnonzero(TRAIN.any(axis=1))
    train, truth = log(TRAIN), log(TRUTH)
    np.testing.assert_array_equal(evaluate.users_with_rows(truth), np.flatnonzero(TRUTH.any(axis=1)))
    np.testing.assert_array_equal(evaluate.judged_users(truth, train), USERS_JUDGED)
    judged = evaluate.judge(truth, train)
    np.testing.assert_array_equal(judged.user, USERS_JUDGED)
    np.testing.assert_array_equal(judged.labels, TRUTH[USERS_JUDGED])
    np.testing.assert_array_equal(judged.where, ~TRAIN[USERS_JUDGED])


def test_dense_rows_in_any_order():
    users = np.array([8, 2, 8, 0])
    np.testing.assert_array_equal(evaluate.dense(seen(log(TRAIN)), users, ITEMS), TRAIN[users])
    assert evaluate.dense(seen(log(TRAIN)), users[:0], ITEMS).shape == (0, ITEMS)


@pytest.mark.parametrize("block", [1, 5, 256])
def test_equals_a_ranking_by_hand_whatever_the_block(members, block):
    judged = evaluate.judge(log(TRUTH), log(TRAIN))
    assert len(USERS_JUDGED) % 5  # a last block that is not full
    params = jax.tree.map(lambda leaf: leaf[1], members)
    found = float(NDCG(MODEL, params, judged, k=K, block=block))
    assert found == pytest.approx(by_hand(params, USERS_JUDGED), rel=1e-5)
    assert 0.05 < found < 0.95


def test_members_by_vmap_equal_members_alone(members):
    judged = evaluate.judge(log(TRUTH), log(TRAIN))
    together = jax.jit(jax.vmap(lambda params: evaluate.ndcg(MODEL, params, judged, k=K, block=4)))(members)
    alone = [by_hand(jax.tree.map(lambda leaf, m=m: leaf[m], members), USERS_JUDGED) for m in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert len(set(alone)) == 3


def test_a_score_of_a_seen_item_changes_nothing_and_a_perfect_model_gets_one(members):
    """Items as one-hot vectors and users as their scores: any score matrix is a factorization."""
    one_hot = matrix_factorization(MatrixFactorization(users=USERS, items=ITEMS, dim=ITEMS))
    judged = evaluate.judge(log(TRUTH), log(TRAIN))

    def of(scores):
        tables = {"user": scores, "item": np.eye(ITEMS), "item_bias": np.zeros((ITEMS, 1))}
        tables = {name: jnp.asarray(table, jnp.float32) for name, table in tables.items()}
        return float(NDCG(one_hot, {"tables": tables, "net": {}, "fixed": {}, "aids": {}}, judged, k=K))

    scores = np.random.default_rng(4).normal(size=(USERS, ITEMS))
    assert of(scores) == of(scores + 100.0 * TRAIN)
    assert of(TRUTH + 2.0 * TRAIN) == 1.0
    assert of(0.0 - TRUTH) < of(scores) < 1.0
    assert of(np.full((USERS, ITEMS), np.nan)) == 0.0


def test_a_sample_of_users_where_there_are_too_many():
    truth, train = log(TRUTH), log(TRAIN)
    samples = [evaluate.judge(truth, train, cells=6 * ITEMS + 5, seed=seed) for seed in (0, 0, 1, 2)]
    for sample in samples:
        users = np.asarray(sample.user)
        assert len(users) == 6
        assert (np.diff(users) > 0).all()
        assert set(users) <= set(USERS_JUDGED)
        np.testing.assert_array_equal(sample.labels, TRUTH[users])
        np.testing.assert_array_equal(sample.where, ~TRAIN[users])
    chosen = [tuple(np.asarray(sample.user)) for sample in samples]
    assert chosen[0] == chosen[1]
    assert len(set(chosen)) > 1
    assert len(evaluate.judge(truth, train, cells=1).user) == 1
    everyone = evaluate.judge(truth, train, cells=len(USERS_JUDGED) * ITEMS)
    np.testing.assert_array_equal(everyone.user, USERS_JUDGED)


# ------------------------------------------------------------------------------------------------ rank, in blocks

QUERIES, VECTORS = (np.random.default_rng(6).normal(size=(rows, 4)).astype(np.float32) for rows in (USERS, ITEMS))


def ranked_by_hand(protocol, k):
    """Users, hits, relevant by sorting every user's allowed items."""
    had = TRAIN.any(axis=1)
    users = np.flatnonzero(had if protocol.count_empty else had & TRUTH.any(axis=1))
    where = ~TRAIN if protocol.exclude_train else np.ones_like(TRAIN)
    return users, *references.top_hits((QUERIES @ VECTORS.T)[users], TRUTH[users], k=k, where=where[users])


@pytest.mark.parametrize("exclude_train", [True, False])
@pytest.mark.parametrize("count_empty", [True, False])
@pytest.mark.parametrize("block", [1, 4, 128])
def test_ranks_as_by_hand_under_every_protocol(exclude_train, count_empty, block):
    protocol = evaluate.Protocol(exclude_train=exclude_train, count_empty=count_empty)
    for k in (1, K, ITEMS):
        found = evaluate.rank(QUERIES, VECTORS, log(TRUTH), log(TRAIN), k=k, protocol=protocol, block=block)
        users, hits, relevant = ranked_by_hand(protocol, k)
        np.testing.assert_array_equal(found.user, users)
        np.testing.assert_array_equal(found.hits, hits)
        np.testing.assert_array_equal(found.relevant, relevant)
        items, allowed = np.asarray(found.items), ~TRAIN[users] if exclude_train else np.ones((len(users), ITEMS), bool)
        for row, n in enumerate(np.minimum(allowed.sum(axis=1), k)):
            assert (items[row, n:] == -1).all()
            assert len(set(items[row, :n])) == n
            assert allowed[row, items[row, :n]].all()


def test_rank_and_the_mean_inside_a_step_agree(members):
    params = jax.tree.map(lambda leaf: leaf[1], members)
    everyone = {"user": jnp.arange(USERS, dtype=jnp.int32)}
    found = evaluate.rank(MODEL.query(params, everyone), MODEL.items(params), log(TRUTH), log(TRAIN), k=K)
    inside = NDCG(MODEL, params, evaluate.judge(log(TRUTH), log(TRAIN)), k=K)
    np.testing.assert_allclose(jnp.mean(metrics.ndcg(found.hits, found.relevant)), inside, rtol=1e-6)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_not_finite_is_no_hit(broken):
    queries, vectors = QUERIES.copy(), VECTORS.copy()
    user, item = USERS_JUDGED[0], int(np.flatnonzero(TRUTH[USERS_JUDGED[1]])[0])
    queries[user, 1], vectors[item, 2] = broken, broken
    found = evaluate.rank(queries, vectors, log(TRUTH), log(TRAIN), k=ITEMS)
    assert not found.hits[0].any()
    assert found.relevant[0] == TRUTH[user].sum()
    assert not (np.asarray(found.hits) & (np.asarray(found.items) == item)).any()
    assert int(found.hits[1].sum()) == TRUTH[USERS_JUDGED[1]].sum() - 1


def test_sampled_negatives():
    protocol = evaluate.Protocol(negatives=3)
    once, again, other = (
        evaluate.rank(QUERIES, VECTORS, log(TRUTH), log(TRAIN), k=K, protocol=protocol, block=4, key=jax.random.key(s))
        for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(once.items, again.items)
    assert (np.asarray(once.items) != np.asarray(other.items)).any()
    np.testing.assert_array_equal(once.user, USERS_JUDGED)
    scores = QUERIES @ VECTORS.T
    for user, items, hits, relevant in zip(*map(np.asarray, once), strict=True):
        listed = items[items >= 0]
        assert relevant == TRUTH[user].sum()
        np.testing.assert_array_equal(hits[: len(listed)], TRUTH[user, listed])
        assert not TRAIN[user, listed].any()
        assert (np.diff(scores[user, listed]) <= 0).all()
        free = ITEMS - (TRAIN[user] | TRUTH[user]).sum()
        assert len(listed) == min(K, relevant + (3 if free else 0))
        missed = TRUTH[user] & ~np.isin(np.arange(ITEMS), listed)  # what is left out is worse than all that is listed
        assert not (scores[user, missed] > scores[user, listed].min()).any()
    perfect = evaluate.rank(  # users as their labels: every held-out item before every negative
        TRUTH.astype(np.float32), np.eye(ITEMS, dtype=np.float32), log(TRUTH), log(TRAIN),
        k=K, protocol=protocol, key=jax.random.key(2),
    )  # fmt: skip
    np.testing.assert_allclose(metrics.ndcg(perfect.hits, perfect.relevant), 1, rtol=1e-6)
    constant = evaluate.rank(
        QUERIES * 0, VECTORS, log(TRUTH), log(TRAIN), k=1, protocol=protocol, key=jax.random.key(2)
    )
    assert not constant.hits.any()  # ties are no luck


def test_memory_is_bounded_by_the_block():
    """The program's temporaries are a few blocks of scores, however many users there are."""
    users, items, dim, block = 4096, 2000, 8, 32
    mesh = jax.make_mesh((1,), ("blocks",), axis_types=(jax.sharding.AxisType.Auto,))
    index = data.Seen(jnp.zeros(users + 1, jnp.int32), jnp.zeros(1, jnp.int32))
    blocks = (jnp.zeros((users // block, block), jnp.int32),) + (jnp.zeros((users // block, 1), jnp.int32),) * 2
    model = evaluate._Model(
        jnp.zeros((users, dim)), jnp.ones(users, bool), jnp.zeros((items, dim)), jnp.ones(items, bool)
    )
    sizes = evaluate._Sizes(10)
    lowered = evaluate._over_devices.lower(evaluate._rank_all, mesh, sizes, (model, index), blocks)
    arguments = sum(x.nbytes for x in model)
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 4 * block * items * 4 + arguments


@pytest.mark.parametrize(
    ("queries", "vectors", "k", "protocol"),
    [
        (QUERIES[1:], VECTORS, K, evaluate.Protocol()),
        (QUERIES, VECTORS[1:], K, evaluate.Protocol()),
        (QUERIES[:, 1:], VECTORS, K, evaluate.Protocol()),
        (QUERIES[0], VECTORS, K, evaluate.Protocol()),
        (QUERIES, VECTORS, 0, evaluate.Protocol()),
        (QUERIES, VECTORS, ITEMS + 1, evaluate.Protocol()),
        (QUERIES, VECTORS, K, evaluate.Protocol(negatives=9)),
    ],
)
def test_rank_refuses_what_does_not_belong_together(queries, vectors, k, protocol):
    with pytest.raises(ValueError, match="expected"):
        evaluate.rank(queries, vectors, log(TRUTH), log(TRAIN), k=k, protocol=protocol)
