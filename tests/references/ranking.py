"""Slow NumPy twins of the ranking distillation losses, written from the papers and not from the code."""

import math

import numpy as np

from ._lists import _binary_cross_entropy, _elements, _kept, _lists, _log_sum_exp, _sigmoid, _softmax, _softplus
from .losses import soft_target_ce


def ranking_distillation(student, weights, *, where=None):
    """-sum_r w_r log sigma(s_r) over the teacher's best items. Tang and Wang, Ranking Distillation, KDD 2018."""

    def one(s, w):
        return sum(weight * _softplus(-score) for score, weight in zip(s, w, strict=True))

    return _lists(one, student, weights, where=where)


def position_weights(length, *, sharpness):
    """exp(-r / lambda), r = 1..length, over its sum. Tang and Wang, Ranking Distillation, KDD 2018."""
    return np.array(_softmax([-rank / sharpness for rank in range(1, length + 1)]))


def estimated_ranks(student, sampled, *, items):
    """1 + floor((items - 1) #{sampled > s} / eps), in exact integers. Tang and Wang, Ranking Distillation, KDD 2018."""
    student, sampled = np.asarray(student), np.asarray(sampled)
    out = np.zeros(student.shape)
    for index in np.ndindex(out.shape):
        better = sum(1 for score in sampled[index[:-1]] if score > student[index])
        out[index] = 1 + (int(items) - 1) * better // sampled.shape[-1]
    return out


def discrepancy_weights(ranks, *, mu):
    """max(0, tanh(mu (rank - r))), r = 1..K the teacher's rank. Tang and Wang, Ranking Distillation, KDD 2018."""
    ranks = np.asarray(ranks, np.float64)
    out = np.zeros(ranks.shape)
    for index in np.ndindex(out.shape):
        late = float(ranks[index]) - (index[-1] + 1)
        out[index] = 0.0 if late <= 0 else math.tanh(mu * late)
    return out


def collaborative_distillation(student, teacher, *, scale=2.0, shift=0.0):
    """BCE of the logit s with the target sigma((t + shift) / scale). Lee et al., CD, ICDM 2019."""
    return _elements(lambda s, t: _binary_cross_entropy(s, _sigmoid((t + shift) / scale)), student, teacher)


def _plackett_luce(ordered, others):
    """-log of the probability of drawing ``ordered`` in this order from itself and the others.

    -sum_k [s_k - log(sum_{j >= k} e^{s_j} + sum_l e^{s_l})]: Kang et al., DE-RRD, CIKM 2020, relaxed permutations.
    """
    return -sum(score - _log_sum_exp(ordered[k:] + others) for k, score in enumerate(ordered))


def relaxed_ranking(interesting, uninteresting, *, where=None, uninteresting_where=None):
    """-sum_k [s_k - log(sum_{j >= k} e^{s_j} + sum_l e^{s_l})]. Kang et al., DE-RRD (RRD), CIKM 2020."""
    interesting, uninteresting = np.asarray(interesting, np.float64), np.asarray(uninteresting, np.float64)
    out = np.zeros(interesting.shape[:-1])
    for index in np.ndindex(out.shape):
        ordered = _kept(interesting[index], None if where is None else np.asarray(where)[index])
        counted = None if uninteresting_where is None else np.asarray(uninteresting_where)[index]
        out[index] = _plackett_luce(ordered, _kept(uninteresting[index], counted))
    return out


def dual_correction(underestimated, overestimated, *, where=None, overestimated_where=None):
    """relaxed_ranking of underestimated over overestimated items. Lee and Kim, DCD, CIKM 2021."""
    return relaxed_ranking(underestimated, overestimated, where=where, uninteresting_where=overestimated_where)


def unbiased_pairs(preferred, other):
    """-log sigma(s_+ - s_-), pairs within a group of equal popularity. Chen et al., UnKD, WSDM 2023."""
    return _elements(lambda a, b: _softplus(b - a), preferred, other)


