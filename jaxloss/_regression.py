"""Regression losses, and sums of losses over unlike components or tasks.

>>> import jax, jax.numpy as jnp
>>> y_hat, y = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[1.0, 0.0], [0.0, 4.0]])
>>> print(l2_loss(y_hat, y, reduction="sum"))
6.5
>>> print(l2_loss(y_hat, y, where=jnp.array([[True, True], [False, True]]), reduction="sum"))
2.0
>>> print(jax.grad(lambda p: l2_loss(p, y, reduction="sum"))(y_hat))
[[0. 2.]
 [3. 0.]]
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.precision import cotangent, promote, upcast
from jaxloss._core.reduction import fill, reduce
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
    return _quadratic("squared_error", 1.0, predictions, targets, where, weights, reduction)


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
    return _quadratic("l2_loss", 0.5, predictions, targets, where, weights, reduction)


def _quadratic(
    fn: str, factor: float, predictions: Any, targets: Any, where: Any, weights: Any, reduction: str
) -> Array:
    predictions = checks.floating(fn, "predictions", predictions)
    targets = jnp.zeros((), predictions.dtype) if targets is None else checks.array(fn, "targets", targets)
    if where is not None:
        where = checks.align(fn, "where", checks.mask(fn, "where", where), predictions.shape, "predictions")

    def losses(x: Array, y: Array, where: Array | None) -> Array:
        y = checks.broadcast(fn, "targets", checks.number(fn, "targets", y), x.shape, "predictions")
        return _scaled_square(factor, fill(where, x), fill(where, y))

    # What is kept for the backward pass are the arguments as they came, not broadcast, filled or converted. In half
    # precision they are also read again, or XLA keeps their difference in float32 (bytes accessed: 9 times
    # the predictions instead of 5).
    again = predictions.dtype.itemsize < 4
    values = jax.checkpoint(losses, prevent_cse=again)(predictions, targets, where)
    return reduce(values, where=where, weights=weights, reduction=reduction, fn=fn)


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _scaled_square(factor: float, x: Array, y: Array) -> Array:
    return factor * jnp.square(_difference(x, y))


def _difference(x: Array, y: Array) -> Array:
    x, y = promote(x, y)
    return x - y


def _scaled_square_fwd(factor: float, x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    return _scaled_square(factor, x, y), (x, y)


def _scaled_square_bwd(factor: float, residuals: tuple[Array, Array], g: Array) -> tuple[Array | None, ...]:
    # Why a rule: autodiff saves the difference in float32, twice the size of bfloat16 predictions; the two inputs are
    # already in memory. The half factor makes the derivative the difference itself.
    x, y = residuals
    slope = g * (2 * factor) * _difference(x, y)
    return cotangent(slope, x), cotangent(-slope, y)


_scaled_square.defvjp(_scaled_square_fwd, _scaled_square_bwd)


@loss()
def weighted_sum(losses: Any, weights: Any) -> Float[Array, ""]:
    r"""Weighted sum of unlike losses or tasks: $\sum_k w_k L_k$ over the leaves of two matching pytrees.

    Args:
      losses: pytree of losses, scalars or arrays; an array counts with all its elements.
      weights: pytree of the same structure; each leaf broadcasts to the loss beside it.

    Returns:
      A scalar; at least float32.

    Raises:
      TypeError: a loss is not floating-point.
      ValueError: the structures differ, or a weight does not broadcast to its loss.

    Reference: Caruana, "Multitask Learning" (1997), section 2.

    >>> print(weighted_sum({"box": jnp.float32(2.0), "class": jnp.float32(3.0)}, {"box": 0.5, "class": 2.0}))
    7.0
    """
    return _tree_total("weighted_sum", "weights", lambda loss, w: w * loss, losses, weights)


@loss()
def uncertainty_weighted_sum(losses: Any, log_variances: Any) -> Float[Array, ""]:
    r"""Sum of tasks weighted by learned uncertainties: $\sum_k e^{-s_k} L_k + \frac12 s_k$ with $s_k = \log\sigma_k^2$.

    For `l2_loss` this is the Gaussian negative log-likelihood with variance $e^{s_k}$, up to a constant; for a
    cross-entropy, its usual approximation with logits divided by $\sigma_k^2$. Train the log-variances with the model,
    from zeros: at the optimum $e^{s_k} = 2 L_k$, so that unlike units weigh alike.

    Args:
      losses: pytree of losses, scalars or arrays; each element of an array adds its own $\frac12 s$.
      log_variances: pytree of the same structure; each leaf broadcasts to the loss beside it.

    Returns:
      A scalar; at least float32. It may be negative.

    Raises:
      TypeError: a loss is not floating-point.
      ValueError: the structures differ, or a log-variance does not broadcast to its loss.

    Reference: Kendall, Gal, Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses" (2018).

    >>> print(uncertainty_weighted_sum([jnp.float32(2.0), jnp.float32(3.0)], [jnp.float32(0.0), jnp.float32(0.0)]))
    5.0
    """
    return _tree_total(
        "uncertainty_weighted_sum", "log_variances", lambda loss, s: jnp.exp(-s) * loss + 0.5 * s, losses, log_variances
    )


def _tree_total(fn: str, arg: str, combine: Callable[[Array, Array], Array], losses: Any, factors: Any) -> Array:
    given, want = jax.tree.structure(factors), jax.tree.structure(losses)
    if given != want:
        raise ValueError(f"{fn}: {arg} must have the structure of losses, {want}, got {given}")
    total = jnp.zeros((), jnp.float32)
    for (path, loss_), factor in zip(jax.tree.leaves_with_path(losses), jax.tree.leaves(factors), strict=True):
        name = jax.tree_util.keystr(path)
        value, factor = checks.floating(fn, f"losses{name}", loss_), checks.number(fn, f"{arg}{name}", factor)
        checks.broadcast(fn, f"{arg}{name}", factor, value.shape, f"losses{name}")
        # Keeps both as they came; the product alone would keep them broadcast and in float32.
        task = jax.checkpoint(functools.partial(_task, combine), prevent_cse=False)(value, factor)
        total, task = promote(total, task)
        total = total + task
    return total


def _task(combine: Callable[[Array, Array], Array], loss_: Array, factor: Array) -> Array:
    value = upcast(loss_)
    return jnp.sum(combine(value, jnp.broadcast_to(factor.astype(value.dtype), value.shape)))
