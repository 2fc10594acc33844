"""Where members lie: settings spread over devices, filled up to a number they divide, and closed up as some stop."""

import jax
import numpy as np
from jax.sharding import NamedSharding

from recjax.devices import argument_layout, mesh


def shardings(settings: int) -> tuple[NamedSharding, NamedSharding]:
    """How to lay out ``[seeds, settings, ...]`` and what all members share.

    Settings are spread over the devices: as many as make the largest share smallest, and no more.
    """
    share = -(-settings // jax.device_count())
    count = -(-settings // share)
    members, *_, shared = argument_layout(mesh(members=count))
    return members, shared


def first(settings: int, devices: int) -> np.ndarray:
    """``[slots]``, the setting in each; ``settings`` stands for none, in the slots that fill up the last device."""
    return np.minimum(np.arange(-(-settings // devices) * devices), settings)


def closed_up(slots: np.ndarray, running: np.ndarray, devices: int) -> np.ndarray:
    """The slots after some settings have stopped.

    They are halved as often as the settings that run allow, so there are at most ``log2(slots)`` numbers of them, and
    as many programs; the result is ``slots`` where nothing is to gain.
    """
    share, wanted = len(slots) // devices, int(running.sum())
    while share > 1 and wanted <= -(-share // 2) * devices:
        share = -(-share // 2)
    if share * devices == len(slots):
        return slots
    kept = np.flatnonzero(running)
    return np.concatenate([kept, np.full(share * devices - len(kept), len(running))])


def places(slots: np.ndarray, now: np.ndarray) -> np.ndarray:
    """``[now]`` int32, where the settings that slots hold now lay before; any place for slots that hold none."""
    where = dict(zip(slots.tolist(), range(len(slots)), strict=True))
    return np.array([where.get(setting, 0) for setting in now.tolist()], np.int32)
