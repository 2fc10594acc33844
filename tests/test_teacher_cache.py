"""Cached knowledge: bit for bit what was saved, for whom it was saved, and nothing half-written."""

import dataclasses
import hashlib
import json
import os
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors
from toy import same_bits

from recjax import embed, quantize
from recjax.data import Interactions, Seen, seen
from recjax.errors import InputError
from recjax.models import MatrixFactorization, matrix_factorization
from recjax.teacher import Knowledge, fingerprint, knowledge, load, save

CARD, ARRAYS = "knowledge.json", "knowledge.safetensors"
PAIRS = np.int32([[0, 1], [0, 0], [1, 2], [3, 3]])
LOG = Interactions(*PAIRS.T, np.array(["ann", "b", "né ☃", "7"]), np.array(["x", "y", "z", "w", "v"]))
HISTORIES = seen(LOG)
MODEL = matrix_factorization(MatrixFactorization(users=4, items=5, dim=2))
PARAMS = MODEL.init(jax.random.key(0))
MINE = fingerprint(PARAMS, LOG, HISTORIES, length=3)


def lists() -> Knowledge:
    return knowledge(MODEL, PARAMS, HISTORIES, items=5, length=3)


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "deep" / "cache", lists(), MINE)
    return tmp_path / "deep" / "cache"


def refused(folder, wanted, message):
    """Loading is refused in one line that names the folder."""
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load(folder, wanted)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [None, 1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path, length, masked):
    masked = masked and length is not None
    asked = knowledge(MODEL, PARAMS, HISTORIES, items=5, length=length, masked=masked)
    mine = fingerprint(PARAMS, LOG, HISTORIES, length=length, masked=masked)
    save(tmp_path / "cache", asked, mine)
    found = load(tmp_path / "cache", mine)
    assert isinstance(found, Knowledge)
    same_bits(found, asked)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [CARD, ARRAYS]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_the_card_says_what_is_there(folder):
    card = json.loads((folder / CARD).read_text())
    assert (card["format"], card["shapes"]) == (1, {"scores": [4, 3], "items": [4, 3]})
    assert set(card["versions"]) >= {"recjax", "jax", "numpy"}
    assert card["fingerprint"]["users"]["count"] == 4
    assert card["sha256"] == hashlib.sha256((folder / ARRAYS).read_bytes()).hexdigest()


# -- whose it is ----------------------------------------------------------------------------------------------------


def test_users_or_items_in_another_order_are_refused(folder):
    order = np.array([1, 0, 2, 3])
    users = dataclasses.replace(LOG, user=np.int32(order[LOG.user]), user_ids=LOG.user_ids[order])
    message = "belongs to users in another order, expected the log's 4 users in the log's order"
    refused(folder, fingerprint(PARAMS, users, seen(users), length=3), message)
    order = np.array([4, 1, 2, 3, 0])
    items = dataclasses.replace(LOG, item=np.int32(order[LOG.item]), item_ids=LOG.item_ids[order])
    message = "belongs to items in another order, expected the log's 5 items in the log's order"
    refused(folder, fingerprint(PARAMS, items, seen(items), length=3), message)


def test_other_users_or_items_are_refused(folder):
    users = dataclasses.replace(LOG, user_ids=np.array(["ann", "b", "c", "7"]))
    message = "belongs to other users (4 raw ids), expected the log's (4 raw ids)"
    refused(folder, fingerprint(PARAMS, users, HISTORIES, length=3), message)
    items = dataclasses.replace(LOG, item_ids=np.array(["x", "y", "z", "w", "v", "u"]))
    message = "belongs to other items (5 raw ids), expected the log's (6 raw ids)"
    refused(folder, fingerprint(PARAMS, items, HISTORIES, length=3), message)
    fewer = Seen(HISTORIES.offsets[:3], HISTORIES.items)  # only the first users of the log are known
    message = "belongs to other users (4 raw ids), expected the log's (2 raw ids)"
    refused(folder, fingerprint(PARAMS, LOG, fewer, length=3), message)


def test_ids_that_run_together_alike_are_other_ids(folder):
    ids = np.array(["ann", "bn", "é ☃", "7"])
    users = dataclasses.replace(LOG, user_ids=ids)
    refused(folder, fingerprint(PARAMS, users, HISTORIES, length=3), "belongs to other users")


