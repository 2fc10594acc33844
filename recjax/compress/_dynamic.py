"""Dynamic sparse training (RigL, SET, AC/DC) and lottery tickets."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recjax import embed, prune
from recjax.compress._chain import HparamFn, Params, ScheduleFn, Transform
from recjax.compress._paths import path_keys
from recjax.compress._prune import Masks, with_masks
from recjax.trees import read, write


def _weights(params: Params, paths: Sequence[str]) -> Masks:
    """The arrays at the given paths; an error for tables trained by rows, whose optimizer state cannot be reset."""
    weights = {path: read(params, path_keys(path)) for path in paths}
    for path, leaf in weights.items():
        if leaf is None or isinstance(leaf, embed.RowView):
            raise ValueError(f"{path}: expected an array trained densely, got a table trained by rows")
    return weights


def _zeroed(params: Params, moments: Any, fresh: Masks) -> tuple[Params, Any]:
    """Parameters and moments, set to 0 where ``fresh`` is True."""
    reset = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), params)
    for path, leaf in _weights(params, list(fresh)).items():
        params = write(params, path_keys(path), jnp.where(fresh[path], 0, leaf))
        reset = write(reset, path_keys(path), fresh[path])
    return params, prune.reset_moments(moments, reset)


class Connections(NamedTuple):
    """State of a transform that drops and grows connections.

    Attributes:
      keep: ``{path: bool}``, the masks.
      grown: ``{path: bool}``, connections grown at the last update.
      key: random key of growth.
    """

    keep: Masks
    grown: Masks
    key: jax.Array


def _drop_and_grow(
    paths: Sequence[str],
    sparsity: HparamFn,
    fraction: ScheduleFn,
    growth: Callable[[jax.Array, Masks, Any], Masks],
    every: int,
    end: int,
) -> Transform:
    """Random masks, partly replaced every ``every`` steps by the largest of ``growth(key, weights, grads)``."""

    def due(step: jax.Array) -> jax.Array:
        return ((step + 1) % every == 0) & (step + 1 < end)

    def init(key: jax.Array, params: Params, hparams: Any) -> tuple[tuple, Connections]:
        first, later = jax.random.split(key)
        scores = prune.random_scores(first, _weights(params, paths))
        keep = {path: prune.mask_smallest(score, sparsity(hparams)) for path, score in scores.items()}
        return (), Connections(keep, jax.tree.map(jnp.zeros_like, keep), later)

    def apply(params: Params, learned: tuple, state: Connections, hparams: Any) -> Params:
        return with_masks(params, state.keep)

    def update(
        params: Params, learned: tuple, state: Connections, grads: Any, step: jax.Array, hparams: Any
    ) -> Connections:
        def refresh(state: Connections) -> Connections:
            weights, share = _weights(params, paths), fraction(hparams, step)
            scores = growth(jax.random.fold_in(state.key, step), weights, grads)
            new = {
                path: prune.drop_and_grow(leaf, state.keep[path], scores[path], fraction=share)
                for path, leaf in weights.items()
            }
            keep, grown = (
                {path: part.mask for path, part in new.items()},
                {path: part.grown for path, part in new.items()},
            )
            return state._replace(keep=keep, grown=grown)

        return jax.lax.cond(due(step), refresh, lambda kept: kept, state)

    def restart(params: Params, moments: Any, state: Connections, step: jax.Array) -> tuple[Params, Any]:
        return jax.lax.cond(
            due(step), lambda old: _zeroed(old[0], old[1], state.grown), lambda old: old, (params, moments)
        )

    return Transform(init, apply, update, restart)


def rigged_lottery(
    paths: Sequence[str], *, sparsity: HparamFn, fraction: HparamFn, end: int, every: int = 100
) -> Transform:
    r"""RigL: dynamic sparse training that replaces the smallest weights by those with the largest gradients.

    .. math::
        k = \mathrm{round}(f(t)\, n), \qquad f(t) = \frac{f_0}{2} \left(1 + \cos \frac{\pi t}{T}\right)

    Of :math:`n` active entries the :math:`k` smallest are dropped, and the :math:`k` inactive entries with the largest
    gradients are grown, with weight and moments 0.

    Args:
      paths: names in ``params["tables"]``, or paths of other arrays such as ``"net/hidden_0/kernel"``. Each array has
        the same sparsity, starts from a random mask, and must not be trained by rows.
      sparsity: ``sparsity(hparams)``, the share of inactive entries.
      fraction: ``fraction(hparams)``, the initial share :math:`f_0` to replace.
      end: step :math:`T` from which on the masks are fixed.
      every: steps between two updates of the masks.

    Returns:
      :class:`Transform`; the masks are ``state.keep``.

    Published:
      Fraction .3, every 100 steps, until 3/4 of the training.

    Storage:
      1 bit per entry and the kept entries, if smaller: :func:`recjax.prune.sparsify_if_smaller`.

    Examples:
      >>> params = {"tables": {"item": jnp.array([[1.0, 2.0, 3.0, 4.0]])}}
      >>> rigl = rigged_lottery(["item"], sparsity=lambda hparams: 0.75, fraction=lambda hparams: 1.0, end=100, every=1)
      >>> learned, state = rigl.init(jax.random.key(0), params, {})
      >>> grads = {"tables": {"item": jnp.array([[0.0, 0.0, -9.0, 1.0]])}}, learned
      >>> print(rigl.update(params, learned, state, grads, jnp.array(0), {}).keep["item"])
      [[False False  True False]]

    References:
      Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, 2020, section 3.
    """

    def share(hparams: Any, step: jax.Array) -> jax.Array:
        return prune.drop_fraction(step + 1, end=end, initial=fraction(hparams))

    def growth(key: jax.Array, weights: Masks, grads: Any) -> Masks:
        return _weights(grads[0], paths)

    return _drop_and_grow(paths, sparsity, share, growth, every, end)


def sparse_evolution(
    paths: Sequence[str], *, sparsity: HparamFn, fraction: HparamFn, end: int, every: int
) -> Transform:
    r"""SET: dynamic sparse training that replaces the smallest weights by random ones.

    .. math::
        k = \mathrm{round}(\zeta n)

    As :func:`rigged_lottery`, with random growth and a constant share.

    Args:
      paths: as in :func:`rigged_lottery`.
      sparsity: ``sparsity(hparams)``, the share of inactive entries.
      fraction: ``fraction(hparams)``, the share :math:`\zeta` to replace.
      end: step from which on the masks are fixed.
      every: steps between two updates of the masks.

    Returns:
      :class:`Transform`; the masks are ``state.keep``.

    Published:
      Fraction .3, once per epoch, to the last.

    Storage:
      1 bit per entry and the kept entries, if smaller: :func:`recjax.prune.sparsify_if_smaller`.

    Examples:
      >>> params = {"tables": {"item": jnp.array([[1.0, 2.0, 3.0, 4.0]])}}
      >>> evolution = sparse_evolution(
      ...     ["item"], sparsity=lambda hparams: 0.75, fraction=lambda hparams: 0.3, end=100, every=10
      ... )
      >>> print(evolution.init(jax.random.key(0), params, {})[1].keep["item"].sum())
      1

    References:
      Mocanu et al., `Scalable training of artificial neural networks with adaptive sparse connectivity
      <https://arxiv.org/abs/1707.04780>`_, 2018, algorithm 1.
    """

    def growth(key: jax.Array, weights: Masks, grads: Any) -> Masks:
        return prune.random_scores(key, weights)

    return _drop_and_grow(paths, sparsity, lambda hparams, step: fraction(hparams), growth, every, end)


def alternating_pruning(paths: Sequence[str], *, sparsity: HparamFn, begin: int, end: int, every: int) -> Transform:
    r"""AC/DC: alternating sparse and dense phases of training.

    .. math::
        m_t = \begin{cases} 1 & t \text{ dense} \\ \text{the largest } |w| \text{ when the phase began} &
        \text{else} \end{cases}

    In a sparse phase the masked weights and their moments are held at 0; the next dense phase trains them from there.

    Args:
      paths: as in :func:`rigged_lottery`.
      sparsity: ``sparsity(hparams)``, the share to drop.
      begin: the first sparse step, 1 or later.
      end: step from which on the masks are fixed.
      every: steps per phase; see :func:`recjax.prune.in_dense_phase`.

    Returns:
      :class:`Transform`; its state is ``{path: bool}``, the masks.

    Published:
      Phases of 5 of 100 epochs after 10 of warm-up; the last 15 are sparse.

    Storage:
      1 bit per entry and the kept entries, if smaller: :func:`recjax.prune.sparsify_if_smaller`.

    Examples:
      >>> params = {"tables": {"item": jnp.array([[1.0, 2.0, 3.0, 4.0]])}}
      >>> acdc = alternating_pruning(["item"], sparsity=lambda hparams: 0.5, begin=1, end=9, every=2)
      >>> learned, state = acdc.init(jax.random.key(0), params, {})
      >>> state = acdc.update(params, learned, state, None, jnp.array(0), {})
      >>> print(acdc.restart(params, (), state, jnp.array(0))[0]["tables"]["item"])
      [[0. 0. 3. 4.]]

    References:
      Peste et al., `AC/DC <https://arxiv.org/abs/2106.12379>`_, 2021, section 3, algorithm 1.
    """

    def init(key: jax.Array, params: Params, hparams: Any) -> tuple[tuple, Masks]:
        return (), {path: jnp.ones(leaf.shape, bool) for path, leaf in _weights(params, paths).items()}

    def apply(params: Params, learned: tuple, state: Masks, hparams: Any) -> Params:
        return with_masks(params, state)

    def update(params: Params, learned: tuple, state: Masks, grads: Any, step: jax.Array, hparams: Any) -> Masks:
        before, after = (prune.in_dense_phase(at, begin=begin, end=end, every=every) for at in (step, step + 1))

        def refresh(_: Masks) -> Masks:
            share = sparsity(hparams)
            return {path: prune.mask_smallest(leaf, share) for path, leaf in _weights(params, paths).items()}

        return jax.lax.cond(before & ~after, refresh, lambda kept: jax.tree.map(lambda keep: keep | after, kept), state)

    def restart(params: Params, moments: Any, state: Masks, step: jax.Array) -> tuple[Params, Any]:
        return _zeroed(params, moments, {path: ~keep for path, keep in state.items()})

    return Transform(init, apply, update, restart)


class Ticket(NamedTuple):
    """State of :func:`lottery_ticket`.

    Attributes:
      keep: ``{path: bool}``, the masks.
      start: the initial parameters.
    """

    keep: Masks
    start: Params


def lottery_ticket(paths: Sequence[str], *, share: HparamFn, every: int, rounds: int = 30) -> Transform:
    r"""Lottery tickets: iterative magnitude pruning, with all weights rewound after each round.

    .. math::
        s(t) = 1 - (1 - p)^r, \qquad r = \min(\lfloor t / n \rfloor, R), \qquad \theta_{r n} := \theta_0.

    A pruned weight stays pruned. Rewinding resets all parameters to their initial values and the optimizer's moments to
    0, but not its step counter, and so not the learning rate schedule.

    Args:
      paths: as in :func:`rigged_lottery`; no other parameter may be trained by rows either, as all are rewound.
      share: ``share(hparams)``, the share :math:`p` of the remaining weights to prune per round.
      every: steps per round :math:`n`.
      rounds: number of pruning rounds :math:`R`.

    Returns:
      :class:`Transform`; the masks are ``state.keep``.

    Published:
      20% per round for a small MLP.

    Storage:
      1 bit per entry and the kept entries, if smaller: :func:`recjax.prune.sparsify_if_smaller`. In training, a second
      copy of the parameters.

    Examples:
      >>> params = {"tables": {"item": jnp.array([[1.0, 2.0, 3.0, 4.0]])}}
      >>> ticket = lottery_ticket(["item"], share=lambda hparams: 0.5, every=1)
      >>> learned, state = ticket.init(jax.random.key(0), params, {})
      >>> trained = {"tables": {"item": jnp.array([[5.0, 0.1, 7.0, 0.2]])}}
      >>> state = ticket.update(trained, learned, state, None, jnp.array(0), {})
      >>> rewound, _ = ticket.restart(trained, (), state, jnp.array(0))
      >>> print(ticket.apply(rewound, learned, state, {})["tables"]["item"].rows(None))
      [[1. 0. 3. 0.]]

    References:
      Frankle & Carbin, `The Lottery Ticket Hypothesis <https://arxiv.org/abs/1803.03635>`_, 2019, section 1.
    """

    def due(step: jax.Array) -> jax.Array:
        return prune.starts_round(step + 1, every=every, rounds=rounds)

    def init(key: jax.Array, params: Params, hparams: Any) -> tuple[tuple, Ticket]:
        keep = {path: jnp.ones(leaf.shape, bool) for path, leaf in _weights(params, paths).items()}
        return (), Ticket(keep, jax.tree.map(jnp.copy, params))

    def apply(params: Params, learned: tuple, state: Ticket, hparams: Any) -> Params:
        return with_masks(params, state.keep)

    def update(params: Params, learned: tuple, state: Ticket, grads: Any, step: jax.Array, hparams: Any) -> Ticket:
        def refresh(state: Ticket) -> Ticket:
            dropped = prune.iterative_sparsity(step + 1, every=every, share=share(hparams), rounds=rounds)
            left = {path: jnp.where(state.keep[path], leaf, 0) for path, leaf in _weights(params, paths).items()}
            return state._replace(keep={path: prune.mask_smallest(leaf, dropped) for path, leaf in left.items()})

        return jax.lax.cond(due(step), refresh, lambda kept: kept, state)

    def restart(params: Params, moments: Any, state: Ticket, step: jax.Array) -> tuple[Params, Any]:
        if jax.tree.structure(params) != jax.tree.structure(state.start):
            raise ValueError(
                "params: expected all arrays to be trained densely, got some trained by rows or not trained"
            )

        def rewind(old: tuple[Params, Any]) -> tuple[Params, Any]:
            everything = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
            return state.start, prune.reset_moments(old[1], everything)

        return jax.lax.cond(due(step), rewind, lambda old: old, (params, moments))

    return Transform(init, apply, update, restart)
