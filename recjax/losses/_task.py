"""Supervised losses, and the L1 penalty."""

import jax
import jax.numpy as jnp

from recjax.arrays import (
    check_rows,
    check_same_shape,
    check_where,
    clear_masked,
    drop_infinite,
    fill_masked,
    masked_mean,
    row_sum,
    wide_dtype,
)


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    r"""Binary cross-entropy from logits (log loss).

    For a logit :math:`x` and the probability :math:`y` of the label,

    .. math::
        \ell(x, y) = -y \log \sigma(x) - (1 - y) \log(1 - \sigma(x))
                   = y \, \mathrm{softplus}(-x) + (1 - y) \, \mathrm{softplus}(x).

    The second form is the one computed: exact and finite for any finite logit. Labels may be probabilities between 0
    and 1, such as a teacher's; the minimum is then the entropy of the label.

    Args:
      logits: ``[...]`` float; minus infinity gives NaN where its weight is 0.
      labels: ``[...]`` probabilities in [0, 1], or booleans, same shape.

    Returns:
      ``[...]`` loss in nats, one per element, in the dtype of ``logits``.

    Raises:
      ValueError: if ``logits`` and ``labels`` differ in shape.
      TypeError: if ``logits`` is not of a floating dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> odds = jnp.log(jnp.array([0.9 / 0.1, 0.8 / 0.2]))
      >>> [f"{loss:.4f}" for loss in binary_cross_entropy(odds, jnp.ones(2))]
      ['0.1054', '0.2231']

    Published:
      No hyperparameters; CTR models take the mean over a batch.

    Sampling:
      Nothing where clicks and their absence are both logged; else negatives, by :func:`recjax.data.uniform_negatives`.

    References:
      Good, *Rational Decisions*, Journal of the Royal Statistical Society B 14, 1952: the logarithmic score.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    check_same_shape(logits=logits, labels=labels)
    dtype = wide_dtype(logits, "logits")
    x, y = logits.astype(dtype), labels.astype(dtype)
    return (y * jax.nn.softplus(-x) + (1 - y) * jax.nn.softplus(x)).astype(logits.dtype)


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""Softmax cross-entropy over a list of items.

    For one list with logits :math:`x` and label probabilities :math:`y`,

    .. math::
        \ell(x, y) = -\sum_i y_i \log q_i, \qquad q = \mathrm{softmax}(x).

    An integer label :math:`c` stands for :math:`y_i = [i = c]`. Probabilities are taken as they are: several positive
    items of weight 1 each give the sum of their losses, and a list without any mass gives 0.

    Gradients flow to ``logits``, and to ``labels`` where they are probabilities.

    Args:
      logits: ``[..., items]`` float, unnormalized scores. Minus infinity leaves an item out with integer labels only;
        with probabilities it gives NaN, even where the label is 0: use ``where``.
      labels: ``[...]`` integer positions of the right item, or ``[..., items]`` probabilities (or booleans).
      where: ``[..., items]`` bool, which items count: the others are in neither the softmax nor the sum, so a label on
        one of them adds nothing. A list with no valid item has loss 0.

    Returns:
      ``[...]`` loss in nats, one per list, in the dtype of ``logits``. An integer label outside of the list gives NaN,
      never another item's loss.

    Raises:
      ValueError: if the shapes of ``labels`` or ``where`` don't belong to that of ``logits``.
      TypeError: if ``logits`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([2.0, 1.0, 0.0])
      >>> print(f"{softmax_cross_entropy(logits, jnp.array(0)):.4f}")
      0.4076
      >>> print(f"{softmax_cross_entropy(logits, jnp.array([0.5, 0.5, 0.0])):.4f}")
      0.9076

    Published:
      No hyperparameters; the mean over a batch.

    Sampling:
      Nothing: the list is the whole catalog or any given part of it.

    References:
      Bridle, *Training Stochastic Model Recognition Algorithms as Networks can Lead to Maximum Mutual Information
      Estimation of Parameters*, NeurIPS 1989.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    check_rows(logits=logits)
    ids = jnp.issubdtype(labels.dtype, jnp.integer)
    expected = logits.shape[:-1] if ids else logits.shape
    if labels.shape != expected:
        kind = "integer labels" if ids else "label probabilities"
        raise ValueError(f"expected {kind} of shape {expected} for logits {logits.shape}, got {labels.shape}")
    if where is not None:
        check_where(where, logits.shape)
    dtype = wide_dtype(logits, "logits")

    log_q = jax.nn.log_softmax(fill_masked(clear_masked(logits.astype(dtype), where), where))
    if ids:
        # A comparison, not a gather: its gradient is no scatter, and a negative id doesn't count from the end.
        right = (
            jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == labels.astype(jnp.int32)[..., None]
        )
        terms = jnp.where(right, log_q, 0)
    else:
        terms = clear_masked(labels.astype(dtype), where) * log_q
    loss = -row_sum(clear_masked(terms, where))
    if ids:
        inside = jnp.any(right, axis=-1)
        loss = jnp.where(inside if where is None else inside | ~jnp.any(where, axis=-1), loss, jnp.nan)
    return loss.astype(logits.dtype)


def bpr(positive: jax.Array, negative: jax.Array) -> jax.Array:
    r"""Bayesian personalized ranking: pairwise logistic loss of a positive and a negative item.

    For the scores :math:`p` of an item that the user has interacted with and :math:`n` of another,

    .. math::
        \ell(p, n) = -\log \sigma(p - n) = \mathrm{softplus}(n - p).

    Args:
      positive: ``[...]`` float, scores of the positive items.
      negative: ``[...]`` float, scores of the negative items, same shape.

    Returns:
      ``[...]`` loss in nats, one per pair, in the dtype of ``positive``.

    Raises:
      ValueError: if ``positive`` and ``negative`` differ in shape.
      TypeError: if ``positive`` is not of a floating dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> [f"{loss:.4f}" for loss in bpr(jnp.array([1.0, 0.0, -1.0]), jnp.zeros(3))]
      ['0.3133', '0.6931', '1.3133']

    Published:
      No hyperparameters but the penalty on the weights; the paper takes a gradient step for each single triple, and
      most distillation papers sum over a batch (of 1024 in DE-RRD).

    Sampling:
      One negative item for each positive one, by :func:`recjax.data.uniform_negatives`.

    References:
      Rendle et al., `BPR: Bayesian Personalized Ranking from Implicit Feedback <https://arxiv.org/abs/1205.2618>`_, UAI
      2009, section 4.1.
    """
    positive, negative = jnp.asarray(positive), jnp.asarray(negative)
    check_same_shape(positive=positive, negative=negative)
    dtype = wide_dtype(positive, "positive")
    return jax.nn.softplus(negative.astype(dtype) - positive.astype(dtype)).astype(positive.dtype)


def sampled_softmax(
    positive: jax.Array,
    negatives: jax.Array,
    *,
    positive_log_q: jax.typing.ArrayLike = 0.0,
    negatives_log_q: jax.typing.ArrayLike = 0.0,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Sampled softmax cross-entropy with logQ correction.

    For the score :math:`p` of the positive item, the scores :math:`n_j` of the negatives, and the probabilities
    :math:`q_p` and :math:`q_j` that the sampler draws each of these items,

    .. math::
        \ell(p, n) = -\log \frac{e^{p - \log q_p}}{e^{p - \log q_p} + \sum_j e^{n_j - \log q_j}}.

    Without the correction by :math:`\log q`, popular items, which are drawn more often, are scored too low. With
    in-batch negatives the positive item is such a draw too and is corrected as well. Uniform draws need no correction.

    Args:
      positive: ``[...]`` float, scores of the positive items.
      negatives: ``[..., n]`` float, scores of each positive's negatives; minus infinity is the same as masked.
      positive_log_q: scalar or ``[...]``, logarithm of the probability of drawing the positive item.
      negatives_log_q: scalar or ``[..., n]``, the same for the negatives.
      where: ``[..., n]`` bool, which negatives count: False for a draw that hits the positive item, or another item
        that the user has. Without any negative the loss is 0.

    Returns:
      ``[...]`` loss in nats, one per positive, in the dtype of ``positive``.

    Raises:
      ValueError: if the shapes of the arguments don't fit together.
      TypeError: if ``positive`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(f"{sampled_softmax(jnp.array(2.0), jnp.array([1.0, 0.0])):.4f}")
      0.4076
      >>> often = jnp.log(jnp.array([0.5, 0.01]))
      >>> print(f"{sampled_softmax(jnp.array(2.0), jnp.array([1.0, 0.0]), negatives_log_q=often):.4f}")
      2.7258

    Published:
      Scores divided by a tuned temperature, the batch's other positives as negatives, :math:`\log q` estimated from the
      stream; the mean over the batch (Yi et al.).

    Sampling:
      Negatives by :func:`recjax.data.uniform_negatives`, or the positives of the batch's other rows.

    References:
      Bengio and Senécal, *Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic Language
      Model*, IEEE Transactions on Neural Networks 19, 2008. Yi et al., *Sampling-Bias-Corrected Neural Modeling for
      Large Corpus Item Recommendations*, RecSys 2019.
    """
    positive, negatives = jnp.asarray(positive), jnp.asarray(negatives)
    _check_negatives(positive, negatives, where)
    dtype = wide_dtype(positive, "positive")
    positive_log_q, negatives_log_q = jnp.asarray(positive_log_q, dtype), jnp.asarray(negatives_log_q, dtype)
    for name, log_q, shape in (
        ("positive_log_q", positive_log_q, positive.shape),
        ("negatives_log_q", negatives_log_q, negatives.shape),
    ):
        if log_q.shape not in ((), shape):
            raise ValueError(f"expected {name} to be a scalar or of shape {shape}, got {log_q.shape}")

    where = drop_infinite(negatives, where)
    # Differences of scores, then of logarithms: a score of thousands minus a logarithm would round it away.
    ahead = clear_masked(negatives.astype(dtype), where) - positive.astype(dtype)[..., None]
    more_often = clear_masked(negatives_log_q, where) - jnp.broadcast_to(positive_log_q, positive.shape)[..., None]
    # The positive item's own share of the denominator is the 1 in log(1 + e^x): exact where it is nearly all of it.
    return jax.nn.softplus(jax.nn.logsumexp(fill_masked(ahead - more_often, where), axis=-1)).astype(positive.dtype)


