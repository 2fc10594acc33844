"""Exact two-stage top-k selection from long lists."""

import jax
import jax.numpy as jnp

GROUP = 100  # measured at 40,000 items and k = 20: 50 to 200 differ by a tenth


def top_k(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The ``k`` highest scores of each list and their positions, exactly as :func:`jax.lax.top_k` but faster on long
    lists.

    Of equal scores the lower position comes first.

    Args:
      scores: ``[..., items]`` float without NaN. Not checked.
      k: number of scores, static, 1 to ``items``.

    Returns:
      ``[..., k]`` scores in descending order, and their ``[..., k]`` int32 positions.

    Raises:
      ValueError: if ``k`` is below 1 or above ``items``.

    Examples:
      >>> values, items = top_k(jnp.array([0.1, 0.9, 0.5, 0.9]), 3)
      >>> print(items)
      [1 3 2]
    """
    scores = jnp.asarray(scores)
    if scores.ndim == 0 or not 1 <= k <= scores.shape[-1]:
        raise ValueError(f"expected k from 1 to the number of items, got {k} for scores {scores.shape}")
    *lead, items = scores.shape
    whole = items // GROUP * GROUP
    if whole <= 4 * k * GROUP:  # the winning groups would be a large share of the list
        return jax.lax.top_k(scores, k)
    groups = scores[..., :whole].reshape(*lead, whole // GROUP, GROUP)
    _, winners = jax.lax.top_k(jnp.max(groups, axis=-1), k)
    winners = jnp.sort(winners, axis=-1)  # in the order of positions, so that ties go to the lower one
    inside = jax.lax.broadcasted_iota(jnp.int32, (*lead, k, GROUP), len(lead) + 1)
    members = (winners[..., None] * GROUP + inside).reshape(*lead, k * GROUP)
    # From the scores and not from the groups: where these are a part of the list, a gather from them would copy it.
    finalists = jnp.take_along_axis(scores, members, axis=-1, mode="promise_in_bounds")
    rest = whole + jax.lax.broadcasted_iota(jnp.int32, (*lead, items - whole), len(lead))  # in no group
    values, places = jax.lax.top_k(jnp.concatenate([finalists, scores[..., whole:]], axis=-1), k)
    return values, jnp.take_along_axis(jnp.concatenate([members, rest], axis=-1), places, axis=-1)
