"""Content-based retrieval from item features."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from recjax import embed
from recjax.models.contract import Batch, Params, RetrievalModel
from recjax.models.history import sum_rows


@dataclasses.dataclass(frozen=True)
class ContentBased:
    """Sizes of :func:`content_based`: ``items`` of the catalog, and ``features`` per item."""

    items: int
    features: int


def content_based(config: ContentBased) -> RetrievalModel:
    r"""Content-based retrieval, :math:`s_i = z_i^\top \sum_{j \in h} z_j` with feature vectors :math:`z`.

    With unit vectors, as from :func:`fit_content_based`, a score is the sum of cosines between the item and those of
    the history. Items without interactions are scored too. Batches are those of :func:`recjax.models.ease`.

    Returns:
      A :class:`~recjax.models.contract.RetrievalModel` with ``dim = features`` and the table ``item [items,
      features]``, which ``init`` sets to 0 and :func:`fit_content_based` computes.

    References:
      Pazzani and Billsus, *Content-Based Recommendation Systems*, The Adaptive Web, 2007, section 10.3.
    """

    def init(key: jax.Array) -> Params:
        return {"tables": {"item": jnp.zeros((config.items, config.features))}, "net": {}, "fixed": {}, "auxiliary": {}}

    def query(params: Params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        return sum_rows(functools.partial(items, params), batch["history"], config.items, batch.get("weight"))

    def items(params: Params, ids: jax.Array | None = None) -> jax.Array:
        return embed.lookup(params["tables"]["item"], ids)

    def hidden_activations(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {"profile": query(params, batch)}

    def touched(batch: Batch) -> dict[str, jax.Array] | None:
        return None

    return RetrievalModel(init, query, items, hidden_activations, touched)


def fit_content_based(features: np.ndarray) -> Params:
    """Parameters of :func:`content_based`: centered features, then items scaled to length 1.

    Args:
      features: ``[items, features]`` float, in the order of the log's ``item_ids``.

    Returns:
      Parameters with the table ``item [items, features]`` float32; an item equal to the mean has zeros.

    Raises:
      ValueError: if the features are not a matrix of finite numbers.

    Examples:
      >>> print(fit_content_based(np.array([[5.0, 1.0], [-1.0, 1.0], [2.0, 1.0]]))["tables"]["item"])
      [[ 1.  0.]
       [-1.  0.]
       [ 0.  0.]]
    """
    if np.ndim(features) != 2:
        raise ValueError(f"features: expected shape [items, features], got {np.shape(features)}")
    odd = np.argwhere(~np.isfinite(features))
    if len(odd):
        item, feature = odd[0].tolist()
        raise ValueError(
            f"features: expected finite numbers, got {features[item, feature]} at item {item}, feature {feature}"
        )
    centered = np.asarray(features, np.float64) - np.mean(features, axis=0, dtype=np.float64)
    length = np.linalg.norm(centered, axis=1, keepdims=True)
    table = np.divide(centered, length, out=np.zeros_like(centered), where=length > 0)
    return {"tables": {"item": table.astype(np.float32)}, "net": {}, "fixed": {}, "auxiliary": {}}
