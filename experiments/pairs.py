"""Item-only students of closed-form teachers by the command, beside the prototype's figures.

Command:   python -m experiments.pairs --json experiments/results/pairs.json
Hardware:  two CPU cores, no accelerator
Wall time: that of the runs, which the JSON states
Expected:  on MovieLens-100K at random, ELSA of 64 dimensions at 4 bits keeps at least 97% of EASE's test NDCG@10 in at
           most 40 bytes per item (prototype 97%)
"""

import json as jsonlib
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from recjax.files import write_json
from recjax.provenance import provenance

COMMAND = "python -m experiments.pairs --json experiments/results/pairs.json"
RUNS = {
    "ml-100k at random, EASE to ELSA": [
        *("--split", "random", "--teacher", "ease", "--student", "elsa", "--dim", "64", "--bits", "4"),
        *("--sparsity", "0", "--no-refit"),
    ],
}


def run(arguments: list[str]) -> dict[str, Any]:
    """The stage table, the comparisons and the seconds of one run of the command."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "run"
        main = "from recjax.cli import main; raise SystemExit(main())"
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", main, "run", "--out", str(out), *arguments], check=True)
        seconds = time.perf_counter() - start
        rows = [jsonlib.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    stages = {row["stage"]: row for row in rows if "stage" in row}
    (summary,) = (row["summary"] for row in rows if "summary" in row)
    teacher, packed = stages["teacher"], stages["packed"]
    return {
        "arguments": arguments,
        "seconds": seconds,
        "share_of_teacher_ndcg": packed["ndcg@10"] / teacher["ndcg@10"],
        "bytes_per_item": packed["bytes"] / summary["items"],
        "comparisons": summary["comparisons"],
        "rows": list(stages.values()),
    }


def main(json: pathlib.Path | None = None) -> None:
    """Runs all pairs and prints what the packed students keep.

    Args:
      json: where to write the figures too; nowhere if not given.
    """
    found = {name: run(arguments) for name, arguments in RUNS.items()}
    for name, figures in found.items():
        kept = f"{figures['share_of_teacher_ndcg']:.1%} of the teacher's NDCG@10"
        print(f"{name}: {kept}, {figures['bytes_per_item']:.0f} bytes per item, {figures['seconds']:.0f} s")
    if json is not None:
        write_json({**provenance(COMMAND), "runs": found}, json)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
