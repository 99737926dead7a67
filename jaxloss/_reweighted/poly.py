"""The cross-entropy of label distributions, and the first term of its expansion once more."""

from __future__ import annotations

from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.class_rows import Rows
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction
from jaxloss._reweighted.mixture import Chance, mixture


@loss()
def poly_loss_cross_entropy(
    logits: Float[ArrayLike, "*batch classes"],
    labels: Num[ArrayLike, "..."],
    *,
    epsilon: float | Array = 2.0,
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    class_weights: Num[ArrayLike, "classes"] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Poly-1 loss: $\sum_k t_k c_k\,\bigl(-\log p_k + \varepsilon\,(1 - p_k)\bigr)$ with $p = \mathrm{softmax}(x)$.

    The cross-entropy is $\sum_j (1-p)^j / j$; $\varepsilon$ adds to the weight of the first term. A positive one
    stresses the examples that are right already, a negative one those that are not; 0 is `softmax_cross_entropy`.

    Args:
      logits: raw scores $x$. `-inf` rules a class out; a row of only `-inf` gives NaN.
      labels: weights $t$ of the classes, any real dtype; broadcast to the shape of the logits.
      epsilon: $\varepsilon$, a number; -1 and below does not bound the loss by 0.
      axis: the class axis; several, or `None` for all, form one class axis.
      where: classes (as many dimensions as the logits) or rows (fewer) to keep. What is dropped adds 0 to value and
        gradient, even if NaN; a row that keeps no class is dropped; a positive weight on a dropped class costs `inf`.
      weights: multiply the losses of the rows.
      class_weights: $c$, one for each class. As in every mean here, only `weights` divide.
      reduction: `"none"`, `"mean"` or `"sum"` over the rows; see `jaxloss.reduce`.

    Returns:
      One loss for each row, or a scalar; at least float32.

    Raises:
      TypeError: logits are not floating-point or `where` not boolean.
      ValueError: a shape does not fit the logits, or there are no classes.

    Reference: Leng et al., "PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions" (2022).

    >>> import jax.numpy as jnp
    >>> print(poly_loss_cross_entropy(jnp.array([[0.0, 0.0]]), jnp.array([[0.25, 0.75]]), epsilon=1.0))
    [1.1931472]
    """
    fn = "poly_loss_cross_entropy"
    rows = Rows(fn, "logits", logits, axis, where)
    e, c = checks.scalar(fn, "epsilon", epsilon), rows.class_weights(class_weights)
    losses = mixture(_poly, rows, rows.distribution(labels), c, e)
    return rows.total(losses, weights, reduction)


def _poly(at: Chance, epsilon: Array) -> tuple[Array, Array, Array]:
    return at.cost + epsilon * at.wrong, 1 + epsilon * at.right, at.wrong
