"""Splits: every row in one part, time never leaks, and the counts say who is left out."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recjax import data
from recjax.errors import InputError


def make(pairs: list[tuple[int, int]], times: list[float] | None = None) -> data.Interactions:
    user, item = np.array(pairs, np.int32).reshape(-1, 2).T
    users, items = (np.arange(int(ids.max(initial=-1)) + 1).astype(str) for ids in (user, item))
    return data.Interactions(user, item, users, items, timestamp=None if times is None else np.array(times, float))


def rows(log: data.Interactions) -> list[tuple]:
    columns = [log.user, log.item] + ([] if log.timestamp is None else [log.timestamp])
    return list(zip(*(values.tolist() for values in columns), strict=True))


def pairs_of(log: data.Interactions) -> set[tuple[int, int]]:
    return set(zip(log.user.tolist(), log.item.tolist(), strict=True))


@st.composite
def logs(draw, least: int = 1) -> data.Interactions:
    pairs = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=least, max_size=60, unique=True))
    times = draw(st.lists(st.integers(0, 30), min_size=len(pairs), max_size=len(pairs)))
    return make(pairs, times)


def check_partition(log: data.Interactions, split: data.Split) -> None:
    """Each row in exactly one part, in the log's order, over the log's vocabulary, and counted."""
    assert sorted(row for part in split[:3] for row in rows(part)) == sorted(rows(log))
    place = {row: i for i, row in enumerate(rows(log))}
    for part in split[:3]:
        assert [place[row] for row in rows(part)] == sorted(place[row] for row in rows(part))
        assert part.user_ids is log.user_ids
        assert part.item_ids is log.item_ids
    train, valid, test, counts = split
    assert [counts[f"{name}_rows"] for name in ("train", "valid", "test")] == [len(train), len(valid), len(test)]
    everyone = set(range(log.users))
    assert counts["users_not_in_train"] == len(everyone - set(train.user.tolist()))
    assert counts["users_without_valid"] == len(everyone - set(valid.user.tolist()))
    assert counts["users_without_test"] == len(everyone - set(test.user.tolist()))
    assert counts["items_not_in_train"] == log.items - len(set(train.item.tolist()))


shares = st.floats(0.01, 0.6)


@settings(max_examples=150, deadline=None)
@given(logs(), shares, shares, st.randoms(use_true_random=False))
def test_split_by_time(log, valid, test, shuffle):
    assume(valid + test < 1)
    try:
        split = data.split_by_time(log, valid=valid, test=test)
    except InputError:  # a part would be empty: test_empty_parts_and_seeds
        return
    check_partition(log, split)
    train, middle, last, _ = split
    assert train.timestamp.max() < middle.timestamp.min()  # strictly: equal timestamps are together
    assert middle.timestamp.max() < last.timestamp.min()
    n = len(log)  # a run that a cut would part goes to the earlier side, and no further rows with it
    for earlier, cut in ((len(train), n - round(n * (valid + test))), (len(train) + len(middle), n - round(n * test))):
        ordered = np.sort(log.timestamp)
        assert earlier >= cut
        assert ordered[earlier - 1] == ordered[cut - 1]

    order = list(range(n))
    shuffle.shuffle(order)
    again = data.split_by_time(log.take(np.array(order)), valid=valid, test=test)
    assert [pairs_of(part) for part in again[:3]] == [pairs_of(part) for part in split[:3]]


def test_split_by_time_ties_go_to_the_earlier_part():
    times = [1, 1, 2, 2, 2, 2, 3, 3, 4, 5]
    split = data.split_by_time(make([(0, i) for i in range(10)], times), valid=0.5, test=0.2)
    assert [part.timestamp.tolist() for part in split[:3]] == [[1, 1, 2, 2, 2, 2], [3, 3], [4, 5]]


def brute_last_out(log: data.Interactions) -> tuple[list, list, list]:
    parts = [], [], []
    for user in range(log.users):
        mine = [(t, place, (u, i, t)) for place, (u, i, t) in enumerate(rows(log)) if u == user]
        mine = [row for _, _, row in sorted(mine)]
        cut = len(mine) - 2 if len(mine) >= 3 else len(mine)
        parts[0].extend(mine[:cut])
        parts[1].extend(mine[cut : cut + 1])
        parts[2].extend(mine[cut + 1 :])
    return parts


@settings(max_examples=150, deadline=None)
@given(logs())
def test_leave_last_out(log):
    wanted = brute_last_out(log)
    if not wanted[2]:
        with pytest.raises(InputError, match="fewer than three"):
            data.leave_last_out(log)
        return
    split = data.leave_last_out(log)
    check_partition(log, split)
    assert [sorted(rows(part)) for part in split[:3]] == [sorted(part) for part in wanted]
    sizes = np.bincount(log.user, minlength=log.users)
    assert split.counts["users_too_short"] == ((sizes > 0) & (sizes < 3)).sum()
    tied = sum(t == max((s for v, j, s in rows(log) if v == u and j != i)) for u, i, t in wanted[2])
    assert split.counts["tied_last_rows"] == tied


def test_leave_last_out_takes_the_later_row_of_the_file_among_equals():
    split = data.leave_last_out(make([(0, 2), (0, 0), (0, 1), (1, 1)], [7, 7, 7, 9]))
    assert rows(split.train) == [(0, 2, 7), (1, 1, 9)]
    assert (rows(split.valid), rows(split.test)) == ([(0, 0, 7)], [(0, 1, 7)])
    assert (split.counts["users_too_short"], split.counts["tied_last_rows"]) == (1, 1)


@settings(max_examples=100, deadline=None)
@given(logs(), shares, shares, st.integers(0, 5))
def test_split_random(log, valid, test, seed):
    assume(valid + test < 1)
    try:
        split = data.split_random(log, seed, valid=valid, test=test)
    except InputError:  # a part would be empty: test_empty_parts_and_seeds
        return
    check_partition(log, split)
    sizes, train, middle, last = (np.bincount(part.user, minlength=log.users) for part in (log, *split[:3]))
    assert (train[sizes > 0] >= 1).all()
    roomy = sizes >= 5 / (1 - valid - test)  # where train's floor of one row plays no part
    assert (np.abs(last - sizes * test)[roomy] <= 0.5 + 1e-9).all()
    assert (np.abs(middle - sizes * valid)[roomy] <= 0.5 + 1e-9).all()
    again = data.split_random(log, seed, valid=valid, test=test)
    assert [rows(part) for part in again[:3]] == [rows(part) for part in split[:3]]


def test_split_random_is_uniform_over_a_users_rows():
    log = make([(u, i) for u in range(2) for i in range(10)])
    chosen = np.zeros(20)
    for seed in range(1000):
        test = data.split_random(log, seed, valid=0.1, test=0.2).test
        chosen[test.user * 10 + test.item] += 1
    assert np.abs(chosen - 200).max() < 5 * np.sqrt(1000 * 0.2 * 0.8)


def test_small_users_stay_in_train():
    log = make([(u, i) for u, n in enumerate((1, 2, 4, 5, 20)) for i in range(n)])
    split = data.split_random(log, 0)
    assert np.bincount(split.valid.user, minlength=5).tolist() == [0, 0, 0, 1, 2]
    assert np.bincount(split.test.user, minlength=5).tolist() == [0, 0, 0, 1, 2]
    assert split.counts["users_without_test"] == 3


@pytest.mark.parametrize("split", [data.split_by_time, data.leave_last_out])
def test_no_timestamps(split):
    with pytest.raises(InputError, match=r"expected a log with timestamps, got none.*timestamp_column"):
        split(make([(0, 0), (0, 1), (0, 2)]))


@pytest.mark.parametrize("split", [data.split_by_time, lambda log, **k: data.split_random(log, 0, **k)])
@pytest.mark.parametrize(
    ("valid", "test", "expected"),
    [
        (0.0, 0.1, "option valid: .*got 0.0"),
        (0.1, 1.5, "option test: .*got 1.5"),
        (0.5, 0.5, "a sum below 1"),
        (0.1, float("nan"), "nan"),
    ],
)
def test_bad_shares(split, valid, test, expected):
    log = make([(0, i) for i in range(20)], list(range(20)))
    with pytest.raises(InputError, match=expected):
        split(log, valid=valid, test=test)


def test_empty_parts_and_seeds():
    with pytest.raises(InputError, match="got 20 train, 0 valid, 0 test rows"):
        data.split_by_time(make([(0, i) for i in range(20)], [5] * 20))
    with pytest.raises(InputError, match="0 valid, 0 test"):
        data.leave_last_out(make([(0, 0), (1, 0)], [1, 2]))
    with pytest.raises(InputError, match="0 valid, 0 test"):
        data.split_random(make([(0, 0), (1, 0)]), 0)
    with pytest.raises(InputError, match=r"option seed: .*got -1"):
        data.split_random(make([(0, 0), (1, 0)]), -1)


# Filtering


def brute_core(pairs: list[tuple[int, int]], k: int) -> list[tuple[int, int]]:
    while True:
        kept = [p for p in pairs if sum(q[0] == p[0] for q in pairs) >= k and sum(q[1] == p[1] for q in pairs) >= k]
        if kept == pairs:
            return kept
        pairs = kept


@settings(max_examples=50, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1), st.integers(1, 4))
def test_k_core_against_brute_force(pairs, k):
    pairs = list(pairs)
    user, item = np.array(pairs, np.int32).T
    ids = np.array([f"id{i}" for i in range(8)])
    features = data.Features(np.arange(16, dtype=np.float32).reshape(8, 2), ("a", "b"))
    log = data.Interactions(
        user, item, ids, ids, titles=ids, user_features=features, item_features=features, timestamp=user * 1.0
    )
    wanted = brute_core(pairs, k)
    if not wanted:
        with pytest.raises(InputError, match="k-core"):
            data.k_core(log, k)
        return
    core = data.k_core(log, k)
    got = zip(core.user_ids[core.user].tolist(), core.item_ids[core.item].tolist(), strict=True)
    assert list(got) == [(f"id{u}", f"id{i}") for u, i in wanted]
    assert set(core.user) == set(range(core.users))
    assert set(core.item) == set(range(core.items))
    assert core.titles.tolist() == core.item_ids.tolist()
    for which, names in ((core.user_features, core.user_ids), (core.item_features, core.item_ids)):
        assert which.values[:, 0].tolist() == [2.0 * int(name[2:]) for name in names]
    assert core.counts["k_core_dropped"] == len(pairs) - len(wanted)
    assert core.counts["k_core_dropped_users"] == 8 - core.users


def test_k_core_option():
    log = data.synthetic(users=20, items=20, interactions_per_user=5)
    with pytest.raises(InputError, match=r"option k-core: .*got 0"):
        data.k_core(log, 0)


# The records


def test_interactions_refuses_what_does_not_fit():
    good = make([(0, 0), (1, 1)], [1, 2])
    fields = {name: getattr(good, name) for name in ("user", "item", "user_ids", "item_ids", "timestamp")}
    for wrong, expected in (
        ({"user": good.user.astype(np.int64)}, "int32"),
        ({"user": np.int32([0, 2])}, "positions in 0..1"),
        ({"item": np.int32([-1, 0])}, "positions"),
        ({"item": np.int32([0])}, "item: expected 2 rows, got 1"),
        ({"timestamp": np.zeros(3)}, "timestamp: expected 2 rows"),
        ({"titles": np.array(["x"])}, "titles: expected 2 rows"),
        ({"item_features": data.Features(np.zeros((3, 1), np.float32), ("a",))}, "item_features: expected 2 rows"),
    ):
        with pytest.raises(ValueError, match=expected):
            data.Interactions(**(fields | wrong))


def test_take():
    log = make([(0, 1), (1, 0), (0, 0)], [5, 6, 7])
    for taken in (np.array([True, False, True]), np.array([0, 2]), slice(0, 3, 2)):
        assert rows(log.take(taken)) == [(0, 1, 5.0), (0, 0, 7.0)]
    assert len(log.take(np.zeros(3, bool))) == 0


@settings(max_examples=50, deadline=None)
@given(logs(), logs())
def test_seen_is_the_union(first, second):
    ids = np.arange(10).astype(str)
    first, second = (data.Interactions(log.user, log.item, ids, ids) for log in (first, second))
    offsets, items = data.seen(first, second)
    assert (offsets.dtype, items.dtype) == (np.int32, np.int32)
    union = pairs_of(first) | pairs_of(second)
    for user in range(10):
        assert items[offsets[user] : offsets[user + 1]].tolist() == sorted(i for u, i in union if u == user)


def test_seen_of_strangers():
    with pytest.raises(ValueError, match="one vocabulary"):
        data.seen(make([(0, 0)]), make([(0, 1)]))
    with pytest.raises(ValueError, match="one vocabulary"):
        data.seen()
    empty = make([(0, 0)]).take(slice(0, 0))
    assert [a.tolist() for a in data.seen(empty)] == [[0, 0], []]
