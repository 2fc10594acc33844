"""Asymmetric quantization: integer zero points, and rows with a scale and a bias."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from recjax.quantize._bits import pack_bits
from recjax.quantize._fake import stochastic_round, straight_through, zero_outside
from recjax.quantize._packed import check_packable
from recjax.quantize._scale import largest, require_float, round_float16, shared_axes, valid_mask
from recjax.trees import nbytes, record


def minmax(x: jax.Array, *, axis: int | Sequence[int] | None = None) -> tuple[jax.Array, jax.Array]:
    r"""Minimum and maximum over the entries that share a range.

    .. math::
        l = \min x, \qquad h = \max x.

    Args:
      x: ``[...]`` float.
      axis: axes along which ranges differ. None for one range. Static.

    Returns:
      ``(low, high)``, float32 of the rank of ``x`` with size 1 on the other axes; NaN if any entry is, 0 if empty.

    Examples:
      >>> low, high = minmax(jnp.array([[0.5, -1.0], [2.0, 3.0]]), axis=0)
      >>> print(low[:, 0], high[:, 0])
      [-1.  2.] [0.5 3. ]

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks <https://arxiv.org/abs/1806.08342>`_, 2018, section 2.5.
    """
    x = jax.lax.stop_gradient(require_float(x)).astype(jnp.float32)
    shared = shared_axes(x.shape, axis)
    if x.size == 0:
        zeros = jnp.zeros([1 if a in shared else n for a, n in enumerate(x.shape)], jnp.float32)
        return zeros, zeros
    return -largest(-x, shared), largest(x, shared)


def _levels(bits: jax.typing.ArrayLike) -> jax.Array:
    return jnp.round(2.0 ** jnp.asarray(bits, jnp.float32)) - 1  # a traced power may miss an integer


def _round(quotient: jax.Array, key: jax.Array | None) -> jax.Array:
    return jnp.round(quotient) if key is None else stochastic_round(quotient, key)


def _clipped_straight_through(
    x: jax.Array, low: jax.Array, high: jax.Array, value: jax.Array, bits: jax.typing.ArrayLike
) -> jax.Array:
    """``value``, with the gradient of ``x`` clipped to the range; ``x`` itself from 16 bits on. A NaN stays."""
    identity = jnp.asarray(bits) >= 16
    exact = x.astype(jnp.float32)
    passed = jnp.where((exact >= low) & (exact <= high) | identity, x, jax.lax.stop_gradient(x))
    return straight_through(passed, jnp.where(identity | jnp.isnan(x), x, value.astype(x.dtype)))


def fake_quant_asymmetric(
    x: jax.Array,
    low: jax.typing.ArrayLike,
    high: jax.typing.ArrayLike,
    *,
    bits: jax.typing.ArrayLike,
    key: jax.Array | None = None,
) -> jax.Array:
    r"""Asymmetric fake quantization with an integer zero point.

    With the range extended to include zero, :math:`l = \min(\text{low}, 0)` and :math:`h = \max(\text{high}, 0)`,

    .. math::
        s = \mathrm{float16}\left(\frac{h - l}{2^b - 1}\right), \qquad
        z = \mathrm{clip}\left(\mathrm{round}\left(\frac{-l}{s}\right), 0, 2^b - 1\right), \qquad
        y = s \left(\mathrm{clip}\left(\mathrm{round}\left(\frac xs\right) + z, 0, 2^b - 1\right) - z\right).

    Zero is represented exactly, so padding and masks survive. Use it for activations, which are one-sided after a ReLU,
    with the range of :func:`minmax` (dynamic) or of calibration (static). Gradients pass straight through to ``x`` from
    :math:`l` to :math:`h` and are 0 outside; the range and ``bits`` get none.

    Args:
      x: ``[...]`` float. Computed in float32.
      low: float that broadcasts to ``x``, of its rank or a scalar.
      high: as ``low``, ``>= low``.
      bits: scalar integer ``>= 1``; from 16 on the result is ``x``.
      key: if given, :func:`stochastic_round` instead of round to nearest.

    Returns:
      ``[...]``, shape and dtype of ``x``. NaN stays NaN; all entries are NaN if an end of their range is.

    Storage:
      2 bytes per scale and 1 per zero point, up to 8 bits.

    Examples:
      >>> x = jnp.array([-0.5, 0.0, 0.6, 1.0])
      >>> print(fake_quant_asymmetric(x, *minmax(x), bits=2))
      [-0.5  0.   0.5  1. ]

    References:
      Jacob et al., `Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference
      <https://arxiv.org/abs/1712.05877>`_, 2018, equations 1 and 12 and section 3.
    """
    x = require_float(x)
    exact = jax.lax.stop_gradient(x).astype(jnp.float32)
    low, high = (jax.lax.stop_gradient(jnp.asarray(end, jnp.float32)) for end in (low, high))
    low, high = jnp.minimum(low, 0), jnp.maximum(high, 0)
    levels, span = _levels(bits), high - low
    # divisors selected entry by entry stay divisors: see absmax_scale
    scale = round_float16(span / jnp.where(span == 0, 1, levels))
    zero = jnp.clip(jnp.round(-low / jnp.where(low == 0, 1, scale)), 0, levels)
    steps = jnp.clip(_round(exact / jnp.where(exact == 0, 1, scale), key) + zero, 0, levels) - zero
    steps = jnp.where((scale == 0) | jnp.isnan(steps), 0, steps).astype(jnp.int32)  # no -0
    return _clipped_straight_through(x, low, high, steps.astype(jnp.float32) * scale, bits)


@record
class RowQuantized:
    r"""Array packed to a few bits per entry, with a scale and a bias per row, as in fbgemm and torchrec.

    .. math::
        x_{ij} = s_i\,q_{ij} + \beta_i, \qquad q_{ij} \in \{0, \dots, 2^b - 1\}

    fbgemm stores scale and bias behind each row's words, and as float32 at 8 bits. Zero is usually not representable.

    Attributes:
      words: ``[..., ceil(n * bits / 8)]`` uint8, the integers of each row from the low end of each byte; unused bits
        are 0.
      scale: ``[..., 1]`` float16, ``>= 0`` or NaN.
      bias: ``[..., 1]`` float16, the value of the integer 0.
      bits: 1, 2, 3, 4 or 8. Static.
      shape: ``[..., n]``, the shape of the unpacked array. Static.

    Published:
      8, 4 or 2 bits in fbgemm and torchrec.

    Storage:
      ``rows * (ceil(n * bits / 8) + 4)`` bytes for ``rows`` rows of ``n`` entries.

    References:
      Guan et al., `Post-Training 4-bit Quantization on Embedding Tables <https://arxiv.org/abs/1911.02079>`_, 2019,
      section 2.
    """

    words: jax.Array
    scale: jax.Array
    bias: jax.Array
    bits: int = dataclasses.field(metadata={"static": True})
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    nbytes = property(nbytes, doc="The bytes that are stored: words, scales and biases.")


def _row_integers(
    x: jax.Array,
    bits: jax.typing.ArrayLike,
    low: jax.Array,
    high: jax.Array,
    key: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The integers (int32), the scale and the bias of each row."""
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    bias = round_float16(low)
    levels, span = _levels(bits), jnp.maximum(high - bias, 0)
    # divisors selected entry by entry stay divisors: see absmax_scale
    scale = round_float16(span / jnp.where(span == 0, 1, levels))
    steps = jnp.clip(_round((x - bias) / jnp.where(x == bias, 1, scale), key), 0, levels)
    return jnp.where((scale == 0) | jnp.isnan(steps), 0, steps).astype(jnp.int32), scale, bias


