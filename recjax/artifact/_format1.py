"""Folders of format 1, which stored arrays by name and described them in the card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recjax.artifact._file import blamed, map_arrays
from recjax.artifact._ids import UserItems
from recjax.artifact._tables import FloatTable, PackedTable, SparseTable, Table

KINDS = {"vectors": "vectors", "history": "item_item", "popularity": "popularity"}


def read(folder: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of :func:`recjax.artifact.build`, from a folder of format 1."""
    with blamed(folder / "model.json", "the card of an artifact"):
        kind, specs, known = KINDS[card["kind"]], card["tables"].items(), card["known_users"]
    with blamed(folder / "weights.safetensors", "the tables in model.json"):
        _, arrays = map_arrays(folder / "weights.safetensors")
        params: dict[str, Any] = {name: _table(name, arrays, spec) for name, spec in specs}
        if kind == "item_item":  # format 1 had what each history item adds in a column
            item = params.pop("item")
            params["item_item"] = np.ascontiguousarray(item.rows(slice(0, item.shape[0])).T)
    with blamed(folder / "vocabulary.json", "the ids and titles of the artifact"):
        vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        ids = {"user_ids": vocabulary["users"], "item_ids": vocabulary["items"], "titles": vocabulary["titles"]}
    with blamed(folder / "seen.safetensors", "what each user has"):
        seen = UserItems(**map_arrays(folder / "seen.safetensors")[1])
    return {"params": params, "kind": kind, **ids, "seen": seen, "known_users": np.arange(known)}


def _table(name: str, arrays: Mapping[str, np.ndarray], spec: Mapping[str, Any]) -> Table:
    shape, scale = tuple(spec["shape"]), arrays.get(f"{name}.scale")
    entries = arrays[f"{name}.words" if spec["packed"] else f"{name}.values"]
    bits = spec["bits"] if spec["packed"] else None
    if spec["sparse"]:
        bitmap = arrays[f"{name}.bitmap"]  # format 1 had no counts
        kept = np.bitwise_count(np.pad(bitmap, (0, -len(bitmap) % 128))).reshape(-1, 128).sum(axis=1, dtype=np.int32)
        return SparseTable(
            bitmap, np.cumsum(kept, dtype=np.int32) - kept, entries, scale, None, spec["non_zero"], bits, shape
        )
    return FloatTable(entries) if scale is None else PackedTable(entries, scale, None, spec["bits"], shape)
