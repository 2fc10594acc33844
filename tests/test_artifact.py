"""The deployed form: tables, top lists and ids against slow readers, and answers against dense tables."""

import json
import subprocess
import sys

import numpy as np
import pytest
from artifact_cases import (
    DIM,
    HISTORIES,
    ITEMS,
    KNOWN,
    USERS,
    change_header,
    floats,
    ids,
    make,
    packed,
    raw,
    rows_packed,
    sparse,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from references.params import read_params, read_texts
from safetensors import numpy as safetensors

from recjax import artifact, prune, quantize
from recjax.artifact import _model
from recjax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    make(tmp_path / "artifact")
    return tmp_path / "artifact"


def best(scores: np.ndarray, without=()) -> list[str]:
    """Raw ids of a stable sort."""
    order = np.argsort(-scores, kind="stable")
    return raw(i for i in order if i not in without)


# -- tables ----------------------------------------------------------------------------------------------------------


@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 20)),
    bits=st.sampled_from([1, 2, 3, 4, 8]),
    form=st.sampled_from(["packed", "shared", "grouped", "with a bias", "floats"]),
    zeros=st.none() | st.floats(0, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_stored_tables_are_decoded_as_a_slow_reader_does(tmp_path_factory, shape, bits, form, zeros, seed):
    path = tmp_path_factory.mktemp("tables") / "w"
    table = {
        "packed": lambda: packed(*shape, bits, seed),
        "shared": lambda: packed(*shape, bits, seed, shared=True),
        "grouped": lambda: packed(*shape, bits, seed, group_size=3),
        "with a bias": lambda: rows_packed(*shape, bits, seed),
        "floats": lambda: floats(*shape, seed=seed),
    }[form]()
    artifact.save_params(path, {"item": table if zeros is None else sparse(table, zeros, seed)})
    expected = read_params(path)["item"]
    found = artifact.open_params(path)["item"]
    found = artifact._tables.as_table(found)
    assert found.shape == shape
    some = np.random.default_rng(seed).integers(0, shape[0], 5)
    half = slice(shape[0] // 2, shape[0])
    assert found.rows(slice(0, shape[0])).tobytes() == expected.tobytes()
    assert found.rows(half).tobytes() == expected[half].tobytes()
    assert found.rows(some).tobytes() == expected[some].tobytes()
    for queries in (floats(shape[1], 1, seed=seed), floats(shape[1], 25, seed=seed)):
        scores = np.empty((shape[0] - shape[0] // 2, queries.shape[1]), np.float32)
        artifact._tables.product(found, half, queries, out=scores)
        np.testing.assert_allclose(scores, expected[half] @ queries, rtol=1e-4, atol=1e-3)
    total = artifact._tables.sum_rows(found, some)
    np.testing.assert_allclose(total, expected[some].sum(axis=0), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("dim", [1, 2, 100, 256, 257, 700])
@pytest.mark.parametrize("bits", [4, None])
def test_indexed_rows_are_decoded_as_a_slow_reader_does(tmp_path, dim, bits):
    rows, count = 40, min(dim, 6)
    random, width = np.random.default_rng(dim), max((dim - 1).bit_length(), 1)
    places = np.stack([random.permutation(dim)[:count] for _ in range(rows)])
    ones = places[:, :, None] >> np.arange(width) & 1
    parts = [ones[:, :, :8], ones[:, :, 8:]] if width > 8 else [ones]
    words = [np.packbits(part.reshape(rows, -1).astype(np.uint8), axis=1, bitorder="little") for part in parts]
    values = floats(rows, count) if bits is None else packed(rows, count, bits)
    artifact.save_params(tmp_path / "w", {"item": {"positions": np.concatenate(words, axis=1), "values": values}})

    def as_record(header):
        spec = json.loads(header["__metadata__"]["recjax"])
        spec["dict"]["item"] = {"record": "IndexedRows", "parts": {**spec["dict"]["item"]["dict"], "dim": dim}}
        header["__metadata__"]["recjax"] = json.dumps(spec)

    change_header(tmp_path / "w", as_record)
    found, expected = artifact.open_params(tmp_path / "w")["item"], read_params(tmp_path / "w")["item"]
    assert found.shape == expected.shape
    assert found.rows(slice(3, 20)).tobytes() == expected[3:20].tobytes()
    some = random.integers(0, rows, 9)
    np.testing.assert_allclose(artifact._tables.sum_rows(found, some), expected[some].sum(axis=0), atol=1e-4)
    for queries in (floats(dim, 1), floats(dim, 3)):
        scores = np.empty((17, queries.shape[1]), np.float32)
        artifact._tables.product(found, slice(3, 20), queries, out=scores)
        np.testing.assert_allclose(scores, expected[3:20] @ queries, rtol=1e-4, atol=1e-3)


def test_a_packed_table_reads_as_jax_reads_it(tmp_path):
    table = floats(11, 7)
    for bits, axis in ((2, 0), (8, 0), (4, -1)):
        q = quantize.quantize(table, bits=bits, axis=axis)
        artifact.save_params(tmp_path / "w", {"dense": q, "sparse": prune.sparsify(q)})
        for found in artifact.open_params(tmp_path / "w").values():
            assert found.rows(slice(0, 11)).tobytes() == np.asarray(quantize.dequantize(q)).tobytes()


def test_rows_of_a_large_sparse_table_are_found_by_the_stored_counts(tmp_path):
    artifact.save_params(tmp_path / "w", {"item": sparse(floats(300, 13), 0.7)})
    found, expected = artifact.open_params(tmp_path / "w")["item"], read_params(tmp_path / "w")["item"]
    some = np.random.default_rng(0).integers(0, 300, 50)
    np.testing.assert_array_equal(found.rows(some), expected[some])
    for start in range(0, 300, 50):
        np.testing.assert_array_equal(found.rows(slice(start, start + 50)), expected[start : start + 50])


@given(
    shape=st.tuples(st.integers(1, 400), st.sampled_from([1, 2, 3, 5, 8, 32])),
    bits=st.sampled_from([2, 3, 4, 8]),
    zeros=st.none() | st.floats(0, 1),
)
@settings(max_examples=40, deadline=None)
def test_the_file_size_is_known_before_it_is_written(tmp_path_factory, shape, bits, zeros):
    table = packed(*shape, bits) if zeros is None else sparse(packed(*shape, bits), zeros)
    params = {"user": table, "item": rows_packed(*shape, bits), "item_bias": np.ones(shape[0], np.float16)}
    path = tmp_path_factory.mktemp("predicted") / "w"
    assert artifact.file_size(params) == artifact.save_params(path, params) == path.stat().st_size


def test_keys_that_are_not_text_are_refused(tmp_path):
    with pytest.raises(TypeError, match="expected text keys, got 0"):
        artifact.save_params(tmp_path / "w", {"net": {0: np.ones(2), "0": np.zeros(2)}})


# -- top k -----------------------------------------------------------------------------------------------------------


@given(
    scores=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.one_of(st.integers(1, 12), st.integers(1, 700))),
        elements=st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 1.0, 2.0, np.inf]),
    ),
    data=st.data(),
)
@settings(deadline=None)
def test_top_k_is_a_stable_sort(scores, data):
    k = data.draw(st.integers(1, min(scores.shape[1], 30)))
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(artifact.top_k(scores, k), expected)


@pytest.mark.parametrize("items", [5, 600])
def test_top_k_refuses_nan(items):
    with pytest.raises(ValueError, match="got NaN"):
        artifact.top_k(np.full((1, items), np.nan), 1)


# -- ids -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=5), unique=True, max_size=30), st.lists(st.text(max_size=5), max_size=5))
@settings(deadline=None)
def test_ids_are_found_without_a_dict(texts, others):
    found = artifact._ids.Ids.of(texts)
    assert list(found) == texts
    assert found.find([*texts, *others]).tolist() == [
        texts.index(text) if text in texts else -1 for text in [*texts, *others]
    ]


def test_ids_of_equal_hashes_are_told_apart(monkeypatch):
    monkeypatch.setattr(artifact._ids, "id_hash", lambda ids: np.zeros(len(list(ids)), np.uint64))
    assert artifact._ids.Ids.of(["b", "a", "c"]).find(["a", "c", "d", "b"]).tolist() == [1, 2, -1, 0]


def test_the_files_hold_ids_titles_and_sorted_hashes(folder):
    assert read_texts(folder / "ids.safetensors", "users") == USERS
    assert read_texts(folder / "ids.safetensors", "titles") == [f"Title {i}" for i in range(ITEMS)]
    hashes = safetensors.load_file(folder / "ids.safetensors")["users.hashes"]
    assert (np.diff(hashes.astype(object)) > 0).all()


# -- answers ---------------------------------------------------------------------------------------------------------


def test_a_known_user_gets_unseen_items_by_score(folder):
    model = artifact.load(folder)
    tables = read_params(folder / "weights.safetensors")
    for position, user in enumerate(USERS):
        if position in KNOWN:
            scores = tables["user"][KNOWN.index(position)] @ tables["item"].T + tables["item_bias"]
            found = model.recommend(user, k=4)
            assert model.known(user)
            assert found.known
            assert ids(found) == best(scores, HISTORIES[position])[:4]
            assert [item.title for item in found] == [f"Title {int(i) - 100}" for i in ids(found)]
            by_score = [scores[int(i) - 100] for i in ids(found)]
            np.testing.assert_allclose([item.score for item in found], by_score, rtol=1e-5, atol=1e-5)
            assert all(isinstance(item.score, float) and isinstance(item.item, str) for item in found)


def test_seen_items_come_only_when_asked_for(folder):
    model = artifact.load(folder)
    assert ids(model.recommend("14", k=9)) == ["108"]  # all that user 14 doesn't have
    assert len(model.recommend("14", k=9, include_seen=True)) == 9


def test_excluded_items_never_come(folder):
    model = artifact.load(folder)
    for user in ("12", "nobody"):
        all_items = ids(model.recommend(user, k=9))
        left = [item for item in all_items if item not in (all_items[0], all_items[2])]
        assert ids(model.recommend(user, k=9, exclude=[all_items[0], all_items[2], "unheard of"])) == left


def test_only_items_within_a_set_come(folder):
    model = artifact.load(folder)
    some = ["101", "104", "107", "100", "unheard of"]
    for user in ("11", "nobody"):
        expected = [item for item in ids(model.recommend(user, k=9)) if item in some and item != "104"]
        for within in (some, model.mask(some)):
            assert ids(model.recommend(user, k=9, within=within, exclude=["104"])) == expected
            ((_, many),) = model.recommend_many([user], k=9, within=within, exclude=["104"])
            assert ids(many) == expected
    assert len(model.recommend("nobody", k=9, within=[])) == 0
    with pytest.raises(InputError, match="within: expected a mask of 9 items"):
        model.recommend("11", k=2, within=np.ones(3, bool))


@pytest.mark.parametrize("diversity", [0.3, 1.0])
def test_diverse_lists_have_the_largest_marginal_relevance(folder, diversity):
    model, table = artifact.load(folder), read_params(folder / "weights.safetensors")["item"]
    unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-30)
    ranked = model.recommend("11", k=9)
    left, chosen = {int(item.item) - 100: item.score for item in ranked}, []
    low, high = min(left.values()), max(left.values())
    for _ in range(5):
        best_of_left = max(
            left,
            key=lambda i: (
                (1 - diversity) * (left[i] - low) / (high - low)
                - diversity * max((unit[i] @ unit[j] for j in chosen), default=0)
            ),
        )
        chosen.append(best_of_left)
        del left[best_of_left]
    assert ids(model.recommend("11", k=5, diversity=diversity)) == raw(chosen)
    with pytest.raises(InputError, match="diversity: expected 0 to 1, got 2"):
        model.recommend("11", k=5, diversity=2)


