"""ELSA: item factors without users."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recjax import embed, grid, models, prune
from recjax.data import Dataset
from recjax.families._model import Batch, Model, inner_vectors
from recjax.families.content import longest
from recjax.families.objectives import multinomial
from recjax.models import Params

SCHEDULE = grid.Schedule(epochs=100, batch_size=64, patience=20)
HISTORY_EXPONENT = 0.5  # a sum of vectors is divided by the root of their number
ALONE = {"learning_rate": (0.01, 0.03, 0.1)}
DISTILLED = {"temperature": (0.5,), "alpha": (1.0,), "learning_rate": (0.05, 0.1)}


def elsa(dataset: Dataset, dim: int = 64) -> Model:
    """ELSA, trained by a softmax over the catalog; no user is stored, and a new one is scored by their history.

    Args:
      dataset: its items get a vector each.
      dim: length of a vector.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.elsa`.
    """
    config = models.Elsa(dataset.items, dim, scale=10.0)

    def score(params: Params, batch: Batch, candidates: jax.Array | None = None) -> jax.Array:
        return models.elsa_scores(config, params, batch, candidates)

    length = longest(dataset)
    objective = multinomial(dataset, score, SCHEDULE, length=length)
    hparams = objective.hparams._replace(learning_rate=0.01, weight_decay=0.0)
    objective = objective._replace(hparams=hparams, alone=ALONE, distilled=DISTILLED)
    model = models.elsa(config)
    return Model(
        model.init,
        score,
        length,
        dataset.last,
        objective,
        "factors",
        tables=_tables,
        history_exponent=HISTORY_EXPONENT,
        vectors=inner_vectors(model),
    )


def _tables(stored: Params) -> dict[str, Any]:
    """The tables of an artifact: rows of length 1, which a quantized row has by its scale."""
    tables = dict(stored["tables"])
    item = tables["item"]
    rows = prune.densify(item) if isinstance(item, prune.SparseTensor) else embed.lookup(item)
    length = jnp.maximum(jnp.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    scale = getattr(item, "scale", None)
    if scale is None:
        tables["item"] = (
            rows / length if isinstance(item, jax.Array | np.ndarray) else prune.sparsify_if_smaller(rows / length)
        )
    else:
        tables["item"] = dataclasses.replace(item, scale=(scale / length).astype(scale.dtype))
    return {**tables, "scale": jnp.reshape(stored["net"]["scale"], (1, 1))}
