"""The deployed form of a CTR model: weights, encoding and calibration, read with NumPy alone.

======================= =================================================================================
``model.json``          the card: kind, sizes, calibration, golden rows, where the model comes from
``weights.safetensors`` tables and net, as :func:`recjax.artifact.save_params` stores them
``encoding.json``       how raw rows become fields, as :meth:`recjax.data.Encoding.save` writes it
======================= =================================================================================
"""

import dataclasses
import functools
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recjax.artifact._calibrate import Calibration, sigmoid
from recjax.artifact._file import blamed, checksums
from recjax.artifact._folder import FORMAT
from recjax.artifact._tables import Table, as_table, open_params, stored_bytes
from recjax.data import Encoded, Encoding, encode, encoding_from_json
from recjax.files import atomic_folder

FILES = ("weights.safetensors", "encoding.json")
BLOCK = 4096  # rows that are scored at once
GOLDEN = 4  # rows in the card with their probabilities
CTR_KINDS = ("lr", "fm", "dnn", "wide-and-deep", "deepfm", "dcn-v2", "finalmlp")
_WIDE = ("lr", "fm", "wide-and-deep", "deepfm")  # kinds with a weight for each value


class Scores(NamedTuple):
    """Probabilities of some rows, and what of the rows the model does not know.

    Attributes:
      probability: ``[rows]`` float64, calibrated.
      unknown: by column, how many rows have a value that the train rows had rarely or not at all; 0 is left out.
      missing: columns of the model that the rows lack.
      ignored: columns that the model does not read.
    """

    probability: np.ndarray
    unknown: dict[str, int]
    missing: tuple[str, ...]
    ignored: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class CTRArtifact:
    """A CTR model that scores raw rows, from :func:`recjax.artifact.load`.

    Attributes:
      card: what ``model.json`` says.
      tables: the stored tables by name.
      net: the parameters beside the tables; matrices may be packed.
      encoding: how raw rows become fields.
      calibration: from a logit to a probability.

    Examples:
      >>> from recjax import artifact                                               # doctest: +SKIP
      >>> model = artifact.load("runs/clicks/artifact")                             # doctest: +SKIP
      >>> model.score([{"user": "196", "price": 7.5}]).probability                  # doctest: +SKIP
    """

    card: dict[str, Any]
    tables: dict[str, Table]
    net: dict[str, Any]
    encoding: Encoding
    calibration: Calibration

    @functools.cached_property
    def _net(self) -> dict[str, Any]:
        """The net as float32: unlike the tables, all of it is used for every row."""
        return _dense(self.net)

    def logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits of encoded rows, before calibration; the tables are decoded row by row.

        Args:
          batch: ``fields [rows, fields]`` int, and ``values [rows, fields]`` float if the encoding gives them.

        Returns:
          ``[rows]`` float32.
        """
        rows = len(batch["fields"])
        starts = range(0, rows, BLOCK)
        blocks = [self._logits({name: x[at : at + BLOCK] for name, x in batch.items()}) for at in starts]
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)

    def _looked_up(self, name: str, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """``[rows, fields, dim]``, each row of the table times its value."""
        ids, table = batch["fields"], self.tables[name]
        rows = table.rows(ids.ravel()).reshape(*ids.shape, table.shape[1])
        return rows * batch["values"][..., None] if "values" in batch else rows

    def _logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """The equations of :mod:`recjax.models`."""
        kind, net = self.card["kind"], self._net
        found = np.zeros(len(batch["fields"]), np.float32)
        if kind in _WIDE:
            found += self._looked_up("feature_weight", batch).sum(axis=(1, 2))
        if kind in ("lr", "fm"):
            found += net["bias"][0]
        if kind == "lr":
            return found
        apart = self._looked_up("feature", batch)
        if kind in ("fm", "deepfm"):
            found += (np.square(apart.sum(axis=1)) - np.square(apart).sum(axis=1)).sum(axis=1) / 2
        flat = apart.reshape(len(apart), -1)
        if kind == "dcn-v2":
            x = flat
            for name in _numbered(net, "cross_"):
                x = flat * (x @ net[name]["kernel"] + net[name]["bias"]) + x
            found += (x @ net["cross_output"]["kernel"])[:, 0]
        if kind == "finalmlp":
            return self._two_streams(apart, flat)
        return found if kind == "fm" else found + _mlp(net, flat)[:, 0]

    def _two_streams(self, apart: np.ndarray, flat: np.ndarray) -> np.ndarray:
        net, ends = self._net, []
        for i, context in enumerate(self.card["context"]):
            seen = apart[:, context].reshape(len(apart), -1) if context else net[f"context_{i}"][None]
            gate = 2 * sigmoid(_mlp(net[f"gate_{i}"], seen))
            ends.append(np.maximum(_mlp(net[f"stream_{i}"], (flat * gate).astype(np.float32)), 0))
        fusion, (one, two) = net["fusion"], ends
        heads = len(fusion["bilinear"])
        first, second = (units.reshape(len(units), heads, -1) for units in ends)
        met = np.einsum("bhx,hxy,bhy->b", first, fusion["bilinear"], second, optimize=True)
        return met + (one @ fusion["linear_0"] + two @ fusion["linear_1"])[:, 0] + fusion["bias"][0]

    def predict(self, rows: Encoded) -> np.ndarray:
        """``[rows]`` float64, the calibrated probabilities of encoded rows."""
        return self.calibration.probability(self.logits(rows.batch))

    def score(self, rows: Any) -> Scores:
        """Calibrated probabilities of raw rows.

        A value that train did not have is scored as unknown, a missing one or a missing column as missing, as
        :func:`recjax.data.encode` says; columns that the model does not read are ignored. Missing and ignored columns
        are a warning.

        Args:
          rows: a list of dicts, one dict (one row), a dict of columns, a NumPy structured array, or a polars frame.

        Returns:
          The :class:`Scores`, in the order of the rows.

        Raises:
          InputError: for a value that its column can't hold, naming the column and the row, counted from 1, or if no
            column of the model is there.
          TypeError: if ``rows`` is something else.
        """
        found = encode(_columns(rows), self.encoding)
        for names, what in ((found.missing, "missing in all rows"), (found.ignored, "ignored")):
            if names:
                warnings.warn(f"columns {what}: {', '.join(names)}", stacklevel=2)
        return Scores(self.predict(found), found.unknown, found.missing, found.ignored)


def _columns(rows: Any) -> Mapping[str, Any]:
    """Rows in any of their forms as columns by name."""
    if isinstance(rows, Mapping):
        if not any(isinstance(value, str) or not hasattr(value, "__len__") for value in rows.values()):
            return rows
        rows = [rows]
    if isinstance(rows, list | tuple) and all(isinstance(row, Mapping) for row in rows):
        return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    if (names := getattr(getattr(rows, "dtype", None), "names", None)) is not None:
        return {name: rows[name] for name in names}
    if (names := getattr(rows, "columns", None)) is not None:  # a frame, whose package need not be imported here
        return {name: rows[name].to_list() for name in names}
    raise TypeError(f"expected a list of dicts, a dict of columns, a structured array or a frame, got {type(rows)}")


def _dense(part: Any) -> Any:
    """A tree of arrays and tables as float32."""
    if isinstance(part, dict):
        return {name: _dense(inner) for name, inner in part.items()}
    return part.astype(np.float32) if isinstance(part, np.ndarray) else part.rows(slice(0, part.shape[0]))


def _numbered(net: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """``cross_0``, ``cross_1``, ... as long as there are any."""
    names = (f"{prefix}{i}" for i in range(len(net)))
    return (name for name in names if name in net)


def _mlp(net: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    for name in _numbered(net, "hidden_"):
        x = np.maximum(x @ net[name]["kernel"] + net[name]["bias"], 0)
    return x @ net["output"]["kernel"] + net["output"]["bias"]


def save_ctr(
    folder: str | Path,
    params: Mapping[str, Any],
    *,
    kind: str,
    encoding: Encoding,
    calibration: Calibration,
    context: Sequence[Sequence[int]] = ((0,), (1,)),
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes the artifact of a CTR model atomically.

    Args:
      folder: where; an artifact that is there is replaced.
      params: of the model of the kind in :mod:`recjax.models`; ``tables`` and ``net`` are stored, as
        :func:`save_params` does it. Tables and matrices may be packed.
      kind: one of :data:`CTR_KINDS`.
      encoding: how raw rows become fields.
      calibration: from :func:`calibrate` on the validation logits of these parameters.
      context: kind ``finalmlp``: the fields that each gate reads.
      about: what else the card should say (data, metrics, versions).

    Returns:
      The card.

    Raises:
      InputError: if something else than an artifact is there, or the parameters don't fit the kind and the encoding.
      TypeError: if :func:`save_params` can't store ``params``.
    """
    from recjax.artifact._params import save_params  # imports JAX, which reading does without

    if kind not in CTR_KINDS:
        raise ValueError(f"kind: expected one of {', '.join(CTR_KINDS)}, got {kind!r}")
    with atomic_folder(Path(folder), kind="an artifact", card="model.json") as partial:
        size = save_params(partial / FILES[0], {"tables": params["tables"], "net": params["net"]})
        encoding.save(partial / FILES[1])
        how = {"method": "Platt scaling on validation: sigmoid(a * logit + b)", "a": calibration.a, "b": calibration.b}
        card = {
            "format": FORMAT,
            "task": "ctr",
            "kind": kind,
            "fields": encoding.fields,
            "features": encoding.features,
            "bytes": size,
            "folder_bytes": sum((partial / name).stat().st_size for name in FILES),
            "calibration": how,
            **({"context": [list(fields) for fields in context]} if kind == "finalmlp" else {}),
            **(about or {}),
        }
        model = load(partial, card)
        rows = _golden_rows(encoding)
        card["tables"] = {n: {"shape": list(t.shape), "bytes": stored_bytes(t)} for n, t in model.tables.items()}
        card["golden"] = {"rows": rows, "probabilities": model.score(rows).probability.tolist()}
        card["checksums"] = {name: checksums(partial / name) for name in FILES}
        (partial / "model.json").write_text(json.dumps(card, indent=2), encoding="utf-8")
    return card


