"""Ensembles of unlike families, and teachers from the files of other systems."""

import dataclasses

import jax
import numpy as np
import polars as pl
import pytest
from family_cases import LOG

from recjax import data, evaluate, families, teacher
from recjax.errors import InputError

USER_IDS, ITEM_IDS = np.array(["ann", "bob", "cy"]), np.array(["x", "y", "z", "w"])


def raw(name: str) -> list[str]:
    """The ids of a part of the toy log."""
    return getattr(LOG, name).tolist()


def test_an_ensemble_is_the_weighted_sum_of_standardized_scores():
    models = [families.ease(LOG), families.mf(LOG, 4), families.item_knn(LOG, neighbors=3)]
    both = families.ensemble(models)
    params = {**both.init(jax.random.key(0)), "weights": np.float32([0.5, 0.25, 0.25])}
    batch = data.history_batch(LOG.log, LOG.last, both.length)
    expected = 0
    for number, (weight, model) in enumerate(zip([0.5, 0.25, 0.25], models, strict=True)):
        own = data.history_batch(LOG.log, LOG.last, model.length)
        scores = np.asarray(model.score(params[str(number)], own), np.float64)
        expected += weight * (scores - scores.mean(1, keepdims=True)) / (scores.std(1, keepdims=True) + 1e-6)
    found = both.score(params, batch)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    candidates = np.array([[2, 0]] * LOG.users)
    np.testing.assert_allclose(both.score(params, batch, candidates), expected[:, [2, 0]], atol=1e-4)


def test_a_file_of_scores_teaches_as_the_model_that_wrote_it(tmp_path):
    """All pairs of a user and an item: the ranking is the model's own, and so is its quality."""
    scores = np.random.default_rng(0).normal(size=(LOG.users, LOG.items)).astype(np.float32)
    user, item = (part.ravel() for part in np.indices(scores.shape))
    frame = {"user": np.array(raw("user_ids"))[user], "item": np.array(raw("item_ids"))[item], "score": scores.ravel()}
    pl.DataFrame(frame).write_parquet(tmp_path / "scores.parquet")
    model = families.imported(LOG, path=str(tmp_path / "scores.parquet"))
    scorer = model.scorer(model.init(jax.random.key(0)))
    found = evaluate.rank(scorer, LOG, LOG.test, k=3)
    expected = evaluate.rank(lambda batch: scores[batch["user"]], LOG, LOG.test, k=3)
    np.testing.assert_array_equal(found.items, expected.items)


@pytest.mark.parametrize(
    ("name", "text", "best"),
    [
        ("scores.csv", "user,item,score\nann,y,1\nann,z,9\nbob,w,-3\neve,x,1\nann,q,5\n", {"ann": "zy", "bob": "w"}),
        (
            "lists.tsv",
            "user\titem\trank\nann\ty\t2\nann\tz\t1\nbob\tw\t7\neve\tx\t1\nbob\tq\t1\n",
            {"ann": "zy", "bob": "w"},
        ),
        ("order.csv", "user,item\nann,z\nbob,w\nann,y\neve,x\neve,y\n", {"ann": "zy", "bob": "w"}),
    ],
)
def test_unknown_ids_are_counted_and_not_fatal(tmp_path, name, text, best):
    (tmp_path / name).write_text(text)
    found = teacher.read_teacher(tmp_path / name, USER_IDS, ITEM_IDS)
    lists = found.arrays["lists"]["items"]
    for user, row in zip(USER_IDS, lists, strict=True):
        assert "".join(ITEM_IDS[row[row >= 0]]) == best.get(user, "")
    assert found.counts["teacher_rows_of_unknown_ids"] == 2
    assert found.counts["users_without_teacher"] == 1


def test_outside_a_list_all_is_below_it_and_a_user_without_one_has_one_score(tmp_path):
    (tmp_path / "scores.csv").write_text("user,item,score\n0,3,2\n0,5,-4\n")
    model = families.imported(LOG, path=str(tmp_path / "scores.csv"))
    scores = np.asarray(model.score(model.init(jax.random.key(0)), {"user": LOG.last.user}))
    row = scores[raw("user_ids").index("0")]
    third, fifth = (row[raw("item_ids").index(item)] for item in ("3", "5"))
    assert third == 2
    assert fifth == -4
    assert np.sum(row < fifth) == LOG.items - 2
    others = np.delete(scores, raw("user_ids").index("0"), axis=0)
    assert (others == others[:, :1]).all()


def write_embeddings(folder, users, items):
    for name, rows in (("users", users), ("items", items)):
        np.save(folder / f"{name}.npy", np.array(list(rows.values()), np.float32))
        (folder / f"{name}.txt").write_text("".join(f"{raw}\n" for raw in rows))


def test_embeddings_score_by_inner_products(tmp_path):
    items = {"x": [1, 0], "z": [3, 1], "w": [0, 2], "q": [9, 9]}
    write_embeddings(tmp_path, {"cy": [1, 2], "ann": [-1, 0], "eve": [5, 5]}, items)
    found = teacher.read_teacher(tmp_path, USER_IDS, ITEM_IDS)
    vectors = found.arrays["vectors"]
    np.testing.assert_array_equal(vectors["user"] @ vectors["item"].T, [[-1, 0, -3, 0], [0, 0, 0, 0], [1, 0, 5, 4]])
    assert found.counts == {"users_without_teacher": 1, "items_without_teacher": 1}


def test_files_that_are_no_teacher_are_refused_in_a_line(tmp_path):
    (tmp_path / "a.csv").write_text("user,price\nann,3\n")
    with pytest.raises(InputError, match=r"a\.csv: expected a column for the item"):
        teacher.read_teacher(tmp_path / "a.csv", USER_IDS, ITEM_IDS)
    with pytest.raises(InputError, match=r"expected a folder with users\.npy.*got none named users\.npy"):
        teacher.read_teacher(tmp_path, USER_IDS, ITEM_IDS)
    write_embeddings(tmp_path, {"ann": [1, 2]}, {"x": [1, 2, 3]})
    with pytest.raises(InputError, match="expected users and items of one dim, got 2 and 3"):
        teacher.read_teacher(tmp_path, USER_IDS, ITEM_IDS)


def test_everything_is_in_training():
    whole = LOG.everything()
    assert len(whole.training_rows) == len(whole.log.items)
    assert len(whole.valid.user) == len(whole.test.user) == 0
    unknown = dataclasses.replace(LOG, users=LOG.users - 1)
    assert unknown.everything().users == LOG.users
