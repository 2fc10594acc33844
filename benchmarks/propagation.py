"""LightGCN's three layers along a graph of Gowalla's size, there and back.

    python -m benchmarks propagation --json benchmarks/results/propagation.json

29,858 users, 40,981 items and 810,128 edges, drawn by Zipf's law on either side; 64 dimensions. What is timed is the
sum of the squares of all propagated vectors and its gradient in both tables: six products there, six back. The peers
are segment sums of gathered rows in JAX, by edges sorted by who receives, and ``torch.sparse.mm`` of one symmetric
matrix, as the authors' PyTorch code has it. Two cores; two minutes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import compare
from recjax import models

USERS, ITEMS, EDGES, DIM, LAYERS = 29_858, 40_981, 810_128, 64, 3
MEMBERS = (1, 4)


def segments(edges: dict[str, dict[str, jax.Array]], layers: int) -> Callable[[Any], jax.Array]:
    """The loss with segment sums, and with a gradient that is one too."""
    flat = {}
    for side, of in edges.items():
        receivers = jnp.repeat(jnp.arange(len(of["offsets"]) - 1), jnp.diff(of["offsets"]))
        flat[side] = (receivers, of["from"], of["weight"], len(of["offsets"]) - 1)

    def summed(side: str, vectors: jax.Array) -> jax.Array:
        receivers, senders, weight, rows = flat[side]
        sent = vectors[senders] * weight[:, None]
        return jax.ops.segment_sum(sent, receivers, rows, indices_are_sorted=True)

    def carried(side: str, back: str) -> Callable[[jax.Array], jax.Array]:
        carry = jax.custom_vjp(lambda vectors: summed(side, vectors))
        carry.defvjp(lambda vectors: (summed(side, vectors), None), lambda _, grads: (summed(back, grads),))
        return carry

    to_users, to_items = carried("user", "item"), carried("item", "user")

    def loss(tables: dict[str, jax.Array]) -> jax.Array:
        users, items = tables["user"], tables["item"]
        all_users, all_items = users, items
        for _ in range(layers):
            users, items = to_users(items), to_items(users)
            all_users, all_items = all_users + users, all_items + items
        return sum(jnp.sum(jnp.square(both / (layers + 1))) for both in (all_users, all_items))

    return loss


def by_torch(params: Any, layers: int) -> Callable[[], Any]:
    """The loss and its gradients as the authors' code computes them, the tables one below the other."""
    import torch

    side = params["fixed"]["user"]
    users = len(side["offsets"]) - 1
    user, item = np.repeat(np.arange(users), np.diff(side["offsets"])), np.asarray(side["from"]) + users
    weight = np.asarray(side["weight"])
    places = np.stack([np.concatenate([user, item]), np.concatenate([item, user])])
    starts = [torch.from_numpy(np.array(params["tables"][side])).requires_grad_() for side in ("user", "item")]
    rows = sum(map(len, starts))
    graph = torch.sparse_coo_tensor(
        torch.from_numpy(places), torch.from_numpy(np.tile(weight, 2)), (rows, rows), check_invariants=True
    ).coalesce()

    def work() -> Any:
        vectors = torch.cat(starts)
        every = [vectors]
        for _ in range(layers):
            every.append(torch.sparse.mm(graph, every[-1]))
        value = torch.stack(every, dim=1).mean(dim=1).square().sum()
        return value.detach(), torch.autograd.grad(value, starts)

    return work


def run(
    users: int = USERS, items: int = ITEMS, edges: int = EDGES, members: tuple[int, ...] = MEMBERS, repeats: int = 9
) -> list[dict[str, Any]]:
    """Ours beside both, checked to give the same loss and gradients."""
    rng = np.random.default_rng(0)
    sides = []
    for rows in (users, items):
        often = 1 / np.arange(1, rows + 1)
        sides.append(rng.choice(rows, edges, p=often / often.sum()))
    model = models.lightgcn(models.LightGcn(users=users, items=items, dim=DIM, layers=LAYERS), *sides)
    params = model.init(jax.random.key(0))

    def loss(tables: dict[str, jax.Array]) -> jax.Array:
        found = models.propagate({**params, "tables": tables}, LAYERS)["tables"]
        return sum(jnp.sum(jnp.square(vectors)) for vectors in found.values())

    torch_way = by_torch(params, LAYERS)
    rows = []
    for count in members:
        ours, segmented = (
            jax.jit(jax.vmap(jax.value_and_grad(way))) for way in (loss, segments(params["fixed"], LAYERS))
        )
        tables = jax.tree.map(lambda leaf, count=count: jnp.stack([leaf] * count), params["tables"])

        def mine(ours: Any = ours, tables: Any = tables) -> Any:
            return jax.block_until_ready(ours(tables))

        def segment(segmented: Any = segmented, tables: Any = tables) -> Any:
            return jax.block_until_ready(segmented(tables))

        def torch(count: int = count) -> Any:
            return [torch_way() for _ in range(count)]

        (value, grads), (summed, of_segments), (other, of_torch) = mine(), segment(), torch_way()
        for found in (summed[0], float(other)):
            np.testing.assert_allclose(value[0], found, rtol=1e-4)
        for side, theirs in zip(("user", "item"), of_torch, strict=True):
            for expected in (theirs.numpy(), of_segments[side][0]):
                np.testing.assert_allclose(grads[side][0], expected, rtol=1e-3, atol=1e-5, err_msg=side)
        case = f"{users} users, {items} items, {edges} edges, {LAYERS} layers there and back"
        for peer, package, way in (
            ("segment sums", "jax", segment),
            ("PyTorch, torch.sparse.mm", "torch", torch),
        ):
            rows.append(
                compare("propagation", case, mine, way, peer=peer, package=package, repeats=repeats, members=count)
            )
    return rows
