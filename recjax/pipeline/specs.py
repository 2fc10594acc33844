"""Models by name and size, as JSON holds them: what a finished stage's model is built from again."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from recjax import families
from recjax.data import Dataset
from recjax.families import Model
from recjax.tasks.retrieval import FAMILIES


class Spec(NamedTuple):
    """A family and its sizes; a teacher that is read from files has their path as its family."""

    family: str
    size: dict[str, Any]


def build(dataset: Dataset, specs: Sequence[Spec]) -> Model:
    """The model of a specification; several are an ensemble."""
    models = [
        FAMILIES[spec.family](dataset, **spec.size)
        if spec.family in FAMILIES
        else families.imported(dataset, path=spec.family)
        for spec in specs
    ]
    return models[0] if len(models) == 1 else families.ensemble(models)
