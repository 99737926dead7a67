"""Smooth relatives of the absolute error, with a second derivative everywhere."""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.elements import elementwise, with_slopes
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction
from jaxloss._regression.special import exp_moment_series, exp_moments


@loss()
def log_cosh(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."] | None = None,
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Logarithm of the hyperbolic cosine: $\log\cosh(\hat y - y)$, with derivative $\tanh(\hat y - y)$.

    It is half the squared error when that is small, and the absolute error less $\log 2$ when large. All digits are
    right at errors of 1e-6 and of 1e30.

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

    Reference: Chen, Chen, Mahmood, "Log Hyperbolic Cosine Loss Improves Variational Auto-Encoder" (2019).

    >>> print(log_cosh(jnp.array([1e-3, 1e30])))
    [4.9999992e-07 1.0000000e+30]
    """
    y = 0.0 if targets is None else targets
    return elementwise("log_cosh", _log_cosh, where, weights, reduction, predictions=predictions, targets=y)


@with_slopes
def _log_cosh(x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    error = x - y
    size = jnp.abs(error)
    near = size < 1
    excess, _ = stable.even_and_odd(jnp.where(near, error, 0))  # cosh - 1
    far = size - math.log(2) + stable.fused_softplus(-2 * size)
    slope = jnp.tanh(error)
    return jnp.where(near, excess * stable.log1p_ratios(excess)[0], far), (slope, -slope)


@loss()
def pseudo_huber_loss(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."] | None = None,
    *,
    delta: float | Array = 1.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Pseudo-Huber loss: $\delta^2\bigl(\sqrt{1 + (e/\delta)^2} - 1\bigr)$ with $e = \hat y - y$.

    A smooth `huber_loss`: half the squared error when that is small against $\delta$, and $\delta|e|$ when large. The
    derivative is $e/\sqrt{1 + (e/\delta)^2}$.

    Args:
      predictions: $\hat y$, any shape.
      targets: $y$, broadcast to the shape of the predictions; `None` for zeros.
      delta: $\delta > 0$, in units of the predictions, a number or broadcast likewise.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, `delta` is not positive, or an unknown
        reduction.

    Reference: Charbonnier, Blanc-Feraud, Aubert, Barlaud, "Deterministic Edge-Preserving Regularization in Computed
    Imaging" (1997).

    >>> print(pseudo_huber_loss(jnp.array([3.0, 1e-3]), delta=4.0))
    [4.e+00 5.e-07]
    """
    checks.in_range("pseudo_huber_loss", "delta", delta, 0, math.inf, open_low=True)
    operands = {"predictions": predictions, "targets": 0.0 if targets is None else targets, "delta": delta}
    return elementwise("pseudo_huber_loss", _pseudo_huber, where, weights, reduction, **operands)


@with_slopes
def _pseudo_huber(x: Array, y: Array, delta: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    # In the quotient of the smaller and the larger of |e| and delta, whose square does not overflow; nothing cancels.
    error = x - y
    size = jnp.abs(error)
    near = size <= delta
    low = jnp.minimum(size, delta)
    quotient = stable.used_often(low / jnp.maximum(size, delta), -1)
    root = stable.used_often(jnp.sqrt(1 + jnp.square(quotient)), 0.5)
    bottom = root + jnp.where(near, 1, quotient)
    tangent, sine = (jnp.where(near, quotient, 1) / side for side in (bottom, root))
    slope = jnp.clip(error, -delta, delta) / root
    return size * (low / bottom), (slope, -slope, size * jnp.square(tangent) * sine)


@loss()
def robust_loss(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."] | None = None,
    *,
    alpha: float | Array = 1.0,
    scale: float | Array = 1.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""General robust loss: $\frac{|\alpha-2|}{\alpha}\bigl((\frac{(e/c)^2}{|\alpha-2|}+1)^{\alpha/2}-1\bigr)$.

    Here $e = \hat y - y$, $\alpha$ is the shape and $c$ the scale. One family for many losses: $\alpha = 2$ is half the
    squared error, 1 pseudo-Huber (Charbonnier), 0 Cauchy, $-2$ Geman-McClure, $-\infty$ Welsch, $1 - e^{-(e/c)^2/2}$.
    The limits at these shapes are taken, not approached. A large error counts as $|e|^\alpha$.

    Args:
      predictions: $\hat y$, any shape.
      targets: $y$, broadcast to the shape of the predictions; `None` for zeros.
      alpha: $\alpha \le 2$, a number or broadcast likewise; `-inf` is allowed. The derivative in it is right on all of
        the range, and grows without bound towards 2, where it is `inf`: keep a learned shape below. Above 2 the loss is
        NaN.
      scale: $c > 0$, in units of the predictions, a number or broadcast likewise.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, an option is out of its range, or an unknown
        reduction.

    Reference: Barron, "A General and Adaptive Robust Loss Function" (2019).

    >>> print(robust_loss(jnp.full(4, 2.0), alpha=jnp.array([2.0, 0.0, -2.0, -jnp.inf])))
    [2.        1.0986123 1.        0.8646647]
    """
    checks.in_range("robust_loss", "alpha", alpha, -math.inf, 2)
    checks.in_range("robust_loss", "scale", scale, 0, math.inf, open_low=True)
    y = 0.0 if targets is None else targets
    operands = {"predictions": predictions, "targets": y, "alpha": alpha, "scale": scale}
    return elementwise("robust_loss", _robust, where, weights, reduction, **operands)


@with_slopes
def _robust(x: Array, y: Array, alpha: Array, scale: Array) -> tuple[Array, tuple[Array, ...]]:
    # With b = 2 - alpha and u = log1p(e^2 / b) the loss is b / alpha * expm1(z) for z = alpha u / 2, and its slope
    # e * exp(-k) for k = b u / 2: limits at 0 and 2 are those of k, z and expm1(z) / z.
    given, highest = (x - y) / scale, jnp.finfo(x.dtype).max
    error = jnp.clip(given, -highest, highest)
    size = jnp.abs(error)
    alpha = jnp.where(alpha > 2, jnp.nan, jnp.maximum(alpha, -1e20))
    b = 2 - alpha
    root = jnp.sqrt(jnp.maximum(b, jnp.finfo(x.dtype).tiny))
    u, k = _logarithms(size, b, root)
    z = jnp.where(alpha == 0, 0, alpha * u / 2)
    half = jnp.exp(-k / 2)  # in two factors: exp(-k) may vanish where its product with the error does not
    lean = error * half  # with its sign: times that of the error, it would have no slope where the error is 0
    pull = lean * half

    steep = alpha >= 1
    above = (jnp.square(lean) + b * jnp.expm1(-k)) / jnp.where(steep, alpha, 1)
    bounded = z < -1
    below = jnp.where(bounded, b * jnp.expm1(z) / jnp.where(bounded, alpha, 1), k * exp_moments(z)[0])
    losses = jnp.where(steep, above, below)
    infinite = jnp.isinf(given)
    losses = jnp.where(infinite, jnp.where(alpha < 0, b / jnp.where(alpha < 0, -alpha, 1), jnp.inf), losses)

    far = jnp.where(alpha < 1, 0, jnp.where(alpha == 1, 1, jnp.inf))
    slope = jnp.where(infinite, jnp.sign(error) * far, pull) / scale
    return losses, (slope, -slope, _robust_by_shape(size, lean, alpha, b, u, k, z), -jnp.square(lean) / scale)


def _logarithms(size: Array, b: Array, root: Array) -> tuple[Array, Array]:
    """u = log1p(size^2 / b), and b u / 2."""
    v = size / root
    near, large = v <= 1, v > 1e8
    square = jnp.square(jnp.where(near, v, 0))
    middle = jnp.log1p(jnp.square(jnp.where(large, 1, v)))
    far = 2 * (jnp.log(jnp.where(large, size, 1)) - jnp.log(root))
    u = jnp.where(large, far, middle)
    small = jnp.where(near, size, 0)
    return u, jnp.where(near, small * small / 2 * stable.log1p_ratios(square)[0], b / 2 * u)


def _robust_by_shape(size: Array, lean: Array, alpha: Array, b: Array, u: Array, k: Array, z: Array) -> Array:
    """The derivative in alpha: a quarter of the integral of exp(-k) (u - r / (1 + r)) over e^2, with r = e^2 / b."""
    near = u < 1
    inner = jnp.where(near, u, 0)
    close = k / 2 * jnp.square(inner) * exp_moment_series(jnp.where(near, z, 0), inner)
    steep = alpha >= 1
    above = jnp.square(lean) * (z - 1 - alpha / 2) - 2 * jnp.expm1(-k) + jnp.exp(-k) * (b * z)
    zeroth, first = exp_moments(jnp.where(steep, 0, z))
    below = k / 2 * u * first + (jnp.exp(jnp.where(steep, 0, z)) * -jnp.expm1(-u) - u * zeroth) / 2
    far = jnp.where(steep, above / jnp.square(jnp.where(steep, alpha, 1)), below)
    return jnp.where((b == 0) & (size > 0), jnp.inf, jnp.where(near, close, far))
