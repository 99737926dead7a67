"""Softmax of cosines in which the label has to be ahead by a margin: CosFace and ArcFace."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss._core import blocks, checks, stable
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.class_rows import Rows
from jaxloss._core.elements import with_slopes
from jaxloss._core.precision import compute_dtype, cotangent
from jaxloss._core.reduction import fill
from jaxloss._core.tracing import traced_once
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Integer, Num, Reduction


@loss()
def margin_softmax_cross_entropy(
    cosines: Float[ArrayLike, "*batch classes"],
    labels: Integer[ArrayLike, "*batch"],
    *,
    scale: float | Array = 64.0,
    angular_margin: float | Array = 0.5,
    cosine_margin: float | Array = 0.0,
    axis: Axis = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    class_weights: Num[ArrayLike, "classes"] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Cross-entropy of scaled cosines with a margin for the label: $-c_y\log\mathrm{softmax}(z)_y$.

    Here $z_k = s\cos\theta_k$, and for the label $z_y = s\,(\cos(\theta_y + m_1) - m_2)$. The defaults are ArcFace;
    `angular_margin=0.0, cosine_margin=0.35` is CosFace, and both 0 a softmax of scaled cosines. Where
    $\theta_y + m_1 > \pi$ it is $\cos\theta_y - m_1\sin m_1 - m_2$, as in the authors' code, so that it always falls.

    The derivative of $\cos(\theta + m_1)$ by $\cos\theta$ is infinite at $\theta = 0$. It is taken at an angle of no
    less than $\sqrt{\epsilon}$ (3.5e-4 in float32), below which cosines are rounding noise.

    Args:
      cosines: $\cos\theta$, of an embedding with the direction of each class.
      labels: class indices $y$, the shape of the cosines without `axis`, in [0, classes); outside of it loss and
        gradient of the example are NaN, and `checkify` with `user_checks` reports it.
      scale: $s > 0$, a number.
      angular_margin: $m_1$ in [0, pi), in radians, a number.
      cosine_margin: $m_2 \ge 0$, a number.
      axis: the class axis; several form one class axis in their order, which the labels index flattened.
      where: classes (as many dimensions as the cosines) or rows (fewer) to keep. What is dropped adds 0 to value and
        gradient, even if NaN; a label whose class is dropped costs `inf`.
      weights: multiply the losses of the rows.
      class_weights: $c$, one for each class. As in every mean here, only `weights` divide.
      ignore_index: rows with this label are dropped.
      reduction: `"none"`, `"mean"` or `"sum"` over the rows; see `jaxloss.reduce`.

    Returns:
      One loss for each row (the shape of the labels), or a scalar; at least float32.

    Raises:
      TypeError: cosines are not floating-point, labels not integer or `where` not boolean.
      ValueError: a shape does not fit the cosines, there are no classes, or an option is out of its range.

    Reference: Deng, Guo, Xue, Zafeiriou, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition" (2019); Wang
    et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition" (2018).

    >>> cosines = jnp.array([[0.75, 0.5], [0.75, 0.5]])
    >>> print(margin_softmax_cross_entropy(cosines, jnp.array([0, 1]), scale=10.0))
    [1.7749503 7.2647343]
    """
    fn = "margin_softmax_cross_entropy"
    checks.in_range(fn, "scale", scale, 0, math.inf, open_low=True)
    checks.in_range(fn, "angular_margin", angular_margin, 0, math.pi, open_high=True)
    checks.in_range(fn, "cosine_margin", cosine_margin, 0, math.inf)
    rows = Rows(fn, "cosines", cosines, axis, where)
    y, c = rows.labels(labels, ignore_index), rows.class_weights(class_weights)
    options = {"scale": scale, "angular_margin": angular_margin, "cosine_margin": cosine_margin}
    numbers = tuple(checks.scalar(fn, *option) for option in options.items())
    losses = _margin_softmax(rows.axis, rows.logits, rows.keep_of_entries(), y, *numbers)
    return rows.total(rows.of_label(c, losses, y), weights, reduction)


class _Row(NamedTuple):
    """Of each row: the largest of the other classes, the sum of their exponentials below it, and the label's cosine."""

    top: Array
    others: Array
    own: Array


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _margin_softmax(axis: int, x: Array, keep: Array | None, label: Array, *numbers: Array) -> Array:
    return _forward(axis, x, keep, label, *numbers)[0]


