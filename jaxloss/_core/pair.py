"""Two softmax distributions side by side: the logarithm of their ratio, with all its digits when they nearly agree.

With p = softmax(x / T) and q = softmax(y / T) it is d = log(p / q) = (x - y) / T - c, and c, the difference of the
log-normalisers, is log1p of a sum of small differences. No logarithm of a probability is subtracted from another.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core import stable
from jaxloss._core.precision import promote
from jaxloss._core.reduction import fill
from jaxloss._core.tracing import traced_once
from jaxloss._core.typing import Array


class Rows(NamedTuple):
    """What one row of logits contributes to each of its classes, without the class axis."""

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


RULED_OUT = 1e29  # |d| beyond it is infinite


def infinite_score(temperature: Array) -> Array:
    """Stands for an infinite score: finite, so that differences and products with a probability of 0 are too.

    Over the temperature it is well beyond `RULED_OUT`.
    """
    return jax.lax.stop_gradient(1e30 * jnp.minimum(temperature, 1e7))


def rule_out(keep: Array | None, x: Array, axis: int) -> Array:
    """Logits with -inf for a dropped class, and 0 all along a dropped row, where every derivative is finite."""
    if keep is None or keep.shape[axis] == 1:
        return fill(keep, x)
    return jnp.where(keep, x, jnp.where(jnp.any(keep, axis, keepdims=True), -jnp.inf, 0).astype(x.dtype))


@functools.partial(traced_once, static_argnums=3)
def rows(x: Array, y: Array, temperature: Array, axis: int) -> Rows:
    max_x, max_y = (jax.lax.stop_gradient(jnp.max(z, axis, keepdims=True)) for z in (x, y))
    a, b, d = _aligned(x, y, temperature, max_x, max_y)
    of_x, of_y = stable.exp_down(a), stable.exp_down(b)
    sum_x, sum_y, excess = (jnp.sum(v, axis) for v in (of_x, of_y, _difference(of_x, of_y, d)))
    max_x, max_y = (jnp.squeeze(m, axis) for m in (max_x, max_y))
    undefined = _several_infinite(max_x, sum_x) | _several_infinite(max_y, sum_y)
    sum_x, sum_y, excess = (jnp.where(undefined, jnp.nan, v) for v in (sum_x, sum_y, excess))
    ratio = excess / sum_y
    near = jnp.abs(ratio) < 0.5
    shift = jnp.where(near, jnp.log1p(jnp.where(near, ratio, 0)), jnp.log(sum_x) - jnp.log(sum_y))
    return Rows(max_x, max_y, sum_x, sum_y, shift)


def _several_infinite(top: Array, total: Array) -> Array:
    return (top == jnp.inf) & (total > 1)


@traced_once
def pair(x: Array, y: Array, temperature: Array, r: Rows) -> Pair:
    """`r` has the class axis, of length 1."""
    a, b, d = _aligned(x, y, temperature, r.max_x, r.max_y)
    d = jnp.where((a < -RULED_OUT) & (b < -RULED_OUT), 0, d - r.shift)
    p, q = stable.exp_down(a) / r.sum_x, stable.exp_down(b) / r.sum_y
    return Pair(
        p,
        q,
        d,
        _difference(p, q, d),
        a - jnp.log(r.sum_x),
        b - jnp.log(r.sum_y),
        (a == 0) & (r.sum_x < 2),
        (b == 0) & (r.sum_y < 2),
    )


def along(row: Any, axis: int) -> Any:
    """Numbers for each row, in a tuple or alone, with the class axis of length 1."""
    return jax.tree.map(lambda v: jnp.expand_dims(v, axis), row)


def _aligned(x: Array, y: Array, t: Array, max_x: Array, max_y: Array) -> tuple[Array, Array, Array]:
    """Logits below their maximum, and their difference as if it had been formed exactly."""
    x, y, t, max_x, max_y = promote(x, y, t, max_x, max_y)
    x, y = (_not_below(_not_above(z, t), t) for z in (x, y))
    max_x, max_y = _not_above(max_x, t), _not_above(max_y, t)
    high, low = _two_difference(x, y)
    max_high, max_low = _two_difference(max_x, max_y)
    return (x - max_x) / t, (y - max_y) / t, ((high - max_high) + (low - max_low)) / t


def _not_above(z: Array, t: Array) -> Array:
    """Infinite logits by the highest that leaves all others behind it and does not overflow."""
    highest = jax.lax.stop_gradient(jnp.finfo(z.dtype).max / 4 * jnp.minimum(t, 1))
    return jnp.where(z > highest, highest, z)


def _not_below(z: Array, t: Array) -> Array:
    lowest = -infinite_score(t)
    return jnp.where(z < lowest, lowest, z)  # XLA:CPU's library drops NaN from a maximum


def _two_difference(x: Array, y: Array) -> tuple[Array, Array]:
    """x - y, rounded, and what the rounding lost, a constant: nearly equal logits may have unlike offsets."""
    high, low = stable.two_difference(x, y)
    return high, jax.lax.stop_gradient(low)


def _difference(p: Array, q: Array, d: Array) -> Array:
    """p - q, for d = log(p / q)."""
    near = jnp.abs(d) < 1
    small = jnp.where(near, d, 0)
    return jnp.where(near, q * (small + stable.phi_near(small)), p - q)


class Mean(NamedTuple):
    """The mean of v under a distribution, of which the class of probability above one half, if any, is kept apart.

    There v minus its mean is as small as the other probabilities are, and found from them.
    """

    mean: Array
    rest: Array  # sum of probability * v over the other classes
    mass: Array  # and of their probability


def others(probability: Array, weighted: Array, top: Array, axis: int) -> tuple[Array, Array]:
    """`rest` and `mass` of a mean; `weighted` is probability * v."""
    return jnp.sum(jnp.where(top, 0, weighted), axis), jnp.sum(jnp.where(top, 0, probability), axis)


def centred(probability: Array, weighted: Array, top: Array, m: Mean) -> Array:
    """probability * (v - mean of v): the gradient of a mean with respect to logits."""
    return jnp.where(top, m.mass * m.mean - m.rest, weighted - probability * m.mean)


def unbounded(probability: Array, ruled_out: Array) -> Array:
    """The slope of an infinite divergence: a class that the other side alone rules out is pushed, the others pulled."""
    pulled = (probability > 0) & (probability < 1)
    return jnp.where(pulled, jnp.where(ruled_out, jnp.inf, -jnp.inf), 0)


def kl_term(p: Array, q: Array, d: Array) -> Array:
    """q phi(d) = q log(q / p) + p - q for d = log(p / q), non-negative; the terms add up to KL(q || p)."""
    near = jnp.abs(d) < 1
    close = q * stable.phi_near(jnp.where(near, d, 0))
    term = jnp.where(near, close, (p - q) - q * d)
    return jnp.where(d < -RULED_OUT, jnp.inf, term)
