"""The formulas of the losses, written as in a book, for three kinds of numbers.

Every formula takes a `Maths` first. `FLOAT64` is NumPy; `EXACT` has 100 digits, so that nothing needs to be written
carefully; `plain(dtype)` is what a user would write in jax.numpy, the baseline that low precision has to beat. None of
it is code of the library.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import mpmath
import numpy as np

EXACT_CONTEXT = mpmath.mp.clone()
EXACT_CONTEXT.dps = 100


@dataclasses.dataclass(frozen=True)
class Maths:
    exp: Callable[[Any], Any]
    log: Callable[[Any], Any]
    log1p: Callable[[Any], Any]
    tanh: Callable[[Any], Any]
    number: Callable[[Any], Any]
    xp: Any = np

    def where(self, condition: Any, x: Any, y: Any) -> Any:
        return self.xp.where(condition, x, y)

    def total(self, x: Any) -> Any:
        return self.xp.sum(self.xp.asarray(x))

    def xlogy(self, x: Any, y: Any) -> Any:
        """x log y, and 0 where x is."""
        return self.where(x == 0, 0 * x, x * self.log(self.where(x == 0, 0 * x + 1, y)))

    def times(self, x: Any, y: Any) -> Any:
        """x y, and 0 where x is."""
        return self.where(x == 0, 0 * x, x * self.where(x == 0, 0 * x, y))

    def softplus(self, x: Any) -> Any:
        return self.where(x > 0, x, 0 * x) + self.log1p(self.exp(-abs(x)))

    def log_sum_exp(self, x: Any) -> Any:
        """Over the last axis, which stays."""
        top = self.xp.max(x, axis=-1, keepdims=True)
        return top + self.log(self.xp.sum(self.exp(x - top), axis=-1, keepdims=True))


def _exact(name: str) -> Callable[[Any], Any]:
    return np.frompyfunc(getattr(EXACT_CONTEXT, name), 1, 1)


_number = np.frompyfunc(lambda x: EXACT_CONTEXT.mpf(float(x)) if not isinstance(x, EXACT_CONTEXT.mpf) else x, 1, 1)

FLOAT64 = Maths(np.exp, np.log, np.log1p, np.tanh, lambda x: np.asarray(x, np.float64))
EXACT = Maths(_exact("exp"), _exact("log"), _exact("log1p"), _exact("tanh"), lambda x: np.asarray(_number(x), object))


def plain(dtype: Any) -> Maths:
    return Maths(jnp.exp, jnp.log, jnp.log1p, jnp.tanh, lambda x: jnp.asarray(x, dtype), jnp)


# Regression


def weighted(m: Maths, losses: Any, where: Any = None, weights: Any = 1.0) -> Any:
    losses = losses * weights
    return losses if where is None else m.where(where, losses, 0 * losses)


def squared_error(m: Maths, x: Any, y: Any = 0.0, **given: Any) -> Any:
    return weighted(m, (x - y) ** 2, **given)


def l2_loss(m: Maths, x: Any, y: Any = 0.0, **given: Any) -> Any:
    return weighted(m, (x - y) ** 2 / 2, **given)


def weighted_sum(m: Maths, a: Any, b: Any, u: Any, v: Any) -> Any:
    return m.total(a * u) + m.total(b * v)


def uncertainty_weighted_sum(m: Maths, a: Any, b: Any, s: Any, t: Any) -> Any:
    return m.total(m.exp(-s) * a + s / 2 + 0 * a) + m.total(m.exp(-t) * b + t / 2 + 0 * b)


# Classes


def last(m: Maths, x: Any, axis: Any) -> Any:
    """The class axis, or axes flattened in their order, at the end."""
    axes = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    x = m.xp.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
    return x.reshape(*x.shape[: x.ndim - len(axes)], -1)


def kept_classes(m: Maths, x: Any, where: Any, axis: Any) -> Any:
    """The mask of classes, and of rows if it has fewer dimensions, in the layout of `last`."""
    if where is None:
        return np.ones(last(m, x, axis).shape, bool)
    if where.ndim < x.ndim:
        return np.broadcast_to(where[..., None], last(m, x, axis).shape)
    return last(m, np.broadcast_to(where, x.shape), axis)


def scores(m: Maths, x: Any, where: Any, axis: Any, softcap: Any = None, temperature: Any = 1.0) -> tuple[Any, Any]:
    keep = kept_classes(m, x, where, axis)
    x = last(m, x, axis) / temperature
    if softcap is not None:
        x = softcap * m.tanh(x / softcap)
    return m.where(keep, x, m.number(-np.inf)), keep


def softmax_cross_entropy(
    m: Maths,
    x: Any,
    t: Any,
    axis: Any = -1,
    where: Any = None,
    class_weights: Any = 1.0,
    label_smoothing: Any = 0.0,
    z_loss: Any = 0.0,
    logit_softcap: Any = None,
    temperature: Any = 1.0,
) -> Any:
    t = last(m, m.xp.broadcast_to(t, x.shape), axis)
    x, keep = scores(m, x, where, axis, logit_softcap, temperature)
    classes = keep.sum(-1, keepdims=True)
    smooth = m.number(1.0) * label_smoothing / m.number(np.maximum(classes, 1))
    t = ((1 - label_smoothing) * t + m.where(keep, smooth, 0 * smooth)) * class_weights
    lse = m.log_sum_exp(m.where(classes > 0, x, 0 * m.number(1.0)))
    terms = m.times(m.where(classes > 0, t, 0 * t), lse - x)
    losses = terms.sum(-1) + z_loss * lse[..., 0] ** 2
    return m.where(classes[..., 0] > 0, losses, 0 * losses)


def one_hot(m: Maths, labels: Any, classes: int) -> Any:
    return m.number((m.xp.asarray(labels)[..., None] == np.arange(classes)).astype(np.float32))


def integer_cross_entropy(
    m: Maths, x: Any, labels: Any, axis: Any = -1, where: Any = None, ignore_index: Any = None, **options: Any
) -> Any:
    keep = kept_classes(m, x, where, axis)
    rows = last(m, x, axis)
    target = one_hot(m, labels, rows.shape[-1])
    losses = softmax_cross_entropy(m, rows, target, where=None if where is None else keep, **options)
    return losses if ignore_index is None else m.where(labels == ignore_index, 0 * losses, losses)


def smoothed(y: Any, label_smoothing: Any) -> Any:
    """A label of yes or no, moved towards one half."""
    return (1 - label_smoothing) * y + label_smoothing / 2


def sigmoid_binary_cross_entropy(
    m: Maths, x: Any, y: Any, pos_weight: Any = 1.0, label_smoothing: Any = 0.0, **given: Any
) -> Any:
    y = smoothed(y, label_smoothing)
    return weighted(m, m.times(pos_weight * y, m.softplus(-x)) + m.times(1 - y, m.softplus(x)), **given)


def nll_loss(
    m: Maths,
    x: Any,
    labels: Any,
    axis: Any = -1,
    where: Any = None,
    class_weights: Any = 1.0,
    label_smoothing: Any = 0.0,
    ignore_index: Any = None,
) -> Any:
    keep = kept_classes(m, x, where, axis)
    rows = last(m, x, axis)
    classes = m.number(keep.sum(-1, keepdims=True))
    target = (1 - label_smoothing) * one_hot(m, labels, rows.shape[-1])
    target = target + m.where(keep, label_smoothing / classes, 0 * classes)
    losses = m.times(target * class_weights, -rows).sum(-1)
    return losses if ignore_index is None else m.where(labels == ignore_index, 0 * losses, losses)


def z_loss(
    m: Maths, x: Any, axis: Any = -1, where: Any = None, logit_softcap: Any = None, temperature: Any = 1.0
) -> Any:
    x, _ = scores(m, x, where, axis, logit_softcap, temperature)
    return m.log_sum_exp(x)[..., 0] ** 2


# Divergences


def _over(m: Maths, terms: Any, axis: Any, where: Any) -> Any:
    keep = kept_classes(m, terms, where, axis)
    rows = last(m, terms, axis)
    return m.where(keep, rows, 0 * m.number(1.0)).sum(-1)


def kl_divergence(m: Maths, x: Any, t: Any, axis: Any = -1, where: Any = None) -> Any:
    t = m.xp.broadcast_to(t, x.shape)
    return _over(m, m.xlogy(t, t) - m.times(t, x), axis, where)


def kl_divergence_with_log_targets(m: Maths, x: Any, log_t: Any, axis: Any = -1, where: Any = None) -> Any:
    return _over(m, m.times(m.exp(log_t), log_t - x), axis, where)


def generalized_kl_divergence(m: Maths, x: Any, t: Any, axis: Any = -1, where: Any = None) -> Any:
    t = m.xp.broadcast_to(t, x.shape)
    return _over(m, m.xlogy(t, t) - m.times(t, x) + m.exp(x) - t, axis, where)


def log_softmax(m: Maths, x: Any) -> Any:
    """A row of which nothing is kept is uniform, so that its terms are 0."""
    gone = m.xp.max(x, axis=-1, keepdims=True) == -np.inf
    x = m.where(gone, m.number(0.0), x)
    return x - m.log_sum_exp(x)


def softmax_kl_divergence(
    m: Maths,
    x: Any,
    y: Any,
    axis: Any = -1,
    where: Any = None,
    temperature: Any = 1.0,
    scale_by_temperature_squared: bool = False,
) -> Any:
    x, keep = scores(m, x, where, axis, None, temperature)
    y, _ = scores(m, y, where, axis, None, temperature)
    zero = 0 * m.number(1.0)
    log_p, log_q = (m.where(keep, log_softmax(m, z), zero) for z in (x, y))
    losses = m.times(m.where(keep, m.exp(log_q), zero), log_q - log_p).sum(-1)
    return losses * temperature**2 if scale_by_temperature_squared else losses


def _softmaxes(m: Maths, x: Any, y: Any, axis: Any, where: Any) -> tuple[Any, Any]:
    """Logarithms of both distributions; a row of which nothing is kept is uniform on both sides."""
    return tuple(log_softmax(m, scores(m, z, where, axis)[0]) for z in (x, y))


def total_variation(m: Maths, x: Any, y: Any, axis: Any = -1, where: Any = None) -> Any:
    log_p, log_q = _softmaxes(m, x, y, axis, where)
    return abs(m.exp(log_p) - m.exp(log_q)).sum(-1) / 2


def hellinger_distance(m: Maths, x: Any, y: Any, axis: Any = -1, where: Any = None) -> Any:
    log_p, log_q = _softmaxes(m, x, y, axis, where)
    return (((m.exp(log_p / 2) - m.exp(log_q / 2)) ** 2).sum(-1) / 2) ** 0.5


def wasserstein_1d(m: Maths, x: Any, y: Any, axis: Any = -1, where: Any = None) -> Any:
    log_p, log_q = _softmaxes(m, x, y, axis, where)
    return abs(m.xp.cumsum(m.exp(log_p) - m.exp(log_q), axis=-1)).sum(-1)


def renyi_divergence(m: Maths, x: Any, y: Any, axis: Any = -1, where: Any = None, alpha: Any = 0.5) -> Any:
    log_p, log_q = _softmaxes(m, x, y, axis, where)
    kept = (m.exp(log_p) > 0) | (m.exp(log_q) > 0)
    log_p, log_q = (m.where(kept, z, 0 * m.number(1.0)) for z in (log_p, log_q))
    terms = m.where(kept, m.exp(alpha * log_q + (1 - alpha) * log_p), 0 * m.number(1.0))
    return m.log(terms.sum(-1)) / (alpha - 1)


def entropy(
    m: Maths, x: Any, axis: Any = -1, where: Any = None, logit_softcap: Any = None, temperature: Any = 1.0
) -> Any:
    log_p = log_softmax(m, scores(m, x, where, axis, logit_softcap, temperature)[0])
    p = m.exp(log_p)
    return -m.times(p, log_p).sum(-1)


def sigmoid_kl_divergence(m: Maths, x: Any, y: Any, temperature: Any = 1.0) -> Any:
    """Of Bernoulli distributions: sum of q (log q - log p) over both outcomes."""
    x, y = x / temperature, y / temperature
    q = m.exp(-m.softplus(-y))
    return m.times(q, m.softplus(-x) - m.softplus(-y)) + m.times(1 - q, m.softplus(x) - m.softplus(y))


def gaussian_kl(
    m: Maths, mean: Any, s: Any, prior_mean: Any = 0.0, prior_s: Any = 0.0, axis: Any = -1, where: Any = None
) -> Any:
    prior_s = prior_s + 0 * s
    terms = (m.exp(s - prior_s) - 1 - (s - prior_s) + (mean - prior_mean) ** 2 * m.exp(-prior_s)) / 2
    return _over(m, terms, axis, where)


def js_divergence(
    m: Maths,
    x: Any,
    y: Any,
    axis: Any = -1,
    where: Any = None,
    beta: Any = 0.5,
    normalized: bool = False,
    temperature: Any = 1.0,
) -> Any:
    x, _ = scores(m, x, where, axis, None, temperature)
    y, _ = scores(m, y, where, axis, None, temperature)
    p, q = m.exp(log_softmax(m, x)), m.exp(log_softmax(m, y))
    mixed = beta * q + (1 - beta) * p
    kl = [(m.xlogy(side, side) - m.xlogy(side, mixed)).sum(-1) for side in (q, p)]
    total = beta * kl[0] + (1 - beta) * kl[1]
    return total / (beta * (1 - beta)) if normalized else total
