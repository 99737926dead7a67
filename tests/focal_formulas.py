"""Formulas of the cross-entropies that weigh examples by how right they are, from the papers."""

from __future__ import annotations

from typing import Any

import numpy as np
from registry_formulas import (
    Maths,
    last,
    one_hot,
    scores,
    smoothed,
    softmax_cross_entropy,
    weighted,
)


def power(m: Maths, base: Any, exponent: Any) -> Any:
    """base^exponent for base >= 0."""
    positive = base > 0
    powered = m.exp(exponent * m.log(m.where(positive, base, 0 * base + 1)))
    return m.where(positive, powered, m.where(exponent + 0 * base == 0, 0 * base + 1, 0 * base))


def sigmoid_focal_loss(
    m: Maths, x: Any, y: Any, alpha: Any = None, gamma: Any = 2.0, label_smoothing: Any = 0.0, **given: Any
) -> Any:
    y = smoothed(y, label_smoothing)
    p, q = m.exp(-m.softplus(-x)), m.exp(-m.softplus(x))
    cost = m.times(y, m.softplus(-x)) + m.times(1 - y, m.softplus(x))
    losses = power(m, (1 - y) * p + y * q, gamma) * cost
    return weighted(m, losses if alpha is None else (alpha * y + (1 - alpha) * (1 - y)) * losses, **given)


def asymmetric_loss(
    m: Maths,
    x: Any,
    y: Any,
    gamma_pos: Any = 0.0,
    gamma_neg: Any = 4.0,
    margin: Any = 0.05,
    label_smoothing: Any = 0.0,
    **given: Any,
) -> Any:
    y = smoothed(y, label_smoothing)
    p, q = m.exp(-m.softplus(-x)), m.exp(-m.softplus(x))
    shifted = m.where(p > margin, p - margin, 0 * p)
    # 1 - p + m, of which q may be all
    log_room = m.where(margin + 0 * p == 0, -m.softplus(x), m.log(m.where(shifted > 0, q + margin, 0 * p + 1)))
    negative = m.where(shifted > 0, power(m, shifted, gamma_neg) * -log_room, 0 * p)
    return weighted(m, m.times(y, power(m, q, gamma_pos) * m.softplus(-x)) + m.times(1 - y, negative), **given)


def _of_costs(
    m: Maths,
    f: Any,
    x: Any,
    y: Any,
    axis: Any = -1,
    where: Any = None,
    class_weights: Any = 1.0,
    label_smoothing: Any = 0.0,
    ignore_index: Any = None,
) -> Any:
    """The sum over the classes of f(-log p) by the weights of the labels, which may be indices."""
    z, keep = scores(m, x, where, axis)
    is_index = y.dtype.kind in "iu"
    t = one_hot(m, y, z.shape[-1]) if is_index else last(m, m.xp.broadcast_to(y, x.shape), axis)
    classes = keep.sum(-1, keepdims=True)
    even = m.number(1.0) * label_smoothing / m.number(np.maximum(classes, 1))
    t = ((1 - label_smoothing) * t + m.where(keep, even, 0 * even)) * class_weights
    gone = classes[..., 0] == 0
    if ignore_index is not None:
        gone = gone | (np.asarray(y) == ignore_index)
    z = m.where(classes > 0, z, 0 * m.number(1.0))
    losses = m.times(m.where(gone[..., None], 0 * t, t), f(m.log_sum_exp(z) - z)).sum(-1)
    return m.where(gone, 0 * losses, losses)


def softmax_focal_loss(m: Maths, x: Any, y: Any, gamma: Any = 2.0, **given: Any) -> Any:
    return _of_costs(m, lambda cost: power(m, 1 - m.exp(-cost), gamma) * cost, x, y, **given)


def generalized_cross_entropy(m: Maths, x: Any, y: Any, q: Any = 0.7, **given: Any) -> Any:
    return _of_costs(m, lambda cost: (1 - m.exp(-q * cost)) / q, x, y, **given)


def poly_loss_cross_entropy(
    m: Maths,
    x: Any,
    t: Any,
    epsilon: Any = 2.0,
    axis: Any = -1,
    where: Any = None,
    class_weights: Any = 1.0,
) -> Any:
    cross = softmax_cross_entropy(m, x, t, axis=axis, where=where, class_weights=class_weights)
    t = last(m, m.xp.broadcast_to(t, x.shape), axis)
    z, keep = scores(m, x, where, axis)
    empty = ~keep.any(-1, keepdims=True)
    z = m.where(empty, 0 * m.number(1.0), z)
    p = m.exp(z - m.log_sum_exp(z))
    miss = m.times(m.where(empty, 0 * t, t) * class_weights, 1 - p).sum(-1)
    return cross + epsilon * miss
