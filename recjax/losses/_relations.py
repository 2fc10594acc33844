"""Relational losses: distances, angles and similarities between the rows of a batch.

They compare numbers and not vectors, so student and teacher may differ in width and need no projection.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from recjax.arrays import check_integers, check_same_shape, check_where, clear_masked, wide_dtype
from recjax.losses._features import divide_by_max, normalize
from recjax.losses._task import softmax_cross_entropy


def checked_rows(student: jax.Array, teacher: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Both matrices checked and in the wide dtype, with 0 in the rows that don't count."""
    for name, side in {"student": student, "teacher": teacher}.items():
        if side.ndim != 2:
            raise ValueError(f"expected {name} of shape [n, dim], got {side.shape}")
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f"expected student and teacher with equal numbers of rows, got {student.shape} and {teacher.shape}"
        )
    if where is not None:
        check_where(where, student.shape[:1])
    dtype = wide_dtype(student, "student")
    counted = None if where is None else where[:, None]
    return clear_masked(student.astype(dtype), counted), clear_masked(teacher.astype(dtype), counted)


def pair_mask(where: jax.Array | None) -> jax.Array | None:
    """``[n, n]`` mask of the pairs of rows that count."""
    return None if where is None else where[:, None] & where[None, :]


def inner_products(x: jax.Array, y: jax.Array) -> jax.Array:
    """Inner products of two sets of vectors, in full precision: the losses are differences of them."""
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def pairwise_differences(x: jax.Array) -> jax.Array:
    """Differences of all pairs of rows, ``[n, n, dim]``, exactly 0 for coincident rows."""
    # XLA may compute x twice, rounded on one side and inside a fused multiply-add on the other. A row minus itself is
    # then a rounding error with a random direction and a huge gradient.
    size = jnp.max(jnp.abs(x), axis=-1, initial=0)
    rounding = 4 * jnp.finfo(x.dtype).eps * jnp.maximum(size[:, None], size[None, :])
    difference = x[:, None] - x[None, :]
    coincident = jnp.max(jnp.abs(difference), axis=-1, initial=0) <= rounding
    return jnp.where((coincident | jnp.eye(x.shape[0], dtype=bool))[..., None], 0, difference)


def huber(x: jax.Array) -> jax.Array:
    """Huber function: half the square up to 1, linear beyond."""
    size = jnp.abs(x)
    return jnp.where(size < 1, jnp.square(x) / 2, size - 0.5)


def relational_distance(student: jax.Array, teacher: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Huber loss between relative distances of the rows of a batch (RKD-D).

    .. math::
        \ell_{ij} = h(\psi_{ij}(S) - \psi_{ij}(T)), \qquad \psi_{ij}(X) = \frac{\lVert x_i - x_j \rVert_2}{\mu},
        \qquad h(x) = \begin{cases} x^2 / 2 & |x| < 1 \\ |x| - 1/2 & \text{otherwise,} \end{cases}

    with :math:`\mu` the mean of the positive distances of that model. Coincident rows, up to rounding, have distance 0
    and get no gradient from it.

    Args:
      student, teacher: ``[n, dim]`` float, vectors :math:`S` and :math:`T` of the same examples; ``dim`` may differ.
      where: ``[n]`` bool, which rows count.

    Returns:
      ``[n, n]`` loss of each ordered pair, 0 on the diagonal.

    Examples:
      >>> s = jnp.array([[0.0], [1.0], [3.0]])  # distances 1, 2 and 3, with mean 2
      >>> t = jnp.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])  # 3, 4 and 5, with mean 4
      >>> print(f"{relational_distance(s, t)[0, 1]:.4f}")
      0.0312

    Published:
      Weight 1 on the mean over all ordered pairs of a batch of 128, diagonal included, beside weight 2 on
      :func:`relational_angle`. In the public code coincident pairs count in :math:`\mu` as well.

    References:
      Park et al., `Relational Knowledge Distillation <https://arxiv.org/abs/1904.05068>`_, CVPR 2019, section 3.2.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    counted = pair_mask(where)

    def relative(x: jax.Array) -> jax.Array:
        edges = pairwise_differences(divide_by_max(x, axis=(0, 1)))
        distance = clear_masked(jnp.sum(normalize(edges) * edges, axis=-1), counted)  # a sum of squares could underflow
        mean = jnp.sum(distance) / jnp.maximum(jnp.sum(distance != 0), 1).astype(x.dtype)
        return distance / jnp.where(mean == 0, 1, mean)

    s, t = checked_rows(student, teacher, where)
    return huber(relative(s) - relative(t)).astype(student.dtype)


