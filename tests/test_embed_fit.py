"""Tables fitted to a trained one, against NumPy's least squares and singular values; and how tables start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import tables as twins

from recjax import artifact, embed, prune
from recjax.embed import lookup
from recjax.errors import InputError

ROWS, DIM = 12, 6
TABLE = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
X = jnp.asarray(TABLE)


READ = jax.jit(lookup)


def error(fitted):
    return float(np.square(np.asarray(READ(fitted), np.float64) - TABLE).sum())


def least_squares(columns, build):
    """The least error of any table that is linear in so many numbers, by NumPy's least squares."""
    design = np.stack([build(unit).ravel() for unit in np.eye(columns)], axis=1)
    best = np.linalg.lstsq(design, TABLE.ravel().astype(np.float64), rcond=None)[0]
    return float(np.square(design @ best - TABLE.ravel()).sum())


def test_low_rank_is_as_near_as_the_singular_values_allow():
    values = np.linalg.svd(TABLE.astype(np.float64), compute_uv=False)
    assert error(embed.fit_low_rank(X, rank=2)) == pytest.approx(np.square(values[2:]).sum(), rel=1e-4)
    assert error(embed.fit_low_rank(X, rank=DIM)) < 1e-9


def test_tensor_train_is_exact_at_full_rank_and_quasi_optimal_below():
    cuts = dict(rows=(2, 3, 2), dims=(1, 3, 2))
    fit = jax.jit(lambda table, ranks: embed.fit_tensor_train(table, **cuts, ranks=ranks), static_argnums=1)
    assert error(fit(X, (99, 99))) < 1e-9
    unfolded = TABLE.reshape(2, 3, 2, 1, 3, 2).transpose(0, 3, 1, 4, 2, 5).astype(np.float64)
    lost = [np.square(np.linalg.svd(unfolded.reshape(n, -1), compute_uv=False)[r:]).sum() for n, r in ((2, 1), (18, 2))]
    assert max(lost) * (1 - 1e-5) <= error(fit(X, (1, 2))) <= sum(lost) * (1 + 1e-5)
    short = fit(X[:11], (99, 99))
    np.testing.assert_allclose(lookup(short), TABLE[:11], atol=1e-5)


