"""What students ask a teacher, computed once and in blocks: scores, lists, ranks, activations and gradients."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax import metrics
from recjax.arrays import check_rows, check_where, wide_dtype
from recjax.data import Dataset, Histories, Queries, history_batch
from recjax.evaluate import Scorer, Scores, longest_history, scored, standardized


class Knowledge(NamedTuple):
    """A teacher's scores, one row a query.

    The scores of a query are standardized: their mean over the catalog is taken out, and they are divided by their
    standard deviation. Inner products of one model and regression weights of another then share a scale, a temperature
    means the same to both, float16 holds either, and the scores of a query don't depend on the other queries.

    A query for which the teacher has fewer than ``length`` items has a padded list: item -1 and score 0 at its end, so
    ``items >= 0`` is the ``where=`` of a loss over it.

    Attributes:
      scores: ``[queries, items]`` over the whole catalog, or ``[queries, length]`` of each query's ``items``;
        float32, or float16 from a cache.
      items: ``[queries, length]`` int32, the best items by the teacher, best first; None for scores of the whole
        catalog.
      query_vectors: ``[queries, dim]`` float32, the teacher's hidden activations of the queries; see :func:`vectors`.
        None where no method needs them.
      item_vectors: ``[items, dim]`` float32, those of the items.
    """

    scores: jax.Array | np.ndarray
    items: jax.Array | np.ndarray | None
    query_vectors: jax.Array | np.ndarray | None = None
    item_vectors: jax.Array | np.ndarray | None = None

    def covered(self, ids: jax.Array) -> jax.Array:
        """Whether the teacher tells items apart for each of some queries.

        Its scores of a query are all equal, and standardized to 0, where it doesn't know the user or has no list.

        Args:
          ids: ``[n]`` int, which queries.

        Returns:
          ``[n]`` bool.
        """
        known = self.scores[ids] != 0
        return (known if self.items is None else known & (self.items[ids] >= 0)).any(axis=1)


def check_question(items: int, length: int | None, masked: bool) -> None:
    """Raises ``ValueError`` for lists that a catalog of so many items can't give."""
    if length is not None and not 1 <= length <= items:
        raise ValueError(f"expected length from 1 to {items}, got {length}")
    if masked and length is None:
        raise ValueError("expected a length with masked=True, got None: only lists can leave items out")


def check_block(block: int) -> None:
    """Raises ``ValueError`` for a block of no rows."""
    if block < 1:
        raise ValueError(f"expected block of at least 1, got {block}")


def check_fits(knowledge: Knowledge, users: int, items: int) -> None:
    """Raises ``ValueError`` unless these are float scores and int32 items of so many users and so many items."""
    scores, ids = knowledge.scores, knowledge.items
    if np.ndim(scores) != 2 or scores.shape[0] != users or (ids is None and scores.shape[1] != items):
        columns = items if ids is None else "length"
        raise ValueError(f"scores: expected shape [{users}, {columns}], got {list(np.shape(scores))}")
    if scores.dtype not in (np.float32, np.float16):
        raise ValueError(f"scores: expected float32 or float16, got {scores.dtype}")
    if ids is None:
        return
    if ids.shape != scores.shape or ids.dtype != np.int32:
        expected = f"int32 {list(scores.shape)}, the shape of scores"
        raise ValueError(f"items: expected {expected}, got {ids.dtype} {list(np.shape(ids))}")
    if ids.size and (ids.min() < -1 or ids.max() >= items):
        raise ValueError(f"items: expected positions in -1..{items - 1}, got {ids.min()}..{ids.max()}")


def deviation(variance: float) -> np.float32:
    """What scores of this variance are divided by: its root, or 1 where a teacher says the same of all."""
    return np.float32(variance**0.5 if variance > 1e-12 else 1)


@dataclasses.dataclass(frozen=True)
class _Keep:
    """What is kept of the scores of a block of queries; see :func:`knowledge`."""

    length: int | None
    known: int | None  # most events of a history that a list leaves out; None for lists that leave out nothing

    def __call__(self, scores: jax.Array, log: Histories, queries: Queries) -> tuple[jax.Array, jax.Array | None]:
        scaled = standardized(scores)
        if self.length is None:
            return scaled, None
        if self.known is None:
            return metrics.top_k(scaled, self.length)
        history = history_batch(log, queries, self.known)["history"]
        places = jnp.arange(len(history))[:, None], jnp.where(history < 0, scores.shape[-1], history)
        values, items = metrics.top_k(scaled.at[places].set(-jnp.inf, mode="drop"), self.length)
        left = values > -jnp.inf
        return jnp.where(left, values, 0), jnp.where(left, items, -1)


