"""The closed forms of the top-N table beside those of public packages, on the same split of MovieLens-100K.

Command:   python -m experiments.peers_topn --json experiments/results/peers_topn.json
           (needs the packages rectools and implicit)
Hardware:  two CPU cores, no accelerator
Wall time: under a minute
Expected:  four equal digits for popularity and EASE, and for neighbors where all of them count; among 50 neighbors
           either of two that are equally similar may be the last, which moves the third or fourth digit

One setting each, not tuned, as only equality is asked for; all lists are judged by our metrics. implicit counts an item
among its own neighbors, so it gets one more. It has no recommender by user neighbors: its similarities of users are
multiplied with the histories here. The weights of rectools' EASE are multiplied with the histories here too: they are
those of the paper, but its ``recommend`` takes rows for columns of the matrix, which isn't symmetric, and ranks worse.
Its figures are in the JSON as well.
"""

import importlib.metadata
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from experiments import topn
from recjax import data, evaluate, models
from recjax.files import write_json
from recjax.provenance import provenance

COMMAND = "python -m experiments.peers_topn --json experiments/results/peers_topn.json"
NEIGHBORS, REGULARIZATION = (50, 2000), 100.0  # 2,000 are all
PROTOCOL = evaluate.Protocol()


def ours(train: data.Interactions, test: data.Interactions) -> dict[str, dict[str, float]]:
    """The figures of this library."""
    history = topn.matrix(train)
    counts = models.fit_popularity(train.item, items=train.items)["tables"]["item"]
    scores = {
        "popularity": lambda users: np.tile(counts.T, (len(users), 1)),
        "EASE": topn.ease_by_items(history, REGULARIZATION),
    }
    for count in NEIGHBORS:
        by_items = models.cosine_neighbors(sp.csr_array(history.T), neighbors=count)
        by_users = models.cosine_neighbors(history, neighbors=count)
        scores[f"item-kNN, {count}"] = lambda users, near=by_items: (history[users] @ near).toarray()
        scores[f"user-kNN, {count}"] = lambda users, near=by_users: (near[users] @ history).toarray()
    return {name: topn.figures(topn.rank_scores(of, test, train, protocol=PROTOCOL)) for name, of in scores.items()}


def judged(lists: np.ndarray, users: np.ndarray, test: data.Interactions) -> dict[str, float]:
    """Figures of ``[users, 20]`` recommended items."""
    right = evaluate.dense(data.seen(test), users, test.items)
    hits = np.take_along_axis(right, np.maximum(lists, 0), axis=1) & (lists >= 0)
    relevant = jnp.asarray(right.sum(axis=1), jnp.int32)
    return topn.figures(evaluate.Ranking(jnp.asarray(users), jnp.asarray(lists), jnp.asarray(hits), relevant))


def theirs(train: data.Interactions, test: data.Interactions) -> dict[str, dict[str, float]]:
    """The figures of the peers."""
    import pandas as pd
    from implicit.nearest_neighbours import CosineRecommender  # pyright: ignore[reportMissingImports]
    from rectools import Columns  # pyright: ignore[reportMissingImports]
    from rectools.dataset import Dataset  # pyright: ignore[reportMissingImports]
    from rectools.models import EASEModel, PopularModel  # pyright: ignore[reportMissingImports]

    history = sp.csr_matrix(topn.matrix(train), dtype=np.float64)
    users = evaluate.judged_users(test, train)
    found = {}

    frame = pd.DataFrame({Columns.User: train.user, Columns.Item: train.item})
    dataset = Dataset.construct(frame.assign(**{Columns.Weight: 1.0, Columns.Datetime: pd.Timestamp(2000, 1, 1)}))
    models_of = {"popularity": PopularModel(), "EASE": EASEModel(regularization=REGULARIZATION)}
    for name, model in models_of.items():
        model.fit(dataset)
        lists = model.recommend(users, dataset, k=topn.K, filter_viewed=True)
        wide = lists.pivot(index=Columns.User, columns=Columns.Rank, values=Columns.Item).loc[users]
        found[name] = judged(wide.to_numpy(), users, test)

    found["EASE, recommend"] = found.pop("EASE")
    places = dataset.item_id_map.convert_to_external(np.arange(dataset.item_id_map.size))
    weight = np.zeros((train.items, train.items), np.float32)
    weight[np.ix_(places, places)] = models_of["EASE"].weight
    ranked = topn.rank_scores(lambda some: history[some] @ weight, test, train, protocol=PROTOCOL)
    found["EASE"] = topn.figures(ranked)

    for count in NEIGHBORS:
        items = CosineRecommender(K=count + 1)
        items.fit(history, show_progress=False)
        lists, _ = items.recommend(users, history[users], N=topn.K, filter_already_liked_items=True)
        found[f"item-kNN, {count}"] = judged(lists, users, test)

        people = CosineRecommender(K=count + 1)
        people.fit(sp.csr_matrix(history.T), show_progress=False)
        near = sp.lil_array(people.similarity)
        near.setdiag(0)
        near = sp.csr_array(near)

        def scores(some: np.ndarray, near: sp.csr_array = near) -> np.ndarray:
            return (near[some] @ history).toarray()

        found[f"user-kNN, {count}"] = topn.figures(topn.rank_scores(scores, test, train, protocol=PROTOCOL))
    return found


def run() -> dict[str, Any]:
    """Everything that the JSON holds."""
    about = provenance(COMMAND)
    about["versions"] |= {name: importlib.metadata.version(name) for name in ("rectools", "implicit", "scipy")}
    split = topn.read("ml-100k")
    mine, peers = ours(split.train, split.test), theirs(split.train, split.test)
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
