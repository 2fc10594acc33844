"""Records as pytrees: their structures tell classes apart, and jit with them."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from embed_cases import INIT, PACKED, table_of

from recjax.trees import record


@record
class Plus:
    left: jax.Array
    right: jax.Array
    rows: int = dataclasses.field(metadata={"static": True})


@record
class Times:
    left: jax.Array
    right: jax.Array
    rows: int = dataclasses.field(metadata={"static": True})


def test_records_of_two_classes_never_have_equal_structures_whatever_their_hashes():
    plus, times = (jax.tree.structure(kind(1.0, 2.0, 3)) for kind in (Plus, Times))
    assert plus != times
    assert plus == jax.tree.structure(Plus(3.0, 4.0, 3))
    assert hash(plus) == hash(jax.tree.structure(Plus(3.0, 4.0, 3)))
    assert plus != jax.tree.structure(Plus(1.0, 2.0, 4))


def test_no_table_has_the_structure_of_another_kind():
    seen = {}
    for kind in (*INIT, *PACKED):
        table = table_of(kind)
        # as jit would see it if all were of one shape: the class and the static fields, one level down
        level = jax.tree.structure(table, is_leaf=lambda x, top=table: x is not top)
        same = [other for other, (cls, structure) in seen.items() if cls is not type(table) and structure == level]
        assert not same, (kind, same)
        seen[kind] = type(table), level


def test_paths_name_the_fields_and_a_static_one_survives():
    item = Plus(jnp.ones(2), jnp.zeros(2), 3)
    assert [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(item)] == [".left", ".right"]
    doubled = jax.jit(lambda x: jax.tree.map(lambda leaf: 2 * leaf, x))(item)
    assert doubled.rows == 3
    assert doubled.left.tolist() == [2.0, 2.0]


def test_a_record_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Plus(1.0, 2.0, 3).rows = 4
