"""Large recommenders into small fast ones: distillation, pruning and quantization as pure JAX functions.

Rooms are imported when they are first used: ``import recjax; recjax.losses.soft_target_kl(...)``.
"""

import importlib
from typing import Any

_ROOMS = (
    "arrays",
    "artifact",
    "checkpoint",
    "cli",
    "compress",
    "data",
    "devices",
    "embed",
    "errors",
    "evaluate",
    "families",
    "files",
    "grid",
    "ids",
    "losses",
    "machine",
    "members",
    "metrics",
    "models",
    "pipeline",
    "provenance",
    "prune",
    "quantize",
    "report",
    "rows",
    "serve",
    "study",
    "summary",
    "tasks",
    "teacher",
    "train",
    "trees",
)


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
