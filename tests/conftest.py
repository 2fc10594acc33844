"""Settings of the whole suite: eight fake devices, strict ranks, and any warning is a failure (pyproject.toml)."""

import os

# Thousands of small programs are compiled once and run once: XLA's older, quicker way of writing them halves that.
QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"  # read when jax first compiles

import jax  # noqa: E402
import pytest  # noqa: E402

from recjax.cli import main  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module", autouse=True)
def _programs(request):
    """A file's programs are of no use to the next, and thousands of them fill the memory.

    Compiling is most of what the tests cost, and equations hold to a tolerance whatever the compiler does. A file with
    ``OPTIMIZED = True`` is about what it does.
    """
    module = getattr(request.node, "obj", None)
    jax.config.update("jax_disable_most_optimizations", not getattr(module, "OPTIMIZED", False))
    yield
    jax.clear_caches()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refuse(capsys):
    """Runs a command line that must fail, and gives its message."""

    def check(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert error.endswith("\n")
        assert len(error.splitlines()) == 1, error
        assert error.startswith("recjax: ")
        assert "Traceback" not in error
        return error

    return check
