"""Overlap of boxes.

>>> import jax, jax.numpy as jnp
>>> box, apart = jnp.array([0.0, 0.0, 2.0, 2.0]), jnp.array([6.0, 0.0, 8.0, 2.0])
>>> print(iou_loss(box, apart), iou_loss(box, apart, variant="generalized"))
1.0 1.5
>>> for variant in ("plain", "generalized"):
...     print(jax.grad(lambda b: iou_loss(b, apart, variant=variant))(box))
[0. 0. 0. 0.]
[ 0.0625  0.     -0.125   0.    ]
"""

from __future__ import annotations

import functools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.precision import promote
from jaxloss._core.reduction import fill, reduce
from jaxloss._core.row_masks import masks
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction
from jaxloss._segmentation.shares import share

VARIANTS = ("plain", "generalized", "distance", "complete")


@loss()
def iou_loss(
    boxes: Float[ArrayLike, "*batch 4"],
    target_boxes: Num[ArrayLike, "..."],
    *,
    variant: Literal["plain", "generalized", "distance", "complete"] = "plain",
    constant_tradeoff: bool = True,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Intersection over union of two boxes: $1 - \frac{|A \cap B|}{|A \cup B|}$, and its variants.

    - `"generalized"` (GIoU) adds $\frac{|C| - |A \cup B|}{|C|}$, $C$ being the smallest box around both: boxes apart
      have a gradient.
    - `"distance"` (DIoU) adds $\rho^2 / c^2$ instead: the distance of the centres over the diagonal of $C$.
    - `"complete"` (CIoU) adds to that $\alpha v$, $v = \frac{4}{\pi^2}(\arctan\frac{w_B}{h_B} -
      \arctan\frac{w_A}{h_A})^2$, with the trade-off $\alpha = v / (1 - \mathrm{IoU} + v)$.

    Boxes of any size and at any place keep their digits, nearly identical ones too. Identical boxes have loss 0, empty
    ones too; where the union is empty otherwise, $\mathrm{IoU} = 0$. At kinks derivatives are finite.

    Args:
      boxes: $A$, `[*batch, 4]`, as $(x_1, y_1, x_2, y_2)$ with $x_1 \le x_2$ and $y_1 \le y_2$ in any unit; a box with
        corners the other way round is empty.
      target_boxes: $B$, likewise, broadcast to the shape of the boxes.
      variant: which loss.
      constant_tradeoff: $\alpha$ is a constant in the gradient, as in the paper. If false, the gradient is that of the
        loss.
      where: boxes to keep, `[*batch]`. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast to `[*batch]`.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      One loss for each box, or a scalar; at least float32. At most 1 for `"plain"`, and 2 for `"generalized"` and
      `"distance"`.

    Raises:
      TypeError: boxes are not floating-point, or `where` is not boolean.
      ValueError: the last axis is not 4 long, a shape does not broadcast, or an unknown option.

    Reference: Rezatofighi et al., "Generalized Intersection over Union" (2019); Zheng et al., "Distance-IoU Loss:
    Faster and Better Learning for Bounding Box Regression" (2020).

    >>> print(iou_loss(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[1.0, 0.0, 3.0, 2.0]])))
    [0.6666667]
    """
    fn = "iou_loss"
    checks.choice(fn, "variant", variant, VARIANTS)
    a, b = checks.floating(fn, "boxes", boxes), checks.number(fn, "target_boxes", target_boxes)
    if a.shape[-1:] != (4,):
        raise ValueError(f"{fn}: boxes must be (x1, y1, x2, y2) along the last axis, got shape {a.shape}")
    b = checks.broadcast(fn, "target_boxes", b, a.shape, "boxes")
    keep, rows = masks(fn, where, a.shape, (a.ndim - 1,), "boxes")
    of_boxes = functools.partial(_losses, variant, constant_tradeoff)
    # What is kept for the backward pass are the boxes.
    losses = jax.checkpoint(of_boxes, prevent_cse=False)(a, b, keep)
    return reduce(losses, where=rows, weights=weights, reduction=reduction, fn=fn)


class _Span(NamedTuple):
    """What two intervals have in common, and what they have not: lengths, none of which is a difference of others."""

    common: Array
    first_alone: Array
    second_alone: Array
    gap: Array  # between them
    around: Array  # from the first end to the last
    centres: Array  # distance, signed

    def over(self, unit: Array) -> _Span:
        """In other units. Losses do not depend on them, nor do derivatives: they are constants."""
        unit = lax.stop_gradient(jnp.where(unit > 0, unit, 1))
        return _Span(*(length / unit for length in self))

    @property
    def first(self) -> Array:
        return self.common + self.first_alone

    @property
    def second(self) -> Array:
        return self.common + self.second_alone


def _span(a1: Array, a2: Array, b1: Array, b2: Array) -> _Span:
    low, high = jnp.maximum(a1, b1), jnp.minimum(a2, b2)
    meet = (high > low) & (a2 > a1) & (b2 > b1)

    def alone(start: Array, end: Array) -> Array:
        return jnp.where(meet, (low - start) + (end - high), jnp.where(end > start, end - start, 0))

    return _Span(
        jnp.where(meet, high - low, 0),
        alone(a1, a2),
        alone(b1, b2),
        jnp.where(low > high, low - high, 0),
        jnp.maximum(a2, b2) - jnp.minimum(a1, b1),
        ((a1 - b1) + (a2 - b2)) / 2,
    )


def _losses(variant: str, constant_tradeoff: bool, a: Array, b: Array, keep: Array | None) -> Array:
    a, b = (fill(keep, box) for box in promote(a, b))
    undefined = jnp.any(jnp.isnan(a) | jnp.isnan(b), -1)
    unit = _unit(a, b)
    return jnp.where(undefined, _undefined(undefined, a, b), _of_boxes(variant, constant_tradeoff, unit * a, unit * b))


def _unit(a: Array, b: Array) -> Array:
    """1, or 1/4 for boxes so large that a difference of coordinates, or the sum of two, would be infinite."""
    large = jnp.maximum(jnp.abs(a), jnp.abs(b)) > jnp.finfo(a.dtype).max / 4
    return jnp.where(jnp.any(large, -1, keepdims=True), jnp.asarray(0.25, a.dtype), 1)


def _undefined(undefined: Array, a: Array, b: Array) -> Array:
    """NaN that has NaN as the derivative by each coordinate, of which a constant would have 0."""
    rows = undefined[..., None]
    factor = jnp.where(rows, jnp.nan, 0)
    return jnp.sum(factor * (jnp.where(rows, a, 0) + jnp.where(rows, b, 0)), -1)


def _of_boxes(variant: str, constant_tradeoff: bool, a: Array, b: Array) -> Array:
    x, y = (_span(a[..., i], a[..., i + 2], b[..., i], b[..., i + 2]) for i in (0, 1))
    plain = _plain(x.over(x.around), y.over(y.around), jnp.any(a != b, -1))
    if variant == "plain":
        return plain
    if variant == "generalized":
        return plain + _uncovered(x.over(x.around), y.over(y.around))
    unit = jnp.maximum(x.around, y.around)
    x, y = x.over(unit), y.over(unit)
    losses = plain + _ratio(jnp.square(x.centres) + jnp.square(y.centres), jnp.square(x.around) + jnp.square(y.around))
    if variant == "distance":
        return losses
    v = jnp.square((2 / math.pi) * (_angle(x.second, y.second) - _angle(x.first, y.first)))
    tradeoff = _ratio(v, plain + v)
    return losses + (lax.stop_gradient(tradeoff) if constant_tradeoff else tradeoff) * v


def _plain(x: _Span, y: _Span, differ: Array) -> Array:
    """What is not common over the union: 1 minus the index would lose the digits of nearly identical boxes."""
    first = x.first_alone * y.first + x.common * y.first_alone
    second = x.second_alone * y.second + x.common * y.second_alone
    common = x.common * y.common
    nothing = common + first + second == 0
    return jnp.where(nothing, differ.astype(common.dtype), share(first + second, common))


def _uncovered(x: _Span, y: _Span) -> Array:
    """The part of the box around both that is in neither: two corners, and what is between boxes apart."""
    corners = x.first_alone * y.second_alone + x.second_alone * y.first_alone
    between = x.gap * y.around + (x.first + x.second_alone) * y.gap
    union = x.first * y.first + x.second_alone * y.second + x.common * y.second_alone
    return share(corners + between, union)


def _ratio(part: Array, whole: Array) -> Array:
    return jnp.where(whole == 0, 0, part / jnp.where(whole == 0, 1, whole))


def _angle(width: Array, height: Array) -> Array:
    empty = (width == 0) & (height == 0)
    return jnp.where(empty, 0, jnp.arctan2(width, jnp.where(empty, 1, height)))
