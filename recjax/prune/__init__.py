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
from recjax.prune._schedules import (
    cosine_sparsity,
    cubic_sparsity,
    iterative_sparsity,
    one_shot_sparsity,
    starts_round,
)
from recjax.prune._scores import magnitude, normalized_magnitude, slice_scores
from recjax.prune._shrink import (
    Coupling,
    Member,
    coupled_scores,
    dim_coupling,
    head_coupling,
    mask_coupled,
    mlp_couplings,
    remap,
    shrink,
)
from recjax.prune._sparse import SparseTensor, densify, smallest, sparsify

__all__ = [
    "Coupling",
    "Member",
    "SparseTensor",
    "cosine_sparsity",
    "coupled_scores",
    "cubic_sparsity",
    "densify",
    "dim_coupling",
    "erk_sparsity",
    "head_coupling",
    "iterative_sparsity",
    "magnitude",
    "mask_coupled",
    "mask_lowest",
    "mask_n_of_m",
    "mask_slices",
    "mask_smallest",
    "mask_smallest_globally",
    "mlp_couplings",
    "normalized_magnitude",
    "one_shot_sparsity",
    "remap",
    "shrink",
    "slice_scores",
    "smallest",
    "sparsify",
    "starts_round",
]
