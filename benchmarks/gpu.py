"""What an accelerator does with this library's programs, beside its own copy bandwidth and matmul rate: one JSON.

    python -m benchmarks gpu --json benchmarks/results/gpu.json
    python -m benchmarks gpu --smoke    # tiny sizes, to see that it runs

Written for one GPU, and for eight minutes of it at most; on a CPU only with ``--smoke``. The JSON is written after
every case. A case that needs more memory than there is, is skipped and says so.

Bandwidth and matmul rate are measured first, in the same run: an array that is changed in place, and square products
in float32 (at JAX's default precision) and bfloat16. Each case has the operations of its products of matrices, counted
in the traced program, and the bytes that it has to move at least: parameters and optimizer states, once each way; of
tables that train by rows, the touched rows. What a program writes between its operations is not in them, so a fraction
of the bandwidth is a lower bound.
"""

import argparse
import dataclasses
import math
import pathlib
import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import distill_step, epoch, grid_mf, grid_mlp, scale
from benchmarks import rows as by_rows
from benchmarks._population import chunks
from benchmarks.measure import seconds
from recjax import compress, embed, grid, machine, metrics, models, quantize, train
from recjax.files import write_json
from recjax.provenance import provenance
from recjax.trees import nbytes


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large the cases are; the defaults are those of a GPU.

    Attributes:
      array: bytes of the array that is changed in place.
      square: rows of the square matrices.
      repeats: timed calls of each case.
      steps: of a chunk of training.
      mlp: members of the small net.
      mf: members of the matrix factorization.
      mf_rows: its users and its items.
      rows: rows of a table that trains by rows.
      catalog: users and items of the distillation step.
      sequences: histories of the sequential models, their length, items and width.
      blocks: of the sequential models.
      sequence_members: how many sequential models train at once.
      table: items of the packed table, and queries.
    """

    array: int = 2**32
    square: int = 8192
    repeats: int = 5
    steps: int = 64
    mlp: tuple[int, ...] = (64, 512, 4096)
    mf: tuple[int, ...] = (8, 64)
    mf_rows: tuple[int, int] = (grid_mf.USERS, grid_mf.ITEMS)
    rows: tuple[int, ...] = (10_000_000, 100_000_000)
    catalog: tuple[int, int] = (distill_step.USERS, distill_step.ITEMS)
    sequences: tuple[int, int, int, int] = (22_272, 50, 12_101, 64)
    blocks: int = epoch.BLOCKS
    sequence_members: tuple[int, ...] = (1, 8)
    table: tuple[int, int] = (1_000_000, 256)


SMOKE = Sizes(2**20, 64, 1, 2, (3,), (2,), (30, 50), (200,), (20, 60), (512, 6, 30, 8), 1, (2,), (300, 4))


class Case(NamedTuple):
    """A program that is timed.

    Attributes:
      name: what it does.
      sizes: its sizes, in words.
      make: gives a function whose call does the work, and waits for it.
      needs: bytes of memory, about.
      moves: the least bytes that a call moves.
      operations: of the products of matrices of a call.
      done: units of work of a call.
      unit: of the work, in words.
    """

    name: str
    sizes: str
    make: Callable[[], Callable[[], Any]]
    needs: float
    moves: float
    operations: float
    done: float
    unit: str


def operations(jaxpr: Any) -> int:
    """Multiplications and additions of the products of matrices in a traced program, from their shapes.

    A loop counts as often as its steps, if their number is known, and once otherwise.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _), (left, *_) = equation.params["dimension_numbers"], equation.invars
            total += 2 * equation.outvars[0].aval.size * math.prod(left.aval.shape[axis] for axis in contracted)
        inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += times * sum(operations(part) for part in inner if hasattr(part, "eqns"))
    return total


