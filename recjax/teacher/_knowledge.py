"""What students ask a teacher, computed once and in blocks: scores, lists, ranks, activations and gradients."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax.data import Seen
from recjax.evaluate import dense
from recjax.losses._arrays import check_rows, check_where, wide_dtype
from recjax.models import Retrieval


class Knowledge(NamedTuple):
    """A teacher's answers for every user it knows.

    Scores are divided by their standard deviation over users and items, one number for the whole teacher. Inner
    products of one model and regression weights of another then share a scale, and a temperature means the same to
    both.

    A user for whom the teacher has fewer than ``length`` items has a padded list: item -1 and score 0 at its end, so
    ``items >= 0`` is the ``where=`` of a loss over it.

    Attributes:
      scores: ``[users, items]`` float32 over the whole catalogue, or ``[users, length]`` of each user's ``items``.
      items: ``[users, length]`` int32, each user's best items by the teacher, best first; None for whole-catalogue
        scores.
    """

    scores: jax.Array
    items: jax.Array | None


def check_question(items: int, length: int | None, masked: bool) -> None:
    """Raises ``ValueError`` for lists that a catalogue of so many items can't give."""
    if length is not None and not 1 <= length <= items:
        raise ValueError(f"expected length from 1 to {items}, got {length}")
    if masked and length is None:
        raise ValueError("expected a length with masked=True, got None: only lists can leave items out")


def check_block(block: int) -> None:
    """Raises ``ValueError`` for a block of no rows."""
    if block < 1:
        raise ValueError(f"expected block of at least 1, got {block}")


def check_fits(knowledge: Knowledge, users: int, items: int) -> None:
    """Raises ``ValueError`` unless these are float32 scores and int32 items of so many users and so many items."""
    scores, ids = knowledge
    if np.ndim(scores) != 2 or scores.shape[0] != users or (ids is None and scores.shape[1] != items):
        columns = items if ids is None else "length"
        raise ValueError(f"scores: expected shape [{users}, {columns}], got {list(np.shape(scores))}")
    if scores.dtype != np.float32:
        raise ValueError(f"scores: expected float32, got {scores.dtype}")
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


