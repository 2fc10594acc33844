"""Building blocks of CTR models: field embeddings and shallow terms of the logit."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from recjax import embed
from recjax.models.contract import Batch, CTRModel, Params


@dataclasses.dataclass(frozen=True)
class Fields:
    """Sizes of CTR data, as read by :func:`recjax.data.read_libfm` or :func:`recjax.data.read_rows`.

    A model's batch is ``{"fields": [batch, fields] int}``, optionally with ``"values": [batch, fields] float``, factors
    of the embeddings and weights of the fields; other shapes raise ValueError.

    Attributes:
      features: number of ids of all fields together, the rows of the tables.
      fields: number of fields; an example has one id per field.
      dim: length of an embedding.
      scale: standard deviation of the initial embeddings.
    """

    features: int
    fields: int
    dim: int = 10
    scale: float = 0.01

    def __post_init__(self):
        if min(self.features, self.fields, self.dim) < 1:
            raise ValueError(f"features, fields and dim: expected at least 1, got {self}")

    @property
    def width(self) -> int:
        """Length of the concatenated embeddings."""
        return self.fields * self.dim


def field_ids(config: Fields, batch: Batch) -> jax.Array:
    """``batch["fields"]``, checked to be ``[batch, fields]``."""
    ids = batch["fields"]
    if ids.ndim != 2 or ids.shape[1] != config.fields:
        raise ValueError(f"fields: expected shape [batch, {config.fields}], got {ids.shape}")
    return ids


def _scaled(rows: jax.Array, batch: Batch) -> jax.Array:
    """``[batch, fields, dim]``, each row times ``batch["values"]``, if there are any."""
    if "values" not in batch:
        return rows
    if batch["values"].shape != rows.shape[:2]:
        raise ValueError(f"values: expected the shape of the fields, {rows.shape[:2]}, got {batch['values'].shape}")
    return rows * batch["values"][..., None]


def vectors(config: Fields, params: Params, batch: Batch) -> jax.Array:
    """``[batch, fields, dim]``, the embeddings of an example."""
    return _scaled(embed.lookup(params["tables"]["feature"], field_ids(config, batch)), batch)


def linear(config: Fields, params: Params, batch: Batch) -> jax.Array:
    """``[batch, 1]``, the sum of the weights of an example's ids."""
    return _scaled(embed.lookup(params["tables"]["feature_weight"], field_ids(config, batch)), batch).sum(axis=1)


def pairs(x: jax.Array) -> jax.Array:
    """``[batch, 1]``, the sum of the pairwise inner products of ``[batch, fields, dim]``."""
    return (jnp.square(x.sum(axis=1)) - jnp.square(x).sum(axis=1)).sum(axis=-1, keepdims=True) / 2


def feature_table(config: Fields, key: jax.Array) -> jax.Array:
    """``[features, dim]``, the initial embeddings."""
    return config.scale * jax.random.normal(key, (config.features, config.dim))


def weight_table(config: Fields) -> jax.Array:
    """``[features, 1]``, the initial weights, 0."""
    return jnp.zeros((config.features, 1))


def touched_rows(config: Fields, *tables: str) -> Callable[[Batch], dict[str, jax.Array]]:
    """``touched`` of a model that reads the same rows of all ``tables``."""

    def touched(batch: Batch) -> dict[str, jax.Array]:
        return dict.fromkeys(tables, field_ids(config, batch).reshape(-1))

    return touched


def logistic_regression(config: Fields) -> CTRModel:
    r"""Logistic regression over categorical fields; ``dim`` and ``scale`` are not used.

    For the ids :math:`f_1 \dots f_m` of an example,

    .. math::
        \mathrm{logit} = b + \sum_j w_{f_j}.

    Returns:
      A :class:`~recjax.models.contract.CTRModel` with the table ``feature_weight [features, 1]`` and ``net["bias"]
      [1]``, initially 0. ``logit`` is ``[batch, 1]``; ``hidden_activations`` is empty.

    Examples:
      >>> model = logistic_regression(Fields(features=5, fields=2))
      >>> params = model.init(jax.random.key(0))
      >>> model.logit(params, {"fields": jnp.array([[0, 3], [1, 4]])}).tolist()
      [[0.0], [0.0]]

    References:
      Richardson et al., *Predicting Clicks: Estimating the Click-Through Rate for New Ads*, WWW 2007, section 4.
    """

    def init(key: jax.Array) -> Params:
        del key  # initially 0
        tables = {"feature_weight": weight_table(config)}
        return {"tables": tables, "net": {"bias": jnp.zeros(1)}, "fixed": {}, "auxiliary": {}}

    def logit(params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        return linear(config, params, batch) + params["net"]["bias"][None]

    def hidden_activations(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {}

    return CTRModel(init, logit, hidden_activations, touched_rows(config, "feature_weight"))


def factorization_machine(config: Fields) -> CTRModel:
    r"""The second-order factorization machine, in time linear in the fields.

    For the ids :math:`f_1 \dots f_m` of an example,

    .. math::
        \mathrm{logit} = b + \sum_j w_{f_j} + \sum_{i < j} v_{f_i}^\top v_{f_j}.

    Returns:
      A :class:`~recjax.models.contract.CTRModel` with the tables ``feature [features, dim]`` and ``feature_weight
      [features, 1]``, and ``net["bias"] [1]``. ``logit`` is ``[batch, 1]``; ``hidden_activations`` has the concatenated
      embeddings, ``embedding [batch, fields * dim]``.

    Raises:
      ValueError: by the model's functions, if the fields are not ``[batch, fields]``.

    Examples:
      >>> model = factorization_machine(Fields(features=5, fields=2, dim=1))
      >>> params = model.init(jax.random.key(0))
      >>> params["tables"]["feature"] = jnp.array([[2.0], [3.0], [0.0], [5.0], [7.0]])
      >>> model.logit(params, {"fields": jnp.array([[0, 3], [1, 4]])}).tolist()
      [[10.0], [21.0]]

    References:
      Rendle, *Factorization Machines*, ICDM 2010, equation 1 and lemma 3.1.
    """

    def init(key: jax.Array) -> Params:
        tables = {"feature": feature_table(config, key), "feature_weight": weight_table(config)}
        return {"tables": tables, "net": {"bias": jnp.zeros(1)}, "fixed": {}, "auxiliary": {}}

    def logit(params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        return linear(config, params, batch) + params["net"]["bias"][None] + pairs(vectors(config, params, batch))

    def hidden_activations(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {"embedding": vectors(config, params, batch).reshape(-1, config.width)}

    return CTRModel(init, logit, hidden_activations, touched_rows(config, "feature", "feature_weight"))
