"""Views of the rows of a table that one batch touches."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from recjax.embed._lookup import Table, array_rows, inside, lookup, stored_bytes, touched
from recjax.members import of_member
from recjax.trees import record


@record
class RowView:
    """Some rows of an array, indexed by their ids in the whole array; other ids read as NaN.

    Attributes:
      ids: ``[held]`` int, sorted distinct positions in the whole array, then padding outside of it.
      values: ``[held, dim]``, an array or a record; NaN for padding.
      total: number of rows of the whole array. Static.
    """

    ids: jax.Array
    values: Table
    total: int = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and dim of the whole array."""
        return self.total, self.values.shape[-1]

    nbytes = property(stored_bytes, doc="Bytes of the ids and the rows.")

    def rows(self, ids: jax.Array | None) -> jax.Array:
        if ids is None:
            raise ValueError("ids: expected an array, got None; a view has only some rows of its table")
        place = self._places(ids)
        return lookup(self.values, of_member(place, self.values) if isinstance(self.values, jax.Array) else place)

    def touched(self, ids: jax.Array) -> "RowView":
        return dataclasses.replace(self, ids=None, values=touched(self.values, self._places(ids)))

    def _places(self, ids: jax.Array) -> jax.Array:
        place = jnp.searchsorted(self.ids, ids)
        held = self.ids.at[place].get(mode="fill", fill_value=-1) == ids
        return jnp.where(held & inside(ids, self.total), place, -1)


def view(table: Any, rows: Any) -> Any:
    """A table restricted to the rows that a batch touches, which a row-sparse step differentiates.

    Args:
      table: ``[rows, dim]``, an array or a record; or a tree of them.
      rows: the result of :func:`touched` for it; or the tree of results.

    Returns:
      The same table with a :class:`RowView` for each part indexed by rows; other parts are unchanged.

    Examples:
      >>> table, batch = jnp.array([[1.0], [2.0], [3.0], [4.0]]), jnp.array([3, 1, 3])
      >>> few = view(table, touched(table, batch))
      >>> few.ids[:2].tolist(), few.values[:2].tolist()
      ([1, 3], [[2.0], [4.0]])
      >>> lookup(few, jnp.array([3, 0])).tolist()
      [[4.0], [nan]]
    """

    def part(ids: jax.Array | None, whole: Any) -> Any:
        return whole if ids is None else RowView(ids, array_rows(whole, ids), whole.shape[0])

    return jax.tree.map(part, rows, table, is_leaf=lambda ids: ids is None)
