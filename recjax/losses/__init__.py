"""Pure, unreduced losses: arrays in, an array out, one value per element, pair or list.

The student's scores come first, then the teacher's, then labels; everything after ``*`` is a hyperparameter or a
mask, and hyperparameters may be traced, so a grid of them is one ``vmap``. Half precision is computed in float32
inside and rounded once, at the end; in float16 a loss above 65504 is then infinite.
"""

from recjax.losses._features import hint
from recjax.losses._logits import distillation, mean_squared_error, soft_target_kl
from recjax.losses._task import binary_cross_entropy, bpr, l1, softmax_cross_entropy

__all__ = [
    "binary_cross_entropy",
    "bpr",
    "distillation",
    "hint",
    "l1",
    "mean_squared_error",
    "soft_target_kl",
    "softmax_cross_entropy",
]
