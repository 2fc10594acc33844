"""FinalMLP: two gated multilayer perceptrons, fused by a bilinear form."""

import dataclasses

import jax
import jax.numpy as jnp

from recjax.models.contract import Batch, CTRModel, Params
from recjax.models.dropout import drop
from recjax.models.fields import Fields, feature_table, touched_rows, vectors
from recjax.models.mlp import Mlp, mlp

STREAMS = (0, 1)


@dataclasses.dataclass(frozen=True)
class FinalMlp:
    """Hyperparameters of :func:`finalmlp`, beside its fields.

    Attributes:
      hidden: units of the layers of each stream.
      gate: units of the hidden layers of each gate.
      context: positions of the fields that each gate reads, such as the user's for one and the item's for the other; a
        gate without fields reads a learned vector, the same for all examples.
      heads: number of parts into which the streams' outputs are split for the bilinear form.
    """

    hidden: tuple[tuple[int, ...], tuple[int, ...]] = ((400, 400, 400), (400, 400, 400))
    gate: tuple[int, ...] = (400,)
    context: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    heads: int = 1

    def __post_init__(self):
        if not all(self.hidden) or self.heads < 1 or any(units[-1] % self.heads for units in self.hidden):
            raise ValueError(f"hidden: expected last units divisible by heads, got {self}")


