"""Mixed precision: sensitivity of the loss to bit widths, and learned bit widths (MPE)."""

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
    """Fake quantization with one scale for the leaf."""
    return fake_quant(leaf, bits=bits)


def sensitivity(
    loss: Callable[[Any], jax.Array],
    params: Any,
    *,
    bits: Sequence[float] | jax.Array,
    quantizer: Quantizer = _per_tensor,
) -> Any:
    r"""Change of the loss when one leaf of the parameters is quantized, for each leaf and bit width.

    .. math::
        \Delta_{l, b} = L(\theta_1, \dots, Q_b(\theta_l), \dots, \theta_n) - L(\theta)

    Bit widths are vmapped, so memory is that of ``len(bits)`` evaluations of the loss.

    Args:
      loss: ``loss(params)``, a scalar, on fixed data.
      params: tree of arrays; only float leaves are quantized.
      bits: ``[bit_widths]``, such as ``[2, 4, 8]``.
      quantizer: ``quantizer(leaf, bits)``, the identity from 16 bits on. Default: :func:`fake_quant` with one scale.

    Returns:
      Tree of ``[bit_widths]`` float changes of the loss; zeros for leaves that aren't float.

    Examples:
      >>> params = {"w": jnp.array([1.0, -0.4]), "b": jnp.array([0.5])}
      >>> loss = lambda p: (jnp.sum(p["w"]) + p["b"].sum() - 1.1) ** 2
      >>> print([f"{change:.2f}" for change in sensitivity(loss, params, bits=[2, 4])["w"]])
      ['0.16', '0.00']

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
        quantized = list(leaves)
        for i in places:
            quantized[i] = quantizer(leaves[i], jnp.where(place == i, width, 32))
        return loss(jax.tree.unflatten(structure, quantized))

    every = jax.lax.map(lambda place: jax.vmap(changed, (None, 0))(place, widths), jnp.asarray([-1, *places]))
    changes = {place: every[i + 1] - every[0] for i, place in enumerate(places)}
    nothing = jnp.zeros_like(every[0])
    return jax.tree.unflatten(structure, [changes.get(i, nothing) for i in range(len(leaves))])


def frequency_groups(counts: jax.Array, *, groups: int = 128) -> jax.Array:
    r"""Groups of equal size of rows of similar frequency; group 0 has the rarest.

    .. math::
        g_i = \left\lfloor \frac{\mathrm{rank}_i \cdot G}{n} \right\rfloor

    with ranks from 0 by ascending count, ties in row order.

    Args:
      counts: ``[rows]``, occurrences of each row in training.
      groups: number of groups :math:`G`. Static.

    Returns:
      ``[rows]`` int32 from 0 to ``groups - 1``.

    Published:
      128 groups.

    Storage:
      None if rows are sorted by frequency; else ``rows * ceil(log2(groups)) / 8`` bytes.

    Examples:
      >>> print(frequency_groups(jnp.array([9, 1, 5, 2]), groups=2))
      [1 0 1 0]

    References:
      Li et al., `Mixed-Precision Embeddings <https://arxiv.org/abs/2409.20305>`_, 2024.
    """
    counts = jnp.asarray(counts)
    if counts.ndim != 1 or groups < 1:
        raise ValueError(f"counts and groups: expected [rows] and 1 or more, got {counts.shape} and {groups}")
    rows = counts.shape[0]
    group = np.arange(rows, dtype=np.int64) * groups // max(rows, 1)
    return jnp.zeros(rows, jnp.int32).at[jnp.argsort(counts)].set(jnp.asarray(group, jnp.int32))


def bit_width_shares(logits: jax.Array, *, temperature: jax.typing.ArrayLike = 3e-3) -> jax.Array:
    r"""Softmax weights of the bit widths of each group (MPE).

    .. math::
        p_b = \frac{\exp(\gamma_b / \tau)}{\sum_c \exp(\gamma_c / \tau)}

    Args:
      logits: ``[..., bit_widths]`` float, learned.
      temperature: scalar ``> 0``.

    Returns:
      ``[..., bit_widths]``, which sum to 1.

    Published:
      Temperature .003.

    Examples:
      >>> [round(p, 3) for p in bit_width_shares(jnp.array([0.0, 0.003])).tolist()]
      [0.269, 0.731]

    References:
      Li et al., `Mixed-Precision Embeddings <https://arxiv.org/abs/2409.20305>`_, 2024.
    """
    return jax.nn.softmax(require_float(logits, "logits") / temperature, axis=-1)


def mixed_precision(
    x: jax.Array, shares: jax.Array, steps: jax.Array, offset: jax.Array, *, bits: Sequence[float] | jax.Array
) -> jax.Array:
    r"""Rows as a learned mixture of their quantizations to several bit widths (MPE).

    .. math::
        y = \sum_b p_b\,Q^+_b(x), \qquad Q^+_0 = 0,

    with :func:`learned_step_offset` :math:`Q^+_b`. Gather the rows, and the shares of their groups, first.

    Args:
      x: ``[..., dim]`` float, rows.
      shares: ``[..., bit_widths]`` float, the :func:`bit_width_shares` of each row's group.
      steps: ``[bit_widths]`` float, learned, from :func:`initial_step` at each bit width; unused at 0 bits.
      offset: ``[dim]`` float, learned, initially 0.
      bits: ``[bit_widths]``, such as ``range(7)``.

    Returns:
      ``[..., dim]``, shape and dtype of ``x``.

    Published:
      0 to 6 bits, 128 groups.

    Storage:
      In training the float table; then each group at its bit width (:func:`chosen_bit_widths`): ``rows of the group *
      ceil(dim * b / 8)`` bytes, 2 per step and ``2 * dim`` of offsets.

    Examples:
      >>> x, shares = jnp.array([[0.9, -0.4], [0.2, 0.6]]), jnp.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
      >>> print(mixed_precision(x, shares, jnp.array([1.0, 0.5, 0.25]), jnp.zeros(2), bits=[0, 2, 4]))
      [[ 0.5   -0.5  ]
       [ 0.125  0.25 ]]

    References:
      Li et al., `Mixed-Precision Embeddings <https://arxiv.org/abs/2409.20305>`_, 2024.
    """
    x, widths = require_float(x), jnp.asarray(bits, jnp.float32)
    expected = {"shares": (*x.shape[:-1], *widths.shape), "steps": widths.shape, "offset": x.shape[-1:]}
    got = {"shares": jnp.shape(shares), "steps": jnp.shape(steps), "offset": jnp.shape(offset)}
    if x.ndim == 0 or widths.ndim != 1 or expected != got:
        raise ValueError(
            f"shares, steps and offset: expected {expected} for x {x.shape} and bits {widths.shape}, got {got}"
        )
    center = jnp.reshape(offset, [1] * (x.ndim - 1) + [-1])

    def rounded(width: jax.Array, step: jax.Array) -> jax.Array:
        return learned_step_offset(x, step, center, bits=jnp.maximum(width, 1))

    each = jax.vmap(rounded)(widths, steps)
    share = jnp.where(_like(widths > 0, shares), shares, 0)
    return jnp.sum(jnp.moveaxis(share, -1, 0)[..., None] * each, axis=0).astype(x.dtype)


def _like(widths: jax.Array, shares: jax.Array) -> jax.Array:
    return widths.reshape([1] * (shares.ndim - 1) + [-1])


def bit_width_penalty(shares: jax.Array, counts: jax.Array, *, bits: Sequence[float] | jax.Array) -> jax.Array:
    r"""Penalty on the expected bit width of each group, larger for rarer groups (MPE).

    .. math::
        \ell_g = \frac{\sum_b p_{gb}\,b}{c_g / \min c}

    Args:
      shares: ``[groups, bit_widths]`` float, :func:`bit_width_shares`.
      counts: ``[groups]`` ``> 0``, total occurrences of the rows of each group.
      bits: ``[bit_widths]``.

    Returns:
      ``[groups]`` in bits. Not reduced.

    Published:
      The sum times 3e-4, added to a mean loss.

    Examples:
      >>> print(bit_width_penalty(jnp.array([[0.5, 0.5], [0.0, 1.0]]), jnp.array([10, 40]), bits=[0, 4]))
      [2. 1.]

    References:
      Li et al., `Mixed-Precision Embeddings <https://arxiv.org/abs/2409.20305>`_, 2024.
    """
    shares, counts, widths = (
        require_float(shares, "shares"),
        jnp.asarray(counts, jnp.float32),
        jnp.asarray(bits, jnp.float32),
    )
    if shares.shape != (*counts.shape, *widths.shape) or counts.ndim != 1 or widths.ndim != 1:
        raise ValueError(
            "shares, counts and bits: expected [groups, bit_widths], [groups] and [bit_widths], "
            f"got {shares.shape}, {counts.shape} and {widths.shape}"
        )
    return jnp.sum(shares * widths[None], axis=-1) * jnp.min(counts, initial=jnp.inf) / counts


def chosen_bit_widths(shares: jax.Array, *, bits: Sequence[float] | jax.Array) -> jax.Array:
    r"""Bit width of each group after the search: the largest with at least half of a uniform share (MPE).

    .. math::
        b_g = \max\left\{b : p_{gb} \ge \frac{1}{2 |B|}\right\}

    Args:
      shares: ``[..., bit_widths]`` float, :func:`bit_width_shares`.
      bits: ``[bit_widths]``.

    Returns:
      ``[...]`` float32, each one of ``bits``; NaN where a share is.

    Examples:
      >>> print(chosen_bit_widths(jnp.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3]]), bits=[0, 2, 4]))
      [2. 4.]

    References:
      Li et al., `Mixed-Precision Embeddings <https://arxiv.org/abs/2409.20305>`_, 2024.
    """
    shares, widths = require_float(shares, "shares"), jnp.asarray(bits, jnp.float32)
    if widths.ndim != 1 or shares.shape[-1:] != widths.shape:
        raise ValueError(
            f"shares and bits: expected [..., bit_widths] and [bit_widths], got {shares.shape} and {widths.shape}"
        )
    large = jnp.where(shares >= 1 / (2 * widths.size), _like(widths, shares), -jnp.inf)
    return jnp.where(jnp.isnan(shares).any(-1), jnp.nan, jnp.max(large, axis=-1))
