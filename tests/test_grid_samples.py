"""Settings drawn from ranges."""

import math

import numpy as np

from recjax import grid

RANGES = {"learning_rate": grid.Range(1e-4, 1e-1, log=True), "alpha": grid.Range(-1, 3)}


def test_sobol_points_are_those_of_the_direction_numbers():
    """The first fifteen points of four dimensions, from the recurrence of Joe and Kuo (2008) in exact integers."""
    bits = 30
    parameters = ((0, 0, ()), (1, 0, (1,)), (2, 1, (1, 3)), (3, 1, (1, 3, 1)))  # degree, coefficients, m_1 ... m_degree
    columns = []
    for degree, coefficients, first in parameters:
        m = list(first) if degree else [1] * bits
        for i in range(len(m), bits):
            value = m[i - degree] ^ (m[i - degree] << degree)
            for k in range(1, degree):
                value ^= ((coefficients >> (degree - 1 - k)) & 1) * (m[i - k] << k)
            m.append(value)
        points = [0]
        for i in range(15):  # in the order of the Gray code: the bit of the lowest zero of i
            lowest = (~i & (i + 1)).bit_length() - 1
            points.append(points[-1] ^ (m[lowest] << (bits - 1 - lowest)))
        columns.append(np.array(points[1:]) / 2**bits)
    found = grid.sobol(15, **{f"x{dim}": grid.Range(0, 1) for dim in range(4)})
    np.testing.assert_array_equal(list(found.values()), columns)


def test_sobol_points_fill_every_square_once():
    x, y = grid.sobol(255, x=grid.Range(0, 16), y=grid.Range(0, 16)).values()
    cells = set(zip(x.astype(int).tolist(), y.astype(int).tolist(), strict=True))
    assert len(cells | {(0, 0)}) == 256  # with the point that is left out


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
