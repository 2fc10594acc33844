"""Sparse rows of positions and values: against a twin that reads bits, a full sort, and what is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from references import tables as twins

from recjax import artifact, compress, embed, prune


def sparse(rows, dim, nnz, seed=0):
    """A table with from 0 to ``nnz`` non-zeros a row, the first and the last position among them."""
    rng = np.random.default_rng(seed)
    table = np.zeros((rows, dim), np.float32)
    for i, row in enumerate(table):
        row[rng.choice(dim, min(i, nnz), replace=False)] = rng.normal(size=min(i, nnz))
    table[-1] = 0
    table[-1, [0, -1]] = 1.5
    return table


@pytest.mark.parametrize(("dim", "bits"), [(2, 1), (6, 3), (256, 8), (257, 9), (700, 10), (65_536, 16)])
def test_positions_of_every_width_read_back(dim, bits, tmp_path):
    nnz = 2 if dim == 2 else 5
    table = sparse(8, dim, nnz)
    packed = embed.indexed_rows(jnp.asarray(table), nnz=nnz)
    assert packed.shape == table.shape
    assert packed.nbytes == 8 * (-(-nnz * bits // 8) + 4 * nnz)
    np.testing.assert_array_equal(twins.indexed_rows(packed.positions, packed.values, dim), table)
    np.testing.assert_array_equal(embed.lookup(packed), table)
    np.testing.assert_array_equal(embed.lookup(packed, np.array([[7, 2], [0, 7]])), table[[[7, 2], [0, 7]]])
    path = tmp_path / "weights.safetensors"
    artifact.save_params(path, embed.quantized(packed, bits=8))
    loaded = artifact.load_params(path)
    assert loaded.nbytes == 8 * (-(-nnz * bits // 8) + nnz + 2)
    np.testing.assert_array_equal(embed.lookup(loaded), references.fake_quant(table, bits=8, axis=0))


def test_more_non_zeros_than_pairs_are_refused_and_nan_is_seen():
    table = jnp.asarray(sparse(8, 9, 4))
    with pytest.raises(ValueError, match="table: expected at most 3 non-zeros per row, got 4"):
        embed.indexed_rows(table, nnz=3)
    for nnz in (0, 10):
        with pytest.raises(ValueError, match=f"nnz: expected 1 to 9 \\(the dim\\), got {nnz}"):
            embed.indexed_rows(table, nnz=nnz)
    with pytest.raises(ValueError, match=r"table: expected shape \[rows, dim\] .* got \(9,\)"):
        embed.indexed_rows(table[0], nnz=3)
    broken = embed.indexed_rows(table.at[2, 7].set(jnp.nan), nnz=4)
    np.testing.assert_array_equal(np.argwhere(np.isnan(embed.lookup(broken))), [[2, 7]])


def top_k(table, k):
    """The k largest of each row by a full sort, the first of equal ones."""
    order = np.argsort(-np.abs(table), axis=1, kind="stable")
    return np.argsort(order, axis=1) < k


def test_masks_keep_the_k_largest_of_each_row_of_any_k():
    table = np.random.default_rng(1).integers(-3, 4, size=(7, 6)).astype(np.float32)  # with ties and zeros
    counts = jnp.array([0, 1, 2, 5, 6, 9, -1])
    found = jax.jit(jax.vmap(lambda k: prune.mask_top_k(table, k, axis=0)))(counts)
    for k, keep in zip(counts.tolist(), found, strict=True):
        np.testing.assert_array_equal(keep, top_k(table, k), err_msg=str(k))
    np.testing.assert_array_equal(prune.mask_top_k(table.T, 2.9, axis=1).T, top_k(table, 2))
    np.testing.assert_array_equal(prune.mask_top_k(table, 4).ravel(), top_k(table.reshape(1, -1), 4)[0])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_is_trained_is_what_is_packed(bits):
    plan = compress.chain(
        compress.top_k_pruning(["item"], k=lambda hparams, step: hparams["k"] + 6 - 3 * step, every=2),
        compress.row_quantization(["item"], bits=lambda hparams: hparams["bits"]),
    )
    table = np.random.default_rng(3).normal(size=(9, 12)).astype(np.float32)
    params = {"tables": {"item": jnp.asarray(table)}}
    hparams = {"k": jnp.array([1.0, 3.0, 4.0]), "bits": jnp.full(3, float(bits))}

    @jax.jit
    @jax.vmap
    def seen(hparams):
        learned, state = plan.init(jax.random.key(0), params, hparams)
        for step in range(4):  # at steps 0 and 2 the masks are refreshed
            state = plan.update(params, learned, state, None, jnp.array(step), hparams)
        return embed.lookup(plan.apply(params, learned, state, hparams)["tables"]["item"])

    for k, read in zip((1, 3, 4), seen(hparams), strict=True):
        twin = references.fake_quant(np.where(top_k(table, k), table, 0), bits=bits, axis=0)
        np.testing.assert_array_equal(read, twin)
        kept = np.where(top_k(table, k), table, 0)
        packed = embed.quantized(embed.indexed_rows(jnp.asarray(kept), nnz=k), bits=bits)
        np.testing.assert_array_equal(embed.lookup(packed), read)
        again = embed.quantized(embed.indexed_rows(read, nnz=k), bits=bits)  # of what a model reads
        np.testing.assert_array_equal(embed.lookup(again), read)
