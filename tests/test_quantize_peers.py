"""The quantizers beside PyTorch's and qwix's, where they have the same operation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from quantize_cases import gaussian

from recjax.quantize import (
    dequantize,
    fake_quant,
    fake_quant_asymmetric,
    fake_quant_with,
    int_matmul,
    minmax,
    quantize,
    quantize_rows,
    unpack,
)


def with_exact_scales(bound, seed=0):
    """Rows of which the largest absolute value is ``bound`` times a power of two, so that float16 holds the scale."""
    x = gaussian(6, 20, seed=seed)
    x /= np.abs(x).max(1, keepdims=True)
    return x * np.float32(bound) * np.float32(2.0) ** np.arange(-4, 2, dtype=np.float32)[:, None]


def qwix_array(x, bits, method):
    qarray = pytest.importorskip("qwix._src.core.qarray")
    how = qarray.HowToQuantize(qtype=f"int{bits}", channelwise_axes=(0,), calibration_method=method)
    q = qarray.quantize(jnp.asarray(x), how)
    return q, np.asarray(qarray.dequantize(q))


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_qwix_symmetric(bits):
    x = with_exact_scales(2 ** (bits - 1) - 0.5)
    peer, values = qwix_array(x, bits, "absmax")
    ours = jax.jit(partial(quantize, bits=bits, axis=0, full_range=True))(x)
    np.testing.assert_array_equal(ours.scale.astype(jnp.float32), peer.scale)
    np.testing.assert_array_equal(jax.jit(unpack)(ours), peer.qvalue.astype(jnp.int8))
    fake = jax.jit(partial(fake_quant, bits=bits, axis=0, full_range=True))
    np.testing.assert_array_equal(fake(x), values)


@pytest.mark.parametrize("bits", [8, 4])
def test_qwix_asymmetric(bits):
    scale = np.float32(2.0) ** np.arange(-4, 2, dtype=np.float32)[:, None]  # exact in float16
    steps, below = 2**bits - 1, np.arange(6, dtype=np.float32)[:, None]
    x = np.random.default_rng(0).uniform(-below, steps - below, (6, 20)).astype(np.float32)
    x[:, :2] = np.concatenate([-below, steps - below], axis=1)
    _, values = qwix_array(x * scale, bits, "minmax")
    fake = jax.jit(lambda x: fake_quant_asymmetric(x, *minmax(x, axis=0), bits=bits))
    np.testing.assert_array_equal(fake(x * scale), values)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_torch_with_a_given_scale(bits):
    torch = pytest.importorskip("torch")
    x, scale = gaussian(5, 40), np.float32(2.0) ** np.arange(-5, 0, dtype=np.float32)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    peer = torch.tensor(x, requires_grad=True)
    values = torch.fake_quantize_per_channel_affine(
        peer, torch.tensor(scale), torch.zeros(5, dtype=torch.int32), 0, low, high
    )
    weights = gaussian(5, 40, seed=1)
    (values * torch.tensor(weights)).sum().backward()
    fake = jax.jit(lambda x: fake_quant_with(x, scale[:, None], bits=bits, full_range=True))
    np.testing.assert_array_equal(fake(x), values.detach())
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(weights * fake(x))))(x)
    quotient = x / scale[:, None]
    clear = (quotient >= low) & (quotient <= high) | (np.round(quotient) < low) | (np.round(quotient) > high)
    np.testing.assert_array_equal(gradient[clear], peer.grad[clear])  # torch passes half a step more
    assert clear.mean() > 0.8


@pytest.mark.parametrize("bits", [8, 4])
def test_torch_with_a_zero_point(bits):
    torch = pytest.importorskip("torch")
    x = gaussian(400)
    scale, zero, steps = 2.0**-4, 2 ** (bits - 2), 2**bits - 1
    values = torch.fake_quantize_per_tensor_affine(torch.tensor(x), scale, zero, 0, steps)
    ours = jax.jit(fake_quant_asymmetric)(x, -zero * scale, (steps - zero) * scale, bits=bits)
    np.testing.assert_array_equal(ours, values)


@pytest.mark.parametrize("bits", [4, 2])
def test_the_row_layout_of_torch(bits):
    torch = pytest.importorskip("torch")
    x = gaussian(300, 16) * np.float32(10) ** np.linspace(-3, 3, 300, dtype=np.float32)[:, None]
    operations = torch.ops.quantized
    pack, unpacked = {
        4: (operations.embedding_bag_4bit_prepack, operations.embedding_bag_4bit_unpack),
        2: (operations.embedding_bag_2bit_prepack, operations.embedding_bag_2bit_unpack),
    }[bits]
    peer = pack(torch.tensor(x))
    ours = jax.jit(partial(quantize_rows, bits=bits))(x)
    tail = np.concatenate([ours.scale, ours.bias], axis=1).view(np.uint8)
    stored = np.concatenate([ours.words, tail], axis=1)
    assert stored.shape == tuple(peer.shape)
    assert stored.nbytes == ours.nbytes
    np.testing.assert_array_equal(tail, peer[:, -4:])
    assert (stored == peer.numpy()).mean() > 0.999  # torch multiplies by a reciprocal, which decides a tie or two
    step = np.asarray(ours.scale, np.float32)
    assert (np.abs(jax.jit(dequantize)(ours) - unpacked(peer).numpy()) <= step * 1.001).all()
    np.testing.assert_array_equal(stored[0], references.row_bytes(x[0], bits=bits))


def test_rows_of_a_byte_beside_torch():
    torch = pytest.importorskip("torch")
    x = gaussian(50, 16)
    peer = torch.ops.quantized.embedding_bag_byte_unpack(
        torch.ops.quantized.embedding_bag_byte_prepack(torch.tensor(x))
    )
    step = (x.max(1) - x.min(1))[:, None] / 255  # torch's scale and bias are float32
    assert (np.abs(jax.jit(lambda x: dequantize(quantize_rows(x, bits=8)))(x) - peer.numpy()) <= 1.5 * step).all()


def test_qwix_product_of_whole_numbers():
    dot_general = pytest.importorskip("qwix._src.core.dot_general")
    qarray = pytest.importorskip("qwix._src.core.qarray")
    x, w = with_exact_scales(127.5), with_exact_scales(127.5, seed=1).T
    x = np.where(np.abs(x) == np.abs(x).max(1, keepdims=True), np.abs(x), x)  # 127, not -128, which ours don't have
    sides = [
        qarray.quantize(jnp.asarray(a), qarray.HowToQuantize(qtype="int8", channelwise_axes=(axis,)))
        for a, axis in ((x, 0), (w, 1))
    ]
    peer = dot_general.dot_general(*sides, (((1,), (0,)), ((), ())))
    scale = np.abs(x).max(1, keepdims=True) / np.float32(127.5)
    weights = jax.jit(partial(quantize, bits=8, axis=1, full_range=True))(w)
    np.testing.assert_allclose(jax.jit(int_matmul)(x, weights, scale=scale), peer, rtol=1e-6)
