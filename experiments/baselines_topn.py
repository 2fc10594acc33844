"""Top-N baselines at their published quality: closed forms, factorization, LightGCN, SimpleX and VBPR.

Command:   python -m experiments.baselines_topn --json experiments/results/baselines_topn.json
           and with --data for one of the data sets alone; each writes its part of the JSON, and goes on where it was
           cut: a model that the JSON has is not measured again unless it is taken out of it
Hardware:  two CPU cores, no accelerator
Wall time: stated of every model, and of every data set
Expected:  the figures of the JSON; published ones are printed beside ours

The whole catalog is ranked but for what a user has in train. Hyperparameters and the epoch are chosen on validation
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
from collections.abc import Callable, Iterator, Mapping
from json import loads
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from experiments.real import DATA
from experiments.record import over_seeds, plus_minus, resumed, say, stamped
from recjax import data, evaluate, families, grid, machine, metrics
from recjax.data import Dataset, Features, Split
from recjax.evaluate import Scorer, Scores
from recjax.families import Model, Objective, objectives
from recjax.families.objectives import Negatives
from recjax.files import write_json
from recjax.models import RetrievalModel
from recjax.provenance import provenance
from recjax.study import Study, Training

COMMAND = "python -m experiments.baselines_topn --data {} --json experiments/results/baselines_topn.json"
CELLS = 2**25  # users x items that are ranked at every validation of a training
K = 20  # ranks that are kept; some figures look at the first ten alone
HISTORY = 20  # events that SimpleX reads
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


class Bench(NamedTuple):
    """A data set and how its models are evaluated.

    Attributes:
      name: of the data set.
      dataset: what settings are chosen on.
      whole: what the final model learns from; its test queries see the training events and nothing else.
      refit: whether ``whole`` has the validation events in training, so that what was chosen trains once more.
    """

    name: str
    dataset: Dataset
    whole: Dataset
    refit: bool


def read(name: str) -> Split:
    """A data set in its three parts; of gowalla, valid is a random tenth of each user's train rows."""
    folder = DATA / name
    if name == "ml-100k":
        split = data.split_random(data.read(folder / "ml-100k.inter.gz"), 0)
        train, valid, test = (dataclasses.replace(part, rating=None) for part in split[:3])
        return Split(train, valid, test, split.counts)
    if name == "gowalla":
        return data.read_split(folder / "train.txt.gz", None, folder / "test.txt.gz")
    return data.read_split(*(folder / f"{part}.tsv.gz" for part in ("train", "valid", "test")))


def bench(name: str) -> Bench:
    """One of the data sets."""
    split = read(name)
    if name == "tiktok":
        features = tiktok_features(split.train.item_ids)
        split = split._replace(train=dataclasses.replace(split.train, item_features=features))
    return of_split(name, split, refit=name == "gowalla", count_empty=name == "citeulike")


def of_split(name: str, split: Split, *, refit: bool = False, count_empty: bool = False) -> Bench:
    """The data sets of a split; without ``refit`` the events of validation are unknown in test."""
    dataset, whole = (
        dataclasses.replace(data.dataset(parts), count_empty=count_empty)
        for parts in (split, split if refit else split._replace(valid=split.valid.take(slice(0))))
    )
    return Bench(name, dataset, whole.with_valid() if refit else whole, refit)


def tiktok_features(item_ids: np.ndarray) -> Features:
    """Picture and sound side by side, a row an item of the log: every column standardized, every row of length 1."""
    values = np.concatenate([np.load(DATA / "tiktok" / f"{kind}_feat.npy") for kind in ("image", "audio")], axis=1)
    values = values[item_ids.astype(int)].astype(np.float32)
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return Features(values, tuple(f"feature_{column}" for column in range(values.shape[1])))


