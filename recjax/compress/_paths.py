"""Access to arrays of the parameters by path."""

from collections.abc import Mapping
from typing import Any

from recjax.compress._chain import Params
from recjax.trees import Keys


def path_keys(path: str) -> Keys:
    """The keys of ``"net/hidden_0/kernel"``; a name without a slash is a table."""
    return tuple(path.split("/")) if "/" in path else ("tables", path)


def with_tables(params: Params, records: Mapping[str, Any]) -> Params:
    """The parameters with some tables replaced by records."""
    return {**params, "tables": {**params["tables"], **records}}
