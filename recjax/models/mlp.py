"""The multilayer perceptron."""

import dataclasses
from collections.abc import Mapping
from typing import cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from recjax.models.contract import Batch, CTRModel, Params
from recjax.models.dropout import drop


@dataclasses.dataclass(frozen=True)
class Mlp:
    """Sizes of :func:`mlp`.

    Attributes:
      widths: input features, units of each hidden layer, outputs; at least two numbers.
    """

    widths: tuple[int, ...]

    def __post_init__(self):
        if len(self.widths) < 2 or any(width < 1 for width in self.widths):
            raise ValueError(f"widths: expected (inputs, hidden..., outputs), all at least 1, got {self.widths}")


class _Net(nn.Module):
    widths: tuple[int, ...]  # without the inputs

    @nn.compact
    def __call__(
        self, x: jax.Array, key: jax.Array | None, dropout: jax.typing.ArrayLike
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        hidden = {}
        for layer, width in enumerate(self.widths[:-1]):
            name = f"hidden_{layer}"
            x = hidden[name] = nn.relu(nn.Dense(width, name=name)(x))
            x = drop(x, key, layer, dropout)
        return nn.Dense(self.widths[-1], name="output")(x), hidden


def mlp(config: Mlp) -> CTRModel:
    r"""A multilayer perceptron with ReLU.

    With the inputs :math:`h_0` and :math:`L` layers,

    .. math::
        h_l = \max(0, h_{l-1} W_l + b_l), \quad l = 1 \dots L - 1, \qquad \mathrm{logit} = h_{L-1} W_L + b_L.

    Kernels are LeCun normal (truncated, variance 1 / fan-in), biases 0. Dropout is on the hidden layers.

    Args:
      config: the widths.

    Returns:
      A :class:`~recjax.models.contract.CTRModel` without tables. ``params["net"]`` is ``{"hidden_0": {"kernel",
      "bias"}, ..., "output": {...}}``; a batch is ``{"inputs": [batch, features]}``; ``logit(params, batch, key=None,
      *, dropout=0.0)`` is ``[batch, outputs]``; the rate in [0, 1) may be traced, is not checked and is rounded to a
      multiple of 2^-16. ``hidden_activations`` are the hidden layers after ReLU, before dropout.

    Raises:
      ValueError: by ``logit`` and ``hidden_activations``, if the inputs are not ``[batch, widths[0]]``.

    Examples:
      >>> student = mlp(Mlp(widths=(10, 32, 10)))
      >>> params = jax.jit(student.init)(jax.random.key(0))
      >>> batch = {"inputs": jnp.ones((4, 10))}
      >>> {name: value.shape for name, value in student.hidden_activations(params, batch).items()}
      {'hidden_0': (4, 32)}
      >>> student.logit(params, batch, jax.random.key(1), dropout=0.5).shape
      (4, 10)

    References:
      Rumelhart et al., *Learning representations by back-propagating errors*, Nature 323, 1986; Nair and Hinton,
      *Rectified Linear Units Improve Restricted Boltzmann Machines*, ICML 2010; Srivastava et al., *Dropout: A Simple
      Way to Prevent Neural Networks from Overfitting*, JMLR 15, 2014.
    """
    net = _Net(config.widths[1:])

    def init(key: jax.Array) -> Params:
        params = net.init(key, jnp.zeros((1, config.widths[0])), None, 0.0)["params"]
        return {"tables": {}, "net": params, "fixed": {}, "auxiliary": {}}

    def apply(
        params: Params, batch: Batch, key: jax.Array | None = None, dropout: jax.typing.ArrayLike = 0.0
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        inputs = batch["inputs"]
        if inputs.ndim != 2 or inputs.shape[1] != config.widths[0]:
            raise ValueError(f"inputs: expected shape [batch, {config.widths[0]}], got {inputs.shape}")
        # the return type of apply allows for mutable variables, which this net doesn't have
        return cast(tuple[jax.Array, dict[str, jax.Array]], net.apply({"params": params["net"]}, inputs, key, dropout))

    def logit(
        params: Params, batch: Batch, key: jax.Array | None = None, *, dropout: jax.typing.ArrayLike = 0.0
    ) -> jax.Array:
        return apply(params, batch, key, dropout)[0]

    def hidden_activations(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return apply(params, batch)[1]

    def touched(batch: Mapping[str, jax.Array]) -> None:
        del batch

    return CTRModel(init=init, logit=logit, hidden_activations=hidden_activations, touched=touched)
