"""A synthetic log with learnable tastes, a popularity skew and timestamps."""

import numpy as np

from recjax.data._normalize import normalize
from recjax.data.interactions import Features, Interactions
from recjax.errors import InputError
from recjax.ids import vocabulary_order

ADJECTIVES = ("Amber", "Blue", "Distant", "Eager", "Fallen", "Golden", "Hidden", "Iron", "Last", "Silent")
NOUNS = ("Harbor", "Garden", "Letter", "River", "Mirror", "Orchard", "Signal", "Tower", "Voyage", "Window")
TASTE, SKEW = 3.0, 0.7  # weights of taste and popularity, relative to standard Gumbel noise
DAYS, LAST_ARRIVAL, BEGIN = 300, 200, 1_700_000_000  # of the log; seconds since 1970
BLOCK = 1024  # users whose choices are drawn at once


def synthetic(
    seed: int = 0, *, users: int = 600, items: int = 800, rank: int = 6, interactions_per_user: int = 60
) -> Interactions:
    r"""A synthetic log of users who pick items by taste and popularity, with titles and features.

    User u and item i have taste vectors :math:`p_u` and :math:`q_i` of length ``rank``: the mean of a group vector and
    an individual one. u picks items one by one without replacement, each with a probability proportional to

    .. math:: \exp\big(3 \langle p_u, q_i \rangle / \sqrt{\mathrm{rank}}\big) \; r_i^{-0.7},

    where :math:`r_i` is the item's popularity rank. Users pick between half and one and a half times
    ``interactions_per_user`` items. They arrive over 200 days, most of them early, and pick until day 300, so a split
    by time has nearly all of them in train. Timestamps are whole seconds.

    Item features are genre (the group) and year, user features segment (the group) and age: they carry some of the
    taste, not all of it. Ids and titles carry none.

    Args:
      seed: of the NumPy generator; the same seed gives the same log, bit for bit.
      users: number of users.
      items: number of items; those that nobody picks aren't in the log.
      rank: length of the taste vectors, also the number of genres and of segments.
      interactions_per_user: mean number of items per user, at most half the items.

    Returns:
      The log in order of time; ids look like ``"u0042"`` and ``"i0007"``.

    Raises:
      InputError: for a number out of range.

    Examples:
      >>> log = synthetic(0, users=50, items=40, interactions_per_user=8)
      >>> log.users, bool((log.timestamp[1:] >= log.timestamp[:-1]).all())
      (50, True)
    """
    least = {"seed": (seed, 0), "users": (users, 1), "items": (items, 2), "rank": (rank, 1)}
    for name, (found, lowest) in least.items():
        if found < lowest:
            raise InputError(f"option {name}: expected a whole number of at least {lowest}, got {found}")
    if not 1 <= interactions_per_user <= items // 2:
        raise InputError(
            f"option interactions_per_user: expected 1 to {items // 2} (half the items), got {interactions_per_user}"
        )
    random = np.random.default_rng(seed)
    segment, genre = random.integers(rank, size=users), random.integers(rank, size=items)
    centers = random.standard_normal((rank, rank))  # segment i and genre i share a center, so they match
    p, q = ((centers[group] + random.standard_normal((len(group), rank))) / np.sqrt(2) for group in (segment, genre))
    popularity = -SKEW * np.log(1 + random.permutation(items))
    picks = random.integers((interactions_per_user + 1) // 2, interactions_per_user * 3 // 2 + 1, size=users)
    chosen = []
    for start in range(0, users, BLOCK):
        taste = TASTE / np.sqrt(rank) * p[start : start + BLOCK] @ q.T
        utility = taste + popularity + random.gumbel(size=taste.shape)
        order = np.argsort(-utility, axis=1)  # Gumbel top-k: draws without replacement
        chosen += [row[:count] for row, count in zip(order, picks[start : start + BLOCK], strict=True)]
    user, item = np.repeat(np.arange(users), picks), np.concatenate(chosen)
    arrival = LAST_ARRIVAL * random.random(users) ** 2
    day = arrival[user] + (DAYS - arrival[user]) * random.random(len(user))
    year = np.clip(1990 + 12 * q[:, 0] + 4 * random.standard_normal(items), 1950, 2023).astype(int)
    age = np.clip(40 + 10 * p[:, -1] + 5 * random.standard_normal(users), 16, 90).astype(int)

    order = np.argsort(day, kind="stable")
    user, user_ids, user_numbers = _vocabulary(user[order], "u")
    item, item_ids, item_numbers = _vocabulary(item[order], "i")
    return Interactions(
        user=user,
        item=item,
        user_ids=user_ids,
        item_ids=item_ids,
        timestamp=np.floor(BEGIN + 86_400 * day[order]),
        titles=np.array([_title(i, year[i]) for i in item_numbers]),
        user_features=_features("segment", segment[user_numbers], rank, "age", age[user_numbers]),
        item_features=_features("genre", genre[item_numbers], rank, "year", year[item_numbers]),
        counts={"rows_read": len(user), "duplicates_collapsed": 0},
    )


def _vocabulary(ids: np.ndarray, prefix: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions in a vocabulary, the raw ids in its order, and the number of each."""
    distinct, inverse = np.unique(ids, return_inverse=True)
    raw = np.array([f"{prefix}{i:04d}" for i in distinct])
    order = vocabulary_order(raw)
    return np.argsort(order)[inverse].astype(np.int32), raw[order], distinct[order]


def _title(i: int, year: int) -> str:
    volume, place = divmod(int(i), len(NOUNS) * len(ADJECTIVES))
    name = f"{ADJECTIVES[place // len(NOUNS)]} {NOUNS[place % len(NOUNS)]}"
    return f"{name} {volume + 1} ({year})" if volume else f"{name} ({year})"


def _features(group_name: str, group: np.ndarray, groups: int, name: str, number: np.ndarray) -> Features:
    values = np.concatenate([np.eye(groups, dtype=np.float32)[group], normalize(number)[:, None]], axis=1)
    return Features(values, (*(f"{group_name}={i}" for i in range(groups)), name))
