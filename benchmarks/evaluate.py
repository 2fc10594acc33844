"""Full-catalog evaluation at Gowalla's size: 30,000 users x 40,000 items x 64 dimensions, NDCG@20 and Recall@20.

    python -m benchmarks evaluate --json benchmarks/results/evaluate.json

The peer does the same in PyTorch: blocks of 128 users, one matrix product, minus infinity where an item is in train,
``torch.topk``, and a binary search for the hits. Vectors are Gaussian: a selection costs the same whatever they are.
On a CPU there is one JAX device a core, which ``rank`` spreads its blocks over. Two cores; a minute.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import compare
from recjax import metrics
from recjax.data import Interactions, Split, dataset, seen
from recjax.evaluate import Scorer, rank
from recjax.machine import one_device_per_core

USERS, ITEMS, DIM, K, BLOCK = 30_000, 40_000, 64, 20, 128
TRAIN, TEST = 27, 7  # rows a user, about Gowalla's


def data() -> tuple[np.ndarray, np.ndarray, Interactions, Interactions]:
    """Vectors and a log of distinct items a user, cut into train and test."""
    rng = np.random.default_rng(0)
    queries, vectors = (rng.normal(size=(rows, DIM)).astype(np.float32) for rows in (USERS, ITEMS))
    rows = TRAIN + TEST
    chosen = rng.integers(0, ITEMS // rows, (USERS, rows)) + np.arange(rows) * (ITEMS // rows)
    chosen = rng.permuted(chosen, axis=1).astype(np.int32)
    names = np.arange(USERS).astype(str), np.arange(ITEMS).astype(str)

    def log(part: np.ndarray) -> Interactions:
        return Interactions(np.repeat(np.arange(USERS, dtype=np.int32), part.shape[1]), part.ravel(), *names)

    return queries, vectors, log(chosen[:, :TRAIN]), log(chosen[:, TRAIN:])


def _score(params: tuple[jax.Array, jax.Array], batch: dict[str, jax.Array]) -> jax.Array:
    return params[0][batch["user"]] @ params[1].T


def run() -> list[dict[str, Any]]:
    """Both ways, checked to agree, then timed."""
    import torch

    one_device_per_core()
    queries, vectors, train, test = data()

    whole = dataset(Split(train, train.take(slice(0)), test, {}))
    scorer = Scorer(_score, (jnp.asarray(queries), jnp.asarray(vectors)), 0)

    def ours() -> tuple[float, float]:
        found = rank(scorer, whole, whole.test, k=K, block=BLOCK)
        return tuple(float(jnp.mean(m(found.hits, found.relevant))) for m in (metrics.ndcg, metrics.recall))

    had, answers = seen(train), seen(test)
    q, v = torch.from_numpy(queries), torch.from_numpy(vectors)
    offsets, items = torch.from_numpy(had.offsets), torch.from_numpy(had.items).long()
    owners = np.repeat(np.arange(USERS), np.diff(answers.offsets))
    keys = torch.from_numpy(owners * ITEMS + answers.items)
    relevant = torch.from_numpy(np.diff(answers.offsets)).float()
    discount = 1 / torch.log2(torch.arange(2, K + 2).float())

    def theirs() -> tuple[float, float]:
        best = []
        for start in range(0, USERS, BLOCK):
            scores = q[start : start + BLOCK] @ v.T
            bounds = offsets[start : start + BLOCK + 1].long()
            rows = torch.repeat_interleave(torch.arange(len(bounds) - 1), bounds.diff())
            scores[rows, items[bounds[0] : bounds[-1]]] = -torch.inf
            best.append(torch.topk(scores, K).indices)
        wanted = torch.arange(USERS)[:, None] * ITEMS + torch.cat(best)
        places = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        hits = (keys[places] == wanted).float()
        ideal = torch.cumsum(discount, 0)[relevant.clamp(max=K).long() - 1]
        return float(((hits @ discount) / ideal).mean()), float((hits.sum(1) / relevant).mean())

    np.testing.assert_allclose(ours(), theirs(), rtol=1e-4)  # float32 scores in another order may swap neighbours
    case = f"{USERS} users x {ITEMS} items x {DIM}, NDCG@{K} and Recall@{K}, blocks of {BLOCK}"
    return [compare("evaluate", case, ours, theirs, peer="torch.topk on masked scores", package="torch", rows=ITEMS)]
