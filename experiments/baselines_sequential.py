"""Beauty: the models of sequences that people use, each beside its published figure.

Command:   python -m experiments.baselines_sequential --json experiments/results/baselines_sequential.json
Hardware:  two CPU cores, no accelerator
Wall time: half an hour a model on one core, twice that for the one of one negative; the JSON states it
Expected:  every model at its published HR@10 and NDCG@10 or above, that of one negative within 1% of them

The 5-core of Amazon Beauty as S3-Rec has it: a user's last item is test, the last but one valid; all 12,101 items but
those that the user had before are ranked. The published figures are those of S3-Rec's full ranking, which later papers
quote. They come from one negative an item; how much a softmax over many negatives adds is what the rows differ in.

Histories have the latest 20 items (19 in 20 users have no more), and training windows of 20 are cut from the end, so no
label is lost. A batch has 256 windows, at most 7 labels a window of which count, and the longest 35 in 100 of them are
computed at a length of 20 and the others at 7, which makes a step more than twice as fast: either limit is five
standard deviations above the mean, so in practice nothing is cut. Adam at a rate of .003, with which SASRec got
better on validation faster than with its authors' .001, and their dropout of .5 for data as sparse. With one negative
a label it learns slowly: its rate falls to zero over 120 epochs. Every second epoch is validated, the best by the mean
NDCG@10 of the seeds is kept, and test is looked at once. A model trains in a process of its own, so that its memory and
time are its own.
"""

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import clicks
from experiments.real import DATA
from experiments.record import measured_before, over_seeds, plus_minus, resumed
from recjax import compress, data, evaluate, grid, losses, metrics, models, train
from recjax.files import write_json
from recjax.provenance import provenance

COMMAND = "python -m experiments.baselines_sequential --json experiments/results/baselines_sequential.json"
K, LENGTH, BLOCK = 10, 20, 256
LABELS = 7  # a window, on average, that count
SHORT = 7  # items in four histories out of five, at most
LONG = 0.35  # of a batch, at most, are longer
DIM = 64
S3_REC = "S3-Rec, full ranking (Zhou et al., CIKM 2020), as in table 1 of TIGER (Rajput et al., NeurIPS 2023)"


class Hparams(NamedTuple):
    """What may change without compiling again."""

    learning_rate: jax.typing.ArrayLike = 3e-3
    dropout: jax.typing.ArrayLike = 0.5


class Rows(NamedTuple):
    """What a step gathers from: the windows, and what the users have."""

    user: jax.Array
    window: jax.Array
    have: data.Seen


class HeldOut(NamedTuple):
    """Users and what they took next.

    Attributes:
      history: ``[users, length]``, the latest items before.
      had: ``[users, most]``, all items before, which aren't ranked; padded.
      label: ``[users]``.
    """

    history: jax.Array
    had: jax.Array
    label: jax.Array


class Baseline(NamedTuple):
    """A model, how it is trained, and what it should reach.

    Attributes:
      make: gives the model of so many items.
      loss: ``loss(queries, vectors, labels, negatives) -> [labels]``; see :func:`one_negative`.
      published: HR@10 and NDCG@10; None where there are none.
      negatives: of a batch, shared by its labels; 0 for one a label that its user doesn't have.
      epochs: at most.
      falling: whether the learning rate falls linearly to zero over all epochs, which are then trained to the last.
    """

    make: Callable[[int], models.Retrieval]
    loss: Callable[..., jax.Array]
    published: tuple[float, float] | None
    negatives: int
    epochs: int = 40
    falling: bool = False


def one_negative(queries: jax.Array, right: jax.Array, wrong: jax.Array, hit: jax.Array) -> jax.Array:
    """Binary cross-entropy of a label and of one item that its user doesn't have.

    Args:
      queries: ``[labels, dim]``.
      right: ``[labels, dim]``, the vectors of the labels.
      wrong: ``[labels, dim]``, those of the negatives; of :func:`many_negatives` ``[negatives, dim]``.
      hit: ``[labels]`` bool, whether a negative is the label; of :func:`many_negatives` ``[labels, negatives]``.

    Returns:
      ``[labels]`` losses.
    """
    positive, negative = (
        losses.binary_cross_entropy(jnp.sum(queries * vectors, axis=-1), jnp.full(len(queries), label))
        for vectors, label in ((right, 1.0), (wrong, 0.0))
    )
    return positive + jnp.where(hit, 0, negative)


