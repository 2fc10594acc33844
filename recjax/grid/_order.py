"""The order of rows in an epoch, different for each seed and epoch."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from recjax.data import epoch_batches


def order(keys: jax.Array, rows: jax.Array, window: int, *, batch_size: int) -> jax.Array | np.ndarray:
    """``[steps, seeds, batch]``, the rows of one epoch, or of one window of it, as from :func:`epoch_batches`."""
    # On a CPU, sorting takes XLA ten times as long as NumPy, which matters for cheap steps.
    if jax.default_backend() != "cpu":
        return _on_device(keys, rows, jnp.asarray(window), batch_size=batch_size)
    count = len(rows)
    places = np.broadcast_to(np.arange(count), (len(keys), count))
    for draws in np.asarray(_draws(keys, jnp.asarray(window), count=count)).swapaxes(0, 1):
        # Draws with their places as low bits: a stable sort at the speed of np.sort.
        after = np.sort(draws.astype(np.uint64) << np.uint64(32) | np.arange(count, dtype=np.uint64))
        places = np.take_along_axis(places, (after & np.uint64(0xFFFFFFFF)).astype(np.int64), axis=1)
    steps = count // batch_size
    return np.asarray(rows)[places[:, : steps * batch_size].reshape(-1, steps, batch_size).swapaxes(0, 1)]


@functools.partial(jax.jit, static_argnames="batch_size")
def _on_device(keys: jax.Array, rows: jax.Array, window: jax.Array, *, batch_size: int) -> jax.Array:
    windows = jax.vmap(lambda key: epoch_batches(jax.random.fold_in(key, window), len(rows), batch_size))(keys)
    return rows[jnp.swapaxes(windows, 0, 1)]


@functools.partial(jax.jit, static_argnames="count")
def _draws(keys: jax.Array, window: jax.Array, *, count: int) -> jax.Array:
    """``[seeds, rounds, count]``, the sort keys of :func:`jax.random.permutation`, round by round."""

    def of_seed(key: jax.Array) -> jax.Array:
        key, drawn = jax.random.fold_in(key, window), []
        for _ in range(math.ceil(3 * math.log(count) / math.log(2**32 - 1))):
            key, subkey = jax.random.split(key)
            drawn.append(jax.random.bits(subkey, (count,)))
        return jnp.stack(drawn) if drawn else jnp.zeros((0, count), jnp.uint32)

    return jax.vmap(of_seed)(keys)
