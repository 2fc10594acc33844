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
    """An axis of one array, cut into the parts that belong to the structures of a :class:`Coupling`.

    Attributes:
      path: the keys that lead to the array in the nested dict of parameters.
      axis: which of its axes.
      positions: for each structure the positions on the axis that are its own, ``[structures][n]``, ``n`` being the
        same for all; None where position ``j`` belongs to structure ``j``.
    """

    path: Keys
    axis: int
    positions: tuple[tuple[int, ...], ...] | None = None


class Coupling(NamedTuple):
    """Structures (hidden units, heads, embedding dimensions, rows) that reach through several arrays.

    Hidden unit ``j`` is column ``j`` of one kernel, entry ``j`` of its bias and row ``j`` of the next kernel.

    Attributes:
      axes: the axes of arrays that the structures span.
    """

    axes: tuple[CoupledAxis, ...]


def _structure_count(params: Any, coupling: Coupling) -> int:
    """How many structures a coupling has, the same by each of its axes."""
    found = {
        part.path: read(params, part.path).shape[part.axis] if part.positions is None else len(part.positions)
        for part in coupling.axes
    }
    if len(set(found.values())) != 1:
        raise ValueError(f"couplings: expected the same number of structures on every axis, got {found}")
    return next(iter(found.values()))


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
      net: ``{"hidden_0": {"kernel", "bias"}, "hidden_1": ..., output: ...}``, as in the parameters of
        :func:`recjax.models.mlp`; the layers are read for their names alone.
      path: the keys that lead to ``net`` in the parameters, ``("net",)`` for that model.
      output: the name of the last layer, whose units stay.

    Returns:
      One :class:`Coupling` per hidden layer, under its name.

    Knobs:
      None.

    Storage:
      Nothing is stored.

    Raises:
      ValueError: if the layers are not ``hidden_0``, ``hidden_1``, ... and ``output``.

    Examples:
      >>> layer = {"kernel": None, "bias": None}
      >>> for part in mlp_couplings({"hidden_0": layer, "output": layer})["hidden_0"].axes:
      ...     print(part.path, part.axis)
      ('hidden_0', 'kernel') 1
      ('hidden_0', 'bias') 0
      ('output', 'kernel') 0

    References:
      Li et al., `Pruning Filters for Efficient ConvNets <https://arxiv.org/abs/1608.08710>`_, 2017, section 3.1: a
      unit goes together with the weights of the next layer that read it.
    """
    layers = [*(f"hidden_{i}" for i in range(len(net) - 1)), output]
    if set(layers) != set(net):
        raise ValueError(f"expected layers {layers}, got {sorted(net)}")
    return {layer: unit_coupling((*path, layer), (*path, following)) for layer, following in itertools.pairwise(layers)}


def unit_coupling(layer: Keys, following: Keys) -> Coupling:
    r"""Coupling of the hidden units of a dense layer with the layer that reads it.

    .. math::
        G_j = \{W_{\cdot j}, b_j, W'_{j \cdot}\}

    Args:
      layer: path of the layer, ``{"kernel": [in, units], "bias": [units]}``.
      following: path of the layer with the kernel ``[units, out]``.

    Returns:
      The :class:`Coupling`, one structure per unit.

    Knobs:
      None.

    Storage:
      Nothing is stored.

    Examples:
      >>> import jax
      >>> from recjax.models import SasRec, sasrec
      >>> model = sasrec(SasRec(items=5, length=4, dim=8))
      >>> units = {"block_0": unit_coupling(("net", "inner_0"), ("net", "outer_0"))}
      >>> params = model.init(jax.random.key(0))
      >>> small = shrink(params, {"block_0": jax.numpy.arange(8) < 3}, units)
      >>> small["net"]["inner_0"]["kernel"].shape
      (8, 3)
      >>> model.query(small, {"history": jax.numpy.array([[0, 3]])}).shape
      (1, 8)

    References:
      Li et al., `Pruning Filters for Efficient ConvNets <https://arxiv.org/abs/1608.08710>`_, 2017, section 3.1: a
      unit goes together with the weights of the next layer that read it.
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

    Kernels have an axis of heads, or ``heads`` and ``dim`` say how one axis is divided among them: SASRec has
    ``head_coupling([("net", f"{name}_0", "kernel") for name in ("query", "key", "value")], heads=heads, dim=dim)`` in
    its first block, and HSTU ``head_coupling([("net", "project_0", "kernel")], ("net", "output_0", "kernel"),
    heads=heads, dim=dim, parts=4)``. For those two, :func:`coupled_scores` and :func:`mask_coupled` apply and
    :func:`shrink` doesn't: SASRec adds the heads to its residual stream in their places, and HSTU normalizes over them.

    Args:
      inputs: paths of the kernels of queries, keys and values, ``[in, heads, head_dim]`` or ``[in, parts * dim]``.
      output: path of the kernel ``[heads, head_dim, out]`` or ``[dim, out]`` that joins the heads; None without one.
      biases: paths of the biases of the inputs, ``[heads, head_dim]`` or ``[parts * dim]``.
      heads: how many heads divide an axis of kernels; None where they have an axis of their own.
      dim: the length of all heads together, needed with ``heads``, which divides it.
      parts: how many projections of ``dim`` one kernel of ``inputs`` holds side by side.

    Returns:
      The :class:`Coupling`, one structure per head.

    Knobs:
      None.

    Storage:
      Nothing is stored.

    Raises:
      ValueError: if there is only one of ``heads`` and ``dim``, or the one doesn't divide the other.

    Examples:
      >>> len(head_coupling([("query",), ("key",), ("value",)], ("out",)).axes)
      4
      >>> head_coupling([("project",)], heads=2, dim=4, parts=2).axes[0].positions
      ((0, 1, 4, 5), (2, 3, 6, 7))

    References:
      Michel et al., `Are Sixteen Heads Really Better than One? <https://arxiv.org/abs/1905.10650>`_, 2019, section 2.
    """
    if (heads is None) != (dim is None) or (heads and dim and dim % heads):
        raise ValueError(f"expected heads that divide dim, or neither, got {heads} and {dim}")

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
    r"""Coupling of the dimensions of embedding tables that are read together.

    .. math::
        G_j = \{E_{ij} : \text{all rows } i \text{ of all tables } E\} \cup \{\text{the rows of the kernel that read
        } j\}

    Args:
      tables: paths of the tables ``[rows, dim]``: both sides of an inner product, or all fields of a network.
      kernel: path of the kernel that reads the embeddings of all fields one after another, ``[fields * dim, out]`` or
        longer; what follows them, dense features say, stays. None where no kernel does.
      fields: how many embeddings the kernel reads.
      dim: the dimensions of one, needed with ``kernel``.

    Returns:
      The :class:`Coupling`, one structure per dimension.

    Knobs:
      None.

    Storage:
      Nothing is stored.

    Raises:
      ValueError: if there is a kernel and no ``dim``.

    Examples:
      >>> dim_coupling([("tables", "user")], kernel=("net", "kernel"), fields=3, dim=2).axes[-1].positions
      ((0, 2, 4), (1, 3, 5))

    References:
      Joglekar et al., `Neural Input Search for Large Scale Recommendation Models <https://arxiv.org/abs/1907.04471>`_,
      2020, section 3: dimensions as what is searched.
    """
    axes = tuple(CoupledAxis(path, 1) for path in tables)
    if kernel is None:
        return Coupling(axes)
    if dim is None:
        raise ValueError("dim: expected a number with kernel, got None")
    positions = tuple(tuple(field * dim + j for field in range(fields)) for j in range(dim))
    return Coupling((*axes, CoupledAxis(kernel, 0, positions)))


def coupled_scores(scores: Any, couplings: Mapping[str, Coupling]) -> dict[str, jax.Array]:
    r"""Root mean square of the scores of every coupled structure.

    .. math::
        S_j = \sqrt{\frac{1}{|G_j|} \sum_{e \in G_j} s_e^2}, \qquad G_j \text{ the entries that structure } j \text{
        reaches through}

    Args:
      scores: scores (or weights, with any sign) in the nesting of the parameters.
      couplings: the structures.

    Returns:
      ``{name: [structures]}``, for :func:`mask_smallest` of each or :func:`mask_smallest_globally` of all.

    Knobs:
      None.

    Storage:
      Nothing is stored.

    Raises:
      ValueError: if the axes of a coupling disagree on how many structures there are.

    Examples:
      >>> import jax.numpy as jnp
      >>> scores = {"in": jnp.array([[3.0, 1.0]]), "out": jnp.array([[5.0], [1.0]])}
      >>> units = Coupling((CoupledAxis(("in",), 1), CoupledAxis(("out",), 0)))
      >>> print(coupled_scores(scores, {"units": units})["units"].round(3))
      [4.123 1.   ]

    References:
      Fang et al., `DepGraph: Towards Any Structural Pruning <https://arxiv.org/abs/2301.12900>`_, 2023, section 3.3:
      the importance of a group of coupled weights.
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
    r"""Parameters with every dropped structure zeroed in all its arrays.

    .. math::
        \theta'_e = \theta_e \prod_{j : e \in G_j} m_j

    Args:
      params: nested dict of arrays.
      masks: ``{name: [structures] bool}``, True = kept; couplings without a mask stay. May be traced.
      couplings: the structures.

    Returns:
      ``params``, dropped entries exactly 0 (also where they were NaN).

    Knobs:
      None.

    Storage:
      Nothing is stored; :func:`shrink` gives the smaller shapes.

    Raises:
      ValueError: if a mask has no coupling or not its length.
      TypeError: if a mask is not bool.

    Examples:
      >>> import jax.numpy as jnp
      >>> params = {"in": jnp.ones((1, 2)), "out": jnp.ones((2, 1))}
      >>> units = {"units": Coupling((CoupledAxis(("in",), 1), CoupledAxis(("out",), 0)))}
      >>> mask_coupled(params, {"units": jnp.array([True, False])}, units)["in"].tolist()
      [[1.0, 0.0]]

    References:
      Fang et al., `DepGraph: Towards Any Structural Pruning <https://arxiv.org/abs/2301.12900>`_, 2023, section 3.1.
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

    A model that reads these shapes gives what it gave with :func:`mask_coupled`, to float tolerance, if a structure
    whose entries are all zero contributes nothing. So it is with dense layers and any activation, with heads, and with
    dimensions of inner products; not with a normalization over the structures themselves, whose statistics change.
    Rows of a table move: see :func:`remap`.

    The masks shape the result, so this runs outside of :func:`jax.jit`, on one member.

    Args:
      params: nested dict of arrays.
      masks: ``{name: [structures] bool}``, True = kept; couplings without a mask stay.
      couplings: the structures.

    Returns:
      ``params`` with smaller arrays; what no dropped structure reaches is the same array. Two couplings may cut
      the same axis of one array at other positions of it.

    Knobs:
      None.

    Storage:
      The kept positions alone: each axis of an array shrinks by what its couplings drop.

    Raises:
      ValueError: if a mask has no coupling or not its length.
      TypeError: if a mask is not bool.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from recjax.models import Mlp, mlp
      >>> params = mlp(Mlp(widths=(3, 8, 2))).init(jax.random.key(0))
      >>> units = mlp_couplings(params["net"], path=("net",))
      >>> small = shrink(params, {"hidden_0": jnp.arange(8) < 5}, units)
      >>> small["net"]["hidden_0"]["kernel"].shape, small["net"]["output"]["kernel"].shape
      ((3, 5), (5, 2))

    References:
      Fang et al., `DepGraph: Towards Any Structural Pruning <https://arxiv.org/abs/2301.12900>`_, 2023, section 3.1.
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
        \theta_e = \theta'_{r(e)} \text{ if } m_e = 1, \text{ else } 0, \qquad r(e) \text{ the place of } e \text{
        among those kept}

    Args:
      params: nested dict of the small arrays.
      masks: ``{name: [structures] bool}``, those that they were cut by, True = there.
      couplings: the structures.

    Returns:
      ``params`` with larger arrays; :func:`shrink` of them by the same masks gives the small ones back.

    Knobs:
      None.

    Storage:
      Nothing is stored.

    Raises:
      ValueError: if an array has not as many structures as its mask says.

    Examples:
      >>> import jax.numpy as jnp
      >>> units = {"units": Coupling((CoupledAxis(("in",), 1), CoupledAxis(("out",), 0)))}
      >>> small = {"in": jnp.ones((1, 2)), "out": jnp.ones((2, 1))}
      >>> expand(small, {"units": jnp.array([True, False, True])}, units)["in"].tolist()
      [[1.0, 0.0, 1.0]]

    References:
      Fang et al., `DepGraph: Towards Any Structural Pruning <https://arxiv.org/abs/2301.12900>`_, 2023, section 3: the
      structures.
    """
    kept = {name: np.asarray(keep) for name, keep in masks.items()}
    for name, keep in kept.items():
        for path, axis, positions in couplings[name].axes:
            if positions is None and (found := read(params, path).shape[axis]) != keep.sum():
                raise ValueError(f"masks[{name!r}]: expected {keep.sum()} structures in {path}, got {found}")
    for (path, axis), gone in _dropped(params, kept, couplings).items():
        leaf = jnp.moveaxis(read(params, path), axis, 0)
        size = len(leaf) + len(gone)
        wide = jnp.zeros((size, *leaf.shape[1:]), leaf.dtype).at[_remaining(size, gone)].set(leaf)
        params = write(params, path, jnp.moveaxis(wide, 0, axis))
    return params


def _dropped(
    params: Any, masks: Mapping[str, np.ndarray], couplings: Mapping[str, Coupling]
) -> dict[tuple[Keys, int], set[int]]:
    """The positions on each axis that are cut out, where there are any."""
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
      ``[rows]`` int32, the new position of a kept row and -1 of a dropped one, which reads as zeros.

    Storage:
      ``4 * rows`` bytes.

    Raises:
      TypeError: if ``keep`` is not bool.

    Examples:
      >>> import jax.numpy as jnp
      >>> print(remap(jnp.array([True, False, True])))
      [ 0 -1  1]
    """
    keep = jnp.asarray(keep)
    if keep.dtype != jnp.bool_:
        raise TypeError(f"keep: expected bool, got {keep.dtype}")
    return jnp.where(keep, jnp.cumsum(keep, dtype=jnp.int32) - 1, -1)
