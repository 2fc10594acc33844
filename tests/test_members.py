"""Ids that members share, made their own: the same results, to every order of differentiation."""

import jax
import jax.numpy as jnp
import numpy as np

from recjax import rows
from recjax.embed import touched, view
from recjax.members import of_member

TABLES = np.random.default_rng(0).normal(size=(2, 3, 9, 4)).astype(np.float32)  # seeds, settings
IDS = np.array([[3, 1, 3, 8], [0, 9, 5, 5]], np.int32)  # of each seed; one is nowhere


def cubes(table, ids):
    read = view(table, touched(table, ids)).rows(ids)
    return jnp.sum(jnp.where(jnp.isnan(read), 0, read) ** 3)


def both(function):
    """Over settings that share their seed's ids, and over seeds."""
    return jax.vmap(jax.vmap(function, in_axes=(0, None)))


def test_second_derivatives_of_a_view_are_a_loops():
    def pulled(table, ids):
        return jnp.sum(jax.grad(cubes)(table, ids) ** 2)

    found = both(jax.grad(pulled))(TABLES, IDS)
    for seed in range(2):
        inside = IDS[seed][IDS[seed] < 9]
        count = np.bincount(inside, minlength=9)[:, None]  # the gradient of a row is 3 x^2 for each time it is read
        np.testing.assert_allclose(found[seed], 36 * TABLES[seed] ** 3 * count**2, rtol=1e-5, atol=1e-6)


def test_a_view_is_linear_in_its_table_forwards_too():
    _, slope = jax.vmap(lambda table, ids: jax.jvp(lambda t: cubes(t, ids), (table,), (table,)))(TABLES[:, 0], IDS)
    np.testing.assert_allclose(slope, 3 * jax.vmap(cubes)(TABLES[:, 0], IDS), rtol=1e-5)


def test_rows_of_shared_places_go_where_a_loop_puts_them():
    places = jnp.array([[1, 3, 8], [0, 5, 9]])
    new = jnp.asarray(TABLES[..., :3, :]) + 1
    found = jax.vmap(jax.vmap(rows.put, in_axes=(0, None, 0)))(jnp.asarray(TABLES), places, new)
    for seed, ids in enumerate(np.asarray(places)):
        expected = TABLES[seed].copy()
        inside = ids < 9
        expected[:, ids[inside]] = new[seed][:, inside]
        np.testing.assert_array_equal(found[seed], expected)


def test_ids_become_the_members_own_where_the_arrays_are():
    shared, own = jnp.arange(3), jnp.zeros((5, 3), int)
    assert jax.vmap(of_member, in_axes=(None, 0))(shared, jnp.zeros((5, 2))).shape == (5, 3)
    assert jax.vmap(of_member)(own, jnp.zeros((5, 2))).shape == (5, 3)
    lowered = jax.jit(jax.vmap(rows.put, in_axes=(0, None, 0))).lower(
        jnp.zeros((5, 9, 4)), shared[:2], jnp.ones((5, 2, 4))
    )
    assert "tensor<5x2x1xi32>" in lowered.as_text()  # the scatter's indices: every member's
