"""Tables in files: delimited text (gzipped or not) and Parquet, with line numbers for error messages.

Modules with an underscore need polars; public ones import them inside functions, so ``import recjax.data`` works
without it.
"""

import contextlib
import csv
import dataclasses
import gzip
import io
import itertools
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from recjax.data._names import NAMES, plain
from recjax.data._polars import pl
from recjax.errors import InputError

SEPARATORS = ("::", "\t", ",", ";", "|")
MARK = "\x1f"  # stands in for separators of more than one character, which polars can't split at
END = "\x1e\x1d\x1e"  # a line after the last one; an unclosed quote swallows it
SAMPLE = 1000  # lines from which the separator is chosen
BATCH = 2**16  # rows of quoted text that are converted at once
TYPED = re.compile(r"(.+):(token_seq|token|float_seq|float)")  # a column in the header of RecBole's atomic files
PROBLEMS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)  # polars panics on some corrupt Parquet files


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened table.

    Attributes:
      path: for messages.
      columns: names from the header, without RecBole's types; ``"1"``, ``"2"``, ... without a header.
      kinds: RecBole's type of each column, or ``""``.
      has_header: whether the first line of ``body`` is a header.
      body: text from the first line that isn't blank, or the bytes of a Parquet file.
      separator: between columns; ``""`` for Parquet.
      quoted: whether any field begins with a quote, so that CSV quoting applies.
      first_row: 1-based line of the file where ``body`` begins.
    """

    path: str
    columns: tuple[str, ...]
    kinds: tuple[str, ...]
    has_header: bool
    body: bytes = dataclasses.field(repr=False)
    separator: str
    quoted: bool = False
    first_row: int = 1

    def load(self, positions: dict[str, int]) -> pl.DataFrame:
        """Some columns under new names, and ``row``: the 1-based line of the file (of Parquet, the row).

        Text comes as strings stripped of whitespace, null where empty; Parquet columns keep their types.

        Args:
          positions: new name -> position in ``columns``.
        """
        if not self.separator:
            frame = self._read_parquet(sorted(set(positions.values())))
        else:
            frame = self._read_slowly() if self.quoted else self._read_plain()
            text = pl.all().exclude("row").str.strip_chars()
            frame = frame.with_columns(text).with_columns(pl.when(text != "").then(text).name.keep())
            frame = frame.filter(~pl.all_horizontal(pl.all().exclude("row").is_null()))
        if frame.height == 0:
            raise InputError(
                f"{self.path}: expected rows of data, got {'only a header' if self.has_header else 'no rows'}"
            )
        return frame.select("row", *(pl.col(str(at)).alias(name) for name, at in positions.items()))

    def error(self, row: int, column: str, found: object, expected: str) -> InputError:
        """An error about one value, with the file, the row and the column."""
        return InputError(f"{self.path}: row {row}, column {column!r}: expected {expected}, got {shown(found)}")

    def _read_parquet(self, positions: list[int]) -> pl.DataFrame:
        try:
            frame = pl.read_parquet(io.BytesIO(self.body), columns=positions)
        except PROBLEMS as problem:
            raise _corrupt_parquet(self.path, problem) from None
        frame.columns = [str(at) for at in positions]
        return frame.with_row_index("row", 1)

    def _read_plain(self) -> pl.DataFrame:
        """All columns, named by position: reading only some, polars ignores rows with too many fields."""
        frame = None
        with contextlib.suppress(*PROBLEMS):  # usually too many fields
            frame = pl.read_csv(
                self.body, has_header=self.has_header, separator=self.separator, quote_char=None, infer_schema=False
            )
        if frame is None:
            return self._read_slowly()
        frame.columns = [str(i) for i in range(frame.width)]
        return frame.with_row_index("row", self.first_row + self.has_header)

    def _read_slowly(self) -> pl.DataFrame:
        """All columns, named by position, by Python's csv: polars rejects quotes inside a field."""
        names = [str(i) for i in range(len(self.columns))]
        frames, rows, numbers = [], [], []
        lines = itertools.chain(_text_lines(self.body), ["\n", END])
        quoting = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        records = csv.reader(lines, delimiter=self.separator, quoting=quoting)
        start, problem = self.first_row, "expected a closing quote, got the end of the file"
        try:
            for fields in records:
                if fields == [END] or len(rows) == BATCH:
                    columns = zip(*rows, strict=True) if rows else [[]] * len(names)
                    frame = pl.DataFrame(dict(zip(names, columns, strict=True)), schema=dict.fromkeys(names, pl.String))
                    frames.append(frame.insert_column(0, pl.Series("row", numbers, pl.UInt32)))
                    rows, numbers = [], []
                if fields == [END]:
                    return pl.concat(frames).slice(int(self.has_header))
                while len(fields) > len(names) and not fields[-1].strip():
                    fields.pop()
                if len(fields) > len(names):
                    raise InputError(f"{self.path}: row {start}: expected {len(names)} fields, got {len(fields)}")
                if len(fields) < len(names):
                    fields += [None] * (len(names) - len(fields))
                rows.append(fields)
                numbers.append(start)
                start = self.first_row + records.line_num
            start = numbers[-1]
        except csv.Error:
            problem = f"expected fields of at most {csv.field_size_limit():,} characters, got more (an unclosed quote?)"
        raise InputError(f"{self.path}: row {start}: {problem}")


