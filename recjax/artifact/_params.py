"""Parameters of any make in one file, read back without running code from it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import numpy as safetensors

from recjax import embed, prune, quantize
from recjax.artifact._file import read_tree, static
from recjax.files import atomic_file

# What a file may name: these, and nothing that it brings itself.
_RECORDS = {
    record.__name__: record
    for record in (
        embed.DeepHash,
        embed.FakeQuantized,
        embed.Hashed,
        embed.IndexedRows,
        embed.LearnedProduct,
        embed.LearnedStep,
        embed.LearnedThreshold,
        embed.LowRank,
        embed.Masked,
        embed.MemCom,
        embed.MixedDims,
        embed.ProductQuantized,
        embed.PrunedRows,
        embed.QuotientConcat,
        embed.QuotientProduct,
        embed.QuotientSum,
        embed.Robe,
        embed.Scored,
        embed.TensorTrain,
        quantize.QTensor,
        quantize.RowQuantized,
        prune.SparseTensor,
    )
}


def _fields(record: type) -> dict[str, bool]:
    """The fields of a record, and which of them are static."""
    if dataclasses.is_dataclass(record):
        return {field.name: bool(field.metadata.get("static")) for field in dataclasses.fields(record)}
    return dict.fromkeys(record._fields, False)  # pyright: ignore[reportAttributeAccessIssue]  (a NamedTuple)


def _take_apart(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    """What JSON says of a tree; its arrays go to ``arrays``."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        if not all(isinstance(name, str) for name in tree):
            raise TypeError(f"expected text keys, got {next(name for name in tree if not isinstance(name, str))!r}")
        return {"dict": {name: _take_apart(part, arrays) for name, part in tree.items()}}
    if type(tree).__name__ in _RECORDS and isinstance(tree, _RECORDS[type(tree).__name__]):
        parts = {
            name: getattr(tree, name) if static else _take_apart(getattr(tree, name), arrays)
            for name, static in _fields(type(tree)).items()
        }
        return {"record": type(tree).__name__, "parts": parts}
    if type(tree) in (list, tuple):
        return {type(tree).__name__: [_take_apart(part, arrays) for part in tree]}
    if not hasattr(tree, "dtype"):
        raise TypeError(f"expected arrays, records of tables, dicts, lists and tuples, got {type(tree).__name__}")
    array = np.asarray(tree, order="C")  # ascontiguousarray would give a number an axis
    key = f"{len(arrays)}"
    if array.dtype == bool:
        arrays[key] = np.packbits(array, bitorder="little")
        return {"bits": key, "shape": list(array.shape)}
    arrays[key] = array
    return {"array": key}


def save_params(path: str | Path, params: Any) -> int:
    """Writes parameters of any make to one safetensors file.

    The file is its header (8 bytes, then the JSON that tells the structure, filled up with blanks to a multiple of 8)
    and the bytes of the arrays in a row: a record takes its ``nbytes``. Arrays keep their dtype (to store floats as
    float16, cast them before), but a bool takes one bit.

    Args:
      path: the file; one that is there is replaced atomically.
      params: dicts with text keys, lists, tuples and None, of arrays, packed arrays and records of tables.

    Returns:
      The bytes of the file.

    Raises:
      TypeError: if something else is among them, or a key is not text.

    Examples:
      >>> import tempfile, jax, numpy as np
      >>> from recjax import embed
      >>> table = embed.low_rank(jax.random.key(0), 100, 8, rank=2, sd=0.1)
      >>> path = tempfile.mkdtemp() + "/weights.safetensors"
      >>> _ = save_params(path, {"tables": {"item": table}, "net": [np.ones(3, np.float16)]})
      >>> loaded = load_params(path)
      >>> bool((embed.lookup(loaded["tables"]["item"]) == embed.lookup(table)).all()), loaded["net"]
      (True, [array([1., 1., 1.], dtype=float16)])
    """
    path = Path(path)
    arrays: dict[str, np.ndarray] = {}
    spec = _take_apart(params, arrays)
    content = safetensors.save(arrays, metadata={"recjax": json.dumps(spec)})
    with atomic_file(path) as partial:
        partial.write_bytes(content)
    return len(content)


def load_params(path: str | Path) -> Any:
    """Reads what :func:`save_params` wrote; no code of the file is run.

    Args:
      path: the file.

    Returns:
      The parameters, arrays being NumPy's.

    Raises:
      InputError: if the file is missing, damaged or foreign; the message names it.
    """
    return jax.tree.map(np.array, read_tree(Path(path), _record))


def _record(name: str, parts: dict[str, Any], part: Callable[[Any], Any]) -> Any:
    fields = _fields(_RECORDS[name]).items()
    return _RECORDS[name](**{field: static(parts[field]) if fixed else part(parts[field]) for field, fixed in fields})


def file_size(params: Any) -> int:
    """The bytes that :func:`save_params` would write, from shapes alone.

    Args:
      params: as for :func:`save_params`; arrays need not be filled.

    Returns:
      Bytes, the header's included.

    Examples:
      >>> import tempfile
      >>> params = {"item": np.zeros((3, 5), np.float16)}
      >>> file_size(params) == save_params(tempfile.mkdtemp() + "/weights.safetensors", params)
      True
    """
    arrays: dict[str, np.ndarray] = {}
    spec, begin = _take_apart(params, arrays), 0
    header: dict[str, Any] = {"__metadata__": {"recjax": json.dumps(spec)}}
    for key, array in sorted(arrays.items(), key=lambda pair: (-pair[1].itemsize, pair[0])):
        dtype = f"{array.dtype.kind.upper()}{8 * array.itemsize}"
        header[key] = {"dtype": dtype, "shape": array.shape, "data_offsets": [begin, begin + array.nbytes]}
        begin += array.nbytes
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False))
    return 8 + -(-length // 8) * 8 + begin