def test_a_new_user_is_fitted_by_ridge_regression(folder, tmp_path):
    make(tmp_path / "b", about={"ridge": 0.5})
    for path, ridge in ((folder, 0.01), (tmp_path / "b", 0.5)):
        model, tables = artifact.load(path), read_params(path / "weights.safetensors")
        item, bias = tables["item"].astype(np.float64), tables["item_bias"].astype(np.float64)
        target = np.isin(np.arange(ITEMS), [1, 4]) - bias
        rows = np.concatenate([item, ridge**0.5 * np.eye(DIM)])
        user = np.linalg.lstsq(rows, np.concatenate([target, np.zeros(DIM)]), rcond=None)[0]
        scores = item @ user + bias
        found = model.recommend(history=["101", "104", "new"], k=9)
        assert (found.known, found.unknown_items) == (True, 1)
        assert ids(found) == best(scores, [1, 4])
        np.testing.assert_allclose([x.score for x in found], sorted(np.delete(scores, [1, 4]))[::-1], atol=1e-4)


@pytest.mark.parametrize("kind", ["factors", "item_item"])
def test_contributions_sum_to_the_score(tmp_path, kind):
    params = {"item": packed(ITEMS, DIM, 4), "query": packed(ITEMS, DIM, 4, seed=1)}
    params = params if kind == "factors" else {"item_item": sparse(packed(ITEMS, ITEMS, 4), 0.3)}
    params |= {"item_bias": floats(ITEMS), "scale": np.float32(0.5)}
    make(tmp_path / "a", kind=kind, params=params, known_users=None, history_exponent=0.5)
    model = artifact.load(tmp_path / "a")
    for who in ({"user": "12"}, {"history": ["100", "103", "108", "new"]}):
        for item in model.recommend(**who, k=9, include_seen=True):
            found = model.explain(item.item, **who)
            assert sorted(ids(found.contributions)) == ["100", "103", "108"]
            total = sum(part.score for part in found.contributions) + found.bias
            assert total == pytest.approx(item.score, rel=1e-4, abs=1e-3)


