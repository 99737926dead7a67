"""Formulas of the losses of segmentations and boxes, from the papers."""

from __future__ import annotations

from typing import Any

import numpy as np
from margin_formulas import elementary
from registry_formulas import Maths, log_softmax, one_hot, weighted


def probabilities(m: Maths, x: Any, from_logits: bool) -> Any:
    if not from_logits:
        return x
    return m.exp(-m.softplus(-x)) if x.shape[-1] == 1 else m.exp(log_softmax(m, x))


def weights_of_classes(m: Maths, x: Any, t: Any) -> Any:
    return t if np.ndim(t) == x.ndim else one_hot(m, t, x.shape[-1])


def _over_classes(m: Maths, losses: Any, class_weights: Any, reduction: str, ignore_background: bool) -> Any:
    losses = losses * class_weights
    losses = losses[..., 1:] if ignore_background and losses.shape[-1] > 1 else losses
    if reduction == "none":
        return losses
    return losses.sum(-1) / (losses.shape[-1] if reduction == "mean" else 1)


def index_loss(
    m: Maths,
    x: Any,
    t: Any,
    alpha: Any = 0.5,
    beta: Any = 0.5,
    smooth: Any = 1.0,
    gamma: Any = 1.0,
    from_logits: bool = True,
    class_weights: Any = 1.0,
    ignore_background: bool = False,
    axis: Any = None,
    weights: Any = None,
    reduction: str = "mean",
    apply_softmax: bool = True,
) -> Any:
    p = probabilities(m, x, from_logits and apply_softmax)
    t = weights_of_classes(m, x, t)
    w = 1.0 if weights is None else weights[..., None]
    axis = tuple(range(1, x.ndim - 1)) if axis is None else axis
    hits = (w * p * t).sum(axis)
    alarms, misses = (w * p).sum(axis) - hits, (w * t).sum(axis) - hits
    losses = 1 - (hits + smooth) / (hits + alpha * alarms + beta * misses + smooth)
    losses = losses if isinstance(gamma, float) and gamma == 1.0 else losses ** (1 / gamma)
    return _over_classes(m, losses, class_weights, reduction, ignore_background)


def focal_tversky_loss(
    m: Maths, x: Any, t: Any, alpha: Any = 0.3, beta: Any = 0.7, gamma: Any = 4 / 3, **options: Any
) -> Any:
    return index_loss(m, x, t, alpha=alpha, beta=beta, gamma=gamma, **options)


def jaccard_loss(m: Maths, x: Any, t: Any, **options: Any) -> Any:
    return index_loss(m, x, t, alpha=1.0, beta=1.0, **options)


def binary_dice_loss(m: Maths, x: Any, t: Any, smooth: Any = 1.0, apply_sigmoid: bool = True) -> Any:
    return index_loss(m, x[..., None], t[..., None], smooth=smooth, apply_softmax=apply_sigmoid)


def multiclass_generalized_dice_loss(
    m: Maths, x: Any, t: Any, smooth: Any = 1.0, apply_softmax: bool = True, ignore_background: bool = False
) -> Any:
    there = weights_of_classes(m, x, t).sum(tuple(range(x.ndim - 1)))
    rarest = m.xp.min(m.where(there > 0, there, m.number(np.inf)))
    rarity = m.where(there > 0, (rarest / m.where(there > 0, there, m.number(1.0))) ** 2, m.number(1.0))
    rarity = rarity / rarity.sum() * x.shape[-1]
    options = {"apply_softmax": apply_softmax, "ignore_background": ignore_background, "class_weights": rarity}
    losses = index_loss(m, x, t, smooth=smooth, **options)
    return losses.sum() / max(losses.size, 1)


def _extension(m: Maths, errors: Any, truth: Any) -> Any:
    """Along the last axis: errors in falling order times the increments of the Jaccard loss."""
    order = m.xp.argsort(-errors, axis=-1)
    errors = m.xp.take_along_axis(errors, order, -1)
    truth = m.xp.take_along_axis(m.xp.asarray(truth), order, -1)
    there = truth.sum(-1, keepdims=True)
    right = there - m.xp.cumsum(truth, -1)
    union = there + m.xp.cumsum(~truth, -1)
    jaccard = 1 - m.number(right) / m.number(m.xp.maximum(union, 1))
    before = m.xp.concatenate([0 * jaccard[..., :1], jaccard[..., :-1]], -1)
    return (errors * (jaccard - before)).sum(-1)


