"""Top-N baselines at their published quality: closed forms, factorization, LightGCN, SimpleX and VBPR.

Command:   python -m experiments.baselines_topn --json experiments/results/baselines_topn.json
           and with --data for one of the data sets alone; each writes its part of the JSON, and goes on where it was
           cut: a model that the JSON has is not measured again unless it is taken out of it
Hardware:  two CPU cores, no accelerator
Wall time: stated of every model, and of every data set
Expected:  the figures of the JSON; published ones are printed beside ours

The whole catalogue is ranked but for what a user has in train. Hyperparameters and the epoch are chosen on validation
by NDCG@20, as a mean over seeds, and test is looked at once. gowalla has no validation part: a random tenth of each
user's train rows is one, settings and the number of epochs are chosen there with one seed, and what is chosen trains
anew on all of train; where there is one setting, for as long as planned, at once. Learning rates fall linearly to zero.

Which loss and which ranges was settled on the validation of seed 0: cosines with many negatives a batch by the
contrastive loss of SimpleX or, on tiktok, where popularity says much, by a softmax, validated better than BPR on inner
products; on citeulike both are in the JSON. LightGCN learns by the contrastive loss too, but on gowalla by BPR, as
published, and by the softmax of inner products with a penalty, which validated better there. MF learns there by the
softmax of cosines too, which after six epochs validated better than the contrastive loss and tests worse. On gowalla
margin, weights, the share of the user's own vector and the dropout of a tenth of each query's entries of MF and SimpleX
are those of SimpleX's authors; they draw 800 and 2,000 negatives for every row, here 64 rows share 1,000, and their
SimpleX weighs a history by attention. Two rows more say what twice the epochs and four times the negatives change.
BARS's figure for MF on gowalla is by BPR; for the contrastive loss SimpleX's authors have .1837 and .1493, both chosen
on test.

citeulike is the published protocol (every user of train counts, also without a test row), whose file order makes most
test items unknown to train; conclusions are for citeulike-random. An epoch leaves out the rows that don't fill a last
batch. ml-100k is a random tenth of each user's rows a part, ratings of any height.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import multiprocessing
import pathlib
from collections.abc import Callable, Iterator
from json import loads
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from experiments import topn
from experiments.real import DATA
from experiments.record import over_seeds, plus_minus, resumed, stamped
from experiments.topn import Training
from recjax import data, evaluate, grid, machine, models
from recjax.files import write_json
from recjax.provenance import provenance

COMMAND = "python -m experiments.baselines_topn --data {} --json experiments/results/baselines_topn.json"
CELLS = 2**25  # users x items that are judged at every validation of a training
NEIGHBORS, SHRINKAGES = (20, 60, 200), (0.0, 10.0)
RCE_KD = "RCE-KD (arXiv 2509.20989), MF of 400, MF of 20, LightGCN of 2000 dimensions"
LATER = "user-kNN, of later items alone"  # shows what the order of citeulike's file gives away
FACTORIZATION = {
    "recall@20": 0.1627,
    "ndcg@20": 0.1378,
    "from": "BARS, tuned; .1291 and .1109 in the LightGCN paper",
}
LIGHTGCN = {"recall@20": 0.1830, "ndcg@20": 0.1554, "from": "the LightGCN paper, 3 layers"}
SIMPLEX = {"recall@20": 0.1872, "ndcg@20": 0.1557, "from": "BARS"}
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "citeulike": {
        "MF by BPR, 20-d": {"ndcg@10": 0.0098, "recall@10": 0.0177, "from": RCE_KD},
        "MF, 20-d": {"ndcg@10": 0.0098, "recall@10": 0.0177, "from": RCE_KD},
        "MF, 400-d": {"ndcg@10": 0.0155, "recall@10": 0.0283, "from": RCE_KD},
        "LightGCN, 64-d": {"ndcg@10": 0.0160, "recall@10": 0.0296, "from": RCE_KD},
    },
    "gowalla": {
        "MF, 64-d": FACTORIZATION,
        "MF by softmax, 64-d": FACTORIZATION,
        "SimpleX, 64-d": SIMPLEX,
        "SimpleX, 64-d, 60 epochs": SIMPLEX,
        "SimpleX, 64-d, by 16 rows": SIMPLEX,
        "LightGCN by BPR, 64-d": LIGHTGCN,
        "LightGCN, 64-d": LIGHTGCN,
    },
}
Name = Literal["ml-100k", "citeulike", "citeulike-random", "gowalla", "tiktok"]
NAMES = get_args(Name)


@dataclasses.dataclass(frozen=True)
class Bench:
    """A data set and how it is judged.

    Attributes:
      name: of the data set.
      split: its parts.
      protocol: who is judged.
      refit: train what was chosen once more, with the rows of valid in train.
    """

    name: str
    split: data.Split
    protocol: evaluate.Protocol
    refit: bool

    @property
    def whole(self) -> data.Interactions:
        """What the final model learns from, and what isn't ranked in test."""
        return topn.both(self.split.train, self.split.valid) if self.refit else self.split.train