def test_explain_is_for_models_of_histories(folder):
    with pytest.raises(InputError, match="explain: expected kind factors or item_item, got vectors"):
        artifact.load(folder).explain("100", user="12")


def test_ids_may_be_given_as_numbers(folder):
    model = artifact.load(folder)
    assert model.recommend(12, k=3) == model.recommend("12", k=3)
    assert model.known(np.int64(12))
    assert not model.known(12.5)


def test_an_unknown_user_gets_what_most_have(folder):
    model = artifact.load(folder)
    found = model.recommend("nobody", k=9)
    counts = np.bincount(np.concatenate(HISTORIES).astype(int), minlength=ITEMS)
    assert not model.known("nobody")
    assert not found.known
    assert ids(found) == best(counts)
    assert [item.score for item in found] == sorted(counts.tolist(), reverse=True)


def test_a_user_without_a_vector_gets_popular_items_minus_their_own(folder):
    model = artifact.load(folder)
    assert not model.known("cold")
    found = ids(model.recommend("cold", k=9))
    assert found == [item for item in ids(model.recommend("nobody", k=9)) if item not in ("100", "102")]
    assert len(model.recommend("cold", k=9, include_seen=True)) == 9
    assert len(model.recommend("né ☃", k=9)) == 9
    assert not model.recommend("\udc80", k=9).known  # what a command line makes of bytes that are not UTF-8


