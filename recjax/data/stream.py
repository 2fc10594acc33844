"""Rows that don't fit into memory: written to disk part by part, and trained on a window at a time."""

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
    """Arrays one below the other, in a folder with a ``.npy`` file each; one part is in memory at a time.

    ``write_arrays("train", (read_rows(path, encoding) for path in paths))`` is how the days of a log of clicks become
    one.

    Args:
      folder: where to; it must not exist yet, and appears whole or not at all.
      parts: NamedTuples of arrays ``[rows, ...]``, such as :class:`~recjax.data.Examples`, of one class; what is None
        in the first is None in all.

    Raises:
      FileExistsError: if there is such a folder.
      ValueError: if there are no parts, or one differs in what it has or in the shape or type of its rows.

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
                raise ValueError(f"part {number}: expected rows of {kinds}, got rows of {found}, {lengths} of them")
            for name, array in arrays.items():
                array.tofile(files[name])
            rows += next(iter(lengths.values()))
        if not kinds:
            raise ValueError("expected at least one part with arrays, got none")
        _headers(files, kinds, rows)


def _headers(files: dict[str, Any], kinds: dict[str, tuple[np.dtype, tuple[int, ...]]], rows: int) -> None:
    """NumPy leaves room in a header for more rows than there are."""
    for name, (dtype, shape) in kinds.items():
        files[name].seek(0)
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, *shape)}
        npy.write_array_header_1_0(files[name], header)


def open_arrays(folder: str | os.PathLike[str], kind: type[T]) -> T:
    """What :func:`write_arrays` wrote, as memory maps: rows are read when they are used.

    Args:
      folder: the folder.
      kind: the NamedTuple that the parts were.

    Returns:
      Arrays ``[rows, ...]`` that can't be written to; None for what the parts didn't have.

    Raises:
      InputError: if the folder has no such arrays, or they are damaged; the message names the file.
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
    """Rows that a training reads from disk, a window at a time, while it computes on the one before.

    A window is drawn without replacement from blocks of rows that lie side by side; an epoch goes once over almost all
    blocks in a random order, which is another one in every epoch, and :func:`recjax.grid.fit` shuffles the rows of a
    window for each seed. So two rows are in one batch only if they are in one window, and rows of one block often are:
    the smaller the blocks, the closer to a shuffle of everything, and the more places a window is read from. What
    doesn't fill the last block or the last window waits for a later epoch.

    Attributes:
      rows: a pytree of arrays ``[rows, ...]``, such as :func:`open_arrays` gives.
      window: rows in memory at once (three times: one in use, one to come, one on its way); a multiple of ``block``.
      block: rows that are read in one piece.

    Raises:
      ValueError: if the window isn't made of whole blocks or has more of them than there are.

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
        """Refuses windows that can't be."""
        if self.block < 1 or self.window < 1 or self.window % self.block or self.windows < 1:
            raise ValueError(
                f"expected a window of whole blocks of {self.block} rows and at most {self.length} rows, "
                f"got {self.window}"
            )

    @property
    def length(self) -> int:
        """Rows in all."""
        return len(jax.tree.leaves(self.rows)[0])

    @property
    def windows(self) -> int:
        """Full ones an epoch."""
        return self.length // self.block // (self.window // self.block)

    @property
    def shapes(self) -> Any:
        """What a window is like, nothing being read."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((self.window, *x.shape[1:]), x.dtype), self.rows)

    def read(self, epochs: Iterable[int]) -> Iterator[Any]:
        """The windows of some epochs, one after another; each is read while the one before is used."""
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
