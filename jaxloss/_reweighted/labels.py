"""Functions of the cross-entropy of a class. For a label it is one number in each row; distributions have one a class.

>>> import jax, jax.numpy as jnp
>>> right_and_wrong = jnp.array([[4.0, 0.0], [0.0, 4.0]])
>>> for loss in (softmax_focal_loss, generalized_cross_entropy):
...     print(jax.grad(lambda x: loss(x, jnp.array([0, 0]), reduction="sum"))(right_and_wrong)[:, 0])
[-1.7350530e-05 -1.0863959e+00]
[-0.01775914 -0.05896243]
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.class_rows import Rows
from jaxloss._core.softmax import Wanted, row_statistics
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction
from jaxloss._reweighted.mixture import Chance, OfChance, mixture, of_label


@loss()
def softmax_focal_loss(
    logits: Float[ArrayLike, "*shape"],
    labels: Num[ArrayLike, "..."],
    *,
    gamma: float | Array = 2.0,
    axis: Axis = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    class_weights: Num[ArrayLike, "classes"] | None = None,
    label_smoothing: float | Array = 0.0,
    ignore_index: int | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Focal loss of classes that exclude each other: $-c_y\,(1 - p_y)^\gamma \log p_y$, $p = \mathrm{softmax}(x)$.

    Rows whose label is probable hardly count. Label distributions $t$, and labels that are smoothed to one, cost
    $-\sum_k t_k c_k\,(1 - p_k)^\gamma \log p_k$. Value and derivatives are finite for any $\gamma \ge 0$, however small
    $1 - p_y$ is; $\gamma = 0$ is the cross-entropy.

    Args:
      logits: raw scores $x$. `-inf` rules a class out; a row of only `-inf` gives NaN.
      labels: class indices $y$, the shape of the logits without `axis`, in [0, classes); outside of it loss and
        gradient of the example are NaN, and `checkify` with `user_checks` reports it. Or floating-point weights $t$ of
        the classes, with as many dimensions as the logits.
      gamma: $\gamma \ge 0$, a number.
      axis: the class axis; several form one class axis in their order, which the labels index flattened.
      where: classes (as many dimensions as the logits) or rows (fewer) to keep. What is dropped adds 0 to value and
        gradient, even if NaN; a row that keeps no class is dropped; a label whose class is dropped costs `inf`.
      weights: multiply the losses of the rows.
      class_weights: $c$, one for each class ($\alpha$ in the paper). As in every mean here, only `weights` divide.
      label_smoothing: $\alpha$ in [0, 1]: labels become $(1-\alpha)\,t_k + \alpha/K$, with $K$ the number of classes
        that are kept.
      ignore_index: rows with this label are dropped.
      reduction: `"none"`, `"mean"` or `"sum"` over the rows; see `jaxloss.reduce`.

    Returns:
      One loss for each row (the shape of the labels), or a scalar; at least float32.

    Raises:
      TypeError: logits are not floating-point, labels neither integers nor weights of all classes, or `where` not
        boolean.
      ValueError: a shape does not fit the logits, there are no classes, an option is out of its range, or
        `ignore_index` comes with distributions.

    Reference: Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection" (2017).

    >>> print(softmax_focal_loss(jnp.array([[0.0, 0.0], [9.0, 0.0]]), jnp.array([0, 0])))
    [1.7328680e-01 1.8789493e-12]
    """
    fn = "softmax_focal_loss"
    checks.in_range(fn, "gamma", gamma, 0, math.inf, open_high=True)
    rows = Rows(fn, "logits", logits, axis, where)
    losses = _losses(rows, labels, ignore_index, _focal, ("gamma", gamma), class_weights, label_smoothing)
    return rows.total(losses, weights, reduction)


def _focal(at: Chance, gamma: Array) -> tuple[Array, Array, Array]:
    cost, p, wrong = at
    none = wrong == 0
    weight = stable.power(wrong, gamma)
    bounded = jnp.minimum(cost, 1e9)  # where p and the logarithm are 0: no product with it is infinite, in any order
    # cost / wrong; the derivative of a quotient would divide by a square that underflows.
    small = cost < jnp.sqrt(jnp.finfo(cost.dtype).eps)
    ratio = jnp.where(small, 1 + cost / 2, bounded / jnp.where(small, 1, wrong))
    log_wrong = jnp.where(p < 0.5, jnp.log1p(-jnp.minimum(p, 0.5)), jnp.log(jnp.where(none, 1, wrong)))
    return weight * cost, weight * (gamma * p * ratio + 1), weight * bounded * log_wrong


