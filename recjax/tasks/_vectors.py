"""Methods that compare the hidden activations of a student and a teacher: vectors whose inner products are scores."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from recjax import data, losses, teacher
from recjax.data import Dataset, Queries
from recjax.families import Model
from recjax.study import Method, Needs, Taught
from recjax.tasks._lists import NoHparams
from recjax.teacher import Knowledge

SIDES = ("query", "item")
Pair = dict[str, tuple[jax.Array, jax.Array]]  # of either side, the student's vectors and the teacher's


def on_vectors(
    dataset: Dataset,
    model: Model,
    loss: Callable[..., jax.Array],
    hparams: Any,
    init: Callable[[jax.Array, int, int], dict[str, jax.Array]] | None = None,
) -> Method:
    """A method of the queries of a step and as many items, uniform over the catalog.

    Args:
      dataset: whose catalog it is.
      model: the student.
      loss: ``loss(pair, auxiliary, taught, hparams) -> [queries]`` of the student's and the teacher's ``[queries,
        dim]`` vectors of either side; the loss of item i belongs to query i.
      hparams: see :class:`~recjax.study.Method`.
      init: ``init(key, dim, teacher_dim)``, the auxiliary parameters of a side; None for none.

    Returns:
      The :class:`~recjax.study.Method`.
    """
    of = _vectors_of(model)

    def gather(taught: Taught, ids: jax.Array, key: jax.Array) -> dict[str, Any]:
        drawn, key = jax.random.split(key)
        items = jax.random.randint(drawn, ids.shape, 0, dataset.items)
        of_queries, of_items = _vectors_in(taught.knowledge)
        theirs = {"query": of_queries[ids], "item": of_items[items]}
        return {"items": items, "teacher": theirs, "covered": taught.knowledge.covered(ids), "key": key}

    def of_batch(score: Callable[..., jax.Array], params: Any, taught: Any, hparams: Any) -> jax.Array:
        ours = dict(zip(SIDES, of(params, taught["batch"], taught["items"]), strict=True))
        pair = {side: (ours[side], taught["teacher"][side]) for side in SIDES}
        return loss(pair, params["auxiliary"], taught, hparams)

    def fresh(key: jax.Array, knowledge: Knowledge) -> dict[str, Any]:
        return {} if init is None else auxiliary(init, key, dataset, model, knowledge)

    return Method(gather, of_batch, hparams, Needs(1, vectors=True), fresh)


def _vectors_of(model: Model) -> Callable[..., tuple[jax.Array, jax.Array]]:
    if model.vectors is None:
        raise ValueError("expected a student with hidden activations, got one without")
    return model.vectors


def _vectors_in(knowledge: Knowledge) -> tuple[Any, Any]:
    if knowledge.query_vectors is None or knowledge.item_vectors is None:
        raise ValueError("expected knowledge with hidden activations, got knowledge without")
    return knowledge.query_vectors, knowledge.item_vectors


def auxiliary(
    init: Callable[[jax.Array, int, int], dict[str, jax.Array]],
    key: jax.Array,
    dataset: Dataset,
    model: Model,
    knowledge: Knowledge,
) -> dict[str, Any]:
    """``{"query": ..., "item": ...}``, the auxiliary parameters of either side.

    Args:
      init: see :func:`on_vectors`.
      key: a typed key.
      dataset: whose log the queries are of.
      model: the student.
      knowledge: of the teacher.
    """
    first = data.history_batch(dataset.log, Queries(*(x[:1] for x in model.queries)), model.length or 0)
    params = jax.eval_shape(model.init, key)
    shapes = jax.eval_shape(_vectors_of(model), params, first)
    dims = [side.shape[1] for side in shapes], [np.shape(side)[1] for side in _vectors_in(knowledge)]
    return {side: init(*of) for side, *of in zip(SIDES, jax.random.split(key), *dims, strict=True)}


def projection(key: jax.Array, dim: int, teacher_dim: int) -> dict[str, jax.Array]:
    """A linear map to the teacher's width."""
    return {"kernel": jax.random.normal(key, (dim, teacher_dim)) / dim**0.5}


