"""Frappe: a DNN at its published quality, and how much of its AUC is left when it is made small.

Command:   python -m experiments.frappe --json experiments/results/frappe.json
Hardware:  two CPU cores, no accelerator
Wall time: 20 minutes; the JSON states it
Expected:  test AUC about .9844 in float (BARS: .9840 +- .0005); int8 after training, 4 bits, nine tenths of the net
           zero and a quarter of it in real shapes all within .001 of that

Valid and test are the published ones; the train negatives of this copy were drawn anew, so figures of all models may be
shifted alike. Dropout, L2, the learning rates, how long and by which masks is fine-tuned were chosen on the validation
AUC of seed 0. Every form is fine-tuned from its seed's float model, at the epoch that validates best, written to
``weights.safetensors``, read back, and evaluated as read.
"""

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.real import DATA
from experiments.record import over_seeds, plus_minus, say
from recjax import artifact, compress, families, grid, machine, prune, quantize
from recjax.data import CTRDataset
from recjax.families import Model
from recjax.files import write_json
from recjax.provenance import provenance
from recjax.study import NOTHING, Compression, Result, Study, Training
from recjax.tasks import ctr

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


class Form(NamedTuple):
    """Hyperparameters of the compressed forms. 32 bits are floats.

    Attributes:
      table_bits: of the rows of the table, one scale each.
      net_bits: of the kernels, one scale a column.
      sparsity: share of the kernels' entries, or of the hidden units, that are zero.
      ramp: steps in which the sparsity rises.
    """

    table_bits: Any = 32
    net_bits: Any = 32
    sparsity: Any = 0.0
    ramp: Any = 1.0


POST_TRAINING = {"int8": (Form(8, 8), 0.0003)}  # and how much AUC each may cost; None where it is measured only
FINE_TUNED = {
    "int4": (Form(4, 4), 0.0005),
    "rows of 2 bits, int8 net": (Form(2, 8), None),
    "rows of 1 bit, int8 net": (Form(1, 8), None),
    "90% of the net zero": (Form(sparsity=0.9), 0.001),
    "int8, 90% of the net zero": (Form(8, 8, 0.9), None),
}
UNITS_KEPT = 188  # of 400 in each hidden layer: the perceptron has a quarter of its parameters
STRUCTURED = "a quarter of the net, in real shapes"


def decaying(hparams: Any) -> optax.GradientTransformation:
    """The optimizer of fine-tuning: half a cosine from the learning rate of the float models to zero."""
    share = optax.cosine_decay_schedule(1.0, 1)  # of the whole training, whose steps may be traced
    return optax.adam(lambda count: hparams.learning_rate * share(count / hparams.steps))


def ramped(hparams: Any, step: jax.Array) -> jax.Array:
    """The sparsity at a step."""
    return prune.cubic_sparsity(step, begin=0, end=hparams.ramp, final=hparams.sparsity)


def ramp_steps(config: Config, steps: int) -> int:
    """The last refresh of the masks in the ramp's epochs of so many steps: those kept later have all their zeros."""
    return (config.ramp_epochs * steps - 1) // EVERY * EVERY


COUPLINGS = prune.mlp_couplings(dict.fromkeys(LAYERS), path=("net",))
SMALL = compress.chain(
    compress.global_magnitude_pruning(KERNELS, sparsity=ramped, every=EVERY),
    compress.row_quantization(["feature"], bits=lambda hparams: hparams.table_bits),
    compress.kernel_quantization(KERNELS, bits=lambda hparams: hparams.net_bits),
)
NARROW = compress.structured_pruning(COUPLINGS, sparsity=ramped, every=EVERY)


def packed(params: Any, form: Form, masks: Mapping[str, Any]) -> Any:
    """The parameters as they are stored."""

    def few_bits(leaf: jax.Array, bits: int, axis: int) -> Any:
        return quantize.quantize(leaf, bits=bits, axis=axis) if bits < 16 else leaf

    def kernel(layer: str) -> Any:
        values = jnp.asarray(params["net"][layer]["kernel"])
        keep = masks.get(f"net/{layer}/kernel")
        if keep is None:
            return few_bits(values, form.net_bits, -1)
        return prune.sparsify_if_smaller(few_bits(jnp.where(keep, values, 0), form.net_bits, -1), keep)

    net = {layer: {"kernel": kernel(layer), "bias": params["net"][layer]["bias"]} for layer in LAYERS}
    return {"tables": {"feature": few_bits(jnp.asarray(params["tables"]["feature"]), form.table_bits, 0)}, "net": net}


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


