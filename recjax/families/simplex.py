"""SimpleX: cosines between items and histories, by the cosine contrastive loss."""

from recjax import grid
from recjax.data import Dataset
from recjax.families._model import Model
from recjax.families.mf import Learn, by_vectors
from recjax.families.objectives import contrastive
from recjax.models import SimpleX
from recjax.models import simplex as cosines

SCHEDULE = grid.Schedule(epochs=40, batch_size=1024, chunk_epochs=5, patience=2)


def simplex(
    dataset: Dataset,
    dim: int = 64,
    *,
    own: float = 0.8,
    length: int = 20,
    scale: float = 1e-3,
    learn: Learn | None = None,
) -> Model:
    """SimpleX, by default trained by the cosine contrastive loss with 1,000 negatives that 1,024 rows share.

    Vectors begin short, as only their directions count: the first steps turn them far, and later ones ever less.

    Args:
      dataset: its training events are learned from, and are the histories.
      dim: length of a vector.
      own: share of the user's own vector beside that of the history; 1 for factorization by cosines.
      length: events of a history that are read.
      scale: standard deviation of the initial entries.
      learn: see :func:`recjax.families.mf`.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.simplex`.
    """
    model = cosines(SimpleX(dataset.users, dataset.items, dim, own, scale))
    length = length if own < 1 else 0
    objective = learn(dataset, model) if learn else contrastive(dataset, model, SCHEDULE, length=length)
    return by_vectors(dataset, model, objective, dim=dim, bias=False, length=length)
