"""CTR models, from logistic regression to FinalMLP, trained by cross-entropy and an L2 penalty of the tables."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recjax import embed, grid, losses, models
from recjax.data import CTRDataset
from recjax.families._model import Batch, Model, Objective
from recjax.machine import xla_matmul_options
from recjax.models import CTRModel, Params


def reduced_on_plateaus(hparams: Any, past: grid.History) -> Any:
    """A tenth of the learning rate after every validation that was not a member's best; as ``Schedule.adapt``."""
    return hparams._replace(learning_rate=hparams.learning_rate * 0.1 ** grid.plateaus(past, patience=1))


WEAKER = 0.02  # the penalty that is tried beside the default one, as a share of it
SCHEDULE = grid.Schedule(epochs=30, batch_size=4096, patience=2, by_seed=True, adapt=reduced_on_plateaus)


class Shallow(NamedTuple):
    """Hyperparameters of models without hidden layers.

    Attributes:
      learning_rate: of Adam.
      l2: weight of half the sum of squares of all tables.
      steps: of the whole training, for an optimizer whose rate falls.
    """

    learning_rate: Any = 1e-2
    l2: Any = 1e-5
    steps: Any = 1.0


class Deep(NamedTuple):
    """Hyperparameters of models with hidden layers.

    Attributes:
      learning_rate: as in :class:`Shallow`.
      l2: likewise.
      dropout: rate of dropout of the hidden layers.
      steps: as in :class:`Shallow`.
    """

    learning_rate: Any = 1e-3
    l2: Any = 0.05
    dropout: Any = 0.2
    steps: Any = 1.0


DEEP = Deep()
Learn = Callable[[CTRDataset, CTRModel], Objective]


def batch_of(rows: Any, ids: jax.Array | slice = slice(None)) -> Batch:
    """What a model reads of some rows of :class:`recjax.data.Examples`, and their labels."""
    return {name: column[ids] for name, column in rows._asdict().items() if column is not None}


def cross_entropy(
    dataset: CTRDataset, model: CTRModel, *, hparams: Shallow | Deep = DEEP, schedule: grid.Schedule = SCHEDULE
) -> Objective:
    """Cross-entropy of the labels, and an L2 penalty of the whole of all tables at every step.

    Example i is train row i.

    Args:
      dataset: its train rows.
      model: what learns; with dropout if ``hparams`` have it.
      hparams: the defaults.
      schedule: for how long; the learning rate falls by its ``adapt``.

    Returns:
      The :class:`Objective`.
    """
    rows = jax.tree.map(jnp.asarray, dataset.train)
    alone = {"learning_rate": (hparams.learning_rate,), "l2": (hparams.l2, WEAKER * hparams.l2)}

    def loss(params: Params, batch: Batch, hparams: Any, key: jax.Array) -> jax.Array:
        dropout = {"dropout": hparams.dropout} if "dropout" in hparams._fields else {}
        logit = model.logit(params, batch, key, **dropout)
        squares = sum(jnp.sum(jnp.square(embed.lookup(table))) for table in params["tables"].values())
        return losses.binary_cross_entropy(logit[:, 0], batch["label"]).mean() + hparams.l2 / 2 * squares

    def gather(rows: Any, ids: jax.Array, key: jax.Array) -> Batch:
        return batch_of(rows, ids)

    def adam(hparams: Any) -> optax.GradientTransformation:
        return optax.adam(hparams.learning_rate)

    return Objective(
        rows,
        len(dataset.train.label),
        gather,
        loss,
        hparams,
        adam,
        schedule,
        by_query=True,
        alone=alone,
        distilled={"temperature": (1.0, 2.0), "alpha": (0.5, 0.9), **alone},
        compiler_options=xla_matmul_options(),
    )


def _shallow(dataset: CTRDataset, model: CTRModel) -> Objective:
    return cross_entropy(dataset, model, hparams=Shallow())


