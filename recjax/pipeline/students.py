"""The stages that train: grids of students as compiled programs, and the choice of one setting by validation."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from recjax import artifact, embed, evaluate, grid, prune, quantize, train
from recjax.errors import InputError
from recjax.models import MatrixFactorization, Params, Retrieval, TwoTower, matrix_factorization, two_tower
from recjax.pipeline.config import DIMS, Config, K, budget_bytes
from recjax.pipeline.lessons import COMPRESSED, Hparams, Sampled, Whole
from recjax.pipeline.source import Source

VECTOR_TABLES = ("user", "item", "item_bias")
CHUNK_STEPS = 10  # about so many steps between two validations


class Listener(Protocol):
    """Hears how a run goes on; the command line draws it."""

    def begin(self, stage: str) -> None:
        """A stage starts."""

    def advance(self, stage: str, done: int, total: int, detail: str) -> None:
        """A stage has done so much."""

    def end(self, stage: str, row: Mapping[str, Any]) -> None:
        """A stage is done; its row of the table."""

    def say(self, text: str) -> None:
        """Something to know."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What every stage of one run shares."""

    config: Config
    source: Source
    folder: Path
    listener: Listener


def build(job: Job, family: str, dim: int) -> Retrieval:
    """A student or a trained teacher of a family: ``mf`` or ``two-tower``."""
    known, items = job.source.known, job.source.split.items
    if family == "mf":
        return matrix_factorization(MatrixFactorization(users=known, items=items, dim=dim))
    users, catalogue = job.source.split.train.user_features, job.source.split.train.item_features
    if users is None or catalogue is None:
        missing = "user" if users is None else "item"
        raise InputError(f"option --{missing}-table: found no side features of {missing}s, a two-tower needs them")
    config = TwoTower(
        users=known,
        items=items,
        user_features=users.values.shape[1],
        item_features=catalogue.values.shape[1],
        dim=dim,
    )
    return two_tower(config, jnp.asarray(users.values[:known]), jnp.asarray(catalogue.values))


def student_dim(job: Job) -> int:
    """The student's dim: as configured, or the largest that meets the budget half pruned and at 4 bits or fewer."""
    config, budget = job.config, budget_bytes(job.config.budget)
    if budget is None:
        return config.dim
    bits = min((bits for bits in config.bits if bits >= 4), default=max(config.bits))
    sparsity = max((share for share in config.sparsity if share <= 0.5), default=min(config.sparsity))
    for dim in DIMS:
        if _predicted(job, dim, bits, sparsity) <= budget:
            return dim
    smallest = _predicted(job, DIMS[-1], bits, sparsity)
    raise InputError(f"option --budget: found {config.budget}, expected at least {smallest} bytes for this log")


def _predicted(job: Job, dim: int, bits: int, sparsity: float) -> int:
    shapes = {"user": (job.source.known, dim), "item": (job.source.split.items, dim)}
    return artifact.predicted_bytes(shapes, bits=bits, sparsity=sparsity)


def materialize(model: Retrieval, params: Params) -> dict[str, np.ndarray]:
    """Any retrieval model as vectors: tables ``user``, ``item`` and ``item_bias``, in NumPy."""
    users = np.asarray(jax.jit(model.query)(params, {"user": jnp.arange(len(params["tables"]["user"]))}))
    items = np.asarray(jax.jit(model.items)(params))
    return {"user": users[:, :-1], "item": items[:, :-1], "item_bias": items[:, -1:]}


def initial(model: Retrieval, seeds: range) -> Params:
    """Fresh parameters, one a seed."""
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 7))(jnp.array(seeds))
    params = jax.vmap(model.init)(keys)
    return {**params, "fixed": jax.tree.map(lambda leaf: leaf[0], params["fixed"])}


def from_tables(tables: list[dict[str, np.ndarray]]) -> Params:
    """Vectors of several seeds as parameters of matrix factorization."""
    stacked = {name: jnp.stack([table[name] for table in tables]) for name in VECTOR_TABLES}
    return {"tables": stacked, "net": {}, "fixed": {}, "aids": {}}


