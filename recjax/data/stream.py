"""Examples that don't fit into memory: written to disk part by part, and read window by window."""

import concurrent.futures
import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from numpy.lib import format as npy

from recjax.errors import InputError
from recjax.files import atomic_folder

T = TypeVar("T", bound=tuple)
SUFFIX = ".npy"


def write_arrays(folder: str | os.PathLike[str], parts: Iterable[Any]) -> None:
    """Writes NamedTuples of arrays, concatenated, to a folder of ``.npy`` files; one part is in memory at a time.

    Args:
      folder: the folder to create, atomically.
      parts: NamedTuples of arrays ``[rows, ...]`` of one class, such as :class:`~recjax.data.Examples`; a field that is
        None in the first part is None in all.

    Raises:
      FileExistsError: if the folder exists.
      ValueError: if there are no parts, or they differ in fields, row shapes or dtypes.

    Examples:
      >>> import pathlib, tempfile
      >>> from recjax.data import Examples
      >>> first = Examples(np.int32([[0, 4], [1, 5]]), np.float32([1, 0]))
      >>> parts = [first, Examples(np.int32([[2, 4]]), np.float32([1]))]
      >>> with tempfile.TemporaryDirectory() as here:
      ...     write_arrays(pathlib.Path(here, "train"), iter(parts))
      ...     rows = open_arrays(pathlib.Path(here, "train"), Examples)
      ...     rows.fields.tolist(), rows.label.tolist(), rows.values
      ([[0, 4], [1, 5], [2, 4]], [1.0, 0.0, 1.0], None)
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder}: expected a path that doesn't exist, got a file or folder")
    with atomic_folder(folder, kind="arrays", card=SUFFIX) as partial:
        _append(partial, parts)


def _append(folder: Path, parts: Iterable[Any]) -> None:
    rows, kinds = 0, None
    with contextlib.ExitStack() as stack:
        files = {}
        for number, part in enumerate(parts):
            arrays = {name: np.ascontiguousarray(x) for name, x in part._asdict().items() if x is not None}
            found = {name: (x.dtype, x.shape[1:]) for name, x in arrays.items()}
            lengths = {name: len(x) for name, x in arrays.items()}
            if kinds is None:
                kinds = found
                files = {name: stack.enter_context(open(folder / f"{name}{SUFFIX}", "wb")) for name in kinds}
                _headers(files, kinds, 0)
            if found != kinds or len(set(lengths.values())) > 1:
                raise ValueError(f"part {number}: expected rows of {kinds}, got rows of {found}, lengths {lengths}")
            for name, array in arrays.items():
                array.tofile(files[name])
            rows += next(iter(lengths.values()))
        if not kinds:
            raise ValueError("parts: expected at least one with arrays, got none")
        _headers(files, kinds, rows)


def _headers(files: dict[str, Any], kinds: dict[str, tuple[np.dtype, tuple[int, ...]]], rows: int) -> None:
    """Writes headers in place: NumPy pads a header, so the number of rows may grow."""
    for name, (dtype, shape) in kinds.items():
        files[name].seek(0)
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, *shape)}
        npy.write_array_header_1_0(files[name], header)


def open_arrays(folder: str | os.PathLike[str], kind: type[T]) -> T:
    """Memory maps of what :func:`write_arrays` wrote.

    Args:
      folder: the folder.
      kind: the NamedTuple class of the parts.

    Returns:
      Read-only arrays ``[rows, ...]``; None for fields that the parts didn't have.

    Raises:
      InputError: if arrays are missing or damaged; the message names the file.
    """
    folder, fields = Path(folder), kind._fields  # pyright: ignore[reportAttributeAccessIssue]
    paths = {path.name.removesuffix(SUFFIX): path for path in sorted(folder.glob(f"*{SUFFIX}"))}
    if not paths or not set(paths) <= set(fields):
        raise InputError(f"{folder}: expected some of {list(fields)}, got arrays {sorted(paths)}")
    try:
        arrays = {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in paths.items()}
        lengths = {name: len(array) for name, array in arrays.items()}
    except (OSError, ValueError, TypeError) as problem:
        raise InputError(f"{folder}: expected arrays of write_arrays, got a damaged one ({problem})") from problem
    if len(set(lengths.values())) > 1:
        raise InputError(f"{folder}: expected arrays of equal length, got {lengths}")
    return kind(**{name: arrays.get(name) for name in fields})


@dataclasses.dataclass(frozen=True)
class Stream:
    """Training examples on disk, read a window at a time in the background.

    A window is a random set of blocks of adjacent rows, drawn without replacement; :func:`recjax.grid.fit` shuffles the
    rows within a window for each seed. An epoch visits nearly all blocks once, in a new random order; rows that don't
    fill the last block or window wait for a later epoch. Smaller blocks shuffle better and read slower.

    Attributes:
      rows: a pytree of arrays ``[rows, ...]``, such as from :func:`open_arrays`.
      window: rows per window, a multiple of ``block``; up to three windows are in memory.
      block: adjacent rows that are read together.

    Raises:
      ValueError: if the window isn't a multiple of ``block`` or is longer than the data.

    Examples:
      >>> stream = Stream((np.arange(10), np.arange(10) % 3), window=4, block=2)
      >>> stream.windows
      2
      >>> item, rest = next(stream.read([0]))
      >>> item.tolist(), bool((rest == item % 3).all())
      ([4, 5, 8, 9], True)
    """

    rows: Any
    window: int
    block: int = 1024

    def __post_init__(self) -> None:
        if self.block < 1 or self.window < 1 or self.window % self.block or self.windows < 1:
            raise ValueError(
                f"window: expected a multiple of block={self.block} and at most {self.length} rows, got {self.window}"
            )

    @property
    def length(self) -> int:
        """Number of rows."""
        return len(jax.tree.leaves(self.rows)[0])

    @property
    def windows(self) -> int:
        """Full windows per epoch."""
        return self.length // self.block // (self.window // self.block)

    @property
    def shapes(self) -> Any:
        """Shapes and dtypes of a window, without reading it."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((self.window, *x.shape[1:]), x.dtype), self.rows)

    def read(self, epochs: Iterable[int]) -> Iterator[Any]:
        """The windows of some epochs in turn; the next one is read while the current one is in use."""
        places = (place for epoch in epochs for place in self._places(epoch))
        with concurrent.futures.ThreadPoolExecutor(1) as reader:
            pending = []
            for place in places:
                pending.append(reader.submit(self._window, place))
                if len(pending) > 1:
                    yield pending.pop(0).result()
            for last in pending:
                yield last.result()

    def _places(self, epoch: int) -> np.ndarray:
        """``[windows, blocks]``, the first row of each block."""
        random = np.random.default_rng(epoch)
        blocks, left = divmod(self.length, self.block)
        each = self.window // self.block
        order = random.permutation(blocks)[: self.windows * each].reshape(self.windows, each)
        return order * self.block + random.integers(left + 1)

    def _window(self, places: np.ndarray) -> Any:
        return jax.tree.map(lambda x: np.concatenate([x[at : at + self.block] for at in places]), self.rows)
