"""The bodies of requests, checked: what is wrong is said in one line that names the field."""

from typing import Any

from recjax.artifact import Query
from recjax.errors import InputError
from recjax.serve._engine import Limits

QUERY = ("user", "history", "k", "include_seen", "exclude", "within", "diversity")


def queries(body: Any, limits: Limits) -> tuple[bool, list[Query]]:
    """Whether a body asks for many lists, and its queries."""
    fields = _fields(body, (*QUERY, "users"))
    if "users" not in fields:
        return False, [_query(fields, limits)]
    if "user" in fields or "history" in fields:
        raise InputError("users: expected users alone, got user or history too")
    users = _ids("users", fields["users"], limits.users)
    shared = {name: value for name, value in fields.items() if name != "users"}
    return True, [_query({**shared, "user": user}, limits) for user in users]


def _query(fields: dict[str, Any], limits: Limits) -> Query:
    user = None if fields.get("user") is None else _id("user", fields["user"])
    lists = {
        name: None if fields.get(name) is None else tuple(_ids(name, fields[name], limits.history))
        for name in ("history", "exclude", "within")
    }
    k, diversity, seen = fields.get("k", 10), fields.get("diversity", 0), fields.get("include_seen", False)
    if type(k) is not int or not 1 <= k <= limits.k:
        raise InputError(f"k: expected a whole number from 1 to {limits.k}, got {k!r}")
    if type(diversity) not in (int, float) or not 0 <= diversity <= 1:
        raise InputError(f"diversity: expected a number from 0 to 1, got {diversity!r}")
    if type(seen) is not bool:
        raise InputError(f"include_seen: expected true or false, got {seen!r}")
    return Query(user, lists["history"], k, seen, lists["exclude"] or (), lists["within"], float(diversity))


def similar_items(body: Any, limits: Limits) -> tuple[str, int]:
    """The item and the length of a list of similar items."""
    fields = _fields(body, ("item", "k"))
    k = fields.get("k", 10)
    if type(k) is not int or not 1 <= k <= limits.k:
        raise InputError(f"k: expected a whole number from 1 to {limits.k}, got {k!r}")
    return _id("item", fields.get("item")), k


def explained(body: Any, limits: Limits) -> tuple[str, Query]:
    """The item whose score is explained, and for whom."""
    fields = _fields(body, ("item", "user", "history"))
    whose = {name: value for name, value in fields.items() if name in ("user", "history")}
    return _id("item", fields.get("item")), _query(whose, limits)


def events(body: Any, limits: Limits) -> list[tuple[str, str]]:
    """Pairs of a user and an item."""
    given = _fields(body, ("events",)).get("events")
    if not isinstance(given, list) or not 1 <= len(given) <= limits.history:
        raise InputError(f"events: expected a list of 1 to {limits.history} events, got {_shown(given)}")
    pairs = []
    for event in given:
        fields = _fields(event, ("user", "item"))
        pairs.append((_id("user", fields.get("user")), _id("item", fields.get("item"))))
    return pairs


def scored_rows(body: Any, limits: Limits) -> list[dict[str, Any]]:
    """The rows of a request for scores."""
    rows = _fields(body, ("rows",)).get("rows")
    if not isinstance(rows, list) or not 1 <= len(rows) <= limits.rows or not all(isinstance(r, dict) for r in rows):
        raise InputError(f"rows: expected a list of 1 to {limits.rows} objects, got {_shown(rows)}")
    return rows


def _fields(body: Any, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise InputError(f"body: expected an object, got {_shown(body)}")
    unknown = [name for name in body if name not in known]
    if unknown:
        raise InputError(f"body: expected {', '.join(known)}, got {unknown[0][:50]!r}")
    return body


def _ids(name: str, value: Any, most: int) -> list[str]:
    if not isinstance(value, list) or len(value) > most:
        raise InputError(f"{name}: expected a list of at most {most} ids, got {_shown(value)}")
    return [_id(name, one) for one in value]


def _id(name: str, value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise InputError(f"{name}: expected a raw id, text or a whole number, got {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"{str(value)[:50]!r}" if value is not None else "none"
