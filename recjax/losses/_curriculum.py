"""Curriculum distillation from several teachers, from easy to hard snapshots (HetComp)."""

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
    r"""Negative log-likelihood of the order that several teachers agree on, coarse at first and fine later.

    With the student's scores :math:`s`, the user's own items :math:`P` and the best items :math:`T` among the user's
    unobserved items :math:`U`, both in the order of the teachers' ensemble, the easy loss is

    .. math::
        \ell_{\mathrm{easy}} = -\sum_{j \in P \cup T} \Big[ s_j - \log\Big( e^{s_j} +
        \sum_{i \in U \setminus T} e^{s_i} \Big) \Big].

    It ranks the listed items above all others, in any order. With :math:`\mathrm{PL}(L \mid R)` the loss
    :func:`relaxed_ranking` of the list :math:`L` before the items :math:`R`, and with the first half and the first
    tenth of :math:`T` (rounded down), the hard loss is

    .. math::
        \ell_{\mathrm{hard}} = \mathrm{PL}(P \mid U \setminus T_{1/2}) + \tfrac{1}{2} \left[
        \mathrm{PL}(T_{1/2} \mid U \setminus T_{1/2}) + \mathrm{PL}(T_{1/10} \mid U \setminus T_{1/10}) \right].

    The user's own items are not compared with the best unobserved ones. The public code clamps scores at 40; a
    log-sum-exp needs no clamp.

    Gradients flow to ``student``.

    Args:
      student: ``[..., items]`` float, unnormalized scores of all items, finite for the listed ones; elsewhere minus
        infinity is the same as masked.
      observed: ``[..., P]`` int, distinct ids of the user's own items, best first, padded by -1.
      unobserved: ``[..., K]`` int, distinct ids of the best of the user's unobserved items, best first, padded by -1.
        The half and the tenth are those of the ids that there are.
      where: ``[..., items]`` bool, True for the user's unobserved items. Scores outside of it are used for the listed
        ids only.
      hard: ``[...]`` bool or a scalar, whether a user is on the hard loss. May be traced.

    Returns:
      ``[...]`` loss in nats, one per user, in the dtype of ``student``; 0 where no id is listed. An id outside of the
      catalog gives NaN.

    Raises:
      ValueError: if the leading axes of the arguments differ, one of the first three is a scalar, or ``where`` has
        another shape than ``student``.
      TypeError: if ``student`` is not of a floating dtype, ``observed`` or ``unobserved`` not of an integer dtype, or
        ``where`` or ``hard`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> s = jnp.array([3.0, 2.0, 1.0, 0.0])
      >>> observed, unobserved = jnp.array([0, -1]), jnp.array([1, 2])
      >>> where = jnp.array([False, True, True, True])
      >>> print(f"{het_comp(s, observed, unobserved, where=where, hard=False):.4f}")
      0.4888
      >>> print(f"{het_comp(s, observed, unobserved, where=where, hard=True):.4f}")
      0.3736

    Published:
      ``P = 10`` and ``K = 100`` from the ensemble of 6 teachers of 4 snapshots each; weight 1e-2 with ``hard`` False,
      and 5e-3 with ``hard`` True for all users from when all teachers are at their last snapshot. Sums over the
      distinct users of a batch of 1024, without any loss on the labels beside it.

    Sampling:
      Nothing. Every 10 epochs :func:`teacher_ready` chooses each user's snapshots, and the lists are those of their
      ensemble.

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
    own, known = _scores(row, observed)
    top, listed = _scores(row, unobserved)

    # The place of every item in the list of the unobserved, beyond its end if not there: one scatter for all the sets.
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
    easy = jnp.sum(clear_masked(jax.nn.softplus(mass - own), known), axis=-1)
    easy = easy + jnp.sum(clear_masked(jax.nn.softplus(mass - top), listed), axis=-1)

    half, tenth = count // 2, count // 10
    below_half, below_tenth = where & (place >= half), where & (place >= tenth)
    fine = plackett_luce(own, row, known, below_half) + 0.5 * (
        plackett_luce(top, row, listed & (rank < half), below_half)
        + plackett_luce(top, row, listed & (rank < tenth), below_tenth)
    )
    return jnp.where(hard, fine, easy).astype(student.dtype)


def teacher_ready(
    before: jax.Array,
    now: jax.Array,
    epoch: jax.typing.ArrayLike,
    *,
    alpha: jax.typing.ArrayLike = 1.05,
    decay: jax.typing.ArrayLike = 0.995,
    period: jax.typing.ArrayLike = 10,
) -> jax.Array:
    r"""Whether a teacher goes on to its next snapshot for a user.

    With the student's discrepancy from the teacher's next snapshot now, :math:`D`, and the reference discrepancy
    :math:`D'`, at epoch :math:`e` with a check every :math:`p` epochs,

    .. math::
        \frac{D'}{D} > \alpha \, \gamma^{e / p} \quad \text{or} \quad \frac{D'}{D} < 1.

    The student has come close enough to the harder snapshot, or no longer improves on it. The threshold falls with
    time, so that every teacher reaches its last snapshot. A student without any discrepancy left is ready.

    The reference changes only when that teacher advances, not at every check. As published, a discrepancy is 1 minus
    the NDCG at 50 of the student's list, with the gain :math:`2^{\exp(-r / 10)} - 1` of the item at position :math:`r`
    of the snapshot's list.

    No gradient flows.

    Args:
      before: ``[...]`` float, reference discrepancies ``>= 0``, of when the teacher last advanced for this user.
      now: ``[...]`` float, discrepancies now, same shape.
      epoch: scalar, the epoch of this check. May be traced.
      alpha: scalar, :math:`\alpha`.
      decay: scalar in (0, 1], :math:`\gamma`.
      period: scalar ``> 0``, epochs from one check to the next.

    Returns:
      ``[...]`` bool, one per pair of user and teacher; False where a discrepancy is NaN.

    Raises:
      ValueError: if ``before`` and ``now`` differ in shape.
      TypeError: if ``before`` is not of a floating dtype.

    Examples:
      >>> import jax.numpy as jnp
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


def _scores(row: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The scores of a list of ids, 0 for the padding, and which of them count."""
    known = ids >= 0
    return clear_masked(jnp.take_along_axis(row, jnp.where(known, ids, 0), axis=-1), known), known