@pytest.mark.parametrize("k", [0, -1, ITEMS + 1])
def test_a_k_that_cannot_be_is_refused(folder, k):
    model = artifact.load(folder)
    for call in (lambda: model.recommend("10", k=k), lambda: model.similar("100", k=k)):
        with pytest.raises(InputError, match=f"k: expected 1 to {ITEMS}, the size of the catalog, got {k}"):
            call()


def test_a_user_or_a_history_is_expected(folder):
    model = artifact.load(folder)
    for arguments, found in (({}, "none"), ({"user": "10", "history": ["100"]}, "both")):
        with pytest.raises(InputError, match=f"expected a user or a history, got {found}"):
            model.recommend(**arguments)


@pytest.mark.parametrize("exponent", [0.0, 0.5])
@pytest.mark.parametrize("query", [False, True])
@pytest.mark.parametrize("include_seen", [False, True])
def test_factors_sum_the_rows_of_a_history(tmp_path, exponent, query, include_seen):
    params = {
        "item": packed(ITEMS, DIM, 4, seed=2),
        "item_bias": floats(ITEMS, 1, seed=3),
        "scale": np.float32(3.0),
        **({"query": sparse(packed(ITEMS, DIM, 4, seed=4), 0.5)} if query else {}),
    }
    make(tmp_path / "a", kind="factors", params=params, known_users=None, history_exponent=exponent)
    model, tables = artifact.load(tmp_path / "a"), read_params(tmp_path / "a" / "weights.safetensors")
    pairs = tables["query" if query else "item"] @ tables["item"].T
    np.fill_diagonal(pairs, 0)  # an item adds nothing to its own score
    for user, history in zip(USERS[:3], HISTORIES[:3], strict=True):
        scores = 3.0 * pairs[history].sum(axis=0) / len(history) ** exponent + tables["item_bias"][:, 0]
        expected = best(scores, () if include_seen else history)
        by_history = model.recommend(history=[*raw(history), "new", *raw(history)], k=9, include_seen=include_seen)
        for found in (model.recommend(user, k=9, include_seen=include_seen), by_history):
            assert ids(found) == expected
            values = scores[[int(i) - 100 for i in expected]]
            np.testing.assert_allclose([item.score for item in found], values, rtol=1e-4, atol=1e-3)
        assert by_history.unknown_items == 1
    assert not model.known("né ☃")
    nothing = model.recommend(history=["new"], k=3)
    assert not nothing.known
    assert ids(nothing) == ids(model.recommend("nobody", k=3))