def open_source(path: str | os.PathLike[str], named: Iterable[str | None] = ()) -> Source:
    """Opens a file, detecting its format from the content.

    The separator is the one that splits all rows into the same, largest number of fields; blanks only below a known
    header. The first line is a header unless one of its fields is a number or an ISO date; a column name in ``named``
    overrules that.
    """
    name, data = os.fspath(path), read_bytes(path)
    if data.startswith(b"PAR1"):
        try:
            columns = tuple(pl.read_parquet_schema(io.BytesIO(data)))
        except PROBLEMS as problem:
            raise _corrupt_parquet(name, problem) from None
        return Source(name, columns, ("",) * len(columns), True, data, "")
    body, first_row = check_text(name, data)
    separator = _separator(body, named)
    if len(separator) > 1 or separator == " ":
        check_mark(name, body)
        if separator == " ":
            body = re.sub(rb"[ \t]+", MARK.encode(), re.sub(rb"(?m)^[ \t]+|[ \t]+$", b"", unix(body)))
        body, separator = body.replace(separator.encode(), MARK.encode()), MARK
    mark = separator.encode()
    typed = [TYPED.fullmatch(cell.strip()) for cell in _head(body).split(separator)]
    if all(typed):
        columns, kinds = zip(*(match.groups() for match in typed if match), strict=True)
        return Source(name, columns, kinds, True, unix(body), separator, False, first_row)
    quoted = separator != MARK and (
        body.startswith(b'"') or any(before + b'"' in body for before in (mark, b"\n", b"\r"))
    )
    body = body if quoted else unix(body)
    fields = tuple(cell.strip() for cell in next(iter(_sample(body, separator)), ()))
    has_header = not any(_is_value(cell) for cell in fields) or any(n in fields for n in named if n and not n.isdigit())
    columns = fields if has_header else tuple(str(i + 1) for i in range(len(fields)))
    return Source(name, columns, ("",) * len(columns), has_header, body, separator, quoted, first_row)


def has_columns(body: bytes, named: Iterable[str | None]) -> bool:
    """Whether a text is a table: its first line has a separator, or is a known header separated by blanks."""
    return any(mark in _head(body) for mark in SEPARATORS) or _separator(body, named) == " "


def _separator(body: bytes, named: Iterable[str | None]) -> str:
    head = _head(body)
    marks = [mark for mark in SEPARATORS if mark in head]
    if not marks:
        words = head.split()
        roles = [set(map(plain, words)) & set(NAMES[role]) for role in ("user", "item")]
        known = all(roles) or all(map(TYPED.fullmatch, words)) or any(n in words or n.isdigit() for n in named if n)
        return " " if known and len(words) > 1 else ","
    widths = {mark: {len(row) for row in _sample(body, mark) if any(map(str.strip, row))} for mark in marks}
    alike = [mark for mark in marks if len(widths[mark]) == 1 and max(widths[mark]) > 1]
    return max(alike, key=lambda mark: max(widths[mark])) if alike else max(marks, key=head.count)