def figures(scorer: Scorer | Scores, dataset: Dataset, held: data.HeldOut) -> dict[str, float]:
    """Recall and NDCG at 10 and 20, means over the evaluated users."""
    found = evaluate.rank(scorer, dataset, held, k=K)
    values = {}
    for k in (10, K):
        values[f"recall@{k}"] = metrics.recall(found.hits[:, :k], found.relevant).mean()
        values[f"ndcg@{k}"] = metrics.ndcg(found.hits[:, :k], found.relevant).mean()
    return {name: float(value) for name, value in values.items()}


Fit = Callable[..., Scorer | Scores]  # fit(dataset, **setting)


def fitted(family: Callable[..., Model], dataset: Dataset, **setting: Any) -> Scorer:
    """The scorer of a closed form."""
    model = family(dataset, **setting)
    return model.scorer(model.init(jax.random.key(0)))


def closed(setup: Bench, fit: Fit, **settings: tuple) -> dict[str, Any]:
    """Figures of a closed form, its setting chosen on validation."""
    combinations = [dict(zip(settings, one, strict=True)) for one in itertools.product(*settings.values())]
    dataset, whole, valid = setup.dataset, setup.whole, [0.0]
    if len(combinations) > 1:
        valid = [figures(fit(dataset, **one), dataset, dataset.valid)["ndcg@20"] for one in combinations]
    chosen = combinations[int(np.argmax(valid))]
    found = figures(fit(whole, **chosen), whole, whole.test)
    curve = [[*one.values(), value] for one, value in zip(combinations, valid, strict=True)]
    return {
        "test": {name: over_seeds([value]) for name, value in found.items()},
        "chosen": chosen,
        "validation": curve if len(combinations) > 1 else None,
    }


def later_items(dataset: Dataset, **setting: Any) -> Scores:
    """User-kNN that ranks no item but those whose number is above all that the user has in train."""
    scorer = fitted(families.user_knn, dataset, **setting)
    score = jax.jit(scorer.score)

    def scores(batch: dict[str, Any]) -> np.ndarray:
        return np.where(numbered_above(dataset, batch["user"]), score(scorer.params, batch), -np.inf)

    return scores


def numbered_above(dataset: Dataset, users: np.ndarray) -> np.ndarray:
    """``[users, items]`` bool, whether an item's raw id is a larger number than those of all that a user has."""
    numbers, last = dataset.item_ids.astype(int), np.full(dataset.users, -1)
    np.maximum.at(last, dataset.training_users, numbers[dataset.log.items[dataset.training_rows]])
    return numbers > last[users, None]


class Net(NamedTuple):
    """A model that is trained.

    Attributes:
      family: gives the model of a data set, with its schedule.
      settings: values of its hyperparameters, all combinations of which are tried.
      seeds: how many of each setting.
    """

    family: Callable[[Dataset], Model]
    settings: Mapping[str, tuple]
    seeds: int = 5


def trained(setup: Bench, name: str, net: Net) -> dict[str, Any]:
    """Figures of a model that is trained, over seeds."""
    study = study_of(setup, net, setup.dataset)
    schedule, settings = study.objective.schedule, grid.product(**net.settings)
    epochs, place, valid, result = schedule.epochs, 0, None, None
    if not setup.refit or len(settings["learning_rate"]) > 1:  # else there is nothing to choose
        seeds = range(1 if setup.refit else net.seeds)
        training = Training(progress=say(f"{setup.name}, {name}", "NDCG@20"))
        result = study.run(grid.product(settings, seed=seeds), training=training)
        valid = result.fitted.valid.mean(axis=0)
        place = int(np.argmax(valid))
        epochs = int(result.fitted.best_step[0, place]) // (study.objective.rows // schedule.batch_size)
    chosen = {key: float(values[place]) for key, values in settings.items()}
    if setup.refit or result is None:  # a process a core, as a grid spreads its settings over devices and here is one
        with concurrent.futures.ProcessPoolExecutor(machine.cores(), multiprocessing.get_context("spawn")) as processes:
            refit = functools.partial(refitted, setup.name, name, chosen, epochs)
            by_seed = list(processes.map(refit, range(net.seeds)))
    else:
        by_seed = [
            figures(study.model.scorer(params), setup.whole, setup.whole.test) for params in result.members(place)
        ]
    return {
        "test": {key: over_seeds([one[key] for one in by_seed]) for key in by_seed[0]},
        "chosen": chosen,
        "epochs": epochs,
        "validation": None if valid is None else valid.tolist(),
        "schedule": {"epochs": epochs if setup.refit else schedule.epochs, "batch_size": schedule.batch_size},
    }


