"""How far two vectors point in the same direction, whatever their lengths."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss._core import blocks, checks
from jaxloss._core.api import loss
from jaxloss._core.directions import Cosines, cosines
from jaxloss._core.precision import promote
from jaxloss._core.reduction import fill, reduce
from jaxloss._core.row_masks import class_axes, masks
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction


@loss()
def cosine_similarity(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    epsilon: float | Array = 0.0,
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Cosine similarity: $\frac{\hat y \cdot y}{|\hat y|\,|y|}$, in [-1, 1]; the larger the better.

    Vectors of any length are compared, as no square overflows or vanishes. A zero vector has similarity 0, with
    gradient 0 unless `epsilon` says how steep it is there.

    Args:
      predictions: $\hat y$, vectors along `axis`.
      targets: $y$, broadcast to the shape of the predictions.
      epsilon: the least square of a length; a shorter vector is divided by $\sqrt\varepsilon$ instead.
      axis: the axes of a vector, an int, a tuple of ints, or `None` for all.
      where: vectors to keep, of the shape of the result, or else entries to keep, broadcast to the predictions. What is
        dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the similarities, broadcast to their shape.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions without `axis`, or a scalar; at least float32.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, a wrong axis, `epsilon` is negative, or an
        unknown reduction.

    Reference: Salton, McGill, "Introduction to Modern Information Retrieval" (1983), section 4.2.

    >>> print(cosine_similarity(jnp.array([[1e30, 0.0], [0.0, 0.0]]), jnp.array([3.0, -4.0])))
    [0.6 0. ]
    """
    fn = "cosine_similarity"
    found, rows, short = _compared(fn, predictions, targets, epsilon, axis, where)
    similarity = found.cosine
    if short is not None:
        similarity = _at_rows(lambda s: jnp.where(s.is_zero, s.dot, s.share * s.value), similarity, short)
    return reduce(similarity, where=rows, weights=weights, reduction=reduction, fn=fn)


@loss()
def cosine_distance(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    epsilon: float | Array = 0.0,
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Cosine distance: $1 - \frac{\hat y \cdot y}{|\hat y|\,|y|}$, in [0, 2].

    Where the directions nearly agree it is not a difference of ones: it keeps digits below 1e-7, and is 0 for equal
    vectors. Lengths do not count. A zero vector has distance 1, with gradient 0 unless `epsilon` says how steep it is
    there.

    Args:
      predictions: $\hat y$, vectors along `axis`.
      targets: $y$, broadcast to the shape of the predictions.
      epsilon: the least square of a length; a shorter vector is divided by $\sqrt\varepsilon$ instead.
      axis: the axes of a vector, an int, a tuple of ints, or `None` for all.
      where: vectors to keep, of the shape of the result, or else entries to keep, broadcast to the predictions. What is
        dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the distances, broadcast to their shape.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions without `axis`, or a scalar; at least float32.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, a wrong axis, `epsilon` is negative, or an
        unknown reduction.

    Reference: Salton, McGill, "Introduction to Modern Information Retrieval" (1983), section 4.2.

    >>> print(cosine_distance(jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[0.0, 5.0], [2.0, 2e-4]])))
    [1.e+00 5.e-09]
    """
    fn = "cosine_distance"
    found, rows, short = _compared(fn, predictions, targets, epsilon, axis, where)
    distance = found.gap
    if short is not None:
        distance = _at_rows(
            lambda s: jnp.where(s.is_zero, 1 - s.dot, s.share * s.value + (1 - s.share)), distance, short
        )
    return reduce(distance, where=rows, weights=weights, reduction=reduction, fn=fn)


class _Short(NamedTuple):
    """What `epsilon`, the least square of a length, needs of each row."""

    x_norm: Array
    y_norm: Array
    epsilon: Array
    dot: Array  # of the vectors divided by what their lengths count with: the similarity where one of them is 0


class _Row(NamedTuple):
    value: Array
    share: Array  # the product of both lengths, over the product of what they count with
    is_zero: Array
    dot: Array


def _compared(
    fn: str, predictions: Any, targets: Any, epsilon: Any, axis: Any, where: Any
) -> tuple[Cosines, Array | None, _Short | None]:
    """The cosines of checked vectors, which rows are kept, and what `epsilon` makes of them if it is on."""
    x = checks.floating(fn, "predictions", predictions)
    y = checks.align(fn, "targets", checks.number(fn, "targets", targets), x.shape, "predictions")
    checks.in_range(fn, "epsilon", epsilon, 0, math.inf)
    if x.ndim == 0 and axis is None:  # a vector of one entry
        x, y, axis = x[None], y[None], 0
    axes = class_axes(fn, axis, x.ndim)
    keep, rows = masks(fn, where, x.shape, axes, "predictions")
    found = cosines(axes, x, y, keep)
    if checks.static_number(epsilon) and epsilon == 0:
        return found, rows, None
    given = checks.number(fn, "epsilon", epsilon).astype(found.cosine.dtype)
    given = checks.broadcast(fn, "epsilon", given, found.cosine.shape, "result")
    # A cosine has no derivative at 0, where it jumps; with `epsilon` the dot product goes through. Its value there is
    # 0: it is for the gradient.
    lengths = (jnp.expand_dims(lax.stop_gradient(v), axes) for v in (found.x_norm, found.y_norm, given))
    dot = blocks.per_row(functools.partial(_dots, axes), (x, y, keep, *lengths), axes)
    return found, rows, _Short(found.x_norm, found.y_norm, given, dot)


def _dots(
    axes: tuple[int, ...], x: Array, y: Array, keep: Array | None, x_norm: Array, y_norm: Array, epsilon: Array
) -> Array:
    x, y = (fill(keep, v) for v in promote(x, jnp.broadcast_to(y, x.shape)))
    lengths = (jnp.maximum(norm, jnp.sqrt(epsilon)) for norm in (x_norm, y_norm))
    x, y = (v / jnp.where(length == 0, 1, length) for v, length in zip((x, y), lengths, strict=True))
    return blocks.add_up(x * y, axes)


def _at_rows(rule: Callable[[_Row], Array], value: Array, short: _Short) -> Array:
    def combined(value: Array, short: _Short) -> Array:
        on = short.epsilon > 0
        least = jnp.where(on, jnp.sqrt(jnp.where(on, short.epsilon, 1)), 0)
        share = jnp.ones_like(value)
        for norm in (short.x_norm, short.y_norm):
            below = norm < least
            share = share * jnp.where(below, norm / jnp.where(below, least, 1), 1)
        is_zero = (short.x_norm == 0) | (short.y_norm == 0)
        return rule(_Row(value, share, is_zero, short.dot))

    # Keeps these numbers, and none of what is made of them.
    return jax.checkpoint(combined, prevent_cse=False)(value, short)