def many_negatives(queries: jax.Array, right: jax.Array, wrong: jax.Array, hit: jax.Array) -> jax.Array:
    """Sampled softmax; draws are uniform, so their probabilities cancel."""
    return losses.sampled_softmax(jnp.sum(queries * right, axis=-1), queries @ wrong.T, where=~hit)


def sasrec(items: int) -> models.Retrieval:
    """Two blocks of two heads, as S3-Rec has it."""
    return models.sasrec(models.SasRec(items=items, length=LENGTH, dim=DIM, blocks=2, heads=2))


def gru4rec(items: int) -> models.Retrieval:
    """One layer of 128 units."""
    return models.gru4rec(models.Gru4Rec(items=items, length=LENGTH, dim=DIM, hidden=128))


def hstu(items: int) -> models.Retrieval:
    """Two blocks of two heads; a line of the file has no times."""
    return models.hstu(models.Hstu(items=items, length=LENGTH, dim=DIM, blocks=2, heads=2))


BASELINES = {
    "SASRec, 1,024 negatives": Baseline(sasrec, many_negatives, (0.0605, 0.0318), 1024),
    "GRU4Rec, 1,024 negatives": Baseline(gru4rec, many_negatives, (0.0283, 0.0137), 1024),
    "SASRec, one negative": Baseline(sasrec, one_negative, (0.0605, 0.0318), 0, epochs=120, falling=True),
    "HSTU, 1,024 negatives": Baseline(hstu, many_negatives, None, 1024),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """How long and how often.

    Attributes:
      seeds: each with its own start and data order.
      patience: validations without a better one before the end.
      batch_size: windows a step.
    """

    seeds: int = 5
    patience: int = 4
    batch_size: int = 256


def gather(baseline: Baseline, items: int) -> Callable[[Rows, jax.Array, jax.Array], dict[str, Any]]:
    """What the members of one seed share: windows and negatives."""

    def batch(rows: Rows, ids: jax.Array, key: jax.Array) -> dict[str, Any]:
        ids = ids[jnp.argsort(rows.window[ids, LENGTH - SHORT - 1] < 0)]  # the long ones first
        window, long = rows.window[ids], int(LONG * len(ids))
        parts = window[:long], window[long:, -SHORT - 1 :]
        histories = tuple(part[:, :-1] for part in parts)
        history, label = (jnp.concatenate([part[:, at].ravel() for part in parts]) for at in (np.s_[:-1], np.s_[1:]))
        # Most places are padding: the labels that there are, in a row, and how many at most is static.
        (place,) = jnp.nonzero(history >= 0, size=min(LABELS * len(ids), history.size), fill_value=-1)
        if baseline.negatives:
            wrong = jax.random.randint(key, (baseline.negatives,), 0, items)
        else:
            lengths = jnp.where(jnp.arange(len(ids)) < long, LENGTH, SHORT)
            user = jnp.repeat(rows.user[ids], lengths, total_repeat_length=history.size)[place]
            wrong = data.uniform_negatives(key, user, rows.have, items=items, count=1)[:, 0]
        return {"histories": histories, "place": place, "label": label[place], "wrong": wrong}

    return batch


def recipe(model: models.Retrieval, baseline: Baseline, items: int, steps: int) -> train.Recipe:
    """How a model is trained in so many steps: on every item of a window, after those before it."""
    queries_of = model.queries
    assert queries_of is not None

    def adam(hparams: Hparams) -> optax.GradientTransformation:
        rate: Any = hparams.learning_rate
        return optax.adam(optax.linear_schedule(rate, 0.0, steps) if baseline.falling else rate)

    def loss(params: Any, batch: dict[str, Any], hparams: Hparams, key: jax.Array) -> jax.Array:
        place, label, wrong = batch["place"], batch["label"], batch["wrong"]
        found = [
            queries_of(params, {"history": history}, jax.random.fold_in(key, part), dropout=hparams.dropout)
            for part, history in enumerate(batch["histories"])
        ]
        queries = jnp.concatenate([part.reshape(-1, part.shape[-1]) for part in found])[place]
        hit = label[:, None] == wrong[None] if baseline.negatives else label == wrong
        each = baseline.loss(queries, model.items(params, label), model.items(params, wrong), hit)
        counts = place >= 0
        return jnp.sum(jnp.where(counts, each, 0)) / jnp.maximum(jnp.sum(counts), 1)

    return train.Recipe(loss, adam, compress.chain(), gather(baseline, items))


def held_out(before: data.Sequences, truth: data.Interactions) -> HeldOut:
    """What is asked of every user with a held-out item."""
    most = int(np.diff(before.offsets).max())
    history, had = (data.last_items(before, length=n).item[truth.user] for n in (LENGTH, most))
    return HeldOut(jnp.asarray(history), jnp.asarray(had), jnp.asarray(truth.item))


def ndcg(model: models.Retrieval, params: Any, held: HeldOut) -> jax.Array:
    """Mean NDCG@10 of one held-out item a user: the discount of its rank, that of an equal score being behind.

    What isn't a number is never found.
    """
    vectors = model.items(params)

    def block(part: HeldOut) -> jax.Array:
        query = model.query(params, {"history": part.history})
        scores = query @ vectors.T
        score = jnp.take_along_axis(scores, part.label[:, None], axis=1)
        known = part.had >= 0
        had = jnp.take_along_axis(scores, jnp.where(known, part.had, 0), axis=1)
        rank = jnp.sum(scores >= score, axis=1) - 1 - jnp.sum(known & (had >= score), axis=1)
        found = (rank < K) & jnp.all(jnp.isfinite(query), axis=-1) & jnp.isfinite(score[:, 0])
        return jnp.where(found, 1 / jnp.log2(rank + 2.0), 0)

    users = len(held.label)
    fill = -users % BLOCK
    blocks = jax.tree.map(
        lambda column: jnp.pad(column, ((0, fill), *[(0, 0)] * (column.ndim - 1))).reshape(
            -1, BLOCK, *column.shape[1:]
        ),
        held,
    )
    return jnp.mean(jax.lax.map(block, blocks).ravel()[:users])


def both(one: data.Interactions, other: data.Interactions) -> data.Interactions:
    """Two parts of a split in one."""
    parts = {
        "user": (one.user, other.user),
        "item": (one.item, other.item),
        "timestamp": (one.timestamp, other.timestamp),
    }
    return dataclasses.replace(one, **{name: np.concatenate(columns) for name, columns in parts.items()})


def judge(model: models.Retrieval, params: Any, split: data.Split) -> dict[str, float]:
    """HR@10 and NDCG@10 on test."""
    before = both(split.train, split.valid)
    history = jnp.asarray(data.last_items(data.sequences(before), length=LENGTH).item)
    queries = jax.jit(lambda params, part: model.query(params, {"history": part}))
    vectors = model.items(params)
    found = jnp.concatenate([queries(params, history[at : at + BLOCK]) for at in range(0, len(history), BLOCK)])
    ranking = evaluate.rank(found, vectors, split.test, before, k=K)
    return {
        name: float(metric(ranking.hits, ranking.relevant).mean())
        for name, metric in (("hr@10", metrics.hit_rate), ("ndcg@10", metrics.ndcg))
    }


def figures(name: str, baseline: Baseline, config: Config, split: data.Split) -> dict[str, Any]:
    """A model of every seed, trained, chosen on validation and judged on test."""
    model, before = baseline.make(split.items), data.sequences(split.train)
    cut = data.windows(before, length=LENGTH + 1)
    rows = Rows(jnp.asarray(cut.user), jnp.asarray(cut.item), jax.tree.map(jnp.asarray, data.seen(split.train)))
    starts = jax.jit(jax.vmap(model.init))(jax.vmap(jax.random.key)(jnp.arange(config.seeds)))
    population = grid.population(Hparams(), grid.product(dropout=[Hparams().dropout], seed=range(config.seeds)))
    steps = len(cut.user) // config.batch_size
    began = time.perf_counter()

    def progress(done: int, total: int, best: float | None) -> None:
        spent = time.perf_counter() - began
        print(f"{name}: epoch {done} of at most {total}, best NDCG@10 {best}, {spent:.0f} s", flush=True)

    patience = baseline.epochs if baseline.falling else config.patience
    schedule = grid.Schedule(baseline.epochs, config.batch_size, chunk_epochs=2, patience=patience)
    with tempfile.TemporaryDirectory() as folder:
        fitted = grid.fit(
            recipe(model, baseline, split.items, baseline.epochs * steps),
            {**starts, "fixed": {}},
            population,
            data=rows,
            rows=jnp.arange(len(cut.user), dtype=jnp.int32),
            validate=lambda params, held: ndcg(model, params, held),
            held_out=held_out(before, split.valid),
            schedule=schedule,
            folder=pathlib.Path(folder),
            progress=progress,
        )
    members = [jax.tree.map(jnp.asarray, params) for params in clicks.members(fitted.params)]
    test = [judge(model, {**params, "fixed": {}}, split) for params in members]
    return {
        "test": {metric: over_seeds([one[metric] for one in test]) for metric in test[0]},
        "valid_ndcg@10": over_seeds(fitted.valid[:, 0].tolist()),
        "hyperparameters": Hparams()._asdict(),
        "published": None if baseline.published is None else dict(zip(test[0], baseline.published, strict=True)),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(members[0])),
        "best_epoch": int(fitted.best_step[0, 0]) // steps,
        "epochs": int(fitted.steps[-1]) // steps,
        "members": config.seeds,
    }


