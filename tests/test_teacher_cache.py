"""Cached knowledge: what was computed, computed once, and given to nobody else."""

import dataclasses
import hashlib
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import quantize, teacher
from recjax.data import Dataset, Interactions, Queries, Split, dataset
from recjax.errors import InputError
from recjax.evaluate import Scorer
from recjax.teacher import _cache, cached, knowledge

USERS, ITEMS, LENGTH = 7, 6, 4
EVENTS = np.random.default_rng(0).integers(0, (USERS, ITEMS), (40, 2)).astype(np.int32)
SHARD = 3  # queries, so that there are several


def data_set(events=EVENTS, items=ITEMS) -> Dataset:
    log = Interactions(*np.int32(events).T, np.array([f"u{u}" for u in range(USERS)]), np.arange(items).astype(str))
    return dataset(Split(log, log.take(slice(0)), log.take(slice(0)), {}))


DATASET = data_set()
LAST = DATASET.last
PARAMS = {"tables": {"user": jnp.asarray(np.random.default_rng(1).normal(size=(USERS, ITEMS)), jnp.float32)}}


def score(params, batch):
    return params["tables"]["user"][batch["user"]]


SCORER = Scorer(score, PARAMS, 0)


class Asked:
    """A plain function that counts the queries it is given, and fails at the last of so many blocks."""

    def __init__(self, fails_at=None):
        self.users, self.fails_at = [], fails_at

    def __call__(self, batch):
        if self.fails_at is not None and len(self.users) >= self.fails_at:
            raise KeyboardInterrupt
        self.users += batch["user"].tolist()
        return np.asarray(PARAMS["tables"]["user"])[batch["user"]]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(_cache, "CELLS", SHARD * LENGTH)


def ask(folder, scorer=SCORER, dataset=DATASET, queries=None, *, length=LENGTH, masked=False, family="mf", **config):
    queries = dataset.last if queries is None else queries
    return cached(
        folder, scorer, dataset, queries, family=family, config=config, length=length, masked=masked, block=SHARD
    )


@pytest.mark.parametrize(("length", "masked"), [(None, False), (LENGTH, False), (LENGTH, True), (1, False)])
def test_knowledge_from_a_folder_is_what_is_computed(tmp_path, length, masked):
    expected = knowledge(SCORER, DATASET, LAST, length=length, masked=masked)
    for _ in range(2):  # computed, then read
        found = ask(tmp_path / "a" / "cache", length=length, masked=masked)
        np.testing.assert_array_equal(found.scores, np.asarray(expected.scores, np.float16))
        assert found.scores.dtype == np.float16
        if length is None:
            assert found.items is None
        else:
            np.testing.assert_array_equal(found.items, expected.items)
            assert found.items.dtype == np.int32


def test_nothing_is_computed_twice(tmp_path):
    first, again = Asked(), Asked()
    ask(tmp_path / "cache", first)
    assert set(first.users) == set(range(USERS))
    ask(tmp_path / "cache", again)
    assert again.users == []


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_killed_computation_goes_on_with_the_shard_it_stopped_in(tmp_path, done, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path, Asked(fails_at=done * SHARD))
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(f"{n:05d}" for n in range(done)), "knowledge.json"]
    (tmp_path / f".{done:05d}.partial").mkdir()  # what a killed process leaves behind
    monkeypatch.setattr(_cache, "CELLS", 100)  # the shards are those of the folder
    rest = Asked()
    found = ask(tmp_path, rest)
    assert set(rest.users) == set(range(done * SHARD, USERS))
    np.testing.assert_array_equal(found.items, knowledge(SCORER, DATASET, LAST, length=LENGTH).items)


def test_one_shard_is_in_memory_while_computing(tmp_path, monkeypatch):
    asked = []
    real = _cache.scored

    def recorded(keep, scorer, dataset, queries, **options):
        asked.append(len(queries.user))
        return real(keep, scorer, dataset, queries, **options)

    monkeypatch.setattr(_cache, "scored", recorded)
    ask(tmp_path)
    assert asked == [SHARD, SHARD, USERS - 2 * SHARD]


