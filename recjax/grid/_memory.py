"""Memory of a population, predicted before training."""

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
      shared: bytes of what all members share, one copy per device: data, held-out data, untrained parameters.
      setting: bytes of one setting with all its seeds: parameters, optimizer, gradients, activations and the best
        parameters so far.
      memory: bytes available.
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
    """Splits settings into waves that fit, from shapes only.

    The memory of a step is the maximum of all live results in its program. This is an upper bound, since the compiler
    fuses operations.

    Args:
      recipe: what is trained.
      params: one member's parameters.
      hparams: one member's hyperparameters.
      seeds: members per setting.
      settings: number of settings.
      batch_size: rows per step.
      data: argument of ``recipe.gather``.
      copies: number of copies of ``data`` in memory.
      validate: see :func:`fit`.
      held_out: argument of ``validate``.
      memory: bytes available.

    Returns:
      A :class:`Plan`; a single setting that doesn't fit is a wave nevertheless.
    """
    key, ids = jax.eval_shape(lambda: (jax.random.key(0), jnp.zeros(batch_size, jnp.int32)))
    state = jax.eval_shape(lambda p, h, k: train.init_state(recipe, p, h, k), params, hparams, key)
    batch = jax.eval_shape(recipe.gather, data, ids, key)
    fixed = params["fixed"]

    def validated(state: train.TrainState, hparams: Any, held_out: Any, fixed: Any) -> jax.Array:
        params = {**state.params, "fixed": fixed}
        return validate(recipe.transform.apply(params, state.learned, state.compression, hparams), held_out)

    step = jax.make_jaxpr(lambda s, h, b, f: train.step(recipe, s, h, b, f))(state, hparams, batch, fixed)
    validation = jax.make_jaxpr(validated)(state, hparams, held_out, fixed)
    computed = max(_peak_bytes(step.jaxpr), _peak_bytes(validation.jaxpr))
    best = nbytes((state.params, state.learned, state.compression))
    devices = min(jax.device_count(), settings)  # each has a copy of shared arrays
    shared = devices * (copies * nbytes(data) + nbytes((held_out, fixed)) + seeds * nbytes(batch))
    setting = seeds * (nbytes(state._replace(key=())) + best + computed)
    fitting = max(1, (memory - shared) // setting)
    count = -(-settings // fitting)
    return Plan(shared, setting, memory, tuple(settings // count + (i < settings % count) for i in range(count)))


def _peak_bytes(jaxpr: Any) -> int:
    """The maximum bytes of results that are live at once, without arguments."""
    last = {var: i for i, eqn in enumerate(jaxpr.eqns) for var in eqn.invars if not isinstance(var, core.Literal)}
    last |= {var: len(jaxpr.eqns) for var in jaxpr.outvars if not isinstance(var, core.Literal)}
    alive = most = 0
    ends: dict[int, int] = {}
    for i, eqn in enumerate(jaxpr.eqns):
        size = sum(_var_bytes(var) for var in eqn.outvars)
        inner = [_peak_bytes(getattr(sub, "jaxpr", sub)) for sub in jax.tree.leaves(eqn.params) if _computes(sub)]
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
