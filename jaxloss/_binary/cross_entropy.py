"""Binary and multi-label losses, on logits.

>>> import jax, jax.numpy as jnp
>>> logits, labels = jnp.array([2.0, -1.0, jnp.nan]), jnp.array([1, 1, 0])
>>> keep = jnp.array([True, True, False])
>>> print(sigmoid_binary_cross_entropy(logits, labels, where=keep).round(4))
[0.1269 1.3133 0.    ]
>>> print(jax.grad(lambda x: sigmoid_binary_cross_entropy(x, labels, where=keep, reduction="mean"))(logits).round(4))
[-0.0596 -0.3655  0.    ]
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.elements import elementwise, with_slopes
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction


@loss()
def sigmoid_binary_cross_entropy(
    logits: Float[ArrayLike, "*shape"],
    labels: Num[ArrayLike, "..."],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    pos_weight: Num[ArrayLike, "..."] | None = None,
    label_smoothing: float | Array = 0.0,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Binary cross-entropy from logits, for each element: $-p\,y\log\sigma(x) - (1-y)\log\sigma(-x)$.

    $\sigma$ is the logistic function, $p$ the `pos_weight` (1 unless given) and $y$ the smoothed label
    $(1-\alpha)y + \alpha/2$. Both terms are non-negative, nothing cancels: a confident decision keeps all its digits,
    and an infinite logit that agrees with its label costs 0.

    Args:
      logits: raw scores $x$, any shape; one independent decision each.
      labels: $y$ in [0, 1], soft or hard, any real or boolean dtype; broadcast to the shape of the logits. At an
        infinite logit the gradient is as large as a finite number is, so that a cotangent of 0 stays 0.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      pos_weight: weight of the positive class, broadcast likewise (`[classes]` for multi-label); above 1 it trades
        precision for recall.
      label_smoothing: $\alpha$ in [0, 1], towards one half.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the logits, or a scalar; at least float32.

    Raises:
      TypeError: logits are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the logits, or an option is out of its range.

    Reference: Goodfellow, Bengio, Courville, "Deep Learning" (2016), section 6.2.2.2.

    >>> print(sigmoid_binary_cross_entropy(jnp.array([0.0, 50.0]), jnp.array([1, 1]))[1] < 2e-22)
    True
    """
    fn = "sigmoid_binary_cross_entropy"
    smoothing = checks.in_range(fn, "label_smoothing", label_smoothing, 0, 1)
    operands = {"logits": logits, "labels": labels, "pos_weight": pos_weight, "label_smoothing": smoothing}
    return elementwise(fn, cross_entropy, where, weights, reduction, **operands)


@with_slopes
def cross_entropy(
    x: Array, y: Array, pos_weight: Array | None, smoothing: Array
) -> tuple[Array, tuple[Array, Array, Array | None, Array]]:
    p = jnp.ones((), x.dtype) if pos_weight is None else pos_weight
    label, negative = smoothed(y, smoothing)
    positive = p * label
    losses = stable.times(positive, stable.fused_softplus(-x)) + stable.times(negative, stable.fused_softplus(x))
    # sigmoid(x) - y as the difference of two products that do not cancel.
    yes, no = stable.sigmoids(x)
    slope = negative * yes - positive * no
    # An infinite logit counts as the largest one, so that a cotangent of 0 stays 0.
    largest = jnp.finfo(x.dtype).max
    cost = jnp.minimum(stable.fused_softplus(-x), largest)
    to_label = _cost_of_a_label(jnp.clip(x, -largest, largest), p, cost)
    to_pos_weight = None if pos_weight is None else label * cost
    return losses, (slope, (1 - smoothing) * to_label, to_pos_weight, (0.5 - y) * to_label)


def smoothed(y: Array, smoothing: Array) -> tuple[Array, Array]:
    """The label and 1 minus it, both with all digits where the label is hard."""
    return (1 - smoothing) * y + smoothing / 2, (1 - smoothing) * (1 - y) + smoothing / 2


def _cost_of_a_label(z: Array, pos: Array, positive_cost: Array) -> Array:
    """p softplus(-z) - softplus(z) = (p - 1) softplus(-z) - z: exactly -z for p = 1, where the difference cancels."""
    return jnp.where(
        (z < 0) & (pos < 0.5), pos * positive_cost - stable.fused_softplus(z), (pos - 1) * positive_cost - z
    )
