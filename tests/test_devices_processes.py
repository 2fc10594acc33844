"""Several processes on one machine train one population, and one process goes on with it."""

import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import processes
import pytest

from recjax import checkpoint, devices

COUNT = 2


def together(folder, members, rows):
    """Runs tests/processes.py in two processes; the parts of the state that each had, ``[process][name]``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(processes.__file__)
    running = [
        subprocess.Popen(
            [sys.executable, str(here), *map(str, (port, COUNT, number, folder, members, rows))],
            cwd=here.parents[1],
            env={"PYTHONPATH": str(here.parents[1]), "PATH": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(COUNT)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * COUNT, "\n".join(said)
    return [dict(np.load(folder / f"{number}.npz")) for number in range(COUNT)]


def whole(parts, name, like):
    """The leaves of a state put together from its parts; every entry must be in one."""
    leaves = [np.zeros(leaf.shape, leaf.dtype) for leaf in map(processes.plain, jax.tree.leaves(like))]
    known = [np.zeros(leaf.shape, bool) for leaf in leaves]
    for key, part in ((key, part) for own in parts for key, part in own.items()):
        kind, number, *begins = key.split(":")
        if kind == name:
            at = tuple(slice(int(b), int(b) + n) for b, n in zip(begins, part.shape, strict=True))
            leaves[int(number)][at], known[int(number)][at] = part, True
    assert all(leaf.all() for leaf in known)
    return leaves


def close(state, leaves):
    for leaf, expected in zip(map(processes.plain, jax.tree.leaves(state)), leaves, strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=2e-4, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("members", "rows"), [(2, 2), (1, 4)], ids=["settings", "tables"])
def test_one_process_goes_on_with_what_two_began(tmp_path, members, rows):
    """Settings, or the rows of tables, are apart between the processes; the checkpoint is read onto other devices."""
    parts = together(tmp_path, members, rows)
    mesh = devices.mesh(members=4, rows=2)
    like = jax.device_put(processes.start(), processes.layout(mesh))
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)]
    user = names.index(".params['tables']['user']")
    held = [sum(part.size for key, part in own.items() if key.startswith(f"saved:{user}:")) for own in parts]
    assert held == [like.params["tables"]["user"].size // COUNT] * COUNT  # no process had the whole table
    with checkpoint.open_folder(tmp_path / "checkpoint") as manager:
        step, found = checkpoint.restore(manager, {"state": like})
    state = found["state"]
    assert step == 1
    for leaf, placed, expected in zip(*map(jax.tree.leaves, (state, like)), whole(parts, "saved", like), strict=True):
        assert leaf.sharding == placed.sharding
        assert np.asarray(processes.plain(leaf)).tobytes() == expected.tobytes()
    alone = processes.chunk(devices.mesh(), processes.start(), 0)
    close(state, map(processes.plain, jax.tree.leaves(alone)))
    close(processes.chunk(mesh, state, 1), whole(parts, "after", like))
