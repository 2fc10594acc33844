"""Stored tables of random bytes, so that JAX compiles nothing."""

import numpy as np

from recjax import prune, quantize


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
