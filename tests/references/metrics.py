"""Slow NumPy twins of the metrics, in float64, written from the papers and not from the code."""

import itertools
import math
from fractions import Fraction

import numpy as np


def top_hits(scores, labels, *, k, where=None):
    """Sorts the allowed items by descending score, the lower index first among equals, and looks up the first k."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    where = np.ones(scores.shape, bool) if where is None else np.asarray(where)
    hits = np.zeros((*scores.shape[:-1], k), bool)
    relevant = np.zeros(scores.shape[:-1], np.int32)
    for index in np.ndindex(relevant.shape):
        allowed = [item for item in range(scores.shape[-1]) if where[index][item]]
        ranking = sorted(allowed, key=lambda item: (-float(scores[index][item]), item))
        for rank, item in enumerate(ranking[:k]):
            hits[(*index, rank)] = labels[index][item]
        relevant[index] = sum(bool(labels[index][item]) for item in allowed)
    return hits, relevant


def ndcg(hits, relevant):
    """DCG / ideal DCG, discount 1 / log2(rank + 1), binary gains. Järvelin and Kekäläinen, TOIS 2002, section 2.2-2.3.

    (The discount is the later usual one of Burges et al. 2005, which discounts rank 2 as well.)
    """
    hits, relevant = np.asarray(hits), np.asarray(relevant)
    out = np.zeros(relevant.shape)
    for index in np.ndindex(out.shape):
        gain = sum(1 / math.log2(rank + 1) for rank, hit in enumerate(hits[index], start=1) if hit)
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(int(relevant[index]), hits.shape[-1]) + 1))
        out[index] = gain / ideal if relevant[index] else 0.0
    return out


def recall(hits, relevant):
    """|hits in the first k| / |relevant|. Manning et al., Introduction to Information Retrieval, 2008, section 8.3."""
    hits, relevant = np.asarray(hits), np.asarray(relevant)
    out = np.zeros(relevant.shape)
    for index in np.ndindex(out.shape):
        out[index] = sum(bool(hit) for hit in hits[index]) / int(relevant[index]) if relevant[index] else 0.0
    return out


def _each_ranking(hits, relevant, function):
    """Applies ``function`` to each ranking and its number of relevant items; a list without relevant items gives 0."""
    hits, relevant = np.asarray(hits), np.asarray(relevant)
    out = np.zeros(relevant.shape)
    for index in np.ndindex(out.shape):
        if relevant[index] > 0:
            out[index] = function([bool(hit) for hit in hits[index]], int(relevant[index]))
    return out


def precision(hits, relevant):
    """|hits in the first k| / k. Manning et al., Introduction to Information Retrieval, 2008, section 8.4."""
    return _each_ranking(hits, relevant, lambda ranking, _: sum(ranking) / len(ranking))


def hit_rate(hits, relevant):
    """1 where any of the first k is a hit: the mean over users is HR@k of Deshpande and Karypis, TOIS 2004."""
    return _each_ranking(hits, relevant, lambda ranking, _: float(any(ranking)))


def mrr(hits, relevant):
    """1 / rank of the first hit, 0 without one. Voorhees, TREC-8 question answering track report, 1999."""

    def one(ranking, _):
        for rank, hit in enumerate(ranking, start=1):
            if hit:
                return 1 / rank
        return 0.0

    return _each_ranking(hits, relevant, one)


def map(hits, relevant):
    """Sum over the hits of the precision at their rank, divided by min(relevant, k). Manning et al. 2008, section 8.4.

    (The book and TREC divide by the number of relevant items; min with k is the definition of AP@k for a cut list.)
    """

    def one(ranking, count):
        total = 0.0
        for rank in range(1, len(ranking) + 1):
            if ranking[rank - 1]:
                total += sum(ranking[:rank]) / rank
        return total / min(count, len(ranking))

    return _each_ranking(hits, relevant, one)


def list_hits(items, truth):
    """Looks up each listed id in the set of true ones; a true id counts the first time it is listed; -1 is padding."""
    items, truth = np.asarray(items), np.asarray(truth)
    hits = np.zeros(items.shape, bool)
    relevant = np.zeros(items.shape[:-1], np.int32)
    for index in np.ndindex(relevant.shape):
        wanted = {int(item) for item in truth[index] if item >= 0}
        found = set()
        for rank, item in enumerate(items[index]):
            hits[(*index, rank)] = int(item) in wanted and int(item) not in found
            found.add(int(item))
        relevant[index] = len(wanted)
    return hits, relevant


# ------------------------------------------------------------------------------------------------- click prediction


def _each_list(function, *arrays, where=None):
    """Applies ``function`` to each list (last axis), cut down to the entries that count."""
    arrays = [np.asarray(array, np.float64) for array in arrays]
    out = np.zeros(arrays[0].shape[:-1])
    for index in np.ndindex(out.shape):
        keep = [True] * arrays[0].shape[-1] if where is None else [bool(w) for w in np.asarray(where)[index]]
        out[index] = function(*([float(v) for v, k in zip(array[index], keep, strict=True) if k] for array in arrays))
    return out


def _sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _mean(values):
    return math.fsum(values) / len(values)


def _pairs_won(positives, negatives):
    """Number of pairs of a positive and a negative in the right order, ties counted one half."""
    won = Fraction(0)
    for p in positives:
        for n in negatives:
            won += Fraction(int(p > n)) + Fraction(int(p == n), 2)
    return won


def auc(logits, labels, *, where=None):
    """The share of (positive, negative) pairs in the right order, ties one half. Hanley and McNeil, Radiology 1982.

    With one class only there is no pair: undefined, NaN; and a score of NaN has no order.
    """

    def one(scores, classes):
        positives = [s for s, y in zip(scores, classes, strict=True) if y]
        negatives = [s for s, y in zip(scores, classes, strict=True) if not y]
        if not positives or not negatives or any(math.isnan(s) for s in scores):
            return math.nan
        return float(_pairs_won(positives, negatives) / (len(positives) * len(negatives)))

    return _each_list(one, logits, labels, where=where)


def auc_histogram(bins):
    """Empty counts, (positives, negatives) by bin."""
    return [0] * bins, [0] * bins


def auc_update(histogram, logits, labels, *, where=None):
    """Counts each example in the bin floor(bins * sigma(logit)) of its class, the last bin closed."""
    positives, negatives = (list(counts) for counts in histogram)
    for i, (logit, label) in enumerate(zip(logits, labels, strict=True)):
        if where is None or where[i]:
            place = min(int(_sigmoid(float(logit)) * len(positives)), len(positives) - 1)
            (positives if label else negatives)[place] += 1
    return positives, negatives


def auc_bounds(histogram):
    """AUC with pairs within a bin as ties, and half the share of such pairs, which bounds the error."""
    positives, negatives = ([int(count) for count in counts] for counts in histogram)
    pairs = sum(positives) * sum(negatives)
    if not pairs:
        return math.nan, math.nan
    won, tied = Fraction(0), Fraction(0)
    for b, p in enumerate(positives):
        for c, n in enumerate(negatives):
            won += p * n * (Fraction(int(b > c)) + Fraction(int(b == c), 2))
            tied += p * n * int(b == c)
    return float(won / pairs), float(tied / (2 * pairs))


def grouped_auc(logits, labels, group, *, groups):
    """sum_g n_g AUC_g / sum_g n_g over the groups with both classes. GAUC, Zhou et al., DIN, KDD 2018."""
    total, examples = 0.0, 0
    for g in range(groups):
        inside = [i for i, other in enumerate(np.asarray(group)) if other == g]
        value = auc(np.asarray(logits)[inside], np.asarray(labels)[inside])
        if len({bool(np.asarray(labels)[i]) for i in inside}) == 2:
            total, examples = total + len(inside) * float(value), examples + len(inside)
    return total / examples if examples else math.nan


def _nats(logit, label):
    """-[y log sigma(z) + (1 - y) log(1 - sigma(z))] = max(z, 0) - z y + log(1 + e^-|z|)."""
    return math.nan if math.isnan(logit) else max(logit, 0.0) - logit * label + math.log1p(math.exp(-abs(logit)))


def logloss(logits, labels, *, where=None):
    """Mean of -log of the probability of the observed label, in nats; 0 if no example counts."""
    return _each_list(
        lambda z, y: _mean([*itertools.starmap(_nats, zip(z, y, strict=True))]) if z else 0.0,
        logits,
        labels,
        where=where,
    )


def normalized_entropy(logits, labels, *, where=None):
    """Log loss / entropy of the base rate. He et al., ADKDD 2014. NaN if there is a single class."""

    def one(z, y):
        rate = _mean(y) if y else 0.0
        if rate in (0.0, 1.0):
            return math.nan
        return float(logloss(z, y)) / -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))

    return _each_list(one, logits, labels, where=where)


def calibration_error(logits, labels, *, bins=15, where=None):
    """sum_b n_b / n |mean label - mean probability| over equal-width bins. ECE, Naeini et al., AAAI 2015."""

    def one(z, y):
        if any(math.isnan(v) for v in z):
            return math.nan
        total = 0.0
        probabilities = [_sigmoid(v) for v in z]
        for b in range(bins):
            inside = [i for i, p in enumerate(probabilities) if min(int(p * bins), bins - 1) == b]
            if inside:
                gap = _mean([y[i] for i in inside]) - _mean([probabilities[i] for i in inside])
                total += len(inside) / len(z) * abs(gap)
        return total

    return _each_list(one, logits, labels, where=where)


def calibration_ratio(logits, labels, *, where=None):
    """Mean probability / mean label: "calibration" of He et al., ADKDD 2014. NaN without a positive."""

    def one(z, y):
        return _mean([_sigmoid(v) for v in z]) / _mean(y) if any(y) else math.nan

    return _each_list(one, logits, labels, where=where)


# -------------------------------------------------------------------------------------------------- beyond accuracy


def exposure(items, *, catalog):
    """How often each item is listed; -1 is padding."""
    counts = np.zeros(catalog, np.int32)
    for item in np.asarray(items).ravel():
        if item >= 0:
            counts[item] += 1
    return counts


def coverage(counts):
    """Share of the catalog that is listed at least once. Catalog coverage of Ge et al., RecSys 2010."""
    return _each_list(lambda row: sum(count > 0 for count in row) / len(row), counts)


def gini(counts):
    """Half the relative mean absolute difference: sum_ij |x_i - x_j| / (2 n^2 mean). Gini 1912; all 0 gives 0."""

    def one(row):
        differences = sum(abs(Fraction(a) - Fraction(b)) for a in row for b in row)
        return float(differences / (2 * len(row) * sum(Fraction(value) for value in row))) if any(row) else 0.0

    return _each_list(one, counts)


def entropy(counts):
    """-sum_i p_i log p_i in nats of the shares p_i of the exposure, 0 log 0 = 0. Shannon 1948; all 0 gives 0."""

    def one(row):
        return -math.fsum(c / sum(row) * math.log(c / sum(row)) for c in row if c > 0) + 0.0

    return _each_list(one, counts)


def novelty(items, popularity, *, users):
    """Mean self-information log2(users / popularity) of what is listed. Zhou et al., PNAS 2010.

    An item of no train user counts as an item of one; nothing listed gives 0.
    """
    items = np.asarray(items)
    out = np.zeros(items.shape[:-1])
    for index in np.ndindex(out.shape):
        listed = [math.log2(users / max(float(popularity[item]), 1.0)) for item in items[index] if item >= 0]
        out[index] = _mean(listed) if listed else 0.0
    return out


def intra_list_distance(vectors, *, where=None):
    """Mean of 1 - cosine over the pairs of a list. Ziegler et al., WWW 2005, as a mean of distances.

    A vector of 0 has cosine 0 with all others; fewer than two items give 0.
    """
    vectors = np.asarray(vectors, np.float64)
    out = np.zeros(vectors.shape[:-2])
    for index in np.ndindex(out.shape):
        rows = [row for i, row in enumerate(vectors[index]) if where is None or np.asarray(where)[index][i]]
        distances = []
        for i in range(len(rows)):
            for j in range(i):
                dot = math.fsum(a * b for a, b in zip(rows[i], rows[j], strict=True))
                norms = math.hypot(*rows[i]) * math.hypot(*rows[j])
                distances.append(1 - (dot / norms if norms != 0 else 0.0))
        out[index] = _mean(distances) if distances else 0.0
    return out


def recall_by_group(hits, items, truth_counts, group):
    """Hits on items of a group / relevant items of the group, 0 where there is none."""
    hits, items, truth_counts = np.asarray(hits), np.asarray(items), np.asarray(truth_counts)
    out = np.zeros(truth_counts.shape)
    for index in np.ndindex(out.shape[:-1]):
        found = [int(group[item]) for item, hit in zip(items[index], hits[index], strict=True) if hit and item >= 0]
        for g in range(out.shape[-1]):
            if truth_counts[index][g]:
                out[(*index, g)] = found.count(g) / int(truth_counts[index][g])
    return out


def overlap(student, teacher):
    """|ids in both lists| / k, without -1. (A of Fagin et al., SIAM J. Discrete Math. 2003, at depth k.)"""
    student, teacher = np.asarray(student), np.asarray(teacher)
    out = np.zeros(student.shape[:-1])
    for index in np.ndindex(out.shape):
        both = {int(i) for i in student[index]} & {int(i) for i in teacher[index]} - {-1}
        out[index] = len(both) / student.shape[-1]
    return out


def kendall_tau(student, teacher, *, where=None):
    """tau-b = (concordant - discordant) / sqrt((n0 - n1) (n0 - n2)). Kendall, Biometrika 1945, ties in both rankings.

    A list whose scores are all equal, on either side, orders nothing: undefined, NaN.
    """

    def sign(a, b):
        return (a > b) - (a < b)

    def one(s, t):
        agreement = ordered_s = ordered_t = 0
        for i in range(len(s)):
            for j in range(i):
                a, b = sign(s[i], s[j]), sign(t[i], t[j])
                agreement, ordered_s, ordered_t = agreement + a * b, ordered_s + abs(a), ordered_t + abs(b)
        if any(math.isnan(v) for v in s + t) or not ordered_s or not ordered_t:
            return math.nan
        return agreement / math.sqrt(ordered_s * ordered_t)

    return _each_list(one, student, teacher, where=where)
