"""Every model on a log with a planted structure, one line a model; test_models_battery.py runs over them.

A model of clicks sees all 64 combinations of three fields of four values each, and which of them click. A retrieval
model sees users of two tastes: a user likes the items whose number leaves the same remainder as the user's when divided
by two. There are values, users and items that no example has.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from recjax import losses, models

RNG = np.random.default_rng(0)

FIELDS = models.Fields(features=14, fields=3, dim=4, scale=0.5)
VALUES = RNG.permutation(np.indices((4, 4, 4)).reshape(3, -1).T)
PARITY = (VALUES[:, 0] + VALUES[:, 2]) % 2  # no weights of single values can tell it
ONE_VALUE = VALUES[:, 0] % 2

USERS, ITEMS, DIM = 14, 10, 3
USER, ITEM = np.arange(12, dtype=np.int32), np.arange(8, dtype=np.int32)
LIKES = USER[:, None] % 2 == ITEM % 2
SEEN = np.pad(LIKES, ((0, 0), (0, ITEMS - len(ITEM)))).astype(np.float32)
USER_FEATURES, ITEM_FEATURES = (RNG.normal(size=shape).astype(np.float32) for shape in ((USERS, 4), (ITEMS, 5)))
TASTY = ITEM_FEATURES + 9 * (np.arange(ITEMS) % 2)[:, None].astype(np.float32)
EDGES = np.nonzero(SEEN)  # of users 0 to 11 and items 0 to 7
OWNED = np.stack([np.flatnonzero(row) for row in SEEN]).astype(np.int32)
SOFTPLUS_OF_MINUS_ONE = math.log1p(math.exp(-1))  # the least cross-entropy of cosines

INPUTS = RNG.normal(size=(64, 5)).astype(np.float32)
QUADRANT = 2 * (INPUTS[:, 0] > 0) + (INPUTS[:, 1] > 0)


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, what it sees, and what is expected of it.

    Attributes:
      model: by the contract.
      batch: the examples, ``[rows, ...]``; of a retrieval model with ``item [rows, items]``, which to score.
      width: of a query, or of the logits.
      hidden_activations: the shape of one row of each.
      loss: of the scores of the batch, ``[rows, outputs or items]``.
      trivial: the loss of the best scores that are the same for all rows.
      least: the least loss there is.
      fit: gives the parameters of a model in closed form; else it is trained by gradients.
      dense: whether a step reads all rows of the tables, or there are none.
    """

    model: Any
    batch: dict[str, np.ndarray]
    width: int
    hidden_activations: dict[str, tuple[int, ...]]
    loss: Callable[[jax.Array], jax.Array]
    trivial: float
    least: float = 0.0
    fit: Callable[[], Any] | None = None
    dense: bool = False


def of_table(item: np.ndarray) -> models.Params:
    return {"tables": {"item": item}, "net": {}, "fixed": {}, "auxiliary": {}}


def clicks(model: models.CTRModel, label: np.ndarray = PARITY, **hidden_activations: int) -> Case:
    """A model of fields; ``hidden_activations`` are widths."""

    def loss(logits: jax.Array) -> jax.Array:
        return losses.binary_cross_entropy(logits[:, 0], jnp.asarray(label, jnp.float32)).mean()

    batch = {"fields": (VALUES + np.array([0, 4, 8])).astype(np.int32)}
    return Case(
        model, batch, 1, {name: (width,) for name, width in hidden_activations.items()}, loss, trivial=math.log(2)
    )


def tastes(
    model: models.RetrievalModel,
    width: int,
    hidden_activations: dict[str, tuple[int, ...]],
    known: dict[str, np.ndarray] | None = None,
    least: float = 0.0,
    fit: Callable[[], Any] | None = None,
    dense: bool = False,
) -> Case:
    """A model of users, or of what is ``known`` of them in further arrays, ``[len(USER), ...]``."""

    def loss(scores: jax.Array) -> jax.Array:
        return losses.binary_cross_entropy(scores, jnp.asarray(LIKES, jnp.float32)).mean()

    batch = {"user": USER, "item": np.tile(ITEM, (len(USER), 1)), **(known or {})}
    return Case(model, batch, width, hidden_activations, loss, math.log(2), least, fit, dense)


def quadrants(model: models.CTRModel, **hidden_activations: int) -> Case:
    """A model of numbers, which tells four classes apart."""

    def loss(logits: jax.Array) -> jax.Array:
        return losses.softmax_cross_entropy(logits, jnp.asarray(QUADRANT)).mean()

    activations = {name: (width,) for name, width in hidden_activations.items()}
    return Case(model, {"inputs": INPUTS}, 4, activations, loss, trivial=math.log(4), dense=True)


