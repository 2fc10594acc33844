"""What the metrics of ids and counts ask of their arguments."""

import jax
import jax.numpy as jnp


def check_integers(**arrays: jax.Array) -> None:
    """Raises ``TypeError`` unless all the named arrays are of an integer dtype."""
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise TypeError(f"expected {name} of an integer dtype, found {array.dtype}")


def check_lists(**arrays: jax.Array) -> None:
    """Raises ``ValueError`` unless the named arrays have at least one axis, and the same ones but for the last."""
    shapes = {name: array.shape for name, array in arrays.items()}
    if () in shapes.values() or len({shape[:-1] for shape in shapes.values()}) > 1:
        raise ValueError(f"expected shapes that differ in the last axis at most, found {shapes}")
