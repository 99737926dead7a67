"""The Jensen-Shannon family from logits, continuous from the forward to the reverse Kullback-Leibler divergence.

With the mixture m = beta q + (1 - beta) p the two halves are forward = KL(q || m) / (1 - beta) and
reverse = KL(p || m) / beta, with limits at either end of beta, and their sum is the divergence. A class is looked at
from the larger of its two probabilities: let w be the weight of the larger one in the mixture and n <= 0 the logarithm
of smaller / larger. Then every quantity below is larger * f(n, w), without overflow.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.precision import compute_dtype, cotangent
from jaxloss._core.reduction import fill
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction
from jaxloss._divergence.arguments import over_classes, require_classes, rule_out, scalar
from jaxloss._divergence.pair import RULED_OUT, Pair, centred, mean, pair, rows, unbounded


@loss()
def js_divergence(
    logits: Float[ArrayLike, "*shape"],
    target_logits: Float[ArrayLike, ...],
    axis: Axis | None = -1,
    where: Bool[ArrayLike, ...] | None = None,
    *,
    beta: float | Array = 0.5,
    normalized: bool = False,
    temperature: float | Array = 1.0,
    weights: Num[ArrayLike, ...] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, ...]:
    r"""Jensen-Shannon divergence of two softmax: $\beta\,\mathrm{KL}(q \| m) + (1-\beta)\,\mathrm{KL}(p \| m)$.

    $m = \beta q + (1-\beta) p$ mixes the targets $q = \mathrm{softmax}(y / T)$ and the predictions
    $p = \mathrm{softmax}(x / T)$. At $\beta = \frac12$ it is the classical divergence, at most $\log 2$; it vanishes at
    both ends. With `normalized=True` it is divided by $\beta(1-\beta)$: then it is continuous from the forward
    divergence $\mathrm{KL}(q \| p)$ at 0 to the reverse one, $\mathrm{KL}(p \| q)$, at 1, ends included.
    Non-negative terms are added, so that logits which differ by $10^{-6}$ give full relative precision.

    Args:
      logits: $x$, any shape; `-inf` rules a class out. A row of only `-inf` gives NaN.
      target_logits: $y$, broadcast to the shape of the logits.
      axis: the axes of the classes, an int, a tuple of ints, or `None` for all.
      where: rows to keep, of the shape of the result, or else classes to keep, broadcast to the logits, over which both
        distributions are renormalised. What is dropped adds 0 to value and gradient, even if NaN.
      beta: weight of the targets in the mixture, in [0, 1], a scalar; it can be traced and differentiated.
      normalized: divide by $\beta(1-\beta)$, with the limits at both ends.
      temperature: $T > 0$, a scalar; of both sides.
      weights: multiply the divergences, broadcast to their shape.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the logits without `axis`, or a scalar; at least float32. Finite wherever $0 < \beta < 1$.

    Raises:
      TypeError: logits are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the logits, or a wrong axis, option or reduction.

    Reference: Lin, "Divergence Measures Based on the Shannon Entropy" (1991); Agarwal et al., "On-Policy Distillation
    of Language Models" (2024), whose $\beta$ this is.

    >>> x, y = jnp.array([3.0, 0.0]), jnp.array([0.0, 3.0])
    >>> print(f"{js_divergence(x, y):.4f}")
    0.5023
    >>> print(f"{js_divergence(x, y, beta=0.0, normalized=True):.4f} is KL(q || p)")
    2.7154 is KL(q || p)
    """
    fn = "js_divergence"
    checks.in_range(fn, "temperature", temperature, 0, jnp.inf, open_low=True)
    checks.in_range(fn, "beta", beta, 0, 1)
    target_logits = checks.floating(fn, "target_logits", target_logits)
    temperature, beta = scalar(fn, "temperature", temperature), scalar(fn, "beta", beta)

    def rule(axis: int, x: Array, y: Array, keep: Array | None) -> Array:
        require_classes(fn, "logits", x, axis)
        dtype = compute_dtype(x, y)
        b = jnp.asarray(beta, dtype)
        losses = _jensen_shannon(axis, x, y, jnp.asarray(temperature, dtype), b, keep)
        if normalized:
            return losses
        weight = b * (1 - b)
        return weight * jnp.where((weight == 0) & jnp.isinf(losses), 0, losses)

    return over_classes(
        fn,
        rule,
        ("logits", logits),
        ("target_logits", target_logits),
        axis,
        where,
        weights=weights,
        reduction=reduction,
    )


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _jensen_shannon(axis: int, x: Array, y: Array, t: Array, beta: Array, keep: Array | None) -> Array:
    x, y = rule_out(keep, x, axis), rule_out(keep, y, axis)
    forward, reverse = _halves(_sides(pair(x, y, t, rows(x, y, t, axis)), beta), axis)
    return forward + reverse


def _halves(s: _Sides, axis: int) -> tuple[Array, Array]:
    of_larger = jnp.where(s.log_above > RULED_OUT, jnp.inf, s.larger * _term_of_larger(s))
    to_q, to_p = _by_side(s, of_larger, s.larger * _term_of_smaller(s))
    return jnp.sum(to_q, axis), jnp.sum(to_p, axis)


def _pulls(s: _Sides) -> tuple[Array, Array]:
    """q log(q / m) / (1 - beta) and p log(p / m) / beta."""
    return _by_side(s, s.larger * _slope_of_larger(s), -s.larger * _slope_of_smaller(s))


def _jensen_shannon_fwd(
    axis: int, x: Array, y: Array, t: Array, beta: Array, keep: Array | None
) -> tuple[Array, tuple]:
    a, b = rule_out(keep, x, axis), rule_out(keep, y, axis)
    r = rows(a, b, t, axis)
    c = pair(a, b, t, r)
    s = _sides(c, beta)
    pull_q, pull_p = _pulls(s)
    means = mean(c.q, pull_q, c.q_top, axis), mean(c.p, pull_p, c.p_top, axis)
    return _jensen_shannon(axis, x, y, t, beta, keep), (x, y, t, beta, keep, r, means, _halves(s, axis))


def _jensen_shannon_bwd(axis: int, residuals: tuple, g: Array) -> tuple[Array | None, ...]:
    # Why a rule: autodiff keeps a dozen float32 arrays of the size of the logits and is NaN at an infinite one. Here
    # the logits are kept in their own dtype, with eleven numbers for each row.
    x, y, t, beta, keep, r, (mean_q, mean_p), halves = residuals
    c = pair(rule_out(keep, x, axis), rule_out(keep, y, axis), t, r)
    s = _sides(c, beta)
    pull_q, pull_p = _pulls(s)
    forward, reverse, slope = (jnp.expand_dims(v, axis) for v in (*halves, g / t))
    to_x, to_y = centred(c.p, pull_p, c.p_top, mean_p), centred(c.q, pull_q, c.q_top, mean_q)
    to_x = jnp.where(reverse == jnp.inf, unbounded(c.p, c.d > RULED_OUT), to_x)
    to_y = jnp.where(forward == jnp.inf, unbounded(c.q, c.d < -RULED_OUT), to_y)

    # x to_x + y to_y, arranged so that the first-order parts cancel on paper instead of in float32.
    terms = s.larger * (_term_of_larger(s) + _term_of_smaller(s))
    by_t = to_x * c.d + c.log_q * (terms - c.p * reverse - c.q * forward)
    by_t = jnp.where(c.log_q < -RULED_OUT, to_x * c.log_p, by_t)
    by_t = jnp.where(c.log_p < -RULED_OUT, to_y * c.log_q, by_t)
    by_q, by_p = _by_side(s, s.larger * _curvature_of_larger(s), s.larger * _curvature_of_smaller(s))
    to_t, to_beta = (jnp.sum(g * jnp.sum(v, axis)) for v in (-by_t / t, by_q - by_p))
    to_x, to_y = fill(keep, slope * to_x), fill(keep, slope * to_y)
    return cotangent(to_x, x), cotangent(to_y, y), to_t, to_beta, None


_jensen_shannon.defvjp(_jensen_shannon_fwd, _jensen_shannon_bwd)


class _Sides(NamedTuple):
    """A class from its larger probability."""

    q_is_larger: Array
    larger: Array
    w: Array  # weight of the larger probability in the mixture
    ratio: Array  # smaller / larger
    gap: Array  # 1 - ratio, to full relative precision
    mixed: Array  # m / larger
    share: Array  # 1 - mixed, likewise
    growth: Array  # m / smaller - 1, up to where it overflows
    log_above: Array  # log(larger / m)
    log_below: Array  # log(m / smaller)


def _sides(c: Pair, beta: Array) -> _Sides:
    q_is_larger = c.d <= 0
    n = jnp.where(q_is_larger, c.d, -c.d)
    w = jnp.where(q_is_larger, beta, 1 - beta)
    ratio, gap = jnp.exp(n), -jnp.expm1(n)
    mixed, share, growth = w + (1 - w) * ratio, (1 - w) * gap, w * jnp.expm1(jnp.where(n > -80, -n, 80))
    visible, near = mixed > 1e-37, share < 0.5
    log_mixed = jnp.where(visible, jnp.log(jnp.where(visible, mixed, 1)), n)
    log_above = jnp.where(near, -jnp.log1p(-jnp.where(near, share, 0)), -log_mixed)
    log_below = jnp.where(n > -80, jnp.log1p(growth), log_mixed - n)
    larger = jnp.where(q_is_larger, c.q, c.p)
    return _Sides(q_is_larger, larger, w, ratio, gap, mixed, share, growth, log_above, log_below)


def _by_side(s: _Sides, of_larger: Array, of_smaller: Array) -> tuple[Array, Array]:
    """What belongs to the target, and what to the prediction."""
    return jnp.where(s.q_is_larger, of_larger, of_smaller), jnp.where(s.q_is_larger, of_smaller, of_larger)


def _slope_of_larger(s: _Sides) -> Array:
    """log(larger / m) / (1 - w)."""
    near, share, log_above, other = _large(s)
    return jnp.where(near, s.gap * _log1p_ratio(-share), log_above / other)


def _slope_of_smaller(s: _Sides) -> Array:
    """log(m / smaller) / w, times smaller / larger."""
    near, growth, log_below, w = _small(s)
    return jnp.where(near, s.gap * _log1p_ratio(growth), s.ratio * log_below / w)


def _term_of_larger(s: _Sides) -> Array:
    """phi(log(m / larger)) / (1 - w)."""
    near, _, log_above, other = _large(s)
    return jnp.where(near, (1 - s.w) * _curvature_of_larger(s), log_above / other - s.gap)


def _term_of_smaller(s: _Sides) -> Array:
    """phi(log(m / smaller)) / w, times smaller / larger."""
    near, growth, _, w = _small(s)
    close = s.gap * growth * jnp.square(_log1p_ratio(growth)) * _phi_ratio(jnp.where(near, s.log_below, 0))
    return jnp.where(near, close, (s.mixed - s.ratio * (1 + s.log_below)) / w)


def _curvature_of_larger(s: _Sides) -> Array:
    """phi(log(m / larger)) / (1 - w)^2."""
    near, share, log_above, other = _large(s)
    close = jnp.square(s.gap * _log1p_ratio(-share)) * _phi_ratio(-jnp.where(near, s.log_above, 0))
    return jnp.where(near, close, (log_above / other - s.gap) / other)


def _curvature_of_smaller(s: _Sides) -> Array:
    """phi(log(m / smaller)) / w^2, times smaller / larger."""
    near, growth, _, w = _small(s)
    close = jnp.square(s.gap * _log1p_ratio(growth)) / s.ratio * _phi_ratio(jnp.where(near, s.log_below, 0))
    return jnp.where(near, close, (s.mixed - s.ratio * (1 + s.log_below)) / w / w)


def _large(s: _Sides) -> tuple[Array, Array, Array, Array]:
    """Is m near the larger probability; the quantities of that case, and of the other, harmless where not used."""
    near = s.share < 0.5
    return near, jnp.where(near, s.share, 0), jnp.where(near, 1, s.log_above), jnp.where(near, 1, 1 - s.w)


def _small(s: _Sides) -> tuple[Array, Array, Array, Array]:
    near = s.growth < 1.7
    return near, jnp.where(near, s.growth, 0), jnp.where(near, 1, s.log_below), jnp.where(near, 1, s.w)


def _log1p_ratio(u: Array) -> Array:
    """log1p(u) / u."""
    tiny = jnp.abs(u) < 1e-4
    return jnp.where(tiny, 1 - u * (1 / 2 - u * (1 / 3 - u / 4)), jnp.log1p(u) / jnp.where(tiny, 1, u))


def _phi_ratio(d: Array) -> Array:
    """phi(d) / d^2 = (e^d - 1 - d) / d^2."""
    tiny = jnp.abs(d) < 1e-3
    series = 1 / 2 + d * (1 / 6 + d * (1 / 24 + d * (1 / 120 + d / 720)))
    return jnp.where(tiny, series, stable.phi(d) / jnp.square(jnp.where(tiny, 1, d)))
