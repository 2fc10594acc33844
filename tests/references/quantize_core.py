"""Slow NumPy twins of the quantizers of 1 to 16 bits: symmetric in groups, asymmetric, rows with scale and bias.

From the papers and not from the code. Values are float64; a scale *is* a float16, and the quotient that is rounded to
it, as the one before rounding to whole numbers, *is* an IEEE float32.
"""

import math

import numpy as np

from .compression import pack_bits


def _float16(x):
    largest = float(np.finfo(np.float16).max)
    return np.float16(min(max(np.float32(x), np.float32(-largest)), np.float32(largest)))


def sharing(shape, *, axis=None, group_size=None, granularity=0):
    """The entries that share a scale, as lists of indices. METHODS: per tensor, channel, row, group."""
    own = () if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    own = [a % len(shape) for a in own]
    together = {}
    for index in np.ndindex(*shape):
        rows = tuple(index[a] for a in own)
        group = index[-1] // group_size if group_size else 0
        name = {0: (rows, group), 1: rows, 2: ()}[granularity]
        if not group_size and granularity == 1 and len(shape) - 1 in own:  # pooled over the last axis
            name = tuple(index[a] for a in own if a != len(shape) - 1)
        together.setdefault(name, []).append(index)
    return list(together.values())


def entry_scales(x, *, bits, full_range=False, **layout):
    """A scale for each entry: absmax / Qp, absmax / (Qp + 0.5), or at 1 bit the mean of |x| (XNOR-Net, section 3.1)."""
    x = np.asarray(x, np.float32)
    scale = np.zeros(x.shape, np.float16)
    top = 2 ** (bits - 1) - 1
    for entries in sharing(x.shape, **layout):
        values = [abs(float(x[i])) for i in entries]
        if bits == 1:
            found = math.fsum(values) / len(values)
        else:
            found = np.float32(max(values)) / np.float32(top + 0.5 if full_range else top)
        for i in entries:
            scale[i] = _float16(found)
    return scale


def whole_numbers(x, scale, *, bits, full_range=False):
    """clip(round(x / s), Qn or -Qp, Qp), half to even; the sign at 1 bit, that of 0 being positive; 0 if s is 0."""
    top = 2 ** (bits - 1) - 1
    q = np.zeros(np.shape(x), np.int64)
    for i in np.ndindex(*q.shape):
        if scale[i] == 0:
            continue
        if bits == 1:
            q[i] = -1 if x[i] < 0 else 1
        else:
            with np.errstate(over="ignore"):
                quotient = np.float32(x[i]) / np.float32(scale[i])
            q[i] = int(np.clip(np.rint(quotient), -top - full_range, top))
    return q


def fake_quant_with(x, scale, *, bits, full_range=False):
    """The values q s with a scale for each entry, in float16 as stored."""
    if bits >= 16:
        return np.asarray(x, np.float32)
    scale = np.broadcast_to(np.vectorize(_float16)(scale), np.shape(x))
    q = whole_numbers(np.asarray(x, np.float32), scale, bits=bits, full_range=full_range)
    return (q * scale.astype(np.float64)).astype(np.float32)


def fake_quant_grouped(x, *, bits, full_range=False, **layout):
    """The values q s."""
    return fake_quant_with(
        x, entry_scales(x, bits=bits, full_range=full_range, **layout), bits=bits, full_range=full_range
    )


def quantize_row(row, *, bits, low=None, high=None):
    """Whole numbers, scale and bias of one row: s = (max - bias) / (2^b - 1), bias = min. fbgemm's row layout."""
    row = np.asarray(row, np.float32)
    low, high = np.float32(row.min() if low is None else low), np.float32(row.max() if high is None else high)
    bias, steps = _float16(low), 2**bits - 1
    with np.errstate(over="ignore"):
        scale = _float16(max(np.float32(high - np.float32(bias)), np.float32(0)) / np.float32(steps))
        if scale == 0:
            return np.zeros(len(row), np.int64), scale, bias
        return np.clip(np.rint((row - np.float32(bias)) / np.float32(scale)), 0, steps).astype(np.int64), scale, bias


def fake_quant_row(row, **knobs):
    """The values q s + bias of one row."""
    q, scale, bias = quantize_row(row, **knobs)
    return (q * float(scale) + float(bias)).astype(np.float32)


def row_bytes(row, *, bits):
    """A row as fbgemm stores it: packed whole numbers, then scale and bias in float16."""
    q, scale, bias = quantize_row(row, bits=bits)
    return np.concatenate([pack_bits(q.astype(np.uint8), bits), np.array([scale, bias]).view(np.uint8)])


def fake_quant_asymmetric(x, low, high, *, bits):
    """Jacob et al. 2018, equations 1 and 12, with a range that holds 0 and a whole-number zero point."""
    if bits >= 16:
        return np.asarray(x, np.float32)
    x = np.asarray(x, np.float32)
    low, high = (np.broadcast_to(np.asarray(end, np.float32), x.shape) for end in (low, high))
    y, steps = np.zeros(x.shape, np.float32), 2**bits - 1
    for i in np.ndindex(*x.shape):
        least, most = min(low[i], np.float32(0)), max(high[i], np.float32(0))
        with np.errstate(over="ignore"):
            scale = np.float32(_float16((most - least) / np.float32(steps)))
            if scale == 0:
                continue
            zero = np.clip(np.rint(-least / scale), 0, steps)
            y[i] = float(scale) * float(np.clip(np.rint(x[i] / scale) + zero, 0, steps) - zero)
    return y
