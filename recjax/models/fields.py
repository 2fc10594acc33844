"""Parts of CTR models: categorical fields, their embedding tables, and terms of a logit over them."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from recjax import embed
from recjax.models.contract import Batch, CTRModel, Params


@dataclasses.dataclass(frozen=True)
class Fields:
    """Sizes of a log of fields, such as :func:`recjax.data.read_libfm` or :func:`recjax.data.read_rows` reads.

    A model's batch is ``{"fields": [batch, fields] int}``. It may have ``"values": [batch, fields] float`` too, by
    which the vectors and weights of the fields are multiplied: the numbers of fields that have one.

    Attributes:
      features: number of distinct values of all fields together, the rows of the tables.
      fields: number of fields; an example has one value per field.
      dim: length of a value's vector.
      scale: standard deviation of the vectors' initial entries.
    """

    features: int
    fields: int
    dim: int = 10
    scale: float = 0.01

    def __post_init__(self):
        if min(self.features, self.fields, self.dim) < 1:
            raise ValueError(f"expected features, fields and dim of at least 1, got {self}")

    @property
    def width(self) -> int:
        """Entries of an example's vectors side by side."""
        return self.fields * self.dim


def field_ids(config: Fields, batch: Batch) -> jax.Array:
    """``batch["fields"]``, if it is ``[batch, fields]``."""
    ids = batch["fields"]
    if ids.ndim != 2 or ids.shape[1] != config.fields:
        raise ValueError(f"expected fields of shape [batch, {config.fields}], got {ids.shape}")
    return ids


def _scaled(rows: jax.Array, batch: Batch) -> jax.Array:
    """``[batch, fields, dim]``, each row times ``batch["values"]``, which may be missing and is 1 then."""
    if "values" not in batch:
        return rows
    if batch["values"].shape != rows.shape[:2]:
        raise ValueError(f"expected values of the shape of the fields, {rows.shape[:2]}, got {batch['values'].shape}")
    return rows * batch["values"][..., None]


def vectors(config: Fields, params: Params, batch: Batch) -> jax.Array:
    """``[batch, fields, dim]``, the vectors of an example's values."""
    return _scaled(embed.lookup(params["tables"]["feature"], field_ids(config, batch)), batch)


def linear(config: Fields, params: Params, batch: Batch) -> jax.Array:
    """``[batch, 1]``, the sum of the weights of an example's values."""
    return _scaled(embed.lookup(params["tables"]["feature_weight"], field_ids(config, batch)), batch).sum(axis=1)


def pairs(x: jax.Array) -> jax.Array:
    """``[batch, 1]``, the sum of the inner products of all pairs of vectors of ``[batch, fields, dim]``."""
    return (jnp.square(x.sum(axis=1)) - jnp.square(x).sum(axis=1)).sum(axis=-1, keepdims=True) / 2


def feature_table(config: Fields, key: jax.Array) -> jax.Array:
    """``[features, dim]``, as it starts."""
    return config.scale * jax.random.normal(key, (config.features, config.dim))


def weight_table(config: Fields) -> jax.Array:
    """``[features, 1]``, as it starts: nothing known."""
    return jnp.zeros((config.features, 1))


def touched_rows(config: Fields, *tables: str) -> Callable[[Batch], dict[str, jax.Array]]:
    """What a step reads: the same rows of every table."""

    def touched(batch: Batch) -> dict[str, jax.Array]:
        return dict.fromkeys(tables, field_ids(config, batch).reshape(-1))

    return touched


def logistic_regression(config: Fields) -> CTRModel:
    r"""Logistic regression on the fields' values, one weight each.

    With the values :math:`f_1 \dots f_m` of an example,

    .. math::
        \mathrm{logit} = b + \sum_j w_{f_j}.

    Args:
      config: sizes; ``dim`` and ``scale`` are not used.

    Returns:
      A :class:`~recjax.models.contract.CTRModel`: table ``feature_weight [features, 1]`` and ``net["bias"] [1]``, all
      starting as 0. A batch is ``{"fields": [batch, fields] int}``, ``logit`` is ``[batch, 1]`` and uses no key;
      ``hidden_activations`` is empty.

    Raises:
      ValueError: by the model's functions, if the fields are not ``[batch, fields]``.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> model = logistic_regression(Fields(features=5, fields=2))
      >>> params = model.init(jax.random.key(0))
      >>> model.logit(params, {"fields": jnp.array([[0, 3], [1, 4]])}).tolist()
      [[0.0], [0.0]]

    References:
      Richardson et al., *Predicting Clicks: Estimating the Click-Through Rate for New Ads*, WWW 2007, section 4.
    """

    def init(key: jax.Array) -> Params:
        del key  # it starts as zeros
        tables = {"feature_weight": weight_table(config)}
        return {"tables": tables, "net": {"bias": jnp.zeros(1)}, "fixed": {}, "auxiliary": {}}

    def logit(params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        return linear(config, params, batch) + params["net"]["bias"][None]

    def hidden_activations(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {}

    return CTRModel(init, logit, hidden_activations, touched_rows(config, "feature_weight"))


def factorization_machine(config: Fields) -> CTRModel:
    r"""The factorization machine of degree two.

    With the values :math:`f_1 \dots f_m` of an example,

    .. math::
        \mathrm{logit} = b + \sum_j w_{f_j} + \sum_{i < j} v_{f_i}^\top v_{f_j},

    the pairs by :math:`\frac{1}{2} \sum_d \left[ (\sum_j v_{f_j d})^2 - \sum_j v_{f_j d}^2 \right]`, in time linear in
    the fields.

    Args:
      config: sizes.

    Returns:
      A :class:`~recjax.models.contract.CTRModel`: tables ``feature [features, dim]`` and ``feature_weight [features,
      1]``, and ``net["bias"] [1]``. A batch is ``{"fields": [batch, fields] int}``, ``logit`` is ``[batch, 1]`` and
      uses no key; ``hidden_activations`` has the vectors side by side as ``embedding [batch, fields * dim]``.

    Raises:
      ValueError: by the model's functions, if the fields are not ``[batch, fields]``.

    Examples:
      >>> import jax, jax.numpy as jnp
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
