"""Post-training quantization with calibration inputs: GPTQ, AWQ, SmoothQuant."""

import jax
import jax.numpy as jnp

from recjax.quantize._fake import fake_quant, fake_quant_with
from recjax.quantize._scale import mean_absolute, require_float

_MIN_IMPORTANCE = 1e-4  # of an input in AWQ, as a dead one would be scaled by infinity


def _layer(kernel: jax.Array, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The kernel and calibration inputs of a layer, checked, in float32."""
    kernel, inputs = require_float(kernel, "kernel"), require_float(inputs, "inputs")
    if kernel.ndim != 2 or inputs.ndim != 2 or inputs.shape[1] != kernel.shape[0]:
        raise ValueError(
            f"kernel and inputs: expected [in, out] and [batch, in], got {kernel.shape} and {inputs.shape}"
        )
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
    r"""GPTQ: weights rounded input by input, each error compensated by the remaining inputs.

    With :math:`H = X^\top X + \lambda\,\overline{\mathrm{diag}}(X^\top X)\,I` and the upper triangular :math:`U` of
    :math:`H^{-1} = U^\top U`, for :math:`j = 1, 2, \dots` over the rows of :math:`W`:

    .. math::
        \hat w_j = Q_s(w_j), \qquad
        w_k \leftarrow w_k - U_{jk} \frac{w_j - \hat w_j}{U_{jj}} \quad \text{for } k > j,

    where :math:`Q_s` is :func:`fake_quant_with`. On correlated inputs :math:`\|X W - X \hat W\|^2` is usually smaller
    than after rounding to nearest. An input that is always 0 gets weights 0. ``quantize_with(gptq(...), scale,
    bits=bits)`` packs the result without further error.

    Args:
      kernel: ``[in, out]`` float :math:`W`, of ``outputs = inputs @ kernel``.
      inputs: ``[batch, in]`` float :math:`X`, a sample of the layer's inputs.
      scale: ``[1, out]`` float (one per output), ``[1, 1]`` or a scalar, from :func:`absmax_scale` or
        :func:`squared_error_scale`.
      bits: scalar ``>= 1``; from 16 on only weights of dead inputs change.
      damping: scalar :math:`\lambda`, raised to at least ``in * 2 ** -20`` so that float32 can factorize :math:`H`.
      full_range: as in :func:`fake_quant_with`.

    Returns:
      ``[in, out]`` float32. A NaN in the kernel makes its output NaN, a NaN in the inputs everything.

    Published:
      Damping .01, 128 samples of text, one scale per output from the maximum.

    Storage:
      As :func:`quantize`: ``in * ceil(out * bits / 8)`` bytes and 2 per scale.

    Examples:
      >>> from recjax.quantize import absmax_scale
      >>> mix, w, x = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(8, 8), (8, 4), (50, 8)]))
      >>> x, scale = x @ mix, absmax_scale(w, bits=3, axis=1)
      >>> for v in (fake_quant_with(w, scale, bits=3), gptq(w, x, scale, bits=3)):
      ...     print(f"{jnp.linalg.norm(x @ w - x @ v) / jnp.linalg.norm(x @ w):.2f}")
      0.18
      0.12

    References:
      Frantar et al., `GPTQ <https://arxiv.org/abs/2210.17323>`_, 2023, section 3 and algorithm 1.
    """
    kernel, inputs = _layer(kernel, inputs)
    scale = require_float(scale, "scale")
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
    # Rounding errors of the Gram matrix are in proportion to its eigenvalues, which are at most in * mean.
    damping = jnp.maximum(jnp.asarray(damping, jnp.float32), kernel.shape[0] * 2.0**-20)
    identity = jnp.eye(kernel.shape[0], dtype=jnp.float32)
    hessian = hessian + (jnp.where(dead, 1, 0) + damping * jnp.mean(diagonal))[:, None] * identity
    # H = R R^T with R upper triangular, by a Cholesky factorization in reverse order; then U = R^-1.
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
    r"""AWQ: scales of a layer's inputs that protect the weights of the most active inputs.

    With :math:`a_j` the mean of :math:`|x_j|`, divided by the largest such mean, and :math:`Q` :func:`fake_quant` with
    one scale per output,

    .. math::
        s = \frac{a^r}{\sqrt{\max a^r \min a^r}}, \qquad
        r = \arg\min_{r \in \{0, \dots, 1\}} \left\lVert X W - X\,\mathrm{diag}(s)^{-1}
        Q(\mathrm{diag}(s)\,W) \right\rVert^2.

    ``(inputs / s[None]) @ (s[:, None] * kernel)`` is the same layer, and quantizing its kernel loses less.

    Args:
      kernel: ``[in, out]`` float, of ``outputs = inputs @ kernel``.
      inputs: ``[batch, in]`` float, a sample of the layer's inputs.
      bits: scalar ``>= 1``.
      points: number of exponents :math:`r` from 0 (no scaling) to 1. Static.

    Returns:
      ``[in]`` float32 ``> 0``, :math:`s`.

    Published:
      20 exponents.

    Storage:
      4 bytes per input, unless the scales are folded into the layer before.

    Examples:
      >>> kernel, inputs = jnp.array([[1.0, 0.3], [0.4, -1.0]]), jnp.array([[9.0, 1.0], [-7.0, 1.0]])
      >>> print(activation_aware_scales(kernel, inputs, bits=2))
      [1.8256637 0.547746 ]

    References:
      Lin et al., `AWQ <https://arxiv.org/abs/2306.00978>`_, 2024, section 3.2, equations 4 and 5.
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

    gram = jnp.matmul(inputs.T, inputs, precision="highest")  # |X E|^2 = sum E (X^T X E)

    def error(exponent: jax.Array) -> jax.Array:
        factor = scales(exponent)[:, None]
        lost = kernel - fake_quant(kernel * factor, bits=bits, axis=1) / factor
        return jnp.sum(lost * jnp.matmul(gram, lost, precision="highest"))

    exponents = jnp.linspace(0, 1, points, dtype=jnp.float32)
    return scales(exponents[jnp.argmin(jax.vmap(error)(exponents))])


