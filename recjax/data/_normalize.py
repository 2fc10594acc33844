"""Standardization of numeric columns."""

import numpy as np


def normalize(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and standard deviation 1; missing values become 0, the mean.

    NaN and infinite entries are missing and don't count in mean and deviation (population, ddof 0). A constant or empty
    column becomes 0.

    Args:
      values: ``[rows]`` or ``[rows, features]``, any real dtype.

    Returns:
      float32 of the same shape.

    Examples:
      >>> normalize(np.array([[1.0, 5.0], [3.0, 5.0], [np.nan, 5.0]])).tolist()
      [[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    """
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    count = np.maximum(known.sum(0), 1)
    largest = np.max(np.abs(values), axis=0, initial=0.0, where=known)
    scaled = np.where(known, values, 0) / np.where(largest > 0, largest, 1)  # so that no square overflows
    centered = np.where(known, scaled - scaled.sum(0) / count, 0)
    deviation = np.sqrt((centered**2).sum(0) / count)
    low, high = (
        np.min(scaled, axis=0, initial=np.inf, where=known),
        np.max(scaled, axis=0, initial=-np.inf, where=known),
    )
    varies = low < high  # not deviation > 0: the mean of equal numbers may have a rounding error
    return np.where(varies, centered / np.where(varies, deviation, 1), 0).astype(np.float32)
