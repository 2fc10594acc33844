"""Every program is lowered for GPUs and TPUs, which needs neither: what XLA has no rule for there is found on a CPU."""

import functools

import embed_cases
import jax
import jax.numpy as jnp
import loss_cases
import numpy as np
import optax
import pytest
import toy
from jax import export
from jax.sharding import AxisType

from recjax import compress, data, embed, evaluate, families, metrics, quantize, rows, train
from recjax.grid import _fit, _order
from recjax.study import Study
from recjax.tasks import ctr, retrieval

PLATFORMS = ("cuda", "tpu")


def lower(function, *arguments, **static):
    """The program of a function of arrays or of their shapes, for each platform."""
    with jax.numpy_rank_promotion("allow"):  # other files hold the library to that rule
        program = export.export(jax.jit(functools.partial(function, **static)), platforms=PLATFORMS)(*arguments)
    assert program.platforms == PLATFORMS
    return program


def shape(*axes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(axes, dtype)


KEYS = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
IDS = shape(2, 1, 4, dtype=jnp.int32)  # steps, seeds, batch


@pytest.fixture(scope="module")
def dataset():
    log = data.synthetic(0, users=12, items=16, rank=2, interactions_per_user=6)
    return data.dataset(data.split_by_time(log))


@pytest.fixture(scope="module")
def clicks():
    part = data.Examples(np.zeros((8, 3), np.int32), np.zeros(8, np.float32))
    return data.CTRDataset(part, part, part, 7)


def lower_training(recipe, starts, hparams, arrays, validate=None, held_out=()):
    """A population of two settings: its start, its steps, and the validation of what it would keep."""

    def program(starts, hparams, keys, ids, arrays, held_out):
        params = train.trained(starts)
        state = _fit._start.__wrapped__(recipe, lambda start, hparams: start, params, hparams, keys)
        state, losses = train._run_chunk(recipe, state, hparams, ids, keys, arrays, starts["fixed"])
        now = (_fit._current.__wrapped__(recipe, state, hparams), state.learned, state.compression)
        valid = validate and _fit._validate.__wrapped__(recipe, validate, now, hparams, held_out, starts["fixed"])
        return now, losses, valid

    lower(program, starts, jax.tree.map(lambda value: shape(1, 2), hparams), KEYS, IDS, arrays, held_out)


def starts_of(model):
    """The shapes of the parameters of one seed; what is fixed is the same for all."""
    starts = jax.eval_shape(jax.vmap(model.init), KEYS)
    return {**starts, "fixed": jax.tree.map(lambda leaf: shape(*leaf.shape[1:], dtype=leaf.dtype), starts["fixed"])}


TRAINED = ("mf", "elsa", "two-tower", "simplex", "lightgcn", "vbpr", "sasrec", "bsarec", "gru4rec", "hstu")


def test_every_trained_family_is_here(dataset):
    assert {name for name, make in retrieval.FAMILIES.items() if make(dataset).objective is not None} == set(TRAINED)


@pytest.mark.parametrize("name", TRAINED)
def test_training_of_a_family(name, dataset):
    model = retrieval.FAMILIES[name](dataset)
    study = Study(dataset, model)
    data = (model.objective.data, None)
    lower_training(study.recipe, starts_of(model), study.hparams, data, *study.default_validation(2))


@pytest.mark.parametrize("name", ["fm", "wide_and_deep", "dcn_v2", "finalmlp"])
def test_training_of_a_ctr_family(name, clicks):
    model = getattr(families, name)(clicks)
    study = Study(clicks, model)
    validate, held_out = ctr.validation(model, clicks)
    lower_training(study.recipe, starts_of(model), study.hparams, (model.objective.data, None), validate, held_out)


def sparsity(hparams, step=0):
    return hparams.sparsity


def bits(hparams):
    return hparams.bits


PATH = ("tables/item",)
TRANSFORMS = {
    "magnitude pruning and row quantization": toy.COMPRESSED.transform,
    "global pruning": compress.global_magnitude_pruning(PATH, sparsity=sparsity),
    "movement pruning": compress.movement_pruning(PATH, sparsity=sparsity),
    "n of m": compress.n_of_m_pruning(PATH, n=lambda hparams, step: 2, m=4),
    "rigged lottery": compress.rigged_lottery(PATH, sparsity=sparsity, fraction=sparsity, end=9),
    "alternating": compress.alternating_pruning(PATH, sparsity=sparsity, begin=2, end=9, every=2),
    "lottery ticket": compress.lottery_ticket(PATH, share=sparsity, every=4),
    "learned thresholds": compress.learned_thresholds(["item"], initial=sparsity),
    "learned steps": compress.learned_steps(["item"], bits=bits, each_row=True),
}
RECIPES = {name: toy.PLAIN._replace(transform=transform) for name, transform in TRANSFORMS.items()} | {
    "by rows": toy.PLAIN._replace(
        optimizer=lambda hparams: optax.identity(),
        rows=train.RowSparse(lambda hparams: rows.adam(hparams.learning_rate), toy.touched),
    )
}


@pytest.mark.parametrize("name", RECIPES)
def test_training_with_a_transform(name):
    log, _ = toy.logs()
    lower_training(RECIPES[name], toy.starts(1), toy.Hparams(), toy.rows(log))


def test_order_of_a_population():
    lower(_order._on_device.__wrapped__, KEYS, shape(20, dtype=jnp.int32), shape(dtype=jnp.int32), batch_size=4)


def test_losses_and_their_gradients():
    arguments = {key: loss_cases.cast(key, jnp.float32) for key in loss_cases.CASES}

    def all_of_them(arguments):
        def both(key, given):
            loss = functools.partial(loss_cases.loss_of(key), **loss_cases.settings_of(key, 1))
            return jax.value_and_grad(lambda *a: loss_cases.total(loss(*a)), loss_cases.floats(key))(*given)

        return {key: both(key, given) for key, given in arguments.items()}

    lower(all_of_them, arguments)


def test_evaluation_over_devices(dataset):
    model = families.mf(dataset)
    params = jax.eval_shape(model.init, jax.random.key(0))
    select = evaluate._selection(dataset, dataset.test, 3)
    mesh = jax.make_mesh((1,), ("blocks",), axis_types=(AxisType.Auto,))
    blocks = evaluate._in_blocks(dataset.test, 2)
    program = functools.partial(evaluate._over_devices.__wrapped__, select, model.score, 0, dataset.items, mesh)
    lower(program, (params, jax.tree.map(jnp.asarray, dataset.log), ()), blocks)


def test_top_k():
    lower(metrics.top_k, shape(3, 5000), k=20)
    lower(metrics.top_hits, shape(3, 50), shape(3, 50, dtype=bool), k=5)


def test_lookups_of_packed_tables():
    make = embed_cases.INIT | embed_cases.PACKED | embed_cases.AT_REST
    whole = {
        f"{bits} bits": functools.partial(quantize.quantize, embed_cases.TRAINED, bits=bits, axis=0)
        for bits in (1, 3, 8)
    }
    traced = {**embed_cases.INIT, **whole}
    cut = {kind: embed_cases.table_of(kind) for kind in make if "pruned" in kind or "bitmap" in kind}  # by their values

    def of_all(ids):
        tables = {kind: init() for kind, init in traced.items() if kind not in cut} | cut
        tables |= {"rows": quantize.quantize_rows(jnp.asarray(embed_cases.TRAINED), bits=4)}
        tables |= {"low rank of quantized": embed.quantized(tables["low rank"], bits=4)}
        tables |= {"product quantized": embed.pack_product(tables["learned product"])}
        return {kind: (embed.lookup(table, ids), embed.lookup(table)) for kind, table in tables.items()}

    lower(of_all, shape(5, dtype=jnp.int32))
