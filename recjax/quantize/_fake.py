"""Values as they will be after packing, differentiated straight through."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

_FLOAT16_MAX = 65504.0
_FLOAT16_TINY = 2.0**-14  # the smallest normal number; below it float16 has steps of 2**-24


@jax.custom_jvp
def _straight_through(x: jax.Array, value: jax.Array) -> jax.Array:
    return value


@_straight_through.defjvp
def _straight_through_jvp(primals, tangents):
    # Not x + stop_gradient(value - x): that sum is rounded, and the value would no longer be exactly a packed one.
    return _straight_through(*primals), tangents[0]


def straight_through(x: jax.Array, value: jax.Array) -> jax.Array:
    r"""A value that is differentiated as if it were something else (the straight-through estimator).

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


def _shared_axes(shape: tuple[int, ...], axis: int | Sequence[int] | None) -> tuple[int, ...]:
    """The axes that share a scale: all but ``axis``."""
    given = () if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    own = {a % len(shape) for a in given if -len(shape) <= a < len(shape)}
    if len(own) != len(given):
        raise ValueError(f"axis: expected different axes of an array of shape {shape}, got {axis}")
    return tuple(a for a in range(len(shape)) if a not in own)


def _round_float16(x: jax.Array) -> jax.Array:
    """float32 ``x >= 0`` rounded to the nearest float16, subnormals included, still as float32.

    Not by a cast there and back, which XLA may drop as excess precision, so that compiled training would see
    scales that are never stored. ``reduce_precision`` stays, but takes subnormals to zero.
    """
    subnormal = jnp.round(x * 2.0**24) * 2.0**-24
    normal = jax.lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10)
    return jnp.where(x < _FLOAT16_TINY, subnormal, normal)


def _absmax(x: jax.Array, axis: tuple[int, ...]) -> jax.Array:
    """The largest absolute value of float32 ``x`` over ``axis``, NaN if there is one among them.

    As the largest bit pattern, which has the order of the values with NaN on top: XLA's maximum of floats forgets
    NaN in large arrays on CPU.
    """
    pattern = jax.lax.bitcast_convert_type(x, jnp.uint32) & 0x7FFFFFFF
    return jax.lax.bitcast_convert_type(jnp.max(pattern, axis=axis, keepdims=True, initial=0), jnp.float32)


def integers(x: jax.Array, bits: jax.typing.ArrayLike, axis: int | Sequence[int] | None) -> tuple[jax.Array, jax.Array]:
    """The whole numbers (int32) and the scale (float32 that float16 holds exactly) that stand for ``x``."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"expected a float array, got {x.dtype}")
    shared = _shared_axes(x.shape, axis)
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    levels = jnp.round(2.0 ** (jnp.asarray(bits, jnp.float32) - 1)) - 1  # a traced power may miss a whole number
    # XLA turns division by a constant or a broadcast array into multiplication by the reciprocal, which rounds
    # differently and not in every program alike. A divisor that is selected entry by entry stays a divisor.
    absmax = _absmax(x, shared)
    scale = _round_float16(jnp.minimum(absmax / jnp.where(absmax == 0, 1, levels), _FLOAT16_MAX))
    steps = jnp.clip(jnp.round(x / jnp.where(x == 0, 1, scale)), -levels, levels)
    steps = jnp.where((scale == 0) | jnp.isnan(steps), 0, steps)  # a NaN lives on in the scale
    return steps.astype(jnp.int32), scale  # as integers also because they have no -0, which would not survive packing


def fake_quant(x: jax.Array, *, bits: jax.typing.ArrayLike, axis: int | Sequence[int] | None = None) -> jax.Array:
    r"""The array as it will be after packing to ``bits`` bits, for training.

    Symmetric around an exact zero, with :math:`L = 2^{b-1} - 1` levels on either side:

    .. math::
        s = \mathrm{float16}\left(\frac{\max |x|}{L}\right), \qquad
        q = \mathrm{clip}\left(\mathrm{round}\left(\frac{x}{s}\right), -L, L\right), \qquad y = s\,q.

    Rounding is half to even. The maximum is over all the entries that share a scale, and the scale is rounded to
    float16 as it is stored, so ``y`` equals ``dequantize(quantize(x, bits=bits, axis=axis))`` bit for bit. A scale
    above 65504 becomes 65504, the largest in float16, and what doesn't fit is clipped. One that float16 rounds to
    zero (:math:`\max |x| / L \le 2^{-25}`) makes its entries exactly zero, and between that and :math:`2^{-14}` it
    has fewer digits. Zeros stay zero, so masked weights stay masked.

    Gradients pass straight through to ``x``, everywhere 1: with a scale from the maximum, rounding alone moves
    values. None flows to ``bits``.

    Args:
      x: ``[...]`` float. Reckoned in float32 whatever its dtype.
      bits: scalar from 2; from 16 on the result is ``x`` itself. May be traced; not checked.
      axis: the axes that keep scales of their own: ``0`` is one scale a row of a table. None is one scale for all.

    Returns:
      ``[...]``, shape and dtype of ``x``. A NaN makes everything that shares its scale NaN; an infinity is clipped to
      the largest value there is.

    Raises:
      ValueError: if ``axis`` names an axis that ``x`` doesn't have, or one twice.
      TypeError: if ``x`` is not float.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.array([[0.0, 0.8, 0.3, -1.5], [0.0, 1.0, 5.0, -6.0]])
      >>> print(fake_quant(x, bits=3, axis=0))
      [[ 0.   1.   0.5 -1.5]
       [ 0.   0.   4.  -6. ]]
      >>> grid = jnp.array([2.0, 4.0, 8.0])
      >>> jax.vmap(lambda bits: fake_quant(x, bits=bits))(grid).shape
      (3, 2, 4)

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks for efficient inference
      <https://arxiv.org/abs/1806.08342>`_, 2018, sections 2.2 and 2.4.
    """
    x = jnp.asarray(x)
    steps, scale = integers(x, bits, axis)
    value = (steps.astype(jnp.float32) * scale).astype(x.dtype)
    return straight_through(x, jnp.where(jnp.asarray(bits) >= 16, x, value))
