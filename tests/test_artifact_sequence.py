"""Models of ordered histories as artifacts: NumPy's scores are those of the JAX models, packed or not."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from artifact_cases import packed, sparse
from references.params import read_params
from safetensors import numpy as safetensors

from recjax import artifact, data, models
from recjax.artifact import _sequence
from recjax.errors import InputError
from recjax.families import inner_product
from recjax.families.sequential import _tables

ITEMS, LENGTH = 11, 6
SIZES = {"items": ITEMS, "length": LENGTH, "dim": 8}
HISTORIES = [[3, 0, 8, 3, 5, 1, 1, 9], [2, 7, 7], [4], [], [9, 1, 1, 5, 3, 8, 0, 3]]  # the last one the first backwards
CASES = {
    "sasrec": (models.sasrec(models.SasRec(**SIZES, heads=2)), {"blocks": 2, "heads": 2}),
    "bsarec": (
        models.bsarec(models.BsaRec(**SIZES, heads=2, alpha=0.6, cutoff=3)),
        {"blocks": 2, "heads": 2, "alpha": 0.6, "cutoff": 3},
    ),
    "gru4rec": (models.gru4rec(models.Gru4Rec(**SIZES, hidden=5, layers=2)), {"layers": 2, "hidden": 5}),
    "hstu": (models.hstu(models.Hstu(**SIZES, heads=2)), {"blocks": 2, "heads": 2}),
}
BATCH = np.array([([data.PADDING] * LENGTH + history)[-LENGTH:] for history in HISTORIES])
LOG = data.Histories(np.cumsum([0, *map(len, HISTORIES)]), np.concatenate(HISTORIES).astype(np.int32), None)


def net_of(name):
    return {"architecture": name, "length": LENGTH, **CASES[name][1]}


@functools.cache
def params_of(name):
    """All entries random, also those that start as zero."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(CASES[name][0].init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2, leaf.dtype), shapes)


@functools.cache
def program(name):
    return jax.jit(inner_product(CASES[name][0]))


def make(folder, name="sasrec", stored=None, **changes):
    arguments = {
        "kind": "sequence",
        "user_ids": [f"u{user}" for user in range(len(HISTORIES))],
        "item_ids": [f"i{item}" for item in range(ITEMS)],
        "titles": [""] * ITEMS,
        "seen": LOG,
        "net": net_of(name),
    } | changes
    artifact.save(folder, _tables(params_of(name) if stored is None else stored), **arguments)
    return artifact.load(folder)


def raw(items) -> list[str]:
    return [f"i{item}" for item in items]


def scores_of(found) -> dict[str, float]:
    return {one.item: one.score for one in found}


def compressed(path, leaf):
    """Matrices packed or sparse, of random bytes, kernels with a scale for each output; vectors as float16."""
    if leaf.ndim < 2:
        return np.asarray(leaf, np.float16)
    table = packed(*leaf.shape, 4, seed=leaf.size)
    if "kernel" in str(path):
        table = dataclasses.replace(table, scale=np.resize(table.scale, (1, leaf.shape[1])))
    table = dataclasses.replace(table, scale=table.scale / np.float16(8))
    return sparse(table, 0.5) if "query" in str(path) else table


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_the_jax_model(tmp_path, name, small):
    params = params_of(name)
    model = make(tmp_path / "a", name, jax.tree_util.tree_map_with_path(compressed, params) if small else params)
    if small:
        stored, keystr = read_params(tmp_path / "a" / "weights.safetensors"), jax.tree_util.keystr
        params = jax.tree_util.tree_map_with_path(
            lambda path, _: jnp.float32(stored[keystr(path[1:], simple=True, separator="/")]), params
        )
    expected = np.asarray(program(name)(params, {"history": jnp.asarray(BATCH, jnp.int32)}))
    users = np.arange(len(HISTORIES))
    for found in (model.scores(users), model.scores(users, BATCH)):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    short = model.scores(users[1:4], BATCH[1:4, 2:])  # padding in front changes nothing
    np.testing.assert_allclose(short, expected[1:4], rtol=2e-5, atol=2e-5)
    artifact.verify(tmp_path / "a")


def test_a_user_gets_what_their_history_gets_in_its_order(tmp_path):
    model = make(tmp_path / "a")
    for user, history in enumerate(HISTORIES):
        found = model.recommend(f"u{user}", k=ITEMS, include_seen=True)
        assert found.known == model.known(f"u{user}") == bool(history)
        if history:
            given = model.recommend(history=["new", *raw(history), "newer"], k=ITEMS, include_seen=True)
            assert given.unknown_items == 2
            assert scores_of(given) == pytest.approx(scores_of(found), rel=1e-5, abs=1e-5)
            left = model.recommend(history=raw(history), k=ITEMS)
            assert set(scores_of(left)) == set(raw(range(ITEMS))) - set(raw(history))
            assert set(scores_of(model.recommend(f"u{user}", k=ITEMS))) == set(scores_of(left))
    forth, back = (scores_of(model.recommend(user, k=ITEMS, include_seen=True)) for user in ("u0", "u4"))
    assert max(abs(forth[item] - back[item]) for item in forth) > 0.1
    once, twice = (
        scores_of(model.recommend(history=raw(given), k=ITEMS, include_seen=True)) for given in ([4], [4, 4])
    )
    assert max(abs(once[item] - twice[item]) for item in once) > 0.1
    assert not model.recommend(history=["new"], k=3).known
    many = dict(model.recommend_many(["u0", "nobody", "u2"], k=4))
    assert scores_of(many["u2"]) == pytest.approx(scores_of(model.recommend("u2", k=4)), rel=1e-5, abs=1e-5)


