"""Composed losses and targets: teacher ensembles, mutual learning, privileged features, layer heads, list weights."""

import jax
import jax.numpy as jnp

from recjax.arrays import check_booleans, check_rows, check_same_shape, clear_masked, fill_masked, wide_dtype
from recjax.losses._logits import soft_target_bce
from recjax.losses._task import binary_cross_entropy


def gated_teachers(teachers: jax.Array, gate: jax.Array, *, temperature: jax.typing.ArrayLike = 1.0) -> jax.Array:
    r"""Ensemble probability of several teachers, weighted per example by a gate.

    .. math::
        p(t, g) = \sum_i \mathrm{softmax}(g)_i \, \sigma(t_i / \tau).

    This is a target, not a loss: use it as the labels of :func:`binary_cross_entropy`, with the student's scores
    divided by the same :math:`\tau`. The gate learns from the student's loss.

    Args:
      teachers: ``[..., T]`` float, logits :math:`t` of each teacher.
      gate: ``[..., T]`` float, unnormalized weights :math:`g`.
      temperature: scalar ``> 0``, :math:`\tau`.

    Returns:
      ``[...]`` probability, one per example.

    Examples:
      >>> teachers, gate = jnp.array([2.0, -1.0]), jnp.array([1.0, 0.0])
      >>> print(f"{gated_teachers(teachers, gate):.4f}")
      0.7162

    Published:
      The gate is a linear map of the outputs of all teachers, learned with the student.

    References:
      Zhu et al., `Ensembled CTR Prediction via Knowledge Distillation <https://arxiv.org/abs/2011.04106>`_, CIKM 2020.
    """
    teachers, gate = jnp.asarray(teachers), jnp.asarray(gate)
    check_rows(teachers=teachers, gate=gate)
    dtype = wide_dtype(teachers, "teachers")
    probabilities = jax.nn.sigmoid(teachers.astype(dtype) / jnp.asarray(temperature, dtype))
    return jnp.sum(jax.nn.softmax(gate.astype(dtype)) * probabilities, axis=-1).astype(teachers.dtype)


def mutual_learning(students: jax.Array, labels: jax.Array) -> jax.Array:
    r"""Mutual learning of several students from labels, their ensemble and each other (EKTF).

    For :math:`p_s = \sigma(z_s)`, the ensemble :math:`\bar y = \sigma(\frac{1}{S} \sum_s z_s)` and each student's score
    :math:`m_s = \mathrm{mean}_{batch}(1 - |y - p_s|)`,

    .. math::
        \ell_s(z, y) = \frac{1}{S} \mathrm{BCE}(z_s, y) + w_s (p_s - \bar y)^2
                     + \frac{1}{S} \sum_{b \ne s} v_{sb} (p_s - p_b)^2,
        \qquad w = \mathrm{softmax}(-m),\; v_{s \cdot} = \mathrm{softmax}_{b \ne s}(m_b).

    The ensemble, the peers :math:`p_b` and the weights are detached.

    Args:
      students: ``[S, batch]`` float, logits :math:`z` of each student.
      labels: ``[batch]`` probabilities in [0, 1] or booleans, :math:`y`.

    Returns:
      ``[S, batch]`` loss, one per student and example; the cross-entropy for a single student.

    Examples:
      >>> students = jnp.array([[2.0, -1.0, 0.0], [1.0, 0.0, 1.0]])
      >>> print(f"{mutual_learning(students, jnp.array([1.0, 0.0, 1.0])).sum(0).mean():.4f}")
      0.4628

    Published:
      No hyperparameters in the loss, two to three students; the sum over them, the mean over the batch. The public code
      flips 5% of each batch's labels first and does not detach the weights :math:`w` and :math:`v`.

    References:
      Li et al., `Ensemble Learning via Knowledge Transfer for CTR Prediction <https://arxiv.org/abs/2411.16122>`_,
      2024.
    """
    students, labels = jnp.asarray(students), jnp.asarray(labels)
    if students.ndim != 2 or labels.shape != students.shape[1:]:
        raise ValueError(f"expected students [S, batch] and labels [batch], got {students.shape} and {labels.shape}")
    dtype = wide_dtype(students, "students")
    z, y = students.astype(dtype), jnp.broadcast_to(labels.astype(dtype), students.shape)
    p, count = jax.nn.sigmoid(z), students.shape[0]

    fixed = jax.lax.stop_gradient(p)
    ensemble = jax.lax.stop_gradient(jax.nn.sigmoid(jnp.mean(z, axis=0, keepdims=True)))
    quality = jax.lax.stop_gradient(jnp.mean(1 - jnp.abs(y - p), axis=-1))
    ensemble_weights = jax.nn.softmax(-quality)[:, None]
    others = ~jnp.eye(count, dtype=bool)
    peer_weights = clear_masked(jax.nn.softmax(fill_masked(jnp.broadcast_to(quality, others.shape), others)), others)

    from_labels = binary_cross_entropy(z, y) / count
    from_ensemble = ensemble_weights * jnp.square(p - ensemble)
    from_peers = jnp.sum(peer_weights[..., None] * jnp.square(p[:, None] - fixed[None]), axis=1) / count
    return (from_labels + from_ensemble + from_peers).astype(students.dtype)


