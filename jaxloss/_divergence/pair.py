"""Two softmax distributions side by side: the logarithm of their ratio, with all its digits when they nearly agree.

With p = softmax(x / T) and q = softmax(y / T) it is d = log(p / q) = (x - y) / T - c, and c, the difference of the
log-normalisers, is log1p of a sum of small differences. No logarithm of a probability is subtracted from another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core import stable
from jaxloss._core.precision import promote
from jaxloss._core.typing import Array


class Rows(NamedTuple):
    """What one row of logits contributes to each of its classes, the class axis kept with length 1."""

    max_x: Array
    max_y: Array
    sum_x: Array  # of exp((x - max_x) / T)
    sum_y: Array
    shift: Array  # log(sum_x / sum_y), to full relative precision


class Pair(NamedTuple):
    """For each class; where both have probability 0, `d` is 0."""

    p: Array
    q: Array
    d: Array  # log(p / q)
    difference: Array  # p - q, to full relative precision
    log_p: Array
    log_q: Array
    p_top: Array  # is this the class of probability above one half
    q_top: Array


def rows(x: Array, y: Array, temperature: Array, axis: int) -> Rows:
    max_x, max_y = (jax.lax.stop_gradient(jnp.max(z, axis, keepdims=True)) for z in (x, y))
    operands = (x, y, temperature, max_x, max_y)
    sum_x, sum_y, excess = (total(operands, axis, term) for term in (_exp_x, _exp_y, _exp_difference))
    ratio = excess / sum_y
    near = jnp.abs(ratio) < 0.5
    shift = jnp.where(near, jnp.log1p(jnp.where(near, ratio, 0)), jnp.log(sum_x) - jnp.log(sum_y))
    return Rows(max_x, max_y, sum_x, sum_y, shift)


def total(operands: Any, axis: int, term: Callable[[Any], Array]) -> Array:
    """Sum of term(operands) along the class axis, which stays with length 1."""
    return jnp.expand_dims(stable.row_sum(operands, axis, term), axis)


def _exp_x(operands: Any) -> Array:
    return jnp.exp(_aligned(*operands)[0])


def _exp_y(operands: Any) -> Array:
    return jnp.exp(_aligned(*operands)[1])


def _exp_difference(operands: Any) -> Array:
    return _difference(*_aligned(*operands), 1, 1)


def pair(x: Array, y: Array, temperature: Array, r: Rows) -> Pair:
    a, b, d = _aligned(x, y, temperature, r.max_x, r.max_y)
    d = jnp.where(_absent(x, y), 0, d - r.shift)
    return Pair(
        jnp.exp(a) / r.sum_x,
        jnp.exp(b) / r.sum_y,
        d,
        _difference(a, b, d, r.sum_x, r.sum_y),
        a - jnp.log(r.sum_x),
        b - jnp.log(r.sum_y),
        (x == r.max_x) & (r.sum_x < 2),
        (y == r.max_y) & (r.sum_y < 2),
    )


def _aligned(x: Array, y: Array, t: Array, max_x: Array, max_y: Array) -> tuple[Array, Array, Array]:
    """Logits below their maximum, and their difference as if it had been formed exactly."""
    x, y, t, max_x, max_y = promote(x, y, t, max_x, max_y)
    high, low = _two_difference(x, y)
    max_high, max_low = _two_difference(max_x, max_y)
    d = jnp.where(_absent(x, y), 0, (high - max_high) + (low - max_low))
    return (x - max_x) / t, (y - max_y) / t, d / t


def _two_difference(x: Array, y: Array) -> tuple[Array, Array]:
    """x - y, rounded, and what the rounding lost (Knuth's two-sum): nearly equal logits may have unlike offsets."""
    high = x - y
    z, s, y = jax.lax.stop_gradient((x, high, y))
    back = s - z
    low = (z - (s - back)) - (y + back)
    return high, jnp.where(jnp.isfinite(s), low, 0)


def _absent(x: Array, y: Array) -> Array:
    """Classes that both sides rule out."""
    return (x == -jnp.inf) & (y == -jnp.inf)


def _difference(a: Array, b: Array, d: Array, sum_x: Array | float, sum_y: Array | float) -> Array:
    """exp(a) / sum_x - exp(b) / sum_y, of which d is the logarithm of the ratio."""
    above = d > 0
    larger = jnp.exp(jnp.where(above, a, b)) * jnp.expm1(jnp.where(above, -d, d))
    return jnp.where(above, -larger / sum_x, larger / sum_y)


class Mean(NamedTuple):
    """The mean of v under a distribution, `at_top + rest`, apart so that a confident distribution loses no digits."""

    at_top: Array  # v at the class of probability above one half, or 0
    rest: Array  # sum of probability * (v - at_top)


def mean(operands: Any, axis: int, side: Callable[[Any], tuple[Array, Array, Array]]) -> Mean:
    """`side(operands)` is the probability, probability * v, and whether the probability is the one above one half."""

    def at_top(operands: Any) -> Array:
        probability, weighted, top = side(operands)
        return jnp.where(top, weighted / jnp.where(top, probability, 1), 0)

    def others(operands: Any) -> Array:
        _, weighted, top = side(operands)
        return jnp.where(top, 0, weighted)

    def mass(operands: Any) -> Array:
        probability, _, top = side(operands)
        return jnp.where(top, 0, probability)

    top, rest, below = (total(operands, axis, term) for term in (at_top, others, mass))
    return Mean(top, rest - times(below, top))


def above_mean(probability: Array, weighted: Array, top: Array, m: Mean) -> Array:
    """probability * (v - mean of v): the gradient of a mean with respect to logits."""
    return jnp.where(top, 0, weighted - times(probability, m.at_top)) - times(probability, m.rest)


def kl_term(p: Array, q: Array, d: Array) -> Array:
    """q phi(d) = q log(q / p) + p - q for d = log(p / q), non-negative; the terms add up to KL(q || p)."""
    near = jnp.abs(d) < 1
    close = q * _phi_series(jnp.where(near, d, 0))
    far = (p - q) - times(q, jnp.where(near, 0, d))
    term = jnp.where(near, close, far)
    return jnp.where(d == -jnp.inf, jnp.inf, term)  # not 0 * inf where q underflows


def _phi_series(d: Array) -> Array:
    """exp(d) - 1 - d within [-1, 1]. With p and q at hand there is no need for the exponential outside, as in `phi`."""
    series = jnp.ones_like(d)
    for n in range(20 if d.dtype == jnp.float64 else 11, 2, -1):  # d^2 / 2 (1 + d / 3 (1 + d / 4 (...)))
        series = 1 + d / n * series
    return d * d / 2 * series


def times(weight: Array, value: Array) -> Array:
    """weight * value with 0 * inf = 0: a class of probability 0 does not count."""
    return jnp.where(weight == 0, 0, weight * jnp.where(weight == 0, 0, value))
