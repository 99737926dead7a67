"""Squared errors."""

from __future__ import annotations

import jax.numpy as jnp

from jaxloss._core.api import loss
from jaxloss._core.elements import elementwise, with_slopes
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction


@loss()
def squared_error(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."] | None = None,
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Squared error: $(\hat y - y)^2$ for each element; twice `l2_loss`.

    Args:
      predictions: $\hat y$, any shape.
      targets: $y$, broadcast to the shape of the predictions; `None` for zeros.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, or an unknown reduction.

    Reference: Gauss, "Theoria combinationis observationum erroribus minimis obnoxiae" (1823).

    >>> print(squared_error(jnp.array([1.0, 4.0]), jnp.array([1.5, 2.0])))
    [0.25 4.  ]
    """
    y = 0.0 if targets is None else targets
    return elementwise(
        "squared_error",
        _square,
        where,
        weights,
        reduction,
        arithmetic=True,
        light=True,
        predictions=predictions,
        targets=y,
    )


@with_slopes
def _square(x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    error = x - y
    return jnp.square(error), (2 * error, -2 * error)


@loss()
def l2_loss(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."] | None = None,
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Half squared error: $\frac12(\hat y - y)^2$ for each element, with derivative $\hat y - y$.

    With `reduction="sum"` it is $\frac12\sum_i (y_i - \hat y_i)^2$; with `weights` of one entry per component,
    broadcast over the batch, $\frac12\sum_d w_d L_d$.

    Args:
      predictions: $\hat y$, any shape.
      targets: $y$, broadcast to the shape of the predictions; `None` for zeros.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise: `[components]` for unlike units, `[*batch, 1]` for examples.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, or an unknown reduction.

    Reference: Bishop, "Pattern Recognition and Machine Learning" (2006), section 3.1.4.

    >>> print(l2_loss(jnp.array([1.0, 4.0]), jnp.array([1.5, 2.0]), weights=jnp.array([1.0, 10.0]), reduction="sum"))
    20.125
    """
    y = 0.0 if targets is None else targets
    return elementwise(
        "l2_loss",
        _half_square,
        where,
        weights,
        reduction,
        arithmetic=True,
        light=True,
        predictions=predictions,
        targets=y,
    )


@with_slopes
def _half_square(x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    error = x - y
    return 0.5 * jnp.square(error), (error, -error)
