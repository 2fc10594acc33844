"""A log small enough that a whole run of it takes seconds, and a listener that remembers what it heard."""

import csv

from recjax import data
from recjax.pipeline.config import Config

GRIDS = {
    "student_alone": {"learning_rate": (0.01, 0.03), "weight_decay": (0.01, 0.1)},
    "distilled": {"temperature": (1.0, 2.0), "alpha": (0.5,), "learning_rate": (0.01, 0.03)},
    "pruned": {"sparsity": (0.25, 0.5)},
    "quantized": {"bits": (3, 4)},
}
SETTINGS = {name: values for axes in GRIDS.values() for name, values in axes.items()}
OWN = {"teacher": ("ease",), "student": "mf", "refit": False, "regularization": (5.0, 20.0)}
SMALL = Config(seeds=2, epochs=4, dim=8, batch_size=8, **OWN, **SETTINGS)


class Recorder:
    """A listener that remembers what it heard, and may stop the run."""

    def __init__(self, stop=lambda event, stage, count: False):
        self.events, self.stop = [], stop

    def hear(self, event: str, stage: str) -> None:
        self.events.append((event, stage))
        if self.stop(event, stage, self.events.count((event, stage))):
            raise KeyboardInterrupt

    def begin(self, stage):
        self.hear("begin", stage)

    def advance(self, stage, done, total, detail):
        assert 0 < done <= total
        self.hear("advance", stage)

    def end(self, stage, row):
        assert row["stage"] == stage
        self.hear("end", stage)

    def say(self, text):
        pass


def write_log(path, rows) -> str:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("user_id", "item_id", "rating", "timestamp"), *rows])
    return str(path)


def make_rows() -> list[tuple[str, str, int, int]]:
    log = data.synthetic(3, users=60, items=50, rank=3, interactions_per_user=14)
    return [
        (str(log.user_ids[u]), str(log.item_ids[i]), 1 + int(u * 7 + i) % 5, int(t))
        for u, i, t in zip(log.user, log.item, log.timestamp, strict=True)
    ]


def make_log(rows, folder) -> str:
    """A log with the blemishes that every real one has: rows that come again, users of one row."""
    once = [("once", rows[0][1], 3, rows[0][3])]
    return write_log(folder / "shop.csv", [*rows, *rows[:5], *once])
