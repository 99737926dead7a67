"""The losses of tempered distributions, from the papers. The normaliser is found by bisection."""

from __future__ import annotations

from typing import Any

import numpy as np
from registry_formulas import FLOAT64, Maths, kept_classes, last, one_hot


def exp_t(m: Maths, x: Any, t: float) -> Any:
    if t == 1:
        return m.exp(x)
    base = 1 + (1 - m.number(t)) * x
    positive = base > 0
    return m.where(positive, m.where(positive, base, m.number(1.0)) ** (1 / (1 - m.number(t))), 0 * m.number(1.0))


def normaliser(m: Maths, x: Any, t: float) -> Any:
    top = m.xp.max(x, axis=-1, keepdims=True)
    log, t_ = m.log(m.number(float(x.shape[-1]))), m.number(t)
    low, high = top, top + (log if t == 1 else (1 - m.exp((t_ - 1) * log)) / (1 - t_)) * (1 + m.number(1e-6))
    for _ in range(60):
        middle = (low + high) / 2
        above = exp_t(m, x - middle, t).sum(-1, keepdims=True) > 1
        low, high = m.where(above, middle, low), m.where(above, high, middle)
    return (low + high) / 2


def tempered(m: Maths, x: Any, t: float) -> Any:
    """exp_t(x - lambda) along the last axis, which add up to 1."""
    if m.xp is not np or x.dtype != object:
        return exp_t(m, x - normaliser(m, x, t), t)
    found = m.number(normaliser(FLOAT64, x.astype(float), t))
    for _ in range(4):  # Newton's method doubles the digits
        p = exp_t(m, x - found, t)
        slopes = m.where(p > 0, m.where(p > 0, p, m.number(1.0)) ** m.number(t), 0 * p)
        found = found + (p.sum(-1, keepdims=True) - 1) / slopes.sum(-1, keepdims=True)
    return exp_t(m, x - found, t)


def _rows(m: Maths, x: Any, axis: Any, where: Any) -> tuple[Any, Any, Any]:
    keep = kept_classes(m, x, where, axis)
    some = keep.any(-1)
    rows = m.where(keep | ~some[..., None], last(m, x, axis), m.number(-np.inf))
    return m.where(some[..., None], rows, 0 * m.number(1.0)), keep, some


def entmax_loss(
    m: Maths, x: Any, y: Any, alpha: float = 1.5, axis: Any = -1, where: Any = None, ignore_index: Any = None
) -> Any:
    s, _, some = _rows(m, x, axis, where)
    target = one_hot(m, y, s.shape[-1])
    if alpha == 1:
        losses = (m.times(target, m.log_sum_exp(s) - s)).sum(-1)
    else:
        p = tempered(m, s, 2 - alpha)
        a = m.number(alpha)
        losses = (m.times(p, s) - m.times(target, s)).sum(-1) + (1 - (p**a).sum(-1)) / (a * (a - 1))
    some = some if ignore_index is None else some & (y != ignore_index)
    return m.where(some, losses, 0 * m.number(1.0))


def bi_tempered_logistic_loss(
    m: Maths,
    x: Any,
    y: Any,
    t1: float = 0.8,
    t2: float = 1.2,
    label_smoothing: float = 0.0,
    axis: Any = -1,
    where: Any = None,
    ignore_index: Any = None,
) -> Any:
    rows, keep, some = _rows(m, x, axis, where)
    target = one_hot(m, y, rows.shape[-1]) if np.ndim(y) < x.ndim else last(m, m.xp.broadcast_to(y, x.shape), axis)
    spread = label_smoothing / m.number(np.maximum(keep.sum(-1, keepdims=True), 1))
    target = (1 - label_smoothing) * target + m.where(keep, spread, 0 * spread)
    p = tempered(m, rows, t2)

    def log_t(z: Any) -> Any:
        z = m.where(z > 0, z, 0 * z + 1)
        return m.log(z) if t1 == 1 else (z ** (1 - m.number(t1)) - 1) / (1 - m.number(t1))

    none = m.number(-np.inf) if t1 == 1 else -1 / (1 - m.number(t1))
    log_p = m.where(p > 0, log_t(p), none)
    a = 2 - m.number(t1)
    powers = [m.where(z > 0, m.where(z > 0, z, 0 * z + 1) ** a, 0 * z) for z in (target, p)]
    losses = (m.times(target, log_t(target) - log_p) - (powers[0] - powers[1]) / a).sum(-1)
    some = some if ignore_index is None else some & (y != ignore_index)
    return m.where(some, losses, 0 * m.number(1.0))