def _cosines(x: Array, keep: Array | None, label: Array, dtype: Any, axis: int) -> tuple[Array, Array, Array]:
    """The cosines, those of the other classes, and where the label is (which has a class axis of length 1)."""
    c = x.astype(dtype)
    if keep is not None:  # a dropped class rules itself out, a dropped row has zeros
        c = fill(keep, c) if keep.shape[axis] == 1 else jnp.where(keep, c, -jnp.inf)
    at_label = stable.is_label(c, jnp.squeeze(label, axis), axis)
    return c, jnp.where(at_label, -jnp.inf, c), at_label


def _in_block(axis: int, x: Array, keep: Array | None, label: Array, scale: Array) -> _Row:
    c, other, at_label = _cosines(x, keep, label, scale.dtype, axis)
    top = jnp.max(other, axis, keepdims=True)  # moves with the class that has it, whose exponential then stays 1
    others = jnp.sum(_below(other, stable.reference(top), scale), axis)
    return _Row(jnp.squeeze(top, axis), others, jnp.sum(jnp.where(at_label, c, 0), axis))


def _below(other: Array, top: Array, scale: Array) -> Array:
    """exp(scale * (other - top)); where there is no class, without a slope by the scale, which would be 0 * inf."""
    gone = other == -jnp.inf
    return jnp.where(gone, 0, jnp.exp(scale * jnp.where(gone, 0, other - top)))


@functools.partial(traced_once, static_argnums=0)
def _forward(axis: int, x: Array, keep: Array | None, label: Array, *numbers: Array) -> tuple[Array, Any]:
    scale, angular, cosine = (jnp.asarray(n, compute_dtype(x)) for n in numbers)
    classes, label = x.shape[axis], label.astype(jnp.int32)
    operands = (x, keep, jnp.expand_dims(label, axis), scale)
    row = blocks.per_row(functools.partial(_in_block, axis), operands, axis)
    lead = _lead(row, scale, _with_margin(row.own, angular, cosine))
    losses = jnp.where((label >= 0) & (label < classes), stable.fused_softplus(lead), jnp.nan)
    return losses, (x, keep, label, numbers, row)


def _lead(row: _Row, scale: Array, own: Array) -> Array:
    """By how much the other classes together are ahead of the label."""
    return scale * (row.top - own) + jnp.log(row.others)


@with_slopes
def _with_margin(c: Array, angular: Array, cosine: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    cos, sin = jnp.cos(angular), jnp.sin(angular)
    square = (1 - c) * (1 + c)
    least = jnp.finfo(c.dtype).eps
    root = jnp.sqrt(jnp.where(square > least, square, least))
    sine = jnp.where(square > least, root, lax.stop_gradient(jnp.sqrt(jnp.maximum(square, 0))))  # no infinite slope
    near = c >= -cos
    value = jnp.where(near, c * cos - sine * sin, c - angular * sin) - cosine
    slope = jnp.where(near, cos + sin * (c / root), 1)
    by_angle = jnp.where(near, -(sine * cos + c * sin), -(sin + angular * cos))
    return value, (slope, by_angle, -jnp.ones_like(c))


def _backward(axis: int, residuals: Any, g: Array) -> Any:
    # Why a rule: autodiff keeps float32 arrays of the size of the cosines, adds to the label's place by a scatter, and
    # is infinite times 0 where a cosine is 1.
    x, keep, label, numbers, row = residuals
    scale, angular, cosine = (jnp.asarray(n, compute_dtype(x)) for n in numbers)
    own, pull = jax.vjp(_with_margin, row.own, angular, cosine)
    lead = _lead(row, scale, own)
    valid = (label >= 0) & (label < x.shape[axis])
    wrong = g * jnp.where(valid, stable.sigmoids(lead)[0], jnp.nan)  # the probability of the other classes
    to_own, to_angular, to_cosine = pull(-scale * wrong)

    c, other, at_label = _cosines(x, keep, jnp.expand_dims(label, axis), scale.dtype, axis)
    share = wrong / jnp.where(row.others == 0, 1, row.others)
    top, share = jnp.expand_dims(stable.reference(row.top), axis), jnp.expand_dims(share, axis)
    p = _below(other, top, scale) * share
    to_x = fill(keep, jnp.where(at_label, jnp.expand_dims(to_own, axis), scale * p))
    to_scale = jnp.sum(p * jnp.where(jnp.isinf(c), 0, c)) - jnp.sum(wrong * own)
    to_numbers = zip((to_scale, to_angular, to_cosine), numbers, strict=True)
    return cotangent(to_x, x), None, None, *(cotangent(ct, jnp.asarray(n)) for ct, n in to_numbers)


_margin_softmax.defvjp(_forward, _backward)
