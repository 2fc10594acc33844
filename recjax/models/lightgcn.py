"""LightGCN: factors that are averaged along the graph of who has what (He et al., 2020)."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from recjax import embed
from recjax.models.contract import Batch, Params, Retrieval


@dataclasses.dataclass(frozen=True)
class LightGcn:
    """Settings of :func:`lightgcn`.

    Attributes:
      users: rows of the user table.
      items: rows of the item table.
      dim: length of a vector.
      layers: how many steps along the graph a vector is carried.
      scale: standard deviation of the initial entries.
    """

    users: int
    items: int
    dim: int = 64
    layers: int = 3
    scale: float = 0.1


Edges = dict[str, jax.Array]


def received(edges: Edges, vectors: jax.Array, rows: int) -> jax.Array:
    """The weighted sum of the vectors that are sent to each of the rows, by edges sorted by who receives."""
    sent = vectors[edges["from"]] * edges["weight"][:, None]
    return jax.ops.segment_sum(sent, edges["to"], rows, indices_are_sorted=True)


def make_carry(rows: int, senders: int) -> Callable[[Edges, Edges, jax.Array], jax.Array]:
    """``carry(edges, back, vectors) -> [rows, dim]``, linear in the vectors; its gradient goes ``back``.

    JAX's own transpose would scatter by edges in the wrong order, which takes three times as long. The edges get no
    gradient.
    """

    @jax.custom_vjp
    def carry(edges: Edges, back: Edges, vectors: jax.Array) -> jax.Array:
        return received(edges, vectors, rows)

    def forward(edges: Edges, back: Edges, vectors: jax.Array) -> tuple[jax.Array, Edges]:
        return received(edges, vectors, rows), back

    def backward(back: Edges, grads: jax.Array) -> tuple[None, None, jax.Array]:
        return None, None, received(back, grads, senders)

    carry.defvjp(forward, backward)
    return carry


def lightgcn(config: LightGcn, user: np.ndarray, item: np.ndarray) -> Retrieval:
    r"""LightGCN: the mean of the layers of a propagation that has no weights of its own.

    .. math::
        p_u^{(l+1)} = \sum_{i \in N_u} \frac{q_i^{(l)}}{\sqrt{|N_u|\,|N_i|}}, \quad
        q_i^{(l+1)} = \sum_{u \in N_i} \frac{p_u^{(l)}}{\sqrt{|N_u|\,|N_i|}}, \quad
        p_u = \frac{1}{L+1} \sum_{l=0}^{L} p_u^{(l)}, \quad s_{ui} = p_u^\top q_i.

    Sums along the graph are segment sums of gathered rows, a little over half the time of
    products with ``BCOO`` matrices on a CPU (730,000 edges, dim 64: 0.3 s against 0.5 s).
    A user or an item without edges keeps its own vector, divided by L + 1.

    Args:
      config: sizes; see :class:`LightGcn`.
      user: ``[edges]`` int, the user of every train row.
      item: ``[edges]`` int, its item. The edges become ``params["fixed"]``: two lists, each sorted by who receives.

    Returns:
      A :class:`~recjax.models.contract.Retrieval` with the tables ``user [users, dim]`` and ``item [items, dim]``.
      A step moves all rows, so ``touched`` is None.

    Raises:
      ValueError: if the edges lie outside the tables or aren't two lists of one length.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> import numpy as np
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
        raise ValueError(f"expected users and items of the edges, [edges] each, got {user.shape} and {item.shape}")
    for name, ids, rows in (("user", user, config.users), ("item", item, config.items)):
        if len(ids) and not 0 <= ids.min() <= ids.max() < rows:
            raise ValueError(f"{name}: expected positions in 0..{rows - 1}, got {ids.min()}..{ids.max()}")
    degrees = np.bincount(user, minlength=config.users)[user] * np.bincount(item, minlength=config.items)[item]
    weight = (1 / np.sqrt(degrees)).astype(np.float32)
    to_users, to_items = make_carry(config.users, config.items), make_carry(config.items, config.users)

    def sorted_by(receiver: np.ndarray, sender: np.ndarray) -> dict[str, jax.Array]:
        order = np.argsort(receiver, kind="stable")
        edges = {"to": receiver.astype(np.int32), "from": sender.astype(np.int32), "weight": weight}
        return {name: jnp.asarray(values[order]) for name, values in edges.items()}

    def init(key: jax.Array) -> Params:
        of_user, of_item = jax.random.split(key)
        tables = {
            "user": config.scale * jax.random.normal(of_user, (config.users, config.dim)),
            "item": config.scale * jax.random.normal(of_item, (config.items, config.dim)),
        }
        return {
            "tables": tables,
            "net": {},
            "fixed": {"user": sorted_by(user, item), "item": sorted_by(item, user)},
            "aids": {},
        }

    def propagated(params: Params) -> tuple[jax.Array, jax.Array]:
        users, items = (embed.lookup(params["tables"][side], None) for side in ("user", "item"))
        all_users, all_items, fixed = users, items, params["fixed"]
        for _ in range(config.layers):
            users, items = (
                to_users(fixed["user"], fixed["item"], items),
                to_items(fixed["item"], fixed["user"], users),
            )
            all_users, all_items = all_users + users, all_items + items
        return all_users / (config.layers + 1), all_items / (config.layers + 1)

    def query(params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        return embed.lookup(propagated(params)[0], batch["user"])

    def items(params: Params, ids: jax.Array | None = None) -> jax.Array:
        return embed.lookup(propagated(params)[1], ids)

    def taps(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {"user": embed.lookup(params["tables"]["user"], batch["user"]), "propagated": query(params, batch)}

    def touched(batch: Batch) -> dict[str, jax.Array] | None:
        return None

    return Retrieval(init, query, items, taps, touched)
