"""Which weights to keep, and how many at which step."""

from recjax.prune._masks import mask_smallest
from recjax.prune._schedules import cubic_sparsity

__all__ = ["cubic_sparsity", "mask_smallest"]
