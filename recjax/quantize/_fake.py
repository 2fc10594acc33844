"""Fake quantization with straight-through gradients."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from recjax.quantize._scale import (
    absmax_scale,
    check_groups,
    expand_groups,
    integer_range,
    require_float,
    round_float16,
    shared_axes,
    valid_mask,
)


@jax.custom_jvp
def _straight_through(x: jax.Array, value: jax.Array) -> jax.Array:
    return value


@_straight_through.defjvp
def _straight_through_jvp(primals, tangents):
    # Not x + stop_gradient(value - x), whose rounding would change the value.
    return _straight_through(*primals), tangents[0]


def straight_through(x: jax.Array, value: jax.Array) -> jax.Array:
    r"""Straight-through estimator: the value of one array with the gradient of another.

    .. math::
        y = v, \qquad \frac{\partial y}{\partial x} = 1, \qquad \frac{\partial y}{\partial v} = 0.

    Args:
      x: ``[...]`` float, receives the gradient.
      value: ``[...]``, same shape and dtype.

    Returns:
      ``value``, bit for bit.

    Examples:
      >>> x = jnp.array([0.4, 1.6])
      >>> print(straight_through(x, jnp.round(x)), jax.grad(lambda x: straight_through(x, jnp.round(x)).sum())(x))
      [0. 2.] [1. 1.]

    References:
      Bengio et al., `Estimating or Propagating Gradients Through Stochastic Neurons
      <https://arxiv.org/abs/1308.3432>`_, 2013, section 4.
    """
    x, value = jnp.asarray(x), jnp.asarray(value)
    if x.shape != value.shape:
        raise ValueError(f"value: expected shape {x.shape} of x, got {value.shape}")
    if x.dtype != value.dtype:
        raise TypeError(f"value: expected dtype {x.dtype} of x, got {value.dtype}")
    return _straight_through(x, value)


def zero_outside(where: jax.Array | None, x: jax.Array, value: jax.Array) -> jax.Array:
    """``value``, and 0 with the gradient of ``x`` where a mask drops the entry; a NaN of ``x`` stays."""
    kept = valid_mask(x, where)
    return value if kept is None else jnp.where(kept, value, straight_through(x, jnp.zeros_like(x)))


def stochastic_round(x: jax.Array, key: jax.Array) -> jax.Array:
    r"""Stochastic rounding to one of the two nearest integers, unbiased.

    .. math::
        y = \lfloor x + u \rfloor, \quad u \sim U[0, 1), \qquad \mathbb{E}[y] = x.

    Gradients pass straight through.

    Args:
      x: ``[...]`` float.
      key: random key.

    Returns:
      ``[...]``, shape and dtype of ``x``. Integers, NaN and infinities are unchanged.

    Examples:
      >>> y = stochastic_round(jnp.full(10_000, 0.25), jax.random.key(0))
      >>> print(jnp.unique(y), f"{y.mean():.2f}")
      [0. 1.] 0.25

    References:
      Gupta et al., `Deep Learning with Limited Numerical Precision <https://arxiv.org/abs/1502.02551>`_, 2015, section
      3.1.
    """
    x = require_float(x)
    below = jnp.floor(x)
    up = jax.random.uniform(key, x.shape, jnp.float32) < (x - below).astype(jnp.float32)
    return straight_through(x, below + up.astype(x.dtype))


def round_to_integers(
    x: jax.Array,
    scale: jax.Array,
    *,
    bits: jax.typing.ArrayLike,
    full_range: jax.typing.ArrayLike,
    key: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """The int32 quotients of float32 ``x`` by one scale per entry, clipped, and which entries needed no clipping."""
    binary, low, high, _ = integer_range(bits, full_range)
    quotient = x / jnp.where(x == 0, 1, scale)  # stays a division: see absmax_scale
    rounded = jnp.round(quotient) if key is None else stochastic_round(quotient, key)
    steps = jnp.where(binary, jnp.where(x < 0, -1, 1), jnp.clip(rounded, low, high))
    steps = jnp.where((scale == 0) | jnp.isnan(steps), 0, steps)
    inside = (quotient >= low) & (quotient <= high)
    return steps.astype(jnp.int32), inside  # int32 has no -0, which packing would lose


def fake_quant(
    x: jax.Array,
    *,
    bits: jax.typing.ArrayLike,
    axis: int | Sequence[int] | None = None,
    group_size: int | None = None,
    granularity: jax.typing.ArrayLike | None = None,
    full_range: jax.typing.ArrayLike = False,
    key: jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Symmetric fake quantization, with scales from the maximum absolute values.

    With :math:`L = 2^{b-1} - 1`,

    .. math::
        s = \mathrm{float16}\left(\frac{\max |x|}{L}\right), \qquad
        q = \mathrm{clip}\left(\mathrm{round}\left(\frac{x}{s}\right), -L, L\right), \qquad y = s\,q.

    Rounding is half to even. Zeros stay zero, so masked weights stay masked. With ``full_range``, :math:`s = \max |x| /
    (L + \frac12)` and :math:`q \ge -L - 1`: a finer grid, which helps at few bits. At 1 bit, :math:`y =
    s\,\mathrm{sign}(x)` with :math:`s` the mean of :math:`|x|`; a zero becomes :math:`s`, so pass a mask as ``where``.
    Gradients pass straight through to ``x``; ``bits`` gets none.

    Args:
      x: ``[...]`` float. Computed in float32.
      bits: scalar integer ``>= 1``, or of the rank of ``x`` with size 1 on the axes that share a scale; from 16 on the
        result is ``x``.
      axis: axes along which scales differ: ``0`` for one scale per row of a table. None for one scale. Static.
      group_size: number of neighbors on the last axis that share a scale. None for no groups. Static.
      granularity: scalar: 0 keeps the scales, 1 merges the groups of the last axis, 2 merges all scales. None for 0.
      full_range: bool scalar, whether to use all :math:`2^b` integers.
      key: if given, :func:`stochastic_round` instead of round to nearest (not at 1 bit).
      where: ``[...]`` bool mask, True = kept. Other entries become 0 and don't affect the scale.

    Returns:
      ``[...]``, shape and dtype of ``x``. A NaN makes all entries that share its scale NaN; an infinity is clipped to
      the largest value.

    Storage:
      As :func:`quantize`: ``ceil(n * bits / 8)`` bytes per row of the last axis and 2 per scale.

    Examples:
      >>> x = jnp.array([[0.0, 0.8, 0.3, -1.5], [0.0, 1.0, 5.0, -6.0]])
      >>> print(fake_quant(x, bits=3, axis=0))
      [[ 0.   1.   0.5 -1.5]
       [ 0.   0.   4.  -6. ]]
      >>> pruned = jnp.array([0.0, 0.75, 0.0, -1.5])
      >>> print(fake_quant(pruned, bits=1, where=pruned != 0))
      [ 0.     1.125  0.    -1.125]

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks <https://arxiv.org/abs/1806.08342>`_, 2018, sections 2.2
      and 2.4; Rastegari et al., `XNOR-Net <https://arxiv.org/abs/1603.05279>`_, 2016, section 3.1 (1 bit).
    """
    x = require_float(x)
    scale = absmax_scale(
        x, bits=bits, axis=axis, group_size=group_size, granularity=granularity, full_range=full_range, where=where
    )
    value, _ = _rounded(x, scale, bits, group_size, full_range, key)
    return zero_outside(where, x, straight_through(x, value))


