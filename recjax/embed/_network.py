"""Tables without rows: deep hash embeddings (DHE) and random-offset block embeddings (ROBE)."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp

from recjax.embed._lookup import Table, all_if_none, inside, lookup, stored_bytes, touched, untouched
from recjax.trees import record

_STATIC = {"static": True}
_MISH_SQUARE = 0.45234  # the mean of mish(z)**2 for a standard normal z


def mix(x: jax.Array, seed: int) -> jax.Array:
    """A bijective 32-bit hash of ``[...]`` uint32 with a static seed, the finalizer of MurmurHash3."""
    x = x ^ jnp.uint32((seed * 0x9E3779B9 + 0x85EBCA6B) % 2**32)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


@record
class DeepHash:
    """A deep hash embedding, see :func:`deep_hash`. Each layer but the last is followed by Mish.

    Attributes:
      layers: ``(kernel [in, out], bias [out])`` each; the inputs are the hashes, the outputs are ``dim``.
      total: number of rows. Static.
    """

    layers: tuple[tuple[jax.Array, jax.Array], ...]
    total: int = dataclasses.field(metadata=_STATIC)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.total, self.layers[-1][0].shape[1]

    nbytes = property(stored_bytes)

    def hidden(self, ids: jax.Array) -> jax.Array:
        """Inputs of the last layer, ``[..., width]``."""
        count = self.layers[0][0].shape[0]
        dtype = self.layers[0][0].dtype
        seeded = [mix(ids.astype(jnp.uint32), seed) for seed in range(count)]
        bits = jnp.stack(seeded, axis=-1) >> 8  # 24 bits, exact in float32
        x = bits.astype(dtype) * 2.0**-23 - 1
        for kernel, bias in self.layers[:-1]:
            x = x @ kernel + bias.reshape((1,) * (x.ndim - 1) + bias.shape)
            x = x * jnp.tanh(jax.nn.softplus(x))
        return x

    def rows(self, ids: jax.Array | None) -> jax.Array:
        ids = all_if_none(ids, self.total)
        kernel, bias = self.layers[-1]
        values = self.hidden(ids) @ kernel
        values = values + bias.reshape((1,) * (values.ndim - 1) + bias.shape)
        return jnp.where(inside(ids, self.total)[..., None], values, jnp.nan)

    def touched(self, ids: jax.Array) -> "DeepHash":
        return untouched(self)


def deep_hash(
    key: jax.Array, rows: int, dim: int, *, hashes: int, widths: tuple[int, ...], sd: jax.typing.ArrayLike
) -> DeepHash:
    r"""A deep hash embedding: each row is the output of a network over hashes of its id.

    .. math::
        e_i = f(h_1(i), \dots, h_k(i)), \qquad h_j(i) \in [-1, 1)

    Hashes are :func:`mix`; the paper's are :math:`((a x + b) \bmod p) \bmod 10^6`. Batch normalization is omitted, so a
    row doesn't depend on the batch; initial weights keep the variance of activations constant.

    Args:
      key: random key.
      rows: number of rows.
      dim: length of a vector.
      hashes: number of inputs of the network.
      widths: units of the hidden layers.
      sd: root mean square of the entries.

    Knobs:
      ``hashes``, ``widths`` (static; 1,024 and five equal layers in the paper), ``sd`` (traced).

    Storage:
      ``4 * sum((in + 1) * out)`` bytes over the layers; nothing per row.

    Examples:
      >>> deep_hash(jax.random.key(0), 10**6, 16, hashes=32, widths=(64,), sd=0.1).nbytes
      12608

    References:
      Kang et al., `Learning to Embed Categorical Features without Embedding Tables for Recommendation
      <https://arxiv.org/abs/2010.10784>`_, 2021, section 4.
    """
    sizes = (hashes, *widths, dim)
    layers, square = [], 1 / 3  # mean square of a layer's inputs; the first are uniform in [-1, 1)
    for k, (size, out) in zip(jax.random.split(key, len(sizes) - 1), itertools.pairwise(sizes), strict=True):
        layers.append((jax.random.normal(k, (size, out)) / math.sqrt(size * square), jnp.zeros(out)))
        square = _MISH_SQUARE
    kernel, bias = layers[-1]
    return DeepHash((*layers[:-1], (jnp.asarray(sd) * kernel, bias)), rows)


def fit_deep_hash(key: jax.Array, table: jax.Array, *, hashes: int, widths: tuple[int, ...]) -> DeepHash:
    """A :class:`DeepHash` with its last layer fitted to a trained table by least squares.

    A starting point for training: the hidden layers are random.

    Examples:
      >>> table = jax.random.normal(jax.random.key(1), (8, 3))
      >>> fit = jax.jit(fit_deep_hash, static_argnames=("hashes", "widths"))
      >>> fitted = fit(jax.random.key(0), table, hashes=16, widths=(32,))
      >>> bool(jnp.allclose(lookup(fitted), table, atol=1e-3))
      True
    """
    start = deep_hash(key, *table.shape, hashes=hashes, widths=widths, sd=1.0)
    hidden = start.hidden(jnp.arange(table.shape[0]))
    hidden = jnp.concatenate([hidden, jnp.ones_like(hidden[:, :1])], axis=1)
    last = jnp.linalg.lstsq(hidden, table)[0]
    return DeepHash((*start.layers[:-1], (last[:-1], last[-1])), table.shape[0])


@record
class Robe:
    """A random-offset block embedding in ``memory [size, 1]``, see :func:`robe`."""

    memory: Table
    total: int = dataclasses.field(metadata=_STATIC)
    dim: int = dataclasses.field(metadata=_STATIC)
    block: int = dataclasses.field(metadata=_STATIC)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.total, self.dim

    nbytes = property(stored_bytes)

    def places(self, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Positions in memory of the entries of rows and their signs, both ``[..., dim]`` int."""
        count = self.dim // self.block
        size = jnp.uint32(self.memory.shape[0])
        blocks = ids.astype(jnp.uint32)[..., None] * jnp.uint32(count)
        blocks = blocks + jnp.arange(count, dtype=jnp.uint32).reshape((1,) * ids.ndim + (count,))
        steps = jnp.arange(self.block, dtype=jnp.uint32).reshape((1,) * (ids.ndim + 1) + (self.block,))
        place = ((mix(blocks, 0) % size)[..., None] + steps) % size
        sign = 1 - 2 * (mix(blocks, 1) >> 31).astype(jnp.int32)
        flat = (*ids.shape, self.dim)
        place = jnp.where(inside(ids, self.total)[..., None], place.reshape(flat).astype(jnp.int32), -1)
        return place, jnp.repeat(sign, self.block, axis=-1)

    def rows(self, ids: jax.Array | None) -> jax.Array:
        place, sign = self.places(all_if_none(ids, self.total))
        values = lookup(self.memory, place)[..., 0]
        return values * sign.astype(values.dtype)

    def touched(self, ids: jax.Array) -> "Robe":
        return dataclasses.replace(self, memory=touched(self.memory, self.places(ids)[0]))


