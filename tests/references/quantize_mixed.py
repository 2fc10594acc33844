"""Slow NumPy twins of trained widths, written from the paper and not from the code."""

import numpy as np


def mixed_precision(x, shares, steps, offset, bits, learned):
    """sum_b p_b LSQ+_b(x), 0 bits being zeros. ``learned`` is the twin of LSQ+. Li et al. 2024 (MPE)."""
    total = np.zeros(np.shape(x))
    for b, (width, step) in enumerate(zip(bits, steps, strict=True)):
        if width > 0:
            ones = np.ones(np.shape(x))
            total += shares[..., b, None] * learned(x, np.full((1,) * x.ndim, step), offset, ones, bits=width)[0]
    return total


def chosen_bits(shares, bits):
    """The largest width with a share of at least half of an equal one."""
    return np.array([max(b for b, p in zip(bits, row, strict=True) if p >= 1 / (2 * len(bits))) for row in shares])
