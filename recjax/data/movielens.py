"""MovieLens-100K from the package index: a RecBole wheel contains it."""

import dataclasses
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from recjax.data.features import with_features
from recjax.data.interactions import Interactions
from recjax.data.read import read
from recjax.errors import InputError
from recjax.files import atomic_file

TERMS = (
    "MovieLens-100K, (c) GroupLens Research, University of Minnesota: for research use; no redistribution and no "
    "commercial or revenue-bearing use without permission; no endorsement implied. Cite: F. M. Harper and J. A. "
    "Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015, doi:10.1145/2827872."
)

PACKAGE = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
MEMBERS = "recbole/dataset_example/ml-100k"
SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
INSTEAD = "use --synthetic (no network) or --data FILE (your own log)"


def movielens_100k(cache: Path | None = None) -> Interactions:
    """MovieLens-100K: 943 users, 1,682 films, 100,000 ratings with timestamps, titles, and user and item features.

    The files are cached and checked by SHA-256 on every read. If missing or different, the wheel ``recbole==1.2.1`` is
    downloaded with pip, else uv, with the user's own settings; it is not installed. Show GroupLens's terms
    (:data:`TERMS`) to whoever uses the data.

    Args:
      cache: folder for the files; by default ``ml-100k`` in recjax's cache folder of the platform.

    Returns:
      The log, with titles such as ``"Toy Story (1995)"``; items have genres and release year, users age, gender and
      occupation.

    Raises:
      InputError: if the data can't be downloaded or cached; the message gives alternatives.
    """
    folder = _default_cache() if cache is None else Path(cache)
    if not all(_intact(folder / name, digest) for name, digest in SHA256.items()):
        _store(folder, _fetch())
    log = with_features(
        read(folder / "ml-100k.inter"), item_table=folder / "ml-100k.item", user_table=folder / "ml-100k.user"
    )
    lines = (folder / "ml-100k.item").read_text(encoding="utf-8").splitlines()[1:]
    years = {line.split("\t")[0]: line.split("\t")[2] for line in lines}
    assert log.titles is not None
    named = zip(log.titles.tolist(), (years[i] for i in log.item_ids.tolist()), strict=True)
    return dataclasses.replace(
        log, titles=np.array([f"{title} ({year})" if year.isdigit() else title for title, year in named])
    )


def _default_cache() -> Path:
    try:
        from platformdirs import user_cache_path
    except ImportError as error:
        raise ImportError("the cache folder needs platformdirs: pip install 'recjax[run]'") from error
    return user_cache_path("recjax") / "ml-100k"


def _intact(path: Path, digest: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == digest
    except OSError:
        return False


def _store(folder: Path, files: dict[str, bytes]) -> None:
    """Writes each file atomically; other processes may write it at the same time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            with atomic_file(folder / name) as partial:
                partial.write_bytes(data)
    except OSError as problem:
        why = problem.strerror or type(problem).__name__
        raise InputError(f"{folder}: expected a writable cache folder, got an error ({why}); {INSTEAD}") from None


def _fetch() -> dict[str, bytes]:
    """The three files from the wheel, checked."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if importlib.util.find_spec("pip") is not None:
            _run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "--no-deps",
                    "--only-binary=:all:",
                    "--no-input",
                    "-d",
                    temporary,
                    PACKAGE,
                ]
            )
            files = _from_wheel(next(iter(folder.glob("*.whl")), None))
        elif (uv := shutil.which("uv")) is not None:
            python = ["--python", sys.executable]
            _run([uv, "pip", "install", "--no-deps", "--only-binary=:all:", *python, "--target", temporary, PACKAGE])
            members = folder / MEMBERS
            files = {name: (members / name).read_bytes() for name in SHA256 if (members / name).is_file()}
        else:
            raise InputError(f"MovieLens-100K: expected pip or uv to download it with, got neither; {INSTEAD}")
    for name, digest in SHA256.items():
        found = hashlib.sha256(files[name]).hexdigest() if name in files else "no such file"
        if found != digest:
            raise InputError(
                f"MovieLens-100K: expected {name} of {PACKAGE} with sha256 {digest}, got {found}; {INSTEAD}"
            )
    return files


def _run(command: list[str]) -> None:
    client = "uv" if command[1] == "pip" else "pip"
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=300
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"MovieLens-100K: expected {PACKAGE}, got no answer to {client} within 300 seconds; {INSTEAD}"
        ) from None
    if done.returncode != 0:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        why = next(
            (line for line in reversed(said) if line.lower().startswith("error")), said[-1] if said else "no message"
        )
        raise InputError(f"MovieLens-100K: expected {PACKAGE} from {client}, got an error ({why[:200]}); {INSTEAD}")


def _from_wheel(wheel: Path | None) -> dict[str, bytes]:
    data = b"" if wheel is None else wheel.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if wheel is None or found != WHEEL_SHA256:
        raise InputError(
            f"MovieLens-100K: expected a wheel of {PACKAGE} with sha256 {WHEEL_SHA256}, got {found}; {INSTEAD}"
        )
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(f"{MEMBERS}/{name}") for name in SHA256}
