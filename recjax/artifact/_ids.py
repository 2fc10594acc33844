"""Raw ids and what each user has, as flat arrays: nothing is a Python object until it is asked for."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from recjax.errors import InputError
from recjax.ids import id_hash


class Texts(Sequence[str]):
    """A sequence of texts in one array of bytes.

    Attributes:
      offsets: ``[n + 1]`` int64; text i is ``content[offsets[i]:offsets[i + 1]]``.
      content: ``[bytes]`` uint8, UTF-8.

    Examples:
      >>> list(Texts.of(["ann", "", "bob"]))
      ['ann', '', 'bob']
    """

    def __init__(self, offsets: np.ndarray, content: np.ndarray):
        if offsets.dtype != np.int64 or offsets.ndim != 1 or not len(offsets) or content.dtype != np.uint8:
            raise ValueError(f"texts: offsets {offsets.dtype} {list(offsets.shape)}, content {content.dtype}")
        if content.ndim != 1 or offsets[0] != 0 or offsets[-1] != len(content):
            raise ValueError("texts: offsets don't fit the content")
        self.offsets, self.content = offsets, content

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        """The texts of any iterable."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        ends = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=ends[1:])
        return cls(ends, np.frombuffer(b"".join(encoded), np.uint8))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]  (no slices)
        index = range(len(self))[index]
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        try:
            if 0 <= start <= stop <= len(self.content):
                return self.content[start:stop].tobytes().decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            pass
        raise InputError(f"ids or titles: expected text {index} in UTF-8, got damaged content")


class Ids(Texts):
    """Raw ids in the order of positions, found by binary search in their sorted hashes.

    Attributes:
      hashes: ``[n]`` uint64, :func:`id_hash` sorted.
      order: ``[n]`` int64, the position of the id of each hash; None where positions are in the order of hashes.

    Examples:
      >>> ids = Ids.of(["ann", "bob", "cid"])
      >>> ids.find(["cid", "dan"]).tolist()
      [2, -1]
    """

    def __init__(self, offsets: np.ndarray, content: np.ndarray, hashes: np.ndarray, order: np.ndarray | None = None):
        super().__init__(offsets, content)
        if hashes.dtype != np.uint64 or hashes.shape != (len(self),):
            raise ValueError(f"hashes: expected uint64 [{len(self)}], got {hashes.dtype} {list(hashes.shape)}")
        if order is not None and (order.dtype != np.int64 or order.shape != hashes.shape):
            raise ValueError(f"order: expected int64 [{len(self)}], got {order.dtype} {list(order.shape)}")
        self.hashes, self.order = hashes, order

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Ids":
        """The ids of any iterable, each of which stands there once."""
        texts = list(texts)
        flat, hashes = Texts.of(texts), id_hash(texts)
        order = np.argsort(hashes, kind="stable")
        in_order = bool((order == np.arange(len(order))).all())
        return cls(flat.offsets, flat.content, hashes[order], None if in_order else order)

    def find(self, ids: Iterable[str]) -> np.ndarray:
        """``[n]`` int64 positions of some ids, -1 for one that isn't there."""
        ids = list(ids)
        hashes, found = id_hash(ids), np.full(len(ids), -1, np.int64)
        for i, place in enumerate(np.searchsorted(self.hashes, hashes)):
            while place < len(self) and self.hashes[place] == hashes[i]:  # more than one only where hashes are equal
                position = int(place if self.order is None else self.order[place])
                if not 0 <= position < len(self):
                    raise InputError(f"ids: expected positions below {len(self)}, got {position}")
                if self[position] == ids[i]:
                    found[i] = position
                    break
                place += 1
        return found


class Events(Protocol):
    """The events of each user: :class:`recjax.data.Histories`, :class:`recjax.data.Seen` or :class:`UserItems`."""

    @property
    def offsets(self) -> Any: ...

    @property
    def items(self) -> Any: ...


class Lists(Events, Protocol):
    """The items that each user has: :class:`recjax.data.Seen` or :class:`UserItems`."""

    def lists(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


class UserItems(NamedTuple):
    """Items of each user, as :class:`recjax.data.Seen`.

    Attributes:
      offsets: ``[users + 1]`` int; user u has ``items[offsets[u]:offsets[u + 1]]``.
      items: ``[rows]`` int: of a set strictly ascending within a user, of a history oldest first.
    """

    offsets: np.ndarray
    items: np.ndarray

    def lists(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What some users have: ``[entries]`` rows, each a place in ``users``, and ``[entries]`` items."""
        starts, ends = self.offsets[users], self.offsets[users + 1]
        if (starts < 0).any() or (starts > ends).any() or (ends > len(self.items)).any():
            raise InputError(f"seen: expected ascending offsets up to {len(self.items)}, got others")
        rows = np.repeat(np.arange(len(users)), ends - starts)
        before = np.cumsum(ends - starts) - (ends - starts)
        return rows, self.items[np.arange(len(rows)) + (starts - before)[rows]]


def as_sets(rows: np.ndarray, items: np.ndarray, users: int) -> UserItems:
    """Pairs ``[entries]`` of a user and an item as sets, each pair once."""
    count = int(items.max(initial=0)) + 1
    owner, item = np.divmod(np.unique(rows.astype(np.int64) * count + items), count)
    return UserItems(np.searchsorted(owner, np.arange(users + 1)), item.astype(np.int32))
