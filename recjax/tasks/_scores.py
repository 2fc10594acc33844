"""Methods that compare the scores of a student and a teacher, over the whole catalog or a sample of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recjax import data, losses
from recjax.data import Dataset
from recjax.families import Model
from recjax.families.objectives import NEGATIVES, fits_whole, seen
from recjax.study import Method, Needs, Taught
from recjax.teacher import rejuvenated_candidates

LIST_LENGTH = 100  # of a teacher's list, where the scores of the whole catalog don't fit
LISTED = 28  # items of a list that a step learns from


class Temperature(NamedTuple):
    """Hyperparameters of :func:`soft_targets`.

    Attributes:
      temperature: of both softmaxes.
    """

    temperature: Any = 1.0


def on_scores(dataset: Dataset, model: Model, loss: Callable[..., jax.Array], hparams: Any) -> Method:
    """A method of two rows of scores: of the whole catalog where they fit, of some items elsewhere.

    Where the scores of the whole catalog don't fit (:func:`recjax.families.objectives.fits_whole`), the items are
    some of the teacher's list and uniform negatives, which score as the list's last item.

    Args:
      dataset: whose catalog it is.
      model: the student.
      loss: ``loss(student, teacher, taught, hparams) -> [queries]`` of ``[queries, items]`` scores. ``taught["where"]
        [queries, items]`` says which items count, and is None of a whole catalog.
      hparams: see :class:`~recjax.study.Method`.

    Returns:
      The :class:`~recjax.study.Method`.
    """
    whole = fits_whole(dataset, model.queries)
    have = None if whole else jax.tree.map(jnp.asarray, seen(dataset))

    def gather(taught: Taught, ids: jax.Array, key: jax.Array) -> dict[str, Any]:
        (places, others, key), known = jax.random.split(key, 3), taught.knowledge
        scores, batch = known.scores[ids].astype(jnp.float32), {"covered": known.covered(ids), "key": key}
        if have is None:
            return {**batch, "teacher": scores, "where": None}
        if known.items is None:
            raise ValueError("expected lists of the teacher's best items, got scores of the whole catalog")
        items, user = known.items[ids], jnp.asarray(taught.queries.user)[ids]
        places = jax.random.randint(places, (len(ids), LISTED), 0, items.shape[1])
        listed = jnp.take_along_axis(items, places, axis=1)
        negatives = data.uniform_negatives(others, user, have, items=dataset.items, count=NEGATIVES)
        candidates = jnp.concatenate([listed, negatives], axis=1)
        outside = jnp.broadcast_to(lowest(scores, items)[:, None], negatives.shape)
        teacher = jnp.concatenate([jnp.take_along_axis(scores, places, axis=1), outside], axis=1)
        where = (candidates >= 0) & batch["covered"][:, None]
        return {**batch, "candidates": candidates, "teacher": teacher, "where": where}

    def of_batch(score: Callable[..., jax.Array], params: Any, taught: Any, hparams: Any) -> jax.Array:
        candidates = taught.get("candidates")
        scores = score(params, taught["batch"], None if candidates is None else jnp.maximum(candidates, 0))
        return loss(scores, taught["teacher"], taught, hparams)

    return Method(gather, of_batch, hparams, Needs(None if whole else min(LIST_LENGTH, dataset.items)))


def lowest(scores: jax.Array, items: jax.Array) -> jax.Array:
    """``[queries]``, the score of a list's last item: nothing outside a list scores above it. 0 for an empty one."""
    last = jnp.min(scores, axis=1, where=items >= 0, initial=jnp.inf)
    return jnp.where(jnp.isfinite(last), last, 0)


def soft_targets(dataset: Dataset, model: Model) -> Method:
    r"""The KL divergence from the teacher's softmax to the student's, over the catalog or a sample of it.

    .. math::
        \ell(s, t) = \mathrm{KL}_\tau(s, t), \quad \text{see} \texttt{ losses.soft\_target\_kl}.

    Args:
      dataset: whose catalog it is.
      model: the student.

    Returns:
      The :class:`~recjax.study.Method`; its hyperparameters are :class:`Temperature`.

    References:
      Hinton et al., `Distilling the Knowledge in a Neural Network <https://arxiv.org/abs/1503.02531>`_, 2015.
    """

    def loss(student: jax.Array, teacher: jax.Array, taught: Any, hparams: Any) -> jax.Array:
        return losses.soft_target_kl(student, teacher, temperature=hparams.temperature, where=taught["where"])

    return on_scores(dataset, model, loss, Temperature())


class Margins(NamedTuple):
    """Hyperparameters of :func:`margin_mse`.

    Attributes:
      teacher_scale: what the teacher's standardized scores are multiplied by.
    """

    teacher_scale: Any = 1.0


def margin_mse(dataset: Dataset, model: Model) -> Method:
    r"""The mean squared difference of the student's and the teacher's margins, over all pairs of items (Margin-MSE).

    The paper has pairs of a positive and a negative, and raw scores of the teacher; here the items are those of
    :func:`on_scores`, and a teacher's scores are standardized, so their scale is a hyperparameter.

    Args:
      dataset: whose catalog it is.
      model: the student.

    Returns:
      The :class:`~recjax.study.Method`; its hyperparameters are :class:`Margins`.

    References:
      Hofstätter et al., `Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation
      <https://arxiv.org/abs/2010.02666>`_, 2020.
    """

    def loss(student: jax.Array, teacher: jax.Array, taught: Any, hparams: Any) -> jax.Array:
        return losses.margin_mse(student, teacher * hparams.teacher_scale, where=taught["where"])

    return on_scores(dataset, model, loss, Margins())


