"""Least-squares fits of hashed and quotient-remainder tables to a trained table."""

import jax
import jax.numpy as jnp

from recjax.embed._hashed import Hashed, MemCom, QuotientConcat, QuotientProduct, QuotientSum, check_buckets


def _grid(table: jax.Array, buckets: int) -> tuple[jax.Array, jax.Array]:
    """A table as ``[quotients, remainders, dim]``, and a mask of ones, 0 for padding."""
    check_buckets(table.shape[0], buckets)
    short = -table.shape[0] % buckets
    full = jnp.pad(table, ((0, short), (0, 0))).reshape(-1, buckets, table.shape[1])
    there = jnp.arange(full.shape[0] * buckets) < table.shape[0]
    return full, there.reshape(-1, buckets, 1).astype(table.dtype)


def fit_hashed(table: jax.Array, *, buckets: int) -> Hashed:
    """The nearest :class:`Hashed` table in least squares: each bucket is the mean of its rows.

    Examples:
      >>> print(fit_hashed(jnp.array([[1.0], [2.0], [5.0]]), buckets=2).table)
      [[3.]
       [2.]]
    """
    full, there = _grid(table, buckets)
    return Hashed(full.sum(0) / there.sum(0), table.shape[0])


def fit_quotient_concat(table: jax.Array, *, buckets: int, width: int) -> QuotientConcat:
    """The nearest :class:`QuotientConcat` table in least squares, from means of rows.

    Examples:
      >>> fitted = fit_quotient_concat(jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), buckets=2, width=1)
      >>> fitted.quotient.tolist(), fitted.remainder.tolist()
      ([[2.0], [5.0]], [[4.0], [4.0]])
    """
    full, there = _grid(table, buckets)
    cut = table.shape[1] - width
    over = full[..., :cut].sum(1) / there.sum(1)
    return QuotientConcat(over, full[..., cut:].sum(0) / there.sum(0), table.shape[0])


def fit_quotient_sum(table: jax.Array, *, buckets: int, rounds: int = 50) -> QuotientSum:
    """The nearest :class:`QuotientSum` table, by ``rounds`` (static) of alternating least squares.

    The problem is convex. One round is exact if ``buckets`` divides the rows; else convergence is linear.

    Examples:
      >>> from recjax.embed import lookup
      >>> table = jnp.array([[1.0], [2.0], [11.0], [12.0]])
      >>> print(lookup(fit_quotient_sum(table, buckets=2)).ravel())
      [ 1.  2. 11. 12.]
    """
    full, there = _grid(table, buckets)

    def body(_: int, left: jax.Array) -> jax.Array:
        return (there * (full - over(left)[:, None])).sum(0) / there.sum(0)

    def over(left: jax.Array) -> jax.Array:
        return (there * (full - left[None])).sum(1) / there.sum(1)

    left = jax.lax.fori_loop(0, rounds, body, jnp.zeros_like(full[0]))
    return QuotientSum(over(left), left, table.shape[0])


def _ratio(above: jax.Array, below: jax.Array) -> jax.Array:
    return above / jnp.where(below == 0, 1, below)


def fit_quotient_product(table: jax.Array, *, buckets: int, rounds: int = 50) -> QuotientProduct:
    """The nearest :class:`QuotientProduct` table, by a rank-1 approximation of each dimension.

    The SVD is exact if ``buckets`` divides the rows; else ``rounds`` (static) of alternating least squares follow, to a
    local optimum.

    Examples:
      >>> from recjax.embed import lookup
      >>> table = jnp.array([[1.0], [2.0], [3.0], [6.0]])
      >>> print(lookup(fit_quotient_product(table, buckets=2)).ravel().round(4))
      [1. 2. 3. 6.]
    """
    full, there = _grid(table, buckets)

    def over(left: jax.Array) -> jax.Array:
        return _ratio((full * left[None]).sum(1), (there * jnp.square(left)[None]).sum(1))

    def body(_: int, left: jax.Array) -> jax.Array:
        q = over(left)[:, None]
        return _ratio((full * q).sum(0), (there * jnp.square(q)).sum(0))

    _, values, right = jnp.linalg.svd(full.transpose(2, 0, 1), full_matrices=False)
    if table.shape[0] % buckets == 0:
        left = right[:, 0].T
    else:  # the SVD takes missing entries as zeros, so the optimum may be orthogonal to its first vector
        left = jax.lax.fori_loop(0, rounds, body, (values[..., None] * right).sum(1).T)
    return QuotientProduct(over(left), left, table.shape[0])


def fit_mem_com(table: jax.Array, *, buckets: int) -> MemCom:
    """The nearest :class:`MemCom` table, by an SVD of each bucket's rows.

    Examples:
      >>> from recjax.embed import lookup
      >>> table = jnp.array([[1.0, 2.0], [3.0, 0.0], [2.0, 4.0]])
      >>> print(lookup(fit_mem_com(table, buckets=2)).round(4))
      [[1. 2.]
       [3. 0.]
       [2. 4.]]
    """
    full, _ = _grid(table, buckets)
    _, values, right = jnp.linalg.svd(full.transpose(1, 0, 2), full_matrices=False)
    size = values[:, :1] / jnp.sqrt(full.shape[0])  # so that scales are about 1
    vectors = jnp.where(size > 0, size, 1) * right[:, 0]
    scale = jnp.einsum("qbd,bd->qb", full, vectors) / jnp.square(vectors).sum(-1)[None]
    return MemCom(vectors, scale.reshape(-1, 1)[: table.shape[0]])
