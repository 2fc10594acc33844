"""Whole grids of hyperparameters as one population: built here, trained here, chosen from here."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax import checkpoint, evaluate, train
from recjax.data import epoch_batches
from recjax.models import Retrieval

SECONDS_BETWEEN_CHECKPOINTS = 10.0


def product(**axes: Sequence[float]) -> dict[str, np.ndarray]:
    """Every combination of some values.

    Args:
      **axes: a name and its values each.

    Returns:
      One ``[settings]`` float32 array a name; the last name varies fastest.

    Examples:
      >>> settings = product(temperature=[1, 2], alpha=[0.1, 0.5, 0.9])
      >>> {name: values.tolist() for name, values in settings.items()}["temperature"]
      [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]
    """
    combinations = np.array(list(itertools.product(*axes.values())), np.float32)
    return dict(zip(axes, combinations.T, strict=True))


def population(hparams: Any, settings: Mapping[str, np.ndarray], seeds: int) -> Any:
    """Hyperparameters of every member.

    Args:
      hparams: a NamedTuple of numbers, the values of what isn't swept.
      settings: ``[settings]`` values for the fields that are; see :func:`product`.
      seeds: how often each setting is trained.

    Returns:
      The same NamedTuple with leaves ``[seeds, settings]`` float32.

    Examples:
      >>> from typing import NamedTuple
      >>> class Hparams(NamedTuple):
      ...     learning_rate: float
      ...     alpha: float
      >>> members = population(Hparams(0.1, 0.0), product(alpha=[0.1, 0.5, 0.9]), seeds=2)
      >>> members.alpha.shape, members.learning_rate.shape
      ((2, 3), (2, 3))
    """
    unknown = set(settings) - set(hparams._fields)
    if unknown or not settings:
        raise ValueError(f"expected settings, at least one, among {hparams._fields}, got {sorted(settings)}")
    count = len(next(iter(settings.values())))
    leaves = {
        name: jnp.broadcast_to(jnp.asarray(settings.get(name, value), jnp.float32), (seeds, count))
        for name, value in hparams._asdict().items()
    }
    return type(hparams)(**leaves)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long a population trains.

    Attributes:
      epochs: passes over the rows, at most.
      batch_size: rows a step; no more than there are rows.
      chunk_epochs: epochs between two validations.
      patience: stop after so many validations in which no setting got better.
      count_from: the first step whose validation counts (a pruning ramp must be over).
    """

    epochs: int
    batch_size: int
    chunk_epochs: int = 1
    patience: int = 10
    count_from: int = 0


class Fitted(NamedTuple):
    """What training a population gave.

    Attributes:
      params: the trained parameters at each setting's best validation, leaves ``[seeds, settings, ...]``.
      learned: what the transform learned, likewise.
      compression: what the transform kept, likewise.
      best_step: ``[settings]``, when the mean over seeds was best.
      valid: ``[seeds, settings]``, the validation metric then.
      steps: ``[validations]``.
      loss_curve: ``[validations, seeds, settings]``, the mean training loss since the last validation.
      valid_curve: ``[validations, seeds, settings]``.
    """

    params: Any
    learned: Any
    compression: Any
    best_step: np.ndarray
    valid: np.ndarray
    steps: np.ndarray
    loss_curve: np.ndarray
    valid_curve: np.ndarray


class _Progress(NamedTuple):
    state: train.TrainState
    best: tuple[Any, Any, Any]
    best_step: jax.Array  # [settings]
    steps: jax.Array  # [validations], 0 where not yet reached
    loss_curve: jax.Array
    valid_curve: jax.Array


@functools.partial(jax.jit, static_argnames=("recipe", "model", "k", "block"))
def _validate(
    recipe: train.Recipe,
    model: Retrieval,
    now: tuple[Any, Any, Any],
    hparams: Any,
    judged: evaluate.Judged,
    fixed: Any,
    *,
    k: int,
    block: int,
) -> jax.Array:
    def member(params: Any, learned: Any, compression: Any, hparams: Any) -> jax.Array:
        effective = recipe.transform.apply({**params, "fixed": fixed}, learned, compression, hparams)
        return evaluate.ndcg(model, effective, judged, k=k, block=block)

    return jax.vmap(jax.vmap(member))(*now, hparams)


