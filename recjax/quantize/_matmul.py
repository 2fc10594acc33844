"""Integer matrix multiplication."""

import jax
import jax.numpy as jnp

from recjax.quantize._fake import round_to_integers, stored_scale
from recjax.quantize._packed import QTensor
from recjax.quantize._read import unpack
from recjax.quantize._scale import absmax_scale, expand_groups, require_float

_MAX_INPUTS = 2**31 // (127 * 128)  # this many int8 products fit in int32


def int_matmul(
    x: jax.Array,
    q: QTensor,
    *,
    bits: jax.typing.ArrayLike = 8,
    scale: jax.Array | None = None,
) -> jax.Array:
    r"""Matrix product of activations with packed weights in integer arithmetic.

    With :math:`x \approx s_x q_x` as in :func:`fake_quant` with one scale per row, and weights :math:`w = s_w q_w`,

    .. math::
        y_{ij} = s_{x,i}\, s_{w,j} \sum_k q_{x,ik}\, q_{w,kj}.

    The int8 products are summed in int32, exactly: the result equals ``fake_quant(x, bits=bits, axis=...) @
    dequantize(q)`` up to the rounding of its float sum. No gradient flows: train with :func:`fake_quant`.

    Args:
      x: ``[..., inputs]`` float.
      q: weights ``[inputs, outputs]``, whose scales don't differ along inputs.
      bits: scalar from 1 to 8, the bit width of ``x``.
      scale: calibrated (static) scale of ``x``: float of its rank with size 1 on the last axis, or a scalar. None for
        the maximum of each row (dynamic).

    Returns:
      ``[..., outputs]`` float32. A NaN makes its row NaN; an infinity is clipped.

    Raises:
      ValueError: above 132,104 inputs, where the sum could overflow int32.

    Examples:
      >>> from recjax.quantize import quantize
      >>> w = jnp.array([[1.0, 0.5], [-1.0, 0.25]])
      >>> y = int_matmul(jnp.array([[127.0, 1.0]]), quantize(w, bits=8, axis=1))
      >>> print([[f"{v:.2f}" for v in row] for row in y])
      [['125.99', '63.75']]

    References:
      Jacob et al., `Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference
      <https://arxiv.org/abs/1712.05877>`_, 2018, section 2.2.
    """
    x = require_float(x)
    if len(q.shape) != 2 or x.ndim == 0 or x.shape[-1] != q.shape[0] or q.shape[0] > _MAX_INPUTS:
        raise ValueError(
            f"x and q: expected [..., inputs] and [inputs <= {_MAX_INPUTS}, outputs], got {x.shape} and {q.shape}"
        )
    if q.scale.shape[0] != 1:
        raise ValueError(f"q: expected scales of size 1 along inputs, got {q.scale.shape}")
    exact = jax.lax.stop_gradient(x).astype(jnp.float32)
    if scale is None:
        scale = absmax_scale(exact, bits=bits, axis=tuple(range(x.ndim - 1)))
    else:
        scale = stored_scale(x.shape, scale, None)
        if scale.shape[-1] != 1:
            raise ValueError(f"scale: expected size 1 on the last axis, got {scale.shape}")
        scale = jnp.where(jnp.any(jnp.isnan(exact), axis=-1, keepdims=True), jnp.nan, scale)
    steps, _ = round_to_integers(exact, scale, bits=bits, full_range=False, key=None)
    # Fewer bits are unpacked to int8: the int4 product of XLA on CPU is 5 times slower than that of floats.
    inner = (((x.ndim - 1,), (0,)), ((), ()))
    total = jax.lax.dot_general(steps.astype(jnp.int8), unpack(q), inner, preferred_element_type=jnp.int32)
    weights = expand_groups(q.scale.astype(jnp.float32), q.group_size, q.shape)
    return total.astype(jnp.float32) * scale * weights.reshape(*[1] * (x.ndim - 1), -1)
