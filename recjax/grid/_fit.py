"""Trains a population in chunks: one visit of the host a chunk, the best parameters kept, and resumed bit for bit."""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax import checkpoint, train
from recjax.data import epoch_batches
from recjax.grid._history import History, best_at, history
from recjax.grid._settings import Population

SECONDS_BETWEEN_CHECKPOINTS = 10.0


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long a population trains.

    Attributes:
      epochs: passes over the rows, at most.
      batch_size: rows a step; no more than there are rows.
      chunk_epochs: epochs between two validations.
      patience: stop after so many validations in which no setting got better.
      count_from: the first step whose validation counts (a pruning ramp must be over).
      by_seed: every member is best where its own validation metric is. Otherwise a setting is best where its mean over
        the seeds is: one stopping step a setting, chosen as the other hyperparameters are.
      adapt: ``adapt(hparams, history) -> hparams``, pure, what the next chunk trains with: a learning rate that falls
        on a plateau (:func:`plateaus`). ``hparams`` are always those of the population.
    """

    epochs: int
    batch_size: int
    chunk_epochs: int = 1
    patience: int = 10
    count_from: int = 0
    by_seed: bool = False
    adapt: Callable[[Any, History], Any] = lambda hparams, past: hparams


class Fitted(NamedTuple):
    """What training a population gave.

    Attributes:
      params: the trained parameters at each member's best validation, leaves ``[seeds, settings, ...]``.
      learned: what the transform learned, likewise.
      compression: what the transform kept, likewise.
      best_step: ``[seeds, settings]``, when that was; see :attr:`Schedule.by_seed`.
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
    steps: jax.Array  # [validations], 0 where not yet reached
    loss_curve: jax.Array
    valid_curve: jax.Array


@functools.partial(jax.jit, static_argnames=("recipe", "validate"))
def _validate(
    recipe: train.Recipe,
    validate: Callable[[Any, Any], jax.Array],
    now: tuple[Any, Any, Any],
    hparams: Any,
    held_out: Any,
    fixed: Any,
) -> jax.Array:
    def member(params: Any, learned: Any, compression: Any, hparams: Any) -> jax.Array:
        return validate(recipe.transform.apply({**params, "fixed": fixed}, learned, compression, hparams), held_out)

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
        return jnp.where(better.reshape(*better.shape, *[1] * (new.ndim - 2)), new, old)

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
    recipe: train.Recipe,
    starts: Any,
    population: Population,
    *,
    data: Any,
    rows: jax.Array,
    validate: Callable[[Any, Any], jax.Array],
    held_out: Any,
    schedule: Schedule,
    folder: Path,
    progress: Callable[[int, int, float | None], None],
) -> Fitted:
    """Trains a population, keeps every member's best parameters, and resumes bit for bit.

    Args:
      recipe: what is trained and how.
      starts: the model's parameters, trained leaves ``[seeds, ...]``, ``fixed`` shared.
      population: who is trained; see :func:`population`.
      data: what the recipe gathers from.
      rows: ``[rows]``, the numbers that batches are made of.
      validate: ``validate(params, held_out) -> scalar``, higher is better; pure, of one member's effective parameters,
        records included. It is compiled, so it should compare equal from one call to the next.
      held_out: a pytree of arrays, what ``validate`` looks at.
      schedule: see :class:`Schedule`.
      folder: where to keep the checkpoint.
      progress: called with epochs done, epochs in all, and the best score so far, None before one counts.

    Returns:
      A :class:`Fitted`.
    """
    seeds, hparams = population
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
    data, fixed, rows, held_out = jax.device_put((data, starts["fixed"], rows, held_out), shared)
    orders, samples = jax.device_put((orders, samples), shared)
    empty = jnp.zeros((validations, len(seeds), settings))
    progressed = _Progress(
        state,
        jax.tree.map(jnp.copy, (state.params, state.learned, state.compression)),
        *jax.device_put((jnp.zeros(validations, jnp.int32), empty, empty), shared),
    )

    with checkpoint.open_folder(folder) as manager:
        found = checkpoint.restore(manager, progressed)
        done, progressed = found if found else (0, progressed)
        state, best, *curves = progressed
        steps, loss_curve, valid_curve = (np.array(curve) for curve in curves)
        past = functools.partial(_past, schedule, steps, loss_curve, valid_curve)
        saved = time.monotonic()
        for chunk in range(done, validations):
            so_far = past(chunk)
            at = best_at(so_far)
            if (at >= 0).all() and chunk - 1 - at.max() >= schedule.patience:
                break
            adapted = jax.tree.map(
                lambda new, old: jnp.asarray(new, old.dtype), schedule.adapt(hparams, so_far), hparams
            )
            adapted = jax.device_put(adapted, members)
            epochs = range(chunk * schedule.chunk_epochs, min((chunk + 1) * schedule.chunk_epochs, schedule.epochs))
            losses = []
            for epoch in epochs:
                ids = jax.device_put(_order(orders, rows, jnp.asarray(epoch), batch_size=batch_size), shared)
                state, values = train.run_chunk(recipe, state, adapted, ids, samples, data, fixed)
                losses.append(values)
            steps[chunk] = (epochs[-1] + 1) * steps_per_epoch
            loss_curve[chunk] = np.concatenate(losses).mean(axis=0)
            now = (_current(recipe, state, adapted), state.learned, state.compression)
            valid_curve[chunk] = _validate(recipe, validate, now, adapted, held_out, fixed)
            so_far = past(chunk + 1)
            better = best_at(so_far) == chunk
            if better.any():
                best = _keep_better(best, now, jnp.asarray(better))
            counts = steps[chunk] >= schedule.count_from
            progress(epochs[-1] + 1, schedule.epochs, float(so_far.score.max()) if counts else None)
            if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                host = jax.device_put((steps, loss_curve, valid_curve), shared)
                checkpoint.save(manager, chunk + 1, _Progress(state, best, *host))
                saved = time.monotonic()
    reached = past(int((steps > 0).sum()))
    at = best_at(reached)
    return Fitted(
        *best,
        best_step=reached.steps[at],
        valid=np.take_along_axis(reached.valid, at[None], axis=0)[0],
        steps=reached.steps,
        loss_curve=reached.loss,
        valid_curve=reached.valid,
    )


def _past(
    schedule: Schedule, steps: np.ndarray, loss_curve: np.ndarray, valid_curve: np.ndarray, reached: int
) -> History:
    """The history of the validations so far."""
    curves = (curve[:reached].copy() for curve in (steps, loss_curve, valid_curve))
    return history(*curves, count_from=schedule.count_from, by_seed=schedule.by_seed)
