"""Smaller shapes against the masked model and against twins of the model in float64 (references)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from recjax import embed, prune
from recjax.models import Hstu, Mlp, SasRec, TwoTower, hstu, mlp, sasrec, two_tower

RNG = np.random.default_rng(0)


def filled(params, seed=1):
    """Every entry random, biases too, so that nothing is right by being zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params)


def keeps(size, kept, seed=0):
    mask = np.zeros(size, bool)
    mask[np.random.default_rng(seed).permutation(size)[:kept]] = True
    return jnp.asarray(mask)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_hidden_units_of_an_mlp():
    params = filled(jax.eval_shape(mlp(Mlp(widths=(4, 7, 5, 2))).init, jax.random.key(0)))
    units = prune.mlp_couplings(params["net"], path=("net",))
    masks = {"hidden_0": keeps(7, 3), "hidden_1": keeps(5, 4)}
    masked, small = prune.mask_coupled(params, masks, units), prune.shrink(params, masks, units)
    assert jax.tree.map(jnp.shape, small["net"]) == {
        "hidden_0": {"kernel": (4, 3), "bias": (3,)},
        "hidden_1": {"kernel": (3, 4), "bias": (4,)},
        "output": {"kernel": (4, 2), "bias": (2,)},
    }
    x = RNG.normal(size=(6, 4)).astype(np.float32)
    logits = mlp(Mlp(widths=(4, 3, 4, 2))).logit(small, {"inputs": x})
    close(logits, references.mlp_logits(masked["net"], np.float64(x)))
    dropped = ~np.asarray(masks["hidden_0"])
    for layer, axis in (("hidden_0", 1), ("hidden_1", 0)):
        kernel = np.moveaxis(np.asarray(masked["net"][layer]["kernel"]), axis, 0)
        assert (kernel[dropped] == 0).all()
    assert np.count_nonzero(masked["net"]["hidden_0"]["bias"]) == 3


def test_scores_of_units_reach_through_all_their_arrays():
    net = filled(jax.eval_shape(mlp(Mlp(widths=(4, 7, 2))).init, jax.random.key(0)))["net"]
    found = prune.coupled_scores(net, prune.mlp_couplings(net))["hidden_0"]
    for unit in range(7):
        parts = (net["hidden_0"]["kernel"][:, unit], net["hidden_0"]["bias"][unit : unit + 1])
        weights = np.concatenate([*parts, net["output"]["kernel"][unit]]).astype(np.float64)
        np.testing.assert_allclose(found[unit], np.sqrt(np.mean(weights**2)), rtol=1e-6)


def test_two_towers_lose_hidden_units_and_dimensions():
    sizes = {"users": 3, "items": 5, "user_features": 2, "item_features": 4}
    features = RNG.normal(size=(3, 2)).astype(np.float32), RNG.normal(size=(5, 4)).astype(np.float32)
    model = two_tower(TwoTower(**sizes, dim=6, hidden=7), *features)
    params = jax.eval_shape(model.init, jax.random.key(0))
    params = {**filled(params), "fixed": dict(zip(("user", "item"), map(jnp.asarray, features), strict=True))}
    units = {
        side: prune.mlp_couplings(params["net"][side], path=("net", side))["hidden_0"] for side in ("user", "item")
    }
    outputs = [("net", side, "output", part) for side in ("user", "item") for part in ("kernel", "bias")]
    tables = [prune.CoupledAxis(("tables", side), 1) for side in ("user", "item")]
    ends = [prune.CoupledAxis(path, -1) for path in outputs]
    couplings = {**units, "dims": prune.Coupling((*tables, *ends))}
    masks = {"user": keeps(7, 4, 1), "item": keeps(7, 4, 2), "dims": keeps(6, 3, 3)}
    masked, small = prune.mask_coupled(params, masks, couplings), prune.shrink(params, masks, couplings)
    assert small["tables"]["user"].shape == (3, 3)
    smaller = two_tower(TwoTower(**sizes, dim=3, hidden=4), *features)

    def scores(model, params):
        return model.query(params, {"user": jnp.arange(3)}) @ model.items(params).T

    close(scores(smaller, small), scores(model, masked))


