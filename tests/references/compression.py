"""Slow NumPy twins of the quantizer, the masks and the schedule, written from the papers and not from the code.

Everything is float64 (or Python's exact integers and fractions), except where a number format is the definition itself:
a quantizer's scale *is* a float16 and the quotients before its two roundings *are* IEEE float32.
"""

from fractions import Fraction

import numpy as np


def quantize(x, *, bits, axis=None):
    """Integers and float16 scales: s = absmax / (2^(bits-1) - 1), q = clip(round(x / s)). Jacob et al. 2018, section 2.

    Symmetric, restricted range (no -2^(bits-1)), round half to even. One scale for each position of ``axis``, stored
    in float16: held at the largest finite float16, and a scale that rounds to 0 makes its whole group 0.
    """
    x = np.asarray(x, np.float32)
    levels = 2 ** (bits - 1) - 1
    own = () if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    own = {a % x.ndim for a in own}
    scale = np.zeros([x.shape[a] if a in own else 1 for a in range(x.ndim)], np.float16)
    q = np.zeros(x.shape, np.int64)
    for index in np.ndindex(scale.shape):
        group = tuple(slice(i, i + 1) if a in own else slice(None) for a, i in enumerate(index))
        ratio = np.float32(np.abs(x[group]).max()) / np.float32(levels)
        scale[index] = np.float16(min(ratio, np.float32(np.finfo(np.float16).max)))
        if scale[index] > 0:
            with np.errstate(over="ignore"):  # a quotient of inf is clipped like any other
                quotient = x[group] / np.float32(scale[index])
            q[group] = np.clip(np.rint(quotient), -levels, levels)
    return q, scale


def fake_quant(x, *, bits, axis=None):
    """Quantizes and returns the values that the integers stand for. Jacob et al. 2018, equation 12, symmetric."""
    if bits >= 16:
        return np.asarray(x, np.float32)
    q, scale = quantize(x, bits=bits, axis=axis)
    return (q * scale.astype(np.float64)).astype(np.float32)


def pack_bits(values, bits):
    """Writes the integers one after another, least significant bit first, into bytes, least significant bit first."""
    stream = 0
    for position, value in enumerate(int(v) for v in values):
        for bit in range(bits):
            if value >> bit & 1:
                stream |= 1 << (position * bits + bit)
    count = -(-len(values) * bits // 8)
    return np.array([stream >> 8 * byte & 255 for byte in range(count)], np.uint8)


def unpack_bits(words, bits, count):
    """Reads back what :func:`pack_bits` wrote."""
    stream = sum(int(word) << 8 * byte for byte, word in enumerate(words))
    return np.array([stream >> position * bits & (1 << bits) - 1 for position in range(count)], np.uint8)


def kept_count(n, sparsity):
    """max(1, round(n (1 - sparsity))) in exact fractions of the float32 sparsity, half to even, never more than n."""
    return min(n, max(1, round(n * (1 - Fraction(float(np.float32(sparsity)))))))


def mask_smallest(scores, sparsity):
    """True for the largest absolute scores, by a full sort, the lowest index first among equals. Zhu and Gupta 2017."""
    scores = np.asarray(scores)
    magnitude = np.abs(scores.astype(np.float64)).ravel()
    order = sorted(range(magnitude.size), key=lambda i: (-magnitude[i], i))
    mask = np.zeros(magnitude.size, bool)
    mask[order[: kept_count(magnitude.size, sparsity)]] = True
    return mask.reshape(scores.shape)


def cubic_sparsity(step, *, begin, end, final):
    """s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3 with s_i = 0. Zhu and Gupta 2017, equation 1."""
    if step < begin:
        return 0.0
    if step >= end:
        return float(final)
    return final + (0 - final) * (1 - (step - begin) / (end - begin)) ** 3
