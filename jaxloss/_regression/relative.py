"""Losses of positive quantities that spread over orders of magnitude: errors relative to the target."""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.elements import elementwise, with_slopes
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction


@loss()
def absolute_percentage_error(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    epsilon: float | Array = 1e-7,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Absolute percentage error, as a fraction: $|\hat y - y| / \max(|y|, \varepsilon)$.

    1 is an error as large as the target, 100 percent. The derivative at $\hat y = y$ is 0.

    Args:
      predictions: $\hat y$, any shape.
      targets: $y$, broadcast to the shape of the predictions.
      epsilon: $\varepsilon > 0$, the least size that a target counts with, in units of the targets; a number or
        broadcast likewise.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, `epsilon` is not positive, or an unknown
        reduction.

    Reference: Makridakis, "Accuracy Measures: Theoretical and Practical Concerns" (1993).

    >>> print(absolute_percentage_error(jnp.array([1.5, 300.0]), jnp.array([1.0, 400.0])))
    [0.5  0.25]
    """
    fn = "absolute_percentage_error"
    checks.in_range(fn, "epsilon", epsilon, 0, math.inf, open_low=True)
    operands = {"predictions": predictions, "targets": targets, "epsilon": epsilon}
    return elementwise(fn, _relative, where, weights, reduction, **operands)


@with_slopes
def _relative(x: Array, y: Array, epsilon: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    error = x - y
    floored = jnp.abs(y) <= epsilon
    size = jnp.maximum(jnp.abs(y), epsilon)
    losses = jnp.abs(error) / size
    slope = jnp.sign(error) / size
    # As a product: |x / y - 1| has the derivative -x / y^2, where a difference of two slopes would cancel.
    to_target = -slope * jnp.where(floored, 1, x / jnp.where(floored, 1, y))
    return losses, (slope, to_target, jnp.where(floored, -losses / size, 0))


@loss()
def squared_log_error(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Squared logarithmic error: $\bigl(\log(1 + \hat y) - \log(1 + y)\bigr)^2$.

    For counts and other quantities from 0 on. The logarithms are not subtracted: a small error keeps its digits.

    Args:
      predictions: $\hat y > -1$, any shape; below -1 the loss is NaN, at -1 it is `inf`.
      targets: $y > -1$, broadcast to the shape of the predictions; likewise.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, or an unknown reduction.

    Reference: Tofallis, "A Better Measure of Relative Prediction Accuracy for Model Selection and Model Estimation"
    (2015).

    >>> print(squared_log_error(jnp.array([jnp.e - 1, 3e-8]), jnp.array([0.0, 2e-8])))
    [1.e+00 1.e-16]
    """
    fn = "squared_log_error"
    return elementwise(fn, _squared_log, where, weights, reduction, predictions=predictions, targets=targets)


@with_slopes
def _squared_log(x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    from_x, from_y = 1 + x, 1 + y
    lowest = float(jnp.finfo(x.dtype).min)
    change = stable.used_often((x - y) / from_y, lowest)
    near = jnp.abs(change) < 0.5
    quotient = stable.used_often(from_x / jnp.where(near, 1, from_y), lowest)
    finite = (quotient > 0) & (quotient < jnp.inf)
    apart = jnp.log(from_x) - jnp.log(from_y)
    far = jnp.where(finite, jnp.log(jnp.where(finite, quotient, 1)), apart)
    ratio = jnp.where(near, jnp.log1p(jnp.where(near, change, 0)), far)
    ratio = stable.used_often(jnp.where((from_x < 0) | (from_y < 0), jnp.nan, ratio), lowest)
    # Where the argument is infinite the logarithm counts as the largest number, and the slope is 0.
    to_x, to_y = (2 * jnp.where(side == jnp.inf, jnp.clip(ratio, -1, 1), ratio) / side for side in (from_x, from_y))
    return jnp.square(ratio), (to_x, -to_y)
