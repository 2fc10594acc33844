"""Schedules against loops (references); the cubic one is in test_prune."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from recjax import prune


def grid(schedule, **knobs):
    """A schedule over steps and knobs, all traced at once."""
    over = jax.jit(jax.vmap(lambda step, knobs: schedule(step, **knobs), in_axes=(None, 0)))
    return lambda steps: over(steps, {name: jnp.asarray(value) for name, value in knobs.items()})


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("one_shot_sparsity", {"at": [0, 5, 9], "final": [0.9, 0.5, 1.0]}),
        ("cosine_sparsity", {"begin": [0, 5, 7], "end": [20, 5, 9], "final": [0.9, 0.5, 1.0]}),
        ("iterative_sparsity", {"every": [4, 1, 7], "share": [0.1, 0.5, 0.0], "rounds": [3, 30, 2]}),
    ],
)
def test_schedules(name, knobs):
    steps = np.arange(25, dtype=np.int32)
    found = grid(getattr(prune, name), **knobs)(steps)
    for i, ours in enumerate(found):
        one = {knob: values[i] for knob, values in knobs.items()}
        twin = [getattr(references, name)(int(step), **one) for step in steps]
        np.testing.assert_allclose(ours, twin, rtol=0, atol=5e-7)
        assert (np.diff(ours) >= 0).all()


def test_a_round_starts_where_the_sparsity_rises():
    steps = np.arange(40, dtype=np.int32)
    sparsity = np.asarray(prune.iterative_sparsity(steps, every=4, share=0.2, rounds=6))
    starts = np.asarray(prune.starts_round(steps, every=4, rounds=6))
    np.testing.assert_array_equal(starts, np.diff(sparsity, prepend=0) > 0)
    assert starts.sum() == 6
