"""The page of a run: from made-up rows, whole, safe, the same twice, and readable where rows lack something."""

import copy
import html.parser
import io
import json
import math
import re

import numpy as np
import pytest
from rich.console import Console

from recjax.errors import InputError
from recjax.report import read_rows, stage_table, write_report

SEEDS = list(range(5))


def made_up_rows():
    rng = np.random.default_rng(0)
    rows = []

    def stage(name, ndcg, parameters, size, p50, rate, spread=None, fourth=None, **hyperparameters):
        by_seed = [ndcg] if spread is None else [round(float(v), 6) for v in ndcg + spread * rng.standard_normal(5)]
        if fourth is not None:
            by_seed[3] = fourth
        sd = None if spread is None else float(np.std(by_seed, ddof=1))
        mean = float(np.mean(by_seed))
        row = {"stage": name, "ndcg@10": mean, "ndcg@10_sd": sd, "recall@10": 0.8 * mean, "parameters": parameters}
        row |= {"recall@10_sd": None if sd is None else 0.8 * sd, "valid_ndcg@10": mean + 0.004, "bytes": size}
        row |= {"valid_ndcg@10_sd": sd, "p50_ms": p50, "users_per_second": rate, "seeds": SEEDS if spread else [0]}
        rows.append(row | {"ndcg@10_by_seed": by_seed, "hyperparameters": hyperparameters})
        return by_seed

    chosen = {"temperature": 2.0, "alpha": 0.9, "learning_rate": 0.01}
    stage("popularity", 0.0621, 1682, 6816, 0.21, 91_000)
    stage("teacher", 0.1322, 2_827_442, 11_309_912, 1.93, 2_950)
    alone = stage(
        "student_alone", 0.1201, 42_300, 169_312, 0.41, 41_200, 0.0016, learning_rate=0.003, weight_decay=1e-5
    )
    stage("distilled", 0.1312, 42_300, 169_312, 0.42, 41_100, 0.0011, **chosen)
    stage("pruned", 0.1306, 21_150, 169_312, 0.41, 41_300, 0.0012, sparsity=0.5)
    stage("quantized", 0.1301, 21_150, 169_312, 0.42, 41_000, 0.0013, bits=4)
    packed = stage("packed", 0.1301, 21_150, 41_624, 0.38, 44_800, 0.0013, alone[3] - 0.0008, bits=4)
    number = 0

    def member(grid, seed, score, **hyperparameters):
        nonlocal number
        rows.append({"member": number, "grid": grid, "seed": seed, "valid_ndcg@10": score} | hyperparameters)
        number += 1

    for rate in (0.001, 0.003, 0.01, 0.03):
        for decay in (0.0, 1e-6, 1e-5, 1e-4):
            for seed in SEEDS:
                score = 0.12 - 0.01 * (math.log10(rate / 0.003)) ** 2 - 0.002 * abs(math.log10(decay + 1e-7) + 5)
                member(
                    "student_alone", seed, score + 0.001 * rng.standard_normal(), learning_rate=rate, weight_decay=decay
                )
    for temperature in (1.0, 2.0, 4.0):
        for alpha in (0.3, 0.6, 0.9):
            for rate in (0.003, 0.01):
                for seed in SEEDS:
                    score = (
                        0.13 - 0.006 * (0.9 - alpha) - 0.003 * abs(math.log2(temperature) - 1) - 0.004 * (rate < 0.01)
                    )
                    knobs = {"temperature": temperature, "alpha": alpha, "learning_rate": rate}
                    member("distilled", seed, score + 0.001 * rng.standard_normal(), **knobs)
    for sparsity in (0.3, 0.5, 0.7, 0.9):
        for seed in SEEDS:
            member("pruned", seed, 0.133 - 0.02 * sparsity**4 + 0.001 * rng.standard_normal(), sparsity=sparsity)
    for grid, start, top in (("student_alone", 7.3, 0.124), ("distilled", 5.1, 0.135), ("quantized", 4.2, 0.134)):
        steps = list(range(0, 2001, 100))
        loss = [start * (0.6 + 0.4 * math.exp(-s / 400)) for s in steps]
        score = [top * (1 - 0.8 * math.exp(-s / 350)) for s in steps]
        rows.append({"curve": grid, "step": steps, "loss": loss, "valid_ndcg@10": score, "hyperparameters": chosen})
    summary = {"name": "ml100k", "data": "MovieLens-100K", "users": 943, "items": 1682, "interactions": 100_000}
    summary |= {"split": "by time over the whole log, 80/10/10; rows of equal time stay on one side"}
    summary |= {"counts": {"rows_read": 100_000, "duplicates_collapsed": 0, "users_without_test": 762}}
    summary |= {"device": "cpu, 2 cores", "versions": {"jax": "0.10.2", "recjax": "0.1.0"}, "seconds": 172.4}
    summary |= {
        "stage_seconds": {"teacher": 31.0, "distilled": 88.2},
        "peak_memory_mb": 1630.5,
        "command": "recjax run",
    }
    summary |= {
        "compression": 11_309_912 / 41_624,
        "quality_kept": float(np.mean(packed)) / 0.1322,
    }
    rows.append({"summary": summary})
    return rows


