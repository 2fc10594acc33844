"""Slow NumPy twins of the feature and relational losses, written from the papers and not from the code."""

import math

import numpy as np
from scipy.linalg import expm

from ._lists import _cosine, _dot, _kept, _lists, _log_sum_exp, _normalized, _squared_distance

# -------------------------------------------------------------------------------------------------------- features


def hint(student, teacher):
    """||h_t - h_s||^2. Romero et al., FitNets, ICLR 2015, equation 3, without its factor 1/2."""
    return _lists(lambda s, t: sum((b - a) ** 2 for a, b in zip(s, t, strict=True)), student, teacher)


def cosine_hint(student, teacher):
    """1 - cos(h_s, h_t); a zero vector has cosine 0. Xu et al., SLMRec, ICLR 2025, between blocks of layers."""
    return _lists(lambda s, t: 1 - _cosine(s, t), student, teacher)


def attention_transfer(student, teacher, *, where=None):
    """Mean over n of (a_s - a_t)^2, a the normalized list of mean_c F^2. Zagoruyko and Komodakis, ICLR 2017."""
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)

    def attention(rows, counted):
        strength = [sum(float(v) ** 2 for v in row) / len(row) for row in rows]
        return _normalized(_kept(strength, counted))

    out = np.zeros(student.shape[:-2])
    for index in np.ndindex(out.shape):
        counted = None if where is None else np.asarray(where)[index]
        a, b = attention(student[index], counted), attention(teacher[index], counted)
        out[index] = _squared_distance(a, b) / len(a) if a else 0.0
    return out


def gradient_match(student, teacher):
    """||t / |t| - s / |s|||^2 of two input gradients; a zero gradient stays 0. Srinivas and Fleuret, ICML 2018."""
    return _lists(lambda s, t: _squared_distance(_normalized(t), _normalized(s)), student, teacher)


def distillation_experts(experts, teacher, selection):
    """||t - sum_m s_m E_m||^2. Kang et al., DE-RRD, CIKM 2020, which prints the norm; its code squares it."""
    experts, teacher, selection = (np.asarray(x, np.float64) for x in (experts, teacher, selection))
    out = np.zeros(teacher.shape[:-1])
    for index in np.ndindex(out.shape):
        for d in range(teacher.shape[-1]):
            mixed = sum(float(selection[index][m]) * float(experts[index][m, d]) for m in range(experts.shape[-2]))
            out[index] += (float(teacher[index][d]) - mixed) ** 2
    return out


def orthogonal_rows(weights):
    """The first d_s rows of expm(A - A^T), A the weights with zero rows below. Miles et al., VkD, CVPR 2024."""
    weights = np.asarray(weights, np.float64)
    rows, dim = weights.shape
    square = np.zeros((dim, dim))
    square[:rows] = weights
    return expm(square - square.T)[:rows]


def orthogonal_hint(student, teacher, weights):
    """||t - s P||^2, P = orthogonal_rows(weights). Miles et al., VkD, CVPR 2024."""
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    rows = orthogonal_rows(weights)
    out = np.zeros(student.shape[:-1])
    for index in np.ndindex(out.shape):
        projected = [_dot(student[index].tolist(), rows[:, d].tolist()) for d in range(rows.shape[1])]
        out[index] = _squared_distance(teacher[index].tolist(), projected)
    return out


def graph_filter(x, source, target, weight, *, alpha):
    """H X, H = alpha A + (1 - alpha) I, A[target, source] += weight for each edge. FreqD, KDD 2025."""
    x = np.asarray(x, np.float64)
    matrix = (1 - alpha) * np.eye(len(x))
    for j, i, w in zip(source, target, weight, strict=True):
        matrix[i, j] += alpha * float(w)
    return np.einsum("ij,jc->ic", matrix, x)


def graph_filtered_hint(student, teacher, source, target, weight, *, alpha):
    """||(H (T - S))_e||^2, H = alpha A + (1 - alpha) I, A[target, source] += weight for each edge. FreqD, KDD 2025."""
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    out = np.zeros(len(student))
    for e in range(len(student)):
        filtered = [(1 - alpha) * float(teacher[e, c] - student[e, c]) for c in range(student.shape[1])]
        for j, i, w in zip(source, target, weight, strict=True):
            if i == e:
                filtered = [h + alpha * float(w) * float(teacher[j, c] - student[j, c]) for c, h in enumerate(filtered)]
        out[e] = _dot(filtered, filtered)
    return out


# ------------------------------------------------------------------------------------------------------- relations


def _rows(x, where):
    """Each row that counts and its vector."""
    x = np.asarray(x, np.float64)
    return {i: x[i].tolist() for i in range(len(x)) if where is None or where[i]}


