"""Frappe: a DNN at its published quality, and how much of its AUC is left when it is made small.

Command:   python -m experiments.frappe --json experiments/results/frappe.json
Hardware:  two CPU cores, no accelerator
Wall time: 20 minutes; the JSON states it
Expected:  test AUC about .9844 in float (BARS: .9840 +- .0005); int8 after training, 4 bits, nine tenths of the net
           zero and a quarter of it in real shapes all within .001 of that

Valid and test are the published ones; the train negatives of this copy were drawn anew, so figures of all models may be
shifted alike. Dropout, L2, the learning rates, how long and by which masks is fine-tuned were settled on the validation
AUC of seed 0. Every form is fine-tuned from its seed's float model, at the epoch that validates best, written to
``weights.safetensors``, read back, and judged as read.
"""

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments import clicks
from experiments.clicks import members
from experiments.real import DATA
from experiments.record import over_seeds, plus_minus
from recjax import artifact, compress, data, grid, machine, models, prune, quantize, train
from recjax.files import write_json
from recjax.provenance import provenance

FIELDS = models.Fields(features=clicks.FEATURES, fields=clicks.FIELDS, dim=10, scale=0.1)
MODEL = models.dnn(FIELDS, hidden=(400, 400, 400))
LAYERS = ("hidden_0", "hidden_1", "hidden_2", "output")
KERNELS = [f"net/{layer}/kernel" for layer in LAYERS]
PUBLISHED = {"mean": 0.984045, "sd": 0.00051}  # BARS, DNN_frappe_x1, with batch normalization
EVERY = 10  # steps between two refreshes of a mask


@dataclasses.dataclass(frozen=True)
class Config:
    """How long and how often; a first look takes fewer seeds and epochs.

    Attributes:
      seeds: each with its own start and data order.
      epochs: of the float models, at most.
      ramp_epochs: in which the sparsity rises.
      fine_epochs: of fine-tuning, the ramp among them.
      batch_size: rows a step.
    """

    seeds: int = 5
    epochs: int = 30
    ramp_epochs: int = 4
    fine_epochs: int = 8
    batch_size: int = 4096


class Hparams(NamedTuple):
    """What may change without compiling again. 32 bits are floats."""

    learning_rate: jax.typing.ArrayLike = 1e-3
    l2: jax.typing.ArrayLike = 0.05
    dropout: jax.typing.ArrayLike = 0.2
    table_bits: jax.typing.ArrayLike = 32
    net_bits: jax.typing.ArrayLike = 32
    sparsity: jax.typing.ArrayLike = 0.0
    ramp: jax.typing.ArrayLike = 1.0  # steps
    steps: jax.typing.ArrayLike = 1.0  # of fine-tuning


class Technique(NamedTuple):
    """A compressed form and its bar.

    Attributes:
      bar: how much AUC it may cost; None where it is measured only.
      table_bits: of the rows of the table, one scale each.
      net_bits: of the kernels, one scale a column.
      sparsity: share of every kernel's entries that are zero.
    """

    bar: float | None
    table_bits: int = 32
    net_bits: int = 32
    sparsity: float = 0.0


POST_TRAINING = {"int8": Technique(0.0003, 8, 8)}
FINE_TUNED = {
    "int4": Technique(0.0005, 4, 4),
    "rows of 2 bits, int8 net": Technique(None, 2, 8),
    "rows of 1 bit, int8 net": Technique(None, 1, 8),
    "90% of the net zero": Technique(0.001, sparsity=0.9),
    "int8, 90% of the net zero": Technique(None, 8, 8, 0.9),
}
UNITS_KEPT = 188  # of 400 in each hidden layer: the perceptron has a quarter of its parameters
STRUCTURED = "a quarter of the net, in real shapes"


def model_of(params: Any) -> models.Ranking:
    """The model of some parameters, which may have been shrunk."""
    return models.dnn(FIELDS, hidden=[params["net"][layer]["bias"].size for layer in LAYERS[:-1]])


def loss(params: Any, batch: dict[str, jax.Array], hparams: Hparams, key: jax.Array) -> jax.Array:
    """Cross-entropy and the L2 penalty."""
    logit = model_of(params).logit(params, batch, key, dropout=hparams.dropout)
    return clicks.loss(logit, params["tables"], batch["label"], hparams.l2)


def adam(hparams: Hparams) -> optax.GradientTransformation:
    """The optimizer of the float models."""
    return optax.adam(hparams.learning_rate)


def decaying(hparams: Hparams) -> optax.GradientTransformation:
    """The optimizer of fine-tuning: half a cosine from the same learning rate to zero."""

    def rate(count: jax.Array) -> jax.Array:
        return hparams.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(count / hparams.steps, 1)))

    return optax.adam(rate)


