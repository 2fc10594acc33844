"""The compression transform and the composition of transforms."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Params = dict[str, Any]
HparamFn = Callable[[Any], jax.typing.ArrayLike]  # of (hparams)
ScheduleFn = Callable[[Any, jax.Array], jax.typing.ArrayLike]  # of (hparams, step)


def no_restart(params: Params, moments: Any, state: Any, step: jax.Array) -> tuple[Params, Any]:
    """The restart of a transform that resets nothing."""
    return params, moments


class Transform(NamedTuple):
    """A compression as pure functions.

    Attributes:
      init: ``init(key, params, hparams) -> (learned, state)``; only ``learned`` is trained, with the parameters.
      apply: ``apply(params, learned, state, hparams) -> params`` with compressed arrays or records; called inside the
        loss.
      update: ``update(params, learned, state, grads, step, hparams) -> state`` on the uncompressed ``params``, with
        ``grads`` of ``(params, learned)``. All members share ``step``, so a :func:`jax.lax.cond` on it stays a branch
        under :func:`jax.vmap`.
      restart: ``restart(params, moments, state, step) -> (params, moments)``, called after ``update`` with its state
        and the same ``step``: resets weights and the optimizer's moments of ``(params, learned)``. Tables trained by
        rows are None in ``params``.
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., Params]
    update: Callable[..., Any]
    restart: Callable[..., tuple[Params, Any]] = no_restart


def no_state(params: Params, learned: Any, state: tuple, grads: Any, step: jax.Array, hparams: Any) -> tuple:
    """The update of a transform without state."""
    return ()


def stateless(apply: Callable[..., Params]) -> Transform:
    """A transform without learned parameters and state."""

    def init(key: jax.Array, params: Params, hparams: Any) -> tuple[tuple, tuple]:
        return (), ()

    return Transform(init, apply, no_state)


def chain(*transforms: Transform) -> Transform:
    """Composition of transforms, applied in order.

    ``chain(magnitude_pruning(...), row_quantization(...))`` prunes first and quantizes the kept entries, which alone
    determine the scales. ``chain()`` is the identity.

    Args:
      *transforms: any number of transforms.

    Returns:
      :class:`Transform`; its ``learned`` and ``state`` are tuples with one entry per transform.

    Examples:
      >>> import jax.numpy as jnp
      >>> from recjax import embed
      >>> from recjax.compress import magnitude_pruning, row_quantization
      >>> params = {"tables": {"item": jnp.array([[0.1, 1.0, -0.5, 0.0]])}}
      >>> compression = chain(
      ...     magnitude_pruning(["item"], sparsity=lambda hparams, step: hparams["sparsity"]),
      ...     row_quantization(["item"], bits=lambda hparams: hparams["bits"]),
      ... )
      >>> hparams = {"sparsity": 0.5, "bits": 2.0}
      >>> learned, state = compression.init(jax.random.key(0), params, hparams)
      >>> state = compression.update(params, learned, state, None, jnp.array(0), hparams)
      >>> embed.lookup(compression.apply(params, learned, state, hparams)["tables"]["item"]).tolist()
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

    def restart(params: Params, moments: Any, state: tuple, step: jax.Array) -> tuple[Params, Any]:
        for transform, kept in zip(transforms, state, strict=True):
            params, moments = transform.restart(params, moments, kept, step)
        return params, moments

    return Transform(init, apply, update, restart)
