"""Which axes make a row, and what `where` keeps of rows and of their entries."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxloss._core import checks


def class_axes(fn: str, axis: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    return tuple(range(ndim)) if axis is None else checks.axes(fn, axis, ndim)


def masks(
    fn: str, where: Any, shape: tuple[int, ...], axes: tuple[int, ...], of: str
) -> tuple[Array | None, Array | None]:
    """What to keep of each row, all or nothing of it with class axes of length 1; and the rows of which anything is."""
    if where is None:
        return None, None
    where = checks.mask(fn, "where", where)
    if where.shape == tuple(n for i, n in enumerate(shape) if i not in axes):
        return jnp.expand_dims(where, axes), where
    keep = checks.broadcast(fn, "where", where, shape, of)
    return keep, jnp.any(keep, axis=axes)
