"""A two-tower model: matrix factorization with side features."""

import dataclasses

import jax
import jax.numpy as jnp

from recjax import embed
from recjax.models.contract import Batch, Params, RetrievalModel
from recjax.models.factorization import MatrixFactorization, matrix_factorization, with_constant
from recjax.models.mlp import Mlp, mlp


@dataclasses.dataclass(frozen=True)
class TwoTower:
    """Hyperparameters of :func:`two_tower`.

    Attributes:
      users: rows of the user table.
      items: rows of the item table.
      user_features: number of features per user.
      item_features: number of features per item.
      dim: length of a vector, without the bias.
      hidden: units of the hidden layer of each tower.
      scale: standard deviation of the tables' initial entries.
    """

    users: int
    items: int
    user_features: int
    item_features: int
    dim: int = 32
    hidden: int = 64
    scale: float = 0.1


def two_tower(config: TwoTower, user_features: jax.Array, item_features: jax.Array) -> RetrievalModel:
    r"""A two-tower model, :math:`s_{ui} = (p_u + f(x_u))^\top (q_i + g(z_i)) + b_i`.

    Each side is a free vector, as in matrix factorization, plus a perceptron of the side features.

    The features become ``params["fixed"]["user"]`` and ``params["fixed"]["item"]``.

    Returns:
      A :class:`~recjax.models.contract.RetrievalModel` with the tables of
      :func:`~recjax.models.factorization.matrix_factorization` and one perceptron per side in ``net``.

    Raises:
      ValueError: if the features' shapes don't agree with ``config``.

    Examples:
      >>> config = TwoTower(users=3, items=5, user_features=2, item_features=4, dim=8)
      >>> model = two_tower(config, jnp.ones((3, 2)), jnp.ones((5, 4)))
      >>> params = model.init(jax.random.key(0))
      >>> (model.query(params, {"user": jnp.array([0, 2])}) @ model.items(params).T).shape
      (2, 5)

    References:
      Covington, Adams and Sargin, *Deep Neural Networks for YouTube Recommendations*, RecSys 2016, section 3.
    """
    for name, found, expected in (
        ("user_features", jnp.shape(user_features), (config.users, config.user_features)),
        ("item_features", jnp.shape(item_features), (config.items, config.item_features)),
    ):
        if found != expected:
            raise ValueError(f"{name}: expected shape {expected}, got {found}")
    factors = matrix_factorization(
        MatrixFactorization(users=config.users, items=config.items, dim=config.dim, scale=config.scale)
    )
    towers = {
        "user": mlp(Mlp(widths=(config.user_features, config.hidden, config.dim))),
        "item": mlp(Mlp(widths=(config.item_features, config.hidden, config.dim))),
    }

    def init(key: jax.Array) -> Params:
        tables, user, item = jax.random.split(key, 3)
        params = factors.init(tables)
        net = {"user": towers["user"].init(user)["net"], "item": towers["item"].init(item)["net"]}
        fixed = {"user": jnp.asarray(user_features), "item": jnp.asarray(item_features)}
        return {**params, "net": net, "fixed": fixed}

    def tower(params: Params, side: str, ids: jax.Array | None) -> jax.Array:
        inputs = embed.lookup(params["fixed"][side], ids)
        flat = towers[side].logit({"net": params["net"][side]}, {"inputs": inputs.reshape(-1, inputs.shape[-1])})
        return flat.reshape(*inputs.shape[:-1], config.dim)

    def query(params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        vectors = embed.lookup(params["tables"]["user"], batch["user"])
        return with_constant(vectors + tower(params, "user", batch["user"]))

    def items(params: Params, ids: jax.Array | None = None) -> jax.Array:
        factor = factors.items(params, ids)
        return factor.at[..., :-1].add(tower(params, "item", ids))

    def hidden_activations(params: Params, batch: Batch) -> dict[str, jax.Array]:
        inputs = {"inputs": embed.lookup(params["fixed"]["user"], batch["user"])}
        hidden = towers["user"].hidden_activations({"net": params["net"]["user"]}, inputs)
        return {"user": query(params, batch)[..., :-1], **hidden}

    return RetrievalModel(init, query, items, hidden_activations, factors.touched)
