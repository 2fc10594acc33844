"""The command line: what is wrong is said in one line with exit code 2, and leaves nothing behind. No training."""

import dataclasses
import gzip
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import machine, pipeline
from recjax.cli import _data, _recommend, _run, _score, main
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
    "fields": (LOG.replace("u1,i4,2", "u1,i4,2,9,9"), ["log.csv", "row 11", "expected 4 fields, got 6"]),
    "small_catalog": (LOG.replace(",i10,", ",i0,").replace(",i11,", ",i1,"), ["more than 10 items, got 10"]),
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
        assert f"{name}: expected a gzip file, got a truncated one" in refuse("run", "--data", name)
    (here / "log.csv.gz").write_text(LOG)
    assert "expected a gzip file from its name" in refuse("run", "--data", "log.csv.gz")


def test_a_log_that_filters_empty_is_named(here, refuse):
    (here / "log.csv").write_text(LOG)
    message = refuse("run", "--data", "log.csv", "--min-rating", 6)
    assert "log.csv: expected a rating of at least min_rating=6.0, got none" in message
    message = refuse("run", "--data", "log.csv", "--k-core", 40)
    assert all(word in message for word in ("log.csv", "k-core", "at least 40 rows, got none in 64"))
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
    assert "train.txt: expected a user of the test part in train, got none" in refuse(
        "run", "--train", "train.txt", "--test", "test.txt"
    )
    message = refuse("run", "--train", "train.txt", "--test", "test.txt", "--k-core", 2)
    assert "option --k-core: expected a split that is ready without it, got --train" in message
    assert sorted(os.listdir(here)) == ["test.txt", "train.txt"]


def test_a_table_of_other_ids_is_named(here, refuse):
    (here / "log.csv").write_text(LOG)
    (here / "items.csv").write_text("item_id,year\nx,1\n")
    message = refuse("run", "--data", "log.csv", "--item-table", "items.csv")
    assert all(word in message for word in ("items.csv: column 'item_id'", "ids", "such as 'x'", "such as 'i"))


# -- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--bits 0", ["--bits", "expected some of 2, 3, 4 and 8", "got 0"]),
        ("--bits 4 5", ["--bits", "got 4, 5"]),
        ("--bits", ["--bits", "got none"]),
        ("--bits four", ["--bits", "four"]),
        ("--sparsity", ["--sparsity", "got none"]),
        ("--seeds 0", ["--seeds", "expected a whole number from 1 to 1000, got 0"]),
        ("--seeds 2.5", ["--seeds", "2.5"]),
        ("--valid-share 0.5 --test-share 0.5", ["--valid-share", "less than 1"]),
        ("--split weekly", ["--split", "weekly", "time", "last-out", "random"]),
        ("--teacher guru", ["--teacher", "guru", "ease"]),
        ("--budget huge", ["--budget", "'huge'", "20KB"]),
        ("--budget=-5KB", ["--budget", "1B to 1000000GB", "'-5KB'"]),
        ("--budget 2000000GB", ["--budget", "1000000GB"]),
        ("--train a.csv", ["--train", "--test"]),
        ("--test a.csv", ["--train", "--test"]),
        ("--valid a.csv", ["--train", "--test"]),
        ("--data a.csv --synthetic", ["--synthetic", "--data", "one source"]),
        ("--data a.csv --train b --test c", ["--train", "--data", "one source"]),
        ("--synthetic --item-table a.csv", ["--item-table", "--data"]),
        ("--synthetic --min-rating 3", ["--min-rating", "--data"]),
        ("--user-column x", ["--user-column", "--data"]),
        ("--speed 9", ["--speed"]),
        ("--data", ["--data", "got none"]),
        ("--data -log.csv", ["--data", "(type one that begins with a dash as --data=VALUE)"]),
        ("--data=-log.csv", ["-log.csv", "no such file"]),
        ("--resume nowhere", ["nowhere", "config.json"]),
        ("--resume nowhere --epochs 5", ["--epochs", "--resume"]),
        ("--resume nowhere --out elsewhere", ["--out", "--resume"]),
    ],
)
def test_an_impossible_option_is_named(here, refuse, arguments, words):
    message = refuse("run", *arguments.split())
    assert all(word in message for word in words), message
    assert os.listdir(here) == []


@pytest.mark.parametrize("name", configs.LIMITS)
def test_both_limits_of_an_option_are_named(refuse, here, name):
    """What is accepted is what the message says: its limits pass, what is beyond them doesn't."""
    low, high = configs.LIMITS[name]
    many = isinstance(getattr(Config(), name), tuple) or name in (
        "learning_rate",
        "weight_decay",
        "temperature",
        "alpha",
    )
    beyond = (low - 1, high + 1) if isinstance(low, int) else (low - abs(low) / 2 - 1e-9, 2 * high, np.inf, np.nan)
    for value in beyond:
        message = refuse("run", f"{configs.option(name)}={value}")
        assert f"option {configs.option(name)}: expected" in message
        named = re.search(r"from (\S+) to (\S+), got (\S+)\n", message)
        assert named is not None, message
        assert [float(word) for word in named.groups()] == pytest.approx([low, high, value], rel=1e-9, nan_ok=True)
    for value in (low, high):
        Config(**{"valid_share": 0.05, "test_share": 0.05, name: (value,) if many else value}).check()
    assert os.listdir(here) == []


