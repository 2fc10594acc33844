"""The numbers that dropout draws; what it does with them is tested with the models that drop."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32

from recjax.models.dropout import drop, threefry


def test_words_are_those_of_jax():
    key, count = np.random.default_rng(0).integers(0, 2**32, (2, 1000), dtype=np.uint32)
    for pair in (key[:2], np.zeros(2, np.uint32), np.full(2, 2**32 - 1, np.uint32)):
        expected = threefry_2x32(jnp.asarray(pair), jnp.concatenate([count, np.zeros_like(count)]))
        np.testing.assert_array_equal(np.concatenate(threefry(jnp.asarray(pair), jnp.asarray(count))), expected)


def test_members_drop_what_each_alone_would():
    keys, rates = jax.random.split(jax.random.key(0), 3), jnp.array([0.0, 0.3, 0.9])
    together = jax.jit(jax.vmap(lambda key, rate: drop(jnp.ones((5, 7)), key, 2, rate)))(keys, rates)
    alone = [jax.jit(drop, static_argnums=2)(jnp.ones((5, 7)), *one) for one in zip(keys, [2] * 3, rates, strict=True)]
    np.testing.assert_array_equal(together, alone)


def test_numbers_of_a_block_and_of_both_halves_are_free_of_each_other():
    """The first four rows of eight have the numbers of the same blocks, the other four those of the blocks after."""
    columns = 8192
    lost = np.asarray(drop(jnp.ones((8, columns)), jax.random.key(1), 0, 0.5)) == 0
    agree = (lost[:, None] == lost[None]).mean(-1)[np.triu_indices(8, 1)]
    assert np.abs(agree - 0.5).max() < 5 / np.sqrt(4 * columns)


def test_entries_are_lost_where_their_numbers_are_below_the_rate():
    """Against JAX's generator; eleven rows are drawn as sixteen, two for each number of each half's blocks."""
    key, rows, columns, rate = jax.random.key(3), 11, 5, 0.3
    count = jnp.arange(2 * 2 * columns, dtype=jnp.uint32)
    words = threefry_2x32(jax.random.bits(jax.random.fold_in(key, 7), (2,)), jnp.concatenate([count, 0 * count]))
    numbers = np.asarray(words).reshape(2, 2, -1, 1).view("<u2")  # [word, half, block, low or high]
    lost = numbers.transpose(1, 0, 3, 2).reshape(16, columns)[:rows] < rate * 2**16
    x = jax.random.normal(key, (rows, columns))
    np.testing.assert_allclose(drop(x, key, 7, rate), np.where(lost, 0, x / 0.7), rtol=1e-6)
