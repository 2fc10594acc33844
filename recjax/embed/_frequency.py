"""Tables that give frequent rows more bytes: pruned rows and mixed dimensions; and the quantizer of records."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recjax import quantize
from recjax.embed._factors import fit_low_rank, project
from recjax.embed._lookup import Table, all_if_none, inside, lookup, stored_bytes, touched, untouched
from recjax.embed._masked import Masked
from recjax.trees import record


@record
class PrunedRows:
    """A table with pruned rows, see :func:`pruned_rows`.

    Rank in a bitmap: the position of a kept row in ``table`` is the number of kept rows before it.

    Attributes:
      table: ``[kept, dim]``, in order of id.
      words: ``[ceil(rows / 32)]`` uint32, the bitmap, low bit first.
      before: ``[ceil(rows / 32)]`` int32, number of rows kept in the words before.
      total: number of rows. Static.
    """

    table: Table
    words: jax.Array
    before: jax.Array
    total: int = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        return self.total, self.table.shape[1]

    nbytes = property(stored_bytes)

    def _place(self, ids: jax.Array) -> jax.Array:
        """Position of a kept row in ``table``, -1 for other ids."""
        held = inside(ids, self.total)
        safe = jnp.where(held, ids, 0)
        word, bit = jnp.asarray(self.words)[safe // 32], (safe % 32).astype(jnp.uint32)
        kept = held & ((word >> bit) & 1 == 1)
        lower = word & ((jnp.uint32(1) << bit) - 1)
        place = jnp.asarray(self.before)[safe // 32] + jax.lax.population_count(lower).astype(jnp.int32)
        return jnp.where(kept, place, -1)

    def rows(self, ids: jax.Array | None) -> jax.Array:
        ids = all_if_none(ids, self.total)
        place = self._place(ids)
        left_out = inside(ids, self.total) & (place < 0)
        return jnp.where(left_out[..., None], 0, lookup(self.table, place))

    def touched(self, ids: jax.Array) -> "PrunedRows":
        none = untouched((self.words, self.before))
        table = touched(self.table, self._place(ids))
        return dataclasses.replace(self, table=table, words=none[0], before=none[1])


def pruned_rows(table: jax.Array, keep: np.ndarray) -> PrunedRows:
    r"""A table with pruned rows, which read as zero.

    .. math::
        e_i = k_i\,E_i, \qquad k_i \in \{0, 1\}

    Args:
      table: ``[rows, dim]``.
      keep: ``[rows]`` bool, at least one True. Not traced: it determines the shape of the result.

    Knobs:
      ``keep`` (static).

    Storage:
      ``4 * kept * dim + 8 * ceil(rows / 32)`` bytes with rows in float32.

    Raises:
      ValueError: if ``keep`` isn't ``[rows]`` bool, or keeps nothing.

    Examples:
      >>> pruned = pruned_rows(jnp.array([[1.0], [2.0], [3.0]]), np.array([True, False, True]))
      >>> lookup(pruned).ravel().tolist(), pruned.nbytes
      ([1.0, 0.0, 3.0], 16)

    References:
      Jacobson, *Space-efficient Static Trees and Graphs*, FOCS 1989: rank in a bitmap.
    """
    keep = np.asarray(keep)
    if keep.shape != table.shape[:1] or keep.dtype != bool or not keep.any():
        raise ValueError(f"keep: expected {table.shape[:1]} bool with a True, got {keep.dtype} {keep.shape}")
    padded = np.pad(keep, (0, -len(keep) % 32))
    words = np.packbits(padded, bitorder="little").view("<u4").astype(np.uint32)
    counts = padded.reshape(-1, 32).sum(1)
    before = np.cumsum(counts) - counts
    place = np.flatnonzero(keep)
    return PrunedRows(table[place], jnp.asarray(words), jnp.asarray(before, jnp.int32), len(keep))


@record
class MixedDims:
    """A table of mixed dimensions, see :func:`mixed_dims`; rows are in order of falling frequency.

    Attributes:
      tables: ``[rows of the group, width]`` each.
      projections: ``[width, dim]`` each.
    """

    tables: tuple[Table, ...]
    projections: tuple[jax.Array, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return sum(table.shape[0] for table in self.tables), self.projections[0].shape[1]

    nbytes = property(stored_bytes)

    def _own(self, ids: jax.Array) -> list[jax.Array]:
        """Ids relative to the first row of each group, -1 outside of it."""
        starts = np.cumsum([0, *(table.shape[0] for table in self.tables[:-1])])
        return [
            jnp.where(inside(ids - start, table.shape[0]), ids - start, -1)
            for start, table in zip(starts.tolist(), self.tables, strict=True)
        ]

    def rows(self, ids: jax.Array | None) -> jax.Array:
        groups = zip(self.tables, self.projections, strict=True)
        if ids is None:
            return jnp.concatenate([project(table, projection, None) for table, projection in groups])
        found = jnp.full((*ids.shape, self.shape[1]), jnp.nan, self.projections[0].dtype)
        for own, (table, projection) in zip(self._own(ids), groups, strict=True):
            found = jnp.where((own >= 0)[..., None], project(table, projection, own), found)
        return found

    def touched(self, ids: jax.Array) -> "MixedDims":
        tables = tuple(touched(table, own) for table, own in zip(self.tables, self._own(ids), strict=True))
        return MixedDims(tables, untouched(self.projections))


def mixed_widths(counts: Any, dim: int, *, alpha: float) -> tuple[int, ...]:
    r"""Widths of groups by popularity, :math:`d_g = d (n_{\min} / n_g)^{\alpha}`, rounded to a power of two.

    As in the paper, the popularity of a group is ``1 / rows``, so the smallest group has the full width.

    Args:
      counts: rows of each group.
      dim: the largest width.
      alpha: 0 gives equal widths, 1 tables of equal size. Static.

    Returns:
      One width per group, from 1 to ``dim``.

    Knobs:
      ``alpha`` (static; 0.3 in the paper, or searched for by the budget).

    Storage:
      Nothing is stored.

    Examples:
      >>> mixed_widths([100, 1000, 10000], 16, alpha=0.3)
      (16, 8, 4)

    References:
      Ginart et al., `Mixed Dimension Embeddings with Application to Memory-Efficient Recommendation Systems
      <https://arxiv.org/abs/1909.11810>`_, 2021, algorithm 2.
    """
    counts = np.asarray(counts, np.float64)
    widths = dim * (counts.min() / counts) ** alpha
    return tuple(int(min(max(2 ** round(np.log2(w)), 1), dim)) for w in widths)


def mixed_dims(
    key: jax.Array, counts: tuple[int, ...], dim: int, *, widths: tuple[int, ...], sd: jax.typing.ArrayLike
) -> MixedDims:
    r"""A table of mixed dimensions: groups of rows with their own width, projected to the full dim.

    .. math::
        e_i = E^{(g)}_{i - n_g} P^{(g)}, \qquad n_g \text{ the first row of the group } g

    Args:
      key: random key.
      counts: rows of each group, the most frequent rows first, so that a group is a range of ids.
      dim: length of a vector.
      widths: width of each group, such as from :func:`mixed_widths`.
      sd: standard deviation of the entries.

    Knobs:
      ``counts``, ``widths`` (static), ``sd`` (traced).

    Storage:
      ``4 * sum(width * (rows of the group + dim))`` bytes in float32.

    Examples:
      >>> table = mixed_dims(jax.random.key(0), (100, 1000), 16, widths=(16, 4), sd=0.1)
      >>> table.shape, table.nbytes
      ((1100, 16), 23680)

    References:
      Ginart et al., `Mixed Dimension Embeddings with Application to Memory-Efficient Recommendation Systems
      <https://arxiv.org/abs/1909.11810>`_, 2021, section 3.
    """
    tables, projections = [], []
    for k, count, width in zip(jax.random.split(key, len(counts)), counts, widths, strict=True):
        one, other = jax.random.split(k)
        tables.append(jnp.asarray(sd) * jax.random.normal(one, (count, width)))
        projections.append(jax.random.normal(other, (width, dim)) / np.sqrt(width))
    return MixedDims(tuple(tables), tuple(projections))


def fit_mixed_dims(table: jax.Array, counts: tuple[int, ...], *, widths: tuple[int, ...]) -> MixedDims:
    """The nearest table of mixed dimensions, by truncated SVD of each group, the exact optimum.

    Args:
      table: ``[sum(counts), dim]`` float, the most frequent rows first.
      counts: rows of each group.
      widths: width of each group, at most its rows and the dim.

    Raises:
      ValueError: if ``counts`` doesn't sum to the rows.

    Examples:
      >>> fit_mixed_dims(jnp.ones((5, 4)), (2, 3), widths=(2, 1)).nbytes
      76
    """
    if sum(counts) != table.shape[0]:
        raise ValueError(f"counts: expected a sum of {table.shape[0]} rows, got {counts}")
    ends = np.cumsum(counts)
    groups = [table[end - n : end] for end, n in zip(ends.tolist(), counts, strict=True)]
    fitted = [fit_low_rank(group, rank=width) for group, width in zip(groups, widths, strict=True)]
    tables = tuple(fit.table for fit in fitted)
    return MixedDims(tables, tuple(fit.projection for fit in fitted))


def quantized(table: Table, *, bits: int) -> Table:
    r"""A table with all its per-row parts packed to a few bits, with one float16 scale per row.

    .. math::
        x_{ij} \approx s_i\,q_{ij}, \qquad s_i = \mathrm{float16}\left(\frac{\max_j |x_{ij}|}{2^{b-1} - 1}\right)

    Projections and codebooks are not quantized. Zeros stay zero, and rows equal those of :class:`FakeQuantized` in
    training, bit for bit.

    Args:
      table: ``[rows, dim]``, an array or a record.
      bits: 1, 2, 3, 4 or 8. Static. At 1 bit it can't be jitted, because a part with zeros becomes :class:`Masked`.

    Knobs:
      ``bits`` (static).

    Storage:
      ``ceil(width * bits / 8) + 2`` bytes per row of a part of that width; at 1 bit, with zeros, another bit per entry.

    Examples:
      >>> from recjax import embed
      >>> table = embed.low_rank(jax.random.key(0), 1000, 16, rank=4, sd=0.1)
      >>> table.nbytes, jax.jit(quantized, static_argnames="bits")(table, bits=4).nbytes
      (16256, 4256)

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks for efficient inference
      <https://arxiv.org/abs/1806.08342>`_, 2018, section 2.2.
    """

    def pack(part: jax.Array, ids: jax.Array | None) -> Any:
        if ids is None:
            return part
        keep = part != 0
        packed = quantize.quantize(part, bits=bits, axis=0, where=keep)
        return packed if bits > 1 or bool(keep.all()) else Masked(packed, keep)

    return jax.tree.map(pack, table, touched(table, jnp.zeros(1, jnp.int32)))
