"""Compression inside the training step: parameters in, effective parameters out.

A :class:`Transform` replaces tables by records of :mod:`recjax.embed`; :func:`chain` composes transforms as optax
composes optimizers. Knobs come from the member's hyperparameters, so one compiled program trains every setting.
"""

from recjax.compress._chain import Knob, Params, Schedule, Transform, chain
from recjax.compress._tables import magnitude_pruning, row_quantization

__all__ = ["Knob", "Params", "Schedule", "Transform", "chain", "magnitude_pruning", "row_quantization"]
