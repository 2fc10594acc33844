"""Hyperparameter grids trained as one population in a compiled program."""

from recjax.grid._fit import Fitted, Schedule, fit
from recjax.grid._groups import Groups, groups
from recjax.grid._history import History, halving, plateaus, stagnant
from recjax.grid._memory import Plan, memory
from recjax.grid._samples import Range, random, sobol
from recjax.grid._settings import Population, Settings, population, product, zip

__all__ = [
    "Fitted",
    "Groups",
    "History",
    "Plan",
    "Population",
    "Range",
    "Schedule",
    "Settings",
    "fit",
    "groups",
    "halving",
    "memory",
    "plateaus",
    "population",
    "product",
    "random",
    "sobol",
    "stagnant",
    "zip",
]
