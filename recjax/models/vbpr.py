"""VBPR: matrix factorization with item features (He and McAuley, 2016)."""

import dataclasses

import jax
import jax.numpy as jnp

from recjax import embed
from recjax.models.contract import Batch, Params, RetrievalModel


@dataclasses.dataclass(frozen=True)
class Vbpr:
    """Hyperparameters of :func:`vbpr`.

    Attributes:
      users: rows of the user tables.
      items: rows of the item table.
      features: number of features per item.
      dim: length of the free factors.
      content: length of the factors computed from the features.
      scale: standard deviation of the initial entries.
    """

    users: int
    items: int
    features: int
    dim: int = 32
    content: int = 32
    scale: float = 0.1


def vbpr(config: Vbpr, features: jax.Array) -> RetrievalModel:
    r"""VBPR, :math:`s_{ui} = p_u^\top q_i + \theta_u^\top E f_i + b_i + \beta^\top f_i`.

    Args:
      config: see :class:`Vbpr`.
      features: ``[items, features]`` float, in the order of the log's ``item_ids``; becomes
        ``params["fixed"]["item"]``.

    Returns:
      A :class:`~recjax.models.contract.RetrievalModel` with the tables ``user [users, dim]``, ``user_content [users,
      content]``, ``item [items, dim]`` and ``item_bias [items, 1]``, and :math:`E` and :math:`\beta` in ``net``; query
      and item vectors are ``[..., dim + content + 1]``, the bias last.

    Raises:
      ValueError: if the features' shape doesn't agree with ``config``.

    Examples:
      >>> model = vbpr(Vbpr(users=3, items=5, features=6, dim=4, content=2), jnp.ones((5, 6)))
      >>> params = model.init(jax.random.key(0))
      >>> model.items(params).shape
      (5, 7)

    References:
      He and McAuley, `VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback
      <https://arxiv.org/abs/1510.01784>`_, AAAI 2016, equation 4.
    """
    if jnp.shape(features) != (config.items, config.features):
        expected = (config.items, config.features)
        raise ValueError(f"features: expected shape {expected}, got {jnp.shape(features)}")

    def init(key: jax.Array) -> Params:
        user, user_content, item, kernel = jax.random.split(key, 4)
        tables = {
            "user": config.scale * jax.random.normal(user, (config.users, config.dim)),
            "user_content": config.scale * jax.random.normal(user_content, (config.users, config.content)),
            "item": config.scale * jax.random.normal(item, (config.items, config.dim)),
            "item_bias": jnp.zeros((config.items, 1)),
        }
        net = {
            "content": {"kernel": jax.random.normal(kernel, (config.features, config.content)) / config.features**0.5},
            "bias": {"kernel": jnp.zeros((config.features, 1))},
        }
        return {"tables": tables, "net": net, "fixed": {"item": jnp.asarray(features, jnp.float32)}, "auxiliary": {}}

    def query(params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        own, content = (embed.lookup(params["tables"][name], batch["user"]) for name in ("user", "user_content"))
        return jnp.concatenate([own, content, jnp.ones_like(own[..., :1])], axis=-1)

    def items(params: Params, ids: jax.Array | None = None) -> jax.Array:
        own, bias = (embed.lookup(params["tables"][name], ids) for name in ("item", "item_bias"))
        inputs = embed.lookup(params["fixed"]["item"], ids)
        content, more = (inputs @ params["net"][name]["kernel"] for name in ("content", "bias"))
        return jnp.concatenate([own, content, bias + more], axis=-1)

    def hidden_activations(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {name: embed.lookup(params["tables"][name], batch["user"]) for name in ("user", "user_content")}

    def touched(batch: Batch) -> dict[str, jax.Array] | None:
        if "item" not in batch:  # scored against the whole catalog
            return None
        user, item = batch["user"], batch["item"]
        return {"user": user, "user_content": user, "item": item, "item_bias": item}

    return RetrievalModel(init, query, items, hidden_activations, touched)
