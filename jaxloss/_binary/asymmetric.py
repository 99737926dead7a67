"""Multi-label losses: many independent decisions of one example, most of them negative."""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxloss._binary.cross_entropy import smoothed
from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.elements import elementwise, with_slopes
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction


@loss()
def asymmetric_loss(
    logits: Float[ArrayLike, "*shape"],
    labels: Num[ArrayLike, "..."],
    *,
    gamma_pos: float | Array = 0.0,
    gamma_neg: float | Array = 4.0,
    margin: float | Array = 0.05,
    label_smoothing: float | Array = 0.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Asymmetric loss, for each element: $-y(1-p)^{\gamma_+}\log p - (1-y)\,p_m^{\gamma_-}\log(1 - p_m)$.

    $p = \sigma(x)$, and $p_m = \max(0, p - m)$: a negative decision with $p \le m$ costs nothing, so that the many easy
    ones do not drown the few positive ones. As in the paper, and unlike in its authors' code, gradients go through the
    weights $(1-p)^{\gamma_+}$ and $p_m^{\gamma_-}$ too. With all three options 0 it is `sigmoid_binary_cross_entropy`.

    Args:
      logits: raw scores $x$, any shape; one independent decision each.
      labels: $y$ in [0, 1], soft or hard, any real or boolean dtype; broadcast to the shape of the logits.
      gamma_pos: $\gamma_+ \ge 0$, a number or broadcast likewise.
      gamma_neg: $\gamma_- \ge 0$, likewise.
      margin: $m$ in [0, 1), likewise.
      label_smoothing: $s$ in [0, 1]: $y$ becomes $(1-s)y + s/2$.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the logits, or a scalar; at least float32.

    Raises:
      TypeError: logits are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the logits, or an option is out of its range.

    Reference: Ridnik et al., "Asymmetric Loss For Multi-Label Classification" (2021).

    >>> print(asymmetric_loss(jnp.array([0.0, 2.0, -4.0]), jnp.array([1, 0, 0])))
    [0.6931472  0.84641474 0.        ]
    """
    fn = "asymmetric_loss"
    checks.in_range(fn, "gamma_pos", gamma_pos, 0, math.inf, open_high=True)
    checks.in_range(fn, "gamma_neg", gamma_neg, 0, math.inf, open_high=True)
    checks.in_range(fn, "margin", margin, 0, 1, open_high=True)
    smoothing = checks.in_range(fn, "label_smoothing", label_smoothing, 0, 1)
    options = {"gamma_pos": gamma_pos, "gamma_neg": gamma_neg, "margin": margin, "label_smoothing": smoothing}
    return elementwise(fn, _asymmetric, where, weights, reduction, logits=logits, labels=labels, **options)


@with_slopes
def _asymmetric(
    x: Array, label: Array, gamma_pos: Array, gamma_neg: Array, margin: Array, smoothing: Array
) -> tuple[Array, tuple[Array, ...]]:
    y, no = smoothed(label, smoothing)
    size = jnp.minimum(jnp.abs(x), jnp.finfo(x.dtype).max)  # finite, so that 0 times it is 0
    e = stable.used_often(stable.exp_down(-size), -1)
    large = stable.used_often(1 / (1 + e), 0.25)
    small, near, yes = e * large, e * stable.log1p_ratios(e)[0], x >= 0
    p, q = jnp.where(yes, large, small), jnp.where(yes, small, large)
    log_p, log_q = near + jnp.where(yes, 0, size), near + jnp.where(yes, size, 0)  # of -log
    by_wrong = stable.power(q, gamma_pos)
    positive = by_wrong * log_p

    # p_m and 1 - p_m from numerators that lose no digit of e
    shifted = large * jnp.maximum(jnp.where(yes, (1 - margin) - margin * e, (1 - margin) * e - margin), 0)
    room = large * jnp.where(yes, e + margin * (1 + e), 1 + margin * (1 + e))
    counts, close, plain = shifted > 0, shifted < 0.5, margin == 0
    ratio = stable.log1p_ratios(-jnp.where(close, shifted, 0))[0]
    far = jnp.where(plain, log_q, -jnp.log(jnp.where(close | plain, 1, room)))
    ratio = jnp.where(close, ratio, far / jnp.where(close, 1, shifted))  # of -log(1 - p_m) to p_m
    by_shift = jnp.where(counts, stable.power(shifted, gamma_neg), 0)
    negative = by_shift * shifted * ratio
    losses = stable.times(y, jnp.where(x == -jnp.inf, by_wrong * jnp.inf, positive))
    losses = losses + stable.times(no, jnp.where((x == jnp.inf) & plain, jnp.inf, negative))

    free = jnp.where(plain, p, p * (q / jnp.where(plain, 1, room)))  # p q / (1 - p_m)
    grow = by_shift * (gamma_neg * (ratio * (p * q)) + free)
    slope = no * grow - y * by_wrong * (gamma_pos * p * log_p + q)
    by_neg = no * negative * jnp.log(jnp.where(counts, shifted, 1))
    steep = gamma_neg * jnp.minimum(ratio, 1e30) + 1 / jnp.maximum(room, jnp.finfo(x.dtype).tiny)
    by_label, by_pos = positive - negative, -y * positive * log_q
    by_smoothing = (0.5 - label) * by_label
    return losses, (slope, (1 - smoothing) * by_label, by_pos, by_neg, -no * by_shift * steep, by_smoothing)
