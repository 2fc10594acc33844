"""The closed forms of the top-N table beside those of public packages, on the same split of MovieLens-100K.

Command:   python -m experiments.peers_topn --json experiments/results/peers_topn.json
           (needs the packages rectools and implicit)
Hardware:  two CPU cores, no accelerator
Wall time: under a minute
Expected:  four equal digits for popularity and EASE, and for neighbors where all of them count; among 50 neighbors
           either of two that are equally similar may be the last, which moves the third or fourth digit

One setting each, not tuned, as only equality is shown; all lists are evaluated by our metrics. implicit counts an item
among its own neighbors, so it gets one more. It has no recommender by user neighbors: its similarities of users are
multiplied with the histories here. The weights of rectools' EASE are multiplied with the histories here too: they are
those of the paper, but its ``recommend`` takes rows for columns of the matrix, which isn't symmetric, and ranks worse.
Its figures are in the JSON as well.
"""

import functools
import importlib.metadata
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

from experiments.baselines_topn import K, bench, figures, fitted
from recjax import families
from recjax.data import Dataset
from recjax.evaluate import Scores
from recjax.files import write_json
from recjax.provenance import provenance

COMMAND = "python -m experiments.peers_topn --json experiments/results/peers_topn.json"
NEIGHBORS, REGULARIZATION = (50, 2000), 100.0  # 2,000 are all


def ours(dataset: Dataset) -> dict[str, dict[str, float]]:
    """The figures of this library."""
    made: dict[str, Callable[..., families.Model]] = {
        "popularity": families.popularity,
        "EASE": functools.partial(families.ease, regularization=REGULARIZATION),
    }
    for count in NEIGHBORS:
        made[f"item-kNN, {count}"] = functools.partial(families.item_knn, neighbors=count)
        made[f"user-kNN, {count}"] = functools.partial(families.user_knn, neighbors=count)
    return {name: figures(fitted(family, dataset), dataset, dataset.test) for name, family in made.items()}


def by_lists(lists: np.ndarray, users: np.ndarray, items: int) -> Scores:
    """Scores that rank as ``[users, k]`` recommended items do."""
    scores = np.full((users.max() + 1, items), -np.inf)
    scores[users[:, None], lists] = -np.arange(lists.shape[1])
    return lambda batch: scores[batch["user"]]


def theirs(dataset: Dataset) -> dict[str, dict[str, float]]:
    """The figures of the peers."""
    import pandas as pd  # pyright: ignore[reportMissingImports]
    from implicit.nearest_neighbours import CosineRecommender  # pyright: ignore[reportMissingImports]
    from rectools import Columns  # pyright: ignore[reportMissingImports]
    from rectools.dataset import Dataset as Log  # pyright: ignore[reportMissingImports]
    from rectools.models import EASEModel, PopularModel  # pyright: ignore[reportMissingImports]

    history, users, found = sp.csr_matrix(dataset.matrix(), dtype=np.float64), dataset.test.user, {}

    def evaluated(scores: Scores) -> dict[str, float]:
        return figures(scores, dataset, dataset.test)

    pairs = {Columns.User: dataset.training_users, Columns.Item: dataset.log.items[dataset.training_rows]}
    frame = pd.DataFrame(pairs).assign(**{Columns.Weight: 1.0, Columns.Datetime: pd.Timestamp(2000, 1, 1)})
    log, models = Log.construct(frame), {"popularity": PopularModel(), "EASE": EASEModel(regularization=REGULARIZATION)}
    for name, model in models.items():
        model.fit(log)
        lists = model.recommend(users, log, k=K, filter_viewed=True)
        wide = lists.pivot(index=Columns.User, columns=Columns.Rank, values=Columns.Item).loc[users].to_numpy()
        found[name] = evaluated(by_lists(wide, users, dataset.items))

    found["EASE, recommend"] = found.pop("EASE")
    places = log.item_id_map.convert_to_external(np.arange(log.item_id_map.size))
    weight = np.zeros((dataset.items, dataset.items), np.float32)
    weight[np.ix_(places, places)] = models["EASE"].weight
    found["EASE"] = evaluated(lambda batch: history[batch["user"]] @ weight)

    for count in NEIGHBORS:
        items = CosineRecommender(K=count + 1)
        items.fit(history, show_progress=False)
        lists, _ = items.recommend(users, history[users], N=K, filter_already_liked_items=True)
        found[f"item-kNN, {count}"] = evaluated(by_lists(lists, users, dataset.items))

        people = CosineRecommender(K=count + 1)
        people.fit(sp.csr_matrix(history.T), show_progress=False)
        near = sp.lil_array(people.similarity)
        near.setdiag(0)
        product: Any = sp.csr_array(near) @ history
        scores = product.toarray()
        found[f"user-kNN, {count}"] = evaluated(lambda batch, scores=scores: scores[batch["user"]])
    return found


def run() -> dict[str, Any]:
    """Everything that the JSON holds."""
    about = provenance(COMMAND)
    about["versions"] |= {name: importlib.metadata.version(name) for name in ("rectools", "implicit", "scipy")}
    dataset = bench("ml-100k").whole
    mine, peers = ours(dataset), theirs(dataset)
    rows = {name: {"ours": mine[name], "peer": peers[name]} for name in mine}
    recommend = {"EASE": peers["EASE, recommend"]}
    return {**about, "regularization": REGULARIZATION, "models": rows, "by their recommend": recommend}


def main(json: pathlib.Path | None = None) -> None:
    """Measures both and prints them.

    Args:
      json: where to write the figures too; nowhere if not given.
    """
    record = run()
    for name, row in record["models"].items():
        pairs = [f"{key} {row['ours'][key]:.6f} {row['peer'][key]:.6f}" for key in row["ours"]]
        print(f"{name:<16}{'   '.join(pairs)}")
    if json is not None:
        write_json(record, json)


if __name__ == "__main__":
    import tyro  # of the extra "run": reading this file for its functions doesn't need it

    tyro.cli(main)
