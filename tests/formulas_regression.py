"""The formulas of the regression losses, as in a book; see registry_formulas.py."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import scipy.special
from registry_formulas import EXACT_CONTEXT, Maths, kept_classes, last, weighted


def special(m: Maths, name: str, x: Any) -> Any:
    """A function that `Maths` has not: of scipy, of mpmath or of jax."""
    if m.xp is not np:
        return getattr(jax.scipy.special, name)(x)
    if np.asarray(x).dtype != object:
        return getattr(scipy.special, name)(x)
    return np.frompyfunc(getattr(EXACT_CONTEXT, {"gammaln": "loggamma"}.get(name, name)), 1, 1)(x)


def positive(m: Maths, x: Any) -> Any:
    return m.where(x > 0, x, 0 * x)


# Differences


def absolute_error(m: Maths, x: Any, y: Any = 0.0, **given: Any) -> Any:
    return weighted(m, abs(x - y), **given)


def huber_loss(m: Maths, x: Any, y: Any = 0.0, delta: Any = 1.0, **given: Any) -> Any:
    size = abs(x - y)
    return weighted(m, m.where(size <= delta, size**2 / 2, delta * (size - delta / 2)), **given)


def smooth_l1_loss(m: Maths, x: Any, y: Any = 0.0, beta: Any = 1.0, **given: Any) -> Any:
    return weighted(m, huber_loss(m, x, y, beta) / beta, **given)


def epsilon_insensitive_loss(m: Maths, x: Any, y: Any = 0.0, epsilon: Any = 0.1, **given: Any) -> Any:
    return weighted(m, positive(m, abs(x - y) - epsilon), **given)


def log_cosh(m: Maths, x: Any, y: Any = 0.0, **given: Any) -> Any:
    size = abs(x - y)
    return weighted(m, size + m.log1p(m.exp(-2 * size)) - m.log(2 + 0 * size), **given)


def pseudo_huber_loss(m: Maths, x: Any, y: Any = 0.0, delta: Any = 1.0, **given: Any) -> Any:
    return weighted(m, delta**2 * ((1 + ((x - y) / delta) ** 2) ** 0.5 - 1), **given)


def robust_loss(m: Maths, x: Any, y: Any = 0.0, alpha: Any = 1.0, scale: Any = 1.0, **given: Any) -> Any:
    half = ((x - y) / scale) ** 2 / 2
    alpha = alpha + 0 * half
    general = m.where((alpha == 0) | (alpha == 2) | (alpha == -np.inf), 1 + 0 * half, alpha)
    b = abs(general - 2)
    losses = b / general * ((2 * half / b + 1) ** (general / 2) - 1)
    losses = m.where(alpha == 2, half, m.where(alpha == 0, m.log1p(half), losses))
    return weighted(m, m.where(alpha == -np.inf, 1 - m.exp(-half), losses), **given)


# Asymmetric and relative


def quantile_loss(m: Maths, x: Any, y: Any, quantile: Any = 0.5, **given: Any) -> Any:
    short, q = y - x, m.number(np.asarray(quantile) if isinstance(quantile, tuple) else quantile)
    return weighted(m, m.where(short > 0, q * short, (q - 1) * short), **given)


def expectile_loss(m: Maths, x: Any, y: Any, expectile: Any = 0.5, **given: Any) -> Any:
    short, t = y - x, m.number(np.asarray(expectile) if isinstance(expectile, tuple) else expectile)
    return weighted(m, m.where(short > 0, t * short**2, (1 - t) * short**2), **given)


def absolute_percentage_error(m: Maths, x: Any, y: Any, epsilon: Any = 1e-7, **given: Any) -> Any:
    return weighted(m, abs(x - y) / m.where(abs(y) > epsilon, abs(y), epsilon + 0 * y), **given)


def squared_log_error(m: Maths, x: Any, y: Any, **given: Any) -> Any:
    return weighted(m, (m.log1p(x) - m.log1p(y)) ** 2, **given)


# Likelihoods on the real line


def gaussian_nll(m: Maths, x: Any, y: Any, v: Any, log_variance: bool = False, full: bool = False, **given: Any) -> Any:
    v = m.exp(v) if log_variance else v
    constant = m.log(2 * pi(m, x)) / 2 if full else 0 * x
    return weighted(m, (m.log(v) + (x - y) ** 2 / v) / 2 + constant, **given)


def laplace_nll(m: Maths, x: Any, y: Any, scale: Any, full: bool = False, **given: Any) -> Any:
    constant = m.log(2 + 0 * x) if full else 0 * x
    return weighted(m, m.log(scale) + abs(x - y) / scale + constant, **given)


def student_t_nll(m: Maths, x: Any, y: Any, scale: Any, dof: Any = 4.0, full: bool = False, **given: Any) -> Any:
    dof = dof + 0 * x
    normaliser = special(m, "gammaln", dof / 2) - special(m, "gammaln", (dof + 1) / 2) + m.log(dof) / 2
    constant = m.log(pi(m, x)) / 2 if full else 0 * x
    tail = (dof + 1) / 2 * m.log1p((x - y) ** 2 / (dof * scale**2))
    return weighted(m, m.log(scale) + tail + normaliser + constant, **given)


def gaussian_crps(m: Maths, x: Any, y: Any, scale: Any, **given: Any) -> Any:
    z = (x - y) / scale
    density = m.exp(-(z**2) / 2) / (2 * pi(m, x)) ** 0.5
    score = z * special(m, "erf", z / m.number(2.0) ** 0.5) + 2 * density - 1 / pi(m, x) ** 0.5
    return weighted(m, scale * score, **given)


def pi(m: Maths, like: Any) -> Any:
    exact = np.asarray(like).dtype == object if m.xp is np else False
    return (EXACT_CONTEXT.pi() if exact else np.pi) + 0 * like


# Counts and positive quantities


def _mean(m: Maths, x: Any, log_input: bool) -> Any:
    return m.exp(x) if log_input else x


def _log_factorial(m: Maths, y: Any, full: bool) -> Any:
    return special(m, "gammaln", y + 1) if full else 0 * y


def poisson_nll(m: Maths, x: Any, y: Any, log_input: bool = True, full: bool = False, **given: Any) -> Any:
    mean = _mean(m, x, log_input)
    return weighted(m, mean - m.xlogy(y + 0 * x, mean) + _log_factorial(m, y, full), **given)


def negative_binomial_nll(
    m: Maths, x: Any, y: Any, dispersion: Any = 1.0, log_input: bool = True, full: bool = False, **given: Any
) -> Any:
    """Minus the logarithm of the binomial form, with successes of probability 1 / (1 + dispersion * mean)."""
    mean, r = _mean(m, x, log_input), 1 / (dispersion + 0 * x)
    success, failure = -m.log1p(mean / r), m.log(mean / r) - m.log1p(mean / r)
    coefficient = special(m, "gammaln", r + y) - special(m, "gammaln", r)
    return weighted(m, -coefficient - r * success - m.times(y + 0 * x, failure) + _log_factorial(m, y, full), **given)


def gamma_nll(m: Maths, x: Any, y: Any, shape: Any = 1.0, log_input: bool = True, **given: Any) -> Any:
    k, scale = shape + 0 * x, _mean(m, x, log_input) / (shape + 0 * x)
    return weighted(m, special(m, "gammaln", k) + k * m.log(scale) - (k - 1) * m.log(y) + y / scale, **given)


def tweedie_deviance(m: Maths, x: Any, y: Any, power: Any = 1.5, log_input: bool = True, **given: Any) -> Any:
    """As McCullagh and Nelder list them, by power."""
    mean, p = _mean(m, x, log_input), power
    if p == 1:
        losses = m.xlogy(y, y / mean) - y + mean
    elif p == 2:
        losses = y / mean - 1 - m.log(y / mean)
    else:
        losses = y ** (2 - p) / ((1 - p) * (2 - p)) - y * mean ** (1 - p) / (1 - p) + mean ** (2 - p) / (2 - p)
    return weighted(m, 2 * losses, **given)


# Directions


def cosine_similarity(
    m: Maths, x: Any, y: Any, epsilon: Any = 0.0, axis: Any = -1, where: Any = None, weights: Any = 1.0
) -> Any:
    """0 for a zero vector; `where` keeps rows or entries."""
    keep = kept_classes(m, x, where, axis)
    a, b = (m.where(keep, last(m, m.xp.broadcast_to(v, x.shape), axis), 0 * m.number(1.0)) for v in (x, y))
    squares = [(v * v).sum(-1) for v in (a, b)]
    squares = [m.where(s > epsilon, s, epsilon + 0 * s) for s in squares]
    nothing = (squares[0] == 0) | (squares[1] == 0)
    lengths = [m.where(nothing, 1 + 0 * s, s) ** 0.5 for s in squares]
    return (a * b).sum(-1) / (lengths[0] * lengths[1]) * weights


def cosine_distance(
    m: Maths, x: Any, y: Any, axis: Any = -1, where: Any = None, weights: Any = 1.0, **given: Any
) -> Any:
    losses = 1 - cosine_similarity(m, x, y, axis=axis, where=where, **given)
    return m.where(kept_classes(m, x, where, axis).any(-1) | (where is None), losses, 0 * losses) * weights
