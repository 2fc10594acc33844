"""Losses against what happened, and the penalty on weights."""

import jax
import jax.numpy as jnp

from recjax.losses._arrays import (
    check_rows,
    check_same_shape,
    check_where,
    clear_masked,
    fill_masked,
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
      logits: ``[...]`` float, the logarithm of the odds.
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
      logits: ``[..., items]`` float, unnormalized scores.
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
    loss = -jnp.sum(clear_masked(terms, where), axis=-1)
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

    References:
      Rendle et al., `BPR: Bayesian Personalized Ranking from Implicit Feedback
      <https://arxiv.org/abs/1205.2618>`_, UAI 2009, section 4.1.
    """
    positive, negative = jnp.asarray(positive), jnp.asarray(negative)
    check_same_shape(positive=positive, negative=negative)
    dtype = wide_dtype(positive, "positive")
    return jax.nn.softplus(negative.astype(dtype) - positive.astype(dtype)).astype(positive.dtype)


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

    References:
      Tibshirani, *Regression Shrinkage and Selection via the Lasso*, Journal of the Royal Statistical Society B 58,
      1996.
    """
    x = jnp.asarray(x)
    dtype = wide_dtype(x, "x")
    return (jnp.asarray(weight, dtype) / 2 * jnp.abs(x.astype(dtype))).astype(x.dtype)
