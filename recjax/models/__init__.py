"""Models as NamedTuples of pure functions; the only room that imports flax."""

from recjax.models.contract import Batch, Params, Ranking, Retrieval
from recjax.models.deep import dcn_v2, deepfm, dnn, wide_and_deep
from recjax.models.ease import Ease, ease, fit_ease
from recjax.models.factorization import MatrixFactorization, matrix_factorization
from recjax.models.fields import Fields, factorization_machine, logistic_regression
from recjax.models.finalmlp import FinalMlp, finalmlp
from recjax.models.mlp import Mlp, mlp
from recjax.models.two_tower import TwoTower, two_tower

__all__ = [
    "Batch",
    "Ease",
    "Fields",
    "FinalMlp",
    "MatrixFactorization",
    "Mlp",
    "Params",
    "Ranking",
    "Retrieval",
    "TwoTower",
    "dcn_v2",
    "deepfm",
    "dnn",
    "ease",
    "factorization_machine",
    "finalmlp",
    "fit_ease",
    "logistic_regression",
    "matrix_factorization",
    "mlp",
    "two_tower",
    "wide_and_deep",
]
