"""How a command uses the machine that it runs on. Commands and experiments call this before they compute anything; the
library never does, and leaves JAX's settings alone.
"""

import os

import jax

LIBRARY = "xla_cpu_experimental_ynn_fusion_type"  # an option of XLA: what a CPU leaves to a library
KNOWN = (0, 9) <= jax.__version_info__ < (0, 13)  # by jaxlib; XLA ends at a flag that it doesn't know


def cores() -> int:
    """How many cores this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_device_per_core() -> None:
    """Makes every core of a CPU a JAX device, over which the settings of a grid are spread.

    Otherwise XLA leaves cores idle on small programs. A GPU is used instead, where there is one. Sums are compiled by
    XLA itself: the library that jaxlib 0.10 takes for them costs many small members a third of their training step.
    What ``XLA_FLAGS`` says of it already stays.

    Raises:
      RuntimeError: if JAX has begun to compute.
    """
    jax.config.update("jax_num_cpu_devices", cores())
    flags = os.environ.get("XLA_FLAGS", "")
    if LIBRARY not in flags and KNOWN:
        os.environ["XLA_FLAGS"] = f"{flags} --{LIBRARY}=LIBRARY_FUSION_TYPE_DOT".strip()


def xla_matmul_options() -> tuple[tuple[str, str], ...]:
    """Options under which XLA computes the products of matrices on a CPU itself.

    For :attr:`recjax.train.Recipe.compiler_options`. The library that jaxlib takes for products since 0.10 is faster at
    many small ones side by side, which attention has, and slower at those of dense layers over a batch;
    ``benchmarks/products.py`` measures both.

    Returns:
      Names and values; none for a jaxlib that may not know them.

    Examples:
      >>> dict(xla_matmul_options())
      {'xla_cpu_experimental_ynn_fusion_type': ''}
    """
    return ((LIBRARY, ""),) if KNOWN else ()


def enable_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, for the next run; unless JAX has been told where to."""
    from platformdirs import user_cache_path  # of the extra "run"

    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(user_cache_path("recjax") / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
