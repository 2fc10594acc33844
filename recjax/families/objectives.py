"""Supervised objectives of retrieval models: a softmax over the catalog, pairs, and negatives that a batch shares."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recjax import data, embed, grid, losses
from recjax.data import Dataset
from recjax.families._model import Batch, Objective
from recjax.models import Params, RetrievalModel
from recjax.models.dropout import drop

WHOLE_CELLS = 150_000_000  # users x items of the score matrices, 4 bytes each
WHOLE_ITEMS = 20_000
POSITIVES, NEGATIVES = 4, 64  # candidates of a user and step, where the catalog is sampled


class Decayed(NamedTuple):
    """Hyperparameters of :func:`multinomial`.

    Attributes:
      learning_rate: of AdamW at the first step.
      weight_decay: decoupled, of every trained array.
      steps: over which the learning rate falls to zero, in a straight line.
    """

    learning_rate: Any = 0.02
    weight_decay: Any = 3.0
    steps: Any = 1.0


def fits_whole(dataset: Dataset, queries: data.Queries) -> bool:
    """Whether the scores of some queries for all items fit into memory."""
    return len(queries.user) * dataset.items <= WHOLE_CELLS and dataset.items <= WHOLE_ITEMS


def _falling(hparams: Any) -> optax.Schedule:
    """The learning rate, which falls linearly to zero over ``steps``; optax takes no traced number of steps."""
    share = optax.linear_schedule(1.0, 0.0, 1)
    return lambda count: hparams.learning_rate * share(count / hparams.steps)


def adamw(hparams: Any) -> optax.GradientTransformation:
    """AdamW whose rate falls linearly to zero."""
    return optax.adamw(_falling(hparams), weight_decay=hparams.weight_decay)


def adam(hparams: Any) -> optax.GradientTransformation:
    """Adam whose rate falls linearly to zero."""
    return optax.adam(_falling(hparams))


def multinomial(
    dataset: Dataset, score: Callable[..., jax.Array], schedule: grid.Schedule, *, length: int = 0
) -> Objective:
    r"""A softmax over the catalog against the items of each user's history, in proportion to their weights.

    Example i is user i. Where the scores of a catalog don't fit (:func:`fits_whole`), the softmax is over some items
    of the history and items that the user doesn't have.

    Args:
      dataset: its training events.
      score: see :attr:`Model.score`.
      schedule: for how long.
      length: events of a history that the model reads.

    Returns:
      The :class:`Objective`.

    References:
      Liang et al., `Variational Autoencoders for Collaborative Filtering <https://arxiv.org/abs/1802.05814>`_, WWW
      2018, equation 2.
    """
    items, last = dataset.items, dataset.last
    most = int((last.end - dataset.log.offsets[last.user]).max(initial=1))
    whole = fits_whole(dataset, last)
    arrays = jax.tree.map(jnp.asarray, (dataset.log, last, None if whole else seen(dataset)))

    def gather(arrays: Any, ids: jax.Array, key: jax.Array) -> Batch:
        log, last, have = arrays
        begin, end = log.offsets[ids], last.end[ids]
        batch = data.history_batch(log, data.Queries(ids, end), length)
        if whole:
            rows = begin[:, None] + jnp.arange(most)[None]
            inside = rows < end[:, None]
            places = jnp.arange(len(ids))[:, None], jnp.where(inside, log.items[jnp.where(inside, rows, 0)], items)
            labels = jnp.zeros((len(ids), items)).at[places].max(jnp.where(inside, log.weight[rows], 0), mode="drop")
            return {**batch, "labels": labels / labels.sum(axis=1, keepdims=True)}
        places, others = jax.random.split(key)
        count = (end - begin)[:, None]
        rank = (jax.random.uniform(places, (len(ids), POSITIVES)) * count).astype(jnp.int32)
        positive = log.items[begin[:, None] + jnp.minimum(rank, count - 1)]
        negative = data.uniform_negatives(others, ids, have, items=items, count=NEGATIVES)
        return {**batch, "item": jnp.concatenate([positive, negative], axis=1)}

    def loss(params: Params, batch: Batch, hparams: Any, key: jax.Array) -> jax.Array:
        if whole:
            return losses.softmax_cross_entropy(score(params, batch), batch["labels"])
        item = batch["item"]
        scores = score(params, batch, jnp.maximum(item, 0))
        labels = jnp.broadcast_to((jnp.arange(item.shape[1]) < POSITIVES)[None], item.shape) / POSITIVES
        return losses.softmax_cross_entropy(scores, labels, where=item >= 0)

    return Objective(arrays, dataset.users, gather, loss, Decayed(), adamw, schedule, by_query=True)


def seen(dataset: Dataset) -> data.Seen:
    """The items that each user has in training."""
    matrix = dataset.matrix()
    matrix.sort_indices()
    return data.Seen(matrix.indptr.astype("int32"), matrix.indices.astype("int32"))


def pair_arrays(dataset: Dataset) -> tuple[jax.Array, jax.Array]:
    """``[rows]`` users and items of the training events."""
    return jnp.asarray(dataset.training_users), jnp.asarray(dataset.log.items[dataset.training_rows])


def row_penalty(params: Params, batch: Batch) -> jax.Array:
    """Half the squared length of the rows of a batch in all tables of users and of items, the mean over the batch."""
    looked_up = (embed.lookup(table, batch[name.split("_")[0]]) for name, table in params["tables"].items())
    return sum((jnp.sum(jnp.square(rows)) for rows in looked_up), start=jnp.zeros(())) / 2 / len(batch["user"])


class Pairs(NamedTuple):
    """Hyperparameters of :func:`bpr`.

    Attributes:
      learning_rate: of Adam at the first step.
      l2: weight of the squared length of a batch's rows.
      steps: over which the learning rate falls to zero.
    """

    learning_rate: Any = 3e-3
    l2: Any = 1e-2
    steps: Any = 1.0


def bpr(dataset: Dataset, model: RetrievalModel, schedule: grid.Schedule, *, negatives: int = 1) -> Objective:
    """Pairs of an item that a user has and items that the user doesn't have, and the L2 penalty of their rows.

    Args:
      dataset: its training events are the examples.
      model: what learns.
      schedule: for how long.
      negatives: of every positive.

    Returns:
      The :class:`Objective`.

    References:
      Rendle et al., `BPR: Bayesian Personalized Ranking from Implicit Feedback <https://arxiv.org/abs/1205.2618>`_, UAI
      2009.
    """
    user, item = pair_arrays(dataset)
    arrays = (user, item, jax.tree.map(jnp.asarray, seen(dataset)))

    def gather(arrays: Any, ids: jax.Array, key: jax.Array) -> Batch:
        user, item = arrays[0][ids], arrays[1][ids]
        negative = data.uniform_negatives(key, user, arrays[2], items=dataset.items, count=negatives)
        return {"user": user, "item": jnp.concatenate([item[:, None], negative], axis=1)}

    def loss(params: Params, batch: Batch, hparams: Pairs, key: jax.Array) -> jax.Array:
        scores = jnp.einsum("bd,bcd->bc", model.query(params, batch), model.items(params, batch["item"]))
        return losses.bpr(scores[:, :1], scores[:, 1:]).mean() + hparams.l2 * row_penalty(params, batch)

    return Objective(arrays, len(user), gather, loss, Pairs(), adam, schedule)


class Shared(NamedTuple):
    """Hyperparameters of :func:`contrastive` and :func:`sampled_softmax`.

    Attributes:
      learning_rate: of Adam at the first step.
      margin: cosines of negatives below it cost nothing.
      negative_weight: of the negatives beside the positive.
      dropout: share of a query's entries that are dropped.
      loss_temperature: what the scores of the softmax are divided by.
      l2: weight of the squared length of a batch's rows.
      steps: over which the learning rate falls to zero.
    """

    learning_rate: Any = 1e-3
    margin: Any = 0.9
    negative_weight: Any = 150.0
    dropout: Any = 0.0
    loss_temperature: Any = 0.2
    l2: Any = 0.0
    steps: Any = 1.0


@dataclasses.dataclass(frozen=True)
class Negatives:
    """Negatives that the rows of a batch share, uniform over the catalog.

    Attributes:
      count: how many.
      sharing: how many rows share them; the batch size for one draw a batch.
    """

    count: int = 1000
    sharing: int = 1024


def _by_shared(model: RetrievalModel, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """``[batch]`` scores of the positives, and ``[batch, negatives]`` of the negatives that each group shares."""
    query, negatives = model.query(params, batch), model.items(params, batch["negatives"])
    positive = jnp.sum(query * model.items(params, batch["item"]), axis=-1)
    groups = query.reshape(len(negatives), -1, query.shape[-1])
    return positive, (groups @ negatives.mT).reshape(len(query), -1)


def _with_shared_negatives(
    dataset: Dataset, schedule: grid.Schedule, negatives: Negatives, length: int, loss: Callable[..., jax.Array]
) -> Objective:
    """The objective of a loss over training events and negatives that rows share."""
    arrays = (*pair_arrays(dataset), *jax.tree.map(jnp.asarray, (dataset.log, dataset.last)))

    def gather(arrays: Any, ids: jax.Array, key: jax.Array) -> Batch:
        users, items, log, last = arrays
        user = users[ids]
        shape = (max(1, len(ids) // negatives.sharing), negatives.count)
        drawn = jax.random.randint(key, shape, 0, dataset.items, jnp.int32)
        batch = data.history_batch(log, data.Queries(user, last.end[user]), length)
        return {**batch, "item": items[ids], "negatives": drawn}

    return Objective(arrays, len(arrays[0]), gather, loss, Shared(), adam, schedule)


Prepare = Callable[[Params], Params]


def contrastive(
    dataset: Dataset,
    model: RetrievalModel,
    schedule: grid.Schedule,
    *,
    negatives: Negatives = Negatives(),
    prepare: Prepare = lambda params: params,
    length: int = 0,
) -> Objective:
    """The cosine contrastive loss over negatives that rows share.

    Args:
      dataset: its training events are the examples.
      model: whose queries and items have length 1.
      schedule: for how long.
      negatives: how many, and of how many rows.
      prepare: what is computed of the parameters once a step, such as a propagation along a graph.
      length: events of a history that the model reads.

    Returns:
      The :class:`Objective`.

    References:
      Mao et al., `SimpleX <https://arxiv.org/abs/2109.12613>`_, CIKM 2021, equation 1.
    """

    def loss(params: Params, batch: Batch, hparams: Shared, key: jax.Array) -> jax.Array:
        dropped = model._replace(query=lambda *of: drop(model.query(*of), key, 0, hparams.dropout))
        scores = _by_shared(dropped, prepare(params), batch)
        return losses.cosine_contrastive(*scores, margin=hparams.margin, weight=hparams.negative_weight).mean()

    return _with_shared_negatives(dataset, schedule, negatives, length, loss)


def sampled_softmax(
    dataset: Dataset,
    model: RetrievalModel,
    schedule: grid.Schedule,
    *,
    negatives: Negatives = Negatives(),
    prepare: Prepare = lambda params: params,
    length: int = 0,
) -> Objective:
    """A softmax over each item and negatives that rows share, and the L2 penalty of a batch's rows.

    Args:
      dataset: its training events are the examples.
      model: what learns.
      schedule: for how long.
      negatives: how many, and of how many rows.
      prepare: as for :func:`contrastive`.
      length: as for :func:`contrastive`.

    Returns:
      The :class:`Objective`.
    """

    def loss(params: Params, batch: Batch, hparams: Shared, key: jax.Array) -> jax.Array:
        positive, others = (x / hparams.loss_temperature for x in _by_shared(model, prepare(params), batch))
        return losses.sampled_softmax(positive, others).mean() + hparams.l2 * row_penalty(params, batch)

    return _with_shared_negatives(dataset, schedule, negatives, length, loss)
