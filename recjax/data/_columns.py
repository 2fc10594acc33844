"""Columns of a log: found by name and read as ids, numbers or times; errors name the row."""

from collections.abc import Sequence

from recjax.data._names import NAMES, plain
from recjax.data._polars import pl
from recjax.data._source import Source, shown
from recjax.errors import InputError

FLOAT32_MAX = 3.4e38
LONGEST_ID = 512  # an id beyond this is a quote that was never closed, or the wrong column


def find(source: Source, role: str, named: str | None, taken: dict[str, int]) -> int | None:
    """The position of the column for ``role`` (a key of :data:`NAMES`), or None if there is none.

    ``named`` wins (``""``: no column); else the first column with a common name. Without a header, up to four columns
    are user, item, rating and timestamp in this order. ``taken`` are the positions of other roles.
    """
    required = role in ("user", "item")
    columns = [plain(column) for column in source.columns]
    argument = f"{role}_column"
    if named == "" and not required:
        return None
    if named:
        if named in source.columns:
            return only(source, source.columns, named)
        if plain(named) in columns:
            return only(source, columns, plain(named))
        raise InputError(
            f"{source.path}: {argument}={named!r}: expected a column {named!r}, got columns {listed(source)}"
        )
    free = [i for i in range(len(columns)) if i not in taken.values()]
    if source.has_header:
        there = [name for name in NAMES[role] if name in columns and columns.index(name) in free]
        hits = [only(source, columns, name) for name in there[:1]]
    else:
        place = list(NAMES).index(role)
        hits = [place] if len(columns) <= len(NAMES) and place in free else []
    if hits or not required:
        return hits[0] if hits else None
    if source.has_header:
        names = ", ".join(NAMES[role][:4])
        raise InputError(
            f"{source.path}: expected a header line with a column for the {role} ({names}, ...) or its name in "
            f"{argument}, got columns {listed(source)}"
        )
    raise InputError(
        f"{source.path}: expected 2 to 4 columns (user, item, rating, timestamp), a header line, or the column's "
        f"number in {argument}, got {len(columns)} columns and no header line"
    )


def only(source: Source, names: Sequence[str], name: str) -> int:
    """The position of the one column called ``name``; raises if several are."""
    found = [at for at, each in enumerate(names) if each == name]
    if len(found) > 1:
        raise InputError(f"{source.path}: expected one column {name!r}, got {len(found)}")
    return found[0]


def listed(source: Source) -> str:
    """The column names, for an error message."""
    names = [shown(name) for name in source.columns]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def as_ids(source: Source, frame: pl.DataFrame, role: str, column: str) -> pl.Series:
    """Raw ids as text; numeric ids become whole numbers without a decimal point."""
    values = frame[role]
    text = as_text(values)
    if text is None:
        raise InputError(
            f"{source.path}: column {column!r}: expected ids as text or whole numbers, got {values.dtype} values"
        )
    number = values.dtype.is_float() or values.dtype.is_decimal()
    expected = "an id: text or a whole number" if number else "an id"
    blame(source, frame, column, values, text.is_null() | (text == ""), expected)
    blame(source, frame, column, values, text.str.len_chars() > LONGEST_ID, f"an id of at most {LONGEST_ID} characters")
    blame(source, frame, column, values, text.str.contains("\0", literal=True), "an id without NUL characters")
    return text


def as_text(values: pl.Series) -> pl.Series | None:
    """Values as text, null where missing or not a whole number; None for types that have no text."""
    if values.dtype.is_nested() or values.dtype == pl.Object:
        return None
    if values.dtype.is_float():
        whole = values.cast(pl.Int64, strict=False)
        values = whole.set((whole != values).fill_null(True), None)
    if values.dtype == pl.Binary:  # one value that isn't UTF-8 would fail a cast of the whole column
        return pl.Series(values.name, [_decoded(raw) for raw in values], pl.String)
    if not values.dtype.is_decimal():
        return values.cast(pl.String, strict=False)
    text = values.cast(pl.String).str.replace(r"\.0+$", "")
    return text.set(text.str.contains(".", literal=True).fill_null(False), None)