def read(path: pathlib.Path) -> data.Split:
    """The data set, split."""
    return data.leave_last_out(data.read_sequences(path))


def of_baseline(name: str, config: Config, beauty: pathlib.Path) -> dict[str, Any]:
    """The figures of a model, by its name."""
    return figures(name, BASELINES[name], config, read(beauty))


def run(config: Config, beauty: pathlib.Path, before: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything that the JSON holds, after each model anew; what was measured before is not measured again."""
    about = provenance(COMMAND)
    for found in resumed(before, BASELINES, about["commit"], of_baseline, config, beauty):
        yield {**about, "config": dataclasses.asdict(config), "published": S3_REC, "models": found}


def table(record: dict[str, Any]) -> str:
    """The figures of a record as the README shows them."""
    lines = [
        "| model and loss | published HR@10 | HR@10 | published NDCG@10 | NDCG@10 | epochs | members | time | memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in record["models"].items():
        cells = []
        for metric in ("hr@10", "ndcg@10"):
            published = "" if one["published"] is None else f"{one['published'][metric]:.4f}"
            cells += [published, plus_minus(one["test"][metric])]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {one['epochs']} | {one['members']} | {one['seconds']:.0f} s "
            f"| {one['peak_memory_bytes'] / 1e9:.1f} GB |"
        )
    return "\n".join(lines)


def main(
    config: Config = Config(),
    beauty: pathlib.Path = DATA / "beauty/sequences.txt.gz",
    json: pathlib.Path | None = None,
) -> None:
    """Trains every model that the JSON doesn't have yet, and prints the figures beside the published ones.

    Args:
      config: how long and how often.
      beauty: the file, one line a user.
      json: where to write the figures too; nowhere if not given.
    """
    record = {}
    for record in run(config, beauty, measured_before(json, dataclasses.asdict(config))):
        if json is not None:
            write_json(record, json)
    print(table(record))


if __name__ == "__main__":
    import tyro  # of the extra "run": reading this file for its functions doesn't need it

    tyro.cli(main)
