"""Mixed precision: sensitivity of the loss to bit widths, and trained bit widths (MPE)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recjax.quantize._fake import fake_quant
from recjax.quantize._learned import learned_step_offset
from recjax.quantize._scale import require_float

Quantizer = Callable[[jax.Array, jax.Array], jax.Array]


def _per_tensor(leaf: jax.Array, bits: jax.Array) -> jax.Array:
    """:func:`fake_quant` with one scale for the whole leaf: the quantizer of :func:`sensitivity` if none is given."""
    return fake_quant(leaf, bits=bits)


def sensitivity(
    loss: Callable[[Any], jax.Array],
    params: Any,
    *,
    bits: Sequence[float] | jax.Array,
    quantizer: Quantizer = _per_tensor,
) -> Any:
    r"""Change of the loss when one leaf is quantized to each bit width.

    .. math::
        \Delta_{l, b} = L(\theta_1, \dots, Q_b(\theta_l), \dots, \theta_n) - L(\theta)

    Bit widths are vmapped, so memory is that of ``len(bits)`` evaluations of the loss.

    Args:
      loss: ``loss(params)``, a scalar; close over a batch, or over several.
      params: tree of float arrays; other leaves are handed on as they are.
      bits: ``[bit_widths]``, such as ``[2, 4, 8]``. May be traced; not checked.
      quantizer: ``quantizer(leaf, bits)``, which leaves an array as it is from 16 bits on. The default is one scale per
        leaf.

    Returns:
      The tree of ``params`` with ``[bit_widths]`` float changes of the loss at its leaves; zeros at those that aren't
      float.

    Knobs:
      ``bits`` (traced), ``quantizer`` (static).

    Storage:
      Nothing is stored.

    Raises:
      ValueError: if ``bits`` is not of shape ``[bit_widths]``.

    Examples:
      >>> import jax.numpy as jnp
      >>> params = {"w": jnp.array([1.0, -0.4]), "b": jnp.array([0.5])}
      >>> loss = lambda p: (jnp.sum(p["w"]) + p["b"].sum() - 1.1) ** 2
      >>> for name, change in sensitivity(loss, params, bits=[2, 4]).items():
      ...     print(name, [f"{c:.2f}" for c in abs(change)])
      b ['0.00', '0.00']
      w ['0.16', '0.00']

    References:
      Dong et al., `HAWQ <https://arxiv.org/abs/1905.03696>`_, 2019, section 3 (which bounds this change by the largest
      eigenvalue of the Hessian).
    """
    widths = jnp.asarray(bits, jnp.float32)
    if widths.ndim != 1:
        raise ValueError(f"bits: expected [bit_widths], got {widths.shape}")
    leaves, structure = jax.tree.flatten(params)
    places = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]

    def changed(place: jax.Array, width: jax.Array) -> jax.Array:
        found = list(leaves)
        for i in places:
            found[i] = quantizer(leaves[i], jnp.where(place == i, width, 32))
        return loss(jax.tree.unflatten(structure, found))

    every = jax.lax.map(lambda place: jax.vmap(changed, (None, 0))(place, widths), jnp.asarray([-1, *places]))
    changes = {place: every[i + 1] - every[0] for i, place in enumerate(places)}
    nothing = jnp.zeros_like(every[0])
    return jax.tree.unflatten(structure, [changes.get(i, nothing) for i in range(len(leaves))])


def frequency_groups(counts: jax.Array, *, groups: int = 128) -> jax.Array:
    r"""Groups of rows of similar frequency, all of one size: 0 the rarest.

    .. math::
        g_i = \left\lfloor \frac{\mathrm{rank}_i \cdot G}{n} \right\rfloor

    with ranks from 0 by ascending count, the lower row first among equals.

    Args:
      counts: ``[rows]``, how often each row occurs in training.
      groups: :math:`G`. Static.

    Returns:
      ``[rows]`` int32 from 0 to ``groups - 1``.

    Knobs:
      ``groups`` (static). Published: 128.

    Storage:
      Nothing, where rows are sorted by frequency; else ``rows * ceil(log2(groups)) / 8`` bytes.

    Raises:
      ValueError: if ``counts`` is not of shape ``[rows]``, or ``groups`` is less than 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(frequency_groups(jnp.array([9, 1, 5, 2]), groups=2))
      [1 0 1 0]

    References:
      Li et al., `Mixed-Precision Embeddings for Large-Scale Recommendation Models
      <https://arxiv.org/abs/2409.20305>`_, 2024.
    """
    counts = jnp.asarray(counts)
    if counts.ndim != 1 or groups < 1:
        raise ValueError(f"expected counts [rows] and groups >= 1, got {counts.shape} and {groups}")
    rows = counts.shape[0]
    group = np.arange(rows, dtype=np.int64) * groups // max(rows, 1)
    return jnp.zeros(rows, jnp.int32).at[jnp.argsort(counts)].set(jnp.asarray(group, jnp.int32))


def bit_width_shares(logits: jax.Array, *, temperature: jax.typing.ArrayLike = 3e-3) -> jax.Array:
    r"""Softmax weights over the bit widths of each group.

    .. math::
        p_b = \frac{\exp(\gamma_b / \tau)}{\sum_c \exp(\gamma_c / \tau)}

    Args:
      logits: ``[..., bit_widths]`` float, trained.
      temperature: scalar ``> 0``. May be traced; not checked.

    Returns:
      ``[..., bit_widths]``, which sum to 1.

    Raises:
      TypeError: if ``logits`` is not float.

    Examples:
      >>> import jax.numpy as jnp
      >>> [round(p, 3) for p in bit_width_shares(jnp.array([0.0, 0.003])).tolist()]
      [0.269, 0.731]

    References:
      Li et al., `Mixed-Precision Embeddings for Large-Scale Recommendation Models
      <https://arxiv.org/abs/2409.20305>`_, 2024.
    """
    return jax.nn.softmax(require_float(logits) / temperature, axis=-1)


def mixed_precision(
    x: jax.Array, shares: jax.Array, steps: jax.Array, offset: jax.Array, *, bits: Sequence[float] | jax.Array
) -> jax.Array:
    r"""Rows as a learned mixture of their quantizations to several bit widths (MPE).

    .. math::
        y = \sum_b p_b\,Q^+_b(x), \qquad Q^+_0 = 0,

    with :func:`learned_step_offset` :math:`Q^+_b`, one step per bit width. Gather the rows first, and the shares of
    their groups.

    Args:
      x: ``[..., dim]`` float, rows.
      shares: ``[..., bit_widths]`` float, :func:`bit_width_shares` of each row's group.
      steps: ``[bit_widths]`` float, trained, each from :func:`initial_step` at its bit width; that of 0 bits is unused.
      offset: ``[dim]`` float, trained, from 0.
      bits: ``[bit_widths]``, such as ``range(7)``. May be traced; not checked.

    Returns:
      ``[..., dim]``, shape and dtype of ``x``.

    Knobs:
      ``bits`` (traced); the temperature of the shares (traced). Published: 0 to 6 bits, temperature .003, 128 groups.

    Storage:
      While it is trained, the table in float32; then each group at its bit width (:func:`chosen_bit_widths`):
      ``rows of the group * ceil(dim * b / 8)`` bytes, 2 per step and ``2 * dim`` of offsets.

    Raises:
      ValueError: if the shapes don't fit.
      TypeError: if an array is not float.

    Examples:
      >>> import jax.numpy as jnp
      >>> x, shares = jnp.array([[0.9, -0.4], [0.2, 0.6]]), jnp.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
      >>> print(mixed_precision(x, shares, jnp.array([1.0, 0.5, 0.25]), jnp.zeros(2), bits=[0, 2, 4]))
      [[ 0.5   -0.5  ]
       [ 0.125  0.25 ]]

    References:
      Li et al., `Mixed-Precision Embeddings for Large-Scale Recommendation Models
      <https://arxiv.org/abs/2409.20305>`_, 2024.
    """
    x, widths = require_float(x), jnp.asarray(bits, jnp.float32)
    wanted = {"shares": (*x.shape[:-1], *widths.shape), "steps": widths.shape, "offset": x.shape[-1:]}
    found = {"shares": jnp.shape(shares), "steps": jnp.shape(steps), "offset": jnp.shape(offset)}
    if x.ndim == 0 or widths.ndim != 1 or wanted != found:
        raise ValueError(f"expected {wanted} for x {x.shape} and bits {widths.shape}, got {found}")
    center = jnp.reshape(offset, [1] * (x.ndim - 1) + [-1])

    def rounded(width: jax.Array, step: jax.Array) -> jax.Array:
        return learned_step_offset(x, step, center, bits=jnp.maximum(width, 1))

    each = jax.vmap(rounded)(widths, steps)
    share = jnp.where(_like(widths > 0, shares), shares, 0)
    return jnp.sum(jnp.moveaxis(share, -1, 0)[..., None] * each, axis=0).astype(x.dtype)


def _like(widths: jax.Array, shares: jax.Array) -> jax.Array:
    return widths.reshape([1] * (shares.ndim - 1) + [-1])


def bit_width_penalty(shares: jax.Array, counts: jax.Array, *, bits: Sequence[float] | jax.Array) -> jax.Array:
    r"""Penalty on the expected bit widths of groups, larger for rarer groups.

    .. math::
        \ell_g = \frac{\sum_b p_{gb}\,b}{c_g / \min c}

    Args:
      shares: ``[groups, bit_widths]`` float, :func:`bit_width_shares`.
      counts: ``[groups]`` ``> 0``, how often the rows of each group occur, together.
      bits: ``[bit_widths]``. May be traced; not checked.

    Returns:
      ``[groups]`` in bits. Not reduced: published is the sum times 3e-4, added to a mean loss.

    Knobs:
      ``bits`` (traced).

    Storage:
      Nothing is stored.

    Raises:
      ValueError: if the shapes don't fit.
      TypeError: if ``shares`` is not float.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(bit_width_penalty(jnp.array([[0.5, 0.5], [0.0, 1.0]]), jnp.array([10, 40]), bits=[0, 4]))
      [2. 1.]

    References:
      Li et al., `Mixed-Precision Embeddings for Large-Scale Recommendation Models
      <https://arxiv.org/abs/2409.20305>`_, 2024.
    """
    shares, counts, widths = require_float(shares), jnp.asarray(counts, jnp.float32), jnp.asarray(bits, jnp.float32)
    if shares.shape != (*counts.shape, *widths.shape) or counts.ndim != 1 or widths.ndim != 1:
        raise ValueError(
            f"expected shares [groups, bit_widths], got {shares.shape} for {counts.shape} and {widths.shape}"
        )
    return jnp.sum(shares * widths[None], axis=-1) * jnp.min(counts, initial=jnp.inf) / counts


def chosen_bit_widths(shares: jax.Array, *, bits: Sequence[float] | jax.Array) -> jax.Array:
    r"""Bit width of each group after the search: the largest with at least half an equal share.

    .. math::
        b_g = \max\left\{b : p_{gb} \ge \frac{1}{2 |B|}\right\}

    Args:
      shares: ``[..., bit_widths]`` float, :func:`bit_width_shares`.
      bits: ``[bit_widths]``. May be traced; not checked.

    Returns:
      ``[...]`` float32, each one of ``bits``; NaN where a share is.

    Knobs:
      ``bits`` (traced).

    Storage:
      Nothing is stored.

    Raises:
      ValueError: if the shapes don't fit.
      TypeError: if ``shares`` is not float.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(chosen_bit_widths(jnp.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3]]), bits=[0, 2, 4]))
      [2. 4.]

    References:
      Li et al., `Mixed-Precision Embeddings for Large-Scale Recommendation Models
      <https://arxiv.org/abs/2409.20305>`_, 2024.
    """
    shares, widths = require_float(shares), jnp.asarray(bits, jnp.float32)
    if widths.ndim != 1 or shares.shape[-1:] != widths.shape:
        raise ValueError(f"expected shares [..., bit_widths], got {shares.shape} for bits {widths.shape}")
    large = jnp.where(shares >= 1 / (2 * widths.size), _like(widths, shares), -jnp.inf)
    return jnp.where(jnp.isnan(shares).any(-1), jnp.nan, jnp.max(large, axis=-1))
