"""The server without a network: requests as ASGI has them, and once as a process."""

import asyncio
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest

from recjax import artifact, serve
from recjax.data import Histories
from recjax.serve import _engine

USERS, ITEMS = ["ann", "bob", "cy"], [f"i{n}" for n in range(12)]
RNG = np.random.default_rng(3)


def save(folder, seed=0, *, kind="factors"):
    rng = np.random.default_rng(seed)
    tables = {"item": rng.normal(size=(12, 4)).astype(np.float32)}
    if kind == "vectors":
        tables["user"] = rng.normal(size=(3, 4)).astype(np.float32)
    log = Histories(np.array([0, 2, 3, 3]), np.array([0, 1, 5]), np.ones(3, np.float32))
    titles = [f"Title {n}" for n in range(12)]
    artifact.save(folder, tables, kind=kind, user_ids=USERS, item_ids=ITEMS, titles=titles, seen=log)
    return folder


@pytest.fixture(scope="module", autouse=True)
def collected():
    """Python 3.11 may fail in ast.parse, which pytest calls, if event loops and threads are collected just then."""
    yield
    gc.collect()


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "artifact")


def app_of(folder, *, token=None, **limits):
    return serve.App(serve.Engine(folder, serve.Limits(**limits)), token=token)


async def request(app, method, path, body=None, *, headers=(), raw=None):
    """Status, headers and the parsed body of one request."""
    sent = []
    path, _, query = path.partition("?")
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": list(headers)}
    content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()

    async def receive():
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    about = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    content = sent[1]["body"]
    return sent[0]["status"], about, json.loads(content) if about["content-type"] == "application/json" else content


def run(coroutine):
    return asyncio.run(coroutine)


def post(app, path, body, **options):
    status, _, value = run(request(app, "POST", path, body, **options))
    return status, value


def test_lists_are_those_of_the_artifact(folder):
    model, app = artifact.load(folder), app_of(folder)
    status, one = post(app, "/v1/recommend", {"user": "ann", "k": 3})
    assert status == 200
    expected = model.recommend("ann", k=3)
    assert [(item["item"], item["title"], item["score"]) for item in one["items"]] == list(map(tuple, expected))
    assert one["known"]
    _, many = post(app, "/v1/recommend", {"users": ["ann", "bob", "nobody"], "k": 2})
    for user, found in zip(["ann", "bob", "nobody"], many["lists"], strict=True):
        assert [item["item"] for item in found["items"]] == [item.item for item in model.recommend(user, k=2)]
    assert not many["lists"][2]["known"]
    given = {"history": ["i3", "zz", "i4"], "k": 4, "exclude": ["i7"], "within": ["i1", "i2", "i7", "i8", "i9"]}
    _, new = post(app, "/v1/recommend", {**given, "diversity": 0.5})
    expected = model.recommend(history=["i3", "zz", "i4"], k=4, exclude=["i7"], within=given["within"], diversity=0.5)
    assert [item["item"] for item in new["items"]] == [item.item for item in expected]
    assert new["unknown_items"] == 1
    _, similar = post(app, "/v1/similar", {"item": "i3", "k": 2})
    assert [item["item"] for item in similar["items"]] == [item.item for item in model.similar("i3", k=2)]
    _, why = post(app, "/v1/explain", {"item": "i9", "user": "ann"})
    assert [one["item"] for one in why["contributions"]] == [
        c.item for c in model.explain("i9", user="ann").contributions
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/recommend", {"user": "ann", "k": 0}, 400, "k: expected a whole number from 1 to 1000, got 0"),
        ("/v1/recommend", {"user": "ann", "k": True}, 400, "k: expected"),
        ("/v1/recommend", {"user": "ann", "k": 13}, 400, "k: expected 1 to 12"),
        ("/v1/recommend", {"user": "ann", "size": 3}, 400, "got 'size'"),
        ("/v1/recommend", {"user": "ann", "users": ["bob"]}, 400, "users: expected users alone"),
        ("/v1/recommend", {"user": {"a": 1}}, 400, "user: expected a raw id"),
        ("/v1/recommend", {"history": "i1"}, 400, "history: expected a list"),
        ("/v1/recommend", {"history": ["i1"] * 1001}, 400, "history: expected a list of at most 1000 ids"),
        ("/v1/recommend", {"user": "ann", "diversity": 2}, 400, "diversity: expected a number from 0 to 1, got 2"),
        ("/v1/recommend", {"user": "ann", "include_seen": 1}, 400, "include_seen: expected true or false"),
        ("/v1/recommend", [], 400, "body: expected an object, got a list of 0"),
        ("/v1/recommend", {}, 400, "expected a user or a history, got none"),
        ("/v1/similar", {"item": "zz"}, 400, "item: expected one of the catalog"),
        ("/v1/score", {"rows": [{"a": 1}]}, 400, "expected an artifact of a CTR model"),
        ("/v1/events", {"events": []}, 400, "events: expected a list of 1 to 1000"),
        ("/v1/nothing", {}, 404, "expected one of the paths in /openapi.json"),
        ("/health", {}, 405, "expected GET, got POST"),
    ],
)
def test_a_wrong_request_is_refused_in_a_line(folder, path, body, status, words):
    found, value = post(app_of(folder), path, body)
    assert found == status
    assert words in value["error"]
    assert len(value["error"].splitlines()) == 1


