"""From a config to the arrays of a run: the log, its split, and what each user has."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from recjax import data
from recjax.data import ColumnOptions, CTRDataset, Dataset, Interactions, Split
from recjax.errors import InputError
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
      dataset: see :class:`recjax.data.Dataset` and :class:`recjax.data.CTRDataset`.
      rule: the split in words.
      fingerprint: sha256 of all that the rest of the run depends on.
    """

    dataset: Dataset | CTRDataset
    rule: str
    fingerprint: str


def load(config: Config) -> Source:
    """Reads, filters and splits the log of a config.

    Raises:
      InputError: for everything that the data or the options get wrong.
    """
    return _load_ctr(config) if config.task == "ctr" else _load_retrieval(config)


def _load_ctr(config: Config) -> Source:
    options = ColumnOptions(
        label=config.label,
        min_rating=config.min_rating,
        numeric=config.numeric,
        categorical=config.categorical,
        drop=config.drop,
        min_count=config.min_count,
    )
    if config.train is not None and config.test is not None:
        dataset = data.read_ctr_split(config.train, config.valid, config.test, options)
    else:
        assert config.data is not None
        by_time = None if config.split is None else config.split == "time"
        dataset = data.read_ctr(config.data, options, by_time=by_time, valid=config.valid_share, test=config.test_share)
    encoding = dataset.encoding
    assert encoding is not None
    digest = hashlib.sha256(json.dumps(encoding.as_json()).encode())
    for array in jax.tree.leaves([dataset.train, dataset.valid, dataset.test]):
        digest.update(np.ascontiguousarray(array).tobytes())
    return Source(dataset, dataset.split, digest.hexdigest())


def _load_retrieval(config: Config) -> Source:
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
            raise InputError("option --k-core: expected a split that is ready without it, got --train")
        split = data.read_split(config.train, config.valid, config.test, **columns)
        described = data.with_features(split.train, **tables)
        split = split._replace(**{name: _described(getattr(split, name), described) for name in _PARTS})
        rule = "as given by the files"
    else:
        if config.data is not None:
            log = data.with_features(data.read(config.data, **columns), **tables)
        else:
            log = _built_in(config, {**columns, **tables})
        split_by = config.split or "time"
        if log.timestamp is None and split_by != "random":
            expected = "a column of timestamps (named by --timestamp-column) or --split random"
            raise InputError(f"{_origin(config)}: expected {expected}, got no timestamps")
        try:
            split = _cut(config, split_by, log)
        except InputError as error:
            raise InputError(f"{_origin(config)}: {error}") from None
        shares = {"valid": config.valid_share, "test": config.test_share}
        rule = SPLITS[split_by].format(train=1 - sum(shares.values()), **shares)
    return _arrange(config, split, rule)


_PARTS = ("train", "valid", "test")


def _built_in(config: Config, given: Mapping[str, object]) -> Interactions:
    """The log that needs no file."""
    for name, value in given.items():
        if value is not None and (config.synthetic or name != "min_rating"):
            raise InputError(f"option {option(name)}: expected a log of your own for it (--data), got none")
    if config.synthetic:
        return data.synthetic()
    log = data.movielens_100k()
    if config.min_rating is None or log.rating is None:
        return log
    kept = log.rating >= config.min_rating
    if not kept.any():
        raise InputError(f"option --min-rating: expected at most {log.rating.max():g}, got {config.min_rating:g}")
    counts = {**log.counts, "below_rating": int((~kept).sum())}
    return dataclasses.replace(log.take(kept), counts=counts)


def _cut(config: Config, split_by: str, log: Interactions) -> Split:
    if config.k_core:
        log = data.k_core(log, config.k_core)
    if split_by == "last-out":
        return data.leave_last_out(log)
    if split_by == "random":
        return data.split_random(log, 0, valid=config.valid_share, test=config.test_share)
    return data.split_by_time(log, valid=config.valid_share, test=config.test_share)


def _described(part: Interactions, like: Interactions) -> Interactions:
    names = ("titles", "user_features", "item_features")
    return dataclasses.replace(part, **{name: getattr(like, name) for name in names})


def _arrange(config: Config, split: Split, rule: str) -> Source:
    dataset = data.dataset(split)
    if dataset.items <= K:
        raise InputError(f"{_origin(config)}: expected a catalog of more than {K} items, got {dataset.items}")
    for name, held in (("valid", dataset.valid), ("test", dataset.test)):
        if not len(held.user):
            raise InputError(f"{_origin(config)}: expected a user of the {name} part in train, got none")
    digest = hashlib.sha256()
    features = [part.values for part in (dataset.user_features, dataset.item_features) if part is not None]
    for array in (*dataset.log, dataset.train_end, dataset.valid_end, *features):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update("\0".join([*dataset.user_ids, *dataset.item_ids, *dataset.titles]).encode())
    return Source(dataset, rule, digest.hexdigest())


def _origin(config: Config) -> str:
    return str(Path(config.data or config.train or config.name))
