"""The ``recjax`` command. Each of its commands imports what it needs: ``recommend`` and ``score`` import no JAX."""

import io
import sys
from collections.abc import Sequence

from recjax.errors import InputError

HELP = """\
recjax: from a log of interactions to a small, fast recommender.

  recjax run --data ratings.csv                     train on your log; writes a report and an artifact to runs/ratings
  recjax run --resume runs/ratings                  go on with a run that was stopped
  recjax recommend runs/ratings/artifact --user 7   the best items for a user
  recjax serve runs/ratings/artifact                the same over HTTP, with a page to try it
  recjax data ratings.csv                           what a file has, and how it would be read
  recjax score runs/clicks/artifact rows.csv --out scores.csv   click probabilities of raw rows

recjax COMMAND --help describes the options; recjax --version prints the versions."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the ``recjax`` command; returns the exit code."""
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    for stream in (sys.stdout, sys.stderr):  # a title that the terminal's encoding lacks is no reason to stop
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _command(name, rest)
    except InputError as error:
        print("recjax:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    except OSError as error:  # a disk that is full, a folder that has gone
        print(f"recjax: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("recjax: interrupted" + "".join(stop.args), file=sys.stderr)
        return 130


def _command(name: str, arguments: Sequence[str]) -> int:
    match name:
        case "run":
            from recjax.cli._run import run

            return run(arguments)
        case "recommend":
            from recjax.cli._recommend import recommend

            return recommend(arguments)
        case "serve":
            from recjax.cli._serve import serve

            return serve(arguments)
        case "data":
            from recjax.cli._data import describe

            return describe(arguments)
        case "score":
            from recjax.cli._score import score

            return score(arguments)
        case "--version":
            from recjax.provenance import versions

            print(" ".join(f"{package} {version}" for package, version in versions().items()))
        case "--help" | "-h":
            print(HELP)
        case _:
            raise InputError(f"expected run, recommend, serve, data or score, got {name}; see recjax --help")
    return 0
