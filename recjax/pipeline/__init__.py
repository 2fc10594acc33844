"""A run from a log to a served model, as one resumable function of a config. Importing this room imports no JAX."""

import importlib
from typing import TYPE_CHECKING, Any

from recjax.pipeline.config import Config

if TYPE_CHECKING:
    from recjax.pipeline._run import RESULTS, Listener, finished, run

__all__ = ["RESULTS", "Config", "Listener", "finished", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("recjax.pipeline._run"), name)
