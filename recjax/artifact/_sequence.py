"""Models of ordered histories with NumPy: SASRec, BSARec, GRU4Rec and HSTU, as :mod:`recjax.models` has them.

Only the query after the latest item is computed: the last block of an attention reads all positions and writes one.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from recjax.artifact._ids import Events, UserItems
from recjax.artifact._tables import Table
from recjax.errors import InputError

Net: TypeAlias = Mapping[str, Any]  # the architecture and its sizes, as the card has them
Arrays: TypeAlias = Mapping[str, np.ndarray]  # the net's parameters by name, float32
LOWEST = np.finfo(np.float32).min / 2


# -- what is stored --------------------------------------------------------------------------------------------------


def shapes(net: Net, tables: Mapping[str, Table]) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of a net by its name; raises ValueError where the card says nothing possible."""
    name = net["architecture"]
    if name not in _ARCHITECTURES:
        raise ValueError(f"net: expected one of {', '.join(_ARCHITECTURES)}, got {name!r:.40}")
    sizes, of_net, _ = _ARCHITECTURES[name]
    for size in ("length", *sizes):
        least = 0 if size == "cutoff" else 1
        if type(net[size]) is not int or net[size] < least:
            raise ValueError(f"net: expected a {size} of at least {least}, got {net[size]!r:.20}")
    depth, dim = net["layers" if "layers" in sizes else "blocks"], tables["item"].shape[1]
    if depth > len(tables):  # before names are made of each
        raise ValueError(f"net: expected the parameters of {depth} blocks, got {len(tables)}")
    if dim % net.get("heads", 1):
        raise ValueError(f"net: expected heads that divide {dim}, got {net['heads']}")
    if name == "bsarec" and (type(net["alpha"]) not in (int, float) or not 0 <= net["alpha"] <= 1):
        raise ValueError(f"net: expected alpha from 0 to 1, got {net['alpha']!r:.20}")
    return of_net(net, tables, dim)


def _norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/scale": (width,), f"{name}/bias": (width,)}


