"""Populations: who they are, that a killed run goes on as if it had not been, and what is kept of them."""

import functools
import itertools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from toy import Hparams

from recjax import checkpoint, compress, data, embed, grid, train
from recjax.grid import _order

SEEDS, K = 2, 3
PER_EPOCH = 3
SWEPT = {"learning_rate": [0.3, 1.0], "sparsity": [0.0, 0.5], "bits": [16.0, 4.0]}  # the second is best before its end


@pytest.fixture(scope="module")
def problem():
    known, _ = toy.logs()
    return toy.rows(known), jnp.arange(len(known), dtype=jnp.int32), HELD_OUT


NDCG, HELD_OUT = toy.held_out(k=K)


def fit(problem, folder, recipe=toy.COMPRESSED, settings=None, epochs=6, progress=None, **schedule):
    data, rows, held_out = problem
    settings = SWEPT if settings is None else settings
    schedule = {"batch_size": len(rows) // PER_EPOCH, **schedule}
    return grid.fit(
        recipe,
        toy.starts(SEEDS),
        grid.population(Hparams(), grid.product(grid.zip(**settings), seed=range(SEEDS))),
        data=data,
        rows=rows,
        validate=NDCG,
        held_out=held_out,
        schedule=grid.Schedule(epochs=epochs, **schedule),
        folder=folder,
        progress=progress or (lambda done, total, best: None),
    )


@pytest.fixture(scope="module")
def whole(problem, tmp_path_factory):
    """One uninterrupted run of two settings, and what it told of its progress."""
    told = []
    folder = tmp_path_factory.mktemp("whole")
    return fit(problem, folder, progress=lambda *args: told.append(args)), told


@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (2, 1), (30, 7), (1625, 300), (1626, 300), (50_000, 2048)])
def test_host_and_device_order_rows_alike(count, batch_size):
    keys, rows = jax.vmap(jax.random.key)(jnp.arange(2)), 3 * jnp.arange(count, dtype=jnp.int32)
    for window in (0, 4):
        ours = _order.order(keys, rows, window, batch_size=batch_size)
        expected = [data.epoch_batches(jax.random.fold_in(key, window), count, batch_size) for key in keys]
        np.testing.assert_array_equal(ours, 3 * np.stack(expected, axis=1))
        np.testing.assert_array_equal(ours, _order._on_device(keys, rows, jnp.asarray(window), batch_size=batch_size))
        assert ours.dtype == jnp.int32


def test_product_is_every_combination_in_order():
    axes = {"temperature": [1, 2.5], "alpha": [0.1, 0.5, 0.9], "bits": [4, 8]}
    settings = grid.product(**axes)
    assert list(settings) == list(axes)
    assert all(values.dtype == np.float32 for values in settings.values())
    expected = [tuple(map(np.float32, combination)) for combination in itertools.product(*axes.values())]
    assert list(zip(*settings.values(), strict=True)) == expected


def test_population_sweeps_what_is_named_and_keeps_the_rest():
    settings = grid.product(bits=[2, 4], sparsity=[0.0, 0.5, 0.75])
    seeds, members = grid.population(Hparams(learning_rate=0.25), grid.product(settings, seed=[3, 1, 4, 0, 5]))
    assert seeds.tolist() == [3, 1, 4, 0, 5]
    assert {leaf.shape for leaf in members} == {(5, 6)}
    assert {leaf.dtype for leaf in members} == {jnp.dtype("float32")}
    for seed in range(5):
        np.testing.assert_array_equal(members.learning_rate[seed], [0.25] * 6)
        np.testing.assert_array_equal(members.bits[seed], [2, 2, 2, 4, 4, 4])
        np.testing.assert_array_equal(members.sparsity[seed], [0, 0.5, 0.75] * 2)
    assert grid.population(Hparams(), settings).seeds.tolist() == [0]
    assert grid.population(Hparams(), grid.product(seed=[7, 8])).hparams.bits.shape == (2, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speed": np.ones(2)}, r"settings: expected at least one, among .*learning_rate.*, got \['speed'\]"),
        ({}, r"at least one, among .*, got \[\]"),
        ({"bits": np.array([2, 4]), "seed": np.array([0, 1])}, "settings: expected the same ones in the same order"),
        ({"bits": np.array([2, 2, 2]), "seed": np.array([0, 1, 1])}, "settings: expected the same ones"),
    ],
)
def test_what_is_no_population_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        grid.population(Hparams(), settings)


