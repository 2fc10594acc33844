"""Training on a CPU whose products of matrices XLA computes itself, beside the library that jaxlib leaves them to.

    python -m benchmarks products --json benchmarks/results/products.json

The DNN and the SASRec of ``epoch``, ten steps a turn, one member, five and eight. Ours has the options of
``machine.xla_matmul_options``; the peer is the same recipe without them. Five members are on one of two devices, eight
on both. The losses are compared before anything is timed. A ratio below 1 says that a recipe should leave them out, as
those with attention do. Two cores; four minutes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks import epoch
from benchmarks.measure import compare
from recjax.machine import one_device_per_core, xla_matmul_options

SIZES = (1, 5, 8)
FRAPPE = epoch.FRAPPE | {"steps": 10}
BEAUTY = epoch.BEAUTY | {"steps": 10}


def run(
    sizes: tuple[int, ...] = SIZES,
    frappe: Mapping[str, Any] = FRAPPE,
    beauty: Mapping[str, Any] = BEAUTY,
    repeats: int = 5,
) -> list[dict[str, Any]]:
    """Ours beside the peer, each model at each size."""
    one_device_per_core()
    options = xla_matmul_options(), ()
    rows = []
    for case in (epoch.dnn(**frappe), epoch.sasrec(**beauty)):
        for members in sizes:
            found, expected = (np.asarray(case.ours(members, 0.0, given)()) for given in options)
            np.testing.assert_allclose(found, expected, rtol=1e-3)
            ours, theirs = (case.ours(members, epoch.DROPOUT, given) for given in options)
            rows.append(
                compare(
                    "products",
                    case.name,
                    ours,
                    theirs,
                    peer="the library of jaxlib",
                    package="jaxlib",
                    repeats=repeats,
                    members=members,
                )
            )
    return rows
