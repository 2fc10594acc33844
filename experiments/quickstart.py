"""The README's figures: ``recjax run`` as a new user types it, and what its promises come to.

Command:   python -m experiments.quickstart --json experiments/results/quickstart.json
Hardware:  two CPU cores, no accelerator
Wall time: about that of ``recjax run``, which the JSON states
Expected:  the packed student is more than ten times smaller than the teacher and keeps at least 97% of its NDCG@10;
           for every seed, the distilled student is above the one trained alone, and the packed one not below it

MovieLens-100K, split by time 80 / 10 / 10 over the whole log. Few users are evaluated (81 in validation, 69 in test),
so the spread over seeds says how much training varies, not how much another set of users would change the figures.
"""

import json as jsonlib
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from experiments.record import peak_memory
from recjax.files import write_json
from recjax.provenance import provenance

COMMAND = "python -m experiments.quickstart --json experiments/results/quickstart.json"


def run() -> dict[str, Any]:
    """Everything that the JSON holds; the run itself is another process, imports and compilation included."""
    about = provenance(COMMAND)
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "run"
        start = time.perf_counter()
        command = [
            sys.executable,
            "-c",
            "from recjax.cli import main; raise SystemExit(main())",
            "run",
            "--out",
            str(out),
        ]
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - start
        rows = [jsonlib.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
        config = jsonlib.loads((out / "config.json").read_text(encoding="utf-8"))["config"]
    memory = peak_memory(resource.RUSAGE_CHILDREN)
    return {
        **about,
        "seconds": seconds,
        "peak_memory_bytes": memory,
        "config": config,
        "promises": promises(rows),
        "rows": [row for row in rows if "stage" in row or "summary" in row],
    }


def promises(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the project promises of its first command, as measured; each a figure and whether it holds."""
    stages = {row["stage"]: row for row in rows if "stage" in row}
    packed, teacher, alone = stages["packed"], stages["teacher"], stages["student_alone"]

    def over_alone(stage: str) -> list[float]:
        pairs = zip(stages[stage]["ndcg@10_by_seed"], alone["ndcg@10_by_seed"], strict=True)
        return [ours - its for ours, its in pairs]

    distilled, compressed = over_alone("distilled"), over_alone("packed")
    smaller, kept = teacher["bytes"] / packed["bytes"], packed["ndcg@10"] / teacher["ndcg@10"]
    ahead = teacher["valid_ndcg@10"] - alone["valid_ndcg@10"]
    margin = (
        min(row["ndcg@10"] for name, row in stages.items() if name != "popularity") - stages["popularity"]["ndcg@10"]
    )
    return {
        "times_smaller_than_teacher": {"figure": smaller, "holds": smaller >= 10},
        "share_of_teacher_ndcg": {"figure": kept, "holds": kept >= 0.97},
        "distilled_minus_alone_by_seed": {"figure": distilled, "holds": min(distilled) > 0},
        "packed_minus_alone_by_seed": {"figure": compressed, "holds": min(compressed) >= 0},
        "teacher_minus_alone_on_validation": {"figure": ahead, "holds": ahead > 0},
        "others_minus_popularity": {"figure": margin, "holds": margin > 0},
    }


def table(figures: dict[str, Any]) -> str:
    """The stages as the README shows them."""
    lines = [
        "| stage | NDCG@10 | Recall@10 | of the tail | parameters | bytes | one user, ms | users/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in figures["rows"]:
        if "stage" not in row:
            continue
        ndcg, recall, tail = (
            f"{row[name]:.4f}" + ("" if row[f"{name}_sd"] is None else f" ± {row[f'{name}_sd']:.4f}")
            for name in ("ndcg@10", "recall@10", "tail_recall@10")
        )
        p50, rate = row["p50_ms"], row["users_per_second"]  # an ensemble of unlike families is not served
        speed = "\N{EN DASH} | \N{EN DASH}" if p50 is None else f"{p50:.2f} | {rate:,.0f}"
        lines.append(
            f"| {row['stage'].replace('_', ' ')} | {ndcg} | {recall} | {tail} | {row['parameters']:,} "
            f"| {row['bytes']:,} | {speed} |"
        )
    return "\n".join(lines)


def main(json: pathlib.Path | None = None) -> None:
    """Runs ``recjax run`` and prints what its promises come to.

    Args:
      json: where to write the figures too; nowhere if not given.
    """
    figures = run()
    print(table(figures))
    for name, promise in figures["promises"].items():
        found = promise["figure"]
        text = ", ".join(f"{value:+.4f}" for value in found) if isinstance(found, list) else f"{found:.4f}"
        print(f"{'holds ' if promise['holds'] else 'FAILS '} {name}: {text}")
    print(f"{figures['seconds']:.0f} s, {figures['peak_memory_bytes'] / 1e9:.2f} GB")
    if json is not None:
        write_json(figures, json)


if __name__ == "__main__":
    import tyro  # of the extra "run": reading this file for its functions doesn't need it

    tyro.cli(main)
