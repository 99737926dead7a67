"""Negative log-likelihoods and scores of distributions on the real line: the model predicts its own uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax.lax import erf

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.elements import elementwise, with_slopes
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction
from jaxloss._regression.special import log_gamma_ratio


@loss(arrays=3)
def gaussian_nll(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    variances: Num[ArrayLike, "..."],
    *,
    log_variance: bool = False,
    full: bool = False,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Gaussian negative log-likelihood: $\frac12\bigl(\log v + (\hat y - y)^2 / v\bigr)$.

    The gradient in $v$ is $\frac{1}{2v}(1 - e^2/v)$, which grows like $e^2/v^2$ as the variance vanishes. From
    log-variances $s$ it is $\frac12(1 - e^2 e^{-s})$: that is the form to train.

    Args:
      predictions: $\hat y$, the means, any shape.
      targets: $y$, broadcast to the shape of the predictions.
      variances: $v \ge 0$, broadcast likewise. At $v = 0$ the loss is `inf`, or `-inf` where the error is 0 too.
      log_variance: the variances are given as their logarithms $s$.
      full: add the constant $\frac12\log 2\pi$.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32. It may be negative.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, or an unknown reduction.

    Reference: Nix, Weigend, "Estimating the Mean and Variance of the Target Probability Distribution" (1994).

    >>> print(gaussian_nll(jnp.array([1.0, 2.0]), jnp.zeros(2), jnp.array([1.0, jnp.exp(2.0)])).round(4))
    [0.5    1.2707]
    >>> print(gaussian_nll(jnp.array([1.0, 2.0]), jnp.zeros(2), jnp.array([0.0, 2.0]), log_variance=True).round(4))
    [0.5    1.2707]
    """
    rule = _plus(_gaussian_of_log if log_variance else _gaussian, 0.5 * math.log(2 * math.pi) * full)
    operands = {"predictions": predictions, "targets": targets, "variances": variances}
    return elementwise("gaussian_nll", rule, where, weights, reduction, **operands)


def _plus(rule: Callable[..., Array], constant: float) -> Callable[..., Array]:
    return (lambda *args: rule(*args) + constant) if constant else rule


def _over(error: Array, spread: Array) -> Array:
    """error / spread, with 0 / 0 = 0."""
    none = (error == 0) & (spread == 0)
    return jnp.where(none, 0, error / jnp.where(none, 1, spread))


def _unless_certain(losses: Array, error: Array, spread: Array) -> Array:
    """A wrong prediction without any spread is infinitely unlikely, where the sum of its terms has no value."""
    return jnp.where((spread == 0) & (error != 0) & ~jnp.isnan(error), jnp.inf, losses)


