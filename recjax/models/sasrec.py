"""SASRec: causal self-attention over a history."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from recjax.models.contract import RetrievalModel
from recjax.models.dropout import drop
from recjax.models.history import Attention, causal, flat, merged, retrieval, split


@dataclasses.dataclass(frozen=True)
class SasRec(Attention):
    """Hyperparameters of :func:`sasrec`, those of :class:`~recjax.models.history.Attention`."""


class _Net(nn.Module):
    length: int
    dim: int
    blocks: int
    heads: int

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        known: jax.Array,
        age: jax.Array | None,
        key: jax.Array | None,
        dropout: jax.typing.ArrayLike,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        place = self.param("position", nn.initializers.normal(0.02), (self.length, self.dim))
        length, seen, hidden = x.shape[1], causal(known)[:, None], {}
        x = flat(drop(x * self.dim**0.5 + place[None, self.length - length :], key, 0, dropout))
        for block in range(self.blocks):
            h = nn.LayerNorm(name=f"attention_norm_{block}")(x)
            q, k, v = (
                split(nn.Dense(self.dim, use_bias=False, name=f"{name}_{block}")(h), length, self.heads)
                for name in ("query", "key", "value")
            )
            scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * (self.dim / self.heads) ** -0.5
            weights = jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(scores.dtype).min / 2))
            x = x + drop(merged(jnp.einsum("bhqk,bkhd->bqhd", weights, v)), key, 2 * block + 1, dropout)
            h = nn.LayerNorm(name=f"perceptron_norm_{block}")(x)
            inner = self.get_variable("params", f"inner_{block}")  # None during init; pruning may have shrunk it
            width = self.dim if inner is None else inner["bias"].shape[0]
            h = nn.relu(nn.Dense(width, name=f"inner_{block}")(h))
            x = x + drop(nn.Dense(self.dim, name=f"outer_{block}")(h), key, 2 * block + 2, dropout)
            hidden[f"block_{block}"] = x.reshape(-1, length, self.dim)
        return nn.LayerNorm(name="norm")(x).reshape(-1, length, self.dim), hidden


def sasrec(config: SasRec) -> RetrievalModel:
    r"""SASRec: causal self-attention over a history.

    With item vectors :math:`m` and position vectors :math:`p`, counted from the latest item,
    :math:`x_t = \sqrt{d}\,m_{s_t} + p_t`, and in each block

    .. math::
        x \leftarrow x + \mathrm{softmax}\left(\frac{h W_Q (h W_K)^\top}{\sqrt{d}}\right) h W_V,
        \quad h = \mathrm{LN}(x), \qquad
        x \leftarrow x + \max(0, h' W_1 + b_1) W_2 + b_2, \quad h' = \mathrm{LN}(x).

    The query after an item is :math:`\mathrm{LN}(x_t)`; this normalization and the factor :math:`\sqrt{d}` are from the
    authors' code. Dropout is on :math:`x_t` and on both terms that a block adds. The inner layer may have fewer than
    :math:`d` units, after :func:`recjax.prune.shrink`.

    Returns:
      A :class:`~recjax.models.contract.RetrievalModel` of histories; see :func:`~recjax.models.history.retrieval` for
      batches, ``dropout`` and errors. ``hidden_activations`` are the block outputs at the latest item, ``block_0
      [batch, dim]`` and so on.

    Examples:
      >>> model = sasrec(SasRec(items=5, length=4, dim=8))
      >>> params = jax.jit(model.init)(jax.random.key(0))
      >>> batch = {"history": jnp.array([[-1, -1, 3, 0], [0, 1, 2, 4]])}
      >>> (jax.jit(model.query)(params, batch) @ model.items(params).T).shape
      (2, 5)
      >>> jax.eval_shape(model.queries, params, batch, jax.random.key(1), dropout=0.5).shape
      (2, 4, 8)

    References:
      Kang and McAuley, `Self-Attentive Sequential Recommendation <https://arxiv.org/abs/1808.09781>`_, ICDM 2018,
      section III.
    """
    return retrieval(config, _Net(config.length, config.dim, config.blocks, config.heads))
