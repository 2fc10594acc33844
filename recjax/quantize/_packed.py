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

    Integers are in two's complement, from the low end of each byte; at 3 bits an entry may straddle two bytes. At 1
    bit, 0 stands for 1 and 1 for -1. The smallest integer occurs only with ``full_range``. A vmapped :func:`quantize`
    adds a leading axis to ``words`` and ``scale`` but not to ``shape``: read such a record under :func:`jax.vmap` too.

    Attributes:
      words: ``[..., ceil(n * bits / 8)]`` uint8; unused bits at the end of a row are 0.
      scale: float16 of the array's rank, ``>= 0`` or NaN, with size 1 on the axes that share a scale and ``ceil(n /
        group_size)`` on the last one if there are groups.
      bits: 1, 2, 3, 4 or 8. Static.
      shape: ``[..., n]``, the shape of the unpacked array. Static.
      group_size: number of neighbors on the last axis that share a scale. None for no groups. Static.

    Storage:
      ``rows * ceil(n * bits / 8)`` bytes for ``rows`` rows of ``n`` entries, and 2 bytes per scale.

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks <https://arxiv.org/abs/1806.08342>`_, 2018, section 2.2.
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
        raise ValueError("x: expected at least one axis, got a scalar")


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
    r"""Array packed to integers, with scales from the maximum absolute values.

    .. math::
        q = \mathrm{clip}\left(\mathrm{round}\left(\frac xs\right), -L, L\right), \qquad s =
        \mathrm{float16}\left(\frac{\max |x|}{L}\right)

    as in :func:`fake_quant`, with :math:`q` packed along the last axis. No gradient flows.

    Args:
      x: ``[..., n]`` float, at least one axis.
      bits: 1, 2, 3, 4 or 8. Static.
      axis: as in :func:`fake_quant`. Static.
      group_size: as in :func:`fake_quant`. Static.
      full_range: as in :func:`fake_quant`.
      key: as in :func:`fake_quant`.
      where: ``[..., n]`` bool mask of the entries that determine the scales; the others are stored as zeros. At 1 bit,
        which has no zero, use ``prune.sparsify(q, where)`` to read them back as 0.

    Returns:
      :class:`QTensor`. All entries that share a scale with a NaN read back as NaN; an infinity as the largest value.

    Storage:
      ``rows * ceil(n * bits / 8)`` bytes for ``rows`` rows of ``n`` entries, and 2 bytes per scale.

    Examples:
      >>> from recjax.quantize import unpack
      >>> q = quantize(jnp.array([[1.0, -1.0, 0.0], [0.0, 0.0, 7.0]]), bits=4, axis=0)
      >>> q.words.shape, q.words.dtype, q.scale.shape, q.nbytes
      ((2, 2), dtype('uint8'), (2, 1), 8)
      >>> print(unpack(q))
      [[ 7 -7  0]
       [ 0  0  7]]

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks <https://arxiv.org/abs/1806.08342>`_, 2018, section 2.2.
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

    as in :func:`fake_quant_with`. No gradient flows.

    Args:
      x: ``[..., n]`` float, at least one axis.
      scale: as in :func:`fake_quant_with`.
      bits: 1, 2, 3, 4 or 8. Static.
      group_size: as in :func:`fake_quant_with`. Static.
      full_range: as in :func:`fake_quant`.
      key: as in :func:`fake_quant`.
      where: as in :func:`quantize`.

    Returns:
      :class:`QTensor`. All entries that share a scale with a NaN read back as NaN, unlike :func:`fake_quant_with`,
      where only the entry itself is.

    Storage:
      As :func:`quantize`.

    Examples:
      >>> from recjax.quantize import dequantize
      >>> print(dequantize(quantize_with(jnp.array([0.2, 0.8, 5.0]), jnp.array(0.5), bits=3)))
      [0.  1.  1.5]

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks <https://arxiv.org/abs/1806.08342>`_, 2018, section 2.2.
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
        steps = steps >> 31  # the sign bit: -1 for -1 and 0 for 1
    words = pack_bits(steps.astype(jnp.int8).view(jnp.uint8), int(bits))
    return QTensor(words, scale.astype(jnp.float16), int(bits), x.shape, group_size)
