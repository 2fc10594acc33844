"""A member of a narrow width in a program of the widest, against the narrow model trained alone."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recjax import artifact, compress, embed, grid, losses, models, prune, quantize, rows, train

SEEDS, STEPS, BATCH, DIMS = 2, 5, 6, (3, 8)
USERS, ITEMS, FEATURES = 11, 9, 5


class Hparams(NamedTuple):
    width: Any
    bits: Any


def factorization(dim):
    return models.matrix_factorization(models.MatrixFactorization(users=USERS, items=ITEMS, dim=dim))


def bpr(model, params, batch, hparams, key):
    query = model.query(params, batch)
    positive, negative = (jnp.sum(query * model.items(params, batch[name]), axis=-1) for name in ("item", "negative"))
    return losses.bpr(positive, negative).mean()


def touched(model, batch):
    return model.touched({"user": batch["user"], "item": jnp.concatenate([batch["item"], batch["negative"]])})


def draw(data, ids, key):
    names = {"user": USERS, "item": ITEMS, "negative": ITEMS}
    batch = {name: (ids * (7 + n)) % count for n, (name, count) in enumerate(names.items())}
    return {**batch, "inputs": jax.random.normal(key, (BATCH, FEATURES))}


def perceptron(width):
    """With an aid that looks at the hidden units."""
    model = models.mlp(models.Mlp(widths=(FEATURES, width, 2)))

    def init(key):
        params = model.init(key)
        return {**params, "auxiliary": {"hint": jax.random.normal(jax.random.fold_in(key, 1), (width, 4)) / width}}

    return model._replace(init=init)


def squares(model, params, batch, hparams, key):
    """With a hint from other units too, whose output isn't zero where all that leads to them is."""
    layer, sigmoid = params["net"]["hidden_0"], jax.nn.sigmoid
    hidden = model.hidden_activations(params, batch)["hidden_0"] + sigmoid(
        batch["inputs"] @ layer["kernel"] + layer["bias"][None]
    )
    return (
        jnp.square(model.logit(params, batch) - 1).mean() + jnp.square(hidden @ params["auxiliary"]["hint"] - 1).mean()
    )


UNITS = prune.mlp_couplings(dict.fromkeys(("hidden_0", "output")), path=("net",))
UNITS = {"units": prune.Coupling((*UNITS["hidden_0"].axes, prune.CoupledAxis(("auxiliary", "hint"), 0)))}
TABLES = {"dims": prune.dim_coupling([("tables", "user"), ("tables", "item")])}
QUANTIZED = compress.row_quantization(["user", "item"], bits=lambda hparams: hparams.bits)
CASES = {
    "factors": (factorization, bpr, TABLES, QUANTIZED, False),
    "factors_by_rows": (factorization, bpr, TABLES, QUANTIZED, True),
    "units": (perceptron, squares, UNITS, compress.chain(), False),
}


@functools.cache
def starts(build):
    keys = jax.random.split(jax.random.key(0), SEEDS)
    return {width: jax.jit(jax.vmap(build(width).init))(keys) for width in DIMS}


def widened(build, couplings):
    return compress.widths(starts(build), couplings, width=lambda hparams: hparams.width)


def of_seed(params, seed):
    return jax.tree.map(lambda leaf: leaf[seed], params)


def trained(recipe, init, widths):
    """The states and losses of all members after a few steps, begun by ``init(seed, hparams)``."""
    hparams = Hparams(*(jnp.broadcast_to(jnp.array(x, jnp.float32), (SEEDS, len(widths))) for x in (widths, [4.0])))

    @functools.partial(jax.vmap, out_axes=train.MEMBER_AXES)
    def begin(seed, hparams):
        one = lambda h: train.init_state(recipe, init(seed, h), h, jax.random.key(3))  # noqa: E731
        return jax.vmap(one, out_axes=train.MEMBER_AXES)(hparams)

    ids = jnp.asarray(np.random.default_rng(0).integers(90, size=(STEPS, SEEDS, BATCH)), jnp.int32)
    state = jax.jit(begin)(jnp.arange(SEEDS), hparams)
    return train.run_chunk(recipe, state, hparams, ids, jax.random.split(jax.random.key(2), SEEDS), {}, {})


def clipped_adam(hparams):
    return optax.chain(optax.clip_by_global_norm(0.05), optax.adamw(0.05, weight_decay=0.1))


@pytest.mark.parametrize("case", ["factors_by_rows", "units", pytest.param("factors", marks=pytest.mark.slow)])
def test_a_narrow_member_is_the_narrow_model(case):
    build, loss, couplings, transform, by_rows = CASES[case]
    wide = widened(build, couplings)

    def recipe(width, *first):
        model = build(width)
        by_row = train.RowSparse(lambda hparams: rows.adam(0.05, weight_decay=0.1), functools.partial(touched, model))
        chain = compress.chain(*first, transform)
        return train.Recipe(functools.partial(loss, model), clipped_adam, chain, draw, by_row if by_rows else None)

    narrow, widest = DIMS
    state, values = trained(
        recipe(widest, wide.transform), lambda seed, h: wide.init(of_seed(wide.starts, seed), h), DIMS
    )
    alone, expected = trained(recipe(narrow), lambda seed, h: of_seed(starts(build)[narrow], seed), (narrow,))
    np.testing.assert_allclose(values[:, :, :1], expected, rtol=1e-5)
    state, alone = jax.device_get(((state.params, state.optimizer), (alone.params, alone.optimizer)))
    for seed in range(SEEDS):
        found = wide.cut(jax.tree.map(lambda leaf, at=(seed, 0): leaf[at], state[0]), narrow)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(alone[0]), strict=True):
            np.testing.assert_allclose(one, other[seed, 0], rtol=1e-4, atol=1e-6)
    nothing_outside(state, narrow)


