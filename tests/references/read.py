"""A slow reader of delimited logs, written from the definition of the format: Python's csv, one row at a time."""

import csv
import io

SEPARATORS = ("::", "\t", ",", ";", "|")


class Refused(Exception):
    """The 1-based line that is wrong."""


def records(text, separator):
    """The 1-based line where each record begins, and its fields."""
    if separator == "::":  # which has no quotes
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return [(i, line.split("::") if line else []) for i, line in enumerate(lines, 1)]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    line, found = 1, []
    for fields in reader:
        found.append((line, fields))
        line = reader.line_num + 1
    return found


def separator_of(text):
    """The one that splits all rows that aren't blank alike into the most fields, or else the most frequent above."""
    head = text.replace("\r", "\n").split("\n")[0]
    there, widths = [mark for mark in SEPARATORS if mark in head], {}
    for mark in there:
        lengths = [len(fields) for _, fields in records(text, mark) if any(field.strip() for field in fields)]
        if len(set(lengths)) == 1 and lengths[0] > 1:
            widths[mark] = lengths[0]
    return max(widths, key=widths.get) if widths else max(there, key=head.count)


def read(text):
    """``[(user, item)]`` of a file with such a header, fields without whitespace around them."""
    mark = separator_of(text)
    (_, header), *rows = records(text, mark)
    names = [field.strip() for field in header]
    out = []
    for line, fields in rows:
        fields = [field.strip() for field in fields] + [""] * (len(names) - len(fields))
        if any(fields[len(names) :]):
            raise Refused(line)
        if any(fields):
            out.append((line, dict(zip(names, fields, strict=False))))
    for name in ("user", "item"):
        for line, row in out:
            if not row[name]:
                raise Refused(line)
    return [(row["user"], row["item"]) for _, row in out]
