"""The functions of a module, each call one compiled program: op by op, JAX compiles every operation for every shape."""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import numpy as np


class Programs:
    """A module whose functions are compiled whole. Arrays and floats are traced; everything else is static.

    ``static`` names the floats that shapes depend on. Functions that read values on the host don't work this way.
    """

    def __init__(self, module: ModuleType, *, static: tuple[str, ...] = ()):
        self._module, self._static = module, static

    def __getattr__(self, name: str) -> Any:
        thing = getattr(self._module, name)
        return program(thing, self._static) if inspect.isfunction(thing) else thing


@functools.cache
def program(function: Callable[..., Any], static: tuple[str, ...] = ()) -> Callable[..., Any]:
    """A function of which each structure of arguments is compiled once."""

    @functools.partial(jax.jit, static_argnums=(0, 1, 2))
    def run(structure, fixed, options, traced):
        traced = iter(traced)
        args, kwargs = jax.tree.unflatten(structure, [next(traced) if leaf is Programs else leaf for leaf in fixed])
        return function(*args, **kwargs, **dict(options))

    @functools.wraps(function)
    def call(*args, **kwargs):
        options = tuple((name, kwargs.pop(name)) for name in static if name in kwargs)
        leaves, structure = jax.tree.flatten((args, kwargs))
        moves = [isinstance(leaf, (jax.Array, np.ndarray, np.generic, float)) for leaf in leaves]
        fixed = tuple(Programs if moved else leaf for leaf, moved in zip(leaves, moves, strict=True))
        return run(structure, fixed, options, [leaf for leaf, moved in zip(leaves, moves, strict=True) if moved])

    return call
