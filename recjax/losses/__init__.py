"""Distillation and supervised losses as pure functions of arrays, without reduction.

Positional arguments are arrays: student scores, teacher scores, labels. After ``*`` come hyperparameters and masks.
Unless a docstring says otherwise:

- hyperparameters may be traced, so ``jax.vmap`` evaluates a whole grid of them; their values are not checked;
- scores are unnormalized and must be finite where they count: exclude items by ``where``, not by minus infinity;
- ``where`` is True for the entries that count; masked entries have no effect, and a list without others has loss 0;
- gradients flow to all floating arguments: wrap the teacher in :func:`jax.lax.stop_gradient` to freeze it;
- the result has the dtype of the first argument; half precision is computed in float32 and rounded once at the end, so
  a loss above 65504 is infinite in float16;
- shapes that don't fit together raise ``ValueError``; a first argument that isn't floating, ids that aren't integers
  and masks that aren't boolean raise ``TypeError``.
"""

from recjax.losses._batch import dist, listwise_bce
from recjax.losses._composed import gated_teachers, layer_heads, listed_weights, mutual_learning, privileged_features
from recjax.losses._curriculum import het_comp, teacher_ready
from recjax.losses._features import (
    attention_transfer,
    cosine_hint,
    distillation_experts,
    gradient_match,
    graph_filter,
    graph_filtered_hint,
    hint,
    orthogonal_hint,
    orthogonal_rows,
)
from recjax.losses._logits import (
    decoupled_kl,
    distillation,
    soft_target_bce,
    soft_target_ce,
    soft_target_kl,
    standardized_kl,
    top_k_kl,
)
from recjax.losses._positions import discrepancy_weights, estimated_ranks, position_weights, ranking_distillation
from recjax.losses._ranking import (
    bidirectional,
    collaborative_distillation,
    dual_correction,
    inverse_rank_pairs,
    rejuvenated_ce,
    relaxed_ranking,
    unbiased_pairs,
)
from recjax.losses._regression import logit_mse, margin_mse, mean_squared_error
from recjax.losses._relations import (
    Hierarchy,
    gram,
    hierarchical_topology,
    info_nce,
    relational_angle,
    relational_distance,
    similarity_preserving,
    topology,
)
from recjax.losses._task import (
    binary_cross_entropy,
    bpr,
    cosine_contrastive,
    l1,
    sampled_softmax,
    softmax_cross_entropy,
)

__all__ = [
    "Hierarchy",
    "attention_transfer",
    "bidirectional",
    "binary_cross_entropy",
    "bpr",
    "collaborative_distillation",
    "cosine_contrastive",
    "cosine_hint",
    "decoupled_kl",
    "discrepancy_weights",
    "dist",
    "distillation",
    "distillation_experts",
    "dual_correction",
    "estimated_ranks",
    "gated_teachers",
    "gradient_match",
    "gram",
    "graph_filter",
    "graph_filtered_hint",
    "het_comp",
    "hierarchical_topology",
    "hint",
    "info_nce",
    "inverse_rank_pairs",
    "l1",
    "layer_heads",
    "listed_weights",
    "listwise_bce",
    "logit_mse",
    "margin_mse",
    "mean_squared_error",
    "mutual_learning",
    "orthogonal_hint",
    "orthogonal_rows",
    "position_weights",
    "privileged_features",
    "ranking_distillation",
    "rejuvenated_ce",
    "relational_angle",
    "relational_distance",
    "relaxed_ranking",
    "sampled_softmax",
    "similarity_preserving",
    "soft_target_bce",
    "soft_target_ce",
    "soft_target_kl",
    "softmax_cross_entropy",
    "standardized_kl",
    "teacher_ready",
    "top_k_kl",
    "topology",
    "unbiased_pairs",
]