class Decoupled(NamedTuple):
    """Hyperparameters of :func:`dkd`; those published for ImageNet.

    Attributes:
      temperature: of both softmaxes.
      target_weight: of the target against the rest.
      rest_weight: of the divergence within the rest.
    """

    temperature: Any = 1.0
    target_weight: Any = 1.0
    rest_weight: Any = 0.5


def dkd(dataset: Dataset, model: Model) -> Method:
    r"""The KL divergence in two parts: a target against the other items, and within the other items (DKD).

    The target is a random training event of each query; a query without any learns from its labels alone.

    Args:
      dataset: whose catalog it is.
      model: the student.

    Returns:
      The :class:`~recjax.study.Method`; its hyperparameters are :class:`Decoupled`.

    References:
      Zhao et al., `Decoupled Knowledge Distillation <https://arxiv.org/abs/2203.08679>`_, CVPR 2022.
    """

    def loss(student: jax.Array, teacher: jax.Array, taught: Any, hparams: Any) -> jax.Array:
        weights = {"alpha": hparams.target_weight, "beta": hparams.rest_weight, "temperature": hparams.temperature}
        return losses.decoupled_kl(student, teacher, taught["target"], where=taught["where"], **weights)

    method = on_scores(dataset, model, loss, Decoupled())

    def gather(taught: Taught, ids: jax.Array, key: jax.Array) -> dict[str, Any]:
        key, batch = jax.random.fold_in(key, 1), method.gather(taught, ids, key)
        queries, log = jax.tree.map(jnp.asarray, (taught.queries, taught.log))
        begin, end = log.offsets[queries.user[ids]], queries.end[ids]
        row = begin + (jax.random.uniform(key, begin.shape) * (end - begin)).astype(jnp.int32)
        target = log.items[jnp.clip(row, begin, jnp.maximum(end - 1, 0))]
        batch = {**batch, "covered": batch["covered"] & (end > begin), "target": target}
        if taught.knowledge.items is None:
            return batch
        items, scores = taught.knowledge.items[ids], taught.knowledge.scores[ids].astype(jnp.float32)
        own = jnp.max(scores, axis=1, where=items == target[:, None], initial=-jnp.inf)
        own = jnp.where(jnp.isfinite(own), own, lowest(scores, items))
        first = {"candidates": target, "teacher": own, "where": batch["covered"]}
        others = {**batch, "where": batch["where"] & (batch["candidates"] != target[:, None])}
        joined = {name: jnp.concatenate([x[:, None], others[name]], axis=1) for name, x in first.items()}
        return {**batch, **joined, "target": jnp.zeros_like(target)}

    return method._replace(gather=gather)


class Rejuvenated(NamedTuple):
    """Hyperparameters of :func:`rce_kd`; those published for matrix factorization.

    Attributes:
      temperature: of both softmaxes.
      coverage: how fast the weight of the teacher's items falls with the share of them that was sampled.
    """

    temperature: Any = 1.0
    coverage: Any = 3.0


def rce_kd(dataset: Dataset, model: Model) -> Method:
    r"""Cross-entropies over the student's best items and over the teacher's, adaptively weighted (RCE-KD).

    The 50 best items of either; 50 of the student's best 200 are sampled at temperature 10, at most a quarter and the
    whole of the items that are scored. The student's list is that of the current parameters, where the paper updates it
    once an epoch.

    Args:
      dataset: whose catalog it is.
      model: the student.

    Returns:
      The :class:`~recjax.study.Method`; its hyperparameters are :class:`Rejuvenated`.

    References:
      Zhu and Zhang, `Rejuvenating Cross-Entropy Loss in Knowledge Distillation for Recommender Systems
      <https://arxiv.org/abs/2509.20989>`_, 2025.
    """

    def loss(student: jax.Array, teacher: jax.Array, taught: Any, hparams: Any) -> jax.Array:
        where = jnp.ones(student.shape, bool) if taught["where"] is None else taught["where"]
        best, long = min(50, max(1, student.shape[1] // 4)), min(200, student.shape[1])
        (_, own), (_, theirs) = (
            jax.lax.top_k(jax.lax.stop_gradient(jnp.where(where, scores, -jnp.inf)), length)
            for scores, length in ((student, long), (teacher, best))
        )
        teacher_top = _marked(theirs, where)
        top = jnp.take_along_axis(teacher_top, own, axis=1)
        sampled = rejuvenated_candidates(taught["key"], own, top, count=best, temperature=10.0)
        sets = _marked(own[:, :best], where), teacher_top, _marked(sampled, where)
        return losses.rejuvenated_ce(student, teacher, *sets, beta=hparams.coverage, temperature=hparams.temperature)

    return on_scores(dataset, model, loss, Rejuvenated())


def _marked(places: jax.Array, where: jax.Array) -> jax.Array:
    """Which of the items that count are among some places; -1 is none."""
    rows, width = jnp.arange(len(places))[:, None], where.shape[1]
    places = jnp.where(places >= 0, places, width)
    return jnp.zeros(where.shape, bool).at[rows, places].set(True, mode="drop") & where
