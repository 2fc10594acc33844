"""Compressions of tables: masks and few bits behind :func:`recjax.embed.lookup`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from recjax import embed, prune
from recjax.compress._chain import Knob, Params, Schedule, Transform


def _with_tables(params: Params, records: dict[str, Any]) -> Params:
    return {**params, "tables": {**params["tables"], **records}}


def magnitude_pruning(tables: Sequence[str], *, sparsity: Schedule, every: int = 1) -> Transform:
    """Unstructured magnitude pruning of tables: the smallest entries of each table read as zero.

    The dense entries go on training behind the mask (their gradient passes straight through), so while the mask is
    still refreshed an entry can come back.

    Args:
      tables: names in ``params["tables"]``; each keeps exactly its own share.
      sparsity: ``sparsity(hparams, step)``, the share to drop at a step, such as
        :func:`recjax.prune.cubic_sparsity`.
      every: steps between two refreshes of the masks.

    Returns:
      A :class:`Transform`; its state is ``{table: [rows, dim] bool}``.

    References:
      Zhu and Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_, 2017, section 3.
    """

    def init(key: jax.Array, params: Params, hparams: Any) -> tuple[tuple, dict[str, jax.Array]]:
        return (), {name: jnp.ones_like(params["tables"][name], dtype=bool) for name in tables}

    def apply(params: Params, learned: tuple, state: dict[str, jax.Array], hparams: Any) -> Params:
        return _with_tables(params, {name: embed.Masked(params["tables"][name], keep) for name, keep in state.items()})

    def update(params: Params, learned: tuple, state: dict, grads: Any, step: jax.Array, hparams: Any) -> dict:
        def refresh(_: dict) -> dict:
            share = sparsity(hparams, step)
            return {name: prune.mask_smallest(params["tables"][name], share) for name in tables}

        return jax.lax.cond(step % every == 0, refresh, lambda kept: kept, state)

    return Transform(init, apply, update)


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
