"""Quantization-aware training of kernels, and learned quantization steps (LSQ) of kernels and tables."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from recjax import embed, quantize
from recjax.compress._chain import HparamFn, Params, Transform, no_state, stateless
from recjax.compress._paths import path_keys, with_tables
from recjax.trees import read, write


def _with_kernels(params: Params, change: Callable[[str, jax.Array], jax.Array], paths: Sequence[str]) -> Params:
    for path in paths:
        keys = path_keys(path)
        params = write(params, keys, change(path, read(params, keys)))
    return params


def kernel_quantization(kernels: Sequence[str], *, bits: HparamFn) -> Transform:
    r"""Quantization-aware training of kernels, with one scale per output channel.

    .. math::
        y_{\cdot o} = s_o\,\mathrm{clip}\left(\mathrm{round}\left(\frac{w_{\cdot o}}{s_o}\right), -L, L\right),
        \qquad s_o = \mathrm{float16}\left(\frac{\max_i |w_{io}|}{L}\right)

    Zeros stay zero and don't affect the scale, also at 1 bit. Packed with ``quantize(kernel, bits=bits, axis=-1,
    where=kernel != 0)`` and, at 1 bit, ``prune.sparsify(packed, kernel != 0)``, a kernel reads back as in training, bit
    for bit.

    Args:
      kernels: paths in the parameters, such as ``"net/hidden_0/kernel"``; the last axis is the outputs.
      bits: ``bits(hparams)``, a scalar; from 16 on kernels are unchanged.

    Returns:
      :class:`Transform` without learned parameters and state.

    Published:
      8 bits.

    Storage:
      As :func:`recjax.quantize.quantize` with ``axis=-1``: ``in * ceil(out * bits / 8)`` bytes and 2 per output.

    Examples:
      >>> params = {"net": {"output": {"kernel": jnp.array([[0.75, -4.0], [0.25, 1.0]])}}}
      >>> quantization = kernel_quantization(["net/output/kernel"], bits=lambda hparams: 2.0)
      >>> print(quantization.apply(params, (), (), {})["net"]["output"]["kernel"])
      [[ 0.75 -4.  ]
       [ 0.    0.  ]]

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks <https://arxiv.org/abs/1806.08342>`_, 2018, sections 2.4
      and 3.
    """

    def apply(params: Params, learned: tuple, state: tuple, hparams: Any) -> Params:
        bit_width = bits(hparams)

        def rounded(path: str, kernel: jax.Array) -> jax.Array:
            return quantize.fake_quant(kernel, bits=bit_width, axis=-1, where=kernel != 0)

        return _with_kernels(params, rounded, kernels)

    return stateless(apply)


def kernel_learned_steps(kernels: Sequence[str], *, bits: HparamFn) -> Transform:
    r"""LSQ of kernels: quantization-aware training with a learned step per output channel.

    .. math::
        y_{\cdot o} = s_o\,\mathrm{round}\left(\mathrm{clip}\left(\frac{w_{\cdot o}}{s_o}, Q_n, Q_p\right)\right),
        \qquad s_o \text{ learned}

    Zeros stay zero, as in :func:`kernel_quantization`. Packed with ``quantize_with(kernel, usable_step(step),
    bits=bits, full_range=True)`` and, at 1 bit or if pruned, ``prune.sparsify(packed, kernel != 0)``, a kernel reads
    back as in training, bit for bit.

    Args:
      kernels: as in :func:`kernel_quantization`.
      bits: as in :func:`kernel_quantization`.

    Returns:
      :class:`Transform` that learns the steps, ``{path: [1, ..., outputs]}``, from
      :func:`recjax.quantize.initial_step`.

    Published:
      One step per layer, 2 to 4 bits.

    Storage:
      As :func:`recjax.quantize.quantize` with ``axis=-1``: ``in * ceil(out * bits / 8)`` bytes and 2 per output.

    Examples:
      >>> params = {"net": {"output": {"kernel": jnp.array([[0.75, -4.0], [0.25, 1.0]])}}}
      >>> lsq = kernel_learned_steps(["net/output/kernel"], bits=lambda hparams: 2.0)
      >>> learned, state = lsq.init(jax.random.key(0), params, {})
      >>> print(learned["net/output/kernel"], lsq.apply(params, learned, state, {})["net"]["output"]["kernel"])
      [[1. 5.]] [[ 1. -5.]
       [ 0.  0.]]

    References:
      Esser et al., `Learned Step Size Quantization <https://arxiv.org/abs/1902.08153>`_, 2020, section 2.
    """

    def init(key: jax.Array, params: Params, hparams: Any) -> tuple[dict[str, jax.Array], tuple]:
        arrays = {path: read(params, path_keys(path)) for path in kernels}
        return {path: quantize.initial_step(kernel, bits=bits(hparams), axis=-1) for path, kernel in arrays.items()}, ()

    def apply(params: Params, learned: dict[str, jax.Array], state: tuple, hparams: Any) -> Params:
        bit_width = bits(hparams)

        def rounded(path: str, kernel: jax.Array) -> jax.Array:
            return quantize.learned_step(kernel, learned[path], bits=bit_width, where=kernel != 0)

        return _with_kernels(params, rounded, kernels)

    return Transform(init, apply, no_state)


def learned_steps(tables: Sequence[str], *, bits: HparamFn, each_row: bool = False) -> Transform:
    r"""LSQ of tables: quantization-aware training with learned steps.

    .. math::
        y_i = s_i\,\mathrm{round}\left(\mathrm{clip}\left(\frac{E_i}{s_i}, Q_n, Q_p\right)\right), \qquad s_i \text{
        learned}

    Packed with ``quantize_with(table, usable_step(step), bits=bits, full_range=True)`` and, at 1 bit or if pruned,
    ``prune.sparsify(packed, table != 0)``, a table reads back as in training, bit for bit.

    Args:
      tables: names in ``params["tables"]``.
      bits: ``bits(hparams)``, a scalar; from 16 on tables are unchanged.
      each_row: whether each row has its own step.

    Returns:
      :class:`Transform` that learns the steps, ``{table: [1 or rows, 1]}``, from :func:`recjax.quantize.initial_step`.

    Storage:
      ``rows * ceil(dim * bits / 8)`` bytes, and 2 per step.

    Examples:
      >>> params = {"tables": {"item": jnp.array([[0.75, -4.0], [0.25, 1.0]])}}
      >>> lsq = learned_steps(["item"], bits=lambda hparams: 2.0)
      >>> learned, state = lsq.init(jax.random.key(0), params, {})
      >>> print(learned["item"], embed.lookup(lsq.apply(params, learned, state, {})["tables"]["item"]))
      [[3.]] [[ 0. -3.]
       [ 0.  0.]]

    References:
      Esser et al., `Learned Step Size Quantization <https://arxiv.org/abs/1902.08153>`_, 2020, section 2.
    """

    def init(key: jax.Array, params: Params, hparams: Any) -> tuple[dict[str, jax.Array], tuple]:
        bit_width, axis = bits(hparams), 0 if each_row else None
        arrays = {name: embed.lookup(params["tables"][name]) for name in tables}
        return {name: quantize.initial_step(table, bits=bit_width, axis=axis) for name, table in arrays.items()}, ()

    def apply(params: Params, learned: dict[str, jax.Array], state: tuple, hparams: Any) -> Params:
        bit_width, below = jnp.asarray(bits(hparams), jnp.float32), params["tables"]
        records = {name: embed.LearnedStep(below[name], learned[name], bit_width) for name in tables}
        return with_tables(params, records)

    return Transform(init, apply, no_state)