def test_heads_of_attention():
    shapes = {"query": (5, 4, 3), "key": (5, 4, 3), "value": (5, 4, 3), "out": (4, 3, 5)}
    net = {name: jnp.asarray(RNG.normal(size=shape) / 3, jnp.float32) for name, shape in shapes.items()}
    heads = {"heads": prune.head_coupling([("query",), ("key",), ("value",)], ("out",))}
    masks = {"heads": jnp.array([True, False, True, False])}
    masked, small = prune.mask_coupled(net, masks, heads), prune.shrink(net, masks, heads)
    assert small["query"].shape == (5, 2, 3)
    assert small["out"].shape == (2, 3, 5)
    x = RNG.normal(size=(6, 5))
    np.testing.assert_allclose(references.attention(small, x), references.attention(masked, x), rtol=1e-9, atol=1e-9)
    with_biases = prune.head_coupling([("query",)], ("out",), biases=[("bias",)])
    assert with_biases.axes[1] == prune.CoupledAxis(("bias",), 0)


HISTORY = {"history": np.array([[-1, 2, 0, 4], [1, 3, 3, 2]])}


def test_sasrec_reads_inner_units_that_are_left():
    model = sasrec(SasRec(items=5, length=4, dim=6, blocks=1))
    params = filled(jax.eval_shape(model.init, jax.random.key(0)))
    units = {"units": prune.unit_coupling(("net", "inner_0"), ("net", "outer_0"))}
    masks, query = {"units": keeps(6, 2)}, jax.jit(model.query)
    small = prune.shrink(params, masks, units)
    assert small["net"]["inner_0"]["kernel"].shape == (6, 2)
    close(query(small, HISTORY), query(prune.mask_coupled(params, masks, units), HISTORY))


@pytest.mark.parametrize("name", ["sasrec", "hstu"])
def test_a_masked_head_is_out_of_the_sum(name):
    """Nothing of the other kernels at the head's place changes the query; the other head's entries do."""
    sizes, net = dict(items=5, length=4, dim=6, blocks=1, heads=2), ("net",)
    if name == "sasrec":
        model, inputs, output, parts = sasrec(SasRec(**sizes)), ["query_0", "key_0", "value_0"], None, 1
    else:
        model, inputs, output, parts = hstu(Hstu(**sizes)), ["project_0"], (*net, "output_0", "kernel"), 4
    params = filled(jax.eval_shape(model.init, jax.random.key(0)))
    paths = [(*net, part, "kernel") for part in inputs]
    heads = {"heads": prune.head_coupling(paths, output, heads=2, dim=6, parts=parts)}
    masked = prune.mask_coupled(params, {"heads": jnp.array([True, False])}, heads)
    for part in inputs:
        kept, full = (np.reshape(p["net"][part]["kernel"], (6, parts, 2, 3)) for p in (masked, params))
        np.testing.assert_array_equal(kept[:, :, 0], full[:, :, 0])
        assert (kept[:, :, 1] == 0).all()
    query = jax.jit(model.query)
    plain = query(masked, HISTORY)
    if output is not None:
        for places, changes in ((slice(3, 6), False), (slice(0, 3), True)):
            kernel = masked["net"]["output_0"]["kernel"].at[places, 0].add(1)
            net = {**masked["net"], "output_0": {**masked["net"]["output_0"], "kernel": kernel}}
            assert np.allclose(query({**masked, "net": net}, HISTORY), plain, atol=1e-5) is not changes
    assert not np.allclose(query(params, HISTORY), plain, atol=1e-3)
    scores = prune.coupled_scores(params, heads)["heads"]
    parts_of = [np.reshape(params["net"][part]["kernel"], (6, parts, 2, 3))[:, :, 1].ravel() for part in inputs]
    parts_of += [] if output is None else [np.ravel(params["net"]["output_0"]["kernel"][3:])]
    np.testing.assert_allclose(scores[1], np.sqrt(np.mean(np.concatenate(parts_of).astype(np.float64) ** 2)), rtol=1e-5)


