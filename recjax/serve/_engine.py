"""Answers requests from an artifact: in batches, with a bounded queue, recent events, and reloading."""

import asyncio
import collections
import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recjax import artifact
from recjax.artifact import Artifact, CTRArtifact, Query, Recommendations
from recjax.errors import InputError

log = logging.getLogger("recjax.serve")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one server accepts.

    Attributes:
      body: bytes of a request.
      k: items of a list.
      users: queries of a request.
      history: items of a history, of a filter, or recent events kept per user.
      rows: rows of a request for scores.
      queue: queries that wait; above it a request is refused with status 503.
      batch: queries that are answered at once.
      batch_seconds: how long the first query of a batch waits for others.
      seconds: until a request that is not answered is refused with status 504, or a slow body with 408.
      event_users: users with recent events that are kept; the least recent are forgotten first.
    """

    body: int = 2**20
    k: int = 1000
    users: int = 256
    history: int = 1000
    rows: int = 1000
    queue: int = 1024
    batch: int = 64
    batch_seconds: float = 0.002
    seconds: float = 10.0
    event_users: int = 100_000


class Full(Exception):
    """The queue is full."""


class Engine:
    """An artifact that is queried by many requests at once.

    One thread computes; queries that arrive meanwhile are its next batch.

    Args:
      folder: the artifact.
      limits: see :class:`Limits`.
    """

    def __init__(self, folder: Path, limits: Limits):
        self.folder, self.limits = folder, limits
        self.model: Artifact | CTRArtifact = artifact.load(folder)
        self.loaded = _identity(folder)
        self.reloads = 0
        self._events: collections.OrderedDict[str, collections.deque[str]] = collections.OrderedDict()
        self._waiting: collections.deque[tuple[Query, asyncio.Future[Recommendations]]] = collections.deque()
        self._computing = asyncio.Lock()  # one thread at a time: a second one would share its cores
        self._arrived = asyncio.Event()
        self._batches: asyncio.Task[None] | None = None
        self.batch_sizes: Callable[[int], None] = lambda size: None

    @property
    def waiting(self) -> int:
        """Queries in the queue."""
        return len(self._waiting)

    # -- queries -----------------------------------------------------------------------------------------------------

    async def recommend(self, queries: Sequence[Query]) -> list[Recommendations]:
        """Lists for some queries, computed together with those of other requests.

        Raises:
          Full: if the queue has no room for them.
          InputError: for the first query that the artifact refuses.
        """
        if len(self._waiting) + len(queries) > self.limits.queue:
            raise Full
        if self._batches is None or self._batches.done():
            self._batches = asyncio.create_task(self._answer_forever())
        loop = asyncio.get_running_loop()
        futures = []
        for query in queries:
            recent = () if query.user is None else tuple(self._events.get(str(query.user), ()))
            futures.append(loop.create_future())
            self._waiting.append((query._replace(recent=recent), futures[-1]))
        self._arrived.set()
        try:
            return await asyncio.gather(*futures)
        finally:  # a request that was given up is not computed
            for future in futures:
                future.cancel()

    async def _answer_forever(self) -> None:
        while True:
            await self._arrived.wait()
            if len(self._waiting) < self.limits.batch:
                await asyncio.sleep(self.limits.batch_seconds)
            batch = []
            while self._waiting and len(batch) < self.limits.batch:
                query, future = self._waiting.popleft()
                if not future.done():
                    batch.append((query, future))
            if not self._waiting:
                self._arrived.clear()
            if batch:
                self.batch_sizes(len(batch))
                await self._answer(batch)

    async def _answer(self, batch: list[tuple[Query, asyncio.Future[Recommendations]]]) -> None:
        model = self.model
        assert isinstance(model, Artifact)
        try:
            found: Sequence[Any] = await self.compute(lambda: model.answer([query for query, _ in batch]))
        except Exception as error:
            if len(batch) > 1:  # one wrong query must not cost the others their answer
                for one in batch:
                    await self._answer([one])
                return
            found = [error]
        for (_, future), answer in zip(batch, found, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    async def compute(self, function: Callable[[], Any]) -> Any:
        """The result of a function that runs in a thread, one at a time."""
        async with self._computing:
            return await asyncio.to_thread(function)

    # -- events ------------------------------------------------------------------------------------------------------

    def add_event(self, user: str, item: str) -> bool:
        """Adds an interaction, which counts in the user's next list; False for an item that the catalog lacks."""
        assert isinstance(self.model, Artifact)
        if self.model.item_ids.find([item])[0] < 0:
            return False
        recent = self._events.setdefault(user, collections.deque(maxlen=self.limits.history))
        recent.append(item)
        self._events.move_to_end(user)
        while len(self._events) > self.limits.event_users:
            self._events.popitem(last=False)
        return True

    # -- reloading ---------------------------------------------------------------------------------------------------

    async def reload(self) -> bool:
        """Replaces the artifact by the one that is in the folder now, once that has answered its golden query.

        Requests go on with the old one until then, and for good if the new one is refused.

        Returns:
          Whether it was replaced.
        """
        identity = _identity(self.folder)
        try:
            model = await asyncio.to_thread(_checked, self.folder)
        except (InputError, OSError) as error:
            log.error("reload refused: %s", error)
            self.loaded = identity  # not again until it changes
            return False
        self.model, self.loaded, self.reloads = model, identity, self.reloads + 1
        log.info("reloaded %s", self.folder)
        return True

    async def watch(self, seconds: float = 1.0) -> None:
        """Reloads whenever the card of the artifact changes."""
        while True:
            await asyncio.sleep(seconds)
            if _identity(self.folder) not in (None, self.loaded):
                await self.reload()


def _checked(folder: Path) -> Artifact | CTRArtifact:
    artifact.verify(folder)
    return artifact.load(folder)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Changes when the card is replaced; None without one."""
    try:
        found = (folder / "model.json").stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


class Titles:
    """Search of a catalog by title or id; built by the first search."""

    def __init__(self, model: Artifact | None):
        self.model, self._lower = model, []

    def search(self, text: str, limit: int) -> list[dict[str, str]]:
        """The items whose title or id has the text, the most popular first."""
        model = self.model
        assert model is not None
        if not self._lower:
            pairs = zip(model.item_ids, model.titles, strict=True)
            self._lower = [f"{title}\n{item}".casefold() for item, title in pairs]
        wanted = text.casefold()
        found = [place for place, known in enumerate(self._lower) if wanted in known]
        found = sorted(found, key=lambda place: (-int(model.popularity[place]), place))[:limit]
        return [{"item": model.item_ids[place], "title": model.titles[place]} for place in found]
