"""Losses of a class label with a margin, one for each row of scores.

>>> import jax, jax.numpy as jnp
>>> scores = jnp.array([[1.0, 0.5, -1.0]])
>>> print(jax.grad(lambda s: multiclass_sparsemax_loss(s, jnp.array([0]), reduction="sum"))(scores))
[[-0.25  0.25  0.  ]]
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxloss._core import blocks, checks, stable
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.class_rows import Rows
from jaxloss._core.precision import cotangent, promote
from jaxloss._core.reduction import fill
from jaxloss._core.search import from_left
from jaxloss._core.softmax import Scores
from jaxloss._core.softmax import scores as scores_of
from jaxloss._core.tracing import traced_once
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Integer, Num, Reduction

Rule = Callable[[Array, Array, Array | None], Array]  # scores with the classes last, labels, classes to keep


@loss()
def multiclass_hinge_loss(
    scores: Float[ArrayLike, "*shape"],
    labels: Integer[ArrayLike, "..."],
    *,
    axis: Axis = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Multi-class hinge loss: $\max_k (s_k - s_y + [k \ne y])$ for each row.

    It is 0 where the label is ahead of every other class by 1. Classes that tie for the maximum share the derivative.

    Args:
      scores: $s$, any shape; `-inf` rules a class out; a row of only `-inf` gives `inf`.
      labels: $y$, class indices in [0, classes), of the shape of the scores without `axis`. An index out of range gives
        NaN in value and gradient, and is reported by `checkify` with `user_checks`.
      axis: the axis of the classes, or a tuple of several.
      where: rows to keep, of the shape of the result, or else classes to keep, broadcast to the scores. What is dropped
        adds 0 to value and gradient, even if NaN; a label that is a dropped class costs infinity.
      weights: multiply the losses, broadcast to their shape.
      ignore_index: rows with this label are dropped.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the scores without `axis`, or a scalar; at least float32.

    Raises:
      TypeError: scores are not floating-point, labels are not integers, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the scores, there are no classes, or a wrong axis or reduction.

    Reference: Crammer, Singer, "On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines" (2001).

    >>> print(multiclass_hinge_loss(jnp.array([[2.0, 1.5, 0.0], [0.0, 1.0, 3.0]]), jnp.array([0, 1])))
    [0.5 3. ]
    """
    return of_rows("multiclass_hinge_loss", _margin(1.0), scores, labels, axis, where, weights, ignore_index, reduction)


