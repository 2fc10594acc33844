"""The command ``recommend``: what it prints, and what it says of a user, a history or an artifact that it can't use."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from recjax import artifact
from recjax.cli import main
from recjax.data import Seen


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Users with and without a vector, some of whom have everything; titles that look like markup."""
    folder = tmp_path_factory.mktemp("shop") / "artifact"
    items, titles = ["a", "[b]", "ç☃", "d" * 300], ["Alien [1979]", "[rec] [/rec]", "Amélie :smile:", "long " * 60]
    vectors = {
        "user": np.float32([[1, 0], [0, 1], [1, 1]]),
        "item": np.float32([[0.5, 4], [1.5, 3], [2.5, 2], [3.5, 1]]),
    }
    artifact.save(
        folder,
        vectors,
        kind="vectors",
        user_ids=["7", "[/x]", "cold", "all", "cold all"],
        item_ids=items,
        titles=titles,
        seen=Seen(np.array([0, 1, 2, 4, 8, 12]), np.int32([3, 0, 0, 1, *range(4), *range(4)])),
        known_users=np.array([0, 1, 3]),
        about={},
    )
    return folder


@pytest.fixture(scope="module")
def neighbors(tmp_path_factory):
    """A model that reads histories, without titles: row h holds what item h adds to every item."""
    folder = tmp_path_factory.mktemp("neighbors") / "artifact"
    table = np.float32([[0, 1, 2, 3, 4], [5, 0, 1, 1, 2], [1, 1, 0, 7, 1], [2, 2, 2, 0, 2], [1, 9, 1, 1, 0]])
    artifact.save(
        folder,
        {"item_item": table},
        kind="item_item",
        user_ids=["u"],
        item_ids=["a", "b", "-c", "日本", "e"],
        titles=[""] * 5,
        seen=Seen(np.array([0, 2]), np.int32([0, 1])),
        about={},
    )
    return folder


