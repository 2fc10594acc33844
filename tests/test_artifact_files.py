"""Artifacts on disk: format 1, writes that fail midway, and files that are damaged or of something else."""

import contextlib
import json
import os
import pickle

import numpy as np
import pytest
from artifact_cases import (
    DIM,
    FILES,
    ITEMS,
    USERS,
    change_header,
    floats,
    ids,
    make,
    raw,
)
from safetensors import numpy as safetensors

from recjax import artifact
from recjax.data import Seen
from recjax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    make(tmp_path / "artifact")
    return tmp_path / "artifact"


# -- format 1 --------------------------------------------------------------------------------------------------------


def make_format_1(folder, kind: str, tables: dict, specs: dict) -> None:
    """As the first release wrote it."""
    folder.mkdir()
    safetensors.save_file(tables, folder / "weights.safetensors")
    vocabulary = {"users": ["7", "8"], "items": raw(range(3)), "titles": ["a", "b", "c"]}
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary))
    seen = {"offsets": np.array([0, 1, 3]), "items": np.int32([0, 0, 2])}
    safetensors.save_file(seen, folder / "seen.safetensors")
    card = {"format": 1, "kind": kind, "users": 2, "known_users": 1, "items": 3, "tables": specs, "note": "old"}
    (folder / "model.json").write_text(json.dumps(card))


def test_format_1_is_still_read(tmp_path):
    dense = {"shape": [1, 3], "bits": 4, "packed": True, "sparse": False, "non_zero": 3}
    few = {"shape": [3, 3], "bits": 4, "packed": True, "sparse": True, "non_zero": 2}
    bias = {"shape": [3, 1], "bits": 16, "packed": False, "sparse": False, "non_zero": 2}
    tables = {
        "user.words": np.uint8([[0x21, 0x0F]]),  # 1, 2, -1
        "user.scale": np.float16([[0.5]]),
        "item.words": np.uint8([0xE3]),  # 3, -2
        "item.bitmap": np.uint8([0b00100010, 0]),  # rows 0 and 1, columns 1 and 2
        "item.scale": np.float16([[1], [2], [1]]),
        "item_bias.values": np.float16([[0], [0.25], [1]]),
    }
    make_format_1(tmp_path / "vectors", "vectors", tables, {"user": dense, "item": few, "item_bias": bias})
    model = artifact.load(tmp_path / "vectors")
    assert model.card["note"] == "old"
    found = model.recommend("7", k=3, include_seen=True)
    assert [(item.item, item.score) for item in found] == [("100", 3.0), ("101", 2.25), ("102", 1.0)]
    assert (model.known("7"), model.known("8")) == (True, False)
    table = {"item.values": np.float32([[0, 1, 2], [3, 0, 4], [5, 6, 0]])}
    spec = {"item": {"shape": [3, 3], "bits": 32, "packed": False, "sparse": False, "non_zero": 6}}
    make_format_1(tmp_path / "history", "history", table, spec)
    found = artifact.load(tmp_path / "history").recommend("7", k=2)
    assert [(item.item, item.score) for item in found] == [("102", 5.0), ("101", 3.0)]
    for name in ("weights.safetensors", "vocabulary.json", "seen.safetensors"):
        content = (tmp_path / "vectors" / name).read_bytes()
        (tmp_path / "vectors" / name).write_bytes(content[:-5])
        refused(tmp_path / "vectors", name)
        (tmp_path / "vectors" / name).write_bytes(content)


# -- atomic writes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing_call", [1, 2, 3])
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
        if len(calls) == 3:  # after the weights and the first of the two renames of the folder
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        make(folder, about={"note": "another"})
    monkeypatch.undo()
    assert not folder.exists()
    with monkeypatch.context() as patch:  # the next save puts the old one back before it does anything
        patch.setattr(safetensors, "save", lambda *_, **__: (_ for _ in ()).throw(OSError("no space left")))
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