def relational_angle(student: jax.Array, teacher: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Huber loss between the angles that triples of rows form (RKD-A).

    .. math::
        \ell_{ijk} = h(\psi_{ijk}(S) - \psi_{ijk}(T)),
        \qquad \psi_{ijk}(X) = \Big\langle \frac{x_i - x_j}{\lVert x_i - x_j \rVert_2},
        \frac{x_k - x_j}{\lVert x_k - x_j \rVert_2} \Big\rangle,

    with the :math:`h` of :func:`relational_distance`. A coincident pair of rows, up to rounding, has cosine 0 and gets
    no gradient.

    Args:
      student, teacher: ``[n, dim]`` float, vectors :math:`S` and :math:`T` of the same examples; ``dim`` may differ.
      where: ``[n]`` bool, which rows count.

    Returns:
      ``[n, n, n]`` loss of each ordered triple: 2 million for 128 rows, a billion for 1024.

    Examples:
      >>> s = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])  # a right angle at row 1
      >>> t = jnp.array([[1.0], [0.0], [2.0]])  # no angle at row 1
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
        edges = normalize(pairwise_differences(x))
        return jnp.einsum("ijd,kjd->ijk", edges, edges, precision=jax.lax.Precision.HIGHEST)

    s, t = checked_rows(student, teacher, where)
    triples = None if where is None else where[:, None, None] & where[None, :, None] & where[None, None, :]
    return clear_masked(huber(cosines(s) - cosines(t)), triples).astype(student.dtype)


def similarity_preserving(student: jax.Array, teacher: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Squared difference of the row-normalized similarity matrices of a batch (SP).

    .. math::
        \ell_{ij} = (\tilde G_{ij}(S) - \tilde G_{ij}(T))^2,
        \qquad \tilde G_i = \frac{G_i}{\lVert G_i \rVert_2},\; G(X) = X X^\top.

    A zero vector has similarity 0 with all and gets no gradient from its own row.

    Args:
      student, teacher: ``[n, dim]`` float, vectors :math:`S` and :math:`T` of the same examples; ``dim`` may differ.
      where: ``[n]`` bool, which rows count.

    Returns:
      ``[n, n]`` loss of each ordered pair, not symmetric. The mean is the paper's loss, a squared Frobenius norm over
      :math:`n^2`.

    Examples:
      >>> s, t = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[3.0], [4.0]])
      >>> print(f"{similarity_preserving(s, t).mean():.4f}")
      0.3000

    Published:
      Weight 3000 on the mean over all ordered pairs of a batch of images, summed over the layers compared.

    References:
      Tung and Mori, `Similarity-Preserving Knowledge Distillation <https://arxiv.org/abs/1907.09682>`_, ICCV 2019.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)

    def similarities(x: jax.Array) -> jax.Array:
        x = divide_by_max(x, axis=(0, 1))
        return normalize(inner_products(x, x))

    s, t = checked_rows(student, teacher, where)
    return jnp.square(similarities(s) - similarities(t)).astype(student.dtype)