def test_another_split_is_refused(folder):
    fewer, moved = LOG.take(slice(3)), dataclasses.replace(LOG, item=np.int32([1, 0, 2, 4]))
    message = "belongs to another split (4 interactions), expected the histories of this one (3)"
    refused(folder, fingerprint(PARAMS, LOG, seen(fewer), length=3), message)
    refused(folder, fingerprint(PARAMS, LOG, seen(moved), length=3), "belongs to another split")


def nudged(name, change):
    return {**PARAMS, "tables": {**PARAMS["tables"], name: change(np.asarray(PARAMS["tables"][name]))}}


@pytest.mark.parametrize(
    "other",
    [
        nudged("user", lambda table: np.nextafter(table, 9, dtype=np.float32)),
        nudged("item_bias", lambda table: -table),  # minus zero
        nudged("item", lambda table: table.astype(np.float16)),
        nudged("item", lambda table: table.astype(ml_dtypes.bfloat16)),
        nudged("item", lambda table: table.reshape(2, 5)),
        nudged("item", lambda table: embed.Masked(table, np.ones(table.shape, bool))),
        {**PARAMS, "net": {"extra": np.zeros(0)}},
        {**PARAMS, "tables": {**PARAMS["tables"], "users": PARAMS["tables"]["user"]}},
        {},
    ],
    ids=["last bit", "sign", "half", "bfloat16", "shape", "record", "more", "name", "none"],
)
def test_another_teacher_is_refused(folder, other):
    refused(folder, fingerprint(other, LOG, HISTORIES, length=3), "belongs to another teacher (sha256 ")


def test_static_parts_of_a_record_are_part_of_the_teacher():
    words, scale = np.zeros((2, 3), np.uint8), np.ones((2, 1), np.float16)
    prints = [
        fingerprint({"item": quantize.QTensor(words, scale, bits, shape)}, LOG, HISTORIES).teacher
        for bits, shape in ((4, (2, 6)), (4, (2, 5)), (8, (2, 3)), (4, (2, 6)))
    ]
    assert prints[0] == prints[3]
    assert len(set(prints)) == 3


def test_another_question_is_refused(folder):
    message = "belongs to another question (lists of 3 items, the user's own among them), expected "
    for changes, expected in (
        ({"length": 2}, "lists of 2 items, the user's own among them"),
        ({"length": 3, "masked": True}, "lists of 3 items, the user's own left out"),
        ({}, "scores of the whole catalogue"),
    ):
        refused(folder, fingerprint(PARAMS, LOG, HISTORIES, **changes), message + expected)


def test_where_the_arrays_live_and_the_order_of_a_dict_make_no_difference(folder):
    host = jax.tree.map(np.asarray, PARAMS)
    host = dict(reversed([(name, dict(reversed(part.items()))) for name, part in host.items()]))
    wide = Seen(jnp.asarray(HISTORIES.offsets), HISTORIES.items.astype(np.int64))
    ids = dataclasses.replace(LOG, user_ids=LOG.user_ids.astype("U99"), item_ids=LOG.item_ids.astype(object))
    assert fingerprint(host, ids.take(slice(1)), wide, length=3) == MINE
    load(folder, fingerprint(host, ids, wide, length=3))


def test_items_behind_the_last_user_are_nobodys():
    longer = Seen(HISTORIES.offsets, np.append(HISTORIES.items, [0, 1]))
    assert fingerprint(PARAMS, LOG, longer, length=3) == MINE


def test_a_fingerprint_is_the_same_on_every_machine():
    """Digests of bytes that no version of JAX, NumPy or Python has a say in, each with its size before it."""

    def digest(*parts):
        return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).hexdigest()

    mine = fingerprint({"a": {"b": np.float32([[1, 2]])}}, LOG, HISTORIES)
    two_floats = bytes.fromhex("0000803f00000040")
    assert mine.teacher == digest(b"dict['a']", b"dict['b']", b"*", b"float32[1, 2]", two_floats)
    ids = "ann", "b", "né ☃", "7"
    assert mine.users.ordered == digest(*(raw.encode() for raw in ids))
    assert mine.users.unordered == digest(*sorted(raw.encode() for raw in ids))
    numbers = (b"".join(n.to_bytes(8, "little") for n in array) for array in ((0, 2, 3, 3, 4), (0, 1, 2, 3)))
    assert mine.histories == digest(*numbers)


