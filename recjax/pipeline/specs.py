"""A model by name and size, as JSON holds it: what a finished stage's model is built from again."""

from typing import Any, NamedTuple


class Spec(NamedTuple):
    """A family and its sizes; a teacher that is read from files has their path as its family."""

    family: str
    size: dict[str, Any]
