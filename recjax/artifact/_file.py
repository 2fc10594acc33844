"""A safetensors file as memory-mapped arrays, and the tree that :func:`recjax.artifact.save_params` stored in one."""

import contextlib
import json
import math
import mmap
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recjax.errors import InputError

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "U64": "<u8",
    "I32": "<i4",
    "U32": "<u4",
    "I16": "<i2",
    "U16": "<u2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


_CHECKED = 2**16  # bytes of a file that share a checksum


def checksums(path: Path) -> str:
    """CRC-32 of each 64 KB, eight hexadecimal digits each."""
    with path.open("rb") as file:
        return "".join(f"{zlib.crc32(block):08x}" for block in iter(lambda: file.read(_CHECKED), b""))


def compare_checksums(path: Path, expected: str) -> None:
    """Raises InputError for the first block of a file whose checksum is another one."""
    found = checksums(path)
    if found != expected:
        digits = next((i for i, pair in enumerate(zip(found, expected, strict=False)) if len(set(pair)) > 1), 0)
        raise InputError(
            f"{path}: expected the checksums in model.json, got others from byte {digits // 8 * _CHECKED} on"
        )


@contextlib.contextmanager
def blamed(path: Path, expected: str) -> Iterator[None]:
    """Turns any error of reading a file into one line that names the file."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{path}: expected {expected}, got a file that can't be read ({reason})") from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        reason = f"no {reason}" if isinstance(error, KeyError) else reason or type(error).__name__
        raise InputError(f"{path}: expected {expected}, got damaged or foreign content ({reason})") from None


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a whole number, got {value!r:.40}")
    return value


def map_arrays(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The metadata of a safetensors file and its arrays, memory-mapped and read-only.

    Nothing is read but the header, whose sizes must fit the file. Raises what :func:`blamed` names.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        total = file.seek(0, 2)
        if total < 8 or size > total - 8:
            raise ValueError(f"a header of {size} bytes in a file of {total}")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header = json.loads(content[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    arrays, end = {}, 0
    for name, about in sorted(header.items(), key=lambda pair: _whole(pair[1]["data_offsets"][0])):
        dtype, shape = np.dtype(_DTYPES[about["dtype"]]), tuple(map(_whole, about["shape"]))
        start, stop = map(_whole, about["data_offsets"])
        if start != end or stop - start != math.prod(shape) * dtype.itemsize or 8 + size + stop > total:
            raise ValueError(f"array {name!r:.40} of {about['dtype']} {list(shape)} at bytes {start} to {stop}")
        arrays[name] = np.frombuffer(content, dtype, math.prod(shape), 8 + size + start).reshape(shape)
        end = stop
    if 8 + size + end != total:
        raise ValueError(f"{total} bytes instead of {8 + size + end}")
    return metadata, arrays


def static(value: Any) -> Any:
    """A static field as JSON holds it: tuples are lists there."""
    return tuple(map(static, value)) if isinstance(value, list) else value


def assemble(spec: Any, arrays: dict[str, np.ndarray], record: Callable[[str, dict[str, Any], Any], Any]) -> Any:
    """A tree from what JSON says of it. ``record`` makes a record of its name, its parts and a function of a part."""
    if spec is None:
        return None

    def part(spec: Any) -> Any:
        return assemble(spec, arrays, record)

    match spec:
        case {"dict": parts}:
            return {name: part(inner) for name, inner in parts.items()}
        case {"list": parts}:
            return [part(inner) for inner in parts]
        case {"tuple": parts}:
            return tuple(part(inner) for inner in parts)
        case {"array": key}:
            return arrays[key]
        case {"bits": key, "shape": shape}:
            count = math.prod(map(_whole, shape))
            if arrays[key].shape != (-(-count // 8),):
                raise ValueError(f"{arrays[key].size} bytes for {count} bits")
            return np.unpackbits(arrays[key], count=count, bitorder="little").astype(bool).reshape(shape)
        case {"record": name, "parts": parts}:
            return record(name, parts, part)
    raise ValueError(f"unknown part {spec!r:.60}")


def read_tree(path: Path, record: Callable[[str, dict[str, Any], Any], Any]) -> Any:
    """The tree that a file of parameters holds, its arrays memory-mapped."""
    with blamed(path, "parameters of recjax"):
        metadata, arrays = map_arrays(path)
        return assemble(json.loads(metadata["recjax"]), arrays, record)
