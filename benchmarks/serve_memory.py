"""Memory and time of loading an artifact: 100,000 items x 64 dims at 8 bits, 200,000 users, 10 million seen pairs.

    python -m benchmarks serve_memory --json benchmarks/results/serve_memory.json

Each figure is that of a process of its own, which loads the artifact and answers 100 users. The peer holds the same
content as Python does without this package: float32 tables, ids and titles as lists with dicts of positions, seen pairs
as one array. Memory is what the process holds in all, memory-mapped pages that were touched included. The bars are
those of a process that serves: 60 MB (``limit_mb``), and 50 ms for loading (``limit_s``). One core; a minute.
"""

import json
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from benchmarks.measure import row
from recjax import artifact, quantize
from recjax.data import Seen

DIM, ASKED = 64, 100

OURS = """
import json, sys, time
import numpy as np
from recjax import artifact
start = time.perf_counter()
model = artifact.load(sys.argv[1])
loaded = time.perf_counter() - start
for user in range(int(sys.argv[2])):
    assert len(model.recommend(f"user {user}", k=10)) == 10
pages = int(open("/proc/self/statm").read().split()[1])
print(json.dumps([pages * 4096 / 1e6, loaded]))
"""
THEIRS = """
import json, sys, time
import numpy as np
start = time.perf_counter()
content = np.load(sys.argv[1] + ".npz")
users, items = content["user"], content["item"]
ids = json.load(open(sys.argv[1] + ".json"))
position = {raw: i for i, raw in enumerate(ids["users"])}
seen, offsets = content["seen"], content["offsets"]
loaded = time.perf_counter() - start
for user in range(int(sys.argv[2])):
    u = position[f"user {user}"]
    scores = items @ users[u]
    scores[seen[offsets[u] : offsets[u + 1]]] = -np.inf
    assert len(np.argpartition(-scores, 10)[:10]) == 10
pages = int(open("/proc/self/statm").read().split()[1])
print(json.dumps([pages * 4096 / 1e6, loaded]))
"""


def write(path: str, items: int, users: int, pairs: int) -> None:
    """The same content as an artifact and as what the peer reads."""
    random = np.random.default_rng(0)
    tables = {name: random.standard_normal((n, DIM), np.float32) for name, n in (("user", users), ("item", items))}
    each = pairs // users
    step = items // each
    seen = (step * np.arange(each) + random.integers(0, step, (users, each))).astype(np.int32)
    ids = {"users": [f"user {i}" for i in range(users)], "items": [f"item {i}" for i in range(items)]}
    titles = [f"The title of item {i}" for i in range(items)]
    artifact.save(
        path,
        {name: quantize.quantize(table, bits=8, axis=0) for name, table in tables.items()},
        kind="vectors",
        user_ids=ids["users"],
        item_ids=ids["items"],
        titles=titles,
        seen=Seen(each * np.arange(users + 1), seen.ravel()),
    )
    np.savez(f"{path}.npz", **tables, seen=seen.ravel(), offsets=each * np.arange(users + 1))
    with open(f"{path}.json", "w", encoding="utf-8") as file:
        json.dump({**ids, "titles": titles}, file)


def run(items: int = 100_000, users: int = 200_000, pairs: int = 10_000_000, repeats: int = 3) -> list[dict[str, Any]]:
    """Memory and seconds of both, by turns."""
    with tempfile.TemporaryDirectory() as folder:
        write(f"{folder}/artifact", items, users, pairs)

        def measured(code: str) -> list[float]:
            command = [sys.executable, "-c", code, f"{folder}/artifact", str(min(ASKED, users))]
            return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

        turns = [(measured(OURS), measured(THEIRS)) for _ in range(repeats)]
    case, about = f"{items:,} items, {users:,} users, {pairs:,} seen pairs", {"package": "numpy", "rows": items}
    peer = "float32, lists and dicts"
    columns = [[side[i] for side in sides] for i in (0, 1) for sides in zip(*turns, strict=True)]
    return [
        row("serve_memory", f"{case}: memory", *columns[:2], peer=peer, unit="MB", limit_mb=60.0, **about),
        row("serve_memory", f"{case}: loading", *columns[2:], peer=peer, limit_s=0.05, **about),
    ]
