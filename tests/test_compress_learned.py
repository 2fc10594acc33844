"""What to prune is learned: thresholds against PEP's equation and its slopes, scores against a loop of SGD in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references
from toy import Hparams

from recjax import compress, embed

ROWS, DIM = 7, 4
TABLE = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
IDS = np.array([[3, 0], [3, 6]], np.int32)
READ_FEW = jax.jit(embed.lookup)
READ = jax.jit(lambda table, ids: (embed.lookup(table), embed.lookup(table, ids)))
SHARING = list(itertools.product([False, True], repeat=2))


def start(hparams):
    return hparams.sparsity


def thresholds(each_row, each_dim):
    """A plan, its logits after some training, and the logit of each entry."""
    plan = compress.learned_thresholds(["item"], initial=start, each_row=each_row, each_dim=each_dim)
    params = {"tables": {"item": jnp.asarray(TABLE), "user": jnp.asarray(TABLE)}}
    learned, state = plan.init(jax.random.key(0), params, Hparams(sparsity=-1.5))
    logits = np.asarray(learned["item"])
    assert logits.shape == (ROWS if each_row else 1, DIM if each_dim else 1)
    assert (logits == -1.5).all()
    assert state == plan.update(params, learned, state, None, jnp.array(0), Hparams()) == ()
    logits = logits + np.random.default_rng(1).normal(size=logits.shape).astype(np.float32)
    return plan, params, {"item": jnp.asarray(logits)}, np.float64(np.broadcast_to(logits, TABLE.shape))


@pytest.mark.parametrize(("each_row", "each_dim"), SHARING)
def test_thresholds_are_soft_and_shared_as_asked(each_row, each_dim):
    plan, params, learned, logits = thresholds(each_row, each_dim)
    tables = plan.apply(params, learned, (), None)["tables"]
    assert tables["user"] is params["tables"]["user"]
    sigma = 1 / (1 + np.exp(-logits))
    twin = references.soft_threshold(TABLE, sigma).reshape(TABLE.shape)
    whole, few = READ(tables["item"], IDS)
    np.testing.assert_allclose(whole, twin, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(few, twin[IDS], rtol=1e-5, atol=1e-7)
    assert 0 < (twin == 0).sum() < twin.size
    view = embed.view(tables["item"], embed.touched(tables["item"], IDS))
    np.testing.assert_array_equal(READ_FEW(view, IDS), few)
    assert np.isnan(READ_FEW(view, np.array([[1, -1], [ROWS, 5]], np.int32))).all()  # rows that are not held
    assert tables["item"].shape == TABLE.shape
    assert tables["item"].nbytes == 4 * (TABLE.size + learned["item"].size)

    weights = np.random.default_rng(2).normal(size=TABLE.shape).astype(np.float32)

    def total(params, learned):
        return jnp.sum(weights * embed.lookup(plan.apply(params, learned, (), None)["tables"]["item"]))

    to_params, to_logits = jax.jit(jax.grad(total, (0, 1)))(params, learned)
    left = np.abs(TABLE) > sigma
    np.testing.assert_allclose(to_params["tables"]["item"], weights * left, rtol=1e-6)
    slopes = -weights * left * np.sign(TABLE) * sigma * (1 - sigma)
    shared = tuple(axis for axis, own in enumerate((each_row, each_dim)) if not own)
    np.testing.assert_allclose(to_logits["item"], slopes.sum(axis=shared, keepdims=True), rtol=1e-4, atol=1e-6)


def test_starts_of_thresholds_are_one_program_and_decide_how_much_is_pruned():
    plan, params, _, _ = thresholds(True, True)

    def kept(initial):
        learned, _ = plan.init(jax.random.key(0), params, Hparams(sparsity=initial))
        return jnp.sum(embed.lookup(plan.apply(params, learned, (), None)["tables"]["item"]) != 0)

    starts = np.array([-15.0, -1.0, 0.0, 4.0])
    twin = [(np.abs(TABLE) > 1 / (1 + np.exp(-s))).sum() for s in starts]
    assert jax.jit(jax.vmap(kept))(starts).tolist() == twin


PATHS = {"item": (ROWS, DIM), "net/output/kernel": (DIM, 3)}
MOVEMENT = compress.movement_pruning(list(PATHS), sparsity=lambda hparams, step: hparams.sparsity * (step + 1), every=2)


def movement_params():
    rng = np.random.default_rng(3)
    kernel = jnp.asarray(rng.normal(size=PATHS["net/output/kernel"]), jnp.float32)
    return {"tables": {"item": jnp.asarray(TABLE)}, "net": {"output": {"kernel": kernel}}}


def leaves(params):
    return dict(zip(PATHS, (embed.lookup(params["tables"]["item"]), params["net"]["output"]["kernel"]), strict=True))


@jax.jit
def movement_step(params, learned, state, pulls, step, hparams):
    """A step of SGD on the sum of what is read, each entry times a pull; what was read."""

    def total(trained):
        seen = leaves(MOVEMENT.apply(*trained, state, hparams))
        return sum(jnp.sum(pulls[path] * leaf) for path, leaf in seen.items()), seen

    (_, seen), grads = jax.value_and_grad(total, has_aux=True)((params, learned))
    optimizer = optax.sgd(hparams.learning_rate)
    change, _ = optimizer.update(grads, optimizer.init(grads))
    params, learned = optax.apply_updates((params, learned), change)
    return params, learned, MOVEMENT.update(params, learned, state, grads[0], step, hparams), seen


def test_scores_move_and_the_lowest_go():
    params, hparams = movement_params(), Hparams(learning_rate=0.3, sparsity=0.15)
    learned, state = MOVEMENT.init(jax.random.key(0), params, hparams)
    assert all((score == 0).all() for score in learned.values())
    w = {path: np.float64(leaf) for path, leaf in leaves(params).items()}
    s, m = ({path: make(shape) for path, shape in PATHS.items()} for make in (np.zeros, np.ones))
    rng = np.random.default_rng(4)
    for step in range(5):
        pulls = {path: rng.normal(size=shape).astype(np.float32) for path, shape in PATHS.items()}
        params, learned, state, seen = movement_step(params, learned, state, pulls, step, hparams)
        for path in PATHS:
            np.testing.assert_allclose(seen[path], w[path] * m[path], rtol=1e-5, atol=1e-6)
            to_score, to_weight = pulls[path] * w[path], pulls[path] * m[path]
            s[path], w[path] = s[path] - 0.3 * to_score, w[path] - 0.3 * to_weight
            if step % 2 == 0:
                m[path] = references.mask_globally([s[path]], np.float32(0.15) * (step + 1), signed=True)[0]
            np.testing.assert_allclose(learned[path], s[path], rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(state[path], m[path])
    assert all(0 < mask.sum() < mask.size for mask in m.values())
    table = MOVEMENT.apply(params, learned, state, hparams)["tables"]["item"]
    assert table.shape == TABLE.shape
    assert table.nbytes == 8 * TABLE.size + -(-TABLE.size // 8)
    view = embed.view(table, embed.touched(table, IDS))
    np.testing.assert_array_equal(READ_FEW(view, IDS), READ(table, IDS)[1])
    assert np.isnan(READ_FEW(view, np.array([[1, -1], [ROWS, 5]], np.int32))).all()