def privileged_features(
    student: jax.Array, teacher: jax.Array, labels: jax.Array, *, weight: jax.typing.ArrayLike
) -> jax.Array:
    r"""Joint loss of a student and a teacher with privileged features (PFD).

    .. math::
        \ell(s, t, y) = \mathrm{BCE}(s, y) + \lambda \, \mathrm{BCE}(s, \sigma(t)) + \mathrm{BCE}(t, y).

    Privileged features are unknown at serving, such as the dwell time. The teacher is detached in the middle term.

    Args:
      student: ``[...]`` float, logits :math:`s`, from the features available at serving.
      teacher: ``[...]`` float, logits :math:`t`, from these and the privileged features.
      labels: ``[...]`` probabilities in [0, 1] or booleans, :math:`y`.
      weight: scalar ``>= 0``, :math:`\lambda`.

    Returns:
      ``[...]`` nats, one per element.

    Examples:
      >>> s, t, y = jnp.array([0.5, 0.0]), jnp.array([2.0, -1.0]), jnp.array([1.0, 0.0])
      >>> [f"{x:.4f}" for x in privileged_features(s, t, y, weight=0.5)]
      ['0.8678', '1.3530']

    Published:
      Both models trained from scratch on shared embeddings of the common features, with weight 0 during a warm-up and
      constant after it; the mean over a batch.

    References:
      Xu et al., `Privileged Features Distillation at Taobao Recommendations <https://arxiv.org/abs/1907.05171>`_, KDD
      2020.
    """
    student, teacher, labels = jnp.asarray(student), jnp.asarray(teacher), jnp.asarray(labels)
    check_same_shape(student=student, teacher=teacher, labels=labels)
    dtype = wide_dtype(student, "student")
    s, t = student.astype(dtype), teacher.astype(dtype)
    distilled = jnp.asarray(weight, dtype) * soft_target_bce(s, jax.lax.stop_gradient(t))
    return (binary_cross_entropy(s, labels) + distilled + binary_cross_entropy(t, labels)).astype(student.dtype)


def layer_heads(
    student: jax.Array, teacher: jax.Array, heads: jax.Array, *, beta: jax.typing.ArrayLike = 1.0
) -> jax.Array:
    r"""Binary cross-entropy with the teacher for the student's score and for a head on each hidden layer (OFA).

    .. math::
        \ell(s, t, h) = \mathrm{BCE}(s, \sigma(t)) + \beta \sum_l \mathrm{BCE}(h_l, \sigma(t)).

    Student and teacher may have different architectures. The heads are small networks that map a layer to a score; they
    are trained with the student and dropped for serving.

    Args:
      student, teacher: ``[...]`` float, logits :math:`s` and :math:`t`.
      heads: ``[..., layers]`` float, logits :math:`h_l` of the head on each layer of the student.
      beta: scalar ``>= 0``, weight of each head.

    Returns:
      ``[...]`` nats, one per example.

    Examples:
      >>> s, t, heads = jnp.array(0.5), jnp.array(2.0), jnp.array([0.0, 1.0])
      >>> print(f"{layer_heads(s, t, heads):.4f}")
      1.6593

    Published:
      ``beta`` = 1 and weight 50 on the mean over a batch, for heads of a linear map to half the width, a ReLU and a
      linear map to one score (a baseline of RCE-KD on CTR data).

    References:
      Hao et al., `One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation
      <https://arxiv.org/abs/2310.19444>`_, NeurIPS 2023, on classes, with a target that the teacher's confidence
      sharpens.
    """
    student, teacher, heads = jnp.asarray(student), jnp.asarray(teacher), jnp.asarray(heads)
    check_same_shape(student=student, teacher=teacher)
    if heads.ndim == 0 or heads.shape[:-1] != student.shape:
        raise ValueError(f"expected heads of shape {(*student.shape, 'layers')}, got {heads.shape}")
    dtype = wide_dtype(student, "student")
    s, t, h = (x.astype(dtype) for x in (student, teacher, heads))
    inner = jnp.sum(soft_target_bce(h, jnp.broadcast_to(t[..., None], h.shape)), axis=-1)
    return (soft_target_bce(s, t) + jnp.asarray(beta, dtype) * inner).astype(student.dtype)


