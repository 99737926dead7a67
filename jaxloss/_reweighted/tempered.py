"""The bi-tempered logistic loss.

>>> import jax.numpy as jnp
>>> wrong = jnp.array([[0.0, 10.0], [0.0, 1000.0]])  # costs at most 1 / ((1 - t1) (2 - t1))
>>> print(bi_tempered_logistic_loss(wrong, jnp.array([0, 0])))
[1.5943108 3.043757 ]
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp

from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.class_rows import Rows
from jaxloss._core.precision import cotangent, upcast
from jaxloss._core.reduction import fill
from jaxloss._core.tempered import bregman, distribution, to_power
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction


@loss()
def bi_tempered_logistic_loss(
    logits: Float[ArrayLike, "*shape"],
    labels: Num[ArrayLike, "..."],
    *,
    t1: float = 0.8,
    t2: float = 1.2,
    label_smoothing: float = 0.0,
    axis: Axis = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Bi-tempered logistic loss: $\sum_k y_k(\log_{t_1} y_k - \log_{t_1} p_k) - \frac{y_k^a - p_k^a}{a}$, $a = 2-t_1$.

    $p_k = \exp_{t_2}(x_k - \lambda)$ is the tempered softmax, $\lambda$ such that it adds up to 1, with
    $\exp_t(x) = \max(0, 1 + (1-t)x)^{1/(1-t)}$ and its inverse $\log_t(x) = (x^{1-t} - 1)/(1-t)$. $t_1 < 1$ bounds the
    loss of labels that are wrong by far, $t_2 > 1$ gives classes far behind more than an exponential would;
    $t_1 = t_2 = 1$ is softmax cross-entropy less the entropy of the labels. No term cancels: small losses keep their
    digits. $\lambda$ is found by Newton's method (for $t_2 < 1$ after bisection), and its derivative is that of the
    equation it solves.

    Args:
      logits: $x$, any shape; `-inf` rules a class out.
      labels: class indices in [0, classes), of the shape of the logits without `axis` (out of range: NaN in value and
        gradient, reported by `checkify` with `user_checks`); or distributions $y$ of the shape of the logits, floating
        or integer, which have no gradient.
      t1: $t_1$ in [0, 1], a Python number.
      t2: $t_2$ in [0, 4], a Python number.
      label_smoothing: $\alpha$ in [0, 1], a Python number: labels become $(1-\alpha)\,y_k + \alpha/K$. The authors'
        code spreads it over the other classes: theirs is $\frac{K-1}{K}$ times this one.
      axis: the axis of the classes, or a tuple of several.
      where: rows to keep, of the shape of the result, or else classes to keep, broadcast to the logits. What is dropped
        adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast to their shape.
      ignore_index: rows with this label are dropped.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the logits without `axis`, or a scalar; at least float32. `inf` for $t_1 = 1$ where a class that is
        in the labels has probability 0.

    Raises:
      TypeError: logits are not floating-point, a temperature is not a Python number, `where` is not boolean, or labels
        are differentiated.
      ValueError: a shape does not fit the logits, there are no classes, or an option is out of its range.

    Reference: Amid, Warmuth, Anil, Koren, "Robust Bi-Tempered Logistic Loss Based on Bregman Divergences" (2019).

    >>> print(bi_tempered_logistic_loss(jnp.array([[2.0, 0.0], [0.0, 2.0]]), jnp.array([0, 0])))
    [0.03053187 0.68896174]
    """
    fn = "bi_tempered_logistic_loss"
    for name, value, most in (("t1", t1, 1), ("t2", t2, 4), ("label_smoothing", label_smoothing, 1)):
        if not checks.static_number(value):
            raise TypeError(f"{fn}: {name} must be a Python number, got {type(value).__name__}")
        checks.in_range(fn, name, value, 0, most)
    rows = Rows(fn, "logits", logits, axis, where)
    y = _distributions(rows, labels, ignore_index)

    def last(x: Array) -> Array:
        return jnp.moveaxis(x, rows.axis, -1)

    x = last(fill(None if rows.keep is None else jnp.expand_dims(rows.keep, rows.axis), rows.logits))
    mask = None if rows.mask is None else last(rows.mask | ~jnp.expand_dims(rows.keep, rows.axis))
    if label_smoothing:
        y = (1 - label_smoothing) * y + label_smoothing / jnp.expand_dims(rows.kept_classes(y.dtype), -1)
    losses = _bi_tempered(float(t1), float(t2), x, fill(mask, y), mask)
    return rows.total(losses, weights, reduction)


def _distributions(rows: Rows, labels: Any, ignore_index: int | None) -> Array:
    """Classes last; NaN for an index that is no class."""
    given = checks.number(rows.fn, "labels", labels)
    dtype = upcast(rows.logits).dtype
    if given.ndim == len(rows.shape):
        if ignore_index is not None:
            raise ValueError(f"{rows.fn}: ignore_index needs labels that are class indices; use where")
        t = checks.no_gradient(rows.fn, "labels", rows.distribution(given))
        return jnp.moveaxis(t, rows.axis, -1).astype(dtype)
    y = rows.labels(given, ignore_index)
    classes = jnp.arange(rows.classes, dtype=y.dtype).reshape((1,) * y.ndim + (-1,))
    valid = ((y >= 0) & (y < rows.classes))[..., None]
    return jnp.where(valid, (classes == y[..., None]).astype(dtype), jnp.nan)


@functools.partial(custom_vjp, nondiff_argnums=(0, 1))
def _bi_tempered(t1: float, t2: float, x: Array, y: Array, mask: Array | None) -> Array:
    return _bi_tempered_fwd(t1, t2, x, y, mask)[0]


def _kept(x: Array, mask: Array | None) -> Array:
    return upcast(x) if mask is None else jnp.where(mask, upcast(x), -jnp.inf)


def _bi_tempered_fwd(t1: float, t2: float, x: Array, y: Array, mask: Array | None) -> tuple[Array, Any]:
    found, shift = distribution(_kept(x, mask), t2)
    return jnp.sum(bregman(y, found.p, found.q, t1), -1), (x, y, mask, shift)


def _bi_tempered_bwd(t1: float, t2: float, residuals: Any, g: Array) -> tuple[Array | None, Array, None]:
    # Why a rule: autodiff goes back through the search for lambda. One number of each row is kept instead.
    x, y, mask, shift = residuals
    found, _ = distribution(_kept(x, mask), t2, shift)
    p, q = found.p, found.q
    over = jnp.where(p > 0.5, (1 - y) - q, p - y)
    pull, share = to_power(p, t2 - t1) * over, to_power(p, t2)
    share = share / jnp.sum(share, -1, keepdims=True)
    slope = pull - share * jnp.sum(pull, -1, keepdims=True)
    # What the class on top gets is the rest: its own pull and its share of it nearly cancel.
    others = jnp.sum(jnp.where(found.is_top, 0, slope), -1, keepdims=True)
    slope = jnp.where(found.is_top, -others, slope)
    return cotangent(fill(mask, g[..., None] * slope), x), jnp.zeros_like(y), None


_bi_tempered.defvjp(_bi_tempered_fwd, _bi_tempered_bwd)
