"""Sparsity schedules."""

import jax
import jax.numpy as jnp


def _progress(step: jax.typing.ArrayLike, begin: jax.typing.ArrayLike, end: jax.typing.ArrayLike) -> jax.Array:
    """From 0 at ``begin`` to 1 at ``end``; a step function if they are equal."""
    step, begin, end = (jnp.asarray(x, jnp.float32) for x in (step, begin, end))
    elapsed, span = step - begin, end - begin
    at_once = (elapsed >= 0).astype(jnp.float32)
    return jnp.where(span > 0, jnp.clip(elapsed / jnp.where(span > 0, span, 1), 0, 1), at_once)


def cubic_sparsity(
    step: jax.typing.ArrayLike,
    *,
    begin: jax.typing.ArrayLike,
    end: jax.typing.ArrayLike,
    final: jax.typing.ArrayLike,
) -> jax.Array:
    r"""Cubic sparsity schedule from 0 at ``begin`` to ``final`` at ``end``: fast first, then slower.

    .. math::
        s(t) = s_f \left(1 - (1 - p)^3\right), \qquad
        p = \mathrm{clip}\left(\frac{t - t_0}{t_1 - t_0}, 0, 1\right).

    Args:
      step: ``[...]`` step :math:`t`.
      begin: scalar :math:`t_0`, the last step without pruning.
      end: scalar :math:`t_1 \ge t_0`, the first step at the final sparsity; if equal, all is pruned at this step.
      final: scalar :math:`s_f`.

    Returns:
      ``[...]`` float32.

    Examples:
      >>> print(cubic_sparsity(jnp.array([0, 10, 15, 20, 99]), begin=10, end=20, final=0.8))
      [0.  0.  0.7 0.8 0.8]

    References:
      Zhu & Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_, 2017, section 3, equation 1 with
      initial sparsity 0.
    """
    left = 1 - _progress(step, begin, end)
    return jnp.asarray(final, jnp.float32) * (1 - left * left * left)


def one_shot_sparsity(
    step: jax.typing.ArrayLike, *, at: jax.typing.ArrayLike, final: jax.typing.ArrayLike
) -> jax.Array:
    r"""One-shot sparsity schedule.

    .. math::
        s(t) = s_f\,[t \ge t_0].

    Args:
      step: ``[...]`` step :math:`t`.
      at: scalar :math:`t_0`, the first step with pruning.
      final: scalar :math:`s_f`.

    Returns:
      ``[...]`` float32.

    Examples:
      >>> print(one_shot_sparsity(jnp.array([9, 10]), at=10, final=0.5))
      [0.  0.5]

    References:
      Han et al., `Learning both Weights and Connections <https://arxiv.org/abs/1506.02626>`_, 2015, section 3.
    """
    return jnp.where(jnp.asarray(step) >= jnp.asarray(at), jnp.asarray(final, jnp.float32), 0)


def cosine_sparsity(
    step: jax.typing.ArrayLike,
    *,
    begin: jax.typing.ArrayLike,
    end: jax.typing.ArrayLike,
    final: jax.typing.ArrayLike,
) -> jax.Array:
    r"""Cosine sparsity schedule from 0 at ``begin`` to ``final`` at ``end``.

    .. math::
        s(t) = \frac{s_f}{2} (1 - \cos \pi p), \qquad
        p = \mathrm{clip}\left(\frac{t - t_0}{t_1 - t_0}, 0, 1\right).

    Args:
      step: ``[...]`` step :math:`t`.
      begin: as in :func:`cubic_sparsity`.
      end: as in :func:`cubic_sparsity`.
      final: as in :func:`cubic_sparsity`.

    Returns:
      ``[...]`` float32.

    Examples:
      >>> print(cosine_sparsity(jnp.array([0, 15, 99]), begin=10, end=20, final=0.8))
      [0.  0.4 0.8]

    References:
      Loshchilov & Hutter, `SGDR <https://arxiv.org/abs/1608.03983>`_, 2017, equation 5 (half a period of a cosine).
    """
    return jnp.asarray(final, jnp.float32) * (1 - jnp.cos(jnp.pi * _progress(step, begin, end))) / 2


def iterative_sparsity(
    step: jax.typing.ArrayLike,
    *,
    every: jax.typing.ArrayLike,
    share: jax.typing.ArrayLike = 0.1,
    rounds: jax.typing.ArrayLike = 30,
) -> jax.Array:
    r"""Iterative sparsity schedule: each round prunes a share of the remaining weights.

    .. math::
        s(t) = 1 - (1 - p)^r, \qquad r = \min(\lfloor t / n \rfloor, R).

    For lottery tickets, rewind the remaining weights at each :func:`starts_round`.

    Args:
      step: ``[...]`` int step :math:`t`.
      every: int scalar :math:`n > 0`, steps per round.
      share: scalar :math:`p`.
      rounds: int scalar :math:`R`, number of pruning rounds.

    Returns:
      ``[...]`` float32.

    Published:
      Share .1, 30 rounds.

    Examples:
      >>> print(iterative_sparsity(jnp.array([0, 9, 10, 25, 99]), every=10, share=0.5, rounds=3))
      [0.    0.    0.5   0.75  0.875]

    References:
      Frankle & Carbin, `The Lottery Ticket Hypothesis <https://arxiv.org/abs/1803.03635>`_, 2019, section 1.
    """
    taken = jnp.minimum(jnp.asarray(step) // jnp.asarray(every), jnp.asarray(rounds))
    return 1 - (1 - jnp.asarray(share, jnp.float32)) ** taken.astype(jnp.float32)


def starts_round(
    step: jax.typing.ArrayLike, *, every: jax.typing.ArrayLike, rounds: jax.typing.ArrayLike = 30
) -> jax.Array:
    r"""Whether a step begins a round of :func:`iterative_sparsity`: the time to prune and rewind.

    .. math::
        t \bmod \text{every} = 0 \quad \text{and} \quad 1 \le \frac{t}{\text{every}} \le \text{rounds}

    Args:
      step: ``[...]`` int step :math:`t`.
      every: as in :func:`iterative_sparsity`.
      rounds: as in :func:`iterative_sparsity`.

    Returns:
      ``[...]`` bool.

    Published:
      30 rounds.

    Examples:
      >>> print(starts_round(jnp.array([0, 5, 10, 20, 30]), every=10, rounds=2))
      [False False  True  True False]

    References:
      Frankle & Carbin, `The Lottery Ticket Hypothesis <https://arxiv.org/abs/1803.03635>`_, 2019, section 1.
    """
    done, rest = jnp.divmod(jnp.asarray(step), jnp.asarray(every))
    return (rest == 0) & (done >= 1) & (done <= jnp.asarray(rounds))