def _dense_shapes(name: str, given: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/kernel": (given, width), f"{name}/bias": (width,)}


def _sasrec_shapes(net: Net, tables: Mapping[str, Table], dim: int) -> dict[str, tuple[int, ...]]:
    found = {"position": (net["length"], dim), **_norm_shapes("norm", dim)}
    for block in range(net["blocks"]):
        inner = tables.get(f"inner_{block}/kernel", tables["item"]).shape[1]  # fewer where units were pruned
        found |= {f"{name}_{block}/kernel": (dim, dim) for name in ("query", "key", "value")}
        found |= _norm_shapes(f"attention_norm_{block}", dim) | _norm_shapes(f"perceptron_norm_{block}", dim)
        found |= _dense_shapes(f"inner_{block}", dim, inner) | _dense_shapes(f"outer_{block}", inner, dim)
    return found


def _bsarec_shapes(net: Net, tables: Mapping[str, Table], dim: int) -> dict[str, tuple[int, ...]]:
    found = {"position": (net["length"], dim), **_norm_shapes("input_norm", dim)}
    for block in range(net["blocks"]):
        found |= {f"beta_{block}": (dim,), f"key_{block}/kernel": (dim, dim)}
        for name in ("query", "value", "output"):
            found |= _dense_shapes(f"{name}_{block}", dim, dim)
        for name in ("filter", "attention", "perceptron"):
            found |= _norm_shapes(f"{name}_norm_{block}", dim)
        found |= _dense_shapes(f"inner_{block}", dim, 4 * dim) | _dense_shapes(f"outer_{block}", 4 * dim, dim)
    return found


def _gru4rec_shapes(net: Net, tables: Mapping[str, Table], dim: int) -> dict[str, tuple[int, ...]]:
    hidden = net["hidden"]
    found = _dense_shapes("output", hidden, dim)
    for layer in range(net["layers"]):
        found |= _dense_shapes(f"input_{layer}", hidden if layer else dim, 3 * hidden)
        found |= {f"state_{layer}": (hidden, 3 * hidden), f"candidate_bias_{layer}": (hidden,)}
    return found


def _hstu_shapes(net: Net, tables: Mapping[str, Table], dim: int) -> dict[str, tuple[int, ...]]:
    found = _norm_shapes("norm", dim)
    for block in range(net["blocks"]):
        found |= {f"position_bias_{block}": (net["length"],), f"project_{block}/kernel": (dim, 4 * dim)}
        found |= _norm_shapes(f"norm_{block}", dim) | _norm_shapes(f"mixed_norm_{block}", dim)
        found |= _dense_shapes(f"output_{block}", dim, dim)
    return found


def decoded(net: Net, tables: Mapping[str, Table]) -> dict[str, np.ndarray]:
    """The parameters of a net as float32 arrays: they are few beside the item table."""
    found = {
        name: tables[name].rows(slice(0, tables[name].shape[0])).reshape(shape)
        for name, shape in shapes(net, tables).items()
    }
    for name, array in found.items():
        if not np.isfinite(array).all():
            raise InputError(f"table {name}: expected finite numbers, got others")
    return found


def latest(events: Events, length: int) -> UserItems:
    """The latest events of every user, at most ``length``, oldest first."""
    ends = np.asarray(events.offsets[1:], np.int64)
    kept = np.minimum(np.diff(events.offsets), length)
    offsets = np.concatenate([[0], np.cumsum(kept)])
    places = np.arange(offsets[-1]) + np.repeat(ends - kept - offsets[:-1], kept)
    return UserItems(offsets, np.asarray(events.items, np.int32)[places])


# -- queries ---------------------------------------------------------------------------------------------------------


def queries(net: Net, arrays: Arrays, item: Table, rows: np.ndarray, items: np.ndarray, users: int) -> np.ndarray:
    """What the item table is multiplied by.

    Args:
      net: from the card.
      arrays: see :func:`decoded`.
      item: the item table.
      rows: ``[entries]`` int, ascending, the user of each event.
      items: ``[entries]`` positions of items, each user's oldest first.
      users: how many.

    Returns:
      ``[users, dim]`` float32, 0 for a user without events.
    """
    counts = np.bincount(rows, minlength=users)
    width = int(np.clip(counts.max(initial=0), 1, net["length"]))  # padding in front changes nothing
    behind = np.repeat(np.cumsum(counts), counts) - np.arange(len(rows))  # 1 for the latest event
    rows, items, place = (part[behind <= width] for part in (rows, items, width - behind))
    known, x = np.zeros((users, width), bool), np.zeros((users, width, item.shape[1]), np.float32)
    known[rows, place] = True
    x[rows, place] = item.rows(items)
    found = _ARCHITECTURES[net["architecture"]][2](net, arrays, x, known)
    return np.where(known[:, -1:], found, np.float32(0))


def _sasrec(net: Net, arrays: Arrays, x: np.ndarray, known: np.ndarray) -> np.ndarray:
    seen = _causal(known)
    x = x * math.sqrt(x.shape[2]) + arrays["position"][-x.shape[1] :]
    for block in range(net["blocks"]):
        written = _written(net, block)
        h = _norm(arrays, f"attention_norm_{block}", x)
        q, k, v = (
            _split(_dense(arrays, f"{name}_{block}", part), net["heads"])
            for name, part in (("query", h[:, written]), ("key", h), ("value", h))
        )
        weights = _softmax(np.where(seen[:, :, written], _scaled_products(q, k), LOWEST))
        x = x[:, written] + _merged(weights @ v)
        h = np.maximum(_dense(arrays, f"inner_{block}", _norm(arrays, f"perceptron_norm_{block}", x)), 0)
        x = x + _dense(arrays, f"outer_{block}", h)
    return _norm(arrays, "norm", x)[:, -1]


def _bsarec(net: Net, arrays: Arrays, x: np.ndarray, known: np.ndarray) -> np.ndarray:
    missing = net["length"] - x.shape[1]  # the filter spans all positions, also those of padding
    x, known = np.pad(x, ((0, 0), (missing, 0), (0, 0))), np.pad(known, ((0, 0), (missing, 0)))
    masked = np.where(_causal(known), np.float32(0), np.float32(-10000))
    low_pass = _low_pass(net["length"], net["cutoff"]).astype(np.float32)
    x = _norm(arrays, "input_norm", x + arrays["position"], 1e-12)
    for block in range(net["blocks"]):
        written = _written(net, block)
        own, low = x[:, written], low_pass[written] @ x
        filtered = low + arrays[f"beta_{block}"] ** 2 * (own - low)
        filtered = _norm(arrays, f"filter_norm_{block}", filtered + own, 1e-12)
        q, k, v = (
            _split(_dense(arrays, f"{name}_{block}", part), net["heads"])
            for name, part in (("query", own), ("key", x), ("value", x))
        )
        mixed = _merged(_softmax(_scaled_products(q, k) + masked[:, :, written]) @ v)
        mixed = _dense(arrays, f"output_{block}", mixed)
        attended = _norm(arrays, f"attention_norm_{block}", mixed + own, 1e-12)
        x = net["alpha"] * filtered + (1 - net["alpha"]) * attended
        outer = _dense(arrays, f"outer_{block}", _gelu(_dense(arrays, f"inner_{block}", x)))
        x = _norm(arrays, f"perceptron_norm_{block}", outer + x, 1e-12)
    return x[:, -1]


def _gru4rec(net: Net, arrays: Arrays, x: np.ndarray, known: np.ndarray) -> np.ndarray:
    for layer in range(net["layers"]):
        given, bias = _dense(arrays, f"input_{layer}", x), arrays[f"candidate_bias_{layer}"]
        state = np.zeros((len(x), net["hidden"]), np.float32)
        x = np.empty((*x.shape[:2], net["hidden"]), np.float32)
        for place in range(x.shape[1]):
            r, z, n = np.split(given[:, place], 3, axis=1)
            kept_r, kept_z, kept_n = np.split(state @ arrays[f"state_{layer}"], 3, axis=1)
            update = _sigmoid(z + kept_z)
            candidate = np.tanh(n + _sigmoid(r + kept_r) * (kept_n + bias))
            state = np.where(known[:, place, None], (1 - update) * candidate + update * state, state)
            x[:, place] = state
    return _dense(arrays, "output", x[:, -1])


def _hstu(net: Net, arrays: Arrays, x: np.ndarray, known: np.ndarray) -> np.ndarray:
    seen, places = _causal(known), np.arange(x.shape[1])
    apart = np.maximum(places[:, None] - places, 0)
    x = x * math.sqrt(x.shape[2])
    for block in range(net["blocks"]):
        written = _written(net, block)
        h = _dense(arrays, f"project_{block}", _norm(arrays, f"norm_{block}", x))
        gate, v, q, k = np.split(h * _sigmoid(h), 4, axis=2)
        q, k, v = (_split(part, net["heads"]) for part in (q[:, written], k, v))
        scores = q @ k.swapaxes(2, 3) + arrays[f"position_bias_{block}"][apart[written]]
        weights = np.where(seen[:, :, written], scores * _sigmoid(scores), np.float32(0)) / net["length"]
        mixed = _norm(arrays, f"mixed_norm_{block}", _merged(weights @ v)) * gate[:, written]
        x = x[:, written] + _dense(arrays, f"output_{block}", mixed)
    return _norm(arrays, "norm", x)[:, -1]


# The sizes in the card beside the length, the shapes of the parameters, and the queries after the latest items.
_ARCHITECTURES: dict[str, tuple[tuple[str, ...], Callable[..., dict[str, tuple[int, ...]]], Callable[..., Any]]] = {
    "sasrec": (("blocks", "heads"), _sasrec_shapes, _sasrec),
    "bsarec": (("blocks", "heads", "cutoff"), _bsarec_shapes, _bsarec),
    "gru4rec": (("layers", "hidden"), _gru4rec_shapes, _gru4rec),
    "hstu": (("blocks", "heads"), _hstu_shapes, _hstu),
}


# -- layers ----------------------------------------------------------------------------------------------------------


def _written(net: Net, block: int) -> slice:
    """The positions that a block writes: all of them, of the last block only the latest."""
    return slice(-1 if block + 1 == net["blocks"] else 0, None)


def _causal(known: np.ndarray) -> np.ndarray:
    """``[batch, 1, length, length]`` bool: which items, the last axis, each position attends to: those up to it."""
    return known[:, None, None] & np.tri(known.shape[1], dtype=bool)


def _dense(arrays: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    found = x.reshape(-1, x.shape[-1]) @ arrays[f"{name}/kernel"]  # one product, not one for each user
    if f"{name}/bias" in arrays:
        found += arrays[f"{name}/bias"]
    return found.reshape(*x.shape[:-1], -1)


def _norm(arrays: Arrays, name: str, x: np.ndarray, epsilon: float = 1e-6) -> np.ndarray:
    x = x - x.mean(axis=-1, keepdims=True)
    variance = np.einsum("...d,...d->...", x, x)[..., None] / x.shape[-1]
    return x * (arrays[f"{name}/scale"] / np.sqrt(variance + np.float32(epsilon))) + arrays[f"{name}/bias"]


def _split(x: np.ndarray, heads: int) -> np.ndarray:
    """``[batch, length, dim]`` as ``[batch, heads, length, dim / heads]``."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def _merged(x: np.ndarray) -> np.ndarray:
    """The inverse of :func:`_split`."""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


def _scaled_products(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    return q @ k.swapaxes(2, 3) / math.sqrt(q.shape[3])


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * x)  # an exponential would overflow


def _gelu(x: np.ndarray) -> np.ndarray:
    """``x`` times the normal distribution, whose error function is that of Abramowitz and Stegun, 7.1.26."""
    z = np.abs(x) * np.float32(0.5**0.5)
    t = 1 / (1 + 0.3275911 * z)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return 0.5 * x * (1 + np.sign(x) * (1 - series * np.exp(-z * z)))


def _low_pass(length: int, cutoff: int) -> np.ndarray:
    """``[length, length]``, the matrix that keeps the lowest ``cutoff // 2 + 1`` frequencies of a series."""
    spectrum = np.fft.rfft(np.eye(length), axis=0, norm="ortho")
    spectrum[cutoff // 2 + 1 :] = 0
    return np.fft.irfft(spectrum, n=length, axis=0, norm="ortho")