def test_items_are_compared_by_their_vectors_and_nothing_is_explained(tmp_path):
    model, item = make(tmp_path / "a"), np.asarray(params_of("sasrec")["tables"]["item"])
    unit = item / np.linalg.norm(item, axis=1, keepdims=True)
    expected = np.argsort(-(unit @ unit[4]))
    assert [one.item for one in model.similar("i4", k=5)] == raw([i for i in expected if i != 4][:5])
    with pytest.raises(InputError, match="explain: expected kind factors or item_item, got sequence"):
        model.explain("i4", user="u0")


def test_only_the_latest_events_are_stored(tmp_path):
    model = make(tmp_path / "a")
    assert model.recent.offsets.tolist() == [0, 6, 9, 10, 10, 16]
    assert model.recent.items.tolist() == [history for row in HISTORIES for history in row[-LENGTH:]]
    assert model.seen.lists(np.array([0]))[1].tolist() == [0, 1, 3, 5, 8, 9]
    assert model.popularity[1] == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "other"},
        {"architecture": ["sasrec"]},
        {"architecture": "hstu"},
        {"length": LENGTH + 1},
        {"length": "6"},
        {"blocks": 0},
        {"blocks": 3},
        {"blocks": 10**9},
        {"heads": 3},
        {"heads": True},
        {"alpha": 1.5},
        {"alpha": "much"},
        {"cutoff": -1},
        None,
    ],
)
def test_a_card_of_another_net_is_refused(tmp_path, changes):
    make(tmp_path / "a", "bsarec")
    path = tmp_path / "a" / "model.json"
    card = json.loads(path.read_text())
    card["net"] = changes and card["net"] | changes
    path.write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"model\.json: expected") as caught:
        artifact.load(tmp_path / "a")
    assert len(str(caught.value).splitlines()) == 1


def test_parameters_that_are_no_numbers_or_missing_are_refused(tmp_path):
    stored = {**params_of("sasrec"), "net": {**params_of("sasrec")["net"], "position": np.full((LENGTH, 8), np.nan)}}
    with pytest.raises(InputError, match="table position: expected finite numbers"):
        make(tmp_path / "a", stored=stored)
    del stored["net"]["position"]
    with pytest.raises(ValueError, match="tables: expected"):
        make(tmp_path / "b", stored=stored)
    with pytest.raises(ValueError, match="net: expected the architecture and sizes"):
        make(tmp_path / "b", net=None)


def test_gelu_is_that_of_the_error_function():
    x = np.linspace(-8, 8, 4001, dtype=np.float32)
    expected = [value * (1 + math.erf(value / 2**0.5)) / 2 for value in x.tolist()]
    np.testing.assert_allclose(_sequence._gelu(x), expected, rtol=1e-6, atol=1e-6)


def test_pruned_inner_units_are_served(tmp_path):
    """Units that add nothing may be cut: the answers stay."""
    net = dict(params_of("sasrec")["net"])
    kept = np.array([0, 2, 3])
    for block in range(2):
        inner, outer = net[f"inner_{block}"], net[f"outer_{block}"]
        net[f"inner_{block}"] = {"kernel": inner["kernel"][:, kept], "bias": inner["bias"][kept]}
        net[f"outer_{block}"] = {**outer, "kernel": outer["kernel"][kept]}
    params = {**params_of("sasrec"), "net": net}
    expected = np.asarray(program("sasrec")(params, {"history": jnp.asarray(BATCH, jnp.int32)}))
    found = make(tmp_path / "a", stored=params).scores(np.arange(len(HISTORIES)))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"recent.items": None},
        {"recent.items": np.full(16, ITEMS, np.int32)},
        {"recent.items": np.full(16, -1, np.int32)},
        {"recent.offsets": np.array([0, 6, 9, 10, 10, 17])},
        {"recent.offsets": np.array([0, 12, 3, 10, 10, 16])},
    ],
)
def test_damaged_histories_are_refused_at_the_latest_when_read(tmp_path, changes):
    make(tmp_path / "a")
    path = tmp_path / "a" / "seen.safetensors"
    arrays = safetensors.load_file(path) | changes
    path.write_bytes(safetensors.save({name: array for name, array in arrays.items() if array is not None}))
    with pytest.raises(InputError, match="expected") as caught:
        list(artifact.load(tmp_path / "a").recommend_many([f"u{user}" for user in range(5)], k=3))
    assert len(str(caught.value).splitlines()) == 1
