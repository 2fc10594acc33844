"""Models of several widths in one program, as parts of the widest."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax import embed, prune
from recjax.compress._chain import HparamFn, Params, Transform, stateless
from recjax.trees import read, write


class _NarrowTable(NamedTuple):
    """A table whose columns outside ``keep [dim]`` read as zero and get no gradient."""

    table: embed.Table
    keep: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.table.shape

    @property
    def nbytes(self) -> int:
        return self.table.nbytes

    def rows(self, ids: jax.Array | None) -> jax.Array:
        values = embed.lookup(self.table, ids)
        keep = self.keep.reshape(*[1] * (values.ndim - 1), -1)
        return jnp.where(keep | jnp.isnan(values), values, 0)

    def touched(self, ids: jax.Array) -> Any:
        return self._replace(table=embed.touched(self.table, ids), keep=None)


class Widths(NamedTuple):
    """Models of several widths as parts of the widest, for :func:`recjax.grid.fit`.

    Attributes:
      starts: initial parameters, leaves ``[seeds, widths, ...]``, ``fixed`` shared.
      init: ``init(start, hparams) -> params``, the initial parameters of a member's width.
      transform: masks the parameters to a member's width; the first of a :func:`chain`.
      cut: ``cut(params, width) -> params`` in the shapes of the width, for packing.
    """

    starts: Params
    init: Callable[[Params, Any], Params]
    transform: Transform
    cut: Callable[[Params, float], Params]


def widths(models: Mapping[float, Params], couplings: Mapping[str, prune.Coupling], *, width: HparamFn) -> Widths:
    r"""Models of several widths as one model, with the width as a traced hyperparameter.

    .. math::
        y_e = w_e \prod_a [e_a < \text{width}_a], \qquad e_a \text{ the index of } e \text{ on the axis } a

    A member is a part of the widest model, initialized as its narrow model. Entries outside its width are zero and get
    no gradient, so sums, norms, weight decay and quantization scales are those of the narrow model. These are not:
    means over a narrow axis (row-wise Adagrad), shares (the sparsity of pruning counts the zeros), and random draws of
    its shape (dropout). Every member costs as much as the widest.

    Args:
      models: ``{width: params}``, leaves ``[seeds, ...]``; ``fixed`` is shared and equal for all.
      couplings: the structures that differ in number, in the shapes of the widest model, from
        :func:`recjax.prune.dim_coupling` or :func:`recjax.prune.mlp_couplings`.
      width: ``width(hparams)``, a key of ``models``; any other gives NaN.

    Returns:
      :class:`Widths`.

    Storage:
      After ``cut``, that of the narrow model.

    Examples:
      >>> from recjax.models import MatrixFactorization, matrix_factorization
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> models = {dim: matrix_factorization(MatrixFactorization(users=5, items=6, dim=dim)) for dim in (4, 8)}
      >>> wide = widths(
      ...     {dim: jax.vmap(model.init)(keys) for dim, model in models.items()},
      ...     {"dims": prune.dim_coupling([("tables", "user"), ("tables", "item")])},
      ...     width=lambda hparams: hparams["dim"],
      ... )
      >>> member = wide.init(jax.tree.map(lambda leaf: leaf[0], wide.starts), {"dim": 4.0})
      >>> member["tables"]["user"].shape, wide.cut(member, 4)["tables"]["user"].shape
      ((5, 8), (5, 4))

    References:
      Yu et al., `Slimmable Neural Networks <https://arxiv.org/abs/1812.08928>`_, 2019, section 3, where the widths
      share weights; here each member has its own.
    """
    fixed = next(iter(models.values()))["fixed"]
    parts = {size: {name: part for name, part in params.items() if name != "fixed"} for size, params in models.items()}
    masks = _masks(list(parts.values()), couplings)
    sizes = np.array(list(parts), np.float32)
    expanded = [
        jax.vmap(lambda one, own=own: prune.expand(one, own, couplings))(params)
        for params, own in zip(parts.values(), masks, strict=True)
    ]
    shapes = [jax.tree.map(jnp.shape, params) for params in expanded]
    if any(other != shapes[0] for other in shapes):
        raise ValueError(f"models: expected shapes that differ only in the structures, got {shapes}")
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *expanded)
    keeps = jax.tree.map(lambda *keeps: np.stack(keeps), *masks)

    def own(tree: Any, hparams: Any, fill: Any) -> Any:
        same = jnp.asarray(width(hparams), jnp.float32) == sizes
        at = jnp.where(same.any(), same.argmax(), len(sizes))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf).at[at].get(mode="fill", fill_value=fill), tree)

    def init(start: Params, hparams: Any) -> Params:
        return own({name: start[name] for name in starts}, hparams, jnp.nan)

    def apply(params: Params, learned: tuple, state: tuple, hparams: Any) -> Params:
        return _narrowed(params, own(keeps, hparams, True), couplings)

    def cut(params: Params, width: float) -> Params:
        return prune.shrink(params, dict(zip(parts, masks, strict=True))[width], couplings)

    transform = stateless(apply)
    return Widths({**starts, "fixed": fixed}, init, transform, cut)


def _masks(models: list[Params], couplings: Mapping[str, prune.Coupling]) -> list[dict[str, Any]]:
    """For each model, the mask of its structures, the first ones of the widest."""
    counts = [
        {
            name: next(read(one, path).shape[1:][axis] for path, axis, at in coupling.axes if at is None)
            for name, coupling in couplings.items()
        }
        for one in models
    ]
    return [
        {name: np.arange(max(other[name] for other in counts)) < count for name, count in one.items()} for one in counts
    ]


def _narrowed(params: Params, keeps: dict[str, jax.Array], couplings: Mapping[str, prune.Coupling]) -> Params:
    paths = dict.fromkeys(part.path for coupling in couplings.values() for part in coupling.axes)
    ones: Any = {}
    for path in paths:
        shape = read(params, path).shape
        ones = write(ones, path, jnp.ones((1, *shape[1:]) if path[0] == "tables" else shape, bool))
    kept = prune.mask_coupled(ones, keeps, couplings)
    for path in paths:
        leaf, keep = read(params, path), read(kept, path)
        narrow = _NarrowTable(leaf, keep[0]) if path[0] == "tables" else jnp.where(keep, leaf, 0)
        params = write(params, path, narrow)
    return params