@pytest.mark.parametrize("raw", [b"{", b"\xff", b'{"k": NaN}', b"[" * 100_000, b""])
def test_a_body_that_is_no_json_is_refused(folder, raw):
    status, _, value = run(request(app_of(folder), "POST", "/v1/recommend", raw=raw))
    assert status == 400
    assert "body: expected JSON" in value["error"]


def test_limits_of_size_and_time(folder):
    status, value = post(app_of(folder, body=20), "/v1/recommend", {"user": "a" * 30})
    assert (status, value["error"]) == (413, "body: expected at most 20 bytes, got more")

    async def slow(app):
        sent = []

        async def receive():
            await asyncio.sleep(30)

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/recommend", "headers": []}
        await app(scope, receive, send)
        return sent[0]["status"]

    assert run(slow(app_of(folder, seconds=0.05))) == 408


def test_a_full_queue_is_503_and_what_it_took_is_answered(folder, monkeypatch):
    """Eight requests at once, room for four: four answers and four refusals, and then all is well again."""
    app = app_of(folder, queue=4)

    async def eight():
        found = await asyncio.gather(*(request(app, "POST", "/v1/recommend", {"user": "ann"}) for _ in range(8)))
        return found, await request(app, "POST", "/v1/recommend", {"user": "ann"})

    found, after = run(eight())
    assert sorted(status for status, *_ in found) == [200] * 4 + [503] * 4
    assert {about.get("retry-after") for status, about, _ in found if status == 503} == {"1"}
    assert after[0] == 200


def test_concurrent_requests_are_one_batch_and_one_wrong_one_costs_only_itself(folder):
    app, sizes = app_of(folder, batch_seconds=0.05), []
    app.engine.batch_sizes = sizes.append

    async def together():
        bodies = [{"user": "ann"}, {"user": "bob", "k": 13}, {"history": ["i2"]}]
        return await asyncio.gather(*(request(app, "POST", "/v1/recommend", body) for body in bodies))

    found = run(together())
    assert [status for status, *_ in found] == [200, 400, 200]
    assert sizes == [3]


def test_a_failure_shows_no_trace(folder, monkeypatch, caplog):
    app = app_of(folder)
    monkeypatch.setattr(type(app.engine.model), "similar", lambda *_, **__: 1 / 0)
    status, value = post(app, "/v1/similar", {"item": "i1"})
    assert status == 500
    assert re.fullmatch(r"internal error, request [0-9a-f]{16}", value["error"])
    assert "ZeroDivisionError" in caplog.text