@functools.partial(jax.jit, static_argnames="recipe")
def _current(recipe: train.Recipe, state: train.TrainState, hparams: Any) -> Any:
    member = functools.partial(train.current, recipe)
    for _ in range(2):
        member = jax.vmap(member, in_axes=(train.MEMBER_AXES, 0))
    return member(state, hparams)


@functools.partial(jax.jit, donate_argnums=0)
def _keep_better(best: Any, now: Any, better: jax.Array) -> Any:
    def choose(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(better.reshape(1, -1, *[1] * (new.ndim - 2)), new, old)

    return jax.tree.map(choose, best, now)


@functools.partial(jax.jit, static_argnames="recipe")
def _start(recipe: train.Recipe, params: Any, hparams: Any, keys: jax.Array) -> train.TrainState:
    def of_seed(params: Any, hparams: Any, key: jax.Array) -> train.TrainState:
        return jax.vmap(
            lambda h: train.init_state(recipe, {**params, "fixed": None}, h, key), out_axes=train.MEMBER_AXES
        )(hparams)

    return jax.vmap(of_seed, out_axes=train.MEMBER_AXES)(params, hparams, keys)


@functools.partial(jax.jit, static_argnames="batch_size")
def _order(keys: jax.Array, rows: jax.Array, epoch: jax.Array, *, batch_size: int) -> jax.Array:
    """``[steps, seeds, batch]``, the rows of one epoch."""
    epochs = jax.vmap(lambda key: epoch_batches(jax.random.fold_in(key, epoch), len(rows), batch_size))(keys)
    return rows[jnp.swapaxes(epochs, 0, 1)]


def _shardings(settings: int) -> tuple[jax.sharding.NamedSharding, jax.sharding.NamedSharding]:
    """How to lay out ``[seeds, settings, ...]`` and what all members share: settings spread over the devices."""
    devices = next(n for n in range(min(settings, jax.device_count()), 0, -1) if settings % n == 0)
    mesh = jax.make_mesh((devices,), ("settings",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices])
    spec = jax.sharding.PartitionSpec
    return jax.sharding.NamedSharding(mesh, spec(None, "settings")), jax.sharding.NamedSharding(mesh, spec())


def fit(
    model: Retrieval,
    recipe: train.Recipe,
    starts: Any,
    hparams: Any,
    *,
    seeds: range,
    data: Any,
    rows: jax.Array,
    judged: evaluate.Judged,
    schedule: Schedule,
    k: int,
    folder: Path,
    progress: Callable[[int, int, float | None], None],
) -> Fitted:
    """Trains a population, keeps every setting's best parameters, and resumes bit for bit.

    A setting is best where its validation NDCG, averaged over the seeds, is: one stopping step a setting, chosen as
    the other hyperparameters are.

    Args:
      model: the student.
      recipe: what is trained and how.
      starts: the model's parameters, trained leaves ``[seeds, ...]``, ``fixed`` shared.
      hparams: leaves ``[seeds, settings]``; see :func:`population`.
      seeds: each its own data order; as many as ``starts`` and ``hparams`` have.
      data: what the recipe gathers from.
      rows: ``[rows]``, the numbers that batches are made of.
      judged: the validation users.
      schedule: see :class:`Schedule`.
      k: ranks that count in the validation NDCG.
      folder: where to keep the checkpoint.
      progress: called with epochs done, epochs in all, and the best mean validation NDCG so far, None before one
        counts.

    Returns:
      A :class:`Fitted`.
    """
    settings = jax.tree.leaves(hparams)[0].shape[1]
    members, shared = _shardings(settings)
    batch_size = min(schedule.batch_size, len(rows))
    steps_per_epoch = len(rows) // batch_size
    validations = -(-schedule.epochs // schedule.chunk_epochs)

    last = schedule.epochs * steps_per_epoch
    if schedule.count_from > last:
        raise ValueError(f"expected count_from up to the last step, {last}, got {schedule.count_from}")
    seed_keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    orders, samples, inits = (jax.vmap(lambda key, n=n: jax.random.fold_in(key, n))(seed_keys) for n in range(3))
    state = _start(recipe, train.trained(starts), hparams, inits)
    lay_out = train.TrainState(members, members, members, members, members, shared)  # pyright: ignore
    state = train.TrainState(*(jax.device_put(part, layout) for part, layout in zip(state, lay_out, strict=True)))
    hparams = jax.device_put(hparams, members)
    data, fixed, rows, judged = jax.device_put((data, starts["fixed"], rows, judged), shared)
    orders, samples = jax.device_put((orders, samples), shared)
    empty = jnp.zeros((validations, len(seeds), settings))
    none_yet = (jnp.zeros(settings, jnp.int32), jnp.zeros(validations, jnp.int32), empty, empty)
    progressed = _Progress(
        state,
        jax.tree.map(jnp.copy, (state.params, state.learned, state.compression)),
        *jax.device_put(none_yet, shared),
    )

    block = max(1, min(256, 2**26 // (len(seeds) * settings * judged.labels.shape[1])))
    with checkpoint.open_folder(folder) as manager:
        found = checkpoint.restore(manager, progressed)
        done, progressed = found if found else (0, progressed)
        state, best, *curves = progressed
        best_step, steps, loss_curve, valid_curve = (np.array(curve) for curve in curves)
        saved = time.monotonic()
        for chunk in range(done, validations):
            at = np.searchsorted(steps[:chunk], best_step)
            if best_step.all() and chunk - 1 - at.max() >= schedule.patience:
                break
            epochs = range(chunk * schedule.chunk_epochs, min((chunk + 1) * schedule.chunk_epochs, schedule.epochs))
            losses = []
            for epoch in epochs:
                ids = jax.device_put(_order(orders, rows, jnp.asarray(epoch), batch_size=batch_size), shared)
                state, values = train.run_chunk(recipe, state, hparams, ids, samples, data, fixed)
                losses.append(values)
            steps[chunk] = (epochs[-1] + 1) * steps_per_epoch
            loss_curve[chunk] = np.concatenate(losses).mean(axis=0)
            now = (_current(recipe, state, hparams), state.learned, state.compression)
            valid_curve[chunk] = _validate(recipe, model, now, hparams, judged, fixed, k=k, block=block)
            if steps[chunk] >= schedule.count_from:
                means = valid_curve.mean(axis=1)
                better = (best_step == 0) | (means[chunk] > means[at, np.arange(settings)])
                best = _keep_better(best, now, jnp.asarray(better))
                best_step = np.where(better, steps[chunk], best_step)
            progress(epochs[-1] + 1, schedule.epochs, _leader(steps, valid_curve, best_step))
            if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                host = jax.device_put((best_step, steps, loss_curve, valid_curve), shared)
                checkpoint.save(manager, chunk + 1, _Progress(state, best, *host))
                saved = time.monotonic()
    reached = int((steps > 0).sum())
    at = np.searchsorted(steps[:reached], best_step)
    return Fitted(
        *best,
        best_step=best_step,
        valid=valid_curve[at, :, np.arange(settings)].T,
        steps=steps[:reached],
        loss_curve=loss_curve[:reached],
        valid_curve=valid_curve[:reached],
    )


def _leader(steps: np.ndarray, valid_curve: np.ndarray, best_step: np.ndarray) -> float | None:
    """The best mean validation metric so far."""
    if not best_step.all():
        return None
    at = np.searchsorted(steps[steps > 0], best_step)
    return float(valid_curve.mean(axis=1)[at, np.arange(len(best_step))].max())
