"""Slow NumPy twins of the calibrators and of post-training quantization, from the papers and not from the code."""

import numpy as np


def round_with(x, scale, *, low, high):
    """clip(round(x / scale)) scale; a scale of 0 makes zeros. Float32 quotients, as they are defined."""
    x, scale = np.broadcast_arrays(np.asarray(x, np.float32), np.asarray(scale, np.float32))
    quotient = np.divide(x, scale, out=np.zeros(x.shape, np.float32), where=scale > 0)
    return np.clip(np.rint(quotient), low, high).astype(np.float64) * scale


def squared_error_scale(x, *, bits, factors):
    """The first float16 scale of least squared error among the factors of absmax / (2^(b-1) - 1), by brute force."""
    levels = 2 ** (bits - 1) - 1
    top = np.float32(np.float16(np.float32(np.abs(x).max()) / np.float32(levels)))
    scales = [np.float32(np.float16(np.float32(f) * top)) for f in factors]
    errors = [np.sum((x - round_with(x, s, low=-levels, high=levels)) ** 2) for s in scales]
    return scales[int(np.argmin(errors))], np.array(errors)


def histogram_divergences(x, *, bits, bins, cuts):
    """KL(P || Q) of each cut: P is the histogram of |x| up to the cut with the rest on its last bin, Q the same bins
    without the rest, merged to 2^(b-1) levels and spread over the bins where P is not empty; the first bin counts as
    the second. Migacz 2017.
    """
    counts, _ = np.histogram(np.abs(x).astype(np.float64), bins=bins, range=(0, np.abs(x).max()))
    counts[0] = counts[1]
    levels, found = 2 ** (bits - 1), []
    for cut in cuts:
        p = counts[:cut].astype(np.float64)
        p[-1] += counts[cut:].sum()
        q = np.zeros(cut)
        level_of = [j * levels // cut if cut > levels else j for j in range(cut)]
        for level in set(level_of):
            members = [j for j in range(cut) if level_of[j] == level]
            filled = [j for j in members if p[j] > 0]
            for j in filled:
                q[j] = sum(counts[m] for m in members) / len(filled)
        if q.sum() == 0:
            found.append(np.inf)
            continue
        p, q = p / p.sum(), q / q.sum()
        found.append(sum(a * np.log(a / b) if b > 0 else np.inf for a, b in zip(p, q, strict=True) if a > 0))
    return np.array(found)


def greedy_clip_range(row, *, bits, bins, narrowest):
    """Greedy shrinking of the ends of one row, one of ``bins`` at a time. Guan et al. 2019, algorithm 1.

    Ends are stored as a float16 bias and scale.
    """
    row = np.asarray(row, np.float32)
    levels, low, high = 2**bits - 1, row.min(), row.max()
    width = np.float32(high - low) / np.float32(bins)

    def ends(i, j):
        return np.float32(low + np.float32(i) * width), np.float32(high - np.float32(j) * width)

    def error(i, j):
        a, b = ends(i, j)
        bias = np.float32(np.float16(a))
        scale = np.float32(np.float16(max(b - bias, 0) / np.float32(levels)))
        number = np.rint((row - bias) / scale) if scale > 0 else np.zeros(len(row))
        return np.sum((row - (np.clip(number, 0, levels).astype(np.float64) * scale + bias)) ** 2)

    i = j = 0
    best, where = error(0, 0), (0, 0)
    while bins - i - j > bins * narrowest:
        left, right = error(i + 1, j), error(i, j + 1)
        i, j = (i + 1, j) if left < right else (i, j + 1)
        if min(left, right) < best:
            best, where = min(left, right), (i, j)
    return (*ends(*where), best)


def gptq(w, inputs, scale, *, low, high, damping=0.01):
    """Inputs one after another, the error of each made good by those that remain. Frantar et al. 2023, section 3.

    From the inverse of the Hessian of what remains, by elimination (equations 2 and 3), not from a Cholesky factor.
    """
    w, inputs = np.array(w, np.float64), np.asarray(inputs, np.float64)
    hessian = inputs.T @ inputs
    dead = np.diag(hessian) == 0
    hessian[dead, dead] = 1
    w[dead] = 0
    hessian += damping * np.diag(hessian).mean() * np.eye(len(w))
    inverse, found = np.linalg.inv(hessian), np.zeros(w.shape)
    for j in range(len(w)):
        found[j] = round_with(w[j : j + 1], scale, low=low, high=high)[0]
        error = (w[j] - found[j]) / inverse[j, j]
        w[j + 1 :] -= inverse[j + 1 :, j : j + 1] * error
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return found


def activation_aware_scales(w, inputs, quantizer, *, grid):
    """The a^r / sqrt(max min) of least squared output error, r on a grid. Lin et al. 2024, equations 4 and 5."""
    w, inputs = np.asarray(w, np.float64), np.asarray(inputs, np.float64)
    importance = np.abs(inputs).mean(0)
    importance = np.maximum(importance / importance.max(), 1e-4)
    found = []
    for r in np.linspace(0, 1, grid):
        scales = importance**r
        scales = scales / np.sqrt(scales.max() * scales.min())
        rounded = np.asarray(quantizer((w * scales[:, None]).astype(np.float32)), np.float64) / scales[:, None]
        found.append((np.sum((inputs @ (w - rounded)) ** 2), scales))
    return min(found, key=lambda pair: pair[0])


def smoothing_scales(w, inputs, strength):
    """max |X_j|^a / max |W_j|^(1-a), 1 where one of them is 0. Xiao et al. 2023, equation 4."""
    x, w = np.abs(inputs).max(0).astype(np.float64), np.abs(w).max(1).astype(np.float64)
    return np.array([a**strength / b ** (1 - strength) if a > 0 and b > 0 else 1.0 for a, b in zip(x, w, strict=True)])
