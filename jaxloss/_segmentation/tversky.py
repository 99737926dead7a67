"""Losses of overlap beyond Dice: Tversky, focal Tversky and Jaccard.

>>> import jax.numpy as jnp
>>> logits, mask = jnp.array([[50.0, -50.0, 50.0, -50.0]]), jnp.array([[1, 1, 0, 0]])
>>> print(jaccard_loss(logits[..., None], mask, smooth=0.0))  # one right, one too many, one missing
[0.6666667]
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction
from jaxloss._segmentation.classes import over_classes
from jaxloss._segmentation.images import images
from jaxloss._segmentation.overlap import count, index_loss


@loss()
def tversky_loss(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    alpha: float | Array = 0.5,
    beta: float | Array = 0.5,
    smooth: float | Array = 1.0,
    from_logits: bool = True,
    class_weights: Num[ArrayLike, "classes"] | None = None,
    ignore_background: bool = False,
    axis: Axis | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> Float[Array, "..."]:
    r"""Tversky loss: $1 - \frac{I + s}{I + \alpha F_+ + \beta F_- + s}$ for each class, then their mean.

    $I = \sum p\,t$ over the pixels of an image, $F_+ = \sum p\,(1-t)$ the false positives and
    $F_- = \sum (1-p)\,t$ the false negatives. $\beta > \alpha$ favours recall: the authors take 0.3 and 0.7. Equal to
    `dice_loss`, under the name that other libraries have.

    Args:
      predictions: logits `[batch, *pixels, classes]`, of which a softmax is taken, or for `[..., 1]` a sigmoid;
        `-inf` rules a class out. With `from_logits=False`: probabilities.
      targets: the shape of the predictions, 1 for the class of a pixel and 0 for the others (or between), any real or
        boolean dtype; or class indices without the class axis, in [0, classes): outside of it the losses are NaN, and
        `checkify` with `user_checks` reports it. For `[..., 1]`, with or without the class axis, so are integers other
        than 0 and 1. Floating targets are not checked.
      smooth: $s \ge 0$. With 0 a class that is neither predicted nor there has loss 0, with zero gradient.
      alpha: $\alpha \ge 0$, what a false positive counts.
      beta: $\beta \ge 0$, what a false negative counts.
      from_logits: whether predictions are logits.
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

    Reference: Salehi, Erdogmus, Gholipour, "Tversky Loss Function for Image Segmentation Using 3D Fully Convolutional
    Deep Networks" (2017).

    >>> logits, mask = jnp.array([[50.0, 50.0, -50.0]]), jnp.array([[1, 0, 0]])  # one right, one too many
    >>> print(tversky_loss(logits[..., None], mask, alpha=0.25, beta=0.75, smooth=0.0))
    [0.2]
    """
    fn = "tversky_loss"
    given = images(
        fn,
        predictions,
        targets,
        from_logits=from_logits,
        axis=axis,
        where=where,
        weights=weights,
        ignore_index=ignore_index,
    )
    losses = index_loss(fn, count(given), alpha, beta, smooth)
    return over_classes(fn, losses, class_weights, reduction, ignore_background)


@loss()
def focal_tversky_loss(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    alpha: float | Array = 0.3,
    beta: float | Array = 0.7,
    gamma: float | Array = 4 / 3,
    smooth: float | Array = 1.0,
    from_logits: bool = True,
    class_weights: Num[ArrayLike, "classes"] | None = None,
    ignore_background: bool = False,
    axis: Axis | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> Float[Array, "..."]:
    r"""Focal Tversky loss: $\left(1 - \frac{I + s}{I + \alpha F_+ + \beta F_- + s}\right)^{1/\gamma}$ for each class,
    then their mean.

    $I$, $F_+$ and $F_-$ are those of `tversky_loss`. $\gamma > 1$ puts weight on classes that are nearly right, where
    the power is steepest; many implementations call the power itself $\gamma$. The authors' $\alpha$ is our $\beta$.

    Args:
      predictions: logits `[batch, *pixels, classes]`, of which a softmax is taken, or for `[..., 1]` a sigmoid;
        `-inf` rules a class out. With `from_logits=False`: probabilities.
      targets: the shape of the predictions, 1 for the class of a pixel and 0 for the others (or between), any real or
        boolean dtype; or class indices without the class axis, in [0, classes): outside of it the losses are NaN, and
        `checkify` with `user_checks` reports it. For `[..., 1]`, with or without the class axis, so are integers other
        than 0 and 1. Floating targets are not checked.
      smooth: $s \ge 0$. With 0 a class that is neither predicted nor there has loss 0, with zero gradient.
      alpha: $\alpha \ge 0$, what a false positive counts.
      beta: $\beta \ge 0$, what a false negative counts.
      gamma: $\gamma > 0$; the power is $1/\gamma$, 3/4 by default. The derivative at a loss of 0 counts as 0.
      from_logits: whether predictions are logits.
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

    Reference: Abraham, Khan, "A Novel Focal Tversky Loss Function with Improved Attention U-Net for Lesion
    Segmentation" (2019).

    >>> logits, mask = jnp.array([[50.0, 50.0, -50.0]]), jnp.array([[1, 0, 0]])  # one right, one too many
    >>> print(focal_tversky_loss(logits[..., None], mask, alpha=1.0, beta=1.0, gamma=0.5, smooth=0.0))
    [0.25]
    """
    fn = "focal_tversky_loss"
    given = images(
        fn,
        predictions,
        targets,
        from_logits=from_logits,
        axis=axis,
        where=where,
        weights=weights,
        ignore_index=ignore_index,
    )
    losses = index_loss(fn, count(given), alpha, beta, smooth)
    exponent = 1 / jnp.asarray(checks.in_range(fn, "gamma", gamma, 0, jnp.inf, open_low=True), losses.dtype)
    losses = stable.power(losses, checks.same_shape(fn, "gamma", exponent, (), "number that it is"))
    return over_classes(fn, losses, class_weights, reduction, ignore_background)


@loss()
def jaccard_loss(
    predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    smooth: float | Array = 1.0,
    from_logits: bool = True,
    class_weights: Num[ArrayLike, "classes"] | None = None,
    ignore_background: bool = False,
    axis: Axis | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> Float[Array, "..."]:
    r"""Soft Jaccard loss: $1 - \frac{I + s}{P + T - I + s}$ for each class, then their mean.

    $I = \sum p\,t$ over the pixels of an image, $P$ and $T$ the sums of the probabilities and of the targets: 1 minus
    intersection over union, also called IoU loss. Nearly perfect predictions keep their digits.

    Args:
      predictions: logits `[batch, *pixels, classes]`, of which a softmax is taken, or for `[..., 1]` a sigmoid;
        `-inf` rules a class out. With `from_logits=False`: probabilities.
      targets: the shape of the predictions, 1 for the class of a pixel and 0 for the others (or between), any real or
        boolean dtype; or class indices without the class axis, in [0, classes): outside of it the losses are NaN, and
        `checkify` with `user_checks` reports it. For `[..., 1]`, with or without the class axis, so are integers other
        than 0 and 1. Floating targets are not checked.
      smooth: $s \ge 0$. With 0 a class that is neither predicted nor there has loss 0, with zero gradient.
      from_logits: whether predictions are logits.
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

    Reference: Rahman, Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation" (2016).

    >>> logits, mask = jnp.array([[50.0, 50.0, -50.0]]), jnp.array([[1, 0, 0]])  # one right, one too many
    >>> print(jaccard_loss(logits[..., None], mask, smooth=0.0))
    [0.5]
    """
    fn = "jaccard_loss"
    given = images(
        fn,
        predictions,
        targets,
        from_logits=from_logits,
        axis=axis,
        where=where,
        weights=weights,
        ignore_index=ignore_index,
    )
    losses = index_loss(fn, count(given), 1.0, 1.0, smooth)
    return over_classes(fn, losses, class_weights, reduction, ignore_background)
