"""What tables of a billion rows take, in bytes and seconds, and the same arithmetic at sizes that fit here.

Command:   python -m benchmarks.scale --json benchmarks/results/scale.json --page
Hardware:  two CPU cores, 16 GB of memory
Wall time: 2 minutes, most of it making the tables; twice that on cores that others use too
Expected:  a step at 10,000,000 rows takes less than twice as long as one at 100,000, while the table grows by 100

The functions are the formulas of docs/scale.md. A step moves the rows that its batch touches, so its time is predicted
from them and from the memory's bandwidth: that of reading and writing an array in place, measured in the same run. What
share of it a step reaches is taken from the smallest table, and the larger ones are predicted by it.
``--page`` puts the tables into docs/scale.md.
"""

import argparse
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import rows as steps
from benchmarks.measure import seconds
from recjax import rows, train
from recjax.files import write_json
from recjax.provenance import provenance
from recjax.trees import nbytes

PAGE = pathlib.Path(__file__).parent.parent / "docs/scale.md"
SIZES = (100_000, 1_000_000, 10_000_000)
REPEATS = 7
OPTIMIZERS = {"row-wise Adagrad": rows.rowwise_adagrad, "Adam": rows.adam}
SLOTS = {"row-wise Adagrad": lambda dim: 2, "Adagrad": lambda dim: dim + 1, "Adam": lambda dim: 2 * dim + 2}
BILLION, TRIPLES, MEMORY = 1_000_000_000, 65_536, 3.35e12  # bytes a second of an accelerator's memory, assumed
LINKS = {8: 450e9, 64: 50e9, 256: 50e9}  # {devices: bytes a second each way of one device's links}, assumed