def test_questions_that_cannot_be_asked_have_no_fingerprint():
    with pytest.raises(ValueError, match="expected length from 1 to 5, got 6"):
        fingerprint(PARAMS, LOG, HISTORIES, length=6)
    with pytest.raises(ValueError, match="expected a length with masked=True"):
        fingerprint(PARAMS, LOG, HISTORIES, masked=True)
    with pytest.raises(ValueError, match="expected at most the log's 4 users, got 5"):
        fingerprint(PARAMS, LOG, Seen(np.zeros(6, np.int32), np.zeros(0, np.int32)))


# -- what can't be saved --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda k: k._replace(scores=k.scores[:3], items=k.items[:3]), r"scores: expected shape \[4, length\]"),
        (lambda k: k._replace(items=None), r"scores: expected shape \[4, 5\], got \[4, 3\]"),
        (lambda k: k._replace(scores=jnp.ones((4, 5)), items=None), "expected lists of length 3, got None"),
        (lambda k: k._replace(scores=k.scores[:, :2], items=k.items[:, :2]), "expected lists of length 3, got 2"),
        (lambda k: k._replace(items=k.items[:, :2]), r"items: expected int32 \[4, 3\], the shape of scores"),
        (lambda k: k._replace(scores=k.scores.astype(jnp.bfloat16)), "scores: expected float32, got bfloat16"),
        (lambda k: k._replace(items=k.items.astype(jnp.uint32)), "items: expected int32"),
        (lambda k: k._replace(items=k.items + 5), r"items: expected positions in -1..4, got"),
        (lambda k: k._replace(scores=k.scores[0]), "scores: expected shape"),
    ],
)
def test_knowledge_of_another_form_than_its_fingerprint(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "cache", change(lists()), MINE)
    assert not any(tmp_path.iterdir())


def test_saving_again_replaces_and_leaves_nothing_behind(folder):
    other = jax.tree.map(lambda x: x + 1, PARAMS)
    theirs = fingerprint(other, LOG, HISTORIES)
    save(folder, knowledge(MODEL, other, HISTORIES, items=5), theirs)
    assert load(folder, theirs).items is None
    assert [path.name for path in folder.parent.iterdir()] == ["cache"]
    refused(folder, MINE, "another teacher")


def test_an_empty_folder_may_be_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty", lists(), MINE)
    same_bits(load(tmp_path / "empty", MINE), lists())


def test_the_current_folder_is_not_pulled_from_under_the_process(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match="found a place that can't be written"):
        save(".", lists(), MINE)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_something_else_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    for place in (tmp_path / "photos" / "a.jpg", tmp_path / "notes"):
        place.write_text("dear")
    for place in (tmp_path / "photos", tmp_path / "notes"):
        with pytest.raises(InputError, match="expected a cache to replace or nothing, got something else"):
            save(place, lists(), MINE)
    assert (tmp_path / "photos" / "a.jpg").read_text() == (tmp_path / "notes").read_text() == "dear"


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/cache: found a place that can't be written \(Not a directory\)"):
        save(tmp_path / "file" / "cache", lists(), MINE)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_place_that_is_forbidden(folder):
    folder.parent.chmod(0o500)
    try:
        with pytest.raises(InputError, match=r"found a place that can't be written \(Permission denied\)"):
            save(folder, lists(), MINE)
    finally:
        folder.parent.chmod(0o700)
    (folder / ARRAYS).chmod(0)
    refused(folder, MINE, "found a file that can't be read (Permission denied)")


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
def test_whatever_is_interrupted_the_old_or_the_new_is_there(folder, monkeypatch, fails_at):
    """As if the process died at each of the steps that write, then asked again."""
    other = jax.tree.map(lambda x: x + 1, PARAMS)
    theirs, new = fingerprint(other, LOG, HISTORIES), knowledge(MODEL, other, HISTORIES, items=5)
    calls = []

    def dying(real):
        def call(*args, **kwargs):
            calls.append(real)
            if len(calls) >= fails_at:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying(os.replace))
        patch.setattr("pathlib.Path.write_bytes", dying(type(folder).write_bytes))
        patch.setattr("pathlib.Path.write_text", dying(type(folder).write_text))
        with pytest.raises(KeyboardInterrupt):
            save(folder, new, theirs)
    assert len(calls) == fails_at
    if folder.exists():
        same_bits(load(folder, MINE), lists())
    save(folder, new, theirs)
    same_bits(load(folder, theirs), new)
    assert [path.name for path in folder.parent.iterdir()] == ["cache"]


