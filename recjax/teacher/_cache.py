"""A teacher's knowledge on disk: computed shard by shard, resumed where it stopped, refused to any other query table.

=================== ==================================================================================================
``knowledge.json``  what the knowledge is of, the rows of a shard, versions
``00000``, ...      one folder a shard: ``scores.npy``, float16, and for lists ``items.npy``, int32
=================== ==================================================================================================

A list takes 6 bytes an item, so a million queries with lists of 100 take 0.6 GB. Reading runs no code from the files.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from recjax.data import Dataset, Queries, open_arrays, write_arrays
from recjax.errors import InputError
from recjax.evaluate import Scorer, Scores, scored
from recjax.files import writable, write_json
from recjax.provenance import versions
from recjax.teacher._knowledge import Knowledge, check_fits, what_is_kept

FORMAT = 2
CELLS = 2**24  # scores of a shard
_CARD = "knowledge.json"
# Of what the knowledge is; the first part that differs is named. Ids come first: with other users all else differs too.
_PARTS = {
    "users": "the users, in their order",
    "items": "the items, in their order",
    "log": "the events",
    "queries": "the queries",
    "teacher": "the family and its configuration",
    "params": "the parameters",
    "kept": "what is kept",
}


def cached(
    folder: str | os.PathLike[str],
    scorer: Scorer | Scores,
    dataset: Dataset,
    queries: Queries,
    *,
    family: str,
    config: Mapping[str, Any],
    length: int | None = None,
    masked: bool = False,
    block: int = 128,
) -> Knowledge:
    """The knowledge of a teacher from a folder; shards that it lacks are computed and written first.

    One shard is in memory while they are computed. The code of a teacher isn't part of what a folder is checked for:
    change ``config`` with it.

    Args:
      folder: where the shards are; made if there is none.
      scorer: see :func:`recjax.teacher.knowledge`.
      dataset: see there.
      queries: see there.
      family: name of the teacher's family.
      config: size and other settings of the teacher, as JSON; all that identifies a plain function.
      length: see :func:`recjax.teacher.knowledge`.
      masked: see there.
      block: see there.

    Returns:
      The :class:`Knowledge` with NumPy arrays, the scores as float16; memory-mapped where there is one shard.

    Raises:
      ValueError: see :func:`recjax.teacher.knowledge`.
      InputError: if the folder has knowledge of something else, is damaged, has other files, or can't be written.

    Examples:
      >>> import tempfile
      >>> from recjax import data
      >>> log = data.Interactions(np.int32([0]), np.int32([0]), np.array(["a"]), np.array(["x", "y", "z"]))
      >>> dataset = data.dataset(data.Split(log, log.take(slice(0)), log.take(slice(0)), {}))
      >>> teacher = lambda batch: np.array([[2.0, 0.0, -2.0]])
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     found = cached(folder, teacher, dataset, dataset.last, family="mine", config={"version": 1}, length=2)
      ...     found.items.tolist(), found.scores.dtype.name
      ([[0, 1]], 'float16')
    """
    folder = Path(folder)
    keep = what_is_kept(dataset, queries, length=length, masked=masked, block=block)
    count, width = len(queries.user), dataset.items if length is None else length
    params = scorer.params if isinstance(scorer, Scorer) else ()
    parts = {
        "users": _texts_digest(dataset.user_ids),
        "items": _texts_digest(dataset.item_ids),
        "log": _digest(_little(array) for array in (dataset.log.offsets, dataset.log.items)),
        "queries": _digest(_little(column) for column in queries[:2]),
        "teacher": json.dumps({"family": family, "config": dict(config)}, sort_keys=True),
        "params": _params_digest(params),
        "kept": json.dumps({"length": length, "masked": masked}),
    }
    size = _shard_size(folder, parts, default=max(1, CELLS // width))
    found = []
    for number, start in enumerate(range(0, count, size)):
        place = folder / f"{number:05d}"
        part = Queries(*(column[start : start + size] for column in queries[:2]))
        if not place.exists():
            scores, items = scored(keep, scorer, dataset, part, block=block)
            with writable(place):
                write_arrays(place, [Knowledge(np.asarray(scores, np.float16), None if items is None else items)])
        found.append(_read(place, len(part.user), width, dataset.items, lists=length is not None))
    if len(found) == 1:
        return found[0]
    scores = np.concatenate([shard.scores for shard in found])
    return Knowledge(scores, None if length is None else np.concatenate([shard.items for shard in found]))


def _shard_size(folder: Path, parts: Mapping[str, str], *, default: int) -> int:
    """The queries of a shard, from the card of a folder that has knowledge of these parts, or of a new one."""
    card_path = folder / _CARD
    with writable(folder):
        if not card_path.exists():
            if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
                raise InputError(f"{folder}: expected a cache of knowledge or an empty folder, got something else")
            write_json({"format": FORMAT, "parts": parts, "shard": default, "versions": versions()}, card_path)
    with _blamed(card_path):
        card = json.loads(card_path.read_text(encoding="utf-8"))
        theirs, size = card["format"], card.get("shard")
        different = [name for name in _PARTS if card["parts"][name] != parts[name]] if theirs == FORMAT else []
        if theirs == FORMAT and (not isinstance(size, int) or size < 1):
            raise ValueError(f"a shard of {size} queries")
    if theirs != FORMAT:
        raise InputError(f"{card_path}: expected a cache of format {FORMAT}, got format {str(theirs)[:20]}")
    if different:
        name = different[0]
        wanted, got = (
            str(record[name])[: 80 if name in ("teacher", "kept") else 12] for record in (parts, card["parts"])
        )
        raise InputError(f"{folder}: expected knowledge of {_PARTS[name]} ({wanted}), got that of others ({got})")
    return size


def _read(place: Path, queries: int, width: int, items: int, *, lists: bool) -> Knowledge:
    shard = open_arrays(place, Knowledge)
    try:
        check_fits(shard, queries, items)
        if (shard.items is not None) != lists or shard.scores.shape[1] != width:
            raise ValueError(f"expected {'lists' if lists else 'scores'} of {width} items")
    except ValueError as error:
        raise InputError(f"{place}: expected a shard of this cache, got damaged or foreign content ({error})") from None
    return shard


def _little(array: Any) -> bytes:
    return np.asarray(array).astype("<i8").tobytes()


def _digest(parts: Iterable[bytes]) -> str:
    """SHA-256 of some bytes, each with its size before it, so that no two sequences run together alike."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _texts_digest(ids: np.ndarray) -> str:
    return _digest(str(raw).encode() for raw in ids.tolist())


def _params_digest(params: Any) -> str:
    leaves, structure = jax.tree.flatten(params)  # dicts by sorted keys

    def parts() -> Iterator[bytes]:
        yield from _nodes(structure)
        for leaf in leaves:
            array = np.asarray(leaf)
            yield f"{array.dtype.name}{list(array.shape)}".encode()
            yield array.tobytes()

    return _digest(parts())


def _nodes(structure: Any) -> Iterator[bytes]:
    """The kind of each node, its names and what is static in it. Not the structure's own text: JAX may change that."""
    node = structure.node_data()
    yield b"*" if node is None else f"{node[0].__name__}{node[1]!r}".encode()
    for child in structure.children():
        yield from _nodes(child)


@contextlib.contextmanager
def _blamed(path: Path) -> Iterator[None]:
    """Whatever is wrong with a card, in one line that names it."""
    expected = "the card of a cache"
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{path}: expected {expected}, got a file that can't be read ({reason})") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: row {error.lineno}: expected {expected}, got {error.msg}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        reason = f"no {reason}" if isinstance(error, KeyError) else reason or type(error).__name__
        raise InputError(f"{path}: expected {expected}, got damaged or foreign content ({reason})") from None
