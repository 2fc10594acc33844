"""One setting for the whole suite: eight fake devices, strict ranks, and any warning is a failure (pyproject.toml)."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """A file's programs are of no use to the next, and thousands of them fill the memory."""
    yield
    jax.clear_caches()
