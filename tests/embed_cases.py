"""Compressed tables of every make, and their twins in NumPy; several files test them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from references import tables as twins

from recjax import embed, prune, quantize

ROWS, DIM = 22, 8
KEY = jax.random.key(3)
KEEP = np.random.default_rng(0).random(ROWS) < 0.6
KEPT = np.random.default_rng(2).permuted(np.arange(DIM) < 3 * np.ones((ROWS, 1)), axis=1)  # three of every row
SPARSE = np.where(KEPT & (np.arange(ROWS)[:, None] != 5), np.random.default_rng(4).normal(size=(ROWS, DIM)), 0)
CUTS = dict(rows=(3, 4, 2), dims=(2, 2, 2), ranks=(3, 2))
TRAINED = np.random.default_rng(9).normal(size=(ROWS, DIM)).astype(np.float32)

INIT = {
    "hashed": lambda: embed.hashed(KEY, ROWS, DIM, buckets=5, sd=0.5),
    "quotient sum": lambda: embed.quotient_sum(KEY, ROWS, DIM, buckets=5, sd=0.5),
    "quotient product": lambda: embed.quotient_product(KEY, ROWS, DIM, buckets=5, sd=0.5),
    "quotient concat": lambda: embed.quotient_concat(KEY, ROWS, DIM, buckets=5, width=3, sd=0.5),
    "mem com": lambda: embed.mem_com(KEY, ROWS, DIM, buckets=5, sd=0.5),
    "low rank": lambda: embed.low_rank(KEY, ROWS, DIM, rank=3, sd=0.5),
    "tensor train": lambda: embed.tensor_train(KEY, ROWS, **CUTS, sd=0.5),
    "learned product": lambda: embed.learned_product(KEY, ROWS, DIM, parts=2, codes=5, sd=0.5),
    "deep hash": lambda: embed.deep_hash(KEY, ROWS, DIM, hashes=4, widths=(6, 5), sd=0.5),
    "robe": lambda: embed.robe(KEY, ROWS, DIM, size=13, block=4, sd=0.5),
    "pruned rows": lambda: embed.pruned_rows(jnp.asarray(TRAINED), KEEP),
    "mixed dims": lambda: embed.mixed_dims(KEY, (4, 18), DIM, widths=(8, 2), sd=0.5),
    "pruned to indexed rows": lambda: embed.indexed_rows(jnp.asarray(SPARSE, jnp.float32), nnz=3),
    "pruned low rank": lambda: embed.LowRank(
        embed.pruned_rows(jnp.asarray(TRAINED[:, :3]), KEEP), jnp.asarray(TRAINED[:3])
    ),
}
PACKED = {
    "product quantized": lambda: embed.pack_product(table_of("learned product")),
    "low rank of quantized": lambda: embed.quantized(table_of("low rank"), bits=4),
    "pruned of quantized": lambda: jax.jit(embed.quantized, static_argnames="bits")(table_of("pruned rows"), bits=2),
    "pruned to indexed rows, quantized": lambda: embed.quantized(table_of("pruned to indexed rows"), bits=4),
    "quotients of quantized": lambda: embed.quantized(table_of("quotient product"), bits=8),
    "rows with scale and bias": lambda: quantize.quantize_rows(jnp.asarray(TRAINED), bits=4),
}
MASK = (np.arange(ROWS * DIM) < 40).reshape(ROWS, DIM)
STEPS = jnp.full((ROWS, 1), 0.25)
AT_REST = {
    "masked": lambda: embed.Masked(jnp.asarray(TRAINED), jnp.asarray(MASK)),
    "fake quantized": lambda: embed.FakeQuantized(jnp.asarray(TRAINED), jnp.float32(3)),
    "fake quantized, packed": lambda: quantize.quantize(jnp.asarray(TRAINED), bits=3, axis=0),
    "learned step": lambda: embed.LearnedStep(jnp.asarray(TRAINED), STEPS, jnp.float32(3)),
    "learned threshold": lambda: embed.LearnedThreshold(jnp.asarray(TRAINED), STEPS - 2),
    "scored": lambda: embed.Scored(jnp.asarray(TRAINED), jnp.asarray(TRAINED[::-1]), jnp.asarray(MASK)),
    "learned step, packed": lambda: quantize.quantize_with(
        jnp.asarray(TRAINED), quantize.usable_step(STEPS), bits=3, full_range=True
    ),
    "bitmap": lambda: prune.sparsify(jnp.asarray(TRAINED), jnp.asarray(MASK)),
    "bitmap of packed": lambda: prune.sparsify(table_of("fake quantized, packed"), jnp.asarray(MASK)),
}


@functools.cache
def table_of(kind):
    """A table of some make, made once; its entries, where they would start at random, are NumPy's: nothing compiles."""
    make = (INIT | PACKED | AT_REST)[kind]
    if "pruned" in kind or "bitmap" in kind:  # shapes that depend on values
        return make()
    if kind in PACKED or kind in AT_REST:
        return jax.jit(make)()
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2, leaf.dtype), jax.eval_shape(make))


def spread(rows):
    """The rows that were kept, back in their places."""
    whole = np.zeros((ROWS, rows.shape[1]))
    whole[KEEP] = rows
    return whole


TWINS = {  # what every row is, of a table whose leaves are NumPy's
    "hashed": lambda t: twins.hashed(t.table, ROWS),
    "quotient sum": lambda t: twins.quotient_remainder(t.quotient, t.remainder, ROWS, np.add),
    "quotient product": lambda t: twins.quotient_remainder(t.quotient, t.remainder, ROWS, np.multiply),
    "quotient concat": lambda t: twins.quotient_remainder(
        t.quotient, t.remainder, ROWS, lambda a, b: np.concatenate([a, b])
    ),
    "mem com": lambda t: twins.mem_com(t.table, t.scale),
    "low rank": lambda t: np.asarray(t.table, np.float64) @ np.asarray(t.projection, np.float64),
    "tensor train": lambda t: twins.tensor_train((t.first, t.second, t.third), total=ROWS, **CUTS),
    "learned product": lambda t: twins.product_quantized(t.table, t.books),
    "deep hash": lambda t: twins.deep_hash(t.layers, ROWS),
    "robe": lambda t: twins.robe(t.memory, ROWS, DIM, 4),
    "pruned rows": lambda t: twins.pruned_rows(spread(t.table), KEEP),
    "mixed dims": lambda t: twins.mixed_dims(t.tables, t.projections),
    "pruned to indexed rows": lambda t: twins.indexed_rows(t.positions, t.values, DIM),
    "pruned low rank": lambda t: twins.pruned_rows(spread(t.table.table), KEEP) @ np.asarray(t.projection, np.float64),
}
