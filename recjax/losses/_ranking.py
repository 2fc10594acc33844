"""Ranking distillation losses for top-N recommendation: listwise, pairwise and pointwise."""

import jax
import jax.numpy as jnp

from recjax.arrays import (
    check_booleans,
    check_lists,
    check_rows,
    check_same_shape,
    check_where,
    clear_masked,
    drop_infinite,
    fill_masked,
    wide_dtype,
)
from recjax.losses._logits import soft_target_ce
from recjax.losses._task import binary_cross_entropy, bpr


def plackett_luce(
    listed: jax.Array, others: jax.Array, where: jax.Array | None, others_where: jax.Array | None
) -> jax.Array:
    """The loss of :func:`relaxed_ranking`, for checked arrays of the wide dtype."""
    others_where = drop_infinite(others, others_where)
    # The loss depends on differences only: subtracting the best score keeps their precision.
    lowest = jnp.finfo(listed.dtype).min / 2  # a list may be empty
    best = jnp.maximum(
        jnp.max(fill_masked(listed, where), axis=-1, keepdims=True, initial=lowest),
        jnp.max(fill_masked(others, others_where), axis=-1, keepdims=True, initial=lowest),
    )
    best = jax.lax.stop_gradient(best)
    listed = fill_masked(clear_masked(listed, where) - best, where)
    others = fill_masked(clear_masked(others, others_where) - best, others_where)
    rest = jax.nn.logsumexp(others, axis=-1, keepdims=True)
    # The others are one more entry at the end, so that all reverse cumulative sums contain them.
    tail = jax.lax.cumlogsumexp(jnp.concatenate([listed, rest], axis=-1), axis=listed.ndim - 1, reverse=True)
    return jnp.sum(clear_masked(tail[..., :-1] - listed, where), axis=-1)


