"""The deployed form of CTR models: logits are those of the JAX models, raw rows are scored, damage is refused."""

import datetime
import functools
import json
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from scipy import optimize

from recjax import artifact, data, models, prune, quantize
from recjax.artifact import Calibration
from recjax.data.learned import Categories, Hashes, Intervals, Sets, Standard, Times
from recjax.errors import InputError

ENCODING = data.Encoding(
    {
        "user": Categories(("ann", "bob", "")),
        "price": Intervals((1.0, 5.0)),
        "genres": Sets(("drama", "comedy", "war"), 2),
        "time": Times(),
        "page": Hashes(3),
        "score": Standard(2.0, 4.0),
    },
    label="click",
    dropped={"key": "as an option says"},
)
FIELDS = models.Fields(features=ENCODING.features, fields=ENCODING.fields, dim=4, scale=0.5)
STREAMS = models.FinalMlp(hidden=((7, 6), (4,)), gate=(5,), context=((0,), ()), heads=2)
MODELS = {
    "lr": models.logistic_regression(FIELDS),
    "fm": models.factorization_machine(FIELDS),
    "dnn": models.dnn(FIELDS, hidden=(7, 6)),
    "wide-and-deep": models.wide_and_deep(FIELDS, hidden=(7, 6)),
    "deepfm": models.deepfm(FIELDS, hidden=(7, 6)),
    "dcn-v2": models.dcn_v2(FIELDS, hidden=(7, 6), crosses=2),
    "finalmlp": models.finalmlp(FIELDS, STREAMS),
}
CALIBRATION = Calibration(0.7, -0.3)
ROWS = [
    {"user": "ann", "price": 3.0, "genres": "comedy|drama", "time": "2024-05-31T13:00:00Z", "page": "p", "score": 6},
    {"user": "zoe", "price": None, "genres": "", "time": None, "page": None, "score": None},
    {"user": None, "price": 0, "genres": "war|opera|comedy|drama", "time": 1717160400, "page": "q", "score": -2.5},
]