def test_settings_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"expected each name once, got \['bits', 'bits'\]"):
        grid.product(grid.product(bits=[2]), bits=[4])
    with pytest.raises(ValueError, match=r"bits: expected a list of at least one value, got shape \(0,\)"):
        grid.product(bits=[])
    with pytest.raises(ValueError, match=r"bits: expected a list of at least one value, got shape \(\)"):
        grid.zip(bits=3.0)
    with pytest.raises(ValueError, match=r"number of values for each name, got \{'bits': 2, 'alpha': 1\}"):
        grid.zip(bits=[2, 4], alpha=[0.5])


def test_curves_and_progress_say_what_happened(whole, problem):
    fitted, told = whole
    np.testing.assert_array_equal(fitted.steps, PER_EPOCH * np.arange(1, 7))
    assert fitted.loss_curve.shape == fitted.valid_curve.shape == (6, SEEDS, 2)
    assert np.isfinite(fitted.loss_curve).all()
    assert fitted.loss_curve[-1, :, 0].mean() < fitted.loss_curve[0, :, 0].mean()
    assert [(done, total) for done, total, _ in told] == [(i, 6) for i in range(1, 7)]
    best = np.maximum.accumulate(fitted.valid_curve.mean(axis=1).max(axis=1))
    np.testing.assert_allclose([value for *_, value in told], best, rtol=1e-6)


