"""Slow twins of how a table is read as fields: one value at a time, in plain Python."""

import hashlib
import math
from collections import Counter


def vocabulary(texts, min_count):
    """The categories that are frequent enough, the most frequent first, then by their text."""
    counts = Counter(texts)
    return sorted((text for text in counts if counts[text] >= min_count), key=lambda text: (-counts[text], text))


def category_ids(texts, known):
    return [1 + known.index(text) if text in known else 0 for text in texts]


def hash_id(text, buckets):
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % buckets


def by_hash(ids):
    """A vocabulary: the distinct ids by their 64-bit hash, then by their text."""
    return sorted(set(ids), key=lambda text: (hash_id(text, 2**64), text))


def edges(numbers, buckets):
    """Quantiles by linear interpolation between neighbors in order, each once."""
    ordered, found = sorted(numbers), []
    for k in range(1, buckets):
        place = (len(ordered) - 1) * k / buckets
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        found.append(ordered[low] + (ordered[high] - ordered[low]) * (place - low))
    return sorted(set(found))


def interval_ids(numbers, edges):
    return [0 if x is None else 1 + sum(edge <= x for edge in edges) for x in numbers]


def logarithm(x):
    return math.copysign(math.log(1 + abs(x)), x)


def standard(numbers):
    """Mean and deviation of the population."""
    mean = sum(numbers) / len(numbers)
    return mean, math.sqrt(sum((x - mean) ** 2 for x in numbers) / len(numbers))
