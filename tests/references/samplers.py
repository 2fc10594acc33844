"""What the samplers should draw: exact probabilities by enumeration, on lists short enough to enumerate."""

import itertools
import math

import numpy as np

from ._lists import _softmax


def rank_probabilities(length, *, temperature, where=None):
    """exp(-r / T) over its sum, r = 1, 2, ... along the entries that count, else 0. Kang et al., RRD, CIKM 2020."""
    counted = [i for i in range(length) if where is None or where[i]]
    out = np.zeros(length)
    if counted:
        out[counted] = _softmax([-rank / temperature for rank in range(1, len(counted) + 1)])
    return out


def ordered_probabilities(weights, count):
    """The probability of each sequence of ``count`` successive draws without replacement, each by weight. Luce 1959.

    Keys are tuples of positions in the order drawn, shorter where fewer weights are positive.
    """
    weights = [float(w) for w in weights]
    count = min(count, sum(w > 0 for w in weights))
    found = {}
    for sequence in itertools.permutations([i for i, w in enumerate(weights) if w > 0], count):
        left, probability = set(range(len(weights))), 1.0
        for i in sequence:
            probability *= weights[i] / sum(weights[j] for j in sorted(left))
            left.remove(i)
        found[sequence] = probability
    return found


def selection_probabilities(weights, count):
    """The probability of each selection, its positions ascending: :func:`ordered_probabilities` over all orders."""
    found = {}
    for sequence, probability in ordered_probabilities(weights, count).items():
        selection = tuple(sorted(sequence))
        found[selection] = found.get(selection, 0.0) + probability
    return found


def inclusion_probabilities(weights, count):
    """The probability of each position to be among ``count`` successive draws without replacement."""
    out = np.zeros(len(weights))
    for sequence, probability in ordered_probabilities(weights, count).items():
        for i in sequence:
            out[i] += probability
    return out


def minimum_probabilities(weights):
    """The law of the better (smaller) of two independent draws by weight. Lee et al., CD, ICDM 2019."""
    weights = [float(w) for w in weights]
    out = np.zeros(len(weights))
    for i, first in enumerate(weights):
        for j, second in enumerate(weights):
            out[min(i, j)] += first * second
    return out / out.sum()


def better_of_two_probabilities(weights, count):
    """The probability of each selection of :func:`minimum_probabilities` draws repeated until ``count`` are distinct.

    A walk over the sets held so far: a draw that is already held changes nothing, so the next new one is conditional.
    """
    law = minimum_probabilities(weights)
    held = {(): 1.0}
    for _ in range(min(count, sum(p > 0 for p in law))):
        following = {}
        for selection, probability in held.items():
            new = [i for i in range(len(law)) if i not in selection]
            total = sum(float(law[i]) for i in new)
            for i in new:
                key = tuple(sorted((*selection, i)))
                following[key] = following.get(key, 0.0) + probability * float(law[i]) / total
        held = following
    return held


def pair_probabilities(weights):
    """Entry (i, j), i < j: two independent draws by weight, redrawn while equal, are these. Chen et al., UnKD, 2023."""
    weights = [float(w) for w in weights]
    out = np.zeros((len(weights), len(weights)))
    for i, first in enumerate(weights):
        for j, second in enumerate(weights):
            if i != j:
                out[min(i, j), max(i, j)] += first * second
    return out / out.sum()


def disagreement_weights(teacher_rank, student_rank, *, sharpness):
    """tanh(max(sharpness (r_S - r_T), 0)) and tanh(max(sharpness (r_T - r_S), 0)). Lee and Kim, DCD, CIKM 2021."""
    teacher_rank, student_rank = np.asarray(teacher_rank), np.asarray(student_rank)
    under, over = np.zeros(teacher_rank.shape), np.zeros(teacher_rank.shape)
    for index in np.ndindex(under.shape):
        later = float(student_rank[index]) - float(teacher_rank[index])
        under[index] = math.tanh(max(sharpness * later, 0.0))
        over[index] = math.tanh(max(-sharpness * later, 0.0))
    return under, over


def rejuvenated_probabilities(teacher_top, *, temperature):
    """exp((c_r + 1) / T) over its sum, c_r the teacher-top items at student rank >= r, at most 50. RCE-KD, 2025."""

    def one(top):
        return _softmax([(min(50, sum(map(bool, top[rank:]))) + 1) / temperature for rank in range(len(top))])

    teacher_top = np.asarray(teacher_top)
    out = np.zeros(teacher_top.shape)
    for index in np.ndindex(teacher_top.shape[:-1]):
        out[index] = one(teacher_top[index].tolist())
    return out


def popularity_groups(counts, groups):
    """Most popular first, the next group opened once the total so far reaches the share of those before. UnKD, 2023.

    Share: g / groups of all popularity for the first g groups. The lower index goes first among equals.
    """
    counts = np.asarray(counts).tolist()
    out = np.zeros(len(counts), np.int32)
    group, so_far = 0, 0
    for item in sorted(range(len(counts)), key=lambda i: (-counts[i], i)):
        while group < groups - 1 and so_far > 0 and so_far * groups >= (group + 1) * sum(counts):
            group += 1
        out[item] = group
        so_far += counts[item]
    return out


def excluded(rows, lists, *, items, width):
    """Each user's own items and their list, every item once, ascending, padded with ``items``; -1 is no item."""
    out = np.full((len(rows), width), items)
    for user, (own, listed) in enumerate(zip(rows, lists, strict=True)):
        union = sorted({int(i) for i in own} | {int(i) for i in listed if 0 <= i < items})
        out[user, : len(union)] = union
    return out


def complement(excluded, items):
    """The items that are not excluded, ascending: a uniform sample of ``count`` has each with count / their number."""
    return [item for item in range(items) if item not in {int(i) for i in excluded}]


def gumbel_selection(gate, noise, *, temperature):
    """softmax((log(softmax(gate) + 1e-10) + g) / tau) for given Gumbel noise g. Kang et al., DE, CIKM 2020."""
    gate, noise = np.asarray(gate, np.float64), np.asarray(noise, np.float64)
    out = np.zeros(gate.shape)
    for index in np.ndindex(gate.shape[:-1]):
        logs = [math.log(p + 1e-10) for p in _softmax(gate[index].tolist())]
        out[index] = _softmax([(v + float(g)) / temperature for v, g in zip(logs, noise[index], strict=True)])
    return out


def annealed_temperature(progress, *, start=1.0, end=1e-10):
    """start (end / start)^progress, progress from 0 to 1. Kang et al., DE, CIKM 2020."""
    return start * (end / start) ** progress
