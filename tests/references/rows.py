"""Slow NumPy twins of the row-sparse optimizers: the dense algorithms of the papers, every row at every step.

Float64 and explicit loops. A row that a batch doesn't touch has gradient zero; it moves all the same where the dense
algorithm moves it, by momentum or by decay. ``grads`` is ``[steps, rows, dim]`` and ``learning_rate`` one number a
step; what comes back is the table after every step.
"""

import numpy as np


def adam(table, grads, learning_rate, *, b1, b2, eps, weight_decay):
    """Kingma and Ba 2015, algorithm 1, with the decoupled decay of Loshchilov and Hutter 2019, algorithm 2.

    The decay is multiplied by the learning rate, as in every implementation of AdamW.
    """
    theta = np.array(table, np.float64)
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    after = []
    for t, (g, rate) in enumerate(zip(np.asarray(grads, np.float64), learning_rate, strict=True), start=1):
        for row in range(len(theta)):
            m[row] = b1 * m[row] + (1 - b1) * g[row]
            v[row] = b2 * v[row] + (1 - b2) * g[row] ** 2
            m_hat, v_hat = m[row] / (1 - b1**t), v[row] / (1 - b2**t)
            theta[row] = theta[row] - rate * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * theta[row])
        after.append(theta.copy())
    return np.stack(after)


def adagrad(table, grads, learning_rate, *, eps, initial, weight_decay):
    """Duchi, Hazan and Singer 2011, figure 1 with diagonal matrices: H = delta I + diag(sqrt(sum g^2))."""
    theta = np.array(table, np.float64)
    total = np.full_like(theta, initial)
    after = []
    for g, rate in zip(np.asarray(grads, np.float64), learning_rate, strict=True):
        for row in range(len(theta)):
            total[row] += g[row] ** 2
            theta[row] = theta[row] - rate * (g[row] / (np.sqrt(total[row]) + eps) + weight_decay * theta[row])
        after.append(theta.copy())
    return np.stack(after)


def rowwise_adagrad(table, grads, learning_rate, *, eps, initial, weight_decay):
    """Adagrad with one sum a row, of the mean of the row's squares. Mudigere et al. 2022."""
    theta = np.array(table, np.float64)
    total = np.full(len(theta), initial, np.float64)
    after = []
    for g, rate in zip(np.asarray(grads, np.float64), learning_rate, strict=True):
        for row in range(len(theta)):
            total[row] += np.mean(g[row] ** 2)
            theta[row] = theta[row] - rate * (g[row] / (np.sqrt(total[row]) + eps) + weight_decay * theta[row])
        after.append(theta.copy())
    return np.stack(after)
