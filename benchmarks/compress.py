"""Masks, fake quantization of a grid of bits, gathers from packed tables and integer products, each beside its peers.

    python -m benchmarks compress --json benchmarks/results/compress.json

    masks            half of [1000, 1000] dropped by ``prune.mask_smallest`` (the share is traced), against a sort in
                     JAX, ``lax.top_k`` and ``torch.kthvalue``
    fake-quant grid  64 bit-widths of one [1000, 64] table in one program, against one program for each of the seven
                     widths among them, first calls with the compilation in them apart, and against qwix
    packed gather    4,096 rows of [100000, 64] at 8 and 4 bits, against unpacking the whole table and against
                     PyTorch's quantized embedding
    integer matmul   [batch, 1024] x [1024, 1024] at 8 bits, scales of the rows of x taken on the way, against float32
                     and against qwix

Two cores; two minutes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import compare
from recjax import prune, quantize

SPARSITY = 0.5
WIDTHS = (2, 3, 4, 5, 6, 7, 8)  # of the 64 settings, which repeat them


def masks(size: int, repeats: int) -> list[dict[str, Any]]:
    """The exact threshold by bisection against selections that sort."""
    import torch

    scores = jax.random.normal(jax.random.key(0), (size, size))
    dropped = int(SPARSITY * scores.size)

    def by_sort(x: jax.Array) -> jax.Array:
        return jnp.abs(x) > jnp.sort(jnp.abs(x).ravel())[dropped - 1]

    def by_top_k(x: jax.Array) -> jax.Array:
        return jnp.abs(x) >= jax.lax.top_k(jnp.abs(x).ravel(), x.size - dropped)[0][-1]

    tensor = torch.from_numpy(np.array(scores))

    def by_kthvalue() -> Any:
        return tensor.abs() > torch.kthvalue(tensor.abs().ravel(), dropped).values

    mask = jax.jit(prune.mask_smallest)

    def ours() -> jax.Array:
        return jax.block_until_ready(mask(jnp.abs(scores), SPARSITY))

    def jitted(function: Any) -> Any:
        compiled = jax.jit(function)
        return lambda: jax.block_until_ready(compiled(scores))

    peers = (
        ("jnp.sort", "jax", jitted(by_sort)),
        ("lax.top_k", "jax", jitted(by_top_k)),
        ("torch.kthvalue", "torch", by_kthvalue),
    )
    rows = []
    for peer, package, theirs in peers:
        np.testing.assert_array_equal(ours(), np.asarray(theirs()))
        case = f"mask of [{size}, {size}], {SPARSITY:.0%} dropped"
        rows.append(compare("compress", case, ours, theirs, peer=peer, package=package, repeats=repeats))
    return rows


def fake_quant_grid(settings: int, size: int, repeats: int) -> list[dict[str, Any]]:
    """Traced bits against bits that are part of the program."""
    import qwix

    table = jax.random.normal(jax.random.key(1), (size, 64))
    widths = [WIDTHS[i % len(WIDTHS)] for i in range(settings)]
    bits = jnp.asarray(widths, jnp.float32)
    case = f"fake quantization of [{size}, 64] by rows, {settings} settings"

    def grid(table: jax.Array, bits: jax.Array) -> jax.Array:
        return jax.vmap(lambda b: quantize.fake_quant(table, bits=b, axis=0).sum())(bits)

    def static(width: int) -> Any:
        return jax.jit(lambda table: quantize.fake_quant(table, bits=width, axis=0).sum())

    def by_qwix(width: int) -> Any:
        return jax.jit(lambda x: qwix.dequantize(qwix.quantize(x, f"int{width}", channelwise_axes=(0,))).sum())

    one = jax.jit(grid)

    def ours() -> jax.Array:
        return jax.block_until_ready(one(table, bits))

    def by_turns(make: Any) -> Any:
        programs = {width: make(width) for width in WIDTHS}
        return lambda: jax.block_until_ready([programs[width](table) for width in widths])

    rows = []
    for peer, package, make in (("a program a width", "jax", static), ("qwix, a program a width", "qwix", by_qwix)):
        theirs = by_turns(make)
        if make is static:
            np.testing.assert_allclose(ours(), np.asarray(theirs()), rtol=1e-3, atol=1e-2)
        row = compare("compress", case, ours, theirs, peer=peer, package=package, repeats=repeats, members=settings)
        first = {"ours": row["ours_first"], "theirs": row["theirs_first"]}
        once = row | first | {"case": f"{case}, compilation included", "ratio": first["theirs"] / first["ours"]}
        rows += [row, {name: value for name, value in once.items() if name != "spread"}]
    return rows


def packed_gather(table_rows: int, ids: int, repeats: int) -> list[dict[str, Any]]:
    """Rows read from packed words."""
    import torch

    table = jax.random.normal(jax.random.key(2), (table_rows, 64))
    wanted = jax.random.randint(jax.random.key(3), (ids,), 0, table_rows)
    tensor, places = torch.from_numpy(np.array(table)), torch.from_numpy(np.array(wanted)).long()
    rows = []
    for bits in (8, 4):
        packed = jax.jit(lambda x, bits=bits: quantize.quantize(x, bits=bits, axis=0))(table)
        gather = jax.jit(quantize.gather)
        unpacked = jax.jit(lambda packed, ids: quantize.dequantize(packed)[ids])

        def ours(gather: Any = gather, packed: Any = packed) -> jax.Array:
            return jax.block_until_ready(gather(packed, wanted))

        def whole(unpacked: Any = unpacked, packed: Any = packed) -> jax.Array:
            return jax.block_until_ready(unpacked(packed, wanted))

        name = "byte" if bits == 8 else "4bit"
        words = getattr(torch.ops.quantized, f"embedding_bag_{name}_prepack")(tensor)
        read = getattr(torch.ops.quantized, f"embedding_bag_{name}_rowwise_offsets")
        starts = torch.arange(ids)

        def by_torch(read: Any = read, words: Any = words, starts: Any = starts) -> Any:
            return read(words, places, starts)

        np.testing.assert_array_equal(ours(), whole())
        step = float(jnp.abs(table).max()) / (2 ** (bits - 1) - 1)
        np.testing.assert_allclose(ours(), by_torch().numpy(), atol=2 * step)  # scale and bias a row, not scale alone
        for peer, package, theirs in (
            ("the whole table unpacked", "jax", whole),
            (f"torch embedding_bag_{name}", "torch", by_torch),
        ):
            case = f"{ids} rows of [{table_rows}, 64] at {bits} bits"
            rows.append(
                compare("compress", case, ours, theirs, peer=peer, package=package, repeats=repeats, rows=table_rows)
            )
    return rows


def integer_matmul(batches: tuple[int, ...], width: int, repeats: int) -> list[dict[str, Any]]:
    """int8 products with the scales of the left side taken at run time."""
    import qwix

    weights = jax.random.normal(jax.random.key(4), (width, width))
    packed = quantize.quantize(weights, bits=8, axis=1)
    held = qwix.quantize(weights, "int8", channelwise_axes=(1,))
    product = jax.jit(quantize.int_matmul)
    plain = jax.jit(jnp.matmul)
    dynamic = jax.jit(lambda x, w: qwix.dot(qwix.quantize(x, "int8", channelwise_axes=(0,)), w))
    rows = []
    for batch in batches:
        x = jax.random.normal(jax.random.key(5), (batch, width))

        def ours(x: Any = x) -> jax.Array:
            return jax.block_until_ready(product(x, packed))

        def in_float(x: Any = x) -> jax.Array:
            return jax.block_until_ready(plain(x, weights))

        def by_qwix(x: Any = x) -> jax.Array:
            return jax.block_until_ready(dynamic(x, held))

        scale = float(jnp.abs(in_float()).max())
        for peer, package, theirs in (("float32", "jax", in_float), ("qwix, int8", "qwix", by_qwix)):
            np.testing.assert_allclose(ours(), theirs(), atol=0.03 * scale)
            case = f"[{batch}, {width}] x [{width}, {width}] at 8 bits"
            rows.append(compare("compress", case, ours, theirs, peer=peer, package=package, repeats=repeats))
    return rows


def run(
    size: int = 1000,
    settings: int = 64,
    table_rows: int = 100_000,
    ids: int = 4096,
    batches: tuple[int, ...] = (1, 512, 4096),
    width: int = 1024,
    repeats: int = 9,
) -> list[dict[str, Any]]:
    """All four."""
    return [
        *masks(size, repeats),
        *fake_quant_grid(settings, size, repeats),
        *packed_gather(table_rows, ids, repeats),
        *integer_matmul(batches, width, repeats),
    ]
