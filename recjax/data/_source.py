"""A table in a file, whatever its format: its columns, their values, and the line of the file to blame.

Delimited text (gzipped or not) and Parquet. The modules with an underscore need polars; the public ones
import them inside their functions, so that ``import recjax.data`` works without it.
"""

import contextlib
import csv
import dataclasses
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from recjax.data._polars import pl
from recjax.errors import InputError

SEPARATORS = ("\t", ",", ";", "|")
NEVER = "\x1f"  # a character that is in no text: stands in for '::', which polars can't split at
TYPED = re.compile(r"(.+):(token_seq|token|float_seq|float)")  # a column in the header of RecBole's atomic files
PROBLEMS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)  # polars panics on some corrupt Parquet files


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened table.

    Attributes:
      path: for messages.
      columns: names from the header, without RecBole's types; ``"1"``, ``"2"``, ... where there is no header.
      kinds: RecBole's type of each column, or ``""``.
      has_header: whether the first line of ``body`` names the columns.
      body: text from its first line that isn't blank, or a whole Parquet file.
      separator: between columns; ``""`` for Parquet.
      quoted: whether any field begins with a quote, so that quotes mean what they mean in CSV.
      first_line: 1-based line of the file where ``body`` begins.
    """

    path: str
    columns: tuple[str, ...]
    kinds: tuple[str, ...]
    has_header: bool
    body: bytes = dataclasses.field(repr=False)
    separator: str
    quoted: bool = False
    first_line: int = 1

    def load(self, positions: dict[str, int]) -> pl.DataFrame:
        """Some columns under new names, and ``record``: the row's number from 0, blank lines counted but left out.

        Args:
          positions: new name -> position in ``columns``.

        Returns:
          Text as strings without blanks around them, null where empty; Parquet columns in their own types.
        """
        frame = self._read(sorted(set(positions.values())))
        if self.separator:
            frame = frame.filter(~pl.all_horizontal(pl.all().exclude("record").is_null()))
        if frame.height == 0:
            raise InputError(
                f"{self.path}: found {'only a header' if self.has_header else 'no rows'}, expected rows of data"
            )
        return frame.select("record", *(pl.col(str(at)).alias(name) for name, at in positions.items()))

    def error(self, record: int, column: str, found: object, expected: str) -> InputError:
        """What is wrong with one value, naming the file, the 1-based line (of Parquet: the row) and the column."""
        row = record + 1 if not self.separator else self._line(record)
        return InputError(f"{self.path}: row {row}, column {column!r}: found {shown(found)}, expected {expected}")

    def _read(self, positions: list[int]) -> pl.DataFrame:
        """The columns, named by position. All of them for text: else polars overlooks rows with too many fields."""
        try:
            if not self.separator:
                frame = pl.read_parquet(io.BytesIO(self.body), columns=positions)
            else:
                quote = '"' if self.quoted else None
                frame = pl.read_csv(
                    self.body,
                    has_header=self.has_header,
                    separator=self.separator,
                    quote_char=quote,
                    infer_schema=False,
                )
        except PROBLEMS as problem:
            raise self._malformed(problem) from None
        frame.columns = [str(i) for i in (range(frame.width) if self.separator else positions)]
        if self.separator and b" " in self.body:
            frame = frame.with_columns(pl.all().str.strip_chars())
        if self.separator and (self.quoted or b" " in self.body):  # else polars has made every empty field null already
            frame = frame.with_columns(pl.when(pl.all() != "").then(pl.all()).name.keep())
        return frame.with_row_index("record")

    def _malformed(self, problem: BaseException) -> InputError:
        if not self.separator:
            return InputError(f"{self.path}: found a corrupt Parquet file ({brief(problem)}), expected a whole one")
        expected = len(self.columns)
        line = self.first_line
        try:
            for line, fields in self._records():
                if len(fields) > expected:
                    return InputError(f"{self.path}: row {line}: found {len(fields)} fields, expected {expected}")
        except csv.Error:  # a field that never ends, mostly
            pass
        why = " (a quote that is never closed?)" if self.quoted else ""
        return InputError(
            f"{self.path}: row {line}: found text from here on that can't be split into columns{why}, "
            f"expected {expected} fields a row"
        )

    def _line(self, record: int) -> int:
        if self.quoted:  # a quoted field may hold line breaks, so the lines have to be walked
            with contextlib.suppress(csv.Error):  # a field too long for the csv module: the guess below must do
                for i, (line, _) in enumerate(self._records()):
                    if i == record + self.has_header:
                        return line
        return self.first_line + record + self.has_header

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """The 1-based line where each record begins, and its fields. Slow: for messages only."""
        text = io.StringIO(self.body.decode(errors="replace"), newline="")
        quoting = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        reader = csv.reader(text, delimiter=self.separator, quoting=quoting)
        line = self.first_line
        for fields in reader:
            yield line, fields
            line = self.first_line + reader.line_num


def open_source(path: str | os.PathLike[str], named: Iterable[str | None] = ()) -> Source:
    """The table in a file, its format told from its content.

    The first line is a header unless one of its fields is a number or an ISO date, or the name of a column in ``named``
    shows that it is one all the same.
    """
    name, data = os.fspath(path), read_bytes(path)
    if data.startswith(b"PAR1"):
        try:
            columns = tuple(pl.read_parquet_schema(io.BytesIO(data)))
        except PROBLEMS as problem:
            raise InputError(f"{name}: found a corrupt Parquet file ({brief(problem)}), expected a whole one") from None
        return Source(name, columns, ("",) * len(columns), True, data, "")
    body, first_line = check_text(name, data)
    line = body[: body.find(b"\n")] if b"\n" in body else body
    head = line.decode().rstrip("\r")
    if "\t" not in head and head.count("::") > head.count(","):
        body, head = body.replace(b"::", NEVER.encode()), head.replace("::", NEVER)
        separator = NEVER
    else:
        separator = next((s for s in SEPARATORS if s in head), ",")
    typed = [TYPED.fullmatch(cell.strip()) for cell in head.split(separator)]
    if all(typed):
        columns, kinds = zip(*(match.groups() for match in typed if match), strict=True)
        return Source(name, columns, kinds, True, body, separator, False, first_line)
    mark = separator.encode()
    quoted = body.startswith(b'"') or mark + b'"' in body or b'\n"' in body
    reader = csv.reader([head], delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    fields = tuple(cell.strip() for cell in next(reader))
    has_header = not any(_is_value(cell) for cell in fields) or any(n in fields for n in named if n and not n.isdigit())
    columns = fields if has_header else tuple(str(i + 1) for i in range(len(fields)))
    return Source(name, columns, ("",) * len(columns), has_header, body, separator, quoted, first_line)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file, gunzipped if need be; never empty."""
    name = os.fspath(path)
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{name}: found no such file, expected a log or table") from None
    except IsADirectoryError:
        raise InputError(f"{name}: found a folder, expected a file") from None
    except (OSError, ValueError) as problem:
        raise InputError(
            f"{name}: found a file that can't be read ({brief(problem)}), expected a readable one"
        ) from None
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except EOFError:
            raise InputError(f"{name}: found a truncated gzip file, expected a whole one") from None
        except (OSError, zlib.error) as problem:
            raise InputError(f"{name}: found a corrupt gzip file ({brief(problem)}), expected a whole one") from None
    elif name.endswith(".gz"):
        raise InputError(f"{name}: found a file that isn't gzip, expected gzip from its name")
    if not data:
        raise InputError(f"{name}: found an empty file, expected rows of data")
    return data


