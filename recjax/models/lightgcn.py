"""LightGCN: embeddings propagated over the user-item graph (He et al., 2020)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recjax import embed
from recjax.models.contract import Batch, Params, RetrievalModel


@dataclasses.dataclass(frozen=True)
class LightGcn:
    """Hyperparameters of :func:`lightgcn`.

    Attributes:
      users: rows of the user table.
      items: rows of the item table.
      dim: length of a vector.
      layers: number of propagation layers.
      scale: standard deviation of the initial entries.
    """

    users: int
    items: int
    dim: int = 64
    layers: int = 3
    scale: float = 0.1


Edges = dict[str, jax.Array]


@custom_partitioning
def _product(offsets: jax.Array, senders: jax.Array, weight: jax.Array, vectors: jax.Array) -> jax.Array:
    """:func:`received` for all members side by side; JAX's batching rule doesn't use the fast CPU kernel."""
    *members, rows, dim = vectors.shape
    graph = sparse.BCSR((weight, senders, offsets), shape=(len(offsets) - 1, rows))
    side_by_side = graph @ jnp.moveaxis(vectors.reshape(-1, rows, dim), 0, 1).reshape(rows, -1)
    return jnp.moveaxis(side_by_side.reshape(graph.shape[0], -1, dim), 1, 0).reshape(*members, -1, dim)


def _by_members(mesh: Mesh, arguments: Any, result: Any) -> tuple[Mesh, Any, NamedSharding, tuple[NamedSharding, ...]]:
    """Replicates the graph and shards members; by default, XLA gathers all members for the CPU kernel."""
    vectors = arguments[3]
    whole, split = (NamedSharding(mesh, PartitionSpec(*vectors.sharding.spec[:axes])) for axes in (0, vectors.ndim - 2))
    return mesh, _product.fun, split, (whole, whole, whole, split)


_product.def_partition(
    partition=_by_members,
    sharding_rule="o, e, e, ... s d -> ... r d",
    need_replication_factors=("o", "e", "s", "d", "r"),  # in the order of the rule
)


@jax.custom_batching.custom_vmap
def received(edges: Edges, vectors: jax.Array) -> jax.Array:
    """``[..., rows, dim]``, for each row the weighted sum of its neighbors in ``[..., senders, dim]``."""
    return _product(edges["offsets"], edges["from"], edges["weight"], vectors)


@received.def_vmap
def _received_by_members(
    members: int, batched: Sequence[Any], edges: Edges, vectors: jax.Array
) -> tuple[jax.Array, bool]:
    """Members with one graph together, members with different graphs in turn."""
    of_edges, of_vectors = batched
    if any(of_edges.values()):
        of_edges = {name: 0 if has else None for name, has in of_edges.items()}
        each = jax.vmap(lambda *one: one, in_axes=(of_edges, 0 if of_vectors else None), axis_size=members)
        return jax.lax.map(lambda one: received(*one), each(edges, vectors)), True
    return received(edges, vectors), True


@jax.custom_vjp
def carry(edges: Edges, back: Edges, vectors: jax.Array) -> jax.Array:
    """:func:`received` with the reverse graph for the gradient: a product too, where JAX's transpose is a scatter."""
    return received(edges, vectors)


def _carry_forward(edges: Edges, back: Edges, vectors: jax.Array) -> tuple[jax.Array, Edges]:
    return received(edges, vectors), back


def _carry_backward(back: Edges, grads: jax.Array) -> tuple[None, None, jax.Array]:
    return None, None, received(back, grads)


carry.defvjp(_carry_forward, _carry_backward)


def propagate(params: Params, layers: int) -> Params:
    """Parameters with propagated tables, for the model with ``layers=0``, which then gives the same scores.

    For losses that use users and items (``query`` and ``items`` propagate once each), and for serving without the
    graph.

    Args:
      params: of :func:`lightgcn`.
      layers: number of layers, as in :class:`LightGcn`.

    Returns:
      Parameters with the tables ``user [users, dim]`` and ``item [items, dim]``, and no edges.

    Examples:
      >>> edges, none = (np.array([0, 0, 2]), np.array([1, 4, 4])), np.array([], int)
      >>> model = lightgcn(LightGcn(users=3, items=5, dim=4, layers=2), *edges)
      >>> served = lightgcn(LightGcn(users=3, items=5, dim=4, layers=0), none, none)
      >>> params = model.init(jax.random.key(0))
      >>> bool(jnp.array_equal(served.items(propagate(params, layers=2)), model.items(params)))
      True
    """
    users, items = (embed.lookup(params["tables"][side], None) for side in ("user", "item"))
    all_users, all_items, fixed = users, items, params["fixed"]
    for _ in range(layers):
        users, items = carry(fixed["user"], fixed["item"], items), carry(fixed["item"], fixed["user"], users)
        all_users, all_items = all_users + users, all_items + items
    tables = {"user": all_users / (layers + 1), "item": all_items / (layers + 1)}
    return {"tables": tables, "net": {}, "fixed": {}, "auxiliary": {}}