def study_of(setup: Bench, net: Net, dataset: Dataset) -> Study:
    """The study of a model on a data set, validated by NDCG@20."""
    model = net.family(dataset)
    validate = evaluate.validation(model.score, setup.dataset, length=model.length or 0, k=K, block=64, cells=CELLS)
    return Study(dataset, model, validate=validate)


def refitted(name: str, model: str, chosen: dict[str, float], epochs: int, seed: int) -> dict[str, float]:
    """Test figures of one seed that learns from train and valid, for so many epochs of its schedule."""
    machine.enable_compilation_cache()
    setup = bench(name)
    study = study_of(setup, nets(setup.name)[model], setup.whole)
    whole = study.objective.schedule
    steps = whole.epochs * (study.objective.rows // whole.batch_size)  # over which the learning rate falls
    training = Training(
        dataclasses.replace(whole, epochs=epochs, chunk_epochs=1),
        settling=1.0,
        progress=say(f"{name}, {model}, seed {seed}, train and valid", "NDCG@20"),
    )
    settings = grid.product(**{key: [value] for key, value in chosen.items()}, steps=[steps], seed=[seed])
    result = study.run(settings, training=training)
    return figures(study.model.scorer(result.params(0, 0)), setup.whole, setup.whole.test)


def factors(dim: int, batch: int, epochs: int, rate: float, l2: tuple, seeds: int = 5) -> Net:
    """Matrix factorization by BPR."""
    schedule = grid.Schedule(epochs=epochs, batch_size=batch, chunk_epochs=epochs // 10, patience=4)
    learn = functools.partial(objectives.bpr, schedule=schedule)
    family = functools.partial(families.mf, dim=dim, learn=learn)
    return Net(family, {"learning_rate": (rate,), "l2": l2}, seeds)


def graph_by_bpr(layers: int, batch: int, epochs: int, l2: float) -> Net:
    """LightGCN of 64 dimensions by BPR."""

    def learn(dataset: Dataset, model: RetrievalModel, flat: RetrievalModel, prepare: Callable) -> Objective:
        return objectives.bpr(dataset, model, grid.Schedule(epochs=epochs, batch_size=batch))

    family = functools.partial(families.lightgcn, layers=layers, learn=learn)
    return Net(family, {"learning_rate": (1e-2,), "l2": (l2,)}, seeds=1)


def graph(layers: int, epochs: int, rate: float, margin: float, weights: tuple) -> Net:
    """LightGCN by the cosine contrastive loss with 2,048 negatives that a batch of 4,096 shares.

    The batch is large, as a step goes along the whole graph whatever its batch.
    """

    def learn(dataset: Dataset, model: RetrievalModel, flat: RetrievalModel, prepare: Callable) -> Objective:
        schedule = grid.Schedule(epochs=epochs, batch_size=4096, chunk_epochs=2, patience=2)
        return objectives.contrastive(dataset, flat, schedule, negatives=Negatives(2048, 4096), prepare=prepare)

    family = functools.partial(families.lightgcn, layers=layers, scale=0.01, cosine=True, learn=learn)
    return Net(family, {"learning_rate": (rate,), "margin": (margin,), "negative_weight": weights})


def contrastive(
    dim: int,
    own: float,
    epochs: int,
    margins: tuple,
    seeds: int,
    weight: float = 150.0,
    dropout: float = 0.0,
    sharing: int = 1024,
) -> Net:
    """SimpleX by the cosine contrastive loss with 1,000 negatives that rows share; ``own=1`` is factorization."""
    schedule = grid.Schedule(epochs=epochs, batch_size=1024, chunk_epochs=5, patience=2)
    learn = functools.partial(
        objectives.contrastive,
        schedule=schedule,
        negatives=Negatives(1000, sharing),
        length=HISTORY if own < 1 else 0,
    )
    settings = {"learning_rate": (1e-3,), "margin": margins, "negative_weight": (weight,), "dropout": (dropout,)}
    return Net(functools.partial(families.simplex, dim=dim, own=own, length=HISTORY, learn=learn), settings, seeds)


def by_softmax(
    family: Callable[..., Model],
    temperatures: tuple,
    rate: float = 3e-3,
    epochs: int = 40,
    batch: int = 1024,
    negatives: int = 1000,
    seeds: int = 5,
) -> Net:
    """A model of cosines by the softmax over negatives that 1,024 rows share."""
    schedule = grid.Schedule(epochs=epochs, batch_size=batch, chunk_epochs=epochs // 10, patience=3)
    learn = functools.partial(objectives.sampled_softmax, schedule=schedule, negatives=Negatives(negatives, 1024))
    settings = {"learning_rate": (rate,), "loss_temperature": temperatures}
    return Net(functools.partial(family, learn=learn), settings, seeds)


def nets(name: str) -> dict[str, Net]:
    """The models that are trained on a data set, by name."""
    match name:
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
            directions = functools.partial(families.simplex, own=1.0, scale=0.01)
            softmax = Net(
                families.lightgcn, {"learning_rate": (2e-2,), "l2": (3e-2,), "loss_temperature": (1.0,)}, seeds=4
            )
            return {
                "MF, 64-d": contrastive(64, 1.0, 40, (0.9,), seeds=2, dropout=0.1, sharing=64),
                "MF by softmax, 64-d": by_softmax(directions, (0.1,), 5e-3, 16, 4096, 2048, seeds=4),
                "SimpleX, 64-d": simplex(epochs=30, sharing=64),
                "SimpleX, 64-d, 60 epochs": simplex(epochs=60, sharing=64),
                "SimpleX, 64-d, by 16 rows": simplex(epochs=30, sharing=16),
                "LightGCN by BPR, 64-d": graph_by_bpr(3, 32768, 100, 1e-4),
                "LightGCN, 64-d": softmax,
            }
        case _:
            return {
                "MF, 64-d": by_softmax(functools.partial(families.mf, dim=64, cosine=True), (0.2, 0.3)),
                "VBPR, 32-d and 32-d of content": by_softmax(functools.partial(families.vbpr, cosine=True), (0.2, 0.3)),
            }


def plan(setup: Bench) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is measured on a data set, by name."""
    neighbors = {"neighbors": NEIGHBORS, "shrinkage": SHRINKAGES}

    def of(family: Callable[..., Model], **settings: tuple) -> Callable[[], dict[str, Any]]:
        return lambda: closed(setup, functools.partial(fitted, family), **settings)

    rows = {
        "popularity": of(families.popularity),
        "item-kNN": of(families.item_knn, **neighbors),
        "user-kNN": of(families.user_knn, **neighbors),
        "EASE": of(families.ease, regularization=(1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)),
    }
    match setup.name:
        case "citeulike":
            rows[LATER] = lambda: closed(setup, later_items, **neighbors)
        case "gowalla":
            rows.pop("EASE")  # 13 GB for the inverse alone, in float64
        case "tiktok":
            rows["content"] = of(families.content)
    return rows | {name: functools.partial(trained, setup, name, net) for name, net in nets(setup.name).items()}


def of_model(model: str, name: str) -> dict[str, Any]:
    """The figures of a model on a data set, by their names."""
    return {**plan(bench(name))[model](), "published": PUBLISHED.get(name, {}).get(model)}


def run(name: str, before: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All figures of a data set, after each model anew; what was measured before is not measured again."""
    about = provenance(COMMAND.format(name))
    setup = bench(name)
    counts = {key: setup.dataset.counts[f"{key}_rows"] for key in ("train", "valid", "test")}
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
