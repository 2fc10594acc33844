"""Transforms against a full sort, exact counts and the quantizer's twin (references)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references
import toy
from toy import Hparams

from recjax import compress, embed, prune, quantize, train
from recjax.tasks import compression

SHAPES = {"user": (9, 4), "item": (7, 4), "item_bias": (7, 1)}
PRUNING = compress.magnitude_pruning(
    ("user", "item"), sparsity=lambda hparams, step: hparams.sparsity * (step + 1) / 8, every=3
)


def tables(seed, members=None):
    rng = np.random.default_rng(seed)
    lead = () if members is None else (members,)
    return {"tables": {name: rng.normal(size=(*lead, *shape)).astype(np.float32) for name, shape in SHAPES.items()}}


@functools.partial(jax.jit, static_argnums=0)
def effective(plan, params, learned, state, hparams):
    """What a model would read from each table."""
    return {name: embed.lookup(t) for name, t in plan.apply(params, learned, state, hparams)["tables"].items()}


def test_pruned_first_then_quantized_from_what_is_left():
    plan, params, hparams = toy.compression("user", "item"), tables(0), Hparams(sparsity=0.4, bits=3.0)
    learned, state = plan.init(jax.random.key(0), params, hparams)
    same = effective(plan, params, learned, state, Hparams())  # before the first refresh nothing is masked
    state = jax.jit(plan.update)(params, learned, state, None, jnp.array(0), hparams)
    found = effective(plan, params, learned, state, hparams)
    for name in ("user", "item"):
        table = params["tables"][name]
        np.testing.assert_array_equal(same[name], table)
        kept = references.mask_smallest(table, 0.4)
        np.testing.assert_array_equal(found[name], references.fake_quant(np.where(kept, table, 0), bits=3, axis=0))
        assert (np.asarray(found[name])[~kept] == 0).all()
    np.testing.assert_array_equal(found["item_bias"], params["tables"]["item_bias"])  # not named, not touched


def test_scales_are_those_of_the_kept_entries():
    plan, params, hparams = toy.compression("user", "item"), tables(0), Hparams(bits=2.0)
    learned, (keep, nothing) = plan.init(jax.random.key(0), params, hparams)
    largest = np.abs(params["tables"]["user"]).max(axis=1, keepdims=True)
    keep = {**keep, "user": jnp.asarray(np.abs(params["tables"]["user"]) < largest)}  # a mask of an earlier step
    found = np.asarray(effective(plan, params, learned, (keep, nothing), hparams)["user"])
    second = np.sort(np.abs(params["tables"]["user"]), axis=1)[:, -2]
    np.testing.assert_array_equal(np.abs(found).max(axis=1), second.astype(np.float16).astype(np.float32))


def test_masks_are_refreshed_every_third_step_of_all_members_alike():
    sparsity = np.array([0.0, 0.5, 0.9], np.float32)
    hparams = Hparams(*(np.broadcast_to(v, 3).astype(np.float32) for v in (0.1, sparsity, 4)))
    update = jax.jit(jax.vmap(PRUNING.update, in_axes=(0, None, 0, None, None, 0)))
    state = jax.vmap(lambda p: PRUNING.init(jax.random.key(0), p, None)[1])(tables(0, 3))
    assert all(mask.all() for mask in state.values())
    expected = jax.tree.map(np.asarray, state)
    for step in range(8):
        params = tables(step, 3)
        state = update(params, (), state, None, jnp.array(step), hparams)
        for name in ("user", "item"):
            if step in (0, 3, 6):
                shares = sparsity * np.float32(step + 1) / 8
                expected[name] = np.stack(
                    [references.mask_smallest(t, s) for t, s in zip(params["tables"][name], shares, strict=True)]
                )
            np.testing.assert_array_equal(state[name], expected[name], err_msg=f"{step=}")
            if step >= 6:
                size = int(np.prod(SHAPES[name]))
                kept = [references.kept_count(size, s * np.float32(7) / 8) for s in sparsity]
                assert np.asarray(state[name]).sum(axis=(1, 2)).tolist() == kept


def primitives(jaxpr, outside_cond):
    """Names of all primitives of a program, those inside a branch left out if asked."""
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        if outside_cond and equation.primitive.name == "cond":
            continue
        for part in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns")):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                names |= primitives(inner, outside_cond)
    return names


def test_a_refresh_stays_a_branch_under_vmap():
    params, hparams = tables(0, 2), Hparams(*(np.ones(2, np.float32) / 2,) * 3)
    state = jax.vmap(lambda p: PRUNING.init(jax.random.key(0), p, None)[1])(params)

    def program(step, axis):
        update = jax.vmap(PRUNING.update, in_axes=(0, None, 0, None, axis, 0))
        return jax.make_jaxpr(update)(params, (), state, None, step, hparams).jaxpr

    shared = program(jnp.array(0), None)
    assert "cond" in primitives(shared, outside_cond=True)
    assert "cumsum" in primitives(shared, outside_cond=False)  # the ties of a mask, counted
    assert "cumsum" not in primitives(shared, outside_cond=True)
    one_each = program(jnp.zeros(2, int), 0)  # what must not happen: each member with a step of its own
    assert "cond" not in primitives(one_each, outside_cond=True)
    assert "cumsum" in primitives(one_each, outside_cond=True)


def test_a_refresh_stays_a_branch_in_the_program_that_trains_a_population():
    hparams = Hparams(*(jnp.ones((2, 3)) / 2,) * 3)
    keys = jax.random.split(jax.random.key(0), 2)

    def start(params, hparams, key):
        one = lambda h: train.init_state(toy.COMPRESSED, {**params, "fixed": None}, h, key)  # noqa: E731
        return jax.vmap(one, out_axes=train.MEMBER_AXES)(hparams)

    def population(params, hparams, keys, ids, data):
        state = jax.vmap(start, out_axes=train.MEMBER_AXES)(train.trained(params), hparams, keys)
        return train.run_chunk(toy.COMPRESSED, state, hparams, ids, keys, data, {})

    data = toy.rows(toy.logs()[0])
    program = jax.make_jaxpr(population)(toy.starts(2), hparams, keys, jnp.zeros((4, 2, 8), int), data).jaxpr
    outside, everywhere = (primitives(program, outside) for outside in (True, False))
    assert {"cond", "scan"} <= outside
    assert "cumsum" in everywhere
    assert "cumsum" not in outside


def test_an_empty_chain_leaves_everything_as_it_is():
    plan, params = compress.chain(), tables(0)
    learned, state = plan.init(jax.random.key(0), params, None)
    assert (learned, state) == ((), ())
    assert plan.apply(params, learned, state, None) is params
    assert plan.update(params, learned, state, None, jnp.array(0), None) == ()


def _learned_gain(name):
    """A transform that learns: a table times a number, and a state that counts the updates it has seen."""

    def init(key, params, hparams):
        return jax.random.uniform(key, minval=1.0, maxval=2.0), jnp.zeros((), int)

    def apply(params, learned, state, hparams):
        return {**params, "tables": {**params["tables"], name: params["tables"][name] * learned}}

    def update(params, learned, state, grads, step, hparams):
        return state + 1

    return compress.Transform(init, apply, update)


def test_what_a_transform_learns_is_trained_with_the_parameters():
    plan = compress.chain(_learned_gain("user"), _learned_gain("item"))
    params = {**tables(1), "net": {}, "fixed": {}, "auxiliary": {}}
    recipe = train.Recipe(
        loss=lambda params, batch, hparams, key: params["tables"]["user"].sum() + params["tables"]["item"].sum(),
        optimizer=lambda hparams: optax.sgd(hparams.learning_rate),
        transform=plan,
        gather=lambda data, ids, key: {},
    )
    before = train.init_state(recipe, params, Hparams(), jax.random.key(0))
    assert before.learned[0] != before.learned[1]  # a key each
    after, value = train.step(recipe, before, Hparams(learning_rate=0.5), {}, {})
    for i, name in enumerate(("user", "item")):
        total, gain = params["tables"][name].astype(np.float64).sum(), float(before.learned[i])
        np.testing.assert_allclose(after.learned[i], gain - 0.5 * total, rtol=1e-5)
        np.testing.assert_allclose(after.params["tables"][name], params["tables"][name] - 0.5 * gain, rtol=1e-5)
    expected = sum(float(g) * params["tables"][n].sum() for g, n in zip(before.learned, ("user", "item"), strict=True))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert [int(count) for count in after.compression] == [1, 1]


@pytest.fixture(scope="module")
def trained_member():
    """One member after 7 steps of training, pruned by half and quantized to 3 bits."""
    data, hparams = toy.rows(toy.logs()[0]), Hparams(sparsity=0.5, bits=3.0)
    params = jax.tree.map(lambda leaf: leaf[0], toy.starts(1))
    state = jax.jit(train.init_state, static_argnums=0)(toy.COMPRESSED, params, hparams, jax.random.key(0))
    step, gather = jax.jit(train.step, static_argnums=0), jax.jit(toy.gather)
    for i in range(7):
        batch = gather(data, (jnp.arange(32) + 16 * i) % len(data.user), jax.random.key(i))
        state, _ = step(toy.COMPRESSED, state, hparams, batch, {})
    return params, state, hparams


def test_masked_entries_read_as_zero_and_go_on_training(trained_member):
    start, state, hparams = trained_member
    found = effective(toy.COMPRESSED.transform, state.params, state.learned, state.compression, hparams)
    for name, keep in state.compression[0].items():
        table, keep = state.params["tables"][name], np.asarray(keep)
        assert keep.sum() == references.kept_count(keep.size, 0.5)
        np.testing.assert_array_equal(keep, references.mask_smallest(table, 0.5))  # the last step refreshed it
        assert (np.asarray(found[name])[~keep] == 0).all()
        assert (np.asarray(table)[~keep] != 0).all()
        assert (np.asarray(table) != start["tables"][name])[~keep].mean() > 0.5  # gradients came through the mask


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_what_is_trained_is_what_is_packed(trained_member, bits):
    _, state, hparams = trained_member
    hparams = hparams._replace(bits=float(bits))
    found = effective(toy.COMPRESSED.transform, state.params, state.learned, state.compression, hparams)
    item, bias = (np.asarray(found[name]) for name in ("item", "item_bias"))
    params = {"tables": {"item": item, "user": item[::-1], "item_bias": bias}, "net": {}}
    packed = compression.packed(params, bits)["tables"]
    values = np.asarray(compression.dense(packed)["item"])
    toy.same_bits(values, item)
    toy.same_bits(compression.dense(packed)["user"], item[::-1])
    masked = np.where(state.compression[0]["item"], state.params["tables"]["item"], 0)
    np.testing.assert_array_equal(values, references.fake_quant(masked, bits=bits, axis=0))
    toy.same_bits(packed["item_bias"], bias.astype(np.float16))
    again = compression.packed({"tables": {"item": values}, "net": {}}, bits)["tables"]  # packing what is packed
    assert isinstance(again["item"], prune.SparseTensor | quantize.QTensor)
    toy.same_bits(again["item"], packed["item"])
