"""Tables with shared vectors: hashing, quotient-remainder, and MEmCom with one scalar per row."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from recjax.embed._lookup import Table, all_if_none, inside, lookup, stored_bytes, touched
from recjax.trees import record

_STATIC = {"static": True}


def gaussian(key: jax.Array, rows: int, dim: int, sd: jax.typing.ArrayLike) -> jax.Array:
    return jnp.asarray(sd) * jax.random.normal(key, (rows, dim))


def _place(ids: jax.Array, total: int, place: jax.Array) -> jax.Array:
    """The position in a part, -1 for an id outside the table."""
    return jnp.where(inside(ids, total), place, -1)


@record
class Hashed:
    """A hashed table of ``table [m, dim]`` and ``total`` rows, see :func:`hashed`."""

    table: Table
    total: int = dataclasses.field(metadata=_STATIC)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.total, self.table.shape[1]

    nbytes = property(stored_bytes)

    def _bucket(self, ids: jax.Array) -> jax.Array:
        return _place(ids, self.total, ids % self.table.shape[0])

    def rows(self, ids: jax.Array | None) -> jax.Array:
        return lookup(self.table, self._bucket(all_if_none(ids, self.total)))

    def touched(self, ids: jax.Array) -> "Hashed":
        return dataclasses.replace(self, table=touched(self.table, self._bucket(ids)))


@dataclasses.dataclass(frozen=True)
class _Quotient:
    """The parts of the quotient-remainder tables."""

    quotient: Table
    remainder: Table
    total: int = dataclasses.field(metadata=_STATIC)

    nbytes = property(stored_bytes)

    def _split(self, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        over, left = jnp.divmod(ids, self.remainder.shape[0])
        return _place(ids, self.total, over), _place(ids, self.total, left)

    def _both(self, ids: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        over, left = self._split(all_if_none(ids, self.total))
        return lookup(self.quotient, over), lookup(self.remainder, left)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.total, self.remainder.shape[1]

    def touched(self, ids: jax.Array) -> Any:
        over, left = self._split(ids)
        return dataclasses.replace(self, quotient=touched(self.quotient, over), remainder=touched(self.remainder, left))


@record
class QuotientSum(_Quotient):
    """The table of ``quotient [ceil(rows / m), dim]`` and ``remainder [m, dim]`` of :func:`quotient_sum`."""

    def rows(self, ids: jax.Array | None) -> jax.Array:
        over, left = self._both(ids)
        return over + left


@record
class QuotientProduct(_Quotient):
    """The table of ``quotient [ceil(rows / m), dim]`` and ``remainder [m, dim]`` of :func:`quotient_product`."""

    def rows(self, ids: jax.Array | None) -> jax.Array:
        over, left = self._both(ids)
        return over * left


@record
class QuotientConcat(_Quotient):
    """The table of ``quotient [ceil(rows / m), dim - width]``, ``remainder [m, width]`` of :func:`quotient_concat`."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.total, self.quotient.shape[1] + self.remainder.shape[1]

    def rows(self, ids: jax.Array | None) -> jax.Array:
        return jnp.concatenate(self._both(ids), axis=-1)


@record
class MemCom:
    """A MEmCom table of ``table [m, dim]`` and ``scale [rows, 1]``, see :func:`mem_com`."""

    table: Table
    scale: Table

    @property
    def shape(self) -> tuple[int, ...]:
        return self.scale.shape[0], self.table.shape[1]

    nbytes = property(stored_bytes)

    def _bucket(self, ids: jax.Array) -> jax.Array:
        return _place(ids, self.shape[0], ids % self.table.shape[0])

    def rows(self, ids: jax.Array | None) -> jax.Array:
        ids = all_if_none(ids, self.shape[0])
        return lookup(self.table, self._bucket(ids)) * lookup(self.scale, ids)

    def touched(self, ids: jax.Array) -> "MemCom":
        return MemCom(touched(self.table, self._bucket(ids)), touched(self.scale, ids))


def check_buckets(rows: int, buckets: int) -> None:
    if not 1 <= buckets <= rows:
        raise ValueError(f"buckets: expected 1 to {rows} (the rows), got {buckets}")


def hashed(key: jax.Array, rows: int, dim: int, *, buckets: int, sd: jax.typing.ArrayLike) -> Hashed:
    r"""A hashed table, :math:`e_i = E_{i \bmod m}`, with Gaussian entries and :math:`m` ``buckets``.

    With ids sorted by frequency, the :math:`m` most frequent rows don't collide.

    Knobs:
      ``buckets`` (static), ``sd`` (traced).

    Storage:
      ``4 * m * dim`` bytes in float32.

    Raises:
      ValueError: if ``buckets`` is below 1 or above ``rows``.

    Examples:
      >>> table = hashed(jax.random.key(0), 1000, 8, buckets=100, sd=0.1)
      >>> table.shape, table.nbytes
      ((1000, 8), 3200)

    References:
      Shi et al., `Compositional Embeddings Using Complementary Partitions <https://arxiv.org/abs/1909.02107>`_, 2020,
      section 2: the hashing trick with the remainder as the hash.
    """
    check_buckets(rows, buckets)
    return Hashed(gaussian(key, buckets, dim, sd), rows)


