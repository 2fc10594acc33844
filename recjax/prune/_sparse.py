"""Sparse storage: a bitmap and the kept values."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from recjax.quantize import QTensor, RowQuantized, dequantize, pack_bits, unpack_bits
from recjax.trees import nbytes, record

CHUNK = 128  # bytes of the bitmap per count in ``before``


@record
class SparseTensor:
    r"""Sparse array as a bitmap of the kept entries and their values, with access to single rows.

    .. math::
        x_i = m_i\,v_{r(i)}, \qquad r(i) = \sum_{j < i} m_j, \quad m_i \in \{0, 1\}

    The rank :math:`r(i)` is a count stored per 1024 entries plus a popcount of at most 128 bytes of the bitmap. These
    counts take 1/32 bit per entry, much less than row offsets. An entry that is not kept is exactly 0, also where the
    quantizer doesn't represent zero.

    Attributes:
      bitmap: ``[ceil(size / 8)]`` uint8, one bit per entry in row-major order, from the low end of each byte; 1 = kept.
      before: ``[ceil(size / 1024)]`` int32, kept entries before every 128th byte of ``bitmap``.
      values: kept entries in this order: ``[kept]`` float, or ``[ceil(kept * bits / 8)]`` uint8, packed as in
        :class:`~recjax.quantize.QTensor` but without gaps between rows.
      scale: float16, the scales of the packed array, also of groups without a kept entry. None for floats.
      bias: float16, the biases of packed rows. None without.
      kept: number of kept entries. Static.
      bits: 1, 2, 3, 4 or 8; None for floats. Static.
      shape: shape of the array. Static.
      group_size: as in :class:`~recjax.quantize.QTensor`. Static.

    Storage:
      ``ceil(size / 8) + 4 * ceil(size / 1024) + ceil(kept * bits / 8)`` bytes, and 2 per scale or bias.

    References:
      Gondimalla et al., *SparTen: A Sparse Tensor Accelerator for Convolutional Neural Networks*, MICRO 2019, section
      3; Jacobson, *Space-efficient Static Trees and Graphs*, FOCS 1989 (ranks from stored counts).
    """

    bitmap: jax.Array
    before: jax.Array
    values: jax.Array
    scale: jax.Array | None
    bias: jax.Array | None
    kept: int = dataclasses.field(metadata={"static": True})
    bits: int | None = dataclasses.field(metadata={"static": True})
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    group_size: int | None = dataclasses.field(default=None, metadata={"static": True})

    nbytes = property(nbytes, doc="The bytes that are stored: bitmap, counts, values, scales and biases.")

    def rows(self, ids: jax.Array | None) -> jax.Array:
        """Rows ``[*ids.shape, ..., n]`` of ids ``[...]``, NaN for an id outside the table; the whole table for None."""
        if ids is None:
            return densify(self)
        if len(self.shape) < 2:
            raise ValueError(f"table: expected at least two axes, got shape {self.shape}")
        _check_parts(self)
        (total, *rest), size = self.shape, math.prod(self.shape[1:])
        shape = (*ids.shape, *rest)
        if 0 in self.shape:
            return jnp.full(shape, jnp.nan, jnp.float32 if self.bits else self.values.dtype)
        valid = (ids >= 0) & (ids < total)
        ids = jnp.where(valid, ids, 0).astype(jnp.int32).ravel()

        # Byte and bit of the first entry of a row; the index of the bit itself could overflow int32.
        byte, bit = ids // 8 * size + ids % 8 * size // 8, ids % 8 * size % 8
        chunk, column = byte // CHUNK, byte[:, None]
        window = chunk[:, None] * CHUNK + jnp.arange(CHUNK, dtype=jnp.int32)[None]
        earlier = jnp.where(window < column, _take(self.bitmap, window), 0)
        partial = _take(self.bitmap, byte) & ((jnp.uint8(1) << bit.astype(jnp.uint8)) - 1)
        ones = jnp.sum(jax.lax.population_count(earlier), axis=-1, dtype=jnp.int32)
        start = _take(self.before, chunk) + ones + jax.lax.population_count(partial).astype(jnp.int32)

        places = bit[:, None] + jnp.arange(size, dtype=jnp.int32)[None]
        keep = (_take(self.bitmap, column + places // 8) >> (places % 8).astype(jnp.uint8) & 1).astype(bool)
        rank = start[:, None] + jnp.cumsum(keep, axis=-1, dtype=jnp.int32) - 1  # of a kept entry
        keep, entries = keep.reshape(-1, *rest), _entries(self, rank).reshape(-1, *rest)
        scale, bias = (None if part is None else _rows(part, ids) for part in (self.scale, self.bias))
        values = _masked(self, entries, keep, scale, bias).reshape(shape)
        return jnp.where(valid.reshape(*valid.shape, *[1] * len(rest)), values, jnp.nan)

    def touched(self, ids: jax.Array) -> "SparseTensor":
        """None for every part, as none of them is trained."""
        return jax.tree.map(lambda _: None, self)


def _take(array: jax.Array, places: jax.Array) -> jax.Array:
    """Entries of a vector; 0 past its end."""
    if array.size == 0:  # JAX cannot gather from an empty array
        return jnp.zeros(places.shape, array.dtype)
    return jnp.asarray(array).at[places].get(mode="fill", fill_value=0)


def _rows(part: jax.Array, ids: jax.Array) -> jax.Array:
    """Scales of the given rows, or the scale shared by all rows."""
    part = jnp.asarray(part)
    return jnp.broadcast_to(part, (len(ids), *part.shape[1:])) if len(part) == 1 else part[ids]


def _entries(sparse: SparseTensor, rank: jax.Array) -> jax.Array:
    """The kept entries of the given ranks: floats, or bit patterns whose higher bits are undefined."""
    if sparse.bits is None:
        return _take(sparse.values, rank)
    first, shift = rank // 8 * sparse.bits + rank % 8 * sparse.bits // 8, rank % 8 * sparse.bits % 8
    low, high = (_take(sparse.values, byte).astype(jnp.uint16) for byte in (first, first + 1))
    return ((low | high << 8) >> shift.astype(jnp.uint16)).astype(jnp.uint8)


def _masked(
    sparse: SparseTensor, entries: jax.Array, keep: jax.Array, scale: jax.Array | None, bias: jax.Array | None
) -> jax.Array:
    """Dequantized entries, 0 where not kept."""
    if sparse.bits is None or scale is None:
        return jnp.where(keep, entries, 0)
    words = pack_bits(entries, sparse.bits)
    if bias is None:
        table = QTensor(words, scale, sparse.bits, entries.shape, sparse.group_size)
    else:
        table = RowQuantized(words, scale, bias, sparse.bits, entries.shape)
    return jnp.where(keep, dequantize(table), 0)


def _check_parts(sparse: SparseTensor) -> None:
    size = math.prod(sparse.shape)
    expected = {
        "bitmap": -(-size // 8),
        "before": -(-size // (8 * CHUNK)),
        "values": sparse.kept if sparse.bits is None else -(-sparse.kept * sparse.bits // 8),
    }
    for name, length in expected.items():
        if getattr(sparse, name).shape != (length,):
            raise ValueError(f"{name}: expected shape {(length,)}, got {getattr(sparse, name).shape}")


def _dense(table: jax.Array | QTensor | RowQuantized) -> jax.Array:
    return dequantize(table) if isinstance(table, QTensor | RowQuantized) else table


def sparsify(table: jax.Array | QTensor | RowQuantized, keep: jax.Array | None = None) -> SparseTensor:
    """Sparse form of an array of floats or packed integers.

    Not traceable, as the number of kept entries determines shapes: call it outside :func:`jax.jit`.

    Args:
      table: ``[...]`` float, or a packed record of that shape.
      keep: ``[...]`` bool, the entries to store; the others read as 0. None for all entries that aren't 0.

    Returns:
      :class:`SparseTensor`, whose kept entries are those of ``table``, bit for bit.

    Examples:
      >>> from recjax import quantize
      >>> table = jnp.zeros((4, 16)).at[0, 1].set(2.0).at[3, 5].set(-1.0)
      >>> sparse = sparsify(quantize.quantize(table, bits=4))
      >>> sparse.kept, sparse.values.shape, sparse.nbytes
      (2, (1,), 15)
    """
    if not isinstance(table, QTensor | RowQuantized):
        table = jnp.asarray(table)
        if not jnp.issubdtype(table.dtype, jnp.floating):
            raise TypeError(f"table: expected a float array or a packed record, got {table.dtype}")
    stored: np.ndarray = np.asarray(_dense(table)) != 0 if keep is None else np.asarray(keep)
    if stored.dtype != np.bool_:
        raise TypeError(f"keep: expected bool, got {stored.dtype}")
    if stored.shape != table.shape:
        raise ValueError(f"keep: expected shape {table.shape} of table, got {stored.shape}")
    bitmap, kept = np.packbits(stored, bitorder="little"), int(stored.sum())
    chunks = np.pad(stored.ravel(), (0, -stored.size % (8 * CHUNK))).reshape(-1, 8 * CHUNK).sum(axis=1)
    bitmap, before = jnp.asarray(bitmap), jnp.asarray(np.cumsum(chunks) - chunks, jnp.int32)
    if isinstance(table, QTensor | RowQuantized):
        patterns = np.asarray(unpack_bits(table.words, table.bits, table.shape[-1]))
        values = pack_bits(jnp.asarray(patterns[stored]), table.bits)
        bias = table.bias if isinstance(table, RowQuantized) else None
        group_size = table.group_size if isinstance(table, QTensor) else None
        return SparseTensor(bitmap, before, values, table.scale, bias, kept, table.bits, table.shape, group_size)
    return SparseTensor(bitmap, before, jnp.asarray(np.asarray(table)[stored]), None, None, kept, None, table.shape)


def densify(sparse: SparseTensor) -> jax.Array:
    """Dense values of a sparse array.

    Args:
      sparse: a :class:`SparseTensor`.

    Returns:
      ``sparse.shape``, in the dtype of float values, float32 for packed ones.

    Examples:
      >>> print(densify(sparsify(jnp.array([[0.0, 1.5], [-2.0, 0.0]]))))
      [[ 0.   1.5]
       [-2.   0. ]]
    """
    _check_parts(sparse)
    keep = unpack_bits(sparse.bitmap, 1, math.prod(sparse.shape)).astype(bool)
    values = sparse.values if sparse.bits is None else unpack_bits(sparse.values, sparse.bits, sparse.kept)
    entries = jnp.zeros(keep.shape, values.dtype).at[jnp.nonzero(keep, size=sparse.kept)].set(values)
    keep, entries = keep.reshape(sparse.shape), entries.reshape(sparse.shape)
    return _masked(sparse, entries, keep, sparse.scale, sparse.bias)


def sparsify_if_smaller(
    table: jax.Array | QTensor | RowQuantized, keep: jax.Array | None = None
) -> jax.Array | QTensor | RowQuantized | SparseTensor:
    """The smaller of an array and its sparse form.

    Args:
      table: as in :func:`sparsify`.
      keep: as in :func:`sparsify`.

    Returns:
      :class:`SparseTensor` if it takes fewer bytes, or if ``table`` is not 0 outside ``keep`` because its quantizer
      doesn't represent zero; else ``table``.

    Examples:
      >>> [type(sparsify_if_smaller(x)).__name__ for x in (jnp.ones(64), jnp.zeros(64).at[3].set(1.0))]
      ['ArrayImpl', 'SparseTensor']
    """
    sparse = sparsify(table, keep)
    same = keep is None or bool(jnp.all(jnp.where(keep, 0, _dense(table)) == 0))
    return table if same and table.nbytes <= sparse.nbytes else sparse
