"""Stored tables, decoded with NumPy a few rows at a time and never as a whole."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from recjax.artifact._file import read_tree, static
from recjax.errors import InputError

BLOCK = 2**16  # entries that are decoded at once: 256 KB of float32 stay in the cache
_COUNTED = 128  # bytes of the bitmap of a sparse table for which a count is stored
Ids: TypeAlias = np.ndarray | slice


class Table(Protocol):
    """A table of which any rows can be read as float32."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dim."""
        ...

    def rows(self, ids: Ids) -> np.ndarray:
        """``[n, dim]`` float32 of ``n`` positions or of a slice with a start and a stop."""
        ...


def spans(table: Table) -> Iterator[slice]:
    """Slices that cover the rows of a table in order, each small enough to decode at once."""
    step = block_rows(table)
    for start in range(0, table.shape[0], step):
        yield slice(start, min(start + step, table.shape[0]))


def block_rows(table: Table) -> int:
    """How many rows are decoded at once: a multiple of 64."""
    return max(64, BLOCK // max(table.shape[1], 1) // 64 * 64)


def product(table: Table, ids: slice, queries: np.ndarray, out: np.ndarray) -> None:
    """Writes the rows of a slice times ``queries [dim, n]`` to ``out [rows, n]`` float32."""
    if isinstance(table, IndexedTable) and queries.shape[1] == 1:
        places, values = table.entries(ids)
        np.einsum("np,np->n", queries[places, 0], values, out=out[:, 0])
    elif not isinstance(table, PackedTable) or not table.scaled_rows or queries.shape[1] >= table.shape[1]:
        np.matmul(table.rows(ids), queries, out=out)
    else:  # few queries are scaled after the product, where there are fewer numbers
        np.matmul(table.steps(ids), queries, out=out)
        out *= _of_rows(table.scale, ids, table.shape, None)


def products(table: Table, ids: slice, queries: np.ndarray) -> np.ndarray:
    """``[n, rows]`` float32, ``queries [n, dim]`` times the rows of a slice, which are decoded block by block."""
    columns, step = np.ascontiguousarray(queries.T), block_rows(table)
    # One row an item: both the product and the maxima of groups take half the time that they take otherwise.
    by_row = np.empty((ids.stop - ids.start, len(queries)), np.float32)
    for start in range(ids.start, ids.stop, step):
        block = slice(start, min(start + step, ids.stop))
        product(table, block, columns, by_row[block.start - ids.start : block.stop - ids.start])
    return by_row.T


def cosines(table: Table, position: int) -> np.ndarray:
    """``[rows]`` float32, of every row with the one at a position."""
    found, query = np.empty(table.shape[0], np.float32), table.rows(np.array([position]))[0]
    for span in spans(table):
        rows = table.rows(span)
        norms = np.sqrt(np.einsum("nd,nd->n", rows, rows) * (query @ query))
        found[span] = rows @ query / np.maximum(norms, np.finfo(np.float32).tiny)
    return found


def gram(table: Table, bias: Table | None) -> tuple[np.ndarray, np.ndarray]:
    r""":math:`Y^T Y` and :math:`Y^T b` of the rows and a bias, 0 if None; float64."""
    found, biased = np.zeros((table.shape[1],) * 2), np.zeros(table.shape[1])
    for span in spans(table):
        rows = table.rows(span)
        found += rows.T @ rows
        if bias is not None:
            biased += rows.T @ bias.rows(span)[:, 0]
    return found, biased


def sum_rows(table: Table, ids: np.ndarray) -> np.ndarray:
    """``[dim]`` float32, the sum of the rows at some positions."""
    if isinstance(table, SparseTable):
        _, column, value = table.entries(ids)
        return np.bincount(column, value, table.shape[1]).astype(np.float32)
    if isinstance(table, IndexedTable):
        places, values = table.entries(ids)
        return np.bincount(places.ravel(), values.ravel(), table.dim).astype(np.float32)
    total, step = np.zeros(table.shape[1], np.float32), max(1, BLOCK // max(table.shape[1], 1))
    for start in range(0, len(ids), step):
        total += table.rows(ids[start : start + step]).sum(axis=0)
    return total


@dataclasses.dataclass(frozen=True, eq=False)
class FloatTable:
    """A table of floats, ``values [rows, dim]``."""

    values: np.ndarray

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype.kind != "f":
            raise ValueError(f"expected a table of floats with two axes, got {_found(self.values)}")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dim."""
        return self.values.shape  # pyright: ignore[reportReturnType]

    def rows(self, ids: Ids) -> np.ndarray:
        """As :meth:`Table.rows`."""
        return self.values[ids].astype(np.float32, copy=False)


def as_table(part: Any) -> Table:
    """A record as it is; floats without two axes as one column."""
    return FloatTable(part.reshape(-1, 1) if part.ndim < 2 else part) if isinstance(part, np.ndarray) else part


def stored_bytes(table: Any) -> int:
    """The bytes of a table's arrays."""
    if isinstance(table, np.ndarray):
        return table.nbytes
    parts = (getattr(table, field.name) for field in dataclasses.fields(table))
    return sum(stored_bytes(part) for part in parts if isinstance(part, np.ndarray) or dataclasses.is_dataclass(part))


def _found(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__


def _expect(name: str, array: Any, dtype: Any, *shape: int) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name}: expected {np.dtype(dtype)} {list(shape)}, got {_found(array)}")


def _patterns(bits: int, unsigned: bool) -> np.ndarray:
    """The numbers that the bit patterns stand for, ``[2 ** bits]`` float32."""
    low = np.arange(2**bits, dtype=np.float32)
    if unsigned:
        return low
    return 1 - 2 * low if bits == 1 else np.where(low < 2 ** (bits - 1), low, low - 2**bits).astype(np.float32)


def _by_word(bits: int, unsigned: bool) -> tuple[int, np.ndarray]:
    """How many bytes make a word, and what each word holds: ``[words, entries]`` float32."""
    entries = 4 if bits == 3 else 8 // bits  # 3 bits: four entries in 12 bits, two of which fill three bytes
    words = np.arange(2 ** (entries * bits))[:, None] >> bits * np.arange(entries)
    return 12 if bits == 3 else 8, _patterns(bits, unsigned)[words & (2**bits - 1)]


@dataclasses.dataclass(frozen=True, eq=False)
class PackedTable:
    """A :class:`recjax.quantize.QTensor`, or with ``bias`` a :class:`recjax.quantize.RowQuantized`, of two axes."""

    words: np.ndarray
    scale: np.ndarray
    bias: np.ndarray | None
    bits: int
    shape: tuple[int, int]
    group_size: int | None = None

    def __post_init__(self) -> None:
        rows, dim = _two_axes(self.shape)
        if self.bits not in (1, 2, 3, 4, 8) or type(self.bits) is not int:
            raise ValueError(f"bits: expected 1, 2, 3, 4 or 8, got {self.bits!r:.20}")
        _expect("words", self.words, np.uint8, rows, -(-dim * self.bits // 8))
        _check_scales(self.scale, self.bias, self.shape, self.group_size)
        object.__setattr__(self, "_words", _by_word(self.bits, self.bias is not None))

    def rows(self, ids: Ids) -> np.ndarray:
        """As :meth:`Table.rows`."""
        values = self.steps(ids)
        values *= _of_rows(self.scale, ids, self.shape, self.group_size)
        if self.bias is not None:
            values += _of_rows(self.bias, ids, self.shape, None)
        return values

    @property
    def scaled_rows(self) -> bool:
        """Whether a row is its steps times one scale."""
        return self.bias is None and self.scale.shape[1] == 1

    def steps(self, ids: Ids) -> np.ndarray:
        """The whole numbers of some rows, ``[n, dim]`` float32."""
        words = self.words[ids]
        if self.bits == 8 and self.bias is None:
            return words.view(np.int8).astype(np.float32)
        width, numbers = self._words  # pyright: ignore[reportAttributeAccessIssue]
        return _decode(words, width, numbers)[:, : self.shape[1]]


def _decode(words: np.ndarray, width: int, numbers: np.ndarray) -> np.ndarray:
    """What rows of bytes ``[rows, bytes]`` hold, by :func:`_by_word`."""
    if width == 12:
        words = np.pad(words, [(0, 0), (0, -words.shape[1] % 3)]).astype(np.int16)
        one, two, three = words[:, ::3], words[:, 1::3], words[:, 2::3]
        words = np.stack([one | (two & 15) << 8, two >> 4 | three << 4], axis=2).reshape(len(words), -1)
    # As whole numbers of the size of a word's entries, which are copied faster than rows of a few floats.
    entry = np.dtype(f"V{numbers.shape[1] * 4}")
    return numbers.view(entry)[:, 0].take(words).view(np.float32).reshape(len(words), -1)


def _two_axes(shape: Any) -> tuple[int, int]:
    if not isinstance(shape, tuple) or len(shape) != 2 or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"shape: expected rows and dim, got {shape!r:.60}")
    return shape


def _check_scales(scale: Any, bias: Any, shape: tuple[int, int], group_size: Any) -> None:
    rows, dim = shape
    if group_size is not None and (type(group_size) is not int or group_size < 1):
        raise ValueError(f"group_size: expected at least 1, got {group_size!r:.20}")
    columns = (1, dim) if group_size is None else (-(-dim // group_size),)
    for name, part, wide in (("scale", scale, columns), ("bias", bias, (1,))):
        if name == "bias" and part is None:
            continue
        shapes = [(n, m) for n in (rows, 1) for m in wide]
        if not isinstance(part, np.ndarray) or part.dtype != np.float16 or part.shape not in shapes:
            raise ValueError(f"{name}: expected float16 of {rows} rows, got {_found(part)}")
        if not np.isfinite(part).all():
            raise ValueError(f"{name}: expected finite numbers, got others")


def _of_rows(part: np.ndarray, ids: Ids, shape: tuple[int, int], group_size: int | None) -> np.ndarray:
    """Scales or biases of some rows, as float32 that broadcasts against them."""
    found = (part if len(part) != shape[0] else part[ids]).astype(np.float32)
    return found if group_size is None else np.repeat(found, group_size, axis=1)[:, : shape[1]]


@dataclasses.dataclass(frozen=True, eq=False)
class SparseTable:
    """A :class:`recjax.prune.SparseTensor` of two axes."""

    bitmap: np.ndarray
    before: np.ndarray
    values: np.ndarray
    scale: np.ndarray | None
    bias: np.ndarray | None
    kept: int
    bits: int | None
    shape: tuple[int, int]
    group_size: int | None = None

    def __post_init__(self) -> None:
        rows, dim = _two_axes(self.shape)
        _expect("bitmap", self.bitmap, np.uint8, -(-rows * dim // 8))
        _expect("before", self.before, np.int32, -(-rows * dim // (8 * _COUNTED)))
        if self.bits is None:
            if self.values.dtype.kind != "f" or self.values.shape != (self.kept,):
                raise ValueError(f"values: expected {self.kept!r:.20} floats, got {_found(self.values)}")
        elif self.bits not in (1, 2, 3, 4, 8) or type(self.bits) is not int or type(self.kept) is not int:
            raise ValueError(f"bits: expected 1, 2, 3, 4 or 8, got {self.bits!r:.20}")
        else:
            _expect("values", self.values, np.uint8, -(-self.kept * self.bits // 8))
            _check_scales(self.scale, self.bias, self.shape, self.group_size)
            object.__setattr__(self, "_numbers", _patterns(self.bits, self.bias is not None))

    def rows(self, ids: Ids) -> np.ndarray:
        """As :meth:`Table.rows`."""
        row, column, value = self.entries(ids)
        count = ids.stop - ids.start if isinstance(ids, slice) else len(ids)
        table = np.zeros((count, self.shape[1]), np.float32)
        table[row, column] = value
        return table

    def entries(self, ids: Ids) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The kept entries of some rows: ``[n]`` place in ``ids``, ``[n]`` column and ``[n]`` float32 value."""
        adjacent = isinstance(ids, slice)
        ids = np.arange(ids.start, ids.stop) if isinstance(ids, slice) else np.asarray(ids)
        dim = self.shape[1]
        first, shift = np.divmod(ids * dim, 8)
        window = first[:, None] + np.arange(-(-(dim + (7 if dim % 8 else 0)) // 8))
        kept = np.unpackbits(self.bitmap[np.minimum(window, max(len(self.bitmap) - 1, 0))], axis=1, bitorder="little")
        row, bit = np.nonzero(kept)
        column = bit - shift[row]
        if dim % 8:
            inside = (column >= 0) & (column < dim)
            row, column = row[inside], column[inside]
        place = np.arange(len(row))
        if len(row) and adjacent:
            place += self._rank(first[:1], shift[:1])
        elif len(row):
            counts = np.bincount(row, minlength=len(ids))
            place += np.repeat(self._rank(first, shift) - (np.cumsum(counts) - counts), counts)
        if len(row) and not 0 <= place.min() <= place.max() < self.kept:
            raise InputError(f"sparse table: expected counts up to {self.kept}, got {place.min()} to {place.max()}")
        if self.bits is None or self.scale is None:
            return row, column, self.values[place].astype(np.float32)
        value = self._numbers[_at(self.values, place, self.bits)]  # pyright: ignore[reportAttributeAccessIssue]
        columns = 0 if self.scale.shape[1] == 1 else column // (self.group_size or 1)
        value *= self.scale[ids[row] if len(self.scale) == self.shape[0] else 0, columns].astype(np.float32)
        if self.bias is not None:
            value += self.bias[ids[row] if len(self.bias) == self.shape[0] else 0, 0].astype(np.float32)
        return row, column, value

    def _rank(self, byte: np.ndarray, bit: np.ndarray) -> np.ndarray:
        """How many entries are kept before some bits of the bitmap."""
        start, length = np.divmod(byte, _COUNTED)
        inside = np.arange(_COUNTED)
        window = self.bitmap[np.minimum(start[:, None] * _COUNTED + inside, len(self.bitmap) - 1)]
        ones = (np.bitwise_count(window) * (inside < length[:, None])).sum(axis=1, dtype=np.int64)
        return self.before[start] + ones + np.bitwise_count(self.bitmap[byte] & ((1 << bit) - 1).astype(np.uint8))


def _at(words: np.ndarray, place: np.ndarray, bits: int) -> np.ndarray:
    """The bit patterns at some places of numbers packed side by side."""
    if bits == 8:
        return words[place]
    byte, shift = np.divmod(place * bits, 8)
    low = words[byte] >> shift.astype(np.uint8)
    if 8 % bits:
        high = words[np.minimum(byte + 1, len(words) - 1)].astype(np.uint16)
        low = low | high << (8 - shift).astype(np.uint16)
    return low & (2**bits - 1)


@dataclasses.dataclass(frozen=True, eq=False)
class IndexedTable:
    """A :class:`recjax.embed.IndexedRows`: as many pairs of a position and a value in each row."""

    positions: np.ndarray
    values: Table
    dim: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", as_table(self.values))
        if type(self.dim) is not int or not 1 <= self.dim <= 2**16:
            raise ValueError(f"dim: expected 1 to {2**16}, got {self.dim!r:.20}")
        rows, count = self.values.shape
        _expect("positions", self.positions, np.uint8, rows, sum(_position_bytes(self.dim, count)))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dim."""
        return self.values.shape[0], self.dim

    def rows(self, ids: Ids) -> np.ndarray:
        """As :meth:`Table.rows`."""
        places, values = self.entries(ids)
        table = np.zeros((len(values), self.dim), np.float32)
        np.put_along_axis(table, places, values, axis=1)
        return table

    def entries(self, ids: Ids) -> tuple[np.ndarray, np.ndarray]:
        """Positions ``[n, pairs]`` int64 and values ``[n, pairs]`` float32 of some rows."""
        values, words = self.values.rows(ids), self.positions[ids]
        low, _ = _position_bytes(self.dim, values.shape[1])
        bits = max((self.dim - 1).bit_length(), 1)
        places = _unpacked(words[:, :low], min(bits, 8), values.shape[1])
        if bits > 8:
            places += _unpacked(words[:, low:], bits - 8, values.shape[1]) << 8
        if places.size and places.max() >= self.dim:
            raise InputError(f"table of indexed rows: expected positions below {self.dim}, got {places.max()}")
        return places, values


def _position_bytes(dim: int, count: int) -> tuple[int, int]:
    """Bytes of the low eight bits of a row's positions, and of the bits above those."""
    bits = max((dim - 1).bit_length(), 1)
    return -(-count * min(bits, 8) // 8), -(-count * max(bits - 8, 0) // 8)


def _unpacked(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """``[n, count]`` int64 of rows of numbers packed side by side."""
    ones = np.unpackbits(words, axis=1, count=count * bits, bitorder="little").reshape(len(words), count, bits)
    return ones.astype(np.int64) @ (1 << np.arange(bits))


_RECORDS = {
    "IndexedRows": IndexedTable,
    "QTensor": PackedTable,
    "RowQuantized": PackedTable,
    "SparseTensor": SparseTable,
}


def open_params(path: str | Path) -> Any:
    """Reads a file of :func:`save_params` without JAX, memory-mapped.

    Args:
      path: the file.

    Returns:
      The tree: dicts, lists, tuples and None of read-only arrays, and a :class:`Table` for each
      :class:`recjax.quantize.QTensor`, :class:`recjax.quantize.RowQuantized`, :class:`recjax.prune.SparseTensor` and
      :class:`recjax.embed.IndexedRows`. A table has a ``shape`` and decodes a few rows at a time.

    Raises:
      InputError: if the file is missing, damaged or foreign, or has a record of another kind or without two axes.

    Examples:
      >>> import tempfile, jax.numpy as jnp, numpy as np
      >>> from recjax import quantize
      >>> from recjax.artifact import save_params
      >>> path = tempfile.mkdtemp() + "/weights.safetensors"
      >>> _ = save_params(path, {"item": quantize.quantize(jnp.array([[1.0, -2.0], [3.0, 7.0]]), bits=4)})
      >>> open_params(path)["item"].rows(np.array([1, 0])).tolist()
      [[3.0, 7.0], [1.0, -2.0]]
    """
    return read_tree(Path(path), _record)


def _record(name: str, parts: dict[str, Any], part: Any) -> Table:
    if name not in _RECORDS:
        raise ValueError(f"expected one of the records {', '.join(_RECORDS)}, got {name!r:.40}")
    names = [field.name for field in dataclasses.fields(_RECORDS[name])]
    found = {key: part(value) if isinstance(value, dict) else static(value) for key, value in parts.items()}
    unknown = set(found) - set(names)
    if unknown or (_RECORDS[name] is PackedTable and (name == "RowQuantized") != (found.get("bias") is not None)):
        raise ValueError(f"record {name}: parts {sorted(found)!r:.80}")
    return _RECORDS[name](**{"bias": None, **found} if _RECORDS[name] is PackedTable else found)
