"""Unlike teachers and students from one end to the other: taught, pruned, quantized, packed, saved, loaded, scored."""

import jax
import numpy as np
import polars as pl
import pytest
from family_cases import LOG

from recjax import artifact, data, families, grid
from recjax.study import Study, Training
from recjax.tasks import compression, distillation

SMALL = {"dim": 8, "length": 4}
STUDENTS = {
    "elsa": lambda: families.elsa(LOG, 8),
    "mf": lambda: families.mf(LOG, 8),
    "sasrec": lambda: families.sasrec(LOG, blocks=1, heads=1, **SMALL),
    "gru4rec": lambda: families.gru4rec(LOG, hidden=8, **SMALL),
}


def of_file(folder):
    """Scores of a teacher that knows which half of the catalog a user likes, of all pairs but those of one user."""
    batch = data.history_batch(LOG.log, LOG.last, 2)
    likes = np.asarray(batch["history"][:, -1] % 2)
    user, item = (part.ravel() for part in np.indices((LOG.users - 1, LOG.items)))
    score = np.where(item % 2 == likes[user], 1.0, -1.0) - item / 100
    frame = {"user": LOG.user_ids[user], "item": LOG.item_ids[item], "score": score}
    pl.DataFrame(frame).write_parquet(folder / "scores.parquet")
    return families.imported(LOG, path=str(folder / "scores.parquet"))


def both():
    return families.ensemble([families.ease(LOG), families.sasrec(LOG, blocks=1, heads=1, **SMALL)])


TEACHERS = {
    "EASE": lambda folder: families.ease(LOG),
    "SASRec": lambda folder: families.sasrec(LOG, blocks=1, heads=1, **SMALL),
    "LightGCN": lambda folder: families.lightgcn(LOG, 8, layers=1),
    "EASE and SASRec": lambda folder: both(),
    "a file": of_file,
}


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        ("EASE", "elsa"),
        ("EASE", "sasrec"),
        ("SASRec", "mf"),
        ("LightGCN", "mf"),
        ("EASE and SASRec", "gru4rec"),
        ("a file", "elsa"),
    ],
)
def test_a_pair_from_the_teacher_to_the_artifact(tmp_path, teacher, student):
    source, model = TEACHERS[teacher](tmp_path), STUDENTS[student]()
    knowledge = distillation.teach(source, source.init(jax.random.key(1)), LOG, model, "soft-targets")
    method, small = distillation.soft_targets(LOG, model), compression.pruned_and_quantized(model)
    study = Study(LOG, model, method, small)
    rows = model.objective.rows
    training = Training(grid.Schedule(epochs=200, batch_size=rows, chunk_epochs=200))
    fixed = {"learning_rate": 0.03, "sparsity": 0.25, "bits": 8.0, "temperature": 1.0}
    if "weight_decay" in study.hparams._fields:
        fixed["weight_decay"] = 0.0
    result = study.run(grid.product(alpha=[0.0, 1.0]), knowledge, fixed=fixed, training=training)

    batch = data.history_batch(LOG.log, model.queries, model.length)
    wanted = np.asarray(jax.nn.softmax(knowledge.scores))
    scores = [np.asarray(model.score(result.params(0, at), batch)) for at in (0, 1)]
    alone, taught = (-(wanted * np.asarray(jax.nn.log_softmax(part))).sum() for part in scores)
    assert taught < alone  # the cross-entropy with the teacher

    stored = compression.packed(result.params(0, 1), 8)
    expected = np.asarray(model.score(compression.dense(stored), data.history_batch(LOG.log, LOG.last, model.length)))
    parts = {"kind": model.kind, "net": model.net, "history_exponent": model.history_exponent}
    ids = {"user_ids": LOG.user_ids, "item_ids": LOG.item_ids, "titles": LOG.titles, "seen": LOG.log}
    artifact.save(tmp_path / "artifact", model.tables(stored), **parts, **ids, known_users=np.arange(LOG.users))
    loaded = artifact.load(tmp_path / "artifact")
    history = np.asarray(data.history_batch(LOG.log, LOG.last, model.length)["history"])
    new = ~(history[:, :, None] == np.arange(LOG.items)).any(axis=1)
    found = loaded.scores(np.arange(LOG.users), history)
    np.testing.assert_allclose(found[new], expected[new], rtol=2e-3, atol=2e-3)  # float16 scales, folded in


def test_a_user_whom_the_file_lacks_is_not_covered(tmp_path):
    source = of_file(tmp_path)
    model = STUDENTS["elsa"]()
    knowledge = distillation.teach(source, source.init(jax.random.key(1)), LOG, model, "soft-targets")
    covered = knowledge.covered(np.arange(LOG.users))
    assert covered.tolist() == [True] * (LOG.users - 1) + [False]
