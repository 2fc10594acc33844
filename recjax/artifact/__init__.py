"""The deployed form of a recommender: a folder of plain files, or the parameters of any model in one file.

:func:`save` and :func:`load` are of the folder that answers with NumPy alone; :func:`save_params` and
:func:`load_params` keep arrays, packed arrays and records of tables as they are.
"""

from recjax.artifact._folder import (
    FORMAT,
    KINDS,
    PACKED_BITS,
    Artifact,
    Packed,
    Recommendation,
    load,
    load_tables,
    predicted_bytes,
    save,
    save_tables,
    top_k,
)
from recjax.artifact._params import load_params, save_params

__all__ = [
    "FORMAT",
    "KINDS",
    "PACKED_BITS",
    "Artifact",
    "Packed",
    "Recommendation",
    "load",
    "load_params",
    "load_tables",
    "predicted_bytes",
    "save",
    "save_params",
    "save_tables",
    "top_k",
]
