"""The article's example runs, does what it says, and its printed figures are what a pocket calculator gives."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import article
from experiments.article import Config, Hparams
from recjax import losses

SMALL = Config(rows=300, epochs=30, seeds=(0, 1)), Hparams(learning_rate=0.1)


@pytest.fixture(scope="module")
def trained():
    config, hparams = SMALL
    train, test = article.draw(config.rows)
    start = article.initial(jnp.asarray(config.seeds))
    params, figures = article.program(start, hparams, train, test, config)
    return start, params, figures


def alike(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


# The printed figures, by hand


def test_the_cross_entropy_is_not_034():
    shown = article.printed_figures()["cross_entropy"]
    nine, eight = -math.log(0.9), -math.log(0.8)  # y = 1 at .9 and y = 0 at .1 cost the same
    assert (round(nine, 4), round(eight, 4)) == (0.1054, 0.2231)
    assert shown["by_element"] == pytest.approx([nine, nine, eight, nine, nine], abs=1e-6)
    assert shown["mean"] == pytest.approx((4 * nine + eight) / 5, abs=1e-6)
    assert shown["mean_without_the_second_term"] == pytest.approx((2 * nine + eight) / 5, abs=1e-6)
    assert shown["mean_over_the_ones"] == pytest.approx((2 * nine + eight) / 3, abs=1e-6)
    # Whatever stands between the ends, if its errors are .1 and .2: no mean of it is above the largest element.
    assert shown["largest_element"] == pytest.approx(eight, abs=1e-6)
    assert shown["largest_element"] < shown["article"]


def test_the_mean_squared_error_is_not_002():
    shown = article.printed_figures()["mse"]
    assert shown["of_errors_of_0.1"] == pytest.approx(0.1**2, abs=1e-7)
    assert shown["of_the_shown"] == pytest.approx((4 * 0.1**2 + 0.2**2) / 5, abs=1e-7)  # .016
    assert shown["of_the_shown"] < shown["article"]


def test_the_l1_term_is_whatever_lambda_makes_it():
    theta = jnp.array([0.5, -0.25, 0.0, 1.25])
    assert losses.l1(theta, weight=1.0).sum() == 1.0
    assert losses.l1(theta, weight=0.26).sum() == pytest.approx(0.26)
    assert article.printed_figures()["l1"]["lambda_times_sum_abs"] == pytest.approx(2 * 0.26)


# The example


def test_every_row_is_seen_once_an_epoch():
    config = Config(rows=100, batch=64, epochs=3, seeds=(0, 1))
    rows, valid = jax.jit(article.epochs, static_argnames="config")(jax.random.split(jax.random.key(0), 2), config)
    assert rows.shape == (6, 2, 64)
    assert np.asarray(valid).sum(axis=1).tolist() == [64, 36] * 3
    rows, valid = np.asarray(rows).reshape(3, 2, 2, 64), np.asarray(valid).reshape(3, 2, 64)
    orders = [rows[epoch, :, member][valid[epoch]] for epoch in range(3) for member in range(2)]
    assert all(sorted(order.tolist()) == list(range(100)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 6  # a new order for every epoch and every seed


def test_test_rows_are_others_by_the_same_rule():
    train, test = article.draw(300)
    inputs, labels, test_inputs, test_labels = map(np.asarray, (*train, *test))
    assert not {tuple(row) for row in inputs} & {tuple(row) for row in test_inputs}
    fit = np.linalg.lstsq(inputs, np.eye(10)[labels], rcond=None)[0]
    assert np.mean(np.argmax(test_inputs @ fit, axis=-1) == test_labels) > 0.6  # the labels can be learned


def test_the_teacher_beats_chance_and_the_students_follow(trained):
    _, _, figures = trained
    assert (figures["teacher"]["accuracy"] > 0.5).all()  # ten classes
    assert (figures["teacher"]["agreement"] == 1).all()
    assert (figures["distilled"]["agreement"] > 0.5).all()
    assert (figures["quantized"]["agreement"] > 0.5).all()
    for stage in article.STAGES:
        total = figures[stage]["cross_entropy"] + figures[stage]["kl"]
        np.testing.assert_allclose(figures[stage]["distill"], total, rtol=1e-6)
        mixed = 0.9 * figures[stage]["cross_entropy"] + 0.1 * figures[stage]["kl"]
        np.testing.assert_allclose(figures[stage]["distill_mixed"], mixed, rtol=1e-5)


def test_figures_equal_numpy_over_the_whole_test_set(trained):
    _, params, figures = trained
    _, test = article.draw(SMALL[0].rows)

    def probabilities(model, params):
        member = jax.tree.map(lambda x: x[1], params)
        logits = np.asarray(model.logit(member, {"inputs": test.inputs}), np.float64)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    p, q = probabilities(article.TEACHER, params["teacher"]), probabilities(article.STUDENT, params["distilled"])
    expected = {
        "accuracy": (q.argmax(axis=1) == np.asarray(test.labels)).mean(),
        "agreement": (q.argmax(axis=1) == p.argmax(axis=1)).mean(),
        "cross_entropy": -(p * np.log(q)).sum(axis=1).mean(),
        "kl": (p * np.log(p / q)).sum(axis=1).mean(),
        "binary_cross_entropy": -(p * np.log(q) + (1 - p) * np.log1p(-q)).mean(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(figures["distilled"][name][1], value, rtol=1e-4, err_msg=name)


def test_distillation_leaves_the_teacher_alone(trained):
    start, params, _ = trained
    config, hparams = SMALL
    train, test = article.draw(config.rows)
    others, _ = article.program(start, hparams._replace(alpha=0.9, temperature=4.0), train, test, config)
    assert alike(others["teacher"], params["teacher"])
    assert alike(others["alone"], params["alone"])
    assert not alike(others["distilled"], params["distilled"])

    teacher, learner = (jax.tree.map(lambda x: x[0], params[stage]) for stage in ("teacher", "alone"))
    arguments = {"inputs": train.inputs[:8]}, train.labels[:8], jnp.ones(8, bool), hparams, teacher
    for objective in (article.distilled_loss, article.compressed_loss):
        student_grads, teacher_grads = jax.jit(jax.grad(objective, argnums=(0, 5)))(learner, *arguments)
        assert all((np.asarray(g) != 0).any() for g in jax.tree.leaves(student_grads))
        assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(teacher_grads))


def test_alpha_changes_nothing_at_temperature_one(trained):
    _, params, _ = trained
    teacher, learner = (jax.tree.map(lambda x: x[0], params[stage]) for stage in ("teacher", "alone"))
    train, _ = article.draw(SMALL[0].rows)
    arguments = {"inputs": train.inputs[:8]}, train.labels[:8], jnp.ones(8, bool)
    grad = jax.jit(jax.grad(article.distilled_loss))

    def slope(**hparams):
        return grad(learner, *arguments, Hparams(**hparams), teacher)

    def close(one, other):
        return jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-4, atol=1e-6), one, other))

    assert close(slope(alpha=0.1), slope(alpha=0.9))
    assert not close(slope(alpha=0.1, temperature=4.0), slope(alpha=0.9, temperature=4.0))


def test_rows_that_fill_a_batch_do_not_count(trained):
    _, params, _ = trained
    learner, train = jax.tree.map(lambda x: x[0], params["alone"]), article.draw(SMALL[0].rows)[0]
    objective = jax.jit(article.label_loss(article.STUDENT))
    five = objective(learner, {"inputs": train.inputs[:5]}, train.labels[:5], jnp.ones(5, bool), Hparams())
    eight = objective(learner, {"inputs": train.inputs[:8]}, train.labels[:8], jnp.arange(8) < 5, Hparams())
    np.testing.assert_allclose(five, eight, rtol=1e-6)


def test_pruned_weights_are_zero_and_stay_so(trained):
    _, params, figures = trained
    stages = ("compressed", "pruned", "quantized")
    compressed, pruned, quantized = (jax.tree.map(np.asarray, params[stage]["net"]) for stage in stages)
    zeros = 0
    for layer in compressed:
        before, after, packed = (net[layer]["kernel"] for net in (compressed, pruned, quantized))
        small = np.abs(before) < np.float32(0.01)
        assert (after == np.where(small, 0, before)).all()
        assert (packed[small] == 0).all()
        assert all(len(np.unique(member)) <= 255 for member in packed)
        assert (compressed[layer]["bias"] == quantized[layer]["bias"]).all()
        zeros += small.sum(axis=(1, 2))
    assert (np.asarray(figures["pruned"]["zero_weights"]) == zeros).all()
    assert (zeros > 0).all()


def test_what_is_printed_is_what_is_written(tmp_path):
    path = tmp_path / "new" / "article.json"
    record = article.run({"small": SMALL})
    article.write_json(record, path)
    written = json.loads(path.read_text())
    assert article.table(written) == article.table(record)
    assert [file.name for file in path.parent.iterdir()] == ["article.json"]
    study = written["studies"]["small"]
    assert study["config"] == {"rows": 300, "batch": 64, "epochs": 30, "seeds": [0, 1]}
    assert study["hyperparameters"]["alpha"] == 0.1
    assert written["versions"]["jax"] == jax.__version__
    for figures in study["stages"].values():
        for figure in figures.values():
            assert figure["mean"] == pytest.approx(np.mean(figure["by_seed"]))
            assert figure["sd"] == pytest.approx(np.std(figure["by_seed"], ddof=1))
    assert f"{study['stages']['distilled']['kl']['mean']:.4f}" in article.table(written)


def test_the_committed_results_are_those_of_this_file():
    path = article.pathlib.Path(article.__file__).parent / "results" / "article.json"
    written = json.loads(path.read_text())
    for name, (config, hparams) in article.STUDIES.items():
        study = written["studies"][name]
        assert study["hyperparameters"] == hparams._asdict()
        assert study["config"]["seeds"] == list(config.seeds)
        for stage in article.STAGES:
            accuracy = study["stages"][stage]["accuracy"]
            assert f"{accuracy['mean']:.3f} ± {accuracy['sd']:.3f}" in article.__doc__