def test_an_unknown_command_is_named(here, refuse):
    assert "expected run, recommend, serve, data or score, got fly" in refuse("fly")
    assert "expected run, recommend, serve, data or score, got --fly" in refuse("--fly", "run")


def test_help_and_version_are_no_errors(capsys):
    for arguments in (["run", "--help"], ["recommend", "--help"], ["data", "--help"], ["score", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert not stop.value.code
        output = capsys.readouterr()
        assert output.err == ""
        assert f"usage: recjax {arguments[0]}" in output.out
    assert main(["--version"]) == 0
    assert "recjax " in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_help_shows_commands_that_are_accepted(capsys, arguments):
    assert main(arguments) == 0
    output = capsys.readouterr()
    assert output.err == ""
    shown = [shlex.split(line.split("   ")[0]) for line in output.out.splitlines() if line.startswith("  recjax")]
    assert [words[1] for words in shown] == ["run", "run", "recommend", "serve", "data", "score"]
    assert _run.parse(shown[0][2:]).data == "ratings.csv"
    assert _run.parse(shown[1][2:]).resume == Path("runs/ratings")
    assert _recommend.parser().parse_args(shown[2][2:]).user == "7"
    assert _data.parser().parse_args(shown[4][2:]).file == Path("ratings.csv")
    assert _score.parser().parse_args(shown[5][2:]).out == Path("scores.csv")


# -- the folder of a run ---------------------------------------------------------------------------------------------


def test_an_output_folder_in_the_way_is_named(here, refuse):
    (here / "log.csv").write_text(LOG)
    (here / "file").write_text("precious")
    (here / "used").mkdir()
    (here / "used" / "notes.txt").write_text("precious")
    before = sorted(os.listdir(here))
    for out in ("file", "file/deeper"):
        message = refuse("run", "--data", "log.csv", "--out", out)
        assert f"option --out: expected a folder to write to, got {out} (" in message
    message = refuse("run", "--data", "log.csv", "--out", "used")
    assert "option --out: expected a new folder or --resume used, got used, which is in use" in message
    assert sorted(os.listdir(here)) == before
    assert os.listdir(here / "used") == ["notes.txt"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(here, refuse):
    (here / "log.csv").write_text(LOG)
    (here / "locked").mkdir(mode=0o555)
    message = refuse("run", "--data", "log.csv", "--out", "locked/run")
    assert "option --out: expected a folder to write to, got locked/run (" in message


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
    assert "run/config.json: expected the config.json of a run, got a file that can't be used" in refuse(
        "run", "--resume", "run"
    )


# -- what a run prints -----------------------------------------------------------------------------------------------

COMPARED = {"of": "packed", "to": "student_alone", "metric": "ndcg@10", "difference": 0.0123, "users": 69}
SUMMARY = {
    "compression": 20.0,
    "compression_of_student": 8.0,
    "quality_kept": 0.9,
    "comparisons": [
        {**COMPARED, "low": 0.001, "high": 0.023},
        {**COMPARED, "of": "distilled", "low": None, "high": None},
    ],
    "teacher_beats_alone_on_validation": True,
}


def finished(summary):
    """A run in place of :func:`recjax.pipeline.run` that is done at once."""

    def done(config, folder, listener, *, resume):
        folder.mkdir(parents=True, exist_ok=True)
        row = {"ndcg@10": 0.25, "bytes": 1000}
        listener.begin("teacher")
        listener.advance("teacher", 1, 2, f"in {folder}")
        listener.end("teacher", row)
        listener.say(f"about {config.data} {folder}")
        (folder / pipeline.RESULTS).write_text(json.dumps({"stage": "teacher", **row}) + "\n" + json.dumps(summary))

    return done


NAMES = ["a b", "[/y]", "[red]x", ":smile:", "it's", "$HOME", "-dash"]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_run_prints_paths_as_they_are_and_commands_quoted(here, capsys, monkeypatch, terminal):
    monkeypatch.setattr(pipeline, "run", finished({"summary": SUMMARY}))
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "300")
    for name in NAMES:
        (here / name).mkdir(parents=True)
        (here / name / "log.csv").write_text(LOG)
        assert main(["run", f"--data={name}/log.csv", f"--out={name}/out"]) == 0
        output = capsys.readouterr()
        assert output.err == ""
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.out)
        lines = [line.strip() for line in text.splitlines()]
        assert f"about {name}/log.csv {name}/out" in lines
        if not terminal:
            assert any(line.endswith(f"  Teacher: 1 of 2, in {name}/out") for line in lines)
        assert f"report     {name}/out/report.html" in lines
        (command,) = [line.removeprefix("recommend  ") for line in lines if line.startswith("recommend")]
        assert shlex.split(command)[:2] == ["recjax", "recommend"]
        parsed = _recommend.parser().parse_args(shlex.split(command)[2:])
        assert (parsed.artifact, parsed.user, parsed.k) == (Path(name, "out", "artifact"), "ID", 10)


def test_a_stopped_run_prints_how_to_go_on(here, capsys, monkeypatch):
    def stopped(error):
        def run(config, folder, listener, *, resume):
            folder.mkdir(parents=True)
            configs.write(config, folder / "config.json")
            raise error

        return run

    for number, name in enumerate(NAMES):
        error, code = [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 2)][number % 2]
        monkeypatch.setattr(pipeline, "run", stopped(error))
        assert main(["run", "--synthetic", f"--out={name}/out"]) == code
        message = capsys.readouterr().err
        assert len(message.splitlines()) == 1
        command = shlex.split(message.partition("go on with ")[2])
        assert command[:2] == ["recjax", "run"]
        assert _run.parse(command[2:]).resume == Path(name, "out")


