"""Tables as products of small arrays: low rank and tensor train."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from recjax.embed._lookup import Table, all_if_none, inside, lookup, stored_bytes, touched, untouched
from recjax.trees import record


@record
class LowRank:
    """A low-rank table of ``table [rows, rank]`` and ``projection [rank, dim]``, see :func:`low_rank`."""

    table: Table
    projection: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.table.shape[0], self.projection.shape[1]

    nbytes = property(stored_bytes)

    def rows(self, ids: jax.Array | None) -> jax.Array:
        return project(self.table, self.projection, ids)

    def touched(self, ids: jax.Array) -> "LowRank":
        return dataclasses.replace(self, table=touched(self.table, ids), projection=untouched(self.projection))


def project(table: Table, projection: jax.Array, ids: jax.Array | None) -> jax.Array:
    """Rows times a projection; an id outside gives NaN and no gradient to the projection."""
    values = lookup(table, ids)
    if ids is None:
        return values @ projection
    held = inside(ids, table.shape[0])[..., None]
    return jnp.where(held, jnp.where(held, values, 0) @ projection, jnp.nan)


def low_rank(key: jax.Array, rows: int, dim: int, *, rank: int, sd: jax.typing.ArrayLike) -> LowRank:
    """A low-rank table, :math:`E = U V`, with Gaussian factors; ``rank`` is the number of columns of :math:`U`.

    Knobs:
      ``rank`` (static), ``sd`` (traced).

    Storage:
      ``4 * rank * (rows + dim)`` bytes in float32.

    Raises:
      ValueError: if ``rank`` is less than 1.

    Examples:
      >>> low_rank(jax.random.key(0), 1000, 16, rank=4, sd=0.1).nbytes
      16256

    References:
      Lan et al., `ALBERT <https://arxiv.org/abs/1909.11942>`_, 2020, section 3.1, factorized embeddings.
    """
    if rank < 1:
        raise ValueError(f"rank: expected at least 1, got {rank}")
    one, other = jax.random.split(key)
    projection = jax.random.normal(other, (rank, dim)) / math.sqrt(rank)
    return LowRank(jnp.asarray(sd) * jax.random.normal(one, (rows, rank)), projection)


def fit_low_rank(table: jax.Array, *, rank: int) -> LowRank:
    """The nearest low-rank table by truncated SVD, the exact optimum; the projection has orthonormal rows.

    ``rank`` is at most ``min(rows, dim)``.

    Examples:
      >>> table = jnp.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])
      >>> bool(jnp.allclose(lookup(fit_low_rank(table, rank=1)), table, atol=1e-5))
      True

    References:
      Eckart and Young, *The approximation of one matrix by another of lower rank*, 1936.
    """
    left, values, right = jnp.linalg.svd(table, full_matrices=False)
    return LowRank(left[:, :rank] * values[None, :rank], right[:rank])


@record
class TensorTrain:
    """A tensor-train table, see :func:`tensor_train`.

    An id has the digits :math:`i_1, i_2, i_3` in the bases ``n1, n2, n3``, the most significant first.

    Attributes:
      first: ``[n1, d1 * r1]``.
      second: ``[n2, r1 * d2 * r2]``.
      third: ``[n3, r2 * d3]``.
      dims: ``(d1, d2, d3)``. Static.
      ranks: ``(r1, r2)``. Static.
      total: number of rows, at most ``n1 n2 n3``. Static.
    """

    first: Table
    second: Table
    third: Table
    dims: tuple[int, int, int] = dataclasses.field(metadata={"static": True})
    ranks: tuple[int, int] = dataclasses.field(metadata={"static": True})
    total: int = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        return self.total, math.prod(self.dims)

    nbytes = property(stored_bytes)

    def _digits(self, ids: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        n2, n3 = self.second.shape[0], self.third.shape[0]
        held = inside(ids, self.total)
        digits = ids // (n2 * n3), ids // n3 % n2, ids % n3
        one, two, three = (jnp.where(held, digit, -1) for digit in digits)
        return one, two, three

    def rows(self, ids: jax.Array | None) -> jax.Array:
        one, two, three = self._digits(all_if_none(ids, self.total))
        (d1, d2, d3), (r1, r2), outer = self.dims, self.ranks, one.shape
        a = lookup(self.first, one).reshape(*outer, d1, r1)
        b = lookup(self.second, two).reshape(*outer, r1, d2, r2)
        c = lookup(self.third, three).reshape(*outer, r2, d3)
        return jnp.einsum("...xr,...rys,...sz->...xyz", a, b, c).reshape(*outer, d1 * d2 * d3)

    def touched(self, ids: jax.Array) -> "TensorTrain":
        one, two, three = self._digits(ids)
        return dataclasses.replace(
            self,
            first=touched(self.first, one),
            second=touched(self.second, two),
            third=touched(self.third, three),
        )


def _check_train(rows: tuple[int, ...], dims: tuple[int, ...], total: int) -> None:
    if len(rows) != 3 or len(dims) != 3 or math.prod(rows) < total:
        raise ValueError(f"rows and dims: expected 3 factors each, of {total} rows or more, got {rows} and {dims}")


def tensor_train(
    key: jax.Array,
    total: int,
    *,
    rows: tuple[int, int, int],
    dims: tuple[int, int, int],
    ranks: tuple[int, int],
    sd: jax.typing.ArrayLike | None = None,
) -> TensorTrain:
    r"""A tensor-train table, :math:`E_{(i_1 i_2 i_3), (j_1 j_2 j_3)} = G_1[i_1, j_1]\,G_2[i_2, j_2]\,G_3[i_3, j_3]`.

    Core entries are Gaussian with standard deviation :math:`(\sigma / \sqrt{r_1 r_2})^{1/3}`, so that of the table is
    :math:`\sigma`. (The paper also excludes values near zero.)

    Args:
      key: random key.
      total: number of rows.
      rows: three factors whose product is ``total`` or more.
      dims: three factors of the dim.
      ranks: :math:`r_1, r_2`.
      sd: scalar ``>= 0``, :math:`\sigma`; None is the paper's :math:`\sqrt{1 / (3 n)}` for :math:`n` rows. May be
        traced; not checked.

    Knobs:
      ``rows``, ``dims``, ``ranks`` (static), ``sd`` (traced). Ranks of 8 to 64 in the paper.

    Storage:
      ``4 * (n1 * d1 * r1 + n2 * r1 * d2 * r2 + n3 * r2 * d3)`` bytes in float32.

    Raises:
      ValueError: if there are not three factors each, or those of the rows multiply to less than ``total``.

    Examples:
      >>> table = tensor_train(jax.random.key(0), 1000, rows=(10, 10, 10), dims=(2, 2, 4), ranks=(4, 4))
      >>> table.shape, table.nbytes
      ((1000, 16), 2240)

    References:
      Yin et al., `TT-Rec: Tensor Train Compression for Deep Learning Recommendation Models
      <https://arxiv.org/abs/2101.11714>`_, 2021, sections 3 and 4.
    """
    _check_train(rows, dims, total)
    sd = math.sqrt(1 / (3 * total)) if sd is None else sd
    core = jnp.cbrt(sd / math.sqrt(ranks[0] * ranks[1]))
    chain = (1, *ranks, 1)
    widths = [chain[i] * dims[i] * chain[i + 1] for i in range(3)]
    cores = [
        core * jax.random.normal(k, (n, w)) for k, n, w in zip(jax.random.split(key, 3), rows, widths, strict=True)
    ]
    return TensorTrain(cores[0], cores[1], cores[2], dims, ranks, total)


def fit_tensor_train(
    table: jax.Array, *, rows: tuple[int, int, int], dims: tuple[int, int, int], ranks: tuple[int, int]
) -> TensorTrain:
    r"""A tensor-train approximation of a trained table by two truncated SVDs (TT-SVD).

    Exact at the ranks of the two unfoldings; otherwise the error is within :math:`\sqrt{2}` times the best one.

    Arguments as for :func:`tensor_train`; rows beyond the table count as zeros, and ranks are at most those of the
    unfoldings.

    Raises:
      ValueError: if the factors don't multiply to the dim, or to at least the rows.

    Examples:
      >>> table = jnp.arange(64.0).reshape(8, 8)
      >>> fitted = fit_tensor_train(table, rows=(2, 2, 2), dims=(2, 2, 2), ranks=(2, 2))
      >>> bool(jnp.allclose(lookup(fitted), table, atol=1e-3)), fitted.nbytes
      (True, 128)

    References:
      Oseledets, *Tensor-Train Decomposition*, SIAM J. Sci. Comput. 33, 2011, algorithm 1 and corollary 2.4.
    """
    total = table.shape[0]
    _check_train(rows, dims, total)
    (n1, n2, n3), (d1, d2, d3) = rows, dims
    if d1 * d2 * d3 != table.shape[1]:
        raise ValueError(f"dims: expected factors of {table.shape[1]}, got {dims}")
    full = jnp.pad(table, ((0, n1 * n2 * n3 - total), (0, 0))).reshape(n1, n2, n3, d1, d2, d3)
    full = full.transpose(0, 3, 1, 4, 2, 5)
    left, values, right = jnp.linalg.svd(full.reshape(n1 * d1, -1), full_matrices=False)
    r1 = min(ranks[0], values.size)
    first, rest = left[:, :r1], (values[:r1, None] * right[:r1]).reshape(r1 * n2 * d2, n3 * d3)
    left, values, right = jnp.linalg.svd(rest, full_matrices=False)
    r2 = min(ranks[1], values.size)
    second = left[:, :r2].reshape(r1, n2, d2 * r2).transpose(1, 0, 2)
    third = (values[:r2, None] * right[:r2]).reshape(r2, n3, d3).transpose(1, 0, 2)
    return TensorTrain(first.reshape(n1, d1 * r1), second.reshape(n2, -1), third.reshape(n3, -1), dims, (r1, r2), total)
