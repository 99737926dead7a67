"""The bi-tempered logistic loss.

>>> import jax.numpy as jnp
>>> wrong = jnp.array([[0.0, 10.0], [0.0, 1000.0]])  # costs at most 1 / (1 - t1)
>>> print(*(f"{v:.3f}" for v in bi_tempered_logistic_loss(wrong, jnp.array([0, 0]))))
3.331 4.975
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.class_rows import Rows, one_hot
from jaxloss._core.precision import cotangent
from jaxloss._core.reduction import fill
from jaxloss._core.softmax import Scores
from jaxloss._core.softmax import scores as scores_of
from jaxloss._core.tempered import bregman, distribution, to_power
from jaxloss._core.tracing import traced_once
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
      logits: $x$, any shape; `-inf` rules a class out; a row of only `-inf` gives NaN.
      labels: class indices in [0, classes), of the shape of the logits without `axis` (out of range: NaN in value and
        gradient, reported by `checkify` with `user_checks`); or floating distributions $y$ with as many dimensions as
        the logits, which have no gradient.
      t1: $t_1$ in [0, 1], a Python number.
      t2: $t_2$ in [0, 4], a Python number.
      label_smoothing: $\alpha$ in [0, 1], a Python number: labels become $(1-\alpha)\,y_k + \alpha/K$. The authors'
        code spreads it over the other classes: theirs is $\frac{K-1}{K}$ times this one.
      axis: the axis of the classes, or a tuple of several.
      where: rows to keep, of the shape of the result, or else classes to keep, broadcast to the logits. What is dropped
        adds 0 to value and gradient, even if NaN; a label that is a dropped class costs what a logit of `-inf` does.
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

    >>> losses = bi_tempered_logistic_loss(jnp.array([[2.0, 0.0], [0.0, 2.0]]), jnp.array([0, 0]))
    >>> print(*(f"{v:.3f}" for v in losses))
    0.110 1.453
    """
    fn = "bi_tempered_logistic_loss"
    for name, value, most in (("t1", t1, 1), ("t2", t2, 4), ("label_smoothing", label_smoothing, 1)):
        checks.python_number(fn, name, value)
        checks.in_range(fn, name, value, 0, most)
    rows = Rows(fn, "logits", logits, axis, where)
    y = rows.target(labels, ignore_index)
    if not jnp.issubdtype(y.dtype, jnp.integer):
        y = jnp.moveaxis(checks.no_gradient(fn, "labels", y), rows.axis, -1)
    x, mask = rows.last()
    how = _How(float(t1), float(t2), float(label_smoothing))
    losses = _bi_tempered(how, x, y, mask)
    return rows.total(losses, weights, reduction)


class _How(NamedTuple):
    t1: float
    t2: float
    smoothing: float


def _distributions(how: _How, p: Array, y: Array, mask: Array | None) -> Array:
    y = y.astype(p.dtype) if y.ndim == p.ndim else one_hot(y, p)
    if mask is not None:  # a label that is dropped stays one, of a class that has no probability
        y = fill(mask | (y > 0), y)
    if how.smoothing == 0:
        return y
    kept = p.shape[-1] if mask is None else stable.row_count(mask, -1)[..., None]
    return (1 - how.smoothing) * y + fill(mask, jnp.broadcast_to(how.smoothing / jnp.asarray(kept, p.dtype), y.shape))


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _bi_tempered(how: _How, x: Array, y: Array, mask: Array | None) -> Array:
    return _bi_tempered_fwd(how, x, y, mask)[0]


@functools.partial(traced_once, static_argnums=0)
def _bi_tempered_fwd(how: _How, x: Array, y: Array, mask: Array | None) -> tuple[Array, Any]:
    found, shift = distribution(scores_of(Scores(x, mask), -1), how.t2)
    target = _distributions(how, found.p, y, mask)
    return jnp.sum(bregman(target, found.p, found.q, how.t1), -1), (x, y, mask, shift)


def _bi_tempered_bwd(how: _How, residuals: Any, g: Array) -> tuple[Array | None, None, None]:
    # Why a rule: autodiff goes back through the search for lambda. One or two numbers of each row are kept instead.
    x, y, mask, shift = residuals
    found, _ = distribution(scores_of(Scores(x, mask), -1), how.t2, shift)
    p, q = found.p, found.q
    target = _distributions(how, p, y, mask)
    over = jnp.where(p > 0.5, (1 - target) - q, p - target)
    pull, share = to_power(p, how.t2 - how.t1) * over, to_power(p, how.t2)
    share = share / jnp.sum(share, -1, keepdims=True)
    slope = pull - share * jnp.sum(pull, -1, keepdims=True)
    # What the class on top gets is the rest: its own pull and its share of it nearly cancel.
    others = jnp.sum(jnp.where(found.is_top, 0, slope), -1, keepdims=True)
    slope = jnp.where(found.is_top, -others, slope)
    return cotangent(fill(mask, g[..., None] * slope), x), None, None


_bi_tempered.defvjp(_bi_tempered_fwd, _bi_tempered_bwd)
