"""Models of ordered histories: SASRec, BSARec, GRU4Rec and HSTU, trained to predict the next item."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from recjax import data, grid, losses, models
from recjax.data import Dataset, Histories, Queries, history_batch
from recjax.errors import InputError
from recjax.families._model import Model, Objective, inner_product, inner_vectors, moments
from recjax.families.objectives import seen
from recjax.models import Params, RetrievalModel
from recjax.models.history import History

SCHEDULE = grid.Schedule(epochs=40, batch_size=256, chunk_epochs=2, patience=4)
Learn = Callable[[Dataset, RetrievalModel, int], Objective]  # learn(dataset, model, length)


class NextItem(NamedTuple):
    """Hyperparameters of :func:`next_item`.

    Attributes:
      learning_rate: of Adam.
      dropout: rate of dropout.
      steps: of the whole training, for an optimizer whose rate falls, such as :func:`objectives.adam`.
    """

    learning_rate: Any = 3e-3
    dropout: Any = 0.5
    steps: Any = 1.0


class Contrast(NamedTuple):
    """What a next item is compared with.

    Attributes:
      data: a pytree of arrays that ``draw`` reads.
      draw: ``draw(data, user, key) -> negatives`` of ``[labels]`` users; members of one seed share it.
      loss: ``loss(model, params, queries, labels, negatives) -> [labels]``, of ``[labels, dim]`` queries.
    """

    data: Any
    draw: Callable[[Any, jax.Array, jax.Array], jax.Array]
    loss: Callable[[RetrievalModel, Params, jax.Array, jax.Array, jax.Array], jax.Array]


def shared_negatives(dataset: Dataset, count: int = 1024) -> Contrast:
    """A softmax over the next item and negatives that the batch shares, uniform over the catalog.

    Their probabilities are equal and cancel.
    """

    def draw(data: Any, user: jax.Array, key: jax.Array) -> jax.Array:
        return jax.random.randint(key, (count,), 0, dataset.items)

    def loss(
        model: RetrievalModel, params: Params, queries: jax.Array, labels: jax.Array, negatives: jax.Array
    ) -> jax.Array:
        positive = jnp.sum(queries * model.items(params, labels), axis=-1)
        others = queries @ model.items(params, negatives).T
        return losses.sampled_softmax(positive, others, where=labels[:, None] != negatives[None])

    return Contrast((), draw, loss)


def one_negative(dataset: Dataset) -> Contrast:
    """Binary cross-entropy of the next item and of one item that the user doesn't have, as the authors of SASRec do."""

    def draw(have: Any, user: jax.Array, key: jax.Array) -> jax.Array:
        return data.uniform_negatives(key, user, have, items=dataset.items, count=1)[:, 0]

    def loss(
        model: RetrievalModel, params: Params, queries: jax.Array, labels: jax.Array, negatives: jax.Array
    ) -> jax.Array:
        def entropy(items: jax.Array, label: float) -> jax.Array:
            scores = jnp.sum(queries * model.items(params, items), axis=-1)
            return losses.binary_cross_entropy(scores, jnp.full(scores.shape, label))

        counts = negatives >= 0  # a user who has every item has no negative
        return entropy(labels, 1.0) + jnp.where(counts, entropy(jnp.maximum(negatives, 0), 0.0), 0)

    return Contrast(jax.tree.map(jnp.asarray, seen(dataset)), draw, loss)


