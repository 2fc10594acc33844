"""The pages under docs: the tables are what the docstrings say, and every block of code runs."""

import doctest
import inspect

import jax
import pytest

from docs import build
from recjax import compress, losses, prune, quantize

DOCS = build.DOCS
FUNCTIONS = [thing for name in losses.__all__ if inspect.isfunction(thing := getattr(losses, name))]
WEIGHTS = {"discrepancy_weights", "estimated_ranks", "listed_weights", "orthogonal_rows", "position_weights"}


@pytest.mark.parametrize("page", build.PAGES)
def test_a_table_is_what_the_docstrings_say(page):
    assert (DOCS / page).read_text(encoding="utf-8") == build.PAGES[page](), "run python docs/build.py"


@pytest.mark.parametrize("room", [quantize, prune, compress])
def test_every_technique_is_listed(room):
    with_equation = [thing for thing in build.public(room) if ".. math::" in inspect.getdoc(thing)]
    assert with_equation
    assert with_equation == build.compressions()[room]


def test_static_arguments_and_published_values_are_listed():
    doc = """Args:
  x: ``[...]`` float.
  axis: an axis, described over
    two lines. Static.
  bits: scalar. Not static.
  bins: a count. Static.

Published:
  200 bins."""
    assert build.hyperparameters(doc) == "Static: `axis`, `bins`. Published: 200 bins."


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


@pytest.mark.parametrize(("page", "blocks"), [("settings", 20), ("teachers", 5)])
def test_the_examples_run(page, blocks):
    if page == "teachers":
        pytest.importorskip("torch", reason="a teacher in PyTorch needs the extra peers")
    with jax.numpy_rank_promotion("warn"):  # a reader has no such setting
        failed, run = doctest.testfile(str(DOCS / f"{page}.md"), module_relative=False)
    assert run > blocks
    assert not failed
