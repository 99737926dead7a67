"""The tempered softmax p_k = exp_t(z_k - lambda) of rows, which is sparse for t < 1 and has heavy tails for t > 1.

exp_t(x) = max(0, 1 + (1-t) x)^(1/(1-t)), exp for t = 1; with t = 2 - alpha it is alpha-entmax, up to the scale that
`distribution` takes z in. Nothing is formed as 1 minus something close to 1: the class on top is described by what the
others add up to.

Where probabilities end steeply or slowly decides what a row is described by. For t > 1/2 it is how far lambda is above
the largest score. For t <= 1/2 it is the lowest score that has any probability, and that probability, the others being
p_k = (p_low^(1-t) + (1-t)(z_k - z_low))^(1/(1-t)), a root of a sum of what is positive. Relative to the largest score
the same root is of the difference of two numbers, which for t < 0 makes much of their rounding, and for many classes
with a little probability each loses digits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxloss._core import stable
from jaxloss._core.devices import alike
from jaxloss._core.remat import as_one
from jaxloss._core.search import from_left

_HALVINGS, _STEPS = 26, 4
_STEPS_FROM_NEAR = 3  # from a root that is known but for rounding
_SPARSE = 0.5  # up to this t a row is described by the lowest class that has any probability

Normaliser = Array | tuple[Array, Array]


class Tempered(NamedTuple):
    p: Array
    q: Array  # 1 - p
    behind: Array  # by how much a class of probability 0 is too low to have any, in units of z
    is_top: Array  # the first class of the largest score


def distribution(z: Array, t: float, known: Normaliser | None = None) -> tuple[Tempered, Normaliser]:
    """Along the last axis, and what of each row says how it is normalised, if it is not known yet."""
    top = lax.stop_gradient(stable.row_max(z, -1))
    z = jnp.where(jnp.isnan(top)[..., None], jnp.nan, z)
    is_top = stable.is_label(z, stable.first_max(z, top, -1), -1)
    p, behind, found = (_from_lowest if t <= _SPARSE else _from_top)(z, is_top, t, known)
    others = jnp.sum(jnp.where(is_top, 0, p), -1, keepdims=True)
    return Tempered(p, jnp.where(is_top, others, 1 - p), behind, is_top), found


def _from_top(z: Array, is_top: Array, t: float, known: Any) -> tuple[Array, Array, Array]:
    own = jnp.sum(jnp.where(is_top, z, 0), -1, keepdims=True)
    gap = jnp.where(is_top | (z == jnp.inf), 0, own - z)
    gap = jnp.where(own == -jnp.inf, jnp.nan, gap)
    found: Array = as_one(functools.partial(_shift, t), gap, is_top) if known is None else known
    to_top = found[..., None]
    p = _exp_t(gap, to_top, t)
    if t >= 1:
        return p, jnp.zeros_like(p), found
    # Of many classes with a little each, what is left of 1 below the threshold has few digits: together they miss 1.
    total = lax.stop_gradient(jnp.sum(p, -1, keepdims=True))
    p = p / jnp.where(jnp.max(p, -1, keepdims=True) > 0.5, 1, total)
    return p, jnp.maximum((to_top + gap) - 1 / (1 - t), 0), found


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
    else:
        bound = jnp.full_like(low, -np.expm1((t - 1) * np.log(gap.shape[-1])) / (1 - t))
        low, _ = lax.fori_loop(0, _HALVINGS, lambda _, ends: _halve(others, ends), (low, bound))
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


@_shift.defjvp
def _shift_jvp(t: float, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # Why a rule: the derivative of the root, sum_k p_k^t (dc + dgap_k) = 0, and not of the steps towards it.
    gap, is_top = primals
    c = as_one(functools.partial(_shift, t), gap, is_top)
    slopes = to_power(_exp_t(gap, c[..., None], t), t)
    moved = jnp.sum(jnp.where(slopes == 0, 0, slopes * tangents[0]), -1)
    return c, -moved / jnp.sum(slopes, -1)


def _from_lowest(z: Array, is_top: Array, t: float, known: Any) -> tuple[Array, Array, tuple[Array, Array]]:
    top = lax.stop_gradient(jnp.max(z, -1, keepdims=True))
    z = jnp.where(top == jnp.inf, jnp.where(z == jnp.inf, 0, -jnp.inf), jnp.where(top == -jnp.inf, jnp.nan, z))
    fixed = lax.stop_gradient(z)
    found = as_one(functools.partial(_lowest, t), fixed, is_top) if known is None else known
    lowest, least = (lax.stop_gradient(a)[..., None] for a in found)
    behind = jnp.maximum((lowest - fixed) - least ** (1 - t) / (1 - t), 0)
    return _above(t, z, lowest, least), behind, found


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _above(t: float, z: Array, lowest: Array, least: Array) -> Array:
    """The probabilities, of which that of the score `lowest` is `least`."""
    n, over = 1 - t, z - lowest
    edge = least**n + n * over
    inside = edge > 0
    p = jnp.power(jnp.where(inside, edge, 1), 1 / n)
    # A probability of several classes that are equal must not be lost where its power underflows.
    return jnp.where(over == 0, least, jnp.where(inside, p, jnp.where(jnp.isnan(edge), jnp.nan, 0)))


@_above.defjvp
def _above_jvp(t: float, primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    # Why a rule: the derivative with all that depends on z, the normaliser too: dp_k = p_k^t (dz_k - mean of dz by
    # p^t). For t < 0 a class at the end of the support is steeper than floats are large, and the mean is nearly its dz:
    # what is left of it is a sum over the others.
    p = _above(t, *primals)
    unit = jnp.min(jnp.where(p > 0, p, 1), -1, keepdims=True) if t < 0 else 1
    share = to_power(p / unit, t)
    share = share / jnp.sum(share, -1, keepdims=True)
    steepest = stable.is_label(p, stable.first_max(share, jnp.max(share, -1), -1), -1)
    own = jnp.sum(jnp.where(steepest, tangents[0], 0), -1, keepdims=True)
    step = jnp.where(share > 0, tangents[0] - own, 0)
    slope = jnp.minimum(to_power(p, t), np.sqrt(float(jnp.finfo(p.dtype).max)))
    return p, slope * (step - jnp.sum(share * step, -1, keepdims=True))


def _lowest(t: float, z: Array, is_top: Array) -> tuple[Array, Array]:
    """The lowest score that has any probability, and its probability, for each row."""
    n = 1 - t
    top = jnp.max(z, -1, keepdims=True)
    gap = top - z
    end = (_by_newton(gap) if t == 0.5 else _by_halving(t, gap))[..., None]
    kept = gap <= end
    lowest = jnp.min(jnp.where(kept, z, jnp.inf), -1, keepdims=True)
    room = n * (end - (top - lowest))
    rest = functools.partial(_rest, t, z, is_top, lowest, n * (top - lowest))
    if t >= 0:  # convex in the power of the probability
        least = lax.fori_loop(0, _STEPS_FROM_NEAR, lambda _, e: _step_of_power(t, rest, e), jnp.maximum(room, 0))
        least = least ** (1 / n)
    else:  # convex in the probability: from the right no step goes too far
        count = stable.row_count(kept, -1)[..., None].astype(z.dtype)
        high = (room + 8 * jnp.finfo(z.dtype).eps * n * end) ** (1 / n)
        least = lax.fori_loop(0, 2 * _STEPS, lambda _, v: _step_of_least(t, rest, v), jnp.minimum(high, 1 / count))
    return lowest[..., 0], least[..., 0]


def _rest(t: float, z: Array, is_top: Array, lowest: Array, width: Array, least: Array) -> tuple[Array, Array]:
    """The probabilities, and what they have too much together."""
    p = _above(t, z, lowest, least)
    own = jnp.sum(jnp.where(is_top, p, 0), -1, keepdims=True)
    missing = jnp.clip((1 - width) - least ** (1 - t), 0, 0.5)
    # What the class on top leaves, without forming it from a probability close to 1.
    left = jnp.where(width > 0.5, -jnp.expm1(jnp.log1p(-missing) / (1 - t)), 1 - own)
    return p, jnp.sum(jnp.where(is_top, 0, p), -1, keepdims=True) - left


def _step_of_power(t: float, rest: Callable[[Array], tuple[Array, Array]], e: Array) -> Array:
    p, excess = rest(e ** (1 / (1 - t)))
    return jnp.maximum(e - (1 - t) * excess / jnp.sum(to_power(p, t), -1, keepdims=True), 0)


def _step_of_least(t: float, rest: Callable[[Array], tuple[Array, Array]], v: Array) -> Array:
    p, excess = rest(v)
    slope = jnp.where(p > 0, jnp.power(v / jnp.where(p > 0, p, 1), -t), 0)
    return jnp.maximum(v - excess / jnp.maximum(jnp.sum(slope, -1, keepdims=True), 1), 0)


def _by_halving(t: float, gap: Array) -> Array:
    """How far behind the largest score the probabilities end.

    The bits of positive floats are ordered like the floats: halving them finds every bit, and is as good for classes
    that differ by 1e-20 as for those that differ by 1.
    """
    n, integer = 1 - t, jnp.int64 if gap.dtype == jnp.float64 else jnp.int32
    ends = np.asarray([0.99 * gap.shape[-1] ** -n / n, 1 / n], gap.dtype).view(np.dtype(integer)).tolist()
    low, high = (jnp.full_like(gap[..., 0], end, integer) for end in ends)

    def halve(ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = low + (high - low) // 2
        end = lax.bitcast_convert_type(middle, gap.dtype)[..., None]
        room = n * (end - gap)
        total = jnp.sum(jnp.where(room > 0, jnp.power(jnp.where(room > 0, room, 1), 1 / n), 0), -1)
        return jnp.where(total <= 1, middle, low), jnp.where(total <= 1, high, middle)

    low, _ = lax.fori_loop(0, (ends[1] - ends[0]).bit_length(), lambda _, ends: halve(ends), (low, high))
    return lax.bitcast_convert_type(low, gap.dtype)


def _by_newton(gap: Array) -> Array:
    """The same for t = 1/2, where p_k = max(0, h_k - tau)^2 with h_k = -gap_k / 2."""

    def powers(h: Array, tau: Array) -> tuple[Array, Array]:
        root = jnp.maximum(h - tau, 0)
        return root * root, root

    def better(total: Array, roots: Array, tau: Array) -> Array:
        return tau + (total - 1) / jnp.where(roots > 0, 2 * roots, 1)

    tau = from_left(-gap / 2, -1.0, powers, better)
    # As it goes on from the lowest class that this keeps, none may be kept by a rounding.
    return jnp.maximum(-2 * tau * (1 - 4 * jnp.finfo(gap.dtype).eps), 0)


def bregman(y: Array, p: Array, q: Array, t: float) -> Array:
    """y (log_t y - log_t p) - (y^a - p^a) / a for each class, a = 2 - t; q is 1 - p.

    For y > 0 it is y^a B(1 - p/y) with B(r) the integral of v (1-v)^(a-2) from 0 to r: no two terms cancel.
    """
    y, p, q = alike(y, p, q)
    a = 2 - t
    some = y > 0
    whole = jnp.where(some, y, 1)
    missing = jnp.where(p > 0.5, q - (1 - y), y - p) / whole
    of_label = to_power(whole, a) * _partial_beta(missing, jnp.where(some, p / whole, 1), a)
    return jnp.where(some, of_label, jnp.where(y == 0, to_power(p, a) / a, jnp.nan))


def _partial_beta(r: Array, x: Array, a: float) -> Array:
    """The integral of v (1-v)^(a-2) from 0 to r <= 1, x being 1 - r."""
    small = jnp.abs(r) < min(0.25, 2 / a)  # for a large a the terms of the series are large and cancel
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
