"""What is drawn from a teacher's lists: distributions against exact enumeration, and what holds for every draw."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recjax import data
from recjax import teacher as samplers

# Small programs, each run a few times: most of the time would go into making them fast.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

MANY = 40_000
BY_RANK = {"by_rank": samplers.by_rank, "better_of_two": samplers.better_of_two}
ITEMS = np.int32([50, 20, 40, 10, 30, 60])
WHERE = np.array([True, False, True, True, True, True])


def check_frequencies(draws: np.ndarray, probability: dict[tuple[int, ...], float]) -> None:
    """Pearson's test of rows against the probability of each possible row; the keys are fixed, so is the answer."""
    rows, got = np.unique(np.asarray(draws), axis=0, return_counts=True)
    found = dict(zip(map(tuple, rows.tolist()), got.tolist(), strict=True))
    assert set(found) <= set(probability)
    assert np.isclose(sum(probability.values()), 1)
    expected = len(draws) * np.array(list(probability.values()))
    observed = np.array([found.get(row, 0) for row in probability])
    rare = expected < 5  # pooled: the statistic has its distribution from about five on
    if rare.any():
        expected, observed = (np.append(x[~rare], x[rare].sum()) for x in (expected, observed))
    if len(expected) > 1:
        statistic = ((observed - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
        assert stats.chi2.sf(statistic, len(expected) - 1) > 1e-4


def of_ids(probability: dict[tuple[int, ...], float]) -> dict[tuple[int, ...], float]:
    return {tuple(ITEMS[list(places)].tolist()): chance for places, chance in probability.items()}


def many(*lists: np.ndarray) -> list[np.ndarray]:
    """Equal lists of one draw: that they are drawn apart is part of what is tested."""
    return [np.broadcast_to(x, (MANY, *np.shape(x))) for x in lists]


@jit
def draw_many(key, items, where, top, temperature):
    draws = {name: draw(key, items, count=3, temperature=temperature, where=where) for name, draw in BY_RANK.items()}
    pairs = samplers.ranked_pairs(key, items, count=2, temperature=temperature, where=where)
    student = samplers.rejuvenated_candidates(key, items, top, count=3, temperature=temperature)
    return {**draws, "pairs": jnp.concatenate(pairs, axis=-1), "rejuvenated": student}


@pytest.mark.parametrize("temperature", [0.5, 2.0, 1e8])
def test_draws_from_a_list_have_the_exact_distribution(temperature):
    top = np.array([False, True, False, True, True, False])
    draws = draw_many(jax.random.key(1), *many(ITEMS, WHERE, top), temperature)
    p = references.rank_probabilities(6, temperature=temperature, where=WHERE)
    check_frequencies(draws["by_rank"], of_ids(references.selection_probabilities(p, 3)))
    check_frequencies(draws["better_of_two"], of_ids(references.better_of_two_probabilities(p, 3)))
    weights = references.rejuvenated_probabilities(top, temperature=temperature)
    check_frequencies(draws["rejuvenated"], of_ids(references.selection_probabilities(weights, 3)))
    law = references.pair_probabilities(p)  # of both pairs of a draw at once: they are independent, too
    pairs = [pair for pair in itertools.combinations(range(6), 2) if law[pair] > 0]
    both = {(i, k, j, m): law[i, j] * law[k, m] for (i, j), (k, m) in itertools.product(pairs, repeat=2)}
    check_frequencies(draws["pairs"], of_ids(both))


def test_ranked_pairs_of_a_long_list():
    length, n = 2000, 1600
    where = np.arange(length) % 5 > 0
    draw = jax.jit(partial(samplers.ranked_pairs, count=20_000))
    for temperature in (20.0, 400.0, 1e6):
        ids = draw(jax.random.key(0), np.arange(length), temperature=temperature, where=where)
        preferred, other = np.asarray(ids)
        assert (preferred < other).all()
        p = np.exp(-np.arange(n) / temperature)
        before, after = p.cumsum() - p, p[::-1].cumsum()[::-1] - p
        for drawn, weights in ((preferred, p * after), (other, p * before)):
            share = np.cumsum(weights) / weights.sum()
            cell = np.minimum(40 * share, 39).astype(int)
            exact = np.bincount(cell, weights) / weights.sum()
            rank = (np.cumsum(where) - 1)[drawn]
            check_frequencies(cell[rank][:, None], {(i,): chance for i, chance in enumerate(exact)})


def test_equal_counts_are_equally_likely_however_low_the_temperature():
    top = np.array([True] * 40 + [False] * 4 + [True] * 9)
    draw = jit(partial(samplers.rejuvenated_candidates, count=42, temperature=1e-6))
    draws = np.asarray(draw(jax.random.key(0), *many(np.arange(53), top)))
    assert (draws[:, :40] == np.arange(40)).all()  # counts of 49 to 10, then five of 9
    check_frequencies(draws[:, 40:], dict.fromkeys(itertools.combinations(range(40, 45), 2), 0.1))


def test_rejuvenated_candidates_count_to_fifty():
    top = np.ones(60, bool)
    draw = jit(partial(samplers.rejuvenated_candidates, count=1, temperature=10.0))
    weights = references.rejuvenated_probabilities(top, temperature=10.0)
    assert weights[0] == weights[10] > weights[11]
    check_frequencies(draw(jax.random.key(0), *many(np.arange(60), top)), {(i,): p for i, p in enumerate(weights)})


TEACHER, STUDENT = np.int32([2, 0, 1, 5, 3, 4, 6]), np.int32([4, 3, 0, 2, 6, 1, 5])


@jit
def disagree_many(key, teacher, student, sharpness):
    return samplers.by_disagreement(key, teacher, student, count=2, sharpness=sharpness, where=teacher < 6)


@pytest.mark.parametrize("sharpness", [0.1, 2.0])
def test_disagreement_has_the_exact_distribution(sharpness):
    weights = references.disagreement_weights(TEACHER, STUDENT, sharpness=sharpness)
    under, over = (references.selection_probabilities(np.where(TEACHER < 6, w, 0), 2) for w in weights)

    def by_teacher(places):
        return tuple(sorted(places, key=lambda place: TEACHER[place]))

    exact = {by_teacher(a) + by_teacher(b): under[a] * over[b] for a in under for b in over}
    draws = disagree_many(jax.random.key(2), *many(TEACHER, STUDENT), sharpness)
    check_frequencies(np.concatenate(draws, axis=-1), exact)


def test_the_complement_is_drawn_uniformly():
    count = 3
    excluded = np.int32([[7, 7, 7, 7, 7], [0, 7, 7, 7, 7], [1, 3, 6, 99, 99], [2, 3, 4, 5, 6]])
    draw = jit(partial(samplers.uniform_complement, items=7, count=count))
    draws = np.asarray(draw(jax.random.key(0), *many(excluded)))
    for row, mine in zip(draws.transpose(1, 0, 2), excluded, strict=True):
        free = references.complement(mine, 7)
        drawn = min(count, len(free))
        assert (row[:, drawn:] == -1).all()
        sets = list(itertools.combinations(free, drawn))
        check_frequencies(np.sort(row[:, :drawn], axis=-1), dict.fromkeys(sets, 1 / len(sets)))


def test_gumbel_selection():
    gate = np.float32([0.5, -1.0, 2.0, 0.0])
    select = jit(lambda key, gate, tau: samplers.gumbel_selection(key, gate, temperature=tau))
    soft, mild, hard = (np.float64(select(jax.random.key(0), *many(gate), tau)) for tau in (1.0, 2.0, 1e-10))
    alpha = np.exp(gate) / np.exp(gate).sum()
    best = soft.argmax(-1)
    check_frequencies(best[:, None], {(i,): p for i, p in enumerate(alpha.tolist())})
    assert (hard.argmax(-1) == best).all()
    assert (hard.max(-1) == 1).all()
    # One noise at all temperatures, whose differences are logistic, as those of Gumbel noise are.
    noise = np.log(soft) - np.log(alpha)
    exact = references.gumbel_selection(np.broadcast_to(gate, (100, 4)), noise[:100], temperature=2.0)
    assert np.allclose(mild[:100], exact, rtol=1e-4)
    assert stats.kstest(noise[:, 0] - noise[:, 2], "logistic").pvalue > 1e-4


def test_gumbel_selection_bounds_the_logarithm_and_has_finite_gradients():
    def select(gate, tau):
        return samplers.gumbel_selection(jax.random.key(1), gate, temperature=tau)

    gate = np.float32([0.0, 1e4, -1e4])
    slope = jit(jax.grad(lambda gate, tau: select(gate, tau)[0]))
    assert all(np.isfinite(slope(gate, tau)).all() for tau in (1.0, 1e-10))
    # exp(-23.02585) is 1e-10: with the bound it is twice what nothing at all is.
    least, less = (np.asarray(jit(select)(np.float32([0.0, top, 0.0]), 10.0)) for top in (1e4, 23.02585))
    assert np.isclose(less[0] / less[1] / (least[0] / least[1]), 2**0.1, rtol=1e-3)
    assert jax.eval_shape(select, jnp.ones(3, jnp.bfloat16), 1e-10).dtype == jnp.bfloat16


def test_annealed_temperature():
    progress = np.float32([[0.0, 0.25, 1.0]])
    exact = [[references.annealed_temperature(x) for x in progress[0].tolist()]]
    assert np.allclose(samplers.annealed_temperature(progress), exact, rtol=1e-5, atol=0)
    assert np.isclose(samplers.annealed_temperature(0.5, start=4.0, end=1.0), 2.0)


LENGTH, COUNT = 7, 4  # one shape, so one program for every example
seeds = st.integers(0, 2**31 - 1)
masks = st.lists(st.booleans(), min_size=LENGTH, max_size=LENGTH)
temperatures = st.sampled_from([0.0, 1e-30, 1e-3, 0.5, 5.0, 1e8, 1e38, np.inf])


@jit
def draw_four(seed, items, where, temperature):
    key, sizes = jax.random.key(seed), {"count": COUNT, "temperature": temperature}
    drawn = [draw(key, items, **sizes, where=where) for draw in BY_RANK.values()]
    return (
        drawn,
        samplers.ranked_pairs(key, items, **sizes, where=where),
        samplers.rejuvenated_candidates(key, items, where, **sizes),
    )


@settings(max_examples=60, deadline=None)
@given(st.permutations(list(range(100, 100 + LENGTH))), masks, temperatures, seeds)
def test_every_draw_from_a_list(items, where, temperature, seed):
    counted = [i for i, counts in zip(items, where, strict=True) if counts]
    by_rank, pairs, student = draw_four(seed, np.int32(items), np.array(where), temperature)
    assert {x.dtype for x in (*by_rank, *pairs, student)} == {jnp.dtype(jnp.int32)}
    for draw in by_rank:
        drawn = [i for i in draw.tolist() if i != -1]
        assert draw.tolist() == drawn + [-1] * (COUNT - min(COUNT, len(counted)))
        assert drawn == [i for i in counted if i in drawn]  # distinct, counted, in the order of the list
        assert temperature > 1e-3 or drawn == counted[:COUNT]

    preferred, other = (x.tolist() for x in pairs)
    if len(counted) < 2:
        assert preferred == other == [-1] * COUNT
    else:
        assert all(counted.index(i) < counted.index(j) for i, j in zip(preferred, other, strict=True))
        assert temperature > 1e-3 or (preferred, other) == ([counted[0]] * COUNT, [counted[1]] * COUNT)

    drawn = student.tolist()
    assert drawn == [i for i in items if i in drawn]
    assert len(drawn) == COUNT
    assert temperature > 0 or drawn == items[:COUNT]  # the counts never rise along the list
    if temperature <= 1e-3:  # the highest counts, though not which of equal ones
        below = {i: sum(where[place:]) for place, i in enumerate(items)}
        assert sorted((below[i] for i in drawn), reverse=True) == sorted(below.values(), reverse=True)[:COUNT]


@jit
def disagree_four(seed, teacher, student, where, sharpness):
    key = jax.random.key(seed)
    return samplers.by_disagreement(key, teacher, student, count=COUNT, sharpness=sharpness, where=where)


ranks = st.permutations(list(range(LENGTH)))


@settings(max_examples=60, deadline=None)
@given(ranks, ranks, masks, st.sampled_from([0.0, 1e-20, 0.1, 1e4, 1e30]), seeds)
def test_every_draw_by_disagreement(teacher, student, where, sharpness, seed):
    draws = disagree_four(seed, np.int32(teacher), np.int32(student), np.array(where), sharpness)
    for draw, sign in zip(draws, (1, -1), strict=True):
        possible = [i for i in range(LENGTH) if where[i] and sharpness * sign * (student[i] - teacher[i]) > 0]
        drawn = [i for i in draw.tolist() if i != -1]
        assert draw.dtype == jnp.int32
        assert draw.tolist() == drawn + [-1] * (COUNT - min(COUNT, len(possible)))
        assert set(drawn) <= set(possible)
        assert drawn == sorted(set(drawn), key=lambda i: teacher[i])


USERS, CATALOG, LISTED, WIDTH = 3, 11, 5, 9


@jit
def complement_four(seed, seen, lists):
    union = samplers.excluded(seen, jnp.arange(USERS), lists, width=WIDTH)
    return union, samplers.uniform_complement(jax.random.key(seed), union, items=CATALOG, count=COUNT)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, CATALOG - 1), max_size=CATALOG), min_size=USERS, max_size=USERS),
    st.lists(st.integers(-1, CATALOG - 1), min_size=USERS * LISTED, max_size=USERS * LISTED),
    seeds,
)
def test_what_users_have_or_list_is_never_drawn(have, listed, seed):
    offsets = np.cumsum([0, *map(len, have)]).astype(np.int32)
    rows = np.zeros(USERS * CATALOG, np.int32)  # behind the last user: nobody's
    rows[: offsets[-1]] = [i for mine in have for i in sorted(mine)]
    lists = np.int32(listed).reshape(USERS, LISTED)
    unions, draws = complement_four(seed, data.Seen(offsets, rows), lists)
    assert unions.dtype == draws.dtype == jnp.int32
    exact = references.excluded(have, lists, items=CATALOG, width=CATALOG)[:, :WIDTH]  # the rest has no room
    assert np.array_equal(np.where(unions == 2**31 - 1, CATALOG, unions), exact)
    for out, draw in zip(exact, draws.tolist(), strict=True):
        free = references.complement(out, CATALOG)
        drawn = [i for i in draw if i != -1]
        assert draw == drawn + [-1] * (COUNT - min(COUNT, len(free)))
        assert len(set(drawn)) == len(drawn)
        assert set(drawn) <= set(free)


