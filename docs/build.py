"""Writes docs/losses.md and docs/compression.md, the tables of all losses and compressions, from their docstrings.

python docs/build.py            # writes the pages
python docs/build.py --check    # exit code 1 where a page is not what the docstrings say
"""

import inspect
import pathlib
import re
import sys
from types import ModuleType

from recjax import compress, embed, losses, prune, quantize

DOCS = pathlib.Path(__file__).parent
LOSSES = {
    "_task": "Supervised losses",
    "_logits": "Logit distillation",
    "_regression": "Squared differences",
    "_batch": "Logit distillation across a batch or list",
    "_features": "Feature distillation",
    "_relations": "Relations between the rows of a batch",
    "_positions": "Ranking distillation",
    "_ranking": "Ranked lists",
    "_curriculum": "Several teachers, from easy to hard",
    "_composed": "Composed losses",
}
LOSSES_HEAD = """# The losses

Made from the docstrings by `python docs/build.py`; a test fails where this page and they differ.

Every loss takes arrays and returns an unreduced array. A published weight belongs to the reduction that is named beside
it: a mean over a batch wants another one. Samplers are functions of a key in `recjax.teacher`.
"""

COMPRESSION = {
    quantize: "fewer bits",
    prune: "fewer weights",
    embed: "smaller tables",
    compress: "inside the training step",
}
COMPRESSION_HEAD = """# Compression techniques

Generated from the docstrings by `python docs/build.py`; a test fails if this page is out of date.

Hyperparameters are traced, so that `jax.vmap` sweeps them in one compiled program, except those listed as static; in
`recjax.compress`, those that are functions of `hparams` are traced. Storage is in bytes of the weights file.
"""


def section(doc: str, name: str) -> str:
    """The text of one section of a docstring, as one paragraph."""
    found = re.search(rf"^{name}:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    return " ".join(found.group(1).split()) if found else ""


def equations(doc: str) -> str:
    """The displayed equations of a docstring, or the one in its first line, as inline mathematics."""
    blocks = re.findall(r"\.\. math::\n((?:[ \t]+.*\n|\n)+)", doc)
    blocks = blocks or re.findall(r":math:`([^`]*=[^`]*)`", doc.split("\n\n")[0])
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


def cell(doc: str, part: str) -> str:
    """A section as a cell of a table. A loss without a section on sampling needs none."""
    if part == "Hyperparameters":
        return hyperparameters(doc)
    default = "Nothing." if part == "Sampling" and section(doc, "Published") else ""
    return markdown(section(doc, part) or default)


def hyperparameters(doc: str) -> str:
    """The static arguments and the published values; the section on knobs where there is one."""
    static = ", ".join(f"`{name}`" for name in re.findall(r"^  (\w+):(?:.|\n   )*? Static\.$", doc, re.MULTILINE))
    published = markdown(section(doc, "Published"))
    listed = [*([f"Static: {static}."] if static else []), *([f"Published: {published}"] if published else [])]
    return markdown(section(doc, "Knobs")) or " ".join(listed)


def row(thing: object, parts: tuple[str, ...]) -> str:
    """A function or a record as a row of a table."""
    doc = inspect.getdoc(thing) or ""
    name = f"`{getattr(thing, '__name__', thing)}`<br>{markdown(doc.splitlines()[0])}"
    return "| " + " | ".join([name, equations(doc), *(cell(doc, part) for part in parts)]) + " |"


def public(room: ModuleType) -> list[object]:
    """The functions and records of a package."""
    things = [getattr(room, name) for name in room.__all__]
    return [thing for thing in things if inspect.isfunction(thing) or inspect.isclass(thing)]


def losses_page() -> str:
    """The page of the losses."""
    parts = [LOSSES_HEAD]
    functions = [thing for thing in public(losses) if inspect.isfunction(thing)]
    for module, title in LOSSES.items():
        rows = [
            row(f, ("Published", "Sampling", "References"))
            for f in functions
            if f.__module__ == f"recjax.losses.{module}"
        ]
        if rows:
            parts += [
                f"## {title}\n",
                "| loss | equation | published | sampling | paper |",
                "|---|---|---|---|---|",
            ]
            parts += [*rows, ""]
    return "\n".join(parts)


def compressions() -> dict[ModuleType, list[object]]:
    """The techniques of the compression packages: what has an equation and a reference."""

    def listed(doc: str) -> bool:
        return bool(equations(doc) and section(doc, "References"))

    return {room: [t for t in public(room) if listed(inspect.getdoc(t) or "")] for room in COMPRESSION}


def compression_page() -> str:
    """The page of the compression techniques."""
    parts = [COMPRESSION_HEAD]
    for room, things in compressions().items():
        parts += [
            f"## `{room.__name__}`: {COMPRESSION[room]}\n",
            "| technique | equation | hyperparameters | storage | paper |",
            "|---|---|---|---|---|",
            *(row(thing, ("Hyperparameters", "Storage", "References")) for thing in things),
            "",
        ]
    return "\n".join(parts)


PAGES = {"losses.md": losses_page, "compression.md": compression_page}


def main(arguments: list[str]) -> int:
    """Writes the pages, or compares them."""
    pages = {DOCS / name: page() for name, page in PAGES.items()}
    if "--check" in arguments:
        return int(any(not path.exists() or path.read_text(encoding="utf-8") != text for path, text in pages.items()))
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
