"""Members that stop, waves that fit into memory, and the lines that tell of both."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from toy import Hparams

from recjax import grid, train

SEEDS, SETTINGS, EPOCHS = 2, 6, 4
RECIPE = toy.PLAIN._replace(optimizer=lambda hparams: optax.sgd(hparams.learning_rate))
RATES = [0.1, 0.5, 0.2, 1.0, 0.7, 0.3]
NDCG, HELD_OUT = toy.held_out(k=3)


class Killed(Exception):
    pass


@pytest.fixture(autouse=True)
def _two_devices(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    monkeypatch.setattr(grid._fit, "CHECKPOINT_SHARE", np.inf)


@pytest.fixture(scope="module")
def problem():
    known, _ = toy.logs()
    return toy.rows(known), jnp.arange(len(known), dtype=jnp.int32), HELD_OUT


def fit(problem, folder, rates=RATES, stop=grid.halving, progress=lambda *told: None, recipe=RECIPE, **options):
    data, rows, held_out = problem
    return grid.fit(
        recipe,
        toy.starts(SEEDS),
        grid.population(Hparams(), grid.product(learning_rate=rates, seed=range(SEEDS))),
        data=data,
        rows=rows,
        held_out=held_out,
        schedule=grid.Schedule(epochs=EPOCHS, batch_size=len(rows) // 2, stop=stop),
        folder=folder,
        progress=progress,
        **{"validate": NDCG, **options},
    )


def nobody(past, running):
    return np.zeros_like(running)


def halved(past, running):
    return grid.halving(past, running, every=1)


@pytest.fixture(scope="module")
def runs(problem, tmp_path_factory):
    """The same population, with nobody stopped and halved at every validation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 2)
        folders = [tmp_path_factory.mktemp(name) for name in ("all", "halved")]
        return [
            fit(problem, folder, stop=stop) for folder, stop in zip(folders, (nobody, halved), strict=True)
        ], folders