@loss()
def multiclass_perceptron_loss(
    scores: Float[ArrayLike, "*shape"],
    labels: Integer[ArrayLike, "..."],
    *,
    axis: Axis = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Multi-class perceptron loss: $\max_k s_k - s_y$ for each row.

    It is 0 where the label has the highest score. Classes that tie for the maximum share the derivative.

    Args:
      scores: $s$, any shape; `-inf` rules a class out; a row of only `-inf` gives `inf`.
      labels: $y$, class indices in [0, classes), of the shape of the scores without `axis`. An index out of range gives
        NaN in value and gradient, and is reported by `checkify` with `user_checks`.
      axis: the axis of the classes, or a tuple of several.
      where: rows to keep, of the shape of the result, or else classes to keep, broadcast to the scores. What is dropped
        adds 0 to value and gradient, even if NaN; a label that is a dropped class costs infinity.
      weights: multiply the losses, broadcast to their shape.
      ignore_index: rows with this label are dropped.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the scores without `axis`, or a scalar; at least float32.

    Raises:
      TypeError: scores are not floating-point, labels are not integers, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the scores, there are no classes, or a wrong axis or reduction.

    Reference: Collins, "Discriminative Training Methods for Hidden Markov Models" (2002).

    >>> print(multiclass_perceptron_loss(jnp.array([[2.0, 1.5, 0.0], [0.0, 1.0, 3.0]]), jnp.array([0, 1])))
    [0. 2.]
    """
    return of_rows(
        "multiclass_perceptron_loss", _margin(0.0), scores, labels, axis, where, weights, ignore_index, reduction
    )


@loss()
def multiclass_sparsemax_loss(
    scores: Float[ArrayLike, "*shape"],
    labels: Integer[ArrayLike, "..."],
    *,
    axis: Axis = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Sparsemax loss: $\frac12\|p - e_y\|^2 + \max(0, \tau - s_y)$ for each row, with derivative $p - e_y$.

    $p_k = \max(0, s_k - \tau)$ is the projection of the scores to the probabilities, exactly 0 for classes far behind,
    and $e_y$ the label's. No term cancels: the loss is exactly 0 where the label is ahead by 1. In other words: the
    Fenchel-Young loss of half the squared norm.

    Args:
      scores: $s$, any shape; `-inf` rules a class out; a row of only `-inf` gives NaN.
      labels: $y$, class indices in [0, classes), of the shape of the scores without `axis`. An index out of range gives
        NaN in value and gradient, and is reported by `checkify` with `user_checks`.
      axis: the axis of the classes, or a tuple of several.
      where: rows to keep, of the shape of the result, or else classes to keep, broadcast to the scores. What is dropped
        adds 0 to value and gradient, even if NaN; a label that is a dropped class costs infinity.
      weights: multiply the losses, broadcast to their shape.
      ignore_index: rows with this label are dropped.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the scores without `axis`, or a scalar; at least float32.

    Raises:
      TypeError: scores are not floating-point, labels are not integers, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the scores, there are no classes, or a wrong axis or reduction.

    Reference: Martins, Astudillo, "From Softmax to Sparsemax" (2016).

    >>> print(multiclass_sparsemax_loss(jnp.array([[2.0, 1.5, 0.0], [0.0, 1.0, 3.0]]), jnp.array([0, 1])))
    [0.0625 2.    ]
    """
    return of_rows(
        "multiclass_sparsemax_loss", _sparsemax, scores, labels, axis, where, weights, ignore_index, reduction
    )


def of_rows(
    fn: str,
    rule: Rule,
    scores: Any,
    labels: Any,
    axis: Any,
    where: Any,
    weights: Any,
    ignore_index: Any,
    reduction: str,
) -> Array:
    rows = Rows(fn, "scores", scores, axis, where)
    y = rows.labels(labels, ignore_index)
    x, mask = rows.last()
    losses = rule(x, y, mask)
    losses = losses * jnp.where((y >= 0) & (y < rows.classes), 1, jnp.nan).astype(losses.dtype)
    return rows.total(losses, weights, reduction)


def _margin(margin: float) -> Rule:
    return functools.partial(_ahead, margin)


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _ahead(margin: float, x: Array, y: Array, mask: Array | None) -> Array:
    return _ahead_fwd(margin, x, y, mask)[0]


@functools.partial(traced_once, static_argnums=0)
def _ahead_fwd(margin: float, x: Array, y: Array, mask: Array | None) -> tuple[Array, Any]:
    s = scores_of(Scores(x, mask), -1)
    own = stable.pick(s, y, -1)
    classes = jnp.arange(s.shape[-1], dtype=y.dtype).reshape(*[1] * y.ndim, -1)
    worst = stable.row_max((Scores(x, mask), classes, y[..., None]), -1, _but_own)
    short = jnp.where(worst == -jnp.inf, -jnp.inf, worst - own + margin)
    losses = jnp.where(own == -jnp.inf, jnp.inf, jnp.where(jnp.isnan(own), jnp.nan, stable.positive_part(short)))
    return losses, (x, y, mask, worst, short)


def _but_own(x: tuple[Scores, Array, Array]) -> Array:
    s, classes, own = x
    return jnp.where(classes == own, -jnp.inf, scores_of(s, -1))


def _ahead_bwd(margin: float, residuals: Any, g: Array) -> tuple[Array | None, None, None]:
    # Why a rule: autodiff finds the maximum again for each class, and keeps an array of who has it.
    x, y, mask, worst, short = residuals
    s = scores_of(Scores(x, mask), -1)
    label, dtype = stable.is_label(s, y, -1), s.dtype
    tied = (s == worst[..., None]) & ~label
    others = stable.row_sum(tied, -1, lambda tied: tied.astype(dtype))
    count = jnp.maximum(others + (short == 0).astype(dtype), 1)
    share = jnp.where(short >= 0, 1, jnp.where(short < 0, 0, short)) / count
    slope = jnp.where(tied | jnp.isnan(short)[..., None], share[..., None], 0)
    slope = g[..., None] * jnp.where(label, -(share * others)[..., None], slope)
    return cotangent(fill(mask, slope), x), None, None


_ahead.defvjp(_ahead_fwd, _ahead_bwd)


def _threshold(h: Array) -> Array:
    """tau with sum_k max(0, h_k - tau) = 1, where 0 is the largest h_k of a row, by Michelot's method."""

    def above(h: Array, tau: Array) -> tuple[Array, Array]:
        return jnp.where(h > tau, h, 0), (h > tau).astype(h.dtype)

    return from_left(h, -1.0, above, lambda total, count, _: (total - 1) / jnp.maximum(count, 1))


def support(s: Array, top: Array) -> tuple[Array, Array]:
    """The lowest score that has any probability, and its probability, for each row: p_k = max(0, s_k - lowest + least).

    Relative to these, scores of any size keep the digits of their differences.
    """
    tau = _threshold(s - top[..., None])

    def from_below(x: tuple[Array, Array, Array]) -> Array:
        return jnp.where(x[0] - x[1] > x[2], -x[0], -jnp.inf)

    lowest = -jax.lax.stop_gradient(stable.row_max((s, top[..., None], tau[..., None]), -1, from_below))

    def above_lowest(x: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        s, top, lowest = x
        kept, is_top = s >= lowest, s == top
        others = jnp.where(kept & ~is_top, s - lowest, 0)
        return others, jnp.where(is_top, s - lowest, 0), kept.astype(s.dtype)

    # What is left of 1 by a class on top is exact, and the others together may be much smaller.
    others, tops, count = stable.row_sums((s, top[..., None], lowest[..., None]), -1, above_lowest)
    width = top - lowest
    return lowest, ((1 - width) - (others + (tops - width))) / count


def _finite(x: Array, mask: Array | None, top: Array) -> Array:
    """The scores; where some are infinite these are 0 and the others `-inf`, where no class is left all are NaN."""
    s, top = scores_of(Scores(x, mask), -1), top[..., None]
    s = jnp.where(top == jnp.inf, jnp.where(s == jnp.inf, 0, -jnp.inf), s)
    return jnp.where(top > -jnp.inf, s, jnp.nan)


@custom_vjp
def _sparsemax(x: Array, y: Array, mask: Array | None) -> Array:
    return _sparsemax_fwd(x, y, mask)[0]


def _probabilities(s: Array, lowest: Array, least: Array) -> Array:
    return jnp.maximum((s - lowest[..., None]) + least[..., None], 0)


@traced_once
def _sparsemax_fwd(x: Array, y: Array, mask: Array | None) -> tuple[Array, Any]:
    losses, numbers = blocks.per_row(_sparsemax_of_rows, (x, y[..., None], mask), -1)
    return losses, (x, y, mask, numbers)


def _sparsemax_of_rows(x: Array, y: Array, mask: Array | None) -> tuple[Array, tuple[Array, ...]]:
    y = y[..., 0]
    top = jax.lax.stop_gradient(stable.row_max(Scores(x, mask), -1, lambda s: scores_of(s, -1)))
    s = _finite(x, mask, top)
    lowest, least = support(s, jnp.where(top == jnp.inf, 0, top))
    far = jnp.maximum((lowest - stable.pick(s, y, -1)) - least, 0)
    label = stable.is_label(x, y, -1)

    def of_others(x: tuple[Array, ...]) -> tuple[Array, Array]:
        p = jnp.where(x[1], 0, _probabilities(x[0], x[2][..., 0], x[3][..., 0]))
        return p, p * p

    # What the label lacks of 1 is what the others have, not 1 minus something close to it.
    missing, squares = stable.row_sums((s, label, lowest[..., None], least[..., None]), -1, of_others)
    return (squares + missing * missing) / 2 + far, (top, lowest, least, missing)


def _sparsemax_bwd(residuals: Any, g: Array) -> tuple[Array | None, None, None]:
    # Why a rule: autodiff goes back through the search. The derivative is p - e_y, for which four numbers of each row
    # are kept.
    x, y, mask, (top, lowest, least, missing) = residuals
    p = _probabilities(_finite(x, mask, top), lowest, least)
    slope = jnp.where(stable.is_label(x, y, -1), -missing[..., None], p)
    return cotangent(fill(mask, g[..., None] * slope), x), None, None


_sparsemax.defvjp(_sparsemax_fwd, _sparsemax_bwd)


def make_fenchel_young_loss(max_fun: Callable[..., Array]) -> Callable[..., Array]:
    r"""Fenchel-Young loss of a smooth maximum: $\Omega^*(s) - y \cdot s$, with derivative $\nabla\Omega^*(s) - y$.

    Args:
      max_fun: $\Omega^*$, from scores `[n]` to a scalar, such as `jax.nn.logsumexp`; its gradient is the prediction.

    Returns:
      A function of `scores` and `targets`, both `[*batch, n]`, and of further arguments for `max_fun`, which gives one
      loss for each row, `[*batch]`; at least float32.

    Raises:
      TypeError: scores or targets are not floating-point.
      ValueError: their shapes differ.

    Reference: Blondel, Martins, Niculae, "Learning with Fenchel-Young Losses" (2020).

    >>> cross_entropy = make_fenchel_young_loss(jax.nn.logsumexp)
    >>> print(cross_entropy(jnp.array([[0.0, 0.0], [0.0, 9.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])).round(4))
    [6.931e-01 1.000e-04]
    """

    def fenchel_young_loss(scores: Any, targets: Any, *args: Any, **kwargs: Any) -> Array:
        fn = "fenchel_young_loss"
        s, y = checks.floating(fn, "scores", scores), checks.number(fn, "targets", targets)
        if s.ndim == 0:
            raise ValueError(f"{fn}: scores must be [*batch, n], got a scalar")
        y = checks.same_shape(fn, "targets", y, s.shape, "scores")
        rows = jnp.vectorize(functools.partial(_fenchel_young, max_fun, args, kwargs), signature="(n),(n)->()")
        return rows(s, y)

    return fenchel_young_loss


def _fenchel_young(max_fun: Callable[..., Array], args: Any, kwargs: Any, scores: Array, targets: Array) -> Array:
    s, y = promote(scores, targets)
    if scores.dtype == targets.dtype == s.dtype:
        return max_fun(s, *args, **kwargs) - jnp.dot(y, s)
    # XLA:CPU writes out what has to be converted for a product of vectors.
    return max_fun(s, *args, **kwargs) - stable.row_sum((s, y), 0, lambda x: x[0] * x[1])
