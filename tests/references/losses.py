"""Slow NumPy twins of the losses on scores, in float64, written from the papers and not from the code."""

import math

import numpy as np

from ._lists import (
    _binary_cross_entropy,
    _dot,
    _elements,
    _kept,
    _lists,
    _log_softmax,
    _log_sum_exp,
    _sigmoid,
    _softmax,
    _softplus,
)

# ------------------------------------------------------------------------------------------------------------ task


def binary_cross_entropy(logits, labels):
    """-[y log sigma(z) + (1 - y) log(1 - sigma(z))]; -log sigma(z) = softplus(-z). Goodfellow et al. 2016, 6.2.2.2."""
    return _elements(_binary_cross_entropy, logits, labels)


def softmax_cross_entropy(logits, labels, *, where=None):
    """-sum_i y_i log softmax(z)_i over the valid items. Goodfellow et al. 2016, section 6.2.2.3."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if np.issubdtype(labels.dtype, np.integer):  # an integer label has all the probability on one item
        mass = np.zeros(logits.shape)
        for index in np.ndindex(labels.shape):
            mass[(*index, labels[index])] = 1.0
        labels = mass

    def one(z, y):
        return -sum(a * b for a, b in zip(y, _log_softmax(z), strict=True))

    return _lists(one, logits, labels, where=where)


def bpr(positive, negative):
    """-log sigma(x_ui - x_uj). Rendle et al., BPR, UAI 2009, section 4.1 (BPR-OPT), without its regularizer."""
    difference = np.asarray(positive, np.float64) - np.asarray(negative, np.float64)
    return np.array([_softplus(-d) for d in difference.ravel()]).reshape(difference.shape)


def l1(x, *, weight=1.0):
    """(lambda / 2) |theta|, one value per parameter. Tibshirani 1996, section 1, with factor 1/2."""
    x = np.asarray(x, np.float64)
    return np.array([weight / 2 * (v if v >= 0 else -v) for v in x.ravel()]).reshape(x.shape)


def sampled_softmax(positive, negatives, *, positive_log_q=0.0, negatives_log_q=0.0, where=None):
    """-log softmax of the positive over itself and its negatives, of scores minus log q. Yi et al., RecSys 2019."""
    positive, negatives = np.asarray(positive, np.float64), np.asarray(negatives, np.float64)
    positive_log_q = np.broadcast_to(positive_log_q, positive.shape)
    negatives_log_q = np.broadcast_to(negatives_log_q, negatives.shape)
    out = np.zeros(positive.shape)
    for index in np.ndindex(out.shape):
        own = float(positive[index]) - float(positive_log_q[index])
        counted = None if where is None else np.asarray(where)[index]
        scores, log_q = _kept(negatives[index], counted), _kept(negatives_log_q[index], counted)
        others = [score - q for score, q in zip(scores, log_q, strict=True)]
        out[index] = -_log_softmax([own, *others])[0]
    return out


def cosine_contrastive(positive, negatives, *, margin, weight, where=None):
    """(1 - p) + (w / N) sum_j max(0, n_j - m), N the negatives that count. Mao et al., SimpleX, 2021, equation 1."""
    positive, negatives = np.asarray(positive, np.float64), np.asarray(negatives, np.float64)
    out = np.zeros(positive.shape)
    for index in np.ndindex(out.shape):
        scores = _kept(negatives[index], None if where is None else np.asarray(where)[index])
        penalties = [0.0 if score <= margin else score - margin for score in scores]
        out[index] = 1 - float(positive[index])
        if penalties:
            out[index] += weight * sum(penalties) / len(penalties)
    return out


# ---------------------------------------------------------------------------------------------------------- logits


def mean_squared_error(student, teacher):
    """(1/n) sum_i (s_i - t_i)^2: Hinton et al. 2015, section 2.1, the high-temperature limit ("matching logits")."""
    return _lists(lambda s, t: sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s), student, teacher)


def soft_target_kl(student, teacher, *, temperature=1.0, where=None):
    """tau^2 sum_i p_i log(p_i / q_i), p from the teacher. Hinton et al. 2015, section 2."""

    def one(s, t):
        log_q = _log_softmax([v / temperature for v in s])
        log_p = _log_softmax([v / temperature for v in t])
        return temperature**2 * sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))

    return _lists(one, student, teacher, where=where)


def distillation(student, teacher, labels, *, alpha, temperature=1.0, where=None):
    """(1 - alpha) CE(student, labels) + alpha tau^2 KL(teacher || student). Hinton et al. 2015, section 2."""
    hard = softmax_cross_entropy(student, labels, where=where)
    soft = soft_target_kl(student, teacher, temperature=temperature, where=where)
    return (1 - alpha) * hard + alpha * soft


def soft_target_ce(student, teacher, *, temperature=1.0, where=None):
    """-sum_i p_i log q_i, both softened, without the factor tau^2. Hinton et al. 2015, section 2."""

    def one(s, t):
        log_q = _log_softmax([v / temperature for v in s])
        p = _softmax([v / temperature for v in t])
        return -_dot(p, log_q)

    return _lists(one, student, teacher, where=where)


def soft_target_bce(student, teacher, *, temperature=1.0):
    """-[y log sigma(z) + (1 - y) log(1 - sigma(z))] with z = s / tau, y = sigma(t / tau). Zhu et al., CIKM 2020."""

    def one(s, t):
        return _binary_cross_entropy(s / temperature, _sigmoid(t / temperature))

    return _elements(one, student, teacher)


def logit_mse(student, teacher):
    """(s - t)^2, entry by entry. Ba and Caruana, NeurIPS 2014, without its mean and factor 1/2."""
    return _elements(lambda s, t: (s - t) ** 2, student, teacher)


def top_k_kl(student, teacher, *, k, temperature=1.0, where=None):
    """soft_target_kl of the lists cut down to the teacher's k best items, the lower index first among equals."""

    def one(s, t):
        best = sorted(range(len(t)), key=lambda item: (-t[item], item))[: int(k)]
        if not best:
            return 0.0
        return float(soft_target_kl([s[i] for i in best], [t[i] for i in best], temperature=temperature))

    return _lists(one, student, teacher, where=where)


