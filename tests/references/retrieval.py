"""Slow NumPy twins of the retrieval models, written from the papers' equations, entry by entry."""

import numpy as np


def cosine_neighbors(rows, neighbors, shrinkage):
    """Deshpande and Karypis, 2004, section 4.2, with a shrunk denominator."""
    count = len(rows)
    near = np.zeros((count, count))
    for i in range(count):
        found = []
        for j in range(count):
            length = np.sqrt((rows[i] ** 2).sum()) * np.sqrt((rows[j] ** 2).sum()) + shrinkage
            if j != i and length > 0 and (rows[i] * rows[j]).sum() > 0:
                found.append(((rows[i] * rows[j]).sum() / length, j))
        for value, j in sorted(found, key=lambda pair: (-pair[0], pair[1]))[:neighbors]:
            near[i, j] = value
    return near


def lightgcn(user, item, edges, layers):
    """He et al., 2020, equations 3 to 5: the final vectors of users and items."""
    of_user = {u: [i for v, i in edges if v == u] for u in range(len(user))}
    of_item = {i: [u for u, j in edges if j == i] for i in range(len(item))}
    at = [(np.array(user, float), np.array(item, float))]
    for _ in range(layers):
        users, items = at[-1]
        next_users, next_items = np.zeros_like(users), np.zeros_like(items)
        for u in range(len(users)):
            for i in of_user[u]:
                next_users[u] += items[i] / np.sqrt(len(of_user[u])) / np.sqrt(len(of_item[i]))
        for i in range(len(items)):
            for u in of_item[i]:
                next_items[i] += users[u] / np.sqrt(len(of_user[u])) / np.sqrt(len(of_item[i]))
        at.append((next_users, next_items))
    return tuple(sum(layer[side] for layer in at) / (layers + 1) for side in range(2))


def simplex(user, item, matrix, histories, own):
    """Mao et al., 2021, equations 2 and 3: the cosine of every user and item."""
    scores = np.zeros((len(user), len(item)))
    for u, history in enumerate(histories):
        mean = sum(item[i] for i in history) / len(history) if history else np.zeros(len(matrix))
        query = own * user[u] + (1 - own) * (mean @ matrix)
        for i in range(len(item)):
            scores[u, i] = query @ item[i] / np.linalg.norm(query) / np.linalg.norm(item[i])
    return scores


def vbpr(tables, kernel, bias_kernel, features):
    """He and McAuley, 2016, equation 4, with the features of an item once."""
    scores = np.zeros((len(tables["user"]), len(features)))
    for u in range(scores.shape[0]):
        for i in range(scores.shape[1]):
            latent = tables["user"][u] @ tables["item"][i]
            seen = tables["user_content"][u] @ (features[i] @ kernel)
            scores[u, i] = latent + seen + tables["item_bias"][i, 0] + features[i] @ bias_kernel[:, 0]
    return scores


def elsa(item, bias, scale, weights):
    """Vancura et al., 2022: the rows of length 1, the diagonal of their products taken out, scaled by the history."""
    unit = [row / np.sqrt((row**2).sum()) for row in np.asarray(item, np.float64)]
    scores = np.zeros((len(weights), len(unit)))
    for q, x in enumerate(weights):  # a dict of item to weight
        for j in range(len(unit)):
            others = sum(x[i] * (unit[i] @ unit[j]) for i in x if i != j)
            scores[q, j] = scale * others / np.sqrt(sum(x.values()) or 1) + bias[j]
    return scores
