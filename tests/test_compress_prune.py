"""Transforms that prune any arrays: tables as records, kernels as arrays; masks against references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from toy import Hparams

from recjax import compress, embed, prune

TABLE, KERNEL = "item", "net/hidden_0/kernel"
COUPLINGS = prune.mlp_couplings({"hidden_0": {}, "output": {}}, path=("net",)) | {
    "dims": prune.dim_coupling([("tables", "item")], kernel=("net", "hidden_0", "kernel"), fields=2, dim=4)
}


def share(hparams, step):
    return hparams.sparsity


def kept_of_four(hparams, step):
    return jnp.round(4 * (1 - hparams.sparsity))


PLANS = {
    "layerwise": compress.magnitude_pruning([TABLE, KERNEL], sparsity=share, every=2),
    "global": compress.global_magnitude_pruning([TABLE, KERNEL], sparsity=share, every=2),
    "n of m": compress.n_of_m_pruning([KERNEL], n=kept_of_four, m=4, every=2),
    "structured": compress.structured_pruning(COUPLINGS, sparsity=share, every=2),
}


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    net = {
        "hidden_0": {"kernel": rng.normal(size=(8, 6)), "bias": rng.normal(size=6)},
        "output": {"kernel": rng.normal(size=(6, 2)), "bias": rng.normal(size=2)},
    }
    params = {"tables": {"item": rng.normal(size=(5, 4)), "user": rng.normal(size=(3, 4))}, "net": net}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


def expected_masks(name, params, sparsity):
    item, kernel = params["tables"]["item"], params["net"]["hidden_0"]["kernel"]
    if name == "layerwise":
        return {TABLE: references.mask_smallest(item, sparsity), KERNEL: references.mask_smallest(kernel, sparsity)}
    if name == "global":
        scores = references.normalized_magnitude([item, kernel])
        return dict(zip((TABLE, KERNEL), references.mask_globally(scores, sparsity), strict=True))
    if name == "n of m":
        return {KERNEL: references.mask_n_of_m(np.transpose(kernel), round(4 * (1 - sparsity)), 4).T}
    net = params["net"]
    units = [
        np.concatenate([kernel[:, j], net["hidden_0"]["bias"][j : j + 1], net["output"]["kernel"][j]]) for j in range(6)
    ]
    dims = [np.concatenate([item[:, j], kernel[j], kernel[4 + j]]) for j in range(4)]
    rms = [[np.sqrt(np.mean(np.float64(part) ** 2)) for part in parts] for parts in (units, dims)]
    unit_keep, dim_keep = (references.mask_smallest(np.array(scores), sparsity) for scores in rms)
    return {"hidden_0": unit_keep, "dims": dim_keep}


def effective(plan, params, state, hparams):
    seen = plan.apply(params, (), state, hparams)
    return {**seen, "tables": {name: embed.lookup(table) for name, table in seen["tables"].items()}}


@pytest.mark.parametrize("name", PLANS)
def test_masks_and_what_a_model_reads(name):
    plan, params = PLANS[name], parameters()
    grid = Hparams(*(jnp.asarray(v, jnp.float32) for v in ([0.1] * 3, [0.0, 0.25, 0.5], [16.0] * 3)))
    start = jax.vmap(lambda hparams: plan.init(jax.random.key(0), params, hparams)[1])(grid)
    assert all(mask.all() for mask in start.values())
    update = jax.jit(jax.vmap(lambda p, state, step, h: plan.update(p, (), state, None, step, h), (None, 0, None, 0)))
    read = jax.jit(lambda state: effective(plan, params, state, None))
    state = update(params, start, jnp.array(0), grid)
    for i, sparsity in enumerate((0.0, 0.25, 0.5)):
        twin = expected_masks(name, params, sparsity)
        one = {path: mask[i] for path, mask in state.items()}
        for path, mask in twin.items():
            np.testing.assert_array_equal(one[path], mask, err_msg=f"{path} {sparsity}")
        found = read(one)
        if name == "structured":  # against its own tests in test_prune_shrink
            zeroed = prune.mask_coupled(params, {path: jnp.asarray(mask) for path, mask in twin.items()}, COUPLINGS)
        else:
            zeroed = parameters()
            for path, mask in twin.items():
                place = zeroed["tables"] if path == TABLE else zeroed["net"]["hidden_0"]
                leaf = path.split("/")[-1]
                place[leaf] = jnp.where(mask, place[leaf], 0)
        jax.tree.map(np.testing.assert_array_equal, found, zeroed)
    held = update(parameters(1), state, jnp.array(1), grid)  # not a step of refreshing
    jax.tree.map(np.testing.assert_array_equal, held, state)


def test_gradients_pass_straight_through_and_nan_is_seen():
    plan, params = PLANS["layerwise"], parameters()
    hparams = Hparams(sparsity=0.5)
    state = {path: jnp.zeros_like(mask) for path, mask in plan.init(None, params, hparams)[1].items()}

    @jax.jit
    def total(params):
        seen = effective(plan, params, state, hparams)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(seen))

    grads = jax.grad(total)(params)
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(grads))
    params["net"]["hidden_0"]["kernel"] = params["net"]["hidden_0"]["kernel"].at[0, 0].set(jnp.nan)
    assert np.isnan(total(params))


def test_pruned_then_quantized_keeps_its_zeros_into_the_artifact():
    plan = compress.chain(PLANS["layerwise"], compress.row_quantization([TABLE], bits=lambda hparams: hparams.bits))
    params, hparams = parameters(), Hparams(sparsity=0.5, bits=4.0)
    learned, state = plan.init(jax.random.key(0), params, hparams)
    state = plan.update(params, learned, state, None, jnp.array(0), hparams)
    found = embed.lookup(plan.apply(params, learned, state, hparams)["tables"]["item"])
    keep = references.mask_smallest(params["tables"]["item"], 0.5)
    expected = references.fake_quant(np.where(keep, params["tables"]["item"], 0), bits=4, axis=0)
    np.testing.assert_array_equal(found, expected)
    assert (np.asarray(found)[~keep] == 0).all()


def test_structured_masks_are_what_shrink_takes():
    plan, params, hparams = PLANS["structured"], parameters(), Hparams(sparsity=0.5)
    state = jax.jit(lambda p: plan.update(p, (), plan.init(None, p, hparams)[1], None, jnp.array(0), hparams))(params)
    small = prune.shrink(params, state, COUPLINGS)
    assert small["tables"]["item"].shape == (5, 2)
    assert small["net"]["hidden_0"]["kernel"].shape == (4, 3)
    assert small["net"]["output"]["kernel"].shape == (3, 2)