def inverse_rank_pairs(student, teacher, *, where=None):
    """Sum over y_i > y_j of |1/r_i - 1/r_j| log(1 + exp(s_j - s_i)), r by the student's score. Zeng et al., CL-DRD."""

    def one(s, y):
        if any(math.isnan(v) for v in s + y):
            return math.nan
        order = sorted(range(len(s)), key=lambda i: (-s[i], i))
        rank = {item: place + 1 for place, item in enumerate(order)}
        pairs = [(i, j) for i in range(len(s)) for j in range(len(s)) if y[i] > y[j]]
        return sum(abs(1 / rank[i] - 1 / rank[j]) * _softplus(s[j] - s[i]) for i, j in pairs)

    return _lists(one, student, teacher, where=where)


def rejuvenated_ce(student, teacher, student_top, teacher_top, sampled, *, beta, temperature=1.0):
    """(1 - w) CE over the student's top + w CE over the sample and the teacher's top that it misses. RCE-KD, 2025.

    w = exp(-beta |teacher's top in the sample| / |teacher's top|), 1 for no top; CE is soft_target_ce over those items.
    """
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    masks = [np.asarray(mask, bool) for mask in (student_top, teacher_top, sampled)]
    out = np.zeros(student.shape[:-1])
    for index in np.ndindex(out.shape):
        own, best, drawn = ({item for item, inside in enumerate(mask[index]) if inside} for mask in masks)
        w = math.exp(-beta * len(best & drawn) / len(best)) if best else 1.0
        for share, chosen in ((1 - w, own), (w, drawn | (best - own))):
            kept = [item in chosen for item in range(student.shape[-1])]
            out[index] += share * soft_target_ce(student[index], teacher[index], temperature=temperature, where=kept)
    return out


def bidirectional(student, teacher, *, scale=5.0):
    """BCE of the logit s with the target sigma(t / scale). Kweon et al., Bidirectional Distillation, WWW 2021."""
    return _elements(lambda s, t: _binary_cross_entropy(s, _sigmoid(t / scale)), student, teacher)


def het_comp(student, observed, unobserved, *, where, hard):
    """The overall loss (not hard) or the rank loss (hard) of one easy-to-hard list. Kang et al., HetComp, WWW 2023.

    Overall: each listed item against itself and the unobserved items outside the list. Rank: the observed items in
    order, against the unobserved ones but the list's top half, + 1/2 (the top half, against the other unobserved, + the
    top tenth, against the other unobserved). Halves and tenths are rounded down; an id of -1 is no item.
    """
    student, where = np.asarray(student, np.float64), np.asarray(where)
    observed, unobserved = np.asarray(observed), np.asarray(unobserved)
    hard = np.broadcast_to(np.asarray(hard), student.shape[:-1])
    out = np.zeros(student.shape[:-1])
    for index in np.ndindex(out.shape):
        score = student[index].tolist()
        seen, listed = ([item for item in ids[index].tolist() if item >= 0] for ids in (observed, unobserved))
        free = [item for item in range(len(score)) if where[index][item]]

        def ordered(chosen, left_out, score=score, free=free):
            others = [score[item] for item in free if item not in left_out]
            return _plackett_luce([score[item] for item in chosen], others)

        if hard[index]:
            half, tenth = listed[: len(listed) // 2], listed[: len(listed) // 10]
            out[index] = ordered(seen, half) + (ordered(half, half) + ordered(tenth, tenth)) / 2
        else:
            out[index] = sum(ordered([item], listed) for item in seen + listed)
    return out


def teacher_ready(before, now, epoch, *, alpha=1.05, decay=0.995, period=10):
    """before / now > alpha decay^(epoch / period), or before / now < 1. Kang et al., HetComp, WWW 2023.

    A student with no discrepancy left has nothing more to learn from this snapshot, before or now: ready.
    """
    before, now = np.asarray(before, np.float64), np.asarray(now, np.float64)
    out = np.zeros(before.shape, bool)
    for index in np.ndindex(out.shape):
        b, n = float(before[index]), float(now[index])
        ratio = b / n if n else math.inf
        out[index] = ratio > alpha * decay ** (epoch / period) or ratio < 1
    return out
