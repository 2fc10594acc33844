"""Arrays of the parameters by their paths."""

from typing import Any

from recjax.compress._chain import Params

Keys = tuple[str, ...]


def path_keys(path: str) -> Keys:
    """The keys of ``"net/hidden_0/kernel"``; a name alone is a table's."""
    return tuple(path.split("/")) if "/" in path else ("tables", path)


def read(params: Params, keys: Keys) -> Any:
    """What is at some keys."""
    leaf: Any = params
    for key in keys:
        leaf = leaf[key]
    return leaf


def write(params: Params, keys: Keys, leaf: Any) -> Any:
    """The parameters with something else at some keys."""
    return {**params, keys[0]: write(params.get(keys[0], {}), keys[1:], leaf)} if keys else leaf