def projected(pair: Pair, parameters: Any) -> Pair:
    """The pair with the student's vectors in the teacher's width."""
    return {side: (ours @ parameters[side]["kernel"], theirs) for side, (ours, theirs) in pair.items()}


def hint(dataset: Dataset, model: Model) -> Method:
    r"""The squared distance of the student's vectors, projected, to the teacher's (FitNets), of a query and an item.

    Relative to the mean squared length of the teacher's vectors, and the mean of the two.

    Args:
      dataset: whose catalog it is.
      model: the student.

    Returns:
      The :class:`~recjax.study.Method`; it has no hyperparameters.

    References:
      Romero et al., `FitNets: Hints for Thin Deep Nets <https://arxiv.org/abs/1412.6550>`_, ICLR 2015.
    """

    def loss(pair: Pair, parameters: Any, taught: Any, hparams: Any) -> jax.Array:
        pair = projected(pair, parameters)
        return (losses.hint(*pair["query"]) + losses.hint(*pair["item"])) / 2

    return on_vectors(dataset, model, loss, NoHparams(), projection)


class Contrast(NamedTuple):
    """Hyperparameters of :func:`info_nce`.

    Attributes:
      contrast_temperature: what the cosines are divided by.
    """

    contrast_temperature: Any = 0.1


def info_nce(dataset: Dataset, model: Model) -> Method:
    r"""The contrastive loss of the student's vectors, projected, and the teacher's, with in-batch negatives (InfoNCE).

    Of queries and of items, the mean of the two.

    Args:
      dataset: whose catalog it is.
      model: the student.

    Returns:
      The :class:`~recjax.study.Method`; its hyperparameters are :class:`Contrast`.

    References:
      van den Oord et al., `Representation Learning with Contrastive Predictive Coding
      <https://arxiv.org/abs/1807.03748>`_, 2018. Xia et al., *Graph-less Collaborative Filtering*, WWW 2023: in a
      recommender.
    """

    def loss(pair: Pair, parameters: Any, taught: Any, hparams: Any) -> jax.Array:
        pair, temperature = projected(pair, parameters), hparams.contrast_temperature
        queries = losses.info_nce(*pair["query"], temperature=temperature, where=taught["covered"])
        return (queries + losses.info_nce(*pair["item"], temperature=temperature)) / 2

    return on_vectors(dataset, model, loss, Contrast(), projection)


EXPERTS = 30  # of either side, and groups of HTD


def _experts(key: jax.Array, dim: int, teacher_dim: int) -> dict[str, jax.Array]:
    """Experts of one hidden layer of mean width, and the gate, which reads the teacher's vector."""
    keys, hidden = jax.random.split(key, 3), (dim + teacher_dim) // 2
    return {
        "hidden": jax.random.normal(keys[0], (EXPERTS, dim, hidden)) / dim**0.5,
        "hidden_bias": jnp.zeros((EXPERTS, hidden)),
        "kernel": jax.random.normal(keys[1], (EXPERTS, hidden, teacher_dim)) / hidden**0.5,
        "bias": jnp.zeros((EXPERTS, teacher_dim)),
        "gate": jax.random.normal(keys[2], (teacher_dim, EXPERTS)) / teacher_dim**0.5,
    }


def _by_experts(pair: Pair, parameters: Any, taught: Any, hparams: Any) -> jax.Array:
    """``[queries]``, the distance of the teacher's vectors to the mixtures, the mean of both sides."""
    keys, total = jax.random.split(taught["key"]), jnp.zeros(())
    for key, side in zip(keys, SIDES, strict=True):
        (ours, theirs), own = pair[side], parameters[side]
        hidden = jax.nn.relu(jnp.einsum("bd,mdh->bmh", ours, own["hidden"]) + own["hidden_bias"][None])
        outputs = jnp.einsum("bmh,mht->bmt", hidden, own["kernel"]) + own["bias"][None]
        selection = teacher.gumbel_selection(key, theirs @ own["gate"], temperature=hparams.gate_temperature)
        total = total + losses.distillation_experts(outputs, theirs, selection)
    return total / 2


class Experts(NamedTuple):
    """Hyperparameters of :func:`de`.

    Attributes:
      gate_temperature: of the random selection of an expert.
    """

    gate_temperature: Any = 0.1


