"""Dequantization of whole arrays and of single rows."""

import dataclasses

import jax
import jax.numpy as jnp

from recjax.quantize._asymmetric import RowQuantized
from recjax.quantize._bits import unpack_bits
from recjax.quantize._packed import QTensor
from recjax.quantize._scale import expand_groups


def unpack(q: QTensor | RowQuantized) -> jax.Array:
    """Integers of a packed array.

    Args:
      q: a :class:`QTensor` or :class:`RowQuantized`.

    Returns:
      ``q.shape``, int8 of a :class:`QTensor`, uint8 of a :class:`RowQuantized`.

    Examples:
      >>> from recjax.quantize import quantize
      >>> print(unpack(quantize(jnp.array([0.5, -1.0, 0.1]), bits=3)))
      [ 2 -3  0]
    """
    low = unpack_bits(q.words, q.bits, q.shape[-1] if q.shape else 0)
    if isinstance(q, RowQuantized):
        return low
    if q.bits == 1:
        return (1 - 2 * low).view(jnp.int8)
    sign = jnp.uint8(1 << (q.bits - 1))
    return ((low ^ sign) - sign).view(jnp.int8)  # sign extension, modulo 256


def dequantize(q: QTensor | RowQuantized) -> jax.Array:
    r"""Values of a packed array: :math:`y = s\,q`, or :math:`y = s\,q + \beta` for rows with a bias.

    Args:
      q: a :class:`QTensor` or :class:`RowQuantized`.

    Returns:
      ``q.shape`` float32.

    Examples:
      >>> from recjax.quantize import quantize
      >>> print(dequantize(quantize(jnp.array([0.5, -1.5, 7.0]), bits=4)))
      [ 0. -2.  7.]
    """
    steps, scale = unpack(q).astype(jnp.float32), q.scale.astype(jnp.float32)
    if isinstance(q, RowQuantized):
        return steps * scale + q.bias.astype(jnp.float32)
    return steps * expand_groups(scale, q.group_size, q.shape)


def gather(q: QTensor | RowQuantized, ids: jax.Array) -> jax.Array:
    """Rows of a packed table by id; only these rows are unpacked.

    Args:
      q: a :class:`QTensor` or :class:`RowQuantized` of shape ``[rows, ..., n]``.
      ids: ``[...]`` int row ids.

    Returns:
      ``[*ids.shape, ..., n]`` float32, equal to rows of ``dequantize(q)``; NaN for an id outside the table, also a
      negative one.

    Examples:
      >>> from recjax.quantize import quantize
      >>> q = quantize(jnp.array([[1.0, -2.0], [3.0, 7.0]]), bits=4, axis=0)
      >>> print(gather(q, jnp.array([1, -1])))
      [[ 3.  7.]
       [nan nan]]
    """
    ids = jnp.asarray(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"ids: expected int, got {ids.dtype}")
    if ids.dtype.itemsize < 4:  # JAX compares ids with the last row in their own dtype
        ids = ids.astype(jnp.int32)
    if len(q.shape) < 2:
        raise ValueError(f"q: expected at least two axes, got shape {q.shape}")

    def rows(part: jax.Array, fill: float) -> jax.Array:
        if part.shape[0] == 0:  # JAX cannot gather from an empty array
            return jnp.full((*ids.shape, *part.shape[1:]), fill, part.dtype)
        return jnp.asarray(part).at[ids].get(mode="fill", fill_value=fill, wrap_negative_indices=False)

    words, shape = rows(q.words, 0), (*ids.shape, *q.shape[1:])
    if isinstance(q, RowQuantized):
        gathered = dataclasses.replace(q, words=words, scale=rows(q.scale, 0), bias=rows(q.bias, jnp.nan), shape=shape)
    elif q.scale.shape[0] == q.shape[0]:
        gathered = dataclasses.replace(q, words=words, scale=rows(q.scale, jnp.nan), shape=shape)
    else:  # the rows share their scales
        valid = ((ids >= 0) & (ids < q.shape[0])).reshape(*ids.shape, *[1] * (q.scale.ndim - 1))
        scale = jnp.broadcast_to(q.scale[0], (*ids.shape, *q.scale.shape[1:]))
        gathered = dataclasses.replace(q, words=words, scale=jnp.where(valid, scale, jnp.nan), shape=shape)
    return dequantize(gathered)
