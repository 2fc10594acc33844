"""Answers to several queries at once, from one pass over the tables of an artifact."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from recjax.artifact._answers import Query, Recommendations
from recjax.artifact._kinds import HISTORY_KINDS, MMR
from recjax.artifact._tables import sum_rows
from recjax.artifact._top_k import diverse
from recjax.errors import InputError

if TYPE_CHECKING:
    from recjax.artifact._model import Artifact, _Histories


class _Asked(NamedTuple):
    """A query by positions.

    Attributes:
      query: what was asked for.
      position: of a user whose stored vector answers; -1 where the history does.
      read: ``[n]`` items that the model reads, oldest first.
      left_out: ``[n]`` items that may not come.
      allowed: ``[items]`` bool, which may come; None for all.
      known: whether the model answers, and not popularity.
      unknown_items: items of the given history that the catalog lacks.
      count: items to select.
    """

    query: Query
    position: int
    read: np.ndarray
    left_out: np.ndarray
    allowed: np.ndarray | None
    known: bool
    unknown_items: int
    count: int


def _pairs(lists: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Lists as pairs of the number of a list and an entry."""
    rows = np.repeat(np.arange(len(lists)), [len(one) for one in lists])
    return rows, np.concatenate([*lists, np.zeros(0, np.int64)])


def answer(model: "Artifact", queries: Sequence[Query]) -> list[Recommendations]:
    """The lists of several queries; see :meth:`recjax.artifact.Artifact.answer`."""
    asked, groups = [_asked(model, query) for query in queries], {}
    answers = [Recommendations(())] * len(asked)
    for place, one in enumerate(asked):
        if one.known:
            groups.setdefault(id(one.query.within), []).append(place)
        else:
            best = model._popular((np.zeros_like(one.left_out), one.left_out), one.count, one.allowed)
            answers[place] = _listed(model, one, *best)
    step = model._at_once
    for places in groups.values():
        for start in range(0, len(places), step):
            part = [asked[place] for place in places[start : start + step]]
            exclude = _pairs([one.left_out for one in part])
            count = max(one.count for one in part)
            best = model._best(*_together(model, part), exclude, len(part), count, part[0].allowed)
            for place, one, items, scores in zip(places[start : start + step], part, *best, strict=True):
                answers[place] = _listed(model, one, items[: one.count], scores[: one.count])
    return answers


def _asked(model: "Artifact", query: Query) -> _Asked:
    """A query, checked and by positions."""
    user, kind = query.user, model.card["kind"]
    if (user is None) == (query.history is None):
        raise InputError(f"expected a user or a history, got {'none' if user is None else 'both'}")
    model._check_k(query.k)
    if not 0 <= query.diversity <= 1:
        raise InputError(f"diversity: expected 0 to 1, got {query.diversity}")
    position = model.user_ids.find([str(user)]) if user is not None else np.array([-1])
    stored = position[position >= 0]
    given = model.item_ids.find(map(str, query.recent if query.history is None else query.history))
    new = given[given >= 0]
    if kind == "popularity" and query.history is not None:
        raise InputError("history: expected a model with vectors of items, got one of kind popularity")
    seen = np.concatenate([model._lists(model.seen, stored)[1], new])
    read = seen if kind == "vectors" else np.concatenate([model._lists(model._read, stored)[1], new])
    own = bool(stored.size and model._known(stored)[0])
    left_out = [np.zeros(0, np.int64) if query.include_seen else seen, model._positions(query.exclude)]
    count = query.k if query.diversity == 0 else min(max(query.k, MMR), len(model.item_ids))
    return _Asked(
        query,
        int(position[0]) if own and not new.size else -1,
        read,
        np.concatenate(left_out).astype(np.int64),
        model._mask(query.within),
        own or new.size > 0,
        int((given < 0).sum()),
        count,
    )


def _together(model: "Artifact", part: Sequence[_Asked]) -> "tuple[np.ndarray | None, _Histories | None]":
    """What some queries are scored by."""
    if model.card["kind"] == "vectors":
        places = np.array([one.position for one in part])
        vectors = np.empty((len(part), model.tables["item"].shape[1]), np.float32)
        if (places >= 0).any():
            vectors[places >= 0] = model.tables["user"].rows(model._vector_rows(places[places >= 0])[0])
        for row in np.flatnonzero(places < 0).tolist():
            vectors[row] = _fold_in(model, np.unique(part[row].read))
        return vectors, None
    if model.card["kind"] not in HISTORY_KINDS:
        return None, None
    rows, items = _pairs([one.read for one in part])
    return model._queries(np.arange(len(part)), model._histories_of(rows, items, len(part)))


def _listed(model: "Artifact", asked: _Asked, items: np.ndarray, scores: np.ndarray) -> Recommendations:
    if asked.query.diversity > 0:
        items, scores = items[scores > -np.inf], scores[scores > -np.inf]
        chosen = diverse(scores, model._vectors().rows(items), asked.query.k, asked.query.diversity)
        items, scores = items[chosen], scores[chosen]
    return model._named(items, scores, known=asked.known, unknown_items=asked.unknown_items)


def _fold_in(model: "Artifact", items: np.ndarray) -> np.ndarray:
    """``[dim]``, the vector of a user who has some items; see :meth:`recommend`."""
    squares, biased = model._gram
    target = sum_rows(model.tables["item"], items) - biased
    ridge = squares + model.card.get("ridge", 0.01) * np.eye(len(squares))
    return np.linalg.lstsq(ridge, target)[0].astype(np.float32)