def _sample(body: bytes, separator: str) -> list[list[str]]:
    """The first rows, split at a separator."""
    mark = separator if len(separator) == 1 else MARK
    lines = [line.replace(separator, mark) for line in itertools.islice(_text_lines(body), SAMPLE)]
    rows = []
    with contextlib.suppress(csv.Error):  # a field that is too long; reading the file reports it
        for row in csv.reader(lines, delimiter=mark, quoting=csv.QUOTE_NONE if mark == MARK else csv.QUOTE_MINIMAL):
            rows.append(row)
    return rows[:-1] if len(lines) == SAMPLE and len(rows) > 1 else rows  # the last one may be cut


def _text_lines(body: bytes) -> Iterator[str]:
    """Lines with their line ends, which csv keeps inside quotes."""
    return io.TextIOWrapper(io.BytesIO(body), "utf-8", newline="")


def _head(body: bytes) -> str:
    return re.split(rb"[\r\n]", body, maxsplit=1)[0].decode()


def check_mark(name: str, body: bytes) -> None:
    """Rejects text with the character that stands in for a separator."""
    if MARK.encode() in body:
        row = _row(body, body.index(MARK.encode()))
        raise InputError(f"{name}: row {row}: expected UTF-8 text, got the control character 0x1f")


def read_lines(name: str, body: bytes) -> pl.Series:
    """The lines of a text, null where empty."""
    check_mark(name, body)
    return pl.read_csv(unix(body), has_header=False, separator=MARK, quote_char=None, infer_schema=False).to_series()


def _corrupt_parquet(path: str, problem: BaseException) -> InputError:
    return InputError(f"{path}: expected a Parquet file, got a corrupt one ({brief(problem)})")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The non-empty content of a file, gunzipped if need be."""
    name = os.fspath(path)
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{name}: expected a log or table, got no such file") from None
    except IsADirectoryError:
        raise InputError(f"{name}: expected a file, got a folder") from None
    except (OSError, ValueError) as problem:
        raise InputError(f"{name}: expected a readable file, got an error ({brief(problem)})") from None
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except EOFError:
            raise InputError(f"{name}: expected a gzip file, got a truncated one") from None
        except (OSError, zlib.error) as problem:
            raise InputError(f"{name}: expected a gzip file, got a corrupt one ({brief(problem)})") from None
    elif name.endswith(".gz"):
        raise InputError(f"{name}: expected a gzip file from its name, got another format")
    if not data:
        raise InputError(f"{name}: expected rows of data, got an empty file")
    return data


def check_text(name: str, data: bytes) -> tuple[bytes, int]:
    """UTF-8 text without byte order mark and surrounding blank lines, and the 1-based line where it begins."""
    if data.startswith(b"PK\x03\x04"):
        raise InputError(f"{name}: expected a log or table, got a zip archive; extract a file from it")
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as problem:
            row, found = _row(data, problem.start), data[problem.start]
            raise InputError(f"{name}: row {row}: expected UTF-8 text, got the byte 0x{found:02x}") from None
    if b"\0" in data:
        row = _row(data, data.index(b"\0"))
        raise InputError(f"{name}: row {row}: expected UTF-8 text or Parquet, got a NUL byte")
    if name.lower().removesuffix(".gz").endswith((".parquet", ".pq")):
        raise InputError(f"{name}: expected a Parquet file from its name, got text")
    data = data.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n ")
    body = data.lstrip(b"\r\n ")
    if not body:
        raise InputError(f"{name}: expected rows of data, got only blank lines")
    return body, _row(data, len(data) - len(body))


def unix(text: bytes) -> bytes:
    """The same text with LF line ends."""
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _row(text: bytes, at: int) -> int:
    """The 1-based line of a byte."""
    return unix(text[:at]).count(b"\n") + 1


def brief(problem: BaseException) -> str:
    """The first line of an error message, shortened."""
    text = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
    return text.strip().split("\n")[0][:120] or type(problem).__name__


def shown(value: object) -> str:
    """A value for an error message, on one short line."""
    if value is None:
        return "nothing"
    text = " ".join(repr(value.to_list() if isinstance(value, pl.Series) else value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_value(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return re.match(r"\d{4}-\d\d-\d\d", cell) is not None
    return cell.lower() not in ("nan", "inf", "infinity")
