"""Files of parameters and vocabularies read slowly, from the description of the format and with no code of recjax."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
from safetensors import numpy as safetensors
from safetensors import safe_open


def read_params(path: Path):
    """Nested dicts of float arrays; packed and sparse records are decoded bit by bit."""
    with safe_open(path, framework="numpy") as file:
        spec = json.loads(file.metadata()["recjax"])
    return _build(spec, safetensors.load_file(path))


def _build(spec, arrays):
    if not isinstance(spec, dict):
        return spec
    if "dict" in spec:
        return {name: _build(part, arrays) for name, part in spec["dict"].items()}
    if "array" in spec:
        return arrays[spec["array"]]
    parts = {name: _build(part, arrays) for name, part in spec["parts"].items()}
    return {"QTensor": _packed, "RowQuantized": _packed, "SparseTensor": _sparse, "IndexedRows": _indexed}[
        spec["record"]
    ](**parts)


def _number(words, at, bits, unsigned):
    low = sum((int(words[b // 8]) >> (b % 8) & 1) << (b - at * bits) for b in range(at * bits, (at + 1) * bits))
    if unsigned:
        return low
    if bits == 1:
        return 1 - 2 * low
    return low - 2**bits if low >= 2 ** (bits - 1) else low


def _scaled(value, row, column, scale, bias, group_size):
    group = column // group_size if group_size else column
    one = np.float32(scale[min(row, len(scale) - 1), min(group, scale.shape[1] - 1)])
    found = np.float32(value) * one
    return found if bias is None else found + np.float32(bias[min(row, len(bias) - 1), 0])


def _packed(words, scale, bits, shape, group_size=None, bias=None):
    table = np.zeros(shape, np.float32)
    for row, column in np.ndindex(*shape):
        value = _number(words[row], column, bits, bias is not None)
        table[row, column] = _scaled(value, row, column, scale, bias, group_size)
    return table


def _sparse(bitmap, before, values, scale, bias, kept, bits, shape, group_size=None):
    table, taken = np.zeros(math.prod(shape), np.float32), 0
    for at in range(table.size):
        if at % 1024 == 0:
            assert before[at // 1024] == taken
        if int(bitmap[at // 8]) >> (at % 8) & 1:
            if bits is None:
                table[at] = values[taken]
            else:
                value = _number(values, taken, bits, bias is not None)
                table[at] = _scaled(value, *divmod(at, shape[1]), scale, bias, group_size)
            taken += 1
    assert taken == kept
    return table.reshape(shape)


def _indexed(positions, values, dim):
    bits = max((dim - 1).bit_length(), 1)
    table, (rows, count) = np.zeros((len(values), dim), np.float32), values.shape
    low = -(-count * min(bits, 8) // 8)
    for row, k in np.ndindex(rows, count):
        place = _number(positions[row, :low], k, min(bits, 8), True)
        if bits > 8:
            place += _number(positions[row, low:], k, bits - 8, True) << 8
        table[row, place] = values[row, k]
    return table


def read_texts(path: Path, name: str) -> list[str]:
    """Ids or titles of a vocabulary."""
    arrays = safetensors.load_file(path)
    content, ends = arrays[f"{name}.content"].tobytes(), arrays[f"{name}.offsets"].tolist()
    return [content[start:stop].decode() for start, stop in itertools.pairwise(ends)]