def ramped(hparams: Hparams, step: jax.Array) -> jax.Array:
    """The sparsity at a step."""
    return prune.cubic_sparsity(step, begin=0, end=hparams.ramp, final=hparams.sparsity)


def ramp_steps(config: Config, steps: int) -> int:
    """The last refresh of the masks in the ramp's epochs of so many steps: those kept later have all their zeros."""
    return (config.ramp_epochs * steps - 1) // EVERY * EVERY


COUPLINGS = prune.mlp_couplings(dict.fromkeys(LAYERS), path=("net",))
PLAIN = clicks.recipe(loss, adam)
SMALL = PLAIN._replace(
    optimizer=decaying,
    transform=compress.chain(
        compress.global_magnitude_pruning(KERNELS, sparsity=ramped, every=EVERY),
        compress.row_quantization(["feature"], bits=lambda hparams: hparams.table_bits),
        compress.kernel_quantization(KERNELS, bits=lambda hparams: hparams.net_bits),
    ),
)
NARROW = PLAIN._replace(
    optimizer=decaying, transform=compress.structured_pruning(COUPLINGS, sparsity=ramped, every=EVERY)
)


def auc(params: Any, rows: data.Rows) -> jax.Array:
    """What is chosen by, and reported."""
    return clicks.auc(model_of(params), params, rows)


def fit(
    name: str,
    recipe: train.Recipe,
    starts: Any,
    hparams: Hparams,
    seeds: int,
    schedule: grid.Schedule,
    rows: dict[str, data.Rows],
) -> grid.Fitted:
    """Trains a member a seed."""
    axes = grid.product(learning_rate=[hparams.learning_rate], seed=range(seeds))
    return clicks.fit(name, recipe, starts, grid.population(hparams, axes), schedule, rows, auc)


def packed(params: Any, technique: Technique, masks: Mapping[str, Any]) -> Any:
    """The parameters as they are stored."""

    def few_bits(leaf: jax.Array, bits: int, axis: int) -> Any:
        return quantize.quantize(leaf, bits=bits, axis=axis) if bits < 16 else leaf

    def kernel(layer: str) -> Any:
        values = jnp.asarray(params["net"][layer]["kernel"])
        keep = masks.get(f"net/{layer}/kernel")
        if keep is None:
            return few_bits(values, technique.net_bits, -1)
        return prune.smallest(few_bits(jnp.where(keep, values, 0), technique.net_bits, -1), keep)

    net = {layer: {"kernel": kernel(layer), "bias": params["net"][layer]["bias"]} for layer in LAYERS}
    return {
        "tables": {"feature": few_bits(jnp.asarray(params["tables"]["feature"]), technique.table_bits, 0)},
        "net": net,
    }


def dense(leaf: Any) -> Any:
    """An array, whatever it is stored as."""
    match leaf:
        case prune.SparseTensor():
            return prune.densify(leaf)
        case quantize.QTensor():
            return quantize.dequantize(leaf)
    return leaf


def stored(params: Any, folder: pathlib.Path) -> tuple[Any, int]:
    """The parameters written to ``weights.safetensors``, read back and unpacked, and the bytes of the file."""
    path = folder / "weights.safetensors"
    artifact.save_params(path, params)
    records = (prune.SparseTensor, quantize.QTensor)
    read = jax.tree.map(dense, artifact.load_params(path), is_leaf=lambda part: isinstance(part, records))
    return read, path.stat().st_size


class Measured(NamedTuple):
    """One compressed form of every seed, read back from disk."""

    test: list[float]
    valid: list[float]
    bytes: list[float]
    net_entries: list[float]  # of the kernels, zeros left out


def measure(forms: list[Any], rows: dict[str, data.Rows]) -> Measured:
    """Writes every seed's form and judges what is read back."""
    judge = jax.jit(auc)
    found = []
    for form in forms:
        with tempfile.TemporaryDirectory() as folder:
            params, size = stored(form, pathlib.Path(folder))
        entries = sum(int(jnp.count_nonzero(params["net"][layer]["kernel"])) for layer in LAYERS)
        found.append((*(float(judge(params, rows[part])) for part in ("test", "valid")), size, entries))
    return Measured(*(list(map(float, values)) for values in zip(*found, strict=True)))


def entry(measured: Measured, base: Measured, bar: float | None, **chosen: Any) -> dict[str, Any]:
    """A row of the record: the figures of a form and their differences to the float models, seed by seed."""
    lost = over_seeds([a - b for a, b in zip(measured.test, base.test, strict=True)])
    within = {} if bar is None else {"bar": bar, "within": lost["mean"] >= -bar}
    return {
        "test_auc": over_seeds(measured.test),
        "valid_auc": over_seeds(measured.valid),
        "difference": lost,
        "bytes": over_seeds(measured.bytes),
        "net_entries": over_seeds(measured.net_entries),
        **within,
        **chosen,
    }


