"""Asymmetric ranges and rows with scale and bias against their NumPy twins (references), and rows read by gather."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantize_cases import gaussian, same_bits

from recjax import embed
from recjax.quantize import (
    QTensor,
    RowQuantized,
    dequantize,
    fake_quant_asymmetric,
    fake_quant_rows,
    gather,
    minmax,
    quantize,
    quantize_rows,
    unpack,
)

QUICK = settings(max_examples=25, deadline=None, derandomize=True)
BITS = [1, 2, 3, 4, 8]
ROWS = jax.jit(fake_quant_rows)
ASYMMETRIC = jax.jit(fake_quant_asymmetric)


@partial(jax.jit, static_argnames="bits")
def through(x, **knobs):
    return dequantize(quantize_rows(x, **knobs))


def shifted(*shape):
    x = gaussian(*shape) * np.float32(10.0) ** np.linspace(-3, 3, shape[0], dtype=np.float32)[:, None]
    return x + np.linspace(-3, 30, shape[0], dtype=np.float32)[:, None]


def twin_rows(x, bits, low=None, high=None):
    ends = [[None] * len(x) if end is None else np.ravel(end) for end in (low, high)]
    return np.stack([references.fake_quant_row(r, bits=bits, low=a, high=b) for r, a, b in zip(x, *ends, strict=True)])


@pytest.mark.parametrize("bits", BITS)
def test_rows_are_what_is_stored(bits):
    x = shifted(6, 10)
    x[1], x[2], x[3] = 0, -0.1, -x[3]  # zeros, a constant that float16 misses, all negative
    ours = ROWS(x, bits=bits)
    same_bits(ours, through(x, bits=bits))
    np.testing.assert_array_equal(ours, twin_rows(x, bits))
    same_bits(fake_quant_rows(jnp.asarray(x), bits=bits), ours)
    stored = quantize_rows(jnp.asarray(x), bits=bits)
    same_bits(dequantize(stored), ours)
    integers = unpack(stored)
    assert integers.dtype == jnp.uint8
    for i, row in enumerate(x):
        q, scale, bias = references.quantize_row(row, bits=bits)
        np.testing.assert_array_equal(integers[i], q)
        assert (stored.scale[i, 0], stored.bias[i, 0]) == (scale, bias)
        tail = np.stack([stored.scale[i], stored.bias[i]]).view(np.uint8).ravel()
        np.testing.assert_array_equal(np.concatenate([stored.words[i], tail]), references.row_bytes(row, bits=bits))
    assert stored.nbytes == 6 * (-(-10 * bits // 8) + 4)
    leaves = jax.tree.leaves(stored)
    assert [(leaf.dtype, leaf.shape[-1]) for leaf in leaves[1:]] == [(jnp.float16, 1)] * 2


@QUICK
@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_any_finite_rows(x):
    for bits in (1, 2, 8):
        ours = ROWS(x, bits=bits)
        same_bits(ours, through(x, bits=bits))
        np.testing.assert_array_equal(ours, twin_rows(x, bits))


def test_rows_of_one_entry_and_of_more_axes():
    single = np.float32([[0.1], [-7.0], [0.0]])
    np.testing.assert_array_equal(ROWS(single, bits=4), twin_rows(single, 4))
    np.testing.assert_allclose(ROWS(single, bits=4), single, rtol=2.0**-18)  # the scale adds what the bias misses
    x = shifted(6, 10)
    same_bits(ROWS(x.reshape(2, 3, 10), bits=3), ROWS(x, bits=3).reshape(2, 3, 10))
    same_bits(ROWS(x[0], bits=3), ROWS(x, bits=3)[0])
    same_bits(through(x.reshape(2, 3, 10), bits=3), ROWS(x, bits=3).reshape(2, 3, 10))


@pytest.mark.parametrize("bits", [2, 8])
def test_rows_between_given_ends(bits):
    x = gaussian(4, 20)
    low, high = np.float32([[-1], [-0.3], [0.1], [-9]]), np.float32([[1], [0.2], [0.7], [9]])
    weights = gaussian(4, 20, seed=1)
    gradient = jax.jit(jax.grad(lambda x, b: jnp.sum(weights * fake_quant_rows(x, bits=b, low=low, high=high))))
    np.testing.assert_array_equal(gradient(x, bits), np.where((x >= low) & (x <= high), weights, 0))
    np.testing.assert_array_equal(gradient(x, 16), weights)
    ours = ROWS(x, bits=bits, low=low, high=high)
    np.testing.assert_array_equal(ours, twin_rows(x, bits, low, high))
    same_bits(ours, through(x, bits=bits, low=low, high=high))
    same_bits(ROWS(x, bits=bits, low=-1.0), ROWS(x, bits=bits, low=np.full((4, 1), -1, np.float32)))
    everywhere = jax.jit(jax.grad(lambda x: jnp.sum(weights * fake_quant_rows(x, bits=bits))))
    np.testing.assert_array_equal(everywhere(x), weights)


@pytest.mark.parametrize("low", [None, -1.0])
def test_nan_and_infinity_in_rows(low):
    x = gaussian(4, 6)
    x[0, 2], x[1, 3], x[2, 4] = np.nan, np.inf, -np.inf
    for bits in (2, 8):
        ours = ROWS(x, bits=bits, low=low)
        np.testing.assert_array_equal(ours, through(x, bits=bits, low=low))
        assert np.isnan(ours[0]).all()
        assert np.isfinite(ours[1:]).all()
        np.testing.assert_array_equal(ours[3], twin_rows(x[3:], bits, low if low is None else [low])[0])


@pytest.mark.parametrize(
    ("dim", "bits", "expected"),  # measured once for least to largest of Gaussian rows, scale and bias in float16
    [(10, 8, 0.0032), (10, 4, 0.0547), (10, 2, 0.274), (16, 4, 0.0651), (64, 4, 0.0897), (64, 2, 0.449)],
)
def test_error_of_gaussian_rows(dim, bits, expected):
    x = gaussian(20_000, dim)
    error = np.linalg.norm(ROWS(x, bits=bits) - x) / np.linalg.norm(x)
    assert error == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("axis", [None, 0])
def test_asymmetric_is_its_twin_and_holds_zero(axis):
    x = shifted(6, 10)
    x[1], x[2], x[:, 3] = 0, np.abs(x[2]), 0
    low, high = minmax(x, axis=axis)
    assert low.shape == high.shape == ((6, 1) if axis == 0 else (1, 1))
    for bits in (*BITS, 15):
        ours = ASYMMETRIC(x, low, high, bits=bits)
        np.testing.assert_array_equal(ours, references.fake_quant_asymmetric(x, low, high, bits=bits))
        same_bits(ours[:, 3], np.zeros(6, np.float32))
        same_bits(fake_quant_asymmetric(jnp.asarray(x), low, high, bits=bits), ours)
    same_bits(ASYMMETRIC(x, low, high, bits=16), x)
    relu = np.maximum(gaussian(500), 0)
    error = np.abs(ASYMMETRIC(relu, 0.0, relu.max(), bits=4) - relu).max()
    assert error <= relu.max() / 15 / 2 * 1.002  # all sixteen levels are above zero


@QUICK
@given(
    hnp.arrays(np.float32, (3, 5), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.floats(0, 2.0**100, width=32),
)
def test_any_asymmetric_range(x, low, span):
    high = np.float32(low + span)
    ours = ASYMMETRIC(x, low, high, bits=3)
    np.testing.assert_array_equal(ours, references.fake_quant_asymmetric(x, low, high, bits=3))


@pytest.mark.parametrize(("low", "high"), [(-1.0, 0.5), (0.25, 1.0), (-1.0, -0.5), (0.0, 0.0)])
def test_asymmetric_gradient_is_that_of_the_clip(low, high):
    x, weights = np.linspace(-2, 2, 33, dtype=np.float32), gaussian(33)
    loss = lambda x, low, high, b: jnp.sum(weights * fake_quant_asymmetric(x, low, high, bits=b))  # noqa: E731
    to_x, to_low, to_high = jax.jit(jax.grad(loss, (0, 1, 2)))(x, low, high, 4)
    np.testing.assert_array_equal(to_x, np.where((x >= min(low, 0)) & (x <= max(high, 0)), weights, 0))
    assert to_low == to_high == 0
    dynamic = jax.grad(lambda x: jnp.sum(weights * fake_quant_asymmetric(x, *minmax(x), bits=2)))
    np.testing.assert_array_equal(dynamic(jnp.asarray(x)), weights)


def test_nan_and_infinity_of_a_range():
    x = jnp.array([[1.0, jnp.nan, -2.0], [jnp.inf, 0.5, -jnp.inf]])
    ours = ASYMMETRIC(x, -1.0, 1.0, bits=8)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(x))
    np.testing.assert_allclose(ours[1, [0, 2]], [1, -1], atol=0.005)
    assert np.isnan(ASYMMETRIC(x, *minmax(x, axis=0), bits=8)[0]).all()
    assert np.isnan(ASYMMETRIC(x, jnp.nan, 1.0, bits=8)).all()


def test_minmax_finds_nan_in_a_large_array():
    x = gaussian(3, 100_000)
    for bad, row in ((np.float32(np.nan), 0), (-np.float32(np.nan), 1)):
        x[row, 77_777] = bad
    for found, twin in zip(minmax(x, axis=0), (x.min(1), x.max(1)), strict=True):
        np.testing.assert_array_equal(found[:, 0], twin)
    np.testing.assert_array_equal(minmax(jnp.array([-3.0, -1.5]))[1], [-1.5])
    np.testing.assert_array_equal(minmax(jnp.array([-jnp.inf, jnp.inf, 0])), [[-np.inf], [np.inf]])
    np.testing.assert_array_equal(minmax(jnp.zeros((2, 0)), axis=0), np.zeros((2, 2, 1)))  # of no entries


def test_a_key_rounds_rows_at_random_and_packs_the_same():
    x, key = shifted(3, 10), jax.random.key(1)
    ours = ROWS(x, bits=4, key=key)
    same_bits(ours, through(x, bits=4, key=key))
    step = (x.max(1) - x.min(1))[:, None] / 15
    bias = np.abs(x).max(1)[:, None] * 2.0**-10  # of the float16 bias and scale
    draws = jax.jit(jax.vmap(lambda key: fake_quant_rows(x, bits=4, key=key)))(jax.random.split(key, 2000))
    draws = np.asarray(draws)
    assert (np.abs(draws - x) <= step + 2 * bias).all()
    assert (np.abs(np.mean(draws, 0) - x) <= 4.5 * step / 2 / np.sqrt(2000) + 2 * bias).all()
    signed = gaussian(5)
    draws = jax.vmap(lambda key: fake_quant_asymmetric(signed, -3.0, 3.0, bits=2, key=key))(jax.random.split(key, 4000))
    np.testing.assert_allclose(np.mean(draws, 0), np.clip(signed, -4, 2), atol=4.5 * 1 / np.sqrt(4000))


def test_bits_are_traced_and_compile_once():
    x, traces = shifted(4, 10), 0

    def counted(x, bits):
        nonlocal traces
        traces += 1
        return fake_quant_rows(x, bits=bits), fake_quant_asymmetric(x, *minmax(x, axis=0), bits=bits)

    grid, one = jax.jit(jax.vmap(counted, (None, 0))), jax.jit(counted)
    rows, asymmetric = grid(x, np.arange(1, 17))
    grid(x, np.arange(16, 0, -1))
    assert traces == 1
    for b in (1, 2, 8, 13, 16):  # up to 13 bits, and the identity, to the last bit
        same_bits(one(x, b)[0], rows[b - 1])
        same_bits(one(x, b)[1], asymmetric[b - 1])
    assert traces == 2


TABLE = np.round(gaussian(9, 11), 2)
RECORDS = {
    **{f"one scale, {bits} bits": (TABLE, partial(quantize, bits=bits)) for bits in BITS},
    **{f"rows, {bits} bits": (TABLE, partial(quantize, bits=bits, axis=0)) for bits in (1, 3)},
    "columns": (TABLE, partial(quantize, bits=4, axis=1)),
    "groups in rows": (TABLE, partial(quantize, bits=4, axis=0, group_size=4)),
    "groups across rows": (TABLE, partial(quantize, bits=2, group_size=4)),
    "scale and bias": (TABLE, partial(quantize_rows, bits=2)),
    "rows of matrices": (gaussian(9, 3, 5), partial(quantize, bits=3, axis=0)),
    "one row": (TABLE[:1], partial(quantize, bits=4, axis=0)),
}


@pytest.mark.parametrize("name", RECORDS)
def test_gather_is_the_rows_of_the_whole(name):
    table, pack = RECORDS[name]
    q = jax.jit(pack)(table)
    rows, whole = q.shape[0], np.asarray(jax.jit(dequantize)(q))
    ids = np.array([[rows - 1, 0, rows // 2], [-1, rows, 2**31 - 1]], np.int32)
    found = jax.jit(gather)(q, ids)
    assert (found.dtype, found.shape) == (jnp.float32, (2, 3, *q.shape[1:]))
    same_bits(found[0], whole[ids[0]])
    assert np.isnan(found[1]).all()
    read = jax.jit(lambda q, ids: (embed.lookup(q, ids), embed.lookup(q)))(q, ids)
    same_bits(read[0], found)
    same_bits(read[1], whole)


def test_gather_never_unpacks_the_table():
    packs = (partial(quantize, bits=4, axis=0), partial(quantize_rows, bits=4), partial(quantize, bits=1))
    for q in (jax.eval_shape(pack, jnp.ones((1000, 16))) for pack in packs):
        jaxpr = jax.make_jaxpr(gather)(q, jnp.zeros(3, int))
        held = {a.aval.shape for eqn in jaxpr.eqns for a in eqn.outvars}
        assert all(np.prod(shape) <= 3 * 16 for shape in held), held


def test_gather_of_what_comes_from_a_file_and_under_vmap():
    q = jax.jit(partial(quantize, bits=3, axis=0))(TABLE)
    ids = np.array([3, 1])
    filed = jax.tree.map(np.asarray, q)
    same_bits(gather(filed, ids), dequantize(q)[ids])
    assert isinstance(filed, QTensor)
    members = jax.jit(jax.vmap(lambda x: quantize_rows(x, bits=3)))(np.stack([TABLE, TABLE + 1]))
    assert isinstance(members, RowQuantized)
    found = jax.jit(jax.vmap(gather, (0, None)))(members, ids)
    same_bits(found[1], through(TABLE + 1, bits=3)[ids])


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda x: minmax(x, axis=2), ValueError),
        (lambda x: minmax(x.astype(int)), TypeError),
        (lambda x: fake_quant_rows(x[0, 0], bits=4), ValueError),
        (lambda x: fake_quant_rows(x.astype(int), bits=4), TypeError),
        (lambda x: fake_quant_rows(x, bits=4, low=jnp.zeros(2)), ValueError),
        (lambda x: quantize_rows(x, bits=5), ValueError),
        (lambda x: quantize_rows(x, bits=4, high=jnp.zeros((1, 1))), ValueError),
        (lambda x: quantize_rows(x[0, 0], bits=4), ValueError),
        (lambda x: fake_quant_asymmetric(x.astype(int), 0.0, 1.0, bits=4), TypeError),
        (lambda x: gather(quantize(x, bits=4), jnp.zeros(2)), TypeError),
        (lambda x: gather(quantize(x[0], bits=4), jnp.zeros(2, int)), ValueError),
    ],
)
def test_what_does_not_fit_raises(call, error):
    with pytest.raises(error, match="expected"):
        jax.eval_shape(call, jnp.ones((2, 3)))
