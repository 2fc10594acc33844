"""The ASGI application: routes, limits, authorization, metrics and the access log."""

import asyncio
import contextlib
import hmac
import importlib.resources
import json
import logging
import re
import time
import uuid
import warnings
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import prometheus_client

from recjax.artifact import Artifact, CTRArtifact, Recommendations
from recjax.errors import InputError
from recjax.serve._engine import Engine, Full, Titles
from recjax.serve._openapi import document
from recjax.serve._requests import events, explained, queries, scored_rows, similar_items

access = logging.getLogger("recjax.serve.access")
log = logging.getLogger("recjax.serve")
OPEN = ("/health", "/ready", "/", "/openapi.json")  # that need no token
RETRY_SECONDS = 1
DEPTH = 32  # of nested brackets in a body


class Refused(Exception):
    """A request that is not answered, with its status and one line that says why."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] = {}):
        super().__init__(message)
        self.status, self.headers = status, headers


class Response(NamedTuple):
    """What is sent."""

    body: bytes
    status: int = 200
    kind: str = "application/json"
    headers: Mapping[str, str] = {}


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    """A response with a JSON body."""
    return Response(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(), status, headers=headers)


class Metrics:
    """What ``/metrics`` tells Prometheus."""

    def __init__(self, engine: Engine):
        self.registry = prometheus_client.CollectorRegistry()
        of: dict[str, Any] = {"registry": self.registry}
        self.requests = prometheus_client.Counter(
            "recjax_requests", "Requests by path and status.", ["path", "status"], **of
        )
        self.seconds = prometheus_client.Histogram(
            "recjax_request_seconds",
            "Seconds from the first byte to the answer.",
            ["path"],
            buckets=[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10],
            **of,
        )
        sizes = prometheus_client.Histogram(
            "recjax_batch_queries", "Queries answered at once.", buckets=[1, 2, 4, 8, 16, 32, 64], **of
        )
        engine.batch_sizes = sizes.observe
        waiting = prometheus_client.Gauge("recjax_waiting_queries", "Queries in the queue.", **of)
        waiting.set_function(lambda: engine.waiting)
        reloads = prometheus_client.Gauge("recjax_reloads", "Artifacts loaded since the start.", **of)
        reloads.set_function(lambda: engine.reloads)


class App:
    """An ASGI application around an :class:`~recjax.serve.Engine`.

    Args:
      engine: what answers.
      token: bearer token that every request but those for health, readiness, the page and its description must have;
        None for none.
    """

    def __init__(self, engine: Engine, *, token: str | None = None):
        self.engine, self.token, self.metrics = engine, token, Metrics(engine)
        self.ready = True
        self._titles = Titles(None)
        self._page = importlib.resources.files("recjax.serve").joinpath("page.html").read_bytes()
        self._routes: dict[tuple[str, str], Callable[[Any], Awaitable[Response]]] = {
            ("GET", "/"): self._get_page,
            ("GET", "/health"): self._health,
            ("GET", "/ready"): self._ready,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/openapi.json"): self._openapi,
            ("GET", "/v1/model"): self._model,
            ("GET", "/v1/items"): self._items,
            ("POST", "/v1/recommend"): self._recommend,
            ("POST", "/v1/similar"): self._similar,
            ("POST", "/v1/explain"): self._explain,
            ("POST", "/v1/score"): self._score,
            ("POST", "/v1/events"): self._events,
        }

    async def __call__(self, scope: Mapping[str, Any], receive: Callable, send: Callable) -> None:
        """One request, as ASGI 3 has it."""
        if scope["type"] == "lifespan":
            return await self._lifespan(receive, send)
        if scope["type"] != "http":
            raise ValueError(f"expected http, got {scope['type']}")
        start, path = time.perf_counter(), scope["path"]
        request = uuid.uuid4().hex[:16]
        try:
            response = await self._respond(scope, receive)
        except Refused as error:
            response = as_json({"error": str(error)}, error.status, error.headers)
        except InputError as error:
            response = as_json({"error": " ".join(str(error).splitlines())}, 400)
        except asyncio.CancelledError:
            raise
        except Exception:  # its trace is for the log, not for the client
            log.exception("request %s failed", request)
            response = as_json({"error": f"internal error, request {request}"}, 500)
        headers = {"content-type": response.kind, "content-length": str(len(response.body)), "x-request-id": request}
        headers |= {"x-content-type-options": "nosniff", **response.headers}
        seconds = time.perf_counter() - start
        known = path if any(path == route for _, route in self._routes) else "other"
        self.metrics.requests.labels(known, response.status).inc()
        self.metrics.seconds.labels(known).observe(seconds)
        about = {"request": request, "method": scope["method"], "path": path, "status": response.status}
        access.info(json.dumps({**about, "ms": round(1e3 * seconds, 3), "bytes": len(response.body)}))
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        with contextlib.suppress(OSError):  # the client has gone
            await send({"type": "http.response.start", "status": response.status, "headers": pairs})
            await send({"type": "http.response.body", "body": response.body})

    async def _lifespan(self, receive: Callable, send: Callable) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                self.ready = False
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _respond(self, scope: Mapping[str, Any], receive: Callable) -> Response:
        method, path = scope["method"], scope["path"]
        handler = self._routes.get((method, path))
        if handler is None:
            allowed = [verb for verb, route in self._routes if route == path]
            if allowed:
                raise Refused(405, f"expected {' or '.join(allowed)}, got {method}", {"allow": ", ".join(allowed)})
            raise Refused(404, f"expected one of the paths in /openapi.json, got {path}")
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        self._authorize(path, headers)
        seconds = self.engine.limits.seconds
        if method == "GET":
            given: Any = {
                name: values[-1] for name, values in parse_qs(scope.get("query_string", b"").decode()).items()
            }
        else:
            try:
                async with asyncio.timeout(seconds):
                    given = await self._body(headers, receive)
            except TimeoutError:
                raise Refused(408, f"expected the body within {seconds:g} seconds") from None
        try:
            async with asyncio.timeout(seconds):
                return await handler(given)
        except TimeoutError:
            raise Refused(504, f"expected an answer within {seconds:g} seconds") from None
        except Full:
            raise Refused(503, "the queue is full", {"retry-after": str(RETRY_SECONDS)}) from None

    def _authorize(self, path: str, headers: Mapping[str, bytes]) -> None:
        if self.token is None or path in OPEN:
            return
        given = headers.get("authorization", b"")
        if not hmac.compare_digest(given, b"Bearer " + self.token.encode()):
            raise Refused(401, "expected the header Authorization: Bearer TOKEN", {"www-authenticate": "Bearer"})

    async def _body(self, headers: Mapping[str, bytes], receive: Callable) -> Any:
        limit = self.engine.limits.body
        too_large = Refused(413, f"body: expected at most {limit:,} bytes, got more")
        length = headers.get("content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise too_large
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "body: expected JSON, got a closed connection")
            body += message.get("body", b"")
            if len(body) > limit:
                raise too_large
            if not message.get("more_body"):
                break
        try:
            _check_depth(body)
            return json.loads(body, parse_constant=_not_a_number)
        except ValueError as error:
            raise Refused(400, f"body: expected JSON, got text that is none ({str(error)[:100]})") from None

    # -- routes ------------------------------------------------------------------------------------------------------

    async def _get_page(self, given: Any) -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
        return Response(self._page, 200, "text/html; charset=utf-8", {"content-security-policy": policy})

    async def _health(self, given: Any) -> Response:
        return as_json({"status": "ok"})

    async def _ready(self, given: Any) -> Response:
        if not self.ready:
            raise Refused(503, "shutting down")
        return as_json({"status": "ready"})

    async def _metrics(self, given: Any) -> Response:
        kind = prometheus_client.CONTENT_TYPE_LATEST
        return Response(prometheus_client.generate_latest(self.metrics.registry), 200, kind)

    async def _openapi(self, given: Any) -> Response:
        return as_json(document(self.engine.limits))

    async def _model(self, given: Any) -> Response:
        hidden = ("checksums", "golden", "encoding")
        card = {name: value for name, value in self.engine.model.card.items() if name not in hidden}
        return as_json({"card": card, "events": "kept in memory only, lost when the server stops"})

    async def _items(self, given: Any) -> Response:
        model = self._recommender()
        if self._titles.model is not model:
            self._titles = Titles(model)
        text = given.get("search", "")
        return as_json({"items": await self.engine.compute(lambda: self._titles.search(text, 20))})

    async def _recommend(self, given: Any) -> Response:
        self._recommender()
        many, asked = queries(given, self.engine.limits)
        start = time.perf_counter()
        found = [_listed(one) for one in await self.engine.recommend(asked)]
        milliseconds = round(1e3 * (time.perf_counter() - start), 3)
        return as_json({"lists": found, "ms": milliseconds} if many else {**found[0], "ms": milliseconds})

    async def _similar(self, given: Any) -> Response:
        item, k = similar_items(given, self.engine.limits)
        model = self._recommender()
        return as_json(_listed(await self.engine.compute(lambda: model.similar(item, k=k))))

    async def _explain(self, given: Any) -> Response:
        item, query = explained(given, self.engine.limits)
        model = self._recommender()
        history = None if query.history is None else list(query.history)
        found = await self.engine.compute(lambda: model.explain(item, user=query.user, history=history))
        contributions = [one._asdict() for one in found.contributions[:10]]
        return as_json({"contributions": contributions, "bias": found.bias})

    async def _score(self, given: Any) -> Response:
        rows, model = scored_rows(given, self.engine.limits), self.engine.model
        if not isinstance(model, CTRArtifact):
            raise Refused(400, "score: expected an artifact of a CTR model, got one of recommendations")
        with warnings.catch_warnings():  # what is missing or ignored is part of the answer
            warnings.simplefilter("ignore")
            found = await self.engine.compute(lambda: model.score(rows))
        about = {"unknown": found.unknown, "missing": found.missing, "ignored": found.ignored}
        return as_json({"probabilities": found.probability.tolist(), **about})

    def _recommender(self) -> Artifact:
        model = self.engine.model
        if not isinstance(model, Artifact):
            raise Refused(400, "expected an artifact of recommendations, got one of a CTR model: POST /v1/score")
        return model

    async def _events(self, given: Any) -> Response:
        self._recommender()
        pairs = events(given, self.engine.limits)
        unknown = [item for user, item in pairs if not self.engine.add_event(user, item)]
        return as_json({"added": len(pairs) - len(unknown), "unknown_items": unknown}, 202)


def _listed(found: Recommendations) -> dict[str, Any]:
    items = [{"item": one.item, "title": one.title, "score": one.score} for one in found]
    return {"items": items, "known": found.known, "unknown_items": found.unknown_items}


def _check_depth(body: bytearray) -> None:
    """Raises ValueError for brackets nested so deeply that Python's parser would recurse to its limit."""
    depth = 0
    for bracket in re.findall(rb"[][{}]", body):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEPTH:
            raise ValueError(f"brackets nested more than {DEPTH} deep")


def _not_a_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")
