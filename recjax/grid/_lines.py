"""Learning curves of all members, appended to a file during training."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from recjax.files import atomic_file
from recjax.grid._history import History
from recjax.grid._settings import Population


class Lines:
    """The file ``results.jsonl`` of a population.

    First a line about the whole, then one per member with seed, setting and hyperparameters, then one per member and
    validation with step, mean training loss since the last validation, and metric. Null stands for a value that isn't
    finite. Lines are complete at any time; a resumed run first drops those that it will write again.
    """

    def __init__(self, path: Path, about: dict[str, Any], population: Population):
        self._path = path
        self._seeds = len(population.seeds)
        settings = jax.tree.leaves(population.hparams)[0].shape[1]
        hparams = {name: np.asarray(leaf).tolist() for name, leaf in population.hparams._asdict().items()}
        self._kept = [about]
        self._kept += [
            {
                "member": seed * settings + setting,
                "seed": int(population.seeds[seed]),
                "setting": setting,
                "hyperparameters": {name: leaf[seed][setting] for name, leaf in hparams.items()},
            }
            for seed in range(self._seeds)
            for setting in range(settings)
        ]
        self._settings, self._first = settings, 0

    def of_wave(self, first: int) -> "Lines":
        """The same, for a wave whose settings start at ``first``."""
        self._first = first
        return self

    def begin(self, past: History) -> None:
        """Writes the file with the lines before a wave, and the wave's so far."""
        lines = self._kept + self._curves(past, 0)
        with atomic_file(self._path) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def append(self, past: History) -> None:
        """Appends the last validation of a history."""
        lines = self._curves(past, len(past.steps) - 1)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))

    def end(self, past: History) -> None:
        """Keeps the lines of a finished wave."""
        self._kept += self._curves(past, 0)

    def _curves(self, past: History, start: int) -> list[dict[str, Any]]:
        return [
            {
                "member": seed * self._settings + self._first + setting,
                "step": int(past.steps[at]),
                "loss": _finite(past.loss[at, seed, setting]),
                "valid": _finite(past.valid[at, seed, setting]),
            }
            for at in range(start, len(past.steps))
            for setting in np.flatnonzero(past.running[at]).tolist()
            for seed in range(self._seeds)
        ]


def _finite(value: np.float32) -> float | None:
    return float(value) if math.isfinite(value) else None
