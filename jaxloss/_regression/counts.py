"""Negative log-likelihoods and deviances of counts and of positive quantities, with a logarithmic link or without."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
from jax.lax import digamma

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.elements import elementwise, with_slopes
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction
from jaxloss._regression.special import (
    exp_moments,
    is_large,
    less_log1p,
    log_factorial_excess,
    log_gamma,
    log_gamma_excess,
    log_gamma_excess_change,
    log_gamma_ratio,
)

Rule = Callable[..., Array]


def _links(f: Callable[..., tuple[Array, tuple[Array, ...]]]) -> tuple[Rule, Rule]:
    """The rule for means, and that for logarithms of means; `f` is told which."""
    return with_slopes(functools.partial(f, False)), with_slopes(functools.partial(f, True))


def _difference(is_log: bool, x: Array, y: Array) -> Array:
    """mean - y: near a logarithm of 0 in the digits of that."""
    near = jnp.abs(x) < 1
    return jnp.where(near, stable.expm1(jnp.where(near, x, 0)) + (1 - y), jnp.exp(x) - y) if is_log else x - y


def _countable(y: Array) -> Array:
    """Below 0 the formulas give numbers, for some options and not for others."""
    return jnp.where(y < 0, jnp.nan, y)


def _relative_difference(mean: Array, y: Array) -> Array:
    """(mean - y) / mean, which is 1 where nothing was counted, even under a mean of 0."""
    none = y == 0
    of_none = 1 - y / jnp.where(mean == 0, 1, mean)  # not the number 1: its derivative by the count is -1 / mean
    return jnp.where(none, of_none, (mean - y) / jnp.where(none, 1, mean))


@loss()
def poisson_nll(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    log_input: bool = True,
    full: bool = False,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Poisson negative log-likelihood: $\lambda - y\log\lambda$.

    A count of 0 under a rate of 0 costs 0. The gradient in $\log\lambda$ is $\lambda - y$.

    Args:
      predictions: $\log\lambda$, any shape, or the rate $\lambda \ge 0$ itself.
      targets: the counts $y \ge 0$, of any real dtype, broadcast to the shape of the predictions.
      log_input: the predictions are logarithms.
      full: add $\log y!$, exactly, for any real $y$.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32. It may be negative. NaN for a target or
      rate below 0.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, or an unknown reduction.

    Reference: McCullagh, Nelder, "Generalized Linear Models" (1989), chapter 6.

    >>> print(poisson_nll(jnp.log(jnp.array([1.0, 2.0])), jnp.array([3, 2]), full=True).round(4))
    [2.7918 1.3069]
    """
    rule = _poisson[bool(full)][bool(log_input)]
    return elementwise("poisson_nll", rule, where, weights, reduction, predictions=predictions, targets=targets)