def standardized_kl(student, teacher, *, temperature=1.0, epsilon=1e-7, where=None):
    """soft_target_kl of z-scores (x - mean) / (epsilon + std), std over n. Sun et al., CVPR 2024."""

    def scores(values):
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        return [(v - mean) / (epsilon + deviation) for v in values]

    def one(s, t):
        return float(soft_target_kl(scores(s), scores(t), temperature=temperature))

    return _lists(one, student, teacher, where=where)


def dist(student, teacher, *, beta=1.0, gamma=1.0, temperature=1.0, where=None):
    """tau^2 [beta (1 - Pearson of row i) + gamma (1 - Pearson of column j)] at (i, j). Huang et al., NeurIPS 2022."""
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    members = [i for i in range(len(student)) if where is None or where[i]]

    def pearson(a, b):
        a = [v - sum(a) / len(a) for v in a]
        b = [v - sum(b) / len(b) for v in b]
        return _dot(a, b) / (math.sqrt(_dot(a, a)) * math.sqrt(_dot(b, b)) + 1e-8)

    p = [_softmax([float(v) / temperature for v in student[i]]) for i in members]
    q = [_softmax([float(v) / temperature for v in teacher[i]]) for i in members]
    out = np.zeros(student.shape)
    for j in range(student.shape[1]):
        if not members:
            break
        column = pearson([row[j] for row in p], [row[j] for row in q])
        for place, i in enumerate(members):
            row = pearson(p[place], q[place])
            out[i, j] = temperature**2 * (beta * (1 - row) + gamma * (1 - column))
    return out


def decoupled_kl(student, teacher, labels, *, alpha=1.0, beta=8.0, temperature=4.0, where=None):
    """alpha T^2 KL(b^t || b^s) + beta T^2 KL(q^t || q^s), b = (p_y, 1 - p_y), q softmax of the others. DKD, CVPR 2022.

    A target that doesn't count leaves the second term, others that don't count leave nothing.
    """
    student, teacher, labels = np.asarray(student, np.float64), np.asarray(teacher, np.float64), np.asarray(labels)
    out = np.zeros(student.shape[:-1])
    for index in np.ndindex(out.shape):
        counted = [i for i in range(student.shape[-1]) if where is None or np.asarray(where)[index][i]]
        others = [i for i in counted if i != labels[index]]
        s, t = ({i: float(x[index][i]) / temperature for i in counted} for x in (student, teacher))
        if others and len(others) < len(counted):
            whole_s, whole_t = (_log_sum_exp(list(x.values())) for x in (s, t))
            rest_s, rest_t = (_log_sum_exp([x[i] for i in others]) for x in (s, t))
            target = t[labels[index]] - whole_t, s[labels[index]] - whole_s
            rest = rest_t - whole_t, rest_s - whole_s
            binary = sum(math.exp(log_p) * (log_p - log_q) for log_p, log_q in (target, rest))
            out[index] += alpha * temperature**2 * binary
        if others:
            scores = ([float(x[index][i]) for i in others] for x in (student, teacher))
            out[index] += beta * float(soft_target_kl(*scores, temperature=temperature))
    return out


def margin_mse(student, teacher, *, where=None):
    """Mean over pairs i != j of ((s_i - s_j) - (t_i - t_j))^2; Hofstaetter et al. 2020 for a list of two."""

    def one(s, t):
        n = len(s)
        terms = [((s[i] - s[j]) - (t[i] - t[j])) ** 2 for i in range(n) for j in range(n) if i != j]
        return sum(terms) / len(terms) if terms else 0.0

    return _lists(one, student, teacher, where=where)


