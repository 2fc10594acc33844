"""Mean and spread over seeds, and paired differences over users."""

import statistics

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from recjax.summary import Difference, Summary, paired_difference, summary


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9))
def test_mean_and_sd_are_those_of_the_statistics_module(values):
    found = summary(values)
    assert found.mean == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert found.sd == pytest.approx(statistics.stdev(values), abs=1e-9)


def test_one_value_has_no_sd():
    assert summary(np.float32([0.25])) == Summary(0.25, None)


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], 1.0])
def test_what_is_no_list_of_values_is_refused(values):
    with pytest.raises(ValueError, match="values: expected"):
        summary(values)


@pytest.fixture(scope="module")
def metrics():
    """Two recommenders' NDCG of 3,000 users: users vary far more than the recommenders differ."""
    rng = np.random.default_rng(0)
    user = rng.uniform(0, 1, 3000)
    return user + rng.normal(0.02, 0.1, 3000), user + rng.exponential(0.05, 3000)


def test_the_interval_of_many_users_is_the_normal_one(metrics):
    found, exact = paired_difference(*metrics), scipy.stats.ttest_rel(*metrics)
    low, high = exact.confidence_interval(0.95)
    width = high - low
    assert found.difference == pytest.approx(np.mean(metrics[0] - metrics[1]))
    np.testing.assert_allclose([found.low, found.high], [low, high], atol=0.05 * width)
    deviation = np.std(metrics[0] - metrics[1], ddof=1)
    assert found.half_width == pytest.approx(1.96 * deviation / 3000**0.5, rel=0.05)
    narrow = paired_difference(*metrics, confidence=0.5)
    assert narrow.half_width == pytest.approx(0.6745 * deviation / 3000**0.5, rel=0.05)


def test_the_interval_of_few_users_is_that_of_all_resamples():
    """Of three users there are 27 samples; the interval is between quantiles of their means."""
    of, to = np.array([0.9, 0.5, 0.1]), np.array([0.1, 0.4, 0.3])
    means = np.sort([(of - to)[list(at)].mean() for at in np.ndindex(3, 3, 3)])
    found = paired_difference(of, to, resamples=20_000)
    np.testing.assert_allclose(
        [found.low, found.high], np.quantile(means, [0.025, 0.975], method="inverted_cdf"), atol=1e-9
    )


def test_the_order_turns_the_interval_around_and_what_users_share_cancels(metrics):
    of, to = metrics
    found = paired_difference(of, to)
    turned = paired_difference(to, of)
    np.testing.assert_allclose([turned.difference, turned.low, turned.high], [-x for x in (found[0], *found[2:0:-1])])
    shared = np.random.default_rng(1).normal(size=len(of))
    np.testing.assert_allclose(paired_difference(of + shared, to + shared), found, atol=1e-12)
    assert paired_difference(of, to) == found  # the samples are fixed


def test_seeds_are_averaged_first(metrics):
    of, to = metrics
    seeds = np.stack([of - 0.3, of + 0.1, of + 0.2])
    np.testing.assert_allclose(paired_difference(seeds, np.stack([to, to])), paired_difference(of, to), atol=1e-12)


def test_one_user_has_no_interval():
    assert paired_difference([0.5], [0.25]) == Difference(0.25, None, None, 1)
    assert Difference(0.25, None, None, 1).half_width is None


@pytest.mark.parametrize(("of", "to"), [([], []), (np.zeros(2), np.zeros(3)), (np.zeros((2, 2, 2)), np.zeros(2))])
def test_other_users_are_refused(of, to):
    with pytest.raises(ValueError, match="expected \\[users\\]"):
        paired_difference(of, to)
