"""A recommender that answers from its stored tables with NumPy."""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from recjax.artifact import _batch, _sequence
from recjax.artifact._answers import Explanation, Query, Recommendation, Recommendations
from recjax.artifact._ids import Ids, Lists, Texts, UserItems, as_sets
from recjax.artifact._kinds import HISTORY_KINDS, SCORES, SLAB, SUM_KINDS, USERS
from recjax.artifact._tables import Table, cosines, gram, products, sum_rows
from recjax.artifact._top_k import top_k
from recjax.errors import InputError


class _Histories(NamedTuple):
    """Histories of a batch: ``rows`` and ``items`` ``[entries]``, and ``weight [users]`` of each history's sum."""

    rows: np.ndarray
    items: np.ndarray
    weight: np.ndarray

    def of(self, row: int) -> np.ndarray:
        return self.items[slice(*np.searchsorted(self.rows, [row, row + 1]))]


def _inside(pairs: tuple[np.ndarray, np.ndarray], slab: slice) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of row and item whose item is in a slab, the item counted from its start."""
    rows, items = pairs
    if slab.start == 0 and (not items.size or items.max() < slab.stop):
        return pairs
    chosen = (items >= slab.start) & (items < slab.stop)
    return rows[chosen], items[chosen] - slab.start


def _batches(values: Iterable[object], size: int) -> Iterator[tuple[object, ...]]:
    values = iter(values)
    while batch := tuple(itertools.islice(values, size)):
        yield batch


@dataclasses.dataclass(frozen=True, eq=False)
class Artifact:
    """A recommender, from :func:`recjax.artifact.load` or :func:`recjax.artifact.build`.

    Attributes:
      card: what ``model.json`` says.
      tables: the stored tables by name; see :func:`recjax.artifact.save`.
      user_ids: raw ids.
      item_ids: raw ids.
      titles: one an item, ``""`` where unknown.
      seen: what each user has.
      popularity: ``[items]`` int, how many users have each item.
      recent: the latest events of each user, oldest first, for kind ``sequence``; None for all others.
      known_users: sorted positions of the users that have a row in table ``user``; None for all.

    Examples:
      >>> from recjax import artifact                                               # doctest: +SKIP
      >>> model = artifact.load("runs/ml-100k/artifact")                            # doctest: +SKIP
      >>> model.recommend("196", k=10)                                              # doctest: +SKIP
    """

    card: dict[str, Any]
    tables: dict[str, Table]
    user_ids: Ids
    item_ids: Ids
    titles: Texts
    seen: Lists
    popularity: np.ndarray
    recent: Lists | None = None
    known_users: np.ndarray | None = None

    def known(self, user: object) -> bool:
        """Whether the model scores items for a user: one with a vector, or with a history where it reads those."""
        position = self.user_ids.find([str(user)])
        return bool(position[0] >= 0 and self._known(position)[0])

    def _known(self, users: np.ndarray) -> np.ndarray:
        """``[n]`` bool, of positions of users."""
        if self.card["kind"] in HISTORY_KINDS:
            return self._read.offsets[users + 1] != self._read.offsets[users]  # reading refuses descending ones
        if self.card["kind"] == "vectors" and self.known_users is not None:
            return self._vector_rows(users)[1]
        return np.ones(len(users), bool)

    @property
    def _read(self) -> Lists:
        """What a model of histories reads of each user."""
        return self.seen if self.recent is None else self.recent

    def _vector_rows(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of users in table ``user``, and whether they have one."""
        if self.known_users is None:
            return users, np.ones(len(users), bool)
        rows = np.searchsorted(self.known_users, users)
        inside = np.minimum(rows, max(len(self.known_users) - 1, 0))
        return rows, (rows < len(self.known_users)) & (self.known_users[inside] == users)

    def top_k(self, users: np.ndarray, *, k: int, exclude: Lists | None) -> tuple[np.ndarray, np.ndarray]:
        """The best items of some known users, by position.

        Args:
          users: ``[users]`` positions.
          k: how many, at most the catalog.
          exclude: what is left out of each list; None leaves nothing out.

        Returns:
          Positions ``[users, k]`` and float32 scores ``[users, k]``, equal scores in the order of positions. Where
          fewer than ``k`` remain, a left-out item has score minus infinity.
        """
        return self._top(users, k, exclude, None)

    def scores(self, users: np.ndarray, history: np.ndarray | None = None) -> np.ndarray:
        """The scores of the whole catalog for some known users, as :meth:`top_k` ranks them.

        Args:
          users: ``[users]`` positions.
          history: ``[users, length]`` positions of items, the latest last, negative ones in front of a shorter
            history; for a model that reads histories. None for those that the artifact has.

        Returns:
          ``[users, items]`` float32.
        """
        if history is None or self.card["kind"] not in HISTORY_KINDS:
            queries = self._queries(users, self._read)
        else:
            rows, places = np.nonzero(history >= 0)
            given = self._histories_of(rows, history[rows, places], len(users))
            queries = self._queries(np.arange(len(users)), given)
        return self._scores(*queries, len(users), slice(0, len(self.item_ids)))

    def _top(
        self, users: np.ndarray, k: int, exclude: Lists | None, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        step = self._at_once
        found = [(np.zeros((0, k), np.int64), np.zeros((0, k), np.float32))]
        for start in range(0, len(users), step):
            part = users[start : start + step]
            left_out = None if exclude is None else self._lists(exclude, part)
            found.append(self._best(*self._queries(part, self._read), left_out, len(part), k, allowed))
        items, scores = (np.concatenate(column) for column in zip(*found, strict=True))
        return items, scores

    @property
    def _at_once(self) -> int:
        """Users whose scores are held at once."""
        whole_lists = self.card["kind"] in ("item_item", "popularity")
        return max(1, SCORES // (len(self.item_ids) if whole_lists else SLAB))

    def _lists(self, lists: Lists, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, items = lists.lists(users)
        if items.size and not 0 <= items.min() <= items.max() < len(self.item_ids):
            raise InputError(f"seen: expected positions below {len(self.item_ids)}, got {items.min()} to {items.max()}")
        return rows, items

    def _histories_of(self, rows: np.ndarray, items: np.ndarray, users: int) -> UserItems:
        """Pairs of a user, ascending, and an item, oldest first, as what the model reads: histories or sets."""
        if self.card["kind"] == "sequence":
            return UserItems(np.searchsorted(rows, np.arange(users + 1)), items)
        return as_sets(rows, items, users)

    def _queries(self, users: np.ndarray, history: Lists) -> tuple[np.ndarray | None, _Histories | None]:
        """What a batch of users is scored by: vectors ``[users, dim]``, or histories, or both."""
        if self.card["kind"] == "vectors":
            return self.tables["user"].rows(self._vector_rows(users)[0]), None
        if self.card["kind"] not in HISTORY_KINDS:
            return None, None
        rows, items = self._lists(history, users)
        if self.card["kind"] == "sequence":
            return _sequence.queries(self.card["net"], self._net, self.tables["item"], rows, items, len(users)), None
        weight = self._weights(np.bincount(rows, minlength=len(users)))
        histories = _Histories(rows, items, weight)
        if self.card["kind"] == "item_item":
            return None, histories
        table = self.tables.get("query", self.tables["item"])
        sums = [sum_rows(table, histories.of(row)) for row in range(len(users))]
        return np.stack(sums) * weight[:, None], histories

    @functools.cached_property
    def _net(self) -> dict[str, np.ndarray]:
        return _sequence.decoded(self.card["net"], self.tables)

    def _weights(self, lengths: np.ndarray) -> np.ndarray:
        """What the sums of histories of some lengths are multiplied by, float32."""
        weight = np.maximum(lengths, 1).astype(np.float32) ** -np.float32(self.card.get("history_exponent", 0))
        return weight * self.tables["scale"].rows(slice(0, 1))[0] if "scale" in self.tables else weight

    def _best(
        self,
        queries: np.ndarray | None,
        histories: _Histories | None,
        exclude: tuple[np.ndarray, np.ndarray] | None,
        users: int,
        k: int,
        allowed: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best items of a batch, slab by slab of the catalog; ``allowed [items]`` bool may leave some out."""
        count = len(self.item_ids)
        step = count if queries is None else SLAB
        best = np.zeros((users, 0), np.int64), np.zeros((users, 0), np.float32)
        for start in range(0, count, step):
            slab = slice(start, min(start + step, count))
            scores = self._scores(queries, histories, users, slab)
            if allowed is not None:
                scores[:, ~allowed[slab]] = -np.inf
            if exclude is not None:
                rows, items = _inside(exclude, slab)
                scores[rows, items] = -np.inf
            found = top_k(scores, min(k, scores.shape[1]))
            items = np.concatenate([best[0], found + start], axis=1)
            values = np.concatenate([best[1], np.take_along_axis(scores, found, 1)], axis=1)
            order = top_k(values, min(k, values.shape[1]))  # earlier slabs come first, so ties go to the lower position
            best = np.take_along_axis(items, order, 1), np.take_along_axis(values, order, 1)
        return best

    def _scores(self, queries: np.ndarray | None, histories: _Histories | None, users: int, slab: slice) -> np.ndarray:
        """``[users, items of the slab]`` float32."""
        if queries is not None:
            scores = products(self.tables["item"], slab, queries)
        elif histories is not None:
            table = self.tables["item_item"]
            scores = np.stack([sum_rows(table, histories.of(row)) for row in range(users)]) * histories.weight[:, None]
        else:
            scores = np.zeros((users, slab.stop - slab.start), np.float32)
        if queries is not None and histories is not None:  # an item adds nothing to its own score
            rows, items = _inside((histories.rows, histories.items), slab)
            scores[rows, items] -= self._own(items + slab.start) * histories.weight[rows]
        if "item_bias" in self.tables:
            scores += self.tables["item_bias"].rows(slab)[:, 0]
        return scores

    def _own(self, items: np.ndarray) -> np.ndarray:
        """What items of a history would add to their own scores, ``[n]``."""
        rows = self.tables["item"].rows(items)
        return np.einsum("nd,nd->n", self.tables["query"].rows(items) if "query" in self.tables else rows, rows)

    def _popular(self, exclude: tuple[np.ndarray, np.ndarray], k: int, allowed: np.ndarray | None) -> Any:
        """The most popular items of one user, as of :meth:`_best`."""
        scores = self.popularity[None].astype(np.float32)
        scores[exclude] = -np.inf
        if allowed is not None:
            scores[:, ~allowed] = -np.inf
        items = top_k(scores, k)
        return items[0], np.take_along_axis(scores, items, 1)[0]

    def recommend(
        self,
        user: object = None,
        *,
        history: Iterable[object] | None = None,
        k: int = 10,
        include_seen: bool = False,
        exclude: Iterable[object] = (),
        within: Iterable[object] | None = None,
        diversity: float = 0.0,
    ) -> Recommendations:
        r"""The best items of one user, who is given by their id or by their history.

        For a history, kinds ``factors`` and ``item_item`` sum its rows, and kind ``sequence`` reads its items in
        the order given. Kind ``vectors`` fits the new user's vector by ridge regression to 1 for the items of the
        history and 0 for all others, with ``ridge`` of the card (.01 if absent) as :math:`\lambda`:

        .. math::
            u = \left(Y^T Y + \lambda I\right)^{-1} \left(\sum_{i \in H} y_i - Y^T b\right)

        With ``diversity`` :math:`\delta`, the list is chosen greedily from the 100 best, or the ``k`` best if that is
        more, by maximal marginal relevance, with scores :math:`r` scaled to 0 to 1 and cosines of item rows:

        .. math::
            \arg\max_{i} \; (1 - \delta) r_i - \delta \max_{j \text{ chosen}} \cos(y_i, y_j)

        Args:
          user: raw id, as text or as anything whose ``str`` is the raw id.
          history: raw ids of items, oldest first, for a user that the model has never seen.
          k: how many items.
          include_seen: whether items that the user already has may come too.
          exclude: raw ids of items that may not come.
          within: raw ids of the items that may come, or their :meth:`mask`, which is made once for many calls; None
            for all.
          diversity: 0 to 1; 0 is the order of scores.

        Returns:
          At most ``k`` items. For an unknown user, or a history without a known item, the items that most users have.

        Raises:
          InputError: if ``k`` is below 1 or above the size of the catalog, both or none of ``user`` and ``history``
            are given, ``diversity`` is not from 0 to 1, or the model has no vectors to read a history or to compare
            items.

        References:
          Carbonell and Goldstein, *The use of MMR, diversity-based reranking*, SIGIR 1998; Hu, Koren and Volinsky,
          *Collaborative filtering for implicit feedback datasets*, ICDM 2008, equation 4.
        """
        query = Query(user, history, k, include_seen, exclude, within, diversity)
        return self.answer([query])[0]

    def answer(self, queries: Sequence[Query]) -> list[Recommendations]:
        """The lists of several queries, computed together; those with one ``within`` share a pass over the catalog.

        Args:
          queries: see :class:`~recjax.artifact.Query`.

        Returns:
          One list per query, each as of :meth:`recommend`.

        Raises:
          InputError: for the first query that :meth:`recommend` refuses.
        """
        return _batch.answer(self, queries)

    def mask(self, items: Iterable[object]) -> np.ndarray:
        """``[items]`` bool, which positions of the catalog some raw ids have; unknown ids are left out."""
        mask = np.zeros(len(self.item_ids), bool)
        mask[self._positions(items)] = True
        return mask

    def _history(self, user: object, history: Iterable[object] | None) -> tuple[np.ndarray, int]:
        """Positions of the items that a user has, or of a history as the model reads it, and how many are unknown."""
        if history is None:
            position = self.user_ids.find([str(user)])
            return self._lists(self.seen, position[position >= 0])[1], 0
        given = self.item_ids.find(map(str, history))
        known = given[given >= 0]
        return self._histories_of(np.zeros_like(known), known, 1).items, int((given < 0).sum())

    @functools.cached_property
    def _gram(self) -> tuple[np.ndarray, np.ndarray]:
        return gram(self.tables["item"], self.tables.get("item_bias"))

    def _vectors(self) -> Table:
        """The table whose rows are compared by their cosine."""
        for name in ("item", "item_item"):
            if name in self.tables:
                return self.tables[name]
        raise InputError(f"expected a model with vectors of items, got one of kind {self.card['kind']}")

    def explain(self, item: object, *, user: object = None, history: Iterable[object] | None = None) -> Explanation:
        """What each item of a history adds to the score of an item; exact, for kinds ``factors`` and ``item_item``.

        Args:
          item: raw id.
          user: as of :meth:`recommend`.
          history: as of :meth:`recommend`.

        Returns:
          The :class:`Explanation`.

        Raises:
          InputError: if the item is unknown, both or none of ``user`` and ``history`` are given, or the model sums
            no histories.
        """
        if (user is None) == (history is None):
            raise InputError(f"expected a user or a history, got {'none' if user is None else 'both'}")
        if self.card["kind"] not in SUM_KINDS:
            raise InputError(f"explain: expected kind factors or item_item, got {self.card['kind']}")
        position, (items, _) = self._position(item), self._history(user, history)
        weight = self._weights(np.array([len(items)]))[0]
        if self.card["kind"] == "item_item":
            added = self.tables["item_item"].rows(items)[:, position] * weight
        else:
            rows = self.tables.get("query", self.tables["item"]).rows(items)
            added = rows @ self.tables["item"].rows(np.array([position]))[0] * weight
            added[items == position] = 0
        bias = self.tables.get("item_bias")
        order = np.argsort(-added, kind="stable")
        contributions = self._named(items[order], added[order]).items
        return Explanation(contributions, 0.0 if bias is None else float(bias.rows(np.array([position]))[0, 0]))

    def recommend_many(
        self,
        users: Iterable[object],
        *,
        k: int = 10,
        include_seen: bool = False,
        exclude: Iterable[object] = (),
        within: Iterable[object] | None = None,
    ) -> Iterator[tuple[str, Recommendations]]:
        """The best items of many users, in batches of bounded memory, as they are read.

        Args:
          users: raw ids.
          k: as of :meth:`recommend`.
          include_seen: as of :meth:`recommend`.
          exclude: as of :meth:`recommend`, the same for all users.
          within: as of :meth:`recommend`, the same for all users.

        Yields:
          Raw id and :class:`Recommendations` of each user, in the order of ``users``.

        Raises:
          InputError: as of :meth:`recommend`.
        """
        self._check_k(k)
        if within is not None or exclude:
            within = self._mask(within, exclude)
        for batch in _batches(users, USERS):
            queries = [Query(str(user), None, k, include_seen, (), within) for user in batch]
            yield from zip(map(str, batch), self.answer(queries), strict=True)

    def similar(self, item: object, *, k: int = 10) -> Recommendations:
        """The items most like one item.

        Args:
          item: raw id.
          k: how many items.

        Returns:
          At most ``k`` other items with the cosine of their rows as score; of kind ``item_item``, with what the item
          adds to their scores.

        Raises:
          InputError: if the item is unknown, ``k`` is below 1 or above the size of the catalog, or the model has no
            vectors of items.
        """
        self._check_k(k)
        position, table = self._position(item), self._vectors()
        if self.card["kind"] == "item_item":
            scores = table.rows(np.array([position])).copy()
        else:
            scores = cosines(table, position)[None]
        scores[0, position] = -np.inf
        items = top_k(scores, k)
        return self._named(items[0], np.take_along_axis(scores, items, 1)[0])

    def _position(self, item: object) -> int:
        (position,) = self.item_ids.find([str(item)])
        if position < 0:
            raise InputError(f"item: expected one of the catalog, got {item}")
        return int(position)

    def _check_k(self, k: int) -> None:
        if not 1 <= k <= len(self.item_ids):
            raise InputError(f"k: expected 1 to {len(self.item_ids)}, the size of the catalog, got {k}")

    def _positions(self, items: Iterable[object]) -> np.ndarray:
        """The positions of raw ids; unknown ids are left out."""
        found = self.item_ids.find(map(str, items))
        return found[found >= 0]

    def _mask(self, within: Any, exclude: Iterable[object] = ()) -> np.ndarray | None:
        """``[items]`` bool, or None where all items are allowed."""
        left_out = list(exclude)
        if within is None:
            return ~self.mask(left_out) if left_out else None
        if not isinstance(within, np.ndarray) or within.dtype != bool:
            within = self.mask(within)
        if within.shape != (len(self.item_ids),):
            raise InputError(f"within: expected a mask of {len(self.item_ids)} items, got {list(within.shape)}")
        return within & ~self.mask(left_out) if left_out else within

    def _named(
        self, items: np.ndarray, scores: np.ndarray, *, known: bool = True, unknown_items: int = 0
    ) -> Recommendations:
        found = tuple(
            Recommendation(self.item_ids[item], self.titles[item], score)
            for item, score in zip(items.tolist(), scores.tolist(), strict=True)
            if score > -np.inf
        )
        return Recommendations(found, known, unknown_items)
