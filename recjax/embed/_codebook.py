"""Product quantization: a row is a few codes, each an index into its own codebook."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from recjax import quantize
from recjax.embed._lookup import Table, all_if_none, inside, lookup, shape_below, stored_bytes, touched, untouched
from recjax.trees import record

_RESTARTS = 4  # of k-means; the best one counts


def _nearest(parts: jax.Array, books: jax.Array) -> jax.Array:
    """The code of each part, ``[..., parts, width]`` and ``[parts, codes, width]`` to ``[..., parts]``."""
    # By differences, since norms minus twice the product cancel for close vectors far from zero. One code at a time,
    # to save memory.
    parts, books = jax.lax.stop_gradient((parts, books))

    def closer(best: tuple[jax.Array, jax.Array], code: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        index, center = code
        distance = jnp.square(parts - center.reshape((1,) * (parts.ndim - 2) + center.shape)).sum(-1)
        wins = (distance < best[0]) | (jnp.isnan(distance) & ~jnp.isnan(best[0]))  # NaN wins
        return (jnp.where(wins, distance, best[0]), jnp.where(wins, index, best[1])), None

    start = jnp.full(parts.shape[:-1], jnp.inf, parts.dtype), jnp.zeros(parts.shape[:-1], jnp.int32)
    codes = jnp.arange(books.shape[1], dtype=jnp.int32), books.transpose(1, 0, 2)
    return jax.lax.scan(closer, start, codes)[0][1]


def _read(codes: jax.Array, books: jax.Array) -> jax.Array:
    """``[..., parts]`` codes to ``[..., parts * width]``."""
    parts, _, width = books.shape
    chosen = books[jnp.arange(parts).reshape((1,) * (codes.ndim - 1) + (parts,)), codes]
    return chosen.reshape(*codes.shape[:-1], parts * width)


@record
class ProductQuantized:
    r"""A product-quantized table: part p of row i is ``books[p, code[i, p]]``.

    .. math::
        e_i = [B_{1, c_{i1}}; \dots; B_{P, c_{iP}}]

    Codes have ``bits = ceil(log2 codes)`` each. Gradients flow to the codebooks only.

    Attributes:
      words: ``[rows, ceil(parts * bits / 8)]`` uint8, the packed codes.
      books: ``[parts, codes, dim / parts]``.

    Knobs:
      ``parts``, ``codes`` (static).

    Storage:
      ``rows * ceil(parts * bits / 8) + 4 * codes * dim`` bytes with books in float32.

    References:
      Jégou, Douze and Schmid, *Product Quantization for Nearest Neighbor Search*, TPAMI 33, 2011, section II.
    """

    words: jax.Array
    books: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.words.shape[0], self.books.shape[0] * self.books.shape[2]

    nbytes = property(stored_bytes)

    def rows(self, ids: jax.Array | None) -> jax.Array:
        ids = all_if_none(ids, self.shape[0])
        held = inside(ids, self.shape[0])
        words = jnp.asarray(self.words)[jnp.where(held, ids, 0)]
        codes = quantize.unpack_bits(words, _bits(self.books.shape[1]), self.books.shape[0])
        return jnp.where(held[..., None], _read(codes, self.books), jnp.nan)

    def touched(self, ids: jax.Array) -> "ProductQuantized":
        return untouched(self)


def _bits(codes: int) -> int:
    return max((codes - 1).bit_length(), 1)


@record
class LearnedProduct:
    """A trainable product-quantized table of ``table [rows, dim]`` and ``books [parts, codes, dim / parts]``.

    See :func:`learned_product`. Gradients pass straight through to the row; :meth:`commitment` trains the codebooks.
    """

    table: Table
    books: jax.Array

    shape = property(shape_below)
    nbytes = property(stored_bytes)

    def _quantized(self, values: jax.Array) -> jax.Array:
        count, _, width = self.books.shape
        parts = jax.lax.stop_gradient(values).reshape(*values.shape[:-1], count, width)
        return _read(_nearest(parts, self.books), self.books)

    def rows(self, ids: jax.Array | None) -> jax.Array:
        values = lookup(self.table, ids)
        return quantize.straight_through(values, jnp.where(jnp.isnan(values), values, self._quantized(values)))

    def touched(self, ids: jax.Array) -> "LearnedProduct":
        return dataclasses.replace(self, table=touched(self.table, ids), books=untouched(self.books))

    def commitment(self, ids: jax.Array) -> jax.Array:
        r"""The loss of the codebooks, :math:`(v - \mathrm{sg}(x))^2`, ``[..., dim]`` for ``ids [...]``, not reduced."""
        values = jax.lax.stop_gradient(lookup(self.table, ids))
        unknown = jnp.isnan(values)  # padding, which must not reach the gradient of the books
        gaps = self._quantized(values) - jnp.where(unknown, 0, values)
        return jnp.where(unknown, jnp.nan, jnp.square(gaps))


def _check_parts(dim: int, parts: int, codes: int) -> None:
    if parts < 1 or dim % parts:
        raise ValueError(f"parts: expected a divisor of {dim}, got {parts}")
    if not 1 <= codes <= 256:
        raise ValueError(f"codes: expected 1 to 256, got {codes}")


def learned_product(
    key: jax.Array, rows: int, dim: int, *, parts: int, codes: int, sd: jax.typing.ArrayLike
) -> LearnedProduct:
    r"""A trainable product-quantized table with Gaussian rows and codebooks.

    With :math:`v_p` the vector of codebook :math:`p` nearest to part :math:`p` of the row :math:`x`,

    .. math::
        e = x + \mathrm{sg}(v - x), \qquad \text{and the loss gets}\quad \mathrm{mean}\,(v - \mathrm{sg}(x))^2.

    The paper's batch normalization of distances is omitted, so a row doesn't depend on the batch.

    Args:
      key: random key.
      rows: number of rows.
      dim: length of a vector.
      parts: number of codebooks, a divisor of ``dim``.
      codes: vectors per codebook, 1 to 256.
      sd: standard deviation of the entries.
    Knobs:
      ``parts``, ``codes`` (static; 8 and 32 in Hetu), ``sd`` (traced).

    Storage:
      Packed, ``rows * ceil(parts * ceil(log2 codes) / 8) + 4 * codes * dim`` bytes.

    Raises:
      ValueError: if ``parts`` doesn't divide ``dim``, or ``codes`` is not from 1 to 256.

    Examples:
      >>> table = learned_product(jax.random.key(0), 1000, 16, parts=8, codes=32, sd=0.1)
      >>> jax.eval_shape(pack_product, table).nbytes
      7048

    References:
      Chen et al., `Differentiable Product Quantization for End-to-End Embedding Compression
      <https://arxiv.org/abs/1908.09756>`_, 2020, section 3, DPQ-VQ.
    """
    _check_parts(dim, parts, codes)
    one, other = jax.random.split(key)
    books = jnp.asarray(sd) * jax.random.normal(other, (parts, codes, dim // parts))
    return LearnedProduct(jnp.asarray(sd) * jax.random.normal(one, (rows, dim)), books)


def pack_product(table: LearnedProduct) -> ProductQuantized:
    """Packs a trained :class:`LearnedProduct` into a :class:`ProductQuantized` with the same rows.

    A NaN in the table makes the whole codebook of its part NaN.

    Examples:
      >>> books = jnp.array([[[0.0], [1.0]], [[-1.0], [2.0]]])
      >>> print(lookup(pack_product(LearnedProduct(jnp.array([[0.9, 0.8], [0.2, 0.1]]), books))))
      [[ 1.  2.]
       [ 0. -1.]]
    """
    values = lookup(table.table)
    parts = values.reshape(values.shape[0], table.books.shape[0], -1)
    words = quantize.pack_bits(_nearest(parts, table.books).astype(jnp.uint8), _bits(table.books.shape[1]))
    broken = jnp.isnan(parts).any(axis=(0, 2)).reshape(-1, 1, 1)
    return ProductQuantized(words, jnp.where(broken, jnp.nan, table.books))


def fit_learned_product(
    key: jax.Array, table: jax.Array, *, parts: int, codes: int, rounds: int = 20
) -> LearnedProduct:
    """A :class:`LearnedProduct` over a trained table, with codebooks by k-means on each part.

    Lloyd's algorithm with k-means++ seeds, the best of four runs per part: a local optimum.

    Args:
      key: random key.
      table: ``[rows, dim]`` float.
      parts: as for :func:`learned_product`.
      codes: as for :func:`learned_product`, and at most the rows.
      rounds: iterations of Lloyd's algorithm. Static.

    Examples:
      >>> table = jnp.array([[0.0, 5.0], [0.0, 7.0], [4.0, 5.0], [4.0, 7.0]])
      >>> fit = jax.jit(fit_learned_product, static_argnames=("parts", "codes"))
      >>> packed = pack_product(fit(jax.random.key(0), table, parts=2, codes=4))
      >>> packed.nbytes, float(jnp.abs(lookup(packed) - table).max())
      (36, 0.0)

    References:
      Jégou, Douze and Schmid, *Product Quantization for Nearest Neighbor Search*, TPAMI 33, 2011. Arthur and
      Vassilvitskii, *k-means++: The Advantages of Careful Seeding*, SODA 2007, section 2.2.
    """
    rows, dim = table.shape
    _check_parts(dim, parts, codes)
    if codes > rows:
        raise ValueError(f"codes: expected at most {rows} (the rows), got {codes}")
    cut = table.reshape(rows, parts, dim // parts)
    index = jnp.arange(parts)[None]

    def move(_: int, books: jax.Array) -> jax.Array:
        nearest = _nearest(cut, books)
        counts = jnp.zeros((parts, codes, 1), table.dtype).at[index, nearest].add(1)
        sums = jnp.zeros_like(books).at[index, nearest].add(cut)
        return jnp.where(counts > 0, sums / jnp.maximum(counts, 1), books)

    def restart(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        books = jax.lax.fori_loop(0, rounds, move, _seeds(key, cut, codes))
        return books, jnp.square(cut - books[index, _nearest(cut, books)]).sum((0, 2))

    books, errors = jax.lax.map(restart, jax.random.split(key, _RESTARTS))  # [restarts, parts, ...]
    return LearnedProduct(table, books[errors.argmin(0), jnp.arange(parts)])


def _seeds(key: jax.Array, cut: jax.Array, codes: int) -> jax.Array:
    """Codebooks ``[parts, codes, width]`` by k-means++ from ``[rows, parts, width]``."""
    rows, parts, _ = cut.shape

    def draw(distance: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        drawn = jax.random.categorical(key, jnp.log(distance), axis=0)
        center = cut[drawn, jnp.arange(parts)]
        return jnp.minimum(distance, jnp.square(cut - center[None]).sum(-1)), center

    distance = jnp.full((rows, parts), jnp.finfo(cut.dtype).max)  # equal: the first is uniform
    return jax.lax.scan(draw, distance, jax.random.split(key, codes))[1].transpose(1, 0, 2)