def test_a_large_catalog():
    random, items = np.random.default_rng(0), 50_000
    sizes = (0, 1, 49_990, 25_000)
    excluded = np.full((4, 49_990), items, np.int32)
    for row, size in zip(excluded, sizes, strict=True):
        row[:size] = np.sort(random.choice(items, size, replace=False))
    draw = jit(partial(samplers.uniform_complement, items=items, count=200))
    for mine, row, size in zip(excluded, np.asarray(draw(jax.random.key(0), excluded)), sizes, strict=True):
        drawn = row[row >= 0]
        assert len(set(drawn.tolist())) == len(drawn) == min(200, items - size)
        assert not np.isin(drawn, mine).any()
        assert drawn.max() < items


def test_short_lists():
    nobody = data.Seen(np.zeros(3, np.int32), np.zeros(0, np.int32))

    @jit
    def draw(key, items):
        sizes = {"count": 2, "temperature": 1.0}
        lists = {}
        for length in (0, 1):
            x = items[:, :length]
            lists[length] = [*(sampler(key, x, **sizes) for sampler in BY_RANK.values())]
            lists[length] += [samplers.rejuvenated_candidates(key, x, x > 1, **sizes)]
        pairs = [ids for length in (0, 1) for ids in samplers.ranked_pairs(key, items[:, :length], **sizes)]
        places = samplers.by_disagreement(key, items[:, :1], items[:, :1] + 2, count=2, sharpness=1.0)
        nothing = samplers.by_disagreement(key, items[:, :0], items[:, :0], count=2, sharpness=1.0)
        return lists, (*pairs, *nothing), places

    @jit
    def leave_out(key, lists):
        users, empty = jnp.arange(2), lists[:, :0]
        drawn = samplers.uniform_complement(key, empty, items=3, count=4)
        none = samplers.excluded(nobody, users, empty, width=0)
        return samplers.excluded(nobody, users, lists, width=3), none, drawn

    key = jax.random.key(0)
    lists, nothing, (under, over) = draw(key, np.int32([[5, 1, 3], [0, 2, 1]]))
    assert all(ids.tolist() == [[-1, -1]] * 2 for ids in (*lists[0], *nothing, over))
    assert all(ids.tolist() == [[5, -1], [0, -1]] for ids in lists[1])
    assert under.tolist() == [[0, -1]] * 2

    last = 2**31 - 1
    union, none, drawn = leave_out(key, np.int32([[3, 1], [-1, 2]]))
    assert union.tolist() == [[1, 3, last], [2, last, last]]
    assert none.shape == (2, 0)
    assert np.sort(drawn, axis=-1).tolist() == [[-1, 0, 1, 2]] * 2


