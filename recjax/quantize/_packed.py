"""Packed integers with symmetric scales."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from recjax.quantize._bits import pack_bits
from recjax.quantize._fake import round_to_integers, stored_scale, zero_outside
from recjax.quantize._scale import absmax_scale, expand_groups, require_float
from recjax.trees import nbytes, record

PACKED_BITS = (1, 2, 3, 4, 8)


@record
class QTensor:
    r"""Array packed to a few bits per entry, with symmetric scales.

    .. math::
        x = s\,q, \qquad q \in \{-2^{b-1}, \dots, 2^{b-1} - 1\}

    Invariants:

    * ``words`` has the array's shape but for the last axis, which holds ``ceil(n * bits / 8)`` bytes for ``n`` entries.
    * Entries follow one another from the low end of each byte (at 4 bits the first entry is the low nibble; at 3
      bits per entry may straddle two bytes), in two's complement, from ``-levels`` to ``levels``; one lower only
      with ``full_range``. At 1 bit, 0 is 1 and 1 is -1. Bits left over at the end of a row are zero.
    * ``scale`` has the array's rank, with size 1 on the axes that share a scale, and
      ``ceil(n / group_size)`` on the last one if there are groups; finite and ``>= 0``, or NaN.
    * The array is ``unpack(q) * scale`` in float32, each group with its scale.

    A vmapped :func:`quantize` gives a record with a leading axis more on ``words`` and ``scale`` than ``shape`` tells;
    read it under :func:`jax.vmap` too.

    Attributes:
      words: ``[..., ceil(n * bits / 8)]`` uint8.
      scale: ``[...]`` float16.
      bits: 1, 2, 3, 4 or 8. Static.
      shape: the shape of the array that is packed here. Static.
      group_size: how many neighbors on the last axis share a scale of their own, None without groups. Static.

    Knobs:
      ``bits``, ``group_size`` and which axes have scales of their own (static).

    Storage:
      ``rows * ceil(n * bits / 8)`` bytes of words for ``rows`` rows of ``n`` entries, and 2 bytes per scale.

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks for efficient inference
      <https://arxiv.org/abs/1806.08342>`_, 2018, section 2.2.
    """

    words: jax.Array
    scale: jax.Array
    bits: int = dataclasses.field(metadata={"static": True})
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    group_size: int | None = dataclasses.field(default=None, metadata={"static": True})

    nbytes = property(nbytes, doc="The bytes that are stored: words and scales.")


def check_packable(shape: tuple[int, ...], bits: int) -> None:
    if bits not in PACKED_BITS:
        raise ValueError(f"bits: expected one of {PACKED_BITS}, got {bits}")
    if not shape:
        raise ValueError("expected an array with at least one axis, got a scalar")


def quantize(
    x: jax.Array,
    *,
    bits: int,
    axis: int | Sequence[int] | None = None,
    group_size: int | None = None,
    full_range: jax.typing.ArrayLike = False,
    key: jax.Array | None = None,
    where: jax.Array | None = None,
) -> QTensor:
    r"""Array packed to integers with symmetric scales.

    .. math::
        q = \mathrm{clip}\left(\mathrm{round}\left(\frac xs\right), -L, L\right), \qquad s =
        \mathrm{float16}\left(\frac{\max |x|}{L}\right)

    :math:`q` and :math:`s` of :func:`fake_quant`, with :math:`q` packed along the last axis. No gradient flows.

    Args:
      x: ``[..., n]`` float, at least one axis.
      bits: 1, 2, 3, 4 or 8. Static.
      axis: the axes that keep scales of their own. None is one scale for all.
      group_size: as many neighbors on the last axis share a scale of their own. None is no groups. Static.
      full_range: bool scalar, whether all :math:`2^b` integers are used. May be traced; not checked.
      key: with one, :func:`stochastic_round` instead of the nearest (not at 1 bit).
      where: ``[..., n]`` bool, the entries that a mask keeps, which alone count in the scales; the others are stored as
        a zero is. At 1 bit that reads back as a scale: ``prune.sparsify(q, where)`` stores the mask too, and reads back
        as :func:`fake_quant` with ``where``, bit for bit (of float32). None keeps all.

    Returns:
      The :class:`QTensor`. NaN and infinity as in :func:`fake_quant`: a NaN is stored in the scale, so all that
      shares it reads back as NaN; an infinity reads back as the largest value.

    Knobs:
      ``bits``, ``axis``, ``group_size`` (static), ``full_range`` (traced).

    Storage:
      ``rows * ceil(n * bits / 8)`` bytes of words for ``rows`` rows of ``n`` entries, and 2 bytes per scale.

    Raises:
      ValueError: if ``bits`` is none of 1, 2, 3, 4 and 8, ``x`` has no axis to pack, ``axis`` names an axis that ``x``
        doesn't have, or one twice, or the last one although there are groups, ``group_size`` is less than 1, or
        ``where`` has another shape than ``x``.
      TypeError: if ``x`` is not float, or ``where`` is not bool.

    Examples:
      >>> import jax.numpy as jnp
      >>> from recjax.quantize import unpack
      >>> q = quantize(jnp.array([[1.0, -1.0, 0.0], [0.0, 0.0, 7.0]]), bits=4, axis=0)
      >>> q.words.shape, q.words.dtype, q.scale.shape, q.nbytes
      ((2, 2), dtype('uint8'), (2, 1), 8)
      >>> print(unpack(q))
      [[ 7 -7  0]
       [ 0  0  7]]

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks for efficient inference
      <https://arxiv.org/abs/1806.08342>`_, 2018, section 2.2.
    """
    x = require_float(x)
    check_packable(x.shape, bits)
    scale = absmax_scale(x, bits=bits, axis=axis, group_size=group_size, full_range=full_range, where=where)
    return _pack(zero_outside(where, x, x), scale, bits, group_size, full_range, key)


def quantize_with(
    x: jax.Array,
    scale: jax.Array,
    *,
    bits: int,
    group_size: int | None = None,
    full_range: jax.typing.ArrayLike = False,
    key: jax.Array | None = None,
    where: jax.Array | None = None,
) -> QTensor:
    r"""Array packed to integers with given scales: learned, calibrated, or powers of two.

    .. math::
        q = \mathrm{clip}\left(\mathrm{round}\left(\frac xs\right), q_\text{low}, q_\text{high}\right)

    :math:`q` and :math:`s` of :func:`fake_quant_with`. No gradient flows.

    Args:
      x: ``[..., n]`` float, at least one axis.
      scale: float of the rank of ``x``, with size 1 on the axes that share a scale; ``>= 0``. A scalar serves all. May
        be traced; not checked.
      bits: 1, 2, 3, 4 or 8. Static.
      group_size: as many neighbors on the last axis share an entry of ``scale``. None is no groups. Static.
      full_range: bool scalar, whether the smallest integer is :math:`-2^{b-1}`. May be traced; not checked.
      key: with one, :func:`stochastic_round` instead of the nearest (not at 1 bit).
      where: ``[..., n]`` bool, as in :func:`quantize`. None keeps all.

    Returns:
      The :class:`QTensor`, with the scales in float16. Words hold no NaN, so one in ``x`` is stored in the scale and
      all that shares it reads back as NaN, where :func:`fake_quant_with` has it in its place alone.

    Knobs:
      ``bits``, ``group_size`` (static), ``scale``, ``full_range`` (traced).

    Storage:
      As :func:`quantize`.

    Raises:
      ValueError: if ``bits`` is none of 1, 2, 3, 4 and 8, ``x`` has no axis to pack, or the shape of ``scale`` or
        ``where`` doesn't fit.
      TypeError: if ``x`` or ``scale`` is not float, or ``where`` is not bool.

    Examples:
      >>> import jax.numpy as jnp
      >>> from recjax.quantize import dequantize
      >>> print(dequantize(quantize_with(jnp.array([0.2, 0.8, 5.0]), jnp.array(0.5), bits=3)))
      [0.  1.  1.5]

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks for efficient inference
      <https://arxiv.org/abs/1806.08342>`_, 2018, section 2.2.
    """
    x = require_float(x)
    check_packable(x.shape, bits)
    scale = stored_scale(x.shape, scale, group_size)
    own = tuple(a for a, n in enumerate(scale.shape) if n > 1 and (group_size is None or a < x.ndim - 1))
    unknown = jnp.isnan(absmax_scale(x, bits=8, axis=own, group_size=group_size))
    return _pack(zero_outside(where, x, x), jnp.where(unknown, jnp.nan, scale), bits, group_size, full_range, key)


def _pack(
    x: jax.Array,
    scale: jax.Array,
    bits: int,
    group_size: int | None,
    full_range: jax.typing.ArrayLike,
    key: jax.Array | None,
) -> QTensor:
    exact = jax.lax.stop_gradient(x).astype(jnp.float32)
    steps, _ = round_to_integers(
        exact, expand_groups(scale, group_size, x.shape), bits=bits, full_range=full_range, key=key
    )
    if bits == 1:
        steps = steps >> 31  # -1 for -1 and 0 for 1: the sign alone
    words = pack_bits(steps.astype(jnp.int8).view(jnp.uint8), int(bits))
    return QTensor(words, scale.astype(jnp.float16), int(bits), x.shape, group_size)
