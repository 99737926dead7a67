"""Losses that compare every wrong class, or every pair of a right and a wrong one, by the margin between them."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core import blocks, checks, stable
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.class_rows import Rows
from jaxloss._core.precision import cotangent, promote
from jaxloss._core.reduction import fill
from jaxloss._core.softmax import Scores, pick, scores_and_pull
from jaxloss._core.softmax import scores as scores_of
from jaxloss._core.tracing import traced_once
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Integer, Num, Reduction


@loss()
def multi_margin_loss(
    scores: Float[ArrayLike, "*batch classes"],
    labels: Integer[ArrayLike, "*batch"],
    *,
    p: int = 1,
    margin: float | Array = 1.0,
    axis: Axis = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    class_weights: Num[ArrayLike, "classes"] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Hinge of every wrong class: $\frac{c_y}{K}\sum_{k \ne y}\max(0,\, m - s_y + s_k)^p$.

    `multiclass_hinge_loss` counts the worst class alone. The derivative of a hinge at 0 is 0.

    Args:
      scores: $s$; `-inf` rules a class out; a row of only `-inf` gives `inf`.
      labels: class indices $y$, the shape of the scores without `axis`, in [0, classes); outside of it loss and
        gradient of the example are NaN, and `checkify` with `user_checks` reports it.
      p: the power of each hinge, 1 or 2.
      margin: $m$, by which the label should be ahead, a number.
      axis: the class axis; several form one class axis in their order, which the labels index flattened.
      where: classes (as many dimensions as the scores) or rows (fewer) to keep; $K$ counts the classes that are kept.
        What is dropped adds 0 to value and gradient, even if NaN; a label whose class is dropped costs `inf`.
      weights: multiply the losses of the rows.
      class_weights: $c$, one for each class. As in every mean here, only `weights` divide.
      ignore_index: rows with this label are dropped.
      reduction: `"none"`, `"mean"` or `"sum"` over the rows; see `jaxloss.reduce`.

    Returns:
      One loss for each row (the shape of the labels), or a scalar; at least float32.

    Raises:
      TypeError: scores are not floating-point, labels not integer, `where` not boolean, or `p` is no Python
        number.
      ValueError: a shape does not fit the scores, there are no classes, or an option is out of its range.

    Reference: Weston, Watkins, "Support Vector Machines for Multi-Class Pattern Recognition" (1999).

    >>> print(multi_margin_loss(jnp.array([[2.0, 1.5, 1.75, 0.0], [0.0, 1.0, 3.0, 0.0]]), jnp.array([0, 1])))
    [0.3125 0.75  ]
    """
    fn = "multi_margin_loss"
    checks.python_number(fn, "p", p)
    if p not in (1, 2):
        raise ValueError(f"{fn}: p must be 1 or 2, got {p!r}")
    rows = Rows(fn, "scores", scores, axis, where)
    y, c, m = rows.labels(labels, ignore_index), rows.class_weights(class_weights), checks.scalar(fn, "margin", margin)
    losses = _all_wrong(rows.axis, p, rows.scores(), y, m)
    losses = rows.of_label(c, losses / rows.kept_classes(losses.dtype), y)
    return rows.total(losses, weights, reduction)


class _Wrong(NamedTuple):
    """The operands of a sum over classes."""

    s: Scores
    label: Array
    own: Array  # the score of the label
    margin: Array


@functools.partial(custom_vjp, nondiff_argnums=(0, 1))
def _all_wrong(axis: int, p: int, s: Scores, label: Array, margin: Array) -> Array:
    return _all_wrong_fwd(axis, p, s, label, margin)[0]


def _hinges(axis: int, p: int, x: _Wrong, is_label: Array) -> tuple[Array, Array]:
    """Each hinge to its power, and the derivative of that."""
    z = scores_of(x.s, axis)
    short = jnp.where(z == -jnp.inf, 0, (z - jnp.expand_dims(x.own, axis)) + x.margin)
    short = jnp.where((short <= 0) | is_label, 0, short)
    return (short, jnp.where(short > 0, 1, short)) if p == 1 else (jnp.square(short), 2 * short)


@functools.partial(traced_once, static_argnums=(0, 1))
def _all_wrong_fwd(axis: int, p: int, s: Scores, label: Array, margin: Array) -> tuple[Array, Any]:
    z = scores_of(s, axis)
    x = _Wrong(s, label, pick(axis, z.shape[axis], z, label), jnp.asarray(margin, z.dtype))

    def terms(of: tuple[_Wrong, Array]) -> tuple[Array, Array]:
        x, classes = of
        return _hinges(axis, p, x, classes == jnp.expand_dims(x.label, axis))

    classes = stable.class_index(z, axis, label.dtype)  # sliced with the scores
    losses, slopes = stable.row_sums((x, classes), axis, terms, in_lanes=True)
    losses = jnp.where(x.own == -jnp.inf, jnp.inf, jnp.where(jnp.isnan(x.own), jnp.nan, losses))
    return losses, (x, margin, slopes)


def _all_wrong_bwd(axis: int, p: int, residuals: Any, g: Array) -> tuple[Scores, None, Array | None]:
    # Why a rule: autodiff keeps a float32 array of the hinges, and adds to the label's place by a scatter.
    x, margin, slopes = blocks.read_again(residuals)
    z, pull = scores_and_pull(x.s, axis)
    is_label = stable.is_label(z, x.label, axis)
    slope = jnp.where(is_label, -jnp.expand_dims(slopes, axis), _hinges(axis, p, x, is_label)[1])
    to_logits, _, _ = pull(jnp.expand_dims(g, axis) * slope)
    return Scores(to_logits), None, cotangent(jnp.sum(g * slopes), jnp.asarray(margin))