def gram(student: jax.Array, teacher: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Squared difference of the Gram matrices (inner products of the rows) of a batch.

    .. math::
        \ell_{ij} = \big( (S S^\top)_{ij} - (T T^\top)_{ij} \big)^2.

    Nothing is normalized. In float16 the loss is infinite where inner products differ by more than 255.

    Args:
      student, teacher: ``[n, dim]`` float, vectors :math:`S` and :math:`T` of the same examples; ``dim`` may differ.
      where: ``[n]`` bool, which rows count.

    Returns:
      ``[n, n]`` loss of each ordered pair.

    Examples:
      >>> s, t = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0], [2.0]])
      >>> print(gram(s, t))
      [[0. 4.]
       [4. 9.]]

    Published:
      On CTR models, weight 1 on the mean over all ordered pairs of the first 1024 examples of a batch.

    References:
      Peng et al., `Correlation Congruence for Knowledge Distillation <https://arxiv.org/abs/1904.01802>`_, ICCV 2019,
      which also has other kernels than the inner product.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    s, t = checked_rows(student, teacher, where)
    return jnp.square(inner_products(s, s) - inner_products(t, t)).astype(student.dtype)


def topology(student: jax.Array, teacher: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Squared difference of the cosines between the rows of a batch (FTD).

    .. math::
        \ell_{ij} = (\rho_{ij}(S) - \rho_{ij}(T))^2,
        \qquad \rho_{ij}(X) = \frac{\langle x_i, x_j \rangle}{\lVert x_i \rVert_2 \lVert x_j \rVert_2}.

    A zero vector has cosine 0 with all, itself included, and gets no gradient.

    Args:
      student, teacher: ``[n, dim]`` float, vectors :math:`S` and :math:`T` of the same examples; ``dim`` may differ.
      where: ``[n]`` bool, which rows count, such as the first of each user and item of a batch.

    Returns:
      ``[n, n]`` loss of each ordered pair.

    Examples:
      >>> s, t = jnp.array([[2.0, 0.0], [3.0, 4.0]]), jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> print(f"{topology(s, t)[0, 1]:.4f}")
      0.3600

    Published:
      Weight 0.001 on the sum over all ordered pairs of the distinct users, positive items and negative items of a
      batch, for students about as wide as the teacher; narrower ones learn more from :func:`hierarchical_topology`.

    Sampling:
      Nothing, or some rows of a large batch: 1024 triples have up to 3072.

    References:
      Kang et al., `Topology Distillation for Recommender System <https://arxiv.org/abs/2106.08700>`_, KDD 2021.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    s, t = (normalize(side) for side in checked_rows(student, teacher, where))
    return jnp.square(inner_products(s, s) - inner_products(t, t)).astype(student.dtype)


def info_nce(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: jax.typing.ArrayLike = 0.1,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Contrastive loss with in-batch negatives (InfoNCE), on cosines.

    .. math::
        \ell_i = -\log \frac{e^{\rho(s_i, t_i) / \tau}}{\sum_j e^{\rho(s_i, t_j) / \tau}},

    with the cosine :math:`\rho`, where the paper has a learned bilinear form. A zero vector has cosine 0 with all and
    gets no gradient.

    Args:
      student: ``[n, dim]`` float, vectors :math:`s_i`, already projected to the teacher's width.
      teacher: ``[n, dim]`` float, vectors :math:`t_i` of the same examples.
      temperature: scalar ``> 0``, :math:`\tau`.
      where: ``[n]`` bool, which rows count; the others are no negatives either.

    Returns:
      ``[n]`` nats, one per row.

    Examples:
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
    s, t = (normalize(side) for side in checked_rows(student, teacher, where))
    logits = inner_products(s, t) / jnp.asarray(temperature, s.dtype)
    count = student.shape[0]
    candidates = None if where is None else jnp.broadcast_to(where, (count, count))
    loss = softmax_cross_entropy(logits, jnp.arange(count), where=candidates)
    return clear_masked(loss, where).astype(student.dtype)


class Hierarchy(NamedTuple):
    """Unreduced parts of :func:`hierarchical_topology`.

    Attributes:
      entities: ``[n, n]`` loss between the rows of one group.
      prototypes: ``[n, groups]`` loss between each row and the mean of each group.
      between: ``[groups, groups]`` loss between the means of the groups, without gradient.
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
    r"""Squared differences of cosines within groups of rows, and between rows and group means (HTD).

    With cosines :math:`\rho`, groups :math:`g_i` and prototypes :math:`P_k`, the means of the groups,

    .. math::
        \text{entities}_{ij} &= [g_i = g_j]\, [\rho(t_i, t_j) > 0]\, (\rho(s_i, s_j) - \rho(t_i, t_j))^2, \\
        \text{prototypes}_{ik} &= (\rho(s_i, P_k(S)) - \rho(t_i, P_k(T)))^2, \\
        \text{between}_{kl} &= (\rho(P_k(S), P_l(S)) - \rho(P_k(T), P_l(T)))^2.

    For students too narrow to preserve the cosines of all pairs (:func:`topology`). A zero vector has cosine 0 and gets
    no gradient. As published, no gradient flows through the prototypes, so ``between`` has none.

    Args:
      student: ``[n, student's dim]`` float, vectors :math:`s_i`.
      teacher: ``[n, teacher's dim]`` float, vectors :math:`t_i` of the same examples.
      group: ``[n]`` integer in [0, groups), group of each row; users and items never share a group.
      groups: number of groups, static.
      where: ``[n]`` bool, which rows count; the others are in no prototype.

    Returns:
      :class:`Hierarchy`; 0 for a group without rows that count.

    Examples:
      >>> s = jnp.array([[2.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
      >>> t = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> loss = hierarchical_topology(s, t, jnp.array([0, 0, 1]), groups=2)
      >>> print(f"{loss.entities[0, 1]:.4f} {loss.prototypes[0, 0]:.4f} {loss.between[0, 1]:.4f}")
      0.1600 0.0480 0.3902

    Published:
      Sums of ``entities`` and ``prototypes`` (or ``between``) over the distinct users and items of a batch, with weight
      :math:`\alpha`, beside weight :math:`1 - \alpha` on the loss that trains the gates (:func:`distillation_experts`,
      one expert per group). In later reproductions 30 or 40 groups each for users and items, :math:`\alpha` = 0.5 or
      0.9, and weight 0.5 or 0.001 on the sum of both.

    Sampling:
      For training the gates, the selection by :func:`recjax.teacher.gumbel_selection`. The group of a row is the argmax
      of its gate, without sampling.

    References:
      Kang et al., `Topology Distillation for Recommender System <https://arxiv.org/abs/2106.08700>`_, KDD 2021, with
      the two levels of its code.
    """
    student, teacher, group = jnp.asarray(student), jnp.asarray(teacher), jnp.asarray(group)
    s, t = checked_rows(student, teacher, where)
    if group.shape != student.shape[:1]:
        raise ValueError(f"expected group of shape {student.shape[:1]}, got {group.shape}")
    check_integers(group=group)

    def directions(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        totals = jax.ops.segment_sum(divide_by_max(x, axis=(0, 1)), group, num_segments=groups)
        return normalize(x), jax.lax.stop_gradient(normalize(totals))  # a sum has the direction of the mean

    (s, of_s), (t, of_t) = directions(s), directions(t)
    target = inner_products(t, t)
    near = (group[:, None] == group[None, :]) & ~(target <= 0)  # NaN propagates
    return Hierarchy(
        entities=jnp.where(near, jnp.square(inner_products(s, s) - target), 0).astype(student.dtype),
        prototypes=jnp.square(inner_products(s, of_s) - inner_products(t, of_t)).astype(student.dtype),
        between=jnp.square(inner_products(of_s, of_s) - inner_products(of_t, of_t)).astype(student.dtype),
    )
