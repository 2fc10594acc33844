"""A pass over the rows of a published data set, by one member and by eight.

    python -m benchmarks epoch --json benchmarks/results/epoch.json

    DNN     Frappe's sizes: 5,382 values of 10 fields, dim 10, 400-400-400, batches of 4,096, Adam, dropout and the L2
            penalty on the whole table of ``experiments/frappe.py``
    MF      CiteULike's sizes, of ``grid_mf``: BPR, batches of 2,048 triples, AdamW over whole tables
    SASRec  Amazon Beauty's sizes: 12,101 items, dim 64, two blocks of two heads, histories of 20 without padding, one
            negative a label, batches of 256, Adam, dropout

Ours is ``train.run_chunk`` over one epoch of steps, members spread over one JAX device a core; the DNN's products are
those of ``machine.xla_matmul_options``, as in ``experiments/frappe.py``. The peer trains one member after the other in
PyTorch as everybody writes it. Both take the same batches, which are drawn beforehand: values don't change what a step
costs, so they are uniform. The losses are compared before anything is timed, without dropout, whose draws differ. A
figure is epochs of a single member a second. Two cores; a quarter of an hour.

The bar is missed for SASRec: its products are small, and much of a step are norms, softmax and heads that change
places. The DNN is at it, from run to run on either side: products and what is around them wait for memory that other
programs on the machine use too, and one member's ratio varies by a tenth. MF has ten times the turns, as the first
second of either side is slower and an epoch takes a fiftieth of the others'.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import grid_mf
from benchmarks._population import chunks
from benchmarks.measure import compare
from recjax import compress, embed, losses, models, train
from recjax.data import Examples
from recjax.machine import one_device_per_core, xla_matmul_options

SIZES = (1, 8)
BLOCKS, HEADS = 2, 2  # of SASRec
DROPOUT, L2 = 0.2, 0.05
BARS = {1: 2.0}  # of issue 6, on two cores
FRAPPE = {"features": 5382, "fields": 10, "hidden": (400, 400, 400), "batch": 4096, "steps": 49}
CITEULIKE = {"users": grid_mf.USERS, "items": grid_mf.ITEMS, "steps": 48}
BEAUTY = {"items": 12_101, "length": 20, "dim": 64, "batch": 256, "steps": 87}


class Hparams(NamedTuple):
    """What the members of the nets differ in, and how much is dropped."""

    learning_rate: Any
    dropout: Any = 0.0


class Case(NamedTuple):
    """An epoch of a model.

    Attributes:
      name: the sizes, in words.
      peer: what the peer does, in words.
      ours: ``ours(members, dropout)``, one epoch of so many members; it gives the losses ``[steps, members]``.
      theirs: ``theirs(dropout)``, the first member's epoch; it gives the losses ``[steps]``.
      often: turns, for one of a case whose epochs take seconds.
    """

    name: str
    peer: str
    ours: Callable[..., Callable[[], Any]]
    theirs: Callable[[float], Callable[[], Any]]
    often: int = 1


def adam(hparams: Hparams) -> optax.GradientTransformation:
    """The optimizer of the nets."""
    return optax.adam(hparams.learning_rate)


def net(recipe: train.Recipe, params: Any, data: Any, ids: jax.Array) -> Callable[..., Callable[[], Any]]:
    """:attr:`Case.ours` of a net, which takes other options of the compiler too."""

    def ours(
        members: int, dropout: float, options: tuple[tuple[str, str], ...] = recipe.compiler_options
    ) -> Callable[[], Any]:
        hparams = Hparams(jnp.linspace(0.001, 0.002, members), jnp.full(members, dropout))
        return chunks(recipe._replace(compiler_options=options), params, hparams, data, ids)

    return ours


def ctr_recipe(model: models.CTRModel, *, drops: bool) -> train.Recipe:
    """Cross-entropy and an L2 penalty on whole tables, as FuxiCTR trains a CTR model; with dropout or without."""

    def loss(params: Any, batch: dict[str, jax.Array], hparams: Hparams, key: jax.Array) -> jax.Array:
        rate = {"dropout": hparams.dropout} if drops else {}
        logit = model.logit(params, batch, key, **rate)[:, 0]
        squares = sum(jnp.sum(jnp.square(embed.lookup(table))) for table in params["tables"].values())
        return losses.binary_cross_entropy(logit, batch["label"]).mean() + L2 / 2 * squares

    def gather(rows: Examples, ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        return {"fields": rows.fields[ids], "label": rows.label[ids]}

    return train.Recipe(loss, adam, compress.chain(), gather, compiler_options=xla_matmul_options())


def dnn_model(features: int, fields: int, hidden: tuple[int, ...]) -> models.CTRModel:
    """The DNN of Frappe, without its data."""
    return models.dnn(models.Fields(features=features, fields=fields, dim=10, scale=0.1), hidden=hidden)


def dnn(features: int, fields: int, hidden: tuple[int, ...], batch: int, steps: int) -> Case:
    """The DNN of Frappe."""
    keys = jax.random.split(jax.random.key(0), 4)
    rows = steps * batch
    data = Examples(
        jax.random.randint(keys[0], (rows, fields), 0, features),
        jax.random.bernoulli(keys[1], 1 / 3, (rows,)).astype(jnp.float32),
    )
    ids = jax.random.permutation(keys[2], rows).reshape(steps, batch)
    model = dnn_model(features, fields, hidden)
    params = jax.jit(model.init)(keys[3])

    return Case(
        f"DNN, {rows:,} rows of {fields} fields, {features:,} values x 10, {'-'.join(map(str, hidden))}, batch {batch}",
        "PyTorch loop, dense Adam",
        net(ctr_recipe(model, drops=True), params, data, ids),
        lambda dropout: torch_dnn(params, data, ids, 0.001, dropout),
    )


def torch_dnn(params: Any, data: Examples, ids: jax.Array, rate: float, dropout: float) -> Callable[[], list[float]]:
    """One member's epoch of the DNN in PyTorch."""
    import torch

    def parameter(values: Any) -> Any:
        return torch.nn.Parameter(torch.from_numpy(np.array(values)))

    table = torch.nn.Embedding(*params["tables"]["feature"].shape)
    table.weight = parameter(params["tables"]["feature"])
    net = torch.nn.Sequential()
    for name in (*sorted(name for name in params["net"] if name != "output"), "output"):
        layer = params["net"][name]
        dense = torch.nn.Linear(*layer["kernel"].shape)
        dense.weight, dense.bias = parameter(layer["kernel"].T), parameter(layer["bias"])
        net.append(dense)
        if name != "output":
            net.append(torch.nn.ReLU()).append(torch.nn.Dropout(dropout))
    fields, label = torch.from_numpy(np.array(data.fields)).long(), torch.from_numpy(np.array(data.label))
    optimizer = torch.optim.Adam([*table.parameters(), *net.parameters()], lr=rate)
    batches = torch.from_numpy(np.array(ids)).long()

    def run() -> list[float]:
        found = []
        for rows in batches:
            optimizer.zero_grad()
            logit = net(table(fields[rows]).flatten(1))[:, 0]
            penalty = L2 / 2 * table.weight.square().sum()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, label[rows]) + penalty
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return [float(loss) for loss in found]

    return run


