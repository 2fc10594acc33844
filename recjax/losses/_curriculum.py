"""Curriculum distillation from snapshots of several teachers (HetComp)."""

import jax
import jax.numpy as jnp

from recjax.arrays import (
    check_booleans,
    check_integers,
    check_lists,
    check_same_shape,
    check_where,
    clear_masked,
    drop_infinite,
    fill_masked,
    wide_dtype,
)
from recjax.losses._ranking import plackett_luce


def het_comp(
    student: jax.Array,
    observed: jax.Array,
    unobserved: jax.Array,
    *,
    where: jax.Array,
    hard: jax.typing.ArrayLike,
) -> jax.Array:
    r"""Negative log-likelihood of the ranking by an ensemble of teachers, coarse at first and fine later (HetComp).

    With the user's own items :math:`P`, the teachers' best :math:`T` of the unobserved items :math:`U`, its first half
    :math:`T_{1/2}` and first tenth :math:`T_{1/10}` (rounded down), and :math:`\mathrm{PL}(L \mid R)` the loss
    :func:`relaxed_ranking` of the list :math:`L` before the items :math:`R`,

    .. math::
        \ell_{\mathrm{easy}} &= -\sum_{j \in P \cup T} \Big[ s_j - \log\Big( e^{s_j} +
        \sum_{i \in U \setminus T} e^{s_i} \Big) \Big], \\
        \ell_{\mathrm{hard}} &= \mathrm{PL}(P \mid U \setminus T_{1/2}) + \tfrac{1}{2} \left[
        \mathrm{PL}(T_{1/2} \mid U \setminus T_{1/2}) + \mathrm{PL}(T_{1/10} \mid U \setminus T_{1/10}) \right].

    Args:
      student: ``[..., items]`` float, scores :math:`s` of all items; minus infinity at an unlisted item masks it.
      observed: ``[..., P]`` integer, distinct ids of the user's own items, best first, padded by -1.
      unobserved: ``[..., K]`` integer, distinct ids of the best unobserved items, best first, padded by -1. The
        padding is not in :math:`T`.
      where: ``[..., items]`` bool, True for the user's unobserved items.
      hard: scalar or ``[...]`` bool, whether to use the hard loss. May be traced.

    Returns:
      ``[...]`` nats, one per user; 0 where no id is listed, NaN where an id is outside of the catalog.

    Examples:
      >>> s = jnp.array([3.0, 2.0, 1.0, 0.0])
      >>> observed, unobserved = jnp.array([0, -1]), jnp.array([1, 2])
      >>> where = jnp.array([False, True, True, True])
      >>> print(f"{het_comp(s, observed, unobserved, where=where, hard=False):.4f}")
      0.4888

    Published:
      ``P = 10`` and ``K = 100`` from the ensemble of 6 teachers with 4 snapshots each; weight 1e-2 on the easy loss,
      and 5e-3 on the hard loss, for all users once every teacher is at its last snapshot. Sums over the distinct users
      of a batch of 1024, without a loss on labels. The public code clamps scores at 40.

    Sampling:
      Nothing. Every 10 epochs :func:`teacher_ready` selects each user's snapshots, whose ensemble gives the lists.

    References:
      Kang et al., `Distillation from Heterogeneous Models for Top-K Recommendation
      <https://arxiv.org/abs/2303.01130>`_, WWW 2023.
    """
    student, observed, unobserved = jnp.asarray(student), jnp.asarray(observed), jnp.asarray(unobserved)
    hard = jnp.asarray(hard)
    check_lists(student=student, observed=observed, unobserved=unobserved)
    check_where(where, student.shape)
    check_integers(observed=observed, unobserved=unobserved)
    check_booleans(hard=hard)
    if hard.shape not in ((), student.shape[:-1]):
        raise ValueError(f"expected hard of shape {student.shape[:-1]} or a scalar, got {hard.shape}")
    dtype = wide_dtype(student, "student")
    observed, unobserved = observed.astype(jnp.int32), unobserved.astype(jnp.int32)

    # Both losses depend on differences only: subtracting the best score keeps their precision.
    row = student.astype(dtype)
    where = drop_infinite(row, where)
    best = jnp.max(fill_masked(row, where), axis=-1, keepdims=True)
    row = row - jax.lax.stop_gradient(jnp.where(jnp.any(where, axis=-1, keepdims=True), best, 0))
    own, known = _gather_scores(row, observed)
    top, listed = _gather_scores(row, unobserved)

    # Position of each item in `unobserved`, or the list's length if it isn't there: one scatter gives all the sets.
    items, length = student.shape[-1], unobserved.shape[-1]
    rank = jax.lax.cumsum(listed.astype(jnp.int32), axis=listed.ndim - 1) - 1
    place = jnp.put_along_axis(
        jnp.full(student.shape, length, jnp.int32),
        jnp.where(listed, unobserved, items),
        rank,
        axis=-1,
        inplace=False,
        mode="drop",
    )
    count = jnp.sum(listed, axis=-1, keepdims=True, dtype=jnp.int32)

    rest = where & (place >= count)
    mass = jax.nn.logsumexp(fill_masked(clear_masked(row, rest), rest), axis=-1, keepdims=True)
    easy_loss = jnp.sum(clear_masked(jax.nn.softplus(mass - own), known), axis=-1)
    easy_loss += jnp.sum(clear_masked(jax.nn.softplus(mass - top), listed), axis=-1)

    half, tenth = count // 2, count // 10
    below_half, below_tenth = where & (place >= half), where & (place >= tenth)
    hard_loss = plackett_luce(own, row, known, below_half) + 0.5 * (
        plackett_luce(top, row, listed & (rank < half), below_half)
        + plackett_luce(top, row, listed & (rank < tenth), below_tenth)
    )
    return jnp.where(hard, hard_loss, easy_loss).astype(student.dtype)


