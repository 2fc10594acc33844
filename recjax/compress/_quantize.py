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

    Zeros stay zero and don't count in the scale, also at 1 bit, whose grid has no zero. Packed with
    ``quantize(kernel, bits=bits, axis=-1, where=kernel != 0)`` and, at 1 bit, ``prune.sparsify(packed, kernel != 0)``,
    a kernel reads back as it was trained, bit for bit.

    Args:
      kernels: paths in the parameters, such as ``"net/hidden_0/kernel"``; outputs are the last axis.
      bits: ``bits(hparams)``, scalar; 16 and more leaves the kernels as they are.

    Returns:
      A :class:`Transform` with nothing to learn and no state.

    Knobs:
      ``bits`` (traced, from the hyperparameters), ``kernels`` (static). Published: 8 bits.

    Storage:
      As :func:`recjax.quantize.quantize` with ``axis=-1``: ``in * ceil(out * bits / 8)`` bytes and 2 an output.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> params = {"net": {"output": {"kernel": jnp.array([[0.75, -4.0], [0.25, 1.0]]), "bias": jnp.zeros(2)}}}
      >>> plan = kernel_quantization(["net/output/kernel"], bits=lambda hparams: hparams["bits"])
      >>> learned, state = plan.init(jax.random.key(0), params, {"bits": 2.0})
      >>> print(plan.apply(params, learned, state, {"bits": 2.0})["net"]["output"]["kernel"])
      [[ 0.75 -4.  ]
       [ 0.    0.  ]]

    References:
      Krishnamoorthi, `Quantizing deep convolutional networks for efficient inference
      <https://arxiv.org/abs/1806.08342>`_, 2018, sections 2.4 and 3.
    """

    def apply(params: Params, learned: tuple, state: tuple, hparams: Any) -> Params:
        width = bits(hparams)

        def rounded(path: str, kernel: jax.Array) -> jax.Array:
            return quantize.fake_quant(kernel, bits=width, axis=-1, where=kernel != 0)

        return _with_kernels(params, rounded, kernels)

    return stateless(apply)


def kernel_learned_steps(kernels: Sequence[str], *, bits: HparamFn) -> Transform:
    r"""Quantization-aware training of kernels with learned steps (LSQ), one per output channel.

    .. math::
        y_{\cdot o} = s_o\,\mathrm{round}\left(\mathrm{clip}\left(\frac{w_{\cdot o}}{s_o}, Q_n, Q_p\right)\right),
        \qquad s_o \text{ trained}

    Zeros stay zero, as with :func:`kernel_quantization`.

    Args:
      kernels: paths in the parameters, such as ``"net/hidden_0/kernel"``; outputs are the last axis.
      bits: ``bits(hparams)``, scalar; 16 and more leaves the kernels as they are.

    Returns:
      A :class:`Transform` that learns ``{path: [1, ..., outputs]}``, the steps, from
      :func:`recjax.quantize.initial_step`; no state. Packed with ``quantize_with(kernel, usable_step(step), bits=bits,
      full_range=True)`` and, at 1 bit or if it was pruned, ``prune.sparsify(packed, kernel != 0)``, a kernel reads back
      as it was trained, bit for bit.

    Knobs:
      ``bits`` (traced, from the hyperparameters), ``kernels`` (static). Published: one step a layer, 2 to 4 bits.

    Storage:
      As :func:`recjax.quantize.quantize` with ``axis=-1``: ``in * ceil(out * bits / 8)`` bytes and 2 an output.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> params = {"net": {"output": {"kernel": jnp.array([[0.75, -4.0], [0.25, 1.0]])}}}
      >>> plan = kernel_learned_steps(["net/output/kernel"], bits=lambda hparams: hparams["bits"])
      >>> learned, state = plan.init(jax.random.key(0), params, {"bits": 2.0})
      >>> print(learned["net/output/kernel"])
      [[1. 5.]]
      >>> print(plan.apply(params, learned, state, {"bits": 2.0})["net"]["output"]["kernel"])
      [[ 1. -5.]
       [ 0.  0.]]

    References:
      Esser et al., `Learned Step Size Quantization <https://arxiv.org/abs/1902.08153>`_, 2020, section 2.
    """

    def init(key: jax.Array, params: Params, hparams: Any) -> tuple[dict[str, jax.Array], tuple]:
        found = {path: read(params, path_keys(path)) for path in kernels}
        return {path: quantize.initial_step(kernel, bits=bits(hparams), axis=-1) for path, kernel in found.items()}, ()

    def apply(params: Params, learned: dict[str, jax.Array], state: tuple, hparams: Any) -> Params:
        width = bits(hparams)

        def rounded(path: str, kernel: jax.Array) -> jax.Array:
            return quantize.learned_step(kernel, learned[path], bits=width, where=kernel != 0)

        return _with_kernels(params, rounded, kernels)

    return Transform(init, apply, no_state)


def learned_steps(tables: Sequence[str], *, bits: HparamFn, each_row: bool = False) -> Transform:
    r"""Quantization-aware training of tables with learned steps (LSQ).

    .. math::
        y_i = s_i\,\mathrm{round}\left(\mathrm{clip}\left(\frac{E_i}{s_i}, Q_n, Q_p\right)\right), \qquad s_i \text{
        trained}

    Args:
      tables: names in ``params["tables"]``.
      bits: ``bits(hparams)``, scalar; 16 and more leaves the table as it is.
      each_row: whether each row has its own step, or the table one. Static.

    Returns:
      A :class:`Transform` that learns ``{table: [1, 1] or [rows, 1]}``, the steps, from
      :func:`recjax.quantize.initial_step`, and gives :class:`recjax.embed.LearnedStep` records; no state. Packed with
      ``quantize_with(table, usable_step(step), bits=bits, full_range=True)`` and, at 1 bit or if it was pruned,
      ``prune.sparsify(packed, table != 0)``, a table reads back as it was trained, bit for bit.

    Knobs:
      ``bits`` (traced, from the hyperparameters), ``each_row`` (static).

    Storage:
      ``rows * ceil(dim * bits / 8)`` bytes, and 2 for the table or 2 a row.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> params = {"tables": {"item": jnp.array([[0.75, -4.0], [0.25, 1.0]])}}
      >>> plan = learned_steps(["item"], bits=lambda hparams: hparams["bits"])
      >>> learned, state = plan.init(jax.random.key(0), params, {"bits": 2.0})
      >>> print(learned["item"], embed.lookup(plan.apply(params, learned, state, {"bits": 2.0})["tables"]["item"]))
      [[3.]] [[ 0. -3.]
       [ 0.  0.]]

    References:
      Esser et al., `Learned Step Size Quantization <https://arxiv.org/abs/1902.08153>`_, 2020, section 2.
    """

    def init(key: jax.Array, params: Params, hparams: Any) -> tuple[dict[str, jax.Array], tuple]:
        width, axis = bits(hparams), 0 if each_row else None
        whole = {name: embed.lookup(params["tables"][name]) for name in tables}
        return {name: quantize.initial_step(table, bits=width, axis=axis) for name, table in whole.items()}, ()

    def apply(params: Params, learned: dict[str, jax.Array], state: tuple, hparams: Any) -> Params:
        width, below = jnp.asarray(bits(hparams), jnp.float32), params["tables"]
        records = {name: embed.LearnedStep(below[name], learned[name], width) for name in tables}
        return with_tables(params, records)

    return Transform(init, apply, no_state)
