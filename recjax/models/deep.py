"""Deep CTR models: a multilayer perceptron over field embeddings, alone or with further terms."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from recjax.models.contract import Batch, CTRModel, Params
from recjax.models.fields import Fields, feature_table, linear, pairs, touched_rows, vectors, weight_table
from recjax.models.mlp import Mlp, mlp


def dnn(config: Fields, *, hidden: Sequence[int] = (400, 400, 400)) -> CTRModel:
    r"""A multilayer perceptron over the concatenated field embeddings.

    For the ids :math:`f_1 \dots f_m` of an example and their embeddings :math:`v`,

    .. math::
        \mathrm{logit} = \mathrm{MLP}([v_{f_1}; \dots; v_{f_m}]).

    Args:
      config: sizes.
      hidden: units of the hidden layers.

    Returns:
      A :class:`~recjax.models.contract.CTRModel` with the table ``feature [features, dim]`` and the ``net`` of
      :func:`~recjax.models.mlp.mlp`. ``logit(params, batch, key=None, *, dropout=0.0)`` is ``[batch, 1]``; the dropout
      rate of the hidden layers may be traced. ``hidden_activations`` has ``embedding [batch, fields * dim]`` and the
      hidden layers.

    Examples:
      >>> model = dnn(Fields(features=5, fields=2, dim=4), hidden=(8, 6))
      >>> params = jax.jit(model.init)(jax.random.key(0))
      >>> batch = {"fields": jnp.array([[0, 3], [1, 4], [1, 2]])}
      >>> model.logit(params, batch, jax.random.key(1), dropout=0.2).shape
      (3, 1)
      >>> {name: value.shape for name, value in model.hidden_activations(params, batch).items()}
      {'embedding': (3, 8), 'hidden_0': (3, 8), 'hidden_1': (3, 6)}

    References:
      Covington, Adams and Sargin, *Deep Neural Networks for YouTube Recommendations*, RecSys 2016, section 4.
    """
    net = mlp(Mlp(widths=(config.width, *hidden, 1)))

    def init(key: jax.Array) -> Params:
        table, dense = jax.random.split(key)
        return {**net.init(dense), "tables": {"feature": feature_table(config, table)}}

    def inputs(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {"inputs": vectors(config, params, batch).reshape(-1, config.width)}

    def logit(
        params: Params, batch: Batch, key: jax.Array | None = None, *, dropout: jax.typing.ArrayLike = 0.0
    ) -> jax.Array:
        return net.logit(params, inputs(params, batch), key, dropout=dropout)

    def hidden_activations(params: Params, batch: Batch) -> dict[str, jax.Array]:
        given = inputs(params, batch)
        return {"embedding": given["inputs"], **net.hidden_activations(params, given)}

    return CTRModel(init, logit, hidden_activations, touched_rows(config, "feature"))


def wide_and_deep(config: Fields, *, hidden: Sequence[int] = (400, 400, 400)) -> CTRModel:
    r"""Wide & Deep: a linear term plus a multilayer perceptron, trained jointly.

    .. math::
        \mathrm{logit} = \sum_j w_{f_j} + \mathrm{MLP}([v_{f_1}; \dots; v_{f_m}]).

    As :func:`dnn`, with one more table, ``feature_weight [features, 1]``. Crossed features must be given as further
    fields.

    References:
      Cheng et al., `Wide & Deep Learning for Recommender Systems <https://arxiv.org/abs/1606.07792>`_, DLRS 2016,
      equation 3.
    """
    return _beside(config, dnn(config, hidden=hidden), lambda params, batch: linear(config, params, batch))


def deepfm(config: Fields, *, hidden: Sequence[int] = (400, 400, 400)) -> CTRModel:
    r"""DeepFM: a factorization machine and a multilayer perceptron over the same embeddings.

    .. math::
        \mathrm{logit} = \sum_j w_{f_j} + \sum_{i < j} v_{f_i}^\top v_{f_j}
            + \mathrm{MLP}([v_{f_1}; \dots; v_{f_m}]).

    As :func:`dnn`, with one more table, ``feature_weight [features, 1]``.

    References:
      Guo et al., `DeepFM: A Factorization-Machine based Neural Network for CTR Prediction
      <https://arxiv.org/abs/1703.04247>`_, IJCAI 2017, equations 1 to 4.
    """

    def shallow(params: Params, batch: Batch) -> jax.Array:
        return linear(config, params, batch) + pairs(vectors(config, params, batch))

    return _beside(config, dnn(config, hidden=hidden), shallow)


def dcn_v2(config: Fields, *, hidden: Sequence[int] = (400, 400, 400), crosses: int = 3) -> CTRModel:
    r"""DCN-V2: ``crosses`` cross layers in parallel to a multilayer perceptron.

    With the concatenated embeddings :math:`x_0 = [v_{f_1}; \dots; v_{f_m}]` and :math:`L` cross layers,

    .. math::
        x_{l + 1} = x_0 \odot (x_l W_l + b_l) + x_l, \qquad
        \mathrm{logit} = x_L w + \mathrm{MLP}(x_0).

    This equals the paper's output layer over the concatenated outputs of both parts.

    As :func:`dnn`, with further parts of ``net``: ``cross_0``, ... as ``{"kernel": [width, width], "bias": [width]}``
    and ``cross_output`` as ``{"kernel": [width, 1]}``, where ``width = fields * dim``; ``hidden_activations`` has the
    outputs of the cross layers too.

    Examples:
      >>> model = dcn_v2(Fields(features=5, fields=2, dim=4), hidden=(8, 6), crosses=2)
      >>> params = jax.jit(model.init)(jax.random.key(0))
      >>> batch = {"fields": jnp.array([[0, 3], [1, 4], [1, 2]])}
      >>> model.logit(params, batch).shape, model.hidden_activations(params, batch)["cross_1"].shape
      ((3, 1), (3, 8))

    References:
      Wang et al., `DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank Systems
      <https://arxiv.org/abs/2008.13535>`_, WWW 2021, equations 1 to 3, the parallel structure of section 3.4.
    """
    deep = dnn(config, hidden=hidden)
    kernel = jax.nn.initializers.lecun_normal()  # as in mlp

    def init(key: jax.Array) -> Params:
        rest, output, *keys = jax.random.split(key, 2 + crosses)
        params = deep.init(rest)
        layers = {
            f"cross_{layer}": {"kernel": kernel(k, (config.width, config.width)), "bias": jnp.zeros(config.width)}
            for layer, k in enumerate(keys)
        }
        net = {**params["net"], **layers, "cross_output": {"kernel": kernel(output, (config.width, 1))}}
        return {**params, "net": net}

    def cross(params: Params, batch: Batch) -> dict[str, jax.Array]:
        first = x = vectors(config, params, batch).reshape(-1, config.width)
        ends = {}
        for name in (f"cross_{layer}" for layer in range(crosses)):
            layer = params["net"][name]
            x = ends[name] = first * (x @ layer["kernel"] + layer["bias"][None]) + x
        return ends

    def logit(
        params: Params, batch: Batch, key: jax.Array | None = None, *, dropout: jax.typing.ArrayLike = 0.0
    ) -> jax.Array:
        last = cross(params, batch)[f"cross_{crosses - 1}"]
        return last @ params["net"]["cross_output"]["kernel"] + deep.logit(params, batch, key, dropout=dropout)

    def hidden_activations(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {**deep.hidden_activations(params, batch), **cross(params, batch)}

    return CTRModel(init, logit, hidden_activations, deep.touched)


def _beside(config: Fields, deep: CTRModel, shallow: Callable[[Params, Batch], jax.Array]) -> CTRModel:
    """The sum of the logits of a deep model and of a shallow one with the table ``feature_weight``."""

    def init(key: jax.Array) -> Params:
        params = deep.init(key)
        return {**params, "tables": {**params["tables"], "feature_weight": weight_table(config)}}

    def logit(
        params: Params, batch: Batch, key: jax.Array | None = None, *, dropout: jax.typing.ArrayLike = 0.0
    ) -> jax.Array:
        return shallow(params, batch) + deep.logit(params, batch, key, dropout=dropout)

    return CTRModel(init, logit, deep.hidden_activations, touched_rows(config, "feature", "feature_weight"))