def collaborative_distillation(
    student: jax.Array,
    teacher: jax.Array,
    *,
    scale: jax.typing.ArrayLike = 2.0,
    shift: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    r"""Binary cross-entropy with the teacher's scaled and shifted probability as target (CD).

    .. math::
        \ell(s, t) = -q \log \sigma(s) - (1 - q) \log(1 - \sigma(s)), \qquad q = \sigma\left(\frac{t + b}{a}\right).

    Args:
      student: ``[...]`` float, scores :math:`s` of items without an interaction.
      teacher: ``[...]`` float, scores :math:`t`.
      scale: scalar ``> 0``, :math:`a`.
      shift: scalar, :math:`b`.

    Returns:
      ``[...]`` nats, one per item.

    Examples:
      >>> s, t = jnp.array([1.0, 0.0, -1.0]), jnp.array([2.0, 2.0, -2.0])
      >>> [f"{loss:.4f}" for loss in collaborative_distillation(s, t)]
      ['0.5822', '0.6931', '0.5822']

    Published:
      In later comparisons scale 2, shift 0, with 50 items per user drawn at temperature 20 from the teacher's best 3000
      (Chen et al., 2023), or 2 items per user in the student's order and weight 0.5 on the sum over a batch of 2048
      (Zhu and Zhang, 2025). There the rank is divided by 3000 and by the temperature, so draws are nearly uniform.

    Sampling:
      Items without an interaction, better ranked ones more often: :func:`recjax.teacher.better_of_two`, on the
      teacher's or the student's list.

    References:
      Lee et al., `Collaborative Distillation for Top-N Recommendation <https://arxiv.org/abs/1911.05276>`_, ICDM 2019.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_same_shape(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    labels = jax.nn.sigmoid((teacher.astype(dtype) + jnp.asarray(shift, dtype)) / jnp.asarray(scale, dtype))
    return binary_cross_entropy(student.astype(dtype), labels).astype(student.dtype)


def relaxed_ranking(
    interesting: jax.Array,
    uninteresting: jax.Array,
    *,
    where: jax.Array | None = None,
    uninteresting_where: jax.Array | None = None,
) -> jax.Array:
    r"""Plackett-Luce loss of the teacher's order of interesting items, all above the uninteresting ones (RRD).

    .. math::
        \ell(s, u) = -\sum_{k=1}^K \left[ s_k - \log\Big( \sum_{j \ge k} e^{s_j} + \sum_l e^{u_l} \Big) \right].

    Lists of users for an item work the same way.

    Args:
      interesting: ``[..., K]`` float, scores :math:`s` of the interesting items, in the teacher's order, best first.
      uninteresting: ``[..., L]`` float, scores :math:`u` of the uninteresting items; minus infinity masks an item.
      where: ``[..., K]`` bool, which interesting items count.
      uninteresting_where: ``[..., L]`` bool, which uninteresting items count; there may be none.

    Returns:
      ``[...]`` nats, one per list.

    Examples:
      >>> print(f"{relaxed_ranking(jnp.array([2.0, 1.0]), jnp.array([0.0, 0.0])):.4f}")
      1.0453

    Published:
      ``K = L = 40`` from the teacher's best 500 at temperature 10, weight 1e-3 on the sum over the users of a batch of
      1024, beside the pairwise loss. With lists of users for items as well: weight 1e-3 on the users' lists, and 5e-4
      and ``K = L = 20`` on the items'.

    Sampling:
      Uninteresting items every epoch, uniformly from those that are neither the user's nor among the teacher's best:
      :func:`recjax.teacher.uniform_complement`. Interesting items by :func:`recjax.teacher.by_rank` as published, or
      the teacher's top ``K``, which the authors later found better.

    References:
      Kang et al., `DE-RRD: A Knowledge Distillation Framework for Recommender System
      <https://arxiv.org/abs/2012.04357>`_, CIKM 2020. Kang et al., *Item-side Ranking Regularized Distillation for
      Recommender System*, Information Sciences 2021: users for items.
    """
    interesting, uninteresting = jnp.asarray(interesting), jnp.asarray(uninteresting)
    check_lists(interesting=interesting, uninteresting=uninteresting)
    if where is not None:
        check_where(where, interesting.shape)
    if uninteresting_where is not None:
        check_where(uninteresting_where, uninteresting.shape, "uninteresting_where")
    dtype = wide_dtype(interesting, "interesting")
    loss = plackett_luce(interesting.astype(dtype), uninteresting.astype(dtype), where, uninteresting_where)
    return loss.astype(interesting.dtype)


def dual_correction(
    underestimated: jax.Array,
    overestimated: jax.Array,
    *,
    where: jax.Array | None = None,
    overestimated_where: jax.Array | None = None,
) -> jax.Array:
    r"""Plackett-Luce loss of underestimated items, in the teacher's order, above overestimated ones (DCD).

    .. math::
        \ell(s, u) = -\sum_{k=1}^K \left[ s_k - \log\Big( \sum_{j \ge k} e^{s_j} + \sum_l e^{u_l} \Big) \right].

    This is :func:`relaxed_ranking` for the items with the largest rank differences between student and teacher.

    Args:
      underestimated: ``[..., K]`` float, scores :math:`s` of items that the student ranks lower than the teacher, in
        the teacher's order, best first.
      overestimated: ``[..., L]`` float, scores :math:`u` of items that it ranks higher; minus infinity masks an item.
      where: ``[..., K]`` bool, which underestimated items count.
      overestimated_where: ``[..., L]`` bool, which overestimated items count; there may be none.

    Returns:
      ``[...]`` nats, one per list.

    Examples:
      >>> print(f"{dual_correction(jnp.array([0.0]), jnp.array([1.0, 1.0])):.4f}")
      1.8620

    Published:
      Among the teacher's best 500 items per user and best 500 users per item, drawn every 3 epochs. One weight for the
      users' lists and one for the items', each on the sum over a batch, beside :func:`relaxed_ranking`. In a later
      comparison (Zhu and Zhang, 2025) sharpness 0.1 on ranks among all items, 100 items of either kind every epoch, and
      weight 0.01 on the users' lists alone.

    Sampling:
      Equally many of either kind, by the difference of the ranks: :func:`recjax.teacher.by_disagreement`, masking -1.

    References:
      Lee and Kim, `Dual Correction Strategy for Ranking Distillation in Top-N Recommender System
      <https://arxiv.org/abs/2109.03459>`_, CIKM 2021.
    """
    underestimated, overestimated = jnp.asarray(underestimated), jnp.asarray(overestimated)
    check_lists(underestimated=underestimated, overestimated=overestimated)
    wide_dtype(underestimated, "underestimated")
    if overestimated_where is not None:
        check_where(overestimated_where, overestimated.shape, "overestimated_where")
    return relaxed_ranking(underestimated, overestimated, where=where, uninteresting_where=overestimated_where)


def unbiased_pairs(preferred: jax.Array, other: jax.Array) -> jax.Array:
    r"""Pairwise logistic loss between equally popular items, ordered by the teacher (UnKD).

    .. math::
        \ell(p, o) = -\log \sigma(p - o) = \mathrm{softplus}(o - p).

    Preferences between items of different popularity are mostly popularity bias and are not distilled.

    Args:
      preferred: ``[...]`` float, student scores :math:`p` of the items that the teacher ranks higher.
      other: ``[...]`` float, student scores :math:`o` of other items of the same popularity group.

    Returns:
      ``[...]`` nats, one per pair.

    Examples:
      >>> [f"{loss:.4f}" for loss in unbiased_pairs(jnp.array([2.0, 0.0]), jnp.array([1.0, 1.0]))]
      ['0.3133', '1.3133']

    Published:
      30 pairs per user over all groups, 4 or 5 groups at best, drawn at temperature 20 from the teacher's best 1000 of
      a group. Weight 1 on the mean over pairs and users, batch 2048. In the public code an in-place swap makes the two
      items of half of the pairs identical, so its weight 1 is about 0.5 here; its groups differ as well.

    Sampling:
      Groups by :func:`recjax.teacher.popularity_groups`; in each, pairs from the teacher's list of the group's items:
      :func:`recjax.teacher.ranked_pairs`.

    References:
      Chen et al., `Unbiased Knowledge Distillation for Recommendation <https://arxiv.org/abs/2211.14729>`_, WSDM 2023.
    """
    preferred, other = jnp.asarray(preferred), jnp.asarray(other)
    check_same_shape(preferred=preferred, other=other)
    wide_dtype(preferred, "preferred")
    return bpr(preferred, other)


def inverse_rank_pairs(student: jax.Array, teacher: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Pairwise logistic loss, weighted by the difference of the reciprocal ranks of a pair (CL-DRD).

    .. math::
        \ell(s, y) = \sum_{y_i > y_j} \left| \frac{1}{r_i} - \frac{1}{r_j} \right| \log(1 + e^{s_j - s_i}).

    This is LambdaRank for the reciprocal rank. Only the order of the grades matters, and equal grades form no pair.

    Args:
      student: ``[..., items]`` float, scores :math:`s`, which give the ranks :math:`r`, 1 for the best. Of equal scores
        the first item ranks higher. No gradient flows through the ranks.
      teacher: ``[..., items]`` float or integer, grades :math:`y`, higher for better items.
      where: ``[..., items]`` bool, which items count; the others have no rank.

    Returns:
      ``[...]`` nats, the sum over the pairs of a list; NaN if a score or grade that counts is NaN.

    Examples:
      >>> s, grades = jnp.array([1.23, 2.01, 0.4, 1.02]), jnp.array([1.0, 0.5, 0.0, 0.0])
      >>> print(f"{inverse_rank_pairs(s, grades):.4f}")
      1.1154

    Published:
      30 items per query; the teacher's best ``K`` have grade 1 / rank, the next block -0.25 and the last -0.5, with
      ``K`` rising from 5 to 10 to 30 over the stages of a curriculum. The mean over the pairs of the batch.

    Sampling:
      The items of a list, from the teacher's ranking.

    References:
      Zeng et al., `Curriculum Learning for Dense Retrieval Distillation <https://arxiv.org/abs/2204.13679>`_, SIGIR
      2022.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    if where is not None:
        check_where(where, student.shape)
    dtype = wide_dtype(student, "student")
    s, grades = clear_masked(student.astype(dtype), where), clear_masked(teacher, where)

    rank = jnp.argsort(jnp.argsort(-fill_masked(s, where), stable=True), stable=True)
    inverse = 1 / (rank + 1).astype(dtype)
    better = grades[..., :, None] > grades[..., None, :]
    if where is not None:
        better &= where[..., :, None] & where[..., None, :]
    losses = jax.nn.softplus(s[..., None, :] - s[..., :, None])
    loss = jnp.sum(jnp.where(better, jnp.abs(inverse[..., :, None] - inverse[..., None, :]) * losses, 0), axis=(-2, -1))
    return jnp.where(jnp.any(jnp.isnan(s) | jnp.isnan(grades), axis=-1), jnp.nan, loss).astype(student.dtype)


def rejuvenated_ce(
    student: jax.Array,
    teacher: jax.Array,
    student_top: jax.Array,
    teacher_top: jax.Array,
    sampled: jax.Array,
    *,
    beta: jax.typing.ArrayLike,
    temperature: jax.typing.ArrayLike = 1.0,
) -> jax.Array:
    r"""Cross-entropies over the student's and over the teacher's top items, adaptively weighted (RCE-KD).

    With :math:`\mathrm{CE}_J` the loss :func:`soft_target_ce` over the items :math:`J` alone,

    .. math::
        \ell(s, t) = (1 - w) \, \mathrm{CE}_{Q^S}(s, t) + w \, \mathrm{CE}_{A \cup (Q^T \setminus Q^S)}(s, t),
        \qquad w = \exp\left(-\beta \, \frac{|Q^T \cap A|}{|Q^T|}\right).

    The cross-entropy over a set bounds the NDCG only if the set contains all items that the student ranks above its
    members. Therefore sampled items that the student ranks high are added to the teacher's top items.

    Args:
      student, teacher: ``[..., items]`` float, scores :math:`s` and :math:`t`, finite in the three sets.
      student_top: ``[..., items]`` bool, the student's top items :math:`Q^S`.
      teacher_top: ``[..., items]`` bool, the teacher's top items :math:`Q^T`.
      sampled: ``[..., items]`` bool, the sampled items :math:`A`.
      beta: scalar ``>= 0``, :math:`\beta`.
      temperature: scalar ``> 0``.

    Returns:
      ``[...]`` nats, one per list; 0 where all sets are empty.

    Examples:
      >>> s, t = jnp.array([2.0, 1.0, 0.0, -1.0]), jnp.array([0.0, 2.0, 0.0, 2.0])
      >>> sampled = jnp.array([True, False, False, True])
      >>> print(f"{rejuvenated_ce(s, t, s > 0.5, t > 0.5, sampled, beta=1.0):.4f}")
      2.1020

    Published:
      Top 50 of either, 50 sampled from the student's top 200 at temperature 10, ``beta`` 3, ``temperature`` 1, weight
      500 on the sum over a batch, for matrix factorization on CiteULike; for other models and data ``beta`` 0.5 to 15
      and weight 1 to 1e5. The teacher's top items include those of the training set.

    Sampling:
      Once per epoch, from the student's current list: :func:`recjax.teacher.rejuvenated_candidates`.

    References:
      Zhu and Zhang, `Rejuvenating Cross-Entropy Loss in Knowledge Distillation for Recommender Systems
      <https://arxiv.org/abs/2509.20989>`_, 2025.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher, student_top=student_top, teacher_top=teacher_top, sampled=sampled)
    check_booleans(student_top=student_top, teacher_top=teacher_top, sampled=sampled)
    dtype = wide_dtype(student, "student")
    scores, targets = student.astype(dtype), teacher.astype(dtype)

    best = jnp.sum(teacher_top, axis=-1, dtype=dtype)
    covered = jnp.sum(teacher_top & sampled, axis=-1, dtype=dtype)
    w = jnp.exp(-jnp.asarray(beta, dtype) * covered / jnp.maximum(best, 1))
    own = soft_target_ce(scores, targets, temperature=temperature, where=student_top)
    others = soft_target_ce(scores, targets, temperature=temperature, where=sampled | (teacher_top & ~student_top))
    return ((1 - w) * own + w * others).astype(student.dtype)


