"""Settings drawn from ranges."""

import math

import numpy as np
import pytest

from recjax import grid

RANGES = {"learning_rate": grid.Range(1e-4, 1e-1, log=True), "alpha": grid.Range(-1, 3)}


@pytest.mark.parametrize("dims", [1, 2, 5, 12])
def test_sobol_points_are_those_of_scipy(dims):
    qmc = pytest.importorskip("scipy.stats").qmc
    expected = qmc.Sobol(dims, scramble=False, bits=30).random_base2(7)[1:]
    found = grid.sobol(127, **{f"x{dim}": grid.Range(0, 1) for dim in range(dims)})
    np.testing.assert_array_equal(np.stack(list(found.values()), axis=1), expected.astype(np.float32))


def test_sobol_points_fill_every_cell_once():
    points = grid.sobol(255, **RANGES)
    share = {"learning_rate": (np.log10(points["learning_rate"]) + 4) / 3, "alpha": (points["alpha"] + 1) / 4}
    for name, values in share.items():
        assert np.unique(np.floor(values.astype(np.float64) * 256 + 1e-2)).tolist() == list(range(1, 256)), name


def test_random_settings_are_within_their_ranges_and_even():
    drawn = grid.random(4000, **RANGES)
    again, other = grid.random(4000, **RANGES), grid.random(4000, key=1, **RANGES)
    for name, (low, high, log) in RANGES.items():
        values = drawn[name]
        assert values.dtype == np.float32
        assert low <= values.min()
        assert values.max() <= np.float32(high)
        middle = math.sqrt(low * high) if log else (low + high) / 2
        assert abs((values < middle).mean() - 0.5) < 0.04
        np.testing.assert_array_equal(values, again[name])
        assert not np.array_equal(values, other[name])
    assert abs(np.corrcoef(np.log(drawn["learning_rate"]), drawn["alpha"])[0, 1]) < 0.06


def test_what_was_drawn_is_crossed_with_seeds():
    members = grid.product(grid.random(3, **RANGES), seed=range(2))
    np.testing.assert_array_equal(members["alpha"], np.repeat(grid.random(3, **RANGES)["alpha"], 2))
    assert members["seed"].tolist() == [0, 1] * 3


def test_more_ranges_than_there_are_direction_numbers_are_refused():
    with pytest.raises(ValueError, match="expected at most 12 names, got 13"):
        grid.sobol(3, **{f"x{dim}": grid.Range(0, 1) for dim in range(13)})
