"""What the experiments on top-N recommendation share: data and protocols, training by a grid, judging."""

import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse as sp

from experiments.real import DATA
from recjax import compress, data, embed, evaluate, grid, losses, metrics, models, train
from recjax.models.dropout import drop
from recjax.models.simplex import unit

K = 20  # ranks that are kept; some figures look at the first ten alone
PARTS = ("train.tsv.gz", "valid.tsv.gz", "test.tsv.gz")


class Hparams(NamedTuple):
    """What is swept."""

    learning_rate: jax.typing.ArrayLike
    l2: jax.typing.ArrayLike = 0.0
    margin: jax.typing.ArrayLike = 0.0
    weight: jax.typing.ArrayLike = 0.0
    temperature: jax.typing.ArrayLike = 1.0
    dropout: jax.typing.ArrayLike = 0.0


def read(name: str) -> data.Split:
    """A data set in its three parts; of gowalla, valid is a random tenth of each user's train rows."""
    folder = DATA / name
    if name == "ml-100k":
        return data.split_random(data.read(folder / "ml-100k.inter.gz"), 0)
    if name == "gowalla":
        return data.read_split(folder / "train.txt.gz", None, folder / "test.txt.gz")
    return data.read_split(*(folder / part for part in PARTS))


def both(first: data.Interactions, second: data.Interactions) -> data.Interactions:
    """The rows of two parts of a split as one log."""
    user, item = (np.concatenate([getattr(log, side) for log in (first, second)]) for side in ("user", "item"))
    return data.Interactions(user, item, first.user_ids, first.item_ids)


def matrix(log: data.Interactions) -> sp.csr_array:
    """``[users, items]`` of ones and zeros."""
    ones = np.ones(len(log), np.float32)
    return sp.csr_array((ones, (log.user, log.item)), shape=(log.users, log.items))


def histories(log: data.Interactions, length: int) -> np.ndarray:
    """``[users, length]``, some items of each user, evenly spread over the sorted list where it is longer."""
    index = data.seen(log)
    out = np.full((log.users, length), -1, np.int32)
    for user in range(log.users):
        have = index.items[index.offsets[user] : index.offsets[user + 1]]
        if len(have) > length:
            have = have[np.linspace(0, len(have) - 1, length).astype(int)]
        out[user, : len(have)] = have
    return out


def figures(found: evaluate.Ranking) -> dict[str, float]:
    """Recall and NDCG at 10 and 20, means over the judged users."""
    values = {}
    for k in (10, K):
        values[f"recall@{k}"] = metrics.recall(found.hits[:, :k], found.relevant).mean()
        values[f"ndcg@{k}"] = metrics.ndcg(found.hits[:, :k], found.relevant).mean()
    return {name: float(value) for name, value in values.items()}


_top = jax.jit(metrics.top_k, static_argnames="k")


def rank_scores(
    scores: Callable[[np.ndarray], np.ndarray],
    truth: data.Interactions,
    known: data.Interactions,
    *,
    protocol: evaluate.Protocol,
    block: int = 512,
) -> evaluate.Ranking:
    """:func:`recjax.evaluate.rank` of a model whose scores are no product of two small matrices.

    Args:
      scores: ``scores(users) -> [users, items]`` float, a new array.
      truth: the held-out rows.
      known: the rows that aren't ranked.
      protocol: who is judged.
      block: users that are scored at once.

    Returns:
      The lists of all judged users.
    """
    judge = evaluate.users_with_rows(known) if protocol.count_empty else evaluate.judged_users(truth, known)
    had, answers = data.seen(known), data.seen(truth)
    lists, hits, relevant = [], [], []
    for first in range(0, len(judge), block):
        users = judge[first : first + block]
        values = scores(users)
        values[had.lists(users)] = -np.inf
        top, best = (np.asarray(x)[: len(users)] for x in _top(np.pad(values, ((0, block - len(users)), (0, 0))), k=K))
        right = evaluate.dense(answers, users, truth.items)
        right[had.lists(users)] = False
        lists.append(np.where(top > -np.inf, best, -1))
        hits.append(np.take_along_axis(right, best, axis=1))
        relevant.append(right.sum(axis=1))
    return evaluate.Ranking(
        jnp.asarray(judge, jnp.int32),
        jnp.asarray(np.concatenate(lists)),
        jnp.asarray(np.concatenate(hits)),
        jnp.asarray(np.concatenate(relevant), jnp.int32),
    )


class Training(NamedTuple):
    """How a model trains.

    Attributes:
      model: which.
      loss: ``loss(model, params, batch, hparams, key) -> scalar``.
      hparams: of every setting, without a seed.
      schedule: how long.
      steps: over which the learning rate falls linearly to zero.
      negatives: for every positive.
      sharing: how many rows of a batch share their negatives, which are then uniform over all items; 0 where each row
        has its own, which its user doesn't have.
      seeds: how many of each setting.
    """

    model: models.Retrieval
    loss: Callable[..., jax.Array]
    hparams: Mapping[str, Any]
    schedule: grid.Schedule
    steps: int
    negatives: int = 1
    sharing: int = 0
    seeds: int = 5


def of_users(model: models.Retrieval, history: np.ndarray) -> models.Retrieval:
    """The model with ``history [users, length]`` among its fixed parameters, so that a batch need only name users."""

    def init(key: jax.Array) -> models.Params:
        return {**model.init(key), "fixed": {"history": jnp.asarray(history)}}

    def query(params: models.Params, batch: models.Batch, key: jax.Array | None = None) -> jax.Array:
        return model.query(params, {**batch, "history": params["fixed"]["history"][batch["user"]]}, key)

    return model._replace(init=init, query=query)


