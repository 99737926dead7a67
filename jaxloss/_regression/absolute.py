"""Losses that grow like the absolute error: a few large errors do not rule the fit."""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.elements import elementwise, with_slopes
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction


@loss()
def absolute_error(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."] | None = None,
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Absolute error: $|\hat y - y|$ for each element; the derivative at 0 is 0.

    Args:
      predictions: $\hat y$, any shape.
      targets: $y$, broadcast to the shape of the predictions; `None` for zeros.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, or an unknown reduction.

    Reference: Koenker, Bassett, "Regression Quantiles" (1978), section 1: the median.

    >>> print(absolute_error(jnp.array([1.0, 4.0]), jnp.array([1.5, 2.0])))
    [0.5 2. ]
    """
    operands = {"predictions": predictions, "targets": 0.0 if targets is None else targets}
    return elementwise("absolute_error", _absolute, where, weights, reduction, arithmetic=True, light=True, **operands)


@with_slopes
def _absolute(x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    error = x - y
    slope = jnp.sign(error)
    return jnp.abs(error), (slope, -slope)


@loss()
def huber_loss(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."] | None = None,
    *,
    delta: float | Array = 1.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Huber loss: $\frac12 e^2$ up to $|e| = \delta$, beyond it $\delta(|e| - \frac12\delta)$; $e = \hat y - y$.

    The derivative is the error, clipped to $[-\delta, \delta]$.

    Args:
      predictions: $\hat y$, any shape.
      targets: $y$, broadcast to the shape of the predictions; `None` for zeros.
      delta: $\delta \ge 0$, in units of the predictions, a number or broadcast likewise.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, `delta` is negative, or an unknown reduction.

    Reference: Huber, "Robust Estimation of a Location Parameter" (1964).

    >>> print(huber_loss(jnp.array([0.5, 3.0]), delta=2.0))
    [0.125 4.   ]
    """
    checks.in_range("huber_loss", "delta", delta, 0, math.inf)
    operands = {"predictions": predictions, "targets": 0.0 if targets is None else targets, "delta": delta}
    return elementwise("huber_loss", _huber, where, weights, reduction, arithmetic=True, **operands)


@with_slopes
def _huber(x: Array, y: Array, delta: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    error = x - y
    size = jnp.abs(error)
    inner = jnp.minimum(size, delta)
    slope = -jnp.maximum(-jnp.maximum(error, -delta), -delta)  # clipped, without the constant of the losses
    return inner * (size - inner / 2), (slope, -slope, size - inner)


@loss()
def smooth_l1_loss(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."] | None = None,
    *,
    beta: float | Array = 1.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Smooth L1: $e^2/(2\beta)$ up to $|e| = \beta$, beyond it $|e| - \frac12\beta$; $e = \hat y - y$.

    The derivative is $e/\beta$, clipped to [-1, 1]. It is `huber_loss` divided by $\beta$; with $\beta = 0$ it is
    `absolute_error`.

    Args:
      predictions: $\hat y$, any shape.
      targets: $y$, broadcast to the shape of the predictions; `None` for zeros.
      beta: $\beta \ge 0$, in units of the predictions, a number or broadcast likewise.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, `beta` is negative, or an unknown reduction.

    Reference: Girshick, "Fast R-CNN" (2015), section 2.3.

    >>> print(smooth_l1_loss(jnp.array([0.5, 3.0]), beta=2.0))
    [0.0625 2.    ]
    """
    checks.in_range("smooth_l1_loss", "beta", beta, 0, math.inf)
    operands = {"predictions": predictions, "targets": 0.0 if targets is None else targets, "beta": beta}
    return elementwise("smooth_l1_loss", _smooth_l1, where, weights, reduction, arithmetic=True, **operands)


@with_slopes
def _smooth_l1(x: Array, y: Array, beta: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    error = x - y
    size = jnp.abs(error)
    width = jnp.maximum(beta, jnp.finfo(size.dtype).tiny)
    losses = jnp.minimum(size / width, 1) * (size - jnp.minimum(size, beta) / 2)
    clipped = jnp.maximum(-jnp.maximum(error / -width, -1), -1)  # without the constants of the losses
    slope = jnp.where(beta > 0, clipped, jnp.sign(error))
    return losses, (slope, -slope, -jnp.square(slope) / 2)


@loss()
def epsilon_insensitive_loss(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."] | None = None,
    *,
    epsilon: float | Array = 0.1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Absolute error beyond a tolerance: $\max(0, |\hat y - y| - \varepsilon)$, the loss of support vector regression.

    The derivative is 0 up to $|\hat y - y| = \varepsilon$, and the sign of the error beyond it.

    Args:
      predictions: $\hat y$, any shape.
      targets: $y$, broadcast to the shape of the predictions; `None` for zeros.
      epsilon: $\varepsilon \ge 0$, in units of the predictions, a number or broadcast likewise.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, `epsilon` is negative, or an unknown reduction.

    Reference: Vapnik, "The Nature of Statistical Learning Theory" (1995), section 6.1.

    >>> print(epsilon_insensitive_loss(jnp.array([0.25, -3.0]), epsilon=0.5))
    [0.  2.5]
    """
    checks.in_range("epsilon_insensitive_loss", "epsilon", epsilon, 0, math.inf)
    operands = {"predictions": predictions, "targets": 0.0 if targets is None else targets, "epsilon": epsilon}
    return elementwise("epsilon_insensitive_loss", _insensitive, where, weights, reduction, arithmetic=True, **operands)


@with_slopes
def _insensitive(x: Array, y: Array, epsilon: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    error = x - y
    inside = -jnp.minimum(-jnp.minimum(error, epsilon), epsilon)  # clipped; the constant of the losses is -epsilon
    slope = jnp.sign(error - inside)
    return stable.hinge(jnp.abs(error) - epsilon), (slope, -slope, -jnp.abs(slope))
