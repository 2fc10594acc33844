"""One training step, pure; and a population of them as one compiled program.

A population is ``[seeds, settings]``: the members of one seed share their batches, which are gathered once, and every
seed has a data order of its own.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recjax.compress import Transform

TRAINED = ("tables", "net", "aids")


class Recipe(NamedTuple):
    """What is trained and how; static, so a compiled program belongs to one recipe.

    Attributes:
      loss: ``loss(params, batch, hparams, key) -> scalar``; ``params`` are the effective ones, records included.
      optimizer: ``optimizer(hparams) -> optax.GradientTransformation``; its numbers may be traced.
      transform: the compression inside the step; ``chain()`` for none.
      gather: ``gather(data, ids, key) -> batch``; what the members of one seed share, drawn and gathered once.
    """

    loss: Callable[..., jax.Array]
    optimizer: Callable[[Any], optax.GradientTransformation]
    transform: Transform
    gather: Callable[[Any, jax.Array, jax.Array], dict[str, jax.Array]]


class TrainState(NamedTuple):
    """All that a step changes.

    Attributes:
      params: the trained parts of the parameters.
      learned: what the transform learns.
      compression: what the transform keeps.
      optimizer: the optimizer's state.
      key: the member's random key; a step uses ``fold_in(key, step)``.
      step: how many steps are done, one number for the whole population.
    """

    params: Any
    learned: Any
    compression: Any
    optimizer: Any
    key: jax.Array
    step: jax.Array


MEMBER_AXES = TrainState(0, 0, 0, 0, 0, None)  # pyright: ignore[reportArgumentType]  (axes in place of arrays)


def trained(params: dict[str, Any]) -> dict[str, Any]:
    """The parts of a model's parameters that an optimizer changes."""
    return {name: params[name] for name in TRAINED}


def init_state(recipe: Recipe, params: dict[str, Any], hparams: Any, key: jax.Array) -> TrainState:
    """The state of one member before its first step.

    Args:
      recipe: what will train it.
      params: a model's parameters; ``fixed`` is left out.
      hparams: the member's hyperparameters.
      key: the member's random key.

    Returns:
      The :class:`TrainState` at step 0.
    """
    params = trained(params)
    learned, compression = recipe.transform.init(key, params, hparams)
    moments = recipe.optimizer(hparams).init((params, learned))
    return TrainState(params, learned, compression, moments, key, jnp.zeros((), jnp.int32))


def step(
    recipe: Recipe, state: TrainState, hparams: Any, batch: dict[str, jax.Array], fixed: Any
) -> tuple[TrainState, jax.Array]:
    """One step of one member.

    Args:
      recipe: static.
      state: before the step.
      hparams: any NamedTuple of traced scalars.
      batch: what :attr:`Recipe.gather` gave.
      fixed: the model's parameters that are not trained.

    Returns:
      The state after the step, and the loss before it.
    """
    key = jax.random.fold_in(state.key, state.step)

    def loss(leaves: tuple[Any, Any]) -> jax.Array:
        params, learned = leaves
        params = recipe.transform.apply({**params, "fixed": fixed}, learned, state.compression, hparams)
        return recipe.loss(params, batch, hparams, key)

    leaves = (state.params, state.learned)
    value, grads = jax.value_and_grad(loss)(leaves)
    updates, moments = recipe.optimizer(hparams).update(grads, state.optimizer, leaves)
    moved: Any = optax.apply_updates(leaves, updates)
    params, learned = moved
    compression = recipe.transform.update(params, learned, state.compression, grads, state.step, hparams)
    return TrainState(params, learned, compression, moments, state.key, state.step + 1), value


@functools.partial(jax.jit, static_argnames="recipe", donate_argnames="state")
def run_chunk(
    recipe: Recipe, state: TrainState, hparams: Any, ids: jax.Array, keys: jax.Array, data: Any, fixed: Any
) -> tuple[TrainState, jax.Array]:
    """Many steps of a whole population, with one visit of the host.

    Args:
      recipe: static.
      state: leaves ``[seeds, settings, ...]``; ``step`` is a scalar. Donated.
      hparams: leaves ``[seeds, settings]``.
      ids: ``[steps, seeds, batch]``, the rows of ``data`` for every step and seed.
      keys: ``[seeds]``, what a seed's samples are drawn from.
      data: what :attr:`Recipe.gather` takes; shared by all.
      fixed: shared by all.

    Returns:
      The state after the last step, and the losses ``[steps, seeds, settings]``.
    """

    def body(state: TrainState, ids: jax.Array) -> tuple[TrainState, jax.Array]:
        def of_seed(state: TrainState, hparams: Any, ids: jax.Array, key: jax.Array) -> tuple[TrainState, jax.Array]:
            batch = recipe.gather(data, ids, jax.random.fold_in(key, state.step))
            of_setting = jax.vmap(
                lambda s, h: step(recipe, s, h, batch, fixed), in_axes=(MEMBER_AXES, 0), out_axes=(MEMBER_AXES, 0)
            )
            return of_setting(state, hparams)

        return jax.vmap(of_seed, in_axes=(MEMBER_AXES, 0, 0, 0), out_axes=(MEMBER_AXES, 0))(state, hparams, ids, keys)

    return jax.lax.scan(body, state, ids)