def test_a_run_prints_what_differences_come_to(here, capsys, monkeypatch):
    monkeypatch.setattr(pipeline, "run", finished({"summary": SUMMARY}))
    assert main(["run", "--synthetic"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = "69 evaluated users: differences below about 0.0110 in NDCG@10 are not resolved"
    assert lines.index(told) < next(n for n, line in enumerate(lines) if "stage" in line)
    assert "packed minus student alone: NDCG@10 +0.0123 [+0.0010, +0.0230], 69 users" in lines
    assert "distilled minus student alone: NDCG@10 +0.0123, 69 users" in lines
    many = [{**COMPARED, "low": 0.001, "high": 0.023, "users": 5000}]
    monkeypatch.setattr(pipeline, "run", finished({"summary": {**SUMMARY, "comparisons": many}}))
    assert main(["run", "--synthetic"]) == 0
    output = capsys.readouterr().out
    assert "not resolved" not in output
    assert "[+0.0010, +0.0230], 5,000 users" in output


def test_a_relative_log_is_found_from_elsewhere(here, monkeypatch):
    """Every option that is a file, when the run is resumed from another folder."""
    given = Config(train="a/train.csv", valid="v.csv", test="../t.csv", item_table="i.csv", user_table="/u.csv")
    configs.write(given, here / "config.json")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    read, _ = configs.read(here / "config.json")
    assert [read.train, read.valid, read.item_table] == [str(here / name) for name in ("a/train.csv", "v.csv", "i.csv")]
    assert [read.test, read.user_table, read.data] == [str(here.parent / "t.csv"), "/u.csv", None]


def test_a_config_is_typed_as_it_is_read():
    options = Config(
        data="-my [/b] log.csv", user_column="it's", min_rating=-1.5, bits=(8, 2), learning_rate=(0.1, 1e-7), seeds=3
    )
    words = shlex.split(configs.command(options))
    assert words[:2] == ["recjax", "run"]
    parsed = _run.parse(words[2:])
    assert Config(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(Config)}) == options


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
machine.one_device_per_core()
machine.enable_compilation_cache()
sums = jax.jit(lambda x: jax.nn.softmax(x).sum(-1)).lower(jax.numpy.ones((32, 64, 10))).compile().as_text()
own = jax.jit(lambda x: x @ x, compiler_options=dict(machine.xla_matmul_options())).lower(jax.numpy.ones((256, 256)))
print(jax.device_count(), jax.config.jax_compilation_cache_dir, "ynn" in sums, "ynn" in own.compile().as_text())
print(os.environ["XLA_FLAGS"])
"""
    here, flag = {**os.environ}, f"--{machine.LIBRARY}"
    here.pop("XLA_FLAGS", None)
    environment = {**here, "XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    for own in (None, str(tmp_path / "elsewhere")):
        told = {} if own is None else {"JAX_COMPILATION_CACHE_DIR": own, "XLA_FLAGS": f"{flag}="}
        one = hasattr(os, "sched_setaffinity") and own is not None
        command = [sys.executable, "-c", code, *["one core"] * one]
        said = subprocess.run(command, env={**environment, **told}, check=True, capture_output=True, text=True).stdout
        flags = f"{flag}=LIBRARY_FUSION_TYPE_DOT" if own is None else f"{flag}="
        devices, programs = "1" if one else str(machine.cores()), str(own or tmp_path / "recjax" / "programs")
        assert said.split() == [devices, programs, "False", "False", flags]
