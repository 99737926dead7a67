"""Formulas of the losses with a margin, from the papers."""

from __future__ import annotations

from typing import Any

import numpy as np
from registry_formulas import EXACT_CONTEXT, Maths, kept_classes, last, sigmoid_binary_cross_entropy, weighted


def elementary(m: Maths, name: str, x: Any) -> Any:
    """A function that `Maths` has not, of mpmath, NumPy or jax.numpy."""
    if m.xp is np and np.asarray(x).dtype == object:
        return np.frompyfunc(getattr(EXACT_CONTEXT, name), 1, 1)(x)
    return getattr(m.xp, name)(x)


def _positive(m: Maths, x: Any) -> Any:
    return m.where(x > 0, x, 0 * x)


def hinge_loss(m: Maths, x: Any, y: Any, **given: Any) -> Any:
    return weighted(m, _positive(m, 1 - x * y), **given)


def squared_hinge_loss(m: Maths, x: Any, y: Any, **given: Any) -> Any:
    return weighted(m, _positive(m, 1 - x * y) ** 2, **given)


def perceptron_loss(m: Maths, x: Any, y: Any, **given: Any) -> Any:
    return weighted(m, _positive(m, -x * y), **given)


def soft_margin_loss(m: Maths, x: Any, y: Any, **given: Any) -> Any:
    return weighted(m, m.softplus(-x * y), **given)


def sparsemax_loss(m: Maths, x: Any, y: Any, **given: Any) -> Any:
    """max over p in [0, 1] of p x + p (1 - p), less y x: the conjugate of the Gini entropy, at its maximum."""
    p = (x + 1) / 2
    p = m.where(p < 0, 0 * p, m.where(p > 1, 0 * p + 1, p))
    return weighted(m, p * x + p * (1 - p) - y * x, **given)


def _rows(m: Maths, s: Any, y: Any, axis: Any, where: Any, ignore_index: Any) -> tuple[Any, Any, Any, Any]:
    keep = kept_classes(m, s, where, axis)
    rows = last(m, s, axis)
    label = y[..., None] == np.arange(rows.shape[-1]).reshape((1,) * y.ndim + (-1,))
    dropped = ~keep.any(-1) | ((y == ignore_index) if ignore_index is not None else False)
    return m.where(keep, rows, m.number(-np.inf)), label, dropped, rows


def _ahead(m: Maths, s: Any, y: Any, margin: float, axis: Any, where: Any, ignore_index: Any) -> Any:
    scores, label, dropped, rows = _rows(m, s, y, axis, where, ignore_index)
    own = m.where(label, rows, 0 * rows).sum(-1, keepdims=True)
    losses = m.xp.max(m.where(label, 0 * rows, scores - own + margin), axis=-1)
    return m.where(dropped, 0 * own[..., 0], losses)


def multiclass_hinge_loss(m: Maths, s: Any, y: Any, axis: Any = -1, where: Any = None, ignore_index: Any = None) -> Any:
    return _ahead(m, s, y, 1.0, axis, where, ignore_index)


def multiclass_perceptron_loss(
    m: Maths, s: Any, y: Any, axis: Any = -1, where: Any = None, ignore_index: Any = None
) -> Any:
    return _ahead(m, s, y, 0.0, axis, where, ignore_index)


def multiclass_sparsemax_loss(
    m: Maths, s: Any, y: Any, axis: Any = -1, where: Any = None, ignore_index: Any = None
) -> Any:
    """The conjugate of the Gini entropy less the label's score: the best of all supports, tried one by one."""
    scores, label, dropped, rows = _rows(m, s, y, axis, where, ignore_index)
    zeros = 0 * rows
    high = -m.xp.sort(-m.where(dropped[..., None], zeros, scores), axis=-1)
    value = None
    for k in range(1, rows.shape[-1] + 1):
        there = high[..., k - 1 : k] > -np.inf
        top = m.where(there, high[..., :k], zeros[..., :k])
        p = top - (top.sum(-1, keepdims=True) - 1) / k
        inside = (there & (p[..., -1:] >= 0))[..., 0]
        best = (p * top).sum(-1) - (p**2).sum(-1) / 2 + m.number(0.5)
        value = best if value is None else m.where(inside, best, value)
    own = m.where(label, rows, 0 * rows).sum(-1)
    return m.where(dropped, 0 * own, value - own)