def _golden_rows(encoding: Encoding) -> list[dict[str, Any]]:
    """Raw rows to check an artifact with: all values missing, then those that each column gives as examples."""
    return [{name: column.example(i) for name, column in encoding.columns.items()} for i in range(GOLDEN)]


def load(folder: Path, card: dict[str, Any]) -> CTRArtifact:
    """The artifact in a folder whose card was read."""
    weights, columns = (folder / name for name in FILES)
    params = open_params(weights)
    with blamed(columns, "an encoding"):
        encoding = encoding_from_json(json.loads(columns.read_text(encoding="utf-8")))
    with blamed(folder / "model.json", "a card that fits the other files"):
        if card["kind"] not in CTR_KINDS:
            raise ValueError(f"kind: expected one of {', '.join(CTR_KINDS)}, got {card['kind']!r:.20}")
        calibration = Calibration(*(float(card["calibration"][name]) for name in ("a", "b")))
        tables = {name: as_table(part) for name, part in params["tables"].items()}
        model = CTRArtifact(card, tables, params["net"], encoding, calibration)
        for name, table in tables.items():
            if table.shape[0] != encoding.features:
                raise ValueError(f"table {name}: expected {encoding.features} rows, got {table.shape[0]}")
        model.predict(encode(_columns(_golden_rows(encoding)[0]), encoding))  # whatever else doesn't fit fails here
    return model


def check_golden(model: CTRArtifact) -> None:
    """Raises ValueError if the golden rows of the card have other probabilities."""
    golden = model.card["golden"]
    if not np.allclose(model.score(golden["rows"]).probability, golden["probabilities"], rtol=1e-3, atol=1e-5):
        raise ValueError("other probabilities of the golden rows")