def teacher_ready(
    before: jax.Array,
    now: jax.Array,
    epoch: jax.typing.ArrayLike,
    *,
    alpha: jax.typing.ArrayLike = 1.05,
    decay: jax.typing.ArrayLike = 0.995,
    period: jax.typing.ArrayLike = 10,
) -> jax.Array:
    r"""Whether a teacher advances to its next snapshot for a user (HetComp).

    With the student's discrepancy :math:`D` from the teacher's next snapshot, its value :math:`D'` when the teacher
    last advanced, and a check every :math:`p` epochs, at epoch :math:`e`,

    .. math::
        \frac{D'}{D} > \alpha \, \gamma^{e / p} \quad \text{or} \quad \frac{D'}{D} < 1.

    The threshold falls over time, so every teacher reaches its last snapshot. The published discrepancy is 1 - NDCG@50
    of the student's list, with gain :math:`2^{\exp(-r / 10)} - 1` for the snapshot's item at rank :math:`r`.

    Args:
      before: ``[...]`` float ``>= 0``, :math:`D'`.
      now: ``[...]`` float ``>= 0``, :math:`D`.
      epoch: scalar, :math:`e`. May be traced.
      alpha: scalar, :math:`\alpha`.
      decay: scalar in (0, 1], :math:`\gamma`.
      period: scalar ``> 0``, :math:`p`.

    Returns:
      ``[...]`` bool, one per pair of user and teacher; True if both discrepancies are 0, False if one is NaN.

    Examples:
      >>> before, now = jnp.array([0.9, 0.9, 0.9]), jnp.array([0.6, 0.88, 0.95])
      >>> teacher_ready(before, now, 0).tolist()
      [True, False, True]

    References:
      Kang et al., `Distillation from Heterogeneous Models for Top-K Recommendation
      <https://arxiv.org/abs/2303.01130>`_, WWW 2023.
    """
    before, now = jnp.asarray(before), jnp.asarray(now)
    check_same_shape(before=before, now=now)
    dtype = wide_dtype(before, "before")
    before, now = before.astype(dtype), now.astype(dtype)
    alpha, decay, elapsed = (jnp.asarray(x, dtype) for x in (alpha, decay, epoch))
    threshold = alpha * jnp.power(decay, elapsed / jnp.asarray(period, dtype))
    ratio = before / now
    return (ratio > threshold) | (ratio < 1) | ((before == 0) & (now == 0))


def _gather_scores(row: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The scores of a list of ids, 0 for padding, and which ids are not padding."""
    known = ids >= 0
    return clear_masked(jnp.take_along_axis(row, jnp.where(known, ids, 0), axis=-1), known), known
