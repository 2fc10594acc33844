"""What is restored is what was saved, to the last bit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import toy

from recjax import checkpoint
from recjax.train import TrainState

MEMBERS = 8


class Pair(NamedTuple):
    left: jax.Array
    right: tuple


def state(seed, members):
    """Every kind of leaf that a population has: odd floats, bools, small ints, typed keys, nothing at all."""
    rng = np.random.default_rng(seed)
    floats = rng.integers(0, 2**32, size=(2, MEMBERS, 5), dtype=np.uint32).view(np.float32)  # any bits, NaN included
    floats[0, 0] = [np.nan, np.inf, -0.0, 1e-45, 3.4e38]
    keys = jax.random.split(jax.random.key(seed), (2, MEMBERS))
    tree = TrainState(
        params={"tables": {"user": floats, "item": rng.normal(size=(2, MEMBERS, 3, 2)).astype(np.float32)}, "net": {}},
        learned=(),
        compression=({"user": rng.random((2, MEMBERS, 4)) < 0.5}, ()),
        optimizer=Pair(
            jnp.asarray(rng.integers(0, 99, (2, MEMBERS)), jnp.int32), (jnp.ones((2, MEMBERS), jnp.bfloat16),)
        ),
        key=keys,
        step=np.int32(seed),
    )
    mesh = jax.make_mesh((members,), ("settings",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:members])
    spec = jax.sharding.PartitionSpec

    def place(leaf):
        axes = spec() if jnp.ndim(leaf) == 0 else spec(None, "settings")
        return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, axes))

    return jax.tree.map(place, tree)


def test_an_empty_folder_has_nothing(tmp_path):
    with checkpoint.open_folder(tmp_path / "new") as manager:
        assert checkpoint.restore(manager, {"x": jnp.zeros(3)}) is None


def test_the_newest_comes_back_bit_for_bit(tmp_path):
    with checkpoint.open_folder(tmp_path) as manager:
        for step in (1, 2, 5):
            checkpoint.save(manager, step, {"trained": state(step, 8), "curves": np.arange(step)})
    with checkpoint.open_folder(tmp_path) as manager:
        step, curves = checkpoint.restore(manager, {"curves": jnp.zeros(5, jnp.int32)})  # one of the items alone
        other_step, other = checkpoint.restore(manager, {"trained": state(0, 2)})  # on fewer devices
        found = checkpoint.restore(manager, {"trained": state(0, 8)})[1]["trained"]
        assert list(curves) == ["curves"]
        np.testing.assert_array_equal(curves["curves"], np.arange(5))
        other = other["trained"]
        assert list(manager.all_steps()) == [5]
    expected = state(5, 8)
    assert step == other_step == 5
    assert isinstance(found, TrainState)
    assert isinstance(found.optimizer, Pair)
    toy.same_bits(found, expected)
    toy.same_bits(other, expected)
    for restored, placed in ((found, expected), (other, state(5, 2))):
        for leaf, like in zip(jax.tree.leaves(restored), jax.tree.leaves(placed), strict=True):
            assert leaf.sharding == like.sharding
    draw = jax.vmap(jax.vmap(jax.random.normal))
    np.testing.assert_array_equal(draw(found.key), draw(expected.key))  # keys that work, not only their data


def test_a_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    """Steps that reuse the buffers run while the checkpoint is being written."""
    step = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf * 1.5 + 1, x), donate_argnums=0)
    values = np.random.default_rng(0).normal(size=(8, 400_000)).astype(np.float32)
    now = {f"leaf {i}": jnp.asarray(row) for i, row in enumerate(values)}
    with checkpoint.open_folder(tmp_path) as manager:
        checkpoint.save(manager, 1, {"now": now})
        for _ in range(20):
            now = jax.block_until_ready(step(now))
    with checkpoint.open_folder(tmp_path) as manager:
        _, found = checkpoint.restore(manager, {"now": now})
    toy.same_bits(found["now"], {f"leaf {i}": row for i, row in enumerate(values)})