def test_embedding_dimensions_read_by_a_kernel():
    """Three fields of four dimensions and two dense features; one field loses dimensions of its own besides."""
    params = {
        "tables": {name: RNG.normal(size=(3, 4)) for name in "abc"},
        "kernel": RNG.normal(size=(3 * 4 + 2, 5)),
    }
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    paths = [("tables", name) for name in "abc"]
    shared = prune.dim_coupling(paths, kernel=("kernel",), fields=3, dim=4)
    own = prune.Coupling(
        (prune.CoupledAxis(paths[1], 1), prune.CoupledAxis(("kernel",), 0, tuple((4 + j,) for j in range(4))))
    )
    couplings = {"all": shared, "b": own}
    masks = {"all": jnp.array([True, True, False, True]), "b": jnp.array([False, True, True, True])}
    masked, small = prune.mask_coupled(params, masks, couplings), prune.shrink(params, masks, couplings)
    assert [table.shape[1] for table in small["tables"].values()] == [3, 2, 3]
    assert small["kernel"].shape == (3 + 2 + 3 + 2, 5)
    dense = RNG.normal(size=(3, 2)).astype(np.float32)

    def outputs(p):
        return jnp.concatenate([*p["tables"].values(), dense], axis=1) @ p["kernel"]

    close(outputs(small), outputs(masked))
    found = prune.coupled_scores(params, {"all": shared})["all"]
    parts = [*(params["kernel"][f * 4 + 1] for f in range(3)), *(params["tables"][n][:, 1] for n in "abc")]
    np.testing.assert_allclose(found[1], np.sqrt(np.mean(np.concatenate(parts).astype(np.float64) ** 2)), rtol=1e-6)
    with pytest.raises(ValueError, match="dim: expected an int with kernel"):
        prune.dim_coupling(paths, kernel=("kernel",))


def test_rows_move_and_ids_are_remapped():
    params = {"tables": {"item": jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)}}
    rows = {"item": prune.Coupling((prune.CoupledAxis(("tables", "item"), 0),))}
    keep = jnp.array([True, False, True, True, False, True])
    masked = prune.mask_coupled(params, {"item": keep}, rows)["tables"]["item"]
    small = prune.shrink(params, {"item": keep}, rows)["tables"]["item"]
    position = prune.remap(keep)
    assert small.shape == (4, 3)
    assert (position.tolist(), position.dtype) == ([0, -1, 1, 2, -1, 3], jnp.int32)
    read = jnp.where(position[:, None] < 0, 0, embed.lookup(small, position))
    np.testing.assert_array_equal(read, masked)


def test_what_is_kept_whole_is_the_same_array_and_masks_may_be_traced():
    net = filled({"in": jnp.zeros((2, 3)), "out": jnp.zeros((3, 2)), "other": jnp.zeros(2)})
    units = {"units": prune.Coupling((prune.CoupledAxis(("in",), 1), prune.CoupledAxis(("out",), 0)))}
    assert prune.shrink(net, {"units": jnp.ones(3, bool)}, units)["in"] is net["in"]
    assert prune.shrink(net, {"units": jnp.array([True, False, True])}, units)["other"] is net["other"]
    net["in"] = net["in"].at[0, 1].set(jnp.nan)

    @jax.jit
    @jax.vmap
    def masked(sparsity):
        kept = jnp.arange(3) >= 3 * sparsity
        return prune.mask_coupled(net, {"units": kept}, units)["in"]

    found = masked(jnp.array([0.0, 0.5, 0.9]))
    assert np.isnan(found).sum(axis=(1, 2)).tolist() == [1, 0, 0]  # a dropped NaN is gone
    np.testing.assert_array_equal(np.asarray(found[1])[:, 2], net["in"][:, 2])


def test_bad_inputs():
    net = {"in": jnp.ones((2, 3)), "out": jnp.ones((4, 2))}
    unequal = {"units": prune.Coupling((prune.CoupledAxis(("in",), 1), prune.CoupledAxis(("out",), 0)))}
    rows = {"rows": prune.Coupling((prune.CoupledAxis(("out",), 0),))}
    for function in (prune.shrink, prune.mask_coupled):
        with pytest.raises(ValueError, match="the same number of structures on every axis"):
            function(net, {"units": jnp.ones(3, bool)}, unequal)
        with pytest.raises(ValueError, match=r"masks: expected names among \['rows'\], got \['units'\]"):
            function(net, {"units": jnp.ones(3, bool)}, rows)
        with pytest.raises(ValueError, match=r"masks\['rows'\]: expected shape \(4,\), got \(3,\)"):
            function(net, {"rows": jnp.ones(3, bool)}, rows)
        with pytest.raises(TypeError, match=r"masks\['rows'\]: expected bool, got float32"):
            function(net, {"rows": jnp.ones(4)}, rows)
    with pytest.raises(ValueError, match=r"expected layers \['hidden_0', 'output'\], got \['dense', 'output'\]"):
        prune.mlp_couplings({"dense": {}, "output": {}})
    with pytest.raises(ValueError, match="heads and dim: expected heads that divide dim, or neither, got 4 and 6"):
        prune.head_coupling([("query",)], heads=4, dim=6)
    with pytest.raises(TypeError, match="keep: expected bool, got int32"):
        prune.remap(jnp.ones(3, jnp.int32))
