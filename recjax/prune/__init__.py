"""Pruning: scores, masks, schedules, sparse training, and smaller arrays.

Prune first, then quantize the rest. Zeros stay zero in a quantizer that represents zero; in the others (1 bit, rows
with a bias) the mask is applied after dequantization and stored as the bitmap of a :class:`SparseTensor`.

Everywhere: a wrong shape raises ValueError, a wrong dtype TypeError. Hyperparameters are traced, so that
:func:`jax.vmap` can sweep them in one compiled program, unless the docstring calls them static. Values are not checked.
"""

from recjax.prune._dynamic import (
    Regrown,
    drop_and_grow,
    drop_fraction,
    in_dense_phase,
    masked_with_decay,
    movement_masked,
    reset_moments,
    score_masked,
    soft_movement_masked,
)
from recjax.prune._masks import (
    erk_sparsity,
    mask_lowest,
    mask_n_of_m,
    mask_slices,
    mask_smallest,
    mask_smallest_globally,
    mask_top_k,
)
from recjax.prune._regularize import group_lasso, group_soft_threshold, l1_penalty, learned_threshold, soft_threshold
from recjax.prune._schedules import (
    cosine_sparsity,
    cubic_sparsity,
    iterative_sparsity,
    one_shot_sparsity,
    starts_round,
)
from recjax.prune._scores import (
    activation_magnitude,
    gradient_flow,
    magnitude,
    normalized_magnitude,
    random_scores,
    saliency,
    slice_scores,
)
from recjax.prune._shrink import (
    CoupledAxis,
    Coupling,
    coupled_scores,
    dim_coupling,
    expand,
    head_coupling,
    mask_coupled,
    mlp_couplings,
    remap,
    shrink,
    unit_coupling,
)
from recjax.prune._sparse import SparseTensor, densify, sparsify, sparsify_if_smaller

__all__ = [
    "CoupledAxis",
    "Coupling",
    "Regrown",
    "SparseTensor",
    "activation_magnitude",
    "cosine_sparsity",
    "coupled_scores",
    "cubic_sparsity",
    "densify",
    "dim_coupling",
    "drop_and_grow",
    "drop_fraction",
    "erk_sparsity",
    "expand",
    "gradient_flow",
    "group_lasso",
    "group_soft_threshold",
    "head_coupling",
    "in_dense_phase",
    "iterative_sparsity",
    "l1_penalty",
    "learned_threshold",
    "magnitude",
    "mask_coupled",
    "mask_lowest",
    "mask_n_of_m",
    "mask_slices",
    "mask_smallest",
    "mask_smallest_globally",
    "mask_top_k",
    "masked_with_decay",
    "mlp_couplings",
    "movement_masked",
    "normalized_magnitude",
    "one_shot_sparsity",
    "random_scores",
    "remap",
    "reset_moments",
    "saliency",
    "score_masked",
    "shrink",
    "slice_scores",
    "soft_movement_masked",
    "soft_threshold",
    "sparsify",
    "sparsify_if_smaller",
    "starts_round",
    "unit_coupling",
]
