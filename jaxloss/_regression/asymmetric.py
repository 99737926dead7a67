"""Losses that weigh errors of one sign more: predictions of quantiles and expectiles."""

from __future__ import annotations

import jax.numpy as jnp

from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.elements import elementwise, with_slopes
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction


@loss()
def quantile_loss(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    quantile: float | tuple[float, ...] | Array = 0.5,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Quantile or pinball loss: $\tau d$ for $d = y - \hat y \ge 0$, $(\tau - 1) d$ below.

    Its mean is least where a share $\tau$ of the targets is below the prediction. The derivative at $d = 0$ is 0. For
    several quantiles give predictions `[*batch, quantiles]`, targets `[*batch, 1]` and a tuple or array of quantiles.

    Args:
      predictions: $\hat y$, any shape.
      targets: $y$, broadcast to the shape of the predictions.
      quantile: $\tau$ in (0, 1), a number, a tuple or an array, broadcast likewise.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, a quantile is not in (0, 1), or an unknown
        reduction.

    Reference: Koenker, Bassett, "Regression Quantiles" (1978).

    >>> print(quantile_loss(jnp.zeros((2, 3)), jnp.array([[1.0], [-1.0]]), quantile=(0.25, 0.5, 0.75)))
    [[0.25 0.5  0.75]
     [0.75 0.5  0.25]]
    """
    checks.in_range("quantile_loss", "quantile", quantile, 0, 1, open_low=True, open_high=True)
    operands = {"predictions": predictions, "targets": targets, "quantile": quantile}
    return elementwise("quantile_loss", _pinball, where, weights, reduction, arithmetic=True, **operands)


@with_slopes
def _pinball(x: Array, y: Array, quantile: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    short = y - x
    # In eighths: -1/2 is one of the constants of the losses.
    slope = jnp.where(short > 0, -8 * quantile, 8 - 8 * quantile) * (jnp.abs(jnp.sign(short)) / 8)
    return jnp.maximum(quantile * short, (quantile - 1) * short), (slope, -slope, short)


@loss()
def expectile_loss(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    expectile: float | tuple[float, ...] | Array = 0.5,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Expectile loss: $\tau d^2$ for $d = y - \hat y \ge 0$, $(1 - \tau) d^2$ below.

    The asymmetric squared error; at $\tau = \frac12$ it is `l2_loss`. For several expectiles give predictions
    `[*batch, expectiles]`, targets `[*batch, 1]` and a tuple or array of expectiles.

    Args:
      predictions: $\hat y$, any shape.
      targets: $y$, broadcast to the shape of the predictions.
      expectile: $\tau$ in (0, 1), a number, a tuple or an array, broadcast likewise.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictions, or a scalar; at least float32.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictions, an expectile is not in (0, 1), or an unknown
        reduction.

    Reference: Newey, Powell, "Asymmetric Least Squares Estimation and Testing" (1987).

    >>> print(expectile_loss(jnp.zeros(2), jnp.array([2.0, -2.0]), expectile=0.75))
    [3. 1.]
    """
    checks.in_range("expectile_loss", "expectile", expectile, 0, 1, open_low=True, open_high=True)
    operands = {"predictions": predictions, "targets": targets, "expectile": expectile}
    return elementwise("expectile_loss", _asymmetric_square, where, weights, reduction, arithmetic=True, **operands)


@with_slopes
def _asymmetric_square(x: Array, y: Array, expectile: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    short = y - x
    slope = jnp.where(short > 0, 2 * expectile, 2 - 2 * expectile) * short
    losses = jnp.maximum(expectile * short, (expectile - 1) * short) * jnp.abs(short)
    return losses, (-slope, slope, jnp.abs(short) * short)