def test_a_failing_rename_puts_the_old_one_back(folder, monkeypatch):
    real = os.replace

    def failing(source, target):
        if str(source).endswith(".partial"):
            raise OSError(28, "No space left on device")
        return real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        for place in (folder, folder.with_name("new")):
            with pytest.raises(InputError, match="No space left on device"):
                save(place, lists(), MINE)
    same_bits(load(folder, MINE), lists())
    assert [path.name for path in folder.parent.iterdir()] == ["cache"]


# -- what is damaged ------------------------------------------------------------------------------------------------


def test_no_cache_is_told_from_a_damaged_one(tmp_path, folder):
    refused(tmp_path / "none", MINE, "knowledge.json: found no such file, expected the card of a cache")
    (folder / ARRAYS).unlink()
    refused(folder, MINE, "knowledge.safetensors: found no such file, expected what knowledge.json describes")
    (folder / ARRAYS).mkdir()
    refused(folder, MINE, "knowledge.safetensors: found a file that can't be read (Is a directory)")


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:5], lambda b: b"", lambda b: b[:-1] + b"\x7f"])
def test_damaged_arrays_are_refused(folder, damage):
    (folder / ARRAYS).write_bytes(damage((folder / ARRAYS).read_bytes()))
    refused(folder, MINE, "knowledge.safetensors: found damaged or foreign content (other bytes than the ones")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04K\x01.", "HeaderTooLarge"),  # a pickle
        (safetensors.save({"items": np.ones((4, 3), np.int32)}), "(no 'scores')"),
        (safetensors.save({"scores": np.ones((4, 3), np.float64)}), "scores: expected shape [4, 5]"),
        (
            safetensors.save({"scores": np.ones((4, 3), np.float64), "items": np.ones((4, 3), np.int32)}),
            "scores: expected float32, got float64",
        ),
        (
            safetensors.save({"scores": np.ones((4, 3), np.float32), "items": np.full((4, 3), 7, np.int32)}),
            "items: expected positions in -1..4, got 7..7",
        ),
    ],
)
def test_arrays_of_another_tool_are_refused(folder, content, message):
    (folder / ARRAYS).write_bytes(content)
    card = json.loads((folder / CARD).read_text())
    card["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / CARD).write_text(json.dumps(card))
    refused(folder, MINE, "knowledge.safetensors: found damaged or foreign content")
    if "Header" not in message:
        refused(folder, MINE, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "row 1: found Expecting value"),
        ('{"format": 1,\n', "row 2: found Expecting property name"),
        ("[" * 99_999, "found damaged or foreign content (maximum recursion"),
        ("[]", "found damaged or foreign content (list indices"),
        ("{}", "found damaged or foreign content (no 'format')"),
        ('{"format": 2}', "found a cache of format 2, expected format 1"),
        ('{"format": 1}', "found damaged or foreign content (no 'fingerprint')"),
        ('{"format": 1, "fingerprint": 3}', "found damaged or foreign content ('int' object"),
        ('{"format": 1, "fingerprint": {"users": {}}}', "found damaged or foreign content (no 'unordered')"),
        (b"\xff\xfe", "found damaged or foreign content ('utf-8' codec"),
    ],
)
def test_damaged_cards_are_refused(folder, content, message):
    (folder / CARD).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(folder, MINE, f"{CARD}: {message}")


def test_a_card_whose_counts_are_no_numbers(folder):
    card = json.loads((folder / CARD).read_text())
    card["fingerprint"]["users"] |= {"count": "four", "unordered": "0"}
    (folder / CARD).write_text(json.dumps(card))
    refused(folder, MINE, "found damaged or foreign content")
