"""The training step, a pure function, and a population of models trained by one compiled program.

A population is ``[seeds, settings]``: the members of one seed share their batches, which are gathered once; each seed
has its own data order.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recjax import embed
from recjax.compress import Transform
from recjax.rows import RowOptimizer, put, take

TRAINED = ("tables", "net", "auxiliary")


class RowSparse(NamedTuple):
    """Row-sparse training of tables: the cost of a step doesn't depend on the size of the tables.

    Attributes:
      optimizer: ``optimizer(hparams) -> rows.RowOptimizer``; its hyperparameters may be traced.
      touched: ``touched(batch) -> {table: ids}``, all rows that the loss looks up, for each table; such as the model's
        ``touched``, for a batch with all its items.
    """

    optimizer: Callable[[Any], RowOptimizer]
    touched: Callable[[dict[str, jax.Array]], dict[str, jax.Array]]


class Precision(NamedTuple):
    """Numerical precision of a loss; parameters, gradients and optimizer states are always float32.

    Attributes:
      compute: dtype to which dense parameters are cast for the loss, such as ``"bfloat16"``. Compressed tables stay in
        float32, since rounding would change their grid.
      matmul: precision of matrix products, as for ``jax.default_matmul_precision``, such as ``"tensorfloat32"``; None
        for the device's default.
    """

    compute: str = "float32"
    matmul: str | None = None


class Recipe(NamedTuple):
    """What is trained and how. Static: each recipe is compiled separately.

    Attributes:
      loss: ``loss(params, batch, hparams, key) -> scalar``; ``params`` are those after the transform, records included.
      optimizer: ``optimizer(hparams) -> optax.GradientTransformation``; its hyperparameters may be traced.
      transform: the compression inside the step; ``chain()`` for none.
      gather: ``gather(data, ids, key) -> batch``, the batch that the members of one seed share.
      rows: row-sparse training of the tables; ``optimizer`` then trains the other leaves: the network, the transform's
        parameters, table parts shared by all rows. None trains everything with ``optimizer``.
      precision: of the loss.
      compiler_options: XLA options for the program of the steps, (name, value) pairs as for ``jax.jit``, such as
        :func:`recjax.machine.xla_matmul_options`.
    """

    loss: Callable[..., jax.Array]
    optimizer: Callable[[Any], optax.GradientTransformation]
    transform: Transform
    gather: Callable[[Any, jax.Array, jax.Array], dict[str, jax.Array]]
    rows: RowSparse | None = None
    precision: Precision = Precision()
    compiler_options: tuple[tuple[str, str], ...] = ()


class Moments(NamedTuple):
    """Optimizer states.

    Attributes:
      dense: of :attr:`Recipe.optimizer`.
      rows: ``{table: slots}``; empty without row-sparse training.
    """

    dense: Any
    rows: dict[str, Any]


class TrainState(NamedTuple):
    """The state that a step changes.

    Attributes:
      params: the trained parts of the parameters.
      learned: the transform's trained parameters.
      compression: the transform's state.
      optimizer: optimizer states.
      key: the member's random key; a step uses ``fold_in(key, step)``.
      step: number of steps done, one for the whole population.
    """

    params: Any
    learned: Any
    compression: Any
    optimizer: Moments
    key: jax.Array
    step: jax.Array


MEMBER_AXES = TrainState(0, 0, 0, 0, 0, None)  # pyright: ignore[reportArgumentType]  (axes in place of arrays)


def trained(params: dict[str, Any]) -> dict[str, Any]:
    """The trained parts of a model's parameters."""
    return {name: params[name] for name in TRAINED}


def init_state(recipe: Recipe, params: dict[str, Any], hparams: Any, key: jax.Array) -> TrainState:
    """The initial state of one member.

    Args:
      recipe: static.
      params: a model's parameters; ``fixed`` is left out.
      hparams: the member's hyperparameters.
      key: the member's random key.
    """
    params = trained(params)
    learned, compression = recipe.transform.init(key, params, hparams)
    dense, tables, _ = _split(params, _places(recipe, params))
    slots = jax.tree.map(recipe.rows.optimizer(hparams).init, tables) if recipe.rows else {}
    moments = Moments(recipe.optimizer(hparams).init((dense, learned)), slots)
    return TrainState(params, learned, compression, moments, key, jnp.zeros((), jnp.int32))


