"""Slow NumPy twins of the models of sequences, one history at a time, written from the papers and not from the code.

A history is a list of items without padding, the latest last; each twin returns the query after every one of them.
"""

import math

import numpy as np


def _dense(x, layer):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer.get("bias", 0.0), np.float64)


def _normal(x, layer):
    """Ba et al., 2016, with the scale and bias that are learned."""
    sd = np.sqrt(((x - x.mean()) ** 2).mean() + 1e-6)
    return (x - x.mean()) / sd * np.asarray(layer["scale"], np.float64) + np.asarray(layer["bias"], np.float64)


def _vectors(params, history):
    table = np.asarray(params["tables"]["item"], np.float64)
    return [table[item] for item in history]


def _long_vectors(params, history):
    """Longer by the root of their dimension, as in the authors' code of SASRec and of HSTU."""
    return [math.sqrt(len(v)) * v for v in _vectors(params, history)]


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _silu(x):
    return x * _sigmoid(x)


def sasrec_queries(params, history, *, blocks, heads):
    """Kang and McAuley, ICDM 2018, section III: equations 1 to 5, the last item at the last place."""
    net, n = params["net"], len(history)
    places = np.asarray(net["position"], np.float64)
    xs = [v + places[len(places) - n + t] for t, v in enumerate(_long_vectors(params, history))]
    for b in range(blocks):
        hs = [_normal(x, net[f"attention_norm_{b}"]) for x in xs]
        q, k, v = ([_dense(h, net[f"{name}_{b}"]) for h in hs] for name in ("query", "key", "value"))
        width = len(q[0]) // heads
        added = []
        for t in range(n):
            parts = []
            for head in range(heads):
                own = slice(head * width, (head + 1) * width)
                powers = [math.exp(float(q[t][own] @ k[s][own]) / math.sqrt(width)) for s in range(t + 1)]
                parts.append(sum(p / sum(powers) * v[s][own] for s, p in enumerate(powers)))
            added.append(np.concatenate(parts))
        xs = [x + a for x, a in zip(xs, added, strict=True)]
        inner = [np.maximum(0, _dense(_normal(x, net[f"perceptron_norm_{b}"]), net[f"inner_{b}"])) for x in xs]
        xs = [x + _dense(h, net[f"outer_{b}"]) for x, h in zip(xs, inner, strict=True)]
    return np.stack([_normal(x, net["norm"]) for x in xs])


def gru4rec_queries(params, history, *, layers):
    """Cho et al., 2014, with the reset gate after the product; a layer reads the states of the one below."""
    net, xs = params["net"], _vectors(params, history)
    for layer in range(layers):
        kernel = np.asarray(net[f"state_{layer}"], np.float64)
        bias = np.asarray(net[f"candidate_bias_{layer}"], np.float64)
        width = len(kernel)
        h, states = np.zeros(width), []
        for x in xs:
            given, kept = _dense(x, net[f"input_{layer}"]), h @ kernel
            r, z = (_sigmoid(given[i * width : (i + 1) * width] + kept[i * width : (i + 1) * width]) for i in (0, 1))
            candidate = np.tanh(given[2 * width :] + r * (kept[2 * width :] + bias))
            h = (1 - z) * candidate + z * h
            states.append(h)
        xs = states
    return np.stack([_dense(x, net["output"]) for x in xs])


def hstu_queries(params, history, ages, *, blocks, heads, length, time_buckets):
    """Zhai et al., ICML 2024, equations 1 to 3, with the residual sum; weights divided by the longest history."""
    net, xs = params["net"], _long_vectors(params, history)
    for b in range(blocks):
        us, vs, qs, ks = [], [], [], []
        for x in xs:
            whole = _silu(_dense(_normal(x, net[f"norm_{b}"]), net[f"project_{b}"]))
            for part, values in zip((us, vs, qs, ks), np.split(whole, 4), strict=True):
                part.append(values)
        width, out = len(us[0]) // heads, []
        for t in range(len(xs)):
            mixed = np.zeros_like(us[0])
            for s in range(t + 1):
                bias = float(net[f"position_bias_{b}"][t - s])
                if time_buckets:
                    bucket, longest = 0, 2.0
                    while bucket < time_buckets - 1 and ages[s] - ages[t] >= longest:
                        bucket, longest = bucket + 1, 2 * longest
                    bias += float(net[f"time_bias_{b}"][bucket])
                for head in range(heads):
                    own = slice(head * width, (head + 1) * width)
                    mixed[own] += _silu(float(qs[t][own] @ ks[s][own]) + bias) / length * vs[s][own]
            out.append(_dense(_normal(mixed, net[f"mixed_norm_{b}"]) * us[t], net[f"output_{b}"]))
        xs = [x + o for x, o in zip(xs, out, strict=True)]
    return np.stack([_normal(x, net["norm"]) for x in xs])


def bsarec_query(params, history, *, blocks, heads, alpha, cutoff, epsilon=1e-12):
    """Shin et al., AAAI 2024, as in the authors' code: the query after the latest item of one history."""
    net = params["net"]
    places = np.asarray(net["position"], np.float64)
    n, width = places.shape
    start = n - len(history)
    vectors = [np.zeros(width)] * start + _vectors(params, history)

    def norm(x, name):
        layer = net[name]
        unit = (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + epsilon)
        return unit * np.asarray(layer["scale"], np.float64) + np.asarray(layer["bias"], np.float64)

    xs = [norm(v + p, "input_norm") for v, p in zip(vectors, places, strict=True)]
    for b in range(blocks):
        spectrum = [sum(x * np.exp(-2j * np.pi * f * t / n) for t, x in enumerate(xs)) for f in range(n)]
        passing = [f for f in range(n) if min(f, n - f) < cutoff // 2 + 1]
        low = [sum(spectrum[f] * np.exp(2j * np.pi * f * t / n) for f in passing).real / n for t in range(n)]
        beta = np.asarray(net[f"beta_{b}"], np.float64) ** 2
        filtered = [norm(y + beta * (x - y) + x, f"filter_norm_{b}") for x, y in zip(xs, low, strict=True)]
        q, k, v = ([_dense(x, net[f"{name}_{b}"]) for x in xs] for name in ("query", "key", "value"))
        part, attended = width // heads, []
        for t in range(n):
            mixed = []
            for head in range(heads):
                own = slice(head * part, (head + 1) * part)
                seen = [0 if start <= s <= t else -10000 for s in range(n)]
                logits = np.array([q[t][own] @ k[s][own] / math.sqrt(part) + seen[s] for s in range(n)])
                powers = np.exp(logits - logits.max())
                mixed.append(sum(p / powers.sum() * v[s][own] for s, p in enumerate(powers)))
            attended.append(norm(_dense(np.concatenate(mixed), net[f"output_{b}"]) + xs[t], f"attention_norm_{b}"))
        xs = [alpha * f + (1 - alpha) * a for f, a in zip(filtered, attended, strict=True)]
        inner = [_dense(x, net[f"inner_{b}"]) for x in xs]
        inner = [h * (1 + np.vectorize(math.erf)(h / math.sqrt(2))) / 2 for h in inner]
        xs = [norm(_dense(h, net[f"outer_{b}"]) + x, f"perceptron_norm_{b}") for x, h in zip(xs, inner, strict=True)]
    return xs[-1]


def bsarec_queries(params, history, **settings):
    return np.stack([bsarec_query(params, history[: t + 1], **settings) for t in range(len(history))])