def test_a_list_takes_six_bytes_an_item_on_disk(tmp_path, monkeypatch):
    """So a million queries with lists of 100 take 0.6 GB."""
    monkeypatch.setattr(_cache, "CELLS", 10**6)
    found = ask(tmp_path)
    assert isinstance(found.scores, np.memmap)
    assert isinstance(found.items, np.memmap)
    assert found.scores.nbytes + found.items.nbytes == 6 * USERS * LENGTH
    assert 6 * 10**6 * 100 == 0.6e9
    header = 128  # of each file
    sizes = [path.stat().st_size for path in (tmp_path / "00000").iterdir()]
    assert sum(sizes) == 2 * header + 6 * USERS * LENGTH


def test_float16_is_enough_for_any_teacher():
    """Standardized scores are at most the root of the catalog's size, whatever offset or scale a teacher has."""
    for scale, offset in ((1e-3, 0.0), (1.0, -3000.0), (1e6, 1e8)):
        table = scale * np.asarray(PARAMS["tables"]["user"], np.float64) + offset
        found = knowledge(lambda batch, table=table: table[batch["user"]], DATASET, LAST).scores
        half = np.asarray(found, np.float16).astype(np.float64)
        assert np.abs(half).max() <= ITEMS**0.5
        if scale < 1e6:  # above, float32 has no digits left
            expected = (table - table.mean(axis=1, keepdims=True)) / table.std(axis=1, keepdims=True)
            np.testing.assert_allclose(half, expected[np.asarray(LAST.user)], rtol=2e-3, atol=2e-3)


# -- whose it is ----------------------------------------------------------------------------------------------------


def refused(message, folder, *arguments, **options):
    """In one line that names the folder, and nothing is computed."""
    before = sorted(path for path in folder.rglob("*"))
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        ask(folder, *arguments, **options)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)
    assert sorted(path for path in folder.rglob("*")) == before


@pytest.fixture
def folder(tmp_path):
    ask(tmp_path / "cache", dim=8)
    return tmp_path / "cache"


def test_other_knowledge_is_refused(folder):
    ask(folder, dim=8)
    refused('of the family and its configuration ({"config": {"dim": 9}, "family": "mf"})', folder, dim=9)
    refused("of the family and its configuration", folder, family="ease", dim=8)
    refused('of what is kept ({"length": 3, "masked": false})', folder, length=3, dim=8)
    refused("of what is kept", folder, masked=True, dim=8)
    refused("of what is kept", folder, length=None, dim=8)


def test_other_data_is_refused(folder):
    renamed = dataclasses.replace(DATASET, user_ids=np.array(["ann", *DATASET.user_ids[1:]]))
    refused("of the users, in their order", folder, dataset=renamed, dim=8)
    swapped = dataclasses.replace(DATASET, item_ids=DATASET.item_ids[::-1])
    refused("of the items, in their order", folder, dataset=swapped, dim=8)
    moved = EVENTS.copy()
    moved[3, 1] = (moved[3, 1] + 1) % ITEMS
    refused("of the events", folder, dataset=data_set(moved), dim=8)
    refused("of the queries", folder, queries=Queries(LAST.user, LAST.end - 1), dim=8)
    refused("of the queries", folder, queries=Queries(LAST.user[:-1], LAST.end[:-1]), dim=8)


def test_ids_that_run_together_alike_are_other_ids():
    assert _cache._texts_digest(np.array(["ab", "c"])) != _cache._texts_digest(np.array(["a", "bc"]))


def nudged(change):
    return {"tables": {"user": change(np.asarray(PARAMS["tables"]["user"]))}}


@pytest.mark.parametrize(
    "other",
    [
        nudged(lambda table: np.nextafter(table, 9, dtype=np.float32)),
        nudged(lambda table: table.astype(np.float16)),
        nudged(lambda table: table.T),
        {**PARAMS, "net": {"extra": np.zeros(0)}},
        {"tables": {"users": PARAMS["tables"]["user"]}},
        {},
    ],
    ids=["last bit", "half", "shape", "more", "name", "none"],
)
def test_other_parameters_are_refused(folder, other):
    refused("of the parameters", folder, Scorer(score, other, 0), dim=8)


def test_where_the_arrays_are_and_the_order_of_a_dict_make_no_difference():
    host = {"b": np.float32([1, 2]), "a": {"d": np.int32(3), "c": np.zeros((2, 1))}}
    device = {"a": {"c": jnp.zeros((2, 1)), "d": jnp.int32(3)}, "b": jnp.float32([1, 2])}
    with jax.enable_x64(True):
        device["a"]["c"] = jnp.zeros((2, 1), np.float64)
    assert _cache._params_digest(host) == _cache._params_digest(device)