def knowledge(
    scorer: Scorer | Scores,
    dataset: Dataset,
    queries: Queries,
    *,
    length: int | None = None,
    masked: bool = False,
    block: int = 128,
) -> Knowledge:
    """A teacher's scores for some queries, computed block by block.

    A teacher sees the events before the end of a query and no other.

    Args:
      scorer: the teacher; see :func:`recjax.evaluate.scored`.
      dataset: whose log the queries are of.
      queries: such as ``dataset.last``.
      length: keep the best ``length`` items of each query only, where the whole matrix would not fit; None keeps all.
      masked: whether a list leaves out the items of the query's history; it is padded where too few remain. Otherwise
        they keep their scores: a student learns from what the teacher thinks of them.
      block: queries that are scored at once.

    Returns:
      The :class:`Knowledge`. Of equal scores in a list the lower item position comes first.

    Raises:
      ValueError: if ``length`` is below 1 or above the catalog, ``masked`` is True without it, or ``block`` is below
        1.

    Examples:
      >>> import numpy as np
      >>> from recjax import data
      >>> names = np.array(["a", "b"]), np.array(["x", "y", "z"])
      >>> log = data.Interactions(np.int32([0]), np.int32([0]), *names)
      >>> dataset = data.dataset(data.Split(log, log.take(slice(0)), log.take(slice(0)), {}))
      >>> teacher = lambda batch: np.array([[2.0, 0.0, -2.0]])
      >>> knowledge(teacher, dataset, dataset.last, length=3, masked=True).items.tolist()
      [[1, 2, -1]]
    """
    keep = what_is_kept(dataset, queries, length=length, masked=masked, block=block)
    return Knowledge(*scored(keep, scorer, dataset, queries, block=block))


