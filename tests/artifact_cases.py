"""Stored tables of random bytes, so that JAX compiles nothing, and a small artifact of some."""

import json

import numpy as np

from recjax import artifact, prune, quantize
from recjax.data import Seen

FILES = ("model.json", "weights.safetensors", "ids.safetensors", "seen.safetensors")
KNOWN, ITEMS, DIM = (0, 1, 2, 3, 5), 9, 6
HISTORIES = [[0, 1], [2], [0, 3, 8], [0], [0, 2], list(range(8)), []]
USERS = ["10", "11", "12", "13", "cold", "14", "né ☃"]


def packed(rows: int, dim: int, bits: int, seed: int = 0, group_size: int | None = None, shared: bool = False):
    """A packed table."""
    random = np.random.default_rng(seed)
    words = random.integers(0, 256, (rows, -(-dim * bits // 8)), dtype=np.uint8)
    groups = 1 if group_size is None else -(-dim // group_size)
    scale = (0.5 + random.random((1 if shared else rows, groups))).astype(np.float16)
    return quantize.QTensor(words, scale, bits, (rows, dim), group_size)


def rows_packed(rows: int, dim: int, bits: int, seed: int = 0):
    q, random = packed(rows, dim, bits, seed), np.random.default_rng(seed + 1)
    return quantize.RowQuantized(q.words, q.scale, random.random((rows, 1)).astype(np.float16), bits, (rows, dim))


def bits_of(keep: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The bitmap of a mask, the counts before every 1024 entries, and the count of all."""
    before = np.concatenate([[0], np.cumsum(keep.ravel())])[: keep.size : 1024].astype(np.int32)
    return np.packbits(keep, bitorder="little"), before, int(keep.sum())


def sparse(table, zeros: float, seed: int = 0):
    """The entries of a table that a random mask keeps."""
    keep = np.random.default_rng(seed).random(table.shape) >= zeros
    bitmap, before, kept = bits_of(keep)
    if isinstance(table, np.ndarray):
        return prune.SparseTensor(bitmap, before, table[keep], None, None, kept, None, table.shape)
    bits = np.unpackbits(table.words, axis=-1, count=table.shape[1] * table.bits, bitorder="little")
    values = np.packbits(bits.reshape(*table.shape, table.bits)[keep], bitorder="little")
    bias, group_size = getattr(table, "bias", None), getattr(table, "group_size", None)
    return prune.SparseTensor(bitmap, before, values, table.scale, bias, kept, table.bits, table.shape, group_size)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def make(folder, **changes):
    """A small artifact: user "cold" has no vector, the last one no history either."""
    arguments = {
        "params": {
            "user": packed(len(KNOWN), DIM, 4, seed=1),
            "item": sparse(packed(ITEMS, DIM, 4, seed=2), 0.5),
            "item_bias": floats(ITEMS, seed=3).astype(np.float16),
        },
        "kind": "vectors",
        "user_ids": USERS,
        "item_ids": [str(100 + i) for i in range(ITEMS)],
        "titles": [f"Title {i}" for i in range(ITEMS)],
        "seen": Seen(np.cumsum([0, *map(len, HISTORIES)]), np.concatenate(HISTORIES).astype(np.int32)),
        "known_users": np.array(KNOWN),
        "about": {"note": "a test"},
    } | changes
    return artifact.save(folder, arguments.pop("params"), **arguments)


def raw(positions) -> list[str]:
    return [str(100 + i) for i in positions]


def ids(found) -> list[str]:
    return [item.item for item in found]


def change_header(path, change) -> None:
    """Changes the header of a file of parameters, and the sizes that depend on it."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