def smoothing_scales(kernel: jax.Array, inputs: jax.Array, *, strength: jax.typing.ArrayLike = 0.5) -> jax.Array:
    r"""SmoothQuant: scales of a layer's inputs that move their outliers into the weights.

    .. math::
        s_j = \frac{(\max |x_j|)^\alpha}{(\max_k |w_{jk}|)^{1 - \alpha}}

    ``(inputs / s[None]) @ (s[:, None] * kernel)`` is the same layer, and both factors quantize well: at :math:`\alpha =
    \frac12` each input has the same maximum on both sides.

    Args:
      kernel: ``[in, out]`` float, of ``outputs = inputs @ kernel``.
      inputs: ``[batch, in]`` float, a sample of the layer's inputs.
      strength: scalar :math:`\alpha` from 0 to 1.

    Returns:
      ``[in]`` float32 ``> 0``; 1 where an input or its weights are all 0.

    Published:
      Strength .5, more for models with more outliers.

    Storage:
      4 bytes per input, unless the scales are folded into the layer before.

    Examples:
      >>> kernel, inputs = jnp.array([[1.0, 0.5], [0.25, -1.0]]), jnp.array([[16.0, 1.0], [-9.0, 0.5]])
      >>> print(smoothing_scales(kernel, inputs))
      [4. 1.]

    References:
      Xiao et al., `SmoothQuant <https://arxiv.org/abs/2211.10438>`_, 2023, equation 4.
    """
    kernel, inputs = _layer(kernel, inputs)
    active, weight = jnp.max(jnp.abs(inputs), axis=0, initial=0), jnp.max(jnp.abs(kernel), axis=1, initial=0)
    idle = (active == 0) | (weight == 0)
    active, weight = jnp.where(idle, 1, active), jnp.where(idle, 1, weight)
    strength = jnp.asarray(strength, jnp.float32)
    return active**strength / weight ** (1 - strength)
