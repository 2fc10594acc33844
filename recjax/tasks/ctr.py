"""Click-through rates: reading, evaluation by AUC and log loss, and distillation of a teacher's logits."""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recjax import families, losses, metrics
from recjax.data import CTRDataset, Examples, read_libfm
from recjax.families import Model
from recjax.families.ctr import batch_of
from recjax.study import Method, Taught
from recjax.teacher import Knowledge

# Every family of the task; the choices of the command line are these names.
FAMILIES: dict[str, Callable[..., Model]] = {
    "lr": families.lr,
    "fm": families.fm,
    "dnn": families.dnn,
    "wide-and-deep": families.wide_and_deep,
    "deepfm": families.deepfm,
    "dcn-v2": families.dcn_v2,
    "finalmlp": families.finalmlp,
}
STUDENTS = ("lr", "fm", "dnn", "wide-and-deep", "deepfm", "dcn-v2")
BLOCK = 8192  # rows that are scored at once


def read(folder: str | os.PathLike[str]) -> CTRDataset:
    """The data set of three files in the libfm format.

    Args:
      folder: with ``train.libfm.gz``, ``valid.libfm.gz`` and ``test.libfm.gz``.

    Returns:
      The :class:`recjax.data.CTRDataset`; values are numbered as in the files.

    Raises:
      InputError: see :func:`recjax.data.read_libfm`.
    """
    parts = [read_libfm(Path(folder) / f"{part}.libfm.gz") for part in ("train", "valid", "test")]
    return CTRDataset(*parts, features=1 + max(int(part.fields.max()) for part in parts))


@functools.partial(jax.jit, static_argnames=("score", "block"))
def logits(score: Callable[..., jax.Array], params: Any, rows: Examples, *, block: int = BLOCK) -> jax.Array:
    """Logits of rows, a block at a time.

    Args:
      score: of a CTR model; see :attr:`recjax.families.Model.score`.
      params: its parameters.
      rows: the rows.
      block: rows that are scored at once.

    Returns:
      ``[rows]`` float32.
    """
    count = len(rows.label)
    width = min(block, count)
    blocks = jax.tree.map(lambda x: jnp.resize(x, (-(-count // width), width, *x.shape[1:])), batch_of(rows))
    return jax.lax.map(lambda batch: score(params, batch)[:, 0], blocks).reshape(-1)[:count]


@dataclasses.dataclass(frozen=True)
class Auc:
    """AUC of a model's parameters: what a grid validates by. Equal where its settings are."""

    score: Callable[..., jax.Array]
    block: int = BLOCK

    def __call__(self, params: Any, rows: Examples) -> jax.Array:
        """Scalar in [0, 1]."""
        return metrics.auc(logits(self.score, params, rows, block=self.block), jnp.asarray(rows.label))


def validation(model: Model, dataset: CTRDataset) -> tuple[Auc, Examples]:
    """What :class:`recjax.study.Study` takes as ``validate``: the metric and its data."""
    return Auc(model.score), jax.tree.map(jnp.asarray, dataset.valid)


def evaluate(model: Model, params: Any, rows: Examples) -> dict[str, float]:
    """AUC and log loss of some rows.

    Args:
      model: a CTR model.
      params: its parameters.
      rows: such as ``dataset.test``.

    Returns:
      ``auc`` and ``logloss``, the latter in nats.
    """
    found, label = logits(model.score, params, jax.tree.map(jnp.asarray, rows)), jnp.asarray(rows.label)
    return {name: float(of(found, label)) for name, of in (("auc", metrics.auc), ("logloss", metrics.logloss))}


def knowledge(model: Model, params: Any, rows: Examples) -> Knowledge:
    """A teacher's logits of rows, such as ``dataset.train``.

    Returns:
      The :class:`~recjax.teacher.Knowledge` with scores ``[rows, 1]``, which are not scaled: a logit is a probability.
    """
    return Knowledge(logits(model.score, params, jax.tree.map(jnp.asarray, rows))[:, None], None)


class Temperature(NamedTuple):
    """Hyperparameters of :func:`soft_targets`.

    Attributes:
      temperature: of both probabilities.
    """

    temperature: Any = 1.0


def soft_targets() -> Method:
    r"""Cross-entropy of the teacher's softened probabilities, times :math:`\tau^2`.

    The factor keeps the scale of gradients independent of the temperature :math:`\tau` to first order.

    Returns:
      The method of a :class:`recjax.study.Study`; ``temperature`` may be swept.

    References:
      Hinton et al., `Distilling the Knowledge in a Neural Network <https://arxiv.org/abs/1503.02531>`_,
      2015, section 2.
    """
    return Method(_gather, _loss, Temperature())


def _gather(taught: Taught, ids: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
    return {"teacher": taught.knowledge.scores[ids]}


def _loss(score: Callable[..., jax.Array], params: Any, taught: Any, hparams: Any) -> jax.Array:
    student = score(params, taught["batch"])
    each = losses.soft_target_bce(student, taught["teacher"], temperature=hparams.temperature)
    return jnp.square(hparams.temperature) * each[:, 0]