@pytest.mark.parametrize("buckets", [4, 5])  # 5 doesn't divide the rows
def test_hashed_and_quotients_are_the_least_squares(buckets):
    size, over = buckets * DIM, -(-ROWS // buckets)
    best = least_squares(size, lambda x: twins.hashed(x.reshape(buckets, DIM), ROWS))
    assert error(embed.fit_hashed(X, buckets=buckets)) == pytest.approx(best, rel=1e-5)

    def split(x, left, right, join):
        one, other = x[: over * left].reshape(over, left), x[over * left :].reshape(buckets, right)
        return twins.quotient_remainder(one, other, ROWS, join)

    best = least_squares(over * DIM + size, lambda x: split(x, DIM, DIM, np.add))
    assert error(embed.fit_quotient_sum(X, buckets=buckets)) == pytest.approx(best, rel=1e-4)
    best = least_squares(over * 4 + buckets * 2, lambda x: split(x, 4, 2, lambda a, b: np.concatenate([a, b])))
    assert error(embed.fit_quotient_concat(X, buckets=buckets, width=2)) == pytest.approx(best, rel=1e-5)


def test_products_are_the_best_of_rank_one():
    grid = TABLE.astype(np.float64).reshape(3, 4, DIM)
    lost = sum(np.square(np.linalg.svd(grid[..., d], compute_uv=False)[1:]).sum() for d in range(DIM))
    assert error(embed.fit_quotient_product(X, buckets=4)) == pytest.approx(lost, rel=1e-3)
    lost = sum(np.square(np.linalg.svd(grid[:, b], compute_uv=False)[1:]).sum() for b in range(4))
    assert error(embed.fit_mem_com(X, buckets=4)) == pytest.approx(lost, rel=1e-3)
    few, many = (error(embed.fit_quotient_product(X, buckets=5, rounds=n)) for n in (1, 50))
    assert many <= few * (1 + 1e-6)


@pytest.mark.parametrize("missing", [0, 1])
def test_products_do_not_start_at_a_row_orthogonal_to_the_optimum(missing):
    rows = np.array([[0, 3], [2.5, 0], [2.5, 0]], np.float32)  # the longest row isn't in the best rank 1
    off = np.square(np.asarray(lookup(embed.fit_mem_com(jnp.asarray(rows), buckets=1))) - rows).sum()
    assert off == pytest.approx(9, rel=1e-5)
    column = rows.reshape(-1, 1)[: 6 - missing]
    off = np.square(np.asarray(lookup(embed.fit_quotient_product(jnp.asarray(column), buckets=2))) - column).sum()
    assert off <= 9 * (1 + 1e-5)


def test_k_means_finds_tight_clusters_from_every_seed():
    rng = np.random.default_rng(1)
    centers = 10 * rng.normal(size=(10, 4))
    rows = np.float32(np.repeat(centers, 20, axis=0) + 0.05 * rng.normal(size=(200, 4)))
    groups = rows.reshape(10, 20, 4).astype(np.float64)
    best = np.square(groups - groups.mean(1, keepdims=True)).sum()
    fit = jax.jit(lambda key: lookup(embed.fit_learned_product(key, jnp.asarray(rows), parts=1, codes=10)))
    for seed in range(3):
        assert np.square(np.asarray(fit(jax.random.key(seed))) - rows).sum() == pytest.approx(best, rel=1e-3)


def test_robe_is_the_least_squares():
    best = least_squares(10, lambda x: twins.robe(x[:, None], ROWS, DIM, 3))
    assert error(embed.fit_robe(X, size=10, block=3)) == pytest.approx(best, rel=1e-5)


def test_mixed_dims_are_the_best_of_each_group():
    lost = sum(
        np.square(np.linalg.svd(group.astype(np.float64), compute_uv=False)[width:]).sum()
        for group, width in ((TABLE[:4], 3), (TABLE[4:], 1))
    )
    assert error(embed.fit_mixed_dims(X, (4, 8), widths=(3, 1))) == pytest.approx(lost, rel=1e-4)


def test_more_rounds_of_k_means_never_make_it_worse():
    fit = jax.jit(lambda rounds: embed.fit_learned_product(jax.random.key(1), X, parts=2, codes=4, rounds=rounds))
    pack, errors = jax.jit(embed.pack_product), []
    for rounds in (0, 1, 2, 5):
        fitted = fit(rounds)
        packed = pack(fitted)
        np.testing.assert_array_equal(READ(packed), READ(fitted))
        np.testing.assert_allclose(READ(packed), twins.product_quantized(TABLE, np.asarray(fitted.books)), atol=1e-6)
        errors.append(error(packed))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]
    with pytest.raises(ValueError, match="codes: expected at most 12"):
        embed.fit_learned_product(jax.random.key(1), X, parts=2, codes=13)


def test_a_nan_is_not_hidden_by_its_code():
    books = jnp.arange(6.0).reshape(2, 3, 1)
    packed = embed.pack_product(embed.LearnedProduct(jnp.array([[0.0, 4.0], [jnp.nan, 5.0]]), books))
    np.testing.assert_array_equal(READ(packed), [[np.nan, 4], [np.nan, 5]])


def test_a_table_of_one_row_is_met_exactly_and_is_all_there_is():
    @jax.jit
    def read(table):
        fitted = (
            embed.fit_hashed(table, buckets=1),
            embed.fit_quotient_sum(table, buckets=1),
            embed.fit_quotient_product(table, buckets=1),
            embed.fit_quotient_concat(table, buckets=1, width=2),
            embed.fit_mem_com(table, buckets=1),
            embed.fit_low_rank(table, rank=1),
            embed.fit_learned_product(jax.random.key(0), table, parts=2, codes=1),
            embed.pruned_rows(table, np.array([True])),
        )
        return [lookup(one, jnp.array([0, 1, -1])) for one in fitted]

    for found in read(X[:1]):
        np.testing.assert_allclose(found, np.stack([TABLE[0], *[np.full(DIM, np.nan)] * 2]), atol=1e-5)


