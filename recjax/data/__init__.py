"""The data room: log in, arrays out. Only reading files needs polars (``pip install 'recjax[run]'``)."""

from recjax.data._normalize import normalize
from recjax.data.ctr import CTRDataset
from recjax.data.dataset import Dataset, HeldOut, Histories, Queries, dataset, history_batch
from recjax.data.encode import CRITEO, criteo, encode, fit_encoding, read_rows
from recjax.data.encoding import Encoding, load_encoding
from recjax.data.examples import Examples, read_libfm
from recjax.data.features import read_table, with_features
from recjax.data.interactions import Features, Interactions, Seen, Split, seen
from recjax.data.learned import categories, hashes, logarithm, quantiles, standard
from recjax.data.movielens import TERMS as MOVIELENS_TERMS
from recjax.data.movielens import movielens_100k
from recjax.data.read import k_core, read, read_split
from recjax.data.sample import epoch_batches, has, uniform_negatives
from recjax.data.sequences import PADDING, Sequences, Windows, last_items, read_sequences, sequences, windows
from recjax.data.split import leave_last_out, split_by_time, split_random
from recjax.data.stream import Stream, open_arrays, write_arrays
from recjax.data.synthetic import synthetic
from recjax.ids import id_hash

__all__ = [
    "CRITEO",
    "MOVIELENS_TERMS",
    "PADDING",
    "CTRDataset",
    "Dataset",
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
    "criteo",
    "dataset",
    "encode",
    "epoch_batches",
    "fit_encoding",
    "has",
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
    "read_libfm",
    "read_rows",
    "read_sequences",
    "read_split",
    "read_table",
    "seen",
    "sequences",
    "split_by_time",
    "split_random",
    "standard",
    "synthetic",
    "uniform_negatives",
    "windows",
    "with_features",
    "write_arrays",
]