def _poisson_terms(full: bool, is_log: bool, x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    y = _countable(y)
    none = y == 0
    if is_log:
        # exp overflows long before the bound, which keeps inf - inf away.
        losses = jnp.exp(x) - jnp.where(none, 0, y * jnp.minimum(jnp.where(none, 0, x), 1e4))
        slope, to_target = _difference(True, x, y), stable.finite(-x)
    else:
        finite = jnp.minimum(x, jnp.finfo(x.dtype).max)
        log = jnp.log(finite)
        losses = jnp.where(x < 0, jnp.nan, x - jnp.where(none, 0, y * jnp.where(none, 0, log)))
        slope = _relative_difference(finite, y)
        to_target = -jnp.maximum(log, jnp.finfo(x.dtype).min)
    if not full:
        return losses, (slope, to_target)
    # Large terms would cancel. What is least where the rate is the count, y (u - log(1 + u)) with u = rate / y - 1, and
    # what remains of the factorial do not (Loader, "Fast and accurate computation of binomial probabilities", 2000).
    large = is_large(y)
    count = jnp.where(large, y, 8)
    log = -_log_ratio(is_log, x, count)
    apart, _ = less_log1p(_difference(is_log, x, count), 1 / count, jnp.minimum(log, 1e4))
    excess, by_count = log_factorial_excess(count)
    losses = jnp.where(large, apart + excess, losses + log_gamma(y + 1))
    by_count = by_count - jnp.maximum(log, jnp.finfo(x.dtype).min)
    return losses, (slope, jnp.where(large, by_count, to_target + digamma(y + 1)))


_poisson = [_links(functools.partial(_poisson_terms, full)) for full in (False, True)]


@loss()
def negative_binomial_nll(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    dispersion: float | Array = 1.0,
    log_input: bool = True,
    full: bool = False,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Negative binomial negative log-likelihood of counts with mean $\mu$ and variance $\mu + \alpha\mu^2$.

    $(r + y)\log(1 + \alpha\mu) - y\log\mu - \log\frac{\Gamma(r + y)}{\Gamma(r)\,r^y}$ with $r = 1/\alpha$. For $\alpha
    \to 0$ it is `poisson_nll`, in value and gradient; it is computed so that nothing cancels on the way.

    Args:
      predictions: $\log\mu$, any shape, or the mean $\mu \ge 0$ itself.
      targets: the counts $y \ge 0$, of any real dtype, broadcast to the shape of the predictions.
      dispersion: $\alpha \ge 0$, a number or broadcast likewise.
      log_input: the predictions are logarithms.
      full: add $\log y!$.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32. It may be negative. NaN for a target or
      mean below 0.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, `dispersion` is negative, or an unknown
        reduction.

    Reference: Hilbe, "Negative Binomial Regression" (2011), section 8.2: NB2.

    >>> print(negative_binomial_nll(jnp.zeros(2), jnp.array([0, 1]), dispersion=jnp.array([0.0, 1.0])).round(4))
    [1.     1.3863]
    """
    fn = "negative_binomial_nll"
    checks.in_range(fn, "dispersion", dispersion, 0, math.inf)
    rule = _negative_binomial[bool(full)][bool(log_input)]
    operands = {"predictions": predictions, "targets": targets, "dispersion": dispersion}
    return elementwise(fn, rule, where, weights, reduction, **operands)


def _negative_binomial_terms(
    full: bool, is_log: bool, x: Array, y: Array, dispersion: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    y = _countable(y)
    # With a = dispersion * mean, from a below 1 and from 1 / a above: neither overflows.
    log_mean = x if is_log else jnp.log(x)
    log_a = jnp.where(dispersion == 0, -jnp.inf, log_mean + jnp.log(dispersion))
    small = log_a <= 0
    mean = jnp.exp(x) if is_log else x
    a = jnp.where(small, dispersion * jnp.where(small, mean, 0), jnp.exp(-jnp.abs(log_a)))
    first, second = stable.log1p_ratios(a)
    divisor = jnp.where(small, 1, dispersion)
    log = jnp.where(small, 0, log_a) + a * first  # of 1 + dispersion * mean
    over = 1 / (1 + a)
    # Of mean / (1 + dispersion * mean); nothing is added to the logarithm of a mean of 0 that no count asks for.
    per_count = jnp.where(small, a * first - log_mean, jnp.log(divisor) + a * first)
    counted = jnp.where(y == 0, 0, y * jnp.where(y == 0, 0, per_count))
    gamma, by_count, by_dispersion = log_gamma_ratio(y, dispersion)
    losses = jnp.where(small, mean * first, log / divisor) + counted - gamma
    losses = losses if is_log else jnp.where(x < 0, jnp.nan, losses)

    big = jnp.where(small, 1, jnp.minimum(x, jnp.finfo(x.dtype).max))
    inverse = jnp.exp(-jnp.maximum(log_mean, -80)) if is_log else 1 / big
    far = (1 - y * inverse if is_log else (big - y) / big) * over / divisor
    if is_log:
        slope = jnp.where(small, _difference(True, jnp.where(small, x, 0), y) * over, far)
    else:
        slope = jnp.where(small, _relative_difference(x, y) * over, far * inverse)
    pull = jnp.where(small, mean * over, over / divisor)  # mean / (1 + dispersion * mean)
    bend = jnp.where(small, jnp.square(mean) * (over - second), (log - over) / jnp.square(divisor))
    to_target = stable.finite(per_count) - by_count
    to_dispersion = y * pull - bend - by_dispersion

    # As for Poisson, with what is least where the mean is the count: two terms of its kind, for y and for r.
    large = is_large(y) & (y * dispersion < jnp.inf)
    count = jnp.where(large, y, 8)
    step = slope if is_log else jnp.where(small, (x - y) * over, far)  # (mean - y) / (1 + dispersion * mean)
    step = jnp.where(large, step, 0)
    change, change_by_count, change_by_dispersion = log_gamma_excess_change(count, dispersion)
    r_log = jnp.log1p(count * dispersion) - log  # of (r + count) / (r + mean)
    of_r, by_r = less_log1p(-step, dispersion, r_log)
    to_dispersion = jnp.where(large, change_by_dispersion - by_r, to_dispersion)
    if not full:
        return losses, (slope, to_target, to_dispersion)
    near = jnp.abs(step) < count / 2
    far_log = jnp.log(1 / count + dispersion) - per_count
    count_log = jnp.where(near, jnp.log1p(jnp.where(near, step / count, 0)), far_log)
    excess, excess_by_count = log_factorial_excess(count)
    of_count, _ = less_log1p(step, 1 / count, jnp.minimum(count_log, 1e4))
    losses = jnp.where(large, of_count + of_r + excess + change, losses + log_gamma(y + 1))
    by_count = excess_by_count + change_by_count - jnp.maximum(count_log, jnp.finfo(x.dtype).min)
    return losses, (slope, jnp.where(large, by_count, to_target + digamma(y + 1)), to_dispersion)


_negative_binomial = [_links(functools.partial(_negative_binomial_terms, full)) for full in (False, True)]


@loss()
def gamma_nll(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    shape: float | Array = 1.0,
    log_input: bool = True,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Gamma negative log-likelihood: $k\,(\log\mu + y/\mu) - (k-1)\log y - k\log k + \log\Gamma(k)$.

    For positive quantities whose deviation grows with their mean $\mu$: the variance is $\mu^2/k$. With $k = 1$ it is
    the exponential distribution. The gradient in $\log\mu$ is $k(1 - y/\mu)$. Nothing is left out, so that $k$ can be
    learned.

    Args:
      predictions: $\log\mu$, any shape, or the mean $\mu > 0$ itself.
      targets: $y > 0$, broadcast to the shape of the predictions; 0 is likely, costs `-inf`, for $k < 1$, and
        impossible, `inf`, for $k > 1$.
      shape: $k > 0$, a number or broadcast likewise.
      log_input: the predictions are logarithms.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32. It may be negative. NaN for a target or
      mean below 0.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, `shape` is not positive, or an unknown
        reduction.

    Reference: McCullagh, Nelder, "Generalized Linear Models" (1989), chapter 8.

    >>> print(gamma_nll(jnp.log(jnp.array([2.0, 2.0])), jnp.array([2.0, 1.0]), shape=3.0))
    [1.0904579 0.9767523]
    """
    checks.in_range("gamma_nll", "shape", shape, 0, math.inf, open_low=True)
    operands = {"predictions": predictions, "targets": targets, "shape": shape}
    return elementwise("gamma_nll", _gamma[bool(log_input)], where, weights, reduction, **operands)


@_links
def _gamma(is_log: bool, x: Array, y: Array, k: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    y = _countable(y)
    d = _log_ratio(is_log, x, y)
    log_mean, log_y = (x if is_log else jnp.log(x)), jnp.log(y)
    ratio = y * jnp.exp(-x) if is_log else y / x
    excess, by_shape = log_gamma_excess(k)
    phi = stable.phi(d)
    # A small k weighs the logarithms of mean and target unlike; for a large one they belong together.
    apart = k * (log_mean + ratio) + jnp.where(k == 1, 0, (1 - k) * jnp.where(k == 1, 0, log_y))
    losses = jnp.where((k <= 2) | (y == 0), apart + (excess - k), k * phi + log_y + excess)
    slope = -k * stable.expm1(d) if is_log else k * (x - y) / x / x
    per_mean = jnp.exp(-x) if is_log else 1 / x
    to_target = k * per_mean - jnp.where(k == 1, 0, (k - 1) / jnp.where(k == 1, 1, y))
    return losses, (slope, to_target, phi + by_shape)


def _log_ratio(is_log: bool, x: Array, y: Array) -> Array:
    """log(y / mean)."""
    if is_log:
        return jnp.log(y) - x
    change, ratio = (y - x) / x, y / x
    near, ordinary = jnp.abs(change) < 0.5, (ratio > 1e-30) & (ratio < 1e30)
    far = jnp.where(ordinary, jnp.log(jnp.where(ordinary, ratio, 1)), jnp.log(y) - jnp.log(x))
    return jnp.where(near, jnp.log1p(jnp.where(near, change, 0)), far)


@loss()
def tweedie_deviance(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    power: float = 1.5,
    log_input: bool = True,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Tweedie deviance: $2\int_\mu^y (y - t)\,t^{-p}\,dt$, for variances that grow like $\mu^p$.

    $p = 1$ is the deviance of Poisson, 2 that of gamma, 3 of the inverse Gaussian; between 1 and 2 zeros are likely and
    the rest is continuous, as in rainfall or insurance claims. It is 0 where $\mu = y$, and computed without a
    difference of powers near it. `squared_error` is $p = 0$. The gradient in $\mu$ is $2(\mu - y)\mu^{-p}$.

    Args:
      predictions: $\log\mu$, any shape, or the mean $\mu > 0$ itself.
      targets: $y \ge 0$, broadcast to the shape of the predictions; for $p \ge 2$ a target of 0 costs `inf`.
      power: $p \ge 1$, a Python number: deviances of unlike powers cannot be compared, so it is not learned.
      log_input: the predictions are logarithms.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32. NaN for a target or mean below 0.

    Raises:
      TypeError: predictions are not floating-point, `where` is not boolean, or `power` is no Python number.
      ValueError: a shape does not broadcast to that of the predictions, `power` is below 1, or an unknown reduction.

    Reference: Jorgensen, "The Theory of Dispersion Models" (1997), chapter 4.

    >>> print(tweedie_deviance(jnp.zeros(3), jnp.array([0.0, 1.0, 4.0])))
    [4. 0. 4.]
    """
    fn = "tweedie_deviance"
    checks.python_number(fn, "power", power)
    checks.in_range(fn, "power", power, 1, math.inf, open_high=True)
    rule = with_slopes(functools.partial(_tweedie, float(power), bool(log_input)))
    return elementwise(fn, rule, where, weights, reduction, predictions=predictions, targets=targets)


def _tweedie(p: float, is_log: bool, x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    # With d = log(y / mean): mean^(2 - p) times a divided difference of exp at 0, d and (2 - p) d, times 2 d^2. Near
    # d = 0 that is a power series; elsewhere integrals from 0 to d of exp((1 - p) t) and exp((2 - p) t).
    y = _countable(y)
    exact = x if is_log else jnp.log(x)
    log_mean = jnp.clip(exact, -1e30, 1e30)  # no infinity, which would meet another one or 0
    none = y == 0
    d = _log_ratio(is_log, log_mean if is_log else x, jnp.where(none, 1, y))
    d = jnp.where(none, -1, jnp.clip(d, -1e30, 1e30))
    near = jnp.abs(d) < 1 / max(1, p - 2)
    small = jnp.where(near, d, 0)
    close = stable.times_exp(jnp.square(small) * _tweedie_series(p, small), (2 - p) * log_mean)
    (inner, inner_top), (outer, outer_top) = _integral(1 - p, d), _integral(2 - p, d)
    gap = d + inner_top - outer_top  # of the exponents of y * inner and outer, which may both overflow
    far = inner * jnp.exp(jnp.minimum(gap, 0)) - outer * jnp.exp(-jnp.maximum(gap, 0))
    far = stable.times_exp(far, (2 - p) * log_mean + outer_top + jnp.maximum(gap, 0))
    of_zero = jnp.exp((2 - p) * log_mean) / (2 - p) if p < 2 else jnp.full_like(x, jnp.inf)
    losses = 2 * jnp.where(none, of_zero, jnp.where(near, close, far))
    lost = (exact == -jnp.inf) & ~none | (exact == jnp.inf) & (p <= 2)
    losses = jnp.where(lost, jnp.inf, losses)

    if is_log:
        steep = d > 1
        change = jnp.where(none, 1, -stable.expm1(jnp.where(steep, 0, d)))
        shrunk = jnp.exp(-jnp.where(steep, d, 1)) - 1
        exponent = (2 - p) * log_mean
        slope = stable.times_exp(jnp.where(steep, shrunk, change), jnp.where(steep, exponent + d, exponent))
    else:
        slope = stable.times_exp(x - y, -p * log_mean)
    by_target = jnp.where(none, -jnp.inf, 2 * stable.times_exp(inner, (1 - p) * log_mean + inner_top))
    return losses, (2 * slope, stable.finite(by_target))


def _tweedie_series(p: float, d: Array) -> Array:
    terms, c = (22 if d.dtype == jnp.float64 else 13), 2 - p
    total = jnp.zeros_like(d)
    for n in reversed(range(terms)):
        total = total * d + sum(c**i for i in range(n + 1)) / math.factorial(n + 2)
    return total


def _integral(c: float, d: Array) -> tuple[Array, Array]:
    """The integral from 0 to d of exp(c t) as a factor and the exponent of another one."""
    return d * exp_moments(-jnp.abs(c * d))[0], jnp.maximum(c * d, 0)
