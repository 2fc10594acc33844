"""Families: functions ``(dataset, **size) -> Model``, each a model with all that it takes to learn and to serve it."""

from recjax.families import objectives
from recjax.families._model import Model, Objective, inner_product, moments, unit_length
from recjax.families.content import content
from recjax.families.ctr import dcn_v2, deepfm, dnn, finalmlp, fm, lr, wide_and_deep
from recjax.families.ease import ease
from recjax.families.elsa import elsa
from recjax.families.ensemble import ensemble
from recjax.families.imported import imported
from recjax.families.lightgcn import lightgcn
from recjax.families.mf import mf
from recjax.families.neighbors import item_knn, user_knn
from recjax.families.popularity import popularity
from recjax.families.sequential import bsarec, gru4rec, hstu, sasrec
from recjax.families.simplex import simplex
from recjax.families.two_tower import two_tower
from recjax.families.vbpr import vbpr

__all__ = [
    "Model",
    "Objective",
    "bsarec",
    "content",
    "dcn_v2",
    "deepfm",
    "dnn",
    "ease",
    "elsa",
    "ensemble",
    "finalmlp",
    "fm",
    "gru4rec",
    "hstu",
    "imported",
    "inner_product",
    "item_knn",
    "lightgcn",
    "lr",
    "mf",
    "moments",
    "objectives",
    "popularity",
    "sasrec",
    "simplex",
    "two_tower",
    "unit_length",
    "user_knn",
    "vbpr",
    "wide_and_deep",
]
