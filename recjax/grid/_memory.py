"""How many bytes a population takes, predicted before it is trained."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from recjax import train
from recjax.trees import nbytes


class Plan(NamedTuple):
    """How a population is split to fit into memory.

    Attributes:
      shared: bytes of what all members share, once for each device: data, held-out data, parameters that aren't trained.
      setting: bytes of one setting with all its seeds: parameters, optimizer, gradients and what a step computes, and
        the best parameters so far.
      memory: bytes there are.
      waves: the numbers of settings that train together, one wave after another.
    """

    shared: int
    setting: int
    memory: int
    waves: tuple[int, ...]


def memory() -> int:
    """Bytes that a population may fill: most of the accelerators' memory, or half of the machine's."""
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in jax.local_devices()]
    if all(limits):
        return int(0.85 * sum(limits))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def plan(
    recipe: train.Recipe,
    params: Any,
    hparams: Any,
    *,
    seeds: int,
    settings: int,
    batch_size: int,
    data: Any,
    copies: int,
    validate: Callable[[Any, Any], jax.Array],
    held_out: Any,
    memory: int,
) -> Plan:
    """Splits settings into waves that fit, from shapes alone; nothing is computed.

    What a step needs beside the state is the most that is alive at once in its program, each operation's result
    counted in full: the compiler fuses some of them, so this is on the safe side.

    Args:
      recipe: what is trained.
      params: one member's parameters.
      hparams: one member's hyperparameters.
      seeds: members of a setting.
      settings: how many.
      batch_size: rows a step.
      data: what the recipe gathers from.
      copies: how often that is in memory.
      validate: see :func:`fit`.
      held_out: what it looks at.
      memory: bytes there are.

    Returns:
      A :class:`Plan`; a single setting that doesn't fit is tried nevertheless.
    """
    key, ids = jax.eval_shape(lambda: (jax.random.key(0), jnp.zeros(batch_size, jnp.int32)))
    state = jax.eval_shape(lambda p, h, k: train.init_state(recipe, p, h, k), params, hparams, key)
    batch = jax.eval_shape(recipe.gather, data, ids, key)
    fixed = params["fixed"]

    def judge(state: train.TrainState, hparams: Any, held_out: Any, fixed: Any) -> jax.Array:
        params = {**state.params, "fixed": fixed}
        return validate(recipe.transform.apply(params, state.learned, state.compression, hparams), held_out)

    step = jax.make_jaxpr(lambda s, h, b, f: train.step(recipe, s, h, b, f))(state, hparams, batch, fixed)
    judged = jax.make_jaxpr(judge)(state, hparams, held_out, fixed)
    computed = max(_most_alive(step.jaxpr), _most_alive(judged.jaxpr))
    best = nbytes((state.params, state.learned, state.compression))
    devices = min(jax.device_count(), settings)  # each has a copy of what members share
    shared = devices * (copies * nbytes(data) + nbytes((held_out, fixed)) + seeds * nbytes(batch))
    setting = seeds * (nbytes(state._replace(key=())) + best + computed)
    fitting = max(1, (memory - shared) // setting)
    count = -(-settings // fitting)
    return Plan(shared, setting, memory, tuple(settings // count + (i < settings % count) for i in range(count)))


def _most_alive(jaxpr: Any) -> int:
    """The most bytes of results that are alive at once, arguments not counted."""
    last = {var: i for i, eqn in enumerate(jaxpr.eqns) for var in eqn.invars if not isinstance(var, core.Literal)}
    last |= {var: len(jaxpr.eqns) for var in jaxpr.outvars if not isinstance(var, core.Literal)}
    alive = most = 0
    ends: dict[int, int] = {}
    for i, eqn in enumerate(jaxpr.eqns):
        size = sum(_var_bytes(var) for var in eqn.outvars)
        inner = [_most_alive(getattr(sub, "jaxpr", sub)) for sub in jax.tree.leaves(eqn.params) if _computes(sub)]
        alive += size
        most = max(most, alive + max(inner, default=0))
        for var in eqn.outvars:
            end = last.get(var, i)
            ends[end] = ends.get(end, 0) + _var_bytes(var)
        alive -= ends.pop(i, 0)
    return most


def _computes(param: Any) -> bool:
    return isinstance(param, core.Jaxpr | core.ClosedJaxpr)


def _var_bytes(var: Any) -> int:
    dtype = getattr(var.aval, "dtype", None)
    return 0 if dtype is None else var.aval.size * getattr(dtype, "itemsize", 4)
