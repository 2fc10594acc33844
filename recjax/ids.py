"""Raw ids and their positions: an id's position is the rank of its hash."""

import hashlib
from collections.abc import Iterable

import numpy as np


def id_hash(ids: Iterable[str]) -> np.ndarray:
    """64-bit hash of raw ids: BLAKE2b of the UTF-8 text, 8 bytes, little endian.

    A vocabulary is sorted by it, so a position depends on the ids alone: not on the order of the rows, a split or
    popularity, which equal scores would leak into a ranking, where the lower position comes first.

    Args:
      ids: ``[n]`` str.

    Returns:
      ``[n]`` uint64.

    Examples:
      >>> vocabulary = sorted(["ann", "bob", "7"], key=lambda raw: int(id_hash([raw])[0]))
      >>> hashes = id_hash(vocabulary)
      >>> [vocabulary[i] for i in np.searchsorted(hashes, id_hash(["7", "bob"]))]
      ['7', 'bob']

    References:
      Saarinen and Aumasson, `The BLAKE2 Cryptographic Hash and Message Authentication Code
      <https://www.rfc-editor.org/rfc/rfc7693>`_, RFC 7693, 2015.
    """
    digests = b"".join([hashlib.blake2b(raw.encode("utf-8", "surrogatepass"), digest_size=8).digest() for raw in ids])
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def vocabulary_order(ids: np.ndarray) -> np.ndarray:
    """``[n]`` int64, the permutation that makes a vocabulary of distinct ids: by hash, equal hashes by text."""
    return _order(id_hash(ids.tolist()), ids)


def _order(hashes: np.ndarray, ids: np.ndarray) -> np.ndarray:
    order = np.argsort(hashes)
    if (np.diff(hashes[order]) == 0).any():  # sorting text too takes several times as long
        order = np.lexsort((ids, hashes))
    return order
