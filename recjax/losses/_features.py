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


def divide_by_max(x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Divides by the largest magnitude along ``axis``, so that squares neither overflow nor underflow.

    The divisor has no gradient: only for functions that don't depend on the scale.
    """
    # Not by subnormal numbers, whose reciprocals are infinite.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0))
    return x / jnp.where(largest < jnp.finfo(x.dtype).tiny, 1, largest)


def normalize(x: jax.Array) -> jax.Array:
    """Normalizes vectors along the last axis; a zero vector stays zero and gets no gradient."""
    x = divide_by_max(x, axis=-1)
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    zero = squared < 0.5  # otherwise an entry has magnitude 1; NaN propagates
    return jnp.where(zero, 0, x / jnp.sqrt(jnp.where(zero, 1, squared)))


def hint(student: jax.Array, teacher: jax.Array) -> jax.Array:
    r"""Squared distance of two activation vectors (FitNets).

    .. math::
        \ell(u, v) = \lVert u - v \rVert_2^2.

    Args:
      student, teacher: ``[..., dim]`` float, activations :math:`u`, projected to the teacher's width, and :math:`v`.

    Returns:
      ``[...]`` loss, one per vector.

    Examples:
      >>> print(hint(jnp.array([3.0, 0.0]), jnp.array([0.0, 4.0])))
      25.0

    Published:
      With factor 1/2, in a first stage without other losses, before a second stage on softened targets. In later
      recommenders beside the loss on labels: the sum over the sampled users and items, or weight 0.01 on the mean over
      a batch, on the penultimate layer of CTR models.

    Sampling:
      Nothing for hidden layers. For embedding tables, as many users and items as a batch has, uniformly without
      replacement: :func:`jax.random.choice`.

    References:
      Romero et al., `FitNets: Hints for Thin Deep Nets <https://arxiv.org/abs/1412.6550>`_, ICLR 2015, equation 3.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    return jnp.sum(jnp.square(student.astype(dtype) - teacher.astype(dtype)), axis=-1).astype(student.dtype)


def cosine_hint(student: jax.Array, teacher: jax.Array) -> jax.Array:
    r"""One minus the cosine of two activation vectors.

    .. math::
        \ell(u, v) = 1 - \frac{\langle u, v \rangle}{\lVert u \rVert_2 \lVert v \rVert_2}.

    A zero vector has cosine 0 with any other and gets no gradient.

    Args:
      student, teacher: ``[..., dim]`` float, activations :math:`u`, projected to the teacher's width, and :math:`v`.

    Returns:
      ``[...]`` loss in [0, 2] up to rounding, one per vector.

    Examples:
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
    cosine = jnp.sum(normalize(student.astype(dtype)) * normalize(teacher.astype(dtype)), axis=-1)
    return (1 - cosine).astype(student.dtype)


def attention_transfer(student: jax.Array, teacher: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Mean squared difference of activation-based attention maps (AT).

    .. math::
        \ell(S, T) = \frac{1}{n} \sum_i (a_i(S) - a_i(T))^2,
        \qquad a(F) = \frac{q}{\lVert q \rVert_2},\; q_i = \frac{1}{d} \sum_c F_{ic}^2.

    A layer that is zero at every position has :math:`a = 0` and gets no gradient.

    Args:
      student: ``[..., n, dim]`` float, activations :math:`S` at ``n`` positions (fields, or steps of a sequence).
      teacher: ``[..., n, dim]`` float, activations :math:`T`; ``dim`` may differ.
      where: ``[..., n]`` bool, which positions count.

    Returns:
      ``[...]`` loss, the mean over the positions that count.

    Examples:
      >>> s = jnp.array([[3.0, 0.0], [0.0, 0.0]])  # active at the first of two positions
      >>> t = jnp.array([[0.0, 0.0, 0.0], [1.0, 2.0, 2.0]])  # at the second
      >>> print(attention_transfer(s, t))
      1.0

    Published:
      Weight 1000 on the mean over positions and batch (128 images), summed over the layers compared.

    References:
      Zagoruyko and Komodakis, `Paying More Attention to Attention <https://arxiv.org/abs/1612.03928>`_, ICLR 2017,
      section 3.1, normalized as in its code.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    if student.ndim < 2 or teacher.ndim < 2 or student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            "expected student and teacher of shapes [..., n, dim], equal except for dim, "
            f"got {student.shape} and {teacher.shape}"
        )
    if where is not None:
        check_where(where, student.shape[:-1])
    dtype = wide_dtype(student, "student")
    counted = None if where is None else where[..., None]

    def attention(x: jax.Array) -> jax.Array:
        x = divide_by_max(clear_masked(x.astype(dtype), counted), axis=(-2, -1))
        return normalize(jnp.mean(jnp.square(x), axis=-1))

    squares = jnp.square(attention(student) - attention(teacher))
    return masked_mean(squares, where, axis=-1)[..., 0].astype(student.dtype)


def gradient_match(student: jax.Array, teacher: jax.Array) -> jax.Array:
    r"""Squared distance of two normalized input gradients (Jacobian matching).

    .. math::
        \ell(g, h) = \left\lVert \frac{g}{\lVert g \rVert_2} - \frac{h}{\lVert h \rVert_2} \right\rVert_2^2.

    Both models need the same input, such as the embeddings of an example. Take the gradients by :func:`jax.grad` or
    :func:`jax.vjp`; the loss can be differentiated through them. A zero gradient is not normalized.

    Args:
      student: ``[..., dim]`` float, gradient :math:`g` of the student's output with respect to the input.
      teacher: ``[..., dim]`` float, gradient :math:`h` of the teacher's output.

    Returns:
      ``[...]`` loss in [0, 4] up to rounding, one per vector.

    Examples:
      >>> x = jnp.array([1.0, 2.0])
      >>> student, teacher = jax.grad(lambda x: x[0] * x[1])(x), jax.grad(jnp.sum)(x)
      >>> print(f"{gradient_match(student, teacher):.4f}")
      0.1026

    Published:
      On images, beside a loss between the outputs. No weight for recommenders is published.

    References:
      Srinivas and Fleuret, `Knowledge Transfer with Jacobian Matching <https://arxiv.org/abs/1803.00443>`_, ICML 2018.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_rows(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    difference = normalize(teacher.astype(dtype)) - normalize(student.astype(dtype))
    return jnp.sum(jnp.square(difference), axis=-1).astype(student.dtype)


def distillation_experts(experts: jax.Array, teacher: jax.Array, selection: jax.Array) -> jax.Array:
    r"""Squared distance between the teacher's vector and a mixture of experts on the student's (DE).

    .. math::
        \ell(E, v, z) = \Big\lVert v - \sum_m z_m E_m \Big\rVert_2^2.

    The experts are small networks. They and the gate are trained with the student and dropped for serving.

    Args:
      experts: ``[..., experts, dim]`` float, output :math:`E_m` of each expert on the student's vector.
      teacher: ``[..., dim]`` float, vector :math:`v`.
      selection: ``[..., experts]`` float, weights :math:`z` of the experts, with sum 1.

    Returns:
      ``[...]`` loss, one per vector.

    Examples:
      >>> experts = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(distillation_experts(experts, jnp.array([2.0, 0.0]), jnp.array([0.5, 0.5])))
      2.5

    Published:
      30 experts each for users and items, with one hidden layer of the mean of both widths; weight 0.01 on the sum over
      the distinct users of a batch of 1024 plus half the sums over its distinct positive and negative items. The
      temperature of the selection falls from 1 to 1e-10. The paper writes the norm; its code squares it.

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
    r"""Matrix with orthonormal rows, parametrized by unconstrained weights (VkD).

    With :math:`A` the weights padded by zero rows to a square,

    .. math::
        P = \big[ \exp(A - A^\top) \big]_{1 \ldots d_s}, \qquad P P^\top = I.

    Args:
      weights: ``[rows, columns]`` float, with no more rows than columns; zeros give the first rows of the identity. In
        float32 the rows are orthonormal to about 1e-6 for weights around 1, 1e-4 around 100, and NaN where the absolute
        values of a column of :math:`A - A^\top` sum to more than about 2e5.

    Returns:
      ``[rows, columns]`` matrix :math:`P`.

    Examples:
      >>> p = orthogonal_rows(jnp.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]))
      >>> bool(jnp.allclose(p @ p.T, jnp.eye(2), atol=1e-5))
      True

    References:
      Miles et al., `VkD: Improving Knowledge Distillation using Orthogonal Projections
      <https://arxiv.org/abs/2403.06213>`_, CVPR 2024.
    """
    weights = jnp.asarray(weights)
    if weights.ndim != 2 or weights.shape[0] > weights.shape[1]:
        raise ValueError(f"expected weights of shape [rows, columns] with rows <= columns, got {weights.shape}")
    dtype = wide_dtype(weights, "weights")
    rows, columns = weights.shape
    square = jnp.pad(weights.astype(dtype), ((0, columns - rows), (0, 0)))
    return jax.scipy.linalg.expm(square - square.T)[:rows].astype(weights.dtype)


def orthogonal_hint(student: jax.Array, teacher: jax.Array, weights: jax.Array) -> jax.Array:
    r"""Squared distance after an orthogonal projection of the student's vector (VkD).

    .. math::
        \ell(u, v, P) = \lVert v - u P \rVert_2^2.

    The projection :math:`P`, :func:`orthogonal_rows` of the weights, preserves lengths and angles, so it cannot learn
    in place of the student. It is dropped for serving.

    Args:
      student: ``[..., student's dim]`` float, activations :math:`u`.
      teacher: ``[..., teacher's dim]`` float, activations :math:`v`, at least as wide.
      weights: ``[student's dim, teacher's dim]`` float, trained with the student and initialized to zeros.

    Returns:
      ``[...]`` loss, one per vector.

    Examples:
      >>> quarter = jnp.array([[0.0, jnp.pi / 2]])  # a turn from the first axis to the second
      >>> print(f"{orthogonal_hint(jnp.array([3.0]), jnp.array([3.0, 4.0]), quarter):.4f}")
      10.0000

    Published:
      On images, on the last layer, with the teacher's activations standardized over the batch. In a recommender, on
      CiteULike, weight 5e-4, with the smooth L1 distance in place of the square and each vector normalized by itself.

    References:
      Miles et al., `VkD: Improving Knowledge Distillation using Orthogonal Projections
      <https://arxiv.org/abs/2403.06213>`_, CVPR 2024.
    """
    student, teacher, weights = jnp.asarray(student), jnp.asarray(teacher), jnp.asarray(weights)
    if student.ndim < 1 or teacher.ndim < 1 or student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            "expected student and teacher of shapes [..., dim], equal except for dim, "
            f"got {student.shape} and {teacher.shape}"
        )
    expected = (student.shape[-1], teacher.shape[-1])
    if weights.shape != expected:
        raise ValueError(f"expected weights of shape {expected}, got {weights.shape}")
    dtype = wide_dtype(student, "student")
    wide_dtype(weights, "weights")
    projection = orthogonal_rows(weights.astype(dtype))
    projected = jnp.einsum("...i,ij->...j", student.astype(dtype), projection, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(jnp.square(teacher.astype(dtype) - projected), axis=-1).astype(student.dtype)


def graph_filter(
    x: jax.Array, source: jax.Array, target: jax.Array, weight: jax.Array, *, alpha: jax.typing.ArrayLike
) -> jax.Array:
    r"""Low-pass graph filter: mixes each vector with the weighted sum of its neighbors (FreqD).

    .. math::
        h_e = \alpha \sum_{f \to e} w_{fe} \, x_f + (1 - \alpha) \, x_e.

    Args:
      x: ``[n, dim]`` float, vectors of all nodes of the graph.
      source: ``[edges]`` integer, node :math:`f` of each edge.
      target: ``[edges]`` integer, node :math:`e` of each edge. Pad with edges of weight 0 between existing nodes.
      weight: ``[edges]`` float, weights :math:`w`; as published the entries of :math:`D^{-1/2} A D^{-1/2}` of a
        symmetric adjacency matrix :math:`A` with degrees :math:`D`.
      alpha: scalar in [0, 1], weight of the neighbors.

    Returns:
      ``[n, dim]`` filtered vectors. Takes memory for ``[edges, dim]``.

    Examples:
      >>> source, target, weight = jnp.array([0, 1]), jnp.array([1, 0]), jnp.ones(2)
      >>> graph_filter(jnp.array([[1.0], [3.0]]), source, target, weight, alpha=0.25).ravel().tolist()
      [1.5, 2.5]

    Published:
      ``alpha`` = 0.5 and weight 0.5 on :func:`cosine_hint` of the filtered vectors of student and teacher; see
      :func:`graph_filtered_hint` for the graphs.

    Sampling:
      The edges: each is kept with probability 0.5 (:func:`jax.random.bernoulli`), with its weight divided by 0.5.

    References:
      Zhu and Zhang, `Exploring Feature-based Knowledge Distillation for Recommender System: A Frequency Perspective
      <https://arxiv.org/abs/2411.10676>`_, KDD 2025.
    """
    x, source, target, weight = jnp.asarray(x), jnp.asarray(source), jnp.asarray(target), jnp.asarray(weight)
    check_same_shape(source=source, target=target, weight=weight)
    if x.ndim != 2 or source.ndim != 1:
        raise ValueError(f"expected x of shape [n, dim] and source of shape [edges], got {x.shape} and {source.shape}")
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

    .. math::
        \ell_e = \lVert h_e \rVert_2^2,
        \qquad h_e = \alpha \sum_{f \to e} w_{fe} \, d_f + (1 - \alpha) \, d_e, \qquad d = t - s.

    This is :func:`hint` of the vectors filtered by :func:`graph_filter`.

    Args:
      student, teacher: ``[n, dim]`` float, vectors :math:`s`, projected to the teacher's width, and :math:`t`.
      source, target, weight: ``[edges]`` each, the graph as in :func:`graph_filter`.
      alpha: scalar in [0, 1], weight of the neighbors.

    Returns:
      ``[n]`` loss, one per node. Takes memory for ``[edges, dim]``.

    Examples:
      >>> s, t = jnp.zeros((2, 1)), jnp.array([[1.0], [3.0]])
      >>> source, target, weight = jnp.array([0, 1]), jnp.array([1, 0]), jnp.ones(2)
      >>> print(graph_filtered_hint(s, t, source, target, weight, alpha=0.5))  # both nodes have difference 2
      [4. 4.]

    Published:
      ``alpha`` = 0.2 by default, with one graph of users and one of items, each node linked to the 5 with which it
      shares most interactions; the sum over the users of a batch plus half the sums over its positive and negative
      items. The published configuration has ``alpha`` = 0.5 and weight 0.5 on the cosine of the filtered vectors,
      ``cosine_hint(graph_filter(student, ...), graph_filter(teacher, ...))``.

    Sampling:
      The edges: each is kept with probability 0.5 (:func:`jax.random.bernoulli`), with its weight divided by 0.5.

    References:
      Zhu and Zhang, `Exploring Feature-based Knowledge Distillation for Recommender System: A Frequency Perspective
      <https://arxiv.org/abs/2411.10676>`_, KDD 2025.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    check_same_shape(student=student, teacher=teacher)
    dtype = wide_dtype(student, "student")
    # The filter is linear, so filtering the difference once is enough.
    filtered = graph_filter(teacher.astype(dtype) - student.astype(dtype), source, target, weight, alpha=alpha)
    return jnp.sum(jnp.square(filtered), axis=-1).astype(student.dtype)
