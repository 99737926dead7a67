"""Softmax statistics of rows: the maximum and what the other classes add up to, kept apart.

`x` below is the logits, or any pytree of arrays from which `scores(x)` makes the scores z element by element (mask,
temperature, softcap ...); leaves that have the class axis are sliced along it, the others are passed as they are.

- `row_stats(x, axis, scores=upcast)`: `RowStats(max, rest)` without the class axis; max_k z_k, and the sum of
  exp(z_k - max) over all k but the first maximum. lse = max + log1p(rest), and the probability at the maximum is
  1 / (1 + rest): no digit of a confident row is lost. Differentiable by JAX any number of times.
- `row_sum(x, axis, term=upcast)`: sum_k term(x)_k without the class axis.
- `gap(z, stats, axis)`: max - z_k >= 0. `label_gap(z, stats, label, axis)`: the same at the label, without the axis.
- `softmax(z, stats, axis)`: exp(z_k - max) / (1 + rest).
- `one_minus_probability(gap, rest)`: 1 - p_k without cancellation, from the gap of class k.
- `pick(z, label, axis)`: z at the label. `is_label(z, label, axis)`: k == label, a comparison of the shape of z.
- `logsumexp(x, axis, where=None)`.

A row of only -inf has rest = NaN, and so has a row with two entries of +inf; one +inf is the whole distribution.

The forms differ by device. XLA:CPU hands a reduction to a library (YNNPACK) that computes exp in scalars, 137 ms for
[512, 65536] against 24 here, and writes out what it cannot take (a select, a comparison, a conversion of bfloat16).
There a row is summed in lanes: slices of the row are added up element by element, which is one fused, vectorised
loop, and the library adds up the 2% that is left. Elsewhere, and where the class axis may be sharded, plain reductions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxloss._core.precision import upcast

Scores = Callable[[Any], Array]

_LOG_TINY = -87.3365  # log of the smallest normal float32, 2^-126
_HUGE = np.finfo(np.float32).max
_ABOVE = np.float32(2048)  # above every reduced maximum
_LOG2_E = np.float32(1 / np.log(2))
_LOG2_HIGH, _LOG2_LOW = np.float32(0.693359375), np.float32(-2.1219444e-4)  # log 2 in two parts, the first of 9 bits
_ROUND = np.float32(1.5 * 2**23)  # n + _ROUND has the integer n in its low bits
# exp(r) on |r| <= log(2) / 2, highest power first; relative error 3e-9 (Chebyshev fit).
_EXP = (0.00137572316, 0.00836902298, 0.0416694321, 0.166665182, 0.499999881, 1.0, 1.0)


class RowStats(NamedTuple):
    max: Array
    rest: Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def row_stats(x: Any, axis: int, scores: Scores = upcast) -> RowStats:
    """The maximum of each row and the sum of exp(z_k - max) over the other classes."""
    if _in_lanes(x, axis):
        top, rest = _stats_in_lanes(x, axis, scores)
    else:
        top, rest = _stats_by_reduction(scores(x), axis)
    undefined = ~(top > -jnp.inf) | ((top == jnp.inf) & (rest >= 1))
    return RowStats(jnp.squeeze(top, axis), jnp.squeeze(jnp.where(undefined, jnp.nan, rest), axis))


@row_stats.defjvp
def _row_stats_jvp(axis: int, scores: Scores, primals: Any, tangents: Any) -> tuple[RowStats, RowStats]:
    # Why a rule: the derivative of the maximum is one-hot, at ties too, and rest leaves out that very entry.
    stats = row_stats(*primals, axis, scores)
    z, z_dot = jax.jvp(scores, primals, tangents)
    first = _is_first_max(z, stats, axis)
    max_dot = jnp.sum(jnp.where(first, z_dot, 0), axis)
    others = exp_minus(z, jnp.expand_dims(stats.max, axis)) * (z_dot - jnp.expand_dims(max_dot, axis))
    return stats, RowStats(max_dot, jnp.sum(jnp.where(first, 0, others), axis))


def _is_first_max(z: Array, stats: RowStats, axis: int) -> Array:
    k = _class_index(z, axis, jnp.int32)
    k_max = jnp.where(z == jnp.expand_dims(stats.max, axis), k, z.shape[axis])
    return k == jnp.min(k_max, axis, keepdims=True)


def _stats_by_reduction(z: Array, axis: int) -> tuple[Array, Array]:
    top = jnp.max(z, axis, keepdims=True)
    is_top = z == top
    others = jnp.sum(jnp.where(is_top, 0, exp_minus(z, top)), axis, keepdims=True)
    ties = jnp.sum(is_top.astype(z.dtype), axis, keepdims=True)
    return top, others + (ties - 1)


def exp_minus(x: Array, top: Array) -> Array:
    """exp(x - top) for x <= top; 0 where that is below the smallest normal number, 1 where both are +inf."""
    return scaled_exp(x, top, jnp.ones_like(top))


@jax.custom_jvp
def scaled_exp(x: Array, top: Array, factor: Array) -> Array:
    """exp(x - top) * factor to 3 ULP: the rounding of x - top alone would be an error of 4e-6 at -80."""
    if _by_parts(x):
        top, exp_scale = _reduced_top(top)
        return _exp_by_parts(x, top) * (exp_scale * factor)
    high, low = two_difference(x, top)
    e = jnp.exp(high)
    compensated = jnp.where(high < _LOG_TINY, 0, e + e * low)  # low is NaN where high is -inf
    return jnp.where(x == jnp.inf, 1, compensated) * factor


@scaled_exp.defjvp
def _scaled_exp_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    value = scaled_exp(*primals)
    x, top, _ = primals
    x_dot, top_dot, factor_dot = tangents
    return value, value * (x_dot - top_dot) + scaled_exp(x, top, factor_dot)


def _by_parts(x: Array) -> bool:
    return jax.default_backend() == "cpu" and x.dtype == jnp.float32


class _ReducedTop(NamedTuple):
    shift: Array
    tiny: Array
    magic: Array


def _reduced_top(top: Array) -> tuple[_ReducedTop, Array]:
    """What `_exp_by_parts` needs for each row, and the factor that its result lacks."""
    shift = jnp.where(jnp.abs(top) > 1024, jnp.clip(top, -_HUGE, _HUGE), 0)
    z = jnp.minimum(top - shift, _ABOVE)
    n = jnp.round(z * _LOG2_E)
    r = (z - n * _LOG2_HIGH) - n * _LOG2_LOW
    return _ReducedTop(shift, z + np.float32(_LOG_TINY), _ROUND - n), jnp.exp(-r)


def _exp_by_parts(x: Array, top: _ReducedTop) -> Array:
    """exp(x - top), up to the factor of `_reduced_top`, in 19 vector operations instead of 36: it sets the time on CPU.

    x and top are each reduced modulo log 2 (Cody and Waite), so that no large difference of them is rounded. The
    products n * _LOG2_HIGH are exact for |n| < 2^15; a larger maximum is subtracted first (`shift`), which is exact
    for every x that matters. XLA's own conversion to int32 would check for overflow, in five operations.
    """
    z = jnp.minimum(x - top.shift, _ABOVE)  # +inf meets +inf as an ordinary number
    n = jnp.round(z * _LOG2_E)
    r = (z - n * _LOG2_HIGH) - n * _LOG2_LOW
    e = jnp.full_like(r, _EXP[0])
    for c in _EXP[1:]:
        e = e * r + np.float32(c)
    exponent = lax.bitcast_convert_type(n + top.magic, jnp.int32) << 23
    e = lax.bitcast_convert_type(lax.bitcast_convert_type(e, jnp.int32) + exponent, jnp.float32)
    return jnp.where(z < top.tiny, 0, e)


def two_difference(x: Array, y: Array) -> tuple[Array, Array]:
    """x - y as rounded, and what the rounding left out (Knuth's TwoSum)."""
    high = x - y
    minus_y = high - x
    return high, (x - (high - minus_y)) - (y + minus_y)


def _class_index(z: Array, axis: int, dtype: Any) -> Array:
    return lax.broadcasted_iota(dtype, [n if i == axis % z.ndim else 1 for i, n in enumerate(z.shape)], axis % z.ndim)


def gap(z: Array, stats: RowStats, axis: int) -> Array:
    return jnp.where(z == jnp.inf, 0, jnp.expand_dims(stats.max, axis) - z)


def softmax(z: Array, stats: RowStats, axis: int, scale: Array | float = 1.0) -> Array:
    """The probabilities times a number for each row, which costs nothing."""
    return scaled_exp(z, jnp.expand_dims(stats.max, axis), jnp.expand_dims(scale / (1 + stats.rest), axis))


def one_minus_probability(gap: Array, rest: Array) -> Array:
    return (rest - jnp.expm1(-gap)) / (1 + rest)


def is_label(z: Array, label: Array, axis: int) -> Array:
    label = jnp.expand_dims(label, axis)
    if not _one_cpu() or label.dtype != jnp.int32 or z.shape[axis] > 2**18:
        return _class_index(z, axis, label.dtype) == label
    # XLA:CPU counts an iota in 64 bits, which is a fifth of the time of a gradient. It makes an iota of a constant
    # that counts from 0, but not of one that counts from 1.
    shape = [n if i == axis % z.ndim else 1 for i, n in enumerate(z.shape)]
    return np.arange(1, z.shape[axis] + 1, dtype=np.int32).reshape(shape) == label + 1


def pick(z: Array, label: Array, axis: int) -> Array:
    if _one_cpu():
        label = jnp.clip(jnp.expand_dims(label, axis), 0, z.shape[axis] - 1)
        return jnp.squeeze(jnp.take_along_axis(z, label, axis, mode="promise_in_bounds"), axis)
    return jnp.sum(jnp.where(is_label(z, label, axis), z, 0), axis)


def label_gap(z: Array, stats: RowStats, label: Array, axis: int) -> Array:
    at_label = pick(z, label, axis)
    return jnp.where(at_label == jnp.inf, 0, stats.max - at_label)


def row_sum(x: Any, axis: int, term: Scores = upcast) -> Array:
    return jnp.sum(term(x), axis)


def logsumexp(x: Array, axis: int = -1, where: Array | None = None) -> Array:
    """log sum_k exp(x_k) over the classes kept by `where`; -inf where there is none."""

    def scores(operands: tuple[Array, Array | None]) -> Array:
        z, mask = upcast(operands[0]), operands[1]
        return z if mask is None else jnp.where(mask, z, -jnp.inf)

    stats = row_stats((x, where), axis, scores)
    return jnp.where(stats.max == -jnp.inf, -jnp.inf, stats.max + jnp.log1p(stats.rest))


# Lanes: the form for XLA:CPU.

_VECTOR = 8  # lanes are whole vectors of float32 registers


def _one_cpu() -> bool:
    """Slices and gathers of a sharded axis would move the logits between devices; one device has no shards."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def _in_lanes(x: Any, axis: int) -> bool:
    return _one_cpu()


def _has_classes(leaf: Any, like: Array, axis: int) -> bool:
    return leaf.ndim == like.ndim and leaf.shape[axis] == like.shape[axis]


def _views(x: Array, axis: int) -> list[Callable[[int, int], Array]]:
    """Ways to slice x that XLA:CPU tells apart: it fuses an elementwise operation into at most 15 slices of it, and
    one more makes it write all of it out. A slice of half precision is of its float32 conversion."""

    def cut(a: Array) -> Callable[[int, int], Array]:
        return lambda start, stop: lax.slice_in_dim(a, start, stop, axis=axis)

    if x.dtype.itemsize != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        return [cut(x)]
    bits = [cut(lax.bitcast_convert_type(x, dtype)) for dtype in (jnp.uint16, jnp.int16)]
    back = [lambda start, stop, cut=cut: lax.bitcast_convert_type(cut(start, stop), x.dtype) for cut in bits]
    return [cut(x), *back]


def _pieces(x: Any, axis: int) -> Iterator[tuple[Any, Array | None]]:
    """Slices of the row, of one width. The last may overlap the one before: `fresh` says what is new in it."""
    leaves, tree = jax.tree.flatten(x)
    like = leaves[0]
    classes = like.shape[axis]
    half = like.dtype.itemsize == 2
    most = 45 if half else 48
    width = 1 if classes <= most else _VECTOR * -(-classes // (_VECTOR * most))
    count = -(-classes // width)
    views = [_views(leaf, axis) if _has_classes(leaf, like, axis) else None for leaf in leaves]
    lane = _class_index(lax.slice_in_dim(like, 0, width, axis=axis), axis, jnp.int32)
    for i in range(count):
        stop = min((i + 1) * width, classes)
        cut = [
            leaf if view is None else view[i * len(view) // count](stop - width, stop)
            for leaf, view in zip(leaves, views, strict=True)
        ]
        fresh = lane >= (i + 1) * width - classes if stop < (i + 1) * width else None
        yield jax.tree.unflatten(tree, cut), fresh


def _stats_in_lanes(x: Any, axis: int, scores: Scores) -> tuple[Array, Array]:
    pieces = list(_pieces(x, axis))
    if scores is upcast and len(pieces) < jax.tree.leaves(x)[0].shape[axis]:
        top = upcast(jnp.max(x, axis, keepdims=True))  # the library takes this one as it is
    else:
        top = functools.reduce(jnp.maximum, (scores(piece) for piece, _ in pieces))
        top = jnp.max(top, axis, keepdims=True)
    exp, scale = _row_exp(top)
    others, ties = 0.0, 0.0
    for piece, fresh in pieces:
        z = scores(piece) if fresh is None else jnp.where(fresh, scores(piece), -jnp.inf)
        is_top = z == top
        others = others + jnp.where(is_top, 0, exp(z))
        ties = ties + is_top.astype(z.dtype)
    others = others * scale
    if jnp.shape(others)[axis] == 1:
        return _computed_once(top), _computed_once(others + (ties - 1))
    # One array for both, so that the loop above runs once: the sign says that this lane has a maximum, which the
    # sum of the lanes counts once too often for every such lane but one.
    lanes = jnp.where(ties > 0, -(others + (ties - 1)), others)
    with_top = jnp.sum(jnp.signbit(lanes).astype(lanes.dtype), axis, keepdims=True)
    return top, jnp.sum(jnp.abs(lanes), axis, keepdims=True) + (with_top - 1)


def _row_exp(top: Array) -> tuple[Callable[[Array], Array], Array]:
    """exp(z - top) of a slice z, up to a factor that may follow the sum."""
    one = jnp.ones_like(top)
    if not _by_parts(top):
        return lambda z: scaled_exp(z, top, one), one
    reduced, scale = _reduced_top(top)
    return lambda z: _exp_by_parts(z, reduced), scale


def _computed_once(x: Array) -> Array:
    """x itself, by a division: XLA:CPU repeats a fused loop in every consumer unless it ends in a costly operation."""
    return x / jnp.where(x == x, 1, jnp.nan).astype(x.dtype)