def measure(model: Model, forms: list[Any], dataset: CTRDataset) -> Measured:
    """Writes every seed's form and evaluates what is read back."""
    found = []
    for form in forms:
        with tempfile.TemporaryDirectory() as folder:
            params, size = stored(form, pathlib.Path(folder))
        entries = sum(int(jnp.count_nonzero(params["net"][layer]["kernel"])) for layer in LAYERS)
        auc = [ctr.evaluate(model, params, part)["auc"] for part in (dataset.test, dataset.valid)]
        found.append((*auc, size, entries))
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


def members(tree: Any, seeds: int) -> list[Any]:
    """What belongs to each seed, of a population of one setting."""
    return [jax.tree.map(lambda leaf, seed=seed: np.asarray(leaf[seed, 0]), tree) for seed in range(seeds)]


def run(config: Config, frappe: pathlib.Path) -> dict[str, Any]:
    """Everything that the JSON holds."""
    about = provenance("python -m experiments.frappe --json experiments/results/frappe.json")
    began = time.perf_counter()
    return {**about, **figures(config, ctr.read(frappe)), "seconds": time.perf_counter() - began}


def figures(
    config: Config, dataset: CTRDataset, family: Callable[[CTRDataset], Model] = families.dnn
) -> dict[str, Any]:
    """The settings and every form; ``family`` gives a DNN of three hidden layers."""
    model = family(dataset)
    assert model.objective is not None
    steps, plain = len(dataset.train.label) // config.batch_size, Form()
    each = dataclasses.replace(model.objective.schedule, epochs=config.epochs, batch_size=config.batch_size)

    def study(compression: Compression, model: Model = model) -> Study:
        return Study(dataset, model, compression=compression, validate=ctr.validation(model, dataset))

    def epochs(result: Result) -> list[int]:
        return (result.fitted.best_step[:, 0] // steps).tolist()

    settings = grid.product(seed=range(config.seeds))
    floats = study(NOTHING).run(settings, training=Training(each, progress=say("float", "AUC")))
    params = members(floats.fitted.params, config.seeds)
    starts = {**jax.tree.map(lambda leaf: leaf[:, 0], floats.fitted.params), "fixed": {}}
    base = measure(model, [packed(member, plain, {}) for member in params], dataset)
    results = {"float": entry(base, base, None, epochs=epochs(floats))}
    for name, (form, bar) in POST_TRAINING.items():
        forms = [packed(member, form, {}) for member in params]
        results[name] = entry(measure(model, forms, dataset), base, bar)

    tuned = model._replace(objective=model.objective._replace(optimizer=decaying))
    small, narrow = (study(Compression(transform, plain), tuned) for transform in (SMALL, NARROW))

    def fine_tuned(name: str, study: Study, form: Form) -> Result:
        length = grid.Schedule(
            epochs=config.fine_epochs,
            batch_size=config.batch_size,
            patience=config.fine_epochs,
            count_from=config.ramp_epochs * steps if form.sparsity else 0,
            by_seed=True,
        )
        training = Training(length, progress=say(name, "AUC"))
        values = form._replace(ramp=ramp_steps(config, steps))._asdict()
        return study.run(settings, starts=starts, fixed=values, training=training)

    for name, (form, bar) in FINE_TUNED.items():
        result = fine_tuned(name, small, form)
        masks = members(result.fitted.compression[0], config.seeds) if form.sparsity else [{}] * config.seeds
        tuned_params = members(result.fitted.params, config.seeds)
        forms = [packed(member, form, of) for member, of in zip(tuned_params, masks, strict=True)]
        results[name] = entry(measure(model, forms, dataset), base, bar, epochs=epochs(result))

    width = params[0]["net"]["hidden_0"]["bias"].size
    result = fine_tuned(STRUCTURED, narrow, Form(sparsity=1 - UNITS_KEPT / width))
    forms = [
        packed(prune.shrink(member, masks, COUPLINGS), plain, {})
        for member, masks in zip(
            members(result.fitted.params, config.seeds), members(result.fitted.compression, config.seeds), strict=True
        )
    ]
    kernels = {layer: list(forms[0]["net"][layer]["kernel"].shape) for layer in LAYERS}
    shrunk = families.dnn(dataset, hidden=[kernels[layer][1] for layer in LAYERS[:-1]])
    results[STRUCTURED] = entry(measure(shrunk, forms, dataset), base, 0.001, epochs=epochs(result), kernels=kernels)
    return {
        "config": dataclasses.asdict(config),
        "hyperparameters": {**small.hparams._asdict(), "ramp": ramp_steps(config, steps)},
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
    machine.one_device_per_core()
    machine.enable_compilation_cache()
    record = run(config, frappe)
    print(table(record))
    if json is not None:
        write_json(record, json)


if __name__ == "__main__":
    import tyro  # of the extra "run": reading this file for its functions doesn't need it

    tyro.cli(main)
