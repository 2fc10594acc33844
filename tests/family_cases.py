"""Every family on a toy data set with a planted structure, one line a family; test_families.py runs over them.

A user of the retrieval data likes the items whose number leaves the same remainder when divided by two, and has all but
one of them by the test, so the only right item is the one that is left. Two users in three like the even items, which
is all that popularity can tell. A CTR model sees all 64 combinations of three fields of four values each, and which of
them click.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from recjax import data, families, models

USERS, ITEMS = 18, 12
RNG = np.random.default_rng(0)
USER_TASTE, ITEM_TASTE = (np.arange(USERS) % 3 == 2).astype(int), np.arange(ITEMS) % 2


def _features(taste: np.ndarray) -> data.Features:
    columns = np.stack([taste, 1 - taste, RNG.random(len(taste))], axis=1)
    return data.Features(columns.astype(np.float32), ("odd", "even", "noise"))


def _dataset() -> data.Dataset:
    """A user takes the items that they like in turn, from any one on; the last one is test, the one before valid."""
    likes = [np.roll(np.flatnonzero(taste == ITEM_TASTE), -user) for user, taste in enumerate(USER_TASTE)]
    user, item = np.repeat(np.arange(USERS, dtype=np.int32), ITEMS // 2), np.concatenate(likes).astype(np.int32)
    log = data.Interactions(
        user,
        item,
        np.arange(USERS).astype(str),
        np.arange(ITEMS).astype(str),
        timestamp=np.arange(len(user), dtype=float),
        user_features=_features(USER_TASTE),
        item_features=_features(ITEM_TASTE),
    )
    return data.dataset(data.leave_last_out(log))


def _rows(label: np.ndarray) -> data.CTRDataset:
    rows = data.Examples((VALUES + np.array([0, 4, 8])).astype(np.int32), label.astype(np.float32))
    return data.CTRDataset(rows, rows, rows, 12)


VALUES = RNG.permutation(np.indices((4, 4, 4)).reshape(3, -1).T)
LOG = _dataset()
PARITY = _rows((VALUES[:, 0] + VALUES[:, 2]) % 2)  # no weights of single values can tell it
ONE_VALUE = _rows(VALUES[:, 0] % 2)


@dataclasses.dataclass(frozen=True)
class Case:
    """A family and what is expected of it.

    Attributes:
      family: gives the model of ``dataset``.
      dataset: see above.
      least: of NDCG@1, or of AUC, on test.
      fixed: hyperparameters in place of the defaults.
      slow: trains by the code of another family, so that only ``pytest -m slow`` trains it.
    """

    family: Callable[..., families.Model]
    dataset: Any = LOG
    least: float = 0.9
    fixed: dict[str, float] = dataclasses.field(default_factory=dict)
    slow: bool = False


def sized(family: Callable[..., families.Model], **size: Any) -> Callable[..., families.Model]:
    return lambda dataset: family(dataset, **size)


SMALL = {"hidden": (16,)}
STREAMS = models.FinalMlp(hidden=((16,), (4,)), gate=(5,), heads=2)
DEEP = {"l2": 0.0, "dropout": 0.0}
HISTORY = {"dim": 8, "length": 4}

RETRIEVAL = {
    "popularity": Case(families.popularity, least=0.5),
    "item_knn": Case(families.item_knn),
    "user_knn": Case(sized(families.user_knn, neighbors=12)),
    "ease": Case(sized(families.ease, regularization=1.0)),
    "content": Case(families.content),
    "elsa": Case(sized(families.elsa, dim=4), fixed={"learning_rate": 0.2, "temperature": 0.3}),
    "mf": Case(sized(families.mf, dim=4), fixed={"weight_decay": 0.3}),
    "two_tower": Case(sized(families.two_tower, dim=4)),
    "simplex": Case(sized(families.simplex, dim=4), fixed={"margin": 0.3, "negative_weight": 1.0}),
    "lightgcn": Case(sized(families.lightgcn, dim=4)),
    "vbpr": Case(sized(families.vbpr, dim=4, content=2)),
    "sasrec": Case(sized(families.sasrec, **HISTORY, blocks=1, heads=1), fixed={"dropout": 0.1, "learning_rate": 0.01}),
    "bsarec": Case(sized(families.bsarec, **HISTORY, blocks=1, heads=1), fixed={"dropout": 0.1}, slow=True),
    "gru4rec": Case(sized(families.gru4rec, **HISTORY, hidden=8), fixed={"dropout": 0.1}, slow=True),
    "hstu": Case(sized(families.hstu, **HISTORY, blocks=1, heads=1), fixed={"dropout": 0.1}, slow=True),
}
CTR = {
    "lr": Case(families.lr, ONE_VALUE),
    "fm": Case(sized(families.fm, dim=4), PARITY, slow=True),
    "dnn": Case(sized(families.dnn, dim=4, **SMALL), PARITY, fixed=DEEP),
    "wide_and_deep": Case(sized(families.wide_and_deep, dim=4, **SMALL), PARITY, fixed=DEEP, slow=True),
    "deepfm": Case(sized(families.deepfm, dim=4, **SMALL), PARITY, fixed=DEEP, slow=True),
    "dcn_v2": Case(sized(families.dcn_v2, dim=4, **SMALL, crosses=2), PARITY, fixed=DEEP, slow=True),
    "finalmlp": Case(sized(families.finalmlp, dim=4, streams=STREAMS), PARITY, fixed=DEEP, slow=True),
}
