"""The deployed form: what goes in comes out bit for bit, what is damaged is refused by name."""

import contextlib
import hashlib
import json
import os
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import numpy as safetensors

from recjax import artifact, quantize
from recjax.data import Seen
from recjax.errors import InputError

FILES = ("model.json", "weights.safetensors", "vocabulary.json", "seen.safetensors")
USERS, KNOWN, ITEMS, DIM = 7, 5, 9, 6


def packed(table: np.ndarray, bits: int) -> artifact.Packed:
    q = quantize.quantize(jnp.asarray(table), bits=bits, axis=0)
    return artifact.Packed(np.asarray(quantize.unpack(q)), np.asarray(q.scale), bits)


def random_table(rows: int, dim: int, share_of_zeros: float, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    table = random.standard_normal((rows, dim)).astype(np.float32)
    table[random.random((rows, dim)) < share_of_zeros] = 0
    return table


def make(folder, **changes):
    """A small artifact: user 6 has no history at all, users 5 and 6 have no vector."""
    histories = [[0, 1], [2], [0, 3, 8], [0], list(range(8)), [0, 2], []]
    offsets = np.cumsum([0, *map(len, histories)])
    arguments = {
        "tables": {
            "user": packed(random_table(KNOWN, DIM, 0.0, seed=1), 4),
            "item": packed(random_table(ITEMS, DIM, 0.8, seed=2), 4),
            "item_bias": random_table(ITEMS, 1, 0.0, seed=3).astype(np.float16),
        },
        "kind": "vectors",
        "user_ids": ["10", "11", "12", "13", "14", "cold", "né ☃"],
        "item_ids": [str(100 + i) for i in range(ITEMS)],
        "titles": [f"Title {i}" for i in range(ITEMS)],
        "seen": Seen(offsets, np.concatenate(histories).astype(np.int32)),
        "known_users": KNOWN,
        "about": {"note": "a test"},
    } | changes
    return artifact.save(folder, arguments.pop("tables"), **arguments)


@pytest.fixture
def folder(tmp_path):
    make(tmp_path / "artifact")
    return tmp_path / "artifact"


def rewrite(folder, name: str, content: bytes) -> None:
    """Changes a file and makes the card agree, as a tool that is not ours would."""
    (folder / name).write_bytes(content)
    card = json.loads((folder / "model.json").read_text())
    card["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / "model.json").write_text(json.dumps(card))


# -- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("share_of_zeros", [0.0, 0.9, 1.0])
def test_packed_tables_come_back_bit_for_bit(tmp_path, bits, share_of_zeros):
    table = random_table(11, 7, share_of_zeros)
    q = quantize.quantize(jnp.asarray(table), bits=bits, axis=0)
    specs = artifact.save_tables(tmp_path / "w", {"item": packed(table, bits)})
    (found,) = artifact.load_tables((tmp_path / "w").read_bytes(), specs).values()
    assert found.dtype == np.float32
    assert found.tobytes() == np.asarray(quantize.dequantize(q)).tobytes()
    assert specs["item"]["non_zero"] == np.count_nonzero(found)


@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    bits=st.sampled_from([2, 3, 4, 8]),
    zeros=st.floats(0, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_the_smaller_layout_is_chosen_and_comes_back(tmp_path_factory, shape, bits, zeros, seed):
    """Whole numbers straight in, so that jax compiles nothing for every shape."""
    path = tmp_path_factory.mktemp("tables") / "w"
    random = np.random.default_rng(seed)
    levels = 2 ** (bits - 1) - 1
    steps = random.integers(-levels, levels + 1, shape).astype(np.int8)
    steps[random.random(shape) < zeros] = 0
    scale = random.random((shape[0], 1)).astype(np.float16)
    specs = artifact.save_tables(path, {"item": artifact.Packed(steps, scale, bits)})
    found = artifact.load_tables(path.read_bytes(), specs)["item"]
    np.testing.assert_array_equal(found, steps.astype(np.float32) * scale.astype(np.float32))
    dense = shape[0] * -(-shape[1] * bits // 8)
    sparse = -(-steps.size // 8) + -(-np.count_nonzero(steps) * bits // 8)
    assert specs["item"]["bytes"] == min(dense, sparse) + 2 * shape[0]
    assert specs["item"]["sparse"] == (sparse < dense)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("share_of_zeros", [0.0, 0.9])
def test_float_tables_come_back_bit_for_bit(tmp_path, dtype, share_of_zeros):
    table = random_table(20, 5, share_of_zeros).astype(dtype)
    specs = artifact.save_tables(tmp_path / "w", {"user": table})
    found = artifact.load_tables((tmp_path / "w").read_bytes(), specs)["user"]
    np.testing.assert_array_equal(found, table.astype(np.float32))
    assert specs["user"]["sparse"] == (share_of_zeros > 0.5)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_words_of_a_dense_table_are_those_of_quantize(tmp_path, bits):
    table = random_table(11, 7, 0.0)
    q = quantize.quantize(jnp.asarray(table), bits=bits, axis=0)
    specs = artifact.save_tables(tmp_path / "w", {"item": packed(table, bits)})
    arrays = safetensors.load_file(tmp_path / "w")
    if bits == 2:  # at two bits a normal row has many zeros, and the table may be stored sparse
        steps = np.asarray(quantize.unpack(q))
        entries = steps[steps != 0] if specs["item"]["sparse"] else steps
        words = np.asarray(quantize.pack_bits(jnp.asarray(entries.view(np.uint8)), bits))
    else:
        assert not specs["item"]["sparse"]
        words = np.asarray(q.words)
    np.testing.assert_array_equal(arrays["item.words"], words)
    np.testing.assert_array_equal(arrays["item.scale"], np.asarray(q.scale))


def test_bytes_are_those_of_the_file(folder):
    card = json.loads((folder / "model.json").read_text())
    size = (folder / "weights.safetensors").stat().st_size
    header = size - sum(spec["bytes"] for spec in card["tables"].values())
    assert card["bytes"] == size
    assert 0 < header < 1024
    assert card["folder_bytes"] == sum((folder / name).stat().st_size for name in FILES[1:])
    assert card["tables"]["item"]["sparse"]
    assert not card["tables"]["user"]["sparse"]


@given(
    users=st.integers(1, 400),
    items=st.integers(1, 400),
    dim=st.sampled_from([1, 2, 3, 5, 8, 32]),
    bits=st.sampled_from([2, 3, 4, 8]),
    sparsity=st.floats(0, 0.99),
)
@settings(max_examples=40, deadline=None)
def test_predicted_bytes_are_never_too_few(tmp_path_factory, users, items, dim, bits, sparsity):
    """A budget that is promised from the prediction must hold for the file."""
    tables, shapes = {}, {"user": (users, dim), "item": (items, dim)}
    for name, shape in shapes.items():
        steps = np.ones(shape, np.int8)
        steps.ravel()[max(1, round(steps.size * (1 - sparsity))) :] = 0
        tables[name] = artifact.Packed(steps, np.ones((shape[0], 1), np.float16), bits)
    path = tmp_path_factory.mktemp("predicted") / "w"
    artifact.save_tables(path, {**tables, "item_bias": np.ones((items, 1), np.float16)})
    predicted = artifact.predicted_bytes(shapes, bits=bits, sparsity=sparsity)
    assert 0 <= predicted - path.stat().st_size <= 200


# -- top k -----------------------------------------------------------------------------------------------------------


@given(
    scores=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 1.0, 2.0, np.inf]),
    ),
    data=st.data(),
)
@settings(deadline=None)
def test_top_k_is_a_stable_sort(scores, data):
    k = data.draw(st.integers(1, scores.shape[1]))
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(artifact.top_k(scores, k), expected)


# -- answers ---------------------------------------------------------------------------------------------------------


def test_a_known_user_gets_unseen_items_by_score(folder):
    model = artifact.load(folder)
    scores = model.tables["user"][2] @ model.tables["item"].T + model.tables["item_bias"][:, 0]
    scores[[0, 3, 8]] = -np.inf
    expected = [str(100 + i) for i in np.argsort(-scores, kind="stable")[:4]]
    found = model.recommend("12", k=4)
    assert [item.item for item in found] == expected
    assert [item.title for item in found] == [f"Title {int(raw) - 100}" for raw in expected]
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)
    assert all(isinstance(item.score, float) and isinstance(item.item, str) for item in found)


def test_seen_items_come_only_when_asked_for(folder):
    model = artifact.load(folder)
    assert [item.item for item in model.recommend("14", k=9)] == ["108"]  # all that user 14 doesn't have
    assert len(model.recommend("14", k=9, include_seen=True)) == 9


def test_ids_may_be_given_as_numbers(folder):
    model = artifact.load(folder)
    assert model.recommend(12, k=3) == model.recommend("12", k=3)
    assert model.known(np.int64(12))
    assert not model.known(12.5)


def test_an_unknown_user_gets_what_most_have(folder):
    model = artifact.load(folder)
    found = model.recommend("nobody", k=9)
    counts = np.bincount(model.seen.items, minlength=ITEMS)
    assert not model.known("nobody")
    assert [item.item for item in found] == [str(100 + i) for i in np.argsort(-counts, kind="stable")]
    assert [item.score for item in found] == sorted(counts.tolist(), reverse=True)


def test_a_user_without_a_vector_gets_popular_items_minus_their_own(folder):
    model = artifact.load(folder)
    assert not model.known("cold")
    found = [item.item for item in model.recommend("cold", k=9)]
    assert found == [item.item for item in model.recommend("nobody", k=9) if item.item not in ("100", "102")]
    assert len(model.recommend("cold", k=9, include_seen=True)) == 9
    assert len(model.recommend("né ☃", k=9)) == 9


@pytest.mark.parametrize("k", [0, -1, ITEMS + 1])
def test_a_k_that_cannot_be_is_refused(folder, k):
    with pytest.raises(InputError, match=f"k: found {k}, expected 1 to {ITEMS}"):
        artifact.load(folder).recommend("10", k=k)


def test_other_kinds_answer_too(tmp_path):
    weights = random_table(ITEMS, ITEMS, 0.0)
    make(tmp_path / "history", kind="history", tables={"item": weights})
    model = artifact.load(tmp_path / "history")
    scores = weights[:, [0, 1]].sum(axis=1)
    scores[[0, 1]] = -np.inf
    assert [int(item.item) - 100 for item in model.recommend("10", k=3)] == np.argsort(-scores)[:3].tolist()
    make(tmp_path / "popularity", kind="popularity", tables={"item_bias": np.arange(ITEMS, dtype=np.float32)[:, None]})
    assert [item.item for item in artifact.load(tmp_path / "popularity").recommend("11", k=2)] == ["108", "107"]


# -- whole or not at all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing_call", [1, 2])
def test_a_save_that_fails_leaves_the_old_artifact(folder, monkeypatch, failing_call):
    before = {name: (folder / name).read_bytes() for name in FILES}
    replace, calls = os.replace, []

    def failing(source, target):
        calls.append(target)
        if len(calls) == failing_call:
            raise OSError("no space left")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="no space left"):
        make(folder, about={"note": "another"})
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    monkeypatch.undo()
    make(folder, about={"note": "another"})
    assert artifact.load(folder).card["note"] == "another"
    assert sorted(os.listdir(folder.parent)) == ["artifact"]


