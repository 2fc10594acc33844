"""Quantizers with a learned step, offset or clip."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from recjax.quantize._asymmetric import fake_quant_asymmetric
from recjax.quantize._fake import fake_quant_with, round_to_integers, stored_scale, straight_through, zero_outside
from recjax.quantize._scale import integer_range, mean_absolute, require_float, round_float16, shared_axes

_MIN_STEP = 2.0**-14  # the smallest normal float16; a step of 0 would have no gradient


def usable_step(step: jax.Array) -> jax.Array:
    r"""A learned step as it is used and stored: positive and representable in float16.

    .. math::
        s' = \mathrm{float16}(\max(|s|, 2^{-14})), \qquad \frac{\partial s'}{\partial s} = \mathrm{sign}(s),

    1 at 0. To pack an array that was trained with :func:`learned_step`, use ``quantize_with(x, usable_step(step),
    bits=bits, full_range=True, where=where)``, which reads back bit for bit; with a mask at 1 bit, also
    ``prune.sparsify(packed, where)``.

    Args:
      step: ``[...]`` float.

    Returns:
      ``[...]`` float32, exactly representable in float16.

    Examples:
      >>> print(usable_step(jnp.array([0.1, -0.25, 0.0])))
      [9.9975586e-02 2.5000000e-01 6.1035156e-05]

    References:
      Li et al., `Mixed-Precision Embeddings for Large-Scale Recommendation Models <https://arxiv.org/abs/2409.20305>`_,
      2024 (which uses absolute values of steps too).
    """
    step = require_float(step, "step").astype(jnp.float32)
    magnitude = jnp.where(step < 0, -step, step)  # jnp.abs has the gradient 0 at 0
    return straight_through(magnitude, round_float16(jnp.maximum(jax.lax.stop_gradient(magnitude), _MIN_STEP)))


def initial_step(x: jax.Array, *, bits: jax.typing.ArrayLike, axis: int | Sequence[int] | None = None) -> jax.Array:
    r"""Initial step of :func:`learned_step`.

    .. math::
        s_0 = \frac{2}{\sqrt{Q_p}} \cdot \frac1n \sum |x|, \qquad Q_p = 2^{b-1} - 1 \text{ (1 at 1 bit)},

    over the entries that share a step. No gradient flows.

    Args:
      x: ``[...]`` float.
      bits: scalar ``>= 1``.
      axis: axes along which steps differ. None for one step. Static.

    Returns:
      float32 of the rank of ``x``, with size 1 on the axes that share a step.

    Examples:
      >>> print(initial_step(jnp.array([[1.0, -3.0], [2.0, 6.0]]), bits=2, axis=0))
      [[4.]
       [8.]]

    References:
      Esser et al., `Learned Step Size Quantization <https://arxiv.org/abs/1902.08153>`_, 2020, section 2.1.
    """
    x = jax.lax.stop_gradient(require_float(x)).astype(jnp.float32)
    return 2 * mean_absolute(x, shared_axes(x.shape, axis)) / jnp.sqrt(integer_range(bits, True).high)


def _gradient_scale(x: jax.Array, step: jax.Array, bits: jax.typing.ArrayLike) -> jax.Array:
    """1 / sqrt(N Q_p), with N the number of entries that share a step."""
    return 1 / jnp.sqrt(max(x.size // max(step.size, 1), 1) * integer_range(bits, True).high)


def learned_step(
    x: jax.Array,
    step: jax.Array,
    *,
    bits: jax.typing.ArrayLike,
    full_range: jax.typing.ArrayLike = True,
    gradient_scale: jax.typing.ArrayLike | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""LSQ: fake quantization with a learned step.

    With :math:`Q_n = -2^{b-1}`, :math:`Q_p = 2^{b-1} - 1` and :math:`s` of :func:`usable_step`,

    .. math::
        y = s \cdot \mathrm{round}\left(\mathrm{clip}\left(\frac xs, Q_n, Q_p\right)\right), \qquad
        \frac{\partial y}{\partial x} = \mathbf 1\left[Q_n \le \frac xs \le Q_p\right], \qquad
        \frac{\partial y}{\partial s} = g \cdot \begin{cases}
            Q_n & x / s < Q_n \\ Q_p & x / s > Q_p \\ \mathrm{round}(x / s) - x / s & \text{else.} \end{cases}

    The factor :math:`g = 1 / \sqrt{N Q_p}`, with :math:`N` the number of entries of ``x`` that share a step, keeps the
    step's updates in proportion to those of the weights. For a table, gather the rows (and their steps) first. At 1
    bit, :math:`y = s\,\mathrm{sign}(x)`, and the bounds are -1 and 1.

    Args:
      x: ``[...]`` float. Computed in float32.
      step: float of the rank of ``x``, with size 1 on the axes that share a step, or a scalar.
      bits: scalar integer ``>= 1``; from 16 on the result is ``x``.
      full_range: bool scalar, whether the smallest integer is :math:`Q_n` as published, or :math:`-Q_p`.
      gradient_scale: scalar :math:`g`. None for the published one.
      where: ``[...]`` bool mask, True = kept. Other entries become 0; their gradient passes straight through to ``x``
        and doesn't reach the step.

    Returns:
      ``[...]``, shape and dtype of ``x``. NaN stays NaN.

    Published:
      Full range, :math:`g = 1 / \sqrt{N Q_p}`, one step per layer, 2 to 4 bits, and 8 in the first and last layer.

    Storage:
      As :func:`quantize`: ``ceil(n * bits / 8)`` bytes per row of the last axis and 2 per step.

    Examples:
      >>> x, step = jnp.array([0.2, 0.9, 5.0]), jnp.array(0.5)
      >>> print(learned_step(x, step, bits=3))
      [0.  1.  1.5]
      >>> loss = lambda x, step: learned_step(x, step, bits=3, gradient_scale=1.0).sum()
      >>> print(jax.grad(loss, 1)(x, step).round(4))  # -.4 and .2 by rounding, 3 by the clipped entry
      2.8

    References:
      Esser et al., `Learned Step Size Quantization <https://arxiv.org/abs/1902.08153>`_, 2020, equations 1 to 3 and
      section 2.2.
    """
    x, usable = require_float(x), usable_step(step)
    stored = stored_scale(x.shape, usable, None)
    value = fake_quant_with(x, stored, bits=bits, full_range=full_range)  # with the gradient to x
    exact = jax.lax.stop_gradient(x).astype(jnp.float32)
    steps, inside = round_to_integers(exact, stored, bits=bits, full_range=full_range, key=None)
    slope = steps - jnp.where(inside, exact / stored, 0)
    if gradient_scale is None:
        gradient_scale = _gradient_scale(x, usable, bits)
    slope = jax.lax.stop_gradient(jnp.where(jnp.asarray(bits) >= 16, 0, slope * gradient_scale))
    passed = value + (slope * usable.reshape(stored.shape)).astype(x.dtype)  # only its gradient is used
    return zero_outside(where, x, straight_through(passed, jax.lax.stop_gradient(value)))


