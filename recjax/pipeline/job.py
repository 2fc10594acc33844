"""What every part of a run shares: its config, its data, its folder, and who follows it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from recjax.models import Params
from recjax.pipeline.config import Config
from recjax.pipeline.source import Source
from recjax.pipeline.specs import Spec


class Listener(Protocol):
    """Follows a run; the command line draws it."""

    def begin(self, stage: str) -> None:
        """A stage starts."""

    def advance(self, stage: str, done: int, total: int, detail: str) -> None:
        """So much of a stage is done."""

    def end(self, stage: str, row: Mapping[str, Any]) -> None:
        """A stage is done; its row of the table."""

    def say(self, text: str) -> None:
        """A line for the reader."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
      config: its settings.
      source: its data.
      folder: where its stages and checkpoints are.
      listener: who follows it.
      chosen: the notes of the finished stages of the run that this one repeats on more data; None for a run that
        chooses for itself.
    """

    config: Config
    source: Source
    folder: Path
    listener: Listener
    chosen: Mapping[str, Any] | None = None


class Made(NamedTuple):
    """What a stage made.

    Attributes:
      stored: the parameters of each seed, in the form in which they are stored.
      specs: the model whose parameters they are.
      notes: chosen hyperparameters, grid members, curves.
    """

    stored: Sequence[Params]
    specs: Sequence[Spec]
    notes: dict[str, Any]
