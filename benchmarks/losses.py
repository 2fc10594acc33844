"""Losses, forward and backward: ``[1024, 1000]`` scores, jitted, against PyTorch.

    python -m benchmarks losses --json benchmarks/results/losses.json

What is timed is the mean of the loss and its gradient in the student. Losses between the members of a batch get 256 of
64 dimensions: they make a square of them. Beside PyTorch as it comes, three losses also by ``torch.compile``, which
needs a C++ compiler and takes half a minute a loss. Two cores; two minutes.
"""

import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import compare
from recjax import losses

LISTS, ITEMS, MEMBERS, WIDTH = 1024, 1000, 256, 64
COMPILED = ("soft_target_kl", "standardized_kl", "relaxed_ranking")
TAU = 2.0


def peers() -> dict[str, tuple[Callable[..., jax.Array], Callable[..., Any], bool]]:
    """``{loss: (ours, the same in PyTorch, whether it compares the members of a batch)}``."""
    import torch
    from torch.nn import functional as F

    def kl(s: Any, t: Any) -> Any:
        return TAU**2 * F.kl_div(
            (s / TAU).log_softmax(-1), (t / TAU).log_softmax(-1), reduction="none", log_target=True
        ).sum(-1)

    def standardized(x: Any) -> Any:
        return (x - x.mean(-1, keepdim=True)) / (1e-7 + x.std(-1, keepdim=True, correction=0))

    def relaxed(s: Any, t: Any) -> Any:
        listed, others = s[:, :40], s[:, 40:]
        tail = torch.logcumsumexp(listed.flip(-1), -1).flip(-1)
        return -(listed - torch.logaddexp(tail, others.logsumexp(-1, keepdim=True))).sum(-1)

    def distances(x: Any) -> Any:
        squares = x.square().sum(-1)
        d = (squares[:, None] + squares - 2 * x @ x.T).clamp(min=1e-12).sqrt() * (1 - torch.eye(len(x)))
        return d / d[d > 0].mean()

    def cosines(x: Any) -> Any:
        x = F.normalize(x, dim=-1)
        return x @ x.T

    return {
        "softmax_cross_entropy": (
            lambda s, t: losses.softmax_cross_entropy(s, jnp.arange(len(s)) % s.shape[1]),
            lambda s, t: F.cross_entropy(s, torch.arange(len(s)) % s.shape[1], reduction="none"),
            False,
        ),
        "binary_cross_entropy": (
            lambda s, t: losses.binary_cross_entropy(s, (t > 0).astype(s.dtype)),
            lambda s, t: F.binary_cross_entropy_with_logits(s, (t > 0).to(s.dtype), reduction="none"),
            False,
        ),
        "bpr": (losses.bpr, lambda s, t: -F.logsigmoid(s - t), False),
        "mean_squared_error": (
            losses.mean_squared_error,
            lambda s, t: F.mse_loss(s, t, reduction="none").mean(-1),
            False,
        ),
        "soft_target_kl": (lambda s, t: losses.soft_target_kl(s, t, temperature=TAU), kl, False),
        "soft_target_ce": (
            lambda s, t: losses.soft_target_ce(s, t, temperature=TAU),
            lambda s, t: F.cross_entropy(s / TAU, (t / TAU).softmax(-1), reduction="none"),
            False,
        ),
        "soft_target_bce": (
            lambda s, t: losses.soft_target_bce(s, t, temperature=TAU),
            lambda s, t: F.binary_cross_entropy_with_logits(s / TAU, (t / TAU).sigmoid(), reduction="none"),
            False,
        ),
        "standardized_kl": (
            lambda s, t: losses.standardized_kl(s, t, temperature=TAU),
            lambda s, t: kl(standardized(s), standardized(t)),
            False,
        ),
        "relaxed_ranking": (lambda s, t: losses.relaxed_ranking(s[:, :40], s[:, 40:]), relaxed, False),
        "hint": (losses.hint, lambda s, t: (s - t).square().sum(-1), False),
        "cosine_hint": (losses.cosine_hint, lambda s, t: 1 - F.cosine_similarity(s, t), False),
        "listwise_bce": (
            losses.listwise_bce,
            lambda s, t: F.binary_cross_entropy(
                *(x.sigmoid() / x.sigmoid().sum(-1, keepdim=True) for x in (s, t)), reduction="none"
            ),
            False,
        ),
        "relational_distance": (
            losses.relational_distance,
            lambda s, t: F.smooth_l1_loss(distances(s), distances(t), reduction="none"),
            True,
        ),
        "similarity_preserving": (
            losses.similarity_preserving,
            lambda s, t: (F.normalize(s @ s.T, dim=1) - F.normalize(t @ t.T, dim=1)).square(),
            True,
        ),
        "topology": (losses.topology, lambda s, t: (cosines(s) - cosines(t)).square(), True),
    }


def run(shape: tuple[int, int] = (LISTS, ITEMS), members: int = MEMBERS, repeats: int = 9) -> list[dict[str, Any]]:
    """Ours beside PyTorch, checked to give the same mean and gradient."""
    import torch

    rng = np.random.default_rng(0)
    rows = []
    for name, (ours, theirs, batch) in peers().items():
        size = (members, WIDTH) if batch else shape
        student, teacher = (rng.normal(size=size).astype(np.float32) for _ in range(2))
        jitted = jax.jit(jax.value_and_grad(lambda s, t, loss=ours: loss(s, t).mean()))
        arrays = jnp.asarray(student), jnp.asarray(teacher)
        leaf, fixed = torch.from_numpy(student).requires_grad_(), torch.from_numpy(teacher)

        def mine(jitted: Any = jitted, arrays: Any = arrays) -> Any:
            return jax.block_until_ready(jitted(*arrays))

        def other(function: Any, leaf: Any = leaf, fixed: Any = fixed) -> Any:
            value = function(leaf, fixed).mean()
            return value.detach(), torch.autograd.grad(value, leaf)[0]

        for found, expected in zip(mine(), other(theirs), strict=True):
            scale = float(expected.abs().max())
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-3 * scale, err_msg=name)
        ways = {"PyTorch": theirs}
        if name in COMPILED and shutil.which("g++") and shape == (LISTS, ITEMS):
            ways["torch.compile"] = torch.compile(theirs)
        for peer, function in ways.items():
            case = f"{name}, {list(size)}"
            rows.append(
                compare("losses", case, mine, lambda f=function: other(f), peer=peer, package="torch", repeats=repeats)
            )
    return rows
