"""Soft counts of right and wrong pixels of each class, and the one index that Dice, Tversky and Jaccard are."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxloss._core import blocks, checks, stable
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.class_rows import one_hot
from jaxloss._core.precision import cotangent
from jaxloss._core.reduction import fill
from jaxloss._core.typing import Array
from jaxloss._segmentation.images import Images
from jaxloss._segmentation.probabilities import Activation, class_means, evaluate, pull
from jaxloss._segmentation.shares import share


class Counts(NamedTuple):
    """Over the pixels: $\\sum p\\,t$, $\\sum p\\,(1-t)$ and $\\sum (1-p)\\,t$, without the summed axes."""

    hits: Array
    false_alarms: Array
    misses: Array


class _Pixels(NamedTuple):
    """What is known of each pixel and class; all of the same number of dimensions."""

    p: Array
    q: Array
    t: Array
    weights: Array | None


def count(images: Images) -> Counts:
    over = images.axes
    return _count(images.activation, over, images.predictions, images.targets, images.keep, images.weights)


@functools.partial(custom_vjp, nondiff_argnums=(0, 1))
def _count(
    activation: Activation, over: tuple[int, ...], x: Array, t: Array, keep: Array | None, weights: Array | None
) -> Counts:
    if not over:
        return Counts(*_terms(_pixels(evaluate(activation, x, keep)[:2], t, keep, weights)))
    operands = blocks.folded((x, t, keep, weights), over[-1])
    if operands[0].ndim > x.ndim:
        over = (*over, over[-1] + 1)
    # One axis after the other: a float32 sum of a million numbers at once would lose three digits.
    *others, last = over
    of_lines = blocks.per_row(functools.partial(_along, activation, last), operands, (last, operands[0].ndim - 1))
    return Counts(*(jnp.sum(s, others) for s in of_lines))


def _along(activation: Activation, axis: int, x: Array, t: Array, keep: Any, weights: Any) -> list[Array]:
    found = evaluate(activation, x, keep, several=True)
    return [blocks.add_up(term, axis) for term in _terms(_pixels(found[:2], t, keep, weights))]


def _pixels(found: tuple[Array, Array], t: Array, keep: Array | None, weights: Array | None) -> _Pixels:
    p, q = found
    t = fill(keep, as_weights(t, p))
    return _Pixels(p, q, t, None if weights is None else fill(_rows(keep), weights.astype(p.dtype)))


def as_weights(t: Array, p: Array) -> Array:
    """Class indices become one-hot; weights of classes stay. Of one class, integers must be 1 or 0, else NaN."""
    if t.shape[-1] < p.shape[-1]:
        return one_hot(t[..., 0], p)
    weights = t.astype(p.dtype)
    if p.shape[-1] > 1 or not jnp.issubdtype(t.dtype, jnp.integer):
        return weights
    return jnp.where((t == 0) | (t == 1), weights, jnp.nan)


def _rows(keep: Array | None) -> Array | None:
    return None if keep is None else jnp.any(keep, -1, keepdims=True)


def _terms(x: _Pixels) -> tuple[Array, Array, Array]:
    terms = x.p * x.t, x.p * (1 - x.t), x.q * x.t
    return terms if x.weights is None else tuple(x.weights * term for term in terms)  # type: ignore[return-value]


def _count_fwd(activation: Activation, over: tuple[int, ...], *operands: Any) -> tuple[Counts, Any]:
    return _count(activation, over, *operands), operands


def _count_bwd(activation: Activation, over: tuple[int, ...], operands: Any, g: Counts) -> tuple[Array | None, ...]:
    # Why a rule: autodiff keeps the probabilities and two more arrays of their size in float32.
    x, t, keep, weights = operands
    hits, alarms, misses = parts = Counts(*(jnp.expand_dims(part, over) for part in g))
    stats = means = None
    if activation == "softmax":
        stats = blocks.per_row(lambda x, keep: evaluate(activation, x, keep).stats, (x, keep), -1)
        of_rows = stable.RowStats(*(s[..., None] for s in stats))
        means = blocks.per_row(functools.partial(_means, activation), (*operands, of_rows, parts), -1)
    found = evaluate(activation, x, keep, stats)
    pixels = _pixels(found[:2], t, keep, weights)
    p, q, t_, w = pixels
    to_t = fill(keep, (hits - alarms) * p + misses * q)
    to_weights = None
    if w is not None:
        to_weights = jnp.sum(p * (hits * t_ + alarms * (1 - t_)) + q * misses * t_, -1, keepdims=True)
        to_weights = cotangent(fill(_rows(keep), to_weights), weights)
        to_t = w * to_t
    to_x = fill(keep, pull(activation, found, _to_p(pixels, parts), means))
    return cotangent(to_x, x), cotangent(to_t, t), None, to_weights


def _to_p(pixels: _Pixels, g: Counts) -> Array:
    """The gradient by the probabilities."""
    to_p = g.hits * pixels.t + g.false_alarms * (1 - pixels.t) - g.misses * pixels.t
    return to_p if pixels.weights is None else pixels.weights * to_p


def _means(activation: Activation, x: Array, t: Array, keep: Any, weights: Any, stats: Any, g: Counts) -> Any:
    stats = stable.RowStats(*(s[..., 0] for s in stats))
    found = evaluate(activation, x, keep, stats, several=True)
    return class_means(found, _to_p(_pixels(found[:2], t, keep, weights), g))


_count.defvjp(_count_fwd, _count_bwd)


def index_loss(fn: str, counts: Counts, alpha: Any, beta: Any, smooth: Any) -> Array:
    """1 minus the index (hits + smooth) / (hits + alpha false alarms + beta misses + smooth); 0 where that is 0 / 0."""

    def option(name: str, value: Any) -> Array:
        checks.in_range(fn, name, value, 0, math.inf)
        return checks.scalar(fn, name, value).astype(counts.hits.dtype)

    wrong = option("alpha", alpha) * counts.false_alarms + option("beta", beta) * counts.misses
    return share(wrong, counts.hits + option("smooth", smooth))
