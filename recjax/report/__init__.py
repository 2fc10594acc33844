"""Tables and pictures of a run, drawn from its rows alone."""

from recjax.report._page import write_report
from recjax.report._rows import read_rows, stage_table

__all__ = ["read_rows", "stage_table", "write_report"]
