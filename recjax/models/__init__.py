"""Recommender models as NamedTuples of pure functions; the only package that imports flax."""

from recjax.models.bsarec import BsaRec, bsarec
from recjax.models.content import ContentBased, content_based, fit_content_based
from recjax.models.contract import Batch, CTRModel, Params, RetrievalModel
from recjax.models.deep import dcn_v2, deepfm, dnn, wide_and_deep
from recjax.models.ease import Ease, EaseByUsers, ease, ease_by_items, ease_by_users, fit_ease
from recjax.models.elsa import Elsa, elsa, elsa_scores
from recjax.models.factorization import MatrixFactorization, matrix_factorization
from recjax.models.fields import Fields, factorization_machine, logistic_regression
from recjax.models.finalmlp import FinalMlp, finalmlp
from recjax.models.gru4rec import Gru4Rec, gru4rec
from recjax.models.hstu import Hstu, hstu
from recjax.models.item_item import ItemItem
from recjax.models.lightgcn import LightGcn, lightgcn, propagate
from recjax.models.mlp import Mlp, mlp
from recjax.models.neighbors import UserKnn, cosine_neighbors, fit_item_knn
from recjax.models.popularity import fit_popularity, popularity
from recjax.models.sasrec import SasRec, sasrec
from recjax.models.simplex import SimpleX, simplex
from recjax.models.two_tower import TwoTower, two_tower
from recjax.models.vbpr import Vbpr, vbpr

__all__ = [
    "Batch",
    "BsaRec",
    "CTRModel",
    "ContentBased",
    "Ease",
    "EaseByUsers",
    "Elsa",
    "Fields",
    "FinalMlp",
    "Gru4Rec",
    "Hstu",
    "ItemItem",
    "LightGcn",
    "MatrixFactorization",
    "Mlp",
    "Params",
    "RetrievalModel",
    "SasRec",
    "SimpleX",
    "TwoTower",
    "UserKnn",
    "Vbpr",
    "bsarec",
    "content_based",
    "cosine_neighbors",
    "dcn_v2",
    "deepfm",
    "dnn",
    "ease",
    "ease_by_items",
    "ease_by_users",
    "elsa",
    "elsa_scores",
    "factorization_machine",
    "finalmlp",
    "fit_content_based",
    "fit_ease",
    "fit_item_knn",
    "fit_popularity",
    "gru4rec",
    "hstu",
    "lightgcn",
    "logistic_regression",
    "matrix_factorization",
    "mlp",
    "popularity",
    "propagate",
    "sasrec",
    "simplex",
    "two_tower",
    "vbpr",
    "wide_and_deep",
]
