"""Pruning and quantization of whole models by one rule: tables of vectors by rows, kernels of nets by outputs."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax import compress, prune, quantize
from recjax.families import Model
from recjax.models import Params
from recjax.study import Compression
from recjax.trees import nbytes

_path = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
REFRESH_EVERY = 10  # steps between two refreshes of the masks


class Small(NamedTuple):
    """Hyperparameters of :func:`pruned_and_quantized`.

    Attributes:
      sparsity: final share of zeros of each matrix.
      ramp: share of the steps after which it is reached.
      bits: of each entry, 16 for none quantized.
    """

    sparsity: Any = 0.0
    ramp: Any = 0.0
    bits: Any = 16.0


def matrices(params: Params) -> tuple[list[str], list[str]]:
    """The tables and the kernels that are compressed: those of more than one column.

    Vectors of positions are none of them: they are added as a bias is, and few.

    Args:
      params: a model's parameters, or their shapes.

    Returns:
      Names in ``params["tables"]``, and paths ``net/.../kernel``.
    """
    tables = [name for name, table in params["tables"].items() if len(table.shape) == 2 and table.shape[1] > 1]
    paths = jax.tree_util.tree_leaves_with_path({"net": params["net"]})
    kernels = [_path(path) for path, leaf in paths if len(leaf.shape) == 2 and leaf.shape[1] > 1]
    return tables, [path for path in kernels if path != "net/position"]


def pruned_and_quantized(model: Model) -> Compression:
    """Magnitude pruning and fake quantization of every matrix, by ``sparsity`` and ``bits``.

    Args:
      model: what is trained.

    Returns:
      The :class:`~recjax.study.Compression`; the hyperparameters need a field ``steps``, those of the training.
    """
    tables, kernels = matrices(jax.eval_shape(model.init, jax.random.key(0)))

    def ramped(hparams: Any, step: jax.Array) -> jax.Array:
        # The last refresh before the ramp's end must already be at the final sparsity.
        end = jnp.maximum(0, hparams.ramp * hparams.steps - REFRESH_EVERY)
        return prune.cubic_sparsity(step, begin=0, end=end, final=hparams.sparsity)

    transforms = [
        compress.magnitude_pruning([*tables, *kernels], sparsity=ramped, every=REFRESH_EVERY),
        compress.row_quantization(tables, bits=lambda hparams: hparams.bits),
    ]
    if kernels:
        transforms.append(compress.kernel_quantization(kernels, bits=lambda hparams: hparams.bits))
    return Compression(compress.chain(*transforms), Small())


def _scale_axes(params: Params) -> dict[str, int]:
    """The axis of each matrix whose entries have scales of their own, by its path."""
    names, paths = matrices(params)
    return {f"tables/{name}": 0 for name in names} | dict.fromkeys(paths, -1)


def packed(params: Params, bits: int | None) -> Params:
    """Parameters as they are stored.

    Args:
      params: dense arrays; zeros of a matrix are taken as pruned.
      bits: of the entries of a matrix; None for floats.

    Returns:
      Every matrix as integers where ``bits`` are given, and sparse where that is smaller. With ``bits``, vectors,
      one-column tables and vectors of positions are float16. Auxiliary parameters are dropped.
    """
    axes = _scale_axes(params)

    def stored(path: Any, leaf: Any) -> Any:
        leaf, axis = jnp.asarray(leaf), axes.get(_path(path))
        if axis is None:
            return leaf if bits is None or not jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.astype(jnp.float16)
        if bits is None:
            return prune.sparsify_if_smaller(leaf)
        return prune.sparsify_if_smaller(quantize.quantize(leaf, bits=bits, axis=axis))

    return jax.tree_util.tree_map_with_path(stored, {**params, "auxiliary": {}})


def dense(params: Any) -> Any:
    """Stored parameters as float32 arrays."""
    records = (prune.SparseTensor, quantize.QTensor)

    def of(part: Any) -> Any:
        part = prune.densify(part) if isinstance(part, prune.SparseTensor) else part
        part = quantize.dequantize(part) if isinstance(part, quantize.QTensor) else jnp.asarray(part)
        return part.astype(jnp.float32) if part.dtype == jnp.float16 else part

    return jax.tree.map(of, params, is_leaf=lambda part: isinstance(part, records))


def non_zero(params: Any) -> int:
    """How many entries of dense parameters are not zero."""
    return sum(int(np.count_nonzero(leaf)) for leaf in jax.tree.leaves(params))


def predicted(params: Params, *, bits: int, sparsity: float) -> Params:
    """What :func:`packed` gives for parameters of these shapes; its arrays are not filled.

    Args:
      params: shapes.
      bits: of the entries of a matrix.
      sparsity: share of zeros of a matrix.

    Returns:
      The parameters, for :func:`recjax.artifact.file_size`.
    """
    axes = _scale_axes(params)

    empty: Any = np.empty

    def stored(path: Any, leaf: Any) -> Any:
        axis, shape = axes.get(_path(path)), leaf.shape
        if axis is None:
            floats = jnp.issubdtype(leaf.dtype, jnp.floating)
            return empty(shape, np.float16 if floats else leaf.dtype)
        shapes = jax.eval_shape(lambda x: quantize.quantize(x, bits=bits, axis=axis), leaf)
        whole = jax.tree.map(lambda part: empty(part.shape, part.dtype), shapes)
        size, kept = math.prod(shape), max(1, round(math.prod(shape) * (1 - sparsity)))
        bitmap, before = empty(-(-size // 8), np.uint8), empty(-(-size // 1024), np.int32)
        values = empty(-(-kept * bits // 8), np.uint8)
        sparse = prune.SparseTensor(bitmap, before, values, whole.scale, None, kept, bits, shape)
        return min(whole, sparse, key=nbytes)

    return jax.tree_util.tree_map_with_path(stored, params)
