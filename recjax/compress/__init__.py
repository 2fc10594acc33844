"""Compression during training: pruning and quantization as transforms of the parameters.

A :class:`Transform` replaces arrays by compressed ones and tables by records of :mod:`recjax.embed`; :func:`chain`
composes transforms as optax composes optimizers. Arguments that are functions of ``hparams`` are traced, so that one
compiled program trains all settings; all others are static.
"""

from recjax.compress._chain import HparamFn, Params, ScheduleFn, Transform, chain
from recjax.compress._dynamic import alternating_pruning, lottery_ticket, rigged_lottery, sparse_evolution
from recjax.compress._learned import learned_thresholds, movement_pruning
from recjax.compress._prune import (
    global_magnitude_pruning,
    magnitude_pruning,
    n_of_m_pruning,
    structured_pruning,
    top_k_pruning,
)
from recjax.compress._quantize import kernel_learned_steps, kernel_quantization, learned_steps
from recjax.compress._tables import row_quantization
from recjax.compress._widths import Widths, widths

__all__ = [
    "HparamFn",
    "Params",
    "ScheduleFn",
    "Transform",
    "Widths",
    "alternating_pruning",
    "chain",
    "global_magnitude_pruning",
    "kernel_learned_steps",
    "kernel_quantization",
    "learned_steps",
    "learned_thresholds",
    "lottery_ticket",
    "magnitude_pruning",
    "movement_pruning",
    "n_of_m_pruning",
    "rigged_lottery",
    "row_quantization",
    "sparse_evolution",
    "structured_pruning",
    "top_k_pruning",
    "widths",
]
