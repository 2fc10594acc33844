"""Two towers over side features."""

import jax.numpy as jnp

from recjax.data import Dataset
from recjax.errors import InputError
from recjax.families._model import Model, inner_product
from recjax.families.mf import Learn, by_user, by_vectors
from recjax.models import TwoTower
from recjax.models import two_tower as towers


def two_tower(dataset: Dataset, dim: int = 32, *, learn: Learn | None = None) -> Model:
    """Matrix factorization plus a net of the side features on each side; what is served is the towers' vectors.

    Args:
      dataset: with side features of users and of items.
      dim: length of a vector.
      learn: see :func:`recjax.families.mf`.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.two_tower`.

    Raises:
      InputError: if the data set has no side features of users or of items.
    """
    users, items = dataset.user_features, dataset.item_features
    if users is None or items is None or not users.names or not items.names:
        missing = "item" if users is not None and users.names else "user"
        raise InputError(f"option --{missing}-table: expected side features of {missing}s for a two-tower, got none")
    config = TwoTower(dataset.users, dataset.items, users.values.shape[1], items.values.shape[1], dim)
    model = towers(config, jnp.asarray(users.values[: dataset.users]), jnp.asarray(items.values))
    objective = learn(dataset, model) if learn else by_user(dataset, inner_product(model))
    return by_vectors(dataset, model, objective, dim=dim, bias=True)
