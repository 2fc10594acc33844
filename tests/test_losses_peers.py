"""Losses against the same in other libraries: optax, and PyTorch where it is installed (``pip install '.[peers]'``)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from loss_cases import arguments_of, masks_of

from recjax import losses


def test_equals_its_peer():
    with jax.enable_x64(True):
        logits, labels = map(jnp.asarray, arguments_of("ce", dtype="float64"))
        student, teacher = map(jnp.asarray, arguments_of("kl", dtype="float64"))
        _, classes = map(jnp.asarray, arguments_of("ce-ids", dtype="float64"))
        where = jnp.asarray(masks_of("ce")["where"]).at[0].set(True)
        tau = 3.0
        log_q = jax.nn.log_softmax(student / tau)
        pairs = [
            (losses.binary_cross_entropy(logits, labels), optax.sigmoid_binary_cross_entropy(logits, labels)),
            (losses.softmax_cross_entropy(logits, labels), optax.softmax_cross_entropy(logits, labels)),
            (
                losses.softmax_cross_entropy(logits, labels, where=where),
                optax.softmax_cross_entropy(logits, labels, where=where),
            ),
            (
                losses.softmax_cross_entropy(logits, classes),
                optax.softmax_cross_entropy_with_integer_labels(logits, classes),
            ),
            (
                losses.soft_target_kl(student, teacher, temperature=tau),
                tau**2 * optax.kl_divergence(log_q, jax.nn.softmax(teacher / tau)),
            ),
            (losses.mean_squared_error(student, teacher), optax.squared_error(student, teacher).mean(-1)),
            (losses.hint(student, teacher), optax.squared_error(student, teacher).sum(-1)),
        ]
    for ours, peer in pairs:
        np.testing.assert_allclose(ours, peer, rtol=1e-12, atol=1e-13)


def test_equals_pytorch():
    """Pairs of float64 arrays; the PyTorch side is written with its own losses and distances."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    F = torch.nn.functional
    rng = np.random.default_rng(0)
    student, teacher, members = rng.normal(size=(6, 5)), rng.normal(size=(6, 5)), rng.normal(size=(6, 3))
    s, t, m = (torch.from_numpy(x) for x in (student, teacher, members))
    tau = 3.0
    softened = F.log_softmax(s / tau, -1), F.softmax(t / tau, -1)
    triangles = [F.normalize(x[:, None] - x[None], dim=-1) for x in (m, t)]
    angles = [torch.einsum("ijd,kjd->ijk", edges, edges) for edges in triangles]
    distances = [torch.cdist(x, x) for x in (m, t)]
    relative = [d / d[d > 0].mean() for d in distances]
    grams = [F.normalize(x @ x.T, dim=1) for x in (m, t)]
    cosines = [F.cosine_similarity(x[:, None], x[None], dim=-1) for x in (m, t)]
    listed = [torch.sigmoid(x) / torch.sigmoid(x).sum(-1, keepdim=True) for x in (s, t)]
    maps = [F.normalize(x.pow(2).mean(-1), dim=-1) for x in (s[None], t[None])]
    with jax.enable_x64(True):
        pairs = {
            "kl": (
                losses.soft_target_kl(student, teacher, temperature=tau),
                tau**2 * F.kl_div(*softened, reduction="none").sum(-1),
            ),
            "ce": (losses.soft_target_ce(student, teacher), F.cross_entropy(s, F.softmax(t, -1), reduction="none")),
            "bce": (
                losses.soft_target_bce(student, teacher, temperature=tau),
                F.binary_cross_entropy_with_logits(s / tau, torch.sigmoid(t / tau), reduction="none"),
            ),
            "listwise": (losses.listwise_bce(student, teacher), F.binary_cross_entropy(*listed, reduction="none")),
            "bpr": (losses.unbiased_pairs(student, teacher), -F.logsigmoid(s - t)),
            "cosine": (losses.cosine_hint(student, teacher), 1 - F.cosine_similarity(s, t)),
            "attention": (losses.attention_transfer(student[None], teacher[None]), F.mse_loss(*maps)[None]),
            "distance": (
                losses.relational_distance(members, teacher),
                F.smooth_l1_loss(*relative, reduction="none"),
            ),
            "angle": (losses.relational_angle(members, teacher), F.smooth_l1_loss(*angles, reduction="none")),
            "similarity": (losses.similarity_preserving(members, teacher), F.mse_loss(*grams, reduction="none")),
            "topology": (losses.topology(members, teacher), F.mse_loss(*cosines, reduction="none")),
        }
    for name, (ours, theirs) in pairs.items():
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-9, atol=1e-10, err_msg=name)
