"""What the files of a teacher are about: four users, four items, and ids that any file may hold."""

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from recjax.data import Interactions
from recjax.errors import InputError

USERS, ITEMS = ["ann", "né ☃", "7", "nobody"], ["x", "y y", "007", "z"]
LOG = Interactions(np.int32([0, 0, 1, 2]), np.int32([1, 0, 2, 3]), np.array(USERS), np.array(ITEMS))
relaxed = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])

finite = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**125), max_value=2.0**125)
# what the readers of text give: no blanks around, and nothing that means the end of text
raw_ids = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8).filter(
        lambda text: text == text.strip()
    ),
    min_size=3,
    max_size=3,
    unique=True,
)


def refused(read, message):
    """Refused in one line."""
    with pytest.raises(
        InputError, match=".*".join(map(re.escape, message.removeprefix("... ").split(" ... ")))
    ) as caught:
        read()
    assert "\n" not in str(caught.value)


def vectors(folder, array, ids=("z", "x", "extra", "007", "y y"), name="v.npy"):
    np.save(folder / name, array, allow_pickle=True)
    (folder / "ids.txt").write_text("".join(f"{raw}\n" for raw in ids))
    return folder / name, folder / "ids.txt"
