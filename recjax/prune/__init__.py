"""Which weights to keep, how many at which step, and arrays that are smaller for it.

Order with quantization: prune, then quantize what is left. Zeros stay zero on every grid that has one; on the others
(1 bit, rows with a bias) the mask is applied after dequantizing, and stored as the bitmap of a :class:`SparseTensor`.
"""

from recjax.prune._masks import (
    erk_sparsity,
    mask_lowest,
    mask_n_of_m,
    mask_slices,
    mask_smallest,
    mask_smallest_globally,
)
from recjax.prune._schedules import cubic_sparsity
from recjax.prune._scores import magnitude, normalized_magnitude, slice_scores
from recjax.prune._sparse import SparseTensor, densify, smallest, sparsify

__all__ = [
    "SparseTensor",
    "cubic_sparsity",
    "densify",
    "erk_sparsity",
    "magnitude",
    "mask_lowest",
    "mask_n_of_m",
    "mask_slices",
    "mask_smallest",
    "mask_smallest_globally",
    "normalized_magnitude",
    "slice_scores",
    "smallest",
    "sparsify",
]