def table_bytes(count: int, dim: int, bits: int) -> int:
    """Bytes of a packed table: below 16 bits each row has a scale in float16, and rows end at whole bytes."""
    return count * (-(-dim * bits // 8) + (2 if bits < 16 else 0))


def slot_bytes(count: int, dim: int, optimizer: str) -> int:
    """Bytes of what a row-sparse optimizer keeps."""
    return 4 * count * SLOTS[optimizer](dim)


def distinct(count: int, draws: int) -> float:
    """How many different rows so many uniform draws touch, on average."""
    return -count * np.expm1(draws * np.log1p(-1 / count))


def traffic(touched: float, dim: int, slots: int) -> float:
    """Bytes that a step reads and writes: the touched rows and their slots."""
    return 2 * 4 * touched * (dim + slots)


def exchange(ids: int, dim: int, slots: int, devices: int) -> float:
    """Bytes that a device sends in a step: a ring's all-reduce of the rows of a batch and their slots."""
    return 2 * (devices - 1) / devices * 4 * ids * (dim + slots)


def bandwidth() -> float:
    """Bytes a second, read or written, of an array of 512 MB that is changed in place."""
    change = jax.jit(lambda x: x + 1, donate_argnums=0)
    held = [jax.block_until_ready(change(jnp.zeros(128 * 1024 * 1024)))]

    def once() -> None:
        held[0] = jax.block_until_ready(change(held[0]))

    times = [seconds(once) for _ in range(REPEATS)]
    return 2 * held[0].nbytes / statistics.median(times)


def work(optimizer: str, size: int) -> Callable[[], Any]:
    """A call makes some steps; warmed up."""
    by = OPTIMIZERS[optimizer]
    recipe = steps.ADAM._replace(
        rows=train.RowSparse(lambda hparams: by(hparams.learning_rate), steps.ADAM.rows.touched)
    )
    call = steps.ours(recipe, size)
    call()
    return call


def row(optimizer: str, size: int, times: Sequence[float]) -> dict[str, Any]:
    """What was counted and timed of one table, and what the formulas say."""
    user, positive, negative = (ids.reshape(steps.STEPS, -1) for ids in steps.triples(size).values())
    items = np.concatenate([positive, negative], axis=1)
    touched = np.mean([len(np.unique(user[at])) + len(np.unique(items[at])) for at in range(steps.STEPS)])
    slots = jax.eval_shape(OPTIMIZERS[optimizer](0.1).init, jax.ShapeDtypeStruct((size, steps.DIM), jnp.float32))
    predicted = distinct(size // 2, steps.BATCH) + distinct(size // 2, 2 * steps.BATCH)
    return {
        "optimizer": optimizer,
        "rows": size,
        "dim": steps.DIM,
        "state_bytes": 4 * size * steps.DIM + nbytes(slots),
        "touched": float(touched),
        "touched_predicted": float(predicted),
        "moved_bytes": float(traffic(predicted, steps.DIM, SLOTS[optimizer](steps.DIM))),
        "seconds": statistics.median(times),
        "spread": [min(times), max(times)],
    }


def run() -> dict[str, Any]:
    """Every optimizer with each size, smallest first; the sizes are timed by turns, as a machine may get busy."""
    record = provenance("python -m benchmarks.scale") | {"bandwidth": bandwidth()}
    found = []
    for optimizer in OPTIMIZERS:
        calls = [work(optimizer, size) for size in SIZES]
        rounds = [[seconds(call) / steps.STEPS for call in calls] for _ in range(REPEATS)]
        del calls  # and their tables
        of_sizes = [row(optimizer, size, times) for size, times in zip(SIZES, zip(*rounds, strict=True), strict=True)]
        for one in of_sizes:
            one["least_seconds"] = one["moved_bytes"] / record["bandwidth"]
            one["predicted_seconds"] = of_sizes[0]["seconds"] * one["moved_bytes"] / of_sizes[0]["moved_bytes"]
        found += of_sizes
    return record | {"rows": found}


def measured(record: dict[str, Any]) -> str:
    """The table of what was measured beside what the formulas say."""
    lines = [
        f"{record['device']['cores']} CPU cores; reading and writing in place: {record['bandwidth'] / 1e9:.1f} GB/s.\n",
        "| optimizer | rows | table and slots | rows touched, formula | counted | bytes a step | at full bandwidth | "
        "predicted | measured | share of bandwidth | measured / predicted |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in record["rows"]:
        cells = (
            one["optimizer"],
            f"{one['rows']:,}",
            f"{one['state_bytes'] / 1e9:.2f} GB",
            f"{one['touched_predicted']:,.0f}",
            f"{one['touched']:,.0f}",
            f"{one['moved_bytes'] / 1e6:.1f} MB",
            f"{one['least_seconds'] * 1e3:.2f} ms",
            f"{one['predicted_seconds'] * 1e3:.2f} ms",
            f"{one['seconds'] * 1e3:.2f} ms",
            f"{one['least_seconds'] / one['seconds']:.0%}",
            f"{one['seconds'] / one['predicted_seconds']:.2f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def stored() -> str:
    """The table of bytes of a billion rows."""
    widths, dims = (32, 16, 8, 4, 2, 1), (16, 64, 128)
    lines = ["| 1e9 rows | " + " | ".join(f"dim {dim}" for dim in dims) + " |", "|---" * (len(dims) + 1) + "|"]
    for bits in widths:
        cells = (f"{table_bytes(BILLION, dim, bits) / 1e9:.0f} GB" for dim in dims)
        lines.append(f"| table, bits = {bits} | " + " | ".join(cells) + " |")
    for optimizer in SLOTS:
        cells = (f"{slot_bytes(BILLION, dim, optimizer) / 1e9:.0f} GB" for dim in dims)
        lines.append(f"| slots of {optimizer} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def stepped() -> str:
    """The table of a step over a billion rows on several devices."""
    dim, lines = 64, ["| optimizer | devices | state a device | memory | links | step |", "|---|---|---|---|---|---|"]
    for optimizer in OPTIMIZERS:
        for devices, link in LINKS.items():
            slots = SLOTS[optimizer](dim)
            held = (table_bytes(BILLION, dim, 32) + slot_bytes(BILLION, dim, optimizer)) / devices
            inside = traffic(3 * TRIPLES, dim, slots) / MEMORY
            between = exchange(3 * TRIPLES, dim, slots, devices) / link
            cells = (f"{held / 1e9:.1f} GB", *(f"{1e3 * t:.2f} ms" for t in (inside, between, inside + between)))
            lines.append(f"| {optimizer} | {devices} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fill(page: str, record: dict[str, Any]) -> str:
    """The page with its three tables."""
    for name, table in (("stored", stored()), ("stepped", stepped()), ("measured", measured(record))):
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = page.partition(begin)
        page = "\n".join([before + begin, table, end + rest.partition(end)[2]])
    return page


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=pathlib.Path, required=True)
    parser.add_argument("--page", action="store_true", help="also put the tables into docs/scale.md")
    options = parser.parse_args(argv)
    record = run()
    write_json(record, options.json)
    print(measured(record))
    if options.page:
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), record), encoding="utf-8")


if __name__ == "__main__":
    main()