def quotient_sum(key: jax.Array, rows: int, dim: int, *, buckets: int, sd: jax.typing.ArrayLike) -> QuotientSum:
    r"""A quotient-remainder table that adds, :math:`e_i = Q_{\lfloor i / m \rfloor} + R_{i \bmod m}`.

    No two rows share both vectors. Storage is smallest with ``buckets`` :math:`m` near the square root of ``rows``.
    ``sd`` is the standard deviation of the sum.

    Knobs:
      ``buckets`` (static), ``sd`` (traced).

    Storage:
      ``4 * (ceil(rows / m) + m) * dim`` bytes in float32.

    Raises:
      ValueError: if ``buckets`` is below 1 or above ``rows``.

    Examples:
      >>> quotient_sum(jax.random.key(0), 1000, 8, buckets=32, sd=0.1).nbytes
      2048

    References:
      Shi et al., `Compositional Embeddings Using Complementary Partitions <https://arxiv.org/abs/1909.02107>`_, 2020,
      section 4.
    """
    return QuotientSum(*_quotients(key, rows, dim, dim, buckets, sd / jnp.sqrt(2.0)), rows)


def quotient_product(key: jax.Array, rows: int, dim: int, *, buckets: int, sd: jax.typing.ArrayLike) -> QuotientProduct:
    r"""A quotient-remainder table that multiplies, :math:`e_i = Q_{\lfloor i / m \rfloor} \odot R_{i \bmod m}`.

    As :func:`quotient_sum`; ``sd`` is the standard deviation of the product.

    Knobs:
      ``buckets`` (static), ``sd`` (traced). The default of the paper and of DLRM.

    Storage:
      ``4 * (ceil(rows / m) + m) * dim`` bytes in float32.

    References:
      Shi et al., `Compositional Embeddings Using Complementary Partitions <https://arxiv.org/abs/1909.02107>`_, 2020,
      section 4.
    """
    return QuotientProduct(*_quotients(key, rows, dim, dim, buckets, jnp.sqrt(sd)), rows)


def quotient_concat(
    key: jax.Array, rows: int, dim: int, *, buckets: int, width: int, sd: jax.typing.ArrayLike
) -> QuotientConcat:
    r"""A quotient-remainder table that concatenates, :math:`e_i = [Q_{\lfloor i / m \rfloor}; R_{i \bmod m}]`.

    As :func:`quotient_sum`; ``width`` is the number of entries from the remainder, ``sd`` that of all entries.

    Knobs:
      ``buckets``, ``width`` (static), ``sd`` (traced).

    Storage:
      ``4 * (ceil(rows / m) * (dim - width) + m * width)`` bytes in float32.

    Examples:
      >>> quotient_concat(jax.random.key(0), 1000, 8, buckets=32, width=4, sd=0.1).nbytes
      1024

    References:
      Shi et al., `Compositional Embeddings Using Complementary Partitions <https://arxiv.org/abs/1909.02107>`_, 2020,
      section 4.
    """
    return QuotientConcat(*_quotients(key, rows, dim - width, width, buckets, sd), rows)


def _quotients(
    key: jax.Array, rows: int, over: int, left: int, buckets: int, sd: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
    check_buckets(rows, buckets)
    one, other = jax.random.split(key)
    return gaussian(one, -(-rows // buckets), over, sd), gaussian(other, buckets, left, sd)


def mem_com(key: jax.Array, rows: int, dim: int, *, buckets: int, sd: jax.typing.ArrayLike) -> MemCom:
    r"""A MEmCom table, :math:`e_i = v_i E_{i \bmod m}`: :math:`m` ``buckets`` and one scale per row, initially 1.

    Knobs:
      ``buckets`` (static), ``sd`` (traced).

    Storage:
      ``4 * (m * dim + rows)`` bytes in float32.

    Raises:
      ValueError: if ``buckets`` is below 1 or above ``rows``.

    Examples:
      >>> mem_com(jax.random.key(0), 1000, 8, buckets=100, sd=0.1).nbytes
      7200

    References:
      Pansare et al., `Learning Compressed Embeddings for On-Device Inference <https://arxiv.org/abs/2203.10135>`_,
      2022, section 4.
    """
    check_buckets(rows, buckets)
    return MemCom(gaussian(key, buckets, dim, sd), jnp.ones((rows, 1)))