def bench(name: str) -> Bench:
    """One of the data sets."""
    return Bench(name, topn.read(name), evaluate.Protocol(count_empty=name == "citeulike"), name == "gowalla")


Judge = Callable[[data.Interactions, data.Interactions, tuple], evaluate.Ranking]


def closed(setup: Bench, judge: Judge, settings: dict[str, tuple]) -> dict[str, Any]:
    """Figures of a closed form, its setting chosen on validation; ``judge(truth, known, setting)`` fits and ranks."""
    split = setup.split
    combinations = list(itertools.product(*settings.values()))
    valid = [0.0]
    if len(combinations) > 1:
        valid = [topn.figures(judge(split.valid, split.train, one))["ndcg@20"] for one in combinations]
    chosen = combinations[int(np.argmax(valid))]
    found = topn.figures(judge(split.test, setup.whole, chosen))
    curve = [[*one, value] for one, value in zip(combinations, valid, strict=True)]
    return {
        "test": {name: over_seeds([value]) for name, value in found.items()},
        "chosen": dict(zip(settings, chosen, strict=True)),
        "validation": curve if len(combinations) > 1 else None,
    }


def popularity(setup: Bench) -> dict[str, Any]:
    """How often an item is in train."""

    def judge(truth: data.Interactions, known: data.Interactions, setting: tuple) -> evaluate.Ranking:
        model, params = models.popularity(known.items), models.fit_popularity(known.item, items=known.items)
        queries = model.query(params, {"user": jnp.arange(known.users)})
        return evaluate.rank(queries, model.items(params), truth, known, k=topn.K, protocol=setup.protocol)

    return closed(setup, judge, {})


def ease(setup: Bench) -> dict[str, Any]:
    """EASE, by items or, where they are more, by users."""

    def judge(truth: data.Interactions, known: data.Interactions, setting: tuple) -> evaluate.Ranking:
        history = topn.matrix(known)
        model = models.fit_ease(history, regularization=setting[0])
        return topn.rank_scores(lambda users: model.scores(history[users]), truth, known, protocol=setup.protocol)

    return closed(setup, judge, {"regularization": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)})


def knn(setup: Bench, by_items: bool, later: bool = False) -> dict[str, Any]:
    """Neighbors of items or of users; sparse to the end, so that the catalogue may be large.

    Args:
      setup: the data set.
      by_items: whose neighbors.
      later: rank no item but those whose number is above all that the user has in train.
    """

    def judge(truth: data.Interactions, known: data.Interactions, setting: tuple) -> evaluate.Ranking:
        history = topn.matrix(known)
        of_items = models.fit_item_knn(history, neighbors=setting[0], shrinkage=setting[1]) if by_items else None
        of_users = models.UserKnn(history, neighbors=setting[0], shrinkage=setting[1])

        def scores(users: np.ndarray) -> np.ndarray:
            found = of_items.scores(history[users]) if of_items else of_users.scores(history[users], own=users)
            return np.where(numbered_above(known, users), found, -np.inf) if later else found

        return topn.rank_scores(scores, truth, known, protocol=setup.protocol)

    return closed(setup, judge, {"neighbors": NEIGHBORS, "shrinkage": SHRINKAGES})


