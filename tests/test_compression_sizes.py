"""The size of a packed student is known before it is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import artifact, models
from recjax.tasks import compression


@pytest.mark.parametrize(("bits", "sparsity"), [(2, 0.0), (4, 0.5), (8, 0.95)])
def test_the_predicted_size_is_that_of_the_file(bits, sparsity, tmp_path):
    rng = np.random.default_rng(0)
    tables = {
        "user": rng.normal(size=(40, 12)),
        "item": rng.normal(size=(150, 12)),
        "item_bias": rng.normal(size=(150, 1)),
    }
    net = {"layer": {"kernel": rng.normal(size=(12, 6)), "bias": rng.normal(size=6)}}
    params = jax.tree.map(
        lambda x: np.asarray(x, np.float32), {"tables": tables, "net": net, "fixed": {}, "auxiliary": {}}
    )

    def pruned(x):
        kept = max(1, round(x.size * (1 - sparsity)))
        threshold = np.sort(np.abs(x), axis=None)[-kept]
        return np.where(np.abs(x) >= threshold, np.sign(x) * (1 + rng.random(x.shape)), 0).astype(np.float32)

    values = {**params, "tables": {**params["tables"], "user": pruned(tables["user"]), "item": pruned(tables["item"])}}
    values["net"] = {"layer": {"kernel": pruned(net["layer"]["kernel"]), "bias": params["net"]["layer"]["bias"]}}
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, params))
    predicted = artifact.file_size(compression.predicted(shapes, bits=bits, sparsity=sparsity))
    written = artifact.save_params(tmp_path / "weights.safetensors", compression.packed(values, bits))
    # Of so few bits an entry may round to zero, and a sparse table is then smaller than predicted.
    assert predicted * 0.97 <= written <= predicted


def test_vectors_of_positions_are_no_kernel():
    model = models.sasrec(models.SasRec(items=9, length=4, dim=8, blocks=1))
    tables, kernels = compression.matrices(jax.eval_shape(model.init, jax.random.key(0)))
    names = ("inner_0", "key_0", "outer_0", "query_0", "value_0")
    assert (tables, kernels) == (["item"], [f"net/{name}/kernel" for name in names])
