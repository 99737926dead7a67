"""The Lovász losses: the Jaccard index of sets of pixels, extended to errors of any size.

>>> import jax.numpy as jnp
>>> logits, mask = jnp.array([[9.0, -9.0, 9.0, -9.0]]), jnp.array([[1, 1, 0, 0]])
>>> print(lovasz_hinge_loss(jnp.clip(logits, -1, 1), mask) / 2)  # one right, one too many, one missing
[0.6666667]
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.devices import alike
from jaxloss._core.precision import cotangent, upcast
from jaxloss._core.reduction import fill, reduce
from jaxloss._core.row_masks import masks
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Integer, Num, Reduction
from jaxloss._segmentation.classes import over_classes
from jaxloss._segmentation.images import images, summed_axes
from jaxloss._segmentation.overlap import as_weights
from jaxloss._segmentation.probabilities import Activation, Evaluated, class_means, evaluate, pull, softmax_stats


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
        `user_checks` reports it; or the same one-hot, any real or boolean dtype, where more than half counts as 1 and
        which have no gradient. For `[..., 1]` 1 or 0, with or without the class axis; other integers count as outside.
      classes: which are counted: those `"present"` in the targets of the image, as in the authors' code, or `"all"`.
        For an absent class the loss is its largest probability.
      from_logits: whether predictions are logits.
      class_weights: multiply the losses of the classes, `[classes]`; a mean still divides by their number.
      ignore_background: leave out the first class, if it is not the only one.
      axis: the axes of the pixels; `None` for all but the first and the last. With the first axis among them a batch
        counts as one image, which is the default of the authors' code.
      where: pixels to keep, `[batch, *pixels]`. What is dropped adds 0 to value and gradient, even if NaN.
      ignore_index: pixels with this class index are dropped; for `[..., 1]`, with this integer as target.
      reduction: over the classes that are counted: `"mean"`, `"sum"` or `"none"`, where the others are 0.

    Returns:
      One loss for each image, in [0, 1] but for `class_weights` and sums; `[batch, classes]` for `reduction="none"`; at
      least float32.

    Raises:
      TypeError: predictions not floating-point, targets without a class axis not integer, or `where` not boolean.
      ValueError: a shape does not fit the predictions, `ignore_index` with one-hot targets, or an unknown option.

    Reference: Berman, Triki, Blaschko, "The Lovász-Softmax Loss" (2018).

    >>> probabilities = jnp.array([[[0.75, 0.25], [0.5, 0.5]]])
    >>> print(lovasz_softmax_loss(probabilities, jnp.array([[0, 1]]), from_logits=False))
    [0.4375]
    """
    fn = "lovasz_softmax_loss"
    checks.choice(fn, "classes", classes, ("present", "all"))
    given = images(fn, predictions, targets, from_logits=from_logits, axis=axis, where=where, ignore_index=ignore_index)
    activation, axes, x, t, keep, _ = given
    t = checks.no_gradient(fn, "targets", t) if jnp.issubdtype(t.dtype, jnp.floating) else t
    losses = _of_classes(activation, axes, x, t, keep)
    counted = None
    if classes == "present":
        weights = fill(keep, as_weights(t, jnp.zeros(x.shape, losses.dtype)))
        counted = jnp.any(~(weights <= 0.5), axes)  # NaN too: what is unknown is not absent
    return over_classes(fn, losses, class_weights, reduction, ignore_background, counted)


def _errors(activation: Activation, x: Array, t: Array, keep: Array | None) -> tuple[Array, Array, Evaluated]:
    found = evaluate(activation, x, keep, softmax_stats(activation, x, keep))
    weights = fill(keep, as_weights(t, found.p))
    truth, wrong, right = alike(weights > 0.5, found.p, found.q)
    return jnp.where(truth, right, wrong) + 0 * weights, truth, found  # NaN for an index that is no class


@functools.partial(custom_vjp, nondiff_argnums=(0, 1))
def _of_classes(activation: Activation, axes: tuple[int, ...], x: Array, t: Array, keep: Array | None) -> Array:
    return _extension(*_errors(activation, x, t, keep)[:2], keep, axes)


def _of_classes_fwd(activation: Activation, axes: tuple[int, ...], *operands: Any) -> tuple[Array, Any]:
    return _of_classes(activation, axes, *operands), operands


def _of_classes_bwd(
    activation: Activation, axes: tuple[int, ...], operands: Any, g: Array
) -> tuple[Array | None, None, None]:
    # Why a rule: autodiff keeps what was sorted, and adds to the pixels by a scatter. Here the predictions are kept.
    x, _, keep = operands
    errors, truth, found = _errors(activation, *operands)
    slopes = jnp.expand_dims(g, axes) * _slopes(errors, truth, keep, axes)
    to_p = jnp.where(truth, -slopes, slopes)
    means = None if found.stats is None else class_means(x, keep, found.stats, to_p, lambda g: g)
    to_x = pull(activation, found, to_p, means)
    return cotangent(fill(keep, to_x), x), None, None