def fake_quant_with(
    x: jax.Array,
    scale: jax.Array,
    *,
    bits: jax.typing.ArrayLike,
    group_size: int | None = None,
    full_range: jax.typing.ArrayLike = False,
    key: jax.Array | None = None,
) -> jax.Array:
    r"""Symmetric fake quantization with a given scale.

    :math:`y` of :func:`fake_quant` with a given :math:`s`, rounded to float16: calibrated for activations, or that of a
    whole table when only the rows of a batch are at hand. Entries outside the range are clipped, with gradient 0:

    .. math::
        \frac{\partial y}{\partial x} = 1 \text{ if } q_\text{low} \le x / s \le q_\text{high}, \text{ else } 0,

    where at 1 bit the range is :math:`|x| \le s`. ``scale`` and ``bits`` get no gradient.

    Args:
      x: ``[...]`` float. Computed in float32.
      scale: float ``>= 0`` of the rank of ``x``, with size 1 on the axes that share a scale, or a scalar.
      bits: as in :func:`fake_quant`; from 16 on nothing is clipped.
      group_size: number of neighbors on the last axis that share an entry of ``scale``. None for no groups. Static.
      full_range: as in :func:`fake_quant`.
      key: as in :func:`fake_quant`.

    Returns:
      ``[...]``, shape and dtype of ``x``. NaN stays NaN; all entries are NaN if their scale is.

    Storage:
      As :func:`quantize` for weights; for activations 2 bytes per scale.

    Examples:
      >>> fake = lambda x: fake_quant_with(x, jnp.array(0.5), bits=3)
      >>> x = jnp.array([0.2, 0.8, 5.0])
      >>> print(fake(x), jax.grad(lambda x: fake(x).sum())(x))
      [0.  1.  1.5] [1. 1. 0.]

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks <https://arxiv.org/abs/1806.08342>`_, 2018, section 2.4.
    """
    x = require_float(x)
    value, inside = _rounded(x, stored_scale(x.shape, scale, group_size), bits, group_size, full_range, key)
    passed = jnp.where(inside | (jnp.asarray(bits) >= 16), x, jax.lax.stop_gradient(x))
    return straight_through(passed, jnp.where(jnp.isnan(x), x, value))


def _rounded(
    x: jax.Array,
    scale: jax.Array,
    bits: jax.typing.ArrayLike,
    group_size: int | None,
    full_range: jax.typing.ArrayLike,
    key: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """The quantized values in the dtype of ``x``, and which entries needed no clipping."""
    exact, scale = jax.lax.stop_gradient(x).astype(jnp.float32), expand_groups(scale, group_size, x.shape)
    steps, inside = round_to_integers(exact, scale, bits=bits, full_range=full_range, key=key)
    value = (steps.astype(jnp.float32) * scale).astype(x.dtype)
    return jnp.where(jnp.asarray(bits) >= 16, x, value), inside


def stored_scale(shape: tuple[int, ...], scale: jax.Array, group_size: int | None) -> jax.Array:
    """A given scale, checked, in the rank of the array and rounded to float16 as it is stored."""
    scale = jax.lax.stop_gradient(require_float(scale, "scale")).astype(jnp.float32)
    if scale.ndim == 0 and group_size is None:
        scale = scale.reshape([1] * len(shape))
    fits = shape
    if group_size is not None:
        check_groups(shape, shared_axes(shape, None), group_size)
        fits = (*shape[:-1], -(-shape[-1] // group_size))
    if scale.ndim != len(shape) or any(s not in (1, n) for s, n in zip(scale.shape, fits, strict=True)):
        raise ValueError(f"scale: expected shape {fits}, or 1 on some of its axes, got {scale.shape}")
    if group_size is not None:
        scale = jnp.broadcast_to(scale, (*scale.shape[:-1], fits[-1]))
    return round_float16(scale)
