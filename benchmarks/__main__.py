"""Runs one benchmark, prints its ratios and writes its rows: ``python -m benchmarks evaluate --json FILE``."""

import argparse
import importlib
import pathlib
import sys

from recjax.files import write_json

OTHERS = {"measure", "scale", "table"}  # files that are no benchmark of this command
ALONE = {"gpu"}  # without a peer, and with options of their own
NAMES = sorted({path.stem for path in pathlib.Path(__file__).parent.glob("[!_]*.py")} - OTHERS)


def main() -> None:
    """The command line."""
    if sys.argv[1:2] and sys.argv[1] in ALONE:
        importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--json", type=pathlib.Path, help="where to write the rows")
    options = parser.parse_args()
    rows = importlib.import_module(f"benchmarks.{options.name}").run()
    for row in rows:
        ours, theirs = (f"{row[name]:.4g} {row['unit']}" for name in ("ours", "theirs"))
        print(f"{row['case']}: {ours}; {row['peer']}: {theirs}; ratio {row['ratio']:.2f}")
    if options.json:
        write_json(rows, options.json)


if __name__ == "__main__":
    main()