LISTS = np.int32([[3, 0, 1, 2, 4], [0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 0, 3, 2, 4]])
SEEN = data.Seen(np.int32([0, 1, 3, 3, 4, 6]), np.int32([4, 5, 7, 0, 1, 8]))


def every_sampler(key, x, tau):
    sizes = {"count": 2, "temperature": tau}
    return {
        "by_rank": samplers.by_rank(key, x, **sizes),
        "better_of_two": samplers.better_of_two(key, x, **sizes, where=x != 2),
        "ranked_pairs": samplers.ranked_pairs(key, x, **sizes, where=x != 2),
        "by_disagreement": samplers.by_disagreement(key, x, x[..., ::-1], count=1, sharpness=tau),
        "rejuvenated_candidates": samplers.rejuvenated_candidates(key, x, x > 2, **sizes),
        "excluded": (excluded := samplers.excluded(SEEN, x[..., 0], x, width=7)),
        "uniform_complement": samplers.uniform_complement(key, excluded, items=9, count=2),
        "gumbel_selection": samplers.gumbel_selection(key, x.astype(jnp.float32), temperature=tau),
    }


def test_jit_and_vmap_equal_the_loop():
    traces = []

    @jit
    def one(key, x, tau):
        traces.append(1)
        return every_sampler(key, x, tau)

    keys, taus = jax.random.split(jax.random.key(5), 4), np.float32([0.5, 1.0, 2.0, 4.0])
    with jax.numpy_dtype_promotion("strict"), jax.debug_nans(True):
        together = jit(jax.vmap(every_sampler))(keys, LISTS, taus)
        alone = [one(keys[i], LISTS[i], taus[i]) for i in (0, 1, 2, 3)]
        again, other = one(keys[0], LISTS[0], taus[0]), [one(key, LISTS[0], taus[3]) for key in keys]
    assert len(traces) == 1
    for i in range(4):
        same = jax.tree.map(lambda a, b: np.allclose(a[i], b, atol=1e-6), together, alone[i])  # noqa: B023
        assert all(jax.tree.leaves(same)), same
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), again, alone[0])))
    for name in set(again) - {"excluded"}:
        drawn = [np.stack(jax.tree.leaves(draws[name])) for draws in other]
        assert any((x != drawn[0]).any() for x in drawn), name