def _of_rows(dataset: CTRDataset, model: CTRModel, learn: Learn) -> Model:
    def score(params: Params, batch: Batch) -> jax.Array:
        return model.logit(params, batch)

    rows = jax.tree.map(jnp.asarray, dataset.train)
    return Model(model.init, score, None, batch_of(rows), learn(dataset, model))


def _fields(dataset: CTRDataset, dim: int) -> models.Fields:
    return models.Fields(features=dataset.features, fields=dataset.fields, dim=dim, scale=0.1)


HIDDEN = (400, 400, 400)
STREAMS = models.FinalMlp(hidden=((400, 400, 400), (400,)), gate=(64,), context=((0,), (1,)), heads=5)


def lr(dataset: CTRDataset, *, learn: Learn = _shallow) -> Model:
    """Logistic regression on the values of the fields.

    Args:
      dataset: its train rows are learned from.
      learn: ``learn(dataset, model)`` gives the objective.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.logistic_regression`.
    """
    return _of_rows(dataset, models.logistic_regression(_fields(dataset, 1)), learn)


def fm(dataset: CTRDataset, dim: int = 10, *, learn: Learn = _shallow) -> Model:
    """The factorization machine of degree two.

    Args:
      dataset: its train rows are learned from.
      dim: length of a value's vector.
      learn: see :func:`lr`.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.factorization_machine`.
    """
    return _of_rows(dataset, models.factorization_machine(_fields(dataset, dim)), learn)


def dnn(dataset: CTRDataset, dim: int = 10, *, hidden: Sequence[int] = HIDDEN, learn: Learn = cross_entropy) -> Model:
    """A multilayer perceptron over the vectors of a row's values.

    Args:
      dataset: its train rows are learned from.
      dim: length of a value's vector.
      hidden: units of the hidden layers.
      learn: see :func:`lr`.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.dnn`.
    """
    return _of_rows(dataset, models.dnn(_fields(dataset, dim), hidden=hidden), learn)


def wide_and_deep(
    dataset: CTRDataset, dim: int = 10, *, hidden: Sequence[int] = HIDDEN, learn: Learn = cross_entropy
) -> Model:
    """Wide and deep: :func:`dnn` beside :func:`lr`; arguments as for :func:`dnn`.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.wide_and_deep`.
    """
    return _of_rows(dataset, models.wide_and_deep(_fields(dataset, dim), hidden=hidden), learn)


def deepfm(
    dataset: CTRDataset, dim: int = 10, *, hidden: Sequence[int] = HIDDEN, learn: Learn = cross_entropy
) -> Model:
    """DeepFM: :func:`dnn` beside :func:`fm` over the same vectors; arguments as for :func:`dnn`.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.deepfm`.
    """
    return _of_rows(dataset, models.deepfm(_fields(dataset, dim), hidden=hidden), learn)


def dcn_v2(
    dataset: CTRDataset,
    dim: int = 10,
    *,
    hidden: Sequence[int] = HIDDEN,
    crosses: int = 4,
    learn: Learn = cross_entropy,
) -> Model:
    """DCN-V2: cross layers beside :func:`dnn`; arguments as for it, and ``crosses`` layers.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.dcn_v2`.
    """
    return _of_rows(dataset, models.dcn_v2(_fields(dataset, dim), hidden=hidden, crosses=crosses), learn)


def finalmlp(
    dataset: CTRDataset, dim: int = 10, *, streams: models.FinalMlp = STREAMS, learn: Learn = cross_entropy
) -> Model:
    """FinalMLP: two perceptrons with gates.

    Args:
      dataset: its train rows are learned from.
      dim: length of a value's vector.
      streams: sizes; by default the first two fields, often the user and the item, open the gates.
      learn: see :func:`lr`.

    Returns:
      A :class:`~recjax.families.Model`; its parameters are those of :func:`recjax.models.finalmlp`.
    """
    return _of_rows(dataset, models.finalmlp(_fields(dataset, dim), streams), learn)
