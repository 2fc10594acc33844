"""Pruning by learned thresholds (PEP) and learned scores (movement pruning)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from recjax import embed, prune
from recjax.compress._chain import HparamFn, Params, ScheduleFn, Transform, no_state
from recjax.compress._paths import path_keys, with_tables
from recjax.trees import read, write

Leaves = dict[str, jax.Array]


def learned_thresholds(
    tables: Sequence[str], *, initial: HparamFn, each_row: bool = False, each_dim: bool = False
) -> Transform:
    r"""PEP: pruning of tables by learned thresholds.

    .. math::
        e_{ij} = \mathrm{sign}(x_{ij}) \max(|x_{ij}| - \sigma(t_{ij}), 0)

    The sparsity depends on the initial thresholds and the length of training. The paper then retrains the non-zero
    entries from their initial values, with a mask such as :class:`recjax.embed.Masked`.

    Args:
      tables: names in ``params["tables"]``.
      initial: ``initial(hparams)``, the initial logits :math:`t`, a scalar.
      each_row: whether each row has its own thresholds.
      each_dim: whether each dimension has its own thresholds.

    Returns:
      :class:`Transform` that learns the logits, ``{table: [rows or 1, dim or 1]}``.

    Published:
      Initial logits of -150 on Criteo and -15 on MovieLens-1M.

    Storage:
      1 bit per entry and the kept entries, if smaller: :func:`recjax.prune.sparsify_if_smaller`.

    Examples:
      >>> params = {"tables": {"item": jnp.array([[0.75, -4.0], [0.25, 1.0]])}}
      >>> pep = learned_thresholds(["item"], initial=lambda hparams: 0.0, each_row=True)
      >>> learned, state = pep.init(jax.random.key(0), params, {})
      >>> print(embed.lookup(pep.apply(params, learned, state, {})["tables"]["item"]))
      [[ 0.25 -3.5 ]
       [ 0.    0.5 ]]

    References:
      Liu et al., `Learnable Embedding Sizes for Recommender Systems <https://arxiv.org/abs/2101.07577>`_, 2021,
      sections 3.2 and 3.3.
    """

    def init(key: jax.Array, params: Params, hparams: Any) -> tuple[Leaves, tuple]:
        start, shapes = (
            jnp.asarray(initial(hparams), jnp.float32),
            {name: params["tables"][name].shape for name in tables},
        )
        return {
            name: jnp.full((rows if each_row else 1, dim if each_dim else 1), start)
            for name, (rows, dim) in shapes.items()
        }, ()

    def apply(params: Params, learned: Leaves, state: tuple, hparams: Any) -> Params:
        below = params["tables"]
        records = {name: embed.LearnedThreshold(below[name], logits) for name, logits in learned.items()}
        return with_tables(params, records)

    return Transform(init, apply, no_state)


def movement_pruning(paths: Sequence[str], *, sparsity: ScheduleFn, every: int = 1) -> Transform:
    r"""Movement pruning: pruning by learned scores, which drops weights that move towards zero.

    .. math::
        y = m \odot w, \qquad \frac{\partial \ell}{\partial s} := \frac{\partial \ell}{\partial y} \odot w

    with the mask :math:`m` of the highest scores.

    Args:
      paths: as in :func:`magnitude_pruning`.
      sparsity: ``sparsity(hparams, step)``, the share to drop, such as :func:`recjax.prune.cubic_sparsity`.
      every: steps between two updates of the masks.

    Returns:
      :class:`Transform` that learns the scores, ``{path: [...]}``, from 0; its state is ``{path: bool}``, the masks.

    Published:
      The cubic schedule, and Adam at 1e-2 for the scores.

    Storage:
      1 bit per entry and the kept entries, if smaller: :func:`recjax.prune.sparsify_if_smaller`.

    Examples:
      >>> params = {"tables": {}, "net": {"kernel": jnp.array([[0.1, -2.0]])}}
      >>> movement = movement_pruning(["net/kernel"], sparsity=lambda hparams, step: 0.5)
      >>> _, state = movement.init(jax.random.key(0), params, {})
      >>> scores = {"net/kernel": jnp.array([[0.3, -0.1]])}  # after some training
      >>> state = movement.update(params, scores, state, None, jnp.array(0), {})
      >>> print(movement.apply(params, scores, state, {})["net"]["kernel"] != 0)
      [[ True False]]

    References:
      Sanh et al., `Movement Pruning <https://arxiv.org/abs/2005.07683>`_, 2020, section 4.
    """

    def init(key: jax.Array, params: Params, hparams: Any) -> tuple[Leaves, Leaves]:
        leaves = {path: read(params, path_keys(path)) for path in paths}
        scores = {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
        return scores, {path: jnp.ones(leaf.shape, bool) for path, leaf in leaves.items()}

    def apply(params: Params, learned: Leaves, state: Leaves, hparams: Any) -> Params:
        for path, keep in state.items():
            keys = path_keys(path)
            make = embed.Scored if keys[0] == "tables" else prune.score_masked
            params = write(params, keys, make(read(params, keys), learned[path], keep))
        return params

    def update(params: Params, learned: Leaves, state: Leaves, grads: Any, step: jax.Array, hparams: Any) -> Leaves:
        def refresh(_: Leaves) -> Leaves:
            share = sparsity(hparams, step)
            return {path: prune.mask_lowest(scores, share) for path, scores in learned.items()}

        return jax.lax.cond(step % every == 0, refresh, lambda kept: kept, state)

    return Transform(init, apply, update)