def test_other_files_are_not_replaced(tmp_path):
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("years of work")
    with pytest.raises(InputError, match="thesis: expected an artifact to replace or nothing"):
        make(precious)
    with pytest.raises(InputError, match=r"chapter.txt: expected an artifact to replace or nothing"):
        make(precious / "chapter.txt")
    assert (precious / "chapter.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    artifact.load(tmp_path / "empty")


def test_symbolic_links_are_followed(tmp_path, folder):
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(folder)
    for note in ("second", "third"):
        make(link, about={"note": note})
        assert link.is_symlink()
        assert artifact.load(folder).card["note"] == artifact.load(link).card["note"] == note
    (tmp_path / "new").symlink_to(tmp_path / "elsewhere")
    make(tmp_path / "new")
    artifact.load(tmp_path / "elsewhere")
    artifact.save_params(file, {"x": np.zeros(1)})
    (tmp_path / "other").symlink_to(file)
    artifact.save_params(tmp_path / "other", {"x": np.ones(1)})
    assert (tmp_path / "other").is_symlink()
    assert artifact.load_params(file)["x"] == 1


def test_an_open_artifact_outlives_its_files(folder):
    model = artifact.load(folder)
    before = model.recommend("12", k=4)
    make(folder, params={"user": floats(5, DIM), "item": floats(ITEMS, DIM)})
    assert model.recommend("12", k=4) == before
    for name in FILES:
        (folder / name).unlink()
    assert model.recommend("12", k=4) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "factors"}, "tables: expected"),
        ({"params": {"user": floats(5, DIM), "item": floats(ITEMS, DIM + 1)}}, "table user: expected shape"),
        ({"params": {"user": floats(4, DIM), "item": floats(ITEMS, DIM)}}, "table user: expected shape"),
        ({"known_users": np.array([0, 1, 2, 3, 7])}, "known_users: expected positions below 7"),
        ({"titles": ["a"]}, "titles: expected 9, got 1"),
        ({"seen": Seen(np.array([0, 0]), np.zeros(0, np.int32))}, "seen: expected 8 offsets"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "a", **changes)
    assert not (tmp_path / "a").exists()


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


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_gives_an_answer_or_one_line(folder, name):
    content = (folder / name).read_bytes()
    for at in np.random.default_rng(0).choice(len(content), 60, replace=False):
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(at % 8)
        (folder / name).write_bytes(flipped)
        with contextlib.suppress(InputError):
            assert len(artifact.load(folder).recommend("10", k=3)) == 3


@pytest.mark.parametrize("name", FILES[1:])
def test_verify_finds_any_flipped_byte(folder, name):
    artifact.verify(folder)
    content = (folder / name).read_bytes()
    for at in np.random.default_rng(0).choice(len(content), 20, replace=False):
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(at % 8)
        (folder / name).write_bytes(flipped)
        with pytest.raises(InputError, match="expected"):
            artifact.verify(folder)


def test_verify_names_the_block_and_compares_the_answer(tmp_path):
    make(tmp_path / "a", params={"user": floats(5, DIM), "item": floats(ITEMS, DIM), "item_bias": floats(ITEMS)})
    many = {"item_ids": raw(range(30_000)), "titles": [""] * 30_000}
    make(tmp_path / "b", kind="popularity", params={"item_bias": floats(30_000)}, known_users=None, **many)
    content = bytearray((tmp_path / "b" / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "b" / "weights.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"weights.safetensors: .* from byte 65536 on"):
        artifact.verify(tmp_path / "b")
    card = json.loads((tmp_path / "a" / "model.json").read_text())
    answer = artifact.load(tmp_path / "a").recommend("10", k=9, include_seen=True)
    assert card["golden"] == {"user": "10", "items": ids(answer), "scores": [one.score for one in answer]}
    card["golden"]["scores"][0] += 1
    (tmp_path / "a" / "model.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="another answer for user 10"):
        artifact.verify(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"null", b'{"a": 1}', b"\xff\xfe\x00", b"[" * 100_000])
def test_a_foreign_card_is_named(folder, content):
    (folder / "model.json").write_bytes(content)
    refused(folder, "model.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 3},
        {"format": 0},
        {"format": "2"},
        {"kind": "other"},
        {"kind": ["vectors"]},
        {"kind": "factors"},
        {"users": "7"},
        {"users": 6},
        {"items": 10},
        {"ridge": "much"},
        {"ridge": -1},
        {"history_exponent": [0]},
    ],
)
def test_a_card_of_wrong_types_is_refused(folder, changes):
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | changes))
    message = refused(folder, "model.json")
    assert ("update recjax" in message) == (changes == {"format": 3})


def of_record(name: str, **changes):
    """A change of what the header says of a table's record."""

    def change(header):
        spec = json.loads(header["__metadata__"]["recjax"])
        spec["dict"][name]["parts"] |= changes
        header["__metadata__"]["recjax"] = json.dumps(spec)

    return change