@loss()
def generalized_cross_entropy(
    logits: Float[ArrayLike, "*shape"],
    labels: Num[ArrayLike, "..."],
    *,
    q: float | Array = 0.7,
    axis: Axis = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    class_weights: Num[ArrayLike, "classes"] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Generalized cross-entropy: $c_y\,(1 - p_y^q)/q$ with $p = \mathrm{softmax}(x)$, for labels that may be wrong.

    The gradient is that of the cross-entropy times $p_y^q$: rows that contradict their label by far hardly count, and
    none costs more than $1/q$. $q = 1$ is the probability to be wrong, and the limit $q = 0$, which is taken, the
    cross-entropy. Label distributions $t$ cost $\sum_k t_k c_k\,(1 - p_k^q)/q$. A confident row keeps all its digits.

    Args:
      logits: raw scores $x$. `-inf` rules a class out; a row of only `-inf` gives NaN.
      labels: class indices $y$, the shape of the logits without `axis`, in [0, classes); outside of it loss and
        gradient of the example are NaN, and `checkify` with `user_checks` reports it. Or floating-point weights $t$ of
        the classes, with as many dimensions as the logits.
      q: $q$ in [0, 1], a number.
      axis: the class axis; several form one class axis in their order, which the labels index flattened.
      where: classes (as many dimensions as the logits) or rows (fewer) to keep. What is dropped adds 0 to value and
        gradient, even if NaN; a row that keeps no class is dropped; a label whose class is dropped has $p_y = 0$.
      weights: multiply the losses of the rows.
      class_weights: $c$, one for each class. As in every mean here, only `weights` divide.
      ignore_index: rows with this label are dropped.
      reduction: `"none"`, `"mean"` or `"sum"` over the rows; see `jaxloss.reduce`.

    Returns:
      One loss for each row (the shape of the labels), or a scalar; at least float32.

    Raises:
      TypeError: logits are not floating-point, labels neither integers nor weights of all classes, or `where` not
        boolean.
      ValueError: a shape does not fit the logits, there are no classes, `q` is out of its range, or `ignore_index`
        comes with distributions.

    Reference: Zhang, Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels"
    (2018).

    >>> print(generalized_cross_entropy(jnp.array([[0.0, 0.0], [-jnp.inf, 0.0]]), jnp.array([0, 0]), q=0.5))
    [0.5857864 2.       ]
    """
    fn = "generalized_cross_entropy"
    checks.in_range(fn, "q", q, 0, 1)
    rows = Rows(fn, "logits", logits, axis, where)
    losses = _losses(rows, labels, ignore_index, _generalized, ("q", q), class_weights)
    return rows.total(losses, weights, reduction)


def _generalized(at: Chance, q: Array) -> tuple[Array, Array, Array]:
    cost = at.cost
    s = jnp.where(q == 0, 0, q * cost)
    losses = jnp.where(s == 0, cost, -jnp.expm1(-s) / jnp.where(s == 0, 1, q))
    # By q it is (e^-s (1 + s) - 1) / q^2, which is -cost^2 / 2 and a series in s where s is small.
    close = s < 1
    near = jnp.where(close, s, 0)
    tiny = near < 1e-3
    series = jnp.where(tiny, 0.5 + near / 6, stable.phi_near(near) / jnp.square(jnp.where(tiny, 1, near)))
    far = (1 - jnp.exp(-s) * (1 + jnp.where(close, s, jnp.minimum(s, 1e3)))) / jnp.square(jnp.where(close, 1, q))
    bounded = jnp.where(close, cost, 0)
    return losses, jnp.exp(-s), -jnp.where(close, jnp.square(bounded) * jnp.exp(-near) * series, far)


def _losses(
    rows: Rows,
    labels: Any,
    ignore_index: int | None,
    f: OfChance,
    option: tuple[str, Any],
    class_weights: Any,
    label_smoothing: Any = 0.0,
) -> Array:
    target, alpha = rows.target(labels, ignore_index), rows.per_row("label_smoothing", label_smoothing, 1)
    c, given = rows.class_weights(class_weights), checks.scalar(rows.fn, *option)
    if jnp.issubdtype(target.dtype, jnp.integer):
        cost = row_statistics(Wanted(rows.axis), rows.scores(), target, None).cross
        assert cost is not None
        losses = rows.of_label(c, of_label(f)(cost, given.astype(cost.dtype)), target)
    else:
        losses = mixture(f, rows, target, c, given)
    return rows.smooth(losses, None if checks.is_zero(alpha) else mixture(f, rows, None, c, given), alpha)
