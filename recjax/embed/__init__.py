"""Tables of embeddings behind one door: :func:`lookup`.

A table is an array ``[rows, dim]`` or a record that stands for one. Models never index a table; so masking or
quantizing an embedding is replacing one leaf of the parameters by a record, and nothing else in the library knows.
Records nest: ``FakeQuantized(Masked(table, keep), bits)`` prunes first and quantizes what is left.
"""

from recjax.embed._lookup import FakeQuantized, Masked, Table, lookup
from recjax.embed._rows import RowView, touched

__all__ = ["FakeQuantized", "Masked", "RowView", "Table", "lookup", "touched"]
