"""Distances of two softmax distributions that stay finite, and the Renyi divergence.

>>> import jax, jax.numpy as jnp
>>> x, y = jnp.array([0.0, 0.0]), jnp.array([0.0, -jnp.inf])
>>> print(total_variation(x, y), hellinger_distance(x, y), wasserstein_1d(x, y), renyi_divergence(x, y, alpha=2.0))
0.5 0.5411961 0.5 0.6931472
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxloss._core import blocks, checks, stable
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.pair import RULED_OUT, Mean, Pair, Rows, along, centred, others, pair, rows, rule_out
from jaxloss._core.precision import compute_dtype, cotangent
from jaxloss._core.reduction import fill
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction
from jaxloss._divergence.arguments import over_classes, require_classes
from jaxloss._divergence.logits import softmax_kl_divergence


@loss()
def total_variation(
    logits: Float[ArrayLike, "*shape"],
    target_logits: Float[ArrayLike, "..."],
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    *,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Total variation distance of two softmax distributions: $\frac12\sum_k |p_k - q_k|$, in [0, 1].

    $p = \mathrm{softmax}(x)$ are the predictions, $q = \mathrm{softmax}(y)$ the targets. Differences of nearly equal
    probabilities keep their digits. Where $p_k = q_k$ the derivative counts as 0. Gradients go to both sides.

    Args:
      logits: $x$, any shape; `-inf` rules a class out, one `inf` all others. A row of only `-inf`, or with several
        `inf`, gives NaN.
      target_logits: $y$, broadcast to the shape of the logits.
      axis: the axes of the classes, an int, a tuple of ints, or `None` for all.
      where: rows to keep, of the shape of the result, or else classes to keep, broadcast to the logits, over which both
        distributions are renormalised. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the distances, broadcast to their shape.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the logits without `axis`, or a scalar; at least float32.

    Raises:
      TypeError: logits are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the logits, a wrong axis or reduction.

    Reference: Levin, Peres, Wilmer, "Markov Chains and Mixing Times" (2009), section 4.1.

    >>> print(total_variation(jnp.array([0.0, 0.0]), jnp.array([0.0, 1e-6])))
    2.4999997e-07
    """
    return _measure("total_variation", _TOTAL_VARIATION, logits, target_logits, axis, where, weights, reduction)