def test_static_parts_of_a_record_are_part_of_the_parameters():
    words, scale = np.zeros((2, 3), np.uint8), np.ones((2, 1), np.float16)
    prints = [
        _cache._params_digest({"item": quantize.QTensor(words, scale, bits, shape)})
        for bits, shape in ((4, (2, 6)), (4, (2, 5)), (8, (2, 3)), (4, (2, 6)))
    ]
    assert prints[0] == prints[3]
    assert len(set(prints)) == 3


def test_a_digest_is_the_same_on_every_machine():
    """Digests of bytes that no version of JAX, NumPy or Python has a say in, each with its size before it."""

    def digest(*parts):
        return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).hexdigest()

    two_floats = bytes.fromhex("0000803f00000040")
    found = _cache._params_digest({"a": {"b": np.float32([[1, 2]])}})
    assert found == digest(b"dict['a']", b"dict['b']", b"*", b"float32[1, 2]", two_floats)
    assert _cache._texts_digest(np.array(["ann", "né ☃"])) == digest(b"ann", "né ☃".encode())
    assert _cache._digest([_cache._little(np.int32([1, 258]))]) == digest(bytes([1, *[0] * 7, 2, 1, *[0] * 6]))


# -- what is damaged or in the way ----------------------------------------------------------------------------------


def test_something_else_is_never_added_to(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("dear")
    refused("expected a cache of knowledge or an empty folder, got something else", tmp_path / "photos")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file.*: expected a writable path"):
        ask(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "row 1: expected the card of a cache, got Expecting value"),
        ('{"format": 2,\n', "row 2: expected the card of a cache, got Expecting property name"),
        ("[]", "got damaged or foreign content (list indices"),
        ("{}", "got damaged or foreign content (no 'format')"),
        ('{"format": 1}', "expected a cache of format 2, got format 1"),
        ('{"format": 2}', "got damaged or foreign content (no 'parts')"),
        ('{"format": 2, "parts": 3}', "got damaged or foreign content ('int' object"),
        ("[" * 99_999, "got damaged or foreign content (maximum recursion"),
    ],
)
def test_damaged_cards_are_refused(folder, content, message):
    (folder / "knowledge.json").write_text(content)
    refused(message, folder, dim=8)


def test_a_card_without_a_size_of_shards(folder):
    card = json.loads((folder / "knowledge.json").read_text())
    for size in (0, "3", None):
        (folder / "knowledge.json").write_text(json.dumps(card | {"shard": size}))
        refused("got damaged or foreign content (a shard of", folder, dim=8)


def test_damaged_shards_are_refused_by_name(folder):
    shard = folder / "00001"
    whole = folder.parent / "whole"
    shutil.copytree(shard, whole)
    for spoil, message in (
        (lambda: (shard / "items.npy").write_bytes(b"no array"), "00001: found a damaged array|00001: expected"),
        (lambda: (shard / "items.npy").unlink(), "00001: expected a shard of this cache"),
        (lambda: np.save(shard / "items.npy", np.full((SHARD, LENGTH), ITEMS, np.int32)), "positions in -1..5, got 6"),
        (lambda: np.save(shard / "scores.npy", np.ones((SHARD, LENGTH))), "expected float32 or float16, got float64"),
        (lambda: [np.save(shard / f"{n}.npy", np.ones((SHARD, 2), t)) for n, t in (("items", "i4"), ("scores", "f2"))],
         "expected lists of 4 items"),
        (lambda: [np.save(shard / f"{n}.npy", np.ones((2, LENGTH), t)) for n, t in (("items", "i4"), ("scores", "f2"))],
         "scores: expected shape"),
    ):  # fmt: skip
        spoil()
        with pytest.raises(InputError, match=message) as caught:
            ask(folder, dim=8)
        assert "\n" not in str(caught.value)
        shutil.rmtree(shard)
        shutil.copytree(whole, shard)
    ask(folder, dim=8)


def test_questions_without_an_answer_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match=f"expected length from 1 to {ITEMS}, got 9"):
        ask(tmp_path / "cache", length=9)
    with pytest.raises(ValueError, match="expected a length with masked=True"):
        ask(tmp_path / "cache", length=None, masked=True)
    assert not any(tmp_path.iterdir())
    assert teacher.cached is cached
