"""Helpers of the twins: sums over lists in Python floats, and iteration over the lists of an array."""

import math

import numpy as np


def _lists(function, *arrays, where=None):
    """Applies ``function`` to each list (last axis), cut down to its valid items; an empty list gives 0."""
    arrays = [np.asarray(array, np.float64) for array in arrays]
    out = np.zeros(arrays[0].shape[:-1])
    for index in np.ndindex(out.shape):
        keep = np.ones(arrays[0].shape[-1], bool) if where is None else np.asarray(where)[index]
        rows = [[float(v) for v, k in zip(array[index], keep, strict=True) if k] for array in arrays]
        out[index] = function(*rows) if rows[0] else 0.0
    return out


def _elements(function, *arrays):
    """Applies ``function`` to the entries of equally shaped arrays, one position after another."""
    arrays = [np.asarray(array, np.float64) for array in arrays]
    out = np.zeros(arrays[0].shape)
    for index in np.ndindex(out.shape):
        out[index] = function(*(float(array[index]) for array in arrays))
    return out


def _kept(values, where=None):
    """The entries of one list that count, as Python floats."""
    keep = [True] * len(values) if where is None else list(where)
    return [float(value) for value, k in zip(values, keep, strict=True) if k]


def _log_sum_exp(scores):
    """log sum_i exp(s_i); minus infinity for no scores."""
    if any(math.isnan(s) for s in scores):
        return math.nan
    top = max(scores, default=-math.inf)
    return top if math.isinf(top) else top + math.log(sum(math.exp(s - top) for s in scores))


def _log_softmax(scores):
    if any(math.isnan(s) for s in scores):
        return [math.nan] * len(scores)
    top = max(scores)
    log_total = top + math.log(sum(math.exp(s - top) for s in scores))
    return [s - log_total for s in scores]


def _softmax(scores):
    return [math.exp(s) for s in _log_softmax(scores)]


def _softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x))) if not math.isnan(x) else math.nan


def _sigmoid(x):
    return math.exp(-_softplus(-x))


def _binary_cross_entropy(logit, label):
    """-[y log sigma(z) + (1 - y) log(1 - sigma(z))]; -log sigma(z) = softplus(-z)."""
    return label * _softplus(-logit) + (1 - label) * _softplus(logit)


def _dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def _squared_distance(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def _normalized(vector):
    """v / |v|; the zero vector stays 0."""
    length = math.sqrt(_dot(vector, vector))
    return [v / length for v in vector] if length else list(vector)


def _cosine(a, b):
    """The cosine of two vectors; 0 if one of them is 0."""
    return _dot(_normalized(a), _normalized(b))
