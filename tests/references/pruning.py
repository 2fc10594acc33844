"""Slow NumPy twins of scores, masks, schedules, shrinking and sparse storage, written from the papers."""

import math
from fractions import Fraction

import numpy as np

from .compression import kept_count, mask_smallest


def normalized_magnitude(layers):
    """|w| / (||w||_2 + 1e-8), each layer by its own norm."""
    return [np.abs(np.float64(w)) / (math.sqrt(sum(float(v) ** 2 for v in np.ravel(w))) + 1e-8) for w in layers]


def mask_globally(layers, sparsity, signed=False):
    """One ranking of the entries of all layers; of equal ones those of the earlier layer, then row-major."""
    flat = [
        (float(v) if signed else abs(float(v)), i) for i, v in enumerate(np.concatenate([np.ravel(w) for w in layers]))
    ]
    order = sorted(flat, key=lambda pair: (-pair[0], pair[1]))
    mask = np.zeros(len(flat), bool)
    mask[[i for _, i in order[: kept_count(len(flat), sparsity)]]] = True
    ends = np.cumsum([np.size(w) for w in layers])[:-1]
    return [part.reshape(np.shape(w)) for part, w in zip(np.split(mask, ends), layers, strict=True)]


def mask_within(scores, sparsity, axis):
    """A ranking of its own in each slice scores[..., j, ...]."""
    slices = np.moveaxis(scores, axis, 0)
    return np.moveaxis(np.stack([mask_smallest(s, sparsity) for s in slices]), 0, axis)


def erk_density(shapes, sparsity):
    """min(1, eps sum(shape) / prod(shape)): layers above 1 are made dense and eps is solved again. Evci et al. 2020.

    A scalar and an array without entries have no such ratio and are dense from the start.
    """
    sizes = [math.prod(s) for s in shapes]
    raw = [Fraction(sum(s), max(math.prod(s), 1)) for s in shapes]
    budget = (1 - Fraction(float(np.float32(sparsity)))) * sum(sizes)
    dense = {i for i, s in enumerate(shapes) if not s or 0 in s}
    while True:
        rest = [i for i in range(len(shapes)) if i not in dense]
        if not rest:
            return [1.0] * len(shapes)
        eps = (budget - sum(sizes[i] for i in dense)) / sum(sizes[i] * raw[i] for i in rest)
        over = [i for i in rest if eps * raw[i] > 1]
        if not over:
            return [1.0 if i in dense else float(eps * raw[i]) for i in range(len(shapes))]
        dense |= set(over)


def mask_n_of_m(scores, n, m):
    """The n largest |score| of every m neighbors on the last axis, the first among equals. Mishra et al. 2021."""
    rows = np.abs(np.float64(scores)).reshape(-1, m)
    mask = np.zeros(rows.shape, bool)
    for row, kept in zip(rows, mask, strict=True):
        kept[sorted(range(m), key=lambda j: (-row[j], j))[:n]] = True
    return mask.reshape(np.shape(scores))


def slice_scores(scores, axis):
    """Root mean square of each slice scores[..., j, ...]."""
    return np.array([math.sqrt(np.mean(np.square(np.float64(s)))) for s in np.moveaxis(scores, axis, 0)])


def one_shot_sparsity(step, *, at, final):
    return float(final) if step >= at else 0.0


def cosine_sparsity(step, *, begin, end, final):
    """Half a period of a cosine from 0 to final."""
    if step <= begin:
        return 0.0 if begin < end or step < begin else float(final)
    return float(final) if step >= end else final * (1 - math.cos(math.pi * (step - begin) / (end - begin))) / 2


def iterative_sparsity(step, *, every, share, rounds):
    """Each round takes a share of what is left: after r rounds (1 - share)^r remains. Frankle and Carbin 2019."""
    left = 1.0
    for _ in range(min(step // every, rounds)):
        left -= share * left
    return 1 - left


def sparse_bytes(shape, kept, bits):
    """A bit an entry, 4 bytes for every 1024 entries and ``bits`` bits a kept entry, each part in whole bytes."""
    size = math.prod(shape)
    return -(-size // 8) + 4 * -(-size // 1024) + -(-kept * bits // 8)


def sparse_row(sparse, row):
    """One row of a sparse table and the places of all that was read: Python's integers, one bit after another."""
    size = math.prod(sparse.shape[1:])

    def bit(array, i):
        return int(array[i // 8]) >> i % 8 & 1

    first = row * size
    chunk = first // 1024
    bits_read = range(1024 * chunk, first + size)
    rank = start = int(sparse.before[chunk]) + sum(bit(sparse.bitmap, i) for i in range(1024 * chunk, first))
    patterns = []
    for i in range(first, first + size):
        kept = bit(sparse.bitmap, i)
        if sparse.bits is None:
            patterns.append(sparse.values[rank] if kept else 0)
        else:
            places = range(rank * sparse.bits, (rank + 1) * sparse.bits) if kept else ()
            patterns.append(sum(bit(sparse.values, p) << k for k, p in enumerate(places)) if kept else None)
        rank += kept
    return patterns, bits_read, range(start, rank)


def mlp_logits(net, x):
    """Dense layers with ReLU between them, in float64."""
    layers = sorted(name for name in net if name != "output")
    for name in layers:
        x = np.maximum(x @ np.float64(net[name]["kernel"]) + np.float64(net[name]["bias"]), 0)
    return x @ np.float64(net["output"]["kernel"]) + np.float64(net["output"]["bias"])


def attention(net, x):
    """Heads of softmax attention over x [length, dim]; kernels [dim, heads, head_dim] and [heads, head_dim, dim]."""
    total = np.zeros(x.shape)
    for head in range(net["query"].shape[1]):
        q, k, v = (x @ np.float64(net[name][:, head]) for name in ("query", "key", "value"))
        weights = np.exp(q @ k.T / math.sqrt(q.shape[1]))
        total += weights / weights.sum(axis=1, keepdims=True) @ v @ np.float64(net["out"][head])
    return total


def drop_and_grow(weights, mask, growth, fraction):
    """One layer of RigL's algorithm 1: drop the smallest |w| of the active, grow the largest score of the inactive."""
    w, active, score = (np.ravel(x).tolist() for x in (weights, mask, growth))
    held = sorted((i for i, on in enumerate(active) if on), key=lambda i: (-abs(w[i]), i))
    exchanged = round(fraction * len(held))
    stay = set(held[: len(held) - exchanged])
    others = sorted((i for i in range(len(w)) if i not in stay), key=lambda i: (-abs(score[i]), i))
    new = np.array([i in stay or i in others[:exchanged] for i in range(len(w))]).reshape(np.shape(mask))
    return new, new & ~np.asarray(mask)


def soft_threshold(x, threshold):
    """Every entry nearer to zero by its threshold. Donoho 1995, equation 2."""
    pairs = zip(np.ravel(x), np.ravel(threshold), strict=True)
    return np.array([math.copysign(max(abs(v) - t, 0), v) for v, t in pairs])
