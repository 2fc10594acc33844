"""``recjax score``: calibrated probabilities of the rows of a file. Imports no JAX."""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from recjax import artifact, data
from recjax.cli._values import Parser
from recjax.errors import InputError
from recjax.files import atomic_file


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    found = Parser("recjax score", description="Click probabilities of the rows of a file.", allow_abbrev=False)
    found.add_argument("artifact", type=Path, metavar="ARTIFACT", help="folder of the artifact of a CTR model")
    found.add_argument("rows", type=Path, metavar="ROWS", help="CSV, TSV, Parquet, libfm or Criteo file")
    found.add_argument("--out", type=Path, required=True, metavar="FILE", help="CSV to write, one probability a row")
    found.add_argument("--label", metavar="COLUMN", help="column with labels, to print AUC and log loss")
    return found


def score(arguments: Sequence[str]) -> int:
    """Writes the probabilities of a file's rows; returns the exit code."""
    options = parser().parse_args(arguments)
    model = artifact.load(options.artifact)
    if not isinstance(model, artifact.CTRArtifact):
        raise InputError(f"{options.artifact}: expected the artifact of a CTR model, got one for recjax recommend")
    if os.path.realpath(options.out) == os.path.realpath(options.rows):
        raise InputError(f"option --out: expected another file than {options.rows}, got the same")
    probabilities, labels, unknown, block = [], [], {}, None
    with atomic_file(options.out) as partial, partial.open("w", encoding="utf-8") as out:
        out.write("probability\n")
        for block, label in data.read_blocks(options.rows, model.encoding, label=options.label):
            found = model.predict(block)
            out.writelines(f"{p:.7g}\n" for p in found.tolist())
            probabilities.append(found)
            labels.append(label)
            for name, count in block.unknown.items():
                unknown[name] = unknown.get(name, 0) + count
    rows = sum(map(len, probabilities))
    if block is not None:
        for names, what in ((block.missing, "missing in all rows"), (block.ignored, "ignored")):
            if names:
                print(f"columns {what}: {', '.join(names)}")
    if unknown:
        shares = ", ".join(f"{name} {count / rows:.1%}" for name, count in unknown.items())
        print(f"rows whose value train had rarely or not at all: {shares}")
    metrics = "" if options.label is None else "".join(_metrics(np.concatenate(probabilities), np.concatenate(labels)))
    print(f"{rows:,} rows scored{metrics}: {options.out}")
    return 0


def _metrics(probability: np.ndarray, label: np.ndarray) -> Iterator[str]:
    """AUC, ties counting half, and log loss in nats, of probabilities clipped as scikit-learn does it."""
    _, place, counts = np.unique(probability, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    ones = int(label.sum())
    pairs = ones * (len(label) - ones)
    auc = (ranks[label == 1].sum() - ones * (ones + 1) / 2) / pairs if pairs else None
    yield ", AUC undefined (labels of one kind)" if auc is None else f", AUC {auc:.4f}"
    eps = np.finfo(np.float64).eps
    loss = -np.log(np.clip(np.where(label == 1, probability, 1 - probability), eps, 1))
    yield f", log loss {loss.mean():.4f}"
