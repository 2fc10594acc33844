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
        np.testing.assert_array_equal(threefry(jnp.asarray(pair), jnp.asarray(count)).ravel(), expected)


def test_members_drop_what_each_alone_would():
    keys, rates = jax.random.split(jax.random.key(0), 3), jnp.array([0.0, 0.3, 0.9])
    together = jax.jit(jax.vmap(lambda key, rate: drop(jnp.ones((5, 7)), key, 2, rate)))(keys, rates)
    alone = [jax.jit(drop, static_argnums=2)(jnp.ones((5, 7)), *one) for one in zip(keys, [2] * 3, rates, strict=True)]
    np.testing.assert_array_equal(together, alone)


def test_numbers_of_all_places_of_a_block_are_free_of_each_other():
    """Four numbers come from one block: two from each word, the second words after all first ones."""
    rows = 4096
    lost = np.asarray(drop(jnp.ones((4, rows)), jax.random.key(1), 0, 0.5)).ravel() == 0
    first, second = lost.reshape(2, -1, 2)
    for one, other in ((first[:, 0], first[:, 1]), (first[:, 0], second[:, 0]), (first[:, 1], second[:, 1])):
        assert abs((one == other).mean() - 0.5) < 5 / np.sqrt(4 * len(one))
