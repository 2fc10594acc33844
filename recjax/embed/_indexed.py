"""Tables with sparse rows, as positions and values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from recjax.embed._lookup import Table, all_if_none, inside, lookup, stored_bytes, touched, untouched
from recjax.quantize import pack_bits, unpack_bits
from recjax.trees import record


@record
class IndexedRows:
    """A table with sparse rows, each with the same number of (position, value) pairs, see :func:`indexed_rows`.

    Attributes:
      positions: ``[rows, ceil(nnz * b / 8)]`` uint8 with ``b = max(ceil(log2 dim), 1)`` bits per position, all
        different within a row; packed by :func:`recjax.quantize.pack_bits`, above 8 bits the low bytes first, then the
        high bits.
      values: ``[rows, nnz]``, an array or a record, such as a packed one with a scale per row.
      dim: length of a vector. Static.
    """

    positions: jax.Array
    values: Table
    dim: int = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        return self.positions.shape[0], self.dim

    nbytes = property(stored_bytes)

    def rows(self, ids: jax.Array | None) -> jax.Array:
        ids = all_if_none(ids, self.shape[0])
        held = inside(ids, self.shape[0])
        values = lookup(self.values, ids)
        words = jnp.asarray(self.positions)[jnp.where(held, ids, 0)]
        places = _unpack_positions(words, values.shape[-1], self.dim)
        dense = jnp.zeros((*ids.shape, self.dim), values.dtype)
        dense = jnp.put_along_axis(dense, places, values, axis=-1, inplace=False)
        return jnp.where(held[..., None], dense, jnp.nan)

    def touched(self, ids: jax.Array) -> "IndexedRows":
        return dataclasses.replace(self, positions=untouched(self.positions), values=touched(self.values, ids))


def _bits(dim: int) -> int:
    return max((dim - 1).bit_length(), 1)


def _pack_positions(places: np.ndarray, dim: int) -> jax.Array:
    low, high = (jnp.asarray(part.astype(np.uint8)) for part in (places & 255, places >> 8))
    if (bits := _bits(dim)) <= 8:
        return pack_bits(low, bits)
    return jnp.concatenate([low, pack_bits(high, bits - 8)], axis=-1)


def _unpack_positions(words: jax.Array, count: int, dim: int) -> jax.Array:
    if (bits := _bits(dim)) <= 8:
        return unpack_bits(words, bits, count).astype(jnp.int32)
    high = unpack_bits(words[..., count:], bits - 8, count).astype(jnp.int32)
    return words[..., :count].astype(jnp.int32) | (high << 8)


def indexed_rows(table: jax.Array, *, nnz: int) -> IndexedRows:
    r"""The non-zeros of a table as ``nnz`` (position, value) pairs per row.

    .. math::
        e_i = \sum_{k=1}^{K} v_{ik}\,u_{p_{ik}}, \qquad p_{i1} < \dots < p_{ik} \text{ the non-zeros of row } i

    with the unit vectors :math:`u`. Rows with fewer non-zeros are padded with zeros. Packed by :func:`quantized`, rows
    equal those trained with :func:`recjax.compress.top_k_pruning` and :func:`recjax.compress.row_quantization`, bit for
    bit.

    Args:
      table: ``[rows, dim]`` float, dim at most 65,536, with at most ``nnz`` non-zeros (NaN included) per row. Not
        traced, because it is checked.
      nnz: pairs per row, 1 to dim.

    Knobs:
      ``nnz`` (static; 8 to 128 of 4,096 in the paper).

    Storage:
      ``rows * (ceil(nnz * ceil(log2 dim) / 8) + 4 * nnz)`` bytes with values in float32.

    Raises:
      ValueError: if ``table`` isn't ``[rows, dim]``, dim is above 65,536, ``nnz`` is not from 1 to dim, or a row has
        more non-zeros.

    Examples:
      >>> from recjax import embed
      >>> sparse = indexed_rows(jnp.zeros((1000, 512)).at[3, 300].set(2.0), nnz=8)
      >>> sparse.nbytes, embed.quantized(sparse, bits=4).nbytes, float(embed.lookup(sparse, jnp.array(3))[300])
      (41000, 15000, 2.0)

    References:
      Vančura et al., `Efficient Learning of Sparse Representations from Interactions
      <https://arxiv.org/abs/2602.09935>`_, 2026.
    """
    values = np.asarray(table)
    if values.ndim != 2 or values.shape[1] > 2**16:
        raise ValueError(f"table: expected shape [rows, dim] with dim at most {2**16}, got {values.shape}")
    if not 1 <= nnz <= values.shape[1]:
        raise ValueError(f"nnz: expected 1 to {values.shape[1]} (the dim), got {nnz}")
    empty = values == 0
    if (most := int((~empty).sum(1).max(initial=0))) > nnz:
        raise ValueError(f"table: expected at most {nnz} non-zeros per row, got {most}")
    places = np.argsort(empty, axis=1, kind="stable")[:, :nnz]
    found = np.take_along_axis(values, places, axis=1)
    return IndexedRows(_pack_positions(places, values.shape[1]), jnp.asarray(found), values.shape[1])