def cosine_contrastive(
    positive: jax.Array,
    negatives: jax.Array,
    *,
    margin: jax.typing.ArrayLike,
    weight: jax.typing.ArrayLike,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Cosine contrastive loss (CCL, SimpleX).

    For the cosine :math:`p` of user and positive item, those of the negatives :math:`n_1, \ldots, n_N`, a margin
    :math:`m` and a weight :math:`w`,

    .. math::
        \ell(p, n) = (1 - p) + \frac{w}{N} \sum_j \max(0, n_j - m).

    Negatives below the margin have no gradient, so many random negatives don't dilute the few hard ones.

    Args:
      positive: ``[...]`` float, cosines of the positive items.
      negatives: ``[..., n]`` float, cosines of each positive's negatives.
      margin: scalar in [-1, 1].
      weight: scalar ``>= 0``, of all the negatives together.
      where: ``[..., n]`` bool, which negatives count. Without any negative only ``1 - positive`` is left.

    Returns:
      ``[...]`` loss, one per positive, in the dtype of ``positive``.

    Raises:
      ValueError: if the shapes of the arguments don't fit together.
      TypeError: if ``positive`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax.numpy as jnp
      >>> p, n = jnp.array(0.75), jnp.array([0.9, 0.5, -0.3, 0.1])
      >>> print(f"{cosine_contrastive(p, n, margin=0.4, weight=10.0):.4f}")
      1.7500

    Published:
      Margin and weight are tuned for each data set, with hundreds of negatives for each positive; RecBole's defaults
      are margin 0.9 and weight 10. The mean over the batch.

    Sampling:
      Negatives by :func:`recjax.data.uniform_negatives`.

    References:
      Mao et al., `SimpleX: A Simple and Strong Baseline for Collaborative Filtering
      <https://arxiv.org/abs/2109.12613>`_, CIKM 2021, equation 1.
    """
    positive, negatives = jnp.asarray(positive), jnp.asarray(negatives)
    _check_negatives(positive, negatives, where)
    dtype = wide_dtype(positive, "positive")
    margin, weight = jnp.asarray(margin, dtype), jnp.asarray(weight, dtype)
    excess = jax.nn.relu(clear_masked(negatives.astype(dtype), where) - margin)
    return (1 - positive.astype(dtype) + weight * masked_mean(excess, where, -1)[..., 0]).astype(positive.dtype)


def l1(x: jax.Array, *, weight: jax.typing.ArrayLike = 1.0) -> jax.Array:
    r"""L1 penalty on weights, with the factor 1/2.

    For a parameter :math:`\theta` and a weight :math:`\lambda`,

    .. math::
        \ell(\theta) = \frac{\lambda}{2} |\theta|.

    The factor 1/2 is that of the usual :math:`\frac{\lambda}{2} \theta^2`. The gradient at 0 is 0.

    Args:
      x: ``[...]`` float, parameters.
      weight: scalar ``>= 0``.

    Returns:
      ``[...]`` penalty, one per parameter, in the dtype of ``x``.

    Raises:
      TypeError: if ``x`` is not of a floating dtype.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> theta = jnp.array([0.5, -0.25, 0.0])
      >>> print(l1(theta, weight=2.0))
      [0.5  0.25 0.  ]
      >>> jax.vmap(lambda weight: l1(theta, weight=weight).sum())(jnp.array([0.0, 1.0, 2.0]))
      Array([0.   , 0.375, 0.75 ], dtype=float32)

    Published:
      No default weight: it is swept; the sum over the parameters.

    References:
      Tibshirani, *Regression Shrinkage and Selection via the Lasso*, Journal of the Royal Statistical Society B 58,
      1996.
    """
    x = jnp.asarray(x)
    dtype = wide_dtype(x, "x")
    return (jnp.asarray(weight, dtype) / 2 * jnp.abs(x.astype(dtype))).astype(x.dtype)


def _check_negatives(positive: jax.Array, negatives: jax.Array, where: jax.Array | None) -> None:
    """Raises unless there is a list of negatives for each positive."""
    check_rows(negatives=negatives)
    if negatives.shape[:-1] != positive.shape:
        raise ValueError(f"expected negatives of shape {(*positive.shape, 'n')}, got {negatives.shape}")
    if where is not None:
        check_where(where, negatives.shape)
