"""What the divergences over classes have in common: axes, masks and the reduction."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxloss._core import checks
from jaxloss._core.reduction import fill, reduce
from jaxloss._core.typing import Array, Axis


def over_classes(
    fn: str,
    rule: Callable[[int, Array, Array], Array],
    prediction: tuple[str, Any],
    target: tuple[str, Any],
    axis: Axis | None,
    where: Any,
    *,
    dropped: tuple[float, float],
    weights: Any,
    reduction: str,
) -> Array:
    """Check the arguments, each a pair of its name and its value, fill the masked ones, and reduce `rule`.

    The rule gets the one class axis and both sides, and returns one value for each row. `dropped` is what stands on the
    two sides for a class that is masked out.
    """
    x = checks.floating(fn, *prediction)
    y = checks.broadcast(fn, target[0], checks.number(fn, *target), x.shape, prediction[0])
    axes = class_axes(fn, axis, x.ndim)
    elements, rows = masks(fn, where, x.shape, axes, prediction[0])
    if rows is not None:
        x, y = (_fill(elements, jnp.expand_dims(rows, axes), z, v) for z, v in zip((x, y), dropped, strict=True))
    losses = rule(min(axes, default=0), _merge(x, axes), _merge(y, axes))
    return reduce(losses, where=rows, weights=weights, reduction=reduction, fn=fn)


def class_axes(fn: str, axis: Axis | None, ndim: int) -> tuple[int, ...]:
    return tuple(range(ndim)) if axis is None else checks.axes(fn, axis, ndim)


def masks(
    fn: str, where: Any, shape: tuple[int, ...], axes: tuple[int, ...], of: str
) -> tuple[Array | None, Array | None]:
    """The elements to keep, or `None` for whole rows, and the rows: those of which anything is kept."""
    if where is None:
        return None, None
    where = checks.mask(fn, "where", where)
    if where.shape == tuple(n for i, n in enumerate(shape) if i not in axes):
        return None, where
    elements = checks.broadcast(fn, "where", where, shape, of)
    return elements, jnp.any(elements, axis=axes)


def _fill(elements: Array | None, rows: Array, x: Array, value: float) -> Array:
    """A dropped class is `value`; so is a dropped row, or 0 if that is not finite: every derivative is finite there."""
    if elements is not None:
        x = fill(elements, x, value)
    if elements is None or math.isinf(value):
        x = fill(rows, x, 0 if math.isinf(value) else value)
    return x


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
