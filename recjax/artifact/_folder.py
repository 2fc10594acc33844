"""The deployed form of a recommender: a folder of plain files, memory-mapped and read with NumPy alone.

======================= =================================================================================
``model.json``          the card: kind, sizes, metrics, where the model comes from
``weights.safetensors`` the tables, as :func:`recjax.artifact.save_params` stores them; its size is what
                        ``bytes`` means in every report
``ids.safetensors``     raw ids of users and items with their sorted hashes, titles
``seen.safetensors``    what each user has, and in what order where the model reads it; how many users have each item
======================= =================================================================================

docs/artifact.md specifies the files. Reading runs no code from them.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recjax.artifact import _format1, _sequence
from recjax.artifact._file import blamed, checksums, compare_checksums, map_arrays
from recjax.artifact._ids import Events, Ids, Lists, Texts, UserItems, as_sets
from recjax.artifact._kinds import KINDS, SUM_KINDS
from recjax.artifact._model import Artifact
from recjax.artifact._tables import as_table, open_params, stored_bytes
from recjax.errors import InputError
from recjax.files import atomic_folder

FORMAT = 2
_FILES = ("weights.safetensors", "ids.safetensors", "seen.safetensors")


def build(
    params: Mapping[str, Any],
    *,
    kind: str,
    user_ids: Iterable[str],
    item_ids: Iterable[str],
    titles: Iterable[str],
    seen: Events,
    known_users: np.ndarray | None = None,
    history_exponent: float = 0.0,
    net: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Artifact:
    """A recommender in memory; arguments as of :func:`save`, but for tables that NumPy reads.

    Args:
      params: float arrays or tables of :func:`open_params`, ``[rows, dim]`` each.
      kind: as of :func:`save`.
      user_ids: as of :func:`save`.
      item_ids: as of :func:`save`.
      titles: as of :func:`save`.
      seen: as of :func:`save`.
      known_users: as of :func:`save`.
      history_exponent: as of :func:`save`.
      net: as of :func:`save`.
      about: as of :func:`save`.

    Returns:
      The :class:`Artifact`.

    Raises:
      ValueError: if tables don't suit the kind or sizes don't fit.
    """
    if known_users is not None:
        known_users = np.asarray(known_users)
        known_users = np.flatnonzero(known_users) if known_users.dtype == bool else np.unique(known_users)
    users, items = (ids if isinstance(ids, Ids) else Ids.of(ids) for ids in (user_ids, item_ids))
    names = titles if isinstance(titles, Texts) else Texts.of(titles)
    card = {"kind": kind, **(about or {})}
    if kind in SUM_KINDS:
        card["history_exponent"] = history_exponent
    if kind == "sequence":
        if net is None:
            raise ValueError("net: expected the architecture and sizes for kind sequence, got none")
        card["net"] = dict(net)
    _check_events("seen", seen, len(users))
    events, recent = np.asarray(seen.items), None
    if events.size and not 0 <= events.min() <= events.max() < len(items):
        raise ValueError(f"seen: expected positions below {len(items)}, got {events.min()} to {events.max()}")
    sets = as_sets(np.repeat(np.arange(len(users)), np.diff(seen.offsets)), events, len(users))
    if kind == "sequence":
        recent = _sequence.latest(seen, card["net"]["length"])
    counts = np.bincount(sets.items, minlength=len(items))
    return _checked(card, params, users, items, names, sets, counts, recent, known_users)


def _check_events(name: str, events: Events, users: int) -> None:
    offsets, items = events.offsets, events.items
    if offsets.shape != (users + 1,) or offsets.dtype.kind != "i" or items.ndim != 1 or items.dtype.kind != "i":
        raise ValueError(f"{name}: expected {users + 1} offsets, got {offsets.dtype} {list(offsets.shape)}")
    if offsets[0] != 0 or offsets[-1] != len(items):
        raise ValueError(f"{name}: expected offsets from 0 to {len(items)}, got {offsets[0]} to {offsets[-1]}")


def _checked(
    card: dict[str, Any],
    params: Mapping[str, Any],
    user_ids: Ids,
    item_ids: Ids,
    titles: Texts,
    seen: Lists,
    popularity: np.ndarray,
    recent: Lists | None,
    known_users: np.ndarray | None,
) -> Artifact:
    """An :class:`Artifact` whose parts fit each other."""
    needed, optional = KINDS[card["kind"]]
    tables = {name: as_table(params[name]) for name in params}
    of_net = _sequence.shapes(card["net"], tables) if card["kind"] == "sequence" and "item" in tables else {}
    needed = needed | set(of_net)
    if not needed <= set(tables) <= needed | optional:
        names = f"{sorted(needed)} and perhaps {sorted(optional)}" if optional else f"{sorted(needed)}"
        raise ValueError(f"tables: expected {names} for kind {card['kind']}, got {sorted(params)!r:.80}")
    for name in ("history_exponent", "ridge"):
        if name in card and (type(card[name]) not in (int, float) or not 0 <= card[name] < np.inf):
            raise ValueError(f"{name}: expected a number of at least 0, got {card[name]!r:.20}")
    users, items = len(user_ids), len(item_ids)
    dim = tables["item"].shape[1] if "item" in tables else 0
    known = users if known_users is None else len(known_users)
    shapes = {
        "user": (known, dim),
        "item": (items, dim),
        "query": (items, dim),
        "item_item": (items, items),
        "item_bias": (items, 1),
        "scale": (1, 1),
        **{name: shape if len(shape) == 2 else (*shape, 1) for name, shape in of_net.items()},
    }
    for name, table in tables.items():
        if table.shape != shapes[name]:
            raise ValueError(f"table {name}: expected shape {list(shapes[name])}, got {list(table.shape)}")
    if len(titles) != items:
        raise ValueError(f"titles: expected {items}, got {len(titles)}")
    if known_users is not None and (known_users.dtype != np.int64 or (known and not known_users[-1] < users)):
        raise ValueError(f"known_users: expected positions below {users}")
    _check_events("seen", seen, users)
    if recent is not None:
        _check_events("recent", recent, users)
    if popularity.shape != (items,) or popularity.dtype.kind != "i":
        raise ValueError(f"popularity: expected {items} counts, got {popularity.dtype} {list(popularity.shape)}")
    return Artifact(card, tables, user_ids, item_ids, titles, seen, popularity, recent, known_users)


def save(
    folder: str | Path,
    params: Any,
    *,
    kind: str,
    user_ids: Iterable[str],
    item_ids: Iterable[str],
    titles: Iterable[str],
    seen: Events,
    known_users: np.ndarray | None = None,
    history_exponent: float = 0.0,
    net: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    r"""Writes an artifact atomically.

    The score of item :math:`i` for user :math:`u` with history :math:`H`, scale :math:`c` (1 if absent) and bias
    :math:`b` (0 if absent), by kind:

    .. math::
        \text{vectors: } x_u \cdot y_i + b_i, \qquad
        \text{factors: } \frac{c}{|H|^p} \sum_{j \in H, j \ne i} q_j \cdot y_i + b_i, \qquad
        \text{item\_item: } \frac{c}{|H|^p} \sum_{j \in H} B_{ji} + b_i, \qquad
        \text{popularity: } b_i, \qquad
        \text{sequence: } f(h_1, \dots, h_n) \cdot y_i

    Args:
      folder: where; an artifact that is there is replaced.
      params: arrays and records ``[rows, dim]`` as :func:`save_params` stores them, by name. Kind ``vectors``: ``user``
        :math:`x` and ``item`` :math:`y`; ``factors``: ``item`` and perhaps ``query`` :math:`q`, which is ``item`` if
        absent; ``item_item``: ``item_item`` :math:`B`, whose row j is what history item j adds to the score of each
        item; ``popularity``: ``item_bias``; ``sequence``: ``item`` and every parameter of the net :math:`f` by its path
        in :mod:`recjax.models`, such as ``query_0/kernel``. All but the last may have ``item_bias`` ``[items]`` or
        ``[items, 1]``; ``factors`` and ``item_item`` may have ``scale``, one number.
      kind: one of the five.
      user_ids: raw ids in the order of positions, each once.
      item_ids: raw ids in the order of positions, each once.
      titles: one an item.
      seen: the events of each of ``user_ids``, oldest first: their history, and what is left out of their lists. Kind
        ``sequence`` keeps the latest ones in order with their repeats, all others a set.
      known_users: ``[users]`` bool or ``[known]`` positions of the users that have a row in table ``user``, where the
        r-th row is that of the r-th known user. None for all.
      history_exponent: :math:`p`; 0 is the sum of a history, .5 as in ELSA, 1 its mean.
      net: of kind ``sequence``, the ``architecture`` (``sasrec``, ``bsarec``, ``gru4rec`` or ``hstu``) and its sizes
        under the names of their settings in :mod:`recjax.models`: ``length``, ``blocks``, ``heads`` and so on.
      about: what else the card should say (data, metrics, versions).

    Returns:
      The card.

    Raises:
      InputError: if something else than an artifact is there.
      ValueError: if tables don't suit the kind or sizes don't fit.
      TypeError: if :func:`save_params` can't store ``params``.
    """
    from safetensors import numpy as safetensors

    from recjax.artifact._params import save_params  # imports JAX, which reading does without

    with atomic_folder(Path(folder), kind="an artifact", card="model.json") as partial:
        save_params(partial / _FILES[0], params)
        model = build(
            open_params(partial / _FILES[0]),
            kind=kind,
            user_ids=user_ids,
            item_ids=item_ids,
            titles=titles,
            seen=seen,
            known_users=known_users,
            history_exponent=history_exponent,
            net=net,
            about=about,
        )
        ids = {"titles.offsets": model.titles.offsets, "titles.content": model.titles.content}
        for name, part in (("users", model.user_ids), ("items", model.item_ids)):
            ids |= {f"{name}.offsets": part.offsets, f"{name}.content": part.content, f"{name}.hashes": part.hashes}
            if part.order is not None:
                ids[f"{name}.order"] = part.order
        if model.known_users is not None:
            ids["known_users"] = model.known_users
        index = {
            "offsets": model.seen.offsets,
            "items": model.seen.items,
            "popularity": model.popularity.astype(np.int32),
        }
        if model.recent is not None:
            index |= {"recent.offsets": model.recent.offsets, "recent.items": model.recent.items}
        for name, arrays in zip(_FILES[1:], (ids, index), strict=True):
            (partial / name).write_bytes(safetensors.save(arrays))  # not save_file, whose files nobody else may read
        card = {
            "format": FORMAT,
            "users": len(model.user_ids),
            "known_users": len(model.user_ids) if model.known_users is None else len(model.known_users),
            "items": len(model.item_ids),
            "bytes": (partial / _FILES[0]).stat().st_size,
            "folder_bytes": sum((partial / name).stat().st_size for name in _FILES),
            "tables": {
                name: {"shape": list(table.shape), "bytes": stored_bytes(table)} for name, table in model.tables.items()
            },
            **model.card,
            "golden": _golden(model),
            "checksums": {name: checksums(partial / name) for name in _FILES},
        }
        (partial / "model.json").write_text(json.dumps(card, indent=2), encoding="utf-8")
    return card


def load(folder: str | Path) -> Any:
    """Opens an artifact: the files are memory-mapped, and their headers, sizes and shapes are checked.

    Args:
      folder: what :func:`save` or :func:`save_ctr` wrote, in format 2 or 1.

    Returns:
      The :class:`Artifact` of a recommender, or the :class:`CTRArtifact` of a CTR model.

    Raises:
      InputError: if a file is missing, damaged or foreign, or of a newer format; the message names it.
    """
    folder = Path(folder)
    path = folder / "model.json"
    with blamed(path, "the card of an artifact"):
        card = json.loads(path.read_text(encoding="utf-8"))
    number = card.get("format") if isinstance(card, dict) else None
    if type(number) is not int or number < 1:
        raise InputError(f"{path}: expected the card of an artifact written by recjax, got another file")
    if number > FORMAT:
        raise InputError(f"{path}: expected format {FORMAT} or older, got format {number}: update recjax to read it")
    if number == 1:
        arguments = _format1.read(folder, card)
        with blamed(path, "the card of an artifact"):
            return build(**arguments, about={name: value for name, value in card.items() if name != "kind"})
    if card.get("task") == "ctr":
        from recjax.artifact import _ctr

        return _ctr.load(folder, card)
    weights, ids, lists = (folder / name for name in _FILES)
    params = open_params(weights)
    with blamed(ids, "the ids and titles of the artifact"):
        _, arrays = map_arrays(ids)
        users, items = (_ids(arrays, name) for name in ("users", "items"))
        titles = Texts(arrays["titles.offsets"], arrays["titles.content"])
    with blamed(lists, "what each user has"):
        _, index = map_arrays(lists)
        seen, popularity, recent = UserItems(index["offsets"], index["items"]), index["popularity"], None
    with blamed(path, "a card that fits the other files"):
        if (card["users"], card["items"]) != (len(users), len(items)):
            raise ValueError(f"{card['users']} users and {card['items']} items instead of {len(users)}, {len(items)}")
        if card["kind"] == "sequence":
            recent = UserItems(index["recent.offsets"], index["recent.items"])
        return _checked(card, params, users, items, titles, seen, popularity, recent, arrays.get("known_users"))


def _golden(model: Artifact) -> dict[str, Any] | None:
    """A query and its answer: the best items of the first user that the model knows."""
    user = next((user for user in model.user_ids if model.known(user)), None)
    if user is None:
        return None
    found = model.recommend(user, k=min(10, len(model.item_ids)), include_seen=True)
    return {"user": user, "items": [one.item for one in found], "scores": [one.score for one in found]}


def _check_golden(model: Artifact) -> None:
    """Raises ValueError if the answer to the query in the card is another one."""
    golden = model.card["golden"]
    if golden is not None:
        answer = model.recommend(golden["user"], k=len(golden["items"]), include_seen=True)
        if not np.allclose([one.score for one in answer], golden["scores"], rtol=1e-3, atol=1e-3):
            raise ValueError(f"another answer for user {golden['user']}")


def verify(folder: str | Path) -> None:
    """Reads every byte of an artifact of format 2: :func:`load` reads headers alone, so that it takes milliseconds.

    Args:
      folder: what :func:`save` or :func:`save_ctr` wrote.

    Raises:
      InputError: if the checksum of a block of 64 KB differs, or the answer to the query in the card, which for a CTR
        model are rows and their probabilities; the message names the file and the byte.
    """
    folder = Path(folder)
    model = load(folder)
    files, check = _FILES, _check_golden
    if model.card.get("task") == "ctr":
        from recjax.artifact import _ctr

        files, check = _ctr.FILES, _ctr.check_golden
    with blamed(folder / "model.json", "the card of an artifact of format 2"):
        expected = [model.card["checksums"][name] for name in files]
    for name, digits in zip(files, expected, strict=True):
        compare_checksums(folder / name, digits)
    with blamed(folder / "model.json", "a query and its answer"):
        check(model)


def _ids(arrays: Mapping[str, np.ndarray], name: str) -> Ids:
    offsets, content, hashes = (arrays[f"{name}.{part}"] for part in ("offsets", "content", "hashes"))
    return Ids(offsets, content, hashes, arrays.get(f"{name}.order"))
