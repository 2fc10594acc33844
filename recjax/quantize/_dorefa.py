"""DoReFa: tanh-normalized weights, and gradients quantized in the backward pass."""

import jax
import jax.numpy as jnp

from recjax.quantize._asymmetric import fake_quant_rows
from recjax.quantize._fake import fake_quant
from recjax.quantize._scale import require_float


def tanh_normalized_weights(x: jax.Array) -> jax.Array:
    r"""Weights normalized to [-1, 1] by tanh (DoReFa).

    .. math::
        y = \frac{\tanh x}{\max |\tanh x|}

    Differentiable, through the maximum too. :func:`dorefa_weights` are packed by
    ``quantize_rows(tanh_normalized_weights(x), bits=bits, low=-1.0, high=1.0)``, bit for bit.

    Args:
      x: ``[...]`` float.

    Returns:
      ``[...]``, shape and dtype of ``x``. All zeros stay zeros.

    Examples:
      >>> [round(y, 4) for y in tanh_normalized_weights(jnp.array([0.5, -1.0])).tolist()]
      [0.6068, -1.0]

    References:
      Zhou et al., `DoReFa-Net <https://arxiv.org/abs/1606.06160>`_, 2016, section 2.3.
    """
    y = jnp.tanh(require_float(x))
    top = jnp.max(jnp.abs(y), initial=0)
    return y / jnp.where(top == 0, 1, top)


def dorefa_weights(x: jax.Array, *, bits: jax.typing.ArrayLike) -> jax.Array:
    r"""DoReFa fake quantization: tanh-normalized weights on :math:`2^b` evenly spaced values from -1 to 1.

    With :math:`L = 2^b - 1`,

    .. math::
        t = \frac{\tanh x}{2 \max |\tanh x|} + \frac12, \qquad
        y = \frac{2}{L} \mathrm{round}(L\,t) - 1,

    and at 1 bit :math:`y = \mathrm{sign}(x)` times the mean of :math:`|x|`. The step :math:`2 / L` is rounded to
    float16 as it is stored. Zero is not representable: apply a mask afterwards. Gradients pass straight through the
    rounding and exactly through :func:`tanh_normalized_weights`.

    Args:
      x: ``[..., n]`` float, the weights of one layer.
      bits: scalar integer ``>= 1``; from 16 on nothing is rounded.

    Returns:
      ``[..., n]``, shape and dtype of ``x``. A NaN makes its row NaN.

    Published:
      One range per layer.

    Storage:
      As :func:`quantize_rows`: ``rows * (ceil(n * bits / 8) + 4)`` bytes for ``rows`` rows of ``n`` entries; at 1 bit
      as :func:`quantize`.

    Examples:
      >>> print(dorefa_weights(jnp.array([0.1, 0.4, -1.0]), bits=2).round(3))
      [ 0.333  0.333 -1.   ]

    References:
      Zhou et al., `DoReFa-Net <https://arxiv.org/abs/1606.06160>`_, 2016, section 2.3.
    """
    x = require_float(x)
    even = fake_quant_rows(tanh_normalized_weights(x), bits=bits, low=-1.0, high=1.0)
    return jnp.where(jnp.asarray(bits) <= 1, fake_quant(x, bits=1), even)


@jax.custom_vjp
def _quantized_backward(x: jax.Array, key: jax.Array, bits: jax.Array) -> jax.Array:
    return x


def _forward(x: jax.Array, key: jax.Array, bits: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x, (key, bits)


def _backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, None, None]:
    key, bits = saved
    levels = jnp.round(2.0**bits) - 1
    exact = gradient.astype(jnp.float32)
    top = jnp.max(jnp.abs(exact), axis=tuple(range(1, exact.ndim)), keepdims=True, initial=0)
    noise = jax.random.uniform(key, exact.shape, jnp.float32, -0.5, 0.5)
    number = jnp.round(levels * (exact / jnp.where(top == 0, 1, 2 * top) + 0.5) + noise)
    value = 2 * top * (jnp.clip(number, 0, levels) / levels - 0.5)
    value = jnp.where(top == 0, exact, value).astype(gradient.dtype)
    return jnp.where(bits >= 16, gradient, value), None, None


_quantized_backward.defvjp(_forward, _backward)


def quantized_backward(x: jax.Array, key: jax.Array, *, bits: jax.typing.ArrayLike) -> jax.Array:
    r"""Identity whose gradient is quantized in the backward pass (DoReFa).

    The gradient :math:`r` of one sample becomes, with :math:`L = 2^b - 1` and :math:`m = \max |r|`,

    .. math::
        2 m \left(\frac1L \mathrm{clip}\left(\mathrm{round}\left(L \left(\frac{r}{2 m} + \frac12\right) + u\right),
        0, L\right) - \frac12\right), \qquad u \sim U\left(-\tfrac12, \tfrac12\right),

    which is unbiased thanks to the noise.

    Args:
      x: ``[batch, ...]`` float, activations.
      key: random key, a new one per step.
      bits: scalar ``>= 1``; from 16 on gradients are unchanged.

    Returns:
      ``[batch, ...]``, ``x``.

    Published:
      6 bits or more with 1-bit weights and 2-bit activations.

    Examples:
      >>> x, weights = jnp.ones((1, 3)), jnp.array([[1.0, -1.0, 0.1]])
      >>> loss = lambda x: (weights * quantized_backward(x, jax.random.key(0), bits=1)).sum()
      >>> print(abs(jax.grad(loss)(x)))
      [[1. 1. 1.]]

    References:
      Zhou et al., `DoReFa-Net <https://arxiv.org/abs/1606.06160>`_, 2016, section 2.5.
    """
    x = require_float(x)
    if x.ndim == 0:
        raise ValueError("x: expected at least one axis, got a scalar")
    return _quantized_backward(x, key, jnp.asarray(bits, jnp.float32))
