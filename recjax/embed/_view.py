"""The rows of a table that one batch touches, in place of the table."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from recjax.embed._door import Table, array_rows, inside, lookup, stored_bytes, touched
from recjax.members import of_member
from recjax.trees import record


@record
class RowView:
    """A few rows of an array, read by the ids they have in the whole array.

    Invariants:

    * ``ids`` are sorted; each stands once, but for padding outside the array, which comes last.
    * ``values`` has a row for each of ``ids``; a padding's is NaN.

    An id that the view doesn't hold reads as NaN, never as a neighbor's row.

    Attributes:
      ids: ``[held]`` int, positions in the whole array.
      values: ``[held, dim]``, an array or a record.
      total: how many rows the whole array has. Static.
    """

    ids: jax.Array
    values: Table
    total: int = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and dim of the whole array."""
        return self.total, self.values.shape[-1]

    nbytes = property(stored_bytes, doc="The bytes of the ids and the rows.")

    def rows(self, ids: jax.Array | None) -> jax.Array:
        """``[..., dim]`` for ids ``[...]``, NaN for one that isn't held."""
        if ids is None:
            raise ValueError("expected ids: a view holds a few rows of its table and can't give all of them")
        place = self._places(ids)
        return lookup(self.values, of_member(place, self.values) if isinstance(self.values, jax.Array) else place)

    def touched(self, ids: jax.Array) -> "RowView":
        """Which of the rows that are held some ids read."""
        return dataclasses.replace(self, ids=None, values=touched(self.values, self._places(ids)))

    def _places(self, ids: jax.Array) -> jax.Array:
        place = jnp.searchsorted(self.ids, ids)
        held = self.ids.at[place].get(mode="fill", fill_value=-1) == ids
        return jnp.where(held & inside(ids, self.total), place, -1)


def view(table: Any, rows: Any) -> Any:
    """A table of which only the rows that a batch touches are at hand, which is what a row-sparse step differentiates.

    Args:
      table: ``[rows, dim]``, an array or a record; or a tree of them.
      rows: what :func:`touched` gave for it; or the tree of that.

    Returns:
      The same table, with a :class:`RowView` of those rows for every part that is indexed by rows, and every other part
      as it is.

    Examples:
      >>> import jax.numpy as jnp
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
