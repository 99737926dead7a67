"""The cross-entropy of all labels of an example."""

from __future__ import annotations

import jax.numpy as jnp

from jaxloss._binary.cross_entropy import cross_entropy
from jaxloss._core import blocks, checks
from jaxloss._core.api import loss
from jaxloss._core.class_rows import Rows
from jaxloss._core.precision import compute_dtype
from jaxloss._core.reduction import fill
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction


@loss()
def multilabel_soft_margin_loss(
    logits: Float[ArrayLike, "*batch classes"],
    labels: Num[ArrayLike, "..."],
    *,
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    class_weights: Num[ArrayLike, "classes"] | None = None,
    pos_weight: Num[ArrayLike, "classes"] | None = None,
    label_smoothing: float | Array = 0.0,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Binary cross-entropy, averaged over classes: $\frac1K\sum_k c_k(p_k y_k s(-x_k) + (1-y_k)\,s(x_k))$.

    $s(x) = \log(1 + e^x)$ is the softplus. One loss for each example that may have any number of labels;
    `sigmoid_binary_cross_entropy` has one for each of its decisions. As in PyTorch, class weights multiply and do not
    divide.

    Args:
      logits: raw scores $x$.
      labels: $y$ in [0, 1], any real or boolean dtype; broadcast to the shape of the logits.
      axis: the class axis; several, or `None` for all, form one class axis.
      where: classes (as many dimensions as the logits) or rows (fewer) to keep; $K$ counts the classes that are kept.
        What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses of the rows.
      class_weights: $c$, one for each class.
      pos_weight: $p$, one for each class, multiplies the positive term.
      label_smoothing: $\alpha$ in [0, 1]; $y$ becomes $(1-\alpha)y + \alpha/2$.
      reduction: `"none"`, `"mean"` or `"sum"` over the rows; see `jaxloss.reduce`.

    Returns:
      One loss for each row, or a scalar; at least float32.

    Raises:
      TypeError: logits are not floating-point or `where` not boolean.
      ValueError: a shape does not fit the logits, or there are no classes.

    Reference: Zhang, Zhou, "Multilabel Neural Networks with Applications to Functional Genomics and Text
    Categorization" (2006), for the problem; PyTorch for the name.

    >>> print(multilabel_soft_margin_loss(jnp.array([[0.0, 50.0]]), jnp.array([[1, 1]])))
    [0.3465736]
    """
    fn = "multilabel_soft_margin_loss"
    smoothing = checks.in_range(fn, "label_smoothing", label_smoothing, 0, 1)
    rows = Rows(fn, "logits", logits, axis, where)
    y, keep = rows.small_targets(labels), rows.keep_of_entries()
    axis, dtype = rows.axis, compute_dtype(rows.logits, y)  # what `of_row` closes over outlives the call

    def of_classes(arg: str, given: ArrayLike | None) -> Array | None:
        c = rows.class_weights(given, arg)
        return None if c is None else jnp.expand_dims(c, [i for i in range(rows.logits.ndim) if i != rows.axis])

    def of_row(x: Array, y: Array, keep: Array | None, c: Array | None, p: Array | None, s: Array) -> Array:
        x, y = (fill(keep, jnp.broadcast_to(v.astype(dtype), x.shape)) for v in (x, y))
        p = None if p is None else jnp.broadcast_to(p.astype(dtype), x.shape)
        losses = fill(keep, cross_entropy(x, y, p, s))
        return blocks.add_up(losses if c is None else c.astype(dtype) * losses, axis)

    c, p = of_classes("class_weights", class_weights), of_classes("pos_weight", pos_weight)
    operands = (rows.logits, y, keep, c, p, checks.scalar(fn, "label_smoothing", smoothing).astype(dtype))
    losses = blocks.per_row(of_row, operands, axis) / rows.kept_classes(dtype)
    return rows.total(losses, weights, reduction)
