"""The Lovász losses: the Jaccard index of sets of pixels, extended to errors of any size.

>>> import jax.numpy as jnp
>>> logits, mask = jnp.array([[9.0, -9.0, 9.0, -9.0]]), jnp.array([[1, 1, 0, 0]])
>>> print(lovasz_hinge_loss(jnp.clip(logits, -1, 1), mask) / 2)  # one right, one too many, one missing
[0.6666667]
"""

from __future__ import annotations

import math
from typing import Literal

import jax.numpy as jnp
from jax import lax

from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.precision import promote
from jaxloss._core.reduction import fill, reduce
from jaxloss._core.row_masks import masks
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Integer, Num, Reduction
from jaxloss._segmentation.classes import over_classes
from jaxloss._segmentation.images import images, summed_axes
from jaxloss._segmentation.overlap import as_weights
from jaxloss._segmentation.probabilities import probabilities


@loss()
def lovasz_softmax_loss(
    predictions: Float[ArrayLike, "batch *pixels classes"],
    targets: Integer[ArrayLike, "batch *pixels"],
    *,
    classes: Literal["present", "all"] = "present",
    from_logits: bool = True,
    class_weights: Num[ArrayLike, "classes"] | None = None,
    ignore_background: bool = False,
    axis: Axis | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> Float[Array, "..."]:
    r"""Lovász-softmax loss: $\bar\Delta_{J_k}(m_k)$ for each class $k$, then their mean.

    $m_k$ are the errors of the pixels: $1 - p_k$ where the class is $k$, else $p_k$. $\bar\Delta_{J_k}$ is 1 minus the
    Jaccard index where all errors are 0 or 1, and between them its tightest convex extension:
    $\sum_i m_{(i)}\,(\Delta_i - \Delta_{i-1})$, errors in falling order, $\Delta_i$ the Jaccard loss if the first $i$
    pixels are wrong and the others right. The gradient at ties is that of one of their orders.

    Args:
      predictions: logits `[batch, *pixels, classes]`, of which a softmax is taken, or for `[..., 1]` a sigmoid;
        `-inf` rules a class out. With `from_logits=False`: probabilities.
      targets: class indices `[batch, *pixels]`, in [0, classes), outside of it the losses are NaN, and `checkify` with
        `user_checks` reports it; or the same one-hot. With one class, 1 or 0.
      classes: which are counted: those `"present"` in the targets of the image, as in the authors' code, or `"all"`.
        For an absent class the loss is its largest probability.
      from_logits: whether predictions are logits.
      class_weights: multiply the losses of the classes, `[classes]`; a mean still divides by their number.
      ignore_background: leave out the first class, if it is not the only one.
      axis: the axes of the pixels; `None` for all but the first and the last. With the first axis among them a batch
        counts as one image, which is the default of the authors' code.
      where: pixels to keep, `[batch, *pixels]`. What is dropped adds 0 to value and gradient, even if NaN.
      ignore_index: pixels with this class index are dropped.
      reduction: over the classes that are counted: `"mean"`, `"sum"` or `"none"`, where the others are 0.

    Returns:
      One loss for each image, in [0, 1] but for `class_weights` and sums; `[batch, classes]` for `reduction="none"`; at
      least float32.

    Raises:
      TypeError: predictions are not floating-point, targets not integer, or `where` not boolean.
      ValueError: a shape does not fit the predictions, or an unknown option.

    Reference: Berman, Triki, Blaschko, "The Lovász-Softmax Loss" (2018).

    >>> probabilities = jnp.array([[[0.75, 0.25], [0.5, 0.5]]])
    >>> print(lovasz_softmax_loss(probabilities, jnp.array([[0, 1]]), from_logits=False))
    [0.4375]
    """
    fn = "lovasz_softmax_loss"
    checks.choice(fn, "classes", classes, ("present", "all"))
    given = images(fn, predictions, targets, from_logits=from_logits, axis=axis, where=where, ignore_index=ignore_index)
    right, wrong = probabilities(given.activation, given.predictions, given.keep)
    truth = as_weights(given.targets, right)
    truth = fill(given.keep, truth)
    errors = jnp.where(truth > 0.5, wrong, right) + 0 * truth  # NaN for a class that is none
    keep = None if given.keep is None else jnp.broadcast_to(given.keep, errors.shape)
    losses = _extension(errors, truth > 0.5, keep, given.axes)
    counted = jnp.any(truth > 0.5, given.axes) if classes == "present" else None
    return over_classes(fn, losses, class_weights, reduction, ignore_background, counted)


@loss()
def lovasz_hinge_loss(
    logits: Float[ArrayLike, "batch *pixels"],
    labels: Num[ArrayLike, "..."],
    *,
    axis: Axis | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Lovász hinge: $\bar\Delta_J(m)$ of the hinges $m_i = \max(0,\, 1 - x_i\,(2y_i - 1))$ of an image's pixels.

    $\bar\Delta_J(m) = \sum_i m_{(i)}\,(\Delta_i - \Delta_{i-1})$, hinges in falling order, $\Delta_i$ the Jaccard loss
    if the first $i$ pixels are wrong and the others right. The derivative of a hinge at 0 is 0; the gradient at ties is
    that of one of their orders.

    Args:
      logits: $x$, scores of the foreground, `[batch, *pixels]`.
      labels: $y$, 1 for the foreground and 0 for the rest, any real or boolean dtype; broadcast to the shape of the
        logits. Half and more counts as 1; labels have no gradient.
      axis: the axes of the pixels; `None` for all but the first.
      where: images to keep, of the shape of the result, or else pixels to keep, broadcast to the logits. What is
        dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses of the images.
      ignore_index: pixels with this label are dropped.
      reduction: over the images: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      One loss for each image, or a scalar; at least float32.

    Raises:
      TypeError: logits are not floating-point, or `where` is not boolean.
      ValueError: a shape does not fit the logits, or an option is out of its range.

    Reference: Yu, Blaschko, "The Lovász Hinge: A Novel Convex Surrogate for Submodular Losses" (2018).

    >>> print(lovasz_hinge_loss(jnp.array([[2.0, 0.5, -2.0]]), jnp.array([[1, 0, 0]])))
    [0.75]
    """
    fn = "lovasz_hinge_loss"
    x, y = checks.floating(fn, "logits", logits), checks.number(fn, "labels", labels)
    y = checks.broadcast(fn, "labels", y, x.shape, "logits")
    axes = summed_axes(fn, axis, x.ndim + 1)
    keep, rows = masks(fn, where, x.shape, axes, "logits")
    if ignore_index is not None:
        known = y != jnp.asarray(ignore_index, y.dtype)
        keep = known if keep is None else keep & known
        rows = jnp.any(keep, axes)
    x, y = promote(x, y if jnp.issubdtype(y.dtype, jnp.floating) else y.astype(jnp.float32))
    x, truth = fill(keep, x), fill(keep, lax.stop_gradient(y)) >= 0.5
    hinges = 1 - jnp.where(truth, x, -x)
    hinges = jnp.where(hinges <= 0, 0, hinges)
    keep = None if keep is None else jnp.broadcast_to(keep, x.shape)
    losses = _extension(hinges, truth, keep, axes)
    return reduce(losses, where=rows, weights=weights, reduction=reduction, fn=fn)


def _extension(errors: Array, truth: Array, keep: Array | None, axes: tuple[int, ...]) -> Array:
    """The extension of the Jaccard loss at errors >= 0, of which dropped ones count nothing."""
    steps = lax.stop_gradient(_steps(errors, truth, keep, axes))
    errors = fill(keep, errors)
    return jnp.sum(jnp.where(steps == 0, 0, errors * steps), axes)


def _steps(errors: Array, truth: Array, keep: Array | None, axes: tuple[int, ...]) -> Array:
    """What each pixel adds to the Jaccard loss when it turns wrong after all with larger errors: the slopes.

    No step is a difference of two losses: with I pixels still right and U in the union, a missed one adds 1 / U, and
    one too many I / (U (U - 1)).
    """
    errors = lax.stop_gradient(errors)
    ends = tuple(range(-len(axes), 0))
    shape = jnp.moveaxis(errors, axes, ends).shape
    rows = (*shape[: len(shape) - len(axes)], math.prod(shape[len(shape) - len(axes) :]))

    def flat(x: Array) -> Array:
        return jnp.moveaxis(x, axes, ends).reshape(rows)

    dropped = jnp.zeros(rows, jnp.int32) if keep is None else (~flat(keep)).astype(jnp.int32)
    place = lax.broadcasted_iota(jnp.int32, rows, len(rows) - 1)
    operands = dropped, -flat(errors), flat(truth).astype(jnp.int32), place
    dropped, _, missed, place = lax.sort(operands, dimension=-1, num_keys=2)
    missed = missed * (1 - dropped)
    there = jnp.sum(missed, -1, keepdims=True)
    union = there + jnp.cumsum((1 - missed) * (1 - dropped), -1)
    right = (there - jnp.cumsum(missed, -1)).astype(errors.dtype)
    u = jnp.maximum(union, 1).astype(errors.dtype)
    extra = jnp.where(union > 1, right / (u * jnp.maximum(u - 1, 1)), 1)
    first_of_none = (union == 1) & (there == 0)
    steps = jnp.where(missed == 1, 1 / u, jnp.where((there == 0) & ~first_of_none, 0, extra))
    steps = jnp.where(dropped == 1, 0, steps)
    steps = lax.sort((place, steps), dimension=-1, num_keys=1)[1]
    return jnp.moveaxis(steps.reshape(shape), ends, axes)
