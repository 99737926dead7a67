"""Pairs of vectors that belong together or not."""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxloss._contrastive.signs import nan_unless, signs, valid
from jaxloss._contrastive.vectors import Rows
from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.devices import alike
from jaxloss._core.directions import cosines
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction


@loss(arrays=3)
def contrastive_loss(
    anchors: Float[ArrayLike, "*shape"],
    others: Float[ArrayLike, "..."],
    similar: Num[ArrayLike, "..."],
    axis: Axis = -1,
    *,
    margin: float | Array = 1.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Contrastive loss, for each pair: $\frac12 s D^2 + \frac12 (1 - s) \max(0, m - D)^2$ with $D = |a - b|$.

    The paper's $Y$ is $1 - s$: it has 0 for a similar pair. Other libraries leave out the halves, or write 1 for a
    dissimilar pair as the paper does: pass `similar=1 - labels` then.

    Args:
      anchors: $a$, any shape.
      others: $b$, broadcast to the shape of the anchors.
      similar: $s$, 1 or True for a similar pair and 0 or False for a dissimilar one, or between them, broadcast to the
        shape of the losses. Outside of [0, 1] the loss and gradient of the pair are NaN.
      axis: the axes of the features.
      margin: $m > 0$, a number or one for each loss.
      where: pairs to keep, broadcast to the shape of the losses. What is dropped adds 0 to value and gradient, even if
        NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the anchors without `axis`, or a scalar; at least float32. The gradient of a dissimilar pair of
      identical vectors is 0, as no direction leads away from all.

    Raises:
      TypeError: embeddings are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast, `margin` is not positive, a wrong axis or an unknown reduction.

    Reference: Hadsell, Chopra, LeCun, "Dimensionality Reduction by Learning an Invariant Mapping" (2006), eq. 4.

    >>> a, b = jnp.array([[0.0, 0.0], [0.0, 0.0]]), jnp.array([[3.0, 4.0], [0.0, 0.5]])
    >>> print(contrastive_loss(a, b, jnp.array([1, 0])))
    [12.5    0.125]
    """
    fn = "contrastive_loss"
    checks.in_range(fn, "margin", margin, 0, math.inf, open_low=True)

    rows = Rows(fn, axis, where, anchors=anchors, others=others)
    distance, half_square = rows.distance_and_half_square()
    s = jnp.broadcast_to(rows.option("similar", similar), rows.shape)
    short = stable.positive_part(rows.option("margin", margin) - distance)
    losses = stable.times(s, half_square) + (1 - s) * (0.5 * jnp.square(short))
    return rows.reduce(losses * nan_unless((s >= 0) & (s <= 1), losses), weights, reduction)


@loss(arrays=3)
def cosine_embedding_loss(
    anchors: Float[ArrayLike, "*shape"],
    others: Float[ArrayLike, "..."],
    labels: Num[ArrayLike, "..."],
    axis: Axis = -1,
    *,
    margin: float | Array = 0.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Cosine embedding loss, for each pair: $1 - \cos(a, b)$ for the label 1, $\max(0, \cos(a, b) - m)$ for $-1$.

    The cosine is that of vectors of any length. $1 - \cos$ keeps its digits where two directions nearly agree.

    Args:
      anchors: $a$, any shape. A zero vector has cosine 0 with all, and gradient 0.
      others: $b$, broadcast to the shape of the anchors.
      labels: 1 or True for a pair that belongs together, $-1$ or False for one that does not, broadcast to the shape of
        the losses. Anything else gives NaN for its pair, and `checkify` with `user_checks` reports it.
      axis: the axes of the features.
      margin: $m$ in [-1, 1], a number or one for each loss.
      where: pairs to keep, broadcast to the shape of the losses. What is dropped adds 0 to value and gradient, even if
        NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the anchors without `axis`, or a scalar; at least float32. NaN for an infinite entry.

    Raises:
      TypeError: embeddings are not floating-point, `where` is not boolean, or labels are differentiated.
      ValueError: a shape does not broadcast, `margin` is out of its range, a wrong axis or an unknown reduction.

    Reference: Bromley et al., "Signature Verification using a 'Siamese' Time Delay Neural Network" (1993), in PyTorch's
    form.

    >>> a, b = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[0.0, 2.0], [3.0, 4.0]])
    >>> print(cosine_embedding_loss(a, b, jnp.array([1, -1]), margin=0.5))  # 1 - 0 and 0.6 - 0.5
    [1.        0.1]
    """
    fn = "cosine_embedding_loss"
    checks.in_range(fn, "margin", margin, -1, 1)

    rows = Rows(fn, axis, where, anchors=anchors, others=others)
    sign = jnp.broadcast_to(rows.option("labels", signs(fn, labels, rows.where)), rows.shape)
    cosine, gap, *_ = cosines(rows.axes, *rows.vectors, rows.keep)
    cosine, gap, sign = alike(cosine, gap, sign)
    excess = cosine - rows.option("margin", margin)
    losses = jnp.where(sign > 0, gap, stable.positive_part(excess))
    return rows.reduce(losses * nan_unless(valid(sign), losses), weights, reduction)
