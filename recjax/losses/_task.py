"""Supervised losses and the L1 penalty."""

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

    .. math::
        \ell(x, y) = -y \log \sigma(x) - (1 - y) \log(1 - \sigma(x))
                   = y \, \mathrm{softplus}(-x) + (1 - y) \, \mathrm{softplus}(x).

    Args:
      logits: ``[...]`` float, logits :math:`x`.
      labels: ``[...]`` booleans or probabilities in [0, 1], such as a teacher's, :math:`y`.

    Returns:
      ``[...]`` nats, one per element.

    Examples:
      >>> logits = jnp.log(jnp.array([0.9 / 0.1, 0.8 / 0.2]))
      >>> [f"{loss:.4f}" for loss in binary_cross_entropy(logits, jnp.ones(2))]
      ['0.1054', '0.2231']

    Published:
      No hyperparameters; CTR models take the mean over a batch.

    Sampling:
      Nothing if both clicks and non-clicks are logged; else negatives, by :func:`recjax.data.uniform_negatives`.

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

    .. math::
        \ell(x, y) = -\sum_i y_i \log q_i, \qquad q = \mathrm{softmax}(x).

    An integer label :math:`c` is :math:`y_i = [i = c]`. Probabilities need not sum to 1: several positive items of
    weight 1 give the sum of their losses.

    Args:
      logits: ``[..., items]`` float, logits :math:`x`. Minus infinity excludes an item for integer labels; for
        probabilities it gives NaN.
      labels: ``[...]`` integer positions of the positive item, or ``[..., items]`` probabilities or booleans.
      where: ``[..., items]`` bool, which items count, in the softmax and in the sum. A masked integer label gives 0.

    Returns:
      ``[...]`` nats, one per list; NaN for an integer label outside of the list.

    Examples:
      >>> logits = jnp.array([2.0, 1.0, 0.0])
      >>> print(f"{softmax_cross_entropy(logits, jnp.array(0)):.4f}")
      0.4076
      >>> print(f"{softmax_cross_entropy(logits, jnp.array([0.5, 0.5, 0.0])):.4f}")
      0.9076

    Published:
      No hyperparameters; the mean over a batch.

    Sampling:
      Nothing: the list is the catalog or any given part of it.

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
        # A comparison and not a gather: no scatter in the gradient, and a negative label selects nothing.
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

    .. math::
        \ell(p, n) = -\log \sigma(p - n) = \mathrm{softplus}(n - p).

    Args:
      positive: ``[...]`` float, scores :math:`p` of items that the user has interacted with.
      negative: ``[...]`` float, scores :math:`n` of other items.

    Returns:
      ``[...]`` nats, one per pair.

    Examples:
      >>> [f"{loss:.4f}" for loss in bpr(jnp.array([1.0, 0.0, -1.0]), jnp.zeros(3))]
      ['0.3133', '0.6931', '1.3133']

    Published:
      No hyperparameters except the weight decay; the paper updates after each single triple, and most distillation
      papers sum over a batch (of 1024 in DE-RRD).

    Sampling:
      One negative item per positive, by :func:`recjax.data.uniform_negatives`.

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

    .. math::
        \ell(p, n) = -\log \frac{e^{p - \log q_p}}{e^{p - \log q_p} + \sum_j e^{n_j - \log q_j}}.

    Without the correction, items that are sampled more often are scored too low. Uniform sampling needs no correction;
    in-batch negatives need it for the positive item as well.

    Args:
      positive: ``[...]`` float, scores :math:`p` of the positive items.
      negatives: ``[..., n]`` float, scores :math:`n_j` of each positive's negatives; minus infinity masks an item.
      positive_log_q: scalar or ``[...]``, log probability :math:`\log q_p` of sampling the positive item.
      negatives_log_q: scalar or ``[..., n]``, log probabilities :math:`\log q_j` of sampling the negatives.
      where: ``[..., n]`` bool, which negatives count: False for a sampled item that the user has interacted with.

    Returns:
      ``[...]`` nats, one per positive.

    Examples:
      >>> log_q = jnp.log(jnp.array([0.5, 0.01]))
      >>> print(f"{sampled_softmax(jnp.array(2.0), jnp.array([1.0, 0.0]), negatives_log_q=log_q):.4f}")
      2.7258

    Published:
      Scores divided by a tuned temperature, in-batch negatives, :math:`\log q` estimated from the stream; the mean over
      the batch (Yi et al.).

    Sampling:
      Negatives by :func:`recjax.data.uniform_negatives`, or the positives of the other rows of the batch.

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
    # Differences of scores and of log q apart: a score of thousands minus log q would lose the digits of log q.
    scores = clear_masked(negatives.astype(dtype), where) - positive.astype(dtype)[..., None]
    log_q = clear_masked(negatives_log_q, where) - jnp.broadcast_to(positive_log_q, positive.shape)[..., None]
    # -log(a / (a + b)) = softplus(log b - log a), exact where the positive item dominates.
    return jax.nn.softplus(jax.nn.logsumexp(fill_masked(scores - log_q, where), axis=-1)).astype(positive.dtype)