def packed(rows, dim, seed):
    random = np.random.default_rng(seed)
    words = random.integers(0, 256, (rows, -(-dim // 2)), dtype=np.uint8)
    return quantize.QTensor(words, (0.1 * random.random((rows, 1))).astype(np.float16), 4, (rows, dim), None)


def sparse(values):
    keep = np.random.default_rng(5).random(values.shape) < 0.5
    before = np.concatenate([[0], np.cumsum(keep.ravel())])[: keep.size : 1024].astype(np.int32)
    bitmap = np.packbits(keep, bitorder="little")
    return prune.SparseTensor(bitmap, before, values[keep], None, None, int(keep.sum()), None, values.shape)


@functools.cache
def params_of(kind):
    """Packed tables, one packed and one sparse matrix, and the other numbers as float16, none of them zero."""
    shapes, rng = jax.eval_shape(MODELS[kind].init, jax.random.key(0)), np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float16) / 2, shapes)
    for seed, (name, table) in enumerate(params["tables"].items()):
        params["tables"][name] = packed(*table.shape, seed)
    if "output" in params["net"]:
        params["net"]["hidden_0"]["kernel"] = packed(*params["net"]["hidden_0"]["kernel"].shape, 9)
        params["net"]["hidden_1"]["kernel"] = sparse(params["net"]["hidden_1"]["kernel"])
    return params


def dense(part):
    if isinstance(part, quantize.QTensor):
        return quantize.dequantize(part)
    if isinstance(part, prune.SparseTensor):
        return prune.densify(part)
    return part.astype(jnp.float32)


@pytest.fixture(scope="module")
def jax_logits():
    """Logits of the three rows by the JAX model of each kind, in one program."""
    records = (quantize.QTensor, prune.SparseTensor)

    def all_logits(params, batch):
        whole = jax.tree.map(dense, params, is_leaf=lambda part: isinstance(part, records))
        return {kind: MODELS[kind].logit(whole[kind], batch)[:, 0] for kind in MODELS}

    batch = jax.tree.map(jnp.asarray, data.encode(dict_of(ROWS), ENCODING).batch)
    found = jax.jit(all_logits)(jax.tree.map(jnp.asarray, {kind: params_of(kind) for kind in MODELS}), batch)
    return {kind: np.asarray(logits) for kind, logits in found.items()}


def save(folder, kind="dnn", **changes):
    arguments = {"encoding": ENCODING, "calibration": CALIBRATION, "context": STREAMS.context} | changes
    params = arguments.pop("params", None) or params_of(kind)
    artifact.save_ctr(folder, params, kind=kind, **arguments)
    return artifact.load(folder)


@pytest.fixture
def model(tmp_path):
    return save(tmp_path / "artifact")


@pytest.mark.parametrize("kind", MODELS)
def test_logits_are_those_of_the_jax_model(tmp_path, kind, monkeypatch, jax_logits):
    monkeypatch.setattr("recjax.artifact._ctr.BLOCK", 2)  # so that three rows are two blocks
    model, batch = save(tmp_path / "artifact", kind), data.encode(dict_of(ROWS), ENCODING).batch
    np.testing.assert_allclose(model.logits(batch), jax_logits[kind], rtol=1e-5, atol=1e-5)
    probability = 1 / (1 + np.exp(-(0.7 * jax_logits[kind].astype(np.float64) - 0.3)))
    np.testing.assert_allclose(model.score(ROWS).probability, probability, rtol=1e-4)
    artifact.verify(tmp_path / "artifact")


def dict_of(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_rows_may_have_any_form(model):
    expected = model.score(ROWS).probability
    columns = dict_of(ROWS)
    structured = np.array([tuple(row.values()) for row in ROWS], [(name, object) for name in ROWS[0]])
    frame = pl.DataFrame({**columns, "time": [1717160400, None, 1717160400]}, strict=False)
    moments = [datetime.datetime(2024, 5, 31, 13), None, datetime.datetime(2024, 5, 31, 13)]
    lists = [["comedy", "drama"], [], ["war", "opera", "comedy", "drama"]]
    for rows in (columns, structured, frame, columns | {"time": moments}, columns | {"genres": lists}):
        np.testing.assert_array_equal(model.score(rows).probability, expected)
    np.testing.assert_allclose(model.score(ROWS[0]).probability, expected[:1], rtol=1e-6)
    assert model.score({name: [] for name in columns}).probability.shape == (0,)
    with pytest.raises(TypeError, match="expected a list of dicts"):
        model.score(3)


def test_what_the_model_does_not_know_is_counted(model):
    assert model.score(ROWS).unknown == {"user": 1, "genres": 1}
    others = [{name: row[name] for name in row if name != "user"} | {"new": 1, "key": 2} for row in ROWS]
    with warnings.catch_warnings(record=True, action="always") as caught:
        found = model.score(others)
    assert [str(one.message) for one in caught] == ["columns missing in all rows: user", "columns ignored: new"]
    assert (found.missing, found.ignored) == (("user",), ("new",))
    missing = model.score([{**row, "user": None} for row in ROWS])
    np.testing.assert_array_equal(found.probability, missing.probability)
    with pytest.raises(InputError, match="column 'price', row 2: expected a finite number or nothing, got 'dear'"):
        model.score([ROWS[0], {**ROWS[0], "price": "dear"}])
    with pytest.raises(InputError, match=r"expected some of the columns \['user', .*got \['usr'\]"):
        model.score({"usr": ["ann"]})


def test_scoring_imports_no_jax_and_no_polars(tmp_path, model):
    del model
    code = (
        "import sys; from recjax import artifact; found = artifact.load(sys.argv[1]).score({'user': 'ann', 'price': 1, "
        "'genres': '', 'time': 0, 'page': 'p', 'score': 1}); print(float(found.probability[0])); "
        "print(*{'jax', 'polars', 'scipy', 'flax'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, tmp_path / "artifact"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    number, *modules = done.stdout.split()
    assert 0 < float(number) < 1
    assert modules == []


def test_platt_scaling_minimizes_the_loss_of_the_paper():
    rng = np.random.default_rng(0)
    logits = rng.normal(1, 3, 400)
    labels = rng.random(400) < 1 / (1 + np.exp(-(0.4 * logits - 1)))
    ones, zeros = labels.sum(), (~labels).sum()
    target = np.where(labels, (ones + 1) / (ones + 2), 1 / (zeros + 2))

    def loss(ab):
        p = 1 / (1 + np.exp(-(ab[0] * logits + ab[1])))
        return -np.sum(target * np.log(p) + (1 - target) * np.log(1 - p))

    expected = optimize.minimize(loss, (1.0, 0.0), tol=1e-12).x
    np.testing.assert_allclose(artifact.calibrate(logits, labels), expected, atol=1e-5)
    # already calibrated, up to the scale of the logits
    np.testing.assert_allclose(
        artifact.calibrate(100 * logits, labels).probability(100 * logits),
        artifact.calibrate(logits, labels).probability(logits),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("logits", "labels", "expected"),
    [
        ([-1.0, -2.0, 1.0, 2.0], [0, 0, 1, 1], [0.25, 0.75]),  # separable: no probability beyond Platt's targets
        ([3.0, 3.0, 3.0, 3.0], [1, 0, 0, 0], None),
        ([1.0, 2.0], [1, 1], None),
    ],
)
def test_platt_scaling_stays_finite(logits, labels, expected):
    found = artifact.calibrate(np.array(logits), np.array(labels))
    probability = found.probability(np.array(logits))
    assert np.isfinite(found).all()
    if expected is not None:
        assert expected[0] - 0.15 < probability.min() < probability.max() < expected[1] + 0.15
    ones = sum(labels)
    target = sum((ones + 1) / (ones + 2) if label else 1 / (len(labels) - ones + 2) for label in labels)
    np.testing.assert_allclose(probability.sum(), target, rtol=1e-5)  # what b = argmin makes true


def test_platt_scaling_refuses_what_is_no_logit():
    for logits, labels in (([np.nan], [1]), ([1.0, 2.0], [1]), ([], [])):
        with pytest.raises(ValueError, match="expected finite logits and labels"):
            artifact.calibrate(np.array(logits), np.array(labels))


def test_the_card_says_how(tmp_path):
    card = save(tmp_path / "artifact", "finalmlp", about={"data": "clicks.csv"}).card
    assert card["calibration"] == {
        "method": "Platt scaling on validation: sigmoid(a * logit + b)",
        "a": CALIBRATION.a,
        "b": CALIBRATION.b,
    }
    assert (card["task"], card["kind"], card["context"], card["data"]) == ("ctr", "finalmlp", [[0], []], "clicks.csv")
    assert (card["fields"], card["features"]) == (FIELDS.fields, FIELDS.features)
    sizes = [(tmp_path / "artifact" / name).stat().st_size for name in ("weights.safetensors", "encoding.json")]
    assert (card["bytes"], card["folder_bytes"]) == (sizes[0], sum(sizes))
    assert len(set(card["golden"]["probabilities"])) > 1


def test_what_is_damaged_is_refused(tmp_path, model):
    del model
    folder = tmp_path / "artifact"
    card = json.loads((folder / "model.json").read_text())
    for name in ("weights.safetensors", "encoding.json"):
        path = folder / name
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(InputError, match=name):
            artifact.load(folder)
        path.write_bytes(content[:-9])
        with pytest.raises(InputError, match=name):
            artifact.load(folder)
        path.write_bytes(content)
    for changes, message in (
        ({"kind": "tree"}, r"kind: expected one of lr, fm, .*got 'tree'"),
        ({"kind": "deepfm"}, "no 'feature_weight'"),
        ({"calibration": {"a": 1}}, "no 'b'"),
        ({"format": 3}, "expected format 2 or older"),
    ):
        (folder / "model.json").write_text(json.dumps({**card, **changes}))
        with pytest.raises(InputError, match=message) as caught:
            artifact.load(folder)
        assert len(str(caught.value).splitlines()) == 1
    golden = {**card["golden"], "probabilities": [p / 2 for p in card["golden"]["probabilities"]]}
    (folder / "model.json").write_text(json.dumps({**card, "golden": golden}))
    with pytest.raises(InputError, match="other probabilities of the golden rows"):
        artifact.verify(folder)
    (folder / "model.json").write_text(json.dumps(card))
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"expected the checksums in model\.json"):
        artifact.verify(folder)


def test_parameters_that_do_not_fit_are_refused(tmp_path):
    small = data.Encoding({"user": Categories(("ann",))}, "click")
    with pytest.raises(InputError, match="table feature: expected 2 rows, got"):
        save(tmp_path / "artifact", encoding=small)
    params = params_of("dnn")
    net = {**params["net"], "hidden_0": params["net"]["output"]}
    with pytest.raises(InputError, match=r"expected a card that fits the other files"):
        save(tmp_path / "artifact", params={**params, "net": net})
    with pytest.raises(ValueError, match="kind: expected one of lr"):
        save(tmp_path / "artifact", params=params, kind="tree")
    assert not (tmp_path / "artifact").exists()