def penalty(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """Half the squared length of the rows of a batch in all tables of users and of items, the mean over the batch."""
    looked_up = (embed.lookup(table, batch[name.split("_")[0]]) for name, table in params["tables"].items())
    return sum((jnp.sum(jnp.square(rows)) for rows in looked_up), start=jnp.zeros(())) / 2 / len(batch["user"])


def bpr(
    model: models.Retrieval, params: Any, batch: dict[str, jax.Array], hparams: Hparams, key: jax.Array
) -> jax.Array:
    """Pairs of a positive and each of its negatives, and the L2 penalty of their vectors."""
    scores = jnp.einsum("bd,bcd->bc", model.query(params, batch), model.items(params, batch["item"]))
    return losses.bpr(scores[:, :1], scores[:, 1:]).mean() + hparams.l2 * penalty(params, batch)


def by_cosine(model: models.Retrieval) -> models.Retrieval:
    """The model with cosines in place of inner products."""
    return model._replace(query=lambda *of: unit(model.query(*of)), items=lambda *of: unit(model.items(*of)))


def _by_shared(model: models.Retrieval, params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """``[batch]`` scores of the positives, and ``[batch, negatives]`` of the negatives that each group shares."""
    query, negatives = model.query(params, batch), model.items(params, batch["negatives"])
    positive = jnp.sum(query * model.items(params, batch["item"]), axis=-1)
    groups = query.reshape(len(negatives), -1, query.shape[-1])
    return positive, (groups @ negatives.mT).reshape(len(query), -1)


def softmax(
    model: models.Retrieval, params: Any, batch: dict[str, jax.Array], hparams: Hparams, key: jax.Array
) -> jax.Array:
    """The sampled softmax at a temperature, by negatives that rows share, drawn uniformly."""
    positive, negatives = (scores / hparams.temperature for scores in _by_shared(model, params, batch))
    return losses.sampled_softmax(positive, negatives).mean()


def contrastive(
    model: models.Retrieval, params: Any, batch: dict[str, jax.Array], hparams: Hparams, key: jax.Array
) -> jax.Array:
    """The cosine contrastive loss of SimpleX, by negatives that rows share; entries of unit queries are dropped."""
    dropped = model._replace(query=lambda *of: drop(model.query(*of), key, 0, hparams.dropout))
    scores = _by_shared(dropped, params, batch)
    return losses.cosine_contrastive(*scores, margin=hparams.margin, weight=hparams.weight).mean()


def rows_of(log: data.Interactions) -> tuple[jax.Array, jax.Array, data.Seen]:
    """What batches are gathered from: users, items and what every user has."""
    return jnp.asarray(log.user), jnp.asarray(log.item), data.seen(log)


def with_negatives(rows: Any, ids: jax.Array, key: jax.Array, *, items: int, count: int) -> dict[str, jax.Array]:
    """A batch of :func:`rows_of`, each item followed by so many that its user doesn't have."""
    user, item, seen = rows[0][ids], rows[1][ids], rows[2]
    negative = data.uniform_negatives(key, user, seen, items=items, count=count)
    return {"user": user, "item": jnp.concatenate([item[:, None], negative], axis=1)}


def fit(
    training: Training,
    log: data.Interactions,
    held_out: evaluate.Judged,
    seeds: range,
    say: Callable[[str], None],
) -> tuple[dict[str, Any], grid.Population]:
    """Trains every setting with every seed: what was kept of each, with the parameters that aren't trained."""
    model, items = training.model, log.items

    def gather(rows: Any, ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        if training.sharing:
            drawn = jax.random.randint(key, (len(ids) // training.sharing, training.negatives), 0, items, jnp.int32)
            return {"user": rows[0][ids], "item": rows[1][ids], "negatives": drawn}
        return with_negatives(rows, ids, key, items=items, count=training.negatives)

    def loss(params: Any, batch: dict[str, jax.Array], hparams: Hparams, key: jax.Array) -> jax.Array:
        return training.loss(model, params, batch, hparams, key)

    def validate(params: Any, judged: evaluate.Judged) -> jax.Array:
        return evaluate.ndcg(model, params, judged, k=K, block=64)

    def adam(hparams: Hparams) -> optax.GradientTransformation:
        rate: Any = hparams.learning_rate
        return optax.adam(optax.linear_schedule(rate, 0.0, training.steps))

    recipe = train.Recipe(loss, adam, compress.chain(), gather)
    starts = jax.jit(jax.vmap(model.init))(jax.vmap(jax.random.key)(jnp.array(seeds)))
    fixed = jax.tree.map(lambda leaf: leaf[0], starts["fixed"])  # the same for every seed
    population = grid.population(Hparams(1e-3), grid.product(dict(training.hparams), seed=seeds))
    began = time.perf_counter()

    def progress(done: int, total: int, best: float | None) -> None:
        say(f"epoch {done} of at most {total}, best validation {best}, {time.perf_counter() - began:.0f} s")

    with tempfile.TemporaryDirectory() as folder:
        fitted = grid.fit(
            recipe,
            {**starts, "fixed": fixed},
            population,
            data=rows_of(log),
            rows=jnp.arange(len(log), dtype=jnp.int32),
            validate=validate,
            held_out=held_out,
            schedule=training.schedule,
            folder=pathlib.Path(folder),
            progress=progress,
        )
    return {**fitted._asdict(), "fixed": fixed}, population
