"""Half precision in, float32 inside."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def compute_dtype(*arrays: Array) -> jnp.dtype:
    """float64 if an array has it, else float32. Written out, since strict promotion allows no mixture."""
    wide = any(x.dtype == jnp.float64 for x in arrays)
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


def upcast(x: Array) -> Array:
    return x.astype(compute_dtype(x))


def promote(*arrays: Array) -> tuple[Array, "..."]:
    """All in one dtype."""
    dtype = compute_dtype(*arrays)
    return tuple(x.astype(dtype) for x in arrays)


def cotangent(ct: Array, primal: Array) -> Array | None:
    """In the dtype of its argument; none for integers and booleans."""
    return ct.astype(primal.dtype) if jnp.issubdtype(primal.dtype, jnp.floating) else None