def listwise_bce(student, teacher, *, where=None):
    """-pT log pS - (1 - pT) log(1 - pS), p the share of an item in its list's sum of sigmoids (CLID).

    1 - p is the exact sum of the other items' sigmoids over the sum of all; 0 log 0 = 0, for a list of one.
    """
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)

    def log_shares(scores):
        logs = [-_softplus(-score) for score in scores]
        total = _log_sum_exp(logs)
        rest = [_log_sum_exp(logs[:i] + logs[i + 1 :]) for i in range(len(logs))]
        return [v - total for v in logs], [v - total for v in rest]

    out = np.zeros(student.shape)
    for index in np.ndindex(student.shape[:-1]):
        counted = [i for i in range(student.shape[-1]) if where is None or np.asarray(where)[index][i]]
        log_s, log_s_rest = log_shares([float(student[index][i]) for i in counted])
        log_t, log_t_rest = log_shares([float(teacher[index][i]) for i in counted])
        for place, i in enumerate(counted):
            p, rest = math.exp(log_t[place]), math.exp(log_t_rest[place])
            out[(*index, i)] = -p * log_s[place] - (rest * log_s_rest[place] if rest else 0.0)
    return out


# -------------------------------------------------------------------------------------------------------- settings


def gated_teachers(teachers, gate, *, temperature=1.0):
    """sum_i softmax(gate)_i sigma(t_i / T): teachers mixed by a gate. Zhu et al., Ensembled CTR, CIKM 2020."""

    def one(t, g):
        return _dot(_softmax(g), [_sigmoid(v / temperature) for v in t])

    return _lists(one, teachers, gate)


def mutual_learning(students, labels):
    """Student s: (1/S) BCE + w_s (p_s - ybar)^2 + (1/S) sum_{b != s} v_sb (p_s - p_b)^2. Li et al., EKTF, 2024.

    The score of a student is the mean of 1 - |y - p| over the batch; w is the softmax of minus the scores, v_s the
    softmax over the *other* students b of score_b - score_s, and ybar = sigma(mean of the students' logits).
    """
    students, labels = np.asarray(students, np.float64), np.asarray(labels, np.float64)
    count, batch = students.shape
    p = [[_sigmoid(float(z)) for z in row] for row in students]
    score = [sum(1 - abs(float(labels[i]) - p[s][i]) for i in range(batch)) / batch for s in range(count)]
    w = _softmax([-v for v in score])
    out = np.zeros(students.shape)
    for s in range(count):
        others = [b for b in range(count) if b != s]
        v = dict(zip(others, _softmax([score[b] - score[s] for b in others]), strict=True)) if others else {}
        for i in range(batch):
            together = _sigmoid(sum(float(students[b, i]) for b in range(count)) / count)
            label = _binary_cross_entropy(float(students[s, i]), float(labels[i]))
            peers = sum(v[b] * (p[s][i] - p[b][i]) ** 2 for b in others)
            out[s, i] = label / count + w[s] * (p[s][i] - together) ** 2 + peers / count
    return out


def privileged_features(student, teacher, labels, *, weight):
    """BCE(s, y) + lambda BCE(s, sigma(t)) + BCE(t, y), trained together. Xu et al., Privileged Features, KDD 2020."""

    def one(s, t, y):
        labeled = _binary_cross_entropy(s, y) + _binary_cross_entropy(t, y)
        return labeled + weight * _binary_cross_entropy(s, _sigmoid(t))

    return _elements(one, student, teacher, labels)


def layer_heads(student, teacher, heads, *, beta=1.0):
    """BCE(s, sigma(t)) + beta sum_l BCE(head_l, sigma(t)): OFA for CTR. Hao et al., One-for-All, NeurIPS 2023."""
    student, teacher, heads = (np.asarray(x, np.float64) for x in (student, teacher, heads))
    out = np.zeros(student.shape)
    for index in np.ndindex(out.shape):
        target = _sigmoid(float(teacher[index]))
        out[index] = _binary_cross_entropy(float(student[index]), target)
        for logit in heads[index]:
            out[index] += beta * _binary_cross_entropy(float(logit), target)
    return out


def listed_weights(distances, agreed, *, sharpness=1.0, position=0.3, confidence=0.5, consistency=0.1):
    """position w_p + confidence w_c + consistency w_o, divided by its sum. Cui et al., DLLM2Rec, RecSys 2024.

    w_p: exp(-r / sharpness) by rank r = 1..K, over its sum; w_c: exp(-d), over its sum; w_o: agreed + 1e-8.
    """
    distances, agreed = np.asarray(distances, np.float64), np.asarray(agreed)
    out = np.zeros(distances.shape)
    for index in np.ndindex(distances.shape[:-1]):
        ranks = range(1, distances.shape[-1] + 1)
        by_position = _softmax([-rank / sharpness for rank in ranks])
        by_confidence = _softmax([-float(d) for d in distances[index]])
        weights = []
        for p, c, a in zip(by_position, by_confidence, agreed[index], strict=True):
            weights.append(position * p + confidence * c + consistency * (float(a) + 1e-8))
        out[index] = [v / sum(weights) for v in weights]
    return out