def whole_catalog(dataset: Dataset) -> Contrast:
    """A softmax over the whole catalog."""

    def draw(data: Any, user: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.zeros(0, jnp.int32)

    def loss(
        model: RetrievalModel, params: Params, queries: jax.Array, labels: jax.Array, negatives: jax.Array
    ) -> jax.Array:
        return losses.softmax_cross_entropy(queries @ model.items(params).T, labels)

    return Contrast((), draw, loss)


def windows(dataset: Dataset, length: int, *, prefixes: bool = False) -> Queries:
    """The windows that a model of histories learns from, as rows ``(user, end)`` of the log.

    A window has the ``length + 1`` events before its end, each but the first the label of those before it. Windows are
    cut from the end, and the first event of one is the last of the one before, so every training event but the first of
    its user is a label exactly once. With ``prefixes`` every such event is the end of a window of its own.

    Args:
      dataset: its training events.
      length: events of a history.
      prefixes: a window for every label.

    Returns:
      ``[windows]`` queries, user by user.

    Examples:
      >>> ids, user = np.array(list("abcd")), np.zeros(4, np.int32)
      >>> log = data.Interactions(user, np.arange(4, dtype=np.int32), ids[:1], ids, timestamp=np.arange(4.0))
      >>> dataset = data.dataset(data.Split(log, log.take(slice(0)), log.take(slice(0)), {}))
      >>> windows(dataset, 2).end.tolist(), windows(dataset, 2, prefixes=True).end.tolist()
      ([2, 4], [2, 3, 4])
    """
    stride = 1 if prefixes else length
    labels = np.maximum(dataset.train_end[: dataset.users] - dataset.log.offsets[: dataset.users] - 1, 0)
    counts = -(-labels // stride)
    user = np.repeat(np.arange(dataset.users, dtype=np.int32), counts)
    later = np.cumsum(counts)[user] - 1 - np.arange(len(user))  # windows of the same user after this one
    return Queries(user, (dataset.train_end[user] - later * stride).astype(np.int32))


def _at_most(values: np.ndarray, count: int) -> int:
    """A bound on the sum of so many values drawn at random: five standard deviations above its mean."""
    bound = count * values.mean() + 5 * math.sqrt(count) * values.std()
    return min(math.ceil(bound), count * int(values.max()))


def _lengths(sizes: np.ndarray, length: int, count: int) -> tuple[int, int]:
    """How many windows of a batch are computed at the whole length, and the length of the others: the least work."""
    found = [(0, length), *((_at_most(sizes > short, count), short) for short in range(1, length))]
    return min(found, key=lambda one: one[0] * length + (count - one[0]) * one[1])


def next_item(
    dataset: Dataset,
    model: RetrievalModel,
    length: int,
    *,
    contrast: Callable[[Dataset], Contrast] = shared_negatives,
    prefixes: bool = False,
    schedule: grid.Schedule = SCHEDULE,
) -> Objective:
    """Every item of a history against other items, given the items before it.

    Most histories are shorter than ``length``: the longest windows of a batch are computed at the whole length and the
    others at a shorter one, and the loss is of the places that hold a label. How many of each there can be is fixed at
    five standard deviations above the mean, so that in practice nothing is cut.

    Args:
      dataset: its training events, cut into :func:`windows`.
      model: with ``queries``.
      length: events of a history.
      contrast: :func:`shared_negatives`, :func:`one_negative`, :func:`whole_catalog`, or a function like them.
      prefixes: whether each example is one label with the history before it, rather than a window of labels.
      schedule: for how long.

    Returns:
      The :class:`Objective`; Adam at a constant rate.

    References:
      Kang and McAuley, `Self-Attentive Sequential Recommendation <https://arxiv.org/abs/1808.09781>`_, ICDM 2018,
      section III.E; the softmax over many negatives as in Petrov and Macdonald, `gSASRec
      <https://arxiv.org/abs/2308.07192>`_, RecSys 2023.
    """
    queries_of = model.queries
    assert queries_of is not None
    against, rows = contrast(dataset), windows(dataset, length, prefixes=prefixes)
    sizes = np.minimum(rows.end - dataset.log.offsets[rows.user] - 1, length)  # items of a history with a label
    labels = np.minimum(sizes, 1) if prefixes else sizes
    arrays = jax.tree.map(jnp.asarray, (dataset.log, rows, against.data))

    def gather(arrays: tuple[Histories, Queries, Any], ids: jax.Array, key: jax.Array) -> dict[str, Any]:
        log, rows, of_contrast = arrays
        long, short = _lengths(sizes, length, len(ids))
        ids = ids[jnp.argsort(rows.end[ids] - log.offsets[rows.user[ids]] - 1 <= short)]  # the long ones first
        parts = [(part, width) for part, width in ((ids[:long], length), (ids[long:], short)) if len(part)]
        cut = [history_batch(log, Queries(rows.user[part], rows.end[part]), width + 1) for part, width in parts]
        histories = tuple(part["history"][:, :-1] for part in cut)
        here = [history >= 0 for history in histories]
        if prefixes:
            here = [known & (jnp.arange(known.shape[1]) == known.shape[1] - 1)[None] for known in here]
        label = jnp.concatenate([part["history"][:, 1:].ravel() for part in cut])
        user = jnp.concatenate([jnp.repeat(part["user"], width) for part, (_, width) in zip(cut, parts, strict=True)])
        # Most places are padding: those with a label, side by side; how many at most is static.
        here = jnp.concatenate([part.ravel() for part in here])
        (place,) = jnp.nonzero(here, size=min(_at_most(labels, len(ids)), here.size), fill_value=-1)
        negatives = against.draw(of_contrast, user[place], key)
        return {"histories": histories, "place": place, "label": label[place], "negatives": negatives}

    def loss(params: Params, batch: dict[str, Any], hparams: NextItem, key: jax.Array) -> jax.Array:
        place = batch["place"]
        found = [
            queries_of(params, {"history": history}, jax.random.fold_in(key, part), dropout=hparams.dropout)
            for part, history in enumerate(batch["histories"])
        ]
        queries = jnp.concatenate([part.reshape(-1, part.shape[-1]) for part in found])[place]
        each = against.loss(model, params, queries, batch["label"], batch["negatives"])
        return jnp.sum(each, where=place >= 0) / jnp.maximum(jnp.sum(place >= 0), 1)

    def adam(hparams: NextItem) -> optax.GradientTransformation:
        return optax.adam(hparams.learning_rate)

    return Objective(arrays, len(sizes), gather, loss, NextItem(), adam, schedule)


def _of_histories(
    dataset: Dataset, architecture: Callable[[Any], RetrievalModel], config: History, learn: Learn
) -> Model:
    if not dataset.timed:
        raise InputError("expected a log with timestamps for a model of ordered histories, got none")
    model, length, sizes = architecture(config), config.length, dataclasses.asdict(config)
    for part in ("items", "dim", "scale"):  # the item table has them, or its initial values
        del sizes[part]
    return Model(
        model.init,
        inner_product(model),
        length,
        moments(dataset, 4),
        learn(dataset, model, length),
        kind="sequence",
        tables=_tables,
        net={"architecture": architecture.__name__, **sizes},
        vectors=inner_vectors(model),
    )


def _tables(stored: Params) -> dict[str, Any]:
    """The item table and the parameters of the net by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(stored["net"], is_leaf=lambda part: not isinstance(part, dict))
    keystr = jax.tree_util.keystr
    return {**stored["tables"], **{keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}}


def sasrec(
    dataset: Dataset, dim: int = 64, *, length: int = 20, blocks: int = 2, heads: int = 2, learn: Learn = next_item
) -> Model:
    """SASRec, by default trained by a softmax over 1,024 negatives that a batch shares.

    Args:
      dataset: with times.
      dim: length of a vector.
      length: events of a history that are read.
      blocks: one above the other.
      heads: of an attention; ``dim`` is divided among them.
      learn: ``learn(dataset, model, length)`` gives the objective, such as :func:`next_item` with another ``contrast``.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.sasrec`.

    Raises:
      InputError: if the data set has no times.
    """
    config = models.SasRec(dataset.items, length, dim, blocks=blocks, heads=heads)
    return _of_histories(dataset, models.sasrec, config, learn)


def bsarec(
    dataset: Dataset,
    dim: int = 64,
    *,
    length: int = 20,
    blocks: int = 2,
    heads: int = 2,
    alpha: float = 0.7,
    cutoff: int = 5,
    learn: Learn = next_item,
) -> Model:
    """BSARec, by default trained as :func:`sasrec`.

    Args:
      dataset: with times.
      dim: length of a vector.
      length: events of a history that are read.
      blocks: one above the other.
      heads: of an attention; ``dim`` is divided among them.
      alpha: see :class:`recjax.models.BsaRec`.
      cutoff: see there.
      learn: see :func:`sasrec`.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.bsarec`.

    Raises:
      InputError: if the data set has no times.
    """
    config = models.BsaRec(dataset.items, length, dim, blocks=blocks, heads=heads, alpha=alpha, cutoff=cutoff)
    return _of_histories(dataset, models.bsarec, config, learn)


def gru4rec(dataset: Dataset, dim: int = 64, *, length: int = 20, hidden: int = 128, learn: Learn = next_item) -> Model:
    """GRU4Rec, by default trained as :func:`sasrec`.

    Args:
      dataset: with times.
      dim: length of a vector.
      length: events of a history that are read.
      hidden: units of the recurrent layer.
      learn: see :func:`sasrec`.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.gru4rec`.

    Raises:
      InputError: if the data set has no times.
    """
    config = models.Gru4Rec(dataset.items, length, dim, hidden=hidden)
    return _of_histories(dataset, models.gru4rec, config, learn)


def hstu(
    dataset: Dataset, dim: int = 64, *, length: int = 20, blocks: int = 2, heads: int = 2, learn: Learn = next_item
) -> Model:
    """HSTU without times between events, by default trained as :func:`sasrec`.

    Args:
      dataset: with times, which order the events.
      dim: length of a vector.
      length: events of a history that are read.
      blocks: one above the other.
      heads: of an attention; ``dim`` is divided among them.
      learn: see :func:`sasrec`.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.hstu`.

    Raises:
      InputError: if the data set has no times.
    """
    config = models.Hstu(dataset.items, length, dim, blocks=blocks, heads=heads)
    return _of_histories(dataset, models.hstu, config, learn)
