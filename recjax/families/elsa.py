"""ELSA: item factors without users."""

import jax

from recjax import grid, models
from recjax.data import Dataset
from recjax.families._model import Batch, Model
from recjax.families.content import longest
from recjax.families.objectives import multinomial
from recjax.models import Params

SCHEDULE = grid.Schedule(epochs=30, batch_size=64)
ALONE = {"learning_rate": (0.003, 0.01, 0.03)}
DISTILLED = {"temperature": (0.3, 0.5), "alpha": (1.0,), "learning_rate": (0.003, 0.01, 0.03)}


def elsa(dataset: Dataset, dim: int = 64) -> Model:
    """ELSA, trained by a softmax over the catalogue; no user is stored, and a new one is scored by their history.

    Args:
      dataset: its items get a vector each.
      dim: length of a vector.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.elsa`.
    """
    config = models.Elsa(dataset.items, dim)

    def score(params: Params, batch: Batch, candidates: jax.Array | None = None) -> jax.Array:
        return models.elsa_scores(config, params, batch, candidates)

    length = longest(dataset)
    objective = multinomial(dataset, score, SCHEDULE, length=length)
    hparams = objective.hparams._replace(learning_rate=0.01, weight_decay=0.0)
    objective = objective._replace(hparams=hparams, alone=ALONE, distilled=DISTILLED)
    return Model(models.elsa(config).init, score, length, dataset.last, objective, "factors")
