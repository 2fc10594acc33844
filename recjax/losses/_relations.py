"""Relational losses: distances, angles and similarities between the rows of a batch, of student and teacher.

They compare numbers and not vectors, so student and teacher may differ in width and no projection is needed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from recjax.arrays import check_integers, check_same_shape, check_where, clear_masked, wide_dtype
from recjax.losses._features import scaled, unit
from recjax.losses._task import softmax_cross_entropy


def checked_rows(student: jax.Array, teacher: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Both matrices checked, in the wide dtype, with 0 in the rows that don't count."""
    for name, side in {"student": student, "teacher": teacher}.items():
        if side.ndim != 2:
            raise ValueError(f"expected {name} of shape [n, dim], got {side.shape}")
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(f"expected student and teacher of one length, got {student.shape} and {teacher.shape}")
    if where is not None:
        check_where(where, student.shape[:1])
    dtype = wide_dtype(student, "student")
    counted = None if where is None else where[:, None]
    return clear_masked(student.astype(dtype), counted), clear_masked(teacher.astype(dtype), counted)


def pairs(where: jax.Array | None) -> jax.Array | None:
    """Which pairs consist of rows that count, ``[n, n]``."""
    return None if where is None else where[:, None] & where[None, :]


def products(x: jax.Array, y: jax.Array) -> jax.Array:
    """Inner products of two sets of vectors, in full precision: the losses are differences of them."""
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def differences(x: jax.Array) -> jax.Array:
    """Differences of all pairs of rows, ``[n, n, dim]``, exactly 0 for coincident rows.

    The subtraction alone is not exact. In a compiled program XLA may compute ``x`` twice: rounded on one side and
    inside a fused multiply-add on the other. A row minus itself is then a rounding error, of random direction and with
    a huge gradient.
    """
    size = jnp.max(jnp.abs(x), axis=-1, initial=0)
    rounding = 4 * jnp.finfo(x.dtype).eps * jnp.maximum(size[:, None], size[None, :])
    difference = x[:, None] - x[None, :]
    together = jnp.max(jnp.abs(difference), axis=-1, initial=0) <= rounding
    return jnp.where((together | jnp.eye(x.shape[0], dtype=bool))[..., None], 0, difference)


def huber(x: jax.Array) -> jax.Array:
    """Half a square up to 1, a straight line beyond."""
    size = jnp.abs(x)
    return jnp.where(size < 1, jnp.square(x) / 2, size - 0.5)