def test_best_parameters_are_those_of_the_best_step(whole, problem):
    fitted, _ = whole
    means = fitted.valid_curve.mean(axis=1)
    np.testing.assert_array_equal(fitted.best_step, np.tile(fitted.steps[means.argmax(axis=0)], (SEEDS, 1)))
    assert fitted.best_step[0, 1] < fitted.steps[-1]
    members = grid.population(Hparams(), grid.product(grid.zip(**SWEPT), seed=range(SEEDS))).hparams

    @jax.jit
    def again(params, learned, compression, hparams):
        effective = toy.COMPRESSED.transform.apply({**params, "fixed": {}}, learned, compression, hparams)
        tables = {name: embed.lookup(table) for name, table in effective["tables"].items()}
        return NDCG({**params, "tables": tables}, HELD_OUT), tables["item"]

    for seed, setting in np.ndindex(SEEDS, 2):
        parts = (fitted.params, fitted.learned, fitted.compression, members)
        value, item = again(*jax.tree.map(lambda leaf, at=(seed, setting): np.asarray(leaf)[at], parts))
        np.testing.assert_allclose(fitted.valid[seed, setting], value, rtol=1e-5)
        at = int(np.flatnonzero(fitted.steps == fitted.best_step[seed, setting])[0])
        assert fitted.valid[seed, setting] == fitted.valid_curve[at, seed, setting]
        assert (np.asarray(item) == 0).sum() == (0, item.size // 2)[setting]


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_bit_for_bit(whole, problem, tmp_path, monkeypatch):
    monkeypatch.setattr(grid._fit, "CHECKPOINT_SHARE", np.inf)
    told = []

    def kill_at(last):
        def progress(done, total, best):
            told.append(done)
            if done == last:
                raise Killed

        return progress

    with pytest.raises(Killed):
        fit(problem, tmp_path, progress=kill_at(4))
    fitted = fit(problem, tmp_path, progress=kill_at(None))
    assert told == [1, 2, 3, 4, 4, 5, 6]  # a chunk is told before it is saved, so the last one is done again
    toy.same_bits(fitted[:-1], whole[0][:-1])


def test_a_checkpoint_that_would_cost_too_much_of_the_time_waits(whole, problem, tmp_path, monkeypatch):
    for rate, saved in ((1e-3, False), (1e12, True)):
        monkeypatch.setattr(grid._fit, "WRITE_RATE", rate)
        folder = tmp_path / str(rate)
        fit(problem, folder)
        with checkpoint.open_folder(folder / "wave-0") as manager:
            assert (manager.latest_step() is not None) == saved


def test_patience_and_the_first_step_that_counts(problem, tmp_path, monkeypatch):
    """With a learning rate of 0 nothing ever gets better than the first validation that counts."""
    monkeypatch.setattr(grid._fit, "CHECKPOINT_SHARE", np.inf)
    for again in range(2):  # a run that stopped stays so
        settings = {"learning_rate": [0.0, 0.0]}
        fitted = fit(problem, tmp_path / "still", toy.PLAIN, settings, epochs=9, patience=2, count_from=7)
        assert fitted.steps.tolist() == [3, 6, 9, 12, 15], again
        assert fitted.best_step.tolist() == [[9, 9]] * SEEDS, again
    for kept, start in zip(*map(jax.tree.leaves, (fitted.params, train.trained(toy.starts(SEEDS)))), strict=True):
        np.testing.assert_array_equal(kept, np.broadcast_to(start[:, None], kept.shape))


def test_one_setting_that_still_gets_better_keeps_all_going(problem, tmp_path):
    told = []
    settings = {"learning_rate": [0.0, 0.05]}
    schedule = {"epochs": 17, "batch_size": 1000, "chunk_epochs": 5, "patience": 1}  # no batch is larger than the rows
    fitted = fit(problem, tmp_path, toy.PLAIN, settings, progress=lambda *args: told.append(args[:2]), **schedule)
    assert fitted.best_step[0, 0] == 5
    assert fitted.best_step[0, 1] > 5
    latest = [5, 10, 15, 17].index(fitted.best_step[0, 1])  # the last chunk is what is left
    assert fitted.steps.tolist() == [5, 10, 15, 17][: latest + 2]
    assert told == [(step, 17) for step in fitted.steps]


def test_one_two_and_eight_devices_agree(problem, tmp_path, monkeypatch):
    settings = {"learning_rate": [0.5, 0.2, 1.0, 0.1, 0.3, 0.4, 0.6, 0.7]}
    recipe = toy.PLAIN._replace(optimizer=lambda hparams: optax.sgd(hparams.learning_rate))
    fits = {}
    for devices in (1, 2, 8):
        monkeypatch.setattr(jax, "device_count", lambda count=devices: count)
        fits[devices] = fit(problem, tmp_path / str(devices), recipe, settings, epochs=2)
        for leaf in jax.tree.leaves(fits[devices].params):
            assert len(leaf.sharding.device_set) == devices
            assert {shard.data.shape[1] for shard in leaf.addressable_shards} == {8 // devices}
    for devices in (2, 8):
        np.testing.assert_allclose(fits[devices].loss_curve, fits[1].loss_curve, rtol=1e-5)
        for one, other in zip(*(jax.tree.leaves(fits[n].params) for n in (1, devices)), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=2e-6)
    moved = np.asarray(fits[1].params["tables"]["user"])
    assert (
        len({table.tobytes() for table in moved.reshape(-1, toy.USERS, toy.DIM)}) == SEEDS * 8
    )  # no two members alike


@pytest.mark.parametrize(("settings", "devices"), [(1, 1), (2, 2), (7, 7), (8, 8), (9, 5), (12, 6), (16, 8), (17, 6)])
def test_settings_are_spread_evenly(settings, devices):
    members, shared = grid._slots.shardings(settings)
    assert len(members.device_set) == len(shared.device_set) == devices
    slots = grid._slots.first(settings, devices)
    share = -(-settings // 8)
    assert members.shard_shape((3, len(slots), 5)) == (3, share, 5)
    assert shared.shard_shape((3, 5)) == (3, 5)
    assert slots.tolist() == [*range(settings)] + [settings] * (devices * share - settings)


def test_an_epoch_shows_every_row_once_and_each_seed_in_an_order_of_its_own(problem, tmp_path):
    """A loss whose gradient counts the rows that were shown, and weighs them by the step."""

    def loss(params, batch, hparams, key):
        return -embed.lookup(params["tables"]["user"], batch["row"]).sum()

    recipe = train.Recipe(loss, lambda hparams: optax.trace(0.5), compress.chain(), lambda data, ids, key: {"row": ids})
    data, _, held_out = problem
    problem = (data, jnp.arange(toy.USERS, dtype=jnp.int32), held_out)
    starts = toy.starts(SEEDS)["tables"]["user"][:, None]
    settings = {"learning_rate": [1.0, 1.0]}
    # With momentum 1/2 a row shown at step t of n has moved by 2 - 2**(t - n + 1), so the move tells when it was shown.
    last = fit(problem, tmp_path / "one", recipe, settings, epochs=1, batch_size=6)
    moved = -(np.asarray(last.params["tables"]["user"]) - starts)[..., 0]
    np.testing.assert_array_equal(moved[:, 0], moved[:, 1])  # settings of one seed alike
    shown = np.sort(moved[:, 0], axis=1)
    np.testing.assert_allclose(shown, np.broadcast_to(np.repeat([1, 1.5, 1.75, 1.875], 6), shown.shape), atol=1e-5)
    assert not np.allclose(moved[0], moved[1])


def test_groups_take_a_program_each_however_many_settings(problem, tmp_path):
    rates = {"learning_rate": [0.1, 0.3, 0.5]}
    losses = {"bpr": toy.loss, "of_twice_the_loss": lambda *arguments: 2 * toy.loss(*arguments)}
    sgd = toy.PLAIN._replace(optimizer=lambda hparams: optax.sgd(hparams.learning_rate))
    fits = {
        name: functools.partial(fit, problem, tmp_path / name, sgd._replace(loss=loss), rates, epochs=1)
        for name, loss in losses.items()
    }
    programs, begun = train.program(())._cache_size(), []
    found = grid.groups(fits, begin=begun.append)
    assert list(found.fitted) == begun == list(losses)
    assert found.programs == {"bpr": 1, "of_twice_the_loss": 1}
    assert train.program(())._cache_size() == programs + 2
    one, other = found.fitted.values()
    np.testing.assert_allclose(other.loss_curve, 2 * one.loss_curve, rtol=0.1)


def past(score):
    """A history in which only the score matters."""
    return grid.History(np.arange(len(score)), score, score, score, np.ones((len(score), score.shape[2]), bool))


def test_plateaus_are_those_of_a_slow_count():
    rng = np.random.default_rng(0)
    score = rng.integers(0, 9, size=(30, 2, 3)).astype(np.float32)
    score[:4, 0] = -np.inf  # a ramp that must be over
    for patience in (1, 2, 4):
        found = grid.plateaus(
            grid.History(np.arange(30), score, score, score, np.ones((30, 3), bool)), patience=patience
        )
        for member in np.ndindex(2, 3):
            best, waited, count = -np.inf, 0, 0
            for value in score[:, *member]:
                if value == -np.inf:
                    continue
                if value > best:
                    best, waited = value, 0
                else:
                    waited += 1
                if waited == patience:
                    waited, count = 0, count + 1
            assert found[member] == count, (patience, member)


def test_a_learning_rate_falls_on_a_plateau_and_each_seed_keeps_its_own_best(problem, tmp_path, monkeypatch):
    """A validation that is the negative of a parameter's size: it gets worse whenever the parameter moves."""
    monkeypatch.setattr(grid._fit, "CHECKPOINT_SHARE", np.inf)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data, rows, _ = problem
    rates = []

    def adapt(hparams, past):
        drops = grid.plateaus(past, patience=2)
        rates.append(np.asarray(0.5**drops))
        return hparams._replace(learning_rate=hparams.learning_rate * 0.5**drops)

    def loss(params, batch, hparams, key):
        return -params["tables"]["item_bias"][0, 0] * jnp.sign(hparams.sparsity)

    def peak(params, held_out):  # the best of seed 0 is at another step than that of seed 1
        return -jnp.abs(params["tables"]["item_bias"][0, 0] - held_out)

    recipe = train.Recipe(loss, lambda hparams: optax.sgd(hparams.learning_rate), compress.chain(), toy.gather)
    starts = toy.starts(SEEDS)
    starts["tables"]["item_bias"] = jnp.zeros_like(starts["tables"]["item_bias"]).at[1].add(-3.0)
    fitted = grid.fit(
        recipe,
        starts,
        grid.population(Hparams(learning_rate=1 / PER_EPOCH), grid.product(sparsity=[1, -1], seed=range(SEEDS))),
        data=data,
        rows=rows,
        validate=peak,
        held_out=jnp.asarray(1.0),
        schedule=grid.Schedule(epochs=7, batch_size=len(rows) // PER_EPOCH, by_seed=True, adapt=adapt),
    )
    assert not any(tmp_path.iterdir())  # the temporary folder is gone
    # Seed 0 starts at 0 and is at 1 after one epoch; seed 1 starts at -3 and is there after four. Setting 1 goes away.
    np.testing.assert_array_equal(fitted.best_step, PER_EPOCH * np.array([[1, 1], [4, 1]]))
    np.testing.assert_allclose(fitted.valid, [[0, -2], [0, -5]], atol=1e-5)
    np.testing.assert_array_equal(
        np.array(rates)[:, 0, 0], [1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    )  # plateaus after validations 3, 5 and 7
    np.testing.assert_allclose(fitted.valid_curve[:, 0, 0], -np.array([0, 1, 2, 2.5, 3, 3.25, 3.5]), atol=1e-5)
    np.testing.assert_array_equal(np.array(rates)[:, 1, 0], [1, 1, 1, 1, 1, 1, 0.5])