def vectors(
    of: Callable[..., tuple[jax.Array, jax.Array]],
    params: Any,
    dataset: Dataset,
    queries: Queries,
    *,
    length: int,
    block: int = 512,
) -> tuple[np.ndarray, np.ndarray]:
    r"""A teacher's hidden activations of queries and items, whose inner products are its scores.

    Those of either side are divided by the root of their mean squared length, so that a squared distance to them has
    one scale whatever the teacher.

    Args:
      of: ``of(params, batch) -> ([queries, dim], [items, dim])``; see :attr:`recjax.families.Model.vectors`.
      params: the teacher's parameters.
      dataset: whose log the queries are of.
      queries: such as ``dataset.last``.
      length: events of a history that the teacher reads.
      block: queries that are computed at once.

    Returns:
      ``[queries, dim]`` and ``[items, dim]`` float32.
    """
    count = len(queries.user)
    block = min(block, count)
    parts = np.resize(np.arange(count), (-(-count // block), block))  # the last block repeats the first queries
    log = jax.tree.map(jnp.asarray, dataset.log)

    @jax.jit
    def compute(params: Any, part: Queries) -> tuple[jax.Array, jax.Array]:
        return of(params, history_batch(log, part, length))

    found = [compute(params, Queries(*(np.asarray(column)[part] for column in queries))) for part in parts]
    of_queries = np.concatenate([np.asarray(rows) for rows, _ in found])[:count]
    return _of_length_one(of_queries), _of_length_one(np.asarray(found[0][1]))


def _of_length_one(rows: np.ndarray) -> np.ndarray:
    """Rows over the root of their mean squared length."""
    return rows / deviation(float(np.square(rows, dtype=np.float64).sum(axis=1).mean()))


def what_is_kept(dataset: Dataset, queries: Queries, *, length: int | None, masked: bool, block: int) -> _Keep:
    """The arguments of :func:`knowledge`, checked, as what is kept of the scores of a block."""
    check_question(dataset.items, length, masked)
    check_block(block)
    return _Keep(length, longest_history(dataset, queries) if masked else None)


def ranks(scores: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""The place of every item in its list, 0 for the best.

    For the scores :math:`s` of one list,

    .. math::
        r_i = \#\{j : s_j > s_i\} + \#\{j < i : s_j = s_i\}.

    By two stable sorts, so a whole catalog costs no matrix of comparisons. A NaN comes after every number, and an
    item that doesn't count after every item that does. Ranks are whole numbers: no gradient flows.

    Args:
      scores: ``[..., items]`` float.
      where: ``[..., items]`` bool, True = counts.

    Returns:
      ``[..., items]`` int32, a permutation of ``0 .. items - 1`` in each list.

    Raises:
      ValueError: if ``scores`` is a scalar, or ``where`` has another shape.
      TypeError: if ``scores`` is not of a floating dtype, or ``where`` not bool.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> ranks(jnp.array([0.5, 2.0, 0.5, 1.0])).tolist()
      [2, 0, 3, 1]
      >>> ranks(jnp.array([0.5, 2.0, 0.5, 1.0]), where=jnp.array([True, False, True, True])).tolist()
      [1, 3, 2, 0]
      >>> jax.vmap(ranks)(jnp.ones((4, 8))).shape
      (4, 8)
    """
    scores = jnp.asarray(scores)
    check_rows(scores=scores)
    if where is not None:
        check_where(where, scores.shape)
    scores = jax.lax.stop_gradient(scores.astype(wide_dtype(scores, "scores")))
    dropped = jnp.zeros(scores.shape, bool) if where is None else ~where
    place = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
    *_, best_first = jax.lax.sort((dropped, -scores, place), dimension=-1, is_stable=True, num_keys=2)
    return jax.lax.sort((best_first, place), dimension=-1, num_keys=1)[1]


def activations(
    hidden_activations: Callable[[Any, Mapping[str, Any]], Any],
    params: Any,
    batch: Mapping[str, Any],
    *,
    block: int = 512,
) -> Any:
    """What a teacher says of every row of a batch, in blocks of rows: hidden activations, embeddings, logits.

    Args:
      hidden_activations: ``hidden_activations(params, batch)`` gives a pytree of ``[rows, ...]`` arrays, row i from row
        i of the batch: a model's ``hidden_activations`` or any function like it, such as ``lambda params, batch:
        model.items(params, batch["item"])``.
      params: the teacher's parameters.
      batch: ``[rows, ...]`` arrays by name. NumPy arrays stay on the host but for the block that is asked about.
      block: rows that are asked about at once.

    Returns:
      The pytree of ``hidden_activations`` with NumPy arrays ``[rows, ...]``.

    Raises:
      ValueError: if ``block`` is below 1, the arrays of the batch differ in rows or are none, or an array of
        ``hidden_activations`` has another number of rows than it was asked about.

    Examples:
      >>> import jax
      >>> import numpy as np
      >>> from recjax.models import Mlp, mlp
      >>> teacher = mlp(Mlp(widths=(10, 32, 1)))
      >>> batch = {"inputs": np.ones((1000, 10), np.float32)}
      >>> found = activations(teacher.hidden_activations, teacher.init(jax.random.key(0)), batch, block=300)
      >>> {name: value.shape for name, value in found.items()}
      {'hidden_0': (1000, 32)}
    """
    check_block(block)
    shapes = {name: np.shape(array) for name, array in batch.items()}
    if () in shapes.values() or len({shape[0] for shape in shapes.values()}) != 1:
        raise ValueError(f"expected arrays [rows, ...] of equal rows, got {shapes}")
    rows = next(iter(shapes.values()))[0]
    ask = jax.jit(hidden_activations)
    parts = []
    for start in range(0, max(rows, 1), block):
        asked = {name: array[start : start + block] for name, array in batch.items()}
        part = jax.tree.map(np.asarray, ask(params, asked))
        expected = min(block, rows - start)
        for path, array in jax.tree_util.tree_leaves_with_path(part):
            if array.shape[:1] != (expected,):
                name = jax.tree_util.keystr(path) or "hidden_activations"
                raise ValueError(f"{name}: expected shape [{expected}, ...], one row a row, got {list(array.shape)}")
        parts.append(part)
    return jax.tree.map(lambda *blocks: np.concatenate(blocks), *parts)


def input_gradients(function: Callable[[jax.Array], jax.Array], inputs: jax.Array) -> jax.Array:
    r"""The gradient of every row's output with respect to that row's input.

    For a model :math:`f` that gives row :math:`i` the number :math:`f(x_i)`,

    .. math::
        g_i = \nabla_x f(x_i).

    One pass backwards for all rows, from the sum of the outputs: right where the output of a row depends on its own
    input alone. What a student's gradient is compared with by ``losses.gradient_match``; both are taken with respect to
    the one input that both models see. Differentiable, so it may stand inside a student's loss.

    Gradients flow to ``inputs`` and to whatever ``function`` closes over.

    Args:
      function: ``[..., dim]`` inputs to ``[...]`` outputs.
      inputs: ``[..., dim]`` float.

    Returns:
      ``[..., dim]`` in the dtype of ``inputs``.

    Raises:
      ValueError: if ``inputs`` is a scalar, or ``function`` doesn't give one number a row.
      TypeError: if ``inputs`` is not of a floating dtype.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> input_gradients(lambda x: jnp.sum(x * x, axis=-1), jnp.array([[1.0, 2.0], [0.0, -3.0]])).tolist()
      [[2.0, 4.0], [0.0, -6.0]]
      >>> scale = jnp.array([1.0, 2.0, 3.0])
      >>> of_scale = lambda s: input_gradients(lambda x: s * jnp.sum(x * x, axis=-1), jnp.ones((4, 2)))
      >>> jax.vmap(of_scale)(scale).shape
      (3, 4, 2)

    References:
      Srinivas and Fleuret, `Knowledge Transfer with Jacobian Matching <https://arxiv.org/abs/1803.00443>`_, ICML 2018.
    """
    inputs = jnp.asarray(inputs)
    check_rows(inputs=inputs)
    wide_dtype(inputs, "inputs")  # refuses whole numbers, which have no gradient
    outputs, pull = jax.vjp(function, inputs)
    if jnp.shape(outputs) != inputs.shape[:-1]:
        raise ValueError(f"expected outputs of shape {inputs.shape[:-1]}, one per row, got {jnp.shape(outputs)}")
    return pull(jnp.ones_like(outputs))[0]