_of_classes.defvjp(_of_classes_fwd, _of_classes_bwd)


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
      axis: the axes of the pixels; `None` for all but the first, or for the only one.
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
    y = checks.no_gradient(fn, "labels", y) if jnp.issubdtype(y.dtype, jnp.floating) else y
    axes = summed_axes(fn, 0 if axis is None and x.ndim == 1 else axis, x.ndim + 1)
    keep, rows = masks(fn, where, x.shape, axes, "logits")
    if ignore_index is not None:
        known = ~checks.is_index(fn, y, ignore_index)
        keep = known if keep is None else keep & known
        rows = jnp.any(keep, axes)
    losses = _of_hinges(axes, x, _sides(y, keep), keep)
    return reduce(losses, where=rows, weights=weights, reduction=reduction, fn=fn)


def _sides(y: Array, keep: Array | None) -> Array:
    """1 for the foreground, 0 for the rest and -1 where a label is NaN: what is kept is a byte for each pixel."""
    y = fill(keep, upcast(y))
    return (y >= 0.5).astype(jnp.int8) - jnp.isnan(y).astype(jnp.int8)


def _hinges(x: Array, sides: Array, keep: Array | None) -> tuple[Array, Array]:
    """And which pixels are foreground. A pixel on neither side makes its hinge NaN."""
    x, sides = alike(fill(keep, upcast(x)), sides)
    truth = sides == 1
    hinges = 1 - jnp.where(truth, x, -x)
    return jnp.where(sides < 0, jnp.nan, stable.positive_part(hinges)), truth


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _of_hinges(axes: tuple[int, ...], x: Array, sides: Array, keep: Array | None) -> Array:
    return _extension(*_hinges(x, sides, keep), keep, axes)


def _of_hinges_fwd(axes: tuple[int, ...], *operands: Any) -> tuple[Array, Any]:
    return _of_hinges(axes, *operands), operands


def _of_hinges_bwd(axes: tuple[int, ...], operands: Any, g: Array) -> tuple[Array | None, None, None]:
    # Why a rule: as for classes.
    x, _, keep = operands
    hinges, truth = _hinges(*operands)
    slopes = _slopes(hinges, truth, keep, axes)
    slopes = jnp.expand_dims(g, axes) * jnp.where((hinges == 0) & ~jnp.isnan(slopes), 0, slopes)
    return cotangent(jnp.where(truth, -slopes, slopes), x), None, None


_of_hinges.defvjp(_of_hinges_fwd, _of_hinges_bwd)


class _Sorted(NamedTuple):
    """Of rows of pixels, the largest error first and those that are dropped last."""

    errors: Array
    steps: Array
    place: Array


def _extension(errors: Array, truth: Array, keep: Array | None, axes: tuple[int, ...]) -> Array:
    """The extension of the Jaccard loss at errors >= 0, of which dropped ones count nothing."""
    found = _sorted(errors, truth, keep, axes)
    nothing = (found.steps == 0) & (found.errors == found.errors)  # though the error be infinite
    return jnp.sum(jnp.where(nothing, 0, found.errors * found.steps), -1)


def _slopes(errors: Array, truth: Array, keep: Array | None, axes: tuple[int, ...]) -> Array:
    """Of the extension, by the errors: NaN for all that are kept where one is NaN, as the extension is."""
    found = _sorted(errors, truth, keep, axes)
    steps = lax.sort(alike(found.place, found.steps), dimension=-1, num_keys=1)[1]
    shape = jnp.moveaxis(errors, axes, _ends(axes)).shape
    steps = jnp.moveaxis(steps.reshape(shape), _ends(axes), axes)
    undefined = jnp.any(jnp.isnan(errors), axes, keepdims=True)
    return lax.stop_gradient(fill(keep, jnp.where(undefined, jnp.nan, steps)))


def _ends(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(range(-len(axes), 0))


def _sorted(errors: Array, truth: Array, keep: Array | None, axes: tuple[int, ...]) -> _Sorted:
    """With what each pixel adds to the Jaccard loss when it turns wrong after all with larger errors.

    No step is a difference of two losses: with I pixels still right and U in the union, a missed one adds 1 / U, and
    one too many I / (U (U - 1)).
    """

    def flat(x: Array) -> Array:
        x = jnp.moveaxis(jnp.broadcast_to(x, errors.shape), axes, _ends(axes))
        return x.reshape(*x.shape[: x.ndim - len(axes)], math.prod(x.shape[x.ndim - len(axes) :]))

    high = lax.stop_gradient(flat(errors))
    dropped = jnp.zeros(high.shape, jnp.int32) if keep is None else (~flat(keep)).astype(jnp.int32)
    place = lax.broadcasted_iota(jnp.int32, high.shape, high.ndim - 1)
    operands = alike(dropped, -high, flat(truth).astype(jnp.int32), place)
    dropped, low, missed, place = lax.sort(operands, dimension=-1, num_keys=2)
    missed = missed * (1 - dropped)
    there = jnp.sum(missed, -1, keepdims=True, dtype=jnp.int32)
    union = there + jnp.cumsum((1 - missed) * (1 - dropped), -1, dtype=jnp.int32)
    right = (there - jnp.cumsum(missed, -1, dtype=jnp.int32)).astype(high.dtype)
    u = jnp.maximum(union, 1).astype(high.dtype)
    none = (there == 0) & (union > 1)  # the first one too many was all it took
    extra = jnp.where(union > 1, jnp.where(none, 0, right) / (u * jnp.maximum(u - 1, 1)), 1)
    steps = jnp.where(missed == 1, 1 / u, extra)
    return _Sorted(-low, jnp.where(dropped == 1, 0, steps), place)
