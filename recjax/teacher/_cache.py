"""Knowledge on disk, and whose it is: a folder that appears whole, and is refused to anybody else.

========================== ==============================================================
``knowledge.json``         whose knowledge this is, shapes, versions, a checksum
``knowledge.safetensors``  ``scores`` and, for lists, ``items``
========================== ==============================================================

Reading runs no code from the files.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from recjax.data import Interactions, Seen
from recjax.errors import InputError
from recjax.files import whole_folder, writable
from recjax.provenance import versions
from recjax.teacher._knowledge import Knowledge, check_fits, check_question

FORMAT = 1
_CARD, _ARRAYS = "knowledge.json", "knowledge.safetensors"


@dataclasses.dataclass(frozen=True)
class IdDigest:
    """What is remembered of a vocabulary: enough to tell other ids from the same ones in another order.

    Attributes:
      count: how many ids.
      ordered: SHA-256 of the raw ids in their order.
      unordered: SHA-256 of the raw ids sorted.
    """

    count: int
    ordered: str
    unordered: str


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Whose knowledge something is: equal fingerprints, equal answers.

    Attributes:
      teacher: SHA-256 of the parameters: names, shapes, dtypes and bytes.
      users: the users that have a row, by raw id.
      items: the catalogue, by raw id.
      histories: SHA-256 of what each user has.
      interactions: how many pairs of a user and an item those are.
      length: the length of the lists; None for the whole catalogue.
      masked: whether lists leave out what the user has.
    """

    teacher: str
    users: IdDigest
    items: IdDigest
    histories: str
    interactions: int
    length: int | None
    masked: bool


def fingerprint(
    params: Any, log: Interactions, histories: Seen, *, length: int | None = None, masked: bool = False
) -> Fingerprint:
    """Whose answer :func:`recjax.teacher.knowledge` is, when asked with these arguments.

    The code of the teacher isn't part of it: two models of one set of parameter names and shapes that compute something
    else from them need folders of their own.

    Args:
      params: the teacher's parameters, any pytree of arrays, NumPy's or JAX's alike.
      log: whose ``user_ids`` and ``item_ids`` the positions are of; its rows don't count.
      histories: what each user has, as it is given to the teacher; it may end before the log's users do.
      length: as given to ``knowledge``.
      masked: as given to ``knowledge``.

    Returns:
      The :class:`Fingerprint`.

    Raises:
      ValueError: if ``histories`` has more users than the log, or ``length`` and ``masked`` can't be.

    Examples:
      >>> import numpy as np
      >>> log = Interactions(np.int32([0]), np.int32([1]), np.array(["ann", "bob"]), np.array(["x", "y"]))
      >>> histories = Seen(np.array([0, 1, 1]), np.array([1]))
      >>> one = fingerprint({"tables": {"item": np.ones((2, 4))}}, log, histories, length=2)
      >>> one.users.count, one.interactions, one == fingerprint({"tables": {}}, log, histories, length=2)
      (2, 1, False)
    """
    check_question(log.items, length, masked)
    offsets = histories.offsets
    users, owned = len(offsets) - 1, histories.items[: int(offsets[-1])]
    if users > log.users:
        raise ValueError(f"histories: expected at most the log's {log.users} users, got {users}")
    return Fingerprint(
        teacher=_params_digest(params),
        users=_id_digest(log.user_ids[:users]),
        items=_id_digest(log.item_ids),
        histories=_digest(np.asarray(array).astype("<i8").tobytes() for array in (offsets, owned)),
        interactions=len(owned),
        length=length,
        masked=masked,
    )


