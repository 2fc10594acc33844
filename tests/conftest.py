"""One setting for the whole suite: eight fake devices, strict ranks, and any warning is a failure (pyproject.toml)."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module", autouse=True)
def _programs(request):
    """A file's programs are of no use to the next, and thousands of them fill the memory.

    Compiling is most of what the tests cost, and equations hold to a tolerance whatever the compiler does. A file with
    ``OPTIMIZED = True`` is about what it does, or walks the whole road as a user would.
    """
    module = getattr(request.node, "obj", None)
    jax.config.update("jax_disable_most_optimizations", not getattr(module, "OPTIMIZED", False))
    yield
    jax.clear_caches()