def learned_step_offset(
    x: jax.Array,
    step: jax.Array,
    offset: jax.Array,
    *,
    bits: jax.typing.ArrayLike,
    full_range: jax.typing.ArrayLike = True,
    gradient_scale: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""LSQ+: fake quantization with a learned step and a learned offset.

    With :func:`learned_step` :math:`Q_s` and its bounds,

    .. math::
        y = Q_s(x - \beta) + \beta, \qquad
        \frac{\partial y}{\partial \beta} = g \cdot
            \mathbf 1\left[\frac{x - \beta}{s} < Q_n \text{ or } > Q_p\right],

    with :math:`\beta` rounded to float16 as it is stored. For distributions that are not centered: activations, or
    dimensions of a table. Packed as ``quantize_with(x - b, usable_step(step), bits=bits, full_range=True)``, plus ``b``
    after dequantization, with ``b`` the offset in float16. Masked zeros don't stay zero: apply a mask afterwards.

    Args:
      x: ``[...]`` float.
      step: as in :func:`learned_step`.
      offset: float of the rank of ``x``, with size 1 on the axes that share an offset (``[1, dim]``: one per
        dimension), or a scalar. Initially 0.
      bits: scalar integer ``>= 1``; from 16 on the result is ``x`` up to rounding.
      full_range: as in :func:`learned_step`.
      gradient_scale: as in :func:`learned_step`.

    Returns:
      ``[...]``, shape and dtype of ``x``. NaN stays NaN.

    Published:
      For embeddings (MPE), one offset per dimension from 0, and a learning rate of the steps of 1e-3 on Criteo.

    Storage:
      ``ceil(n * bits / 8)`` bytes per row of the last axis, 2 per step and 2 per offset.

    Examples:
      >>> x = jnp.array([[1.2, 5.4], [0.9, 6.0]])
      >>> print(learned_step_offset(x, jnp.array(0.5), jnp.array([[1.0, 5.0]]), bits=2))
      [[1.  5.5]
       [1.  5.5]]

    References:
      Bhalgat et al., `LSQ+ <https://arxiv.org/abs/2004.09576>`_, 2020, section 3.
    """
    x, offset = require_float(x), require_float(offset, "offset").astype(jnp.float32)
    if offset.ndim == 0:
        offset = offset.reshape([1] * x.ndim)
    if offset.ndim != x.ndim or any(n not in (1, m) for n, m in zip(offset.shape, x.shape, strict=True)):
        raise ValueError(f"offset: expected shape {x.shape}, or 1 on some of its axes, got {offset.shape}")
    if gradient_scale is None:
        gradient_scale = _gradient_scale(x, jnp.asarray(step), bits)
    stored = jax.lax.stop_gradient(round_float16(offset))
    shift = straight_through(offset * gradient_scale, stored)
    exact = x.astype(jnp.float32) - shift
    value = learned_step(exact, step, bits=bits, full_range=full_range, gradient_scale=gradient_scale)
    return (value + shift).astype(x.dtype)


def clipped_activation(x: jax.Array, clip: jax.typing.ArrayLike, *, bits: jax.typing.ArrayLike) -> jax.Array:
    r"""PACT: activations clipped to [0, clip] with a learned clip, rounded to :math:`2^b` values.

    .. math::
        c = \mathrm{clip}(x, 0, \alpha), \qquad
        s = \mathrm{float16}\left(\frac{\alpha}{2^b - 1}\right), \qquad y = s\,\mathrm{round}\left(\frac cs\right),
        \qquad \frac{\partial y}{\partial x} = \mathbf 1[0 \le x < \alpha], \quad
        \frac{\partial y}{\partial \alpha} = \mathbf 1[x \ge \alpha].

    It replaces a ReLU. :math:`\alpha` needs an L2 penalty, else it only grows. With the constant :math:`\alpha = 1`
    this is DoReFa's quantizer of activations.

    Args:
      x: ``[...]`` float.
      clip: scalar :math:`\alpha > 0`, learned.
      bits: scalar integer ``>= 1``; from 16 on nothing is rounded.

    Returns:
      ``[...]``, shape and dtype of ``x``. NaN stays NaN.

    Published:
      One clip per layer, from 10, with the L2 penalty of the weights. It did not converge on DLRM with 4 bits in the
      MLP.

    Storage:
      2 bytes per clip; activations are not stored.

    Examples:
      >>> x = jnp.array([-1.0, 0.4, 2.0, 3.0])
      >>> print(clipped_activation(x, 1.5, bits=2))
      [0.  0.5 1.5 1.5]
      >>> print(jax.grad(lambda clip: clipped_activation(x, clip, bits=2).sum())(1.5))
      2.0

    References:
      Choi et al., `PACT <https://arxiv.org/abs/1805.06085>`_, 2018, section 3; Zhou et al., `DoReFa-Net
      <https://arxiv.org/abs/1606.06160>`_, 2016, section 2.4.
    """
    x, clip = require_float(x), jnp.asarray(clip)
    if clip.ndim:
        raise ValueError(f"clip: expected a scalar, got {clip.shape}")
    alpha = clip.astype(x.dtype)
    clipped = jnp.where(x >= alpha, alpha, jnp.where(x < 0, 0, x))
    value = fake_quant_asymmetric(jax.lax.stop_gradient(clipped), 0.0, alpha, bits=bits)
    return straight_through(clipped, value)