def test_ids_are_int32_where_64_bits_are_on():
    with jax.enable_x64(True):
        x = jnp.asarray(LISTS.astype(np.int64)).reshape(2, 2, 5)
        shapes = jax.eval_shape(every_sampler, jax.random.key(0), x, jnp.float64(1.5))
    assert shapes.pop("gumbel_selection").shape == (2, 2, 5)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.int32)}
    assert {leaf.shape[:2] for leaf in jax.tree.leaves(shapes)} == {(2, 2)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 6))
def test_popularity_groups(counts, groups):
    group = samplers.popularity_groups(np.array(counts, int), groups)
    assert group.dtype == np.int32
    assert group.tolist() == references.popularity_groups(counts, groups).tolist()
    if sum(counts):
        totals = np.bincount(group, counts, groups)
        assert (np.abs(totals - sum(counts) / groups) <= max(counts)).all()
    popular = np.argsort(-np.array(counts, int), kind="stable")
    assert (np.diff(group[popular]) >= 0).all()


def test_popularity_groups_of_large_and_of_no_counts():
    assert samplers.popularity_groups(np.full(6, 2_000_000_000, np.int32), 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert samplers.popularity_groups(np.array([1, 200, 100, 100], np.uint8), 2).tolist() == [1, 0, 0, 1]
    assert samplers.popularity_groups(np.zeros(2, int), 3).tolist() == [0, 0]


KEY, IDS, ONES = jax.random.key(0), np.arange(4), np.ones(3, bool)
ONE_USER = data.Seen(np.array([0, 1]), np.array([2]))
LIST_SAMPLERS = [*BY_RANK.values(), samplers.ranked_pairs]
REFUSED = [
    *((partial(draw, KEY, IDS), {"count": 0}, ValueError, r"count of at least 1, got 0") for draw in LIST_SAMPLERS),
    *((partial(draw, KEY, IDS), {"where": ONES}, ValueError, r"expected shape \(4,\)") for draw in LIST_SAMPLERS),
    *((partial(draw, KEY, IDS), {"where": IDS}, TypeError, "where: expected dtype bool") for draw in LIST_SAMPLERS),
    *((partial(draw, KEY, IDS * 1.0), {}, TypeError, "items: expected an integer dtype") for draw in LIST_SAMPLERS),
    *((partial(draw, KEY, IDS[0]), {}, ValueError, "got a scalar") for draw in LIST_SAMPLERS),
    (partial(samplers.rejuvenated_candidates, KEY, IDS, ONES), {}, ValueError, "expected equal shapes"),
    (partial(samplers.rejuvenated_candidates, KEY, IDS, IDS), {}, TypeError, "teacher_top: expected dtype bool"),
    (partial(samplers.rejuvenated_candidates, KEY, ONES, ONES), {}, TypeError, "items: expected an integer dtype"),
]


@pytest.mark.parametrize(("draw", "others", "error", "match"), REFUSED)
def test_refused_lists(draw, others, error, match):
    with pytest.raises(error, match=match):
        draw(**{"count": 2, "temperature": 1.0, **others})


@pytest.mark.parametrize(
    ("draw", "error", "match"),
    [
        (partial(samplers.by_disagreement, KEY, IDS, IDS[:3]), ValueError, "expected equal shapes"),
        (partial(samplers.by_disagreement, KEY, IDS, IDS, where=ONES), ValueError, "where: expected shape"),
        (partial(samplers.by_disagreement, KEY, IDS, IDS, where=IDS), TypeError, "where: expected dtype bool"),
        (partial(samplers.by_disagreement, KEY, IDS, IDS, count=0), ValueError, "count of at least 1"),
    ],
)
def test_refused_ranks(draw, error, match):
    with pytest.raises(error, match=match):
        draw(**{"count": 1, "sharpness": 1.0, **draw.keywords})


@pytest.mark.parametrize(
    ("draw", "error", "match"),
    [
        (partial(samplers.uniform_complement, KEY, IDS * 1.0, items=9, count=1), TypeError, "an integer dtype"),
        (partial(samplers.uniform_complement, KEY, IDS, items=9, count=0), ValueError, "count of at least 1"),
        (partial(samplers.uniform_complement, KEY, IDS[0], items=9, count=1), ValueError, "got a scalar"),
        (partial(samplers.excluded, ONE_USER, IDS[:1], IDS, width=1), ValueError, r"lists of shape \(1,\) and one"),
        (partial(samplers.excluded, ONE_USER, IDS[:1], IDS[None], width=-1), ValueError, "width of at least 0"),
        (
            partial(samplers.excluded, ONE_USER, IDS[:1], IDS[None] * 1.0, width=1),
            TypeError,
            "lists: expected an integer",
        ),
        (partial(samplers.gumbel_selection, KEY, IDS, temperature=1.0), TypeError, "gate: expected a floating dtype"),
        (partial(samplers.gumbel_selection, KEY, np.float32(1), temperature=1.0), ValueError, "got a scalar"),
        (partial(samplers.popularity_groups, IDS[None], 1), ValueError, r"counts of shape \[items\]"),
        (partial(samplers.popularity_groups, IDS, 0), ValueError, "at least 1 group"),
        (partial(samplers.popularity_groups, IDS * 1.0, 1), TypeError, "integer dtype"),
    ],
)
def test_refused(draw, error, match):
    with pytest.raises(error, match=match):
        draw()
