"""Trains a population: in waves that fit into memory, in chunks with one visit of the host each."""

import contextlib
import dataclasses
import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax import checkpoint, train
from recjax.data import Stream
from recjax.grid import _memory, _slots
from recjax.grid._history import History, Stop, best_at, history, never
from recjax.grid._lines import Lines
from recjax.grid._order import order
from recjax.grid._settings import Population
from recjax.trees import nbytes

CHECKPOINT_SHARE = 0.03  # of the time, at most: a chunk that is quicker than that is saved with the next one
WRITE_RATE = 5e8  # bytes a second that a core writes, about: most of a checkpoint is in the background
COPIES = 3  # windows of a stream in memory: in use, to come, and on its way
RESULTS = "results.jsonl"


def unchanged(hparams: Any, past: History) -> Any:
    """What doesn't adapt; as :attr:`Schedule.adapt`."""
    return hparams


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
      stop: ``stop(history, running) -> [settings] bool``, pure, which settings stop before the others; those that have
        cost nothing more once half of them have. See :func:`stagnant` and :func:`halving`. It sees one wave.
      adapt: ``adapt(hparams, history) -> hparams``, pure, what the next chunk trains with: a learning rate that falls
        on a plateau (:func:`plateaus`). ``hparams`` are always those of the population.
    """

    epochs: int
    batch_size: int
    chunk_epochs: int = 1
    patience: int = 10
    count_from: int = 0
    by_seed: bool = False
    stop: Stop = never
    adapt: Callable[[Any, History], Any] = unchanged


class Fitted(NamedTuple):
    """What training a population gave.

    Attributes:
      params: the trained parameters at each member's best validation, leaves ``[seeds, settings, ...]``.
      learned: what the transform learned, likewise.
      compression: what the transform kept, likewise.
      best_step: ``[seeds, settings]``, when that was; see :attr:`Schedule.by_seed`.
      valid: ``[seeds, settings]``, the validation metric then.
      steps: ``[validations]``.
      loss_curve: ``[validations, seeds, settings]``, the mean training loss since the last validation; NaN after a
        setting has stopped.
      valid_curve: ``[validations, seeds, settings]``, likewise.
      programs: how many were compiled for the steps, at most: one, and one each time that stopped settings were
        closed up.
    """

    params: Any
    learned: Any
    compression: Any
    best_step: np.ndarray
    valid: np.ndarray
    steps: np.ndarray
    loss_curve: np.ndarray
    valid_curve: np.ndarray
    programs: int


class _Curves(NamedTuple):
    """What a wave has reached so far, on the host; of full length, and filled validation by validation."""

    steps: np.ndarray  # [validations]
    loss: np.ndarray  # [validations, seeds, settings]
    valid: np.ndarray
    running: np.ndarray  # [1 + validations, settings]; before the first one, all

    def past(self, reached: int, schedule: Schedule) -> History:
        parts = (part[:reached].copy() for part in self)
        return history(*parts, count_from=schedule.count_from, by_seed=schedule.by_seed)


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
def _keep_better(best: Any, now: Any, better: jax.Array, slots: jax.Array | None) -> Any:
    """``now`` where better; ``slots`` says which settings it holds, if not all of them in their first order."""

    def choose(old: jax.Array, new: jax.Array) -> jax.Array:
        kept = old if slots is None else old[:, slots]
        chosen = jnp.where(better.reshape(*better.shape, *[1] * (new.ndim - 2)), new, kept)
        return chosen if slots is None else old.at[:, slots].set(chosen, mode="drop")

    return jax.tree.map(choose, best, now)


@jax.jit
def _of_slots(tree: Any, at: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[:, at], tree)


@functools.partial(jax.jit, static_argnames=("recipe", "init"))
def _start(
    recipe: train.Recipe, init: Callable[[Any, Any], Any], params: Any, hparams: Any, keys: jax.Array
) -> train.TrainState:
    def of_seed(params: Any, hparams: Any, key: jax.Array) -> train.TrainState:
        return jax.vmap(
            lambda h: train.init_state(recipe, {**init(params, h), "fixed": None}, h, key), out_axes=train.MEMBER_AXES
        )(hparams)

    return jax.vmap(of_seed, out_axes=train.MEMBER_AXES)(params, hparams, keys)


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
    folder: Path | None = None,
    progress: Callable[[int, int, float | None], None] = lambda done, total, best: None,
    init: Callable[[Any, Any], Any] = lambda start, hparams: start,
    memory: int | None = None,
    planned: Callable[[_memory.Plan], None] = lambda plan: None,
) -> Fitted:
    """Trains a population, keeps every member's best parameters, and resumes bit for bit.

    Settings are spread over the devices. Where they don't fit into memory together they train in waves, one after
    another; decisions on a history then see the settings of their wave alone. The learning curves of all members are
    in ``results.jsonl`` as soon as they are known.

    Args:
      recipe: what is trained and how.
      starts: the model's parameters, trained leaves ``[seeds, ...]``, ``fixed`` shared.
      population: who is trained; see :func:`population`.
      data: what the recipe gathers from; or a :class:`recjax.data.Stream`, a window of which it is at a time.
      rows: ``[rows]``, the numbers that batches are made of; of a stream, those in every window.
      validate: ``validate(params, held_out) -> scalar``, higher is better; pure, of one member's effective parameters,
        records included. It is compiled, so it should compare equal from one call to the next.
      held_out: a pytree of arrays, what ``validate`` looks at.
      schedule: see :class:`Schedule`.
      folder: where to keep checkpoints and ``results.jsonl``; by default a temporary one, so that nothing is resumed.
      progress: called with epochs done, epochs in all, and the wave's best score so far, None before one counts.
      init: ``init(start, hparams) -> params``, pure, what a member makes of its seed's start.
      memory: bytes that may be filled; by default what :func:`memory` says.
      planned: called with the :class:`Plan` before anything is computed.

    Returns:
      A :class:`Fitted`.
    """
    seeds, hparams = population
    settings = jax.tree.leaves(hparams)[0].shape[1]
    one = jax.eval_shape(lambda tree: jax.tree.map(lambda leaf: leaf[0, 0], tree), hparams)
    start = jax.eval_shape(lambda tree: jax.tree.map(lambda leaf: leaf[0], tree), train.trained(starts))
    plan = _memory.plan(
        recipe,
        {**jax.eval_shape(init, start, one), "fixed": starts["fixed"]},
        one,
        seeds=len(seeds),
        settings=settings,
        batch_size=min(schedule.batch_size, len(rows)),
        data=data.shapes if isinstance(data, Stream) else data,
        copies=COPIES if isinstance(data, Stream) else 1,
        validate=validate,
        held_out=held_out,
        memory=_memory.memory() if memory is None else memory,
    )
    planned(plan)
    with tempfile.TemporaryDirectory() if folder is None else contextlib.nullcontext(folder) as place:
        path = Path(place)
        path.mkdir(parents=True, exist_ok=True)
        lines = Lines(path / RESULTS, {"precision": recipe.precision._asdict(), **plan._asdict()}, population)
        waves, first = [], 0
        for number, count in enumerate(plan.waves):
            wave = Population(seeds, jax.tree.map(lambda leaf, at=slice(first, first + count): leaf[:, at], hparams))
            fitted = _fit_wave(
                recipe,
                starts,
                wave,
                data=data,
                rows=rows,
                validate=validate,
                held_out=held_out,
                schedule=schedule,
                init=init,
                folder=path / f"wave-{number}",
                lines=lines.of_wave(first),
                progress=lambda done, total, best, n=number: progress(n * total + done, len(plan.waves) * total, best),
            )
            waves.append(fitted)
            first += count
    return waves[0] if len(waves) == 1 else _join(waves)


@dataclasses.dataclass(frozen=True)
class _Wave:
    """What stays the same while a wave trains: who and how, and the arrays where they lie."""

    recipe: train.Recipe
    population: Population
    validate: Callable[[Any, Any], jax.Array]
    schedule: Schedule
    members: jax.sharding.NamedSharding
    shared: jax.sharding.NamedSharding
    data: Any
    fixed: Any
    rows: jax.Array
    held_out: Any
    orders: jax.Array
    samples: jax.Array

    @property
    def settings(self) -> int:
        return jax.tree.leaves(self.population.hparams)[0].shape[1]

    @property
    def batch_size(self) -> int:
        return min(self.schedule.batch_size, len(self.rows))

    @property
    def windows_per_epoch(self) -> int:
        return self.data.windows if isinstance(self.data, Stream) else 1

    @property
    def steps_per_epoch(self) -> int:
        return self.windows_per_epoch * (len(self.rows) // self.batch_size)

    def epochs(self, chunk: int) -> range:
        """Those between two validations."""
        each = self.schedule.chunk_epochs
        return range(chunk * each, min((chunk + 1) * each, self.schedule.epochs))

    def in_slots(self, tree: Any, slots: np.ndarray) -> Any:
        """What belongs to each setting, where its slot lies."""
        return jax.device_put(_of_slots(tree, jnp.asarray(np.minimum(slots, self.settings - 1))), self.members)

    def closed_up(self, slots: np.ndarray, running: np.ndarray) -> np.ndarray:
        """The slots after some settings have stopped; the same object where nothing moves."""
        return _slots.closed_up(slots, running, self.members.num_devices)

    def moved(self, state: train.TrainState, slots: np.ndarray, now: np.ndarray) -> train.TrainState:
        """The state of some slots in those that are there now."""
        *parts, step = state
        moved = jax.device_put(_of_slots(parts, jnp.asarray(_slots.places(slots, now))), self.members)
        return train.TrainState(*moved, step=step)

    def trained(
        self, state: train.TrainState, own: Any, chunk: int, windows: Iterator[Any]
    ) -> tuple[train.TrainState, np.ndarray]:
        """The state a chunk later, and the mean losses on the way, ``[seeds, slots]``."""
        losses, epochs, each = [], self.epochs(chunk), self.windows_per_epoch
        for window, data in zip(range(epochs.start * each, epochs.stop * each), windows, strict=False):
            ids = jax.device_put(order(self.orders, self.rows, window, batch_size=self.batch_size), self.shared)
            state, values = train.run_chunk(self.recipe, state, own, ids, self.samples, data, self.fixed)
            losses.append(values)
            jax.block_until_ready(losses[-2:-1])  # or windows would pile up before the device
        return state, np.concatenate(losses).mean(axis=0)

    def windows(self, chunk: int) -> Iterator[Any]:
        """The data of this chunk and those after it, in the order of training."""
        if isinstance(self.data, Stream):
            epochs = range(self.epochs(chunk).start, self.schedule.epochs)
            return (jax.device_put(window, self.shared) for window in self.data.read(epochs))
        return itertools.repeat(self.data)

    def validated(self, state: train.TrainState, own: Any) -> tuple[tuple[Any, Any, Any], np.ndarray]:
        """What would be kept of each slot, and its metric, ``[seeds, slots]``."""
        now = (_current(self.recipe, state, own), state.learned, state.compression)
        return now, np.asarray(_validate(self.recipe, self.validate, now, own, self.held_out, self.fixed))


def _fit_wave(
    recipe: train.Recipe,
    starts: Any,
    population: Population,
    *,
    data: Any,
    rows: jax.Array,
    validate: Callable[[Any, Any], jax.Array],
    held_out: Any,
    schedule: Schedule,
    init: Callable[[Any, Any], Any],
    folder: Path,
    lines: Lines,
    progress: Callable[[int, int, float | None], None],
) -> Fitted:
    seeds, hparams = population
    seed_keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    orders, samples, inits = (jax.vmap(lambda key, n=n: jax.random.fold_in(key, n))(seed_keys) for n in range(3))
    members, shared = _slots.shardings(jax.tree.leaves(hparams)[0].shape[1])
    placed = jax.device_put((starts["fixed"], rows, held_out, orders, samples), shared)
    near = data if isinstance(data, Stream) else jax.device_put(data, shared)
    wave = _Wave(recipe, population, validate, schedule, members, shared, near, *placed)
    settings, validations = wave.settings, -(-schedule.epochs // schedule.chunk_epochs)
    last = schedule.epochs * wave.steps_per_epoch
    if schedule.count_from > last:
        raise ValueError(f"expected count_from up to the last step, {last}, got {schedule.count_from}")

    first = slots = _slots.first(settings, members.num_devices)
    own = wave.in_slots(hparams, slots)
    *parts, step = _start(recipe, init, train.trained(starts), own, inits)
    state = train.TrainState(*jax.device_put(parts, members), step=jax.device_put(step, shared))
    best = jax.tree.map(jnp.copy, (state.params, state.learned, state.compression))
    unknown = np.full((validations, len(seeds), settings), np.nan, np.float32)
    curves = _Curves(
        np.zeros(validations, np.int32), unknown, unknown.copy(), np.ones((1 + validations, settings), bool)
    )
    widths, done = {len(slots)}, 0
    with checkpoint.open_folder(folder) as manager:
        found = checkpoint.restore(manager, {"curves": jax.device_put(curves, shared)})
        if found:
            done, curves = found[0], _Curves(*map(np.array, found[1]["curves"]))
            for running in curves.running[1 : done + 1]:
                now = wave.closed_up(slots, running)
                state, slots = (state, slots) if now is slots else (wave.moved(state, slots, now), now)
                widths.add(len(slots))
            _, items = checkpoint.restore(manager, {"trained": (state, best)})  # pyright: ignore
            state, best = items["trained"]
            own = wave.in_slots(hparams, slots)
        lines.begin(curves.past(done, schedule))
        windows = wave.windows(done)
        saved, cost = time.monotonic(), nbytes((state._replace(key=()), best)) / WRITE_RATE
        for chunk in range(done, validations):
            so_far = curves.past(chunk, schedule)
            at, running = best_at(so_far), curves.running[chunk]
            if not running.any() or ((at >= 0).all() and chunk - 1 - at.max() >= schedule.patience):
                break
            if schedule.adapt is not unchanged:
                adapted = schedule.adapt(hparams, so_far)
                own = wave.in_slots(jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), adapted, hparams), slots)
            state, losses = wave.trained(state, own, chunk, windows)
            now, valid = wave.validated(state, own)
            live = np.flatnonzero(np.append(running, False)[slots])
            curves.steps[chunk] = wave.epochs(chunk).stop * wave.steps_per_epoch
            curves.loss[chunk][:, slots[live]] = losses[:, live]
            curves.valid[chunk][:, slots[live]] = valid[:, live]
            so_far = curves.past(chunk + 1, schedule)
            better = best_at(so_far) == chunk
            if better.any():
                of_slots = np.zeros((len(seeds), len(slots)), bool)
                of_slots[:, live] = better[:, slots[live]]
                held = None if len(slots) == len(first) else jnp.asarray(slots)
                best = _keep_better(best, now, jnp.asarray(of_slots), held)
            lines.append(so_far)
            curves.running[chunk + 1] = running & ~schedule.stop(so_far, running)
            closed = wave.closed_up(slots, curves.running[chunk + 1])
            if closed is not slots:
                state, slots = wave.moved(state, slots, closed), closed
                own = wave.in_slots(hparams, slots)
                widths.add(len(slots))
            counts = curves.steps[chunk] >= schedule.count_from
            progress(wave.epochs(chunk).stop, schedule.epochs, float(so_far.score.max()) if counts else None)
            if time.monotonic() - saved >= cost / CHECKPOINT_SHARE:
                begun = time.monotonic()
                items = {"curves": jax.device_put(curves, shared), "trained": (state, best)}
                checkpoint.save(manager, chunk + 1, items)
                saved = time.monotonic()
                cost = max(cost, saved - begun)
    reached = curves.past(int((curves.steps > 0).sum()), schedule)
    lines.end(reached)
    at = best_at(reached)
    return Fitted(
        *jax.tree.map(lambda leaf: leaf if leaf.shape[1] == settings else leaf[:, :settings], best),
        best_step=reached.steps[at],
        valid=np.take_along_axis(reached.valid, at[None], axis=0)[0],
        steps=reached.steps,
        loss_curve=reached.loss,
        valid_curve=reached.valid,
        programs=len(widths),
    )


def _join(waves: list[Fitted]) -> Fitted:
    """Waves side by side, on the host; the curves of one that stopped earlier go on with NaN."""
    longest = max((fitted.steps for fitted in waves), key=len)

    def padded(curve: np.ndarray) -> np.ndarray:
        return np.pad(curve, ((0, len(longest) - len(curve)), (0, 0), (0, 0)), constant_values=np.nan)

    def side_by_side(*leaves: Any) -> np.ndarray:
        return np.concatenate([np.asarray(leaf) for leaf in leaves], axis=1)

    return Fitted(
        *(jax.tree.map(side_by_side, *(fitted[part] for fitted in waves)) for part in range(3)),
        best_step=side_by_side(*(fitted.best_step for fitted in waves)),
        valid=side_by_side(*(fitted.valid for fitted in waves)),
        steps=longest,
        loss_curve=np.concatenate([padded(fitted.loss_curve) for fitted in waves], axis=2),
        valid_curve=np.concatenate([padded(fitted.valid_curve) for fitted in waves], axis=2),
        programs=max(fitted.programs for fitted in waves),
    )
