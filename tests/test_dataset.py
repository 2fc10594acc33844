"""Data sets against lists of events, user by user, made of the rows of a split."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recjax import data
from recjax.data import HeldOut, Histories, Interactions, Queries
from recjax.errors import InputError

SPLITS = {
    "random": lambda log: data.split_random(log, seed=1, valid=0.2, test=0.2),
    "time": lambda log: data.split_by_time(log, valid=0.2, test=0.2),
    "last out": data.leave_last_out,
}


@st.composite
def splits(draw):
    """A split of a log with repeats, ties in time, and users with few events; ratings or none."""
    rows = draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 7), st.integers(0, 9)), min_size=8, max_size=50))
    user, item, time = np.array(rows, np.int32).T
    rating = None if draw(st.booleans()) else np.float32(draw(st.lists(st.integers(1, 5), min_size=1))[0] + time % 4)
    ids = np.array([f"u{n}" for n in range(7)]), np.array([f"i{n}" for n in range(8)])
    log = Interactions(user, item, *ids, rating=rating, timestamp=time.astype(float))
    try:
        return SPLITS[draw(st.sampled_from(sorted(SPLITS)))](log)
    except InputError:  # a part would be empty
        assume(False)


def slow_events(part, user):
    """``(item, rating)`` of one user in one part: by time, of equal times in the order of the rows."""
    rows = [row for row in range(len(part)) if part.user[row] == user]
    rows.sort(key=lambda row: part.timestamp[row])
    return [(int(part.item[row]), None if part.rating is None else float(part.rating[row])) for row in rows]


@settings(max_examples=120, deadline=None)
@given(splits())
def test_a_data_set_is_the_lists_of_its_users(split):
    found, parts = data.dataset(split), split[:3]
    order = sorted(range(split.users), key=lambda user: (not slow_events(split.train, user), user))
    assert found.user_ids.tolist() == [split.train.user_ids[user] for user in order]
    assert found.item_ids.tolist() == split.train.item_ids.tolist()
    assert found.users == sum(bool(slow_events(split.train, user)) for user in order)
    top = 1.0 if split.train.rating is None else np.quantile(split.train.rating, 0.99)
    histories = []
    for position, user in enumerate(order):
        begin, train_end, valid_end = found.log.offsets[position], found.train_end[position], found.valid_end[position]
        bounds = (begin, train_end, valid_end, found.log.offsets[position + 1])
        own = [slow_events(part, user) for part in parts]
        for part, (start, end) in enumerate(itertools.pairwise(bounds)):
            assert found.log.items[start:end].tolist() == [item for item, _ in own[part]]  # repeats are kept
            weights = [1.0 if rating is None else min(max(rating / top, 0.05), 1.0) for _, rating in own[part]]
            np.testing.assert_allclose(found.log.weight[start:end], weights, rtol=1e-6)
        histories.append([[item for item, _ in events] for events in own])
    assert found.log.offsets[-1] == sum(map(len, parts)) == len(found.log.items)
    assert {array.dtype.name for array in (found.log.offsets, found.log.items, found.train_end)} == {"int32"}
    assert found.timed

    learned = histories[: found.users]
    assert found.training_users.tolist() == [user for user, (train, *_) in enumerate(learned) for _ in train]
    assert found.log.items[found.training_rows].tolist() == [item for train, *_ in learned for item in train]
    assert found.popularity().tolist() == [
        sum(train.count(item) for train, *_ in histories) for item in range(found.items)
    ]

    def seen_and_wanted(held):
        bounds = zip(held.user, found.log.offsets[held.user], held.end, held.until, strict=True)
        items = found.log.items
        return {int(u): (items[begin:end].tolist(), items[end:until].tolist()) for u, begin, end, until in bounds}

    # Users that can't be learned from are not evaluated; queries of the test see train and validation.
    valid = {u: (train, held) for u, (train, held, _) in enumerate(learned) if held}
    test = {u: (train + held, later) for u, (train, held, later) in enumerate(learned) if later}
    assert seen_and_wanted(found.valid) == valid
    assert seen_and_wanted(found.test) == test
    counted = dataclasses.replace(found, count_empty=True)
    assert seen_and_wanted(counted.test) == {u: (a + b, c) for u, (a, b, c) in enumerate(learned)}
    assert seen_and_wanted(counted.valid) == {u: (a, b) for u, (a, b, _) in enumerate(learned)}

    ends = found.last.end
    assert [found.log.items[found.log.offsets[u] : ends[u]].tolist() for u in found.last.user] == [
        train for train, *_ in learned
    ]
    again = found.with_valid()
    assert seen_and_wanted(again.test) == test
    assert len(again.valid.user) == 0
    assert again.log.items[again.training_rows].tolist() == [i for train, held, _ in learned for i in train + held]
    assert (again.users, again.user_ids.tolist()) == (found.users, found.user_ids.tolist())


@settings(max_examples=60, deadline=None)
@given(splits())
def test_the_matrix_has_each_pair_once_with_its_largest_weight(split):
    found = data.dataset(split)
    expected = np.zeros((found.users, found.items), np.float32)
    rows = found.training_rows
    for user, item, weight in zip(found.training_users, found.log.items[rows], found.log.weight[rows], strict=True):
        expected[user, item] = max(expected[user, item], weight)
    weighted, plain = found.matrix(weighted=True), found.matrix()
    np.testing.assert_array_equal(weighted.toarray(), expected)
    np.testing.assert_array_equal(plain.toarray(), (expected > 0).astype(np.float32))
    assert weighted.nnz == plain.nnz == (expected > 0).sum()
    assert weighted.dtype == plain.dtype == np.float32


@given(st.lists(st.integers(0, 12), min_size=3, max_size=3), st.sampled_from([0, 1, 4, 15]), st.data())
@settings(max_examples=60, deadline=None)
def test_a_batch_of_histories_is_the_latest_events_before_each_end(cuts, length, draw):
    offsets = np.array([0, *sorted(cuts), 12], np.int32)  # some users may have no events
    items = np.arange(100, 112, dtype=np.int32)
    log = Histories(offsets, items, np.ones(len(items), np.float32))
    moments = st.integers(0, 3).flatmap(
        lambda user: st.tuples(st.just(user), st.integers(int(offsets[user]), int(offsets[user + 1])))
    )
    user, end = np.array(draw.draw(st.lists(moments, min_size=3, max_size=3)), np.int32).T
    expected = []
    for u, e in zip(user, end, strict=True):
        latest = items[offsets[u] : e][max(0, e - offsets[u] - length) :].tolist()
        expected.append([data.PADDING] * (length - len(latest)) + latest)
    for queries in (Queries(user, end), HeldOut(user, end, end)):
        found = data.history_batch(log, queries, length)
        assert found["history"].tolist() == expected
        assert found["history"].shape == (3, length)
        assert found["user"].tolist() == user.tolist()


def test_what_a_log_knows_of_users_goes_where_they_go():
    ids = np.array(["a", "b", "c"]), np.array(["x", "y"])
    features = data.Features(np.float32([[0], [1], [2]]), ("age",))
    log = Interactions(
        np.int32([2, 1, 2, 0]), np.int32([0, 1, 1, 0]), *ids, user_features=features, titles=np.array(["X", ""])
    )
    found = data.dataset(data.Split(log.take([0, 1]), log.take([2]), log.take([3]), {"train_rows": 2}))
    assert found.user_ids.tolist() == ["b", "c", "a"]
    assert found.user_features is not None
    assert found.user_features.values[:, 0].tolist() == [1, 2, 0]
    assert found.titles.tolist() == ["X", ""]
    assert found.counts["train_rows"] == 2
    assert not found.timed
    assert found.valid.user.tolist() == [1]
    assert found.test.user.tolist() == []  # "a" has nothing to learn from
    assert data.dataset(data.Split(*[dataclasses.replace(log, titles=None)] * 3, {})).titles.tolist() == ["", ""]


@pytest.mark.parametrize("name", SPLITS)
def test_no_event_of_the_future_is_in_a_history(name):
    """Of splits that keep the order of time; a random one does not."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, (9, 20), (200, 2)).astype(np.int32).T
    time = rng.permutation(200).astype(float)
    ids = np.arange(9).astype(str), np.arange(20).astype(str)
    found = data.dataset(SPLITS[name](Interactions(user, item, *ids, timestamp=time)))
    when = {(u, i, n): t for n, (u, i, t) in enumerate(zip(user, item, time, strict=True))}
    leaks = 0
    for held in (found.valid, found.test):
        for u, begin, end, until in zip(held.user, found.log.offsets[held.user], held.end, held.until, strict=True):
            raw = int(found.user_ids[u])
            times = {i: [t for (v, j, _), t in when.items() if (v, j) == (raw, i)] for i in range(20)}
            before, after = found.log.items[begin:end], found.log.items[end:until]
            leaks += max((min(times[i]) for i in before), default=-1) > min(max(times[i]) for i in after)
    assert (leaks > 0) == (name == "random")