def _digest(parts: Iterable[bytes]) -> str:
    """SHA-256 of some bytes, each with its size before it, so that no two sequences run together alike."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _id_digest(ids: np.ndarray) -> IdDigest:
    raw = [str(raw).encode() for raw in ids.tolist()]
    return IdDigest(len(raw), _digest(raw), _digest(sorted(raw)))


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


def save(folder: str | os.PathLike[str], knowledge: Knowledge, fingerprint: Fingerprint) -> None:
    """Writes knowledge and whose it is, whole or not at all.

    Args:
      folder: where; knowledge that is there is replaced.
      knowledge: what :func:`recjax.teacher.knowledge` gave.
      fingerprint: of the same question, see :func:`fingerprint`.

    Raises:
      ValueError: if the knowledge isn't of as many users, items and list places as the fingerprint.
      InputError: if something else than knowledge is there, or it can't be written.
    """
    _check(knowledge, fingerprint)
    folder = Path(folder)
    names = ("scores",) if knowledge.items is None else Knowledge._fields
    arrays = {name: np.asarray(array) for name, array in zip(names, knowledge, strict=False)}
    content = safetensors.save(arrays)
    card = {
        "format": FORMAT,
        "fingerprint": dataclasses.asdict(fingerprint),
        "shapes": {name: list(array.shape) for name, array in arrays.items()},
        "sha256": hashlib.sha256(content).hexdigest(),
        "versions": versions(),
    }
    with writable(folder), whole_folder(folder, kind="a cache", card=_CARD) as partial:
        (partial / _ARRAYS).write_bytes(content)
        (partial / _CARD).write_text(json.dumps(card, indent=2), encoding="utf-8")


def load(folder: str | os.PathLike[str], fingerprint: Fingerprint) -> Knowledge:
    """Reads knowledge back, if it is the answer to this question.

    Args:
      folder: what :func:`save` wrote.
      fingerprint: of who asks, see :func:`fingerprint`.

    Returns:
      The :class:`Knowledge`, bit for bit what was saved.

    Raises:
      InputError: if there is none, it is damaged, or it belongs to another teacher, split or question, or to other
        users or items or to these in another order; one line names the folder and which it is.

    Examples:
      >>> import pathlib, tempfile
      >>> import jax.numpy as jnp, numpy as np
      >>> log = Interactions(np.int32([0]), np.int32([1]), np.array(["ann", "bob"]), np.array(["x", "y"]))
      >>> histories, table = Seen(np.array([0, 1, 1]), np.array([1])), np.ones((2, 4))
      >>> mine, other = (fingerprint({"item": values}, log, histories) for values in (table, 2 * table))
      >>> with tempfile.TemporaryDirectory() as path:
      ...     folder = pathlib.Path(path, "knowledge")
      ...     save(folder, Knowledge(jnp.ones((2, 2)), None), mine)
      ...     found = load(folder, mine)
      ...     try:
      ...         load(folder, other)
      ...     except InputError as error:
      ...         reason = str(error).removeprefix(f"{folder}: ").partition(" (")[0]
      >>> found.scores.tolist(), reason
      ([[1.0, 1.0], [1.0, 1.0]], 'found a cache that belongs to another teacher')
    """
    folder = Path(folder)
    card_path, arrays_path = folder / _CARD, folder / _ARRAYS
    with _blamed(card_path, "the card of a cache"):
        card = json.loads(card_path.read_text(encoding="utf-8"))
        found, expected = card["format"], FORMAT
        difference = _difference(card["fingerprint"], fingerprint) if found == expected else None
    if found != expected:
        raise InputError(f"{card_path}: found a cache of format {str(found)[:20]}, expected format {expected}")
    if difference is not None:
        raise InputError(f"{folder}: found a cache that belongs to {difference}")
    with _blamed(arrays_path, f"what {_CARD} describes"):
        content = arrays_path.read_bytes()
        if hashlib.sha256(content).hexdigest() != card["sha256"]:
            raise ValueError(f"other bytes than the ones {_CARD} was written for")
        arrays: dict[str, Any] = safetensors.load(content)
        knowledge = Knowledge(arrays["scores"], arrays.get("items"))
        _check(knowledge, fingerprint)
    return jax.tree.map(jnp.asarray, knowledge)


def _check(knowledge: Knowledge, fingerprint: Fingerprint) -> None:
    """Raises ``ValueError`` for another form of answer than the fingerprint's question has."""
    check_fits(knowledge, fingerprint.users.count, fingerprint.items.count)
    length = None if knowledge.items is None else knowledge.items.shape[1]
    if length != fingerprint.length:
        raise ValueError(f"items: expected lists of length {fingerprint.length}, got {length}")


def _difference(found: Mapping[str, Any], fingerprint: Fingerprint) -> str | None:
    """The first part that differs, with what was expected; None if none does.

    Ids come first: in another order of the users everything else differs too.
    """
    expected = dataclasses.asdict(fingerprint)
    for name in ("users", "items"):
        theirs, ours = found[name], expected[name]
        if theirs["unordered"] != ours["unordered"]:
            return f"other {name} ({theirs['count']:,} raw ids), expected the log's ({ours['count']:,} raw ids)"
        if theirs["ordered"] != ours["ordered"]:
            return f"{name} in another order, expected the log's {ours['count']:,} {name} in the log's order"
    if found["histories"] != expected["histories"]:
        return (
            f"another split ({found['interactions']:,} interactions), expected the histories of this one "
            f"({expected['interactions']:,})"
        )
    if found["teacher"] != expected["teacher"]:
        return f"another teacher (sha256 {found['teacher'][:12]}...), expected sha256 {expected['teacher'][:12]}..."
    asked, wanted = (_question(part["length"], part["masked"]) for part in (found, expected))
    return None if asked == wanted else f"another question ({asked}), expected {wanted}"


def _question(length: int | None, masked: bool) -> str:
    if length is None:
        return "scores of the whole catalogue"
    return f"lists of {length} items, the user's own {'left out' if masked else 'among them'}"


@contextlib.contextmanager
def _blamed(path: Path, expected: str) -> Iterator[None]:
    """Whatever is wrong with a file, in one line that names it."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: found no such file, expected {expected}") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{path}: found a file that can't be read ({reason}), expected {expected}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: row {error.lineno}: found {error.msg}, expected {expected}") from None
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        reason = f"no {reason}" if isinstance(error, KeyError) else reason or type(error).__name__
        raise InputError(f"{path}: found damaged or foreign content ({reason}), expected {expected}") from None
