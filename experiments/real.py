"""Where the real data sets are, none of which is in this repository."""

import os
import pathlib

DATA = pathlib.Path(os.environ.get("RECJAX_DATA") or pathlib.Path(__file__).parents[1] / ".." / "shared" / "data")