def test_a_save_that_dies_between_its_renames_loses_nothing(folder, monkeypatch):
    replace, calls = os.replace, []

    def dying(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        make(folder, about={"note": "another"})
    monkeypatch.undo()
    assert not folder.exists()
    with monkeypatch.context() as patch:  # the next save puts the old one back before it does anything
        patch.setattr(safetensors, "save", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(OSError, match="no space left"):
            make(folder)
    assert artifact.load(folder).card["note"] == "a test"
    make(folder, about={"note": "another"})
    assert artifact.load(folder).card["note"] == "another"
    assert sorted(os.listdir(folder.parent)) == ["artifact"]


def test_a_first_save_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def failing(source, target):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="no space left"):
        make(tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


def test_what_is_no_artifact_is_not_replaced(tmp_path):
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("years of work")
    with pytest.raises(InputError, match="thesis: found something else than an artifact"):
        make(precious)
    with pytest.raises(InputError, match=r"chapter.txt: found something else than an artifact"):
        make(precious / "chapter.txt")
    assert (precious / "chapter.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    artifact.load(tmp_path / "empty")


# -- damaged and foreign files ---------------------------------------------------------------------------------------


def refused(folder, name: str) -> str:
    """The message, which is one line and names the file."""
    with pytest.raises(InputError) as caught:
        artifact.load(folder)
    message = str(caught.value)
    assert str(folder / name) in message
    assert "expected" in message
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert "can't be read" in refused(folder, name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named(folder, name, keep):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * keep)])
    refused(folder, name)


@pytest.mark.parametrize("name", FILES[1:])
def test_any_flipped_byte_is_found(folder, name):
    content = (folder / name).read_bytes()
    for at in np.random.default_rng(0).choice(len(content), 20, replace=False):
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(at % 8)
        (folder / name).write_bytes(flipped)
        assert "sha256" in refused(folder, name)


def test_a_flipped_byte_in_the_card_is_found_or_harmless(folder):
    content = (folder / "model.json").read_bytes()
    for at in np.random.default_rng(0).choice(len(content), 60, replace=False):
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(at % 8)
        (folder / "model.json").write_bytes(flipped)
        with contextlib.suppress(InputError):
            assert len(artifact.load(folder).recommend("10", k=3)) == 3


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"null", b'{"a": 1}', b"\xff\xfe\x00", b"[" * 100_000])
def test_a_foreign_card_is_named(folder, content):
    (folder / "model.json").write_bytes(content)
    refused(folder, "model.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"kind": "other"},
        {"kind": ["vectors"]},
        {"kind": "history"},
        {"users": "7"},
        {"users": None},
        {"known_users": -1},
        {"known_users": 8},
        {"known_users": 5.0},
        {"items": 10},
        {"tables": []},
        {"tables": {}},
        {"tables": {"user": 3, "item": 4}},
        {"tables": "user"},
        {"sha256": []},
        {"sha256": None},
    ],
)
def test_a_card_of_wrong_types_is_refused(folder, changes):
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | changes))
    with pytest.raises(InputError, match="expected") as caught:
        artifact.load(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [10**9, 10**9]},
        {"shape": [5]},
        {"shape": [-5, -6]},
        {"shape": ["5", "6"]},
        {"bits": 0},
        {"bits": 5},
        {"bits": "4"},
        {"bits": None},
        {"packed": False},
        {"sparse": True},
        {"shape": [6, 5]},
    ],
)
def test_a_table_of_another_size_is_refused_before_it_is_made(folder, changes):
    card = json.loads((folder / "model.json").read_text())
    card["tables"]["user"] |= changes
    (folder / "model.json").write_text(json.dumps(card))
    refused(folder, "weights.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"users": ["10"]},
        {"items": "abcdefghi"},
        {"items": [1, 2, 3, 4, 5, 6, 7, 8, 9]},
        {"items": [[]] * 9},
        {"titles": None},
        {"titles": {str(i): "" for i in range(9)}},
    ],
)
def test_a_vocabulary_of_wrong_types_is_named(folder, changes):
    vocabulary = json.loads((folder / "vocabulary.json").read_text())
    rewrite(folder, "vocabulary.json", json.dumps(vocabulary | changes).encode())
    refused(folder, "vocabulary.json")
    rewrite(folder, "vocabulary.json", json.dumps([vocabulary]).encode())
    refused(folder, "vocabulary.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"items": np.full(17, 9, np.int32)},
        {"items": np.full(17, -1, np.int32)},
        {"items": np.zeros(17, np.float32)},
        {"items": np.zeros((17, 1), np.int32)},
        {"offsets": np.arange(5)},
        {"offsets": np.array([0, 2, 3, 1, 7, 15, 17, 17])},
        {"offsets": np.array([1, 2, 3, 6, 7, 15, 17, 17])},
        {"offsets": np.array([0, 2, 3, 6, 7, 15, 17, 18])},
        {"offsets": np.array([0, 2, 3, 6, 7, 15, 17, 17], np.float64)},
        {"more": np.zeros(3)},
    ],
)
def test_positions_outside_the_vocabulary_are_named(folder, changes):
    index = safetensors.load_file(folder / "seen.safetensors")
    assert len(index["items"]) == 17
    rewrite(folder, "seen.safetensors", safetensors.save(index | changes))
    refused(folder, "seen.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"user.words": np.zeros((5, 2), np.uint8)},
        {"user.words": np.zeros((5, 3), np.int8)},
        {"user.scale": np.full((5, 1), np.nan, np.float16)},
        {"user.scale": np.ones((1, 1), np.float16)},
        {"item.bitmap": np.full(7, 255, np.uint8)},
        {"item.bitmap": np.zeros(1, np.uint8)},
        {"item_bias.values": np.full((9, 1), np.inf, np.float16)},
    ],
)
def test_weights_that_do_not_fit_the_card_are_named(folder, changes):
    arrays = safetensors.load_file(folder / "weights.safetensors")
    rewrite(folder, "weights.safetensors", safetensors.save(arrays | changes))
    refused(folder, "weights.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_is_never_run(folder, tmp_path, name):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    content = pickle.dumps(Attack())
    if name == "model.json":
        (folder / name).write_bytes(content)
    else:
        rewrite(folder, name, content)
    refused(folder, name)
    assert not (tmp_path / "pwned").exists()
    pickle.loads(content)  # it would have
    assert (tmp_path / "pwned").exists()


def test_a_folder_that_is_none_is_named(tmp_path):
    refused(tmp_path / "nowhere", "model.json")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "model.json")
