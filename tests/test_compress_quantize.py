"""Transforms of kernels and learned steps: what a model reads, what trains, what is packed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references

from recjax import compress, embed, quantize

KERNELS = ("net/hidden_0/kernel", "net/output/kernel")
BITS = [1, 2, 4, 8]


def bits(hparams):
    return hparams["bits"]


NET = compress.chain(
    compress.kernel_quantization(KERNELS[:1], bits=bits), compress.kernel_learned_steps(KERNELS[1:], bits=bits)
)
TABLES = compress.chain(
    compress.learned_steps(["user"], bits=bits), compress.learned_steps(["item"], bits=bits, each_row=True)
)


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "tables": {"user": (7, 6), "item": (9, 6), "bias": (9, 1)},
        "net": {"hidden_0": {"kernel": (6, 8), "bias": (8,)}, "output": {"kernel": (8, 3), "bias": (3,)}},
    }
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
    return jax.tree.map(lambda shape: rng.normal(size=shape).astype(np.float32), shapes, is_leaf=is_shape)


@jax.jit
def net_read(params, learned, hparams):
    return NET.apply(params, learned, ((), ()), hparams)["net"]


@jax.jit
def tables_read(params, learned, hparams, ids):
    tables = TABLES.apply(params, learned, ((), ()), hparams)["tables"]
    return {name: (embed.lookup(table), embed.lookup(table, ids)) for name, table in tables.items()}


@pytest.mark.parametrize("width", BITS)
def test_what_a_net_reads_is_what_is_packed(width):
    params, hparams = parameters(), {"bits": float(width)}
    learned, state = NET.init(jax.random.key(0), params, hparams)
    assert state == ((), ())
    assert NET.update(params, learned, state, None, jnp.array(0), hparams) == ((), ())
    step = learned[1]["net/output/kernel"]
    assert step.shape == (1, 3)
    found = net_read(params, learned, hparams)
    kernel, output = params["net"]["hidden_0"]["kernel"], params["net"]["output"]["kernel"]
    packed = quantize.quantize(kernel, bits=width, axis=-1)
    np.testing.assert_array_equal(found["hidden_0"]["kernel"], quantize.dequantize(packed))
    packed = quantize.quantize_with(output, quantize.usable_step(step), bits=width, full_range=True)
    np.testing.assert_array_equal(found["output"]["kernel"], quantize.dequantize(packed))
    twin = references.learned_step(output, np.float16(step).astype(np.float32), np.ones((8, 3)), bits=width)[0]
    np.testing.assert_allclose(found["output"]["kernel"], twin, rtol=1e-6)
    for layer in ("hidden_0", "output"):
        np.testing.assert_array_equal(found[layer]["bias"], params["net"][layer]["bias"])
    same = net_read(params, learned, {"bits": 16.0})
    jax.tree.map(np.testing.assert_array_equal, same, params["net"])


@pytest.mark.parametrize("width", BITS)
def test_what_a_batch_reads_is_what_is_packed(width):
    params, hparams = parameters(), {"bits": float(width)}
    learned, _ = TABLES.init(jax.random.key(0), params, hparams)
    steps = {"user": learned[0]["user"], "item": learned[1]["item"]}
    assert {name: step.shape for name, step in steps.items()} == {"user": (1, 1), "item": (9, 1)}
    ids = np.array([[3, 0], [3, 6]])
    found = tables_read(params, learned, hparams, ids)
    for name, step in steps.items():
        packed = quantize.quantize_with(params["tables"][name], quantize.usable_step(step), bits=width, full_range=True)
        whole = np.asarray(quantize.dequantize(packed))
        np.testing.assert_array_equal(found[name][0], whole)
        np.testing.assert_array_equal(found[name][1], whole[ids])
    np.testing.assert_array_equal(found["bias"][0], params["tables"]["bias"])
    outside = tables_read(params, learned, hparams, np.array([[-1, 9], [7, 8]]))
    assert np.isnan(outside["item"][1][0]).all()
    assert np.isnan(outside["user"][1]).all()


def test_gradients_reach_the_touched_rows_and_their_steps_alone():
    params, hparams, ids = parameters(), {"bits": 2.0}, np.array([3, 0, 3])
    learned, state = TABLES.init(jax.random.key(0), params, hparams)
    weights = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)

    @jax.jit
    @jax.grad
    def slopes(trained):
        tables = TABLES.apply({**params, "tables": trained[0]}, trained[1], state, hparams)["tables"]
        return sum(jnp.sum(weights * embed.lookup(tables[name], ids)) for name in ("user", "item"))

    tables, (user, item) = slopes((params["tables"], learned))
    for name, own, shape in (("user", user["user"], (1, 1)), ("item", item["item"], (3, 1))):
        table = params["tables"][name]
        step = np.float16(learned[name == "item"][name]).astype(np.float32)
        step = step[ids] if name == "item" else step
        _, to_rows, to_step = references.learned_step(table[ids], np.reshape(step, shape), weights, bits=2)
        twin = np.zeros(table.shape)
        np.add.at(twin, ids, to_rows)
        np.testing.assert_allclose(tables[name], twin, rtol=1e-5, atol=1e-6)
        expected = np.zeros(own.shape)
        np.add.at(expected, ids if name == "item" else np.zeros(1, int), to_step)
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-5)


def test_a_view_of_the_touched_rows_reads_the_same():
    params, hparams, ids = parameters(), {"bits": 3.0}, jnp.array([3, 0, 3])
    learned, state = TABLES.init(jax.random.key(0), params, hparams)
    tables = TABLES.apply(params, learned, state, hparams)["tables"]
    for name in ("user", "item"):
        assert tables[name].shape == params["tables"][name].shape
        assert tables[name].nbytes == params["tables"][name].nbytes + tables[name].step.nbytes + 4
        few = embed.view(tables[name], embed.touched(tables[name], ids))
        np.testing.assert_array_equal(embed.lookup(few, ids), embed.lookup(tables[name], ids))
        assert np.isnan(embed.lookup(few, jnp.array([1]))).all()


def test_steps_train_to_less_error_than_they_start_with():
    params, hparams = parameters(), {"bits": 2.0}
    learned, state = TABLES.init(jax.random.key(0), params, hparams)
    optimizer = optax.adam(0.02)

    def error(learned):
        tables = TABLES.apply(params, learned, state, hparams)["tables"]
        return sum(jnp.mean((embed.lookup(tables[n]) - params["tables"][n]) ** 2) for n in ("user", "item"))

    @jax.jit
    def train(learned):
        def step(carry, _):
            value, slope = jax.value_and_grad(error)(carry[0])
            change, moments = optimizer.update(slope, carry[1])
            return (optax.apply_updates(carry[0], change), moments), value

        return jax.lax.scan(step, (learned, optimizer.init(learned)), length=200)

    (trained, _), errors = train(learned)
    assert error(trained) < 0.8 * errors[0]


def test_a_grid_of_bits_is_one_trace_and_equals_the_loop():
    params, traces = parameters(), 0

    def member(width):
        nonlocal traces
        traces += 1
        own, _ = NET.init(jax.random.key(0), params, {"bits": width})
        return own, NET.apply(params, own, ((), ()), {"bits": width})["net"]

    grid = jax.jit(jax.vmap(member))
    for widths in ([2.0, 4.0], [8.0, 16.0]):
        owns, found = grid(np.array(widths, np.float32))
        for i, width in enumerate(widths):
            own = jax.tree.map(lambda leaf, i=i: leaf[i], owns)
            expected = net_read(params, own, {"bits": width})
            jax.tree.map(lambda ours, twin, i=i: np.testing.assert_array_equal(ours[i], twin), found, expected)
    assert traces == 1
