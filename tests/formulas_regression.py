"""The formulas of the regression losses, as in a book; see registry_formulas.py."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import scipy.special
from registry_formulas import EXACT_CONTEXT, Maths, weighted


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