def mf_recipe(users: int, items: int) -> tuple[models.RetrievalModel, train.Recipe]:
    """The model of ``grid_mf``, trained over whole tables, which at this size is the faster way."""
    model, recipe = grid_mf.recipe(users, items)

    def adamw(hparams: grid_mf.Hparams) -> optax.GradientTransformation:
        return optax.adamw(hparams.learning_rate, weight_decay=hparams.weight_decay)

    return model, recipe._replace(optimizer=adamw, rows=None)


def mf(users: int, items: int, steps: int) -> Case:
    """The matrix factorization of CiteULike."""
    keys = jax.random.split(jax.random.key(0), 5)
    triples = steps * grid_mf.BATCH
    data = {
        name: jax.random.randint(key, (triples,), 0, rows)
        for name, rows, key in zip(("user", "positive", "negative"), (users, items, items), keys[:3], strict=True)
    }
    ids = jax.random.permutation(keys[3], triples).reshape(steps, grid_mf.BATCH)
    model, recipe = mf_recipe(users, items)
    params = jax.jit(model.init)(keys[4])

    def hparams(members: int) -> grid_mf.Hparams:
        return grid_mf.Hparams(jnp.linspace(0.001, 0.01, members), jnp.linspace(0.0, 0.01, members))

    first = jax.tree.map(lambda x: x[0], hparams(1))
    return Case(
        f"MF, {triples:,} triples of {users:,} users and {items:,} items x {grid_mf.DIM}, batch {grid_mf.BATCH}",
        "PyTorch loop, dense AdamW",
        lambda members, dropout: chunks(recipe, params, hparams(members), data, ids),
        lambda dropout: grid_mf.torch_loop(params, first, data, ids, "AdamW"),
        often=10,
    )


def sasrec_loss(model: models.RetrievalModel) -> Callable[..., jax.Array]:
    """Binary cross-entropy of the next item and of one negative, after every item of a history."""

    def loss(params: Any, batch: dict[str, jax.Array], hparams: Hparams, key: jax.Array) -> jax.Array:
        assert model.queries is not None
        queries = model.queries(params, batch, key, dropout=hparams.dropout)
        right, wrong = (jnp.sum(queries * model.items(params, batch[name]), axis=-1) for name in ("right", "wrong"))
        positive = losses.binary_cross_entropy(right, jnp.ones(right.shape))
        return (positive + losses.binary_cross_entropy(wrong, jnp.zeros(wrong.shape))).mean()

    return loss


