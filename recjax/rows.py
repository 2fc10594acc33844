"""Row-sparse optimizers: the cost of a step depends on the rows of its batch, not on the size of the table.

They equal the dense algorithms, evaluated lazily: momentum and weight decay of skipped steps have a closed form,
applied when a row is next read. A step gathers the rows of a batch and their slots (:func:`take`), brings both up to
date (:attr:`RowOptimizer.current`), updates them (:attr:`RowOptimizer.update`) and scatters both back (:func:`put`).
Apply ``current`` to the whole table before validating or saving it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from recjax.members import of_member

Rate: TypeAlias = jax.typing.ArrayLike | Callable[[jax.Array], jax.typing.ArrayLike]
Step: TypeAlias = jax.Array | int
Slots: TypeAlias = Any
T = TypeVar("T")

TERMS = 128  # summed exactly in the bias-corrected geometric series; 0.9 ** 128 is below float32's precision


class RowOptimizer(NamedTuple):
    """An optimizer of the rows of one table, as pure functions.

    The optimizer state of a row, its *slots*, is a row of a float array, or of several.

    Attributes:
      init: ``init(table) -> slots``, arrays ``[rows, width]``, for a table ``[rows, dim]``.
      current: ``current(slots, values, step) -> (slots, values)``, both as dense training would have them after
        ``step`` steps, with zero gradients since the rows were last updated.
      update: ``update(slots, values, grads, step) -> (slots, values)``, one more step for rows that are current;
        ``step`` counts the steps before this one.
    """

    init: Callable[[jax.Array], Slots]
    current: Callable[[Slots, jax.Array, Step], tuple[Slots, jax.Array]]
    update: Callable[[Slots, jax.Array, jax.Array, Step], tuple[Slots, jax.Array]]


def take(array: T, ids: jax.Array) -> T:
    """The rows of an array that a batch touches.

    Args:
      array: ``[rows, ...]``, a table; or slots, a tree of such arrays.
      ids: ``[ids]`` int, sorted and unique; not checked. Ids outside the array are padding.

    Returns:
      ``[ids, ...]``, NaN for padding.
    """
    return jax.tree.map(
        lambda leaf: leaf.at[ids].get(
            mode="fill", fill_value=jnp.nan, unique_indices=True, indices_are_sorted=True, wrap_negative_indices=False
        ),
        array,
    )


def put(array: T, ids: jax.Array, rows: T) -> T:
    """The array with the rows of a batch replaced, in place if the array is donated.

    Args:
      array: ``[rows, ...]``, a table; or slots, a tree of such arrays.
      ids: ``[ids]`` int, sorted and unique; not checked. Ids outside the array are dropped.
      rows: ``[ids, ...]``, or a tree of such arrays.

    Returns:
      ``[rows, ...]``; other rows are unchanged.

    Examples:
      >>> table, ids = jnp.array([[1.0], [2.0], [3.0]]), jnp.array([0, 2, 7])
      >>> put(table, ids, 10 * take(table, ids)).ravel().tolist()
      [10.0, 2.0, 30.0]
    """
    return jax.tree.map(
        lambda whole, some: whole.at[of_member(ids, whole)].set(
            some, mode="drop", unique_indices=True, indices_are_sorted=True, wrap_negative_indices=False
        ),
        array,
        rows,
    )


def adagrad(
    learning_rate: Rate,
    *,
    eps: jax.typing.ArrayLike = 1e-10,
    initial: jax.typing.ArrayLike = 0.0,
    weight_decay: jax.typing.ArrayLike = 0.0,
) -> RowOptimizer:
    r"""Row-sparse Adagrad, equal to dense Adagrad.

    .. math::
        G \leftarrow G + g^2, \qquad
        \theta \leftarrow (1 - \eta\lambda)\,\theta - \eta\,\frac{g}{\sqrt{G} + \epsilon}.

    The weight decay :math:`\lambda` is decoupled: a row that skipped :math:`k` steps shrinks by
    :math:`(1 - \eta\lambda)^k` when it is next read.

    Args:
      learning_rate: scalar, may be traced; or a smooth schedule of the number of steps done (also between whole
        numbers). With a schedule, the decay of skipped steps is a sum by Simpson's rule.
      eps: scalar ``> 0``. May be traced; not checked.
      initial: scalar ``>= 0``, initial value of the sums. May be traced; not checked.
      weight_decay: scalar ``>= 0``. May be traced; not checked.

    Returns:
      A :class:`RowOptimizer` with ``dim + 1`` slots per row: the sums, and the step when the row was current.

    Raises:
      ValueError: from ``init``, if the table isn't ``[rows, dim]``.
      TypeError: from ``init``, if the table isn't float32 or float64.

    Examples:
      >>> optimizer = adagrad(0.1)
      >>> table = jnp.ones((1000, 2))
      >>> slots, ids, step = optimizer.init(table), jnp.array([3, 8]), 0
      >>> kept, rows = optimizer.current(take(slots, ids), take(table, ids), step)
      >>> kept, rows = optimizer.update(kept, rows, jnp.array([[0.5, -2.0], [1.0, 0.0]]), step)
      >>> table, slots = put(table, ids, rows), put(slots, ids, kept)
      >>> print(table[jnp.array([3, 4, 8])])
      [[0.9 1.1]
       [1.  1. ]
       [0.9 1. ]]

    References:
      Duchi, Hazan and Singer, `Adaptive Subgradient Methods for Online Learning and Stochastic Optimization
      <https://jmlr.org/papers/v12/duchi11a.html>`_, 2011, figure 1.
    """
    return _adagrad(learning_rate, eps, initial, weight_decay, sums=lambda dim: dim, squares=jnp.square)


def rowwise_adagrad(
    learning_rate: Rate,
    *,
    eps: jax.typing.ArrayLike = 1e-8,
    initial: jax.typing.ArrayLike = 0.0,
    weight_decay: jax.typing.ArrayLike = 0.0,
) -> RowOptimizer:
    r"""Row-wise Adagrad, with one sum of squares per row.

    .. math::
        G \leftarrow G + \frac{1}{\mathrm{dim}} \sum_d g_d^2, \qquad
        \theta \leftarrow (1 - \eta\lambda)\,\theta - \eta\,\frac{g}{\sqrt{G} + \epsilon}.

    Arguments and errors as for :func:`adagrad`; the default of ``eps`` is 1e-8. There are 2 slots per row.

    Examples:
      >>> optimizer = rowwise_adagrad(0.1)
      >>> rows = jnp.zeros((1, 2))
      >>> _, rows = optimizer.update(optimizer.init(rows), rows, jnp.array([[7.0, -1.0]]), 0)
      >>> print(rows)  # the root of the mean square is 5
      [[-0.14  0.02]]

    References:
      Mudigere et al., `Software-Hardware Co-design for Fast and Scalable Training of Deep Learning Recommendation
      Models <https://arxiv.org/abs/2104.05158>`_, 2022: the row-wise sparse AdaGrad of FBGEMM and TorchRec.
    """

    def mean_square(grads: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(grads), axis=-1, keepdims=True)

    return _adagrad(learning_rate, eps, initial, weight_decay, sums=lambda dim: 1, squares=mean_square)


def _adagrad(
    learning_rate: Rate,
    eps: jax.typing.ArrayLike,
    initial: jax.typing.ArrayLike,
    weight_decay: jax.typing.ArrayLike,
    *,
    sums: Callable[[int], int],
    squares: Callable[[jax.Array], jax.Array],
) -> RowOptimizer:
    """Adagrad whose slots are ``sums(dim)`` sums of ``squares(grads)`` and the step when the row was current."""

    def init(table: jax.Array) -> jax.Array:
        _check_table(table)
        row = jnp.full(sums(table.shape[1]) + 1, initial, table.dtype).at[-1].set(0)
        return jnp.broadcast_to(row, (table.shape[0], row.size))  # XLA would fold a constant table

    def current(slots: jax.Array, values: jax.Array, step: Step) -> tuple[jax.Array, jax.Array]:
        total, done = slots[:, :-1], slots[:, -1:]
        return _beside(total, step), _decay(learning_rate, weight_decay, done, step) * values

    def update(slots: jax.Array, values: jax.Array, grads: jax.Array, step: Step) -> tuple[jax.Array, jax.Array]:
        total = slots[:, :-1] + squares(grads)
        direction = grads / (jnp.sqrt(total) + eps)
        rate = _rate(learning_rate, step)
        return _beside(total, step + 1), (1 - rate * weight_decay) * values - rate * direction

    return RowOptimizer(init, current, update)


def adam(
    learning_rate: Rate,
    *,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: jax.typing.ArrayLike = 0.0,
) -> RowOptimizer:
    r"""Lazy Adam that accounts for skipped steps: dense Adam on the touched rows, AdamW with a weight decay.

    At a step :math:`t` that touches the row, with :math:`a = 1 - \eta\lambda`,

    .. math::
        m_t = \beta_1 m_{t-1} + (1 - \beta_1) g, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g^2, \quad
        \theta_t = a\,\theta_{t-1} - \eta\,\frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}.

    For :math:`k` steps without a gradient after step :math:`s`, the moments decay by :math:`\beta_1^k` and
    :math:`\beta_2^k`, and the row moves by its momentum:

    .. math::
        \theta_{s+k} = a^k \left(\theta_s - \frac{m_s}{\sqrt{v_s} + \epsilon_s}
        \left(Q(s) - \rho^k Q(s + k)\right)\right), \quad
        Q(s) = \sum_{j \ge 1} \rho^j \eta\,\frac{\sqrt{1 - \beta_2^{s+j}}}{1 - \beta_1^{s+j}}, \quad
        \rho = \frac{\beta_1}{a \sqrt{\beta_2}}.

    ``torch.optim.SparseAdam`` ignores skipped steps. Equal to dense Adam if each row is touched at each step; otherwise
    up to rounding and approximations that matter only for :math:`\sqrt{v} < 100 \epsilon`, :math:`\beta_1 > 0.9`, or a
    schedule with a weight decay (an error of the order of :math:`\lambda` times the change of the rate).

    Args:
      learning_rate: scalar, may be traced; or a smooth schedule of the number of steps done (also between whole
        numbers), which also applies to the momentum of skipped steps.
      b1: scalar in ``[0, 1)`` with :math:`\rho < 1`, else the sum diverges. May be traced; not checked.
      b2: scalar in ``(0, 1)``. May be traced; not checked.
      eps: scalar ``> 0``, outside the root. May be traced; not checked.
      weight_decay: scalar ``>= 0``, decoupled. May be traced; not checked.

    Returns:
      A :class:`RowOptimizer` with ``2 dim + 2`` slots per row in two arrays: the first moment; the second moment,
      :math:`Q` and the step when the row was current (exact in float32 up to 16,777,216).

    Raises:
      ValueError: from ``init``, if the table isn't ``[rows, dim]``.
      TypeError: from ``init``, if the table isn't float32 or float64.

    Examples:
      >>> optimizer = adam(0.1)
      >>> rows = jnp.zeros((1, 2))
      >>> slots, rows = optimizer.update(optimizer.init(rows), rows, jnp.array([[3.0, -0.1]]), 0)
      >>> [f"{x:.4f}" for x in rows[0]]
      ['-0.1000', '0.1000']
      >>> [f"{x:.4f}" for x in optimizer.current(slots, rows, 3)[1][0]]  # two steps later, without a gradient
      ['-0.2188', '0.2188']

    References:
      Kingma and Ba, `Adam: A Method for Stochastic Optimization <https://arxiv.org/abs/1412.6980>`_, 2015,
      algorithm 1. Loshchilov and Hutter, `Decoupled Weight Decay Regularization
      <https://arxiv.org/abs/1711.05101>`_, 2019, algorithm 2, with the decay multiplied by the learning rate.
      Carpenter, *Lazy Sparse Stochastic Gradient Descent for Regularized Multinomial Logistic Regression*, 2008:
      lazy updates.
    """
    beta1, beta2 = jnp.asarray(b1), jnp.asarray(b2)  # so that 1 - beta and 1 - beta ** 1 cancel exactly

    def ratio(step: Step) -> jax.Array:
        return beta1 / (jnp.sqrt(beta2) * (1 - jnp.asarray(weight_decay) * _rate(learning_rate, step)))

    def momentum_left(step: Step, rho: jax.Array) -> jax.Array:
        """Q(step)."""
        ahead = jnp.arange(1, TERMS + 1)
        far = TERMS + 1 / (1 - rho)  # the mean position of the remaining terms of the geometric series
        ahead = jnp.append(ahead.astype(rho.dtype), far)
        weights = jnp.append(rho ** ahead[:-1], rho ** (TERMS + 1) / (1 - rho))
        times = step + ahead
        rates = jax.vmap(lambda t: _rate(learning_rate, t - 1))(times)
        return jnp.sum(weights * rates * jnp.sqrt(1 - beta2**times) / (1 - beta1**times))

    def init(table: jax.Array) -> Slots:
        _check_table(table)
        return jnp.zeros_like(table), jnp.zeros((table.shape[0], table.shape[1] + 2), table.dtype)

    def current(slots: Slots, values: jax.Array, step: Step) -> tuple[Slots, jax.Array]:
        first, second, then, done = slots[0], slots[1][:, :-2], slots[1][:, -2:-1], slots[1][:, -1:]
        skipped = step - done
        rho = ratio(step - 1)
        now, faded = momentum_left(step, rho), _power(rho, skipped)
        # epsilon at the mean of the skipped steps, weighted by rho ** j, instead of at each; exact for one step
        place = 1 / (1 - rho) - skipped * faded / jnp.where(skipped > 0, 1 - faded, 1)
        floor = eps * jnp.sqrt((1 - _power(beta2, done + place)) / _power(beta2, place))
        owed = jnp.where(skipped > 0, then - faded * now, 0)
        left = _decay(learning_rate, weight_decay, done, step)
        values = left * (values - owed * (first / (jnp.sqrt(second) + floor)))
        return (_power(beta1, skipped) * first, _beside(_power(beta2, skipped) * second, now, step)), values

    def update(slots: Slots, values: jax.Array, grads: jax.Array, step: Step) -> tuple[Slots, jax.Array]:
        first = beta1 * slots[0] + (1 - beta1) * grads
        second = beta2 * slots[1][:, :-2] + (1 - beta2) * jnp.square(grads)
        count = step + 1
        direction = (first / (1 - beta1**count)) / (jnp.sqrt(second / (1 - beta2**count)) + eps)
        rate = _rate(learning_rate, step)
        values = (1 - rate * weight_decay) * values - rate * direction
        return (first, _beside(second, momentum_left(count, ratio(count)), count)), values

    return RowOptimizer(init, current, update)


def _check_table(table: jax.Array) -> None:
    if table.ndim != 2:
        raise ValueError(f"table: expected shape [rows, dim], got {table.shape}")
    if table.dtype not in (np.float32, np.float64):
        raise TypeError(f"table: expected float32 or float64, got {table.dtype}")


def _rate(learning_rate: Rate, step: Step) -> jax.Array:
    return jnp.asarray(learning_rate(jnp.asarray(step)) if callable(learning_rate) else learning_rate)


def _decay(learning_rate: Rate, weight_decay: jax.typing.ArrayLike, done: jax.Array, step: Step) -> jax.Array:
    """The factor of decoupled weight decay over the steps from ``done`` to ``step``, ``[rows, 1]``."""

    def log_shrink(at: jax.Array) -> jax.Array:  # log1p: rounding errors of 1 - x would add up over steps
        return jnp.log1p(-jnp.asarray(weight_decay) * _rate(learning_rate, at))

    skipped, last = step - done, jnp.asarray(step - 1)
    end = (skipped + 1) / (6 * jnp.maximum(skipped - 1, 1))  # Simpson's rule for a sum: exact up to cubics
    ends = log_shrink(done) + log_shrink(last)
    return jnp.exp(skipped * (end * ends + (1 - 2 * end) * log_shrink((done + last) / 2)))


def _power(base: jax.Array, exponents: jax.Array) -> jax.Array:
    """``base ** exponents`` for a base in (0, 1], three times as fast."""
    return jnp.exp(jnp.where(exponents == 0, 0, exponents * jnp.log(base)))


def _beside(kept: jax.Array, *scalars: jax.typing.ArrayLike) -> jax.Array:
    """``[rows, columns + scalars]``: ``kept`` with one constant column per scalar appended."""
    columns = (jnp.full_like(kept, scalar, shape=(kept.shape[0], 1)) for scalar in scalars)
    return jnp.concatenate([kept, *columns], axis=1)
