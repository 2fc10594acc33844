"""Process-wide settings of JAX for the machine, called by commands and experiments, never by the library."""

import os

import jax

LIBRARY = "xla_cpu_experimental_ynn_fusion_type"  # XLA option: the operations that a CPU library computes
KNOWN = (0, 9) <= jax.__version_info__ < (0, 13)  # XLA aborts at an unknown flag


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_device_per_core() -> None:
    """Makes each CPU core a JAX device, so that the settings of a grid use all cores; a GPU has priority.

    Raises:
      RuntimeError: if JAX is already initialized.
    """
    jax.config.update("jax_num_cpu_devices", cores())
    # XLA compiles sums itself: the library that jaxlib uses since 0.10 slows steps of many small members by a third.
    flags = os.environ.get("XLA_FLAGS", "")
    if LIBRARY not in flags and KNOWN:
        os.environ["XLA_FLAGS"] = f"{flags} --{LIBRARY}=LIBRARY_FUSION_TYPE_DOT".strip()


def xla_matmul_options() -> tuple[tuple[str, str], ...]:
    """Options under which XLA compiles matrix products on a CPU itself, for
    :attr:`recjax.train.Recipe.compiler_options`.

    The library that jaxlib uses since 0.10 is faster for many small products, as in attention, and slower for those of
    dense layers over a batch; ``benchmarks/products.py`` measures both.

    Returns:
      Names and values; none for a jaxlib that may not know them.

    Examples:
      >>> dict(xla_matmul_options())
      {'xla_cpu_experimental_ynn_fusion_type': ''}
    """
    return ((LIBRARY, ""),) if KNOWN else ()


def enable_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX has a cache folder already."""
    from platformdirs import user_cache_path  # of the extra "run"

    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(user_cache_path("recjax") / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
