"""Matrix factorization."""

from collections.abc import Callable

import jax.numpy as jnp

from recjax import grid
from recjax.data import Dataset, history_batch
from recjax.families._model import Model, Objective, inner_product, inner_vectors, unit_length
from recjax.families.objectives import multinomial
from recjax.models import MatrixFactorization, Params, RetrievalModel, matrix_factorization

SCHEDULE = grid.Schedule(epochs=30, batch_size=64)
# Chosen on the validation events of MovieLens-100K.
ALONE = {"learning_rate": (0.005, 0.01, 0.02, 0.04), "weight_decay": (1.0, 3.0, 10.0, 30.0)}
DISTILLED = {"temperature": (1.0, 2.0), "alpha": (0.8, 0.95), "learning_rate": (0.005, 0.01, 0.02, 0.04)}
Learn = Callable[[Dataset, RetrievalModel], Objective]


def mf(dataset: Dataset, dim: int = 32, *, cosine: bool = False, learn: Learn | None = None) -> Model:
    """Matrix factorization with item biases, by default trained by a softmax over the catalog.

    A teacher's scores are for each user's latest moment: a user's vector is of one moment only.

    Args:
      dataset: its users and items get a vector each.
      dim: length of a vector.
      cosine: scores are cosines of the vectors, biases included, rather than inner products.
      learn: ``learn(dataset, model)`` gives the objective, such as :func:`recjax.families.objectives.bpr`.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.matrix_factorization`.
    """
    model = matrix_factorization(MatrixFactorization(users=dataset.users, items=dataset.items, dim=dim))
    if cosine:
        model = unit_length(model)
    score = inner_product(model)
    objective = learn(dataset, model) if learn else by_user(dataset, score)
    if cosine:
        return by_vectors(dataset, model, objective, dim=dim + 1, bias=False)
    vectors = inner_vectors(model)
    return Model(model.init, score, 0, dataset.last, objective, "vectors", vectors=vectors)


def by_user(dataset: Dataset, score: Callable) -> Objective:
    """The default objective of models that know users by their positions."""
    return multinomial(dataset, score, SCHEDULE)._replace(alone=ALONE, distilled=DISTILLED)


def by_vectors(
    dataset: Dataset, model: RetrievalModel, objective: Objective, *, dim: int, bias: bool, length: int = 0
) -> Model:
    """A model that knows users by their positions; what is served of it is a vector for each user and item.

    Args:
      dataset: see :func:`mf`.
      model: the model that is trained.
      objective: how.
      dim: length of its queries, without the bias.
      bias: whether the last entry of a query is a 1 that meets the item's bias.
      length: events of a history that the model reads; a served vector is that of the user's last training event.

    Returns:
      A :class:`~recjax.families.Model` that is served by :func:`mf`.
    """

    def served(params: Params) -> Params:
        users = model.query(params, history_batch(dataset.log, dataset.last, length))
        items = model.items(params)
        if bias:
            users, items, item_bias = users[:, :-1], items[:, :-1], items[:, -1:]
        else:
            item_bias = jnp.zeros((dataset.items, 1))
        tables = {"user": users, "item": items, "item_bias": item_bias}
        return {"tables": tables, "net": {}, "fixed": {}, "auxiliary": {}}

    score, vectors = inner_product(model), inner_vectors(model)
    return Model(
        model.init, score, length, dataset.last, objective, "vectors", served, mf(dataset, dim), vectors=vectors
    )
