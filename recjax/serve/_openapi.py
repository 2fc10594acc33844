"""The description of the HTTP interface in OpenAPI 3.1."""

from typing import Any

from recjax.serve._engine import Limits

ID = {"type": ["string", "integer"], "description": "raw id"}


def _ids(most: int) -> dict[str, Any]:
    return {"type": "array", "items": ID, "maxItems": most}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _post(summary: str, body: dict[str, Any], answer: dict[str, Any], status: str = "200") -> dict[str, Any]:
    content = {"application/json": {"schema": body}}
    answered = {"description": "the answer", "content": {"application/json": {"schema": answer}}}
    refused = {"description": "the request was refused", "content": {"application/json": {"schema": ERROR}}}
    responses = {status: answered, "4XX": refused, "503": refused, "504": refused}
    return {"post": {"summary": summary, "requestBody": {"required": True, "content": content}, "responses": responses}}


def _get(
    summary: str, kind: str = "application/json", parameters: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    answered = {"200": {"description": "the answer", "content": {kind: {}}}}
    return {"get": {"summary": summary, "parameters": parameters or [], "responses": answered}}


ERROR = _object(["error"], error={"type": "string", "description": "one line that says what was expected"})
ITEM = _object(["item", "title", "score"], item={"type": "string"}, title={"type": "string"}, score={"type": "number"})
LIST = {
    "type": "object",
    "properties": {
        "items": {"type": "array", "items": ITEM},
        "known": {"type": "boolean", "description": "false where these are the most popular items"},
        "unknown_items": {"type": "integer", "description": "items of the given history that the catalog lacks"},
    },
}


def document(limits: Limits) -> dict[str, Any]:
    """The description, with the limits of a server."""
    query = {
        "k": {"type": "integer", "minimum": 1, "maximum": limits.k, "default": 10},
        "include_seen": {
            "type": "boolean",
            "default": False,
            "description": "whether items of the history may come too",
        },
        "exclude": {**_ids(limits.history), "description": "items that may not come"},
        "within": {**_ids(limits.history), "description": "the items that may come; all if missing"},
        "diversity": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
    }
    whose = {
        "user": ID,
        "history": {**_ids(limits.history), "description": "items of a user who is not in the log, oldest first"},
        "users": {**_ids(limits.users), "description": "several users; the answer has one list per user in lists"},
    }
    event = _object(["user", "item"], user=ID, item=ID)
    rows = {"type": "array", "items": {"type": "object"}, "maxItems": limits.rows}
    scores = {"type": "array", "items": {"type": "number"}}
    similar = _object(["item"], item=ID, k=query["k"])
    search = {"name": "search", "in": "query", "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "recjax serve", "version": "1"},
        "paths": {
            "/": _get("A page to try the recommender", "text/html"),
            "/health": _get("Whether the process runs"),
            "/ready": _get("Whether requests are answered"),
            "/metrics": _get("Metrics for Prometheus", "text/plain"),
            "/openapi.json": _get("This description"),
            "/v1/model": _get("The card of the model"),
            "/v1/items": _get("Items by title or id, the most popular first", parameters=[search]),
            "/v1/recommend": _post(
                "The best items of one user, one history or several users", _object([], **whose, **query), LIST
            ),
            "/v1/similar": _post("The items most like one item", similar, LIST),
            "/v1/explain": _post(
                "What each item of a history adds to the score of an item", _object(["item"], item=ID, **whose), {}
            ),
            "/v1/score": _post(
                "Probabilities of rows, for a CTR model",
                _object(["rows"], rows=rows),
                _object([], probabilities=scores),
            ),
            "/v1/events": _post(
                "New interactions, which count in the user's next list; kept in memory, lost when the server stops",
                _object(["events"], events={"type": "array", "items": event, "maxItems": limits.history}),
                _object([], added={"type": "integer"}, unknown_items=_ids(limits.history)),
                "202",
            ),
        },
    }