def listed_weights(
    distances: jax.Array,
    agreed: jax.Array,
    *,
    sharpness: jax.typing.ArrayLike = 1.0,
    position: jax.typing.ArrayLike = 0.3,
    confidence: jax.typing.ArrayLike = 0.5,
    consistency: jax.typing.ArrayLike = 0.1,
) -> jax.Array:
    r"""Weights of a language model's ranked list by position, confidence and agreement (DLLM2Rec).

    .. math::
        w_r = \frac{u_r}{\sum_k u_k}, \qquad
        u_r = \gamma_p \frac{e^{-r / \beta}}{\sum_k e^{-k / \beta}} + \gamma_c \frac{e^{-d_r}}{\sum_k e^{-d_k}}
            + \gamma_o ([\text{agreed}]_r + 10^{-8}).

    Args:
      distances: ``[..., K]`` float, distance :math:`d_r` between the generated text and the item matched to it, best
        position first.
      agreed: ``[..., K]`` bool, whether the item is among the student's own best.
      sharpness: scalar ``> 0``, :math:`\beta`. The larger, the slower the weight decays with the position.
      position: scalar ``>= 0``, :math:`\gamma_p`.
      confidence: scalar ``>= 0``, :math:`\gamma_c`.
      consistency: scalar ``>= 0``, :math:`\gamma_o`; not all three are 0.

    Returns:
      ``[..., K]`` weights with sum 1 per list.

    Examples:
      >>> distances, agreed = jnp.array([0.5, 0.1, 2.0]), jnp.array([False, True, False])
      >>> [f"{x:.4f}" for x in listed_weights(distances, agreed)]
      ['0.4264', '0.4980', '0.0757']

    Published:
      ``K = 10`` and the defaults. Each weight multiplies the loss of its item, :math:`-\log \sigma(s_r) -
      \log \sigma(1 - s_-)`, with the score :math:`s_-` of a sampled item and :math:`\sigma(1 - s_-)` in place of
      :math:`1 - \sigma(s_-)`. The sum over the list, the mean over the batch, with weight 0.8.

    Sampling:
      For the weighted loss, one negative per list, by :func:`recjax.data.uniform_negatives`.

    References:
      Cui et al., *Distillation Matters: Empowering Sequential Recommenders to Match the Performance of Large Language
      Models*, RecSys 2024.
    """
    distances, agreed = jnp.asarray(distances), jnp.asarray(agreed)
    check_rows(distances=distances, agreed=agreed)
    dtype = wide_dtype(distances, "distances")
    check_booleans(agreed=agreed)
    sharpness, position, confidence, consistency = (
        jnp.asarray(x, dtype) for x in (sharpness, position, confidence, consistency)
    )
    place = jax.lax.broadcasted_iota(dtype, distances.shape, distances.ndim - 1)
    weights = (
        position * jax.nn.softmax(-place / sharpness)
        + confidence * jax.nn.softmax(-distances.astype(dtype))
        + consistency * (agreed.astype(dtype) + 1e-8)
    )
    return (weights / jnp.sum(weights, axis=-1, keepdims=True)).astype(distances.dtype)
