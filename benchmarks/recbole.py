"""A pass over the rows of a data set beside RecBole 1.2.1, the models and sizes of ``epoch``, one member and eight.

    python -m benchmarks recbole --json benchmarks/results/recbole.json    # after pip install recbole==1.2.1

    DNN     RecBole's FNN: no penalty, tanh for ReLU
    MF      RecBole's BPR: Adam, no bias of items; both draw a negative a row that its user doesn't have
    SASRec  RecBole's with its pairwise loss, inner products as long as the vectors are and dropout where ours has it

The peer is ``Trainer.fit`` over one epoch: it shuffles, draws negatives in NumPy and gives batches to PyTorch. Ours is
``train.run_chunk`` over the steps of one, negatives drawn in the step; its order is drawn beforehand, as ``grid.fit``
does while the chunk before runs. That both have as many parameters and train as many rows is checked before anything is
timed. RecBole makes a row of every prefix of a history, whose last state alone it scores, where we score the states of
all prefixes in one pass: that is most of the difference for SASRec, so a tenth of Amazon Beauty's histories are enough
there. A figure is epochs of a single member a second. Two cores; ten minutes.

RecBole reads names that NumPy 2 has no more; they are put back for it before it is imported.
"""

import contextlib
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import epoch, grid_mf
from benchmarks._population import chunks
from recjax import compress, data, models, train
from recjax.machine import one_device_per_core

BEAUTY = epoch.BEAUTY | {"steps": 8}
RATE = 0.001


class Case(NamedTuple):
    """An epoch of a model.

    Attributes:
      name: the sizes, in words.
      model: RecBole's name of it.
      options: how RecBole is to train it.
      columns: what RecBole reads, by its names and types; ``[rows]`` or, of items in their order, a history each.
      rows: that RecBole is to train an epoch.
      parameters: that ours has.
      ours: ``ours(members)``, one epoch of so many members.
    """

    name: str
    model: str
    options: dict[str, Any]
    columns: dict[str, np.ndarray]
    rows: int
    parameters: int
    ours: Callable[[int], Callable[[], Any]]


def dnn(features: int, fields: int, hidden: tuple[int, ...], batch: int, steps: int) -> Case:
    """The DNN of Frappe; RecBole has a table of its own for every field, here all of one size."""
    ours = epoch.dnn(features, fields, hidden, batch, steps)
    rng, rows, values = np.random.default_rng(0), batch * steps, features // fields
    columns = {f"field_{field}:token": covering(rng, values, rows + 2) for field in range(fields)}
    labels = {"label:float": (rng.random(rows + 2) < 1 / 3).astype(int)}
    names = [name.split(":")[0] for name in columns]
    return Case(
        ours.name,
        "FNN",
        {
            "USER_ID_FIELD": names[0],
            "ITEM_ID_FIELD": names[1],
            "load_col": {"inter": [*names, "label"]},
            "embedding_size": 10,
            "mlp_hidden_size": list(hidden),
            "dropout_prob": epoch.DROPOUT,
            "train_batch_size": batch,
            "train_neg_sample_args": None,
            "eval_args": whole(rows) | {"mode": "labeled"},
            "metrics": ["AUC"],
            "valid_metric": "AUC",
        },
        columns | labels,
        rows,
        trained(jax.eval_shape(epoch.dnn_model(features, fields, hidden).init, jax.random.key(0))),
        lambda members: ours.ours(members, epoch.DROPOUT),
    )


def mf(users: int, items: int, steps: int) -> Case:
    """The matrix factorization of CiteULike."""
    rng, rows = np.random.default_rng(0), steps * grid_mf.BATCH
    user, item = covering(rng, users, rows + 2), covering(rng, items, rows + 2)
    log = data.Interactions(user[:rows], item[:rows], np.arange(users), np.arange(items))
    model, recipe = epoch.mf_recipe(users, items)
    params = jax.jit(model.init)(jax.random.key(0))
    ids = jnp.asarray(rng.permutation(rows).reshape(steps, -1), jnp.int32)
    given = jnp.asarray(log.user), jnp.asarray(log.item), data.seen(log)

    def ours(members: int) -> Callable[[], Any]:
        hparams = grid_mf.Hparams(jnp.linspace(RATE, 10 * RATE, members), jnp.zeros(members))
        return chunks(recipe._replace(gather=grid_mf.drawn(items)), params, hparams, given, ids)

    return Case(
        f"MF, {rows:,} rows of {users:,} users and {items:,} items x {grid_mf.DIM}, batch {grid_mf.BATCH}",
        "BPR",
        {
            "load_col": {"inter": ["user_id", "item_id"]},
            "embedding_size": grid_mf.DIM,
            "train_batch_size": grid_mf.BATCH,
            "eval_args": whole(rows),
        },
        {"user_id:token": user, "item_id:token": item},
        rows,
        trained(params),
        ours,
    )


