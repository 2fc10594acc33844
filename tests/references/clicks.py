"""Slow NumPy twins of the CTR models, one example at a time, written from the papers and not from the code."""

import numpy as np


def _vectors(params, values):
    table = np.asarray(params["tables"]["feature"], np.float64)
    return [table[value] for value in values]


def _weights(params, values):
    table = np.asarray(params["tables"]["feature_weight"], np.float64)
    return sum(float(table[value, 0]) for value in values)


def _pairs(vectors):
    """Every pair of fields once. Rendle, ICDM 2010, equation 1."""
    total = 0.0
    for i in range(len(vectors)):
        for j in range(i + 1, len(vectors)):
            total += sum(float(a) * float(b) for a, b in zip(vectors[i], vectors[j], strict=True))
    return total


def _dense(x, layer):
    kernel = np.asarray(layer["kernel"], np.float64)
    bias = np.asarray(layer.get("bias", np.zeros(kernel.shape[1])), np.float64)
    return np.array([sum(x[i] * kernel[i, j] for i in range(len(x))) + bias[j] for j in range(kernel.shape[1])])


def _layers(x, net):
    for layer in range(sum(name.startswith("hidden_") for name in net)):
        x = np.array([max(0.0, value) for value in _dense(x, net[f"hidden_{layer}"])])
    return _dense(x, net["output"])


def _perceptron(x, net):
    return float(_layers(x, net)[0])


def _crossed(x, net):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l. Wang et al., WWW 2021, equation 1; a kernel is W transposed."""
    first = x
    for layer in range(sum(name.startswith("cross_") and name != "cross_output" for name in net)):
        x = np.array([a * w + b for a, w, b in zip(first, _dense(x, net[f"cross_{layer}"]), x, strict=True)])
    return x


def logistic_regression_logit(params, values):
    """The bias, and a weight for each value."""
    return float(params["net"]["bias"][0]) + _weights(params, values)


def factorization_machine_logit(params, values):
    """Rendle, ICDM 2010, equation 1."""
    return float(params["net"]["bias"][0]) + _weights(params, values) + _pairs(_vectors(params, values))


def dnn_logit(params, values):
    """An MLP on the concatenated vectors."""
    return _perceptron(np.concatenate(_vectors(params, values)), params["net"])


def wide_and_deep_logit(params, values):
    """Cheng et al., DLRS 2016, equation 3, with the single fields as the wide part."""
    return _weights(params, values) + dnn_logit(params, values)


def deepfm_logit(params, values):
    """Guo et al., IJCAI 2017, equations 1 to 4."""
    return _weights(params, values) + _pairs(_vectors(params, values)) + dnn_logit(params, values)


def dcn_v2_logit(params, values):
    """Wang et al., WWW 2021, equations 1 to 3: one output layer on cross network and MLP."""
    x = np.concatenate(_vectors(params, values))
    end = _crossed(x, params["net"])
    kernel = np.asarray(params["net"]["cross_output"]["kernel"], np.float64)[:, 0]
    return sum(a * b for a, b in zip(end, kernel, strict=True)) + _perceptron(x, params["net"])


def finalmlp_logit(params, values, contexts):
    """Mao et al., AAAI 2023: gates of 2 sigmoid, two streams, and a bilinear form for each head, summed."""
    net, vectors = params["net"], _vectors(params, values)
    ends = []
    for stream, context in enumerate(contexts):
        seen = [vectors[field] for field in context] or [np.asarray(net[f"context_{stream}"], np.float64)]
        gate = [2 / (1 + np.exp(-value)) for value in _layers(np.concatenate(seen), net[f"gate_{stream}"])]
        gated = np.array([weight * value for weight, value in zip(gate, np.concatenate(vectors), strict=True)])
        ends.append([max(0.0, value) for value in _layers(gated, net[f"stream_{stream}"])])
    fusion = {name: np.asarray(leaf, np.float64) for name, leaf in net["fusion"].items()}
    heads, wide, other = fusion["bilinear"].shape
    logit = float(fusion["bias"][0])
    for end, name in zip(ends, ("linear_0", "linear_1"), strict=True):
        logit += sum(value * weight for value, weight in zip(end, fusion[name][:, 0], strict=True))
    for head in range(heads):
        for i in range(wide):
            for j in range(other):
                logit += ends[0][head * wide + i] * fusion["bilinear"][head, i, j] * ends[1][head * other + j]
    return logit
