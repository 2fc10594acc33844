"""Compressions of tables: few bits behind :func:`recjax.embed.lookup`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from recjax import embed
from recjax.compress._chain import Knob, Params, Transform


def _with_tables(params: Params, records: dict[str, Any]) -> Params:
    return {**params, "tables": {**params["tables"], **records}}


def row_quantization(tables: Sequence[str], *, bits: Knob) -> Transform:
    """Quantization-aware training of tables: every row reads as it will after packing.

    Args:
      tables: names in ``params["tables"]``.
      bits: ``bits(hparams)``, scalar; 16 and more leaves the table as it is.

    Returns:
      A :class:`Transform` with nothing to learn and no state.

    References:
      Jacob et al., `Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference
      <https://arxiv.org/abs/1712.05877>`_, 2018, section 3.
    """

    def init(key: jax.Array, params: Params, hparams: Any) -> tuple[tuple, tuple]:
        return (), ()

    def apply(params: Params, learned: tuple, state: tuple, hparams: Any) -> Params:
        width = jnp.asarray(bits(hparams), jnp.float32)
        return _with_tables(params, {name: embed.FakeQuantized(params["tables"][name], width) for name in tables})

    def update(params: Params, learned: tuple, state: tuple, grads: Any, step: jax.Array, hparams: Any) -> tuple:
        return ()

    return Transform(init, apply, update)