def sasrec(items: int, length: int, dim: int, batch: int, steps: int) -> Case:
    """The SASRec of Amazon Beauty."""
    keys = jax.random.split(jax.random.key(0), 4)
    rows = steps * batch
    data = {
        name: jax.random.randint(key, (rows, places), 0, items)
        for name, places, key in zip(("window", "wrong"), (length + 1, length), keys[:2], strict=True)
    }
    ids = jax.random.permutation(keys[2], rows).reshape(steps, batch)
    model = models.sasrec(models.SasRec(items=items, length=length, dim=dim, blocks=BLOCKS, heads=HEADS))
    params = jax.jit(model.init)(keys[3])

    def gather(data: dict[str, jax.Array], ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        window = data["window"][ids]
        return {"history": window[:, :-1], "right": window[:, 1:], "wrong": data["wrong"][ids]}

    return Case(
        f"SASRec, {rows:,} histories of {length} of {items:,} items, dim {dim}, batch {batch}",
        "PyTorch loop, dense Adam, scaled_dot_product_attention",
        net(train.Recipe(sasrec_loss(model), adam, compress.chain(), gather), params, data, ids),
        lambda dropout: torch_sasrec(params, data, ids, 0.001, dropout),
    )


def torch_sasrec(
    params: Any, data: dict[str, jax.Array], ids: jax.Array, rate: float, dropout: float
) -> Callable[[], list[float]]:
    """One member's epoch of SASRec in PyTorch."""
    import torch
    from torch.nn import functional

    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): torch.nn.Parameter(torch.from_numpy(np.array(leaf)))
        for path, leaf in jax.tree_util.tree_leaves_with_path({**params["net"], "item": params["tables"]["item"]})
    }
    optimizer = torch.optim.Adam(leaves.values(), lr=rate)
    batches = torch.from_numpy(np.array(ids)).long()
    window, wrong = (torch.from_numpy(np.array(data[name])).long() for name in ("window", "wrong"))

    def norm(x: Any, name: str) -> Any:
        return functional.layer_norm(x, x.shape[-1:], leaves[f"{name}/scale"], leaves[f"{name}/bias"], eps=1e-6)

    def dense(x: Any, name: str) -> Any:
        return torch.addmm(leaves[f"{name}/bias"], x.flatten(0, 1), leaves[f"{name}/kernel"]).view(x.shape)

    def heads(x: Any, name: str) -> Any:
        return (x @ leaves[f"{name}/kernel"]).unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def run() -> list[float]:
        found = []
        for rows in batches:
            optimizer.zero_grad()
            history, right, other = window[rows, :-1], window[rows, 1:], wrong[rows]
            table = leaves["item"]
            x = functional.embedding(history, table) * table.shape[1] ** 0.5 + leaves["position"]
            x = functional.dropout(x, dropout)
            for block in range(BLOCKS):
                h = norm(x, f"attention_norm_{block}")
                q, k, v = (heads(h, f"{name}_{block}") for name in ("query", "key", "value"))
                h = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
                x = x + functional.dropout(h, dropout)
                h = functional.relu(dense(norm(x, f"perceptron_norm_{block}"), f"inner_{block}"))
                x = x + functional.dropout(dense(h, f"outer_{block}"), dropout)
            x = norm(x, "norm")
            scores = [(x * functional.embedding(ids, table)).sum(-1) for ids in (right, other)]
            loss = sum(
                functional.binary_cross_entropy_with_logits(score, torch.full_like(score, label))
                for score, label in zip(scores, (1.0, 0.0), strict=True)
            )
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return [float(loss) for loss in found]

    return run


def timed(
    benchmark: str,
    case: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    peer: str,
    package: str,
    members: int,
    repeats: int,
) -> dict[str, Any]:
    """:func:`compare` of an epoch of so many members and one of the peer's."""
    return compare(
        benchmark,
        case,
        ours,
        theirs,
        peer=peer,
        package=package,
        repeats=repeats,
        work=(members, 1),
        unit="epochs/s",
        members=members,
        bar=BARS.get(members),
    )


def cases(frappe: dict[str, Any], citeulike: dict[str, Any], beauty: dict[str, Any]) -> Iterator[Case]:
    """One after the other, so that one's arrays are gone before the next."""
    yield dnn(**frappe)
    yield mf(**citeulike)
    yield sasrec(**beauty)


def run(
    sizes: tuple[int, ...] = SIZES,
    frappe: dict[str, Any] = FRAPPE,
    citeulike: dict[str, Any] = CITEULIKE,
    beauty: dict[str, Any] = BEAUTY,
    repeats: int = 9,
) -> list[dict[str, Any]]:
    """Ours beside the peer at each size, checked to give the same losses."""
    one_device_per_core()
    rows = []
    for case in cases(frappe, citeulike, beauty):
        for members in sizes:
            found, expected = np.asarray(case.ours(members, 0.0)()), case.theirs(0.0)()
            np.testing.assert_allclose(found[:, 0], expected, rtol=1e-3)
            ours, theirs = case.ours(members, DROPOUT), case.theirs(DROPOUT)
            rows.append(timed("epoch", case.name, ours, theirs, case.peer, "torch", members, repeats * case.often))
    return rows
