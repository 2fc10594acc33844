"""From a config to the arrays of a run: the log, its split, and what each user has."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recjax import data
from recjax.data import Features, Interactions, Seen, Split
from recjax.errors import InputError
from recjax.evaluate import judged_users, users_with_rows
from recjax.pipeline.config import Config, K, option

SPLITS = {
    "time": "by time over the whole log, {train:.0%} / {valid:.0%} / {test:.0%}; rows of one timestamp are never"
    " separated, all go to the earlier part",
    "last-out": "each user's last row is test, the last but one valid; of equal timestamps the later row in the file"
    " is later; users with fewer than three rows stay in train",
    "random": "each user's rows at random, {train:.0%} / {valid:.0%} / {test:.0%}",
}


class Source(NamedTuple):
    """The data of a run.

    Attributes:
      split: over a vocabulary in which the users of train come first.
      known: how many those are: the users that a student has a vector for.
      histories: what each known user has in train.
      everything: what each user has in the whole log.
      weight: ``[train rows]`` float32 in (0, 1], how much a row counts: its rating as a share of the highest ratings,
        or 1 where the log has none.
      rule: the split in words.
      fingerprint: sha256 of all that the rest of the run depends on.
    """

    split: Split
    known: int
    histories: Seen
    everything: Seen
    weight: np.ndarray
    rule: str
    fingerprint: str


def load(config: Config) -> Source:
    """Reads, filters and splits the log of a config.

    Raises:
      InputError: for everything that the data or the options get wrong.
    """
    columns = {
        "user_column": config.user_column,
        "item_column": config.item_column,
        "rating_column": config.rating_column,
        "timestamp_column": config.timestamp_column,
        "min_rating": config.min_rating,
    }
    tables = {"item_table": config.item_table, "user_table": config.user_table}
    if config.train is not None and config.test is not None:
        if config.k_core:
            raise InputError("option --k-core: found beside --train, expected a split that is ready")
        split = data.read_split(config.train, config.valid, config.test, **columns)
        described = data.with_features(split.train, **tables)
        split = split._replace(**{name: _described(getattr(split, name), described) for name in _PARTS})
        rule = "as given by the files"
    else:
        if config.data is not None:
            log = data.with_features(data.read(config.data, **columns), **tables)
        else:
            log = _built_in(config, {**columns, **tables})
        if log.timestamp is None and config.split != "random":
            expected = "a column of them (named in --timestamp-column) or --split random"
            raise InputError(f"{_origin(config)}: found no timestamps, expected {expected}")
        try:
            split = _cut(config, log)
        except InputError as error:
            raise InputError(f"{_origin(config)}: {error}") from None
        shares = {"valid": config.valid_share, "test": config.test_share}
        rule = SPLITS[config.split].format(train=1 - sum(shares.values()), **shares)
    return _arrange(config, split, rule)


_PARTS = ("train", "valid", "test")


def _built_in(config: Config, given: Mapping[str, object]) -> Interactions:
    """The log that needs no file."""
    for name, value in given.items():
        if value is not None and (config.synthetic or name != "min_rating"):
            raise InputError(f"option {option(name)}: found without --data, expected a log of your own for it")
    if config.synthetic:
        return data.synthetic()
    log = data.movielens_100k()
    if config.min_rating is None or log.rating is None:
        return log
    kept = log.rating >= config.min_rating
    if not kept.any():
        raise InputError(f"option --min-rating: found {config.min_rating:g}, expected at most {log.rating.max():g}")
    counts = {**log.counts, "below_rating": int((~kept).sum())}
    return dataclasses.replace(log.take(kept), counts=counts)


def _cut(config: Config, log: Interactions) -> Split:
    if config.k_core:
        log = data.k_core(log, config.k_core)
    match config.split:
        case "time":
            return data.split_by_time(log, valid=config.valid_share, test=config.test_share)
        case "last-out":
            return data.leave_last_out(log)
        case "random":
            return data.split_random(log, 0, valid=config.valid_share, test=config.test_share)


def _described(part: Interactions, like: Interactions) -> Interactions:
    names = ("titles", "user_features", "item_features")
    return dataclasses.replace(part, **{name: getattr(like, name) for name in names})


def _arrange(config: Config, split: Split, rule: str) -> Source:
    """Users of train first, so that "has a vector" is "position below ``known``"."""
    in_train = users_with_rows(split.train)
    order = np.concatenate([in_train, np.setdiff1d(np.arange(split.users), in_train)])
    position = np.empty(split.users, np.int32)
    position[order] = np.arange(split.users, dtype=np.int32)
    features = split.train.user_features
    moved = {
        "user_ids": split.train.user_ids[order],
        "user_features": None if features is None else Features(features.values[order], features.names),
    }
    split = split._replace(
        **{
            name: dataclasses.replace(part, user=position[part.user], **moved)
            for name, part in zip(_PARTS, split[:3], strict=True)
        }
    )
    if split.items <= K:
        raise InputError(f"{_origin(config)}: found a catalogue of {split.items} items, expected more than {K}")
    if "two-tower" in (config.teacher, config.student):
        for side, features in (("user", split.train.user_features), ("item", split.train.item_features)):
            if features is None or not features.names:
                raise InputError(f"option --{side}-table: found no side features of {side}s, a two-tower needs them")
    for name, part in (("valid", split.valid), ("test", split.test)):
        if not len(judged_users(part, split.train)):
            raise InputError(f"{_origin(config)}: found no user of the {name} part in train, expected at least one")
    known = len(in_train)
    histories = data.seen(split.train)
    histories = Seen(histories.offsets[: known + 1], histories.items)
    weight = _weight(split.train)
    digest = hashlib.sha256()
    described = (split.train.user_features, split.train.item_features)
    arrays = [array for part in split[:3] for array in (part.user, part.item)]
    for array in (*arrays, weight, *(features.values for features in described if features is not None)):
        digest.update(np.ascontiguousarray(array).tobytes())
    titles = [] if split.train.titles is None else split.train.titles
    digest.update("\0".join([*split.train.user_ids, *split.train.item_ids, *titles]).encode())
    return Source(split, known, histories, data.seen(*split[:3]), weight, rule, digest.hexdigest())


def _origin(config: Config) -> str:
    return str(Path(config.data or config.train or config.name))


def _weight(train: Interactions) -> np.ndarray:
    if train.rating is None:
        return np.ones(len(train), np.float32)
    # The top percentile and not the maximum: in a log of play counts one listener must not set the scale.
    top = max(float(np.quantile(train.rating, 0.99)), 1e-12)
    return np.clip(train.rating / top, 0.05, 1.0).astype(np.float32)