def lovasz_softmax_loss(
    m: Maths,
    x: Any,
    t: Any,
    classes: str = "present",
    from_logits: bool = True,
    class_weights: Any = 1.0,
    ignore_background: bool = False,
    axis: Any = None,
    reduction: str = "mean",
) -> Any:
    p = probabilities(m, x, from_logits)
    truth = m.xp.asarray(t)[..., None] == np.arange(x.shape[-1]) if np.ndim(t) < x.ndim else t == 1
    errors = m.where(truth, 1 - p, p)
    axis = tuple(range(1, x.ndim - 1)) if axis is None else axis
    ends = tuple(range(-len(axis), 0))
    errors, truth = (m.xp.moveaxis(a, axis, ends) for a in (errors, truth))
    errors, truth = (a.reshape(*a.shape[: a.ndim - len(axis)], -1) for a in (errors, truth))
    losses = _extension(m, errors, truth)  # [..., classes]
    counted = truth.any(-1) | (classes == "all")
    losses = m.where(counted, losses, 0 * losses) * class_weights
    if ignore_background:
        losses, counted = losses[..., 1:], counted[..., 1:]
    if reduction == "none":
        return losses
    return losses.sum(-1) / (m.number(m.xp.maximum(counted.sum(-1), 1)) if reduction == "mean" else 1)


def lovasz_hinge_loss(
    m: Maths, x: Any, y: Any, axis: Any = None, ignore_index: Any = None, where: Any = None, **given: Any
) -> Any:
    axis = (tuple(range(1, x.ndim)) or 0) if axis is None else axis
    axis = axis if isinstance(axis, tuple) else (axis,)
    truth = m.xp.broadcast_to(y, x.shape) > 0.5
    hinges = 1 - m.where(truth, x, -x)
    hinges = m.where(hinges > 0, hinges, 0 * hinges)
    keep = np.ones(x.shape, bool)
    if where is not None:
        keep = np.broadcast_to(where if where.ndim == x.ndim else np.expand_dims(where, axis), x.shape)
    if ignore_index is not None:
        keep = keep & (m.xp.broadcast_to(y, x.shape) != ignore_index)
    truth = truth & keep  # a pixel that is dropped has error 0 and is not there: it adds nothing to any set before it
    hinges = m.where(keep, hinges, 0 * hinges)
    ends = tuple(range(-len(axis), 0))
    hinges, truth = (m.xp.moveaxis(a, axis, ends) for a in (hinges, truth))
    hinges, truth = (a.reshape(*a.shape[: a.ndim - len(axis)], -1) for a in (hinges, truth))
    return weighted(m, _extension(m, hinges, truth), **given)


def iou_loss(
    m: Maths, a: Any, b: Any, variant: str = "plain", constant_tradeoff: bool = False, where: Any = None, **given: Any
) -> Any:
    b = m.xp.broadcast_to(b, a.shape)
    if where is not None:
        where = where if where.ndim < a.ndim else where.any(-1)
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = ([z[..., i] for i in range(4)] for z in (a, b))

    def larger(x: Any, y: Any) -> Any:
        return m.where(x > y, x, y)

    def smaller(x: Any, y: Any) -> Any:
        return m.where(x < y, x, y)

    zero = 0 * ax1
    width, height = smaller(ax2, bx2) - larger(ax1, bx1), smaller(ay2, by2) - larger(ay1, by1)
    common = larger(width, zero) * larger(height, zero)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - common
    losses = 1 - common / union
    wide, high = larger(ax2, bx2) - smaller(ax1, bx1), larger(ay2, by2) - smaller(ay1, by1)
    if variant == "generalized":
        losses = losses + (wide * high - union) / (wide * high)
    if variant in ("distance", "complete"):
        away = ((ax1 + ax2) - (bx1 + bx2)) ** 2 + ((ay1 + ay2) - (by1 + by2)) ** 2
        iou = 1 - losses
        losses = losses + away / 4 / (wide**2 + high**2)
    if variant == "complete":
        arctan = "atan" if m.xp is np and a.dtype == object else "arctan"
        (target, own), quarter = (
            [elementary(m, arctan, w / h) for w, h in ((bx2 - bx1, by2 - by1), (ax2 - ax1, ay2 - ay1))],
            elementary(m, arctan, zero + 1),
        )
        v = ((target - own) / (2 * quarter)) ** 2  # 4 / pi^2 times the square
        losses = losses + v**2 / (1 - iou + v)
    return weighted(m, losses, where=where, **given)
