"""Embedding tables, dense and compressed, read by :func:`lookup`.

A table is an array ``[rows, dim]`` or a compressed :class:`Record`. Models read tables by ``lookup`` only, so masking,
quantizing or compressing an embedding replaces one leaf of the parameters. Records nest: ``FakeQuantized(Masked(table,
keep), bits)`` prunes first and quantizes the kept entries. Functions such as :func:`low_rank` make a random table of
``rows`` and ``dim`` from a ``key``, with entries of standard deviation ``sd``, which may be traced and is not checked;
:func:`fit_low_rank` and so on compress a trained ``table [rows, dim]``.

A row-sparse training step takes the :func:`view` of the rows that :func:`touched` lists for its batch.
"""

from recjax.embed._codebook import LearnedProduct, ProductQuantized, fit_learned_product, learned_product, pack_product
from recjax.embed._factors import LowRank, TensorTrain, fit_low_rank, fit_tensor_train, low_rank, tensor_train
from recjax.embed._frequency import (
    MixedDims,
    PrunedRows,
    fit_mixed_dims,
    mixed_dims,
    mixed_widths,
    pruned_rows,
    quantized,
)
from recjax.embed._hashed import (
    Hashed,
    MemCom,
    QuotientConcat,
    QuotientProduct,
    QuotientSum,
    hashed,
    mem_com,
    quotient_concat,
    quotient_product,
    quotient_sum,
)
from recjax.embed._hashed_fit import (
    fit_hashed,
    fit_mem_com,
    fit_quotient_concat,
    fit_quotient_product,
    fit_quotient_sum,
)
from recjax.embed._indexed import IndexedRows, indexed_rows
from recjax.embed._learned import LearnedStep, LearnedThreshold, Scored
from recjax.embed._lookup import Packed, Record, Table, lookup, touched
from recjax.embed._masked import FakeQuantized, Masked
from recjax.embed._network import DeepHash, Robe, deep_hash, fit_deep_hash, fit_robe, robe
from recjax.embed._view import RowView, view

__all__ = [
    "DeepHash",
    "FakeQuantized",
    "Hashed",
    "IndexedRows",
    "LearnedProduct",
    "LearnedStep",
    "LearnedThreshold",
    "LowRank",
    "Masked",
    "MemCom",
    "MixedDims",
    "Packed",
    "ProductQuantized",
    "PrunedRows",
    "QuotientConcat",
    "QuotientProduct",
    "QuotientSum",
    "Record",
    "Robe",
    "RowView",
    "Scored",
    "Table",
    "TensorTrain",
    "deep_hash",
    "fit_deep_hash",
    "fit_hashed",
    "fit_learned_product",
    "fit_low_rank",
    "fit_mem_com",
    "fit_mixed_dims",
    "fit_quotient_concat",
    "fit_quotient_product",
    "fit_quotient_sum",
    "fit_robe",
    "fit_tensor_train",
    "hashed",
    "indexed_rows",
    "learned_product",
    "lookup",
    "low_rank",
    "mem_com",
    "mixed_dims",
    "mixed_widths",
    "pack_product",
    "pruned_rows",
    "quantized",
    "quotient_concat",
    "quotient_product",
    "quotient_sum",
    "robe",
    "tensor_train",
    "touched",
    "view",
]