def numbered_above(known: data.Interactions, users: np.ndarray) -> np.ndarray:
    """``[users, items]`` bool, whether an item's raw id is a larger number than those of all that a user has."""
    numbers, last = known.item_ids.astype(int), np.full(known.users, -1)
    np.maximum.at(last, known.user, numbers[known.item])
    return numbers > last[users, None]


def content(setup: Bench, features: np.ndarray) -> dict[str, Any]:
    """The features of the items alone."""
    model, params = models.content_based(models.ContentBased(*features.shape)), models.fit_content_based(features)

    def judge(truth: data.Interactions, known: data.Interactions, setting: tuple) -> evaluate.Ranking:
        longest = int(np.bincount(known.user).max())
        queries = model.query(params, {"history": topn.histories(known, longest)})
        return evaluate.rank(queries, model.items(params), truth, known, k=topn.K, protocol=setup.protocol)

    return closed(setup, judge, {})


Make = Callable[[data.Interactions], Training]


def trained(setup: Bench, name: str, make: Make) -> dict[str, Any]:
    """Figures of a model that is trained, over seeds."""
    split = setup.split

    def say(text: str) -> None:
        print(f"{setup.name}, {name}: {text}", flush=True)

    training = make(split.train)
    seeds, epochs, place, valid = range(training.seeds), training.schedule.epochs, 0, None
    settings = len(training.hparams["learning_rate"])
    if not setup.refit or settings > 1:  # else there is nothing to choose
        held_out = evaluate.judge(split.valid, split.train, cells=CELLS)
        fitted, _ = topn.fit(training, split.train, held_out, range(1) if setup.refit else seeds, say)
        valid = fitted["valid"].mean(axis=0)
        place = int(np.argmax(valid))
        epochs = int(fitted["best_step"][0, place]) // (len(split.train) // training.schedule.batch_size)
    chosen = {key: float(values[place]) for key, values in training.hparams.items()}
    if setup.refit:  # a process a core, as a grid spreads its settings over devices and here is but one
        with concurrent.futures.ProcessPoolExecutor(machine.cores(), multiprocessing.get_context("spawn")) as processes:
            ask = functools.partial(refitted, setup.name, name, chosen, epochs)
            by_seed = list(processes.map(ask, seeds))
    else:
        by_seed = [judged(setup, training.model, fitted, at, place) for at in seeds]
    return {
        "test": {key: over_seeds([one[key] for one in by_seed]) for key in by_seed[0]},
        "chosen": chosen,
        "epochs": epochs,
        "validation": None if valid is None else valid.tolist(),
        "schedule": {
            "epochs": epochs if setup.refit else training.schedule.epochs,
            "batch_size": training.schedule.batch_size,
        },
    }


def judged(setup: Bench, model: models.Retrieval, fitted: dict[str, Any], seed: int, place: int) -> dict[str, float]:
    """Test figures of one member of what was fitted."""
    params = {**jax.tree.map(lambda leaf: leaf[seed, place], fitted["params"]), "fixed": fitted["fixed"]}
    queries = model.query(params, {"user": jnp.arange(setup.split.users)})
    ranked = evaluate.rank(
        queries, model.items(params), setup.split.test, setup.whole, k=topn.K, protocol=setup.protocol
    )
    return topn.figures(ranked)