def test_commitment_pulls_the_books_and_the_task_moves_the_rows():
    table = embed.fit_learned_product(jax.random.key(1), X, parts=2, codes=4, rounds=1)
    ids = jnp.array([1, 3])
    pull = jax.grad(lambda t: t.commitment(ids).sum())(table)
    codes = twins.product_codes(TABLE[[1, 3]], np.asarray(table.books))
    expected = np.zeros(table.books.shape)
    for row, code in zip(TABLE[[1, 3]].reshape(2, 2, 3), codes, strict=True):
        for p in range(2):
            expected[p, code[p]] += 2 * (np.asarray(table.books)[p, code[p]] - row[p])
    np.testing.assert_allclose(pull.books, expected, atol=1e-5)
    np.testing.assert_array_equal(pull.table, 0)
    task = jax.grad(lambda t: (3 * lookup(t, ids)).sum())(table)
    np.testing.assert_array_equal(task.table[1], 3)
    np.testing.assert_array_equal(task.books, 0)


@jax.jit
def started():
    """The standard deviation of tables as they start."""
    key, cuts = jax.random.key(0), dict(rows=(20, 20, 20), dims=(2, 2, 2), ranks=(8, 8))
    tables = (
        embed.tensor_train(key, 8000, **cuts),
        embed.tensor_train(key, 8000, **cuts, sd=0.3),
        embed.low_rank(key, 1000, 64, rank=16, sd=0.3),
        embed.quotient_sum(key, 4000, 64, buckets=64, sd=0.3),
        embed.quotient_product(key, 4000, 64, buckets=64, sd=0.3),
        embed.robe(key, 1000, 64, size=5000, block=8, sd=0.3),
    )
    return [lookup(table).std() for table in tables]


def test_a_network_of_hashes_starts_with_the_spread_that_was_asked_for_at_any_depth():
    @jax.vmap
    def squares(key):
        nets = (embed.deep_hash(key, 10, 8, hashes=32, widths=widths, sd=0.3) for widths in ((), (128,) * 5))
        return [jnp.square(lookup(net)).mean() for net in nets]

    found = [float(jnp.sqrt(square.mean())) for square in jax.jit(squares)(jax.random.split(jax.random.key(0), 100))]
    np.testing.assert_allclose(found, 0.3, rtol=0.15)


def test_tables_start_with_the_spread_that_was_asked_for():
    np.testing.assert_allclose(started(), [(1 / (3 * 8000)) ** 0.5, *[0.3] * 5], rtol=0.15)


def test_hashes_of_neighbors_have_nothing_in_common():
    places, signs = embed.Robe(jnp.zeros((64, 1)), 64_000, 1, 1).places(jnp.arange(64_000))
    counts = np.bincount(np.asarray(places).ravel(), minlength=64)
    assert np.square(counts - 1000).sum() / 1000 < 104  # chi squared with 63 degrees of freedom, at .001
    assert abs(float(signs.mean())) < 0.015


def test_widths_are_powers_of_two_by_popularity():
    assert embed.mixed_widths([10, 10_000], 16, alpha=0.0) == (16, 16)
    assert embed.mixed_widths([100, 1600], 16, alpha=0.5) == (16, 4)
    assert embed.mixed_widths([1, 10**9], 16, alpha=1.0) == (16, 1)


@pytest.mark.parametrize("spoil", [lambda b: b[:-3], lambda b: b"x" + b, lambda b: b.replace(b"LowRank", b"LowRunk")])
def test_a_file_that_is_damaged_or_foreign_is_named(spoil, tmp_path):
    path = tmp_path / "weights.safetensors"
    artifact.save_params(path, {"item": embed.fit_low_rank(X, rank=2)})
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match=r"weights\.safetensors: expected parameters"):
        artifact.load_params(path)


def test_trees_of_any_make_come_back_and_other_things_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    sparse = prune.sparsify(X, X > 1)
    tree = {
        "a": [X, None, (np.float16([1, 2]),)],
        "keep": embed.Masked(X, X > 0),
        "n": {},
        "sparse": sparse,
        "scalar": jnp.int32(3),
    }
    size = artifact.save_params(path, tree)
    loaded = artifact.load_params(path)
    assert jax.tree.structure(loaded) == jax.tree.structure(tree)
    for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(tree), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert size - header == 2 * TABLE.nbytes + 9 + sparse.nbytes + 4 + 4
    with pytest.raises(TypeError, match="got function"):
        artifact.save_params(path, {"net": lambda: 0})
