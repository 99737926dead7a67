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

from typing import Any

import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.precision import cotangent, promote, upcast
from jaxloss._core.reduction import fill, reduce_elements
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
      labels: $y$ in [0, 1], soft or hard, any real or boolean dtype; broadcast to the shape of the logits.
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
    logits = checks.floating(fn, "logits", logits)
    labels = checks.array(fn, "labels", labels)
    checks.in_range(fn, "label_smoothing", label_smoothing, 0, 1)
    if where is not None:
        where = checks.align(fn, "where", checks.mask(fn, "where", where), logits.shape, "logits")

    def aligned(arg: str, value: Any) -> Array:
        return checks.align(fn, arg, checks.number(fn, arg, value), logits.shape, "logits")

    def rule(x: Array, y: Array, pos_weight: Array | None, smoothing: Array, where: Array | None) -> Array:
        def given(value: Array) -> Array:  # in float32, as XLA:CPU does not fuse a select of half precision
            return fill(where, jnp.broadcast_to(upcast(value), x.shape))

        return _cross_entropy(given(x), given(y), None if pos_weight is None else given(pos_weight), smoothing)

    pos_weight = None if pos_weight is None else aligned("pos_weight", pos_weight)
    operands = logits, aligned("labels", labels), pos_weight, jnp.asarray(label_smoothing, jnp.float32), where
    return reduce_elements(rule, operands, where=where, weights=weights, reduction=reduction, fn=fn)


@custom_vjp
def _cross_entropy(x: Array, y: Array, pos_weight: Array | None, smoothing: Array) -> Array:
    x, positive, negative, _ = _parts(x, y, pos_weight, smoothing)
    return _times(positive, stable.fused_softplus(-x)) + _times(negative, stable.fused_softplus(x))


def _parts(x: Array, y: Array, pos_weight: Array | None, smoothing: Array) -> tuple[Array, Array, Array, Array]:
    """Logits, and the weights of the two classes, and the weight of a positive, in the dtype of the computation."""
    x, y, smoothing, pos = promote(x, y, smoothing, jnp.ones((), jnp.float32) if pos_weight is None else pos_weight)
    y = (1 - smoothing) * y + smoothing / 2
    return x, pos * y, 1 - y, pos


def _times(weight: Array, value: Array) -> Array:
    """weight * value, with 0 * inf = 0: a class of weight zero does not count, however far its logit is off."""
    return jnp.where(weight == 0, 0, weight * jnp.where(weight == 0, 0, value))


def _cross_entropy_fwd(
    x: Array, y: Array, pos_weight: Array | None, smoothing: Array
) -> tuple[Array, tuple[Array, Array, Array | None, Array]]:
    return _cross_entropy(x, y, pos_weight, smoothing), (x, y, pos_weight, smoothing)


def _cross_entropy_bwd(residuals: tuple[Array, Array, Array | None, Array], g: Array) -> tuple[Array | None, ...]:
    # Why a rule: autodiff saves float32 intermediates of every branch and meets 0 * inf at an infinite logit. Here the
    # inputs themselves are kept, and sigmoid(x) - y is the difference of two products that do not cancel.
    x, y, pos_weight, smoothing = residuals
    z, positive, negative, pos = _parts(x, y, pos_weight, smoothing)
    yes, no = stable.sigmoids(z)
    slope = negative * yes - positive * no
    # An infinite logit counts as the largest one, so that a cotangent of 0 stays 0.
    largest = jnp.finfo(z.dtype).max
    positive_cost = jnp.minimum(stable.fused_softplus(-z), largest)
    to_label = _cost_of_a_label(jnp.clip(z, -largest, largest), pos, positive_cost)
    (label,) = promote(y)
    alpha = smoothing.astype(z.dtype)
    return (
        cotangent(g * slope, x),
        cotangent(g * (1 - alpha) * to_label, y),
        None if pos_weight is None else cotangent(g * ((1 - alpha) * label + alpha / 2) * positive_cost, pos_weight),
        cotangent(jnp.sum(g * (0.5 - label.astype(z.dtype)) * to_label), smoothing),
    )


def _cost_of_a_label(z: Array, pos: Array, positive_cost: Array) -> Array:
    """p softplus(-z) - softplus(z) = (p - 1) softplus(-z) - z: exactly -z for p = 1, where the difference cancels."""
    return jnp.where(
        (z < 0) & (pos < 0.5), pos * positive_cost - stable.fused_softplus(z), (pos - 1) * positive_cost - z
    )


_cross_entropy.defvjp(_cross_entropy_fwd, _cross_entropy_bwd)
