"""Models as NamedTuples of pure functions; the only room that imports flax."""

from recjax.models.contract import Batch, Params, Ranking, Retrieval
from recjax.models.ease import Ease, ease, fit_ease
from recjax.models.factorization import MatrixFactorization, matrix_factorization
from recjax.models.mlp import Mlp, mlp
from recjax.models.two_tower import TwoTower, two_tower

__all__ = [
    "Batch",
    "Ease",
    "MatrixFactorization",
    "Mlp",
    "Params",
    "Ranking",
    "Retrieval",
    "TwoTower",
    "ease",
    "fit_ease",
    "matrix_factorization",
    "mlp",
    "two_tower",
]
