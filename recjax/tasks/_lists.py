"""Methods that learn the order of a teacher's list of items without an interaction."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax import data, losses, teacher
from recjax.data import Dataset, Seen
from recjax.families import Model
from recjax.families.objectives import fits_whole, seen
from recjax.study import Method, Needs, Taught


class Lists(NamedTuple):
    """What a method draws from: the teacher's lists of the queries of a step.

    Attributes:
      user: ``[queries]``.
      items: ``[queries, length]``, best first, -1 where a list ends.
      scores: ``[queries, length]`` float32.
      seen: the items that each user has in training.
    """

    user: jax.Array
    items: jax.Array
    scores: jax.Array
    seen: Seen

    @property
    def places(self) -> jax.Array:
        """``[queries, length]``, the place of each entry in its list, for a sampler of items."""
        return jnp.broadcast_to(jnp.arange(self.items.shape[1]), self.items.shape)


def list_length(dataset: Dataset, most: int = 500) -> int:
    """Items of a teacher's list: ``most``, and no more than a third of the catalog."""
    return max(1, min(most, dataset.items // 3))


def on_lists(
    dataset: Dataset,
    model: Model,
    draw: Callable[[jax.Array, Lists], dict[str, jax.Array]],
    loss: Callable[..., jax.Array],
    hparams: Any,
    *,
    length: int,
) -> Method:
    """A method of some candidates that are drawn by the teacher's lists.

    Args:
      dataset: whose catalog it is.
      model: the student.
      draw: ``draw(key, lists) -> drawn``, with ``drawn["candidates"] [queries, candidates]``, -1 for none.
      loss: ``loss(student, taught, hparams) -> [queries]``, of ``[queries, candidates]`` scores. ``taught`` is what was
        drawn, with ``where [queries, candidates]``, which candidates count.
      hparams: see :class:`~recjax.study.Method`.
      length: items of a list.

    Returns:
      The :class:`~recjax.study.Method`. Its lists leave out the items of a query's history.
    """
    have = jax.tree.map(jnp.asarray, seen(dataset))

    def gather(taught: Taught, ids: jax.Array, key: jax.Array) -> dict[str, Any]:
        known, user = taught.knowledge, jnp.asarray(taught.queries.user)[ids]
        if known.items is None:
            raise ValueError("expected lists of the teacher's best items, got scores of the whole catalog")
        covered, (draws, key) = known.covered(ids), jax.random.split(key)
        items = jnp.where(covered[:, None], known.items[ids], -1)
        drawn = draw(draws, Lists(user, items, known.scores[ids].astype(jnp.float32), have))
        where = (drawn["candidates"] >= 0) & covered[:, None]
        return {**drawn, "where": where, "covered": covered, "key": key}

    def of_batch(score: Callable[..., jax.Array], params: Any, taught: Any, hparams: Any) -> jax.Array:
        scores = score(params, taught["batch"], jnp.maximum(taught["candidates"], 0))
        return loss(scores, taught, hparams)

    return Method(gather, of_batch, hparams, Needs(length, masked=True))


def mean(values: jax.Array, where: jax.Array) -> jax.Array:
    """``[queries]``, the mean over the entries that count; 0 of none."""
    return jnp.sum(jnp.where(where, values, 0), axis=-1) / count(where)


def count(where: jax.Array) -> jax.Array:
    """``[queries]``, how many entries count, at least 1."""
    return jnp.maximum(jnp.sum(where, axis=-1), 1).astype(jnp.float32)


class Positions(NamedTuple):
    """Hyperparameters of :func:`rd`.

    Attributes:
      position_sharpness: the larger, the more alike the weights of the positions of a list.
      discrepancy: how fast an item's weight rises with its rank by the student.
    """

    position_sharpness: Any = 1.0
    discrepancy: Any = 0.1


def rd(dataset: Dataset, model: Model) -> Method:
    r"""The log loss of the teacher's 10 best items, weighted by position and by the student's rank (RD).

    The student's ranks are estimated from 100 uniform items of each step, from the first step on; the paper draws them
    once an epoch and leaves this weight out in the first 10.

    Args:
      dataset: whose catalog it is.
      model: the student.

    Returns:
      The :class:`~recjax.study.Method`; its hyperparameters are :class:`Positions`.

    References:
      Tang and Wang, `Ranking Distillation <https://arxiv.org/abs/1809.07428>`_, KDD 2018.
    """
    listed = list_length(dataset, 10)

    def draw(key: jax.Array, lists: Lists) -> dict[str, jax.Array]:
        negatives = data.uniform_negatives(key, lists.user, lists.seen, items=dataset.items, count=100)
        return {"candidates": jnp.concatenate([lists.items, negatives], axis=1)}

    def loss(student: jax.Array, taught: Any, hparams: Any) -> jax.Array:
        ranks = losses.estimated_ranks(student[:, :listed], student[:, listed:], items=dataset.items)
        positions = losses.position_weights(listed, sharpness=hparams.position_sharpness)
        weights = positions[None] * losses.discrepancy_weights(ranks, mu=hparams.discrepancy)
        return losses.ranking_distillation(student[:, :listed], weights, where=taught["where"][:, :listed])

    return on_lists(dataset, model, draw, loss, Positions(), length=listed)


class Probability(NamedTuple):
    """Hyperparameters of :func:`cd`.

    Attributes:
      scale: what a teacher's score is divided by.
      shift: what is added to it before.
    """

    scale: Any = 2.0
    shift: Any = 0.0


def cd(dataset: Dataset, model: Model) -> Method:
    r"""Binary cross-entropy with the teacher's probabilities of 50 items, the better ranked the likelier (CD).

    They are drawn from the teacher's best 500 items, at temperature 20 on the rank as a share of the list, as in later
    comparisons.

    Args:
      dataset: whose catalog it is.
      model: the student.

    Returns:
      The :class:`~recjax.study.Method`, of the mean over the items drawn; its hyperparameters are :class:`Probability`.

    References:
      Lee et al., `Collaborative Distillation for Top-N Recommendation <https://arxiv.org/abs/1911.05276>`_, ICDM 2019.
    """
    length = list_length(dataset)

    def draw(key: jax.Array, lists: Lists) -> dict[str, jax.Array]:
        amount, where = min(50, length), lists.items >= 0
        places = teacher.better_of_two(key, lists.places, count=amount, temperature=20.0 * length, where=where)
        items, scores = (jnp.take_along_axis(x, jnp.maximum(places, 0), axis=1) for x in (lists.items, lists.scores))
        return {"candidates": jnp.where(places >= 0, items, -1), "teacher": scores}

    def loss(student: jax.Array, taught: Any, hparams: Any) -> jax.Array:
        each = losses.collaborative_distillation(student, taught["teacher"], scale=hparams.scale, shift=hparams.shift)
        return mean(each, taught["where"])

    return on_lists(dataset, model, draw, loss, Probability(), length=length)


RANKED = 40  # interesting items and uninteresting ones of a user


class NoHparams(NamedTuple):
    """No hyperparameters."""


def _relaxed(dataset: Dataset) -> tuple[Callable[[jax.Array, Lists], dict[str, jax.Array]], int]:
    """Draws the teacher's best items and as many of neither the user nor the list; and how many are interesting."""
    length = list_length(dataset)
    interesting = min(RANKED, length)
    width = length + max(1, int(np.diff(seen(dataset).offsets).max(initial=0)))

    def draw(key: jax.Array, lists: Lists) -> dict[str, jax.Array]:
        known = teacher.excluded(lists.seen, lists.user, lists.items, width=width)
        others = teacher.uniform_complement(key, known, items=dataset.items, count=RANKED)
        return {"candidates": jnp.concatenate([lists.items[:, :interesting], others], axis=1)}

    return draw, interesting


def _ranked(student: jax.Array, where: jax.Array, interesting: int) -> jax.Array:
    """The relaxed ranking of a draw, over the number of interesting items."""
    masks = {"where": where[:, :interesting], "uninteresting_where": where[:, interesting : interesting + RANKED]}
    parts = student[:, :interesting], student[:, interesting : interesting + RANKED]
    return losses.relaxed_ranking(*parts, **masks) / count(masks["where"])


def rrd(dataset: Dataset, model: Model) -> Method:
    r"""The Plackett-Luce loss of the teacher's 40 best items, all above 40 uninteresting ones (RRD).

    The best items themselves, which the authors found better than a sample of the best 500; the uninteresting ones are
    uniform over what is neither the user's nor among those 500.

    Args:
      dataset: whose catalog it is.
      model: the student.

    Returns:
      The :class:`~recjax.study.Method`, of the loss over the number of interesting items; it has no hyperparameters.

    References:
      Kang et al., `DE-RRD <https://arxiv.org/abs/2012.04357>`_, CIKM 2020.
    """
    draw, interesting = _relaxed(dataset)

    def loss(student: jax.Array, taught: Any, hparams: Any) -> jax.Array:
        return _ranked(student, taught["where"], interesting)

    return on_lists(dataset, model, draw, loss, NoHparams(), length=list_length(dataset))


class ItemSide(NamedTuple):
    """Hyperparameters of :func:`ir_rrd`.

    Attributes:
      item_weight: of the lists of users beside the lists of items.
    """

    item_weight: Any = 0.5


def ir_rrd(dataset: Dataset, model: Model) -> Method:
    r"""RRD, and the same for the users of an item (IR-RRD).

    One interesting item of each query has a list of users: the 20 users of the batch whose lists have it, the teacher's
    highest score first, all above those that have it neither in their list nor in training. The paper has the best 500
    among all users.

    Args:
      dataset: whose catalog it is.
      model: the student.

    Returns:
      The :class:`~recjax.study.Method`, of either loss over the number of entries in its order; its hyperparameters are
      :class:`ItemSide`.

    References:
      Kang et al., *Item-side Ranking Regularized Distillation for Recommender System*, Information Sciences 2021.
    """
    of_users, interesting = _relaxed(dataset)

    def draw(key: jax.Array, lists: Lists) -> dict[str, jax.Array]:
        place = jax.random.randint(jax.random.fold_in(key, 1), (len(lists.user), 1), 0, interesting)
        chosen = jnp.take_along_axis(lists.items, place, axis=1)[:, 0]  # of each query, one that all are scored for
        users, shared = jnp.broadcast_arrays(lists.user[:, None], chosen[None])
        listed = lists.items[:, :, None] == chosen[None, None]
        scores = jnp.max(jnp.broadcast_to(lists.scores[:, :, None], listed.shape), 1, where=listed, initial=-jnp.inf)
        other = (scores == -jnp.inf) & ~data.has(users, shared, lists.seen)
        candidates = jnp.concatenate([of_users(key, lists)["candidates"], shared], axis=1)
        return {"candidates": candidates, "by_item": scores.T, "other_users": other.T}

    def loss(student: jax.Array, taught: Any, hparams: Any) -> jax.Array:
        own, by_item = student[:, : interesting + RANKED], student[:, interesting + RANKED :].T
        counts = taught["where"][:, interesting + RANKED :].T
        best, users = jax.lax.top_k(taught["by_item"], min(20, len(by_item)))
        where = jnp.take_along_axis(counts, users, axis=1) & (best > -jnp.inf)
        masks = {"where": where, "uninteresting_where": counts & taught["other_users"]}
        items = losses.relaxed_ranking(jnp.take_along_axis(by_item, users, axis=1), by_item, **masks) / count(where)
        return _ranked(own, taught["where"], interesting) + hparams.item_weight * items

    return on_lists(dataset, model, draw, loss, ItemSide(), length=list_length(dataset))


class Correction(NamedTuple):
    """Hyperparameters of :func:`dcd`.

    Attributes:
      rank_sharpness: how fast an item's weight in the draw rises with the difference of its two ranks.
      correction: share of the corrected items in the loss, beside RRD.
    """

    rank_sharpness: Any = 0.1
    correction: Any = 0.5


def dcd(dataset: Dataset, model: Model) -> Method:
    r"""RRD, and the order of 40 items that the student ranks too low, all above 40 that it ranks too high (DCD).

    Ranks are those among the teacher's best 500 items. The student's are those of the current parameters, where the
    paper computes them every 3 epochs. Users' lists only.

    Args:
      dataset: whose catalog it is.
      model: the student.

    Returns:
      The :class:`~recjax.study.Method`, of either loss over the number of items in its order; its hyperparameters are
      :class:`Correction`.

    References:
      Lee and Kim, `Dual Correction Strategy for Ranking Distillation in Top-N Recommender System
      <https://arxiv.org/abs/2109.03459>`_, CIKM 2021.
    """
    length = list_length(dataset)
    relaxed, interesting = _relaxed(dataset)

    def draw(key: jax.Array, lists: Lists) -> dict[str, jax.Array]:
        return {"candidates": jnp.concatenate([relaxed(key, lists)["candidates"], lists.items], axis=1)}

    def loss(student: jax.Array, taught: Any, hparams: Any) -> jax.Array:
        listed, where = (x[:, interesting + RANKED :] for x in (student, taught["where"]))
        theirs = jnp.broadcast_to(jnp.arange(length), listed.shape)
        sharpness, ours = hparams.rank_sharpness, teacher.ranks(listed, where=where)
        amount = min(RANKED, length)
        places = teacher.by_disagreement(taught["key"], theirs, ours, count=amount, sharpness=sharpness, where=where)
        under, over = (jnp.take_along_axis(listed, jnp.maximum(place, 0), axis=1) for place in places)
        masks = [place >= 0 for place in places]
        corrected = losses.dual_correction(under, over, where=masks[0], overestimated_where=masks[1]) / count(masks[0])
        return (1 - hparams.correction) * _ranked(student, taught["where"], interesting) + (
            hparams.correction * corrected
        )

    return on_lists(dataset, model, draw, loss, Correction(), length=length)


GROUPS, PAIRS = 4, 30  # of popularity, and pairs of a query over all groups


def unkd(dataset: Dataset, model: Model) -> Method:
    r"""The pairwise loss between two items of like popularity, in the teacher's order (UnKD).

    30 pairs of a query, from four groups of equal total popularity, at temperature 20 on the rank within a group. A
    list has the whole catalog where that fits, elsewhere the teacher's best 1,000 items.

    Args:
      dataset: whose catalog it is.
      model: the student.

    Returns:
      The :class:`~recjax.study.Method`, of the mean over the pairs; it has no hyperparameters.

    References:
      Chen et al., `Unbiased Knowledge Distillation for Recommendation <https://arxiv.org/abs/2211.14729>`_, WSDM 2023.
    """
    length = dataset.items if fits_whole(dataset, model.queries) else list_length(dataset, 1000)
    group = jnp.asarray(teacher.popularity_groups(dataset.popularity(), GROUPS))
    amount = -(-PAIRS // GROUPS)

    def draw(key: jax.Array, lists: Lists) -> dict[str, jax.Array]:
        of = jnp.where(lists.items >= 0, group[lists.items], -1)
        pairs = [
            teacher.ranked_pairs(
                jax.random.fold_in(key, number), lists.items, count=amount, temperature=20.0, where=of == number
            )
            for number in range(GROUPS)
        ]
        return {"candidates": jnp.concatenate([side for sides in zip(*pairs, strict=True) for side in sides], axis=1)}

    def loss(student: jax.Array, taught: Any, hparams: Any) -> jax.Array:
        preferred, other = jnp.split(student, 2, axis=1)
        return mean(losses.unbiased_pairs(preferred, other), taught["where"][:, : GROUPS * amount])

    return on_lists(dataset, model, draw, loss, NoHparams(), length=length)


def cl_drd(dataset: Dataset, model: Model) -> Method:
    r"""The pairwise loss of 30 graded items, weighted by the difference of the student's inverse ranks (CL-DRD).

    The teacher's 10 best items have the grade 1 / rank, 10 of the 190 behind them -0.25, and 10 uniform negatives -0.5:
    the second stage of the paper, without its curriculum.

    Args:
      dataset: whose catalog it is.
      model: the student.

    Returns:
      The :class:`~recjax.study.Method`, of the mean over the pairs; it has no hyperparameters.

    References:
      Zeng et al., `Curriculum Learning for Dense Retrieval Distillation <https://arxiv.org/abs/2204.13679>`_, SIGIR
      2022.
    """
    length = list_length(dataset, 200)
    best = min(10, max(1, length // 2))
    grades = jnp.concatenate([1 / jnp.arange(1.0, best + 1), jnp.full(10, -0.25), jnp.full(10, -0.5)])

    def draw(key: jax.Array, lists: Lists) -> dict[str, jax.Array]:
        behind, others = jax.random.split(key)
        rest = lists.items[:, best:]
        rest = teacher.by_rank(behind, rest, count=10, temperature=jnp.inf, where=rest >= 0)
        negatives = data.uniform_negatives(others, lists.user, lists.seen, items=dataset.items, count=10)
        return {"candidates": jnp.concatenate([lists.items[:, :best], rest, negatives], axis=1)}

    def loss(student: jax.Array, taught: Any, hparams: Any) -> jax.Array:
        where = taught["where"]
        y = jnp.broadcast_to(grades, student.shape)
        pairs = (y[:, :, None] > y[:, None, :]) & where[:, :, None] & where[:, None, :]
        return losses.inverse_rank_pairs(student, y, where=where) / count(pairs.reshape(len(pairs), -1))

    return on_lists(dataset, model, draw, loss, NoHparams(), length=length)
