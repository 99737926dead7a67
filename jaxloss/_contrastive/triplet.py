"""An anchor that should be closer to its positive than to its negative."""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxloss._contrastive.vectors import Rows
from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction


@loss(arrays=3)
def triplet_margin_loss(
    anchors: Float[ArrayLike, "*shape"],
    positives: Float[ArrayLike, "..."],
    negatives: Float[ArrayLike, "..."],
    axis: Axis = -1,
    norm_degree: float | Array = 2,
    margin: float | Array = 1.0,
    eps: float | Array = 1e-6,
    *,
    swap: bool = False,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Triplet margin loss, for each anchor: $\max(0, d(a, p) - d(a, n) + m)$.

    $d(x, y) = \bigl(\sum_i |x_i - y_i|^p + \epsilon\bigr)^{1/p}$, with the derivative 0 where two coordinates agree,
    also for $\epsilon = 0$ and degrees below 1. With `swap`, $\min(d(a, n), d(p, n))$ stands for $d(a, n)$.

    Args:
      anchors: $a$, any shape.
      positives: $p$, broadcast to the shape of the anchors.
      negatives: $n$, likewise.
      axis: the axes of the features.
      norm_degree: $p > 0$, a number or a scalar array; the number `inf` for the largest difference, without $\epsilon$.
      margin: $m$, a number or one for each loss.
      eps: $\epsilon \ge 0$, a number or a scalar array, in the unit of $|x|^p$. PyTorch adds its own to every
        difference instead.
      swap: whether a negative that is close to the positive counts as close.
      where: triplets to keep, broadcast to the shape of the losses. What is dropped adds 0 to value and gradient, even
        if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the anchors without `axis`, or a scalar; at least float32.

    Raises:
      TypeError: embeddings are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast, an option is out of its range, a wrong axis or an unknown reduction.

    Reference: Schroff, Kalenichenko, Philbin, "FaceNet" (2015), section 3.1, without squares; Balntas et al., "Learning
    local feature descriptors with triplets and shallow convolutional neural networks" (2016), section 2.2, for `swap`.

    >>> a, p, n = jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]]), jnp.array([[3.0, 0.0]])
    >>> print(triplet_margin_loss(a, p, n, norm_degree=1, eps=0.0))  # 7 - 3 + 1
    [5.]
    """
    fn = "triplet_margin_loss"
    checks.in_range(fn, "norm_degree", norm_degree, 0, math.inf, open_low=True)
    checks.in_range(fn, "eps", eps, 0, math.inf)

    rows = Rows(fn, axis, where, anchors=anchors, positives=positives, negatives=negatives)
    for arg, value in (("norm_degree", norm_degree), ("eps", eps)):
        checks.scalar(fn, arg, value)
    pairs = ((0, 1), (0, 2), (1, 2)) if swap else ((0, 1), (0, 2))
    near, far, *other = rows.distances(*pairs, degree=norm_degree, eps=eps)
    if swap:
        far = jnp.where(other[0] < far, other[0], far)
    excess = near - far + rows.option("margin", margin)
    return rows.reduce(stable.positive_part(excess), weights, reduction)