@loss()
def hellinger_distance(
    logits: Float[ArrayLike, "*shape"],
    target_logits: Float[ArrayLike, "..."],
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    *,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Hellinger distance of two softmax distributions: $\sqrt{\frac12\sum_k(\sqrt{p_k} - \sqrt{q_k})^2}$, in [0, 1].

    $p = \mathrm{softmax}(x)$ are the predictions, $q = \mathrm{softmax}(y)$ the targets. Distances of nearly equal
    distributions keep their digits; the gradient of equal ones, where the distance has a kink, is 0. Gradients go to
    both sides.

    Args:
      logits: $x$, any shape; `-inf` rules a class out, one `inf` all others. A row of only `-inf`, or with several
        `inf`, gives NaN.
      target_logits: $y$, broadcast to the shape of the logits.
      axis: the axes of the classes, an int, a tuple of ints, or `None` for all.
      where: rows to keep, of the shape of the result, or else classes to keep, broadcast to the logits, over which both
        distributions are renormalised. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the distances, broadcast to their shape.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the logits without `axis`, or a scalar; at least float32.

    Raises:
      TypeError: logits are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the logits, a wrong axis or reduction.

    Reference: Le Cam, Yang, "Asymptotics in Statistics" (2000), section 3.1.

    >>> print(hellinger_distance(jnp.array([0.0, 0.0]), jnp.array([0.0, 1e-6])))
    1.7677668e-07
    """
    return _measure("hellinger_distance", _HELLINGER, logits, target_logits, axis, where, weights, reduction)


@loss()
def wasserstein_1d(
    logits: Float[ArrayLike, "*shape"],
    target_logits: Float[ArrayLike, "..."],
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    *,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Wasserstein-1 distance of two softmax distributions over ordered classes: $\sum_k |P_k - Q_k|$.

    $P$ and $Q$ are the cumulative sums of the predictions $p = \mathrm{softmax}(x)$ and the targets
    $q = \mathrm{softmax}(y)$: what it takes to move one to the other, a step from a class to the next costing 1. Also
    known as the earth mover's distance. Where $P_k = Q_k$ the derivative counts as 0. Gradients go to both sides.

    Args:
      logits: $x$, any shape; `-inf` rules a class out, one `inf` all others. A row of only `-inf`, or with several
        `inf`, gives NaN.
      target_logits: $y$, broadcast to the shape of the logits.
      axis: the axes of the classes, an int, a tuple of ints, or `None` for all. Their order is that of
        the array.
      where: rows to keep, of the shape of the result, or else classes to keep, broadcast to the logits, over which both
        distributions are renormalised. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the distances, broadcast to their shape.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the logits without `axis`, or a scalar; at least float32.

    Raises:
      TypeError: logits are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the logits, a wrong axis or reduction.

    Reference: Rubner, Tomasi, Guibas, "The Earth Mover's Distance as a Metric for Image Retrieval" (2000).

    >>> print(wasserstein_1d(jnp.array([50.0, 0.0, 0.0]), jnp.array([0.0, 0.0, 50.0])))
    2.0
    """
    return _measure("wasserstein_1d", _WASSERSTEIN, logits, target_logits, axis, where, weights, reduction)


@loss()
def renyi_divergence(
    logits: Float[ArrayLike, "*shape"],
    target_logits: Float[ArrayLike, "..."],
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    *,
    alpha: float = 0.5,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Renyi divergence of two softmax distributions: $\frac{1}{\alpha-1}\log\sum_k q_k^\alpha p_k^{1-\alpha}$.

    $p = \mathrm{softmax}(x)$ are the predictions, $q = \mathrm{softmax}(y)$ the targets. At $\alpha = 1$ it is
    `softmax_kl_divergence`, the limit. Divergences of nearly equal distributions keep their digits. Gradients go to
    both sides.

    Args:
      logits: $x$, any shape; `-inf` rules a class out, one `inf` all others. A row of only `-inf`, or with several
        `inf`, gives NaN.
      target_logits: $y$, broadcast to the shape of the logits.
      axis: the axes of the classes, an int, a tuple of ints, or `None` for all.
      where: rows to keep, of the shape of the result, or else classes to keep, broadcast to the logits, over which both
        distributions are renormalised. What is dropped adds 0 to value and gradient, even if NaN.
      alpha: the order $\alpha$, a Python number above 0.
      weights: multiply the divergences, broadcast to their shape.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the logits without `axis`, or a scalar; at least float32. `inf` where no class is left to both, and
      for $\alpha \ge 1$ where the predictions alone rule a class out; beyond about $10^{29}\min(1, |1-\alpha|)$ a
      divergence is infinite.

    Raises:
      TypeError: logits are not floating-point, `alpha` is not a Python number, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the logits, a wrong axis, `alpha` or reduction.

    Reference: Renyi, "On Measures of Entropy and Information" (1961).

    >>> print(f"{renyi_divergence(jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0]), alpha=0.5):.4f}")
    0.2402
    """
    fn = "renyi_divergence"
    checks.python_number(fn, "alpha", alpha)
    if not 0 < alpha < math.inf:
        raise ValueError(f"{fn}: alpha must be in (0, inf), got {alpha}")
    if alpha == 1:
        return softmax_kl_divergence(logits, target_logits, axis, where, weights=weights, reduction=reduction)
    return _measure(fn, _renyi(float(alpha)), logits, target_logits, axis, where, weights, reduction)


class Form(NamedTuple):
    """A distance as a function of one number for each row, and how the slopes of that are found."""

    number: Callable[[Pair, int], Array]  # without the class axis
    sums: Callable[[Pair, Array, int], Any]  # over classes, which the slopes need too
    slopes: Callable[[Pair, Array, Any, int], tuple[Array, Array]]  # by both logits
    finish: Callable[[Array], Array] = lambda number: number


def _measure(
    fn: str, form: Form, logits: Any, target_logits: Any, axis: Any, where: Any, weights: Any, reduction: str
) -> Array:
    target_logits = checks.floating(fn, "target_logits", target_logits)

    def rule(axis: int, x: Array, y: Array, keep: Array | None) -> Array:
        require_classes(fn, "logits", x, axis)
        return form.finish(_number(form, axis, x, y, keep))

    sides = ("logits", logits), ("target_logits", target_logits)
    return over_classes(fn, rule, *sides, axis, where, weights=weights, reduction=reduction)


@functools.partial(custom_vjp, nondiff_argnums=(0, 1))
def _number(form: Form, axis: int, x: Array, y: Array, keep: Array | None) -> Array:
    def in_block(x: Array, y: Array, keep: Array | None) -> Array:
        return form.number(_pair(axis, x, y, keep, _rows(axis, x, y, keep)), axis)

    return blocks.per_row(in_block, (x, y, keep), axis)


def _rows(axis: int, x: Array, y: Array, keep: Array | None) -> Rows:
    x, y = rule_out(keep, x, axis), rule_out(keep, y, axis)
    return rows(x, y, jnp.ones((), compute_dtype(x, y)), axis)


def _pair(axis: int, x: Array, y: Array, keep: Array | None, r: Rows) -> Pair:
    x, y = rule_out(keep, x, axis), rule_out(keep, y, axis)
    return pair(x, y, jnp.ones((), compute_dtype(x, y)), along(r, axis))


def _number_fwd(form: Form, axis: int, *args: Any) -> tuple[Array, Any]:
    number = _number(form, axis, *args)
    return number, (*args, number)


def _number_bwd(form: Form, axis: int, residuals: Any, g: Array) -> tuple[Array | None, ...]:
    # Why a rule: autodiff keeps several float32 arrays of the size of the logits, and loses the digits of the slope of
    # a class that has nearly all of the probability.
    x, y, keep, number = residuals
    number, g = along((number, g), axis)

    def in_block(x: Array, y: Array, keep: Array | None, number: Array) -> Any:
        r = _rows(axis, x, y, keep)
        return r, form.sums(_pair(axis, x, y, keep, r), number, axis)

    r, sums = blocks.per_row(in_block, (x, y, keep, number), axis)
    to_x, to_y = form.slopes(_pair(axis, x, y, keep, r), number, along(sums, axis), axis)
    return cotangent(fill(keep, g * to_x), x), cotangent(fill(keep, g * to_y), y), None


_number.defvjp(_number_fwd, _number_bwd)


def _masses(c: Pair, number: Array, axis: int) -> Any:
    """Of both distributions: where p > q, where p < q, and where they are equal."""
    d = c.difference
    parts = d > 0, d < 0, d == 0
    return tuple(tuple(jnp.sum(jnp.where(part, v, 0), axis) for part in parts) for v in (c.p, c.q))


def _total_variation_slopes(c: Pair, number: Array, masses: Any, axis: int) -> tuple[Array, Array]:
    def side(v: Array, above: Array, below: Array, equal: Array) -> Array:
        up, down, level = below + equal / 2, -(above + equal / 2), (below - above) / 2
        return v * jnp.where(c.difference > 0, up, jnp.where(c.difference < 0, down, level))

    return side(c.p, *masses[0]), -side(c.q, *masses[1])


_TOTAL_VARIATION = Form(lambda c, axis: jnp.sum(jnp.abs(c.difference), axis) / 2, _masses, _total_variation_slopes)


def _centred(sides: Callable[[Pair, Array, int], tuple[Array, Array]]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Sums and slopes if a slope is p (or q) times a function of the class less its mean; `sides` are the products."""

    def sums(c: Pair, number: Array, axis: int) -> Any:
        of_x, of_y = sides(c, number, axis)
        p, q = others(c.p, of_x, c.p_top, axis), others(c.q, of_y, c.q_top, axis)
        return (jnp.sum(of_x, axis), *p), (jnp.sum(of_y, axis), *q)

    def slopes(c: Pair, number: Array, sums: Any, axis: int) -> tuple[Array, Array]:
        of_x, of_y = sides(c, number, axis)
        return centred(c.p, of_x, c.p_top, Mean(*sums[0])), centred(c.q, of_y, c.q_top, Mean(*sums[1]))

    return sums, slopes


def _moves(c: Pair, axis: int) -> Array:
    """What has to cross from each class to the next."""
    return jnp.cumsum(c.difference, axis)


def _wasserstein_sides(c: Pair, number: Array, axis: int) -> tuple[Array, Array]:
    slope = jnp.flip(jnp.cumsum(jnp.flip(jnp.sign(_moves(c, axis)), axis), axis), axis)
    return c.p * slope, -c.q * slope


_WASSERSTEIN = Form(lambda c, axis: jnp.sum(jnp.abs(_moves(c, axis)), axis), *_centred(_wasserstein_sides))


def _roots(c: Pair) -> tuple[Array, Array]:
    return stable.exp_down(c.log_p / 2), stable.exp_down(c.log_q / 2)


def _near(d: Array) -> tuple[Array, Array]:
    near = jnp.abs(d) < 1
    return near, jnp.where(near, d, 0)


def _half_square(c: Pair, axis: int) -> Array:
    near, d = _near(c.d)
    root_p, root_q = _roots(c)
    gap = jnp.where(near, root_q * stable.expm1(d / 2), root_p - root_q)
    return jnp.sum(jnp.square(gap), axis) / 2


def _hellinger_sides(c: Pair, number: Array, axis: int) -> tuple[Array, Array]:
    near, d = _near(c.d)
    root_p, root_q = _roots(c)
    both = root_p * root_q
    of_x = jnp.where(near, c.p * stable.expm1(-d / 2), both - c.p)
    of_y = jnp.where(near, c.q * stable.expm1(d / 2), both - c.q)
    return -of_x / 2, -of_y / 2


def _root(x: Array) -> Array:
    """The derivative at 0 counts as 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0 * x)


_HELLINGER = Form(_half_square, *_centred(_hellinger_sides), _root)


@functools.cache  # the form is a static argument: an equal one is not compiled again
def _renyi(alpha: float) -> Form:
    """The number is z = log sum_k q_k^alpha p_k^(1 - alpha), and r_k are the summands divided by the sum."""
    c = 1 - alpha

    def number(pair: Pair, axis: int) -> Array:
        # Two forms of the same summand, q^alpha p^c - q - c (p - q), neither of which cancels on its side.
        args = (pair.p, pair.log_p, -pair.d, alpha) if alpha < 0.5 else (pair.q, pair.log_q, pair.d, c)
        excess = jnp.sum(_excess(*args), axis)
        small = jnp.abs(excess) < 0.5
        whole = stable.logsumexp(pair.log_q + c * pair.d, axis)
        return jnp.where(small, jnp.log1p(jnp.where(small, excess, 0)), whole)

    def sides(pair: Pair, z: Array, axis: int) -> tuple[Array, Array]:
        of_x, of_y = -alpha * pair.d - z, c * pair.d - z
        r = jnp.exp(jnp.minimum(jnp.where(alpha < 0.5, pair.log_p + of_x, pair.log_q + of_y), 0))
        to_x = jnp.where(jnp.abs(of_x) < 1, pair.p * stable.expm1(jnp.clip(of_x, -1, 1)), r - pair.p)
        to_y = jnp.where(jnp.abs(of_y) < 1, pair.q * stable.expm1(jnp.clip(of_y, -1, 1)), r - pair.q)
        return c * to_x, alpha * to_y

    def finish(z: Array) -> Array:
        divergence = z / (alpha - 1)
        return divergence + jnp.where(divergence > RULED_OUT * min(1.0, abs(c)), jnp.inf, 0)

    return Form(number, *_centred(sides), finish)


def _excess(q: Array, log_q: Array, d: Array, c: float) -> Array:
    """q (exp(c d) - 1 - c (exp(d) - 1))."""
    near, step = _near(d)
    gentle = abs(c) * jnp.abs(d) < 1
    both = near & gentle
    step = jnp.where(both, step, 0)
    close = q * (stable.phi_near(c * step) - c * stable.phi_near(step))
    power = jnp.where(
        gentle, q * stable.expm1(jnp.where(gentle, c * d, 0)), jnp.exp(jnp.minimum(log_q + c * d, 10)) - q
    )
    return jnp.where(both, close, power - c * (jnp.exp(log_q + d) - q))
