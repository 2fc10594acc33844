"""Arrays of the parameters by their paths."""

from collections.abc import Mapping
from typing import Any

from recjax.compress._chain import Params
from recjax.trees import Keys


def path_keys(path: str) -> Keys:
    """The keys of ``"net/hidden_0/kernel"``; a name alone is a table's."""
    return tuple(path.split("/")) if "/" in path else ("tables", path)


def with_tables(params: Params, records: Mapping[str, Any]) -> Params:
    """The parameters with records in place of some tables."""
    return {**params, "tables": {**params["tables"], **records}}
