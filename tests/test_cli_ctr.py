"""``recjax data`` and ``recjax score``: what they print, against figures computed here, and what they refuse."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics

from recjax import artifact, data
from recjax.cli import main
from recjax.errors import InputError

ROWS = [f"u{i % 7},{i % 11},{int(i % 3 == 0)}" for i in range(90)]
CLICKS = "\n".join(["user,hour,click", *ROWS, ""])


def popular(at):
    """Item 0 for half of the rows."""
    return 0 if at % 2 else at % 20


LOG = [(at % 10, popular(at), 1.7e9 + 86400 * at) for at in range(200)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clicks.csv").write_text(CLICKS)
    log = [f"u{user},i{item},{time:.0f}" for user, item, time in LOG]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *log]))
    return tmp_path


@pytest.fixture
def served(here):
    """An artifact of logistic regression whose weights were drawn."""
    encoding = data.read_ctr("clicks.csv").encoding
    weights = np.random.default_rng(0).normal(size=(encoding.features, 1)).astype(np.float32)
    params = {"tables": {"feature_weight": weights}, "net": {"bias": np.zeros(1, np.float32)}}
    artifact.save_ctr("served", params, kind="lr", encoding=encoding, calibration=artifact.Calibration(0.5, -1.0))
    return here


def test_a_log_is_described(here, capsys):
    assert main(["data", "log.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    pairs = sorted({(user, item) for user, item, _ in LOG})
    counts = sorted((sum(other == item for _, other in pairs) for item in {item for _, item in pairs}), reverse=True)
    assert lines[0] == "log.csv: task retrieval"
    users, items = 10, len(counts)
    assert lines[1] == (f"10 users, {items} items, {len(pairs)} rows, density {len(pairs) / users / items:.2%}")
    assert "popularity, share of rows: " in lines[4]
    assert f"top 50% of items {sum(counts[: -(-items // 2)]) / len(pairs):.1%}" in lines[4]
    assert f"duplicates collapsed: {200 - len(pairs)}" in lines
    assert any(line.startswith("--split time: ") for line in lines)
    assert lines[-1].startswith("suited: --split ")


def test_columns_of_clicks_are_described(here, capsys):
    for arguments in (["data", "clicks.csv"], ["data", "clicks.csv", "--task", "ctr", "--label", "click"]):
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert "clicks.csv: task ctr\nlabel 'click'\n" in printed
        assert printed.count("categorical") == 2
    assert main(["data", "clicks.csv", "--drop", "user", "--numeric", "hour"]) == 0
    printed = capsys.readouterr().out
    assert "numeric" in printed
    assert "as an option says" in printed
    assert main(["data", "clicks.csv", "--min-count", "0"]) == 2
    assert "option --min-count: expected at least 1, got 0" in capsys.readouterr().err


def test_a_file_is_scored_as_python_scores_it(served, capsys, monkeypatch):
    read_blocks = data.read_blocks
    monkeypatch.setattr(data, "read_blocks", lambda *args, **kwargs: read_blocks(*args, **kwargs, rows=40))
    (served / "more.csv").write_text(CLICKS.replace("u1,", "stranger,").replace("click", "label"))
    assert main(["score", "served", "more.csv", "--out", "scores.csv", "--label", "label"]) == 0
    lines = (served / "scores.csv").read_text().splitlines()
    rows = [line.split(",") for line in (served / "more.csv").read_text().splitlines()[1:]]
    expected = artifact.load("served").score([{"user": user, "hour": hour} for user, hour, _ in rows]).probability
    assert lines[0] == "probability"
    np.testing.assert_allclose([float(line) for line in lines[1:]], expected, rtol=1e-6)
    printed = capsys.readouterr().out.splitlines()
    label = [int(row[2]) for row in rows]
    auc, loss = metrics.roc_auc_score(label, expected), metrics.log_loss(label, expected)
    assert printed[-1] == f"90 rows scored, AUC {auc:.4f}, log loss {loss:.4f}: scores.csv"
    strangers = sum(row[0] == "stranger" for row in rows) / 90
    assert f"rows whose value train had rarely or not at all: user {strangers:.1%}" in printed


def test_missing_and_new_columns_are_said_once(served, capsys):
    (served / "other.csv").write_text("\n".join(["hour,extra", *["3,x"] * 5]))
    assert main(["score", "served", "other.csv", "--out", "scores.csv"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "columns missing in all rows: user",
        "columns ignored: extra",
        "5 rows scored: scores.csv",
    ]


def test_scoring_imports_no_jax(served):
    code = (
        "import sys; from recjax.cli import main; "
        "main(['score', 'served', 'clicks.csv', '--out', 'scores.csv']); print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["90 rows scored: scores.csv", "False"]


def test_what_cannot_be_scored_is_one_line(served, capsys):
    (served / "other.csv").write_text("usr,hr\nu1,3\n")
    (served / "text.csv").write_text("user,hour,click\nu1,3,1\nu1,3,maybe\n")
    for arguments, message in (
        (["score", "served", "other.csv", "--out", "s.csv"], "other.csv: expected some of ['user', 'hour'], got 'usr'"),
        (
            ["score", "served", "text.csv", "--out", "s.csv", "--label", "click"],
            "row 3, column 'click': ",
        ),
        (["score", "served", "clicks.csv", "--out", "s.csv", "--label", "nix"], "expected a column 'nix'"),
        (
            ["score", "served", "clicks.csv", "--out", "clicks.csv"],
            "--out: expected another file",
        ),
        (["score", "served", "none.csv", "--out", "s.csv"], "none.csv: expected a log or table, got no such file"),
        (["recommend", "served", "--user", "u1"], "served: expected the artifact of a recommender, got one for"),
        (["score", "served", "clicks.csv"], "the following arguments are required: --out"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
        assert not (served / "s.csv").exists()
    assert (served / "clicks.csv").read_text() == CLICKS
    with pytest.raises(InputError, match="expected one"):
        data.read_ctr("clicks.csv", data.ColumnOptions(drop=("click",)))
