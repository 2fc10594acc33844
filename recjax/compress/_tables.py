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

    Args:
      tables: names in ``params["tables"]``.
      bits: ``bits(hparams)``, scalar; 16 and more leaves the table as it is.

    Returns:
      A :class:`Transform` with nothing to learn and no state.

    Knobs:
      ``bits`` (traced); ``tables`` (static).

    Storage:
      In training that of the tables. Packed by :func:`recjax.embed.quantized`, a table reads back as it was trained,
      bit for bit, in ``rows * (ceil(dim * bits / 8) + 2)`` bytes; of a pruned one :func:`recjax.prune.sparsify` packs
      the kept entries alone: ``sparsify(quantize(table, bits=bits, axis=0, where=table != 0), table != 0)``.

    References:
      Jacob et al., `Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference
      <https://arxiv.org/abs/1712.05877>`_, 2018, section 3.
    """

    def apply(params: Params, learned: tuple, state: tuple, hparams: Any) -> Params:
        width = jnp.asarray(bits(hparams), jnp.float32)
        return with_tables(params, {name: embed.FakeQuantized(params["tables"][name], width) for name in tables})

    return stateless(apply)
