"""From one loss for each class to one for each image."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxloss._core import checks
from jaxloss._core.typing import Array


def over_classes(
    fn: str, losses: Array, class_weights: Any, reduction: str, ignore_background: bool, counted: Array | None = None
) -> Array:
    """Weighted, without the first class if there are others, and reduced; a mean divides by the classes `counted`."""
    checks.choice(fn, "reduction", reduction, ("none", "mean", "sum"))
    classes = losses.shape[-1]
    if class_weights is not None:
        c = checks.number(fn, "class_weights", class_weights)
        c = checks.same_shape(fn, "class_weights", c, (classes,), "class axis")
        losses = losses * c.astype(losses.dtype).reshape((1,) * (losses.ndim - 1) + (classes,))
    if ignore_background and classes > 1:
        losses, counted = losses[..., 1:], None if counted is None else counted[..., 1:]
    if counted is not None:
        losses = jnp.where(counted, losses, 0)
    if reduction == "none":
        return losses
    total = jnp.sum(losses, -1)
    if reduction == "sum":
        return total
    kept = losses.shape[-1] if counted is None else jnp.maximum(jnp.sum(counted, -1, dtype=jnp.int32), 1)
    return total / jnp.asarray(kept, losses.dtype)
