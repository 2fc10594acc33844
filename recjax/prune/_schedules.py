"""How much is pruned at which step."""

import jax
import jax.numpy as jnp


def cubic_sparsity(
    step: jax.typing.ArrayLike,
    *,
    begin: jax.typing.ArrayLike,
    end: jax.typing.ArrayLike,
    final: jax.typing.ArrayLike,
) -> jax.Array:
    r"""The sparsity at a step: from 0 at ``begin`` to ``final`` at ``end``, fast at first and then ever slower.

    .. math::
        s(t) = s_f \left(1 - (1 - p)^3\right), \qquad
        p = \mathrm{clip}\left(\frac{t - t_0}{t_1 - t_0}, 0, 1\right).

    Most weights go while many are superfluous, and the last few one at a time. With ``end == begin`` all go at once,
    at step ``begin``.

    Args:
      step: scalar or ``[...]``, the step :math:`t`. May be traced.
      begin: scalar, the last step with nothing pruned :math:`t_0`. May be traced; not checked.
      end: scalar ``>= begin``, the first step at the final sparsity :math:`t_1`. May be traced; not checked.
      final: scalar, the final sparsity :math:`s_f`. May be traced; not checked.

    Returns:
      ``[...]`` float32, the sparsity.

    Examples:
      >>> import jax.numpy as jnp
      >>> steps = jnp.array([0, 10, 15, 20, 99])
      >>> print(cubic_sparsity(steps, begin=10, end=20, final=0.8))
      [0.  0.  0.7 0.8 0.8]
      >>> print(cubic_sparsity(steps, begin=15, end=15, final=0.8))
      [0.  0.  0.8 0.8 0.8]

    References:
      Zhu & Gupta, `To prune, or not to prune: exploring the efficacy of pruning for model compression
      <https://arxiv.org/abs/1710.01878>`_, 2017, section 3, equation 1 with initial sparsity 0.
    """
    step, begin, end = (jnp.asarray(x, jnp.float32) for x in (step, begin, end))
    elapsed, span = step - begin, end - begin
    at_once = (elapsed >= 0).astype(jnp.float32)
    progress = jnp.where(span > 0, jnp.clip(elapsed / jnp.where(span > 0, span, 1), 0, 1), at_once)
    left = 1 - progress
    return jnp.asarray(final, jnp.float32) * (1 - left * left * left)
