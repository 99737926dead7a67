"""Labels of pairs, 1 or -1, and the losses of distances and scores that have them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxloss._core import checks, stable
from jaxloss._core.alarm import alarm
from jaxloss._core.api import loss
from jaxloss._core.elements import elementwise, with_slopes
from jaxloss._core.typing import ArrayLike, Bool, Float, Num, Reduction


@loss()
def hinge_embedding_loss(
    distances: Float[ArrayLike, "*shape"],
    labels: Num[ArrayLike, "..."],
    *,
    margin: float | Array = 1.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Hinge on distances, for each pair: $d$ for the label 1, $\max(0, m - d)$ for the label $-1$.

    Args:
      distances: $d$, any shape.
      labels: 1 or True for a pair that belongs together, $-1$ or False for one that does not, broadcast to the shape of
        the distances. Anything else gives NaN for its pair, and `checkify` with `user_checks` reports it.
      margin: $m$, a number or broadcast likewise.
      where: pairs to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the distances, or a scalar; at least float32.

    Raises:
      TypeError: distances are not floating-point, `where` is not boolean, or labels are differentiated.
      ValueError: a shape does not broadcast to that of the distances, or an unknown reduction.

    Reference: Hadsell, Chopra, LeCun, "Dimensionality Reduction by Learning an Invariant Mapping" (2006), with the
    distances in place of their squares.

    >>> print(hinge_embedding_loss(jnp.array([0.25, 0.25, 3.0]), jnp.array([1, -1, -1])))
    [0.25 0.75 0.  ]
    """
    fn = "hinge_embedding_loss"
    operands = {"distances": distances, "labels": signs(fn, labels, where), "margin": margin}
    return elementwise(fn, _hinge_embedding, where, weights, reduction, **operands)


@with_slopes
def _hinge_embedding(d: Array, sign: Array, margin: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    together, short, or_nan = sign > 0, margin - d, nan_unless(valid(sign), d)
    losses = jnp.where(together, d, stable.positive_part(short))
    apart = stable.where_above(short, 0, or_nan) * or_nan
    return losses * or_nan, (jnp.where(together, or_nan, -apart), 0 * d, jnp.where(together, 0 * or_nan, apart))


@loss(arrays=3)
def margin_ranking_loss(
    first_scores: Float[ArrayLike, "*shape"],
    second_scores: Float[ArrayLike, "..."],
    labels: Num[ArrayLike, "..."],
    *,
    margin: float | Array = 0.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Ranking of two, for each pair: $\max(0, m - y(x_1 - x_2))$.

    Args:
      first_scores: $x_1$, any shape.
      second_scores: $x_2$, broadcast to the shape of the first scores.
      labels: $y$, 1 or True where the first should score higher, $-1$ or False where the second should, broadcast
        likewise. Anything else gives NaN for its pair, and `checkify` with `user_checks` reports it.
      margin: $m$, by how much; a number or broadcast likewise.
      where: pairs to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the first scores, or a scalar; at least float32.

    Raises:
      TypeError: first scores are not floating-point, `where` is not boolean, or labels are differentiated.
      ValueError: a shape does not broadcast to that of the first scores, or an unknown reduction.

    Reference: Herbrich, Graepel, Obermayer, "Large Margin Rank Boundaries for Ordinal Regression" (2000).

    >>> print(margin_ranking_loss(jnp.array([2.0, 2.0]), jnp.array([1.5, 1.5]), jnp.array([1, -1]), margin=1.0))
    [0.5 1.5]
    """
    fn = "margin_ranking_loss"
    operands = {
        "first_scores": first_scores,
        "second_scores": second_scores,
        "labels": signs(fn, labels, where),
        "margin": margin,
    }
    return elementwise(fn, _margin_ranking, where, weights, reduction, **operands)


@with_slopes
def _margin_ranking(a: Array, b: Array, sign: Array, margin: Array) -> tuple[Array, tuple[Array, ...]]:
    lack, or_nan = margin - sign * (a - b), nan_unless(valid(sign), a)
    slope = stable.where_above(lack, 0, or_nan) * or_nan
    return stable.positive_part(lack) * or_nan, (-sign * slope, sign * slope, 0 * slope, slope)


def signs(fn: str, labels: Any, where: Any) -> Array:
    """Labels that should be 1 or -1; `valid` says which of them are."""
    y = checks.number(fn, "labels", labels)
    if y.dtype == jnp.bool_:
        return jnp.where(y, 1, -1).astype(jnp.int8)
    if jnp.issubdtype(y.dtype, jnp.floating):
        y = checks.no_gradient(fn, "labels", y)
    return _known_signs(fn, y, None if where is None else checks.mask(fn, "where", where))


def valid(sign: Array) -> Array:
    return (sign == 1) | (sign == -1)


def nan_unless(valid: Array, like: Array) -> Array:
    """A factor, so that the gradient is NaN too."""
    return jnp.where(valid, 1, jnp.nan).astype(like.dtype)


def _known_signs(fn: str, y: Array, where: Array | None) -> Array:
    """The labels, with an alarm for what is neither. Shapes that do not fit are refused later."""
    fine = valid(y)
    if where is not None and checks.broadcastable(fine.shape, where.shape):
        fine = jnp.broadcast_to(fine, where.shape) | ~where
    return alarm(y, fine, f"{fn}: labels must be 1 or -1")
