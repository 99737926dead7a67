"""The tempered softmax p_k = exp_t(z_k - lambda) of rows, which is sparse for t < 1 and has heavy tails for t > 1.

exp_t(x) = max(0, 1 + (1-t) x)^(1/(1-t)), exp for t = 1; with t = 2 - alpha it is alpha-entmax, up to the scale that
`distribution` takes z in. Nothing is formed as 1 minus something close to 1: the class on top is described by what the
others add up to.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxloss._core import stable
from jaxloss._core.remat import as_one

_HALVINGS, _STEPS = 26, 4


class Tempered(NamedTuple):
    p: Array
    q: Array  # 1 - p
    behind: Array  # by how much a class of probability 0 is too low to have any, in units of z
    is_top: Array  # the first class of the largest score


def distribution(z: Array, t: float, shift: Array | None = None) -> tuple[Tempered, Array]:
    """Along the last axis, and the number of each row that says how it is normalised, if it is not known yet."""
    top = lax.stop_gradient(jnp.max(z, -1))
    is_top = stable.is_label(z, stable.first_max(z, top, -1), -1)
    own = jnp.sum(jnp.where(is_top, z, 0), -1, keepdims=True)
    gap = jnp.where(is_top | (z == jnp.inf), 0, own - z)
    gap = jnp.where(own == -jnp.inf, jnp.nan, gap)
    found: Array = as_one(functools.partial(_shift, t), gap, is_top) if shift is None else shift
    to_top = found[..., None]
    p = _exp_t(gap, to_top, t)
    others = jnp.sum(jnp.where(is_top, 0, p), -1, keepdims=True)
    q = jnp.where(is_top, others, 1 - p)
    behind = jnp.maximum((to_top + gap) - 1 / (1 - t), 0) if t < 1 else jnp.zeros_like(p)
    return Tempered(p, q, behind, is_top), found


def _exp_t(gap: Array, shift: Array, t: float) -> Array:
    """exp_t(-(shift + gap)) for a gap and a shift of at least 0."""
    if t == 1:
        return jnp.exp(-(shift + gap))
    power = 1 / (1 - t)
    if t > 1:
        return jnp.exp(power * jnp.log1p((t - 1) * (shift + gap)))
    # 1 + u without a rounding where u is close to -1, its logarithm without one where u is close to 0.
    near, left = (1 - t) * gap, (1 - t) * shift
    u = -(near + left)
    edge = (1 - near) - left
    inside = edge > 0
    log = jnp.where(u > -0.5, jnp.log1p(jnp.maximum(u, -0.5)), jnp.log(jnp.where(inside, edge, 1)))
    return jnp.where(inside, jnp.exp(power * log), jnp.where(jnp.isnan(u), jnp.nan, 0))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _shift(t: float, gap: Array, is_top: Array) -> Array:
    """How far lambda is above the largest score, for each row: where the probabilities add up to 1."""
    others = functools.partial(_others, t, gap, is_top)
    if t == 1:
        return jnp.log1p(jnp.sum(jnp.where(is_top, 0, jnp.exp(-gap)), -1))
    low = jnp.zeros_like(gap[..., 0])
    if t > 1:
        low = lax.fori_loop(0, 12, lambda _, c: _log_step(t, gap, c), low)
    elif t == 0.5:
        low = _by_sorting(gap)
    else:
        bound = jnp.full_like(low, -np.expm1((t - 1) * np.log(gap.shape[-1])) / (1 - t))
        low, _ = lax.fori_loop(0, _HALVINGS, lambda _, ends: _halve(others, ends), (low, bound))
    if t < 0:  # the slope is infinite where a probability ends
        return low
    # Of a convex function, from the left: no step goes too far.
    return lax.fori_loop(0, _STEPS, lambda _, c: _newton_step(t, gap, is_top, c), low)


def _others(t: float, gap: Array, is_top: Array, c: Array) -> tuple[Array, Array]:
    """What the other classes have together, and what the one on top leaves them."""
    p = jnp.where(is_top, 0, _exp_t(gap, c[..., None], t))
    return jnp.sum(p, -1), -jnp.expm1(jnp.log1p((t - 1) * c) / (1 - t))


def _halve(others: Callable[[Array], tuple[Array, Array]], ends: tuple[Array, Array]) -> tuple[Array, Array]:
    low, high = ends
    middle = (low + high) / 2
    have, left = others(middle)
    too_low = have >= left
    return jnp.where(too_low, middle, low), jnp.where(too_low, high, middle)


def _log_step(t: float, gap: Array, c: Array) -> Array:
    """Newton's step for the logarithm of the sum, which is convex too, and nearly straight."""
    p = _exp_t(gap, c[..., None], t)
    total = jnp.sum(p, -1)
    return c + jnp.maximum(jnp.log(total), 0) * total / jnp.sum(to_power(p, t), -1)


