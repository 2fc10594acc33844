"""One setting for the whole suite: eight fake devices, strict ranks, and any warning is a failure (pyproject.toml)."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
