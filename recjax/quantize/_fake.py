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
    # Not x + stop_gradient(value - x): that sum is rounded, and the value would no longer be exactly a packed one.
    return _straight_through(*primals), tangents[0]


def straight_through(x: jax.Array, value: jax.Array) -> jax.Array:
    r"""Straight-through estimator: the value of one array with the gradient of another.

    .. math::
        y = v, \qquad \frac{\partial y}{\partial x} = 1, \qquad \frac{\partial y}{\partial v} = 0.

    The forward value is exactly ``value``, to the last bit. The gradient flows to ``x`` alone, unchanged.

    Args:
      x: ``[...]`` float, what the gradient goes to.
      value: ``[...]``, same shape and dtype, what comes out.

    Returns:
      ``[...]``, ``value``.

    Raises:
      ValueError: if ``x`` and ``value`` differ in shape.
      TypeError: if ``x`` and ``value`` differ in dtype.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.array([0.4, 1.6])
      >>> print(straight_through(x, jnp.round(x)))
      [0. 2.]
      >>> print(jax.grad(lambda x: straight_through(x, jnp.round(x)).sum())(x))
      [1. 1.]

    References:
      Bengio et al., `Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation
      <https://arxiv.org/abs/1308.3432>`_, 2013, section 4.
    """
    x, value = jnp.asarray(x), jnp.asarray(value)
    if x.shape != value.shape:
        raise ValueError(f"expected equal shapes, got x {x.shape} and value {value.shape}")
    if x.dtype != value.dtype:
        raise TypeError(f"expected equal dtypes, got x {x.dtype} and value {value.dtype}")
    return _straight_through(x, value)


def zero_outside(where: jax.Array | None, x: jax.Array, value: jax.Array) -> jax.Array:
    """``value``, and 0 where a mask drops the entry, which is differentiated as ``x`` there; a NaN of ``x`` stays."""
    kept = valid_mask(x, where)
    return value if kept is None else jnp.where(kept, value, straight_through(x, jnp.zeros_like(x)))


