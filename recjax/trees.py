"""Dataclasses as pytrees, and reading, writing and measuring nested dicts of parameters."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

Keys = tuple[str, ...]
T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass and a pytree; fields with ``metadata={"static": True}`` are static.

    Examples:
      >>> @record
      ... class Scaled:
      ...     values: float
      ...     bits: int = dataclasses.field(metadata={"static": True})
      >>> jax.tree.map(lambda x: 2 * x, Scaled(1.5, 8))
      Scaled(values=3.0, bits=8)
    """
    # Not jax.tree_util.register_dataclass: in jax 0.10.2 tree structures of two classes with the same fields compare
    # equal, so jit may run the program of one class on the other.
    dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    static = tuple(field.name for field in fields if field.metadata.get("static"))
    names = tuple(field.name for field in fields if field.name not in static)

    def with_keys(item: T) -> tuple[Any, Any]:
        children = [(jax.tree_util.GetAttrKey(name), getattr(item, name)) for name in names]
        return children, tuple(getattr(item, name) for name in static)

    def without_keys(item: T) -> tuple[Any, Any]:
        return [getattr(item, name) for name in names], tuple(getattr(item, name) for name in static)

    def build(statics: Any, children: Any) -> T:
        return cls(**dict(zip(names, children, strict=True)), **dict(zip(static, statics, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, with_keys, build, without_keys)
    return cls


def read(tree: Any, keys: Keys) -> Any:
    """The entry at a path of keys.

    Examples:
      >>> read({"net": {"output": {"bias": 3}}}, ("net", "output", "bias"))
      3
    """
    for key in keys:
        tree = tree[key]
    return tree


def write(tree: Any, keys: Keys, leaf: Any) -> Any:
    """A copy of the tree with another entry at a path of keys, which may be new.

    Examples:
      >>> write({"net": {"bias": 3}}, ("net", "kernel"), 4)
      {'net': {'bias': 3, 'kernel': 4}}
    """
    return {**tree, keys[0]: write(tree.get(keys[0], {}), keys[1:], leaf)} if keys else leaf


def nbytes(tree: Any) -> int:
    """Bytes of a tree of arrays or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
