"""What the divergences over classes have in common: axes, masks and the reduction."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxloss._core import checks
from jaxloss._core.devices import alike
from jaxloss._core.reduction import reduce
from jaxloss._core.row_masks import class_axes, masks
from jaxloss._core.typing import Array, Axis


def over_classes(
    fn: str,
    rule: Callable[[int, Array, Array, Array | None], Array],
    prediction: tuple[str, Any],
    target: tuple[str, Any],
    axis: Axis | None,
    where: Any,
    *,
    weights: Any,
    reduction: str,
) -> Array:
    """Check the arguments, each a pair of its name and its value, and reduce what `rule` makes of them.

    The rule gets the one class axis, both sides, and what to keep of them or `None`; it returns one value for each row.
    """
    x = checks.floating(fn, *prediction)
    y = checks.broadcast(fn, target[0], checks.number(fn, *target), x.shape, prediction[0])
    x, y = alike(x, y)
    axes = class_axes(fn, axis, x.ndim)
    keep, rows = masks(fn, where, x.shape, axes, prediction[0])
    keep = None if keep is None else _merge(keep, axes)
    losses = rule(min(axes, default=0), _merge(x, axes), _merge(y, axes), keep)
    return reduce(losses, where=rows, weights=weights, reduction=reduction, fn=fn)


def require_classes(fn: str, arg: str, x: Array, axis: int) -> None:
    if x.shape[axis] == 0:
        raise ValueError(f"{fn}: {arg} of shape {x.shape} have no classes along axis {axis}")


def _merge(x: Array, axes: tuple[int, ...]) -> Array:
    """Several class axes as one, in the place of the first."""
    if len(axes) == 1:
        return x
    first, order = min(axes, default=0), sorted(axes)
    x = jnp.moveaxis(x, order, range(first, first + len(order)))
    return x.reshape(*x.shape[:first], math.prod(x.shape[first : first + len(order)]), *x.shape[first + len(order) :])


def scalar(fn: str, arg: str, value: Any) -> Any:
    """A Python number as it is, or one traced number."""
    if checks.static_number(value):
        return value
    value = checks.number(fn, arg, value)
    if value.shape:
        raise ValueError(f"{fn}: {arg} must be a single number, got an array of shape {value.shape}")
    return value