def de(dataset: Dataset, model: Model) -> Method:
    r"""The squared distance of the teacher's vectors to mixtures of 30 experts on the student's (DE).

    Relative to the mean squared length of the teacher's vectors, and the mean of a query and an item. The temperature
    of the selection is constant, where the paper lets it fall from 1 to 1e-10.

    Args:
      dataset: whose catalog it is.
      model: the student.

    Returns:
      The :class:`~recjax.study.Method`; its hyperparameters are :class:`Experts`.

    References:
      Kang et al., `DE-RRD <https://arxiv.org/abs/2012.04357>`_, CIKM 2020.
    """
    return on_vectors(dataset, model, _by_experts, Experts(), _experts)


def _together(pair: Pair, covered: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``[2 queries, ...]`` queries and items of the student, those of the teacher, and which count."""
    ours, theirs = (jnp.concatenate([pair[side][number] for side in SIDES]) for number in range(2))
    return ours, theirs, jnp.concatenate([covered, jnp.ones_like(covered)])


def _by_query(pairs: jax.Array, counted: jax.typing.ArrayLike) -> jax.Array:
    """``[queries]``, the mean over the columns that count of the rows of a query and of its item."""
    rows = jnp.sum(pairs, axis=1) / counted
    return rows.reshape(2, -1).mean(axis=0)


def ftd(dataset: Dataset, model: Model) -> Method:
    r"""The squared difference of the cosines between all vectors of a step (FTD), queries and items alike.

    Args:
      dataset: whose catalog it is.
      model: the student.

    Returns:
      The :class:`~recjax.study.Method`, of the mean over pairs; it has no hyperparameters.

    References:
      Kang et al., `Topology Distillation for Recommender System <https://arxiv.org/abs/2106.08700>`_, KDD 2021.
    """

    def loss(pair: Pair, parameters: Any, taught: Any, hparams: Any) -> jax.Array:
        ours, theirs, where = _together(pair, taught["covered"])
        return _by_query(losses.topology(ours, theirs, where=where), jnp.sum(where))

    return on_vectors(dataset, model, loss, NoHparams())


class Hierarchical(NamedTuple):
    """Hyperparameters of :func:`htd`.

    Attributes:
      gate_temperature: see :class:`Experts`.
      topology: share of the topology in the loss, beside that of the experts.
    """

    gate_temperature: Any = 0.1
    topology: Any = 0.5


def htd(dataset: Dataset, model: Model) -> Method:
    r"""The topology of FTD within groups and between vectors and groups, which a gate learns as in DE (HTD).

    30 groups of queries and 30 of items.

    Args:
      dataset: whose catalog it is.
      model: the student.

    Returns:
      The :class:`~recjax.study.Method`, of means over pairs; its hyperparameters are :class:`Hierarchical`.

    References:
      Kang et al., `Topology Distillation for Recommender System <https://arxiv.org/abs/2106.08700>`_, KDD 2021.
    """

    def loss(pair: Pair, parameters: Any, taught: Any, hparams: Any) -> jax.Array:
        ours, theirs, where = _together(pair, taught["covered"])
        gates = [jnp.argmax(pair[side][1] @ parameters[side]["gate"], axis=1) for side in SIDES]
        group = jnp.concatenate([gates[0], EXPERTS + gates[1]])
        found = losses.hierarchical_topology(ours, theirs, group, groups=2 * EXPERTS, where=where)
        within = _by_query(found.entities, jnp.sum(where)) + _by_query(found.prototypes, 2 * EXPERTS)
        experts = _by_experts(pair, parameters, taught, hparams)
        return hparams.topology * within + (1 - hparams.topology) * experts

    return on_vectors(dataset, model, loss, Hierarchical(), _experts)


NEIGHBORS = 5


class Filter(NamedTuple):
    """Hyperparameters of :func:`freqd`.

    Attributes:
      smoothing: weight of the neighbors.
    """

    smoothing: Any = 0.2


def freqd(dataset: Dataset, model: Model) -> Method:
    r"""The squared distance of projected vectors to the teacher's, after a low-pass graph filter (FreqD).

    A query is linked to the latest queries of the 5 users with whom its user shares most items, an item to the 5 with
    which it shares most users, each with probability 0.5 a step. The weights of the links of a node are equal, where
    the paper makes the graph symmetric and divides by the roots of both degrees. The graphs are made on the host, from
    all pairs of users that share an item.

    Args:
      dataset: whose training events make the graphs.
      model: the student.

    Returns:
      The :class:`~recjax.study.Method`; its hyperparameters are :class:`Filter`.

    References:
      Zhu and Zhang, `Exploring Feature-based Knowledge Distillation for Recommender System: A Frequency Perspective
      <https://arxiv.org/abs/2411.10676>`_, KDD 2025.
    """
    of, matrix = _vectors_of(model), sp.csr_array(dataset.matrix() > 0, dtype=np.float32)
    near = [jnp.asarray(_neighbors(side)) for side in (matrix, sp.csr_array(matrix.T))]

    def gather(taught: Taught, ids: jax.Array, key: jax.Array) -> dict[str, Any]:
        drawn, links = jax.random.split(key)
        items = jax.random.randint(drawn, ids.shape, 0, dataset.items)
        user = jnp.asarray(taught.queries.user)[ids]
        # The first queries are the latest ones of all users in turn, so a user's position is that of their query.
        similar = jnp.concatenate([items[:, None], near[1][items]], axis=1).ravel()
        queries = jnp.concatenate([ids[:, None], near[0][user]], axis=1).ravel()
        moment = Queries(*(jnp.asarray(column)[queries] for column in taught.queries))
        of_queries, of_items = _vectors_in(taught.knowledge)
        kept = jax.random.bernoulli(links, 0.5, (2, len(ids), NEIGHBORS))
        kept = kept.at[0].set(kept[0] & taught.knowledge.covered(queries).reshape(len(ids), -1)[:, 1:])
        return {
            "neighborhood": data.history_batch(taught.log, moment, model.length or 0),
            "items": similar,
            "teacher": {"query": of_queries[queries], "item": of_items[similar]},
            "kept": kept,
            "covered": taught.knowledge.covered(ids),
        }

    def loss(score: Callable[..., jax.Array], params: Any, taught: Any, hparams: Any) -> jax.Array:
        ours = dict(zip(SIDES, of(params, taught["neighborhood"], taught["items"]), strict=True))
        pair = projected({side: (ours[side], taught["teacher"][side]) for side in SIDES}, params["auxiliary"])
        total, alpha = jnp.zeros(()), hparams.smoothing
        for kept, (own, theirs) in zip(taught["kept"], pair.values(), strict=True):
            apart = (theirs - own).reshape(len(kept), 1 + NEIGHBORS, -1)
            links = (2 * kept / NEIGHBORS)[..., None]  # over the probability that a link is kept
            filtered = alpha * jnp.sum(links * apart[:, 1:], axis=1) + (1 - alpha) * apart[:, 0]
            total = total + jnp.sum(jnp.square(filtered), axis=1)
        return total / 2

    def fresh(key: jax.Array, knowledge: Knowledge) -> dict[str, Any]:
        return auxiliary(projection, key, dataset, model, knowledge)

    return Method(gather, loss, Filter(), Needs(1, vectors=True), fresh)


def _neighbors(matrix: Any, block: int = 1024) -> np.ndarray:
    """``[rows, NEIGHBORS]`` int32, the rows that share most columns with each; the row itself where there are fewer."""
    rows = len(matrix.indptr) - 1
    found = np.tile(np.arange(rows, dtype=np.int32)[:, None], (1, NEIGHBORS))
    across = sp.csr_array(matrix.T)
    for start in range(0, rows, block):
        shared = sp.csr_array(matrix[start : start + block] @ across)
        shared.sort_indices()  # of equal counts the lower position comes first
        begin, columns, values = (np.asarray(part) for part in (shared.indptr, shared.indices, shared.data))
        for place in range(len(begin) - 1):
            ids, counts = (x[begin[place] : begin[place + 1]] for x in (columns, values))
            counts = np.where(ids == start + place, 0, counts)
            best = np.argsort(-counts, kind="stable")[:NEIGHBORS]
            best = best[counts[best] > 0]
            found[start + place, : len(best)] = ids[best]
    return found
