"""What a batch touches of a table, and the view of it, against Python's sets and the whole table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from recjax import quantize
from recjax.embed import FakeQuantized, Masked, RowView, lookup, touched, view

ROWS, DIM, BATCH = 9, 4, 6
NOWHERE = np.iinfo(np.int32).max
TABLE = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
KEEP = np.random.default_rng(1).random((ROWS, DIM)) < 0.5
IDS = np.array([[7, 2, 7], [0, 2, 8]], np.int32)

TOUCHED = jax.jit(touched)
READ = jax.jit(lambda table, batch, ids: lookup(view(table, touched(table, batch)), ids))


def with_holes(ids):
    """Ids anywhere, those that are nowhere included."""
    return arrays.arrays(np.int32, ids, elements=st.integers(-2, ROWS + 2) | st.sampled_from([NOWHERE, -(2**31)]))


@given(with_holes(BATCH))
@settings(max_examples=25, deadline=None)
def test_rows_of_an_array_are_sorted_each_once_and_padded(ids):
    expected = sorted({int(i) for i in ids if 0 <= i < ROWS})
    assert TOUCHED(jnp.asarray(TABLE), ids).tolist() == expected + [NOWHERE] * (BATCH - len(expected))


@given(with_holes(3 * ROWS))
@settings(max_examples=15, deadline=None)
def test_a_batch_never_touches_more_rows_than_there_are(ids):
    expected = sorted({int(i) for i in ids if 0 <= i < ROWS})
    assert TOUCHED(jnp.asarray(TABLE), ids).tolist() == expected + [NOWHERE] * (ROWS - len(expected))


def test_no_ids_touch_nothing():
    assert touched(jnp.asarray(TABLE), jnp.zeros((0, 3), jnp.int32)).tolist() == [NOWHERE]
    found = READ(jnp.asarray(TABLE), np.zeros(0, np.int32), IDS)
    assert np.isnan(found).all()


@given(with_holes(BATCH), with_holes(BATCH))
@settings(max_examples=25, deadline=None)
def test_a_view_reads_as_the_table_where_it_holds_the_id_and_nan_elsewhere(batch, ids):
    found = np.asarray(READ(jnp.asarray(TABLE), batch, ids))
    held = {int(i) for i in batch if 0 <= i < ROWS}
    for i, row in zip(ids.tolist(), found, strict=True):
        np.testing.assert_array_equal(row, TABLE[i] if i in held else np.full(DIM, np.nan))


def records():
    table = jnp.asarray(TABLE)
    return {
        "masked": Masked(table, jnp.asarray(KEEP)),
        "quantized": FakeQuantized(table, jnp.float32(3)),
        "pruned then quantized": FakeQuantized(Masked(table, jnp.asarray(KEEP)), jnp.float32(3)),
        "packed": quantize.quantize(table, bits=4, axis=0),
        "packed then pruned": Masked(quantize.quantize_rows(table, bits=4), jnp.asarray(KEEP)),
    }


@pytest.mark.parametrize("kind", list(records()))
def test_views_of_records_read_as_the_records(kind):
    table = records()[kind]
    np.testing.assert_array_equal(READ(table, IDS, IDS), lookup(table, IDS))
    assert table.shape == (ROWS, DIM)
    if not kind.startswith("packed"):
        assert np.isnan(READ(table, IDS, np.array([1, 3], np.int32))).all()


def test_what_is_never_trained_is_none_and_stays_as_it_is():
    table = FakeQuantized(Masked(jnp.asarray(TABLE), jnp.asarray(KEEP)), jnp.float32(3))
    rows = touched(table, IDS)
    assert rows.bits is None
    assert rows.table.keep is None
    assert rows.table.table.tolist() == [0, 2, 7, 8, NOWHERE, NOWHERE]
    few = view(table, rows)
    assert few.bits is table.bits
    assert few.table.keep is table.table.keep
    assert isinstance(few.table.table, RowView)
    assert few.shape == table.shape
    assert jax.tree.leaves(touched(quantize.quantize(jnp.asarray(TABLE), bits=8, axis=0), IDS)) == []


def test_a_view_of_a_view_reads_as_the_table():
    few = view(jnp.asarray(TABLE), touched(jnp.asarray(TABLE), IDS))
    again = np.array([2, 8, 5, NOWHERE, -1], np.int32)
    fewer = view(few, touched(few, again))
    expected = np.where(np.isin(again, [2, 8])[:, None], TABLE[np.clip(again, 0, ROWS - 1)], np.nan)
    np.testing.assert_array_equal(lookup(fewer, again), expected)
    np.testing.assert_array_equal(fewer.values.values[:2], TABLE[[2, 8]])


def test_a_view_cannot_give_every_row():
    with pytest.raises(ValueError, match="a view has only some rows"):
        lookup(view(jnp.asarray(TABLE), touched(jnp.asarray(TABLE), IDS)))


def test_gradient_reaches_the_rows_that_were_read_and_is_that_of_the_table():
    weights = np.random.default_rng(2).normal(size=(*IDS.shape, DIM)).astype(np.float32)
    whole = jnp.asarray(TABLE)
    few = view(whole, touched(whole, IDS))
    dense = jax.grad(lambda table: (lookup(table, IDS) * weights).sum())(whole)
    values = jax.grad(lambda values: (lookup(RowView(few.ids, values, ROWS), IDS) * weights).sum())(few.values)
    np.testing.assert_array_equal(values[:4], dense[few.ids[:4]])
    np.testing.assert_array_equal(values[4:], 0)


def test_members_share_what_a_batch_touches():
    tables = {"user": jnp.stack([TABLE, 2 * TABLE]), "item": jnp.stack([-TABLE, TABLE])}
    rows = {name: touched(table[0], IDS) for name, table in tables.items()}
    found = jax.vmap(lambda tables: lookup(view(tables, rows)["item"], IDS))(tables)
    np.testing.assert_array_equal(found, np.stack([-TABLE[IDS], TABLE[IDS]]))


def test_bytes_are_those_that_are_stored():
    table = jnp.asarray(TABLE)
    assert Masked(table, jnp.asarray(KEEP)).nbytes == ROWS * DIM * 4 + 5  # 36 bits
    assert FakeQuantized(table, jnp.float32(3)).nbytes == ROWS * DIM * 4 + 4
    assert view(table, touched(table, IDS)).nbytes == 6 * 4 + 6 * DIM * 4
