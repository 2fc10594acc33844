"""Tables and pictures of a run, drawn from its rows alone."""

from recjax.report._page import write_report
from recjax.report._rows import STAGES, label, metric, read_rows, stage_table, unresolved

__all__ = ["STAGES", "label", "metric", "read_rows", "stage_table", "unresolved", "write_report"]
