"""The command line: what is wrong is said in one line with exit code 2, and leaves nothing behind. No training."""

import gzip
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import artifact, machine, pipeline
from recjax.cli import main
from recjax.data import Seen
from recjax.errors import InputError
from recjax.pipeline import config as configs
from recjax.pipeline.config import Config

HEADER = "user_id,item_id,rating,timestamp\n"
ROWS = [f"u{u},i{(u * 3 + n) % 12},{1 + n % 5},{1000 + n * 10 + u}\n" for u in range(8) for n in range(8)]
LOG = HEADER + "".join(ROWS)


@pytest.fixture(scope="module", autouse=True)
def _running():
    """JAX runs already, so that a command takes this process as it is."""
    jax.devices()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refuse(capsys):
    """Runs a command line that must fail, and gives its message."""

    def check(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert error.endswith("\n")
        assert len(error.splitlines()) == 1, error
        assert error.startswith("recjax: ")
        assert "Traceback" not in error
        return error

    return check


# -- files -----------------------------------------------------------------------------------------------------------


def changed(row: int, value: str) -> str:
    """The log with another timestamp in one row (its line in the file is ``row + 2``)."""
    rows = list(ROWS)
    rows[row] = rows[row].rsplit(",", 1)[0] + f",{value}\n"
    return HEADER + "".join(rows)


BAD_LOGS = {
    "empty": ("", ["log.csv", "empty file"]),
    "blank": ("\n \n", ["log.csv", "blank lines", "expected rows"]),
    "header_only": (HEADER, ["log.csv", "only a header", "expected rows"]),
    "no_user_column": (LOG.replace("user_id", "foo"), ["log.csv", "'foo'", "expected", "user", "user_column"]),
    "no_item_column": (LOG.replace("item_id", "foo"), ["log.csv", "'foo'", "expected", "item", "item_column"]),
    "rating": (LOG.replace("u1,i4,2", "u1,i4,good"), ["log.csv", "row 11", "'rating'", "'good'", "a finite number"]),
    "rating_missing": (LOG.replace("u1,i4,2", "u1,i4,"), ["row 11", "'rating'", "nothing", "a finite number"]),
    "rating_infinite": (LOG.replace("u1,i4,2", "u1,i4,inf"), ["row 11", "'rating'", "'inf'"]),
    "time_nan": (changed(5, "NaN"), ["log.csv", "row 7", "'timestamp'", "'NaN'", "at least 0"]),
    "time_infinite": (changed(6, "inf"), ["row 8", "'timestamp'", "'inf'", "at least 0"]),
    "time_negative": (changed(7, "-3"), ["row 9", "'timestamp'", "'-3'", "at least 0"]),
    "time_text": (changed(8, "noon"), ["row 10", "'timestamp'", "'noon'"]),
    "fields": (LOG.replace("u1,i4,2", "u1,i4,2,9,9"), ["log.csv", "row 11", "expected 4 fields", "got 6"]),
    "small_catalogue": (LOG.replace(",i10,", ",i0,").replace(",i11,", ",i1,"), ["catalogue of 10 items", "expected"]),
    "one_time": (HEADER + "".join(r.rsplit(",", 1)[0] + ",5\n" for r in ROWS), ["log.csv", "0 valid", "expected"]),
    "no_time": ("\n".join(",".join(r.split(",")[:2]) for r in LOG.splitlines()), ["no timestamps", "--split random"]),
    "two_rows": (HEADER + "".join(ROWS[:2]), ["log.csv", "expected"]),
    "zip": ("PK\x03\x04", ["log.csv", "zip archive"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_LOGS)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_bad_log_is_named_with_row_and_column(here, refuse, name, zipped):
    content, words = BAD_LOGS[name]
    path = here / ("log.csv.gz" if zipped else "log.csv")
    path.write_bytes(gzip.compress(content.encode()) if zipped else content.encode())
    message = refuse("run", "--data", path, "--out", here / "out")
    assert all(word in message for word in words), message
    assert "expected" in message
    assert os.listdir(here) == [path.name]


def test_a_missing_log_is_named(here, refuse):
    assert "nowhere.csv: expected a log or table, got no such file" in refuse("run", "--data", "nowhere.csv")
    assert "got a folder" in refuse("run", "--data", here)
    assert os.listdir(here) == []


def test_bytes_that_are_no_text_are_named(here, refuse):
    (here / "log.csv").write_bytes(LOG.encode().replace(b"u3,", b"\xff3,", 1))
    assert "log.csv: row 26: expected UTF-8 text, got the byte 0xff" in refuse("run", "--data", "log.csv")


def test_a_truncated_gzip_is_named(here, refuse):
    content = gzip.compress(LOG.encode())
    for name in ("log.csv.gz", "log.csv"):
        (here / name).write_bytes(content[: len(content) // 2])
        assert f"{name}: found a truncated gzip file" in refuse("run", "--data", name)
    (here / "log.csv.gz").write_text(LOG)
    assert "isn't gzip" in refuse("run", "--data", "log.csv.gz")


def test_a_log_that_filters_empty_is_named(here, refuse):
    (here / "log.csv").write_text(LOG)
    assert "log.csv: expected a rating of at least min_rating=6" in refuse(
        "run", "--data", "log.csv", "--min-rating", 6
    )
    message = refuse("run", "--data", "log.csv", "--k-core", 40)
    assert all(word in message for word in ("log.csv", "k-core", "expected rows to be left of 64, got none at 40"))
    assert os.listdir(here) == ["log.csv"]


def test_a_column_that_is_not_there_is_named(here, refuse):
    (here / "log.csv").write_text(LOG)
    for role in ("user", "item", "rating", "timestamp"):
        message = refuse("run", "--data", "log.csv", f"--{role}-column", "foo")
        assert f"{role}_column='foo'" in message
        assert "'user_id', 'item_id', 'rating', 'timestamp'" in message


def test_a_bad_ready_made_split_is_named(here, refuse):
    (here / "train.txt").write_text("".join(f"{u} " + " ".join(str(u + n) for n in range(10)) + "\n" for u in range(9)))
    (here / "test.txt").write_text("0 0 1\n")
    message = refuse("run", "--train", "train.txt", "--test", "test.txt")
    assert "test.txt: expected test rows, got none" in message
    (here / "test.txt").write_text("99 3 4\n")
    assert "train.txt: found no user of the test part in train" in refuse(
        "run", "--train", "train.txt", "--test", "test.txt"
    )
    message = refuse("run", "--train", "train.txt", "--test", "test.txt", "--k-core", 2)
    assert "option --k-core: found beside --train" in message
    assert sorted(os.listdir(here)) == ["test.txt", "train.txt"]


def test_a_table_of_other_ids_is_named(here, refuse):
    (here / "log.csv").write_text(LOG)
    (here / "items.csv").write_text("item_id,year\nx,1\n")
    message = refuse("run", "--data", "log.csv", "--item-table", "items.csv")
    assert "items.csv: column 'item_id': expected ids of the log, such as 'i" in message


# -- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--bits 0", ["--bits", "found 0", "expected 2, 3, 4 or 8"]),
        ("--bits 4 5", ["--bits", "found 5"]),
        ("--bits", ["--bits"]),
        ("--bits four", ["--bits", "four"]),
        ("--sparsity 1.2", ["--sparsity", "found 1.2", "below 1"]),
        ("--sparsity -0.1", ["--sparsity", "found -0.1"]),
        ("--temperature 0", ["--temperature", "found 0", "above 0"]),
        ("--temperature 1 inf", ["--temperature", "found inf"]),
        ("--alpha nan", ["--alpha", "found nan", "from 0 to 1"]),
        ("--alpha 1.01", ["--alpha", "found 1.01"]),
        ("--learning-rate 0", ["--learning-rate", "found 0"]),
        ("--weight-decay -1", ["--weight-decay", "found -1"]),
        ("--regularization 0", ["--regularization", "found 0"]),
        ("--seeds 0", ["--seeds", "found 0", "at least 1"]),
        ("--seeds 2.5", ["--seeds", "2.5"]),
        ("--epochs 0", ["--epochs", "found 0"]),
        ("--batch-size 0", ["--batch-size", "found 0"]),
        ("--dim 0", ["--dim", "found 0"]),
        ("--k-core -1", ["--k-core", "found -1"]),
        ("--test-share 0", ["--test-share", "found 0"]),
        ("--valid-share 0.5 --test-share 0.5", ["--valid-share", "less than 1"]),
        ("--split weekly", ["--split", "weekly", "time", "last-out", "random"]),
        ("--teacher guru", ["--teacher", "guru", "ease"]),
        ("--budget huge", ["--budget", "'huge'", "20KB"]),
        ("--budget -5KB", ["--budget"]),
        ("--train a.csv", ["--train", "--test"]),
        ("--test a.csv", ["--train", "--test"]),
        ("--valid a.csv", ["--train", "--test"]),
        ("--data a.csv --synthetic", ["--synthetic", "--data", "one source"]),
        ("--data a.csv --train b --test c", ["--train", "--data", "one source"]),
        ("--synthetic --item-table a.csv", ["--item-table", "--data"]),
        ("--synthetic --min-rating 3", ["--min-rating", "--data"]),
        ("--user-column x", ["--user-column", "--data"]),
        ("--speed 9", ["--speed"]),
        ("--data", ["--data"]),
        ("--resume nowhere", ["nowhere", "config.json"]),
    ],
)
def test_an_impossible_option_is_named(here, refuse, arguments, words):
    message = refuse("run", *arguments.split())
    assert all(word in message for word in words), message
    assert os.listdir(here) == []


def test_an_unknown_command_is_named(here, refuse):
    assert "fly" in refuse("fly")
    assert "run, recommend" in refuse()


def test_help_and_version_are_no_errors(capsys):
    for arguments in (["--help"], ["run", "--help"], ["recommend", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert not stop.value.code
        assert capsys.readouterr().err == ""


# -- the folder of a run ---------------------------------------------------------------------------------------------


def test_an_output_folder_in_the_way_is_named(here, refuse):
    (here / "log.csv").write_text(LOG)
    (here / "file").write_text("precious")
    (here / "used").mkdir()
    (here / "used" / "notes.txt").write_text("precious")
    before = sorted(os.listdir(here))
    for out in ("file", "file/deeper"):
        message = refuse("run", "--data", "log.csv", "--out", out)
        assert f"option --out: {out} can't be written" in message
    message = refuse("run", "--data", "log.csv", "--out", "used")
    assert "option --out: found used in use, expected a new folder or --resume used" in message
    assert sorted(os.listdir(here)) == before
    assert os.listdir(here / "used") == ["notes.txt"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(here, refuse):
    (here / "log.csv").write_text(LOG)
    (here / "locked").mkdir(mode=0o555)
    assert "option --out: locked/run can't be written" in refuse("run", "--data", "log.csv", "--out", "locked/run")


def test_a_finished_run_says_so(here, capsys):
    (here / "[red]run").mkdir()
    configs.write(Config(synthetic=True), here / "[red]run" / "config.json")
    (here / "[red]run" / "results.jsonl").write_text("{}\n")
    assert main(["run", "--resume", "[red]run"]) == 0
    assert capsys.readouterr().out.startswith("[red]run is finished; nothing to do")


@pytest.mark.parametrize("content", ["", "[]", "{}", "{", '{"config": 3}', '{"config": {"speed": 9}}', "\x00"])
def test_a_foreign_config_is_named(here, refuse, content):
    (here / "run").mkdir()
    (here / "run" / "config.json").write_text(content)
    assert "run/config.json: can't be used" in refuse("run", "--resume", "run")


# -- recommend -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Three users, the last without a vector; titles that look like markup."""
    folder = tmp_path_factory.mktemp("shop") / "artifact"
    items, titles = ["a", "[b]", "ç☃", "d" * 300], ["Alien [1979]", "[rec] [/rec]", "Amélie :smile:", "long " * 60]
    vectors = {"user": np.float32([[1, 0], [0, 1]]), "item": np.float32([[0.5, 4], [1.5, 3], [2.5, 2], [3.5, 1]])}
    artifact.save(
        folder,
        vectors,
        kind="vectors",
        user_ids=["7", "[/x]", "cold"],
        item_ids=items,
        titles=titles,
        seen=Seen(np.array([0, 1, 2, 4]), np.int32([3, 0, 0, 1])),
        known_users=np.array([0, 1]),
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
    assert lines[1].split() == ["rank", "item", "title", "score"]
    assert [line.split() for line in lines[2:]] == [
        ["1", "ç☃", "Amélie", ":smile:", "2.5000"],
        ["2", "[b]", "[rec]", "[/rec]", "1.5000"],
        ["3", "a", "Alien", "[1979]", "0.5000"],
    ]


def test_recommend_respects_k_and_what_is_asked(shop, capsys):
    assert len(printed(capsys, shop, "--user", 7, "--k", 1)) == 3
    assert len(printed(capsys, shop, "--user", 7, "--k", 4)) == 5  # one of four is theirs
    lines = printed(capsys, shop, "--user", 7, "--k", 4, "--include-seen")
    assert lines[2].split()[:2] == ["1", "d" * 300]
    assert ("long " * 60).strip() in lines[2]


def test_recommend_tells_a_stranger_so(shop, capsys):
    for user in ("stranger", "-5", "[bold]", "cold"):
        lines = printed(capsys, shop, "--user", user, "--k", 2)
        assert lines[0] == f"user {user} is not known to this model: these are the most popular items"
        assert lines[1] == f"user {user}"
        assert lines[2].split() == ["rank", "item", "title", "users"]
    assert [line.split()[1] for line in lines[3:]] == ["d" * 300, "ç☃"]  # without the two that the user has
    assert "1" in lines[3].split()


def test_recommend_takes_ids_that_look_like_markup(shop, capsys):
    lines = printed(capsys, shop, "--user", "[/x]", "--k", 1)
    assert lines[0] == "user [/x]"
    assert lines[2].split()[:2] == ["1", "[b]"]


@pytest.mark.parametrize("k", [0, -1, 5, 10])
def test_recommend_refuses_a_k_beyond_the_catalogue(shop, refuse, k):
    assert f"option --k: expected 1 to 4, the size of the catalogue, got {k}" in refuse(
        "recommend", shop, "--user", 7, "--k", k
    )


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
    assert "--user" in refuse("recommend", shop)


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


def test_a_profile_is_a_trace_that_tools_open(here, monkeypatch):
    def computed(config, folder, listener, *, resume):
        jax.block_until_ready(jax.jit(lambda x: x @ x)(jnp.ones((64, 64))))
        raise InputError("enough")

    monkeypatch.setattr(pipeline, "run", computed)
    assert main(["run", "--synthetic", "--profile", "trace"]) == 2
    (tensorboard,) = here.glob("trace/plugins/profile/*/*.xplane.pb")
    assert tensorboard.stat().st_size > 0
    (perfetto,) = here.glob("trace/plugins/profile/*/*.trace.json.gz")
    assert json.loads(gzip.decompress(perfetto.read_bytes()))["traceEvents"]
    assert jax.config.jax_compilation_cache_dir is None  # not in a process in which JAX runs already


def test_a_command_uses_every_core_and_keeps_its_programs(tmp_path):
    code = """
import os, sys, jax
from recjax import machine
if "one core" in sys.argv:
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
machine.one_device_a_core()
machine.keep_programs()
sums = jax.jit(lambda x: jax.nn.softmax(x).sum(-1)).lower(jax.numpy.ones((32, 64, 10))).compile().as_text()
own = jax.jit(lambda x: x @ x, compiler_options=dict(machine.own_products())).lower(jax.numpy.ones((256, 256)))
print(jax.device_count(), jax.config.jax_compilation_cache_dir, "ynn" in sums, "ynn" in own.compile().as_text())
print(os.environ["XLA_FLAGS"])
"""
    here, flag = {**os.environ}, f"--{machine.LIBRARY}"
    here.pop("XLA_FLAGS", None)
    environment = {**here, "XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    for own in (None, "elsewhere"):
        told = {} if own is None else {"JAX_COMPILATION_CACHE_DIR": own, "XLA_FLAGS": f"{flag}="}
        one = hasattr(os, "sched_setaffinity") and own is not None
        command = [sys.executable, "-c", code, *["one core"] * one]
        said = subprocess.run(command, env={**environment, **told}, check=True, capture_output=True, text=True).stdout
        flags = f"{flag}=LIBRARY_FUSION_TYPE_DOT" if own is None else f"{flag}="
        devices, programs = "1" if one else str(machine.cores()), str(own or tmp_path / "recjax" / "programs")
        assert said.split() == [devices, programs, "False", "False", flags]
