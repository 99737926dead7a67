"""Soft counts of right and wrong pixels of each class, and the one index that Dice, Tversky and Jaccard are."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxloss._core import blocks, checks, stable
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.class_rows import one_hot
from jaxloss._core.lanes import class_index
from jaxloss._core.precision import cotangent
from jaxloss._core.reduction import fill
from jaxloss._core.typing import Array
from jaxloss._segmentation.images import Images
from jaxloss._segmentation.probabilities import Activation, Evaluated, class_means, evaluate, pull, softmax_stats
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
    stats = softmax_stats(activation, x, keep)
    if not over:
        return Counts(*_terms(_evaluated(activation, x, t, keep, weights, stats)[1]))
    with_axis = None if stats is None else stable.RowStats(*(s[..., None] for s in stats))
    folded = blocks.folded((x, t, keep, weights, with_axis), over[-1])
    if folded[0].ndim > x.ndim:
        over = (*over, over[-1] + 1)
    # One axis after the other: a float32 sum of a million numbers at once would lose three digits.
    *others, last = over
    of_lines = blocks.per_row(functools.partial(_along, activation, last), folded, (last, folded[0].ndim - 1))
    return Counts(*(jnp.sum(s, others) for s in of_lines))


def _along(activation: Activation, axis: int, x: Array, t: Array, keep: Any, weights: Any, stats: Any) -> Any:
    stats = None if stats is None else stable.RowStats(*(s[..., 0] for s in stats))
    pixels = _evaluated(activation, x, t, keep, weights, stats, several=True)[1]
    if x.shape[-1] == 1:  # rows of pixels, which XLA:CPU's library adds up faster
        return tuple(blocks.add_up(term, axis) for term in _terms(pixels))
    return stable.row_sums(pixels, axis, _terms)


def _evaluated(
    activation: Activation, x: Array, t: Array, keep: Any, weights: Any, stats: Any, *, several: bool = False
) -> tuple[Evaluated, _Pixels]:
    found = evaluate(activation, x, keep, stats, several=several)
    p, q = found[:2]
    t = fill(keep, as_weights(t, p))
    return found, _Pixels(p, q, t, None if weights is None else fill(_rows(keep), weights.astype(p.dtype)))


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
    stats = softmax_stats(activation, x, keep)
    means = None if stats is None else _means(x, t, keep, weights, stats, parts)
    x, t, keep, weights = blocks.read_again(operands)
    found, pixels = _evaluated(activation, x, t, keep, weights, stats)
    p, q, t_, w = pixels
    to_t = fill(keep, (hits - alarms) * p + misses * q)
    to_weights = None
    if w is not None:
        to_weights = jnp.sum(p * (hits * t_ + alarms * (1 - t_)) + q * misses * t_, -1, keepdims=True)
        to_weights = cotangent(fill(_rows(keep), to_weights), weights)
        to_t = w * to_t
    to_x = fill(keep, pull(activation, found, _to_p(t_, w, parts), means))
    return cotangent(to_x, x), cotangent(to_t, t), None, to_weights


class _Targets(NamedTuple):
    """What is known of each pixel and class but the probabilities."""

    t: Array
    classes: Array | None  # numbers to compare with class indices
    keep: Array | None
    weights: Array | None
    g: Counts


def _means(x: Array, t: Array, keep: Any, weights: Any, stats: stable.RowStats, g: Counts) -> tuple[Array, Array]:
    classes = None
    if t.shape[-1] < x.shape[-1]:
        t = checks.wide(t)
        classes = class_index(x, -1, t.dtype)
    weights = None if weights is None else fill(_rows(keep), weights.astype(stats.max.dtype))

    def to_p(at: _Targets) -> Array:
        t = at.t if at.classes is None else at.t == at.classes  # an index that is no class made all of g NaN
        return _to_p(fill(at.keep, t.astype(at.g.hits.dtype)), at.weights, at.g)

    return class_means(x, keep, stats, _Targets(t, classes, keep, weights, g), to_p)


def _to_p(t: Array, weights: Array | None, g: Counts) -> Array:
    """The gradient by the probabilities."""
    to_p = g.hits * t + g.false_alarms * (1 - t) - g.misses * t
    return to_p if weights is None else weights * to_p


_count.defvjp(_count_fwd, _count_bwd)


def index_loss(fn: str, counts: Counts, alpha: Any, beta: Any, smooth: Any) -> Array:
    """1 minus the index (hits + smooth) / (hits + alpha false alarms + beta misses + smooth); 0 where that is 0 / 0."""

    def option(name: str, value: Any) -> Array:
        checks.in_range(fn, name, value, 0, math.inf)
        return checks.scalar(fn, name, value).astype(counts.hits.dtype)

    wrong = option("alpha", alpha) * counts.false_alarms + option("beta", beta) * counts.misses
    return share(wrong, counts.hits + option("smooth", smooth))
