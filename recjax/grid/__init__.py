"""Whole grids of hyperparameters as one population: built here, trained here, chosen from here."""

from recjax.grid._fit import Fitted, Schedule, fit
from recjax.grid._history import History, plateaus
from recjax.grid._settings import Population, Settings, population, product, zip

__all__ = [
    "Fitted",
    "History",
    "Population",
    "Schedule",
    "Settings",
    "fit",
    "plateaus",
    "population",
    "product",
    "zip",
]
