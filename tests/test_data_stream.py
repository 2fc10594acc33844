"""Logs on disk: what is written is what is read, a window is what it says, and training on windows is training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from recjax import data, grid
from recjax.data import Examples, Stream
from recjax.errors import InputError


def rows(rng: np.random.Generator, count: int) -> Examples:
    return Examples(rng.integers(0, 9, (count, 3)).astype(np.int32), rng.integers(0, 2, count).astype(np.float32))


def test_parts_are_read_as_one(tmp_path):
    rng = np.random.default_rng(0)
    parts = [rows(rng, count) for count in (5, 0, 130, 1)]
    data.write_arrays(tmp_path / "log", (part for part in parts))
    found = data.open_arrays(tmp_path / "log", Examples)
    assert isinstance(found.fields, np.memmap)
    assert not found.fields.flags.writeable
    assert found.values is None
    for name in ("fields", "label"):
        np.testing.assert_array_equal(getattr(found, name), np.concatenate([getattr(part, name) for part in parts]))
        assert getattr(found, name).dtype == getattr(parts[0], name).dtype
        np.testing.assert_array_equal(np.load(tmp_path / "log" / f"{name}.npy"), getattr(found, name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]


def test_a_part_that_is_unlike_the_first_leaves_nothing(tmp_path):
    rng = np.random.default_rng(0)
    first = rows(rng, 4)
    for other in (
        first._replace(values=np.ones((4, 3), np.float32)),
        first._replace(fields=first.fields[:, :2]),
        first._replace(label=first.label.astype(np.float64)),
        first._replace(label=first.label[:3]),
    ):
        with pytest.raises(ValueError, match="part 1: expected rows of"):
            data.write_arrays(tmp_path / "log", [first, other])
    with pytest.raises(ValueError, match="parts: expected at least one"):
        data.write_arrays(tmp_path / "log", [])
    assert not list(tmp_path.iterdir())
    data.write_arrays(tmp_path / "log", [first])
    with pytest.raises(FileExistsError, match=r"log: expected a path that doesn't exist, got a file or folder"):
        data.write_arrays(tmp_path / "log", [first])


def test_a_damaged_folder_is_refused_by_name(tmp_path):
    for spoil, expected in (
        (lambda log: (log / "label.npy").write_bytes(b"no array"), r"log: .*got a damaged one"),
        (lambda log: (log / "label.npy").write_bytes((log / "label.npy").read_bytes()[:-1]), "got a damaged one"),
        (lambda log: np.save(log / "label.npy", np.ones(3, object)), "got a damaged one"),
        (
            lambda log: np.save(log / "label.npy", np.ones(3)),
            r"expected arrays of equal length, got \{'fields': 4, 'label': 3\}",
        ),
        (lambda log: np.save(log / "price.npy", np.ones(4)), r"got arrays \['fields', 'label', 'price'\]"),
        (lambda log: [path.unlink() for path in log.iterdir()], r"expected some of \['fields'.*got arrays \[\]"),
    ):
        log = tmp_path / "log"
        data.write_arrays(log, [rows(np.random.default_rng(0), 4)])
        spoil(log)
        with pytest.raises(InputError, match=expected):
            data.open_arrays(log, Examples)
        for path in log.iterdir():
            path.unlink()
        log.rmdir()


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 5), st.integers(0, 1000))
def test_an_epoch_has_each_row_once_at_most_and_whole_blocks_of_them(length, block, blocks, epoch):
    if block * blocks > length:
        with pytest.raises(ValueError, match=f"at most {length} rows, got {block * blocks}"):
            Stream(np.arange(length), window=block * blocks, block=block)
        return
    stream = Stream({"at": np.arange(length), "double": 2 * np.arange(length)}, window=block * blocks, block=block)
    windows = list(stream.read([epoch]))
    assert len(windows) == stream.windows == length // block // blocks
    at = np.stack([window["at"] for window in windows])
    assert at.shape == (stream.windows, *stream.shapes["at"].shape)
    assert len(set(at.ravel().tolist())) == at.size
    assert set(at.ravel().tolist()) <= set(range(length))
    assert (np.diff(at.reshape(-1, block), axis=1) == 1).all()
    np.testing.assert_array_equal(np.stack([window["double"] for window in windows]), 2 * at)


def test_every_row_comes_equally_often_and_beside_others():
    stream = Stream(np.arange(23), window=6, block=2)
    epochs = [np.concatenate(list(stream.read([epoch]))) for epoch in range(600)]
    counts = np.bincount(np.concatenate(epochs), minlength=23)
    expected = 600 * 18 / 22  # 9 of 11 blocks, and one row of 23 is in none: at either end half of the time
    np.testing.assert_allclose(counts[1:-1], expected, rtol=0.12)
    np.testing.assert_allclose(counts[[0, -1]], expected / 2, rtol=0.15)
    together = {tuple(sorted(window[::2])) for epoch in range(40) for window in stream.read([epoch])}
    assert len(together) > 80
    assert [x.tolist() for x in stream.read([3, 4])] == [x.tolist() for e in (3, 4) for x in stream.read([e])]


NDCG, HELD_OUT = toy.held_out(k=3)
SETTINGS = {"learning_rate": [0.3, 0.1]}
KNOWN, _ = toy.logs()


def fit(what, count, folder, progress=lambda done, total, best: None, **schedule):
    return grid.fit(
        toy.PLAIN,
        toy.starts(2),
        grid.population(toy.Hparams(), grid.product(grid.zip(**SETTINGS), seed=range(2))),
        data=what,
        rows=jnp.arange(count, dtype=jnp.int32),
        validate=NDCG,
        held_out=HELD_OUT,
        schedule=grid.Schedule(**schedule),
        folder=folder,
        progress=progress,
    )


def streamed(window, block):
    return Stream(toy.Rows(KNOWN.user, KNOWN.item), window=window, block=block), window


def same(one, other):
    return all(bool((a == b).all()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_one_window_of_one_block_trains_as_memory_does(tmp_path):
    count = len(KNOWN)
    schedule = {"batch_size": count // 3, "epochs": 2}
    one = fit(*streamed(count, count), tmp_path / "disk", **schedule)
    assert same(one[:5], fit(toy.rows(KNOWN), count, tmp_path / "memory", **schedule)[:5])


def test_windows_train_and_a_run_that_is_cut_goes_on_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("recjax.grid._fit.CHECKPOINT_SHARE", 1e9)  # after every chunk
    schedule = {"batch_size": 8, "chunk_epochs": 2, "epochs": 6}
    whole = fit(*streamed(24, 4), tmp_path / "whole", **schedule)
    steps = len(KNOWN) // 4 // 6 * 3
    assert whole.steps.tolist() == [2 * steps, 4 * steps, 6 * steps]
    assert (whole.loss_curve[-1] < whole.loss_curve[0]).all()
    assert whole.programs == 1

    def cut(done, total, best):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(*streamed(24, 4), tmp_path / "cut", progress=cut, **schedule)
    resumed = fit(*streamed(24, 4), tmp_path / "cut", **schedule)
    assert same(whole[:3], resumed[:3])
    np.testing.assert_array_equal(whole.loss_curve, resumed.loss_curve)