@dataclasses.dataclass(frozen=True)
class _Ndcg:
    """NDCG on the validation users; equal where model and block are, so that a grid compiles it once."""

    model: Retrieval
    block: int

    def __call__(self, params: Params, judged: evaluate.Judged) -> jax.Array:
        return evaluate.ndcg(self.model, params, judged, k=K, block=self.block)


def fit_grid(
    job: Job,
    stage: str,
    model: Retrieval,
    recipe: train.Recipe,
    starts: Params,
    lesson: Whole | Sampled,
    settings: Mapping[str, np.ndarray],
    fixed: Hparams,
    *,
    seeds: range,
    epochs: int | None = None,
    settling: float = 0.0,
) -> grid.Fitted:
    """Trains a grid and says so where memory makes it train in waves.

    Args:
      job: the run.
      stage: names the checkpoint and the progress.
      model: the student.
      recipe: how it is trained.
      starts: parameters, one a seed.
      lesson: what batches are gathered from.
      settings: the swept hyperparameters, ``[settings]`` each.
      fixed: the others.
      seeds: of the parameters' data order, as many as ``starts`` has.
      epochs: passes over the users; those of the config if None.
      settling: the share of the training before which validations don't count.

    Returns:
      The :class:`~recjax.grid.Fitted` of all settings.
    """
    config, source = job.config, job.source
    batch = min(config.batch_size, source.known)
    per_epoch = source.known // batch
    epochs = config.epochs if epochs is None else epochs
    schedule = grid.Schedule(
        epochs=epochs,
        batch_size=batch,
        chunk_epochs=max(1, round(CHUNK_STEPS / per_epoch)),
        patience=config.patience,
        count_from=math.ceil(settling * epochs * per_epoch),
    )
    count = len(next(iter(settings.values())))

    def planned(plan: grid.Plan) -> None:
        if len(plan.waves) > 1:
            need, have = ((plan.shared + count * plan.setting) / 1e9, plan.memory / 1e9)
            job.listener.say(f"{stage}: {count} settings need {need:.1f} of {have:.1f} GB, in {len(plan.waves)} waves")

    return grid.fit(
        recipe,
        starts,
        grid.population(fixed._replace(steps=float(epochs * per_epoch)), grid.product(settings, seed=seeds)),
        data=lesson,
        rows=jnp.arange(source.known, dtype=jnp.int32),
        validate=_Ndcg(model, max(1, min(256, 2**26 // (len(seeds) * count * source.split.items)))),
        held_out=evaluate.judge(source.split.valid, source.split.train),
        schedule=schedule,
        folder=job.folder / "checkpoints" / stage,
        progress=lambda done, total, best: job.listener.advance(
            stage, done, total, "" if best is None else f"best valid NDCG@{K} {best:.4f}"
        ),
        planned=planned,
    )


def pick(
    stage: str,
    model: Retrieval,
    recipe: train.Recipe,
    starts: Params,
    fitted: grid.Fitted,
    settings: Mapping[str, np.ndarray],
    fixed: Hparams,
    setting: int,
    seeds: range,
) -> tuple[list[dict[str, np.ndarray]], dict[str, Any]]:
    """One setting of a grid as vectors, one set a seed, and what the results say of the whole grid."""
    hparams = grid.population(fixed, grid.product(settings, seed=seeds)).hparams
    tables = []
    for seed in range(len(seeds)):
        of_member = lambda leaf, seed=seed: jnp.asarray(leaf[seed, setting])  # noqa: E731
        params, learned, compression, own = jax.tree.map(
            of_member, (fitted.params, fitted.learned, fitted.compression, hparams)
        )
        effective = recipe.transform.apply({**params, "fixed": starts["fixed"]}, learned, compression, own)
        dense = {name: embed.lookup(table) for name, table in effective["tables"].items()}
        tables.append(materialize(model, {**effective, "tables": dense}))
    swept = {name: values.tolist() for name, values in settings.items()}
    chosen = {name: _short(values[setting]) for name, values in swept.items()}
    members = [
        {
            "member": row * fitted.valid.shape[1] + i,
            "grid": stage,
            "seed": seed,
            **{name: _short(values[i]) for name, values in swept.items()},
            f"valid_ndcg@{K}": float(fitted.valid[row, i]),
            "best_step": int(fitted.best_step[row, i]),
            "chosen": i == setting,
        }
        for row, seed in enumerate(seeds)
        for i in range(fitted.valid.shape[1])
    ]
    reached = np.isfinite(fitted.valid_curve[:, :, setting]).all(axis=1)  # a wave may have ended before another
    loss, valid = (curve[reached][:, :, setting] for curve in (fitted.loss_curve, fitted.valid_curve))
    curve = {
        "curve": stage,
        "step": fitted.steps[reached].tolist(),
        "loss": loss.mean(axis=1).tolist(),
        f"valid_ndcg@{K}": valid.mean(axis=1).tolist(),
        f"valid_ndcg@{K}_by_seed": valid.T.tolist(),
        "hyperparameters": chosen,
    }
    notes = {
        "hyperparameters": {**chosen, "steps": int(fitted.best_step[0, setting])},
        "members": members,
        "curve": curve,
    }
    return tables, notes


def _short(value: float) -> float:
    """A float32 as it was typed: 0.01 and not 0.009999999776."""
    return float(f"{value:.6g}")


def best(fitted: grid.Fitted) -> int:
    """The setting with the highest mean validation metric."""
    return int(fitted.valid.mean(axis=0).argmax())


def cheapest_within_one_error(fitted: grid.Fitted, cost: np.ndarray, allowed: np.ndarray) -> int:
    """The cheapest setting whose mean validation metric is within one standard error of the best's.

    The rule of Breiman et al., *Classification and Regression Trees*, 1984, section 3.4.3: what a smaller model loses
    there can't be told from the noise of the seeds.

    Args:
      fitted: the grid.
      cost: ``[settings]``.
      allowed: ``[settings]`` bool, the settings to choose from; at least one.

    Returns:
      A position.
    """
    means = np.where(allowed, fitted.valid.mean(axis=0), -np.inf)
    top = int(means.argmax())
    seeds = fitted.valid.shape[0]
    error = fitted.valid[:, top].std(ddof=1) / seeds**0.5 if seeds > 1 else 0.0
    return int(np.where(means >= means[top] - error, cost, np.inf).argmin())


def within_budget(job: Job, dim: int, settings: Mapping[str, np.ndarray], fixed: Hparams) -> np.ndarray:
    """``[settings]`` bool: which sparsities (at the fewest bits) or which bits meet the budget."""
    fewest = {"bits": min(job.config.bits), "sparsity": fixed.sparsity}
    count = len(next(iter(settings.values())))
    bits, sparsity = (np.broadcast_to(settings.get(name, fewest[name]), count) for name in ("bits", "sparsity"))
    sizes = [_predicted(job, dim, int(b), float(s)) for b, s in zip(bits, sparsity, strict=True)]
    allowed = np.array(sizes) <= (budget_bytes(job.config.budget) or np.inf)
    if not allowed.any():
        raise InputError(f"option --budget: found {job.config.budget}, expected at least {min(sizes)} bytes")
    return allowed


def pack(tables: Mapping[str, np.ndarray], bits: int) -> dict[str, Any]:
    """Vectors as they are stored: whole numbers for the compressed tables, float16 for the bias."""
    packed = {name: quantize.quantize(jnp.asarray(tables[name]), bits=bits, axis=0) for name in COMPRESSED}
    return {
        **{name: prune.smallest(table) for name, table in packed.items()},
        "item_bias": tables["item_bias"].astype(np.float16),
    }
