"""Pruning by trained thresholds (PEP) and trained scores (movement pruning)."""

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
    r"""Pruning of tables by trained thresholds (PEP).

    .. math::
        e_{ij} = \mathrm{sign}(x_{ij}) \max(|x_{ij}| - \sigma(t_{ij}), 0)

    The sparsity depends on the initial thresholds and the length of training. The paper then retrains the non-zero
    entries from their initial values, with a mask such as :class:`recjax.embed.Masked`.

    Args:
      tables: names in ``params["tables"]``.
      initial: ``initial(hparams)``, scalar, the start of the logits :math:`t`.
      each_row: whether each row has its own thresholds. Static.
      each_dim: whether each dimension has; with both each entry, with neither one for the table. Static.

    Returns:
      A :class:`Transform` that learns ``{table: [rows or 1, dim or 1]}``, the logits, and gives
      :class:`recjax.embed.LearnedThreshold` records; no state.

    Knobs:
      ``initial`` (traced), ``tables``, ``each_row``, ``each_dim`` (static). Published: -150 on Criteo, -15 on
      MovieLens-1M.

    Storage:
      A bit per entry and the entries that are left, where that is smaller: :func:`recjax.prune.sparsify_if_smaller`.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> params = {"tables": {"item": jnp.array([[0.75, -4.0], [0.25, 1.0]])}}
      >>> plan = learned_thresholds(["item"], initial=lambda hparams: hparams["start"], each_row=True)
      >>> learned, state = plan.init(jax.random.key(0), params, {"start": 0.0})
      >>> learned["item"].shape
      (2, 1)
      >>> print(embed.lookup(plan.apply(params, learned, state, {})["tables"]["item"]))
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
    r"""Pruning by trained scores (movement pruning): weights that move towards zero are pruned.

    .. math::
        y = m \odot w, \qquad \frac{\partial \ell}{\partial s} := \frac{\partial \ell}{\partial y} \odot w

    with the mask :math:`m` of the highest scores.

    Args:
      paths: names in ``params["tables"]``, or keys to any other array, ``"net/hidden_0/kernel"``; each keeps exactly
        its own share.
      sparsity: ``sparsity(hparams, step)``, the share to drop at a step, such as :func:`recjax.prune.cubic_sparsity`.
      every: steps between two refreshes of the masks.

    Returns:
      A :class:`Transform` that learns ``{path: scores}`` of the arrays' shapes, from 0; its state is ``{path: bool}``,
      the masks. Tables become :class:`recjax.embed.Scored` records.

    Knobs:
      ``sparsity`` (traced), ``paths``, ``every`` (static). Published: the cubic schedule, Adam at 1e-2 for the scores.

    Storage:
      A bit per entry and the kept entries, where that is smaller: :func:`recjax.prune.sparsify_if_smaller`; the scores not at all.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> params = {"tables": {}, "net": {"kernel": jnp.array([[0.1, -2.0]])}}
      >>> plan = movement_pruning(["net/kernel"], sparsity=lambda hparams, step: hparams["sparsity"])
      >>> _, state = plan.init(jax.random.key(0), params, {"sparsity": 0.5})
      >>> scores = {"net/kernel": jnp.array([[0.3, -0.1]])}  # after some training
      >>> state = plan.update(params, scores, state, None, jnp.array(0), {"sparsity": 0.5})
      >>> print(plan.apply(params, scores, state, {})["net"]["kernel"] != 0)
      [[ True False]]

    References:
      Sanh et al., `Movement Pruning: Adaptive Sparsity by Fine-Tuning <https://arxiv.org/abs/2005.07683>`_, 2020,
      section 4.
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