def stochastic_round(x: jax.Array, key: jax.Array) -> jax.Array:
    r"""Stochastic rounding: one of the two nearest integers, whose expectation is the value.

    .. math::
        y = \lfloor x + u \rfloor, \quad u \sim U[0, 1), \qquad \mathbb{E}[y] = x.

    Computed as :math:`\lfloor x \rfloor` plus 1 with the probability of the fraction, which is the same without a
    sum that is rounded: integers stay what they are. Gradients pass straight through.

    Args:
      x: ``[...]`` float.
      key: a key of :func:`jax.random.key`.

    Returns:
      ``[...]``, shape and dtype of ``x``. NaN and infinities stay.

    Knobs:
      ``key`` (traced).

    Storage:
      Nothing is stored.

    Raises:
      TypeError: if ``x`` is not float.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> y = stochastic_round(jnp.full(10_000, 0.25), jax.random.key(0))
      >>> print(jnp.unique(y), f"{y.mean():.2f}")
      [0. 1.] 0.25

    References:
      Gupta et al., `Deep Learning with Limited Numerical Precision <https://arxiv.org/abs/1502.02551>`_, 2015,
      section 3.1.
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
    """The integers (int32) that stand for float32 ``x`` with one scale per entry, and which entries need no clip."""
    binary, low, high, _ = integer_range(bits, full_range)
    quotient = x / jnp.where(x == 0, 1, scale)  # selected entry by entry, so that it stays a division: absmax_scale
    rounded = jnp.round(quotient) if key is None else stochastic_round(quotient, key)
    steps = jnp.where(binary, jnp.where(x < 0, -1, 1), jnp.clip(rounded, low, high))
    steps = jnp.where((scale == 0) | jnp.isnan(steps), 0, steps)
    inside = (quotient >= low) & (quotient <= high)
    return steps.astype(jnp.int32), inside  # as integers also because they have no -0, which would not survive packing


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
    r"""Symmetric fake quantization with scales from the array, for training.

    Symmetric around an exact zero, with :math:`L = 2^{b-1} - 1` levels on either side and the scale of
    :func:`absmax_scale`:

    .. math::
        s = \mathrm{float16}\left(\frac{\max |x|}{L}\right), \qquad
        q = \mathrm{clip}\left(\mathrm{round}\left(\frac{x}{s}\right), -L, L\right), \qquad y = s\,q.

    Rounding is half to even. The scale is rounded to float16 as it is stored, so ``y`` equals
    ``dequantize(quantize(x, bits=bits, axis=axis))`` bit for bit; of bfloat16 and float16, that rounded to the dtype of
    ``x``. Zeros stay zero, so masked weights stay masked;
    entries whose scale float16 rounds to zero become zero.

    With ``full_range``, :math:`s = \max |x| / (L + \frac12)` and :math:`q` starts at :math:`-L - 1`: a finer grid,
    which pays at few bits, and at 2 bits uses the fourth pattern. At 1 bit, :math:`y = s\,\mathrm{sign}(x)` with
    :math:`s` the mean of :math:`|x|`; that grid has no zero, a zero reads as :math:`s`, and a mask has to be told:
    ``where``.

    Gradients pass straight through to ``x``, everywhere 1: with a scale from the entries themselves, rounding alone
    moves values. None flows to ``bits``. For a scale that is given, see :func:`fake_quant_with`.

    Args:
      x: ``[...]`` float. Computed in float32 whatever its dtype.
      bits: scalar, an integer from 1; from 16 on the result is ``x`` itself. Or of the rank of ``x``, with size 1
        on the axes that share a scale. May be traced; not checked.
      axis: the axes that keep scales of their own: ``0`` is one scale per row of a table. None is one scale for all.
      group_size: as many neighbors on the last axis share a scale of their own. None is no groups. Static.
      granularity: scalar, how far scales are pooled: 0 not at all, 1 over the groups of the last axis, 2 over
        everything. None is 0. May be traced; not checked.
      full_range: bool scalar, whether all :math:`2^b` integers are used. May be traced; not checked.
      key: with one, :func:`stochastic_round` instead of the nearest (not at 1 bit).
      where: ``[...]`` bool, the entries that a mask keeps: the others read as 0, on a grid without a zero too, and
        don't count in the scale. None keeps all.

    Returns:
      ``[...]``, shape and dtype of ``x``. A NaN makes everything that shares its scale NaN; an infinity is clipped to
      the largest value there is.

    Knobs:
      ``bits`` (traced), ``granularity`` (traced), ``full_range`` (traced; qwix's default, here off), ``axis`` and
      ``group_size`` (static). One compile serves a grid of bits x granularity x bound.

    Storage:
      As :func:`quantize`: ``ceil(n * bits / 8)`` bytes per row of the last axis and 2 per scale.

    Raises:
      ValueError: if ``axis`` names an axis that ``x`` doesn't have, or one twice, or the last one although there are
        groups; if ``group_size`` is less than 1; if ``where`` has another shape than ``x``.
      TypeError: if ``x`` is not float, or ``where`` is not bool.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.array([[0.0, 0.8, 0.3, -1.5], [0.0, 1.0, 5.0, -6.0]])
      >>> print(fake_quant(x, bits=3, axis=0))
      [[ 0.   1.   0.5 -1.5]
       [ 0.   0.   4.  -6. ]]
      >>> print(fake_quant(jnp.array([0.0, 0.75, 0.25, -1.5]), bits=1))
      [ 0.625  0.625  0.625 -0.625]
      >>> pruned = jnp.array([0.0, 0.75, 0.0, -1.5])
      >>> print(fake_quant(pruned, bits=1, where=pruned != 0))
      [ 0.     1.125  0.    -1.125]
      >>> grid = jnp.array([1.0, 2.0, 4.0, 8.0])
      >>> jax.vmap(lambda bits: fake_quant(x, bits=bits))(grid).shape
      (4, 2, 4)

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks for efficient inference
      <https://arxiv.org/abs/1806.08342>`_, 2018, sections 2.2 and 2.4; Rastegari et al., `XNOR-Net
      <https://arxiv.org/abs/1603.05279>`_, 2016, section 3.1 (1 bit).
    """
    x = require_float(x)
    layout = {"axis": axis, "group_size": group_size, "granularity": granularity}
    scale = absmax_scale(x, bits=bits, full_range=full_range, where=where, **layout)
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
    r"""Symmetric fake quantization with a given scale, for training.

    :math:`q` and :math:`y` of :func:`fake_quant` with :math:`s` from elsewhere: calibrated (static ranges of
    activations, which saves finding the maximum), or one scale of a whole table while only the rows of a batch are
    here. It is rounded to float16 as it is stored. What is outside is clipped, and the gradient there is 0:

    .. math::
        \frac{\partial y}{\partial x} = 1 \text{ if } q_\text{low} \le x / s \le q_\text{high}, \text{ else } 0.

    At 1 bit, inside is :math:`|x| \le s`. None flows to ``scale`` and ``bits``.

    Args:
      x: ``[...]`` float. Computed in float32 whatever its dtype.
      scale: float of the rank of ``x``, with size 1 on the axes that share a scale; ``>= 0``. A scalar serves all. May
        be traced; not checked.
      bits: as in :func:`fake_quant`; from 16 on nothing is clipped. May be traced; not checked.
      group_size: as many neighbors on the last axis share an entry of ``scale``. None is no groups. Static.
      full_range: bool scalar, whether the smallest integer is :math:`-2^{b-1}`. May be traced; not checked.
      key: with one, :func:`stochastic_round` instead of the nearest (not at 1 bit).

    Returns:
      ``[...]``, shape and dtype of ``x``. A NaN stays NaN, in its place alone; where the scale is NaN all is.

    Knobs:
      ``bits``, ``scale``, ``full_range`` (traced), ``group_size`` (static).

    Storage:
      As :func:`quantize` for weights; for activations 2 bytes per scale.

    Raises:
      ValueError: if the shape of ``scale`` doesn't fit.
      TypeError: if ``x`` or ``scale`` is not float.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.array([0.2, 0.8, 5.0])
      >>> fake = lambda x: fake_quant_with(x, jnp.array(0.5), bits=3)
      >>> print(fake(x), jax.grad(lambda x: fake(x).sum())(x))
      [0.  1.  1.5] [1. 1. 0.]

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks for efficient inference
      <https://arxiv.org/abs/1806.08342>`_, 2018, section 2.4.
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
    """The values in the dtype of ``x``, and which entries need no clip."""
    exact, scale = jax.lax.stop_gradient(x).astype(jnp.float32), expand_groups(scale, group_size, x.shape)
    steps, inside = round_to_integers(exact, scale, bits=bits, full_range=full_range, key=key)
    value = (steps.astype(jnp.float32) * scale).astype(x.dtype)
    return jnp.where(jnp.asarray(bits) >= 16, x, value), inside


def stored_scale(shape: tuple[int, ...], scale: jax.Array, group_size: int | None) -> jax.Array:
    """A given scale as it is stored, of the rank of what it is for."""
    scale = jax.lax.stop_gradient(require_float(scale)).astype(jnp.float32)
    if scale.ndim == 0 and group_size is None:
        scale = scale.reshape([1] * len(shape))
    fits = shape
    if group_size is not None:
        check_groups(shape, shared_axes(shape, None), group_size)
        fits = (*shape[:-1], -(-shape[-1] // group_size))
    if scale.ndim != len(shape) or any(s not in (1, n) for s, n in zip(scale.shape, fits, strict=True)):
        raise ValueError(f"scale: expected {fits} or 1 in places of it, got {scale.shape}")
    if group_size is not None:
        scale = jnp.broadcast_to(scale, (*scale.shape[:-1], fits[-1]))
    return round_float16(scale)
