"""Content: the items that are most like those of a history."""

import jax

from recjax import models
from recjax.data import Dataset
from recjax.errors import InputError
from recjax.families._model import Batch, Model, closed_form, inner_vectors
from recjax.models import Params


def content(dataset: Dataset) -> Model:
    """The similarity of an item's features to the mean of those of the history.

    Args:
      dataset: with side features of items.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.content_based`.

    Raises:
      InputError: if the data set has no side features of items.
    """
    features = dataset.item_features
    if features is None or not features.names:
        raise InputError("option --item-table: expected side features of items for content, got none")
    model = models.content_based(models.ContentBased(*features.values.shape))

    def score(params: Params, batch: Batch) -> jax.Array:
        return model.query(params, batch) @ model.items(params).T

    def fit() -> Params:
        return models.fit_content_based(features.values)

    fitted = closed_form(dataset, fit, score, length=longest(dataset), kind="factors")
    return fitted._replace(vectors=inner_vectors(model))


def longest(dataset: Dataset) -> int:
    """The most events that a user has in all."""
    offsets = dataset.log.offsets
    return max(1, int((offsets[1:] - offsets[:-1]).max(initial=1)))