def lines_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_halving_keeps_what_a_slow_rule_keeps(runs):
    (whole, halves), _ = runs
    running = list(range(SETTINGS))
    for at in range(EPOCHS):
        for setting in range(SETTINGS):
            ran = np.isfinite(halves.valid_curve[at, :, setting])
            assert ran.tolist() == [setting in running] * SEEDS, (at, setting)
        # The rule on the curves of the run in which nobody stopped: what stops changes nothing for the others.
        score = {s: float(np.mean(whole.valid_curve[at, :, s].astype(np.float64))) for s in running}
        running = sorted(sorted(running, key=lambda s: (-score[s], s))[: -(-len(running) // 2)])
    assert len(running) == 1


def test_those_that_go_on_are_not_disturbed(runs):
    (whole, halves), _ = runs
    ran = np.isfinite(halves.valid_curve)
    assert ran[:, 0].sum(axis=1).tolist() == [6, 3, 2, 1]
    np.testing.assert_allclose(halves.loss_curve[ran], whole.loss_curve[ran], rtol=1e-6)
    np.testing.assert_array_equal(halves.valid_curve[ran], whole.valid_curve[ran])
    same = halves.best_step == whole.best_step
    assert same.any(axis=0).sum() >= 2
    for one, other in zip(*(jax.tree.leaves(run.params) for run in (halves, whole)), strict=True):
        np.testing.assert_allclose(np.asarray(one)[same], np.asarray(other)[same], rtol=1e-5, atol=1e-7)


def test_what_gets_better_after_others_have_stopped_is_kept(problem, tmp_path):
    """A parameter that grows by the learning rate a step, and is the metric: everyone's best is where it stops.

    The loss is computed in bfloat16, which has no such sums: parameters are float32.
    """
    recipe = RECIPE._replace(
        loss=lambda params, batch, hparams, key: -params["tables"]["item_bias"][0, 0],
        precision=train.Precision("bfloat16", "tensorfloat32"),
    )
    fitted = fit(
        problem,
        tmp_path,
        stop=halved,
        recipe=recipe,
        validate=lambda params, held_out: params["tables"]["item_bias"][0, 0],
    )
    epochs = np.array([1, 2, 1, 4, 3, 1])  # of the six rates three go on after an epoch, then two, then one
    kept = np.asarray(fitted.params["tables"]["item_bias"])[:, :, 0, 0]
    start = np.asarray(toy.starts(SEEDS)["tables"]["item_bias"])[:, :1, 0]
    np.testing.assert_allclose(kept, start + np.array(RATES) * 2 * epochs, rtol=1e-5)
    np.testing.assert_array_equal(kept, fitted.valid)
    assert lines_of(tmp_path)[0]["precision"] == {"compute": "bfloat16", "matmul": "tensorfloat32"}
    assert fitted.best_step.tolist() == [(2 * epochs).tolist()] * SEEDS


def test_the_stopped_cost_nothing_and_programs_are_few(runs, problem, tmp_path, monkeypatch):
    (whole, halves), _ = runs
    assert (whole.programs, halves.programs) == (1, 3)  # of 6, 4 and 2 slots
    shapes, run_chunk = [], train.run_chunk

    def watched(recipe, state, *arguments):
        shapes.append(state.key.shape)
        return run_chunk(recipe, state, *arguments)

    monkeypatch.setattr(train, "run_chunk", watched)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **about: compiled.append(about) if "backend_compile" in event else None
    )
    fit(problem, tmp_path / "other", rates=RATES[::-1], stop=nobody)
    assert compiled == []  # one program serves every value of what is traced
    shapes.clear()
    fit(problem, tmp_path / "halved", stop=halved)
    assert compiled == []
    assert shapes == [(SEEDS, slots) for slots in (6, 4, 2, 2)]


@pytest.mark.parametrize("settings", range(1, 40))
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_slots_shrink_a_few_times_and_hold_whoever_runs(settings, devices):
    rng = np.random.default_rng(settings)
    slots, running = grid._slots.first(settings, devices), np.ones(settings, bool)
    sizes = {len(slots)}
    assert len(slots) < settings + devices
    for stopped in rng.permutation(settings):
        running[stopped] = False
        now = grid._slots.compacted(slots, running, devices)
        held = now[now < settings]
        assert set(np.flatnonzero(running)) <= set(held.tolist())
        assert len(set(held.tolist())) == len(held)
        at = grid._slots.places(slots, now)
        np.testing.assert_array_equal(slots[at][now < settings], held)
        slots = now
        sizes.add(len(slots))
    assert len(slots) == devices
    assert len(sizes) <= 1 + np.ceil(np.log2(max(1, -(-settings // devices))))


@pytest.mark.parametrize("last", [1, 2, 3, 4])
def test_a_run_killed_after_any_chunk_goes_on_bit_for_bit(runs, problem, tmp_path, last):
    def kill(done, total, best):
        if done == last:
            raise Killed

    with pytest.raises(Killed):
        fit(problem, tmp_path, stop=halved, progress=kill)
    with (tmp_path / "results.jsonl").open() as file:
        assert len(file.readlines()) == 1 + SEEDS * (SETTINGS + sum([6, 3, 2, 1][:last]))
    done = []
    fitted = fit(problem, tmp_path, stop=halved, progress=lambda at, *_: done.append(at))
    assert done == list(range(last, EPOCHS + 1))  # told before it is saved: one chunk is done again
    toy.same_bits(fitted[:-1], runs[0][1][:-1])
    assert lines_of(tmp_path)[1:] == lines_of(runs[1][1])[1:]


def test_every_member_and_validation_has_a_line(runs):
    fitted, folder = runs[0][1], runs[1][1]
    about, *lines = lines_of(folder)
    assert about["precision"] == {"compute": "float32", "matmul": None}
    assert about["waves"] == [SETTINGS]
    members, curves = lines[: SEEDS * SETTINGS], lines[SEEDS * SETTINGS :]
    assert [line["member"] for line in members] == list(range(SEEDS * SETTINGS))
    for line in members:
        rate = line["hyperparameters"]["learning_rate"]
        assert np.float32(rate) == np.float32(RATES[line["setting"]])
        assert line["member"] == line["seed"] * SETTINGS + line["setting"]
    table = {(line["step"], line["member"]): (line["loss"], line["valid"]) for line in curves}
    assert len(table) == len(curves) == np.isfinite(fitted.valid_curve).sum()
    for at, step in enumerate(fitted.steps):
        for seed, setting in zip(*np.nonzero(np.isfinite(fitted.valid_curve[at])), strict=True):
            loss, valid = table[int(step), int(seed) * SETTINGS + int(setting)]
            assert np.float32(loss) == fitted.loss_curve[at, seed, setting]
            assert np.float32(valid) == fitted.valid_curve[at, seed, setting]


def test_waves_give_what_one_population_gives(runs, problem, tmp_path):
    plans, told = [], []
    fit(problem, tmp_path / "plan", stop=nobody, planned=plans.append)
    one = plans[0]
    memory = one.shared + 2 * one.setting + one.setting // 2
    options = {"stop": nobody, "memory": memory, "planned": plans.append}
    fitted = fit(problem, tmp_path / "waves", progress=lambda *args: told.append(args[:2]), **options)
    assert plans[1].waves == (2, 2, 2)
    assert plans[1].memory == memory
    assert told == [(i, 3 * EPOCHS) for i in range(1, 3 * EPOCHS + 1)]
    whole = runs[0][0]
    np.testing.assert_array_equal(fitted.best_step, whole.best_step)
    np.testing.assert_allclose(fitted.loss_curve, whole.loss_curve, rtol=1e-6)
    for one, other in zip(*(jax.tree.leaves(run.params) for run in (fitted, whole)), strict=True):
        np.testing.assert_allclose(one, np.asarray(other), rtol=1e-5, atol=1e-7)
    _, *lines = lines_of(tmp_path / "waves")
    key = lambda line: (line["member"], line.get("step", 0))  # noqa: E731
    _, *expected = lines_of(runs[1][0])
    for line, like in zip(sorted(lines, key=key), sorted(expected, key=key), strict=True):
        assert line == pytest.approx(like, rel=1e-6) if "step" in line else line == like


def test_slots_that_hold_nobody_change_nothing(runs, problem, tmp_path):
    """Five settings over two devices fill six slots."""
    fitted, whole = fit(problem, tmp_path, rates=RATES[:5], stop=nobody), runs[0][0]
    assert fitted.valid_curve.shape == (EPOCHS, SEEDS, 5)
    np.testing.assert_array_equal(fitted.valid_curve, whole.valid_curve[:, :, :5])
    for one, other in zip(*(jax.tree.leaves(run.params) for run in (fitted, whole)), strict=True):
        assert one.shape[1] == 5
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other)[:, :5])


def test_stagnant_settings_stop_alone():
    score = np.array([[1, 1, 5], [2, 1, 4], [3, 1, 3], [4, 2, 2]], np.float32)[:, None]
    past = lambda n: grid.History(np.arange(n), *[score[:n]] * 3, np.ones((n, 3), bool))  # noqa: E731
    running = np.array([True, True, True])
    assert grid.stagnant(past(2), running, patience=2).tolist() == [False, False, False]
    assert grid.stagnant(past(3), running, patience=2).tolist() == [False, True, True]
    assert grid.stagnant(past(3), np.array([True, False, True]), patience=2).tolist() == [False, False, True]
    assert grid.stagnant(past(4), running, patience=2).tolist() == [False, False, True]