def _row_range(
    x: jax.Array, low: jax.typing.ArrayLike | None, high: jax.typing.ArrayLike | None, where: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The range of each row: as given, else of its unmasked entries, and (0, 0) if there are none."""
    if x.ndim == 0:
        raise ValueError("x: expected at least one axis, got a scalar")
    axis, kept = tuple(range(x.ndim - 1)), valid_mask(x, where)
    if kept is None:
        own = minmax(x, axis=axis)
    else:
        some = jnp.any(kept, axis=-1, keepdims=True)
        low_end, _ = minmax(jnp.where(kept, x, jnp.inf), axis=axis)
        _, high_end = minmax(jnp.where(kept, x, -jnp.inf), axis=axis)
        own = jnp.where(some, low_end, 0), jnp.where(some, high_end, 0)
    ends = []
    for name, end, default in (("low", low, own[0]), ("high", high, own[1])):
        given = default if end is None else jax.lax.stop_gradient(jnp.asarray(end, jnp.float32))
        if given.shape not in ((), default.shape):
            raise ValueError(f"{name}: expected a scalar or shape {default.shape}, got {given.shape}")
        ends.append(jnp.where(jnp.isnan(default), default, given))  # words hold no NaN, so the range of its row does
    return ends[0], ends[1]


def fake_quant_rows(
    x: jax.Array,
    *,
    bits: jax.typing.ArrayLike,
    low: jax.typing.ArrayLike | None = None,
    high: jax.typing.ArrayLike | None = None,
    key: jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""Fake quantization of rows, with a scale and a bias per row.

    .. math::
        \beta = \mathrm{float16}(l), \qquad
        s = \mathrm{float16}\left(\frac{h - \beta}{2^b - 1}\right), \qquad
        q = \mathrm{clip}\left(\mathrm{round}\left(\frac{x - \beta}{s}\right), 0, 2^b - 1\right), \qquad
        y = s\,q + \beta,

    from the minimum :math:`l` to the maximum :math:`h` of a row, or over a given range (:func:`greedy_clip_range`). For
    Gaussian rows of 16 entries at 2 bits, the squared error is .56 of that of symmetric scales, for 2 bytes more per
    row. Zero is usually not representable, so pass a mask as ``where``. Gradients pass straight through to ``x`` within
    the range and are 0 outside.

    Args:
      x: ``[..., n]`` float. Computed in float32.
      bits: scalar integer ``>= 1``; from 16 on the result is ``x``.
      low: ``[..., 1]`` float or scalar. None for the minimum of each row.
      high: as ``low``, ``>= low``. None for the maximum of each row.
      key: if given, :func:`stochastic_round` instead of round to nearest.
      where: ``[..., n]`` bool mask, True = kept. Other entries become 0 and don't affect the range.

    Returns:
      ``[..., n]``, shape and dtype of ``x``. A NaN makes its row NaN; an infinity is clipped.

    Published:
      8, 4 or 2 bits from minimum to maximum in fbgemm and torchrec.

    Storage:
      ``rows * (ceil(n * bits / 8) + 4)`` bytes for ``rows`` rows of ``n`` entries.

    Examples:
      >>> print(fake_quant_rows(jnp.array([[1.0, 1.4, 1.6, 2.5], [-1.0, -1.0, 2.0, 0.9]]), bits=2))
      [[ 1.   1.5  1.5  2.5]
       [-1.  -1.   2.   1. ]]

    References:
      Guan et al., `Post-Training 4-bit Quantization on Embedding Tables <https://arxiv.org/abs/1911.02079>`_, 2019,
      sections 2 and 3.
    """
    x = require_float(x)
    low, high = _row_range(x, low, high, where)
    steps, scale, bias = _row_integers(x, bits, low, high, key)
    # up to 13 bits the product is exact, so fusing it with the sum changes nothing
    return zero_outside(
        where, x, _clipped_straight_through(x, low, high, steps.astype(jnp.float32) * scale + bias, bits)
    )


def quantize_rows(
    x: jax.Array,
    *,
    bits: int,
    low: jax.typing.ArrayLike | None = None,
    high: jax.typing.ArrayLike | None = None,
    key: jax.Array | None = None,
    where: jax.Array | None = None,
) -> RowQuantized:
    r"""Rows packed to integers, with a scale and a bias per row.

    .. math::
        q = \mathrm{clip}\left(\mathrm{round}\left(\frac{x - \beta}{s}\right), 0, 2^b - 1\right)

    with :math:`s` and :math:`\beta` of :func:`fake_quant_rows`. No gradient flows.

    Args:
      x: ``[..., n]`` float, at least one axis.
      bits: 1, 2, 3, 4 or 8. Static.
      low: as in :func:`fake_quant_rows`.
      high: as in :func:`fake_quant_rows`.
      key: as in :func:`fake_quant_rows`.
      where: ``[..., n]`` bool mask of the entries that determine the range. The mask is not stored: use
        ``prune.sparsify(q, where)`` to read the other entries back as 0.

    Returns:
      :class:`RowQuantized`. A row with a NaN reads back as NaN.

    Storage:
      ``rows * (ceil(n * bits / 8) + 4)`` bytes for ``rows`` rows of ``n`` entries.

    Examples:
      >>> q = quantize_rows(jnp.array([[1.0, 1.4, 1.6, 2.5], [-1.0, -1.0, 2.0, 0.9]]), bits=2)
      >>> q.words.shape, q.nbytes
      ((2, 1), 10)

    References:
      Guan et al., `Post-Training 4-bit Quantization on Embedding Tables <https://arxiv.org/abs/1911.02079>`_, 2019,
      section 2.
    """
    x = require_float(x)
    check_packable(x.shape, bits)
    steps, scale, bias = _row_integers(x, bits, *_row_range(x, low, high, where), key)
    words = pack_bits(steps.astype(jnp.uint8), int(bits))
    return RowQuantized(words, scale.astype(jnp.float16), bias.astype(jnp.float16), int(bits), x.shape)
