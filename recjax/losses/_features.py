"""Feature distillation: losses between hidden activations or gradients of student and teacher."""

import jax
import jax.numpy as jnp

from recjax.arrays import (
    check_integers,
    check_rows,
    check_same_shape,
    check_where,
    clear_masked,
    masked_mean,
    wide_dtype,
)


def scaled(x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """A float array over its largest magnitude along ``axis``, for what doesn't depend on the scale.

    Squares of the result neither overflow nor vanish. The divisor is held fixed: a function that doesn't depend on the
    scale has the same derivatives with and without. Subnormal numbers stay as they are, since their reciprocals are
    infinite.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0))
    return x / jnp.where(largest < jnp.finfo(x.dtype).tiny, 1, largest)


def unit(x: jax.Array) -> jax.Array:
    """Vectors over their length, along the last axis; a zero vector stays zero and gets no gradient."""
    x = scaled(x, axis=-1)
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    zero = squared < 0.5  # a scaled vector has an entry of magnitude 1, or is zero; nan is neither and goes on
    return jnp.where(zero, 0, x / jnp.sqrt(jnp.where(zero, 1, squared)))


def hint(student: jax.Array, teacher: jax.Array) -> jax.Array:
    r"""Squared distance of two activation vectors.

    For the student's activations :math:`u`, already projected to the teacher's width, and the teacher's :math:`v`,

    .. math::
        \ell(u, v) = \lVert u - v \rVert_2^2.

    The paper's factor 1/2 is left out. A projection is trained with the student and dropped for serving.

    Args:
      student: ``[..., dim]`` float.
      teacher: ``[..., dim]`` float, same shape.

    Returns:
      ``[...]`` loss, one per vector, in the dtype of ``student``.

    Raises:
      ValueError: if ``student`` and ``teacher`` differ in shape or are scalars.
      TypeError: if ``student`` is not of a floating dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(hint(jnp.array([3.0, 0.0]), jnp.array([0.0, 4.0])))
      25.0

    Published:
      A first stage of its own, up to the hinted layer, with factor 1/2 and no other loss, before a second stage on
      softened targets. In later recommenders beside the loss on the labels: the sum over the sampled users and items,
      or weight 0.01 on the mean over a batch, on the penultimate layer of CTR models.

    Sampling:
      Nothing for the layers of a network. For embedding tables, as many users and items as a batch has, uniformly
      without replacement from all of them: :func:`jax.random.choice`.

    References:
      Romero et al., `FitNets: Hints for Thin Deep Nets <https://arxiv.org/abs/1412.6550>`_, ICLR 2015, section 2.2,
      equation 3.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    return jnp.sum(jnp.square(student.astype(dtype) - teacher.astype(dtype)), axis=-1).astype(student.dtype)


def cosine_hint(student: jax.Array, teacher: jax.Array) -> jax.Array:
    r"""One minus the cosine of two activation vectors.

    For the student's activations :math:`u`, already projected to the teacher's width, and the teacher's :math:`v`,

    .. math::
        \ell(u, v) = 1 - \frac{\langle u, v \rangle}{\lVert u \rVert_2 \lVert v \rVert_2}.

    Invariant to the lengths of the vectors, unlike :func:`hint`. A zero vector has cosine 0 with any other and gets no
    gradient.

    Args:
      student: ``[..., dim]`` float.
      teacher: ``[..., dim]`` float, same shape.

    Returns:
      ``[...]`` loss in [0, 2] up to rounding, one per vector, in the dtype of ``student``.

    Raises:
      ValueError: if ``student`` and ``teacher`` differ in shape or are scalars.
      TypeError: if ``student`` is not of a floating dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(f"{cosine_hint(jnp.array([2.0, 0.0]), jnp.array([3.0, 4.0])):.4f}")
      0.4000

    Published:
      Weight 1 on the mean over a batch, for the hidden state at the last position after each block of layers, beside
      0.1 times the mean distance of the same states (the root of :func:`hint`).

    References:
      Xu et al., `SLMRec: Distilling Large Language Models into Small for Sequential Recommendation
      <https://arxiv.org/abs/2405.17890>`_, ICLR 2025.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    cosine = jnp.sum(unit(student.astype(dtype)) * unit(teacher.astype(dtype)), axis=-1)
    return (1 - cosine).astype(student.dtype)


def attention_transfer(student: jax.Array, teacher: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Mean squared difference of activation-based attention maps (AT).

    For activations :math:`F` of :math:`n` positions (fields of a record, steps of a history) and :math:`d` channels,

    .. math::
        \ell(S, T) = \frac{1}{n} \sum_i (a_i(S) - a_i(T))^2,
        \qquad a(F) = \frac{q}{\lVert q \rVert_2},\; q_i = \frac{1}{d} \sum_c F_{ic}^2.

    The two layers need the same positions, not the same width. A layer that is zero at every position has :math:`a = 0`
    and gets no gradient.

    Args:
      student: ``[..., n, dim]`` float.
      teacher: ``[..., n, dim]`` float, same shape but for the width ``dim``.
      where: ``[..., n]`` bool, which positions count. A layer with no valid position has loss 0.

    Returns:
      ``[...]`` loss, the mean over the positions that count, in the dtype of ``student``.

    Raises:
      ValueError: if ``student`` and ``teacher`` differ in more than their width, have fewer than two axes, or don't fit
        ``where``.
      TypeError: if ``student`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> s = jnp.array([[3.0, 0.0], [0.0, 0.0]])  # active at the first of two positions
      >>> t = jnp.array([[0.0, 0.0, 0.0], [1.0, 2.0, 2.0]])  # at the second
      >>> print(attention_transfer(s, t))
      1.0

    Published:
      Weight 1000 on the mean over positions and batch (128 images), added up over the layers compared.

    References:
      Zagoruyko and Komodakis, `Paying More Attention to Attention <https://arxiv.org/abs/1612.03928>`_, ICLR 2017,
      section 3.1: activation-based, in the normalization of its code.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    if student.ndim < 2 or teacher.ndim < 2 or student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            "expected student and teacher of shapes [..., n, dim], equal but for dim, "
            f"got {student.shape} and {teacher.shape}"
        )
    if where is not None:
        check_where(where, student.shape[:-1])
    dtype = wide_dtype(student, "student")
    counted = None if where is None else where[..., None]

    def attention(x: jax.Array) -> jax.Array:
        return unit(jnp.mean(jnp.square(scaled(clear_masked(x.astype(dtype), counted), axis=(-2, -1))), axis=-1))

    squares = jnp.square(attention(student) - attention(teacher))
    return masked_mean(squares, where, axis=-1)[..., 0].astype(student.dtype)


def gradient_match(student: jax.Array, teacher: jax.Array) -> jax.Array:
    r"""Squared distance of two normalized input gradients (Jacobian matching).

    For the gradients :math:`g = \partial f_S / \partial x` and :math:`h = \partial f_T / \partial x` of the two models'
    outputs with respect to one shared input :math:`x`,

    .. math::
        \ell(g, h) = \left\lVert \frac{g}{\lVert g \rVert_2} - \frac{h}{\lVert h \rVert_2} \right\rVert_2^2.

    Matching the gradient too makes the student agree around the example and not only on it. Both models must read the
    same input, such as the embedding of a record; take the gradients with :func:`jax.vjp` or :func:`jax.grad`, through
    which the gradient of the loss passes. A zero gradient stays zero, at distance 1 from any other.

    Args:
      student: ``[..., dim]`` float, gradient of the student's output.
      teacher: ``[..., dim]`` float, gradient of the teacher's, same shape.

    Returns:
      ``[...]`` loss in [0, 4] up to rounding, one per vector, in the dtype of ``student``.

    Raises:
      ValueError: if ``student`` and ``teacher`` differ in shape or are scalars.
      TypeError: if ``student`` is not of a floating dtype.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.array([1.0, 2.0])
      >>> of_student, of_teacher = jax.grad(lambda x: x[0] * x[1])(x), jax.grad(jnp.sum)(x)
      >>> print(f"{gradient_match(of_student, of_teacher):.4f}")
      0.1026

    Published:
      On images, beside the matching of the outputs. No weight for recommenders is published.

    References:
      Srinivas and Fleuret, `Knowledge Transfer with Jacobian Matching <https://arxiv.org/abs/1803.00443>`_, ICML 2018.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    difference = unit(teacher.astype(dtype)) - unit(student.astype(dtype))
    return jnp.sum(jnp.square(difference), axis=-1).astype(student.dtype)


def distillation_experts(experts: jax.Array, teacher: jax.Array, selection: jax.Array) -> jax.Array:
    r"""Squared distance between the teacher's vector and a mixture of experts on the student's (DE).

    For the outputs :math:`E_m` of :math:`M` small networks (experts) on the student's vector, the teacher's vector
    :math:`v` and the weights :math:`z` of the experts,

    .. math::
        \ell(E, v, z) = \Big\lVert v - \sum_m z_m E_m \Big\rVert_2^2.

    The gate selects the experts per entity, where one projection for all would average over their kinds. The paper
    writes the norm, its code squares it, as here. Experts and gate are trained with the student and dropped for
    serving.

    Args:
      experts: ``[..., experts, dim]`` float, the student's vector through each expert.
      teacher: ``[..., dim]`` float.
      selection: ``[..., experts]`` float, the weights, which sum to 1.

    Returns:
      ``[...]`` loss, one per vector, in the dtype of ``experts``.

    Raises:
      ValueError: if the shapes of the arguments don't fit together.
      TypeError: if ``experts`` is not of a floating dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> experts = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(distillation_experts(experts, jnp.array([2.0, 0.0]), jnp.array([0.5, 0.5])))
      2.5

    Published:
      30 experts each for users and items, of one hidden layer of mean width; weight 0.01 on the sum over the distinct
      users of a batch of 1024 plus half the sums over its distinct positive and negative items. The temperature of the
      selection falls from 1 to 1e-10.

    Sampling:
      The selection, by :func:`recjax.teacher.gumbel_selection` from a gate's logits of the teacher's vector, at
      :func:`recjax.teacher.annealed_temperature`.

    References:
      Kang et al., `DE-RRD: A Knowledge Distillation Framework for Recommender System
      <https://arxiv.org/abs/2012.04357>`_, CIKM 2020.
    """
    experts, teacher, selection = jnp.asarray(experts), jnp.asarray(teacher), jnp.asarray(selection)
    if experts.ndim < 2:
        raise ValueError(f"expected experts of shape [..., experts, dim], got {experts.shape}")
    expected = (*experts.shape[:-2], experts.shape[-1])
    if teacher.shape != expected or selection.shape != experts.shape[:-1]:
        raise ValueError(
            f"expected teacher of shape {expected} and selection of shape {experts.shape[:-1]}, "
            f"got {teacher.shape} and {selection.shape}"
        )
    dtype = wide_dtype(experts, "experts")
    mixture = jnp.sum(selection.astype(dtype)[..., None] * experts.astype(dtype), axis=-2)
    return jnp.sum(jnp.square(teacher.astype(dtype) - mixture), axis=-1).astype(experts.dtype)


def orthogonal_rows(weights: jax.Array) -> jax.Array:
    r"""Orthonormal rows, parametrized by unconstrained weights.

    With :math:`A` the weights :math:`W`, padded by zero rows to a square,

    .. math::
        P = \big[ \exp(A - A^\top) \big]_{1 \ldots d_s}, \qquad P P^\top = I.

    The exponential of a skew-symmetric matrix is a rotation, so any weights give orthonormal rows. Weights of zero give
    the first rows of the identity.

    Args:
      weights: ``[rows, columns]`` float, with no more rows than columns. Rounding grows with them: in float32 the rows
        are orthonormal to about 1e-6 for weights around 1, to 1e-4 around 100, and nan where the absolute values of a
        column of :math:`A - A^\top` sum to more than some 2e5.

    Returns:
      ``[rows, columns]`` in the dtype of ``weights``.

    Raises:
      ValueError: if ``weights`` isn't a matrix, or has more rows than columns.
      TypeError: if ``weights`` is not of a floating dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> p = orthogonal_rows(jnp.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]))
      >>> bool(jnp.allclose(p @ p.T, jnp.eye(2), atol=1e-5))
      True

    References:
      Miles et al., `VkD: Improving Knowledge Distillation using Orthogonal Projections
      <https://arxiv.org/abs/2403.06213>`_, CVPR 2024.
    """
    weights = jnp.asarray(weights)
    if weights.ndim != 2 or weights.shape[0] > weights.shape[1]:
        raise ValueError(f"expected weights of shape [rows, columns], no more rows than columns, got {weights.shape}")
    dtype = wide_dtype(weights, "weights")
    rows, columns = weights.shape
    square = jnp.pad(weights.astype(dtype), ((0, columns - rows), (0, 0)))
    return jax.scipy.linalg.expm(square - square.T)[:rows].astype(weights.dtype)


def orthogonal_hint(student: jax.Array, teacher: jax.Array, weights: jax.Array) -> jax.Array:
    r"""Squared distance after an orthogonal projection of the student's vector (VkD).

    For the student's activations :math:`u`, the teacher's :math:`v` and :math:`P` of orthonormal rows
    (:func:`orthogonal_rows` of the weights),

    .. math::
        \ell(u, v, P) = \lVert v - u P \rVert_2^2.

    An unconstrained projection can learn what the student should, and is dropped for serving; this one preserves all
    lengths and angles, so that the student must learn it. The paper also standardizes the teacher's activations over
    the batch, which is left to the caller.

    Args:
      student: ``[..., student's dim]`` float.
      teacher: ``[..., teacher's dim]`` float, same leading axes, at least as wide.
      weights: ``[student's dim, teacher's dim]`` float, trained with the student and initialized to zeros.

    Returns:
      ``[...]`` loss, one per vector, in the dtype of ``student``.

    Raises:
      ValueError: if the shapes of the arguments don't fit together, or the student is wider than the teacher.
      TypeError: if ``student`` or ``weights`` is not of a floating dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(orthogonal_hint(jnp.array([3.0]), jnp.array([3.0, 4.0]), jnp.zeros((1, 2))))
      16.0
      >>> quarter = jnp.array([[0.0, jnp.pi / 2]])  # a turn from the first axis to the second
      >>> print(f"{orthogonal_hint(jnp.array([3.0]), jnp.array([3.0, 4.0]), quarter):.4f}")
      10.0000

    Published:
      On images and detectors, on the last layer's activations, the projection trained with the student. In a
      recommender, on CiteULike, weight 5e-4, with the smooth L1 distance in place of the square and each vector
      normalized by itself and not over the batch.

    References:
      Miles et al., `VkD: Improving Knowledge Distillation using Orthogonal Projections
      <https://arxiv.org/abs/2403.06213>`_, CVPR 2024.
    """
    student, teacher, weights = jnp.asarray(student), jnp.asarray(teacher), jnp.asarray(weights)
    if student.ndim < 1 or teacher.ndim < 1 or student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            "expected student and teacher of shapes [..., dim], equal but for dim, "
            f"got {student.shape} and {teacher.shape}"
        )
    expected = (student.shape[-1], teacher.shape[-1])
    if weights.shape != expected:
        raise ValueError(f"expected weights of shape {expected}, got {weights.shape}")
    dtype = wide_dtype(student, "student")
    wide_dtype(weights, "weights")
    rows = orthogonal_rows(weights.astype(dtype))
    turned = jnp.einsum("...i,ij->...j", student.astype(dtype), rows, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(jnp.square(teacher.astype(dtype) - turned), axis=-1).astype(student.dtype)


def graph_filter(
    x: jax.Array, source: jax.Array, target: jax.Array, weight: jax.Array, *, alpha: jax.typing.ArrayLike
) -> jax.Array:
    r"""Low-pass graph filter: each vector mixed with the weighted sum of its neighbors.

    For vectors :math:`x_e` and edges :math:`f \to e` of weight :math:`w`,

    .. math::
        h_e = \alpha \sum_{f \to e} w_{fe} \, x_f + (1 - \alpha) \, x_e.

    Args:
      x: ``[n, dim]`` float, the vectors of all nodes of the graph.
      source: ``[edges]`` integer, the node that an edge leaves.
      target: ``[edges]`` integer, the node that it enters. Pad with edges of weight 0 between nodes that exist.
      weight: ``[edges]`` float, as published the entries of :math:`D^{-1/2} A D^{-1/2}` of a symmetric adjacency matrix
        :math:`A` with degrees :math:`D`.
      alpha: scalar in [0, 1], weight of the neighbors.

    Returns:
      ``[n, dim]`` in the dtype of ``x``. Gathers ``[edges, dim]``.

    Raises:
      ValueError: if ``x`` is not a matrix, or the edges not vectors of one length.
      TypeError: if ``x`` is not of a floating dtype, or ``source`` or ``target`` not of an integer one.

    Examples:
      >>> import jax.numpy as jnp
      >>> source, target, weight = jnp.array([0, 1]), jnp.array([1, 0]), jnp.ones(2)
      >>> graph_filter(jnp.array([[1.0], [3.0]]), source, target, weight, alpha=0.25).ravel().tolist()
      [1.5, 2.5]

    Published:
      ``alpha`` = 0.5 and, on the filtered vectors of student and teacher, :func:`cosine_hint` with weight 0.5; see
      :func:`graph_filtered_hint` for the graphs.

    Sampling:
      The edges: each is kept with probability 0.5 (:func:`jax.random.bernoulli`), and the weights of those kept are
      divided by 0.5.

    References:
      Zhu and Zhang, `Exploring Feature-based Knowledge Distillation for Recommender System: A Frequency Perspective
      <https://arxiv.org/abs/2411.10676>`_, KDD 2025.
    """
    x, source, target, weight = jnp.asarray(x), jnp.asarray(source), jnp.asarray(target), jnp.asarray(weight)
    check_same_shape(source=source, target=target, weight=weight)
    if x.ndim != 2 or source.ndim != 1:
        raise ValueError(f"expected vectors [n, dim] and source [edges], got {x.shape} and {source.shape}")
    check_integers(source=source, target=target)
    dtype = wide_dtype(x, "x")
    share, own = jnp.asarray(alpha, dtype), x.astype(dtype)
    sent = weight.astype(dtype)[:, None] * own[source]
    received = jax.ops.segment_sum(sent, target, num_segments=x.shape[0])
    return (share * received + (1 - share) * own).astype(x.dtype)


def graph_filtered_hint(
    student: jax.Array,
    teacher: jax.Array,
    source: jax.Array,
    target: jax.Array,
    weight: jax.Array,
    *,
    alpha: jax.typing.ArrayLike,
) -> jax.Array:
    r"""Squared distance of activation vectors after a low-pass graph filter (FreqD).

    With :math:`d_e` the teacher's vector of node :math:`e` less the student's, which is already projected to its width,
    and edges :math:`f \to e` of weight :math:`w`,

    .. math::
        \ell_e = \lVert h_e \rVert_2^2,
        \qquad h_e = \alpha \sum_{f \to e} w_{fe} \, d_f + (1 - \alpha) \, d_e.

    The graph is a low-pass filter (:func:`graph_filter`). ``alpha=0`` is :func:`hint`.

    Args:
      student: ``[n, dim]`` float, all nodes of the graph.
      teacher: ``[n, dim]`` float, same shape.
      source: ``[edges]`` integer, which node an edge leaves.
      target: ``[edges]`` integer, which node it enters. Pad by edges of weight 0 between nodes that exist.
      weight: ``[edges]`` float, as published the entries of :math:`D^{-1/2} A D^{-1/2}` of a symmetric adjacency matrix
        :math:`A` with degrees :math:`D`.
      alpha: scalar in [0, 1], weight of the neighbors.

    Returns:
      ``[n]`` loss, one per node, in the dtype of ``student``. Gathers ``[edges, dim]``.

    Raises:
      ValueError: if the shapes of the arguments don't fit together.
      TypeError: if ``student`` is not of a floating dtype, or ``source`` or ``target`` not of an integer one.

    Examples:
      >>> import jax.numpy as jnp
      >>> s, t = jnp.zeros((2, 1)), jnp.array([[1.0], [3.0]])
      >>> source, target, weight = jnp.array([0, 1]), jnp.array([1, 0]), jnp.ones(2)
      >>> print(graph_filtered_hint(s, t, source, target, weight, alpha=0.5))  # both are halfway, at 2
      [4. 4.]

    Published:
      ``alpha`` = 0.2 by default, in one graph of users and one of items, each node linked to the 5 with which it shares
      most interactions, as sums over the users of a batch plus half the sums over its positive and negative items. The
      published configuration has ``alpha`` = 0.5 and weight 0.5, and normalizes: it takes the cosine of the filtered
      vectors, ``cosine_hint(graph_filter(student, ...), graph_filter(teacher, ...))``.

    Sampling:
      The edges: each is kept with probability 0.5 (:func:`jax.random.bernoulli`), and the weights of those kept are
      divided by 0.5, which keeps their mean.

    References:
      Zhu and Zhang, `Exploring Feature-based Knowledge Distillation for Recommender System: A Frequency Perspective
      <https://arxiv.org/abs/2411.10676>`_, KDD 2025.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_same_shape(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    # The filter is linear: that of the difference is the difference of both, for one gather.
    filtered = graph_filter(teacher.astype(dtype) - student.astype(dtype), source, target, weight, alpha=alpha)
    return jnp.sum(jnp.square(filtered), axis=-1).astype(student.dtype)
