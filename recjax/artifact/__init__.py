"""The deployed form of a recommender: a folder of plain files, or the parameters of any model in one file.

:func:`save`, :func:`save_ctr` and :func:`load` are of the folder that answers with NumPy alone; :func:`save_params` and
:func:`load_params` keep arrays, packed arrays and records of tables as they are. Importing this package and reading
with :func:`load` or :func:`open_params` imports no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

from recjax.artifact._answers import Explanation, Query, Recommendation, Recommendations
from recjax.artifact._folder import FORMAT, build, load, save, verify
from recjax.artifact._kinds import KINDS
from recjax.artifact._model import Artifact
from recjax.artifact._tables import Table, open_params
from recjax.artifact._top_k import top_k

if TYPE_CHECKING:
    from recjax.artifact._calibrate import Calibration, calibrate
    from recjax.artifact._ctr import CTR_KINDS, CTRArtifact, Scores, save_ctr
    from recjax.artifact._params import file_size, load_params, save_params

# What reading a recommender does without: JAX, and what knows the columns of tables.
_LATER = {
    **dict.fromkeys(("Calibration", "calibrate"), "_calibrate"),
    **dict.fromkeys(("CTR_KINDS", "CTRArtifact", "Scores", "save_ctr"), "_ctr"),
    **dict.fromkeys(("file_size", "load_params", "save_params"), "_params"),
}

__all__ = [
    "CTR_KINDS",
    "FORMAT",
    "KINDS",
    "Artifact",
    "CTRArtifact",
    "Calibration",
    "Explanation",
    "Query",
    "Recommendation",
    "Recommendations",
    "Scores",
    "Table",
    "build",
    "calibrate",
    "file_size",
    "load",
    "load_params",
    "open_params",
    "save",
    "save_ctr",
    "save_params",
    "top_k",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
