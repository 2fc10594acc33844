"""Calibration: running statistics, and searches for the best clipping range."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax.quantize._asymmetric import fake_quant_rows, minmax
from recjax.quantize._fake import fake_quant_with
from recjax.quantize._scale import absmax, absmax_scale, integer_range, require_float, round_float16, shared_axes


class RunningMean(NamedTuple):
    """Mean of a statistic over the batches so far.

    Attributes:
      total: sum over batches, a tree of arrays.
      count: number of batches, a scalar.
    """

    total: jax.typing.ArrayLike
    count: jax.typing.ArrayLike

    @property
    def mean(self) -> jax.Array:
        """The mean; NaN before the first batch."""
        return jax.tree.map(lambda total: total / self.count, self.total)


def running_mean(state: RunningMean | None, statistic: jax.typing.ArrayLike) -> RunningMean:
    r"""Running mean of a statistic over batches, for static ranges of activations.

    .. math::
        m_t = \frac1t \sum_{i \le t} x_i

    A plain mean, not an exponential one: the order of the batches doesn't matter.

    Args:
      state: the previous state; None at the first batch.
      statistic: array or tree of arrays of this batch, such as the result of :func:`minmax` or :func:`absmax_scale`.

    Returns:
      The new :class:`RunningMean`.

    Examples:
      >>> state = None
      >>> for batch in (jnp.array([[1.0, -2.0]]), jnp.array([[5.0, 0.0]])):
      ...     state = running_mean(state, minmax(batch))
      >>> low, high = state.mean
      >>> print(low, high)
      [[-1.]] [[3.]]

    References:
      Jacob et al., `Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference
      <https://arxiv.org/abs/1712.05877>`_, 2018, section 3.1 (with an exponential mean).
    """
    if state is None:
        return RunningMean(jax.tree.map(jnp.asarray, statistic), jnp.ones((), jnp.float32))
    return RunningMean(jax.tree.map(jnp.add, state.total, statistic), state.count + 1)


def clip_scale(
    clip: jax.typing.ArrayLike, *, bits: jax.typing.ArrayLike, full_range: jax.typing.ArrayLike = False
) -> jax.Array:
    r"""Scale whose largest quantized value is a given clipping value.

    .. math::
        s = \mathrm{float16}\left(\frac{c}{2^{b-1} - 1}\right)

    The divisor is :math:`2^{b-1} - \frac12` with ``full_range`` (see :func:`absmax_scale`), and 1 at 1 bit.

    Args:
      clip: ``[...]`` float ``>= 0``, the largest absolute value that is not clipped.
      bits: scalar ``>= 1``.
      full_range: bool scalar.

    Returns:
      ``[...]`` float32, exactly representable in float16.

    Examples:
      >>> print(clip_scale(3.5, bits=4))
      0.5

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks <https://arxiv.org/abs/1806.08342>`_, 2018, section 2.2.
    """
    binary, _, _, bound = integer_range(bits, full_range)
    return round_float16(jnp.asarray(clip, jnp.float32) / jnp.where(binary, 1, bound))


def percentile_scale(
    x: jax.Array,
    *,
    bits: jax.typing.ArrayLike,
    share: jax.typing.ArrayLike = 0.999,
    axis: int | Sequence[int] | None = None,
    full_range: jax.typing.ArrayLike = False,
) -> jax.Array:
    r"""Scale that clips at a percentile of the absolute values, so that outliers don't coarsen the grid.

    .. math::
        s = \mathrm{clip\_scale}(c), \qquad c = \mathrm{quantile}_\text{share}(|x|)

    Args:
      x: ``[...]`` float.
      bits: scalar ``>= 1``.
      share: scalar from 0 to 1, interpolated linearly between entries; 1 is the maximum.
      axis: axes along which scales differ. None for one scale. Static.
      full_range: bool scalar, as in :func:`absmax_scale`.

    Returns:
      float32, as :func:`absmax_scale`.

    Published:
      Shares of .999 to .99999 for activations.

    Examples:
      >>> print(percentile_scale(jnp.array([0.0, -1.0, 2.0, 7.0, 100.0]), bits=4, share=0.75))
      [1.]

    References:
      Wu et al., `Integer Quantization for Deep Learning Inference <https://arxiv.org/abs/2004.09602>`_, 2020, section
      3.2.
    """
    x = jax.lax.stop_gradient(require_float(x)).astype(jnp.float32)
    shared = shared_axes(x.shape, axis)
    if x.size == 0:  # an error in jnp.quantile
        return jnp.zeros([1 if a in shared else n for a, n in enumerate(x.shape)], jnp.float32)
    clip = jnp.quantile(jnp.abs(x), jnp.asarray(share, jnp.float32), axis=shared, keepdims=True)
    return clip_scale(clip, bits=bits, full_range=full_range)


def signal_to_noise(x: jax.Array, value: jax.Array, *, axis: int | Sequence[int] | None = None) -> jax.Array:
    r"""Signal-to-noise ratio of a quantized array, in nats.

    .. math::
        r = \log\left(1 + \frac{\sum x^2}{\sum (x - y)^2}\right)

    Args:
      x: ``[...]`` float.
      value: ``[...]`` float :math:`y`, ``x`` after quantization.
      axis: axes along which ratios differ. None for one ratio. Static.

    Returns:
      float32 of the rank of ``x`` with size 1 on the other axes; infinite without noise, 0 for all-zero ``x``.

    Examples:
      >>> print(signal_to_noise(jnp.array([1.0, 1.5]), jnp.array([1.0, 1.0])))
      [2.6390574]

    References:
      Lin et al., `Fixed Point Quantization of Deep Convolutional Networks <https://arxiv.org/abs/1511.06393>`_, 2016,
      section 3.
    """
    x, value = require_float(x).astype(jnp.float32), jnp.asarray(value, jnp.float32)
    if x.shape != value.shape:
        raise ValueError(f"value: expected shape {x.shape} of x, got {value.shape}")
    shared = shared_axes(x.shape, axis)
    signal, noise = (jnp.sum(jnp.square(part), axis=shared, keepdims=True) for part in (x, x - value))
    return jnp.log1p(signal / jnp.where(signal == 0, 1, noise))


def squared_error_scale(
    x: jax.Array,
    *,
    bits: jax.typing.ArrayLike,
    axis: int | Sequence[int] | None = None,
    factors: jax.Array | None = None,
    full_range: jax.typing.ArrayLike = False,
) -> jax.Array:
    r"""Scale of least squared error, which is also that of the best :func:`signal_to_noise`.

    With :math:`s_0` of :func:`absmax_scale` and :math:`Q_s` of :func:`fake_quant_with`,

    .. math::
        s = \mathrm{float16}(f\,s_0), \qquad f = \arg\min_{f \in F} \sum \left(x - Q_{f s_0}(x)\right)^2.

    Args:
      x: ``[...]`` float.
      bits: scalar ``>= 1``.
      axis: axes along which scales differ. None for one scale. Static.
      factors: ``[factors]`` float :math:`F`; the first wins ties. None for 1, 63/64, ..., 1/64.
      full_range: bool scalar, as in :func:`absmax_scale`.

    Returns:
      float32, as :func:`absmax_scale`.

    Examples:
      >>> x = jnp.array([1.0] * 20 + [1.5])
      >>> print(absmax_scale(x, bits=2), squared_error_scale(x, bits=2))
      [1.5] [1.03125]

    References:
      Sung et al., `Resiliency of Deep Neural Networks under Quantization <https://arxiv.org/abs/1511.06488>`_, 2015.
    """
    x = jax.lax.stop_gradient(require_float(x)).astype(jnp.float32)
    shared = shared_axes(x.shape, axis)
    top = absmax_scale(x, bits=bits, axis=axis, full_range=full_range)
    tried = jnp.arange(64, 0, -1, dtype=jnp.float32) / 64 if factors is None else jnp.asarray(factors, jnp.float32)

    def error(factor: jax.Array) -> jax.Array:
        value = fake_quant_with(x, factor * top, bits=bits, full_range=full_range)
        return jnp.sum(jnp.square(x - value), axis=shared, keepdims=True)

    return round_float16(tried[jnp.argmin(jax.vmap(error)(tried), axis=0)] * top)


def entropy_scale(
    x: jax.Array,
    *,
    bits: jax.typing.ArrayLike,
    bins: int = 2048,
    cuts: int = 128,
    full_range: jax.typing.ArrayLike = False,
) -> jax.Array:
    r"""Scale of least KL divergence between the histograms of absolute values before and after quantization (TensorRT).

    For each of ``cuts`` clips, evenly spaced from 1/16 of the maximum to the maximum, :math:`P` is the histogram up to
    the clip with the tail added to its last bin, and :math:`Q` is the histogram without the tail, merged into
    :math:`2^{b-1}` levels, each spread evenly over its bins that are non-empty in :math:`P`. The clip that minimizes

    .. math::
        \mathrm{KL}(P, Q) = \sum_i P_i \log \frac{P_i}{Q_i}

    gives the scale (:func:`clip_scale`), the smallest among ties. For activations.

    Args:
      x: ``[...]`` float.
      bits: scalar ``>= 2``.
      bins: number of bins of the histogram. Static.
      cuts: number of clips, from 1 to ``bins``. Static.
      full_range: bool scalar, as in :func:`absmax_scale`.

    Returns:
      float32, one scale in the rank of ``x``; NaN if any entry is.

    Published:
      2048 bins, all clips from 128 on (``cuts=1921``).

    Examples:
      >>> x = jnp.append(jax.random.normal(jax.random.key(0), 10_000), 50.0)  # one outlier
      >>> print(absmax_scale(x, bits=4).round(2), entropy_scale(x, bits=4).round(2))
      [7.14] [0.45]

    References:
      Migacz, `8-bit Inference with TensorRT <https://www.cse.iitd.ac.in/~rijurekha/course/tensorrt.pdf>`_, GTC 2017; Wu
      et al., `Integer Quantization for Deep Learning Inference <https://arxiv.org/abs/2004.09602>`_, 2020, section 3.2.
    """
    if not 1 <= cuts <= bins:
        raise ValueError(f"cuts: expected from 1 to bins = {bins}, got {cuts}")
    x = jax.lax.stop_gradient(require_float(x)).astype(jnp.float32)
    magnitude = jnp.abs(x)
    top = absmax(magnitude, tuple(range(x.ndim)))
    bin_index = jnp.floor(magnitude / jnp.where(top == 0, 1, top) * bins)
    bin_index = jnp.clip(jnp.nan_to_num(bin_index), 0, bins - 1).astype(jnp.int32)
    counts = jnp.zeros(bins, jnp.float32).at[bin_index.ravel()].add(1)
    counts = counts.at[0].set(counts[min(1, bins - 1)])  # else the zeros after a ReLU dominate
    bin_number = jnp.arange(bins)
    levels = jnp.round(2.0 ** (jnp.asarray(bits, jnp.float32) - 1))

    def divergence(cut: jax.Array) -> jax.Array:
        kept = jnp.where(bin_number < cut, counts, 0)
        p = kept + jnp.where(bin_number == cut - 1, jnp.sum(counts) - jnp.sum(kept), 0)
        merged = jnp.floor(bin_number * levels / cut).astype(jnp.int32)
        level = jnp.where(cut > levels, jnp.minimum(merged, bins - 1), bin_number)
        filled = (p > 0).astype(jnp.float32)
        total, share = (jnp.zeros(bins, jnp.float32).at[level].add(part) for part in (kept, filled))
        q = filled * (total / jnp.maximum(share, 1))[level]
        p, q = p / jnp.sum(p), q / jnp.sum(q)
        return jnp.sum(jnp.where(p > 0, p * (jnp.log(jnp.where(p > 0, p, 1)) - jnp.log(q)), 0))

    tried = jnp.asarray(np.ceil(np.linspace(bins, bins / 16, cuts))[::-1].astype(np.int32))
    values = jax.vmap(divergence)(tried)
    best = tried[jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values))]  # NaN if no entry is below the clip
    return clip_scale(best / bins * top, bits=bits, full_range=full_range)


def greedy_clip_range(
    x: jax.Array, *, bits: jax.typing.ArrayLike, bins: int = 200, narrowest: float = 0.5
) -> tuple[jax.Array, jax.Array]:
    r"""Greedy search for the clipping range of least squared error per row.

    .. math::
        (l, h) = \arg\min_{(l, h) \text{ visited}} \sum_j \left(x_j - Q_{l, h}(x_j)\right)^2

    Starting from the minimum and maximum, each step moves one end inward by :math:`(h - l) / \text{bins}`: the one that
    leaves the smaller squared error of :func:`fake_quant_rows`. Pass the result to :func:`fake_quant_rows` and
    :func:`quantize_rows`.

    Args:
      x: ``[..., n]`` float, rows.
      bits: scalar ``>= 1``.
      bins: number of steps that would close the range. Static.
      narrowest: share of the initial range at which the search stops. Static.

    Returns:
      ``(low, high)``, ``[..., 1]`` float32; NaN for a row with a NaN.

    Published:
      200 bins down to .84 of the range at 4 bits (``narrowest=.84``), and 1000 down to .5 without a limit on time.
      Below .5 nothing is gained on Gaussian rows.

    Storage:
      As :func:`quantize_rows`: ``rows * (ceil(n * bits / 8) + 4)`` bytes for ``rows`` rows of ``n`` entries.

    Examples:
      >>> x = jnp.array([[0.0, 0.1, 0.9, 1.0, 1.0, 1.6]])
      >>> for low, high in (minmax(x, axis=0), greedy_clip_range(x, bits=1)):
      ...     error = jnp.sum((x - fake_quant_rows(x, bits=1, low=low, high=high)) ** 2)
      ...     print(f"{low.item():.2f} {high.item():.2f} {error:.2f}")
      0.00 1.60 1.22
      0.05 1.13 0.31

    References:
      Guan et al., `Post-Training 4-bit Quantization on Embedding Tables <https://arxiv.org/abs/1911.02079>`_, 2019,
      section 4, algorithm 1.
    """
    x = jax.lax.stop_gradient(require_float(x)).astype(jnp.float32)
    if x.ndim == 0:
        raise ValueError("x: expected at least one axis, got a scalar")
    low, high = minmax(x, axis=tuple(range(x.ndim - 1)))
    width = (high - low) / bins

    def error(moved: tuple[jax.Array, jax.Array]) -> jax.Array:
        value = fake_quant_rows(x, bits=bits, low=low + moved[0] * width, high=high - moved[1] * width)
        return jnp.sum(jnp.square(x - value), axis=-1, keepdims=True)

    def shrink(carry: tuple, _: None) -> tuple[tuple, None]:
        (up, down), best, least = carry
        left, right = error((up + 1, down)), error((up, down + 1))
        first = left < right
        moved = jnp.where(first, up + 1, up), jnp.where(first, down, down + 1)
        now = jnp.minimum(left, right)
        best = tuple(jnp.where(now < least, new, old) for new, old in zip(moved, best, strict=True))
        return (moved, best, jnp.minimum(now, least)), None

    start = jnp.zeros_like(low), jnp.zeros_like(low)
    (_, (up, down), _), _ = jax.lax.scan(shrink, (start, start, error(start)), length=round(bins * (1 - narrowest)))
    return low + up * width, high - down * width