def page_of(rows, folder):
    path = folder / "report.html"
    write_report(rows, path)
    assert [file.name for file in folder.iterdir()] == ["report.html"]  # no temporary file is left
    return path.read_text(encoding="utf-8")


class Outline(html.parser.HTMLParser):
    """Tags, attributes and text, with a check that what is opened is closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)


def words_of(page):
    return " ".join("".join(Outline(page).text).split())


def test_page_says_what_was_measured(tmp_path):
    words = words_of(page_of(made_up_rows(), tmp_path))
    for said in (
        "272\N{MULTIPLICATION SIGN} smaller than its teacher, keeping 97.1% of its ranking quality",
        "943 users and 1,682 items with 100,000 interactions, 106 per user on average; 6.3% of all possible pairs",
        "by time over the whole log",
        "users without test762",
        "41.6 KB",
        "41,624 B",
        "± ",
        "Distilled is above the student trained alone on 5 of 5 seeds",
        "it is below on seed 3",
        "alpha 0.9, learning rate 0.01",
        "80 members: 16 settings, 5 a setting",
        "90 members: 18 settings, 5 a setting",
        "recjax recommend artifact --user ID --k 10",
        "Run it again:recjax run",
        "2 min 52 s",
        "1,630 MB",
        "cpu, 2 cores",
    ):
        assert said in words, said


def test_page_needs_nothing_but_itself(tmp_path):
    page = page_of(made_up_rows(), tmp_path)
    assert "http://" not in page
    assert "https://" not in page
    assert "url(http" not in page
    assert "@import" not in page
    assert "nan" not in page.lower().replace("nan-", "")
    tags = Outline(page).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object", "image"}
    used = [a["xlink:href"] for tag, a in tags if tag == "use"] + re.findall(r"url\((#[^)]*)\)", page)
    ids = {"#" + a["id"] for _, a in tags if "id" in a}
    assert used
    assert set(used) <= ids


def test_page_can_be_read_aloud(tmp_path):
    tags = Outline(page_of(made_up_rows(), tmp_path)).tags
    figures = [a for tag, a in tags if tag == "svg"]
    assert len(figures) == 2
    assert all(a["role"] == "img" and len(a["aria-label"]) > 40 for a in figures)
    assert all(a.get("scope") in ("col", "row") for tag, a in tags if tag == "th")
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_same_rows_same_page(tmp_path):
    assert page_of(made_up_rows(), tmp_path) == page_of(made_up_rows(), tmp_path)


def test_what_users_wrote_is_escaped(tmp_path):
    rows = made_up_rows()
    bad = "<script>alert('&')</script>"
    summary = rows[-1]["summary"]
    for key in ("name", "data", "split", "device", "command", "commit"):
        summary[key] = bad
    summary["versions"], summary["counts"], summary["stage_seconds"] = {bad: bad}, {bad: bad}, {bad: 1.0}
    summary["comparisons"] = [compared(of=bad, to=bad, metric=bad)]
    rows += [{"stage": bad, "ndcg@10": 0.1, "bytes": 100, "hyperparameters": {bad: bad}}]
    rows += [{"curve": bad, "step": [0, 1], "loss": [1, 2], "valid_ndcg@10": [0.1, 0.2], "hyperparameters": {bad: bad}}]
    rows += [{"member": 1, "grid": bad, "seed": bad, "valid_ndcg@10": 0.1, bad: s} for s in (bad, "b")]
    page = page_of(rows, tmp_path)
    assert "<script" not in page
    assert bad in words_of(page)


@pytest.mark.parametrize("cut", ["stage", "member", "curve", "summary", "teacher", "packed", "everything"])
def test_page_without_some_rows(tmp_path, cut):
    rows = [row for row in made_up_rows() if cut not in row and row.get("stage") != cut]
    page = page_of([] if cut == "everything" else rows, tmp_path)
    assert "<h1>" in page
    assert "None" not in words_of(page)


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_page_without_some_numbers(tmp_path, value):
    def spoil(row):
        return {
            key: value if isinstance(v, float) else [value] * len(v) if isinstance(v, list) and key != "seeds" else v
            for key, v in row.items()
        }

    rows = [{"summary": spoil(r["summary"])} if "summary" in r else spoil(r) for r in copy.deepcopy(made_up_rows())]
    words = words_of(page_of(rows, tmp_path))
    assert not re.search(r"\b(nan|inf|None)\b", words)


def test_loss_of_quality_is_said(tmp_path):
    rows = made_up_rows()
    scores = {row["stage"]: row["ndcg@10_by_seed"] for row in rows if "stage" in row}
    scores["distilled"][:] = np.add(scores["student_alone"], [-0.001, -0.002, 0.001, -0.003, -0.001]).tolist()
    words = words_of(page_of(rows, tmp_path))
    assert "Distilled is above the student trained alone on 1 of 5 seeds, by \N{MINUS SIGN}0.0012 on average" in words
    assert "below on seeds 0, 1, 3, 4" in words
    assert "within two standard deviations" in words


def in_ascii(page):
    return page.translate({0x2212: "-", 0x2013: "~", 0xD7: "x"})  # the minus sign, a dash for a missing number, times


def compared(of="packed", to="teacher", difference=0.004, low=-0.02, high=0.03, users=69, metric="ndcg@10"):
    return dict(of=of, to=to, metric=metric, difference=difference, low=low, high=high, users=users)


def test_few_users_come_first_and_their_differences_are_no_headline(tmp_path):
    rows = made_up_rows()
    rows[-1]["summary"] |= {"quality_kept": 1.02, "evaluated_users": 69, "comparisons": [compared()]}
    page = in_ascii(page_of(rows, tmp_path))
    words = words_of(page)
    assert words.index("69 users evaluated. Differences in NDCG@10 below about 0.0250") < words.index("272")
    assert "smaller than its teacher, with no difference in ranking quality that 69 users can resolve" in words
    assert "better than the teacher" not in words
    assert "Packed artifact - TeacherNDCG@10+0.0040-0.0200 to +0.030069no" in words
    (row,) = re.findall(r'<tr class="marked">\n<th scope="row"><span.*?</tr>', page, flags=re.DOTALL)
    assert "<td>+0.0040<br><small>[-0.0200, +0.0300]</small></td>" in row


def test_a_resolved_difference_is_a_headline(tmp_path):
    rows = made_up_rows()
    better = compared(low=0.001, high=0.007, users=5000)
    alone = compared("distilled", "student_alone", -0.002, -0.003, -0.001, 5000, "recall@10")
    rows[-1]["summary"] |= {"quality_kept": 1.02, "evaluated_users": 5000, "comparisons": [better, alone]}
    words = words_of(in_ascii(page_of(rows, tmp_path)))
    assert "not resolved" not in words
    assert "and ranking better than the teacher" in words
    assert "Distilled - Student aloneRecall@10-0.0020-0.0030 to -0.00105,000yes" in words


@pytest.mark.parametrize("interval", [None, (None, None), (-0.001, 0.003), (-0.007, -0.001)])
def test_better_is_a_headline_only_where_the_interval_is_above_zero(tmp_path, interval):
    rows = made_up_rows()
    found = [] if interval is None else [compared(low=interval[0], high=interval[1], users=5000)]
    rows[-1]["summary"] |= {"quality_kept": 1.02, "comparisons": found}
    assert "better than the teacher" not in words_of(page_of(rows, tmp_path))


def test_one_user_has_no_interval_on_the_page(tmp_path):
    rows = made_up_rows()
    rows[-1]["summary"]["comparisons"] = [compared(low=None, high=None, users=1)]
    words = words_of(in_ascii(page_of(rows, tmp_path)))
    assert "1 user evaluated. With fewer than 1,000 evaluated users" in words
    assert "Packed artifact - TeacherNDCG@10+0.0040~ to ~1~" in words


def test_a_device_of_provenance_is_in_words(tmp_path):
    rows = made_up_rows()
    rows[-1]["summary"]["device"] = {"platform": "gpu", "kind": "NVIDIA X", "count": 2, "cores": 16}
    assert "Device2 x NVIDIA X, 16 CPU cores" in words_of(in_ascii(page_of(rows, tmp_path)))
    (tmp_path / "report.html").unlink()
    rows[-1]["summary"]["device"] = {"platform": "cpu", "kind": "cpu", "count": 2, "cores": 2}
    assert "DeviceCPU, 2 cores" in words_of(in_ascii(page_of(rows, tmp_path)))


def test_existing_page_survives_a_failure(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("before")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(made_up_rows(), path)
    assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_stage_table_prints_every_stage():
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(stage_table([*made_up_rows(), {"stage": "[/b] :key:"}]))
    lines = console.export_text().splitlines()
    packed = next(line for line in lines if "Packed" in line)
    assert re.search(r"0\.1\d{3} ± 0\.00\d\d .* 21,150 .* 41\.6 KB .* 272. .* 0\.38 .* 44,800", packed)
    popularity = next(line for line in lines if "Popularity" in line)
    assert "±" not in popularity
    assert "6.82 KB" in popularity
    assert any("[/b] :key:" in line for line in lines)


def test_read_rows_gives_back_what_was_written(tmp_path):
    path, rows = tmp_path / "results.jsonl", made_up_rows()
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    assert read_rows(path) == rows


@pytest.mark.parametrize(
    ("text", "said"), [(b'{"a": 1}\n{"b": ', "line 2"), (b"[1]\n", "line 1"), (b"\xff\xfe", "UTF-8")]
)
def test_read_rows_says_what_is_wrong(tmp_path, text, said):
    path = tmp_path / "results.jsonl"
    path.write_bytes(text)
    with pytest.raises(InputError, match=said) as caught:
        read_rows(path)
    assert str(path) in str(caught.value)
    with pytest.raises(InputError, match="no file"):
        read_rows(tmp_path / "none.jsonl")
