"""Quantization by proximal steps (PARQ), and training of an integer table (ALPT)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from recjax.quantize._fake import round_to_integers, stored_scale
from recjax.quantize._learned import usable_step
from recjax.quantize._scale import mean_absolute, require_float


def proximal_sharpness(
    step: jax.typing.ArrayLike,
    *,
    begin: jax.typing.ArrayLike,
    end: jax.typing.ArrayLike,
    steepness: jax.typing.ArrayLike = 10.0,
) -> jax.Array:
    r"""Schedule of the sharpness of :func:`proximal_map`: from 1 (identity) to 0 (rounding).

    With :math:`f = \mathrm{clip}((t - t_0) / (t_1 - t_0), 0, 1)` and :math:`\sigma(f) = 1 / (1 + \exp(\kappa (f -
    \frac12)))`,

    .. math::
        \rho_t = \frac{\sigma(f) - \sigma(1)}{\sigma(0) - \sigma(1)}.

    Args:
      step: scalar :math:`t`.
      begin: scalar :math:`t_0`.
      end: scalar :math:`t_1 > t_0`.
      steepness: scalar :math:`\kappa > 0`.

    Returns:
      float32 scalar.

    Published:
      Steepness 10.

    Examples:
      >>> [round(float(proximal_sharpness(t, begin=10, end=20)), 3) for t in (0, 12, 15, 20)]
      [1.0, 0.959, 0.5, 0.0]

    References:
      Jin et al., `PARQ: Piecewise-Affine Regularized Quantization <https://arxiv.org/abs/2503.15748>`_, 2025.
    """
    step, begin, end, steepness = (jnp.asarray(a, jnp.float32) for a in (step, begin, end, steepness))
    fraction = jnp.clip((step - begin) / (end - begin), 0, 1)
    now, first, last = (jax.nn.sigmoid(steepness * (0.5 - f)) for f in (fraction, 0.0, 1.0))
    return jnp.where(fraction >= 1, 0, (now - last) / (first - last))


def proximal_map(x: jax.Array, levels: jax.Array, sharpness: jax.typing.ArrayLike) -> jax.Array:
    r"""PARQ proximal map: weights pulled towards the levels of a quantizer.

    Between neighboring levels :math:`q_k \le x \le q_{k+1}` with midpoint :math:`c`,

    .. math::
        y = \mathrm{clip}\left(c + \frac{x - c}{\rho}, q_k, q_{k+1}\right),

    and outside the nearest level. :math:`\rho = 1` is the identity between the levels, :math:`\rho = 0` rounds to the
    nearest level, ties down. The optimizer updates the latent weights ``x``, and the loss is evaluated at :math:`y`.

    Args:
      x: ``[...]`` float, latent weights.
      levels: ``[levels]`` float, ascending, two or more, such as :func:`least_squares_levels`.
      sharpness: scalar :math:`\rho` from 1 to 0, such as :func:`proximal_sharpness`.

    Returns:
      ``[...]``, shape and dtype of ``x``. NaN stays NaN. Gradients are those of the formula.

    Storage:
      At :math:`\rho = 0`, ``ceil(log2(levels))`` bits per entry, and the levels.

    Examples:
      >>> x, levels = jnp.array([-2.0, 0.125, 0.625, 0.875]), jnp.array([-1.0, 0.0, 1.0])
      >>> print(jax.vmap(lambda rho: proximal_map(x, levels, rho))(jnp.array([1.0, 0.5, 0.0])))
      [[-1.     0.125  0.625  0.875]
       [-1.     0.     0.75   1.   ]
       [-1.     0.     1.     1.   ]]

    References:
      Jin et al., `PARQ: Piecewise-Affine Regularized Quantization <https://arxiv.org/abs/2503.15748>`_, 2025.
    """
    x, levels = require_float(x), jnp.asarray(levels)
    if levels.ndim != 1 or levels.size < 2:
        raise ValueError(f"levels: expected [levels] with two or more, got {levels.shape}")
    levels, rho = levels.astype(x.dtype), jnp.asarray(sharpness, x.dtype)
    below = jnp.searchsorted(levels[1:-1], x, side="right")
    low, high = levels[below], levels[below + 1]
    middle = (low + high) / 2
    between = jnp.clip(middle + (x - middle) / jnp.where(rho == 0, 1, rho), low, high)
    hard = jnp.where(x > middle, high, low)
    return jnp.where(jnp.isnan(x), x, jnp.where(rho == 0, hard, between))


def least_squares_levels(x: jax.Array, *, bits: int) -> jax.Array:
    r"""LSBQ: quantization levels as sums of :math:`b` signed values, fitted greedily by least squares.

    .. math::
        r_0 = x, \qquad v_i = \frac1n \sum |r_{i-1}|, \qquad r_i = r_{i-1} - v_i\,\mathrm{sign}(r_{i-1}), \qquad
        \text{levels } \left\{\sum_i \pm v_i\right\}.

    Args:
      x: ``[...]`` float.
      bits: integer ``>= 1``. Static.

    Returns:
      ``[2 ** bits]`` float32, ascending. No gradient flows.

    Storage:
      ``bits`` bits per entry, and ``2 * bits`` bytes for the :math:`v_i`.

    Examples:
      >>> print(least_squares_levels(jnp.array([0.5, -1.5, 1.0, -1.0]), bits=2))
      [-1.25 -0.75  0.75  1.25]

    References:
      Pouransari et al., `Least squares binary quantization <https://arxiv.org/abs/2001.02786>`_, 2020.
    """
    rest = jax.lax.stop_gradient(require_float(x)).astype(jnp.float32)
    if bits < 1:
        raise ValueError(f"bits: expected 1 or more, got {bits}")
    sums = jnp.zeros(1, jnp.float32)
    for _ in range(bits):
        value = mean_absolute(rest, tuple(range(rest.ndim))).reshape(())
        rest = rest - jnp.where(rest < 0, -value, value)
        sums = jnp.concatenate([sums - value, sums + value])
    return jnp.sort(sums)


class LowPrecision(NamedTuple):
    """Table trained as integers and steps, without a float copy (ALPT).

    Packed as ``quantize_with(low_precision_values(table), usable_step(table.step), bits=bits, full_range=True)``.

    Attributes:
      codes: ``[rows, dim]`` int8.
      step: ``[rows, 1]`` or ``[1, 1]`` float32, learned.
    """

    codes: jax.Array
    step: jax.Array


def low_precision_values(table: LowPrecision) -> jax.Array:
    r"""Values :math:`s\,q` of a low-precision table, at which the loss is differentiated.

    Args:
      table: a :class:`LowPrecision`.

    Returns:
      ``[rows, dim]`` float32.

    Examples:
      >>> print(low_precision_values(LowPrecision(jnp.array([[2, -3]], jnp.int8), jnp.array([[0.5]]))))
      [[ 1.  -1.5]]

    References:
      Li et al., `Adaptive Low-Precision Training <https://arxiv.org/abs/2212.05735>`_, 2023.
    """
    return table.codes.astype(jnp.float32) * usable_step(table.step)


def low_precision_round(
    values: jax.Array, step: jax.Array, *, bits: jax.typing.ArrayLike, key: jax.Array
) -> LowPrecision:
    r"""ALPT: updated values rounded stochastically to integers.

    .. math::
        q = \mathrm{clip}\left(\left\lfloor \frac ws + u \right\rfloor, Q_n, Q_p\right), \qquad u \sim U[0, 1)

    A training step: (A) any optimizer updates the floats :func:`low_precision_values`; (B) with the new floats, the
    gradient of the loss through :func:`learned_step` updates the steps; (C) this function. The two forward and backward
    passes take about twice the time of one.

    Args:
      values: ``[rows, dim]`` float, after (A).
      step: ``[rows, 1]`` or ``[1, 1]`` float, after (B); used as :func:`usable_step`.
      bits: scalar from 2 to 8.
      key: random key, a new one per step.

    Returns:
      :class:`LowPrecision`. No gradient flows. NaN becomes 0.

    Published:
      8 bits; steps from .01 with a learning rate of 2e-5 (or 1e-6) and a gradient scale of ``1 / sqrt(batch * dim * (2
      ** (bits - 1) - 1))``; Adam at 1e-3 for the floats.

    Storage:
      In training ``rows * dim`` bytes and 4 per step; packed ``rows * ceil(dim * bits / 8)`` and 2 per step.

    Examples:
      >>> table = low_precision_round(jnp.full((1, 1000), 0.6), jnp.array([[0.5]]), bits=8, key=jax.random.key(0))
      >>> print(jnp.unique(table.codes), f"{low_precision_values(table).mean():.1f}")
      [1 2] 0.6

    References:
      Li et al., `Adaptive Low-Precision Training <https://arxiv.org/abs/2212.05735>`_, 2023.
    """
    values, step = require_float(values, "values"), require_float(step, "step")
    stored = stored_scale(values.shape, usable_step(step), None)
    exact = jax.lax.stop_gradient(values).astype(jnp.float32)
    codes, _ = round_to_integers(exact, stored, bits=bits, full_range=True, key=key)
    return LowPrecision(codes.astype(jnp.int8), step)
