"""Formulas of the losses with a margin, from the papers."""

from __future__ import annotations

from typing import Any

import numpy as np
from registry_formulas import Maths, kept_classes, last, weighted


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