def refitted(name: str, model: str, chosen: dict[str, float], epochs: int, seed: int) -> dict[str, float]:
    """Test figures of one seed that learns from train and valid, for so many epochs."""
    machine.keep_programs()
    setup = bench(name)
    training, split = nets(setup)[model](setup.whole), setup.split
    last = epochs * (len(setup.whole) // training.schedule.batch_size)
    schedule = dataclasses.replace(training.schedule, epochs=epochs, chunk_epochs=1, count_from=last)
    hparams = grid.product(**{key: [value] for key, value in chosen.items()})
    held_out = evaluate.judge(split.valid, split.train, cells=CELLS)

    def say(text: str) -> None:
        print(f"{name}, {model}, seed {seed}, train and valid: {text}", flush=True)

    training = training._replace(hparams=hparams, schedule=schedule)
    fitted, _ = topn.fit(training, setup.whole, held_out, range(seed, seed + 1), say)
    return judged(setup, training.model, fitted, 0, 0)


def falling(log: data.Interactions, schedule: grid.Schedule) -> int:
    """The steps of a whole schedule, over which the rate falls to zero."""
    return schedule.epochs * (len(log) // schedule.batch_size)


def factorization(log: data.Interactions, dim: int) -> models.Retrieval:
    """Matrix factorization of a log."""
    return models.matrix_factorization(models.MatrixFactorization(users=log.users, items=log.items, dim=dim))


def directions(log: data.Interactions) -> models.Retrieval:
    """Factorization of 64 dimensions by cosines alone, without a bias of items, from short vectors."""
    model = models.simplex(models.SimpleX(log.users, log.items, own=1.0, scale=0.01))
    return topn.of_users(model, topn.histories(log, 0))


def factors(dim: int, batch: int, epochs: int, rate: float, l2: tuple, seeds: int = 5) -> Make:
    """Matrix factorization by BPR."""

    def make(log: data.Interactions) -> Training:
        schedule = grid.Schedule(epochs=epochs, batch_size=batch, chunk_epochs=epochs // 10, patience=4)
        hparams = grid.product(learning_rate=(rate,), l2=l2)
        model, steps = factorization(log, dim), falling(log, schedule)
        return Training(model, topn.bpr, hparams, schedule, steps, seeds=seeds)

    return make


def graph_by_bpr(layers: int, batch: int, epochs: int, l2: float) -> Make:
    """LightGCN of 64 dimensions by BPR."""

    def make(log: data.Interactions) -> Training:
        config = models.LightGcn(users=log.users, items=log.items, layers=layers)
        schedule = grid.Schedule(epochs=epochs, batch_size=batch)
        hparams = grid.product(learning_rate=(1e-2,), l2=(l2,))
        steps, model = falling(log, schedule), models.lightgcn(config, log.user, log.item)
        return Training(model, topn.bpr, hparams, schedule, steps, seeds=1)

    return make


def with_and_without_graph(log: data.Interactions, layers: int, scale: float) -> tuple[models.Retrieval, ...]:
    """LightGCN of 64 dimensions, and what scores when its vectors have been along the graph."""
    config = models.LightGcn(users=log.users, items=log.items, layers=layers, scale=scale)
    flat = dataclasses.replace(config, layers=0)
    return tuple(models.lightgcn(one, log.user, log.item) for one in (config, flat))


def graph(layers: int, epochs: int, rate: float, margin: float, weights: tuple) -> Make:
    """LightGCN by the cosine contrastive loss with 2,048 negatives that a batch of 4,096 shares.

    The batch is large, as a step goes along the whole graph whatever its batch.
    """

    def make(log: data.Interactions) -> Training:
        model, flat = map(topn.by_cosine, with_and_without_graph(log, layers, 0.01))

        def loss(model: models.Retrieval, params: Any, *given: Any) -> jax.Array:
            return topn.contrastive(flat, models.propagate(params, layers), *given)

        schedule = grid.Schedule(epochs=epochs, batch_size=4096, chunk_epochs=2, patience=2)
        hparams = grid.product(learning_rate=(rate,), margin=(margin,), weight=weights)
        return Training(model, loss, hparams, schedule, falling(log, schedule), 2048, 4096)

    return make


def graph_by_softmax(layers: int, epochs: int, rate: float, l2: float, seeds: int) -> Make:
    """LightGCN by the softmax of inner products over negatives as those of :func:`graph`, and the L2 penalty."""

    def make(log: data.Interactions) -> Training:
        model, flat = with_and_without_graph(log, layers, 0.1)

        def loss(
            model: models.Retrieval, params: Any, batch: dict[str, jax.Array], hparams: topn.Hparams, key: jax.Array
        ) -> jax.Array:
            propagated = topn.softmax(flat, models.propagate(params, layers), batch, hparams, key)
            return propagated + hparams.l2 * topn.penalty(params, batch)

        schedule = grid.Schedule(epochs=epochs, batch_size=4096)
        hparams = grid.product(learning_rate=(rate,), l2=(l2,))
        return Training(model, loss, hparams, schedule, falling(log, schedule), 2048, 4096, seeds)

    return make


def contrastive(
    dim: int,
    own: float,
    epochs: int,
    margins: tuple,
    seeds: int,
    weight: float = 150.0,
    dropout: float = 0.0,
    sharing: int = 1024,
) -> Make:
    """SimpleX by the cosine contrastive loss with 1,000 negatives that rows share; ``own=1`` is factorization.

    Vectors begin short, as only their directions count: the first steps turn them far, and later ones ever less.
    """

    def make(log: data.Interactions) -> Training:
        config = models.SimpleX(users=log.users, items=log.items, dim=dim, own=own, scale=1e-3)
        schedule = grid.Schedule(epochs=epochs, batch_size=1024, chunk_epochs=5, patience=2)
        hparams = grid.product(learning_rate=(1e-3,), margin=margins, weight=(weight,), dropout=(dropout,))
        model = topn.of_users(models.simplex(config), topn.histories(log, 20 if own < 1 else 0))
        steps = falling(log, schedule)
        return Training(model, topn.contrastive, hparams, schedule, steps, 1000, sharing, seeds)

    return make


def by_softmax(
    of: Callable[[data.Interactions], models.Retrieval],
    temperatures: tuple,
    rate: float = 3e-3,
    epochs: int = 40,
    batch: int = 1024,
    negatives: int = 1000,
    seeds: int = 5,
) -> Make:
    """A model of cosines by the softmax over negatives that 1,024 rows share."""

    def make(log: data.Interactions) -> Training:
        schedule = grid.Schedule(epochs=epochs, batch_size=batch, chunk_epochs=epochs // 10, patience=3)
        hparams = grid.product(learning_rate=(rate,), temperature=temperatures)
        model, steps = topn.by_cosine(of(log)), falling(log, schedule)
        return Training(model, topn.softmax, hparams, schedule, steps, negatives, 1024, seeds)

    return make


def tiktok_features(item_ids: np.ndarray) -> np.ndarray:
    """Picture and sound side by side, a row an item of the log: every column standardized, every row of length 1."""
    values = np.concatenate([np.load(DATA / "tiktok" / f"{kind}_feat.npy") for kind in ("image", "audio")], axis=1)
    values = values[item_ids.astype(int)].astype(np.float32)
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def nets(setup: Bench) -> dict[str, Make]:
    """The models that are trained on a data set, by name."""
    match setup.name:
        case "ml-100k":
            return {"MF by BPR, 64-d": factors(64, 2048, 100, 3e-3, (1e-3, 1e-2, 3e-2))}
        case "citeulike" | "citeulike-random":
            return {
                "MF by BPR, 20-d": factors(20, 2048, 150, 1e-2, (3e-2,), seeds=3),
                "MF, 20-d": contrastive(20, 1.0, 40, (0.7, 0.9), seeds=5),
                "MF, 400-d": contrastive(400, 1.0, 20, (0.9,), seeds=3),
                "LightGCN, 64-d": graph(2, 20, 4e-3, 0.9, (30.0, 75.0)),
            }
        case "gowalla":
            # By its authors' settings; twice the epochs and four times the negatives were tried after the first test.
            simplex = functools.partial(contrastive, 64, 0.8, margins=(0.9,), seeds=1, weight=250.0, dropout=0.1)
            return {
                "MF, 64-d": contrastive(64, 1.0, 40, (0.9,), seeds=2, dropout=0.1, sharing=64),
                "MF by softmax, 64-d": by_softmax(directions, (0.1,), 5e-3, 16, 4096, 2048, seeds=4),
                "SimpleX, 64-d": simplex(epochs=30, sharing=64),
                "SimpleX, 64-d, 60 epochs": simplex(epochs=60, sharing=64),
                "SimpleX, 64-d, by 16 rows": simplex(epochs=30, sharing=16),
                "LightGCN by BPR, 64-d": graph_by_bpr(3, 32768, 100, 1e-4),
                "LightGCN, 64-d": graph_by_softmax(3, 16, 2e-2, 3e-2, seeds=4),
            }
        case _:
            features = tiktok_features(setup.split.train.item_ids)

            def vbpr(log: data.Interactions) -> models.Retrieval:
                config = models.Vbpr(users=log.users, items=log.items, features=features.shape[1])
                return models.vbpr(config, jnp.asarray(features))

            return {
                "MF, 64-d": by_softmax(lambda log: factorization(log, 64), (0.2, 0.3)),
                "VBPR, 32-d and 32-d of content": by_softmax(vbpr, (0.2, 0.3)),
            }


def plan(setup: Bench) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is measured on a data set, by name."""
    knns = {"item-kNN": lambda: knn(setup, True), "user-kNN": lambda: knn(setup, False)}
    closed = {"popularity": lambda: popularity(setup), **knns, "EASE": lambda: ease(setup)}
    match setup.name:
        case "citeulike":
            closed[LATER] = lambda: knn(setup, False, later=True)
        case "gowalla":
            closed.pop("EASE")  # 13 GB for the inverse alone, in float64
        case "tiktok":
            closed["content"] = lambda: content(setup, tiktok_features(setup.split.train.item_ids))
    return closed | {name: functools.partial(trained, setup, name, make) for name, make in nets(setup).items()}


def of_model(model: str, name: str) -> dict[str, Any]:
    """The figures of a model on a data set, by their names."""
    return {**plan(bench(name))[model](), "published": PUBLISHED.get(name, {}).get(model)}


def run(name: str, before: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All figures of a data set, after each model anew; what was measured before is not measured again."""
    about = provenance(COMMAND.format(name))
    setup = bench(name)
    counts = {key: setup.split.counts[f"{key}_rows"] for key in ("train", "valid", "test")}
    for found in resumed(before, plan(setup), about["commit"], of_model, name):
        seconds = sum(row["seconds"] for row in found.values())
        yield {**about, "counts": counts, "models": found, "seconds": seconds}


SHOWN = ("ndcg@10", "recall@10", "ndcg@20", "recall@20")


def line(name: str, model: str, row: dict[str, Any]) -> str:
    """A model's figures as a row of the table."""

    def cell(metric: str) -> str:
        ours = row["test"][metric]
        published = f" ({row['published'][metric]:.4f})" if metric in (row["published"] or {}) else ""
        return f"{plus_minus(ours)}{published}"

    seeds = len(row["test"]["ndcg@20"]["by_seed"])
    used = (f"{row['seconds']:,.0f} s", f"{row['peak_memory_bytes'] / 1e9:.1f} GB")
    cells = (name, model, str(seeds) if "epochs" in row else "", *map(cell, SHOWN), *used)
    return "| " + " | ".join(cells) + " |"


def table(record: dict[str, Any]) -> str:
    """The figures of all data sets in Markdown."""
    heads = ("data", "model", "seeds", "NDCG@10", "Recall@10", "NDCG@20", "Recall@20", "wall", "memory")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return "\n".join(
        lines + [line(name, model, row) for name, found in record.items() for model, row in found["models"].items()]
    )


def main(data: Name | None = None, json: pathlib.Path | None = None) -> None:
    """Measures the models of one data set, or of all, and prints them with what else the JSON has.

    Args:
      data: which data set; one after the other if not given.
      json: where to put the figures, beside those of the other data sets.
    """
    known = loads(json.read_text(encoding="utf-8")) if json is not None and json.exists() else {}
    for one in NAMES if data is None else (data,):
        for found in run(one, stamped(known[one]) if one in known else {}):
            known[one] = found
            known = {name: known[name] for name in NAMES if name in known}
            if json is not None:
                write_json(known, json)
    print(table(known))


if __name__ == "__main__":
    import tyro  # of the extra "run": reading this file for its functions doesn't need it

    tyro.cli(main)
