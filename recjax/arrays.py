"""Checks of shapes and dtypes, compute dtypes, and masked reductions, for losses, metrics and samplers."""

import jax
import jax.numpy as jnp


def check_same_shape(**arrays: jax.Array) -> None:
    """Raises ``ValueError`` unless all arrays have the same shape."""
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"expected equal shapes, got {shapes}")


def check_rows(**arrays: jax.Array) -> None:
    """Raises ``ValueError`` unless all arrays have the same shape, of at least one axis."""
    check_same_shape(**arrays)
    for name, array in arrays.items():
        if jnp.ndim(array) == 0:
            raise ValueError(f"{name}: expected shape [..., n], got a scalar")


def check_lists(**arrays: jax.Array) -> None:
    """Raises ``ValueError`` unless all arrays have the same shape up to the last axis."""
    shapes = {name: array.shape for name, array in arrays.items()}
    if () in shapes.values() or len({shape[:-1] for shape in shapes.values()}) > 1:
        raise ValueError(f"expected shapes [..., n], equal up to the last axis, got {shapes}")


def check_integers(**arrays: jax.Array) -> None:
    """Raises ``TypeError`` unless all arrays have an integer dtype."""
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise TypeError(f"{name}: expected an integer dtype, got {array.dtype}")


def check_booleans(**arrays: jax.Array) -> None:
    """Raises ``TypeError`` unless all arrays are boolean."""
    for name, array in arrays.items():
        if array.dtype != jnp.bool_:
            raise TypeError(f"{name}: expected dtype bool, got {array.dtype}")


def check_where(where: jax.Array, shape: tuple[int, ...], name: str = "where") -> None:
    """Raises unless a mask is boolean and has the given shape; ``name`` is that of the argument."""
    check_booleans(**{name: where})
    if where.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {where.shape}")


def wide_dtype(x: jax.Array, name: str) -> jnp.dtype:
    """The compute dtype: at least float32.

    Half precision has 8 or 11 bits of mantissa, too few for a log-sum-exp over a catalog.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name}: expected a floating dtype, got {x.dtype}")
    return jnp.dtype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else jnp.dtype(x.dtype)


def fill_masked(x: jax.Array, where: jax.Array | None) -> jax.Array:
    """Fills masked entries with half of the lowest finite number.

    Subtracting a maximum from it doesn't overflow, and the softmax of a fully masked list is finite; the caller masks
    its terms.
    """
    return x if where is None else jnp.where(where, x, jnp.finfo(x.dtype).min / 2)


def drop_infinite(x: jax.Array, where: jax.Array | None) -> jax.Array:
    """Masks minus infinity too: a log-sum-exp of nothing else has NaN gradients."""
    counted = ~jnp.isneginf(x)
    return counted if where is None else where & counted


def clear_masked(x: jax.Array, where: jax.Array | None) -> jax.Array:
    """Fills masked entries with 0; as the first operation on an input, it keeps inf and NaN out of the gradients."""
    return x if where is None else jnp.where(where, x, 0)


def row_sum(x: jax.Array) -> jax.Array:
    """Sum over the last axis, as a product with ones."""
    # XLA on CPU fuses the sum over a short list with a following sum into one slow loop, which doubled the time of a
    # step of 64 students with ten classes. A matrix product prevents that; longer lists take the same time.
    return jnp.matmul(x, jnp.ones(x.shape[-1:], x.dtype), precision=jax.lax.Precision.HIGHEST)


def masked_mean(x: jax.Array, where: jax.Array | None, axis: int) -> jax.Array:
    """Mean of the unmasked entries along an axis, which is kept with length 1; 0 if all are masked."""
    if where is None:
        count = jnp.asarray(x.shape[axis], x.dtype)
    else:
        count = jnp.sum(where, axis=axis, keepdims=True, dtype=x.dtype)
    return jnp.sum(clear_masked(x, where), axis=axis, keepdims=True) / jnp.maximum(count, 1)


def safe_sqrt(x: jax.Array) -> jax.Array:
    """Square root with gradient 0 at 0, where the true one is infinite."""
    zero = x < jnp.finfo(x.dtype).tiny  # some devices' square roots flush subnormal numbers to zero
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))
