"""Slow NumPy twins of every loss, metric, quantizer and mask, written from the papers and not from the code.

Everything is float64 (or Python's exact integers and fractions), except where a number format is the definition itself:
a quantizer's scale *is* a float16 and the quotients before its two roundings *are* IEEE float32.
"""

import math
from fractions import Fraction

import numpy as np

# ---------------------------------------------------------------------------------------------------------- losses


def _lists(function, *arrays, where=None):
    """Applies ``function`` to each list (last axis), cut down to its valid items; an empty list gives 0."""
    arrays = [np.asarray(array, np.float64) for array in arrays]
    out = np.zeros(arrays[0].shape[:-1])
    for index in np.ndindex(out.shape):
        keep = np.ones(arrays[0].shape[-1], bool) if where is None else np.asarray(where)[index]
        rows = [[float(v) for v, k in zip(array[index], keep, strict=True) if k] for array in arrays]
        out[index] = function(*rows) if rows[0] else 0.0
    return out


def _log_softmax(scores):
    if any(math.isnan(s) for s in scores):
        return [math.nan] * len(scores)
    top = max(scores)
    log_total = top + math.log(sum(math.exp(s - top) for s in scores))
    return [s - log_total for s in scores]


def _softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x))) if not math.isnan(x) else math.nan


def binary_cross_entropy(logits, labels):
    """-[y log sigma(z) + (1 - y) log(1 - sigma(z))]; -log sigma(z) = softplus(-z). Goodfellow et al. 2016, 6.2.2.2."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    out = np.zeros(logits.shape)
    for i in np.ndindex(out.shape):
        out[i] = labels[i] * _softplus(-logits[i]) + (1 - labels[i]) * _softplus(logits[i])
    return out


def softmax_cross_entropy(logits, labels, *, where=None):
    """-sum_i y_i log softmax(z)_i over the valid items. Goodfellow et al. 2016, section 6.2.2.3."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if np.issubdtype(labels.dtype, np.integer):  # a class id is all the mass on one item
        mass = np.zeros(logits.shape)
        for index in np.ndindex(labels.shape):
            mass[(*index, labels[index])] = 1.0
        labels = mass

    def one(z, y):
        return -sum(a * b for a, b in zip(y, _log_softmax(z), strict=True))

    return _lists(one, logits, labels, where=where)


def bpr(positive, negative):
    """-log sigma(x_ui - x_uj). Rendle et al., BPR, UAI 2009, section 4.1 (BPR-OPT), without its regularizer."""
    difference = np.asarray(positive, np.float64) - np.asarray(negative, np.float64)
    return np.array([_softplus(-d) for d in difference.ravel()]).reshape(difference.shape)


def mean_squared_error(student, teacher):
    """(1/n) sum_i (s_i - t_i)^2: Hinton et al. 2015, section 2.1, the high-temperature limit ("matching logits")."""
    return _lists(lambda s, t: sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s), student, teacher)


def l1(x, *, weight=1.0):
    """(lambda / 2) |theta|, one number for each parameter. Tibshirani 1996, section 1, with the article's factor."""
    x = np.asarray(x, np.float64)
    return np.array([weight / 2 * (v if v >= 0 else -v) for v in x.ravel()]).reshape(x.shape)


def soft_target_kl(student, teacher, *, temperature=1.0, where=None):
    """tau^2 sum_i p_i log(p_i / q_i), p from the teacher. Hinton et al. 2015, section 2."""

    def one(s, t):
        log_q = _log_softmax([v / temperature for v in s])
        log_p = _log_softmax([v / temperature for v in t])
        return temperature**2 * sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))

    return _lists(one, student, teacher, where=where)


def distillation(student, teacher, labels, *, alpha, temperature=1.0, where=None):
    """(1 - alpha) CE(student, labels) + alpha tau^2 KL(teacher || student). Hinton et al. 2015, section 2."""
    hard = softmax_cross_entropy(student, labels, where=where)
    soft = soft_target_kl(student, teacher, temperature=temperature, where=where)
    return (1 - alpha) * hard + alpha * soft


def hint(student, teacher):
    """||h_t - h_s||^2. Romero et al., FitNets, ICLR 2015, equation 3, without its factor 1/2."""
    return _lists(lambda s, t: sum((b - a) ** 2 for a, b in zip(s, t, strict=True)), student, teacher)


# --------------------------------------------------------------------------------------------------------- metrics


def top_hits(scores, labels, *, k, where=None):
    """Sorts the allowed items by falling score, the lower index first among equals, and looks up the first k."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    where = np.ones(scores.shape, bool) if where is None else np.asarray(where)
    hits = np.zeros((*scores.shape[:-1], k), bool)
    relevant = np.zeros(scores.shape[:-1], np.int32)
    for index in np.ndindex(relevant.shape):
        allowed = [item for item in range(scores.shape[-1]) if where[index][item]]
        ranking = sorted(allowed, key=lambda item: (-float(scores[index][item]), item))
        for rank, item in enumerate(ranking[:k]):
            hits[(*index, rank)] = labels[index][item]
        relevant[index] = sum(bool(labels[index][item]) for item in allowed)
    return hits, relevant


def ndcg(hits, relevant):
    """DCG / ideal DCG, discount 1 / log2(rank + 1), binary gains. Järvelin and Kekäläinen, TOIS 2002, section 2.2-2.3.

    (The discount is the later usual one of Burges et al. 2005, which discounts rank 2 as well.)
    """
    hits, relevant = np.asarray(hits), np.asarray(relevant)
    out = np.zeros(relevant.shape)
    for index in np.ndindex(out.shape):
        gain = sum(1 / math.log2(rank + 1) for rank, hit in enumerate(hits[index], start=1) if hit)
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(int(relevant[index]), hits.shape[-1]) + 1))
        out[index] = gain / ideal if relevant[index] else 0.0
    return out


def recall(hits, relevant):
    """|hits in the first k| / |relevant|. Manning et al., Introduction to Information Retrieval, 2008, section 8.3."""
    hits, relevant = np.asarray(hits), np.asarray(relevant)
    out = np.zeros(relevant.shape)
    for index in np.ndindex(out.shape):
        out[index] = sum(map(bool, hits[index])) / int(relevant[index]) if relevant[index] else 0.0
    return out


# ------------------------------------------------------------------------------------------------------- quantizer


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


# --------------------------------------------------------------------------------------------------------- pruning


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