def cosine_contrastive(
    positive: jax.Array,
    negatives: jax.Array,
    *,
    margin: jax.typing.ArrayLike,
    weight: jax.typing.ArrayLike,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Cosine contrastive loss (CCL, SimpleX).

    .. math::
        \ell(p, n) = (1 - p) + \frac{w}{N} \sum_j \max(0, n_j - m).

    Args:
      positive: ``[...]`` float, cosines :math:`p` of users and positive items.
      negatives: ``[..., n]`` float, cosines :math:`n_j` of each positive's :math:`N` negatives.
      margin: scalar in [-1, 1], :math:`m`.
      weight: scalar ``>= 0``, :math:`w`, of all negatives together.
      where: ``[..., n]`` bool, which negatives count; without any, the loss is ``1 - positive``.

    Returns:
      ``[...]`` loss, one per positive.

    Examples:
      >>> p, n = jnp.array(0.75), jnp.array([0.9, 0.5, -0.3, 0.1])
      >>> print(f"{cosine_contrastive(p, n, margin=0.4, weight=10.0):.4f}")
      1.7500

    Published:
      Margin and weight are tuned for each data set, with hundreds of negatives per positive; RecBole's defaults are
      margin 0.9 and weight 10. The mean over the batch.

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
    r"""L1 penalty on weights, with factor 1/2.

    .. math::
        \ell(\theta) = \frac{\lambda}{2} |\theta|.

    Args:
      x: ``[...]`` float, parameters :math:`\theta`.
      weight: scalar ``>= 0``, :math:`\lambda`.

    Returns:
      ``[...]`` penalty, one per parameter. The gradient at 0 is 0.

    Examples:
      >>> print(l1(jnp.array([0.5, -0.25, 0.0]), weight=2.0))
      [0.5  0.25 0.  ]

    Published:
      No default weight; the sum over the parameters.

    References:
      Tibshirani, *Regression Shrinkage and Selection via the Lasso*, Journal of the Royal Statistical Society B 58,
      1996.
    """
    x = jnp.asarray(x)
    dtype = wide_dtype(x, "x")
    return (jnp.asarray(weight, dtype) / 2 * jnp.abs(x.astype(dtype))).astype(x.dtype)


def _check_negatives(positive: jax.Array, negatives: jax.Array, where: jax.Array | None) -> None:
    """Raises unless there is one list of negatives per positive."""
    check_rows(negatives=negatives)
    if negatives.shape[:-1] != positive.shape:
        raise ValueError(f"expected negatives of shape {(*positive.shape, 'n')}, got {negatives.shape}")
    if where is not None:
        check_where(where, negatives.shape)