def knowledge(
    model: Retrieval,
    params: dict[str, Any],
    histories: Seen,
    *,
    items: int,
    length: int | None = None,
    masked: bool = False,
    block: int = 512,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Knowledge:
    """Asks a teacher for its scores of every user.

    On the device are the scores of ``block`` users at a time; what is kept of them is on the host until all are done.

    Args:
      model: the teacher.
      params: its parameters.
      histories: what each user has; given to the teacher as ``batch["history"]``, ``[block,
        length]`` item positions padded with -1 in front.
      items: size of the catalogue.
      length: keep each user's best ``length`` items only, where the whole matrix would not fit; None keeps all.
      masked: whether a list leaves out the items that the user has; it is padded where too few remain. The scale of the
        scores is the same either way. If False, the items of a history keep their scores: a student learns from what
        the teacher thinks of them.
      block: users that are scored at once.
      progress: called with users done and users in all.

    Returns:
      The :class:`Knowledge`. Of equal scores in a list the lower item position comes first.

    Raises:
      ValueError: if ``length`` is below 1 or above ``items``, ``masked`` is True without it, or ``block`` is below 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from recjax.models import MatrixFactorization, matrix_factorization
      >>> model = matrix_factorization(MatrixFactorization(users=2, items=3, dim=1))
      >>> tables = {"user": jnp.array([[1.0], [-1.0]]), "item": jnp.array([[2.0], [0.0], [-2.0]])}
      >>> tables["item_bias"] = jnp.zeros((3, 1))
      >>> params = {"tables": tables, "net": {}, "fixed": {}, "aids": {}}
      >>> histories = Seen(np.array([0, 1, 1]), np.array([0]))  # user 0 has item 0, user 1 has nothing
      >>> knowledge(model, params, histories, items=3, length=3, masked=True).items.tolist()
      [[1, 2, -1], [2, 1, 0]]
    """
    check_question(items, length, masked)
    check_block(block)
    count, longest = len(histories.offsets) - 1, int(np.diff(histories.offsets).max(initial=0))
    vectors = jax.jit(model.items)(params)

    @jax.jit
    def ask(params: dict[str, Any], vectors: jax.Array, user: jax.Array, history: jax.Array, own: jax.Array) -> tuple:
        scores = model.query(params, {"user": user, "history": history}) @ vectors.T
        if length is None:
            best = scores, None
        elif masked:
            values, ids = jax.lax.top_k(jnp.where(own, -jnp.inf, scores), length)
            left = ~jnp.take_along_axis(own, ids, axis=-1)
            best = jnp.where(left, values, 0), jnp.where(left, ids, -1)
        else:
            best = jax.lax.top_k(scores, length)
        mean = scores.mean(dtype=jnp.float32)
        return *best, mean, jnp.square(scores - mean).mean(dtype=jnp.float32)

    parts, moments = [], []
    for start in range(0, count, block):
        users = np.arange(start, min(start + block, count))
        owned, row_of, item = dense(histories, users, items), *histories.lists(users)
        history = np.full((len(users), longest), -1, np.int32)
        ends = (histories.offsets[users + 1] - histories.offsets[users])[row_of]
        history[row_of, longest - ends + np.arange(len(row_of)) - np.searchsorted(row_of, row_of)] = item
        scores, ids, *moment = ask(params, vectors, jnp.asarray(users, jnp.int32), history, owned)
        parts.append((np.asarray(scores), None if ids is None else np.asarray(ids)))
        moments.append(moment)
        progress(int(users[-1]) + 1, count)
    # Within blocks and between them: the mean of squares less the square of the mean would cancel where scores are far
    # from 0.
    means, within = np.array(moments, np.float64).T
    share = np.array([len(scores) for scores, _ in parts]) / count
    variance = share @ within + share @ (means - share @ means) ** 2
    scores = np.concatenate([scores for scores, _ in parts]) / deviation(variance)
    ids = None if length is None else jnp.asarray(np.concatenate([ids for _, ids in parts]))
    return Knowledge(jnp.asarray(scores), ids)


def ranks(scores: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    r"""The place of every item in its list, 0 for the best.

    For the scores :math:`s` of one list,

    .. math::
        r_i = \#\{j : s_j > s_i\} + \#\{j < i : s_j = s_i\}.

    By two stable sorts, so a whole catalogue costs no matrix of comparisons. A NaN comes after every number, and an
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
    taps: Callable[[Any, Mapping[str, Any]], Any], params: Any, batch: Mapping[str, Any], *, block: int = 512
) -> Any:
    """What a teacher says of every row of a batch, in blocks of rows: hidden activations, embeddings, logits.

    Args:
      taps: ``taps(params, batch)`` gives a pytree of ``[rows, ...]`` arrays, row i from row i of the batch: a model's
        ``taps`` or any function like it, such as ``lambda params, batch: model.items(params, batch["item"])``.
      params: the teacher's parameters.
      batch: ``[rows, ...]`` arrays by name. NumPy arrays stay on the host but for the block that is asked about.
      block: rows that are asked about at once.

    Returns:
      The pytree of ``taps`` with NumPy arrays ``[rows, ...]``.

    Raises:
      ValueError: if ``block`` is below 1, the arrays of the batch differ in rows or are none, or an array of ``taps``
        has another number of rows than it was asked about.

    Examples:
      >>> import jax
      >>> import numpy as np
      >>> from recjax.models import Mlp, mlp
      >>> teacher = mlp(Mlp(widths=(10, 32, 1)))
      >>> batch = {"inputs": np.ones((1000, 10), np.float32)}
      >>> found = activations(teacher.taps, teacher.init(jax.random.key(0)), batch, block=300)
      >>> {name: tap.shape for name, tap in found.items()}
      {'hidden_0': (1000, 32)}
    """
    check_block(block)
    shapes = {name: np.shape(array) for name, array in batch.items()}
    if () in shapes.values() or len({shape[0] for shape in shapes.values()}) != 1:
        raise ValueError(f"expected arrays [rows, ...] of equal rows, got {shapes}")
    rows = next(iter(shapes.values()))[0]
    ask = jax.jit(taps)
    parts = []
    for start in range(0, max(rows, 1), block):
        asked = {name: array[start : start + block] for name, array in batch.items()}
        part = jax.tree.map(np.asarray, ask(params, asked))
        expected = min(block, rows - start)
        for path, array in jax.tree_util.tree_leaves_with_path(part):
            if array.shape[:1] != (expected,):
                name = jax.tree_util.keystr(path) or "taps"
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
        raise ValueError(f"expected outputs of shape {inputs.shape[:-1]}, one a row, found {jnp.shape(outputs)}")
    return pull(jnp.ones_like(outputs))[0]