def run(config: Config, frappe: pathlib.Path) -> dict[str, Any]:
    """Everything that the JSON holds."""
    about = provenance("python -m experiments.frappe --json experiments/results/frappe.json")
    began = time.perf_counter()
    rows = clicks.read(frappe)
    steps = len(rows["train"].label) // config.batch_size
    hparams = Hparams(ramp=ramp_steps(config, steps))
    starts = jax.jit(jax.vmap(MODEL.init))(jax.vmap(jax.random.key)(jnp.arange(config.seeds)))
    each = grid.Schedule(epochs=config.epochs, batch_size=config.batch_size, patience=2, by_seed=True)
    floats = fit("float", PLAIN, starts, hparams, config.seeds, dataclasses.replace(each, adapt=clicks.falling), rows)
    params = members(floats.params)
    starts = {**jax.tree.map(lambda leaf: leaf[:, 0], floats.params), "fixed": {}}
    plain = Technique(None)
    base = measure([packed(member, plain, {}) for member in params], rows)

    def epochs(fitted: grid.Fitted) -> list[int]:
        return (fitted.best_step[:, 0] // steps).tolist()

    results = {"float": entry(base, base, None, epochs=epochs(floats))}
    for name, technique in POST_TRAINING.items():
        results[name] = entry(measure([packed(member, technique, {}) for member in params], rows), base, technique.bar)

    def fine_tuned(name: str, recipe: train.Recipe, technique: Technique) -> grid.Fitted:
        knobs = hparams._replace(
            table_bits=technique.table_bits,
            net_bits=technique.net_bits,
            sparsity=technique.sparsity,
            steps=config.fine_epochs * steps,
        )
        ramp = config.ramp_epochs * steps if technique.sparsity else 0
        length = dataclasses.replace(each, epochs=config.fine_epochs, patience=config.fine_epochs, count_from=ramp)
        return fit(name, recipe, starts, knobs, config.seeds, length, rows)

    for name, technique in FINE_TUNED.items():
        fitted = fine_tuned(name, SMALL, technique)
        masks = members(fitted.compression[0]) if technique.sparsity else [{}] * config.seeds
        forms = [packed(p, technique, m) for p, m in zip(members(fitted.params), masks, strict=True)]
        results[name] = entry(measure(forms, rows), base, technique.bar, epochs=epochs(fitted))

    width = starts["net"]["hidden_0"]["bias"].shape[-1]
    fitted = fine_tuned(STRUCTURED, NARROW, Technique(0.001, sparsity=1 - UNITS_KEPT / width))
    forms = [
        packed(prune.shrink(p, masks, COUPLINGS), plain, {})
        for p, masks in zip(members(fitted.params), members(fitted.compression), strict=True)
    ]
    shapes = {layer: list(forms[0]["net"][layer]["kernel"].shape) for layer in LAYERS}
    results[STRUCTURED] = entry(measure(forms, rows), base, 0.001, epochs=epochs(fitted), kernels=shapes)
    return {
        **about,
        "seconds": time.perf_counter() - began,
        "config": dataclasses.asdict(config),
        "hyperparameters": hparams._asdict(),
        "published": PUBLISHED,
        "forms": results,
    }


def table(record: dict[str, Any]) -> str:
    """The figures of a record as text."""
    published = record["published"]
    lines = [
        f"{'':<38}{'test AUC':>18}{'difference to float':>24}{'bar':>9}{'bytes':>12}{'in the net':>12}",
        f"{'published (BARS, DNN)':<38}{plus_minus(published, 5):>18}",
    ]
    for name, found in record["forms"].items():
        score, lost = (plus_minus(found[key], 5) for key in ("test_auc", "difference"))
        bar = "" if "bar" not in found else f"{found['bar']:.4f}{' ' if found['within'] else '!'}"
        lines.append(
            f"{name:<38}{score:>18}{lost:>24}{bar:>9}{found['bytes']['mean']:>12,.0f}{found['net_entries']['mean']:>12,.0f}"
        )
    return "\n".join(lines)


def main(config: Config = Config(), frappe: pathlib.Path = DATA / "frappe", json: pathlib.Path | None = None) -> None:
    """Trains the float models, makes them small in every way, and prints what that costs.

    Args:
      config: how long and how often.
      frappe: the folder with ``train.libfm.gz``, ``valid.libfm.gz`` and ``test.libfm.gz``.
      json: where to write the figures too; nowhere if not given.
    """
    machine.one_device_a_core()
    machine.keep_programs()
    figures = run(config, frappe)
    print(table(figures))
    if json is not None:
        write_json(figures, json)


if __name__ == "__main__":
    import tyro  # of the extra "run": reading this file for its functions doesn't need it

    tyro.cli(main)
