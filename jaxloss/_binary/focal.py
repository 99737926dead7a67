"""Cross-entropies that weigh decisions by how far they are from right.

>>> import jax, jax.numpy as jnp
>>> logits, labels = jnp.array([4.0, 0.0, -4.0]), jnp.array([1, 1, 1])
>>> print(sigmoid_focal_loss(logits, labels))
[5.871570e-06 1.732868e-01 3.874907e+00]
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from jaxloss._binary.cross_entropy import smoothed
from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.elements import elementwise, with_slopes
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction


@loss()
def sigmoid_focal_loss(
    logits: Float[ArrayLike, "*shape"],
    labels: Num[ArrayLike, "..."],
    *,
    alpha: float | Array | None = None,
    gamma: float | Array = 2.0,
    label_smoothing: float | Array = 0.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Focal loss, for each element: $-\alpha_t\,(1 - p_t)^\gamma \log p_t$; easy decisions hardly count.

    $p_t = \sigma(x)$ for the label 1 and $\sigma(-x)$ for 0; $\alpha_t$ is $\alpha$ or $1 - \alpha$. A label $y$ in
    between mixes the two sides of each factor: $1 - p_t = y\,\sigma(-x) + (1-y)\,\sigma(x)$, and so on. The value and
    all derivatives are finite at any logit and any $\gamma \ge 0$; $\gamma = 0$ is `sigmoid_binary_cross_entropy`.

    Args:
      logits: raw scores $x$, any shape; one independent decision each.
      labels: $y$ in [0, 1], soft or hard, any real or boolean dtype; broadcast to the shape of the logits.
      alpha: $\alpha$ in [0, 1], the weight of the positive class against that of the negative one, a number or
        broadcast likewise; `None` for no weights.
      gamma: $\gamma \ge 0$, a number or broadcast likewise.
      label_smoothing: $s$ in [0, 1]: $y$ becomes $(1-s)y + s/2$.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the logits, or a scalar; at least float32.

    Raises:
      TypeError: logits are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the logits, or an option is out of its range.

    Reference: Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection" (2017).

    >>> print(sigmoid_focal_loss(jnp.array([0.0, 50.0]), jnp.array([1, 0]), gamma=0.5, alpha=0.25))
    [ 0.12253226 37.5       ]
    """
    fn = "sigmoid_focal_loss"
    if alpha is not None:
        checks.in_range(fn, "alpha", alpha, 0, 1)
    checks.in_range(fn, "gamma", gamma, 0, math.inf, open_high=True)
    smoothing = checks.in_range(fn, "label_smoothing", label_smoothing, 0, 1)
    operands = {"logits": logits, "labels": labels, "alpha": alpha, "gamma": gamma, "label_smoothing": smoothing}
    return elementwise(fn, _focal, where, weights, reduction, **operands)


@with_slopes
def _focal(
    x: Array, label: Array, alpha: Array | None, gamma: Array, smoothing: Array
) -> tuple[Array, tuple[Any, ...]]:
    # In e = exp(-|x|) and the labels m and rest of the likelier and the other side, 1 - p_t is d / (1 + e) with
    # d = rest + m e. It vanishes only as e does, when a hard label agrees: there d divides what does too.
    likely, (y, no) = x >= 0, smoothed(label, smoothing)
    sign, m, rest = jnp.where(likely, 1, -1).astype(x.dtype), jnp.where(likely, y, no), jnp.where(likely, no, y)
    size = jnp.minimum(jnp.abs(x), jnp.finfo(x.dtype).max)
    e = stable.used_often(stable.exp_down(-size), -1)
    large = stable.used_often(1 / (1 + e), 0.25)
    ratio = stable.log1p_ratios(e)[0]
    near = e * ratio
    agrees = rest < 1e-18  # of which nothing is left in d^2 either
    d = rest + m * e
    divisor = jnp.where(agrees, 1, d)

    wrong = stable.power(large * d, gamma)
    weight = wrong if alpha is None else wrong * (alpha * y + (1 - alpha) * no)
    cost = m * near + rest * (size + near)
    losses = stable.times(weight, jnp.where((rest > 0) & jnp.isinf(x), jnp.inf, cost))
    pull = gamma * (rest - m) * jnp.where(agrees, 1, e / divisor) * cost + (rest - m * e)
    push = gamma * -stable.expm1(-size) * jnp.where(agrees, ratio, cost / divisor) + size
    by_weight = wrong * cost
    by_label = -sign * stable.times(weight, push)  # which overflows at infinity
    if alpha is not None:
        by_label = by_label + (2 * alpha - 1) * by_weight
    by_gamma = weight * cost * (jnp.where(agrees, -size, jnp.log(divisor)) - near)
    by_alpha = None if alpha is None else (y - no) * by_weight
    slope = sign * weight * large * pull
    return losses, (slope, (1 - smoothing) * by_label, by_alpha, by_gamma, (0.5 - label) * by_label)
