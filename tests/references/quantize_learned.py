"""Slow NumPy twins of the learned quantizers, entry by entry in float64, written from the papers and not from the code.

Steps are float16 numbers that the caller has rounded already; the quotients before a rounding are exact here, so random
inputs are compared, on which a float32 quotient rounds alike.
"""

import numpy as np


def step_bounds(bits):
    """Q_n and Q_p of signed data: -2^(b-1) and 2^(b-1) - 1; at 1 bit the two numbers -1 and 1."""
    return (-1, 1) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def learned_step(x, step, cotangent, *, bits):
    """Value and gradients to x and step: Esser et al. 2020, equations 1 to 3 and section 2.2 (scale 1/sqrt(N Q_p)).

    ``step`` has the rank of x, with size 1 on the axes that share a step. At 1 bit the number is the sign of x.
    """
    x, step, cotangent = (np.asarray(a, np.float64) for a in (x, step, cotangent))
    low, high = step_bounds(bits)
    value, to_x, to_step = np.zeros(x.shape), np.zeros(x.shape), np.zeros(step.shape)
    gradient_scale = 1 / np.sqrt(x.size / step.size * high)
    for place in np.ndindex(x.shape):
        own = tuple(0 if n == 1 else i for i, n in zip(place, step.shape, strict=True))
        v = x[place] / step[own]
        number = (1 if v >= 0 else -1) if bits == 1 else np.rint(min(max(v, low), high))
        value[place] = number * step[own]
        if v < low:
            slope = low
        elif v > high:
            slope = high
        else:
            slope = number - v
            to_x[place] = cotangent[place]
        to_step[own] += cotangent[place] * slope * gradient_scale
    return value, to_x, to_step


def learned_step_offset(x, step, offset, cotangent, *, bits):
    """Value and gradients to x, step and offset: Bhalgat et al. 2020, section 3, with LSQ's scale on both."""
    x, step, offset, cotangent = (np.asarray(a, np.float64) for a in (x, step, offset, cotangent))
    value, to_x, to_step = learned_step(x - offset, step, cotangent, bits=bits)
    low, high = step_bounds(bits)
    v = np.broadcast_to((x - offset) / step, x.shape)
    to_offset = np.zeros(offset.shape)
    for place in np.ndindex(x.shape):
        own = tuple(0 if n == 1 else i for i, n in zip(place, offset.shape, strict=True))
        if v[place] < low or v[place] > high:
            to_offset[own] += cotangent[place] / np.sqrt(x.size / step.size * high)
    return value + offset, to_x, to_step, to_offset


def clipped_activation(x, clip, cotangent, *, bits):
    """Value and gradients to x and the clip: Choi et al. 2018, equations 1 to 3; the step is a float16 number."""
    levels = 2**bits - 1
    step = np.float64(np.float16(np.float32(clip) / np.float32(levels)))
    value, to_x, to_clip = np.zeros(x.shape), np.zeros(x.shape), 0.0
    for place in np.ndindex(x.shape):
        y = 0.5 * (abs(x[place]) - abs(x[place] - clip) + clip)
        value[place] = min(np.rint(np.float32(y) / np.float32(step)), levels) * step
        if x[place] >= clip:
            to_clip += cotangent[place]
        elif x[place] >= 0:
            to_x[place] = cotangent[place]
    return value, to_x, to_clip


def dorefa_weights(w, *, bits):
    """2 quantize(tanh w / (2 max |tanh w|) + 1/2) - 1: Zhou et al. 2016, section 2.3; a mean and signs at 1 bit."""
    w = np.asarray(w, np.float64)
    if bits == 1:
        return np.where(w < 0, -1.0, 1.0) * np.abs(w).mean()
    levels = 2**bits - 1
    half = np.tanh(w) / (2 * np.abs(np.tanh(w)).max()) + 0.5
    return 2 * np.rint(levels * half) / levels - 1


def dorefa_gradient(gradient, noise, *, bits):
    """2 max (quantize(g / (2 max) + 1/2 + noise / (2^b - 1)) - 1/2): Zhou et al. 2016, section 2.5."""
    gradient, levels = np.asarray(gradient, np.float64), 2**bits - 1
    found = np.zeros(gradient.shape)
    for sample, (g, n) in enumerate(zip(gradient, noise, strict=True)):
        top = np.abs(g).max()
        if top > 0:
            number = np.clip(np.rint(levels * (g / (2 * top) + 0.5 + n / levels)), 0, levels)
            found[sample] = 2 * top * (number / levels - 0.5)
    return found


def proximal_map(x, levels, rho):
    """The piecewise affine map between neighboring levels, entry by entry: Jin et al. 2025."""
    found = np.zeros(len(x))
    for i, w in enumerate(x):
        below = max([k for k in range(len(levels) - 1) if levels[k] <= w], default=0)
        low, high = levels[below], levels[below + 1]
        middle = (low + high) / 2
        if rho == 0:
            found[i] = high if w > middle else low
        else:
            found[i] = min(max(middle + (w - middle) / rho, low), high)
    return found


def proximal_sharpness(step, *, begin, end, steepness):
    """rho by the mirrored sigmoid, normalized to 1 at the beginning and 0 at the end: Jin et al. 2025."""
    fraction = min(max((step - begin) / (end - begin), 0), 1)

    def sigmoid(f):
        return 1 / (1 + np.exp(steepness * (f - 0.5)))

    return (sigmoid(fraction) - sigmoid(1)) / (sigmoid(0) - sigmoid(1))


def least_squares_levels(x, *, bits):
    """All sums of +-v_1 ... +-v_b, v_i the mean absolute remainder: greedy LSBQ of Pouransari et al. 2020."""
    remainder, sums = np.asarray(x, np.float64).copy(), [0.0]
    for _ in range(bits):
        v = np.abs(remainder).mean()
        remainder = remainder - np.where(remainder < 0, -v, v)
        sums = [s + sign * v for s in sums for sign in (-1, 1)]
    return np.sort(sums)