def _newton_step(t: float, gap: Array, is_top: Array, c: Array) -> Array:
    have, left = _others(t, gap, is_top, c)
    slope = jnp.sum(to_power(_exp_t(gap, c[..., None], t), t), -1)
    return jnp.maximum(c + (have - left) / slope, 0)


def to_power(p: Array, t: float) -> Array:
    """0 at 0, whatever the power."""
    return jnp.where(p > 0, jnp.power(jnp.where(p > 0, p, 1), t), 0)


def _by_sorting(gap: Array) -> Array:
    """For t = 1/2, where p_k = (1 - (c + gap_k) / 2)^2: a quadratic equation for each number of classes."""
    high = -jnp.sort(gap, -1) / 2
    kept = high > -1  # a class 2 behind has nothing
    high = jnp.where(kept, high, -1)
    count = jnp.expand_dims(jnp.arange(1, gap.shape[-1] + 1, dtype=gap.dtype), tuple(range(gap.ndim - 1)))
    mean = jnp.cumsum(high, -1) / count
    spread = jnp.cumsum(jnp.square(high), -1) - count * jnp.square(mean)
    tau = mean - jnp.sqrt(jnp.maximum((1 - spread) / count, 0))
    last = jnp.maximum(jnp.sum(kept & (tau <= high), -1, keepdims=True) - 1, 0)
    tau = jnp.take_along_axis(tau, last, -1)[..., 0]
    # A step less: Newton's method takes it from the left.
    return jnp.maximum(2 * (1 + tau) - 4 * jnp.finfo(gap.dtype).eps, 0)


@_shift.defjvp
def _shift_jvp(t: float, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # Why a rule: the derivative of the root, sum_k p_k^t (dc + dgap_k) = 0, and not of the steps towards it.
    gap, is_top = primals
    c = as_one(functools.partial(_shift, t), gap, is_top)
    slopes = to_power(_exp_t(gap, c[..., None], t), t)
    moved = jnp.sum(jnp.where(slopes == 0, 0, slopes * tangents[0]), -1)
    return c, -moved / jnp.sum(slopes, -1)


def bregman(y: Array, p: Array, q: Array, t: float) -> Array:
    """y (log_t y - log_t p) - (y^a - p^a) / a for each class, a = 2 - t; q is 1 - p.

    For y > 0 it is y^a B(1 - p/y) with B(r) the integral of v (1-v)^(a-2) from 0 to r: no two terms cancel.
    """
    a = 2 - t
    some = y > 0
    whole = jnp.where(some, y, 1)
    missing = jnp.where(p > 0.5, q - (1 - y), y - p) / whole
    of_label = to_power(whole, a) * _partial_beta(missing, jnp.where(some, p / whole, 1), a)
    return jnp.where(some, of_label, jnp.where(y == 0, to_power(p, a) / a, jnp.nan))


def _partial_beta(r: Array, x: Array, a: float) -> Array:
    """The integral of v (1-v)^(a-2) from 0 to r <= 1, x being 1 - r."""
    small = jnp.abs(r) < 0.25
    s = jnp.where(small, r, 0)
    terms = [1.0]
    for n in range(1, 18):
        terms.append(terms[-1] * (n + 1 - a) / n)
    series = jnp.zeros_like(s)
    for n in reversed(range(18)):
        series = series * s + terms[n] / (n + 2)
    if a == 1:
        direct = -jnp.log(jnp.where(small, 1, x)) - r
    else:
        log = jnp.log(jnp.where(small, 1, x))
        direct = jnp.expm1(a * log) / a - jnp.expm1((a - 1) * log) / (a - 1)
    return jnp.where(small, jnp.square(s) * series, direct)
