"""Positions come from the ids alone, so no order of a file's rows changes a ranking of equal scores."""

import numpy as np
import pytest
from references import encode as twins

from recjax import data, evaluate, ids, metrics

IDS = ["7", "007", "zoë", "x y", "日本", "a" * 300, "u1", "u2", "u3"]
SPLITS = {
    "by time": data.split_by_time,
    "last out": data.leave_last_out,
    "random": lambda log: data.split_random(log, 0),
}


def test_hashes_are_blake2b():
    hashes = data.id_hash(IDS)
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [twins.hash_id(raw, 2**64) for raw in IDS]
    assert hashes[0] == int.from_bytes(bytes.fromhex("e75017cace788f82"), "little")  # what `b2sum -l 64` prints
    assert data.id_hash([]).shape == (0,)


def test_a_vocabulary_is_sorted_by_hash_then_by_text():
    assert np.array(IDS)[ids.vocabulary_order(np.array(IDS))].tolist() == twins.by_hash(IDS)
    assert ids._order(np.uint64([5, 1, 5, 5]), np.array(["b", "c", "a", "é"])).tolist() == [1, 2, 0, 3]


def test_logs_have_such_vocabularies(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\n" + "".join(f"{a},{b}\n" for a in IDS for b in IDS))
    (tmp_path / "lists.txt").write_text("".join(f"{a} 1 2 3 4 5 6\n" for a in "1234"))
    logs = [data.read(tmp_path / "log.csv"), data.synthetic(users=20, items=20, interactions_per_user=5)]
    logs += [data.read_sequences(tmp_path / "lists.txt"), data.k_core(logs[1], 3)]
    logs += [data.read_split(tmp_path / "lists.txt", None, tmp_path / "log.csv").train]
    for log in logs:
        for vocabulary in (log.user_ids.tolist(), log.item_ids.tolist()):
            assert vocabulary == twins.by_hash(vocabulary)


@pytest.fixture(scope="module")
def log_rows():
    """Distinct times, and items that come into fashion one after another."""
    log = data.synthetic(1, users=40, items=60, interactions_per_user=12)
    return [f"{log.user_ids[u]},{log.item_ids[i]},{n}" for n, (u, i) in enumerate(zip(log.user, log.item, strict=True))]


@pytest.mark.parametrize("name", SPLITS)
def test_equal_scores_are_ranked_alike_whatever_the_order_of_the_rows(tmp_path, log_rows, name):
    def figures(rows):
        (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *rows]))
        dataset = data.dataset(SPLITS[name](data.read(tmp_path / "log.csv")))
        twobit = np.float32([int(raw[1:]) % 4 for raw in dataset.item_ids.tolist()])
        return [
            float(metrics.ndcg(*evaluate.rank(scorer, dataset, dataset.test, k=10)[2:]).mean())
            for scorer in (
                lambda batch: np.ones((len(batch["user"]), dataset.items)),
                lambda batch: np.tile(twobit, (len(batch["user"]), 1)),
            )
        ]

    expected = figures(log_rows)
    assert min(expected) > 0
    shuffled = np.random.default_rng(0).permutation(log_rows).tolist()
    for rows in (log_rows[::-1], shuffled, sorted(log_rows)):
        assert figures(rows) == expected
