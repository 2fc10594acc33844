"""Writes benchmarks/README.md from the JSON under benchmarks/results.

python -m benchmarks.table            # writes the page
python -m benchmarks.table --check    # exit code 1 where the page is not what the JSON says
"""

import json
import pathlib
import sys
from typing import Any

RESULTS = pathlib.Path(__file__).with_name("results")
PAGE = pathlib.Path(__file__).with_name("README.md")
HEAD = """# Benchmarks

Made from the JSON in [results](results) by `python -m benchmarks.table`; a test fails where this page and they differ.

`python -m benchmarks NAME --json benchmarks/results/NAME.json`, after `pip install -e '.[peers]'`, times this library
and its peers in one process. Both do the same work, which is checked first; both are called twice before anything
counts, so that nothing is compiled in what is timed; then they are called by turns, waiting for every result. The table
has medians; lowest and highest turn, and the seconds of the first call, which has the compilation in it, are in the
JSON. A ratio above 1 says that this library is faster, or does more in the same time. What each benchmark does, what
its peers do and why a bar is missed is at the head of its file.
"""


def number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{float(f'{value:.3g}'):g}"


def line(row: dict[str, Any]) -> str:
    """One row of JSON as one of the table."""
    bar = row.get("bar")
    verdict = "" if bar is None else f"{bar:g}, {'met' if row['ratio'] >= bar else 'missed'}"
    ours, theirs = (f"{number(row[name])} {row['unit']}" for name in ("ours", "theirs"))
    cells = (row["case"], str(row.get("members", "")), row["peer"], ours, theirs, number(row["ratio"]), verdict)
    return "| " + " | ".join(cells) + " |"


def section(name: str, rows: list[dict[str, Any]]) -> list[str]:
    """One benchmark."""
    device, versions = rows[0]["device"], rows[0]["versions"]
    packages = {package: version for row in rows for package, version in row["versions"].items()}
    return [
        f"## {name}\n",
        f"{device['kind']}, {device['cores']} cores; Python {versions['python']}, "
        + ", ".join(f"{package} {version}" for package, version in packages.items() if package != "python")
        + f"; commit `{rows[0]['commit'][:12]}`.\n",
        "| case | members | peer | recjax | peer's | ratio | bar |",
        "|---|---|---|---|---|---|---|",
        *map(line, rows),
        "",
    ]


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for path in sorted(RESULTS.glob("*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(rows, list):  # rows of ours beside a peer; a dict has a page of its own
            parts += section(path.stem, rows)
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Writes the page, or compares it."""
    if "--check" in arguments:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
