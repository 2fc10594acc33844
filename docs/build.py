"""Writes docs/losses.md, the table of all losses, from their docstrings.

python docs/build.py            # writes the page
python docs/build.py --check    # exit code 1 where the page is not what the docstrings say
"""

import inspect
import pathlib
import re
import sys
from collections.abc import Callable

from recjax import losses

PAGE = pathlib.Path(__file__).with_name("losses.md")
ROOMS = {
    "_task": "Task losses",
    "_logits": "Scores of student and teacher",
    "_batch": "Scores across a batch",
    "_features": "Hidden activations and gradients",
    "_relations": "Relations between the members of a batch",
    "_ranking": "Ranked lists",
    "_curriculum": "Several teachers, from easy to hard",
    "_settings": "Settings built from them",
}
HEAD = """# The losses

Made from the docstrings by `python docs/build.py`; a test fails where this page and they differ.

Every loss takes arrays and returns an unreduced array. A published weight belongs to the reduction that is named beside
it: a mean over a batch wants another one. Samplers are functions of a key in `recjax.teacher`.
"""


def section(doc: str, name: str) -> str:
    """The text of one section of a docstring, as one paragraph."""
    found = re.search(rf"^{name}:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    return " ".join(found.group(1).split()) if found else ""


def equations(doc: str) -> str:
    """The displayed equations of a docstring, as inline mathematics."""
    blocks = re.findall(r"\.\. math::\n((?:[ \t]+.*\n|\n)+)", doc)
    text = " ; ".join(" ".join(block.split()) for block in blocks)
    if r"\begin" not in text:  # an alignment over lines, in one
        text = text.replace("&", "").replace(r"\\", r"\;")
    return "$" + text.replace("|", r"\vert ") + "$" if text else ""


def markdown(text: str) -> str:
    """A paragraph of a docstring in the marks of Markdown."""
    text = re.sub(r"`([^`<]+?)\s*<([^>]+)>`_", r"[\1](\2)", text)
    text = re.sub(r":math:`([^`]+)`", r"$\1$", text)
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", text)
    return text.replace("``", "`").replace("|", r"\|")


def row(function: Callable) -> str:
    """One loss as a row of the table."""
    doc = inspect.getdoc(function) or ""
    name = f"`{function.__name__}`<br>{markdown(doc.splitlines()[0])}"
    cells = [name, equations(doc), *(markdown(section(doc, part)) for part in ("Published", "Sampling", "References"))]
    return "| " + " | ".join(cells) + " |"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    everything = [getattr(losses, name) for name in losses.__all__]
    functions = [thing for thing in everything if inspect.isfunction(thing)]
    for module, title in ROOMS.items():
        rows = [row(f) for f in functions if f.__module__ == f"recjax.losses.{module}"]
        if rows:
            parts += [
                f"## {title}\n",
                "| loss | equation | published | to be sampled | paper |",
                "|---|---|---|---|---|",
            ]
            parts += [*rows, ""]
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Writes the page, or compares it."""
    if "--check" in arguments:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
