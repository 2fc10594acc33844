"""The members of a population: combinations of swept values, and constants."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

SEED = "seed"
Settings = Mapping[str, np.ndarray]


def _column(name: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    column = np.asarray(values, np.int64 if name == SEED else np.float32)
    if column.ndim != 1 or not len(column):
        raise ValueError(f"{name}: expected a list of at least one value, got shape {column.shape}")
    return column


def product(*settings: Settings, **axes: Sequence[float]) -> dict[str, np.ndarray]:
    """All combinations of settings and values.

    Args:
      *settings: from a function of this module; its rows stay together.
      **axes: values per name. ``seed`` is the seed of a member; the others are fields of the hyperparameters.

    Returns:
      One ``[members]`` array per name, float32 (int64 for ``seed``); the last name varies fastest.

    Raises:
      ValueError: if a name is repeated, or has no values.

    Examples:
      >>> members = product(temperature=[1, 2], alpha=[0.1, 0.5, 0.9])
      >>> members["temperature"].tolist()
      [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]
      >>> {name: column.tolist() for name, column in product(product(bits=[2, 4]), seed=range(2)).items()}
      {'bits': [2.0, 2.0, 4.0, 4.0], 'seed': [0, 1, 0, 1]}
    """
    tables = [dict(table) for table in settings] + [{name: _column(name, values)} for name, values in axes.items()]
    names = [name for table in tables for name in table]
    if len(set(names)) < len(names):
        raise ValueError(f"expected each name once, got {names}")
    lengths = [len(next(iter(table.values()))) for table in tables]
    places = np.indices(lengths).reshape(len(lengths), -1)
    return {name: column[places[i]] for i, table in enumerate(tables) for name, column in table.items()}


def zip(**axes: Sequence[float]) -> dict[str, np.ndarray]:
    """The first values together, the second values together, and so on.

    Args:
      **axes: values per name, the same number for each.

    Returns:
      As :func:`product`.

    Raises:
      ValueError: if the numbers of values differ, or are 0.

    Examples:
      >>> members = product(zip(bits=[2, 4], sparsity=[0.0, 0.5]), seed=range(2))
      >>> {name: column.tolist() for name, column in members.items()}
      {'bits': [2.0, 2.0, 4.0, 4.0], 'sparsity': [0.0, 0.0, 0.5, 0.5], 'seed': [0, 1, 0, 1]}
    """
    columns = {name: _column(name, values) for name, values in axes.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"expected the same number of values for each name, got {lengths}")
    return columns


class Population(NamedTuple):
    """The members of a grid: each seed with each setting.

    Attributes:
      seeds: ``[seeds]`` int; each seed has its own data order.
      hparams: the hyperparameters, leaves ``[seeds, settings]``.
    """

    seeds: np.ndarray
    hparams: Any


def population(hparams: Any, settings: Settings) -> Population:
    """The members of a grid, grouped by seed.

    Args:
      hparams: a NamedTuple of numbers, the values of hyperparameters that aren't swept.
      settings: ``[members]`` values of swept fields and of ``seed``, 0 by default; see :func:`product`.

    Returns:
      A :class:`Population` with float32 leaves; seeds and settings in order of first appearance.

    Raises:
      ValueError: if a name is not a field, or the seeds don't all have the same settings.

    Examples:
      >>> class Hparams(NamedTuple):
      ...     learning_rate: float
      ...     alpha: float
      >>> members = population(Hparams(0.1, 0.0), product(alpha=[0.1, 0.5, 0.9], seed=range(2)))
      >>> members.seeds.tolist(), members.hparams.alpha.shape, members.hparams.learning_rate.shape
      ([0, 1], (2, 3), (2, 3))
    """
    swept = {name: np.asarray(column, np.float32) for name, column in settings.items() if name != SEED}
    unknown = set(swept) - set(hparams._fields)
    if unknown or not settings:
        raise ValueError(f"settings: expected at least one, among {hparams._fields}, got {sorted(unknown)}")
    count = len(next(iter(settings.values())))
    seed = np.asarray(settings.get(SEED, np.zeros(count, np.int64)))
    _, first = np.unique(seed, return_index=True)
    seeds = seed[np.sort(first)]
    rows = [np.flatnonzero(seed == one) for one in seeds]
    alike = [len(own) == len(rows[0]) for own in rows]
    alike += [np.array_equal(column[own], column[rows[0]]) for own in rows for column in swept.values()]
    if not all(alike):
        raise ValueError("settings: expected the same ones in the same order for each seed, got different ones")
    columns = {name: column[rows[0]] for name, column in swept.items()}
    leaves = {
        name: jnp.broadcast_to(jnp.asarray(columns.get(name, value), jnp.float32), (len(seeds), len(rows[0])))
        for name, value in hparams._asdict().items()
    }
    return Population(seeds, type(hparams)(**leaves))