def in_place(size: int) -> Callable[[], None]:
    """Adds one to an array of so many bytes, where it is."""
    change = jax.jit(lambda x: x + 1, donate_argnums=0)
    held = [jnp.zeros(size // 4)]

    def call() -> None:
        held[0] = jax.block_until_ready(change(held[0]))

    return call


def products(size: int, dtype: Any, count: int = 8) -> Callable[[], Any]:
    """Some products of square matrices, one after the other."""
    matrix = jnp.full((size, size), 1 / size, dtype)
    run = jax.jit(lambda x: jax.lax.fori_loop(0, count, lambda _, y: y @ x, x))
    return lambda: jax.block_until_ready(run(matrix))


def timed(call: Callable[[], Any], repeats: int) -> tuple[float, list[float]]:
    """Seconds of the first call, compilation and all, and of those after the second."""
    first = seconds(call)
    seconds(call)
    return first, [seconds(call) for _ in range(repeats)]


def rates(sizes: Sizes) -> dict[str, float]:
    """Bytes a second of an array that is read and written, and operations a second of products."""

    def median(call: Callable[[], Any]) -> float:
        return statistics.median(timed(call, sizes.repeats)[1])

    work = 8 * 2 * sizes.square**3
    return {
        "copy_bytes_per_second": 2 * sizes.array / median(in_place(sizes.array)),
        "float32_operations_per_second": work / median(products(sizes.square, jnp.float32)),
        "bfloat16_operations_per_second": work / median(products(sizes.square, jnp.bfloat16)),
    }


def training(
    name: str,
    sizes: str,
    recipe: train.Recipe,
    params: Any,
    hparams: Any,
    data: Any,
    ids: jax.Array,
    *,
    moves: float | None = None,
    unit: str = "member-steps",
    done: float | None = None,
) -> Case:
    """A chunk of a population's steps; see :func:`benchmarks._population.chunks` for the arguments.

    Args:
      name: what trains.
      sizes: in words.
      recipe: how.
      params: where all members start, or their shapes.
      hparams: leaves ``[members]``.
      data: what batches are gathered from.
      ids: ``[steps, batch]``.
      moves: the least bytes of a member's step; by default all parameters and optimizer states, once each way.
      unit: see :class:`Case`.
      done: of a chunk of one member; by default its steps.

    Returns:
      The :class:`Case`.
    """
    members, steps, key = len(jax.tree.leaves(hparams)[0]), len(ids), jax.random.key(1)
    first = jax.tree.map(lambda leaf: leaf[0], hparams)
    state = jax.eval_shape(lambda: train.init_state(recipe, params, first, key))
    batch = jax.eval_shape(lambda data: recipe.gather(data, ids[0], key), data)

    def step(state: Any, batch: Any) -> Any:
        return train.step(recipe, state, first, batch, params["fixed"])

    of_batch = operations(jax.make_jaxpr(lambda data: recipe.gather(data, ids[0], key))(data).jaxpr)
    of_step = operations(jax.make_jaxpr(step)(state, batch).jaxpr)
    kept = nbytes(state._replace(key=(), step=()))
    return Case(
        name,
        f"{sizes}, {members} members",
        lambda: chunks(recipe, params, hparams, data, ids),
        2 * members * kept + nbytes(data),
        steps * members * (2 * kept if moves is None else moves),
        steps * (of_batch + members * of_step),
        members * (steps if done is None else done),
        unit,
    )


def small_net(sizes: Sizes, members: int) -> Case:
    """``grid_mlp``: a distilled 10-32-10 net."""
    keys = jax.random.split(jax.random.key(0), 4)
    data = {
        "inputs": jax.random.normal(keys[0], (grid_mlp.ROWS, grid_mlp.FEATURES)),
        "teacher": jax.random.normal(keys[1], (grid_mlp.ROWS, grid_mlp.CLASSES)),
    }
    ids = jax.random.randint(keys[2], (sizes.steps, grid_mlp.BATCH), 0, grid_mlp.ROWS)
    params = jax.jit(grid_mlp.STUDENT.init)(keys[3])
    words = f"10-32-10, batch {grid_mlp.BATCH}"
    return training("grid_mlp", words, grid_mlp.RECIPE, params, grid_mlp.members(members), data, ids)


def touched_bytes(counts: dict[int, tuple[int, int]]) -> float:
    """The least bytes of a step of Adam by rows: ``{width: (rows of a table, rows drawn)}``."""
    slots = scale.SLOTS["Adam"]
    return sum(
        scale.traffic(scale.distinct(rows, draws), width, slots(width)) for width, (rows, draws) in counts.items()
    )


def factorization(sizes: Sizes, members: int) -> Case:
    """``grid_mf``: BPR by the rows that a batch touches."""
    users, items = sizes.mf_rows
    keys = jax.random.split(jax.random.key(0), 5)
    count, batch = 8 * grid_mf.BATCH, grid_mf.BATCH
    data = {
        name: jax.random.randint(key, (count,), 0, rows)
        for name, rows, key in zip(("user", "positive", "negative"), (users, items, items), keys[:3], strict=True)
    }
    ids = jax.random.randint(keys[3], (sizes.steps, batch), 0, count)
    model, recipe = grid_mf.recipe(users, items)
    hparams = grid_mf.Hparams(jnp.linspace(0.001, 0.01, members), jnp.linspace(0.0, 0.01, members))
    moves = touched_bytes({grid_mf.DIM: (users, batch)}) + touched_bytes(
        {grid_mf.DIM: (items, 2 * batch), 1: (items, 2 * batch)}
    )
    words = f"{users:,} users x {items:,} items x {grid_mf.DIM}, batch {batch}, Adam by rows"
    return training("grid_mf", words, recipe, jax.jit(model.init)(keys[4]), hparams, data, ids, moves=moves)


def large_tables(sizes: Sizes, rows: int) -> Case:
    """``rows``: Adam by rows on two tables of half the rows each; their entries are all the same."""
    half, dim, batch = rows // 2, by_rows.DIM, by_rows.BATCH
    steps, state = by_rows.STEPS, 4 * rows * (dim + scale.SLOTS["Adam"](dim))
    keys = jax.random.split(jax.random.key(0), 3)

    def make() -> Callable[[], Any]:
        columns = ("user", "positive", "negative")
        data = {
            name: jax.random.randint(key, (steps * batch,), 0, half) for name, key in zip(columns, keys, strict=True)
        }
        ids = jnp.arange(steps * batch, dtype=jnp.int32).reshape(steps, 1, batch)
        hparams = by_rows.Hparams(jnp.full((1, 1), by_rows.RATE))

        def member(hparams: Any) -> train.TrainState:
            tables = {name: jnp.full((half, dim), 0.1) for name in ("user", "item")}
            return train.init_state(by_rows.ADAM, {"tables": tables, "net": {}, "auxiliary": {}}, hparams, keys[0])

        axes = train.MEMBER_AXES
        held = [jax.jit(jax.vmap(jax.vmap(member, out_axes=axes), out_axes=axes))(hparams)]

        def call() -> None:
            held[0], _ = jax.block_until_ready(train.run_chunk(by_rows.ADAM, held[0], hparams, ids, keys[:1], data, {}))

        return call

    moves = touched_bytes({dim: (half, batch)}) + touched_bytes({dim: (half, 2 * batch)})
    words = f"{rows:,} rows x {dim}, batch {batch}"
    return Case("rows", words, make, state, steps * moves, 0, steps, "steps")


def distillation(sizes: Sizes) -> Case:
    """``distill_step``: KL over a catalog, the teacher scored in the step."""
    users, items = sizes.catalog
    keys, dim = jax.random.split(jax.random.key(0), 4), distill_step.TEACHER_DIM
    model = models.matrix_factorization(models.MatrixFactorization(users=users, items=items, dim=distill_step.DIM))
    teacher = tuple(0.3 * jax.random.normal(key, (rows, dim)) for key, rows in zip(keys, (users, items), strict=False))

    def scored(teacher: Any, ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        return {"user": ids, "teacher": teacher[0][ids] @ teacher[1].T}

    ids = jax.random.randint(keys[2], (sizes.steps, distill_step.BATCH), 0, users)
    hparams = distill_step.Hparams(jnp.full(1, distill_step.RATE), jnp.full(1, distill_step.TAU))
    params, words = jax.jit(model.init)(keys[3]), f"{items:,} items, {distill_step.BATCH} users"
    return training("distill_step", words, distill_step.recipe_of(model, scored), params, hparams, teacher, ids)


def sequential(name: str, make: Callable[..., models.RetrievalModel], sizes: Sizes, members: int) -> Case:
    """An epoch of a sequential model, one negative a label."""
    count, length, items, dim = sizes.sequences
    keys, model = jax.random.split(jax.random.key(0), 4), make(items=items, length=length, dim=dim)
    data = {
        "window": jax.random.randint(keys[0], (count, length + 1), 0, items),
        "wrong": jax.random.randint(keys[1], (count, length), 0, items),
    }
    batch = min(256, count)
    ids = jax.random.permutation(keys[2], count)[: count // batch * batch].reshape(-1, batch)

    def gather(data: dict[str, jax.Array], ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        window = data["window"][ids]
        return {"history": window[:, :-1], "right": window[:, 1:], "wrong": data["wrong"][ids]}

    recipe = train.Recipe(epoch.sasrec_loss(model), epoch.adam, compress.chain(), gather)
    hparams = epoch.Hparams(jnp.linspace(0.001, 0.002, members), jnp.full(members, epoch.DROPOUT))
    words = f"{count:,} histories of {length} of {items:,} items, dim {dim}, batch {batch}"
    params = jax.jit(model.init)(keys[3])
    return training(name, words, recipe, params, hparams, data, ids, unit="epochs", done=1)


def best_items(sizes: Sizes, bits: int) -> Case:
    """The best 20 items by a table, packed below 32 bits."""
    (items, queries), dim, k = sizes.table, 64, 20
    keys = jax.random.split(jax.random.key(0))

    def stored() -> Any:
        table = jax.random.normal(keys[0], (items, dim))
        return table if bits == 32 else quantize.quantize(table, bits=bits, axis=0)

    size = nbytes(jax.eval_shape(stored))

    def make() -> Callable[[], Any]:
        table, query = jax.jit(stored)(), jax.random.normal(keys[1], (queries, dim))
        run = jax.jit(lambda query, table: metrics.top_k(query @ embed.lookup(table).T, k))
        return lambda: jax.block_until_ready(run(query, table))

    words, scores = f"{items:,} items x {dim} at {bits} bits, {queries} queries, k {k}", 4 * queries * items
    return Case("top_k", words, make, size + 2 * scores, size, 2 * queries * items * dim, queries, "queries")


def cases(sizes: Sizes) -> Iterator[Case]:
    """One after the other, so that one's arrays are gone before the next."""
    yield from (small_net(sizes, members) for members in sizes.mlp)
    yield from (factorization(sizes, members) for members in sizes.mf)
    yield from (large_tables(sizes, rows) for rows in sizes.rows)
    yield distillation(sizes)
    attention: dict[str, Any] = {"blocks": sizes.blocks, "heads": epoch.HEADS}
    nets = {
        "sasrec": lambda **of: models.sasrec(models.SasRec(**of, **attention)),
        "hstu": lambda **of: models.hstu(models.Hstu(**of, **attention)),
    }
    yield from (sequential(name, make, sizes, n) for name, make in nets.items() for n in sizes.sequence_members)
    yield from (best_items(sizes, bits) for bits in (32, 8, 4))


def row(case: Case, found: dict[str, float], memory: int, repeats: int) -> dict[str, Any]:
    """The figures of a case."""
    about = {"case": case.name, "sizes": case.sizes}
    if case.needs > memory:
        return about | {"skipped": f"needs {case.needs / 1e9:.1f} GB, of {memory / 1e9:.1f} GB"}
    first, times = timed(case.make(), repeats)
    median = statistics.median(times)
    return about | {
        "seconds": median,
        "spread": [min(times), max(times)],
        "first_seconds": first,
        "rate": case.done / median,
        "unit": f"{case.unit}/s",
        "bytes": case.moves,
        "operations": case.operations,
        "bandwidth_fraction": case.moves / median / found["copy_bytes_per_second"],
        "matmul_fraction": case.operations / median / found["float32_operations_per_second"],
    }


def run(sizes: Sizes, say: Callable[[dict[str, Any]], None]) -> None:
    """Every case; ``say`` gets the record so far after each."""
    about = provenance("python -m benchmarks gpu", config=dataclasses.asdict(sizes))
    record = about | {"rates": rates(sizes), "rows": []}
    for case in cases(sizes):
        record["rows"].append(row(case, record["rates"], grid.memory(), sizes.repeats))
        say(record)


def line(row: dict[str, Any]) -> str:
    """The figures of a case in words."""
    if "skipped" in row:
        return f"{row['case']}, {row['sizes']}: skipped, {row['skipped']}"
    return (
        f"{row['case']}, {row['sizes']}: {row['rate']:,.4g} {row['unit']}, {row['bandwidth_fraction']:.1%} of the copy "
        f"bandwidth, {row['matmul_fraction']:.1%} of the matmul rate; first call {row['first_seconds']:.1f} s"
    )


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=pathlib.Path, help="where to write the figures")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes")
    options = parser.parse_args(argv)
    machine.one_device_per_core()

    def say(record: dict[str, Any]) -> None:
        print(line(record["rows"][-1]), flush=True)
        if options.json:
            write_json(record, options.json)

    run(SMOKE if options.smoke else Sizes(), say)
