"""What one step shows a student: a batch of users, what they took, and what the teacher thinks.

Two ways, with one contract: over the whole catalogue, where users x items fit in memory; else over sampled candidates.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from recjax import compress, losses, prune, train
from recjax.data import Seen, uniform_negatives
from recjax.models import Retrieval
from recjax.pipeline.source import Source
from recjax.teacher import Knowledge

WHOLE_CELLS = 150_000_000  # users x items of the label and score matrices, 4 bytes each
WHOLE_ITEMS = 20_000
POSITIVES, LISTED, NEGATIVES = 4, 28, 64  # candidates of a user and step, where the catalogue is sampled
LIST_LENGTH = 100
REFRESH_EVERY = 10
COMPRESSED = ("user", "item")
PRECISION = train.Precision()


class Hparams(NamedTuple):
    """What a member of a grid may differ in.

    Attributes:
      learning_rate: of Adam at the first step.
      steps: over which the learning rate falls to zero, in a straight line.
      weight_decay: decoupled, of every trained array.
      temperature: of both softmaxes.
      alpha: share of the teacher in the loss.
      sparsity: final share of zeros.
      ramp: share of the steps after which the final sparsity is reached.
      bits: width of the quantized tables, 16 for none.
    """

    learning_rate: Any
    weight_decay: Any
    steps: Any = 1.0
    temperature: Any = 1.0
    alpha: Any = 0.0
    sparsity: Any = 0.0
    ramp: Any = 0.0
    bits: Any = 16.0


class Whole(NamedTuple):
    """Labels and teacher over the whole catalogue, ``[users, items]`` each."""

    labels: jax.Array
    teacher: jax.Array


class Sampled(NamedTuple):
    """Histories and each user's best items by the teacher with their scores, ``[users, length]`` each.

    A step draws a user's candidates: some of the history, some of the list, and uniform negatives. The labels are over
    the first and the last, the teacher's softmax over the second and the last.
    """

    histories: Seen
    lists: jax.Array
    scores: jax.Array


def fits_whole(source: Source) -> bool:
    """Whether the label and score matrices of this log fit."""
    return source.known * source.split.items <= WHOLE_CELLS and source.split.items <= WHOLE_ITEMS


def material(source: Source, teacher: Knowledge) -> Whole | Sampled:
    """What batches are gathered from. Labels of a user sum to 1, each row of the log in proportion to its weight."""
    if teacher.items is not None:
        return Sampled(jax.tree.map(jnp.asarray, source.histories), teacher.items, teacher.scores)
    labels = np.zeros((source.known, source.split.items), np.float32)
    labels[source.split.train.user, source.split.train.item] = source.weight
    return Whole(jnp.asarray(labels / labels.sum(axis=1, keepdims=True)), teacher.scores)


def recipe(model: Retrieval, items: int, *, sampled: bool, compressed: bool) -> train.Recipe:
    """How students are trained: distillation over the whole catalogue or over sampled candidates, with Adam.

    Args:
      model: the student.
      items: size of the catalogue.
      sampled: whether candidates are sampled.
      compressed: whether tables are pruned and fake-quantized inside the step, by ``sparsity`` and ``bits`` of the
        hyperparameters.

    Returns:
      A recipe over :class:`Hparams`. Compile it once: each call gives new functions.
    """
    loss, gather = (_sampled_loss(model), _sampled_gather(items)) if sampled else (_whole_loss(model), _whole_gather)
    plan = compress.chain()
    if compressed:
        plan = compress.chain(
            compress.magnitude_pruning(COMPRESSED, sparsity=_ramped_sparsity, every=REFRESH_EVERY),
            compress.row_quantization(COMPRESSED, bits=lambda hparams: hparams.bits),
        )
    return train.Recipe(loss=loss, optimizer=_adam, transform=plan, gather=gather, precision=PRECISION)


def _adam(hparams: Hparams) -> optax.GradientTransformation:
    def rate(count: Any) -> Any:
        return hparams.learning_rate * jnp.maximum(0, 1 - count / hparams.steps)

    return optax.adamw(rate, weight_decay=hparams.weight_decay)


def _ramped_sparsity(hparams: Hparams, step: jax.Array) -> jax.Array:
    # The last refresh before the ramp's end must already be at the final sparsity.
    end = jnp.maximum(0, hparams.ramp * hparams.steps - REFRESH_EVERY)
    return prune.cubic_sparsity(step, begin=0, end=end, final=hparams.sparsity)


def _whole_gather(data: Whole, ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
    return {"user": ids, "labels": data.labels[ids], "teacher": data.teacher[ids]}


def _whole_loss(model: Retrieval):
    def loss(params: Any, batch: dict[str, jax.Array], hparams: Hparams, key: jax.Array) -> jax.Array:
        scores = model.query(params, batch, key) @ model.items(params).T
        return losses.distillation(
            scores, batch["teacher"], batch["labels"], alpha=hparams.alpha, temperature=hparams.temperature
        ).mean()

    return loss


def _sampled_gather(items: int):
    def gather(data: Sampled, ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        ranks, places, others = jax.random.split(key, 3)
        offsets, owned = data.histories
        start, length = offsets[ids, None], (offsets[ids + 1] - offsets[ids])[:, None]
        ranks = (jax.random.uniform(ranks, (len(ids), POSITIVES)) * length).astype(jnp.int32)
        positives = owned[start + jnp.minimum(ranks, length - 1)]
        places = jax.random.randint(places, (len(ids), LISTED), 0, data.lists.shape[1])
        listed = jnp.take_along_axis(data.lists[ids], places, axis=1)
        negatives = uniform_negatives(others, ids, data.histories, items=items, count=NEGATIVES)
        # Nothing outside a list scores above the list's last entry, so that is what the teacher says of it.
        last = jnp.broadcast_to(data.scores[ids, -1:], negatives.shape)
        scores = jnp.take_along_axis(data.scores[ids], places, axis=1)
        real = negatives >= 0
        return {
            "user": ids,
            "item": jnp.concatenate([positives, listed, jnp.maximum(negatives, 0)], axis=1),
            "labels": jnp.concatenate(
                [jnp.full(positives.shape, 1 / POSITIVES), jnp.zeros((len(ids), LISTED + NEGATIVES))], axis=1
            ),
            "teacher": jnp.concatenate([jnp.zeros(positives.shape), scores, last], axis=1),
            "labelled": jnp.concatenate([jnp.ones_like(positives, bool), jnp.zeros_like(listed, bool), real], axis=1),
            "taught": jnp.concatenate([jnp.zeros_like(positives, bool), jnp.ones_like(listed, bool), real], axis=1),
        }

    return gather


def _sampled_loss(model: Retrieval):
    def loss(params: Any, batch: dict[str, jax.Array], hparams: Hparams, key: jax.Array) -> jax.Array:
        query, items = model.query(params, batch, key), model.items(params, batch["item"])
        scores = jnp.einsum("bd,bcd->bc", query, items)
        task = losses.softmax_cross_entropy(scores, batch["labels"], where=batch["labelled"])
        teacher = losses.soft_target_kl(
            scores, batch["teacher"], temperature=hparams.temperature, where=batch["taught"]
        )
        return jnp.mean((1 - hparams.alpha) * task + hparams.alpha * teacher)

    return loss
