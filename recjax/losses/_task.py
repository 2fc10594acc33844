"""Losses against what happened, and the penalty on weights."""

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
    r"""Cross-entropy of a Bernoulli label and the sigmoid of a logit.

    For a logit :math:`x` and the probability :math:`y` of the label,

    .. math::
        \ell(x, y) = -y \log \sigma(x) - (1 - y) \log(1 - \sigma(x))
                   = y \, \mathrm{softplus}(-x) + (1 - y) \, \mathrm{softplus}(x).

    The second form is the one computed: it takes no logarithm of a rounded probability, so it stays exact and finite
    for any finite logit. Labels between 0 and 1 are as good as 0 and 1: a teacher's probabilities are labels too. The
    least value is then the label's own entropy, not 0.

    Gradients flow to both arguments.

    Args:
      logits: ``[...]`` float; minus infinity gives NaN where its weight is 0.
      labels: ``[...]`` probabilities in [0, 1], or booleans, same shape.

    Returns:
      ``[...]`` loss in nats, one per element, in the dtype of ``logits``. Not reduced.

    Raises:
      ValueError: if ``logits`` and ``labels`` differ in shape.
      TypeError: if ``logits`` is not of a floating dtype.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> odds = jnp.log(jnp.array([0.9 / 0.1, 0.8 / 0.2]))
      >>> [f"{loss:.4f}" for loss in binary_cross_entropy(odds, jnp.ones(2))]
      ['0.1054', '0.2231']
      >>> jax.vmap(binary_cross_entropy)(jnp.zeros((3, 2)), jnp.ones((3, 2))).shape
      (3, 2)

    Published:
      No hyperparameters; click models take the mean over a batch.

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
    r"""Cross-entropy of a label and the softmax over a list of items.

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
      where: ``[..., items]`` bool, which items count: the others are in neither the softmax nor the sum, so a label
        on one of them adds nothing. A list with no valid item has loss 0.

    Returns:
      ``[...]`` loss in nats, one per list, in the dtype of ``logits``. Not reduced. An integer label outside
      of the list gives NaN, never another item's loss.

    Raises:
      ValueError: if the shapes of ``labels`` or ``where`` don't belong to that of ``logits``.
      TypeError: if ``logits`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([2.0, 1.0, 0.0])
      >>> print(f"{softmax_cross_entropy(logits, jnp.array(0)):.4f}")
      0.4076
      >>> print(f"{softmax_cross_entropy(logits, jnp.array([0.5, 0.5, 0.0])):.4f}")
      0.9076
      >>> jax.vmap(softmax_cross_entropy)(jnp.zeros((4, 3)), jnp.arange(4) % 3).shape
      (4,)

    Published:
      No hyperparameters; the mean over a batch.

    Sampling:
      Nothing: the list is the whole catalogue or any given part of it.

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
        raise ValueError(f"expected {kind} of shape {expected} for logits {logits.shape}, found {labels.shape}")
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
    r"""Negative log-likelihood that the positive item is ranked above the negative one.

    For the scores :math:`p` of an item that the user has and :math:`n` of one that they haven't,

    .. math::
        \ell(p, n) = -\log \sigma(p - n) = \mathrm{softplus}(n - p).

    Gradients flow to both arguments.

    Args:
      positive: ``[...]`` float, scores of the positive items.
      negative: ``[...]`` float, scores of the negative items, same shape.

    Returns:
      ``[...]`` loss in nats, one per pair, in the dtype of ``positive``. Not reduced.

    Raises:
      ValueError: if ``positive`` and ``negative`` differ in shape.
      TypeError: if ``positive`` is not of a floating dtype.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> [f"{loss:.4f}" for loss in bpr(jnp.array([1.0, 0.0, -1.0]), jnp.zeros(3))]
      ['0.3133', '0.6931', '1.3133']
      >>> jax.vmap(bpr)(jnp.ones((4, 8)), jnp.zeros((4, 8))).shape
      (4, 8)

    Published:
      No hyperparameters but the penalty on the weights; the paper takes a gradient step for each single triple, and
      most distillation papers sum over a batch (of 1024 in DE-RRD).

    Sampling:
      One negative item for each positive one, by :func:`recjax.data.uniform_negatives`.

    References:
      Rendle et al., `BPR: Bayesian Personalized Ranking from Implicit Feedback
      <https://arxiv.org/abs/1205.2618>`_, UAI 2009, section 4.1.
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
    r"""Cross-entropy of the positive item and the softmax over it and a few sampled negatives.

    For the score :math:`p` of the positive item, the scores :math:`n_j` of the negatives, and the probabilities
    :math:`q_p` and :math:`q_j` that the sampler draws each of these items,

    .. math::
        \ell(p, n) = -\log \frac{e^{p - \log q_p}}{e^{p - \log q_p} + \sum_j e^{n_j - \log q_j}}.

    Without the correction by :math:`\log q` an item is pushed down as often as it is drawn, so popular items end below
    their worth. Where the negatives are other rows' positives, the positive item is such a draw too and is corrected as
    well. A constant subtracted from all the scores changes nothing, so uniform draws need no correction.

    Gradients flow to all arguments.

    Args:
      positive: ``[...]`` float, scores of the positive items.
      negatives: ``[..., n]`` float, scores of each positive's negatives; minus infinity is the same as masked.
      positive_log_q: scalar or ``[...]``, logarithm of the probability of drawing the positive item. May be traced; not
        checked.
      negatives_log_q: scalar or ``[..., n]``, the same for the negatives. May be traced; not checked.
      where: ``[..., n]`` bool, which negatives count: False for a draw that hits the positive item, or another item
        that the user has. Without any negative the loss is 0.

    Returns:
      ``[...]`` loss in nats, one per positive, in the dtype of ``positive``. Not reduced.

    Raises:
      ValueError: if the shapes of the arguments don't belong together.
      TypeError: if ``positive`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> print(f"{sampled_softmax(jnp.array(2.0), jnp.array([1.0, 0.0])):.4f}")
      0.4076
      >>> often = jnp.log(jnp.array([0.5, 0.01]))
      >>> print(f"{sampled_softmax(jnp.array(2.0), jnp.array([1.0, 0.0]), negatives_log_q=often):.4f}")
      2.7258
      >>> jax.vmap(sampled_softmax)(jnp.ones(4), jnp.zeros((4, 8))).shape
      (4,)

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
            raise ValueError(f"expected {name} to be a scalar or of shape {shape}, found {log_q.shape}")

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
    r"""Distance of the positive item from cosine 1, plus the mean excess of the negatives' cosines over a margin.

    For the cosine :math:`p` of user and positive item, those of the negatives :math:`n_1, \ldots, n_N`, a margin
    :math:`m` and a weight :math:`w`,

    .. math::
        \ell(p, n) = (1 - p) + \frac{w}{N} \sum_j \max(0, n_j - m).

    Negatives below the margin are far enough and teach nothing: among many random negatives most are easy, and a mean
    over them all would drown the few hard ones.

    Gradients flow to both arguments.

    Args:
      positive: ``[...]`` float, cosines of the positive items.
      negatives: ``[..., n]`` float, cosines of each positive's negatives.
      margin: scalar in [-1, 1]. May be traced; not checked.
      weight: scalar ``>= 0``, of all the negatives together. May be traced; not checked.
      where: ``[..., n]`` bool, which negatives count. Without any negative only ``1 - positive`` is left.

    Returns:
      ``[...]`` loss, one per positive, in the dtype of ``positive``. Not reduced.

    Raises:
      ValueError: if the shapes of the arguments don't belong together.
      TypeError: if ``positive`` is not of a floating dtype, or ``where`` not boolean.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> p, n = jnp.array(0.75), jnp.array([0.9, 0.5, -0.3, 0.1])
      >>> print(f"{cosine_contrastive(p, n, margin=0.4, weight=10.0):.4f}")
      1.7500
      >>> grid = jnp.array([0.0, 0.4, 0.8])
      >>> jax.vmap(lambda margin: cosine_contrastive(p, n, margin=margin, weight=10.0))(grid).shape
      (3,)

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
    r"""Half the weighted absolute value, a penalty that drives weights to zero.

    For a parameter :math:`\theta` and a weight :math:`\lambda`,

    .. math::
        \ell(\theta) = \frac{\lambda}{2} |\theta|.

    The half is that of the usual :math:`\frac{\lambda}{2} \theta^2`, so a gradient step shortens every parameter by the
    learning rate times :math:`\lambda / 2`. The gradient at 0 is 0: a parameter that is zero stays.

    Args:
      x: ``[...]`` float, parameters.
      weight: scalar ``>= 0``. May be traced; not checked.

    Returns:
      ``[...]`` penalty, one per parameter, in the dtype of ``x``. Not reduced.

    Raises:
      TypeError: if ``x`` is not of a floating dtype.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> theta = jnp.array([0.5, -0.25, 0.0])
      >>> print(l1(theta, weight=2.0))
      [0.5  0.25 0.  ]
      >>> jax.vmap(lambda weight: l1(theta, weight=weight).sum())(jnp.array([0.0, 1.0, 2.0]))
      Array([0.   , 0.375, 0.75 ], dtype=float32)

    Published:
      No default weight: it is swept; the sum over the parameters.

    Sampling:
      Nothing.

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
        raise ValueError(f"expected negatives of shape {(*positive.shape, 'n')}, found {negatives.shape}")
    if where is not None:
        check_where(where, negatives.shape)
