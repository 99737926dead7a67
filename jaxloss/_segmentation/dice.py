"""The Dice losses of optax: one loss, and two ways to call it.

>>> import jax.numpy as jnp
>>> logits, mask = jnp.array([[50.0, -50.0, 50.0, -50.0]]), jnp.array([[1, 1, 0, 0]])
>>> print(binary_dice_loss(logits, mask, smooth=0.0))  # one right, one too many, one missing
[0.5]
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction
from jaxloss._segmentation.classes import over_classes
from jaxloss._segmentation.images import images
from jaxloss._segmentation.overlap import count, index_loss


@loss()
def dice_loss(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    class_weights: Num[ArrayLike, "classes"] | None = None,
    smooth: float | Array = 1.0,
    alpha: float | Array = 0.5,
    beta: float | Array = 0.5,
    apply_softmax: bool = True,
    reduction: Reduction = "mean",
    ignore_background: bool = False,
    axis: Axis | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    ignore_index: int | None = None,
) -> Float[Array, "..."]:
    r"""Soft Dice loss: $1 - \frac{I + s}{I + \alpha F_+ + \beta F_- + s}$ for each class, then their mean.

    $I = \sum p\,t$ over the pixels of an image, $F_+ = \sum p\,(1-t)$ the false positives and
    $F_- = \sum (1-p)\,t$ the false negatives. With $\alpha = \beta = 1/2$ the fraction is the Dice coefficient
    $2I / (P + T)$, for which some take twice this $s$. Nearly perfect predictions keep their digits.

    Args:
      predictions: logits `[batch, *pixels, classes]`, of which a softmax is taken, or for `[..., 1]` a sigmoid;
        `-inf` rules a class out. With `apply_softmax=False`: probabilities.
      targets: the shape of the predictions, 1 for the class of a pixel and 0 for the others (or between), any real or
        boolean dtype; or class indices without the class axis, in [0, classes): outside of it the losses are NaN, and
        `checkify` with `user_checks` reports it. For `[..., 1]`, with or without the class axis, so are integers other
        than 0 and 1. Floating targets are not checked.
      smooth: $s \ge 0$. With 0 a class that is neither predicted nor there has loss 0, with zero gradient.
      alpha: $\alpha \ge 0$, what a false positive counts.
      beta: $\beta \ge 0$, what a false negative counts.
      apply_softmax: whether predictions are logits.
      class_weights: multiply the losses of the classes, `[classes]`; a mean still divides by the number of classes.
      ignore_background: leave out the first class, if it is not the only one.
      axis: the axes that are summed; `None` for all but the first and the last. With the first axis among them a
        batch counts as one image.
      where: pixels to keep, of the shape of the predictions without the class axis; or classes of pixels, over which
        the softmax is renormalised. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the pixels, broadcast to the shape of the predictions without the class axis.
      ignore_index: pixels with this class index are dropped; for `[..., 1]`, with this integer as target.
      reduction: over the classes: `"mean"`, `"sum"` or `"none"`.

    Returns:
      One loss for each image, in [0, 1] but for `class_weights` and sums; `[batch, classes]` for `reduction="none"`; at
      least float32.

    Raises:
      TypeError: predictions are not floating-point, class indices not integer, or `where` not boolean.
      ValueError: a shape does not fit the predictions, or an option is out of its range.

    Reference: Milletari, Navab, Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image
    Segmentation" (2016), which has the sums of squares in the denominator.

    >>> import jax
    >>> logits = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    >>> print(dice_loss(logits, jnp.argmax(logits, -1)).shape)
    (2,)
    """
    fn = "dice_loss"
    given = images(
        fn,
        predictions,
        targets,
        from_logits=apply_softmax,
        axis=axis,
        where=where,
        weights=weights,
        ignore_index=ignore_index,
    )
    losses = index_loss(fn, count(given), alpha, beta, smooth)
    return over_classes(fn, losses, class_weights, reduction, ignore_background)


@loss()
def binary_dice_loss(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    smooth: float | Array = 1.0,
    apply_sigmoid: bool = True,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Soft Dice loss of one class against the rest: $1 - \frac{I + s}{(P + T)/2 + s}$ for each image.

    $I = \sum p\,t$ over the pixels of an image, $P$ and $T$ the sums of the probabilities and of the targets.
    `dice_loss` of a single class.

    Args:
      predictions: logits `[batch, *pixels]` or `[batch, *pixels, 1]`, of which a sigmoid is taken. With
        `apply_sigmoid=False`: probabilities.
      targets: 1 or 0, or between, any real or boolean dtype, with or without the last axis of length 1. Integers other
        than 0 and 1 give NaN, and `checkify` with `user_checks` reports them. Floating targets are not checked.
      smooth: $s \ge 0$. With 0 an image with nothing predicted and nothing there has loss 0, with zero gradient.
      apply_sigmoid: whether predictions are logits.
      where: pixels to keep, `[batch, *pixels]`. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the pixels, broadcast to `[batch, *pixels]`. Both may have a last axis of length 1.

    Returns:
      One loss for each image, `[batch]`, in [0, 1]; at least float32.

    Raises:
      TypeError: predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not fit the predictions, or `smooth` is negative.

    Reference: Milletari, Navab, Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image
    Segmentation" (2016), which has the sums of squares in the denominator.

    >>> print(binary_dice_loss(jnp.array([[50.0, -50.0]]), jnp.array([[1, 1]]), smooth=0.0))
    [0.33333334]
    """
    fn = "binary_dice_loss"
    x, t = checks.floating(fn, "predictions", predictions), checks.number(fn, "targets", targets)
    if x.ndim == t.ndim and x.shape[-1:] != (1,):
        x, t = x[..., None], t[..., None]
    given = images(
        fn,
        x,
        t,
        from_logits=apply_sigmoid,
        where=where,
        weights=weights,
    )
    losses = index_loss(fn, count(given), 0.5, 0.5, smooth)
    return over_classes(fn, losses, None, "mean", False)


