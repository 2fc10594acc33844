"""What stands at a place in nested dicts of parameters, and how large a tree is."""

from typing import Any

import jax

Keys = tuple[str, ...]


def read(tree: Any, keys: Keys) -> Any:
    """What is at some keys.

    Examples:
      >>> read({"net": {"output": {"bias": 3}}}, ("net", "output", "bias"))
      3
    """
    for key in keys:
        tree = tree[key]
    return tree


def write(tree: Any, keys: Keys, leaf: Any) -> Any:
    """The tree with something else at some keys, which needn't have been there; the tree itself stays as it is.

    Examples:
      >>> write({"net": {"bias": 3}}, ("net", "kernel"), 4)
      {'net': {'bias': 3, 'kernel': 4}}
    """
    return {**tree, keys[0]: write(tree.get(keys[0], {}), keys[1:], leaf)} if keys else leaf


def nbytes(tree: Any) -> int:
    """Bytes of a tree of arrays or of their shapes.

    Examples:
      >>> import jax.numpy as jnp
      >>> nbytes({"words": jnp.zeros(3, jnp.uint8), "scale": jnp.zeros(2, jnp.float16)})
      7
    """
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