HIDDEN = (7, 6)
OF_DNN = {"embedding": 12, "hidden_0": 7, "hidden_1": 6}
OF_STREAMS = {"embedding": 12, "stream_0_hidden_0": 7, "stream_0_output": 6, "stream_1_output": 4}
STREAMS = models.FinalMlp(hidden=(HIDDEN, (4,)), gate=(5,), heads=2)
GATED = dataclasses.replace(STREAMS, context=((0,), (2, 1)))
PAST = np.stack([(USER % 2 + step) % 8 for step in (4, 0, 2, 4)], axis=1).astype(np.int32)  # of the user's taste
AGES = np.tile(np.float32([90, 20, 3, 0]), (len(USER), 1))
SEQUENCES = {"items": ITEMS, "length": 4, "dim": 4, "scale": 0.5}
TOWERS = models.TwoTower(users=USERS, items=ITEMS, user_features=4, item_features=5, dim=DIM, hidden=7)

CASES = {
    "logistic_regression": clicks(models.logistic_regression(FIELDS), ONE_VALUE),
    "factorization_machine": clicks(models.factorization_machine(FIELDS), embedding=12),
    "dnn": clicks(models.dnn(FIELDS, hidden=HIDDEN), **OF_DNN),
    "wide_and_deep": clicks(models.wide_and_deep(FIELDS, hidden=HIDDEN), **OF_DNN),
    "deepfm": clicks(models.deepfm(FIELDS, hidden=HIDDEN), **OF_DNN),
    "dcn_v2": clicks(models.dcn_v2(FIELDS, hidden=HIDDEN, crosses=2), **OF_DNN, cross_0=12, cross_1=12),
    "finalmlp": clicks(models.finalmlp(FIELDS, GATED), **OF_STREAMS),
    "finalmlp, gates of no field": clicks(models.finalmlp(FIELDS, STREAMS), **OF_STREAMS),
    "mlp": quadrants(models.mlp(models.Mlp(widths=(5, 7, 4))), hidden_0=7),
    "matrix_factorization": tastes(
        models.matrix_factorization(models.MatrixFactorization(users=USERS, items=ITEMS, dim=DIM)),
        DIM + 1,
        {"user": (DIM,)},
    ),
    "two_tower": tastes(
        models.two_tower(TOWERS, jnp.asarray(USER_FEATURES), jnp.asarray(ITEM_FEATURES)),
        DIM + 1,
        {"user": (DIM,), "hidden_0": (7,)},
    ),
    "ease": tastes(
        models.ease(models.Ease(items=ITEMS)),
        ITEMS,
        {"history": (ITEMS,)},
        {"history": OWNED},
        fit=lambda: of_table(models.ease_by_items(sp.csr_array(SEEN), regularization=1.0).weights.T),
        dense=True,
    ),
    "elsa": tastes(models.elsa(models.Elsa(items=ITEMS, dim=DIM)), DIM + 1, {"history": (DIM,)}, {"history": OWNED}),
    "content_based": tastes(
        models.content_based(models.ContentBased(items=ITEMS, features=5)),
        5,
        {"profile": (5,)},
        {"history": OWNED},
        fit=lambda: models.fit_content_based(TASTY),
        dense=True,
    ),
    "lightgcn": tastes(
        models.lightgcn(models.LightGcn(users=USERS, items=ITEMS, dim=DIM, layers=2), *EDGES),
        DIM,
        {"user": (DIM,), "propagated": (DIM,)},
        dense=True,
    ),
    "simplex": tastes(
        models.simplex(models.SimpleX(users=USERS, items=ITEMS, dim=DIM)),
        DIM,
        {"user": (DIM,), "history": (DIM,)},
        {"history": OWNED},
        least=SOFTPLUS_OF_MINUS_ONE,
        dense=True,
    ),
    "vbpr": tastes(
        models.vbpr(models.Vbpr(users=USERS, items=ITEMS, features=5, dim=DIM, content=2), jnp.asarray(ITEM_FEATURES)),
        DIM + 3,
        {"user": (DIM,), "user_content": (2,)},
    ),
    "sasrec": tastes(models.sasrec(models.SasRec(**SEQUENCES, blocks=1)), 4, {"block_0": (4,)}, {"history": PAST}),
    "bsarec": tastes(
        models.bsarec(models.BsaRec(**SEQUENCES, blocks=1, cutoff=1)), 4, {"block_0": (4,)}, {"history": PAST}
    ),
    "gru4rec": tastes(models.gru4rec(models.Gru4Rec(**SEQUENCES, hidden=5)), 4, {"layer_0": (5,)}, {"history": PAST}),
    "hstu": tastes(
        models.hstu(models.Hstu(**SEQUENCES, blocks=1, time_buckets=6)),
        4,
        {"block_0": (4,)},
        {"history": PAST, "age": AGES},
    ),
}