@pytest.mark.parametrize("zeros", [None, 0.7])
def test_item_item_tables_sum_the_rows_of_a_history(tmp_path, zeros):
    table = packed(ITEMS, ITEMS, 8, seed=5)
    table = table if zeros is None else sparse(table, zeros)
    make(tmp_path / "a", kind="item_item", params={"item_item": table}, known_users=None)
    model, dense = artifact.load(tmp_path / "a"), read_params(tmp_path / "a" / "weights.safetensors")["item_item"]
    scores = dense[HISTORIES[2]].sum(axis=0)
    assert ids(model.recommend("12", k=9)) == best(scores, HISTORIES[2])
    assert ids(model.recommend("12", k=9, include_seen=True)) == best(scores)
    assert ids(model.recommend(history=raw(HISTORIES[2]), k=9)) == best(scores, HISTORIES[2])
    assert ids(model.similar("103", k=9)) == best(dense[3], [3])


def test_popularity_is_a_kind_too(tmp_path):
    make(tmp_path / "a", kind="popularity", params={"item_bias": np.arange(ITEMS, dtype=np.float32)})
    model = artifact.load(tmp_path / "a")
    assert ids(model.recommend("11", k=2)) == ["108", "107"]
    with pytest.raises(InputError, match="expected a model with vectors of items"):
        model.similar("100", k=2)
    with pytest.raises(InputError, match="expected a model with vectors of items"):
        model.recommend(history=["100"], k=2)


def test_similar_items_have_the_largest_cosine(folder):
    model, table = artifact.load(folder), read_params(folder / "weights.safetensors")["item"]
    unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-30)
    found = model.similar("104", k=9)
    assert ids(found) == best(unit @ unit[4], [4])
    np.testing.assert_allclose([item.score for item in found], sorted(np.delete(unit @ unit[4], 4))[::-1], atol=1e-5)
    with pytest.raises(InputError, match="item: expected one of the catalog, got what"):
        model.similar("what", k=2)


@pytest.mark.parametrize("kind", ["vectors", "factors", "item_item"])
def test_slabs_and_batches_change_no_answer(tmp_path, monkeypatch, kind):
    """Small whole numbers, so that sums are exact and ties are many."""
    random, items = np.random.default_rng(0), 700
    whole = lambda *shape: random.integers(-2, 3, shape).astype(np.float32)  # noqa: E731
    params = {
        "vectors": {"user": whole(7, 4), "item": whole(items, 4)},
        "factors": {"item": whole(items, 4)},
        "item_item": {"item_item": whole(items, items)},
    }[kind]
    more = {"item_ids": raw(range(items)), "titles": [""] * items, "known_users": None}
    make(tmp_path / "a", kind=kind, params=params, **more)
    model = artifact.load(tmp_path / "a")
    if kind == "vectors":
        scores = params["user"] @ params["item"].T
    else:
        pairs = params.get("item_item")
        if pairs is None:
            pairs = params["item"] @ params["item"].T
            np.fill_diagonal(pairs, 0)
        scores = np.stack([pairs[history].sum(axis=0) for history in HISTORIES])
    users = np.arange(len(USERS))
    expected = [best(row, history)[:12] for row, history in zip(scores, HISTORIES, strict=True)]
    for slab, held in ((2**16, 2**22), (64, 100), (192, 1000)):
        monkeypatch.setattr(_model, "SLAB", slab)
        monkeypatch.setattr(_model, "SCORES", held)
        monkeypatch.setattr(_model, "USERS", 3)
        found, values = model.top_k(users, k=12, exclude=model.seen)
        assert [raw(row) for row in found] == expected
        own = np.array([[-1] * (8 - len(history)) + history[::-1] for history in HISTORIES[2:]])
        twice = np.concatenate([own, own], axis=1)  # where a history is a set
        for all_scores in (model.scores(users[2:]), model.scores(users[2:], own), model.scores(users[2:], twice)):
            np.testing.assert_array_equal(all_scores, scores[2:])
        np.testing.assert_array_equal(values, np.take_along_axis(scores, found, 1))
        many = dict(model.recommend_many([*USERS, "nobody"], k=12))
        assert list(many) == [*USERS, "nobody"]
        for user, answer in many.items():
            assert answer == model.recommend(user, k=12)
            assert answer.known == model.known(user)


def test_reading_imports_numpy_and_safetensors_only(folder):
    code = """
import sys
from recjax import artifact
model = artifact.load(sys.argv[1])
assert len(model.recommend("12", k=3)) == len(model.similar("100", k=3)) == 3
artifact.open_params(sys.argv[1] + "/weights.safetensors")
heavy = {"jax", "jaxlib", "flax", "optax", "polars", "scipy", "ml_dtypes"}
assert not heavy & {name.split(".")[0] for name in sys.modules}
"""
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