def relational_distance(student: jax.Array, teacher: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Huber loss between relative distances of the rows of a batch.

    For vectors :math:`x_1, \dots, x_n` of either side,

    .. math::
        \ell_{ij} = h(\psi_{ij}(S) - \psi_{ij}(T)),
        \qquad \psi_{ij}(X) = \frac{\lVert x_i - x_j \rVert_2}{\mu},
        \qquad h(x) = \begin{cases} x^2 / 2 & |x| < 1 \\ |x| - 1/2 & \text{otherwise,} \end{cases}

    with :math:`\mu` the mean of the positive distances of that side, which makes the two sides comparable whatever
    their scale and width. Coincident rows, up to a few roundings, have distance 0 and get no gradient from it.

    Args:
      student: ``[n, student's dim]`` float.
      teacher: ``[n, teacher's dim]`` float, of the same examples.
      where: ``[n]`` bool, which rows count. A pair with one that doesn't is 0, and not in :math:`\mu`.

    Returns:
      ``[n, n]`` loss of each ordered pair, 0 on the diagonal, in the dtype of ``student``.

    Raises:
      ValueError: if ``student``, ``teacher`` and ``where`` aren't of one length, or not matrices and a vector.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> s = jnp.array([[0.0], [1.0], [3.0]])  # distances 1, 2 and 3, of mean 2
      >>> t = jnp.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])  # 3, 4 and 5, of mean 4
      >>> print(f"{relational_distance(s, t)[0, 1]:.4f}")
      0.0312

    Published:
      Weight 1 on the mean over all ordered pairs of a batch of 128, its diagonal included, beside weight 2 on
      :func:`relational_angle`. In the public code coincident pairs count in :math:`\mu` as well.

    References:
      Park et al., `Relational Knowledge Distillation <https://arxiv.org/abs/1904.05068>`_, CVPR 2019, section 3.2.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    counted = pairs(where)

    def relative(x: jax.Array) -> jax.Array:
        edges = differences(scaled(x, axis=(0, 1)))
        distance = clear_masked(jnp.sum(unit(edges) * edges, axis=-1), counted)  # a sum of squares could vanish
        mean = jnp.sum(distance) / jnp.maximum(jnp.sum(distance != 0), 1).astype(x.dtype)
        return distance / jnp.where(mean == 0, 1, mean)

    s, t = checked_rows(student, teacher, where)
    return huber(relative(s) - relative(t)).astype(student.dtype)


def relational_angle(student: jax.Array, teacher: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Huber loss between the angles that the rows of a batch form.

    For vectors :math:`x_1, \dots, x_n` of either side,

    .. math::
        \ell_{ijk} = h(\psi_{ijk}(S) - \psi_{ijk}(T)),
        \qquad \psi_{ijk}(X) = \Big\langle \frac{x_i - x_j}{\lVert x_i - x_j \rVert_2},
        \frac{x_k - x_j}{\lVert x_k - x_j \rVert_2} \Big\rangle,

    the cosine of the angle at :math:`j`, with the :math:`h` of :func:`relational_distance`. Where :math:`i` or
    :math:`k` is at the same place as :math:`j`, to a few roundings, the cosine is 0 and has no gradient.

    Args:
      student: ``[n, student's dim]`` float.
      teacher: ``[n, teacher's dim]`` float, of the same examples.
      where: ``[n]`` bool, which rows count. A triple with one that doesn't is 0.

    Returns:
      ``[n, n, n]`` loss of each ordered triple, in the dtype of ``student``. Grows with the cube of the batch: 128 rows
      are 2 million triples, 1024 a billion.

    Raises:
      ValueError: if ``student``, ``teacher`` and ``where`` aren't of one length, or not matrices and a vector.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> s = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])  # a right angle at row 1
      >>> t = jnp.array([[1.0], [0.0], [2.0]])  # no angle there
      >>> print(relational_angle(s, t)[0, 1, 2])
      0.5

    Published:
      Weight 2 on the mean over all ordered triples of a batch of 128, degenerate ones included, beside weight 1 on
      :func:`relational_distance`.

    Sampling:
      Nothing, or some rows of a large batch.

    References:
      Park et al., `Relational Knowledge Distillation <https://arxiv.org/abs/1904.05068>`_, CVPR 2019, section 3.2.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)

    def cosines(x: jax.Array) -> jax.Array:
        edges = unit(differences(x))
        return jnp.einsum("ijd,kjd->ijk", edges, edges, precision=jax.lax.Precision.HIGHEST)

    s, t = checked_rows(student, teacher, where)
    triples = None if where is None else where[:, None, None] & where[None, :, None] & where[None, None, :]
    return clear_masked(huber(cosines(s) - cosines(t)), triples).astype(student.dtype)


def similarity_preserving(student: jax.Array, teacher: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Squared difference of the similarity matrices of a batch, with rows of length 1.

    For matrices :math:`S` and :math:`T` of one row a row,

    .. math::
        \ell_{ij} = (\tilde G_{ij}(S) - \tilde G_{ij}(T))^2,
        \qquad \tilde G_i = \frac{G_i}{\lVert G_i \rVert_2},\; G(X) = X X^\top.

    A row whose vector is zero has similarity 0 with all, and gets no gradient from its own row.

    Args:
      student: ``[n, student's dim]`` float.
      teacher: ``[n, teacher's dim]`` float, of the same examples.
      where: ``[n]`` bool, which rows count. A pair with one that doesn't is 0, and in no length.

    Returns:
      ``[n, n]`` loss of each ordered pair, in the dtype of ``student``; not symmetric, since the rows have lengths of
      their own. Not reduced; the mean is the paper's squared Frobenius norm over :math:`n^2`.

    Raises:
      ValueError: if ``student``, ``teacher`` and ``where`` aren't of one length, or not matrices and a vector.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[3.0], [4.0]])
      >>> print(f"{similarity_preserving(s, t).mean():.4f}")
      0.3000

    Published:
      Weight 3000 on the mean over all ordered pairs of a batch of images, added up over the layers compared.

    References:
      Tung and Mori, `Similarity-Preserving Knowledge Distillation <https://arxiv.org/abs/1907.09682>`_, ICCV 2019.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)

    def similarities(x: jax.Array) -> jax.Array:
        x = scaled(x, axis=(0, 1))
        return unit(products(x, x))

    s, t = checked_rows(student, teacher, where)
    return jnp.square(similarities(s) - similarities(t)).astype(student.dtype)


def gram(student: jax.Array, teacher: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Squared difference of the inner products of the rows of a batch.

    For matrices :math:`S` and :math:`T` of one row a row,

    .. math::
        \ell_{ij} = \big( (S S^\top)_{ij} - (T T^\top)_{ij} \big)^2.

    Nothing is normalized: the scales of the two sides must agree already. Of fourth order in the vectors, so the loss
    in float16 is infinite where an inner product is off by more than 255.

    Args:
      student: ``[n, student's dim]`` float.
      teacher: ``[n, teacher's dim]`` float, of the same examples.
      where: ``[n]`` bool, which rows count. A pair with one that doesn't is 0.

    Returns:
      ``[n, n]`` loss of each ordered pair, in the dtype of ``student``.

    Raises:
      ValueError: if ``student``, ``teacher`` and ``where`` aren't of one length, or not matrices and a vector.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0], [2.0]])
      >>> print(gram(s, t))
      [[0. 4.]
       [4. 9.]]

    Published:
      On CTR models, weight 1 on the mean over all ordered pairs of the first 1024 records of a batch.

    References:
      Peng et al., `Correlation Congruence for Knowledge Distillation <https://arxiv.org/abs/1904.01802>`_, ICCV 2019:
      there also with other kernels than the inner product.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    s, t = checked_rows(student, teacher, where)
    return jnp.square(products(s, s) - products(t, t)).astype(student.dtype)


def topology(student: jax.Array, teacher: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Squared difference of the cosines between the rows of a batch.

    For vectors :math:`x_1, \dots, x_n` of either side,

    .. math::
        \ell_{ij} = (\rho_{ij}(S) - \rho_{ij}(T))^2,
        \qquad \rho_{ij}(X) = \frac{\langle x_i, x_j \rangle}{\lVert x_i \rVert_2 \lVert x_j \rVert_2}.

    A zero vector has cosine 0 with all, itself included, and gets no gradient.

    Args:
      student: ``[n, student's dim]`` float.
      teacher: ``[n, teacher's dim]`` float, of the same examples.
      where: ``[n]`` bool, which rows count, such as the first of each user and item of a batch. A pair with one that
        doesn't is 0.

    Returns:
      ``[n, n]`` loss of each ordered pair, in the dtype of ``student``.

    Raises:
      ValueError: if ``student``, ``teacher`` and ``where`` aren't of one length, or not matrices and a vector.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([[2.0, 0.0], [3.0, 4.0]]), jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> print(f"{topology(s, t)[0, 1]:.4f}")
      0.3600

    Published:
      Weight 0.001 on the sum over all ordered pairs of the distinct users, positive items and negative items of a
      batch, for students about as wide as the teacher; narrower ones learn more from :func:`hierarchical_topology`.

    Sampling:
      Nothing, or some rows of a large batch: 1024 triples have up to 3072.

    References:
      Kang et al., `Topology Distillation for Recommender System <https://arxiv.org/abs/2106.08700>`_, KDD 2021: FTD.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    s, t = (unit(side) for side in checked_rows(student, teacher, where))
    return jnp.square(products(s, s) - products(t, t)).astype(student.dtype)


def info_nce(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: jax.typing.ArrayLike = 0.1,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Contrastive loss with in-batch negatives (InfoNCE), on cosines.

    For vectors :math:`s_i` and :math:`t_i` of the rows of a batch, cosines :math:`\rho` and temperature :math:`\tau`,

    .. math::
        \ell_i = -\log \frac{e^{\rho(s_i, t_i) / \tau}}{\sum_j e^{\rho(s_i, t_j) / \tau}}.

    The other rows are the negatives. A zero vector has cosine 0 with all and gets no gradient. The paper scores pairs
    by a learned bilinear form; later methods use the cosine.

    Args:
      student: ``[n, dim]`` float, already projected to the width of the teacher.
      teacher: ``[n, dim]`` float, of the same examples.
      temperature: scalar ``> 0``.
      where: ``[n]`` bool, which rows count: the others have loss 0 and are no negatives.

    Returns:
      ``[n]`` loss in nats, one per row, in the dtype of ``student``.

    Raises:
      ValueError: if ``student`` and ``teacher`` are not two matrices of one shape, or ``where`` doesn't fit them.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> s, t = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[3.0, 0.0], [0.0, 2.0]])
      >>> [f"{loss:.4f}" for loss in info_nce(s, t, temperature=1.0)]
      ['0.3133', '0.3133']

    Published:
      In SimRec (WWW 2023), with the roles swapped (``info_nce(teacher, student)``): temperature 0.1 and weight 0.01 on
      the mean over the distinct users of a batch, and again over its items, with all users, or items, as negatives.

    References:
      van den Oord et al., `Representation Learning with Contrastive Predictive Coding
      <https://arxiv.org/abs/1807.03748>`_, 2018, section 2.3.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_same_shape(student=student, teacher=teacher)
    s, t = (unit(side) for side in checked_rows(student, teacher, where))
    logits = products(s, t) / jnp.asarray(temperature, s.dtype)
    count = student.shape[0]
    candidates = None if where is None else jnp.broadcast_to(where, (count, count))
    loss = softmax_cross_entropy(logits, jnp.arange(count), where=candidates)
    return clear_masked(loss, where).astype(student.dtype)


class Hierarchy(NamedTuple):
    """The parts of :func:`hierarchical_topology`, none of them reduced.

    Attributes:
      entities: ``[n, n]``, between the rows of one group.
      prototypes: ``[n, groups]``, between each row and the mean of each group.
      between: ``[groups, groups]``, between the means of the groups; it has no gradient.
    """

    entities: jax.Array
    prototypes: jax.Array
    between: jax.Array


def hierarchical_topology(
    student: jax.Array,
    teacher: jax.Array,
    group: jax.Array,
    *,
    groups: int,
    where: jax.Array | None = None,
) -> Hierarchy:
    r"""Squared differences of cosines, within groups of a batch's rows and between rows and groups.

    For vectors :math:`x_i` of either side with groups :math:`g_i`, prototypes :math:`P_k`, the means of the groups, and
    cosines :math:`\rho`,

    .. math::
        \text{entities}_{ij} &= [g_i = g_j]\, [\rho(t_i, t_j) > 0]\, (\rho(s_i, s_j) - \rho(t_i, t_j))^2, \\
        \text{prototypes}_{ik} &= (\rho(s_i, P_k(S)) - \rho(t_i, P_k(T)))^2, \\
        \text{between}_{kl} &= (\rho(P_k(S), P_l(S)) - \rho(P_k(T), P_l(T)))^2.

    A student much narrower than its teacher can't preserve the cosines of all pairs; here it preserves those within a
    group, and otherwise only those with the group means. A zero vector has cosine 0 and gets no gradient.

    No gradient flows through the prototypes, as published, so ``between`` has none: it can be monitored, not trained
    on.

    Args:
      student: ``[n, student's dim]`` float.
      teacher: ``[n, teacher's dim]`` float, of the same examples.
      group: ``[n]`` integer in [0, groups), which group a row is in; users and items are never in one group.
      groups: how many groups there are. Static.
      where: ``[n]`` bool, which rows count. A pair with one that doesn't is 0, and it is in no prototype.

    Returns:
      :class:`Hierarchy` in the dtype of ``student``. A group that no row counts in is 0 in all parts.

    Raises:
      ValueError: if ``student``, ``teacher``, ``group`` and ``where`` aren't of one length, or not matrices and
        vectors.
      TypeError: if ``student`` is not of a floating dtype, ``group`` not of an integer one, or ``where`` not boolean.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> s = jnp.array([[2.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
      >>> t = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> loss = hierarchical_topology(s, t, jnp.array([0, 0, 1]), groups=2)
      >>> print(f"{loss.entities[0, 1]:.4f} {loss.prototypes[0, 0]:.4f} {loss.between[0, 1]:.4f}")
      0.1600 0.0480 0.3902
      >>> group = jnp.zeros((4, 7), int)
      >>> in_batch = jax.vmap(lambda s, t, group: hierarchical_topology(s, t, group, groups=3))
      >>> [part.shape for part in in_batch(jnp.ones((4, 7, 2)), jnp.ones((4, 7, 8)), group)]
      [(4, 7, 7), (4, 7, 3), (4, 3, 3)]

    Published:
      Sums of ``entities`` and ``prototypes`` over the distinct users and items of a batch, with weight :math:`\alpha`,
      beside weight :math:`1 - \alpha` on the loss that trains the gates (:func:`distillation_experts`, one expert per
      group). In later reproductions 30 or 40 groups each for users and items, :math:`\alpha` = 0.5 or 0.9, and weight
      0.5 or 0.001 on the sum of both. The alternative to ``prototypes`` is ``between``.

    Sampling:
      For training the gates, the selection by :func:`recjax.teacher.gumbel_selection`. The group of a row here is the
      argmax of its gate, with nothing drawn.

    References:
      Kang et al., `Topology Distillation for Recommender System <https://arxiv.org/abs/2106.08700>`_, KDD 2021: HTD,
      entity-level and group-level topology as in its code.
    """
    student, teacher, group = jnp.asarray(student), jnp.asarray(teacher), jnp.asarray(group)
    s, t = checked_rows(student, teacher, where)
    if group.shape != student.shape[:1]:
        raise ValueError(f"expected group of shape {student.shape[:1]}, got {group.shape}")
    check_integers(group=group)

    def directions(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        totals = jax.ops.segment_sum(scaled(x, axis=(0, 1)), group, num_segments=groups)
        return unit(x), jax.lax.stop_gradient(unit(totals))  # a mean's direction is its sum's, and 0 for no rows

    (s, of_s), (t, of_t) = directions(s), directions(t)
    target = products(t, t)
    near = (group[:, None] == group[None, :]) & ~(target <= 0)  # nan goes on
    return Hierarchy(
        entities=jnp.where(near, jnp.square(products(s, s) - target), 0).astype(student.dtype),
        prototypes=jnp.square(products(s, of_s) - products(t, of_t)).astype(student.dtype),
        between=jnp.square(products(of_s, of_s) - products(of_t, of_t)).astype(student.dtype),
    )