def _decoded(raw: bytes | None) -> str | None:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return None


def as_numbers(source: Source, frame: pl.DataFrame, role: str, column: str) -> pl.Series:
    """Numbers that are finite in float32."""
    values = frame[role]
    numbers = numeric(decimal(source, values))
    wrong = (numbers.is_null() | ~(numbers.abs() <= FLOAT32_MAX)).fill_null(True)
    blame(source, frame, column, values, wrong, "a finite number")
    return numbers


def as_times(source: Source, frame: pl.DataFrame, role: str, column: str) -> pl.Series:
    """Finite numbers of at least 0 in their own unit; ISO dates become seconds since 1970 (UTC without an offset)."""
    values = frame[role]
    if values.dtype.is_temporal():
        seconds = epoch_seconds(values)
    else:
        seconds = numeric(decimal(source, values))
        first = seconds.head(1).to_list()
        if values.dtype == pl.String and first == [None]:  # the first isn't a number: a column of dates
            seconds = iso_seconds(values)
    wrong = (seconds.is_null() | ~seconds.is_finite() | (seconds < 0)).fill_null(True)
    expected = (
        "a time: a number of at least 0, or an ISO date such as 2024-05-31 or 2024-05-31T23:59:59Z, in one format"
    )
    blame(source, frame, column, values, wrong, expected)
    return seconds


def decimal(source: Source, values: pl.Series) -> pl.Series:
    """Replaces the decimal comma, which semicolon-separated files may use, by a point."""
    if source.separator != ";" or values.dtype != pl.String:
        return values
    return values.str.replace(r"^([+-]?\d*),(\d+)$", "${1}.${2}")


def numeric(values: pl.Series) -> pl.Series:
    """Float64, null where a value isn't a number."""
    if values.dtype.is_numeric() or values.dtype in (pl.String, pl.Boolean, pl.Null):
        return values.cast(pl.Float64, strict=False)
    return pl.Series(values.name, [None] * len(values), pl.Float64)


def iso_seconds(values: pl.Series) -> pl.Series:
    """Seconds since 1970 of ISO dates, with or without time, fraction and offset; null where not a date."""
    text = pl.col("t").str.replace_all("/", "-", literal=True).str.replace(r"^(\d{4}-\d\d-\d\d)T", "$1 ")
    zone = r"(:\d\d(?:\.\d+)?) ?(?:Z|z|UTC|([+-])(\d\d):?(\d\d)?)$"
    naive = text.str.replace(zone, "$1")
    formats = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
    parsed = pl.coalesce(naive.str.to_datetime(f, time_unit="us", strict=False) for f in formats)
    hours, minutes = (text.str.extract(zone, group).cast(pl.Float64).fill_null(0.0) for group in (3, 4))
    sign = pl.when(text.str.extract(zone, 2) == "-").then(-1.0).otherwise(1.0)
    seconds = parsed.dt.timestamp("us") / 1e6 - sign * (hours * 3600 + minutes * 60)
    return values.alias("t").to_frame().select(seconds.alias(values.name)).to_series()


def epoch_seconds(values: pl.Series) -> pl.Series:
    """Seconds since 1970 of Parquet dates and datetimes; null for other types."""
    if values.dtype not in (pl.Date, pl.Datetime):  # a time of day or a duration is no point in time
        return pl.Series(values.name, [None] * len(values), pl.Float64)
    return values.cast(pl.Datetime("us")).dt.timestamp("us") / 1e6


def blame(source: Source, frame: pl.DataFrame, column: str, values: pl.Series, wrong: pl.Series, expected: str) -> None:
    """Raises for the first wrong row, if any."""
    if wrong.any():
        at = wrong.arg_max() or 0
        raise source.error(frame["row"][at], column, values[at], expected)
