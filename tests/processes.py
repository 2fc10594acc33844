"""A population that several processes train together; tests/test_devices_processes.py starts them.

    python tests/processes.py PORT PROCESSES NUMBER FOLDER MEMBERS ROWS

Each process has two devices. All train a chunk, write a checkpoint together and train another chunk; each then writes
to ``FOLDER/NUMBER.npz`` the parts that it has of the state after either chunk.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import toy

from recjax import checkpoint, devices, rows, train

SEEDS, SETTINGS, STEPS, BATCH, TABLES = 2, 4, 2, 6, ("user", "item")
RECIPE = toy.PLAIN._replace(rows=train.RowSparse(lambda hparams: rows.adam(hparams.learning_rate), toy.touched))


def hparams():
    rates = jnp.linspace(0.01, 0.04, SETTINGS)[None]
    leaves = (rates, jnp.zeros((1, 1)), jnp.full((1, 1), 16.0))
    return toy.Hparams(*(jnp.broadcast_to(leaf, (SEEDS, SETTINGS)) for leaf in leaves))


def layout(mesh):
    return devices.state_layout(mesh, jax.eval_shape(start), tables=TABLES)


def start():
    return toy.start(RECIPE, toy.starts(SEEDS), hparams())


def chunk(mesh, state, number):
    """The same arguments in every process, as each would read them from the log."""
    data = toy.rows(toy.logs()[0])
    ids = np.random.default_rng(number).integers(len(data.user), size=(STEPS, SEEDS, BATCH)).astype(np.int32)
    rest = hparams(), ids, jax.random.split(jax.random.key(2), SEEDS), data, {}
    rest = jax.jit(lambda tree: tree, out_shardings=devices.argument_layout(mesh))(rest)  # device_put refuses keys
    return train.run_chunk(RECIPE, state, *rest)[0]


def plain(leaf):
    """The numbers of a leaf, a typed key being its data."""
    return jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def parts(state, name):
    """``{"name:leaf:where it begins": array}`` of what this process has."""
    return {
        ":".join([name, str(number), *(str(at.start or 0) for at in shard.index)]): np.asarray(shard.data)
        for number, leaf in enumerate(jax.tree.leaves(state))
        for shard in plain(leaf).addressable_shards
    }


def main(port, processes, number, folder, members, row_parts):
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", int(processes), int(number))
    mesh = devices.mesh(members=int(members), rows=int(row_parts))
    state = chunk(mesh, jax.jit(start, out_shardings=layout(mesh))(), 0)
    found = parts(state, "saved")
    with checkpoint.open_folder(Path(folder) / "checkpoint") as manager:
        checkpoint.save(manager, 1, {"state": state})
        found |= parts(chunk(mesh, state, 1), "after")
    np.savez(Path(folder) / f"{number}.npz", **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
