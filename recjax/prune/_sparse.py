"""Unstructured zeros at rest: a bitmap and the entries that are left."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from recjax.quantize import QTensor, RowQuantized, dequantize, pack_bits, unpack_bits
from recjax.trees import nbytes, record


@record
class SparseTensor:
    r"""An array as a bitmap of the entries that are kept, and those entries alone.

    .. math::
        x_i = m_i\,v_{r(i)}, \qquad r(i) = \sum_{j < i} m_j, \quad m_i \in \{0, 1\}

    Invariants:

    * ``bitmap`` has a bit an entry in row-major order, from the low end of each byte; 1 = kept. Left-over bits are 0.
    * ``values`` are the kept entries in that order: as floats, or their ``bits``-bit patterns side by side as in
      :class:`~recjax.quantize.QTensor`, but in one row, with no gap where a row of the array begins.
    * ``scale`` (and ``bias``, of rows that have one) are those of the packed array, for every group that it has, also
      one without a kept entry. Both None of floats.
    * An entry that is not kept is exactly 0, also on a grid without a zero (1 bit, rows with a bias): the mask is
      applied after dequantizing.

    Attributes:
      bitmap: ``[ceil(size / 8)]`` uint8.
      values: ``[kept]`` float, or ``[ceil(kept * bits / 8)]`` uint8.
      scale: float16, or None.
      bias: float16, or None.
      kept: how many entries are kept. Static.
      bits: 1, 2, 3, 4 or 8 of a packed array; None of floats. Static.
      shape: the shape of the array. Static.
      group_size: as of :class:`~recjax.quantize.QTensor`. Static.

    Knobs:
      Which entries are kept, and ``bits`` (static).

    Storage:
      ``ceil(size / 8) + ceil(kept * bits / 8)`` bytes with ``bits`` those of an entry, and 2 bytes a scale or bias.

    References:
      Gondimalla et al., *SparTen: A Sparse Tensor Accelerator for Convolutional Neural Networks*, MICRO 2019, section
      3: a bit mask and the values that aren't zero.
    """

    bitmap: jax.Array
    values: jax.Array
    scale: jax.Array | None
    bias: jax.Array | None
    kept: int = dataclasses.field(metadata={"static": True})
    bits: int | None = dataclasses.field(metadata={"static": True})
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    group_size: int | None = dataclasses.field(default=None, metadata={"static": True})

    nbytes = property(nbytes, doc="The bytes that are stored: bitmap, values, scales and biases.")


def _dense(table: jax.Array | QTensor | RowQuantized) -> jax.Array:
    return dequantize(table) if isinstance(table, QTensor | RowQuantized) else table


def sparsify(table: jax.Array | QTensor | RowQuantized, keep: jax.Array | None = None) -> SparseTensor:
    """The sparse form of an array, of floats or packed.

    How many entries are kept shapes the result, so this runs outside of :func:`jax.jit`.

    Args:
      table: ``[...]`` float, or a packed record of that shape.
      keep: ``[...]`` bool, the entries to store; the others will read as 0. None stores all that aren't 0 (NaN isn't),
        which suits a grid with a zero.

    Returns:
      The :class:`SparseTensor`. Its kept entries read back to the bit as those of ``table``.

    Storage:
      ``ceil(size / 8) + ceil(kept * bits / 8)`` bytes with ``bits`` those of an entry, and 2 bytes a scale or bias.

    Raises:
      ValueError: if ``keep`` has another shape than ``table``.
      TypeError: if ``table`` is neither float nor a packed record, or ``keep`` is not bool.

    Examples:
      >>> import jax.numpy as jnp
      >>> from recjax import quantize
      >>> table = jnp.zeros((4, 16)).at[0, 1].set(2.0).at[3, 5].set(-1.0)
      >>> sparse = sparsify(quantize.quantize(table, bits=4))
      >>> sparse.kept, sparse.values.shape, sparse.nbytes
      (2, (1,), 11)
      >>> bool((densify(sparse) == quantize.dequantize(quantize.quantize(table, bits=4))).all())
      True
    """
    if not isinstance(table, QTensor | RowQuantized):
        table = jnp.asarray(table)
        if not jnp.issubdtype(table.dtype, jnp.floating):
            raise TypeError(f"expected a float array or a packed record, got {table.dtype}")
    stored: np.ndarray = np.asarray(_dense(table)) != 0 if keep is None else np.asarray(keep)
    if stored.dtype != np.bool_:
        raise TypeError(f"keep: expected bool, got {stored.dtype}")
    if stored.shape != table.shape:
        raise ValueError(f"keep: expected the shape of the table, {table.shape}, got {stored.shape}")
    bitmap, kept = jnp.asarray(np.packbits(stored, bitorder="little")), int(stored.sum())
    if isinstance(table, QTensor | RowQuantized):
        patterns = np.asarray(unpack_bits(table.words, table.bits, table.shape[-1]))
        values = pack_bits(jnp.asarray(patterns[stored]), table.bits)
        bias = table.bias if isinstance(table, RowQuantized) else None
        group_size = table.group_size if isinstance(table, QTensor) else None
        return SparseTensor(bitmap, values, table.scale, bias, kept, table.bits, table.shape, group_size)
    return SparseTensor(bitmap, jnp.asarray(np.asarray(table)[stored]), None, None, kept, None, table.shape)


def densify(sparse: SparseTensor) -> jax.Array:
    """The array that a sparse one stands for.

    Args:
      sparse: a :class:`SparseTensor`.

    Returns:
      ``sparse.shape``, in the dtype of float values and float32 of packed ones.

    Raises:
      ValueError: if the parts don't fit the shape.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(densify(sparsify(jnp.array([[0.0, 1.5], [-2.0, 0.0]]))))
      [[ 0.   1.5]
       [-2.   0. ]]
    """
    keep = unpack_bits(sparse.bitmap, 1, math.prod(sparse.shape)).astype(bool)
    values = sparse.values if sparse.bits is None else unpack_bits(sparse.values, sparse.bits, sparse.kept)
    if values.shape != (sparse.kept,):
        raise ValueError(f"values: expected {sparse.kept}, got shape {values.shape}")
    entries = jnp.zeros(keep.shape, values.dtype).at[jnp.nonzero(keep, size=sparse.kept)].set(values)
    entries = entries.reshape(sparse.shape)
    keep = keep.reshape(sparse.shape)
    if sparse.bits is None or sparse.scale is None:
        return jnp.where(keep, entries, 0)
    words = pack_bits(entries, sparse.bits)
    if sparse.bias is None:
        table = QTensor(words, sparse.scale, sparse.bits, sparse.shape, sparse.group_size)
    else:
        table = RowQuantized(words, sparse.scale, sparse.bias, sparse.bits, sparse.shape)
    return jnp.where(keep, dequantize(table), 0)


def smallest(
    table: jax.Array | QTensor | RowQuantized, keep: jax.Array | None = None
) -> jax.Array | QTensor | RowQuantized | SparseTensor:
    """An array in the smaller of two forms: as it is, or sparse.

    Args:
      table: as of :func:`sparsify`.
      keep: as of :func:`sparsify`.

    Returns:
      The :class:`SparseTensor` where it takes fewer bytes, or where ``table`` doesn't read as 0 outside of ``keep``, as
      on a grid without a zero; else ``table``.

    Storage:
      The smaller of :func:`sparsify`'s bytes and the table's own.

    Raises:
      ValueError: if ``keep`` has another shape than ``table``.
      TypeError: if ``table`` is neither float nor a packed record, or ``keep`` is not bool.

    Examples:
      >>> import jax.numpy as jnp
      >>> type(smallest(jnp.ones(64))).__name__, type(smallest(jnp.zeros(64).at[3].set(1.0))).__name__
      ('ArrayImpl', 'SparseTensor')
    """
    sparse = sparsify(table, keep)
    same = keep is None or bool(jnp.all(jnp.where(keep, 0, _dense(table)) == 0))
    return table if same and table.nbytes <= sparse.nbytes else sparse
