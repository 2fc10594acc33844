"""Training on rows that lie on disk, window by window, beside the same training on rows in memory.

    python -m benchmarks stream --json benchmarks/results/stream.json

The DNN of ``epoch`` at Frappe's sizes, and a logistic regression of 39 fields, Criteo's, which computes so little that
reading has nowhere to hide; one member, windows of a quarter of the rows, of 32 blocks each. Both are whole
:func:`recjax.grid.fit`, and the peer is that on the same rows as arrays in memory. The file is in the page cache, as
one that fits in memory is. A figure is rows a second over a fit of three epochs. Two cores; four minutes.
"""

import pathlib
import tempfile
from typing import Any

import jax
import numpy as np

from benchmarks._population import fit
from benchmarks.epoch import FRAPPE, Hparams, ctr_recipe
from benchmarks.measure import compare
from recjax import data, grid, models
from recjax.machine import one_device_per_core

BAR = 0.95  # the same speed, but for noise
CRITEO = {"features": 100_000, "fields": 39, "batch": 4096, "steps": 200}
EPOCHS, WINDOWS, BLOCKS = 3, 4, 32


def one(
    name: str, model: models.CTRModel, drops: bool, rows: data.Examples, batch: int, repeats: int
) -> dict[str, Any]:
    """A fit from disk and one from memory, by turns."""
    count, block = len(rows.label), len(rows.label) // (WINDOWS * BLOCKS)
    recipe = ctr_recipe(model, drops=drops)
    starts = jax.jit(jax.vmap(model.init))(jax.random.split(jax.random.key(0), 1))
    members = grid.population(Hparams(0.001), grid.product(dropout=[0.2]))
    with tempfile.TemporaryDirectory() as folder:
        data.write_arrays(pathlib.Path(folder, "rows"), [rows])
        stream = data.Stream(data.open_arrays(pathlib.Path(folder, "rows"), data.Examples), BLOCKS * block, block)

        def whole(what: Any, size: int) -> grid.Fitted:
            return fit(recipe, starts, members, what, rows=size, epochs=EPOCHS, batch=batch)

        return compare(
            "stream",
            f"{name}, {count:,} rows, {EPOCHS} epochs, windows of {stream.window:,} rows",
            lambda: whole(stream, stream.window),
            lambda: whole(rows, count),
            peer="the same rows in memory",
            package="jax",
            repeats=repeats,
            work=tuple(EPOCHS * n * (size // batch * batch) for n, size in ((WINDOWS, stream.window), (1, count))),
            unit="rows/s",
            members=1,
            bar=BAR,
        )


def drawn(features: int, fields: int, count: int) -> data.Examples:
    """Rows of uniform values."""
    random = np.random.default_rng(0)
    return data.Examples(
        random.integers(0, features, (count, fields), dtype=np.int32),
        random.integers(0, 2, count).astype(np.float32),
    )


def run(frappe: dict[str, Any] = FRAPPE, criteo: dict[str, Any] = CRITEO, repeats: int = 5) -> list[dict[str, Any]]:
    """The two models, one after the other."""
    one_device_per_core()
    deep = models.Fields(features=frappe["features"], fields=frappe["fields"], dim=10, scale=0.1)
    flat = models.Fields(features=criteo["features"], fields=criteo["fields"])
    cases = (
        ("DNN", models.dnn(deep, hidden=frappe["hidden"]), True, deep, frappe),
        ("logistic regression", models.logistic_regression(flat), False, flat, criteo),
    )
    return [
        one(
            f"{name} of {fields.fields} fields",
            model,
            drops,
            drawn(fields.features, fields.fields, sizes["steps"] * sizes["batch"]),
            sizes["batch"],
            repeats,
        )
        for name, model, drops, fields, sizes in cases
    ]