def bidirectional(student: jax.Array, teacher: jax.Array, *, scale: jax.typing.ArrayLike = 5.0) -> jax.Array:
    r"""Binary cross-entropy with the other model's softened probability as target, detached (BD).

    .. math::
        \ell(s, t) = -q \log \sigma(s) - (1 - q) \log(1 - \sigma(s)), \qquad q = \sigma(t / \tau).

    Student and teacher train together: the teacher's loss is ``bidirectional(teacher, student)``, on other items.

    Args:
      student: ``[...]`` float, scores :math:`s` of the model that is trained.
      teacher: ``[...]`` float, scores :math:`t` of the other model, detached as published.
      scale: scalar ``> 0``, :math:`\tau`.

    Returns:
      ``[...]`` nats, one per item.

    Examples:
      >>> s, t = jnp.array([1.0, 0.0]), jnp.array([5.0, 5.0])
      >>> [f"{loss:.4f}" for loss in bidirectional(s, t)]
      ['0.5822', '0.6931']

    Published:
      Scale 5, weight 0.5 for either model on the sum over a batch of 128, beside the pairwise loss; 100 epochs together
      after 1000 epochs of each model alone.

    Sampling:
      One item per positive and direction, by ranks computed every 10 epochs; they also serve as the negatives of the
      pairwise losses. With rank 1 for the best, as in the paper's text, the student's items are those it
      underestimates, by :func:`recjax.teacher.by_disagreement` with sharpness 1e-2, and the teacher's have weight
      :math:`e^{10^{-4} (r^T - r^S)}` in :func:`jax.random.categorical`. The public notebook ranks in ascending order of
      the score, which reverses both: its students draw overestimated items (the second result of ``by_disagreement``).

    References:
      Kweon et al., `Bidirectional Distillation for Top-K Recommender System <https://arxiv.org/abs/2106.02870>`_, WWW
      2021.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_same_shape(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    labels = jax.nn.sigmoid(jax.lax.stop_gradient(teacher.astype(dtype)) / jnp.asarray(scale, dtype))
    return binary_cross_entropy(student.astype(dtype), labels).astype(student.dtype)
