"""Losses that teach a student the order of the teacher's list rather than its scores."""

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
    """Negative log-likelihood that the items of a list are drawn in its order, before all the others.

    The arrays are those of :func:`relaxed_ranking`, checked and of a wide dtype.
    """
    others_where = drop_infinite(others, others_where)
    # The loss depends on differences only: measured from the best score, the digits go to them and not to their level.
    lowest = jnp.finfo(listed.dtype).min / 2  # a list may be empty
    best = jnp.maximum(
        jnp.max(fill_masked(listed, where), axis=-1, keepdims=True, initial=lowest),
        jnp.max(fill_masked(others, others_where), axis=-1, keepdims=True, initial=lowest),
    )
    best = jax.lax.stop_gradient(best)
    listed = fill_masked(clear_masked(listed, where) - best, where)
    others = fill_masked(clear_masked(others, others_where) - best, others_where)
    rest = jax.nn.logsumexp(others, axis=-1, keepdims=True)
    # The others are one more entry at the end: the running sums from the end then contain them.
    tail = jax.lax.cumlogsumexp(jnp.concatenate([listed, rest], axis=-1), axis=listed.ndim - 1, reverse=True)
    return jnp.sum(clear_masked(tail[..., :-1] - listed, where), axis=-1)


def ranking_distillation(student: jax.Array, weights: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Weighted negative log-likelihood that the items which the teacher ranks best are relevant.

    For the student's scores :math:`s_r` of the teacher's best items, in the teacher's order, and a weight :math:`w_r`
    for each position,

    .. math::
        \ell(s, w) = -\sum_r w_r \log \sigma(s_r) = \sum_r w_r \, \mathrm{softplus}(-s_r).

    The teacher's scores are not used, only its order. The weights are :func:`position_weights`, later times
    :func:`discrepancy_weights`; the paper's implementation doesn't scale the product back to a sum of 1, a later one
    does.

    Gradients flow to both arguments; :func:`position_weights` and :func:`discrepancy_weights` of
    :func:`estimated_ranks` pass none on to the student.

    Args:
      student: ``[..., K]`` float, unnormalized scores of the items that the teacher ranks best among those without an
        interaction, best first.
      weights: ``[..., K]`` float, same shape.
      where: ``[..., K]`` bool, which items count. A list with no valid item has loss 0.

    Returns:
      ``[...]`` loss in nats, one per list, in the dtype of ``student``. Not reduced.

    Raises:
      ValueError: if ``student``, ``weights`` and ``where`` differ in shape or are scalars.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> s, w = jnp.array([2.0, 1.0, 0.0]), position_weights(3, sharpness=1.0)
      >>> print(f"{ranking_distillation(s, w):.4f}")
      0.2235
      >>> jax.vmap(ranking_distillation, in_axes=(0, None))(jnp.zeros((4, 3)), w).shape
      (4,)

    Published:
      ``K = 10``, sharpness 1 for the positions; from epoch 10 on times the discrepancy weights, ``mu`` 0.1 on ranks
      estimated from 100 items. Weight 1 on the mean over a batch of 512, beside binary cross-entropy with 3 negatives.
      The public code leaves only the current target out of the teacher's list, not all of the user's items.

    Sampling:
      Nothing for the list, which is the teacher's ``[..., :K]``. For the estimated ranks, items without an interaction
      for each list, uniformly, once an epoch: :func:`recjax.data.uniform_negatives`.

    References:
      Tang and Wang, `Ranking Distillation: Learning Compact Ranking Models With High Performance for Recommender
      System <https://arxiv.org/abs/1809.07428>`_, KDD 2018.
    """
    student, weights = jnp.asarray(student), jnp.asarray(weights)
    check_rows(student=student, weights=weights)
    if where is not None:
        check_where(where, student.shape)
    dtype = wide_dtype(student, "student")
    s, w = clear_masked(student.astype(dtype), where), clear_masked(weights.astype(dtype), where)
    return jnp.sum(w * jax.nn.softplus(-s), axis=-1).astype(student.dtype)


def position_weights(length: int, *, sharpness: jax.typing.ArrayLike) -> jax.Array:
    r"""Weights that fall exponentially with the position in a list, of sum 1.

    With sharpness :math:`\lambda`, for the positions :math:`r = 1, \dots, K`,

    .. math::
        w_r = \frac{e^{-r / \lambda}}{\sum_{r'} e^{-r' / \lambda}}.

    The larger :math:`\lambda`, the more evenly the weight is spread. Gradients flow to ``sharpness``.

    Args:
      length: number of positions :math:`K`, static.
      sharpness: scalar ``> 0``. May be traced; not checked.

    Returns:
      ``[length]`` weights of JAX's default floating dtype, first position first.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> [f"{weight:.4f}" for weight in position_weights(3, sharpness=1.0)]
      ['0.6652', '0.2447', '0.0900']
      >>> jax.vmap(lambda sharpness: position_weights(10, sharpness=sharpness))(jnp.array([0.5, 1.0, 10.0])).shape
      (3, 10)

    References:
      Tang and Wang, `Ranking Distillation: Learning Compact Ranking Models With High Performance for Recommender
      System <https://arxiv.org/abs/1809.07428>`_, KDD 2018.
    """
    sharpness = jnp.asarray(sharpness, float)
    # A softmax, so that a sharpness near 0 leaves the first position and not 0 / 0.
    return jax.nn.softmax(-jnp.arange(1, length + 1, dtype=sharpness.dtype) / sharpness)


def estimated_ranks(student: jax.Array, sampled: jax.Array, *, items: jax.typing.ArrayLike) -> jax.Array:
    r"""Rank among all items, estimated from a sample of them.

    For an item of score :math:`s` and :math:`\epsilon` sampled items of scores :math:`n_j`, out of :math:`N` items,

    .. math::
        \hat r = 1 + \left\lfloor \frac{(N - 1) \, \#\{j : n_j > s\}}{\epsilon} \right\rfloor.

    The best rank is 1, as that of the positions in :func:`discrepancy_weights`. The implementation published with the
    paper leaves the 1 out, others keep it. The division is one of integers, exact for any catalogue.

    The rank is piecewise constant: no gradient flows.

    Args:
      student: ``[..., K]`` float, scores of the items whose rank is wanted.
      sampled: ``[..., n]`` float, scores of the sampled items, same leading axes.
      items: integer scalar, number of items in all. May be traced; not checked.

    Returns:
      ``[..., K]`` ranks from 1 to ``items``, in the dtype of ``student``; NaN where a score is.

    Raises:
      ValueError: if the leading axes of ``student`` and ``sampled`` differ, or one of them is a scalar.
      TypeError: if ``student`` is not of a floating dtype.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> s, sampled = jnp.array([3.5, 1.5]), jnp.array([4.0, 3.0, 2.0, 1.0])
      >>> print(estimated_ranks(s, sampled, items=101))
      [26. 76.]
      >>> ranks = jax.vmap(lambda s, sampled: estimated_ranks(s, sampled, items=101))
      >>> ranks(jnp.zeros((4, 10)), jnp.ones((4, 100))).shape
      (4, 10)

    References:
      Tang and Wang, `Ranking Distillation: Learning Compact Ranking Models With High Performance for Recommender
      System <https://arxiv.org/abs/1809.07428>`_, KDD 2018.
    """
    student, sampled = jnp.asarray(student), jnp.asarray(sampled)
    check_lists(student=student, sampled=sampled)
    dtype = wide_dtype(student, "student")
    s, n = student.astype(dtype), sampled.astype(dtype)
    size = sampled.shape[-1]
    above = jnp.sum(n[..., None, :] > s[..., :, None], axis=-1, dtype=jnp.int32)
    # The whole and the remainder apart: their product with the count would overflow for a catalogue of millions.
    whole, remainder = jnp.divmod(jnp.asarray(items, jnp.int32) - 1, size)
    ranks = (1 + whole * above + remainder * above // size).astype(dtype)
    unknown = jnp.isnan(s) | jnp.any(jnp.isnan(n), axis=-1, keepdims=True)
    return jnp.where(unknown, jnp.nan, ranks).astype(student.dtype)


def discrepancy_weights(ranks: jax.Array, *, mu: jax.typing.ArrayLike) -> jax.Array:
    r"""Weights of a list's positions by how much lower the student ranks the items there.

    With the student's rank :math:`\hat r_r` of the item at position :math:`r = 1, \dots, K` of the teacher's list,

    .. math::
        w_r = \max\left(0, \tanh(\mu (\hat r_r - r))\right).

    An item that the student ranks as high as the teacher does, or higher, needs no more teaching and has weight 0.

    Gradients flow to ``ranks``, where those of :func:`estimated_ranks` stop them.

    Args:
      ranks: ``[..., K]`` float, the student's ranks of the teacher's list, 1 for the best, best of the teacher's first.
      mu: scalar ``> 0``. May be traced; not checked.

    Returns:
      ``[..., K]`` weights in [0, 1], in the dtype of ``ranks``.

    Raises:
      ValueError: if ``ranks`` is a scalar.
      TypeError: if ``ranks`` is not of a floating dtype.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> ranks = jnp.array([11.0, 1.0, 3.0])
      >>> [f"{weight:.4f}" for weight in discrepancy_weights(ranks, mu=0.1)]
      ['0.7616', '0.0000', '0.0000']
      >>> jax.vmap(lambda mu: discrepancy_weights(ranks, mu=mu))(jnp.array([0.01, 0.1, 1.0])).shape
      (3, 3)

    References:
      Tang and Wang, `Ranking Distillation: Learning Compact Ranking Models With High Performance for Recommender
      System <https://arxiv.org/abs/1809.07428>`_, KDD 2018.
    """
    ranks = jnp.asarray(ranks)
    check_rows(ranks=ranks)
    dtype = wide_dtype(ranks, "ranks")
    position = jax.lax.broadcasted_iota(dtype, ranks.shape, ranks.ndim - 1) + 1
    return jnp.maximum(jnp.tanh(jnp.asarray(mu, dtype) * (ranks.astype(dtype) - position)), 0).astype(ranks.dtype)


def collaborative_distillation(
    student: jax.Array,
    teacher: jax.Array,
    *,
    scale: jax.typing.ArrayLike = 2.0,
    shift: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    r"""Cross-entropy of the student's probability and the teacher's scaled and shifted one.

    For one item with student score :math:`s` and teacher score :math:`t`, scale :math:`a` and shift :math:`b`,

    .. math::
        \ell(s, t) = -q \log \sigma(s) - (1 - q) \log(1 - \sigma(s)), \qquad
        q = \sigma\left(\frac{t + b}{a}\right).

    An item without an interaction isn't one that the user dislikes: the teacher's probability stands in for the missing
    label. The scale softens it, the shift moves its level.

    Gradients flow to both arguments; wrap ``teacher`` in :func:`jax.lax.stop_gradient` to freeze it.

    Args:
      student: ``[...]`` float, unnormalized scores of items without an interaction.
      teacher: ``[...]`` float, unnormalized scores, same shape.
      scale: scalar ``> 0``. May be traced; not checked.
      shift: scalar. May be traced.

    Returns:
      ``[...]`` loss in nats, one per item, in the dtype of ``student``. Not reduced.

    Raises:
      ValueError: if ``student`` and ``teacher`` differ in shape.
      TypeError: if ``student`` is not of a floating dtype.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([1.0, 0.0, -1.0]), jnp.array([2.0, 2.0, -2.0])
      >>> [f"{loss:.4f}" for loss in collaborative_distillation(s, t)]
      ['0.5822', '0.6931', '0.5822']
      >>> jax.vmap(lambda shift: collaborative_distillation(s, t, shift=shift))(jnp.array([-1.0, 0.0, 1.0])).shape
      (3, 3)

    Published:
      In later comparisons scale 2, shift 0, with 50 items per user drawn at temperature 20 from the teacher's best
      3000 (Chen et al., 2023), or 2 items per user in the student's order and weight 0.5 on the sum over a batch of
      2048 (Zhu and Zhang, 2025). There the rank is divided by 3000 and by the temperature, so draws are nearly uniform.

    Sampling:
      Items without an interaction for each user, the better ranked the likelier:
      :func:`recjax.teacher.better_of_two`, on the teacher's list or on the student's.

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
    r"""Negative log-likelihood of the teacher's order of some items, and of all of them before the others.

    For the student's scores :math:`s_1, \dots, s_K` of interesting items, in the teacher's order, and :math:`u_l` of
    uninteresting ones,

    .. math::
        \ell(s, u) = -\sum_{k=1}^K \left[ s_k - \log\Big( \sum_{j \ge k} e^{s_j} + \sum_l e^{u_l} \Big) \right].

    That is the Plackett-Luce model, items drawn one after the other without replacement, where the order among the
    uninteresting doesn't matter. The sums are running log-sum-exps from the end of the list: no score needs a clamp.
    Without uninteresting items the loss is plain Plackett-Luce.

    Scores of users for an item are as good as scores of items for a user.

    Gradients flow to both arguments. The teacher enters through the order only.

    Args:
      interesting: ``[..., K]`` float, unnormalized scores of the interesting items, the teacher's best first, finite
        where they count.
      uninteresting: ``[..., L]`` float, unnormalized scores of the uninteresting items, same leading axes; minus
        infinity is the same as masked.
      where: ``[..., K]`` bool, which interesting items count. A list with none has loss 0.
      uninteresting_where: ``[..., L]`` bool, which uninteresting items count; there may be none.

    Returns:
      ``[...]`` loss in nats, one per list, in the dtype of ``interesting``. Not reduced.

    Raises:
      ValueError: if the leading axes of the arguments differ, one of them is a scalar, or a mask has another shape.
      TypeError: if ``interesting`` is not of a floating dtype, or a mask not boolean.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> s, u = jnp.array([2.0, 1.0]), jnp.array([0.0, 0.0])
      >>> print(f"{relaxed_ranking(s, u):.4f}")
      1.0453
      >>> print(f"{relaxed_ranking(s, u, uninteresting_where=jnp.zeros(2, bool)):.4f}")
      0.3133
      >>> jax.vmap(relaxed_ranking)(jnp.zeros((4, 3)), jnp.zeros((4, 5))).shape
      (4,)

    Published:
      ``K = L = 40`` from the teacher's best 500 at temperature 10, weight 1e-3 on the sum over the users of a batch of
      1024, beside the pairwise loss. With lists of users for items as well: weight 1e-3 on the users' lists and 5e-4 on
      the items', where alone ``K = L = 20``.

    Sampling:
      Uninteresting items afresh every epoch, uniformly from what is neither the user's nor among the teacher's best:
      :func:`recjax.teacher.uniform_complement`. Interesting ones by :func:`recjax.teacher.by_rank`, as published, or,
      as the authors later found better, the teacher's best ``K`` themselves.

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
    r"""Negative log-likelihood that what the student ranks too low comes in the teacher's order, before the rest.

    For the student's scores :math:`s_1, \dots, s_K` of items that it ranks lower than the teacher, in the teacher's
    order, and :math:`u_l` of items that it ranks higher than the teacher,

    .. math::
        \ell(s, u) = -\sum_{k=1}^K \left[ s_k - \log\Big( \sum_{j \ge k} e^{s_j} + \sum_l e^{u_l} \Big) \right].

    That is :func:`relaxed_ranking` on items chosen by the student's mistakes, which it corrects in both directions.
    Users of an item are as good as items of a user.

    Gradients flow to both arguments. The teacher enters through the choice and the order only.

    Args:
      underestimated: ``[..., K]`` float, unnormalized scores, the teacher's best first, finite where they count.
      overestimated: ``[..., L]`` float, unnormalized scores, same leading axes; minus infinity is the same as masked.
      where: ``[..., K]`` bool, which underestimated items count. A list with none has loss 0.
      overestimated_where: ``[..., L]`` bool, which overestimated items count; there may be none.

    Returns:
      ``[...]`` loss in nats, one per list, in the dtype of ``underestimated``. Not reduced.

    Raises:
      ValueError: if the leading axes of the arguments differ, one of them is a scalar, or a mask has another shape.
      TypeError: if ``underestimated`` is not of a floating dtype, or a mask not boolean.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> print(f"{dual_correction(jnp.array([0.0]), jnp.array([1.0, 1.0])):.4f}")
      1.8620
      >>> jax.vmap(dual_correction)(jnp.zeros((4, 3)), jnp.zeros((4, 3))).shape
      (4,)

    Published:
      Among the teacher's best 500 items of a user and best 500 users of an item, chosen afresh every 3 epochs. One
      weight for the users' lists and one for the items', each on the sum over a batch, beside :func:`relaxed_ranking`.
      In a later comparison (Zhu and Zhang, 2025) sharpness 0.1 on ranks among all items, 100 items of either kind every
      epoch, and weight 0.01 on the users' lists alone.

    Sampling:
      As many of either kind, by how far the two ranks differ: :func:`recjax.teacher.by_disagreement`, whose -1 are
      masked out here.

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
    r"""Negative log-likelihood that of two equally popular items the one the teacher prefers is ranked above the other.

    For the student's scores :math:`p` of the item that the teacher ranks higher and :math:`o` of the other,

    .. math::
        \ell(p, o) = -\log \sigma(p - o) = \mathrm{softplus}(o - p).

    That is :func:`bpr` between two items of one popularity group. What the teacher thinks of a popular item against a
    rare one is mostly popularity bias; within a group, it isn't taught.

    Gradients flow to both arguments. The teacher enters through the pairs only.

    Args:
      preferred: ``[...]`` float, scores of the items that the teacher ranks higher.
      other: ``[...]`` float, scores of the others, same shape.

    Returns:
      ``[...]`` loss in nats, one per pair, in the dtype of ``preferred``. Not reduced.

    Raises:
      ValueError: if ``preferred`` and ``other`` differ in shape.
      TypeError: if ``preferred`` is not of a floating dtype.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> [f"{loss:.4f}" for loss in unbiased_pairs(jnp.array([2.0, 0.0]), jnp.array([1.0, 1.0]))]
      ['0.3133', '1.3133']
      >>> jax.vmap(unbiased_pairs)(jnp.zeros((4, 30)), jnp.zeros((4, 30))).shape
      (4, 30)

    Published:
      30 pairs per user over all groups, 4 or 5 groups at best, drawn at temperature 20 from the teacher's best 1000 of
      a group. Weight 1 on the mean over pairs and users, batch 2048. In the public code an in-place swap makes the two
      items of half of the pairs identical, so its weight 1 is about 0.5 here; it also cuts the groups differently.

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
    r"""Cross-entropies over the student's best items and over the teacher's, mixed by how much a sample covers.

    With the student's best items :math:`Q^S`, the teacher's :math:`Q^T`, sampled items :math:`A` and
    :math:`\mathrm{CE}_J`, :func:`soft_target_ce` over the items :math:`J` alone,

    .. math::
        \ell(s, t) = (1 - w) \, \mathrm{CE}_{Q^S}(s, t) + w \, \mathrm{CE}_{A \cup (Q^T \setminus Q^S)}(s, t),
        \qquad w = \exp\left(-\beta \, \frac{|Q^T \cap A|}{|Q^T|}\right).

    Cross-entropy over some items bounds their NDCG if they are the student's own best; the teacher's best are not, and
    get the company of a sample of the items that the student ranks above them. The more of the teacher's best that
    sample contains, the less weight they have. Without any item of the teacher's, :math:`w = 1`.

    Gradients flow to both arguments; wrap ``teacher`` in :func:`jax.lax.stop_gradient` to freeze it.

    Args:
      student: ``[..., items]`` float, unnormalized scores, finite in the three sets.
      teacher: ``[..., items]`` float, unnormalized scores, same shape.
      student_top: ``[..., items]`` bool, which items are the student's best.
      teacher_top: ``[..., items]`` bool, which items are the teacher's best.
      sampled: ``[..., items]`` bool, which items were drawn.
      beta: scalar ``>= 0``. May be traced; not checked.
      temperature: scalar ``> 0``. May be traced; not checked.

    Returns:
      ``[...]`` loss in nats, one per list, in the dtype of ``student``; 0 where all sets are empty. Not reduced.

    Raises:
      ValueError: if the arguments differ in shape or are scalars.
      TypeError: if ``student`` is not of a floating dtype, or a mask not boolean.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([2.0, 1.0, 0.0, -1.0]), jnp.array([0.0, 2.0, 0.0, 2.0])
      >>> student_top, teacher_top = s > 0.5, t > 0.5
      >>> sampled = jnp.array([True, False, False, True])
      >>> print(f"{rejuvenated_ce(s, t, student_top, teacher_top, sampled, beta=1.0):.4f}")
      2.1020
      >>> mix = lambda beta: rejuvenated_ce(s, t, student_top, teacher_top, sampled, beta=beta)
      >>> jax.vmap(mix)(jnp.array([0.0, 1.0, 10.0])).shape
      (3,)

    Published:
      Best 50 of either, 50 sampled from the student's best 200 at temperature 10, ``beta`` 3, ``temperature`` 1,
      weight 500 on the sum over a batch, for matrix factorization on CiteULike; over other models and data, ``beta`` is
      0.5 to 15 and the weight 1 to 1e5. The teacher's best are among all items, those of the training set included.

    Sampling:
      Once an epoch, from the student's list as it then is: :func:`recjax.teacher.rejuvenated_candidates`.

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
    r"""Cross-entropy of one model's probability and the other's softened one, held fixed.

    For one item with the score :math:`s` of the model that learns, the score :math:`t` of the one that teaches, and a
    scale :math:`\tau`,

    .. math::
        \ell(s, t) = -q \log \sigma(s) - (1 - q) \log(1 - \sigma(s)), \qquad q = \sigma(t / \tau).

    Both models train at once and either teaches the other: the loss is taken twice, the second time with the roles
    swapped, ``bidirectional(teacher, student)``, on other items.

    Gradients flow to ``student`` alone, and to ``scale``. The teacher is held fixed here, as published, because in a
    sum of both losses each model would otherwise be moved by what it teaches, too.

    Args:
      student: ``[...]`` float, unnormalized scores of the model that learns.
      teacher: ``[...]`` float, unnormalized scores of the model that teaches, same shape.
      scale: scalar ``> 0``. May be traced; not checked.

    Returns:
      ``[...]`` loss in nats, one per item, in the dtype of ``student``. Not reduced.

    Raises:
      ValueError: if ``student`` and ``teacher`` differ in shape.
      TypeError: if ``student`` is not of a floating dtype.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([1.0, 0.0]), jnp.array([5.0, 5.0])
      >>> [f"{loss:.4f}" for loss in bidirectional(s, t)]
      ['0.5822', '0.6931']
      >>> jax.vmap(lambda scale: bidirectional(s, t, scale=scale))(jnp.array([1.0, 5.0])).shape
      (2, 2)

    Published:
      Scale 5, weight 0.5 for either model on the sum over a batch of 128, beside the pairwise loss; 100 epochs together
      after 1000 each alone.

    Sampling:
      For each positive one item to either side, from ranks computed every 10 epochs; they are the negatives of the
      pairwise losses as well. With rank 1 for the best, as in the paper's text, the student gets an item that it
      underestimates: :func:`recjax.teacher.by_disagreement`, sharpness 1e-2; and the teacher one by weight
      :math:`e^{10^{-4} (r^T - r^S)}`: :func:`jax.random.categorical`. The public notebook numbers ranks in
      ascending order of the score, which turns both around: its students draw what they overestimate (the second
      result of ``by_disagreement``).

    References:
      Kweon et al., `Bidirectional Distillation for Top-K Recommender System <https://arxiv.org/abs/2106.02870>`_, WWW
      2021.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_same_shape(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    labels = jax.nn.sigmoid(jax.lax.stop_gradient(teacher.astype(dtype)) / jnp.asarray(scale, dtype))
    return binary_cross_entropy(student.astype(dtype), labels).astype(student.dtype)
