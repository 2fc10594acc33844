"""Post-training quantization with calibration inputs: GPTQ, AWQ, SmoothQuant."""

import jax
import jax.numpy as jnp

from recjax.quantize._fake import fake_quant, fake_quant_with
from recjax.quantize._scale import mean_absolute, require_float

_MIN_IMPORTANCE = 1e-4  # of AWQ's input channels: one that is never active would be scaled by infinity


def _layer(kernel: jax.Array, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The weights and calibration inputs of one layer in float32, if they fit together."""
    kernel, inputs = require_float(kernel), require_float(inputs)
    if kernel.ndim != 2 or inputs.ndim != 2 or inputs.shape[1] != kernel.shape[0]:
        raise ValueError(f"expected kernel [in, out] and inputs [batch, in], got {kernel.shape} and {inputs.shape}")
    return kernel.astype(jnp.float32), inputs.astype(jnp.float32)


def gptq(
    kernel: jax.Array,
    inputs: jax.Array,
    scale: jax.Array,
    *,
    bits: jax.typing.ArrayLike,
    damping: jax.typing.ArrayLike = 0.01,
    full_range: jax.typing.ArrayLike = False,
) -> jax.Array:
    r"""GPTQ: weights rounded one input after another, each error compensated by the remaining inputs.

    With :math:`H = X^\top X + \lambda\,\overline{\mathrm{diag}}(X^\top X)\,I` and the upper triangle :math:`U` of
    :math:`H^{-1} = U^\top U`, for :math:`j = 1, 2, \dots` over the rows of :math:`W`:

    .. math::
        \hat w_j = Q_s(w_j), \qquad
        w_k \leftarrow w_k - U_{jk} \frac{w_j - \hat w_j}{U_{jj}} \quad \text{for } k > j,

    where :math:`Q_s` is :func:`fake_quant_with`. On correlated inputs :math:`\|X W - X \hat W\|^2` is mostly smaller
    than after rounding to the nearest (greedily, so not in each case). An input that is always 0 gets weights 0.

    The result is on the grid of ``scale``, so ``quantize_with(gptq(...), scale, bits=bits)`` packs it and reads back
    as the same floats.

    Args:
      kernel: ``[in, out]`` float :math:`W`, of ``outputs = inputs @ kernel``.
      inputs: ``[batch, in]`` float :math:`X`, a sample of what the layer sees.
      scale: float ``[1, out]`` (one per output) or ``[1, 1]`` or a scalar, such as :func:`absmax_scale` or
        :func:`squared_error_scale` gives. May be traced; not checked.
      bits: scalar from 1; from 16 on only dead inputs change. May be traced; not checked.
      damping: scalar :math:`\lambda`, raised to ``in * 2 ** -20``, below which float32 may find no factor of
        dependent inputs. May be traced; not checked.
      full_range: bool scalar, as in :func:`fake_quant_with`. May be traced; not checked.

    Returns:
      ``[in, out]`` float32. NaN in the kernel spreads over its output, NaN in the inputs over everything.

    Knobs:
      ``bits``, ``damping``, ``scale``, ``full_range`` (all traced). Published: damping .01, 128 samples of text, a
      scale an output from the maximum.

    Storage:
      As :func:`quantize`: ``in * ceil(out * bits / 8)`` bytes and 2 per scale.

    Raises:
      ValueError: if the shapes don't fit.
      TypeError: if an array is not float.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from recjax.quantize import absmax_scale
      >>> mix, w, x = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(8, 8), (8, 4), (50, 8)]))
      >>> x, scale = x @ mix, absmax_scale(w, bits=3, axis=1)
      >>> nearest, ours = fake_quant_with(w, scale, bits=3), gptq(w, x, scale, bits=3)
      >>> for v in (nearest, ours):
      ...     print(f"{jnp.linalg.norm(x @ w - x @ v) / jnp.linalg.norm(x @ w):.2f}")
      0.18
      0.12

    References:
      Frantar et al., `GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers
      <https://arxiv.org/abs/2210.17323>`_, 2023, section 3 and algorithm 1.
    """
    kernel, inputs = _layer(kernel, inputs)
    scale = require_float(scale)
    if scale.ndim == 0:
        scale = scale.reshape(1, 1)
    if scale.ndim != 2 or scale.shape[0] != 1 or scale.shape[1] not in (1, kernel.shape[1]):
        raise ValueError(f"scale: expected [1, {kernel.shape[1]}], [1, 1] or a scalar, got {scale.shape}")
    if kernel.size == 0:
        return kernel
    hessian = jnp.matmul(inputs.T, inputs, precision="highest")
    diagonal = jnp.diagonal(hessian)
    dead = diagonal == 0
    diagonal = jnp.where(dead, 1, diagonal)
    kernel = jnp.where(dead[:, None], 0, kernel)
    # The Gram matrix has eigenvalues up to in * mean, and float32 errors in proportion.
    damping = jnp.maximum(jnp.asarray(damping, jnp.float32), kernel.shape[0] * 2.0**-20)
    identity = jnp.eye(kernel.shape[0], dtype=jnp.float32)
    hessian = hessian + (jnp.where(dead, 1, 0) + damping * jnp.mean(diagonal))[:, None] * identity
    # H = R R^T with R upper, by a Cholesky factor from the other end, so U = R^-1 without an inverse of H.
    root = jnp.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]
    factor = jax.scipy.linalg.solve_triangular(root, identity)

    def round_one(rest: jax.Array, row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        j, onward = row
        current = rest[j]
        rounded = fake_quant_with(current[None], scale, bits=bits, full_range=full_range)[0]
        error = (current - rounded) / onward[j]
        return rest - onward[:, None] * error[None], rounded  # entries of the factor before j are zero

    _, rounded = jax.lax.scan(round_one, kernel, (jnp.arange(kernel.shape[0]), factor))
    return rounded


def activation_aware_scales(
    kernel: jax.Array, inputs: jax.Array, *, bits: jax.typing.ArrayLike, points: int = 20
) -> jax.Array:
    r"""AWQ: scales of a layer's inputs that protect the weights of the most active ones.

    With :math:`a_j` the mean of :math:`|x_j|` over the largest such mean, and :math:`Q` :func:`fake_quant` with one
    scale an output,

    .. math::
        s = \frac{a^r}{\sqrt{\max a^r \min a^r}}, \qquad
        r = \arg\min_{r \in \{0, \dots, 1\}} \left\lVert X W - X\,\mathrm{diag}(s)^{-1}
        Q(\mathrm{diag}(s)\,W) \right\rVert^2.

    Then ``(inputs / s[None]) @ (s[:, None] * kernel)`` is the layer as it was, and rounding its kernel loses less.
    :math:`r = 0` is no scaling.

    Args:
      kernel: ``[in, out]`` float, of ``outputs = inputs @ kernel``.
      inputs: ``[batch, in]`` float, a sample of what the layer sees.
      bits: scalar from 1. May be traced; not checked.
      points: how many exponents from 0 to 1 are tried. Static.

    Returns:
      ``[in]`` float32 ``> 0``, :math:`s`.

    Knobs:
      ``bits`` (traced), ``points`` (static). Published: 20 exponents.

    Storage:
      4 bytes per input where no layer before it takes the factors in.

    Raises:
      ValueError: if the shapes don't fit.
      TypeError: if an array is not float.

    Examples:
      >>> import jax.numpy as jnp
      >>> kernel, inputs = jnp.array([[1.0, 0.3], [0.4, -1.0]]), jnp.array([[9.0, 1.0], [-7.0, 1.0]])
      >>> scales = activation_aware_scales(kernel, inputs, bits=2)
      >>> print(scales, jnp.allclose((inputs / scales[None]) @ (scales[:, None] * kernel), inputs @ kernel))
      [1.8256637 0.547746 ] True

    References:
      Lin et al., `AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration
      <https://arxiv.org/abs/2306.00978>`_, 2024, section 3.2, equations 4 and 5.
    """
    kernel, inputs = _layer(kernel, inputs)
    if kernel.shape[0] == 0:
        return jnp.zeros(0, jnp.float32)
    importance = mean_absolute(inputs, (0,))[0]
    top = jnp.max(importance)
    importance = jnp.maximum(importance / jnp.where(top == 0, 1, top), _MIN_IMPORTANCE)

    def scales(exponent: jax.Array) -> jax.Array:
        power = jnp.where(jnp.isnan(importance), jnp.nan, importance**exponent)  # NaN ** 0 is 1
        return power / jnp.sqrt(jnp.max(power) * jnp.min(power))

    gram = jnp.matmul(inputs.T, inputs, precision="highest")  # |X E|^2 = sum E (X^T X E), of a size without the batch

    def error(exponent: jax.Array) -> jax.Array:
        factor = scales(exponent)[:, None]
        lost = kernel - fake_quant(kernel * factor, bits=bits, axis=1) / factor
        return jnp.sum(lost * jnp.matmul(gram, lost, precision="highest"))

    exponents = jnp.linspace(0, 1, points, dtype=jnp.float32)
    return scales(exponents[jnp.argmin(jax.vmap(error)(exponents))])


def smoothing_scales(kernel: jax.Array, inputs: jax.Array, *, strength: jax.typing.ArrayLike = 0.5) -> jax.Array:
    r"""SmoothQuant: divisors of a layer's inputs that move their outliers into the weights.

    .. math::
        s_j = \frac{(\max |x_j|)^\alpha}{(\max_k |w_{jk}|)^{1 - \alpha}}

    Then ``(inputs / s[None]) @ (s[:, None] * kernel)`` is the layer as it was, and both factors round to few bits:
    at :math:`\alpha = \frac12` each input has the same maximum on both sides.

    Args:
      kernel: ``[in, out]`` float, of ``outputs = inputs @ kernel``.
      inputs: ``[batch, in]`` float, a sample of what the layer sees.
      strength: scalar :math:`\alpha` from 0 to 1, the share of the difficulty that moves. May be traced; not checked.

    Returns:
      ``[in]`` float32 ``> 0``; 1 where an input or its weights are all 0.

    Knobs:
      ``strength`` (traced). Published: .5, more for models with more outliers.

    Storage:
      4 bytes per input where no layer before it takes the divisors in.

    Raises:
      ValueError: if the shapes don't fit.
      TypeError: if an array is not float.

    Examples:
      >>> import jax.numpy as jnp
      >>> kernel, inputs = jnp.array([[1.0, 0.5], [0.25, -1.0]]), jnp.array([[16.0, 1.0], [-9.0, 0.5]])
      >>> scales = smoothing_scales(kernel, inputs)
      >>> print(scales, abs(inputs / scales[None]).max(0), abs(scales[:, None] * kernel).max(1))
      [4. 1.] [4. 1.] [4. 1.]

    References:
      Xiao et al., `SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models
      <https://arxiv.org/abs/2211.10438>`_, 2023, equation 4.
    """
    kernel, inputs = _layer(kernel, inputs)
    active, weight = jnp.max(jnp.abs(inputs), axis=0, initial=0), jnp.max(jnp.abs(kernel), axis=1, initial=0)
    idle = (active == 0) | (weight == 0)
    active, weight = jnp.where(idle, 1, active), jnp.where(idle, 1, weight)
    strength = jnp.asarray(strength, jnp.float32)
    return active**strength / weight ** (1 - strength)
