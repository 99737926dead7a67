"""The entmax loss, between softmax cross-entropy and the sparsemax loss.

>>> import jax, jax.numpy as jnp
>>> scores = jnp.array([[1.0, 0.5, -3.0]])
>>> gradient = jax.grad(lambda s: entmax_loss(s, jnp.array([0]), reduction="sum"))(scores)
>>> print(*(f"{v:.3f}" for v in gradient[0]))
-0.326 0.326 0.000
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.class_rows import Rows
from jaxloss._core.precision import cotangent
from jaxloss._core.reduction import fill
from jaxloss._core.softmax import Scores
from jaxloss._core.softmax import scores as scores_of
from jaxloss._core.tempered import bregman, distribution
from jaxloss._core.tracing import traced_once
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Integer, Num, Reduction
from jaxloss._margin.classes import of_rows


@loss()
def entmax_loss(
    scores: Float[ArrayLike, "*shape"],
    labels: Integer[ArrayLike, "..."],
    *,
    alpha: float = 1.5,
    axis: Axis = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Entmax loss: $(p - e_y) \cdot s + \frac{1 - \sum_k p_k^\alpha}{\alpha(\alpha-1)}$ for each row, with derivative
    $p - e_y$.

    $p_k = \max(0,\, (\alpha-1)s_k - \tau)^{1/(\alpha-1)}$ is $\alpha$-entmax of the scores, exactly 0 for classes far
    behind, $\tau$ such that they add up to 1, and $e_y$ the label's. $\alpha = 1$ is softmax cross-entropy,
    $\alpha = 2$ the sparsemax loss. $\tau$ is found by Newton's method, after bisection where $\alpha \ne 3/2$. No term
    cancels: small losses keep their digits, and the loss is 0 where the label is ahead by $1/(\alpha-1)$. In other
    words: the Fenchel-Young loss of Tsallis' entropy.

    In float32, probabilities and derivative are right to about $10^{-7}$, compared with exact ones for $\alpha$ up to
    20. For $\alpha > 2$ probabilities end with an infinite slope: of several classes within a rounding of that end it
    is what they have together that is right, how they share it is up to the last bit of the scores, and second
    derivatives are as large as that slope.

    Args:
      scores: $s$, any shape; `-inf` rules a class out; a row of only `-inf` gives NaN.
      labels: $y$, class indices in [0, classes), of the shape of the scores without `axis`. An index out of range gives
        NaN in value and gradient, and is reported by `checkify` with `user_checks`.
      alpha: $\alpha \ge 1$, a Python number.
      axis: the axis of the classes, or a tuple of several.
      where: rows to keep, of the shape of the result, or else classes to keep, broadcast to the scores. What is dropped
        adds 0 to value and gradient, even if NaN; a label that is a dropped class costs infinity.
      weights: multiply the losses, broadcast to their shape.
      ignore_index: rows with this label are dropped.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the scores without `axis`, or a scalar; at least float32.

    Raises:
      TypeError: scores are not floating-point, labels are not integers, `alpha` is not a Python number, or `where` is
        not boolean.
      ValueError: a shape does not broadcast to that of the scores, there are no classes, or an option is out of its
        range.

    Reference: Peters, Niculae, Martins, "Sparse Sequence-to-Sequence Models" (2019).

    >>> losses = entmax_loss(jnp.array([[2.0, 1.5, 0.0], [0.0, 1.0, 4.0]]), jnp.array([0, 1]))
    >>> print(*(f"{v:.3f}" for v in losses))
    0.184 3.000
    """
    fn = "entmax_loss"
    checks.python_number(fn, "alpha", alpha)
    if not 1 <= alpha < jnp.inf:
        raise ValueError(f"{fn}: alpha must be in [1, inf), got {alpha}")
    if alpha == 1:
        rows = Rows(fn, "scores", scores, axis, where)
        return rows.cross_entropy(rows.labels(labels, ignore_index), weights=weights, reduction=reduction)
    rule = functools.partial(_entmax, float(alpha))
    return of_rows(fn, rule, scores, labels, axis, where, weights, ignore_index, reduction)


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _entmax(alpha: float, x: Array, y: Array, mask: Array | None) -> Array:
    return _entmax_fwd(alpha, x, y, mask)[0]


@functools.partial(traced_once, static_argnums=0)
def _entmax_fwd(alpha: float, x: Array, y: Array, mask: Array | None) -> tuple[Array, Any]:
    s, label = scores_of(Scores(x, mask), -1), stable.is_label(x, y, -1)
    found, shift = distribution(s, 2 - alpha)
    terms = bregman(label.astype(s.dtype), found.p, found.q, 2 - alpha)
    losses = jnp.sum(terms, -1) + jnp.sum(jnp.where(label, found.behind, 0), -1)
    return losses, (x, y, mask, shift)


def _entmax_bwd(alpha: float, residuals: Any, g: Array) -> tuple[Array | None, None, None]:
    # Why a rule: autodiff goes back through the search for the threshold. The derivative is p - e_y, for which one
    # or two numbers of each row are kept.
    x, y, mask, shift = residuals
    found, _ = distribution(scores_of(Scores(x, mask), -1), 2 - alpha, shift)
    slope = g[..., None] * jnp.where(stable.is_label(x, y, -1), -found.q, found.p)
    return cotangent(fill(mask, slope), x), None, None


_entmax.defvjp(_entmax_fwd, _entmax_bwd)
