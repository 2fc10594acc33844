"""GRU4Rec: gated recurrent units over a history."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from recjax.models.contract import RetrievalModel
from recjax.models.dropout import drop
from recjax.models.history import History, retrieval


@dataclasses.dataclass(frozen=True)
class Gru4Rec(History):
    """Hyperparameters of :func:`gru4rec`, beside those of :class:`~recjax.models.history.History`.

    Attributes:
      hidden: units per layer.
      layers: number of layers.
    """

    hidden: int = 128
    layers: int = 1


class _Net(nn.Module):
    dim: int
    hidden: int
    layers: int

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        known: jax.Array,
        age: jax.Array | None,
        key: jax.Array | None,
        dropout: jax.typing.ArrayLike,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        hidden = {}
        for layer in range(self.layers):
            x = drop(x, key, layer, dropout)
            given = nn.Dense(3 * self.hidden, name=f"input_{layer}")(x)  # for all items at once
            kernel = self.param(f"state_{layer}", nn.initializers.orthogonal(), (self.hidden, 3 * self.hidden))
            bias = self.param(f"candidate_bias_{layer}", nn.initializers.zeros, (self.hidden,))

            def step(
                state: jax.Array, now: tuple[jax.Array, jax.Array], kernel: jax.Array = kernel, bias: jax.Array = bias
            ) -> tuple[jax.Array, jax.Array]:
                given, known = now
                (r, z, n), (kept_r, kept_z, kept_n) = (jnp.split(part, 3, axis=-1) for part in (given, state @ kernel))
                reset, update = nn.sigmoid(r + kept_r), nn.sigmoid(z + kept_z)
                candidate = jnp.tanh(n + reset * (kept_n + bias[None]))
                state = jnp.where(known[:, None], (1 - update) * candidate + update * state, state)
                return state, state

            start = jnp.zeros((x.shape[0], self.hidden), given.dtype)
            _, states = jax.lax.scan(step, start, (jnp.swapaxes(given, 0, 1), known.T))
            x = hidden[f"layer_{layer}"] = jnp.swapaxes(states, 0, 1)
        return nn.Dense(self.dim, name="output")(x), hidden


def gru4rec(config: Gru4Rec) -> RetrievalModel:
    r"""GRU4Rec: a recurrent network over a history.

    With the item vectors :math:`x_t` and the state :math:`h_t`, initially 0,

    .. math::
        r = \sigma(x_t W_r + b_r + h_{t-1} U_r), \quad z = \sigma(x_t W_z + b_z + h_{t-1} U_z), \quad
        n = \tanh(x_t W_n + b_n + r \odot (h_{t-1} U_n + c)), \quad
        h_t = (1 - z) \odot n + z \odot h_{t-1}.

    The reset gate comes after the product with :math:`U_n`, as in cuDNN and PyTorch (before it in the paper). The query
    after an item is :math:`h_t W + b` of the last layer. Input and output embeddings are tied; the paper has one-hot
    inputs and an output matrix. Dropout is on the input of each layer.

    Returns:
      A :class:`~recjax.models.contract.RetrievalModel` of histories; see :func:`~recjax.models.history.retrieval` for
      batches, ``dropout`` and errors. ``hidden_activations`` are the states after the latest item, ``layer_0 [batch,
      hidden]`` and so on.

    Examples:
      >>> model = gru4rec(Gru4Rec(items=5, length=4, dim=8, hidden=6))
      >>> params = jax.jit(model.init)(jax.random.key(0))
      >>> batch = {"history": jnp.array([[-1, -1, 3, 0], [0, 1, 2, 4]])}
      >>> (jax.jit(model.query)(params, batch) @ model.items(params).T).shape
      (2, 5)

    References:
      Hidasi et al., `Session-based Recommendations with Recurrent Neural Networks
      <https://arxiv.org/abs/1511.06939>`_, ICLR 2016, section 3.
    """
    return retrieval(config, _Net(config.dim, config.hidden, config.layers))
