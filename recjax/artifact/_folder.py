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

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from recjax.data import Seen
from recjax.errors import InputError
from recjax.files import whole_folder

FORMAT = 1
KINDS = {"vectors": {"user", "item"}, "history": {"item"}, "popularity": set()}  # and the tables each can't do without
PACKED_BITS = (2, 3, 4, 8)
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


def _dense_bytes(rows: int, dim: int, bits: int) -> int:
    """Every row begins at a byte of its own."""
    return rows * -(-dim * bits // 8)


def _sparse_bytes(size: int, kept: int, bits: int) -> int:
    return -(-size // 8) + -(-kept * bits // 8)


def _store(name: str, table: np.ndarray | Packed) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays that hold a table, in whichever of the two layouts is smaller, and what the card says of it."""
    values, bits, extra = (
        (table.steps, table.bits, {f"{name}.scale": table.scale})
        if isinstance(table, Packed)
        else (table, 8 * table.itemsize, {})
    )
    kept = values != 0
    rows, dim = values.shape
    sparse = _sparse_bytes(rows * dim, int(kept.sum()), bits) < _dense_bytes(rows, dim, bits)
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


def _part(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array that is as large as it must be: one that is too short would be read as if zeros followed."""
    array = arrays[name]
    if array.shape != shape or array.dtype != dtype:
        found = f"{array.dtype} {list(array.shape)}"
        raise ValueError(f"{name}: {found} instead of {np.dtype(dtype)} {list(shape)}")
    return array


def _restore(name: str, arrays: Mapping[str, np.ndarray], spec: Mapping[str, Any]) -> np.ndarray:
    (rows, dim), bits = spec["shape"], spec["bits"]
    kept, shape = None, (rows, dim)
    if spec["sparse"]:  # one long row of the entries that aren't zero
        bitmap = _part(arrays, f"{name}.bitmap", (-(-rows * dim // 8),), np.uint8)
        kept = _unpack_bits(bitmap, 1, rows * dim).astype(bool)
        shape = (int(kept.sum()),)
    if spec["packed"]:
        if bits not in PACKED_BITS:
            raise ValueError(f"{name}: {bits} bits instead of one of {PACKED_BITS}")
        words = _part(arrays, f"{name}.words", (*shape[:-1], -(-shape[-1] * bits // 8)), np.uint8)
        low = _unpack_bits(words, bits, shape[-1])
        sign = np.uint8(1 << (bits - 1))
        entries = ((low ^ sign) - sign).view(np.int8)
    else:
        entries = _part(arrays, f"{name}.values", shape, np.dtype(f"f{bits // 8}"))
    if kept is not None:
        values = np.zeros(rows * dim, entries.dtype)
        values[kept] = entries
        entries = values
    values = entries.reshape(rows, dim).astype(np.float32)
    if not spec["packed"]:
        return values
    return values * _part(arrays, f"{name}.scale", (rows, 1), np.float16).astype(np.float32)


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
            Recommendation(self.item_ids[item], self.titles[item], score)
            for item, score in zip(map(int, items[0]), map(float, scores[0]), strict=True)
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
    arrays = {key: array for parts, _ in stored.values() for key, array in parts.items()}
    path.write_bytes(safetensors.save(arrays))  # not save_file, whose files nobody else may read
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
      folder: where; an artifact that is there is replaced.
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

    Raises:
      InputError: if something else than an artifact is there.
    """
    folder = Path(folder)
    with whole_folder(folder, kind="an artifact", card="model.json") as partial:
        specs = save_tables(partial / "weights.safetensors", tables)
        vocabulary = {"users": list(user_ids), "items": list(item_ids), "titles": list(titles)}
        (partial / "vocabulary.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        index = {"offsets": np.asarray(seen.offsets, np.int64), "items": np.asarray(seen.items, np.int32)}
        (partial / "seen.safetensors").write_bytes(safetensors.save(index))
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
    with _blamed(path, "an artifact's card"):
        card = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(card, dict) or card.get("format") != FORMAT or card.get("kind") not in list(KINDS):
        raise InputError(f"{path}: found no recjax artifact of format {FORMAT}, expected one written by recjax run")
    with _blamed(path, "an artifact's card"):
        _check_card(card)
    content = {}
    for name in _FILES:
        with _blamed(folder / name, "a file of the artifact"):
            content[name] = (folder / name).read_bytes()
        found = hashlib.sha256(content[name]).hexdigest()
        if found != card["sha256"].get(name):
            raise InputError(f"{folder / name}: found sha256 {found[:12]}..., expected the one in {path}")
    with _blamed(folder / "vocabulary.json", "what model.json describes"):
        vocabulary = json.loads(content["vocabulary.json"])
        users, items, titles = (vocabulary[name] for name in ("users", "items", "titles"))
        _check_vocabulary(card, users, items, titles)
    with _blamed(folder / "seen.safetensors", "what model.json describes"):
        index = Seen(**safetensors.load(content["seen.safetensors"]))
        _check_seen(card, index)
    with _blamed(folder / "weights.safetensors", "what model.json describes"):
        tables = load_tables(content["weights.safetensors"], card["tables"])
        _check_tables(card, tables)
    return Artifact(card, tables, users, items, titles, index)


@contextlib.contextmanager
def _blamed(path: Path, expected: str) -> Iterator[None]:
    """Whatever is wrong with a file, in one line that names it."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: can't be read ({error.strerror or type(error).__name__}), expected {expected}"
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: row {error.lineno}: found {error.msg}, expected {expected}") from None
    except (SafetensorError, KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        reason = f"no {reason}" if isinstance(error, KeyError) else reason or type(error).__name__
        raise InputError(f"{path}: found damaged or foreign content ({reason}), expected {expected}") from None


def _check_card(card: Mapping[str, Any]) -> None:
    """The numbers and names in a card."""
    for name in ("users", "known_users", "items"):
        if type(card[name]) is not int or card[name] < 0:
            raise ValueError(f"{name}: {card[name]!r} instead of a whole number")
    if card["known_users"] > card["users"]:
        raise ValueError(f"known_users: {card['known_users']} of {card['users']} users")
    for name in ("tables", "sha256"):
        if not isinstance(card[name], dict):
            raise TypeError(f"{name}: {card[name]!r} instead of an object")
    if not KINDS[card["kind"]] <= set(card["tables"]) <= {"user", "item", "item_bias"}:
        raise ValueError(f"tables: {sorted(card['tables'])} don't suit kind {card['kind']}")


def _check_vocabulary(card: Mapping[str, Any], users: Any, items: Any, titles: Any) -> None:
    """As many ids and titles as the card says, all text."""
    for name, found, count in (("users", users, "users"), ("items", items, "items"), ("titles", titles, "items")):
        if not isinstance(found, list) or len(found) != card[count] or not all(isinstance(raw, str) for raw in found):
            raise ValueError(f"{name}: something else than {card[count]} texts")


def _check_seen(card: Mapping[str, Any], index: Seen) -> None:
    """Positions inside the vocabulary, so that a wrong file fails here and not inside an answer."""
    offsets, items = index
    if offsets.dtype != np.int64 or offsets.shape != (card["users"] + 1,) or items.dtype != np.int32 or items.ndim != 1:
        raise ValueError(f"offsets {offsets.dtype} {list(offsets.shape)}, items {items.dtype} {list(items.shape)}")
    if offsets[0] != 0 or offsets[-1] != len(items) or (np.diff(offsets) < 0).any():
        raise ValueError("offsets don't fit the items")
    if len(items) and (items.min() < 0 or items.max() >= card["items"]):
        raise ValueError(f"positions {items.min()} to {items.max()} of {card['items']} items")


def _check_tables(card: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
    """Shapes that fit each other, numbers that are finite."""
    dim = tables["item"].shape[1] if "item" in tables else 0
    expected = {
        "user": (card["known_users"], dim),
        "item": (card["items"], card["items"] if card["kind"] == "history" else dim),
        "item_bias": (card["items"], 1),
    }
    for name, table in tables.items():
        if table.shape != expected[name]:
            raise ValueError(f"table {name} has shape {list(table.shape)} instead of {list(expected[name])}")
        if not np.isfinite(table).all():
            raise ValueError(f"table {name} holds numbers that aren't finite")


def predicted_bytes(shapes: Mapping[str, tuple[int, int]], *, bits: int, sparsity: float) -> int:
    """The size of ``weights.safetensors`` for tables that are pruned and packed, before they are trained.

    Args:
      shapes: rows and dim of each packed table; the item bias, stored as float16, is counted from ``item``.
      bits: 2, 3, 4 or 8.
      sparsity: share of zeros.

    Returns:
      Bytes, the header's included; the file has at most 200 fewer, and never more.

    Examples:
      >>> predicted_bytes({"user": (1000, 32), "item": (2000, 32)}, bits=4, sparsity=0.0)
      58441
    """
    an_entry = 85  # of the header, at most
    total = 16 + an_entry + 2 * shapes["item"][0]
    for rows, dim in shapes.values():
        kept = max(1, round(rows * dim * (1 - sparsity)))
        dense, sparse = _dense_bytes(rows, dim, bits), _sparse_bytes(rows * dim, kept, bits)
        total += min(dense, sparse) + 2 * rows + (2 + (sparse < dense)) * an_entry
    return total
