"""Pruning of tables and kernels by masks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from recjax import embed, prune, quantize
from recjax.compress._chain import Params, ScheduleFn, Transform
from recjax.compress._paths import path_keys
from recjax.trees import Keys, read, write

Masks = dict[str, jax.Array]


def masked(params: Params, keys: Keys, keep: jax.Array) -> Params:
    """The parameters with one array masked: tables as records, others as arrays."""
    leaf = read(params, keys)
    if keys[0] == "tables":
        return write(params, keys, embed.Masked(leaf, keep))
    return write(params, keys, quantize.straight_through(leaf, jnp.where(keep | jnp.isnan(leaf), leaf, 0)))


def with_masks(params: Params, masks: Masks) -> Params:
    """The parameters with the arrays of ``{path: keep}`` masked."""
    for path, keep in masks.items():
        params = masked(params, path_keys(path), keep)
    return params


def _pruning(paths: Sequence[str], masks: Callable[[Masks, Any, jax.Array], Masks], every: int) -> Transform:
    """A transform with masks of ``{path: weights}``, updated every ``every`` steps; masked weights still train."""

    def weights(params: Params) -> Masks:
        return {path: read(params, path_keys(path)) for path in paths}

    def init(key: jax.Array, params: Params, hparams: Any) -> tuple[tuple, Masks]:
        return (), {path: jnp.ones_like(leaf, dtype=bool) for path, leaf in weights(params).items()}

    def apply(params: Params, learned: tuple, state: Masks, hparams: Any) -> Params:
        return with_masks(params, state)

    def update(params: Params, learned: tuple, state: Masks, grads: Any, step: jax.Array, hparams: Any) -> Masks:
        def refresh(_: Masks) -> Masks:
            return masks(weights(params), hparams, step)

        return jax.lax.cond(step % every == 0, refresh, lambda kept: kept, state)

    return Transform(init, apply, update)


def magnitude_pruning(paths: Sequence[str], *, sparsity: ScheduleFn, every: int = 1) -> Transform:
    r"""Unstructured magnitude pruning per array: the smallest entries read as zero.

    .. math::
        y = w \odot [|w| > \tau_t], \qquad \tau_t \text{ drops the share sparsity}(t) \text{ of each array}

    Masked entries are still trained, by straight-through gradients, so an entry can return at the next update.

    Args:
      paths: names in ``params["tables"]``, or paths of other arrays such as ``"net/hidden_0/kernel"``. Each array has
        the same sparsity.
      sparsity: ``sparsity(hparams, step)``, the share to drop, such as :func:`recjax.prune.cubic_sparsity`.
      every: steps between two updates of the masks.

    Returns:
      :class:`Transform`; its state is ``{path: bool}``, the masks.

    Storage:
      1 bit per entry and the kept entries, if smaller: :func:`recjax.prune.sparsify_if_smaller`.

    Examples:
      >>> params = {"tables": {}, "net": {"kernel": jnp.array([[0.1, -2.0]])}}
      >>> pruning = magnitude_pruning(["net/kernel"], sparsity=lambda hparams, step: 0.5)
      >>> learned, state = pruning.init(jax.random.key(0), params, {})
      >>> state = pruning.update(params, learned, state, None, jnp.array(0), {})
      >>> print(pruning.apply(params, learned, state, {})["net"]["kernel"])
      [[ 0. -2.]]

    References:
      Zhu & Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_, 2017, section 3.
    """

    def masks(weights: Masks, hparams: Any, step: jax.Array) -> Masks:
        share = sparsity(hparams, step)
        return {path: prune.mask_smallest(leaf, share) for path, leaf in weights.items()}

    return _pruning(paths, masks, every)


def global_magnitude_pruning(paths: Sequence[str], *, sparsity: ScheduleFn, every: int = 1) -> Transform:
    r"""Unstructured magnitude pruning with one threshold for all arrays, each normalized by its norm.

    .. math::
        y_l = w_l \odot \left[\frac{|w_l|}{\lVert w_l \rVert_2} > \tau_t\right], \qquad \tau_t \text{ drops the
        share sparsity}(t) \text{ of all}

    Args:
      paths: as in :func:`magnitude_pruning`. An array may lose all entries.
      sparsity: ``sparsity(hparams, step)``, the share of all entries to drop.
      every: steps between two updates of the masks.

    Returns:
      :class:`Transform`; its state is ``{path: bool}``, the masks.

    Storage:
      1 bit per entry and the kept entries, if smaller: :func:`recjax.prune.sparsify_if_smaller`.

    References:
      Lee et al., `JaxPruner <https://arxiv.org/abs/2304.14082>`_, 2023, section 3.3.
    """

    def masks(weights: Masks, hparams: Any, step: jax.Array) -> Masks:
        scores = prune.normalized_magnitude(list(weights.values()))
        kept = prune.mask_smallest_globally(scores, sparsity(hparams, step))
        return dict(zip(weights, kept, strict=True))

    return _pruning(paths, masks, every)


def n_of_m_pruning(paths: Sequence[str], *, n: ScheduleFn, m: int, axis: int = 0, every: int = 1) -> Transform:
    r"""N:M pruning: of every ``m`` neighbors the ``n`` largest are kept.

    .. math::
        y_i = w_i \left[\#\{j \in G(i) : |w_j| > |w_i|\} < n\right], \qquad |G(i)| = m

    Args:
      paths: as in :func:`magnitude_pruning`.
      n: ``n(hparams, step)``, entries kept per group.
      m: size of a group.
      axis: axis of the neighbors; 0 is the one that a kernel ``[in, out]`` sums over.
      every: steps between two updates of the masks.

    Returns:
      :class:`Transform`; its state is ``{path: bool}``, the masks.

    Published:
      2 of 4 in hardware.

    Storage:
      1 bit per entry and the kept entries, if smaller: :func:`recjax.prune.sparsify_if_smaller`.

    References:
      Zhou et al., `Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch
      <https://arxiv.org/abs/2102.04010>`_, 2021, section 3, with straight-through gradients.
    """

    def masks(weights: Masks, hparams: Any, step: jax.Array) -> Masks:
        kept = n(hparams, step)
        return {path: prune.mask_n_of_m(leaf, kept, m=m, axis=axis) for path, leaf in weights.items()}

    return _pruning(paths, masks, every)


def top_k_pruning(tables: Sequence[str], *, k: ScheduleFn, every: int = 1) -> Transform:
    r"""Per-row top-k pruning of tables: the ``k`` largest entries of each row are kept.

    .. math::
        y_{ij} = w_{ij} \left[|w_{ij}| \text{ is among the } k(t) \text{ largest of row } i\right]

    Gradients pass straight through, as in :func:`magnitude_pruning`; in the paper a pruned entry never returns.

    Args:
      tables: names in ``params["tables"]``.
      k: ``k(hparams, step)``, entries kept per row, rounded down.
      every: steps between two updates of the masks.

    Returns:
      :class:`Transform`; its state is ``{table: bool}``, the masks.

    Published:
      8 to 128 of 4,096, halved every 10 epochs.

    Storage:
      As :class:`recjax.embed.IndexedRows` with values of ``bits`` bits: ``rows * (ceil(k * ceil(log2 dim) / 8) + ceil(k
      * bits / 8) + 2)`` bytes.

    Examples:
      >>> params = {"tables": {"item": jnp.array([[0.1, -2.0, 1.0], [3.0, 0.2, 0.1]])}}
      >>> pruning = top_k_pruning(["item"], k=lambda hparams, step: 1)
      >>> _, state = pruning.init(jax.random.key(0), params, {})
      >>> state = pruning.update(params, (), state, None, jnp.array(0), {})
      >>> table = embed.lookup(pruning.apply(params, (), state, {})["tables"]["item"])
      >>> embed.quantized(embed.indexed_rows(table, nnz=1), bits=4).nbytes
      8

    References:
      Vančura et al., `Efficient Learning of Sparse Representations from Interactions
      <https://arxiv.org/abs/2602.09935>`_, 2026.
    """

    def masks(weights: Masks, hparams: Any, step: jax.Array) -> Masks:
        count = k(hparams, step)
        return {name: prune.mask_top_k(table, count, axis=0) for name, table in weights.items()}

    return _pruning(tables, masks, every)


def structured_pruning(couplings: Mapping[str, prune.Coupling], *, sparsity: ScheduleFn, every: int = 1) -> Transform:
    r"""Structured pruning: units, heads, dimensions or rows read as zero in all coupled arrays.

    .. math::
        y_e = w_e \prod_{j : e \in G_j} [S_j \text{ is among those kept}]

    After training, :func:`recjax.prune.shrink` removes the masked structures from the parameters.

    Args:
      couplings: ``{name: Coupling}``, the structures. Each coupling has the same sparsity.
      sparsity: ``sparsity(hparams, step)``, the share of structures to drop.
      every: steps between two updates of the masks.

    Returns:
      :class:`Transform`; its state is ``{name: [structures] bool}``, the masks.

    Storage:
      The kept structures only.

    References:
      Fang et al., `DepGraph <https://arxiv.org/abs/2301.12900>`_, 2023, section 3.
    """
    reached = dict.fromkeys(part.path for coupling in couplings.values() for part in coupling.axes)

    def init(key: jax.Array, params: Params, hparams: Any) -> tuple[tuple, dict[str, jax.Array]]:
        scores = prune.coupled_scores(params, couplings)
        return (), {name: jnp.ones_like(values, dtype=bool) for name, values in scores.items()}

    def apply(params: Params, learned: tuple, state: dict[str, jax.Array], hparams: Any) -> Params:
        ones: Any = {}
        for path in reached:
            ones = write(ones, path, jnp.ones(read(params, path).shape, bool))
        keep = prune.mask_coupled(ones, state, couplings)
        for path in reached:
            params = masked(params, path, read(keep, path))
        return params

    def update(
        params: Params, learned: tuple, state: dict[str, jax.Array], grads: Any, step: jax.Array, hparams: Any
    ) -> dict[str, jax.Array]:
        def refresh(_: dict[str, jax.Array]) -> dict[str, jax.Array]:
            share = sparsity(hparams, step)
            scores = prune.coupled_scores(params, couplings)
            return {name: prune.mask_smallest(values, share) for name, values in scores.items()}

        return jax.lax.cond(step % every == 0, refresh, lambda kept: kept, state)

    return Transform(init, apply, update)
