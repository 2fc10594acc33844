"""What stands at a place in nested dicts of parameters."""

from typing import Any

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
