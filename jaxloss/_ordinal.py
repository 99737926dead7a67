"""Classes that have an order: one score, and cutpoints between the classes.

>>> import jax, jax.numpy as jnp
>>> scores, labels, cutpoints = jnp.array([0.0, 9.0]), jnp.array([2, 2]), jnp.array([-1.0, 1.0])
>>> print(jax.grad(lambda x: cumulative_link_loss(x, labels, cutpoints, reduction="sum"))(scores))
[-0.73105854 -0.00033535]
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.class_rows import known_classes
from jaxloss._core.precision import compute_dtype
from jaxloss._core.reduction import fill, reduce_elements
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Integer, Num, Reduction


@loss(arrays=3)
def cumulative_link_loss(
    predictions: Float[ArrayLike, "*shape"],
    labels: Integer[ArrayLike, "..."],
    cutpoints: Float[ArrayLike, " classes_less_1"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Ordinal regression with the logistic link: $-\log\bigl(\sigma(\theta_y - x) - \sigma(\theta_{y-1} - x)\bigr)$.

    $P(\text{class} \le k) = \sigma(\theta_k - x)$: the score $x$ moves the probability along the classes, the cutpoints
    $\theta_0 < \dots < \theta_{K-2}$ (with $\pm\infty$ at both ends) say where one class gives way to the next. The
    difference of the two is never formed: the loss is
    $\mathrm{softplus}(\theta_{y-1} - x) + \mathrm{softplus}(x - \theta_y) - \log(1 - e^{\theta_{y-1} - \theta_y})$, of
    which no term is negative.

    Args:
      predictions: scores $x$, any shape.
      labels: class indices $y$, in [0, K), broadcast to the shape of the predictions; outside of it loss and gradient
        are NaN, and `checkify` with `user_checks` reports it.
      cutpoints: $\theta$, `[K - 1]`, increasing; equal ones leave a class no probability (`inf`), and where they
        decrease the loss is NaN. To learn them, add up `jax.nn.softplus` of free numbers.
      where: elements to keep, broadcast likewise, such as `labels >= 0`. What is dropped adds 0 to value and gradient,
        even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32.

    Raises:
      TypeError: predictions or cutpoints are not floating-point, labels not integer or `where` not boolean.
      ValueError: a shape does not broadcast to that of the predictions, or cutpoints are no vector of 1 or more.

    Reference: McCullagh, "Regression Models for Ordinal Data" (1980).

    >>> print(cumulative_link_loss(jnp.zeros(3), jnp.array([0, 1, 2]), jnp.array([-1.0, 1.0])))
    [1.3132617 0.7719369 1.3132617]
    """
    fn = "cumulative_link_loss"
    x, cuts = checks.floating(fn, "predictions", predictions), checks.floating(fn, "cutpoints", cutpoints)
    if cuts.ndim != 1 or cuts.size == 0:
        raise ValueError(f"{fn}: cutpoints must be [classes - 1], at least one, got the shape {cuts.shape}")
    y = checks.align(fn, "labels", checks.labels(fn, "labels", labels), x.shape, "predictions")
    keep = None
    if where is not None:
        keep = checks.align(fn, "where", checks.mask(fn, "where", where), x.shape, "predictions")
    y = known_classes(fn, fill(keep, y, 0), cuts.size + 1)
    dtype = compute_dtype(x, cuts)

    def rule(x: Array, y: Array, keep: Array | None, *cuts: Array) -> Array:
        x = fill(keep, x.astype(dtype))
        y = fill(keep, jnp.broadcast_to(y, x.shape))
        return _link(x, y, tuple(c.astype(dtype) for c in cuts))

    common: dict[str, Any] = {"where": keep, "weights": weights, "reduction": reduction, "fn": fn}
    return reduce_elements(rule, (x, y, keep, *cuts), **common)


class _Ends:
    """The two ends of the class of each label; those of the first and the last class are open."""

    def __init__(self, x: Array, label: Array, cuts: tuple[Array, ...]) -> None:
        label = label.astype(jnp.int32)
        self.label, self.last = label, len(cuts)
        self.valid = jnp.where((label >= 0) & (label <= self.last), jnp.ones((), x.dtype), jnp.nan)
        self.has_low, self.has_high = label > 0, label < self.last
        low = high = jnp.zeros((), x.dtype)
        for k, cut in enumerate(cuts):  # by comparison; a gather would have a scatter for its derivative
            low, high = jnp.where(label == k + 1, cut, low), jnp.where(label == k, cut, high)
        self.above, self.below, self.width = low - x, x - high, high - low
        self.has_both = self.has_low & self.has_high


@custom_vjp
def _link(x: Array, label: Array, cuts: tuple[Array, ...]) -> Array:
    ends = _Ends(x, label, cuts)
    lost = jnp.where(ends.has_both, -stable.log1mexp(jnp.where(ends.has_both, ends.width, 1)), 0)
    low = jnp.where(ends.has_low, stable.fused_softplus(ends.above), 0)
    return ends.valid * (low + jnp.where(ends.has_high, stable.fused_softplus(ends.below), 0) + lost)


def _link_fwd(x: Array, label: Array, cuts: tuple[Array, ...]) -> tuple[Array, Any]:
    return _link(x, label, cuts), (x, label, cuts)


def _slopes(x: Array, label: Array, cuts: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    """By the score, by the lower end and by the upper end."""
    ends = _Ends(x, label, cuts)
    low = jnp.where(ends.has_low, stable.sigmoids(ends.above)[0], 0)
    high = jnp.where(ends.has_high, stable.sigmoids(ends.below)[0], 0)
    apart = jnp.where(ends.has_both, 1 / jnp.expm1(jnp.where(ends.has_both, ends.width, 1)), 0)
    return ends.valid * (high - low), ends.valid * (low + apart), -ends.valid * (high + apart)


def _link_bwd(residuals: Any, g: Array) -> tuple[Array, None, tuple[Array, ...]]:
    # Why a rule: the derivative of a logarithm of a difference is a quotient of two that vanish together.
    x, label, cuts = residuals

    def terms(flat: Any) -> tuple[Array, ...]:
        x, g, label, cuts = flat
        _, by_low, by_high = _slopes(x, label, cuts)
        sides = [(label == k + 1, label == k) for k in range(len(cuts))]
        return tuple(g * (jnp.where(low, by_low, 0) + jnp.where(high, by_high, 0)) for low, high in sides)

    to_cuts = stable.row_sums((x.reshape(-1), g.reshape(-1), label.reshape(-1), cuts), 0, terms)
    return g * _slopes(x, label, cuts)[0], None, to_cuts


_link.defvjp(_link_fwd, _link_bwd)