def _compared(relation, student, teacher, where, compare):
    """``compare`` of the student's and the teacher's relation for each pair of rows that count; 0 for other pairs."""
    out = np.zeros((len(student), len(student)))
    s, t = _rows(student, where), _rows(teacher, where)
    for i in s:
        for j in s:
            out[i, j] = compare(relation(s[i], s[j]), relation(t[i], t[j]))
    return out


def _squared_difference(a, b):
    return (a - b) ** 2


def _huber(difference):
    """The Huber loss with delta 1, also called smooth L1."""
    return difference**2 / 2 if abs(difference) <= 1 else abs(difference) - 0.5


def relational_distance(student, teacher, *, where=None):
    """Huber of psi_s - psi_t, psi = |x_i - x_j| / mean of the positive distances. Park et al., RKD, CVPR 2019."""
    psi = []
    for x in (_rows(student, where), _rows(teacher, where)):
        distances = {(i, j): math.sqrt(_squared_distance(x[i], x[j])) for i in x for j in x}
        positive = [d for d in distances.values() if d != 0]
        psi.append({pair: d / (sum(positive) / len(positive)) if d else 0.0 for pair, d in distances.items()})
    out = np.zeros((len(student), len(student)))
    for pair in psi[0]:
        out[pair] = _huber(psi[0][pair] - psi[1][pair])
    return out


def relational_angle(student, teacher, *, where=None):
    """Huber of the two cosines at j between i - j and k - j, at (i, j, k). Park et al., RKD, CVPR 2019."""

    def cosine(x, i, j, k):
        return _cosine(
            [a - b for a, b in zip(x[i], x[j], strict=True)], [a - b for a, b in zip(x[k], x[j], strict=True)]
        )

    s, t = _rows(student, where), _rows(teacher, where)
    out = np.zeros((len(student),) * 3)
    for i in s:
        for j in s:
            for k in s:
                out[i, j, k] = _huber(cosine(s, i, j, k) - cosine(t, i, j, k))
    return out


def similarity_preserving(student, teacher, *, where=None):
    """Squared difference of the Gram matrices with normalized rows. Tung and Mori, ICCV 2019."""

    def rows(x):
        return {i: dict(zip(x, _normalized([_dot(x[i], x[j]) for j in x]), strict=True)) for i in x}

    s, t = rows(_rows(student, where)), rows(_rows(teacher, where))
    out = np.zeros((len(student), len(student)))
    for i in s:
        for j in s:
            out[i, j] = (s[i][j] - t[i][j]) ** 2
    return out


def gram(student, teacher, *, where=None):
    """(s_i . s_j - t_i . t_j)^2: correlation congruence with the linear kernel. Peng et al., CCKD, ICCV 2019."""
    return _compared(_dot, student, teacher, where, _squared_difference)


def topology(student, teacher, *, where=None):
    """(cos(s_i, s_j) - cos(t_i, t_j))^2, the full topology. Kang et al., Topology Distillation (FTD), KDD 2021."""
    return _compared(_cosine, student, teacher, where, _squared_difference)


def info_nce(student, teacher, *, temperature=0.1, where=None):
    """-log of exp(cos(s_i, t_i) / tau) over its sum over all rows t_j. van den Oord et al., CPC, 2018."""
    s, t = _rows(student, where), _rows(teacher, where)
    out = np.zeros(len(student))
    for i in s:
        logits = {j: _cosine(s[i], t[j]) / temperature for j in t}
        out[i] = _log_sum_exp(list(logits.values())) - logits[i]
    return out


def hierarchical_topology(student, teacher, group, *, groups, where=None):
    """Entities with entities of the same group, entities with prototypes, prototypes with prototypes. HTD, KDD 2021.

    Returns those three arrays. A prototype is the mean of a group; pairs of entities count where the teacher's cosine
    is positive; an empty group is 0 everywhere.
    """
    s, t = _rows(student, where), _rows(teacher, where)
    n = len(student)

    def prototypes(x):
        found = {}
        for g in range(groups):
            rows = [x[i] for i in x if group[i] == g]
            if rows:
                found[g] = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        return found

    s_mean, t_mean = prototypes(s), prototypes(t)
    entities, second, first = np.zeros((n, n)), np.zeros((n, groups)), np.zeros((groups, groups))
    for i in s:
        for j in s:
            if group[i] == group[j] and _cosine(t[i], t[j]) > 0:
                entities[i, j] = (_cosine(s[i], s[j]) - _cosine(t[i], t[j])) ** 2
        for g in s_mean:
            second[i, g] = (_cosine(s[i], s_mean[g]) - _cosine(t[i], t_mean[g])) ** 2
    for g in s_mean:
        for h in s_mean:
            first[g, h] = (_cosine(s_mean[g], s_mean[h]) - _cosine(t_mean[g], t_mean[h])) ** 2
    return entities, second, first