def lightgcn(config: LightGcn, user: np.ndarray, item: np.ndarray) -> RetrievalModel:
    r"""LightGCN: the mean over layers of an unweighted graph convolution.

    .. math::
        p_u^{(l+1)} = \sum_{i \in N_u} \frac{q_i^{(l)}}{\sqrt{|N_u|\,|N_i|}}, \quad
        q_i^{(l+1)} = \sum_{u \in N_i} \frac{p_u^{(l)}}{\sqrt{|N_u|\,|N_i|}}, \quad
        p_u = \frac{1}{L+1} \sum_{l=0}^{L} p_u^{(l)}, \quad s_{ui} = p_u^\top q_i.

    A user or item without edges keeps its own vector, divided by L + 1.

    Args:
      config: see :class:`LightGcn`.
      user: ``[edges]`` int, the user of each train row.
      item: ``[edges]`` int, its item. The edges become ``params["fixed"]``.

    Returns:
      A :class:`~recjax.models.contract.RetrievalModel` with the tables ``user [users, dim]`` and ``item [items, dim]``.
      A step changes all rows, so ``touched`` is None.

    Raises:
      ValueError: if the edges are outside the tables or the two arrays differ in length.

    Examples:
      >>> model = lightgcn(LightGcn(users=3, items=5, dim=4), np.array([0, 0, 2]), np.array([1, 4, 4]))
      >>> params = model.init(jax.random.key(0))
      >>> (model.query(params, {"user": jnp.array([0, 2])}) @ model.items(params).T).shape
      (2, 5)

    References:
      He et al., `LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation
      <https://arxiv.org/abs/2002.02126>`_, SIGIR 2020, equations 3, 4 and 5.
    """
    user, item = np.asarray(user), np.asarray(item)
    if user.ndim != 1 or user.shape != item.shape:
        raise ValueError(f"user and item: expected shape [edges] each, got {user.shape} and {item.shape}")
    for name, ids, rows in (("user", user, config.users), ("item", item, config.items)):
        if len(ids) and not 0 <= ids.min() <= ids.max() < rows:
            raise ValueError(f"{name}: expected positions in 0..{rows - 1}, got {ids.min()}..{ids.max()}")
    degrees = np.bincount(user, minlength=config.users)[user] * np.bincount(item, minlength=config.items)[item]
    weight = (1 / np.sqrt(degrees)).astype(np.float32)

    def sorted_by(receiver: np.ndarray, sender: np.ndarray, rows: int) -> Edges:
        order = np.argsort(receiver, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.bincount(receiver, minlength=rows))])
        edges = {"offsets": offsets.astype(np.int32), "from": sender[order].astype(np.int32), "weight": weight[order]}
        return {name: jnp.asarray(values) for name, values in edges.items()}

    def init(key: jax.Array) -> Params:
        of_user, of_item = jax.random.split(key)
        tables = {
            "user": config.scale * jax.random.normal(of_user, (config.users, config.dim)),
            "item": config.scale * jax.random.normal(of_item, (config.items, config.dim)),
        }
        return {
            "tables": tables,
            "net": {},
            "fixed": {"user": sorted_by(user, item, config.users), "item": sorted_by(item, user, config.items)},
            "auxiliary": {},
        }

    def query(params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        return embed.lookup(propagate(params, config.layers)["tables"]["user"], batch["user"])

    def items(params: Params, ids: jax.Array | None = None) -> jax.Array:
        return embed.lookup(propagate(params, config.layers)["tables"]["item"], ids)

    def hidden_activations(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {"user": embed.lookup(params["tables"]["user"], batch["user"]), "propagated": query(params, batch)}

    def touched(batch: Batch) -> dict[str, jax.Array] | None:
        return None

    return RetrievalModel(init, query, items, hidden_activations, touched)