def current(recipe: Recipe, state: TrainState, hparams: Any) -> Any:
    """The up-to-date parameters of one member, for validating, keeping or packing them.

    With row-sparse training this is a pass over the tables, which applies the momentum and weight decay of skipped
    steps.

    Args:
      recipe: static.
      state: after any step; not changed.
      hparams: the member's hyperparameters.

    Returns:
      Parameters like ``state.params``.
    """
    if not recipe.rows:
        return state.params
    dense, tables, rest = _split(state.params, _places(recipe, state.params))
    optimizer = recipe.rows.optimizer(hparams)
    return _join(
        dense,
        jax.tree.map(lambda table, slots: optimizer.current(slots, table, state.step)[1], tables, state.optimizer.rows),
        rest,
    )


def _places(recipe: Recipe, params: dict[str, Any], batch: dict[str, jax.Array] | None = None) -> dict[str, Any]:
    """``{table: ids}``, the rows that a batch touches of each part; without a batch, only which parts have rows."""
    if recipe.rows is None:
        return {}
    tables = params["tables"]
    ids = dict.fromkeys(tables, jnp.zeros(1, jnp.int32)) if batch is None else recipe.rows.touched(batch)
    if ids is None or set(ids) != set(tables):
        raise ValueError(f"touched: expected ids for each table, {sorted(tables)}, got {ids and sorted(ids)}")
    return {name: embed.touched(table, ids[name]) for name, table in tables.items()}


