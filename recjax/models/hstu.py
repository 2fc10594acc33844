"""HSTU: attention without a softmax, with biases of relative position and time."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from recjax.models.contract import RetrievalModel
from recjax.models.dropout import drop
from recjax.models.history import Attention, causal, flat, merged, retrieval, split


@dataclasses.dataclass(frozen=True)
class Hstu(Attention):
    """Hyperparameters of :func:`hstu`, beside those of :class:`~recjax.models.history.Attention`.

    Attributes:
      time_buckets: number of buckets of the time between two items: below 2 units, 4, 8 and so on, the last one
        open-ended. 0 ignores times.
    """

    time_buckets: int = 0


class _Net(nn.Module):
    length: int
    dim: int
    blocks: int
    heads: int
    time_buckets: int

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        known: jax.Array,
        age: jax.Array | None,
        key: jax.Array | None,
        dropout: jax.typing.ArrayLike,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        small = nn.initializers.normal(0.02)
        length, seen, hidden = x.shape[1], causal(known)[:, None], {}
        places = jnp.arange(length)
        apart = jnp.maximum(places[:, None] - places[None], 0)  # relative positions
        x = flat(drop(x * self.dim**0.5, key, 0, dropout))
        for block in range(self.blocks):
            bias = self.param(f"position_bias_{block}", small, (self.length,))[apart][None, None]
            if self.time_buckets:
                weights = self.param(f"time_bias_{block}", small, (self.time_buckets,))
                bias = bias + weights[_buckets(age, self.time_buckets)][:, None]
            h = nn.LayerNorm(name=f"norm_{block}")(x)
            gate, v, q, k = jnp.split(
                nn.silu(nn.Dense(4 * self.dim, use_bias=False, name=f"project_{block}")(h)), 4, axis=-1
            )
            v, q, k = (split(part, length, self.heads) for part in (v, q, k))
            scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias
            weights = jnp.where(seen, nn.silu(scores), 0) / self.length
            mixed = merged(jnp.einsum("bhqk,bkhd->bqhd", weights, v))
            mixed = drop(nn.LayerNorm(name=f"mixed_norm_{block}")(mixed) * gate, key, block + 1, dropout)
            x = x + nn.Dense(self.dim, name=f"output_{block}")(mixed)
            hidden[f"block_{block}"] = x.reshape(-1, length, self.dim)
        return nn.LayerNorm(name="norm")(x).reshape(-1, length, self.dim), hidden


def _buckets(age: jax.Array | None, count: int) -> jax.Array:
    """``[batch, length, length]``, the bucket of the time from each item (last axis) to each later one."""
    if age is None:
        raise ValueError('batch["age"]: expected the time of each item before the latest one, got none')
    apart = age[:, None, :] - age[:, :, None]
    return jnp.minimum(jnp.frexp(jnp.maximum(apart, 1))[1] - 1, count - 1)


def hstu(config: Hstu) -> RetrievalModel:
    r"""HSTU: attention without softmax, which keeps the frequency and strength of interactions.

    With the item vectors times :math:`\sqrt{d}` as :math:`x`, in each block

    .. math::
        [u, v, q, k] = \mathrm{SiLU}(\mathrm{LN}(x) W_1), \qquad
        a = \mathrm{SiLU}(q k^\top + b) / L, \qquad
        x \leftarrow x + (\mathrm{LN}(a v) \odot u) W_2 + c,

    where attention is causal, :math:`b` is a learned bias per relative position plus, with ``time_buckets``, one per
    relative time, and :math:`L` is ``config.length``. The query after an item is :math:`\mathrm{LN}(x)`. Dropout is on
    the first :math:`x` and on the input of :math:`W_2`. The factor :math:`\sqrt{d}`, the residual sum, the first
    normalization and the division by :math:`L` are from the authors' code.

    Returns:
      A :class:`~recjax.models.contract.RetrievalModel` of histories; see :func:`~recjax.models.history.retrieval` for
      batches, ``dropout`` and errors. With ``time_buckets`` a batch needs ``age [batch, length]`` too, from
      :class:`recjax.data.Windows`. ``hidden_activations`` are the block outputs at the latest item, ``block_0 [batch,
      dim]`` and so on.

    Examples:
      >>> model = hstu(Hstu(items=5, length=4, dim=8, time_buckets=16))
      >>> params = jax.jit(model.init)(jax.random.key(0))
      >>> history, age = jnp.array([[-1, -1, 3, 0], [0, 1, 2, 4]]), jnp.array([[0.0, 0, 60, 0], [3600, 30, 20, 0]])
      >>> batch = {"history": history, "age": age}
      >>> (jax.jit(model.query)(params, batch) @ model.items(params).T).shape
      (2, 5)

    References:
      Zhai et al., `Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
      Recommendations <https://arxiv.org/abs/2402.17152>`_, ICML 2024, section 3, equations 1 to 3.
    """
    return retrieval(config, _Net(config.length, config.dim, config.blocks, config.heads, config.time_buckets))