def printed(capsys, *arguments: object) -> list[str]:
    assert main([str(argument) for argument in ("recommend", *arguments)]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return [line.rstrip() for line in output.out.splitlines()]


def test_recommend_prints_items_titles_and_scores(shop, capsys):
    lines = printed(capsys, shop, "--user", 7, "--k", 3)
    assert lines[0] == "user 7"
    assert lines[1:] == [
        "rank  item   score  title",
        "   1  ç☃    2.5000  Amélie :smile:",
        "   2  [b]   1.5000  [rec] [/rec]",
        "   3  a     0.5000  Alien [1979]",
    ]


def test_recommend_respects_k_and_what_is_asked(shop, capsys):
    assert len(printed(capsys, shop, "--user", 7, "--k", 1)) == 3
    lines = printed(capsys, shop, "--user", 7, "--k", 4)
    assert lines[0] == "user 7 has all but 3 items of the catalog; --include-seen lists those too"
    assert len(lines) == 6
    lines = printed(capsys, shop, "--user", 7, "--k", 4, "--include-seen")
    assert lines[2].split()[:2] == ["1", "d" * 300]
    assert ("long " * 60).strip() in lines[2]


def test_recommend_says_that_a_user_has_everything(shop, capsys):
    """For a known user, one without a vector, and a history."""
    told = "has every item of the catalog; --include-seen lists those too"
    assert printed(capsys, shop, "--user", "all", "--k", 4) == [f"user all {told}"]
    assert len(printed(capsys, shop, "--user", "all", "--k", 4, "--include-seen")) == 6
    lines = printed(capsys, shop, "--user", "cold all", "--k", 2)
    assert lines == [
        "user cold all is not known to this model: these are the most popular items",
        f"user cold all {told}",
    ]


def test_recommend_tells_a_stranger_so(shop, capsys):
    for user in ("stranger", "-5", "[bold]", "cold"):
        lines = printed(capsys, shop, "--user", user, "--k", 2)
        assert lines[0] == f"user {user} is not known to this model: these are the most popular items"
        assert lines[1] == f"user {user}"
        assert lines[2].split() == ["rank", "item", "users", "title"]
    assert [line.split()[1] for line in lines[3:]] == ["d" * 300, "ç☃"]  # without the two that the user has
    assert "1" in lines[3].split()


def test_recommend_reads_a_history(neighbors, capsys):
    lines = printed(capsys, neighbors, "--history", "a", "e", "--k", 2)
    assert lines == ["this history", "rank  item    score", "   1  b     10.0000", "   2  日本   4.0000"]
    lines = printed(capsys, neighbors, "--history=-c", "--history", "gone", "--history", "lost", "--k", 1)
    assert lines[0] == "2 of 3 items of this history are not in the catalog"
    assert lines[3].split() == ["1", "日本", "7.0000"]
    lines = printed(capsys, neighbors, "--history", "gone", "--k", 2)
    assert lines[0] == "1 of 1 items of this history are not in the catalog"
    assert lines[1] == "this history has no item of the catalog: these are the most popular items"
    assert lines[3].split() == ["rank", "item", "users"]
    told = "this history has every item of the catalog; --include-seen lists those too"
    assert printed(capsys, neighbors, "--history=-c", "--history", "a", "b", "日本", "e", "--k", 3) == [told]
    assert printed(capsys, neighbors, "--history", "a", "--include-seen", "--k", 5)[2].split() == ["1", "e", "4.0000"]


def test_recommend_refuses_a_history_that_the_model_does_not_read(tmp_path, refuse):
    artifact.save(
        tmp_path / "popular",
        {"item_bias": np.float32([[2], [1]])},
        kind="popularity",
        user_ids=["u"],
        item_ids=["a", "b"],
        titles=["", ""],
        seen=Seen(np.array([0, 1]), np.int32([0])),
        about={},
    )
    told = "history: expected a model with vectors of items, got one of kind popularity"
    assert told in refuse("recommend", tmp_path / "popular", "--history", "a", "--k", 1)


def test_recommend_takes_ids_that_begin_with_a_dash(shop, capsys):
    for arguments in (["--user=-x"], ["--user=--user"], ["--user", "-5"]):
        user = arguments[-1].removeprefix("--user=")
        assert printed(capsys, shop, *arguments, "--k", 1)[0].startswith(f"user {user} is not known to this model")


def test_recommend_moves_no_cursor(shop, capsys):
    lines = printed(capsys, shop, "--user", "a\x1b[2Jb\nc\rd", "--k", 1)
    assert lines[0] == "user a [2Jb c d is not known to this model: these are the most popular items"


def test_recommend_imports_no_jax(shop):
    """Nor anything else that takes longer to import than the answer."""
    code = """
import sys
from recjax.cli import main
code = main(["recommend", sys.argv[1], "--user", "7", "--k", "1"]) or main([])
heavy = {"jax", "flax", "polars", "scipy", "tyro", "rich", "jinja2", "matplotlib", "recjax.pipeline"} & {*sys.modules}
raise SystemExit(code or str(heavy or ""))
"""
    done = subprocess.run([sys.executable, "-c", code, shop], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "\n"), done.stderr


def test_recommend_takes_ids_that_look_like_markup(shop, capsys):
    lines = printed(capsys, shop, "--user", "[/x]", "--k", 1)
    assert lines[0] == "user [/x]"
    assert lines[2].split()[:2] == ["1", "[b]"]


@pytest.mark.parametrize("k", [0, -1, 5, 10])
def test_recommend_refuses_a_k_beyond_the_catalog(shop, refuse, k):
    assert f"k: expected 1 to 4, the size of the catalog, got {k}" in refuse("recommend", shop, "--user", 7, "--k", k)


def test_recommend_refuses_what_is_no_artifact(here, shop, refuse):
    assert "nowhere/model.json: expected the card of an artifact, got a file that can't be read" in refuse(
        "recommend", "nowhere", "--user", 7
    )
    (here / "model.json").write_text(json.dumps({"format": 99}))
    assert "model.json: expected format 2 or older, got format 99" in refuse("recommend", here, "--user", 7)
    for name in ("model.json", "weights.safetensors", "ids.safetensors", "seen.safetensors"):
        for file in shop.iterdir():
            (here / file.name).write_bytes(file.read_bytes())
        (here / name).write_bytes((shop / name).read_bytes()[:-40])
        assert str(here / name) in refuse("recommend", here, "--user", 7)
    for arguments, words in (
        ([shop], "--user --history"),
        (
            [shop, "--user"],
            "option --user: expected a value (type one that begins with a dash as --user=VALUE), got none",
        ),
        ([shop, "--user", "-x"], "option --user: expected a value (type one that begins with a dash as --user=VALUE)"),
        (
            [shop, "--history", "-x"],
            "option --history: expected a value (type one that begins with a dash as --history=",
        ),
        ([shop, "--user", "7", "--history", "a"], "--history"),
        ([shop, "--user", "7", "--k", "ten"], "--k: invalid int value: 'ten'"),
        (["--user", "7"], "ARTIFACT"),
        ([shop, "--user", "7", "--speed", "9"], "--speed 9"),
    ):
        assert words in refuse("recommend", *arguments)


def test_recommend_prints_what_the_terminal_cannot(shop):
    """In a process with an encoding that lacks the titles' letters."""
    command = [sys.executable, "-c", "from recjax.cli import main; raise SystemExit(main())"]
    done = subprocess.run(
        [*command, "recommend", shop, "--user", "7", "--k", "1"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Am\\xe9lie" in done.stdout
