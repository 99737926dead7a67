"""The cross-entropy of label distributions, and the first term of its expansion once more."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.class_rows import Rows
from jaxloss._core.precision import cotangent
from jaxloss._core.softmax import (
    Scores,
    along,
    mixture_slope,
    score_stats,
    scores,
    scores_and_pull,
    target_weights,
    times,
    where_counted,
)
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction


@loss()
def poly_loss_cross_entropy(
    logits: Float[ArrayLike, "*batch classes"],
    labels: Num[ArrayLike, "..."],
    *,
    epsilon: float | Array = 2.0,
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    class_weights: Num[ArrayLike, "classes"] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Poly-1 loss: $\sum_k t_k c_k\,\bigl(-\log p_k + \varepsilon\,(1 - p_k)\bigr)$ with $p = \mathrm{softmax}(x)$.

    The cross-entropy is $\sum_j (1-p)^j / j$; $\varepsilon$ adds to the weight of the first term. A positive one
    stresses the examples that are right already, a negative one those that are not; 0 is `softmax_cross_entropy`.

    Args:
      logits: raw scores $x$. `-inf` rules a class out; a row of only `-inf` gives NaN.
      labels: weights $t$ of the classes, any real dtype; broadcast to the shape of the logits.
      epsilon: $\varepsilon$, a number; -1 and below does not bound the loss by 0.
      axis: the class axis; several, or `None` for all, form one class axis.
      where: classes (as many dimensions as the logits) or rows (fewer) to keep. What is dropped adds 0 to value and
        gradient, even if NaN; a row that keeps no class is dropped; a positive weight on a dropped class costs `inf`.
      weights: multiply the losses of the rows.
      class_weights: $c$, one for each class. As in every mean here, only `weights` divide.
      reduction: `"none"`, `"mean"` or `"sum"` over the rows; see `jaxloss.reduce`.

    Returns:
      One loss for each row, or a scalar; at least float32.

    Raises:
      TypeError: logits are not floating-point or `where` not boolean.
      ValueError: a shape does not fit the logits, or there are no classes.

    Reference: Leng et al., "PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions" (2022).

    >>> print(poly_loss_cross_entropy(jnp.array([[0.0, 0.0]]), jnp.array([[0.25, 0.75]]), epsilon=1.0))
    [1.1931472]
    """
    fn = "poly_loss_cross_entropy"
    rows = Rows(fn, "logits", logits, axis, where)
    e, c = checks.scalar(fn, "epsilon", epsilon), rows.class_weights(class_weights)
    losses = _poly(rows.axis, rows.scores(), rows.distribution(labels), c, e)
    return rows.total(losses, weights, reduction)


class _Row(NamedTuple):
    stats: stable.RowStats
    mass: Array  # sum_k t_k c_k
    miss: Array  # sum_k t_k c_k (1 - p_k)


class _AtHand(NamedTuple):
    s: Scores
    stats: stable.RowStats
    target: Array
    class_weights: Array | None


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _poly(axis: int, s: Scores, target: Array, class_weights: Array | None, epsilon: Array) -> Array:
    return _forward(axis, s, target, class_weights, epsilon)[0]


def _forward(axis: int, s: Scores, target: Array, class_weights: Array | None, epsilon: Array) -> tuple[Array, Any]:
    stats = stable.settled(score_stats(s, axis))

    def terms(x: _AtHand) -> tuple[Array, Array, Array]:
        z = scores(x.s, axis)
        t = target_weights(x.target, x.s, z.dtype)
        weight = t if x.class_weights is None else t * x.class_weights
        gap, chance = _gap_and_miss(z, x.stats, axis)
        return weight, times(weight, gap), weight * chance

    at_hand = _AtHand(s, stats, target, along(class_weights, scores(s, axis), axis))
    mass, gaps, miss = stable.row_sums(at_hand, axis, terms, given=True)
    losses = gaps + mass * jnp.log1p(stats.rest) + jnp.asarray(epsilon, gaps.dtype) * miss
    return losses, (s, target, class_weights, epsilon, _Row(stats, mass, miss))


def _gap_and_miss(z: Array, stats: stable.RowStats, axis: int) -> tuple[Array, Array]:
    """How far a class is below the maximum, and 1 - p: `rest` is at least the exponential of any other class."""
    gap, rest = stable.gap(z, stats, axis), jnp.expand_dims(stats.rest, axis)
    below = jnp.where(gap == 0, 0, 1 - stable.exp_minus(z, jnp.expand_dims(stats.max, axis)))
    return gap, (rest + below) / (1 + rest)


def _backward(axis: int, residuals: Any, g: Array) -> Any:
    # Why a rule: autodiff keeps several float32 arrays of the size of the logits, and 1 - p of a confident row cancels.
    s, target, class_weights, epsilon, row = residuals
    z, pull = scores_and_pull(s, axis)
    stats, mass, miss = row.stats, jnp.expand_dims(row.mass, axis), jnp.expand_dims(row.miss, axis)
    c, e, g_row = along(class_weights, z, axis), jnp.asarray(epsilon, z.dtype), jnp.expand_dims(g, axis)
    t = target_weights(target, s, z.dtype)
    weight = t if c is None else t * c
    p = stable.softmax(z, stats, axis)
    to_scores = mixture_slope(z, stats, p, weight, mass, axis) - e * p * ((weight - mass) + miss)
    gap, chance = _gap_and_miss(z, stats, axis)
    cost = jnp.minimum(gap, jnp.finfo(z.dtype).max) + jnp.expand_dims(jnp.log1p(stats.rest), axis) + e * chance
    to_target = cotangent(g_row * where_counted(target, s, cost if c is None else c * cost), target)
    to_classes = None
    if class_weights is not None:
        others = tuple(i for i in range(z.ndim) if i != axis)
        to_classes = cotangent(jnp.sum(g_row * t * cost, others), class_weights)
    to_logits, _, _ = pull(g_row * to_scores)
    return Scores(to_logits), to_target, to_classes, cotangent(jnp.sum(g * row.miss), jnp.asarray(epsilon))


_poly.defvjp(_forward, _backward)
