"""The data room: log in, arrays out. Only reading files needs polars (``pip install 'recjax[run]'``).

Importing it imports no JAX: what needs that is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from recjax.data._normalize import normalize
from recjax.data.ctr import (
    ColumnOptions,
    ColumnStats,
    CTRDataset,
    describe_ctr,
    has_label,
    read_ctr,
    read_ctr_split,
)
from recjax.data.describe import describe_log
from recjax.data.encode import CRITEO, fit_encoding, read_blocks, read_rows
from recjax.data.encoding import Encoded, Encoding, encode, encoding_from_json, load_encoding
from recjax.data.examples import Examples, read_libfm
from recjax.data.features import read_table, with_features
from recjax.data.interactions import Features, Interactions, Seen, Split, seen
from recjax.data.learned import categories, hashes, logarithm, quantiles, sets, standard, times
from recjax.data.movielens import TERMS as MOVIELENS_TERMS
from recjax.data.movielens import movielens_100k
from recjax.data.read import k_core, read, read_split
from recjax.data.sequences import PADDING, Sequences, Windows, last_items, read_sequences, sequences, windows
from recjax.data.split import leave_last_out, split_by_time, split_random
from recjax.data.synthetic import synthetic
from recjax.ids import id_hash

if TYPE_CHECKING:
    from recjax.data._dataset import Dataset, HeldOut, Histories, Queries, dataset, history_batch
    from recjax.data.sample import epoch_batches, has, uniform_negatives
    from recjax.data.stream import Stream, open_arrays, write_arrays

_WITH_JAX = {
    **dict.fromkeys(("Dataset", "HeldOut", "Histories", "Queries", "dataset", "history_batch"), "_dataset"),
    **dict.fromkeys(("epoch_batches", "has", "uniform_negatives"), "sample"),
    **dict.fromkeys(("Stream", "open_arrays", "write_arrays"), "stream"),
}

__all__ = [
    "CRITEO",
    "MOVIELENS_TERMS",
    "PADDING",
    "CTRDataset",
    "ColumnOptions",
    "ColumnStats",
    "Dataset",
    "Encoded",
    "Encoding",
    "Examples",
    "Features",
    "HeldOut",
    "Histories",
    "Interactions",
    "Queries",
    "Seen",
    "Sequences",
    "Split",
    "Stream",
    "Windows",
    "categories",
    "dataset",
    "describe_ctr",
    "describe_log",
    "encode",
    "encoding_from_json",
    "epoch_batches",
    "fit_encoding",
    "has",
    "has_label",
    "hashes",
    "history_batch",
    "id_hash",
    "k_core",
    "last_items",
    "leave_last_out",
    "load_encoding",
    "logarithm",
    "movielens_100k",
    "normalize",
    "open_arrays",
    "quantiles",
    "read",
    "read_blocks",
    "read_ctr",
    "read_ctr_split",
    "read_libfm",
    "read_rows",
    "read_sequences",
    "read_split",
    "read_table",
    "seen",
    "sequences",
    "sets",
    "split_by_time",
    "split_random",
    "standard",
    "synthetic",
    "times",
    "uniform_negatives",
    "windows",
    "with_features",
    "write_arrays",
]


def __getattr__(name: str) -> Any:
    if name not in _WITH_JAX:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WITH_JAX[name]}"), name)
