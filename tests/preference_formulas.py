"""The preference losses, written as in their papers, for the kinds of numbers of `registry_formulas`."""

from __future__ import annotations

from typing import Any

import numpy as np
from registry_formulas import Maths, weighted


def log_sigmoid(m: Maths, z: Any) -> Any:
    return -m.softplus(-z)


def smoothed(m: Maths, z: Any, flips: Any) -> Any:
    return -(1 - flips) * log_sigmoid(m, z) - flips * log_sigmoid(m, -z)


def dpo_loss(
    m: Maths,
    chosen: Any,
    rejected: Any,
    reference_chosen: Any = 0.0,
    reference_rejected: Any = 0.0,
    beta: Any = 0.1,
    loss_type: str = "sigmoid",
    label_smoothing: Any = 0.0,
    **given: Any,
) -> Any:
    h = (chosen - reference_chosen) - (rejected - reference_rejected)
    z = beta * h
    if loss_type == "sigmoid":
        losses = smoothed(m, z, label_smoothing)
    elif loss_type == "robust":
        right, flipped = -log_sigmoid(m, z), -log_sigmoid(m, -z)
        losses = ((1 - label_smoothing) * right - label_smoothing * flipped) / (1 - 2 * label_smoothing)
    elif loss_type == "hinge":
        losses = m.where(z < 1, 1 - z, 0 * z)
    else:
        losses = (h - 1 / (2 * beta)) ** 2
    return weighted(m, losses, **given)


def simpo_loss(
    m: Maths, chosen: Any, rejected: Any, beta: Any = 2.0, gamma: Any = 0.5, label_smoothing: Any = 0.0, **given: Any
) -> Any:
    return weighted(m, smoothed(m, beta * (chosen - rejected) - gamma, label_smoothing), **given)


def cpo_loss(
    m: Maths, chosen: Any, rejected: Any, beta: Any = 0.1, alpha: Any = 1.0, label_smoothing: Any = 0.0, **given: Any
) -> Any:
    return weighted(m, smoothed(m, beta * (chosen - rejected), label_smoothing) - alpha * chosen, **given)


def orpo_loss(m: Maths, chosen: Any, rejected: Any, beta: Any = 0.1, **given: Any) -> Any:
    log_odds = [x - m.log(1 - m.exp(x)) for x in (chosen, rejected)]
    return weighted(m, -chosen - beta * log_sigmoid(m, log_odds[0] - log_odds[1]), **given)


def kto_loss(
    m: Maths,
    x: Any,
    reference: Any,
    desirable: Any,
    kl: Any = 0.0,
    beta: Any = 0.1,
    desirable_weight: Any = 1.0,
    undesirable_weight: Any = 1.0,
    **given: Any,
) -> Any:
    """The weight minus the value of the response."""
    kl = kl + 0 * x
    gain = beta * (x - reference - m.where(kl > 0, kl, 0 * kl))
    weight = m.where(desirable, desirable_weight + 0 * x, undesirable_weight + 0 * x)
    value = weight / (1 + m.exp(m.where(desirable, -gain, gain)))
    return weighted(m, weight - value, **given)


def policy_gradient_loss(
    m: Maths,
    x: Any,
    old: Any,
    advantages: Any,
    reference: Any = 0.0,
    clip_low: Any = 0.2,
    clip_high: Any = 0.2,
    kl_weight: Any = 0.0,
    importance: str = "token",
    normalizer: Any = "token",
    where: Any = None,
    weights: Any = 1.0,
) -> Any:
    if advantages.ndim < x.ndim:
        advantages = advantages[..., None]
    keep = np.ones(x.shape, bool) if where is None else np.broadcast_to(where, x.shape)
    count = m.number(np.maximum(keep.sum(-1, keepdims=True), 1).astype(np.float64))
    log_ratio = x - old
    if importance == "sequence":
        log_ratio = m.where(keep, log_ratio, 0 * log_ratio).sum(-1, keepdims=True) / count + 0 * log_ratio
    ratio = m.exp(log_ratio)
    low, high = 1 - clip_low + 0 * ratio, 1 + clip_high + 0 * ratio
    clipped = m.where(ratio < low, low, m.where(ratio > high, high, ratio))
    both = ratio * advantages, clipped * advantages
    d = reference - x
    losses = -m.where(both[0] < both[1], *both) + kl_weight * (m.exp(d) - 1 - d)
    if not isinstance(normalizer, str):
        losses = losses / normalizer
    elif normalizer == "sequence":
        losses = losses / count
    return weighted(m, losses, where, weights)
