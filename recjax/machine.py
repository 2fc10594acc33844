"""How a command uses the machine that it runs on. Commands and experiments call this before they compute anything; the
library never does, and leaves JAX's settings alone.
"""

import os

import jax


def one_device_a_core() -> None:
    """Makes every core of a CPU a JAX device, over which the settings of a grid are spread.

    Otherwise XLA leaves cores idle on small programs. A GPU is used instead, where there is one.

    Raises:
      RuntimeError: if JAX has begun to compute.
    """
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def keep_programs() -> None:
    """Keeps compiled programs in the user's cache folder, for the next run; unless JAX has been told where to."""
    from platformdirs import user_cache_path  # of the extra "run"

    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(user_cache_path("recjax") / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
