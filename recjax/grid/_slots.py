"""Slots of settings on devices: spread, padded to a multiple of the devices, and compacted as settings stop."""

import jax
import numpy as np
from jax.sharding import NamedSharding

from recjax.devices import argument_layout, mesh


def shardings(settings: int) -> tuple[NamedSharding, NamedSharding]:
    """The shardings of ``[seeds, settings, ...]`` and of what all members share.

    Settings are spread over the fewest devices that give the smallest largest share.
    """
    share = -(-settings // jax.device_count())
    count = -(-settings // share)
    members, *_, shared = argument_layout(mesh(members=count))
    return members, shared


def first(settings: int, devices: int) -> np.ndarray:
    """``[slots]``, the setting in each slot; ``settings`` marks the empty slots at the end."""
    return np.minimum(np.arange(-(-settings // devices) * devices), settings)


def compacted(slots: np.ndarray, running: np.ndarray, devices: int) -> np.ndarray:
    """The slots after some settings have stopped; ``slots`` itself if nothing is gained.

    They are halved as often as possible, so there are at most ``log2(slots)`` sizes and compiled programs.
    """
    share, wanted = len(slots) // devices, int(running.sum())
    while share > 1 and wanted <= -(-share // 2) * devices:
        share = -(-share // 2)
    if share * devices == len(slots):
        return slots
    kept = np.flatnonzero(running)
    return np.concatenate([kept, np.full(share * devices - len(kept), len(running))])


def places(slots: np.ndarray, now: np.ndarray) -> np.ndarray:
    """``[now]`` int32, the old place of each setting that ``now`` holds; any place for empty slots."""
    where = dict(zip(slots.tolist(), range(len(slots)), strict=True))
    return np.array([where.get(setting, 0) for setting in now.tolist()], np.int32)
