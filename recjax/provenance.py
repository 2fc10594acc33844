"""Provenance of a result: command, commit, device, versions and settings."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from recjax import machine

PACKAGES = ("recjax", "jax", "jaxlib", "flax", "optax", "numpy")
RESULTS = (":!/experiments/results", ":!/benchmarks/results")  # changed results don't make the commit dirty


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def device() -> dict[str, Any]:
    """The devices that JAX computes on, and the number of ``cores`` that this process may use."""
    kind = jax.devices()[0].device_kind
    return {"platform": jax.default_backend(), "kind": kind, "count": jax.device_count(), "cores": machine.cores()}


def commit() -> str | None:
    """The git commit of this library's working tree; None if it is installed outside of its repository.

    Followed by ``-dirty`` if a tracked file other than a result has changed.
    """
    here = Path(__file__)

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=here.parent, capture_output=True, text=True, check=False)

    try:
        if git("ls-files", "--error-unmatch", here.name).returncode:  # another repository may hold an installed copy
            return None
        head = git("rev-parse", "HEAD").stdout.strip()
        clean = git("diff", "--quiet", "HEAD", "--", ":/", *RESULTS).returncode == 0
    except OSError:  # no git
        return None
    return head if clean else f"{head}-dirty"


def provenance(command: str, *, config: Mapping[str, Any] | None = None, seed: int | None = None) -> dict[str, Any]:
    """The provenance of a result, as a dict for JSON; call it before the work begins.

    Args:
      command: the command line.
      config: the settings; left out if None.
      seed: the random seed, unless in ``config``; left out if None.

    Returns:
      ``command``, ``commit``, ``device``, ``versions``, and ``config`` and ``seed`` as given.

    Examples:
      >>> found = provenance("python -m experiments.example", seed=0)
      >>> list(found), found["seed"]
      (['command', 'commit', 'device', 'versions', 'seed'], 0)
    """
    record = {"command": command, "commit": commit(), "device": device(), "versions": versions()}
    settings = {"config": None if config is None else dict(config), "seed": seed}
    return record | {name: value for name, value in settings.items() if value is not None}
