"""Ranking distillation (RD): the teacher's best items as positives, weighted by position and by the student's ranks."""

import jax
import jax.numpy as jnp

from recjax.arrays import (
    check_lists,
    check_rows,
    check_where,
    clear_masked,
    wide_dtype,
)


def ranking_distillation(student: jax.Array, weights: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Weighted log loss with the teacher's top items as positives (RD).

    .. math::
        \ell(s, w) = -\sum_r w_r \log \sigma(s_r) = \sum_r w_r \, \mathrm{softplus}(-s_r).

    Args:
      student: ``[..., K]`` float, scores :math:`s` of the teacher's best items, best first, without the user's own.
      weights: ``[..., K]`` float, weights :math:`w`: :func:`position_weights`, later times :func:`discrepancy_weights`.
      where: ``[..., K]`` bool, which items count.

    Returns:
      ``[...]`` nats, one per list.

    Examples:
      >>> s, w = jnp.array([2.0, 1.0, 0.0]), position_weights(3, sharpness=1.0)
      >>> print(f"{ranking_distillation(s, w):.4f}")
      0.2235

    Published:
      ``K = 10``, sharpness 1 for the positions; from epoch 10 on times the discrepancy weights, not renormalized, with
      ``mu`` 0.1 on ranks estimated from 100 items. Weight 1 on the mean over a batch of 512, beside binary
      cross-entropy with 3 negatives. The public code excludes only the current target from the teacher's list.

    Sampling:
      Nothing for the list, the teacher's top ``K``. For the estimated ranks, items without an interaction, uniformly,
      once per epoch: :func:`recjax.data.uniform_negatives`.

    References:
      Tang and Wang, `Ranking Distillation: Learning Compact Ranking Models With High Performance for Recommender System
      <https://arxiv.org/abs/1809.07428>`_, KDD 2018.
    """
    student, weights = jnp.asarray(student), jnp.asarray(weights)
    check_rows(student=student, weights=weights)
    if where is not None:
        check_where(where, student.shape)
    dtype = wide_dtype(student, "student")
    s, w = clear_masked(student.astype(dtype), where), clear_masked(weights.astype(dtype), where)
    return jnp.sum(w * jax.nn.softplus(-s), axis=-1).astype(student.dtype)


def position_weights(length: int, *, sharpness: jax.typing.ArrayLike) -> jax.Array:
    r"""Weights that decay exponentially with the position in a list (RD).

    .. math::
        w_r = \frac{e^{-r / \lambda}}{\sum_{r'} e^{-r' / \lambda}}, \quad r = 1, \dots, K.

    Args:
      length: number of positions :math:`K`, static.
      sharpness: scalar ``> 0``, :math:`\lambda`. The larger, the more uniform the weights.

    Returns:
      ``[length]`` weights with sum 1, in JAX's default floating dtype.

    Examples:
      >>> [f"{weight:.4f}" for weight in position_weights(3, sharpness=1.0)]
      ['0.6652', '0.2447', '0.0900']

    References:
      Tang and Wang, `Ranking Distillation: Learning Compact Ranking Models With High Performance for Recommender System
      <https://arxiv.org/abs/1809.07428>`_, KDD 2018.
    """
    sharpness = jnp.asarray(sharpness, float)
    # The softmax has no 0 / 0 for a sharpness near 0, where only the first position is left.
    return jax.nn.softmax(-jnp.arange(1, length + 1, dtype=sharpness.dtype) / sharpness)


def estimated_ranks(student: jax.Array, sampled: jax.Array, *, items: jax.typing.ArrayLike) -> jax.Array:
    r"""Rank among all items, estimated from a sample of items (RD).

    .. math::
        \hat r = 1 + \left\lfloor \frac{(N - 1) \, \#\{j : n_j > s\}}{\epsilon} \right\rfloor.

    The best rank is 1; the paper's code starts at 0. No gradient flows.

    Args:
      student: ``[..., K]`` float, scores :math:`s` of the items to rank.
      sampled: ``[..., n]`` float, scores :math:`n_j` of the :math:`\epsilon` sampled items.
      items: integer scalar, number of items :math:`N`.

    Returns:
      ``[..., K]`` ranks from 1 to ``items``; NaN where a score is NaN.

    Examples:
      >>> s, sampled = jnp.array([3.5, 1.5]), jnp.array([4.0, 3.0, 2.0, 1.0])
      >>> print(estimated_ranks(s, sampled, items=101))
      [26. 76.]

    References:
      Tang and Wang, `Ranking Distillation: Learning Compact Ranking Models With High Performance for Recommender System
      <https://arxiv.org/abs/1809.07428>`_, KDD 2018.
    """
    student, sampled = jnp.asarray(student), jnp.asarray(sampled)
    check_lists(student=student, sampled=sampled)
    dtype = wide_dtype(student, "student")
    s, n = student.astype(dtype), sampled.astype(dtype)
    size = sampled.shape[-1]
    above = jnp.sum(n[..., None, :] > s[..., :, None], axis=-1, dtype=jnp.int32)
    # Quotient and remainder apart: (N - 1) times the count would overflow for a catalog of millions.
    whole, remainder = jnp.divmod(jnp.asarray(items, jnp.int32) - 1, size)
    ranks = (1 + whole * above + remainder * above // size).astype(dtype)
    unknown = jnp.isnan(s) | jnp.any(jnp.isnan(n), axis=-1, keepdims=True)
    return jnp.where(unknown, jnp.nan, ranks).astype(student.dtype)


def discrepancy_weights(ranks: jax.Array, *, mu: jax.typing.ArrayLike) -> jax.Array:
    r"""Weights of the teacher's list by how much lower the student ranks each item (RD).

    .. math::
        w_r = \max\left(0, \tanh(\mu (\hat r_r - r))\right), \quad r = 1, \dots, K.

    Args:
      ranks: ``[..., K]`` float, student's rank :math:`\hat r_r`, from 1, of the teacher's :math:`r`-th item.
      mu: scalar ``> 0``, :math:`\mu`.

    Returns:
      ``[..., K]`` weights in [0, 1].

    Examples:
      >>> ranks = jnp.array([11.0, 1.0, 3.0])
      >>> [f"{weight:.4f}" for weight in discrepancy_weights(ranks, mu=0.1)]
      ['0.7616', '0.0000', '0.0000']

    References:
      Tang and Wang, `Ranking Distillation: Learning Compact Ranking Models With High Performance for Recommender System
      <https://arxiv.org/abs/1809.07428>`_, KDD 2018.
    """
    ranks = jnp.asarray(ranks)
    check_rows(ranks=ranks)
    dtype = wide_dtype(ranks, "ranks")
    position = jax.lax.broadcasted_iota(dtype, ranks.shape, ranks.ndim - 1) + 1
    return jnp.maximum(jnp.tanh(jnp.asarray(mu, dtype) * (ranks.astype(dtype) - position)), 0).astype(ranks.dtype)