def test_a_token_is_needed_but_for_health(folder):
    app = app_of(folder, token="secret")
    assert post(app, "/v1/similar", {"item": "i1"})[0] == 401
    for given, status in ((b"Bearer secret", 200), (b"Bearer wrong", 401), (b"secret", 401), (b"Bearer \xff", 401)):
        assert post(app, "/v1/similar", {"item": "i1"}, headers=[(b"authorization", given)])[0] == status
    assert run(request(app, "GET", "/health"))[0] == 200
    assert run(request(app, "GET", "/metrics"))[0] == 401


@pytest.mark.parametrize("kind", ["factors", "vectors"])
def test_events_count_in_the_next_list(tmp_path, kind):
    folder = save(tmp_path / "artifact", kind=kind)
    app, model = app_of(folder), artifact.load(folder)
    status, value = post(app, "/v1/events", {"events": [{"user": "ann", "item": "i7"}, {"user": "new", "item": "zz"}]})
    assert (status, value) == (202, {"added": 1, "unknown_items": ["zz"]})
    _, found = post(app, "/v1/recommend", {"user": "ann", "k": 9})
    expected = model.recommend(history=["i0", "i1", "i7"], k=9)
    assert [item["item"] for item in found["items"]] == [item.item for item in expected]
    np.testing.assert_allclose([item["score"] for item in found["items"]], [item.score for item in expected], rtol=1e-5)
    _, same = post(app, "/v1/recommend", {"user": "bob", "k": 3})
    assert [item["item"] for item in same["items"]] == [item.item for item in model.recommend("bob", k=3)]


def test_events_are_bounded(folder):
    app = app_of(folder, event_users=2, history=3)
    for user in ("ann", "bob", "cy"):
        post(app, "/v1/events", {"events": [{"user": user, "item": f"i{n}"} for n in range(3)]})
    post(app, "/v1/events", {"events": [{"user": "cy", "item": "i9"}]})
    assert {user: list(items) for user, items in app.engine._events.items()} == {
        "bob": ["i0", "i1", "i2"],
        "cy": ["i1", "i2", "i9"],
    }


def test_a_new_artifact_is_loaded_and_a_damaged_one_is_not(folder, tmp_path):
    app = app_of(folder)
    before = post(app, "/v1/recommend", {"user": "ann", "k": 3})[1]["items"]
    weights = folder / "weights.safetensors"
    content = weights.read_bytes()
    replaced = tmp_path / "replaced"
    replaced.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))
    os.replace(replaced, weights)
    assert not run(app.engine.reload())
    assert post(app, "/v1/recommend", {"user": "ann", "k": 3})[1]["items"] == before
    save(folder, seed=1)
    assert _engine._identity(folder) != app.engine.loaded
    assert run(app.engine.reload())
    after = post(app, "/v1/recommend", {"user": "ann", "k": 3})[1]["items"]
    assert [item["item"] for item in after] == [item.item for item in artifact.load(folder).recommend("ann", k=3)]
    assert after != before
    shutil.rmtree(folder)
    assert not run(app.engine.reload())
    assert post(app, "/v1/recommend", {"user": "ann", "k": 3})[1]["items"] == after


def test_the_description_names_every_path_and_the_page_is_one_file(folder):
    app = app_of(folder)
    _, _, document = run(request(app, "GET", "/openapi.json"))
    described = {(verb.upper(), path) for path, verbs in document["paths"].items() for verb in verbs}
    assert described == set(app._routes)
    status, about, page = run(request(app, "GET", "/"))
    assert status == 200
    assert "default-src 'none'" in about["content-security-policy"]
    assert not re.search(rb"(src|href)=", page)
    _, _, found = run(request(app, "GET", "/v1/items?search=title%201"))
    assert [item["item"] for item in found["items"]] == ["i1", "i10", "i11"]
    _, _, metrics = run(request(app, "GET", "/metrics"))
    assert b'recjax_requests_total{path="/v1/items",status="200"} 1.0' in metrics


def test_the_command_serves_until_it_is_told_to_stop(folder):
    code = "from recjax.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", code, "serve", str(folder), "--port", "0", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert url is not None, line
        with urllib.request.urlopen(f"{url[0]}/ready", timeout=30) as answer:
            assert json.load(answer) == {"status": "ready"}
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors
