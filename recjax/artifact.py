"""The deployed form of a recommender: a folder of plain files that answers with NumPy alone.

============================ =========================================================================
``model.json``               the card: kind, tables, bytes, metrics, where it came from, checksums
``weights.safetensors``      the tables, packed; **its size is what ``bytes`` means in every table of ours**
``vocabulary.json``          raw ids of users and items, titles
``seen.safetensors``         what each user already has
============================ =========================================================================

A table is stored as whole numbers packed to 8, 4, 3 or 2 bits with one float16 scale a row, or as floats; and, where
that is smaller, as a bitmap of its non-zero entries and those entries alone. Reading runs no code from the files.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from recjax.data import Seen
from recjax.errors import InputError

FORMAT = 1
KINDS = ("vectors", "history", "popularity")
_FILES = ("weights.safetensors", "vocabulary.json", "seen.safetensors")


class Packed(NamedTuple):
    """A quantized table at rest: ``steps * scale``, with the steps between ``-levels`` and ``levels``.

    Attributes:
      steps: ``[rows, dim]`` int8.
      scale: ``[rows, 1]`` float16.
      bits: 2, 3, 4 or 8.
    """

    steps: np.ndarray
    scale: np.ndarray
    bits: int

    def values(self) -> np.ndarray:
        """The table that this stands for, ``[rows, dim]`` float32."""
        return self.steps.astype(np.float32) * self.scale.astype(np.float32)


class Recommendation(NamedTuple):
    """One recommended item.

    Attributes:
      item: raw id.
      title: ``""`` where the catalogue has none.
      score: the model's; for an unknown user, how many users have the item.
    """

    item: str
    title: str
    score: float


def _pack_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """As :func:`recjax.quantize.pack_bits`, without JAX: ``[..., n]`` uint8 to ``[..., ceil(n * bits / 8)]``."""
    low = np.unpackbits(values[..., None], axis=-1, bitorder="little", count=bits)
    return np.packbits(low.reshape(*values.shape[:-1], -1), axis=-1, bitorder="little")


def _unpack_bits(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """As :func:`recjax.quantize.unpack_bits`, without JAX."""
    low = np.unpackbits(words, axis=-1, count=count * bits, bitorder="little")
    return np.packbits(low.reshape(*words.shape[:-1], count, bits), axis=-1, bitorder="little")[..., 0]


def _store(name: str, table: np.ndarray | Packed) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays that hold a table, in whichever of the two layouts is smaller, and what the card says of it."""
    values, bits, extra = (
        (table.steps, table.bits, {f"{name}.scale": table.scale})
        if isinstance(table, Packed)
        else (table, 8 * table.itemsize, {})
    )
    kept = values != 0
    sparse = bool(values.size + kept.sum() * bits < values.size * bits)
    entries = values[kept] if sparse else values
    if isinstance(table, Packed):
        arrays = {f"{name}.words": _pack_bits(np.ascontiguousarray(entries).view(np.uint8), bits)}
    else:
        arrays = {f"{name}.values": np.ascontiguousarray(entries)}
    if sparse:
        arrays[f"{name}.bitmap"] = np.packbits(kept, bitorder="little")
    arrays |= extra
    return arrays, {
        "shape": list(values.shape),
        "bits": bits,
        "packed": isinstance(table, Packed),
        "sparse": sparse,
        "non_zero": int(kept.sum()),
        "bytes": sum(array.nbytes for array in arrays.values()),
    }


def _restore(name: str, arrays: Mapping[str, np.ndarray], spec: Mapping[str, Any]) -> np.ndarray:
    rows, dim = spec["shape"]
    count = dim  # of one row; a sparse table is one long row
    if spec["sparse"]:
        kept = _unpack_bits(arrays[f"{name}.bitmap"], 1, rows * dim).astype(bool)
        count = int(kept.sum())
    if spec["packed"]:
        bits = spec["bits"]
        low = _unpack_bits(arrays[f"{name}.words"], bits, count)
        sign = np.uint8(1 << (bits - 1))
        entries = ((low ^ sign) - sign).view(np.int8)
    else:
        entries = arrays[f"{name}.values"].ravel()
    if spec["sparse"]:
        values = np.zeros(rows * dim, entries.dtype)
        values[kept] = entries
        entries = values
    values = entries.reshape(rows, dim).astype(np.float32)
    return values * arrays[f"{name}.scale"].astype(np.float32) if spec["packed"] else values


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Positions of the ``k`` largest scores of each row, the best first and the lower position first among equals.

    Args:
      scores: ``[rows, items]`` float.
      k: at most the number of items.

    Returns:
      ``[rows, k]`` int64.

    Examples:
      >>> import numpy as np
      >>> top_k(np.array([[1.0, 3.0, 2.0, 3.0, 2.0]]), 3).tolist()
      [[1, 3, 2]]
    """
    count = scores.shape[1]
    if k >= count:
        return np.argsort(-scores, axis=1, kind="stable")[:, :k]
    kth = np.partition(scores, count - k, axis=1)[:, count - k, None]
    # Everything above the k-th score is in; of those equal to it, the first ones fill what is left.
    above, tied = scores > kth, scores == kth
    chosen = above | (tied & (np.cumsum(tied, axis=1) <= k - above.sum(axis=1, keepdims=True)))
    ids = np.nonzero(chosen)[1].reshape(len(scores), k)
    order = np.argsort(-np.take_along_axis(scores, ids, 1), axis=1, kind="stable")
    return np.take_along_axis(ids, order, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Artifact:
    """A loaded recommender.

    Attributes:
      card: what ``model.json`` says.
      tables: the tables as float32; ``user`` and ``item`` for kind ``vectors``, ``item`` for ``history`` (EASE),
        ``item_bias`` for all that have one.
      user_ids: raw ids; the first ``card["known_users"]`` of them have a vector, the others have a history only.
      item_ids: raw ids.
      titles: one an item, ``""`` where unknown.
      seen: what each user has.

    Examples:
      >>> from recjax import artifact                                               # doctest: +SKIP
      >>> model = artifact.load("runs/ml-100k/artifact")                            # doctest: +SKIP
      >>> model.recommend("196", k=10)                                              # doctest: +SKIP
    """

    card: dict[str, Any]
    tables: dict[str, np.ndarray]
    user_ids: Sequence[str]
    item_ids: Sequence[str]
    titles: Sequence[str]
    seen: Seen

    def __post_init__(self) -> None:
        object.__setattr__(self, "_position", {raw: i for i, raw in enumerate(self.user_ids)})
        object.__setattr__(self, "_popularity", np.bincount(self.seen.items, minlength=len(self.item_ids)))

    def known(self, user: object) -> bool:
        """Whether a user has a vector of their own, or (kind ``history``) a history."""
        position = self._position.get(str(user))  # pyright: ignore[reportAttributeAccessIssue]
        return position is not None and position < self.card["known_users"]

    def scores(self, users: np.ndarray, history: Seen) -> np.ndarray:
        """Scores of the whole catalogue.

        Args:
          users: ``[users]`` positions of known users.
          history: whose lists a model of kind ``history`` reads; the others don't look at it.

        Returns:
          ``[users, items]`` float32.
        """
        if self.card["kind"] == "vectors":
            scores = self.tables["user"][users] @ self.tables["item"].T
        elif self.card["kind"] == "history":
            query = np.zeros((len(users), len(self.item_ids)), np.float32)
            query[history.lists(users)] = 1.0
            scores = query @ self.tables["item"].T
        else:
            scores = np.zeros((len(users), len(self.item_ids)), np.float32)
        bias = self.tables.get("item_bias")
        return scores if bias is None else scores + bias[:, 0]

    def top_k(self, users: np.ndarray, *, k: int, history: Seen, exclude: Seen | None) -> tuple[np.ndarray, np.ndarray]:
        """The best items of some known users, by position.

        Args:
          users: ``[users]`` positions.
          k: how many, at most the catalogue.
          history: see :meth:`scores`.
          exclude: what is left out of each list; None leaves nothing out.

        Returns:
          Positions ``[users, k]`` and scores ``[users, k]``; a left-out item, where fewer than ``k`` remain, has
          score minus infinity.
        """
        scores = self.scores(users, history)
        if exclude is not None:
            scores[exclude.lists(users)] = -np.inf
        items = top_k(scores, k)
        return items, np.take_along_axis(scores, items, 1)

    def recommend(self, user: object, *, k: int = 10, include_seen: bool = False) -> list[Recommendation]:
        """The best items of one user.

        Args:
          user: raw id, as text or as anything whose ``str`` is the raw id.
          k: how many items.
          include_seen: whether items that the user already has may come too.

        Returns:
          At most ``k`` items, the best first. For a user without a vector (:meth:`known` is False), the items that
          most users have.

        Raises:
          InputError: if ``k`` is below 1 or above the size of the catalogue.
        """
        if not 1 <= k <= len(self.item_ids):
            raise InputError(f"k: found {k}, expected 1 to {len(self.item_ids)}, the size of the catalogue")
        position = self._position.get(str(user))  # pyright: ignore[reportAttributeAccessIssue]
        exclude = None if include_seen or position is None else self.seen
        if self.known(user):
            items, scores = self.top_k(np.array([position]), k=k, history=self.seen, exclude=exclude)
        else:
            popularity = self._popularity[None].astype(np.float32)  # pyright: ignore[reportAttributeAccessIssue]
            if exclude is not None:
                popularity[exclude.lists(np.array([position]))] = -np.inf
            items = top_k(popularity, k)
            scores = np.take_along_axis(popularity, items, 1)
        return [
            Recommendation(self.item_ids[item], self.titles[item], float(score))
            for item, score in zip(items[0], scores[0], strict=True)
            if score > -np.inf
        ]


def save_tables(path: Path, tables: Mapping[str, np.ndarray | Packed]) -> dict[str, dict[str, Any]]:
    """Writes ``weights.safetensors``.

    Args:
      path: the file.
      tables: float arrays or :class:`Packed`, ``[rows, dim]`` each.

    Returns:
      How each table is stored, which :func:`load_tables` needs: ``shape``, ``bits``, ``packed``, ``sparse``,
      ``non_zero`` and ``bytes``.
    """
    stored = {name: _store(name, table) for name, table in tables.items()}
    safetensors.save_file({key: array for parts, _ in stored.values() for key, array in parts.items()}, path)
    return {name: spec for name, (_, spec) in stored.items()}


def load_tables(content: bytes, specs: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Reads what :func:`save_tables` wrote: ``{name: [rows, dim] float32}``."""
    arrays = safetensors.load(content)
    return {name: _restore(name, arrays, spec) for name, spec in specs.items()}


def save(
    folder: str | Path,
    tables: Mapping[str, np.ndarray | Packed],
    *,
    kind: str,
    user_ids: Sequence[str],
    item_ids: Sequence[str],
    titles: Sequence[str],
    seen: Seen,
    known_users: int,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes an artifact, whole or not at all.

    Args:
      folder: where; replaced if it is there.
      tables: float arrays or :class:`Packed`, ``[rows, dim]`` each.
      kind: ``vectors``, ``history`` or ``popularity``.
      user_ids: raw ids.
      item_ids: raw ids.
      titles: one an item.
      seen: what each of ``user_ids`` has.
      known_users: how many of the first ``user_ids`` the model knows.
      about: what else the card should say (data, metrics, versions).

    Returns:
      The card.
    """
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    specs = save_tables(partial / "weights.safetensors", tables)
    vocabulary = {"users": list(user_ids), "items": list(item_ids), "titles": list(titles)}
    (partial / "vocabulary.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    index = {"offsets": np.asarray(seen.offsets, np.int64), "items": np.asarray(seen.items, np.int32)}
    safetensors.save_file(index, partial / "seen.safetensors")
    card = {
        "format": FORMAT,
        "kind": kind,
        "users": len(user_ids),
        "known_users": known_users,
        "items": len(item_ids),
        "bytes": (partial / "weights.safetensors").stat().st_size,
        "folder_bytes": sum((partial / name).stat().st_size for name in _FILES),
        "tables": specs,
        **about,
        "sha256": {name: hashlib.sha256((partial / name).read_bytes()).hexdigest() for name in _FILES},
    }
    (partial / "model.json").write_text(json.dumps(card, indent=2), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    return card


def load(folder: str | Path) -> Artifact:
    """Reads an artifact and checks it.

    Args:
      folder: what :func:`save` wrote.

    Returns:
      The :class:`Artifact`.

    Raises:
      InputError: if a file is missing, damaged or foreign; the message names it.
    """
    folder = Path(folder)
    path = folder / "model.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read ({type(error).__name__}), expected an artifact's card") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: row {error.lineno}: found {error.msg}, expected an artifact's card") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT or card.get("kind") not in KINDS:
        raise InputError(f"{path}: found no recjax artifact of format {FORMAT}, expected one written by recjax run")
    content = {}
    for name in _FILES:
        try:
            content[name] = (folder / name).read_bytes()
        except OSError as error:
            raise InputError(f"{folder / name}: can't be read ({type(error).__name__}), expected a file") from None
        found = hashlib.sha256(content[name]).hexdigest()
        if found != card.get("sha256", {}).get(name):
            raise InputError(f"{folder / name}: found sha256 {found[:12]}..., expected the one in {path}")
    try:
        tables = load_tables(content["weights.safetensors"], card["tables"])
        index = safetensors.load(content["seen.safetensors"])
        vocabulary = json.loads(content["vocabulary.json"])
        model = Artifact(card, tables, vocabulary["users"], vocabulary["items"], vocabulary["titles"], Seen(**index))
        _check(model)
    except (SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder}: found files that don't fit each other ({reason}), expected an artifact") from None
    return model


def _check(model: Artifact) -> None:
    """Shapes and positions, so that a wrong file fails here and not inside an answer."""
    users, items, offsets = len(model.user_ids), len(model.item_ids), model.seen.offsets
    rows = {"user": model.card["known_users"], "item": items, "item_bias": items}
    for name, table in model.tables.items():
        if table.shape[0] != rows[name] or not np.isfinite(table).all():
            raise ValueError(f"table {name} has shape {table.shape} or holds no numbers")
    if "user" in model.tables and model.tables["user"].shape[1] != model.tables["item"].shape[1]:
        raise ValueError("users and items differ in dim")
    if len(model.titles) != items or model.card["known_users"] > users:
        raise ValueError("ids and titles differ in number")
    inside = not len(model.seen.items) or (model.seen.items.min() >= 0 and model.seen.items.max() < items)
    if len(offsets) != users + 1 or offsets[-1] != len(model.seen.items) or (np.diff(offsets) < 0).any() or not inside:
        raise ValueError("the seen items don't fit the vocabulary")


def predicted_bytes(shapes: Mapping[str, tuple[int, int]], *, bits: int, sparsity: float) -> int:
    """The size of ``weights.safetensors`` for tables that are pruned and packed, before they are trained.

    Args:
      shapes: rows and dim of each packed table; the item bias, stored as float16, is counted from ``item``.
      bits: 2, 3, 4 or 8.
      sparsity: share of zeros.

    Returns:
      Bytes, the header's included, to within a few dozen.

    Examples:
      >>> predicted_bytes({"user": (1000, 32), "item": (2000, 32)}, bits=4, sparsity=0.0)
      58500
    """
    header = 500
    total = header + 2 * shapes["item"][0]
    for rows, dim in shapes.values():
        kept = max(1, round(rows * dim * (1 - sparsity)))
        total += min(math.ceil(rows * dim * bits / 8), math.ceil((rows * dim + kept * bits) / 8)) + 2 * rows
    return total
