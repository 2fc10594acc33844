"""Compression inside the training step: parameters in, effective parameters out.

A :class:`Transform` replaces tables by records of :mod:`recjax.embed`; :func:`chain` composes transforms as optax
composes optimizers. Knobs come from the member's hyperparameters, so one compiled program trains every setting.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recjax import embed, prune

Params = dict[str, Any]
Knob = Callable[[Any], jax.typing.ArrayLike]
Schedule = Callable[[Any, jax.Array], jax.typing.ArrayLike]


class Transform(NamedTuple):
    """A compression as three pure functions.

    Attributes:
      init: ``init(key, params, hparams) -> (learned, state)``; ``learned`` trains with the parameters, ``state``
        doesn't.
      apply: ``apply(params, learned, state, hparams) -> params`` of records or arrays; called inside the loss.
      update: ``update(params, learned, state, grads, step, hparams) -> state``; ``params`` are the raw ones. ``step``
        is one number for all members, so a decision on it stays a branch under :func:`jax.vmap`.
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., Params]
    update: Callable[..., Any]


def chain(*transforms: Transform) -> Transform:
    """Transforms one after the other; the first is the innermost.

    ``chain(magnitude_pruning(...), row_quantization(...))`` prunes first and quantizes what is left, so scales are
    those of the kept entries and pruned entries stay exactly zero. ``chain()`` leaves the parameters as they are.

    Args:
      *transforms: any number of transforms.

    Returns:
      The transform that applies all of them; its ``learned`` and ``state`` are tuples, one entry a transform.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from recjax import embed
      >>> params = {"tables": {"item": jnp.array([[0.1, 1.0, -0.5, 0.0]])}}
      >>> plan = chain(
      ...     magnitude_pruning(["item"], sparsity=lambda hparams, step: hparams["sparsity"]),
      ...     row_quantization(["item"], bits=lambda hparams: hparams["bits"]),
      ... )
      >>> hparams = {"sparsity": 0.5, "bits": 2.0}
      >>> learned, state = plan.init(jax.random.key(0), params, hparams)
      >>> state = plan.update(params, learned, state, None, jnp.array(0), hparams)
      >>> embed.lookup(plan.apply(params, learned, state, hparams)["tables"]["item"]).tolist()
      [[0.0, 1.0, 0.0, 0.0]]
    """

    def init(key: jax.Array, params: Params, hparams: Any) -> tuple[tuple, tuple]:
        keys = jax.random.split(key, max(len(transforms), 1))
        pairs = [t.init(k, params, hparams) for t, k in zip(transforms, keys, strict=False)]
        return tuple(learned for learned, _ in pairs), tuple(state for _, state in pairs)

    def apply(params: Params, learned: tuple, state: tuple, hparams: Any) -> Params:
        for transform, own, kept in zip(transforms, learned, state, strict=True):
            params = transform.apply(params, own, kept, hparams)
        return params

    def update(params: Params, learned: tuple, state: tuple, grads: Any, step: jax.Array, hparams: Any) -> tuple:
        return tuple(
            transform.update(params, own, kept, grads, step, hparams)
            for transform, own, kept in zip(transforms, learned, state, strict=True)
        )

    return Transform(init, apply, update)


def _with_tables(params: Params, records: dict[str, Any]) -> Params:
    return {**params, "tables": {**params["tables"], **records}}


def magnitude_pruning(tables: Sequence[str], *, sparsity: Schedule, every: int = 1) -> Transform:
    """Unstructured magnitude pruning of tables: the smallest entries of each table read as zero.

    The dense entries go on training behind the mask (their gradient passes straight through), so while the mask is
    still refreshed an entry can come back.

    Args:
      tables: names in ``params["tables"]``; each keeps exactly its own share.
      sparsity: ``sparsity(hparams, step)``, the share to drop at a step, such as
        :func:`recjax.prune.cubic_sparsity`.
      every: steps between two refreshes of the masks.

    Returns:
      A :class:`Transform`; its state is ``{table: [rows, dim] bool}``.

    References:
      Zhu and Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_, 2017, section 3.
    """

    def init(key: jax.Array, params: Params, hparams: Any) -> tuple[tuple, dict[str, jax.Array]]:
        return (), {name: jnp.ones_like(params["tables"][name], dtype=bool) for name in tables}

    def apply(params: Params, learned: tuple, state: dict[str, jax.Array], hparams: Any) -> Params:
        return _with_tables(params, {name: embed.Masked(params["tables"][name], keep) for name, keep in state.items()})

    def update(params: Params, learned: tuple, state: dict, grads: Any, step: jax.Array, hparams: Any) -> dict:
        def refresh(_: dict) -> dict:
            share = sparsity(hparams, step)
            return {name: prune.mask_smallest(params["tables"][name], share) for name in tables}

        return jax.lax.cond(step % every == 0, refresh, lambda kept: kept, state)

    return Transform(init, apply, update)


def row_quantization(tables: Sequence[str], *, bits: Knob) -> Transform:
    """Quantization-aware training of tables: every row reads as it will after packing.

    Args:
      tables: names in ``params["tables"]``.
      bits: ``bits(hparams)``, scalar; 16 and more leaves the table as it is.

    Returns:
      A :class:`Transform` with nothing to learn and no state.

    References:
      Jacob et al., `Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference
      <https://arxiv.org/abs/1712.05877>`_, 2018, section 3.
    """

    def init(key: jax.Array, params: Params, hparams: Any) -> tuple[tuple, tuple]:
        return (), ()

    def apply(params: Params, learned: tuple, state: tuple, hparams: Any) -> Params:
        width = jnp.asarray(bits(hparams), jnp.float32)
        return _with_tables(params, {name: embed.FakeQuantized(params["tables"][name], width) for name in tables})

    def update(params: Params, learned: tuple, state: tuple, grads: Any, step: jax.Array, hparams: Any) -> tuple:
        return ()

    return Transform(init, apply, update)
