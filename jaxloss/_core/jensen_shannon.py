"""The rule behind the Jensen-Shannon divergence: continuous from the forward to the reverse Kullback-Leibler one.

With the mixture m = beta q + (1 - beta) p the two halves are forward = KL(q || m) / (1 - beta) and
reverse = KL(p || m) / beta, with limits at either end of beta, and their sum is the divergence. A class is looked at
from the larger of its two probabilities: let w be the weight of the larger one in the mixture. Then every quantity
below is the larger one times a function of w and of smaller / larger, without overflow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core import blocks, checks, stable
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.pair import RULED_OUT, Mean, Pair, Rows, along, centred, others, pair, rows, rule_out, unbounded
from jaxloss._core.precision import compute_dtype, cotangent
from jaxloss._core.reduction import fill
from jaxloss._core.tracing import traced_once
from jaxloss._core.typing import Array


def jensen_shannon(
    axis: int, x: Array, y: Array, temperature: Any, beta: Any, keep: Array | None, normalized: bool = False
) -> Array:
    """Of every row; `keep` has the class axis, or length 1 there. For beta the number 0.5 less is computed."""
    dtype = compute_dtype(x, y)
    b = jnp.asarray(beta, dtype)
    static = checks.static_number(beta)
    half = static and beta == 0.5
    nothing = static and beta in (0, 1) and not normalized  # then any beta does that gives no infinite term
    losses = _jensen_shannon(axis, x, y, jnp.asarray(temperature, dtype), None if half or nothing else b, keep)
    if normalized:
        return losses
    weight = b * (1 - b)
    return weight * jnp.where((weight == 0) & jnp.isinf(losses), 0, losses)


class _Numbers(NamedTuple):
    """What is kept of each row."""

    rows: Rows
    reverse: Array  # KL(p || m) / beta, and what else `Mean` needs for the gradient into the predictions
    rest: Array
    mass: Array


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _jensen_shannon(axis: int, x: Array, y: Array, t: Array, beta: Array | None, keep: Array | None) -> Array:
    """KL(q || m) / (1 - beta) + KL(p || m) / beta; without a beta it is one half."""
    return blocks.per_row(lambda *args: _in_block(axis, *args)[0], (x, y, t, beta, keep), axis)


def _in_block(axis: int, x: Array, y: Array, t: Array, beta: Array | None, keep: Any) -> tuple[Array, _Numbers]:
    x, y = rule_out(keep, x, axis), rule_out(keep, y, axis)
    r = rows(x, y, t, axis)
    c = pair(x, y, t, along(r, axis))
    s = _sides(c, beta)
    forward, reverse = _halves(s)
    rest, mass = others(c.p, _pulls(s)[1], c.p_top, axis)
    return jnp.sum(forward + reverse, axis), _Numbers(r, jnp.sum(reverse, axis), rest, mass)


def _halves(s: _Sides) -> tuple[Array, Array]:
    of_larger = jnp.where(s.infinite, jnp.inf, s.larger * s.above.term)
    return _by_side(s, of_larger, s.larger * s.below.term)


def _pulls(s: _Sides) -> tuple[Array, Array]:
    """q log(q / m) / (1 - beta) and p log(p / m) / beta."""
    return _by_side(s, s.larger * s.above.slope, -s.larger * s.below.slope)


def _jensen_shannon_fwd(axis: int, *args: Any) -> tuple[Array, tuple]:
    def by_rule(*args: Any) -> tuple[Array, _Numbers]:  # the second derivative is the rule's too
        return _jensen_shannon(axis, *args), _in_block(axis, *args)[1]

    losses, numbers = blocks.per_row(functools.partial(_in_block, axis), args, axis, by_rule)
    return losses, (*args, along(numbers, axis))


def _jensen_shannon_bwd(axis: int, residuals: tuple, g: Array) -> tuple[Array | None, ...]:
    # Why a rule: autodiff keeps a dozen float32 arrays of the size of the logits and is NaN at an infinite one. Here
    # the logits are kept in their own dtype, with eight numbers for each row. What a gradient alone needs of the rows
    # is found here, and dropped by XLA where that gradient is not asked for.
    x, y, _, beta, keep, n = residuals

    def of_rows(f: Callable[..., Any]) -> Any:
        return blocks.per_row(lambda *residuals: f(axis, residuals, *_classes(axis, *residuals)), residuals, axis)

    slope = along(g / residuals[2], axis)
    c, s = _classes(axis, *residuals)
    to_x = centred(c.p, _pulls(s)[1], c.p_top, Mean(n.reverse, n.rest, n.mass))
    to_x = jnp.where(n.reverse == jnp.inf, unbounded(c.p, c.d > RULED_OUT), to_x)
    of_q = Mean(*along(of_rows(_mean_of_q), axis))
    c, s = _classes(axis, *blocks.read_again(residuals))
    to_y = centred(c.q, _pulls(s)[0], c.q_top, of_q)
    to_y = jnp.where(of_q.mean == jnp.inf, unbounded(c.q, c.d < -RULED_OUT), to_y)
    to_t = -jnp.sum(g / residuals[2] * of_rows(_by_temperature))
    to_beta = None if beta is None else jnp.sum(g * of_rows(_by_beta))
    return cotangent(fill(keep, slope * to_x), x), cotangent(fill(keep, slope * to_y), y), to_t, to_beta, None


_jensen_shannon.defvjp(_jensen_shannon_fwd, _jensen_shannon_bwd)


def _classes(
    axis: int, x: Array, y: Array, t: Array, beta: Array | None, keep: Any, n: _Numbers
) -> tuple[Pair, _Sides]:
    c = pair(rule_out(keep, x, axis), rule_out(keep, y, axis), t, n.rows)
    return c, _sides(c, beta)


def _mean_of_q(axis: int, residuals: tuple, c: Pair, s: _Sides) -> tuple[Array, Array, Array]:
    return jnp.sum(_halves(s)[0], axis), *others(c.q, _pulls(s)[0], c.q_top, axis)


def _by_temperature(axis: int, residuals: tuple, c: Pair, s: _Sides) -> Array:
    """x to_x + y to_y, arranged so that the first-order parts cancel on paper instead of in float32."""
    forward, reverse = jnp.sum(_halves(s)[0], axis, keepdims=True), residuals[-1].reverse
    pull_q, pull_p = _pulls(s)
    to_x, to_y = pull_p - c.p * reverse, pull_q - c.q * forward
    terms = s.larger * (s.above.term + s.below.term)
    by_t = to_x * c.d + c.log_q * (terms - c.p * reverse - c.q * forward)
    by_t = jnp.where(c.log_q < -RULED_OUT, to_x * c.log_p, by_t)
    return jnp.sum(jnp.where(c.log_p < -RULED_OUT, to_y * c.log_q, by_t), axis)


def _by_beta(axis: int, residuals: tuple, c: Pair, s: _Sides) -> Array:
    by_q, by_p = _by_side(s, *(stable.times(s.larger, side.curvature) for side in (s.above, s.below)))
    return jnp.sum(by_q - by_p, axis)


class _Side(NamedTuple):
    """What multiplies the larger probability, of one side of it in the mixture."""

    slope: Array  # the logarithm over the weight of the other side
    term: Array  # its phi over that
    curvature: Array  # and over its square


class _Sides(NamedTuple):
    """A class from its larger probability."""

    q_is_larger: Array
    larger: Array
    infinite: Array  # is the larger one infinitely above the mixture
    above: _Side  # log(larger / m)
    below: _Side  # log(m / smaller), all of them times smaller / larger


class _Weight(NamedTuple):
    """Of a side in the mixture. The inverse is only used where it is no 0."""

    w: Array | float
    inverse: Array | float


class _Ratio(NamedTuple):
    """The smaller of two probabilities over the larger one."""

    log: Array  # the absolute value
    ratio: Array
    gap: Array  # 1 - ratio, to full relative precision
    near: Array  # is log < 1; then also
    even: Array  # cosh(log) - 1
    odd: Array  # sinh(log) - log


def _weights(q_is_larger: Array, beta: Array | None) -> tuple[_Weight, _Weight]:
    """Of the larger probability, and of the other one."""
    if beta is None:
        return _Weight(0.5, 2.0), _Weight(0.5, 2.0)
    of_q, of_p = (_Weight(v, 1 / jnp.where(v == 0, 1, v)) for v in (beta, 1 - beta))
    choose = functools.partial(jax.tree.map, functools.partial(jnp.where, q_is_larger))
    return choose(of_q, of_p), choose(of_p, of_q)


@traced_once
def _sides(c: Pair, beta: Array | None) -> _Sides:
    """Of the two logarithms, whose difference is known, one is found: that of the side which the mixture is nearer to.

    With a weight of one half or more this is the larger one and needs no logarithm at all, but a short series.
    """
    q_is_larger = c.d <= 0
    w, other = _weights(q_is_larger, beta)
    larger, smaller = jnp.where(q_is_larger, c.q, c.p), jnp.where(q_is_larger, c.p, c.q)
    r = _ratio(jnp.where(q_is_larger, -c.d, c.d), larger, smaller)  # at 0, unlike abs, with the slope of its side
    share = other.w * r.gap  # 1 - m / larger
    heavy = jnp.greater_equal(w.w, 0.5)
    close = ~heavy & (w.w * r.gap <= r.ratio)  # m / smaller <= 2; elsewhere the quotient would have no finite slope
    known = close & (r.ratio > 0)  # else the weight is 0: the mixture is the smaller one, far below the larger
    raised = r.gap * stable.used_often(1 / jnp.where(known, r.ratio, 1), 0.25)
    z = jnp.where(heavy, -share, jnp.where(close, w.w * raised, 0))  # m / larger - 1 or m / smaller - 1
    first, second = stable.log1p_ratios(z)

    mixed = w.w + other.w * r.ratio  # m / larger
    visible = mixed > 1e-37
    log_mixed = jnp.where(visible, jnp.log(jnp.where(visible, mixed, 1)), -r.log)
    above = jnp.where(heavy, -z * first, jnp.where(close, r.log - z * first, -log_mixed))  # log(larger / m)
    below = jnp.where(close, z * first, r.log - above)  # log(m / smaller)

    # The phi of a logarithm is log1p(z) - z where z was used, and of the other one differs from that by `lead`.
    direct, lead = z * z * second, (2 * w.w - 1) * r.even + r.odd
    slope = jnp.where(heavy, r.gap * first, above * other.inverse)
    term = jnp.where(r.near, (direct - lead) * other.inverse, slope - r.gap)
    of_above = _Side(
        slope,
        jnp.where(heavy, share * r.gap * second, term),
        jnp.where(heavy, r.gap * r.gap * second, term * other.inverse),
    )
    slope = jnp.where(close, r.gap * first, r.ratio * below * w.inverse)
    term = jnp.where(r.near, r.ratio * (direct + lead) * w.inverse, r.gap - slope)
    term = jnp.where(close, r.gap * z * second, term)
    curvature = jnp.where(known | ~close, r.gap * raised * second, jnp.inf)
    of_below = _Side(slope, term, jnp.where(close, curvature, term * w.inverse))
    return _Sides(q_is_larger, larger, above > RULED_OUT, of_above, of_below)


def _by_side(s: _Sides, of_larger: Array, of_smaller: Array) -> tuple[Array, Array]:
    """What belongs to the target, and what to the prediction."""
    return jnp.where(s.q_is_larger, of_larger, of_smaller), jnp.where(s.q_is_larger, of_smaller, of_larger)


def _ratio(log: Array, larger: Array, smaller: Array) -> _Ratio:
    ratio = smaller * (1 / jnp.where(larger > 0, larger, 1))
    near = log < 1
    x = jnp.where(near, log, 0)
    even, odd = stable.even_and_odd(x)
    return _Ratio(log, ratio, jnp.where(near, (x + even + odd) * ratio, 1 - ratio), near, even, odd)
