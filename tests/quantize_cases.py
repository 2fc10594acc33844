"""Arrays to quantize and how to compare them to the last bit: for the files test_quantize*.py."""

import numpy as np


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype == np.float32
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))  # tells -0.0 from 0.0
