"""The pages under docs: the tables are what the docstrings say, and every block of code runs."""

import doctest
import inspect

import jax
import pytest

from docs import build
from recjax import losses

DOCS = build.DOCS
FUNCTIONS = [thing for name in losses.__all__ if inspect.isfunction(thing := getattr(losses, name))]
WEIGHTS = {"discrepancy_weights", "estimated_ranks", "listed_weights", "orthogonal_rows", "position_weights"}


TECHNIQUES = [thing for things in build.compressions().values() for thing in things]


@pytest.mark.parametrize("page", build.PAGES)
def test_a_table_is_what_the_docstrings_say(page):
    assert (DOCS / page).read_text(encoding="utf-8") == build.PAGES[page](), "run python docs/build.py"


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda thing: thing.__name__)
def test_every_compression_says_what_it_is_what_it_stores_and_who_found_it(technique):
    doc = inspect.getdoc(technique)
    assert len(build.equations(doc)) > len("$x$")
    assert build.section(doc, "Storage")
    assert build.section(doc, "References")


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_loss_has_a_full_row(function):
    (row,) = [line for line in build.losses_page().splitlines() if f"`{function.__name__}`<br>" in line]
    cells = row.replace(r"\|", "").split(" | ")
    assert len(cells) == 5
    needed = cells[1:2] + cells[4:] if function.__name__ in WEIGHTS | {"teacher_ready"} else cells
    assert all(cell.strip(" |$") for cell in needed)


def test_a_stale_page_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "DOCS", tmp_path)
    assert build.main(["--check"]) == 1
    assert build.main([]) == 0
    assert build.main(["--check"]) == 0
    (tmp_path / "compression.md").write_text("old")
    assert build.main(["--check"]) == 1


def test_the_settings_run():
    with jax.numpy_rank_promotion("warn"):  # a reader has no such setting
        failed, run = doctest.testfile(str(DOCS / "settings.md"), module_relative=False)
    assert run > 20
    assert not failed
