"""Training of a population, in waves that fit into memory."""

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

CHECKPOINT_SHARE = 0.03  # largest share of the time for checkpoints; shorter chunks are saved less often
WRITE_RATE = 5e8  # bytes per second, roughly, that a core writes in the background
COPIES = 3  # windows of a stream in memory: in use, next, and being transferred
RESULTS = "results.jsonl"


def unchanged(hparams: Any, past: History) -> Any:
    """The default :attr:`Schedule.adapt`, which changes nothing."""
    return hparams


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Duration, validation and stopping of a population's training.

    Attributes:
      epochs: maximum number of passes over the rows.
      batch_size: rows per step; at most the number of rows.
      chunk_epochs: epochs between validations.
      patience: stop after this many validations without an improvement of any setting.
      count_from: the first step whose validation counts, such as the end of a pruning ramp.
      by_seed: select the best step per member. By default it is selected per setting, by the mean over seeds, like the
        other hyperparameters.
      stop: ``stop(history, running) -> [settings] bool``, pure, the settings to stop early; their cost is saved once
        half of the settings have stopped. See :func:`stagnant` and :func:`halving`. The history is that of one wave.
      adapt: ``adapt(hparams, history) -> hparams``, pure, the hyperparameters of the next chunk, such as a learning
        rate that falls on a plateau (:func:`plateaus`). ``hparams`` are those of the population, not the adapted ones.
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
    """The result of training a population.

    Attributes:
      params: the trained parameters at each member's best validation, leaves ``[seeds, settings, ...]``.
      learned: the transform's trained parameters, likewise.
      compression: the transform's state, likewise.
      best_step: ``[seeds, settings]``, the step of the best validation; see :attr:`Schedule.by_seed`.
      valid: ``[seeds, settings]``, the validation metric at that step.
      steps: ``[validations]``.
      loss_curve: ``[validations, seeds, settings]``, the mean training loss since the last validation; NaN after a
        setting has stopped.
      valid_curve: ``[validations, seeds, settings]``, likewise.
      programs: maximum number of programs compiled for the steps: one, and one for each compaction of stopped settings.
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
    """The curves of a wave so far, on the host; allocated in full and filled at each validation."""

    steps: np.ndarray  # [validations]
    loss: np.ndarray  # [validations, seeds, settings]
    valid: np.ndarray
    running: np.ndarray  # [1 + validations, settings]; all, before the first validation

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
    """``now`` where ``better``; ``slots`` are the settings in ``now``, None for all of them in order."""

    def choose(old: jax.Array, new: jax.Array) -> jax.Array:
        kept = old if slots is None else old[:, slots]
        chosen = jnp.where(better.reshape(*better.shape, *[1] * (new.ndim - 2)), new, kept)
        return chosen if slots is None else old.at[:, slots].set(chosen, mode="drop")

    return jax.tree.map(choose, best, now)


@jax.jit
def _take_slots(tree: Any, at: jax.Array) -> Any:
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
    """Trains a population and keeps each member's best parameters; resumes bit for bit.

    Settings are spread over the devices. If they don't fit into memory together, they train in waves, and the functions
    of the schedule see one wave at a time. The learning curves of all members are written to ``results.jsonl`` during
    training.

    Args:
      recipe: what is trained and how.
      starts: the models' initial parameters, trained leaves ``[seeds, ...]``, ``fixed`` shared.
      population: the members; see :func:`population`.
      data: argument of :attr:`~recjax.train.Recipe.gather`, or a :class:`recjax.data.Stream` of such arguments.
      rows: ``[rows]``, the row numbers that batches are drawn from; of a stream, those of each window.
      validate: ``validate(params, held_out) -> scalar``, higher is better; pure, of one member's parameters after the
        transform. It is a static argument: it should compare equal between calls.
      held_out: a pytree of arrays, the second argument of ``validate``.
      schedule: see :class:`Schedule`.
      folder: for checkpoints and ``results.jsonl``; a temporary one by default, without resuming.
      progress: called with the epochs done, the total, and the wave's best score so far, None before one counts.
      init: ``init(start, hparams) -> params``, pure, a member's initial parameters from those of its seed.
      memory: bytes to fill; by default those of :func:`memory`.
      planned: called with the :class:`Plan` before training.

    Raises:
      ValueError: if ``schedule.count_from`` is after the last step.
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
    """The constants of a wave, with its arrays on the devices."""

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
        """The epochs of a chunk."""
        each = self.schedule.chunk_epochs
        return range(chunk * each, min((chunk + 1) * each, self.schedule.epochs))

    def in_slots(self, tree: Any, slots: np.ndarray) -> Any:
        """Leaves ``[seeds, settings, ...]`` arranged by slot."""
        return jax.device_put(_take_slots(tree, jnp.asarray(np.minimum(slots, self.settings - 1))), self.members)

    def compacted(self, slots: np.ndarray, running: np.ndarray) -> np.ndarray:
        """The slots after some settings have stopped; the same object if nothing moves."""
        return _slots.compacted(slots, running, self.members.num_devices)

    def moved(self, state: train.TrainState, slots: np.ndarray, now: np.ndarray) -> train.TrainState:
        """The state moved from the old slots to those of ``now``."""
        *parts, step = state
        moved = jax.device_put(_take_slots(parts, jnp.asarray(_slots.places(slots, now))), self.members)
        return train.TrainState(*moved, step=step)

    def trained(
        self, state: train.TrainState, own: Any, chunk: int, windows: Iterator[Any]
    ) -> tuple[train.TrainState, np.ndarray]:
        """The state after a chunk, and its mean losses, ``[seeds, slots]``."""
        losses, epochs, each = [], self.epochs(chunk), self.windows_per_epoch
        for window, data in zip(range(epochs.start * each, epochs.stop * each), windows, strict=False):
            ids = jax.device_put(order(self.orders, self.rows, window, batch_size=self.batch_size), self.shared)
            state, values = train.run_chunk(self.recipe, state, own, ids, self.samples, data, self.fixed)
            losses.append(values)
            jax.block_until_ready(losses[-2:-1])  # else windows would pile up in memory
        return state, np.concatenate(losses).mean(axis=0)

    def windows(self, chunk: int) -> Iterator[Any]:
        """The data of this chunk and those after it, in order."""
        if isinstance(self.data, Stream):
            epochs = range(self.epochs(chunk).start, self.schedule.epochs)
            return (jax.device_put(window, self.shared) for window in self.data.read(epochs))
        return itertools.repeat(self.data)

    def validated(self, state: train.TrainState, own: Any) -> tuple[tuple[Any, Any, Any], np.ndarray]:
        """The parts of the state to keep, and the metric of each slot, ``[seeds, slots]``."""
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
        raise ValueError(f"count_from: expected at most {last} (the last step), got {schedule.count_from}")

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
                now = wave.compacted(slots, running)
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
            compact = wave.compacted(slots, curves.running[chunk + 1])
            if compact is not slots:
                state, slots = wave.moved(state, slots, compact), compact
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
    """Waves side by side, on the host; shorter curves are padded with NaN."""
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
