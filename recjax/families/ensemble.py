"""An ensemble of unlike families."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from recjax.evaluate import standardized
from recjax.families._model import Batch, Model
from recjax.models import Params


def ensemble(models: Sequence[Model]) -> Model:
    """The weighted sum of several models' scores, each standardized per query.

    Args:
      models: at least two, on one data set.

    Returns:
      A :class:`~recjax.families.Model` of parameters ``{"weights": [models], "0": params, "1": params, ...}``. Its
      ``init`` gives equal weights. It is not trained: train or fit its members.
    """

    def init(key: jax.Array) -> Params:
        params = {str(number): model.init(jax.random.fold_in(key, number)) for number, model in enumerate(models)}
        return {**params, "weights": jnp.full(len(models), 1 / len(models))}

    def score(params: Params, batch: Batch, candidates: jax.Array | None = None) -> jax.Array:
        scores = jnp.zeros(())
        for number, model in enumerate(models):
            read = batch["history"].shape[1] - (model.length or 0)
            part = model.score(params[str(number)], {**batch, "history": batch["history"][:, max(0, read) :]})
            scores = scores + params["weights"][number] * standardized(part)
        return scores if candidates is None else jnp.take_along_axis(scores, candidates, axis=1)

    return Model(init, score, max(model.length or 0 for model in models), models[0].queries)