@loss()
def multiclass_generalized_dice_loss(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    smooth: float | Array = 1.0,
    apply_softmax: bool = True,
    ignore_background: bool = False,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    ignore_index: int | None = None,
) -> Float[Array, ""]:
    r"""Dice loss weighted by rarity: $\frac{1}{BK}\sum_{b,k} w_k\,\ell_{bk}$, where $w_k \propto 1/T_k^2$ and
    $\sum_k w_k = K$.

    $\ell_{bk}$ is the `dice_loss` of class $k$ of image $b$, and $T_k$ how much of the class there is in the whole
    batch. A class that is absent from the batch weighs as much as the rarest that is there. As in optax, losses are
    weighted; the paper weights the intersections and unions before it divides them.

    Args:
      predictions: logits `[batch, *pixels, classes]`, of which a softmax is taken; `-inf` rules a class out. With
        `apply_softmax=False`: probabilities.
      targets: the shape of the predictions, 1 for the class of a pixel and 0 for the others (or between), any real or
        boolean dtype; or class indices without the class axis, in [0, classes): outside of it the loss is NaN, and
        `checkify` with `user_checks` reports it. For `[..., 1]`, with or without the class axis, so are integers other
        than 0 and 1. Floating targets are not checked.
      smooth: $s \ge 0$ of `dice_loss`.
      apply_softmax: whether predictions are logits.
      ignore_background: leave out the first class, if it is not the only one.
      where: pixels to keep, of the shape of the predictions without the class axis; or classes of pixels. What is
        dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the pixels, broadcast to the shape of the predictions without the class axis.
      ignore_index: pixels with this class index are dropped; for `[..., 1]`, with this integer as target.

    Returns:
      A scalar; at least float32.

    Raises:
      TypeError: predictions are not floating-point, class indices not integer, or `where` not boolean.
      ValueError: a shape does not fit the predictions, or `smooth` is negative.

    Reference: Sudre et al., "Generalised Dice Overlap as a Deep Learning Loss Function for Highly Unbalanced
    Segmentations" (2017).

    >>> probabilities = jnp.array([[[0.5, 0.5], [1.0, 0.0], [1.0, 0.0]]])
    >>> targets = jnp.array([[1, 0, 0]])
    >>> print(multiclass_generalized_dice_loss(probabilities, targets, smooth=0.0, apply_softmax=False))
    0.2888889
    """
    fn = "multiclass_generalized_dice_loss"
    given = images(
        fn,
        predictions,
        targets,
        from_logits=apply_softmax,
        where=where,
        weights=weights,
        ignore_index=ignore_index,
    )
    counts = count(given)
    there = counts.hits + counts.misses  # how much of each class the targets have
    there = jnp.sum(there, tuple(range(there.ndim - 1)))
    rarest = jnp.min(jnp.where(there > 0, there, jnp.inf))
    shares = jnp.square(jnp.where(there > 0, rarest / jnp.where(there > 0, there, 1), 1))
    rarity = shares * (there.size / jnp.sum(shares))
    losses = index_loss(fn, counts, 0.5, 0.5, smooth)
    losses = over_classes(fn, losses, rarity, "mean", ignore_background)
    return jnp.sum(losses) / max(losses.size, 1)
