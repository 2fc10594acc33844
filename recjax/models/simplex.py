"""SimpleX: cosine similarity of items with users and their histories (Mao et al., 2021)."""

import dataclasses

import jax
import jax.numpy as jnp

from recjax import embed
from recjax.models.contract import Batch, Params, RetrievalModel
from recjax.models.history import distinct, sum_rows


@dataclasses.dataclass(frozen=True)
class SimpleX:
    """Hyperparameters of :func:`simplex`.

    Attributes:
      users: rows of the user table.
      items: rows of the item table.
      dim: length of a vector.
      own: weight :math:`g` of the user vector; the history has the rest.
      scale: standard deviation of the initial entries.
    """

    users: int
    items: int
    dim: int = 64
    own: float = 0.5
    scale: float = 0.1


def unit(vectors: jax.Array) -> jax.Array:
    """Vectors scaled to length 1; the length is clipped at 1e-6, for a finite gradient at 0."""
    squares = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))


def simplex(config: SimpleX) -> RetrievalModel:
    r"""SimpleX, :math:`s_{ui} = \cos(g\,p_u + (1 - g)\,V \bar q_u,\; q_i)`, :math:`\bar q_u` the mean over a history.

    Train it with :func:`recjax.losses.cosine_contrastive` on many negatives.

    Returns:
      A :class:`~recjax.models.contract.RetrievalModel` with the tables ``user [users, dim]`` and ``item [items, dim]``,
      and the matrix :math:`V` in ``net``. A batch has ``user [batch]`` and ``history [batch, length]``, item positions
      padded with -1. Query and item vectors have length 1. ``touched`` is None: a batch reads many items.

    Examples:
      >>> model = simplex(SimpleX(users=2, items=5, dim=4))
      >>> params = model.init(jax.random.key(0))
      >>> batch = {"user": jnp.array([0, 1]), "history": jnp.array([[-1, 1, 4], [-1, -1, -1]])}
      >>> (model.query(params, batch) @ model.items(params).T).shape
      (2, 5)

    References:
      Mao et al., `SimpleX: A Simple and Strong Baseline for Collaborative Filtering
      <https://arxiv.org/abs/2109.12613>`_, CIKM 2021, section 3.3, equations 2 and 3.
    """

    def init(key: jax.Array) -> Params:
        user, item, matrix = jax.random.split(key, 3)
        tables = {
            "user": config.scale * jax.random.normal(user, (config.users, config.dim)),
            "item": config.scale * jax.random.normal(item, (config.items, config.dim)),
        }
        kernel = jax.random.normal(matrix, (config.dim, config.dim)) / config.dim**0.5
        return {"tables": tables, "net": {"history": {"kernel": kernel}}, "fixed": {}, "auxiliary": {}}

    def pooled(params: Params, history: jax.Array) -> jax.Array:
        total = sum_rows(lambda ids: embed.lookup(params["tables"]["item"], ids), history, config.items)
        _, weight = distinct(history, config.items)
        return total / jnp.maximum(jnp.sum(weight, axis=-1, keepdims=True), 1)

    def query(params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        own = embed.lookup(params["tables"]["user"], batch["user"])
        history = pooled(params, batch["history"]) @ params["net"]["history"]["kernel"]
        return unit(config.own * own + (1 - config.own) * history)

    def items(params: Params, ids: jax.Array | None = None) -> jax.Array:
        return unit(embed.lookup(params["tables"]["item"], ids))

    def hidden_activations(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {
            "user": embed.lookup(params["tables"]["user"], batch["user"]),
            "history": pooled(params, batch["history"]),
        }

    def touched(batch: Batch) -> dict[str, jax.Array] | None:
        return None

    return RetrievalModel(init, query, items, hidden_activations, touched)