def _check_block(dim: int, size: int, block: int) -> None:
    if block < 1 or dim % block or size < block:
        raise ValueError(f"block: expected a divisor of {dim} of at most {size}, got {block}")


def robe(key: jax.Array, rows: int, dim: int, *, size: int, block: int, sd: jax.typing.ArrayLike) -> Robe:
    r"""A random-offset block embedding, :math:`e_{i, cZ + j} = g(i, c)\,M_{(h(i, c) + j) \bmod |M|}`.

    Rows are signed blocks of one circular array; offsets :math:`h` and signs :math:`g` are hashes by :func:`mix`.

    Args:
      key: random key.
      rows: number of rows.
      dim: length of a vector.
      size: :math:`|M|`, number of stored entries.
      block: :math:`Z`, a divisor of ``dim``.
      sd: standard deviation of the entries.
    Knobs:
      ``size``, ``block`` (static), ``sd`` (traced).

    Storage:
      ``4 * size`` bytes in float32.

    Raises:
      ValueError: if ``block`` doesn't divide ``dim`` or is above ``size``.

    Examples:
      >>> robe(jax.random.key(0), 10**6, 16, size=1000, block=8, sd=0.1).nbytes
      4000

    References:
      Desai, Chou and Shrivastava, `Random Offset Block Embedding Array (ROBE) for CriteoTB Benchmark MLPerf DLRM Model
      <https://arxiv.org/abs/2108.02191>`_, 2022, section 3.
    """
    _check_block(dim, size, block)
    return Robe(jnp.asarray(sd) * jax.random.normal(key, (size, 1)), rows, dim, block)


def fit_robe(table: jax.Array, *, size: int, block: int) -> Robe:
    """The nearest :class:`Robe` table in least squares: each entry is the mean over its uses, 0 if unused.

    Arguments and errors as for :func:`robe`.

    Examples:
      >>> fit = jax.jit(fit_robe, static_argnames=("size", "block"))
      >>> fit(jnp.ones((4, 6)), size=12, block=3).shape
      (4, 6)
    """
    rows, dim = table.shape
    _check_block(dim, size, block)
    place, sign = Robe(jnp.zeros((size, 1)), rows, dim, block).places(jnp.arange(rows))
    zeros = jnp.zeros(size, table.dtype)
    sums, counts = zeros.at[place].add(table * sign.astype(table.dtype)), zeros.at[place].add(1)
    return Robe((sums / jnp.maximum(counts, 1))[:, None], rows, dim, block)