def check_text(name: str, data: bytes) -> tuple[bytes, int]:
    """UTF-8 text without byte order mark and blank lines around it, and the 1-based line that it begins at."""
    if data.startswith(b"PK\x03\x04"):
        raise InputError(f"{name}: found a zip archive, expected a file out of it")
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as problem:
            row, found = data.count(b"\n", 0, problem.start) + 1, data[problem.start]
            raise InputError(f"{name}: row {row}: found the byte 0x{found:02x}, expected UTF-8 text") from None
    if b"\0" in data:
        row = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise InputError(f"{name}: row {row}: found a NUL byte, expected UTF-8 text or Parquet")
    if name.lower().removesuffix(".gz").endswith((".parquet", ".pq")):
        raise InputError(f"{name}: found text, expected a Parquet file from its name")
    data = data.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n ")
    if b"\n" not in data and b"\r" in data:  # line ends of another age
        data = data.replace(b"\r", b"\n")
    body = data.lstrip(b"\r\n ")
    if not body:
        raise InputError(f"{name}: found only blank lines, expected rows of data")
    return body, data.count(b"\n", 0, len(data) - len(body)) + 1


def brief(problem: BaseException) -> str:
    """The first line of a message, short."""
    text = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
    return text.strip().split("\n")[0][:120] or type(problem).__name__


def shown(value: object) -> str:
    """A value as it stands in a message: on one line, and not longer than can be read."""
    if value is None:
        return "nothing"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_value(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return re.match(r"\d{4}-\d\d-\d\d", cell) is not None
    return cell.lower() not in ("nan", "inf", "infinity")
