"""Two softmax distributions side by side: the logarithm of their ratio, with all its digits when they nearly agree.

With p = softmax(x / T) and q = softmax(y / T) it is d = log(p / q) = (x - y) / T - c, and c, the difference of the
log-normalisers, is log1p of a sum of small differences. No logarithm of a probability is subtracted from another.
"""

from __future__ import annotations

from typing import NamedTuple

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


LOWEST = -1e30  # stands for -inf: finite, so that differences and products with a probability of 0 are too
RULED_OUT = 1e29  # |d| beyond it is infinite


def rows(x: Array, y: Array, temperature: Array, axis: int) -> Rows:
    max_x, max_y = (jax.lax.stop_gradient(jnp.max(z, axis, keepdims=True)) for z in (x, y))
    a, b, d = _aligned(x, y, temperature, max_x, max_y)
    sum_x, sum_y, excess = (
        jnp.sum(v, axis, keepdims=True) for v in (jnp.exp(a), jnp.exp(b), _difference(a, b, d, 1, 1))
    )
    ratio = excess / sum_y
    near = jnp.abs(ratio) < 0.5
    shift = jnp.where(near, jnp.log1p(jnp.where(near, ratio, 0)), jnp.log(sum_x) - jnp.log(sum_y))
    return Rows(max_x, max_y, sum_x, sum_y, shift)


def pair(x: Array, y: Array, temperature: Array, r: Rows) -> Pair:
    a, b, d = _aligned(x, y, temperature, r.max_x, r.max_y)
    d = jnp.where((a < -RULED_OUT) & (b < -RULED_OUT), 0, d - r.shift)
    return Pair(
        jnp.exp(a) / r.sum_x,
        jnp.exp(b) / r.sum_y,
        d,
        _difference(a, b, d, r.sum_x, r.sum_y),
        a - jnp.log(r.sum_x),
        b - jnp.log(r.sum_y),
        (a == 0) & (r.sum_x < 2),
        (b == 0) & (r.sum_y < 2),
    )


def _aligned(x: Array, y: Array, t: Array, max_x: Array, max_y: Array) -> tuple[Array, Array, Array]:
    """Logits below their maximum, and their difference as if it had been formed exactly."""
    x, y, t, max_x, max_y = promote(x, y, t, max_x, max_y)
    x, y = jnp.maximum(x, LOWEST), jnp.maximum(y, LOWEST)
    high, low = _two_difference(x, y)
    max_high, max_low = _two_difference(max_x, max_y)
    return (x - max_x) / t, (y - max_y) / t, ((high - max_high) + (low - max_low)) / t


def _two_difference(x: Array, y: Array) -> tuple[Array, Array]:
    """x - y, rounded, and what the rounding lost, a constant: nearly equal logits may have unlike offsets."""
    high, low = stable.two_difference(x, y)
    return high, jax.lax.stop_gradient(low)


def _difference(a: Array, b: Array, d: Array, sum_x: Array | float, sum_y: Array | float) -> Array:
    """exp(a) / sum_x - exp(b) / sum_y, of which d is the logarithm of the ratio."""
    above = d > 0
    larger = jnp.exp(jnp.where(above, a, b)) * jnp.expm1(jnp.where(above, -d, d))
    return jnp.where(above, -larger / sum_x, larger / sum_y)


class Mean(NamedTuple):
    """The mean of v under a distribution, `at_top + rest`, apart so that a confident distribution loses no digits."""

    at_top: Array  # v at the class of probability above one half, or 0
    rest: Array  # sum of probability * (v - at_top)


def mean(probability: Array, weighted: Array, top: Array, axis: int) -> Mean:
    """`weighted` is probability * v, and `top` says whether the probability is the one above one half."""
    at_top = jnp.where(top, weighted / jnp.where(top, probability, 1), 0)
    rest, mass = jnp.where(top, 0, weighted), jnp.where(top, 0, probability)
    at_top, rest, mass = (jnp.sum(v, axis, keepdims=True) for v in (at_top, rest, mass))
    return Mean(at_top, rest - mass * at_top)


def centred(probability: Array, weighted: Array, top: Array, m: Mean) -> Array:
    """probability * (v - mean of v): the gradient of a mean with respect to logits."""
    return jnp.where(top, 0, weighted - probability * m.at_top) - probability * m.rest


def unbounded(probability: Array, ruled_out: Array) -> Array:
    """The slope of an infinite divergence: a class that the other side alone rules out is pushed, the others pulled."""
    pulled = (probability > 0) & (probability < 1)
    return jnp.where(pulled, jnp.where(ruled_out, jnp.inf, -jnp.inf), 0)


def kl_term(p: Array, q: Array, d: Array) -> Array:
    """q phi(d) = q log(q / p) + p - q for d = log(p / q), non-negative; the terms add up to KL(q || p)."""
    near = jnp.abs(d) < 1
    close = q * _phi_series(jnp.where(near, d, 0))
    term = jnp.where(near, close, (p - q) - q * d)
    return jnp.where(d < -RULED_OUT, jnp.inf, term)


def _phi_series(d: Array) -> Array:
    """exp(d) - 1 - d within [-1, 1]. With p and q at hand there is no need for the exponential outside, as in `phi`."""
    series = jnp.ones_like(d)
    for n in range(20 if d.dtype == jnp.float64 else 11, 2, -1):  # d^2 / 2 (1 + d / 3 (1 + d / 4 (...)))
        series = 1 + d / n * series
    return d * d / 2 * series