def nothing_outside(state, width):
    """Parameters and moments of the first setting are exactly zero outside of its width, and aren't inside."""
    seen = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        of_tables = "tables/user", "tables/item", "rows/user/0", "rows/item/0"  # and their first moments
        if name.endswith((*of_tables, "hidden_0/kernel", "hidden_0/bias")):
            along = [leaf[:, 0]]
        elif name.endswith(("rows/user/1", "rows/item/1")):
            along = [leaf[:, 0, :, :-2]]  # the second moments, and two numbers a row beside them
        elif name.endswith(("output/kernel", "auxiliary/hint")):
            along = [np.moveaxis(leaf[:, 0], 1, -1)]
        else:
            continue
        for part in along:
            assert part.shape[-1] == DIMS[-1], name
            assert (part[..., width:] == 0).all(), name
            seen += (part[..., :width] != 0).any()
    assert seen >= 6


def test_packed_after_cutting_it_takes_the_bytes_of_the_narrow_model(tmp_path):
    wide, own = widened(factorization, TABLES), Hparams(3.0, 4.0)
    member = wide.init(of_seed(wide.starts, 1), own)
    read = compress.chain(wide.transform, QUANTIZED).apply(member, ((), ()), ((), ()), own)["tables"]
    cut = wide.cut({"tables": {**member["tables"], "item": embed.lookup(read["item"])}}, 3)["tables"]["item"]
    narrow = starts(factorization)[3]["tables"]["item"][1]
    assert (np.asarray(embed.lookup(read["item"]))[:, 3:] == 0).all()
    for name, table in (("cut", cut), ("narrow", narrow)):
        artifact.save_params(tmp_path / name, quantize.quantize(table, bits=4, axis=0))
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "narrow").read_bytes()


def test_a_population_trains_several_widths(tmp_path):
    wide, model = widened(factorization, TABLES), factorization(DIMS[-1])
    fitted = grid.fit(
        train.Recipe(functools.partial(bpr, model), lambda hparams: optax.adam(0.05), wide.transform, draw),
        wide.starts,
        grid.population(Hparams(0, 16), grid.product(width=DIMS, seed=range(SEEDS))),
        data={},
        rows=jnp.arange(2 * BATCH, dtype=jnp.int32),
        validate=lambda params, held_out: (model.query(params, held_out) @ model.items(params).T)[0, 0],
        held_out={"user": jnp.arange(2)},
        schedule=grid.Schedule(epochs=2, batch_size=BATCH),
        folder=tmp_path,
        progress=lambda *told: None,
        init=wide.init,
    )
    assert fitted.programs == 1
    user = np.asarray(fitted.params["tables"]["user"])
    moved = (user != np.asarray(wide.starts["tables"]["user"])).any(axis=2)
    for at, width in enumerate(DIMS):
        assert moved[:, at].tolist() == [[column < width for column in range(DIMS[-1])]] * SEEDS
        assert (user[:, at, :, width:] == 0).all()


def test_what_a_member_does_not_have_reads_as_zero_and_gets_no_gradient():
    transform = widened(factorization, TABLES).transform

    def read(params):
        tables = transform.apply(params, (), (), Hparams(3.0, 16.0))["tables"]
        return embed.lookup(tables["user"], jnp.array([[0, 1], [2, USERS]]))

    params = {"tables": {"user": jnp.ones((USERS, 8)), "item": jnp.ones((ITEMS, 8)), "item_bias": jnp.ones((ITEMS, 1))}}
    values = np.asarray(read(params))
    assert np.isnan(values[1, 1]).all()
    np.testing.assert_array_equal(values[:1], np.broadcast_to(np.arange(8) < 3, (1, 2, 8)))
    grads = jax.grad(lambda params: read(params)[0].sum())(params)["tables"]
    np.testing.assert_array_equal(grads["user"][:2], np.broadcast_to(np.arange(8) < 3, (2, 8)))


def test_another_width_is_nan_and_other_shapes_are_refused():
    wide = widened(factorization, TABLES)
    member = wide.init(of_seed(wide.starts, 0), Hparams(4.0, 16.0))
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(member))
    read = wide.transform.apply(member, (), (), Hparams(4.0, 16.0))["tables"]["user"]
    assert np.isnan(embed.lookup(read)).all()
    dims = {"dims": prune.dim_coupling([("tables", "user")])}
    with pytest.raises(ValueError, match="expected shapes that differ only in the structures"):
        compress.widths(starts(factorization), dims, width=lambda hparams: hparams.width)


def test_expand_is_the_inverse_of_shrink():
    rng = np.random.default_rng(0)
    couplings = {"dims": prune.dim_coupling([("table",)], kernel=("kernel",), fields=2, dim=4)}
    keep = {"dims": jnp.array([True, False, True, False])}
    wide = {"table": jnp.asarray(rng.normal(size=(3, 4))), "kernel": jnp.asarray(rng.normal(size=(9, 2)))}
    found = prune.expand(prune.shrink(wide, keep, couplings), keep, couplings)
    expected = prune.mask_coupled(wide, keep, couplings)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    with pytest.raises(ValueError, match=r"expected 2 structures in \('table',\), got 4"):
        prune.expand(wide, keep, couplings)
