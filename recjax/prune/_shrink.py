"""Structured pruning: coupled structures, and parameters of smaller shapes."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax.prune._scores import slice_scores
from recjax.trees import Keys, read, write


class CoupledAxis(NamedTuple):
    """An axis of one array, divided among the structures of a :class:`Coupling`.

    Attributes:
      path: keys of the array in the nested dict of parameters.
      axis: the axis.
      positions: ``[structures][n]``, the positions of each structure on the axis. None if position ``j`` belongs to
        structure ``j``.
    """

    path: Keys
    axis: int
    positions: tuple[tuple[int, ...], ...] | None = None


class Coupling(NamedTuple):
    """Structures (hidden units, heads, embedding dimensions, rows) that extend through several arrays.

    Hidden unit ``j``, for example, is column ``j`` of one kernel, entry ``j`` of its bias and row ``j`` of the next
    kernel.

    Attributes:
      axes: the axes of arrays that the structures divide.
    """

    axes: tuple[CoupledAxis, ...]


def _structure_count(params: Any, coupling: Coupling) -> int:
    """The number of structures of a coupling, the same on each of its axes."""
    counts = {
        part.path: read(params, part.path).shape[part.axis] if part.positions is None else len(part.positions)
        for part in coupling.axes
    }
    if len(set(counts.values())) != 1:
        raise ValueError(f"couplings: expected the same number of structures on every axis, got {counts}")
    return next(iter(counts.values()))


def _check_masks(params: Any, masks: Mapping[str, Any], couplings: Mapping[str, Coupling]) -> None:
    if unknown := set(masks) - set(couplings):
        raise ValueError(f"masks: expected names among {sorted(couplings)}, got {sorted(unknown)}")
    for name, keep in masks.items():
        if keep.dtype != jnp.bool_:
            raise TypeError(f"masks[{name!r}]: expected bool, got {keep.dtype}")
        if keep.shape != (expected := (_structure_count(params, couplings[name]),)):
            raise ValueError(f"masks[{name!r}]: expected shape {expected}, got {keep.shape}")


def mlp_couplings(net: Mapping[str, Any], *, path: Keys = (), output: str = "output") -> dict[str, Coupling]:
    r"""Couplings of the hidden units of a multilayer perceptron.

    .. math::
        G^{(l)}_j = \{W^{(l)}_{\cdot j}, b^{(l)}_j, W^{(l+1)}_{j \cdot}\}

    Args:
      net: ``{"hidden_0": ..., "hidden_1": ..., output: ...}``, as in the parameters of :func:`recjax.models.mlp`; only
        names are used.
      path: keys of ``net`` in the parameters, ``("net",)`` for that model.
      output: name of the last layer, whose units are not pruned.

    Returns:
      ``{layer: Coupling}`` for each hidden layer.

    Examples:
      >>> layer = {"kernel": None, "bias": None}
      >>> for part in mlp_couplings({"hidden_0": layer, "output": layer})["hidden_0"].axes:
      ...     print(part.path, part.axis)
      ('hidden_0', 'kernel') 1
      ('hidden_0', 'bias') 0
      ('output', 'kernel') 0

    References:
      Li et al., `Pruning Filters for Efficient ConvNets <https://arxiv.org/abs/1608.08710>`_, 2017, section 3.1.
    """
    layers = [*(f"hidden_{i}" for i in range(len(net) - 1)), output]
    if set(layers) != set(net):
        raise ValueError(f"net: expected layers {layers}, got {sorted(net)}")
    return {layer: unit_coupling((*path, layer), (*path, following)) for layer, following in itertools.pairwise(layers)}


def unit_coupling(layer: Keys, following: Keys) -> Coupling:
    r"""Coupling of the hidden units of a dense layer with the next layer.

    .. math::
        G_j = \{W_{\cdot j}, b_j, W'_{j \cdot}\}

    Args:
      layer: keys of the layer, ``{"kernel": [in, units], "bias": [units]}``.
      following: keys of the next layer, whose kernel is ``[units, out]``.

    Returns:
      :class:`Coupling`, one structure per unit.

    Examples:
      >>> units = {"block_0": unit_coupling(("inner",), ("outer",))}
      >>> params = {"inner": {"kernel": jnp.ones((2, 8)), "bias": jnp.ones(8)}, "outer": {"kernel": jnp.ones((8, 2))}}
      >>> shrink(params, {"block_0": jnp.arange(8) < 3}, units)["outer"]["kernel"].shape
      (3, 2)

    References:
      Li et al., `Pruning Filters for Efficient ConvNets <https://arxiv.org/abs/1608.08710>`_, 2017, section 3.1.
    """
    return Coupling(
        (CoupledAxis((*layer, "kernel"), 1), CoupledAxis((*layer, "bias"), 0), CoupledAxis((*following, "kernel"), 0)),
    )


def head_coupling(
    inputs: Sequence[Keys],
    output: Keys | None = None,
    *,
    biases: Sequence[Keys] = (),
    heads: int | None = None,
    dim: int | None = None,
    parts: int = 1,
) -> Coupling:
    r"""Coupling of the heads of an attention layer.

    .. math::
        G_h = \{W^Q_{\cdot h \cdot}, W^K_{\cdot h \cdot}, W^V_{\cdot h \cdot}, b_{h \cdot}, W^O_{h \cdot \cdot}\}

    Kernels have an axis of heads, or ``heads`` and ``dim`` tell how an axis is divided among heads. The first block of
    SASRec: ``head_coupling([("net", f"{name}_0", "kernel") for name in ("query", "key", "value")], heads=heads,
    dim=dim)``; of HSTU: ``head_coupling([("net", "project_0", "kernel")], ("net", "output_0", "kernel"), heads=heads,
    dim=dim, parts=4)``. Only :func:`coupled_scores` and :func:`mask_coupled` apply to these two, not :func:`shrink`:
    SASRec adds its heads to the residual stream by position, and HSTU normalizes over them.

    Args:
      inputs: keys of the kernels of queries, keys and values, ``[in, heads, head_dim]`` or ``[in, parts * dim]``.
      output: keys of the output kernel, ``[heads, head_dim, out]`` or ``[dim, out]``. None without one.
      biases: keys of the biases of the inputs, ``[heads, head_dim]`` or ``[parts * dim]``.
      heads: number of heads. None if the kernels have an axis of heads.
      dim: total dimension of the heads, a multiple of ``heads``; both or neither are given.
      parts: number of projections of ``dim`` that a kernel of ``inputs`` concatenates.

    Returns:
      :class:`Coupling`, one structure per head.

    Examples:
      >>> head_coupling([("project",)], heads=2, dim=4, parts=2).axes[0].positions
      ((0, 1, 4, 5), (2, 3, 6, 7))

    References:
      Michel et al., `Are Sixteen Heads Really Better than One? <https://arxiv.org/abs/1905.10650>`_, 2019, section 2.
    """
    if (heads is None) != (dim is None) or (heads and dim and dim % heads):
        raise ValueError(f"heads and dim: expected heads that divide dim, or neither, got {heads} and {dim}")

    def positions(parts: int) -> tuple[tuple[int, ...], ...] | None:
        if heads is None or dim is None:
            return None
        places = np.arange(parts * dim).reshape(parts, heads, dim // heads).swapaxes(0, 1)
        return tuple(map(tuple, places.reshape(heads, -1).tolist()))

    axes = [*(CoupledAxis(path, 1, positions(parts)) for path in inputs)]
    axes += [CoupledAxis(path, 0, positions(parts)) for path in biases]
    return Coupling((*axes, *([] if output is None else [CoupledAxis(output, 0, positions(1))])))


def dim_coupling(
    tables: Sequence[Keys], *, kernel: Keys | None = None, fields: int = 1, dim: int | None = None
) -> Coupling:
    r"""Coupling of the dimensions of embedding tables that are used together.

    .. math::
        G_j = \{E_{ij} : \text{all rows } i \text{ of all tables } E\} \cup \{\text{the rows of the kernel that read
        } j\}

    Args:
      tables: keys of the tables ``[rows, dim]``: both sides of an inner product, or all fields of a network.
      kernel: keys of the kernel that reads the concatenated embeddings of all fields, ``[fields * dim, out]`` or
        longer; further rows, such as those of dense features, are not pruned. None without one.
      fields: number of embeddings that the kernel reads.
      dim: dimension of an embedding, required with ``kernel``.

    Returns:
      :class:`Coupling`, one structure per dimension.

    Examples:
      >>> dim_coupling([("tables", "user")], kernel=("net", "kernel"), fields=3, dim=2).axes[-1].positions
      ((0, 2, 4), (1, 3, 5))

    References:
      Joglekar et al., `Neural Input Search <https://arxiv.org/abs/1907.04471>`_, 2020, section 3.
    """
    axes = tuple(CoupledAxis(path, 1) for path in tables)
    if kernel is None:
        return Coupling(axes)
    if dim is None:
        raise ValueError("dim: expected an int with kernel, got None")
    positions = tuple(tuple(field * dim + j for field in range(fields)) for j in range(dim))
    return Coupling((*axes, CoupledAxis(kernel, 0, positions)))


def coupled_scores(scores: Any, couplings: Mapping[str, Coupling]) -> dict[str, jax.Array]:
    r"""Root mean square of the scores of each coupled structure.

    .. math::
        S_j = \sqrt{\frac{1}{|G_j|} \sum_{e \in G_j} s_e^2}, \qquad G_j \text{ the entries of structure } j

    Args:
      scores: scores (or weights, of any sign) in the nesting of the parameters.
      couplings: ``{name: Coupling}``.

    Returns:
      ``{name: [structures]}``, for :func:`mask_smallest` of each or :func:`mask_smallest_globally` of all.

    Examples:
      >>> scores = {"in": jnp.array([[3.0, 1.0]]), "out": jnp.array([[5.0], [1.0]])}
      >>> units = Coupling((CoupledAxis(("in",), 1), CoupledAxis(("out",), 0)))
      >>> print(coupled_scores(scores, {"units": units})["units"].round(3))
      [4.123 1.   ]

    References:
      Fang et al., `DepGraph <https://arxiv.org/abs/2301.12900>`_, 2023, section 3.3.
    """

    def of_coupling(coupling: Coupling) -> jax.Array:
        count, parts = _structure_count(scores, coupling), []
        for path, axis, positions in coupling.axes:
            values = jnp.moveaxis(read(scores, path), axis, 0)
            if positions is not None:
                values = values[np.array(positions)]
            parts.append(values.reshape(count, math.prod(values.shape[1:])))
        return slice_scores(jnp.concatenate(parts, axis=1), axis=0)

    return {name: of_coupling(coupling) for name, coupling in couplings.items()}


def mask_coupled(params: Any, masks: Mapping[str, jax.Array], couplings: Mapping[str, Coupling]) -> Any:
    r"""Parameters with every dropped structure set to 0 in all its arrays.

    .. math::
        \theta'_e = \theta_e \prod_{j : e \in G_j} m_j

    Args:
      params: nested dict of arrays.
      masks: ``{name: [structures] bool}``, True = kept; couplings without a mask are not pruned.
      couplings: ``{name: Coupling}``.

    Returns:
      ``params``, exactly 0 where dropped, also where they were NaN.

    Examples:
      >>> params = {"in": jnp.ones((1, 2)), "out": jnp.ones((2, 1))}
      >>> units = {"units": Coupling((CoupledAxis(("in",), 1), CoupledAxis(("out",), 0)))}
      >>> print(mask_coupled(params, {"units": jnp.array([True, False])}, units)["in"])
      [[1. 0.]]

    References:
      Fang et al., `DepGraph <https://arxiv.org/abs/2301.12900>`_, 2023, section 3.1.
    """
    masks = {name: jnp.asarray(keep) for name, keep in masks.items()}
    _check_masks(params, masks, couplings)
    for name, keep in masks.items():
        for path, axis, positions in couplings[name].axes:
            leaf = read(params, path)
            along = keep
            if positions is not None:
                dropped = jnp.repeat(~keep, len(positions[0]))
                along = jnp.ones(leaf.shape[axis], bool).at[np.ravel(positions)].set(~dropped)
            shape = [1] * leaf.ndim
            shape[axis] = along.size
            params = write(params, path, jnp.where(along.reshape(shape), leaf, 0))
    return params


def shrink(params: Any, masks: Mapping[str, jax.Array], couplings: Mapping[str, Coupling]) -> Any:
    r"""Parameters with every dropped structure removed: smaller shapes, the same function.

    .. math::
        f(\mathrm{shrink}(\theta, m)) = f(\mathrm{mask\_coupled}(\theta, m))

    This holds, up to float tolerance, if a structure whose entries are all zero contributes nothing: for dense layers
    with any activation, heads, and dimensions of inner products, but not for a normalization over the structures, whose
    statistics change. Rows of a table move: see :func:`remap`. Not traceable, as the masks determine shapes: call it
    outside :func:`jax.jit`, on the parameters of one model.

    Args:
      params: nested dict of arrays.
      masks: ``{name: [structures] bool}``, True = kept; couplings without a mask are not pruned.
      couplings: ``{name: Coupling}``; two may cut the same axis of one array at different positions.

    Returns:
      ``params`` with smaller arrays; arrays without a dropped structure are the same objects.

    Storage:
      The kept structures only.

    Examples:
      >>> units = {"units": Coupling((CoupledAxis(("in",), 1), CoupledAxis(("out",), 0)))}
      >>> small = shrink({"in": jnp.ones((1, 3)), "out": jnp.ones((3, 1))}, {"units": jnp.arange(3) < 2}, units)
      >>> small["in"].shape, small["out"].shape
      ((1, 2), (2, 1))

    References:
      Fang et al., `DepGraph <https://arxiv.org/abs/2301.12900>`_, 2023, section 3.1.
    """
    kept = {name: np.asarray(keep) for name, keep in masks.items()}
    _check_masks(params, kept, couplings)
    for (path, axis), gone in _dropped(params, kept, couplings).items():
        leaf = read(params, path)
        params = write(params, path, jnp.take(leaf, _remaining(leaf.shape[axis], gone), axis=axis))
    return params


def expand(params: Any, masks: Mapping[str, jax.Array], couplings: Mapping[str, Coupling]) -> Any:
    r"""Inverse of :func:`shrink`: the original shapes, with zeros for removed structures.

    .. math::
        \theta_e = \theta'_{r(e)} \text{ if } m_e = 1, \text{ else } 0, \qquad r(e) \text{ the position of } e \text{
        among the kept entries}

    Args:
      params: nested dict of arrays, from :func:`shrink`.
      masks: the masks given to :func:`shrink`.
      couplings: the couplings given to :func:`shrink`.

    Returns:
      ``params`` with larger arrays.

    Examples:
      >>> units = {"units": Coupling((CoupledAxis(("in",), 1), CoupledAxis(("out",), 0)))}
      >>> small = {"in": jnp.ones((1, 2)), "out": jnp.ones((2, 1))}
      >>> print(expand(small, {"units": jnp.array([True, False, True])}, units)["in"])
      [[1. 0. 1.]]

    References:
      Fang et al., `DepGraph <https://arxiv.org/abs/2301.12900>`_, 2023, section 3.
    """
    kept = {name: np.asarray(keep) for name, keep in masks.items()}
    for name, keep in kept.items():
        for path, axis, positions in couplings[name].axes:
            if positions is None and (count := read(params, path).shape[axis]) != keep.sum():
                raise ValueError(f"masks[{name!r}]: expected {keep.sum()} structures in {path}, got {count}")
    for (path, axis), gone in _dropped(params, kept, couplings).items():
        leaf = jnp.moveaxis(read(params, path), axis, 0)
        size = len(leaf) + len(gone)
        wide = jnp.zeros((size, *leaf.shape[1:]), leaf.dtype).at[_remaining(size, gone)].set(leaf)
        params = write(params, path, jnp.moveaxis(wide, 0, axis))
    return params


def _dropped(
    params: Any, masks: Mapping[str, np.ndarray], couplings: Mapping[str, Coupling]
) -> dict[tuple[Keys, int], set[int]]:
    """The dropped positions on each axis that has any."""
    dropped: dict[tuple[Keys, int], set[int]] = {}
    for name, keep in masks.items():
        for path, axis, positions in couplings[name].axes:
            gone = np.arange(keep.size)[~keep] if positions is None else np.array(positions)[~keep].ravel()
            if gone.size:
                dropped.setdefault((path, axis % read(params, path).ndim), set()).update(gone.tolist())
    return dropped


def _remaining(size: int, gone: set[int]) -> np.ndarray:
    return np.array([i for i in range(size) if i not in gone], int)


def remap(keep: jax.Array) -> jax.Array:
    """New position of each row of a table after the dropped rows are removed.

    Args:
      keep: ``[rows]`` bool, True = kept.

    Returns:
      ``[rows]`` int32, -1 for a dropped row.

    Examples:
      >>> print(remap(jnp.array([True, False, True])))
      [ 0 -1  1]
    """
    keep = jnp.asarray(keep)
    if keep.dtype != jnp.bool_:
        raise TypeError(f"keep: expected bool, got {keep.dtype}")
    return jnp.where(keep, jnp.cumsum(keep, dtype=jnp.int32) - 1, -1)