@with_slopes
def _gaussian(x: Array, y: Array, variance: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    error = x - y
    slope = _over(error, variance)
    square = error * slope
    losses = _unless_certain((jnp.log(variance) + square) / 2, error, variance)
    return losses, (slope, -slope, (1 - square) / variance / 2)


@with_slopes
def _gaussian_of_log(x: Array, y: Array, s: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    # In two factors: the inverse of the variance may overflow, and the square vanish, where the product does not.
    error = x - y
    root = jnp.minimum(jnp.exp(-s / 2), jnp.finfo(x.dtype).max)
    z = stable.opaque(error * root)
    slope = z * root
    return (s + jnp.square(z)) / 2, (slope, -slope, (1 - z) * (1 + z) / 2)


@loss(arrays=3)
def laplace_nll(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    scales: Num[ArrayLike, "..."],
    *,
    full: bool = False,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Laplace negative log-likelihood: $\log b + |\hat y - y| / b$; the derivative at $\hat y = y$ is 0.

    Args:
      predictions: $\hat y$, the medians, any shape.
      targets: $y$, broadcast to the shape of the predictions.
      scales: $b \ge 0$, broadcast likewise. At $b = 0$ the loss is `inf`, or `-inf` where the error is 0 too.
      full: add the constant $\log 2$.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32. It may be negative.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, or an unknown reduction.

    Reference: Kotz, Kozubowski, Podgorski, "The Laplace Distribution and Generalizations" (2001), chapter 2.

    >>> print(laplace_nll(jnp.array([3.0, 3.0]), jnp.zeros(2), jnp.array([1.0, 2.0])).round(4))
    [3.     2.1931]
    """
    operands = {"predictions": predictions, "targets": targets, "scales": scales}
    return elementwise("laplace_nll", _plus(_laplace, math.log(2) * full), where, weights, reduction, **operands)


@with_slopes
def _laplace(x: Array, y: Array, scale: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    error = x - y
    size = jnp.abs(_over(error, scale))
    slope = _over(jnp.sign(error), scale)
    losses = _unless_certain(jnp.log(scale) + size, error, scale)
    return losses, (slope, -slope, (1 - size) / scale)


@loss(arrays=3)
def student_t_nll(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    scales: Num[ArrayLike, "..."],
    *,
    dof: float | Array = 4.0,
    full: bool = False,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Student-t negative log-likelihood: $\log\sigma + \frac{\nu+1}{2}\log(1 + e^2 / (\nu\sigma^2)) + c_\nu$.

    Here $e = \hat y - y$ and $c_\nu = \log\Gamma(\frac\nu2) - \log\Gamma(\frac{\nu+1}2) + \frac12\log\nu$, which is
    never left out, so that $\nu$ can be learned. Heavy tails: an outlier pulls less the farther out it is.

    Args:
      predictions: $\hat y$, the locations, any shape.
      targets: $y$, broadcast to the shape of the predictions.
      scales: $\sigma \ge 0$, broadcast likewise. At $\sigma = 0$ the loss is `inf`, or `-inf` where the error is 0 too.
      dof: $\nu > 0$, the degrees of freedom, a number or broadcast likewise; at `inf` the distribution is Gaussian.
      full: add the constant $\frac12\log\pi$.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32. It may be negative.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, `dof` is not positive, or an unknown reduction.

    Reference: Lange, Little, Taylor, "Robust Statistical Modeling Using the t Distribution" (1989).

    >>> print(student_t_nll(jnp.array([0.0, 1e6]), jnp.zeros(2), jnp.ones(2), dof=1.0, full=True).round(2))
    [ 1.14 28.78]
    """
    checks.in_range("student_t_nll", "dof", dof, 0, math.inf, open_low=True)
    rule = _plus(_student, 0.5 * math.log(math.pi) * full)
    operands = {"predictions": predictions, "targets": targets, "scales": scales, "dof": dof}
    return elementwise("student_t_nll", rule, where, weights, reduction, **operands)


@with_slopes
def _student(x: Array, y: Array, scale: Array, dof: Array) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    # In the quotient q of the smaller and the larger of |e| and s = sigma sqrt(nu): no square overflows.
    dof = jnp.minimum(dof, 1e30)
    error, spread = x - y, scale * jnp.sqrt(dof)
    size = jnp.abs(error)
    outer = size > spread
    large = jnp.where(outer, size, spread)
    small = jnp.where(outer, spread, size)  # no minimum, whose derivative is half of either where both are equal
    q = stable.used_often(small / jnp.where(large == 0, 1, large), -1)
    square = q * q
    first, second = stable.log1p_ratios(square)
    over = stable.used_often(1 / (1 + square), 0.25)
    log = square * first + jnp.where(outer, -2 * jnp.log(jnp.where(outer, q, 1)), 0)  # of 1 + (e / s)^2
    share = jnp.where(outer, over, square * over)  # e^2 / (s^2 + e^2)
    rest = jnp.where(outer, square * over, over)

    gamma, _, by_inverse = log_gamma_ratio(jnp.full_like(dof, 0.5), 2 / dof)
    losses = jnp.log(scale) + (dof + 1) / 2 * log - gamma + math.log(2) / 2
    part = jnp.where(outer, jnp.sign(error), _over(jnp.where(outer, 0, error), spread))
    slope = _over((dof + 1) * over * part, large)
    z = _over(error, scale)
    near = jnp.abs(z) < 2
    inner = jnp.where(near, z, 0)
    to_scale = jnp.where(near, (1 - inner) * (1 + inner) * rest, rest - dof * share) / scale
    change = jnp.where(outer, log - share, square * square * (over - second))
    to_dof = (change - share / dof) / 2 + by_inverse * jnp.square(1 / dof) * 2
    return _unless_certain(losses, error, scale), (slope, -slope, to_scale, to_dof)


@loss(arrays=3)
def gaussian_crps(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    scales: Num[ArrayLike, "..."],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Continuous ranked probability score: $\sigma\bigl(z(2\Phi(z) - 1) + 2\varphi(z) - \frac1{\sqrt\pi}\bigr)$.

    $z = (\hat y - y)/\sigma$; $\Phi$ and $\varphi$ are the distribution and the density of the standard normal. A
    proper score in the units of the targets: the absolute error where $\sigma$ is 0, and never steeper than that.

    Args:
      predictions: $\hat y$, the means, any shape.
      targets: $y$, broadcast to the shape of the predictions.
      scales: $\sigma \ge 0$, the standard deviations, broadcast likewise.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32. NaN for a scale below 0.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, or an unknown reduction.

    Reference: Gneiting, Raftery, Westveld, Goldman, "Calibrated Probabilistic Forecasting Using Ensemble Model Output
    Statistics and Minimum CRPS Estimation" (2005), equation 5.

    >>> print(gaussian_crps(jnp.array([0.0, 3.0]), jnp.zeros(2), jnp.array([1.0, 0.0])).round(4))
    [0.2337 3.    ]
    """
    operands = {"predictions": predictions, "targets": targets, "scales": scales}
    return elementwise("gaussian_crps", _crps, where, weights, reduction, **operands)


@with_slopes
def _crps(x: Array, y: Array, scale: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    error = x - y
    scale = jnp.where(scale < 0, jnp.nan, scale)  # with it as it is, the lower the better
    z = stable.opaque(_over(error, scale))
    slope = erf(z * math.sqrt(0.5))
    to_scale = jnp.exp(-jnp.square(z) / 2) * math.sqrt(2 / math.pi) - 1 / math.sqrt(math.pi)
    return error * slope + scale * to_scale, (slope, -slope, to_scale)