def finalmlp(config: Fields, shape: FinalMlp = FinalMlp()) -> CTRModel:
    r"""FinalMLP: two multilayer perceptrons over gated field embeddings.

    With the concatenated embeddings :math:`e = [v_{f_1}; \dots; v_{f_m}]` and the gate inputs :math:`x_i`, the
    embeddings of the fields ``shape.context``, for each stream :math:`i \in \{1, 2\}`

    .. math::
        h_i = 2 \sigma(\mathrm{Gate}_i(x_i)) \odot e, \qquad o_i = \mathrm{MLP}_i(h_i), \qquad
        \mathrm{logit} = b + w_1^\top o_1 + w_2^\top o_2 + \sum_{k = 1}^{K} o_{1, k}^\top W_k o_{2, k},

    where :math:`o_{i, k}` is the k-th of :math:`K` equal parts of :math:`o_i`. A gate is a perceptron without dropout;
    the last layer of a stream has ReLU and dropout too.

    Args:
      config: sizes of the fields.
      shape: sizes of the streams and gates; see :class:`FinalMlp`.

    Returns:
      A :class:`~recjax.models.contract.CTRModel` with the table ``feature [features, dim]``; ``net`` has ``gate_0``,
      ``gate_1``, ``stream_0`` and ``stream_1``, each as of :func:`~recjax.models.mlp.mlp`, ``context_0`` and
      ``context_1`` as ``[dim]`` for gates without fields, and ``fusion`` as ``{"bilinear": [heads, units / heads,
      units / heads], "linear_0": [units, 1], "linear_1": [units, 1], "bias": [1]}``. ``logit(params, batch, key=None,
      *, dropout=0.0)`` is ``[batch, 1]``; ``hidden_activations`` has ``embedding [batch, fields * dim]`` and the layers
      ``stream_0_hidden_0``, ..., ``stream_0_output``, after ReLU and before dropout.

    Raises:
      ValueError: if a context has a field that doesn't exist.

    Examples:
      >>> shape = FinalMlp(hidden=((8, 6), (4,)), gate=(5,), context=((0,), (1,)), heads=2)
      >>> model = finalmlp(Fields(features=5, fields=2, dim=4), shape)
      >>> params = jax.jit(model.init)(jax.random.key(0))
      >>> batch = {"fields": jnp.array([[0, 3], [1, 4], [1, 2]])}
      >>> model.logit(params, batch).shape
      (3, 1)

    References:
      Mao et al., `FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction <https://arxiv.org/abs/2304.00902>`_,
      AAAI 2023, the sections on stream-specific feature selection and on stream-level interaction aggregation.
    """
    if any(not 0 <= field < config.fields for fields in shape.context for field in fields):
        raise ValueError(f"context: expected fields in 0..{config.fields - 1}, got {shape.context}")
    streams = [mlp(Mlp(widths=(config.width, *units))) for units in shape.hidden]
    gates = [mlp(Mlp(widths=(max(1, len(fields)) * config.dim, *shape.gate, config.width))) for fields in shape.context]
    normal = jax.nn.initializers.lecun_normal()  # as in mlp

    def init(key: jax.Array) -> Params:
        table, *keys = jax.random.split(key, 10)
        net = {}
        for i in STREAMS:
            net[f"stream_{i}"], net[f"gate_{i}"] = streams[i].init(keys[i])["net"], gates[i].init(keys[2 + i])["net"]
            if not shape.context[i]:  # not zeros, which would leave the gate's first layer without a gradient
                net[f"context_{i}"] = config.scale * jax.random.normal(keys[4 + i], (config.dim,))
        one, two = (units[-1] for units in shape.hidden)
        parts = one // shape.heads, two // shape.heads
        net["fusion"] = {
            # LeCun: variance 1 / number of summed products
            "bilinear": jax.random.normal(keys[6], (shape.heads, *parts)) * (one * parts[1]) ** -0.5,
            "linear_0": normal(keys[7], (one, 1)),
            "linear_1": normal(keys[8], (two, 1)),
            "bias": jnp.zeros(1),
        }
        return {"tables": {"feature": feature_table(config, table)}, "net": net, "fixed": {}, "auxiliary": {}}

    def inputs(params: Params, batch: Batch) -> tuple[jax.Array, list[dict[str, jax.Array]]]:
        """The concatenated embeddings, and the input of each stream."""
        apart, net = vectors(config, params, batch), params["net"]
        flat = apart.reshape(-1, config.width)

        def gated(i: int) -> dict[str, jax.Array]:
            fields = list(shape.context[i])
            seen = apart[:, fields].reshape(len(apart), -1) if fields else net[f"context_{i}"][None]
            gate = gates[i].logit({"net": net[f"gate_{i}"]}, {"inputs": seen})
            return {"inputs": flat * jnp.broadcast_to(2 * jax.nn.sigmoid(gate), flat.shape)}

        return flat, [gated(i) for i in STREAMS]

    def end(params: Params, i: int, given: Batch, key: jax.Array | None, dropout: jax.typing.ArrayLike) -> jax.Array:
        """``[batch, units]``, the output of a stream."""
        key = None if key is None else jax.random.fold_in(key, i)
        units = jax.nn.relu(streams[i].logit({"net": params["net"][f"stream_{i}"]}, given, key, dropout=dropout))
        return drop(units, key, len(shape.hidden[i]) - 1, dropout)

    def logit(
        params: Params, batch: Batch, key: jax.Array | None = None, *, dropout: jax.typing.ArrayLike = 0.0
    ) -> jax.Array:
        given, fusion = inputs(params, batch)[1], params["net"]["fusion"]
        one, two = (end(params, i, given[i], key, dropout) for i in STREAMS)
        first, second = (units.reshape(len(units), shape.heads, -1) for units in (one, two))
        met = jnp.einsum("bhx,hxy->bhy", first, fusion["bilinear"]) * second
        return (
            met.sum(axis=(1, 2))[:, None] + one @ fusion["linear_0"] + two @ fusion["linear_1"] + fusion["bias"][None]
        )

    def hidden_activations(params: Params, batch: Batch) -> dict[str, jax.Array]:
        flat, given = inputs(params, batch)
        found = {"embedding": flat}
        for i in STREAMS:
            hidden = streams[i].hidden_activations({"net": params["net"][f"stream_{i}"]}, given[i])
            found |= {f"stream_{i}_{name}": units for name, units in hidden.items()}
            found[f"stream_{i}_output"] = end(params, i, given[i], None, 0.0)
        return found

    return CTRModel(init, logit, hidden_activations, touched_rows(config, "feature"))
