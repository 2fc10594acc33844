"""Checks of shapes and dtypes, the dtype to compute in, and masked reductions, for losses, metrics and samplers."""

import jax
import jax.numpy as jnp


def check_same_shape(**arrays: jax.Array) -> None:
    """Raises ``ValueError`` unless all the named arrays have one shape."""
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"expected equal shapes, found {shapes}")


def check_rows(**arrays: jax.Array) -> None:
    """Raises ``ValueError`` unless all the named arrays have one shape, of at least one axis."""
    check_same_shape(**arrays)
    for name, array in arrays.items():
        if jnp.ndim(array) == 0:
            raise ValueError(f"expected {name} of shape [..., n], found a scalar")


def check_lists(**arrays: jax.Array) -> None:
    """Raises ``ValueError`` unless the named arrays have at least one axis, and the same ones but for the last."""
    shapes = {name: array.shape for name, array in arrays.items()}
    if () in shapes.values() or len({shape[:-1] for shape in shapes.values()}) > 1:
        raise ValueError(f"expected shapes [..., n], equal but for the last axis, found {shapes}")


def check_integers(**arrays: jax.Array) -> None:
    """Raises ``TypeError`` unless all the named arrays are of an integer dtype."""
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise TypeError(f"expected {name} of an integer dtype, found {array.dtype}")


def check_booleans(**arrays: jax.Array) -> None:
    """Raises ``TypeError`` unless all the named arrays are boolean."""
    for name, array in arrays.items():
        if array.dtype != jnp.bool_:
            raise TypeError(f"expected {name} of dtype bool, found {array.dtype}")


def check_where(where: jax.Array, shape: tuple[int, ...], name: str = "where") -> None:
    """Raises unless a mask is boolean and of this very shape; ``name`` is the argument's."""
    check_booleans(**{name: where})
    if where.shape != shape:
        raise ValueError(f"expected {name} of shape {shape}, found {where.shape}")


def wide_dtype(x: jax.Array, name: str) -> jnp.dtype:
    """The dtype that a loss of ``x`` is computed in: float32, or float64 where ``x`` is.

    Half precision has eight or eleven bits of mantissa: a logarithm of a sum over a catalogue loses all of them.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"expected {name} of a floating dtype, found {x.dtype}")
    return jnp.dtype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else jnp.dtype(x.dtype)


def fill_masked(x: jax.Array, where: jax.Array | None) -> jax.Array:
    """Puts the lowest harmless number where an item doesn't count.

    Half of the lowest finite number, so that subtracting a maximum from it doesn't overflow; finite, so that a list in
    which nothing counts has a finite softmax, whose terms the caller then drops.
    """
    return x if where is None else jnp.where(where, x, jnp.finfo(x.dtype).min / 2)


def drop_infinite(x: jax.Array, where: jax.Array | None) -> jax.Array:
    """A mask without the scores of minus infinity, whose log-sum-exp has NaN gradients where nothing else is in it."""
    counted = ~jnp.isneginf(x)
    return counted if where is None else where & counted


def clear_masked(x: jax.Array, where: jax.Array | None) -> jax.Array:
    """Puts 0 where an item doesn't count; as the first operation on an input, it keeps inf and nan from gradients."""
    return x if where is None else jnp.where(where, x, 0)


def row_sum(x: jax.Array) -> jax.Array:
    """The sum over the last axis, as a product with ones.

    XLA on a CPU makes one slow loop of the sum over a short list and whatever sum follows it: a step of 64 students
    with ten classes took twice as long. A matrix product ends that loop; longer lists cost the same either way.
    """
    return jnp.matmul(x, jnp.ones(x.shape[-1:], x.dtype), precision=jax.lax.Precision.HIGHEST)


def masked_mean(x: jax.Array, where: jax.Array | None, axis: int) -> jax.Array:
    """Mean along an axis, which stays with length 1, over what counts; 0 where nothing does."""
    if where is None:
        count = jnp.asarray(x.shape[axis], x.dtype)
    else:
        count = jnp.sum(where, axis=axis, keepdims=True, dtype=x.dtype)
    return jnp.sum(clear_masked(x, where), axis=axis, keepdims=True) / jnp.maximum(count, 1)


def safe_sqrt(x: jax.Array) -> jax.Array:
    """Square root with the gradient 0 at 0, where the true one is infinite and makes NaN of a zero behind it."""
    nothing = x < jnp.finfo(x.dtype).tiny  # subnormal numbers are zero to some devices' square root
    return jnp.where(nothing, 0, jnp.sqrt(jnp.where(nothing, 1, x)))
