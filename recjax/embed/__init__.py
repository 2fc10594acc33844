"""Tables of embeddings behind one door: :func:`lookup`.

A table is an array ``[rows, dim]`` or a record that stands for one (:class:`Record`). Models never index a table; so
masking, quantizing or compressing an embedding is replacing one leaf of the parameters by a record, and nothing else in
the library knows. Records nest: ``FakeQuantized(Masked(table, keep), bits)`` prunes first and quantizes what is left.

A row-sparse step asks :func:`touched` which rows a batch reads and takes :func:`view` of them.
"""

from recjax.embed._door import Record, Table, lookup, touched
from recjax.embed._learned import LearnedStep
from recjax.embed._straight import FakeQuantized, Masked
from recjax.embed._view import RowView, view

__all__ = ["FakeQuantized", "LearnedStep", "Masked", "Record", "RowView", "Table", "lookup", "touched", "view"]
