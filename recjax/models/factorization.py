"""Matrix factorization with item biases (Koren et al., 2009)."""

import dataclasses

import jax
import jax.numpy as jnp

from recjax import embed
from recjax.models.contract import Batch, Params, RetrievalModel


@dataclasses.dataclass(frozen=True)
class MatrixFactorization:
    """Hyperparameters of :func:`matrix_factorization`.

    Attributes:
      users: rows of the user table.
      items: rows of the item table.
      dim: length of a vector, without the bias.
      scale: standard deviation of the initial entries.
    """

    users: int
    items: int
    dim: int = 32
    scale: float = 0.1


def with_constant(vectors: jax.Array) -> jax.Array:
    """Appends a 1, the factor of the item bias: ``[..., dim] -> [..., dim + 1]``."""
    return jnp.concatenate([vectors, jnp.ones_like(vectors[..., :1])], axis=-1)


def matrix_factorization(config: MatrixFactorization) -> RetrievalModel:
    r"""Matrix factorization, :math:`s_{ui} = p_u^\top q_i + b_i`.

    There is no user bias: it changes neither a ranking nor a softmax over items.

    Returns:
      A :class:`~recjax.models.contract.RetrievalModel` with the tables ``user [users, dim]``, ``item [items, dim]`` and
      ``item_bias [items, 1]``; query and item vectors are ``[..., dim + 1]``, the bias last.

    Examples:
      >>> model = matrix_factorization(MatrixFactorization(users=3, items=5, dim=4))
      >>> params = model.init(jax.random.key(0))
      >>> (model.query(params, {"user": jnp.array([0, 2])}) @ model.items(params).T).shape
      (2, 5)

    References:
      Koren, Bell and Volinsky, *Matrix Factorization Techniques for Recommender Systems*, 2009, equation 4.
    """

    def init(key: jax.Array) -> Params:
        user, item = jax.random.split(key)
        tables = {
            "user": config.scale * jax.random.normal(user, (config.users, config.dim)),
            "item": config.scale * jax.random.normal(item, (config.items, config.dim)),
            "item_bias": jnp.zeros((config.items, 1)),
        }
        return {"tables": tables, "net": {}, "fixed": {}, "auxiliary": {}}

    def query(params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        return with_constant(embed.lookup(params["tables"]["user"], batch["user"]))

    def items(params: Params, ids: jax.Array | None = None) -> jax.Array:
        tables = params["tables"]
        return jnp.concatenate([embed.lookup(tables["item"], ids), embed.lookup(tables["item_bias"], ids)], axis=-1)

    def hidden_activations(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {"user": embed.lookup(params["tables"]["user"], batch["user"])}

    def touched(batch: Batch) -> dict[str, jax.Array] | None:
        if "item" not in batch:  # scored against the whole catalog
            return None
        return {"user": batch["user"], "item": batch["item"], "item_bias": batch["item"]}

    return RetrievalModel(init, query, items, hidden_activations, touched)