def _split(params: dict[str, Any], places: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Densely trained leaves, row-sparse parts of tables, and untrained leaves; None in place of the others."""

    def packed(part: Any) -> bool:
        return isinstance(part, embed.Packed)

    def trains(part: Any) -> bool:
        return not packed(part) and jnp.issubdtype(part.dtype, jnp.floating)

    tables = {**params["tables"]}
    by_rows = {}
    for name, ids in places.items():
        by_rows[name] = jax.tree.map(lambda part, at: None if at is None else part, tables[name], ids)
        tables[name] = jax.tree.map(lambda part, at: part if at is None else None, tables[name], ids)
    whole = {**params, "tables": tables}
    dense = jax.tree.map(lambda part: part if trains(part) else None, whole, is_leaf=packed)
    rest = jax.tree.map(lambda part: None if trains(part) else part, whole, is_leaf=packed)
    return dense, by_rows, rest


def _join(dense: dict[str, Any], by_rows: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`_split`, for tables or for views of them."""

    def either(one: Any, other: Any) -> Any:
        return other if one is None else one

    def joined(one: Any, other: Any) -> Any:
        return jax.tree.map(either, one, other, is_leaf=lambda part: part is None)

    whole = joined(dense, rest)
    tables = {name: joined(whole["tables"][name], rows) for name, rows in by_rows.items()}
    return {**whole, "tables": {**whole["tables"], **tables}}


def step(
    recipe: Recipe, state: TrainState, hparams: Any, batch: dict[str, jax.Array], fixed: Any
) -> tuple[TrainState, jax.Array]:
    """One training step of one member.

    Packed arrays and leaves that aren't float (codes, masks) are not trained; their gradients are None.

    Args:
      recipe: static.
      state: before the step.
      hparams: a NamedTuple of traced scalars.
      batch: from :attr:`Recipe.gather`.
      fixed: the model's untrained parameters.

    Returns:
      The state after the step, and the loss before it.
    """
    key = jax.random.fold_in(state.key, state.step)
    places = _places(recipe, state.params, batch)
    dense, tables, rest = _split(state.params, places)
    slots, values = (
        jax.tree.map(lambda at, whole: take(whole, at), places, of) for of in (state.optimizer.rows, tables)
    )
    by_row = recipe.rows.optimizer(hparams) if recipe.rows else None
    if by_row:
        slots, values = _pair_of_trees(places, lambda s, v: by_row.current(s, v, state.step), slots, values)

    def loss(leaves: tuple[Any, Any, Any]) -> jax.Array:
        dense, learned, values = leaves
        params = _join(dense, _views(places, values, tables), rest)
        params = recipe.transform.apply({**params, "fixed": fixed}, learned, state.compression, hparams)
        with jax.default_matmul_precision(recipe.precision.matmul):
            return recipe.loss(_computed(recipe.precision, params), batch, hparams, key).astype(jnp.float32)

    value, (*grads, row_grads) = jax.value_and_grad(loss)((dense, state.learned, values))
    leaves = (dense, state.learned)
    updates, moments = recipe.optimizer(hparams).update(tuple(grads), state.optimizer.dense, leaves)
    moved: Any = optax.apply_updates(leaves, updates)
    dense, learned = moved
    if by_row:
        slots, values = _pair_of_trees(
            places, lambda s, v, g: by_row.update(s, v, g, state.step), slots, values, row_grads
        )
    slots = jax.tree.map(lambda at, whole, rows: put(whole, at, rows), places, state.optimizer.rows, slots)
    tables = jax.tree.map(lambda at, whole, rows: put(whole, at, rows), places, tables, values)
    params = _join(dense, tables, rest)
    untrained = jax.tree.map(lambda _: None, rest)
    grads = (_join(grads[0], _views(places, row_grads, tables), untrained), grads[1])
    compression = recipe.transform.update(params, learned, state.compression, grads, state.step, hparams)
    dense, moments = recipe.transform.restart(dense, moments, compression, state.step)
    params = _join(dense, tables, rest)
    return TrainState(params, learned, compression, Moments(moments, slots), state.key, state.step + 1), value


def _views(places: Any, values: Any, tables: Any) -> Any:
    return jax.tree.map(lambda at, rows, whole: embed.RowView(at, rows, whole.shape[0]), places, values, tables)


def _computed(precision: Precision, params: dict[str, Any]) -> dict[str, Any]:
    """Parameters cast to the compute dtype."""

    def cast(leaf: Any) -> Any:
        floats = isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32
        return leaf.astype(precision.compute) if floats else leaf

    tables = {name: cast(table) for name, table in params["tables"].items()}
    return {**jax.tree.map(cast, {**params, "tables": {}}), "tables": tables}


def _pair_of_trees(places: Any, function: Callable[..., tuple[Any, Any]], *trees: Any) -> tuple[Any, Any]:
    """Maps a function of leaves that returns a pair; returns a pair of trees."""
    pairs = jax.tree.map(lambda _, *parts: function(*parts), places, *trees)
    return tuple(jax.tree.map(lambda _, pair, n=n: pair[n], places, pairs) for n in range(2))  # pyright: ignore


def run_chunk(
    recipe: Recipe, state: TrainState, hparams: Any, ids: jax.Array, keys: jax.Array, data: Any, fixed: Any
) -> tuple[TrainState, jax.Array]:
    """Many steps of a whole population in one device program.

    Args:
      recipe: static.
      state: leaves ``[seeds, settings, ...]``; ``step`` is a scalar. Donated.
      hparams: leaves ``[seeds, settings]``.
      ids: ``[steps, seeds, batch]``, the rows of ``data`` for each step and seed.
      keys: ``[seeds]`` random keys of :attr:`Recipe.gather`.
      data: argument of :attr:`Recipe.gather`; shared by all members.
      fixed: untrained parameters; shared by all members.

    Returns:
      The state after the last step, and the losses ``[steps, seeds, settings]``.
    """
    return program(recipe.compiler_options)(recipe, state, hparams, ids, keys, data, fixed)


@functools.cache
def program(compiler_options: tuple[tuple[str, str], ...]) -> Any:
    """The jitted function of :func:`run_chunk` for given compiler options, also for ``lower``."""
    options = dict(compiler_options) or None
    return jax.jit(_run_chunk, static_argnames="recipe", donate_argnames="state", compiler_options=options)


def _run_chunk(
    recipe: Recipe, state: TrainState, hparams: Any, ids: jax.Array, keys: jax.Array, data: Any, fixed: Any
) -> tuple[TrainState, jax.Array]:
    def body(state: TrainState, ids: jax.Array) -> tuple[TrainState, jax.Array]:
        def of_seed(state: TrainState, hparams: Any, ids: jax.Array, key: jax.Array) -> tuple[TrainState, jax.Array]:
            batch = recipe.gather(data, ids, jax.random.fold_in(key, state.step))
            of_setting = jax.vmap(
                lambda s, h: step(recipe, s, h, batch, fixed), in_axes=(MEMBER_AXES, 0), out_axes=(MEMBER_AXES, 0)
            )
            return of_setting(state, hparams)

        return jax.vmap(of_seed, in_axes=(MEMBER_AXES, 0, 0, 0), out_axes=(MEMBER_AXES, 0))(state, hparams, ids, keys)

    return jax.lax.scan(body, state, ids)
