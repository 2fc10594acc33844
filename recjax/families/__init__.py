"""Families: functions ``(dataset, **size) -> Model``, each a model with all that it takes to learn and to serve it."""

from recjax.families import objectives
from recjax.families._model import Model, Objective, inner_product, moments, multi_hot
from recjax.families.content import content
from recjax.families.ease import ease
from recjax.families.lightgcn import lightgcn
from recjax.families.mf import mf
from recjax.families.neighbors import item_knn, user_knn
from recjax.families.popularity import popularity
from recjax.families.simplex import simplex
from recjax.families.two_tower import two_tower
from recjax.families.vbpr import vbpr

__all__ = [
    "Model",
    "Objective",
    "content",
    "ease",
    "inner_product",
    "item_knn",
    "lightgcn",
    "mf",
    "moments",
    "multi_hot",
    "objectives",
    "popularity",
    "simplex",
    "two_tower",
    "user_knn",
    "vbpr",
]
