"""Quantization-aware training of tables."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from recjax import embed
from recjax.compress._chain import HparamFn, Params, Transform, stateless
from recjax.compress._paths import with_tables


def row_quantization(tables: Sequence[str], *, bits: HparamFn) -> Transform:
    r"""Quantization-aware training of tables, with one scale per row.

    .. math::
        e_{ij} = s_i\,\mathrm{clip}\left(\mathrm{round}\left(\frac{x_{ij}}{s_i}\right), -L, L\right), \qquad
        L = 2^{b-1} - 1, \quad s_i = \mathrm{float16}\left(\frac{\max_j |x_{ij}|}{L}\right)

    Packed by :func:`recjax.embed.quantized`, or, if pruned, by ``sparsify(quantize(table, bits=bits, axis=0,
    where=table != 0), table != 0)``, a table reads back as in training, bit for bit.

    Args:
      tables: names in ``params["tables"]``.
      bits: ``bits(hparams)``, a scalar; from 16 on tables are unchanged.

    Returns:
      :class:`Transform` without learned parameters and state.

    Storage:
      ``rows * (ceil(dim * bits / 8) + 2)`` bytes.

    References:
      Jacob et al., `Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference
      <https://arxiv.org/abs/1712.05877>`_, 2018, section 3.
    """

    def apply(params: Params, learned: tuple, state: tuple, hparams: Any) -> Params:
        bit_width = jnp.asarray(bits(hparams), jnp.float32)
        return with_tables(params, {name: embed.FakeQuantized(params["tables"][name], bit_width) for name in tables})

    return stateless(apply)
