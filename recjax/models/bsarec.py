"""BSARec: self-attention with a frequency filter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from recjax.models.contract import Batch, Params, RetrievalModel
from recjax.models.dropout import drop
from recjax.models.history import Attention, causal, check_history, flat, merged, retrieval, split

EPSILON = 1e-12  # of each LayerNorm, as in the authors' code


@dataclasses.dataclass(frozen=True)
class BsaRec(Attention):
    """Hyperparameters of :func:`bsarec`, beside those of :class:`~recjax.models.history.Attention`.

    Attributes:
      alpha: weight of the frequency filter, in [0, 1]; attention has the rest.
      cutoff: the filter treats the lowest ``cutoff // 2 + 1`` frequencies as low.
    """

    alpha: float = 0.7
    cutoff: int = 5


class _Net(nn.Module):
    config: BsaRec

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        known: jax.Array,
        age: jax.Array | None,
        key: jax.Array | None,
        dropout: jax.typing.ArrayLike,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        config, length, hidden = self.config, self.config.length, {}
        given = x.shape[1]
        missing = length - given  # the filter spans all positions, padding too
        x = jnp.pad(x, ((0, 0), (missing, 0), (0, 0)))
        known = jnp.pad(known, ((0, 0), (missing, 0)))
        small = nn.initializers.normal(0.02)
        # added to the scores, as in the authors' code: a padding position attends to all positions
        masked = jnp.where(causal(known), 0.0, -10000.0)[:, None]
        low_pass = jnp.asarray(_low_pass(length, config.cutoff), x.dtype)

        def norm(name: str, x: jax.Array) -> jax.Array:
            return nn.LayerNorm(epsilon=EPSILON, name=name)(x)

        def dense(name: str, x: jax.Array, width: int = config.dim) -> jax.Array:
            return nn.Dense(width, kernel_init=small, name=name)(x)

        x = norm("input_norm", flat(x + self.param("position", small, (length, config.dim))[None]))
        x = drop(x, key, 0, dropout)
        for block in range(config.blocks):
            beta = jnp.square(self.param(f"beta_{block}", nn.initializers.normal(1.0), (config.dim,)))[None]
            low = flat(jnp.einsum("ts,bsd->btd", low_pass, x.reshape(-1, length, config.dim)))
            filtered = drop(low + beta * (x - low), key, 4 * block + 1, dropout)
            filtered = norm(f"filter_norm_{block}", filtered + x)
            k = nn.Dense(config.dim, use_bias=False, kernel_init=small, name=f"key_{block}")(x)
            q, k, v = (
                split(part, length, config.heads)
                for part in (dense(f"query_{block}", x), k, dense(f"value_{block}", x))
            )
            scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * (config.dim / config.heads) ** -0.5
            weights = drop(jax.nn.softmax(scores + masked), key, 4 * block + 2, dropout)
            mixed = dense(f"output_{block}", merged(jnp.einsum("bhqk,bkhd->bqhd", weights, v)))
            attended = norm(f"attention_norm_{block}", drop(mixed, key, 4 * block + 3, dropout) + x)
            x = config.alpha * filtered + (1 - config.alpha) * attended
            inner = nn.gelu(dense(f"inner_{block}", x, 4 * config.dim), approximate=False)
            outer = drop(dense(f"outer_{block}", inner), key, 4 * block + 4, dropout)
            x = norm(f"perceptron_norm_{block}", outer + x)
            hidden[f"block_{block}"] = x.reshape(-1, length, config.dim)[:, missing:]
        return x.reshape(-1, length, config.dim)[:, missing:], hidden


def _low_pass(length: int, cutoff: int) -> np.ndarray:
    """``[length, length]``, the matrix that keeps the lowest ``cutoff // 2 + 1`` frequencies of a sequence."""
    spectrum = np.fft.rfft(np.eye(length), axis=0, norm="ortho")
    spectrum[cutoff // 2 + 1 :] = 0
    return np.fft.irfft(spectrum, n=length, axis=0, norm="ortho")


def bsarec(config: BsaRec) -> RetrievalModel:
    r"""BSARec: self-attention and a frequency filter, side by side in each block.

    With item vectors :math:`m` and position vectors :math:`p`, :math:`x = \mathrm{LN}(m_s + p)`, and in each block

    .. math::
        f = \mathrm{LN}(L x + \beta^2 \odot (x - L x) + x), \qquad
        a = \mathrm{LN}(\mathrm{attention}(x) + x), \qquad
        o = \alpha f + (1 - \alpha) a, \qquad
        x \leftarrow \mathrm{LN}(\mathrm{GELU}(o W_1 + b_1) W_2 + b_2 + o),

    where :math:`L` keeps the low frequencies over ``config.length`` positions and attention is causal.

    The filter is not causal, so ``queries`` runs one window per position and costs ``length`` times as much as
    ``query``; training on (prefix, next item) pairs needs ``query`` only. Padding is 0 (in the authors' code a vector
    at its initial value).

    Returns:
      A :class:`~recjax.models.contract.RetrievalModel` of histories; see :func:`~recjax.models.history.retrieval` for
      batches, ``dropout`` and errors. ``hidden_activations`` are the block outputs at the latest item, ``block_0
      [batch, dim]`` and so on.

    Examples:
      >>> model = bsarec(BsaRec(items=5, length=4, dim=8))
      >>> params = jax.jit(model.init)(jax.random.key(0))
      >>> batch = {"history": jnp.array([[-1, -1, 3, 0], [0, 1, 2, 4]])}
      >>> (jax.jit(model.query)(params, batch) @ model.items(params).T).shape
      (2, 5)

    References:
      Shin et al., `An Attentive Inductive Bias for Sequential Recommendation beyond the Self-Attention
      <https://arxiv.org/abs/2312.10325>`_, AAAI 2024, section 4.
    """
    model = retrieval(config, _Net(config))

    def queries(
        params: Params, batch: Batch, key: jax.Array | None = None, *, dropout: jax.typing.ArrayLike = 0.0
    ) -> jax.Array:
        history = jnp.asarray(batch["history"])
        check_history(history, config)
        length = history.shape[1]
        source = np.arange(length)[:, None] - np.arange(length)[::-1]  # row t is the window that ends at position t
        windows = jnp.where((source >= 0)[None], history[:, np.maximum(source, 0)], -1)
        found = model.query(params, {"history": windows.reshape(-1, length)}, key, dropout=dropout)
        return found.reshape(-1, length, config.dim)

    return model._replace(queries=queries)