def sasrec(items: int, length: int, dim: int, batch: int, steps: int) -> Case:
    """The SASRec of Amazon Beauty."""
    rng, users = np.random.default_rng(0), batch * steps
    item = covering(rng, items, users * (length + 3)).reshape(users, -1)  # RecBole holds two out
    user = np.repeat(np.arange(users, dtype=np.int32), length + 1)
    log = data.Interactions(user, item[:, : length + 1].ravel(), np.arange(users), np.arange(items))
    config = models.SasRec(items=items, length=length, dim=dim, blocks=epoch.BLOCKS, heads=epoch.HEADS)
    model = models.sasrec(config)
    params = jax.jit(model.init)(jax.random.key(0))

    def gather(rows: Any, ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        window = rows[0][ids]
        wrong = data.uniform_negatives(key, ids, rows[1], items=items, count=length)
        return {"history": window[:, :-1], "right": window[:, 1:], "wrong": wrong}

    given = jnp.asarray(item[:, : length + 1], jnp.int32), data.seen(log)
    ids = jnp.asarray(rng.permutation(users).reshape(steps, batch), jnp.int32)
    recipe = train.Recipe(epoch.sasrec_loss(model), epoch.adam, compress.chain(), gather)
    ours = epoch.net(recipe, params, given, ids)
    columns = {"user_id:token": np.repeat(np.arange(users), length + 3), "item_id:token": item.ravel()}
    return Case(
        f"SASRec, {users:,} histories of {length} of {items:,} items, dim {dim}, batch {batch}",
        "SASRec",
        {
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "MAX_ITEM_LIST_LENGTH": length,
            "hidden_size": dim,
            "inner_size": dim,
            "n_layers": epoch.BLOCKS,
            "n_heads": epoch.HEADS,
            "hidden_act": "relu",
            "hidden_dropout_prob": epoch.DROPOUT,
            "attn_dropout_prob": 0.0,
            "loss_type": "BPR",
            "train_batch_size": batch * length,
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
        },
        columns | {"timestamp:float": np.tile(np.arange(length + 3), users)},
        users * length,
        trained(params),
        lambda members: ours(members, epoch.DROPOUT),
    )


def trained(params: Any) -> int:
    """How many of our parameters are."""
    return sum(leaf.size for name in ("tables", "net") for leaf in jax.tree.leaves(params[name]))


def covering(rng: np.random.Generator, values: int, rows: int) -> np.ndarray:
    """``[rows]`` values in random order, every one equally often but for one more or less."""
    return rng.permutation(np.arange(rows, dtype=np.int32) % values)


def whole(rows: int) -> dict[str, Any]:
    """How RecBole splits two rows more than these, so that one each are validation and test."""
    return {"split": {"RS": [rows, 1.5, 1.5]}, "order": "RO", "group_by": None, "mode": "full"}


def trainer(case: Case, folder: pathlib.Path) -> tuple[int, int, Callable[[], object]]:
    """The parameters of RecBole's model, the rows that it trains, and one epoch of it."""
    for name, value in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        setattr(np, name, value)
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer

    (folder / "log").mkdir()
    names, columns = "\t".join(case.columns), np.stack(list(case.columns.values()), axis=1)
    np.savetxt(folder / "log" / "log.inter", columns, fmt="%d", delimiter="\t", header=names, comments="")
    paths = {"data_path": str(folder), "checkpoint_dir": str(folder / "saved")}
    quiet = {"use_gpu": False, "show_progress": False, "state": "ERROR"}
    options = {**paths, **quiet, "epochs": 1, "learning_rate": RATE, **case.options}
    config = Config(model=case.model, dataset="log", config_dict=options)
    train_data, *_ = data_preparation(config, create_dataset(config))
    model = get_model(case.model)(config, train_data.dataset)
    peer = get_trainer(config["MODEL_TYPE"], case.model)(config, model)

    def run() -> None:
        peer.fit(train_data, verbose=False, saved=False)

    return sum(leaf.numel() for leaf in model.parameters()), len(train_data.dataset), run


def run(
    sizes: tuple[int, ...] = epoch.SIZES,
    frappe: Mapping[str, Any] = epoch.FRAPPE,
    citeulike: Mapping[str, Any] = epoch.CITEULIKE,
    beauty: Mapping[str, Any] = BEAUTY,
    repeats: int = 9,
) -> list[dict[str, Any]]:
    """Ours beside RecBole at each size, checked to be of one size."""
    one_device_per_core()
    rows = []
    for make in (lambda: dnn(**frappe), lambda: mf(**citeulike), lambda: sasrec(**beauty)):
        case = make()
        # RecBole makes folders where it is, and calls what its own dependencies warn of.
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parameters, count, theirs = trainer(case, pathlib.Path(folder))
            assert count == case.rows, f"RecBole trains {count} rows of {case.model}, not {case.rows}"
            np.testing.assert_allclose(parameters, case.parameters, rtol=0.05)
            peer = f"RecBole {case.model}"
            rows += [
                epoch.timed("recbole", case.name, case.ours(members), theirs, peer, "recbole", members, repeats)
                for members in sizes
            ]
    return rows