HUGE = 10**9


@pytest.mark.parametrize(
    "change",
    [
        of_record("user", shape=[HUGE, HUGE]),
        of_record("user", shape=[5]),
        of_record("user", shape=[-5, -6]),
        of_record("user", shape=["5", "6"]),
        of_record("user", shape=None),
        of_record("user", bits=0),
        of_record("user", bits=5),
        of_record("user", bits="4"),
        of_record("user", bits=True),
        of_record("user", bits=None),
        of_record("user", group_size=0),
        of_record("user", scale={"array": "99"}),
        of_record("user", scale=None),
        of_record("user", other=3),
        of_record("item", kept=HUGE),
        of_record("item", before={"array": "0"}),
        of_record("item", kept=-1),
        of_record("item", shape=[HUGE, HUGE]),
        of_record("item", shape=[6, 9]),
        of_record("item", bits=None),
        of_record("item", scale=None),
        of_record("item", bitmap={"bits": "0", "shape": [HUGE, HUGE]}),
        lambda header: header.pop("__metadata__"),
        lambda header: header.update(__metadata__={"recjax": "[" * 10_000}),
        lambda header: header["0"].update(shape=[HUGE, HUGE, HUGE]),
        lambda header: header["0"].update(shape=[-1]),
        lambda header: header["0"].update(dtype="F8"),
        lambda header: header["0"].update(data_offsets=[0, HUGE]),
        lambda header: header["0"].update(data_offsets=[5, 5]),
        lambda header: header["0"].update(data_offsets="0"),
        lambda header: header.update({"9": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}),
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_made(folder, change):
    change_header(folder / "weights.safetensors", change)
    refused(folder, "weights.safetensors")


def test_records_that_numpy_does_not_read_are_named(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes().replace(b"QTensor", b"QTansor"))
    assert "expected one of the records IndexedRows, QTensor" in refused(folder, "weights.safetensors")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("seen", {"items": np.full(17, 9, np.int32)}),
        ("seen", {"items": np.full(17, -1, np.int32)}),
        ("seen", {"items": np.zeros(17, np.float32)}),
        ("seen", {"items": np.zeros((17, 1), np.int32)}),
        ("seen", {"offsets": np.arange(5)}),
        ("seen", {"offsets": np.array([0, 9, 3, 1, 7, 15, 17, 17])}),
        ("seen", {"offsets": np.array([1, 2, 3, 6, 7, 15, 17, 17])}),
        ("seen", {"offsets": np.array([0, 2, 3, 6, 7, 15, 17, 18])}),
        ("seen", {"offsets": np.array([0, 20, -3, 6, 7, 15, 17, 17])}),
        ("seen", {"offsets": np.array([0, 2, 3, 6, 7, 15, 17, 17], np.float64)}),
        ("seen", {"popularity": np.zeros(3, np.int32)}),
        ("ids", {"users.offsets": np.array([0, 99, 2, 3, 4, 5, 6, 22])}),
        ("ids", {"users.offsets": np.arange(9)}),
        ("ids", {"users.content": np.zeros(3, np.uint8)}),
        ("ids", {"users.hashes": np.zeros(3, np.uint64)}),
        ("ids", {"users.order": np.full(7, 9)}),
        ("ids", {"users.order": np.zeros(7, np.int32)}),
        ("ids", {"known_users": np.array([0, 1, 2, 3, 9])}),
        ("ids", {"titles.content": np.full(63, 255, np.uint8)}),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused_at_the_latest_when_used(folder, name, changes):
    arrays = safetensors.load_file(folder / f"{name}.safetensors")
    assert set(changes) <= set(arrays)
    (folder / f"{name}.safetensors").write_bytes(safetensors.save(arrays | changes))
    with pytest.raises(InputError, match="expected") as caught:
        list(artifact.load(folder).recommend_many(USERS, k=9))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_is_never_run(folder, tmp_path, name):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    content = pickle.dumps(Attack())
    (folder / name).write_bytes(content)
    refused(folder, name)
    assert not (tmp_path / "pwned").exists()
    pickle.loads(content)  # it would have
    assert (tmp_path / "pwned").exists()


def test_a_folder_that_is_none_is_named(tmp_path):
    refused(tmp_path / "nowhere", "model.json")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "model.json")
