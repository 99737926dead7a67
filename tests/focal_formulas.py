"""Formulas of the cross-entropies that weigh examples by how right they are, from the papers."""

from __future__ import annotations

from typing import Any

from registry_formulas import Maths, weighted


def power(m: Maths, base: Any, exponent: Any) -> Any:
    """base^exponent for base >= 0."""
    positive = base > 0
    powered = m.exp(exponent * m.log(m.where(positive, base, 0 * base + 1)))
    return m.where(positive, powered, m.where(exponent + 0 * base == 0, 0 * base + 1, 0 * base))


def sigmoid_focal_loss(m: Maths, x: Any, y: Any, alpha: Any = None, gamma: Any = 2.0, **given: Any) -> Any:
    p, q = m.exp(-m.softplus(-x)), m.exp(-m.softplus(x))
    cost = m.times(y, m.softplus(-x)) + m.times(1 - y, m.softplus(x))
    losses = power(m, (1 - y) * p + y * q, gamma) * cost
    return weighted(m, losses if alpha is None else (alpha * y + (1 - alpha) * (1 - y)) * losses, **given)


def asymmetric_loss(
    m: Maths, x: Any, y: Any, gamma_pos: Any = 0.0, gamma_neg: Any = 4.0, margin: Any = 0.05, **given: Any
) -> Any:
    p, q = m.exp(-m.softplus(-x)), m.exp(-m.softplus(x))
    shifted = m.where(p > margin, p - margin, 0 * p)
    # 1 - p + m, of which q may be all
    log_room = m.where(margin + 0 * p == 0, -m.softplus(x), m.log(m.where(shifted > 0, q + margin, 0 * p + 1)))
    negative = m.where(shifted > 0, power(m, shifted, gamma_neg) * -log_room, 0 * p)
    return weighted(m, m.times(y, power(m, q, gamma_pos) * m.softplus(-x)) + m.times(1 - y, negative), **given)
