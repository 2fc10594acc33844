"""Raw ids and their positions in a vocabulary, by the rank of their hashes."""

import hashlib
from collections.abc import Iterable

import numpy as np


def id_hash(ids: Iterable[str]) -> np.ndarray:
    """64-bit hash of raw ids: BLAKE2b of the UTF-8 text, 8 bytes, little endian, ``[n]`` uint64.

    Vocabularies are sorted by it, so a position depends on the ids only. Sorted by popularity, for example, it would
    leak into rankings, where ties are broken by position.

    Examples:
      >>> vocabulary = sorted(["ann", "bob", "7"], key=lambda raw: int(id_hash([raw])[0]))
      >>> [vocabulary[i] for i in np.searchsorted(id_hash(vocabulary), id_hash(["7", "bob"]))]
      ['7', 'bob']

    References:
      `RFC 7693 <https://www.rfc-editor.org/rfc/rfc7693>`_, The BLAKE2 Cryptographic Hash, 2015.
    """
    digests = b"".join([hashlib.blake2b(raw.encode("utf-8", "surrogatepass"), digest_size=8).digest() for raw in ids])
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def vocabulary_order(ids: np.ndarray) -> np.ndarray:
    """``[n]`` int64, the permutation that sorts distinct ids by hash, then by text."""
    return _order(id_hash(ids.tolist()), ids)


def _order(hashes: np.ndarray, ids: np.ndarray) -> np.ndarray:
    order = np.argsort(hashes)
    if (np.diff(hashes[order]) == 0).any():  # rare, and sorting by text too is several times slower
        order = np.lexsort((ids, hashes))
    return order
