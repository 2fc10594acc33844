"""Ranking metrics against explicit sorting and counting (references), scikit-learn and ranx."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import Programs
from sklearn.metrics import average_precision_score, ndcg_score

import recjax

metrics = Programs(recjax.metrics)

QUICK = settings(max_examples=25, deadline=None, derandomize=True)
TOP = jax.jit(metrics.top_hits, static_argnames="k")  # a compile costs more than all else here
RTOL = 1e-6  # float32 sums of at most ten positive terms: a few roundings of 6e-8 each
METRICS = ["precision", "hit_rate", "recall", "ndcg", "mrr", "map"]


@jax.jit
def every(hits, relevant):
    return {name: getattr(metrics, name)(hits, relevant) for name in METRICS}


LIST_HITS = jax.jit(metrics.list_hits)


def example(shape, seed=0, tied=True):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, shape) if tied else rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)
    return scores.astype(np.float32), rng.random(shape) < 0.3, rng.random(shape) < 0.7


@pytest.mark.parametrize(("shape", "k"), [((6,), 3), ((40, 9), 1), ((40, 9), 5), ((3, 4, 5), 5)])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_explicit_sorting(shape, k, masked):
    scores, labels, where = example(shape, seed=k)
    if len(shape) > 1:
        where[0] = False  # nothing may be ranked
        labels[1] = False  # nothing to find
        where[2] = np.arange(shape[-1]) == 2  # fewer allowed items than k
    where = where if masked else None
    hits, relevant = TOP(scores, labels, k=k, where=where)
    expected_hits, expected_relevant = references.top_hits(scores, labels, k=k, where=where)
    assert hits.dtype == bool
    assert relevant.dtype == jnp.int32
    np.testing.assert_array_equal(hits, expected_hits)
    np.testing.assert_array_equal(relevant, expected_relevant)
    for name, value in every(hits, relevant).items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, getattr(references, name)(expected_hits, expected_relevant), rtol=RTOL)


@pytest.mark.parametrize("k", [4, 12])
def test_ndcg_equals_sklearn(k):
    scores, labels, _ = example((50, 12), seed=k, tied=False)
    labels[0] = False
    ours = metrics.ndcg(*TOP(scores, labels, k=k))
    peer = [ndcg_score(y[None], s[None], k=k, ignore_ties=True) for y, s in zip(labels * 1.0, scores, strict=True)]
    np.testing.assert_allclose(ours, peer, rtol=RTOL)


def test_known_values():
    hits = jnp.array([[True, False, True], [False, False, False], [True, True, True], [False, False, False]])
    relevant = jnp.array([2, 5, 7, 0], jnp.int32)
    first = (1 + 1 / 2) / (1 + 1 / np.log2(3))
    np.testing.assert_allclose(metrics.ndcg(hits, relevant), [first, 0, 1, 0], rtol=RTOL)
    np.testing.assert_allclose(metrics.recall(hits, relevant), [1, 0, 3 / 7, 0], rtol=RTOL)


def test_nothing_relevant_gives_zero_whatever_the_hits():
    hits, relevant = jnp.array([[False, True, False]]), jnp.zeros(1, jnp.int32)
    assert metrics.ndcg(hits, relevant) == 0
    assert metrics.recall(hits, relevant) == 0


@pytest.mark.parametrize("poison", [np.inf, np.nan, np.finfo(np.float32).max])
def test_items_left_out_never_rank(poison):
    scores, labels, where = example((20, 8), seed=3)
    expected = references.top_hits(scores, labels, k=5, where=where)
    scores = np.where(where, scores, np.float32(poison))
    for ours, twin in zip(TOP(scores, labels, k=5, where=where), expected, strict=True):
        np.testing.assert_array_equal(ours, twin)


@pytest.mark.parametrize("lowest", [-np.inf, np.finfo(np.float32).min])
def test_lowest_scores_still_rank_before_items_left_out(lowest):
    scores = np.array([5.0, 4.0, 3.0, lowest], np.float32)  # as a mask of the caller's own would write it
    where = np.array([False, False, True, True])
    hits, relevant = metrics.top_hits(scores, np.array([True, True, False, True]), k=2, where=where)
    np.testing.assert_array_equal(hits, [False, True])
    assert relevant == 1


def test_ties_prefer_the_lower_index():
    labels = np.array([False, True, False, True])
    hits, _ = metrics.top_hits(np.array([-0.0, 0.0, -0.0, 0.0], np.float32), labels, k=4)
    np.testing.assert_array_equal(hits, labels)


def test_a_score_of_nan_is_no_hit():
    hits, relevant = metrics.top_hits(np.array([1, np.nan, 2], np.float32), np.array([False, True, True]), k=3)
    np.testing.assert_array_equal(hits, [True, False, False])
    assert relevant == 2  # it is still missed by recall


@QUICK
@given(st.integers(0, 2**32 - 1))
def test_invariants(seed):
    scores, labels, where = example((6, 9), seed=seed, tied=False)
    hits, relevant = TOP(scores, labels, k=4, where=where)
    values = [metrics.ndcg(hits, relevant), metrics.recall(hits, relevant)]
    order = np.random.default_rng(seed).permutation(9)  # without ties, the order of the catalog does not matter
    moved = TOP(scores[:, order], labels[:, order], k=4, where=where[:, order])
    scaled = TOP(3 * scores - 7, labels, k=4, where=where)  # nor does a monotone map of the scores
    ideal = TOP(labels.astype(np.float32), labels, k=4, where=where)
    for metric, value in zip((metrics.ndcg, metrics.recall), values, strict=True):
        assert ((value >= 0) & (value <= 1)).all()
        np.testing.assert_array_equal(metric(*moved), value)
        np.testing.assert_array_equal(metric(*scaled), value)
        assert (metric(*ideal) >= value).all()
    np.testing.assert_allclose(metrics.ndcg(*ideal), np.asarray(relevant) > 0, rtol=RTOL)


def test_jit_vmap_and_strict_dtypes():
    scores, labels, where = example((7, 6))

    def both(scores, labels, where):
        hits, relevant = metrics.top_hits(scores, labels, k=3, where=where)
        return hits, relevant, metrics.ndcg(hits, relevant), metrics.recall(hits, relevant)

    whole = both(scores, labels, where)
    with jax.numpy_dtype_promotion("strict"):
        one_by_one = jax.jit(jax.vmap(both))(scores, labels, where)
        low = both(jnp.asarray(scores, jnp.bfloat16), jnp.asarray(labels), jnp.asarray(where))
    for a, b, c in zip(whole, one_by_one, low, strict=True):
        np.testing.assert_allclose(a, b, rtol=RTOL)
        np.testing.assert_allclose(a, c, rtol=RTOL)  # small integers are exact in bfloat16


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.top_hits(np.zeros((2, 5), np.float32), np.zeros((2, 4), bool), k=2),
        lambda: metrics.top_hits(np.zeros((2, 5), np.float32), np.zeros(5, bool), k=2),
        lambda: metrics.top_hits(np.zeros((2, 5), np.float32), np.zeros((2, 5), bool), k=2, where=np.ones(5, bool)),
        lambda: metrics.top_hits(np.zeros((2, 5), np.float32), np.zeros((2, 5), bool), k=6),
        lambda: metrics.ndcg(np.zeros((2, 3), bool), np.zeros(3, np.int32)),
        lambda: metrics.ndcg(np.zeros((2, 3), bool), np.zeros((2, 3), np.int32)),
        lambda: metrics.recall(np.zeros((2, 3), bool), np.zeros((), np.int32)),
    ],
)
def test_wrong_shapes_raise(call):
    with pytest.raises(ValueError):
        call()


# ------------------------------------------------------------------------------------------ the others of the family


def found(shape, seed=0):
    """Hits and how many relevant items there were: none, as many as found, or more than there are ranks."""
    rng = np.random.default_rng(seed)
    hits = rng.random(shape) < 0.4
    relevant = hits.sum(-1) + rng.integers(0, 2 * shape[-1], shape[:-1]) * rng.integers(0, 2, shape[:-1])
    return hits, relevant.astype(np.int32)


@pytest.mark.parametrize("shape", [(5,), (40, 1), (40, 7), (3, 4, 5)])
def test_metrics_of_hits_equal_their_twins(shape):
    hits, relevant = found(shape, seed=len(shape))
    for name, value in every(hits, relevant).items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, getattr(references, name)(hits, relevant), rtol=RTOL, err_msg=name)


@pytest.mark.parametrize("integer", [np.int8, np.uint32])
def test_any_integer_counts(integer):
    hits, relevant = found((20, 7))
    for one, other in zip(*(every(hits, n).values() for n in (relevant, relevant.astype(integer))), strict=True):
        np.testing.assert_array_equal(one, other)


def test_known_values_of_the_others():
    hits = np.array([[True, False, True], [False, True, False], [True, True, True], [False, False, False]])
    value = every(hits, np.array([2, 5, 7, 1], np.int32))
    np.testing.assert_allclose(value["precision"], [2 / 3, 1 / 3, 1, 0], rtol=RTOL)
    np.testing.assert_array_equal(value["hit_rate"], [1, 1, 1, 0])
    np.testing.assert_allclose(value["mrr"], [1, 1 / 2, 1, 0], rtol=RTOL)
    np.testing.assert_allclose(value["map"], [(1 + 2 / 3) / 2, 1 / 6, 1, 0], rtol=RTOL)


def test_nothing_relevant_gives_zero_to_all():
    assert all(value == 0 for value in every(np.array([True, True]), np.int32(0)).values())


def test_map_equals_sklearn_over_the_whole_list():
    scores, labels, _ = example((50, 12), seed=2, tied=False)
    labels[:, 3] = True  # scikit-learn warns of a list with nothing relevant
    peer = [average_precision_score(y, s) for y, s in zip(labels, scores, strict=True)]
    np.testing.assert_allclose(every(*TOP(scores, labels, k=12))["map"], peer, rtol=RTOL)


@pytest.mark.filterwarnings("ignore")  # of numba about its own casts
def test_all_equal_ranx(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # a compile costs twenty seconds, forty lists cost nothing
    ranx = pytest.importorskip("ranx")
    rng = np.random.default_rng(0)
    users, catalog, k = 40, 30, 10
    items = rng.permuted(np.broadcast_to(np.arange(catalog), (users, catalog)), axis=-1)[:, :k].astype(np.int32)
    truth = np.full((users, k), -1, np.int32)
    for user in range(users):
        size = rng.integers(1, k + 1)  # ranx divides by all that is relevant in map: the same up to k
        truth[user, :size] = rng.choice(catalog, size, replace=False)
    qrels = {f"{u:02}": {str(i): 1 for i in truth[u] if i >= 0} for u in range(users)}
    run = {f"{u:02}": {str(i): float(k - r) for r, i in enumerate(items[u])} for u in range(users)}
    peers = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), [f"{name}@{k}" for name in METRICS], return_mean=False)
    for name, value in every(*LIST_HITS(items, truth)).items():
        np.testing.assert_allclose(value, peers[f"{name}@{k}"], rtol=RTOL, err_msg=name)


@pytest.mark.parametrize(("shape", "width"), [((6,), 3), ((30, 8), 5), ((30, 2), 9), ((2, 3, 5), 5)])
def test_list_hits_equals_its_twin(shape, width):
    rng = np.random.default_rng(width)
    items = rng.integers(-1, 12, shape).astype(np.int32)  # repeats, and ranks without an item
    truth = rng.permuted(np.broadcast_to(np.arange(12), (*shape[:-1], 12)), axis=-1)[..., :width]
    truth = np.where(rng.random(truth.shape) < 0.4, -1, truth).astype(np.int32)
    hits, relevant = LIST_HITS(items, truth)
    assert hits.dtype == bool
    assert relevant.dtype == jnp.int32
    for ours, twin in zip((hits, relevant), references.list_hits(items, truth), strict=True):
        np.testing.assert_array_equal(ours, twin)


def test_list_hits_known_values():
    items = jnp.array([[3, 5, 3, -1], [-1, -1, 2, 2], [0, 1, 2, 3]])
    truth = jnp.array([[3, -1, -1], [-1, 2, 7], [-1, -1, -1]])
    hits, relevant = LIST_HITS(items, truth)
    np.testing.assert_array_equal(hits, [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(relevant, [1, 2, 0])


def test_a_repeated_true_id_is_one_item():
    hits, relevant = LIST_HITS(np.array([4, 9]), np.array([4, 4, 9, 9, -1]))
    np.testing.assert_array_equal(hits, [True, True])
    assert relevant == 2


def test_ids_and_scores_give_the_same_hits():
    scores, labels, _ = example((20, 12), seed=5, tied=False)
    items = np.argsort(-scores, axis=-1)[:, :4].astype(np.int32)
    truth = np.where(labels, np.arange(12), -1).astype(np.int32)
    for ours, other in zip(LIST_HITS(items, truth), TOP(scores, labels, k=4), strict=True):
        np.testing.assert_array_equal(ours, other)


@QUICK
@given(st.integers(0, 2**32 - 1))
def test_invariants_of_the_others(seed):
    hits, relevant = found((12, 6), seed=seed)
    value = {name: np.asarray(v) for name, v in every(hits, relevant).items()}
    ahead = every(np.sort(hits)[:, ::-1], relevant)  # every hit moved to the front
    for name in METRICS:
        assert ((value[name] >= 0) & (value[name] <= 1)).all()
        assert (value[name] <= value["hit_rate"]).all()
        assert (ahead[name] >= value[name] * (1 - RTOL)).all()
    np.testing.assert_allclose(value["precision"] * 6, value["recall"] * relevant, rtol=RTOL)
    np.testing.assert_array_equal(value["hit_rate"], value["mrr"] > 0)
    ideal = every(np.arange(6) < relevant[:, None], relevant)
    np.testing.assert_allclose(ideal["map"], relevant > 0, rtol=RTOL)
    longer = every(np.concatenate([hits, np.zeros_like(hits)], -1), relevant)  # misses after the end
    for name in ("hit_rate", "recall", "mrr"):
        np.testing.assert_array_equal(longer[name], value[name])
    np.testing.assert_allclose(longer["precision"], value["precision"] / 2, rtol=RTOL)


def test_jit_vmap_and_strict_dtypes_of_the_others():
    rng = np.random.default_rng(0)
    items, truth = rng.integers(-1, 9, (7, 5)).astype(np.int32), rng.integers(-1, 9, (7, 4)).astype(np.int32)

    def everything(items, truth):
        hits, relevant = metrics.list_hits(items, truth)
        return hits, relevant, *(getattr(metrics, name)(hits, relevant) for name in METRICS)

    whole = jax.jit(everything)(items, truth)
    with jax.numpy_dtype_promotion("strict"):
        one_by_one = jax.jit(jax.vmap(everything))(items, truth)
    one = jax.jit(everything)
    loop = [one(*row) for row in zip(items, truth, strict=True)]
    for a, b, *rows in zip(whole, one_by_one, *loop, strict=True):
        np.testing.assert_allclose(a, b, rtol=RTOL)
        np.testing.assert_allclose(a, np.stack(rows), rtol=RTOL)


@pytest.mark.parametrize("name", METRICS)
def test_wrong_hits_raise(name):
    metric = getattr(metrics, name)
    for hits, relevant in (((2, 3), (3,)), ((2, 3), (2, 3)), ((2, 3), ()), ((), ())):
        with pytest.raises(ValueError, match="expected"):
            metric(np.zeros(hits, bool), np.zeros(relevant, np.int32))
    with pytest.raises(TypeError, match="expected"):
        metric(np.zeros((2, 3), np.int32), np.zeros(2, np.int32))


def test_wrong_ids_raise():
    ids = np.zeros((2, 3), np.int32)
    for items, truth in ((ids, ids[0]), (ids, ids[:1]), (ids[0, 0], ids[0])):
        with pytest.raises(ValueError, match="expected"):
            metrics.list_hits(items, truth)
    for items, truth in ((ids * 1.0, ids), (ids, ids * 1.0), (ids > 0, ids)):
        with pytest.raises(TypeError, match="expected"):
            metrics.list_hits(items, truth)


@pytest.mark.parametrize(("items", "k"), [(7, 7), (640, 3), (1013, 5), (1050, 1), (2000, 10)])
@pytest.mark.parametrize("levels", [2, 40, 10**6])
def test_two_stages_select_what_one_does(items, k, levels):
    """Ties, ties across groups, a last group that is not full, and fewer finite scores than k."""
    rng = np.random.default_rng(levels + k)
    scores = rng.integers(0, levels, (3, 4, items)).astype(np.float32)
    scores[0, 0], scores[0, 1, 5:], scores[0, 2, : items // 2] = 1, -np.inf, -np.inf
    values, places = jax.jit(metrics.top_k, static_argnames="k")(scores, k=k)
    one_stage, one_place = jax.lax.top_k(jnp.asarray(scores), k)
    np.testing.assert_array_equal(values, one_stage)
    np.testing.assert_array_equal(places, one_place)
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :k]
    np.testing.assert_array_equal(places, order)
    assert places.dtype == jnp.int32


@pytest.mark.parametrize("k", [0, 6])
def test_top_k_refuses(k):
    with pytest.raises(ValueError, match="from 1"):
        metrics.top_k(jnp.zeros((2, 5)), k)