_all_wrong.defvjp(_all_wrong_fwd, _all_wrong_bwd)


@loss()
def multilabel_margin_loss(
    scores: Float[ArrayLike, "*batch classes"],
    labels: Num[ArrayLike, "..."],
    *,
    margin: float | Array = 1.0,
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Hinge of every pair of a right and a wrong class: $\frac1K\sum_{i,j} y_i(1-y_j)\max(0,\, m - s_i + s_j)$.

    It is 0 where every label of the example is ahead of every other class by the margin. The derivative of a hinge at 0
    is 0. Time grows with the square of the number of classes, memory does not.

    Args:
      scores: $s$; `-inf` rules a class out; a row of only `-inf` gives 0.
      labels: $y$, 1 for each class that is a label of the example and 0 for the others (or between), any real or
        boolean dtype; broadcast to the shape of the scores. PyTorch's lists of indices are
        `jax.nn.one_hot(indices, classes).max(-2)`, where what follows the first -1 has been set to -1.
      margin: $m$, a number.
      axis: the class axis; several, or `None` for all, form one class axis.
      where: classes (as many dimensions as the scores) or rows (fewer) to keep; $K$ counts the classes that are kept.
        What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses of the rows.
      reduction: `"none"`, `"mean"` or `"sum"` over the rows; see `jaxloss.reduce`.

    Returns:
      One loss for each row, or a scalar; at least float32.

    Raises:
      TypeError: scores are not floating-point or `where` not boolean.
      ValueError: a shape does not fit the scores, or there are no classes.

    Reference: Elisseeff, Weston, "A Kernel Method for Multi-Labelled Classification" (2001).

    >>> print(multilabel_margin_loss(jnp.array([[0.5, 0.25, -2.0, 2.0]]), jnp.array([[1, 1, 0, 0]])))
    [1.3125]
    """
    fn = "multilabel_margin_loss"
    rows = Rows(fn, "scores", scores, axis, where)
    given = rows.logits, rows.small_targets(labels), rows.keep_of_entries()
    x, y, keep = (a if a is None else jnp.moveaxis(a, rows.axis, -1) for a in given)
    # What is kept for the backward pass are the labels as they came, not broadcast.
    of_rows = jax.checkpoint(lambda x, y, keep, m: _pairs(x, jnp.broadcast_to(y, x.shape), keep, m), prevent_cse=False)
    losses = of_rows(x, y, keep, checks.scalar(fn, "margin", margin))
    return rows.total(losses / rows.kept_classes(losses.dtype), weights, reduction)


class _Pairs(NamedTuple):
    """A class and another one, along two axes, and how much each is a label or a wrong class."""

    s: Array
    other: Array
    right: Array
    wrong: Array
    margin: Array


def _all_pairs(x: Array, y: Array, keep: Array | None, margin: Array) -> tuple[_Pairs, Array, Array]:
    s, y = promote(x, y)
    s, y = fill(keep, s), fill(keep, y)
    wrong = fill(keep, 1 - y)
    ones, others = (functools.partial(jnp.expand_dims, axis=a) for a in (-1, -2))
    return _Pairs(ones(s), others(s), others(y), others(wrong), jnp.asarray(margin, s.dtype)), y, wrong


def _short(label: Array, wrong: Array, margin: Array) -> Array:
    """By how much a label is not ahead of a wrong class."""
    gap = jnp.where((wrong == -jnp.inf) | (label == jnp.inf), -jnp.inf, wrong - label)
    return stable.positive_part(gap + margin)


def _against_wrong(x: _Pairs) -> tuple[Array, Array]:
    """What a class costs as a label, and for how many wrong ones."""
    short = _short(x.s, x.other, x.margin)
    return stable.times(x.wrong, short), stable.where_above(short, 0, x.wrong)


def _against_right(x: _Pairs) -> tuple[Array, Array]:
    short = _short(x.other, x.s, x.margin)
    return stable.times(x.right, short), stable.where_above(short, 0, x.right)


@custom_vjp
def _pairs(x: Array, y: Array, keep: Array | None, margin: Array) -> Array:
    pairs, right, _ = _all_pairs(x, y, keep, margin)
    as_label, _ = stable.row_sums(pairs, -1, _against_wrong)
    return jnp.sum(stable.times(right, as_label), -1)


def _pairs_fwd(*args: Any) -> tuple[Array, Any]:
    return _pairs(*args), args


def _pairs_bwd(args: Any, g: Array) -> tuple[Array | None, ...]:
    # Why a rule: autodiff keeps the hinges of all pairs, the square of the number of classes for each row.
    x, y, keep, margin = args
    pairs, right, wrong = _all_pairs(*args)
    as_label, pulled = stable.row_sums(pairs, -1, _against_wrong)
    as_wrong, pushed = stable.row_sums(pairs, -1, _against_right)
    g = g[..., None]
    to_x, to_y = wrong * pushed - right * pulled, fill(keep, as_label - as_wrong)
    to_margin = cotangent(jnp.sum(g * right * pulled), jnp.asarray(margin))
    return cotangent(g * to_x, x), cotangent(g * to_y, y), None, to_margin


_pairs.defvjp(_pairs_fwd, _pairs_bwd)