# Every wrong class, every pair, every label


def _own_weight(m: Maths, class_weights: Any, y: Any) -> Any:
    return m.number(1.0) if class_weights is None else class_weights[np.asarray(y)]


def multi_margin_loss(
    m: Maths,
    s: Any,
    y: Any,
    p: int = 1,
    margin: Any = 1.0,
    axis: Any = -1,
    where: Any = None,
    class_weights: Any = None,
    ignore_index: Any = None,
) -> Any:
    scores, label, dropped, rows = _rows(m, s, y, axis, where, ignore_index)
    own = m.where(label, rows, 0 * rows).sum(-1, keepdims=True)
    kept = kept_classes(m, s, where, axis)
    short = m.where(label | ~kept, 0 * rows, _positive(m, margin - own + m.where(kept, scores, 0 * rows)) ** p)
    losses = short.sum(-1) / m.number(np.maximum(kept.sum(-1), 1)) * _own_weight(m, class_weights, y)
    return m.where(dropped, 0 * losses, losses)


def multilabel_margin_loss(m: Maths, s: Any, y: Any, margin: Any = 1.0, axis: Any = -1, where: Any = None) -> Any:
    keep = kept_classes(m, s, where, axis)
    y = last(m, m.xp.broadcast_to(y, s.shape), axis)
    s = last(m, s, axis)
    right, wrong = m.where(keep, y, 0 * y), m.where(keep, 1 - y, 0 * y)
    total = 0 * s[..., 0]
    for i in range(s.shape[-1]):
        short = _positive(m, margin - s[..., i : i + 1] + s)
        total = total + (right[..., i : i + 1] * wrong * short).sum(-1)
    return total / m.number(np.maximum(keep.sum(-1), 1))


def multilabel_soft_margin_loss(
    m: Maths,
    x: Any,
    y: Any,
    axis: Any = -1,
    where: Any = None,
    class_weights: Any = 1.0,
    pos_weight: Any = 1.0,
    label_smoothing: Any = 0.0,
) -> Any:
    keep = kept_classes(m, x, where, axis)
    y = last(m, m.xp.broadcast_to(y, x.shape), axis)
    x = last(m, x, axis)
    terms = sigmoid_binary_cross_entropy(m, x, y, pos_weight, label_smoothing) * class_weights
    return m.where(keep, terms, 0 * terms).sum(-1) / m.number(np.maximum(keep.sum(-1), 1))


def margin_softmax_cross_entropy(
    m: Maths,
    c: Any,
    y: Any,
    scale: Any = 64.0,
    angular_margin: Any = 0.5,
    cosine_margin: Any = 0.0,
    axis: Any = -1,
    where: Any = None,
    class_weights: Any = None,
    ignore_index: Any = None,
) -> Any:
    """By the addition theorem of the cosine, and the other classes together against the label."""
    cosines, label, dropped, rows = _rows(m, c, y, axis, where, ignore_index)
    cos, sin = (elementary(m, name, m.number(angular_margin)) for name in ("cos", "sin"))
    own = m.where(label, rows, 0 * rows).sum(-1, keepdims=True)
    sine = _positive(m, 1 - own**2) ** 0.5
    turned = m.where(own >= -cos, own * cos - sine * sin, own - angular_margin * sin) - cosine_margin
    others = m.where(label, m.number(-np.inf), scale * m.where(dropped[..., None], 0 * rows, cosines))
    alone = m.xp.max(others, axis=-1, keepdims=True) == -np.inf
    ahead = m.log_sum_exp(m.where(alone, 0 * rows, others)) - scale * turned
    losses = m.where(alone, 0 * own, m.softplus(ahead)).sum(-1) * _own_weight(m, class_weights, y)
    return m.where(dropped, 0 * losses, losses)
