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
    undefined = (top == -jnp.inf) | ((top == jnp.inf) & (rest >= 1))
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


@jax.custom_jvp
def exp_minus(x: Array, top: Array) -> Array:
    """exp(x - top) to a few ULP, also where x - top is rounded: for -80 that alone is an error of 4e-6."""
    high, low = two_difference(x, top)
    e = jnp.exp(high)
    compensated = jnp.where(high < -200, 0, e + e * low)  # low is NaN where high is -inf
    return jnp.where(x == jnp.inf, 1, compensated)


@exp_minus.defjvp
def _exp_minus_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    e = exp_minus(*primals)
    return e, e * (tangents[0] - tangents[1])


def two_difference(x: Array, y: Array) -> tuple[Array, Array]:
    """x - y as rounded, and what the rounding left out (Knuth's TwoSum)."""
    high = x - y
    minus_y = high - x
    return high, (x - (high - minus_y)) - (y + minus_y)


def _class_index(z: Array, axis: int, dtype: Any) -> Array:
    return lax.broadcasted_iota(dtype, [n if i == axis % z.ndim else 1 for i, n in enumerate(z.shape)], axis % z.ndim)


def gap(z: Array, stats: RowStats, axis: int) -> Array:
    return jnp.where(z == jnp.inf, 0, jnp.expand_dims(stats.max, axis) - z)


def softmax(z: Array, stats: RowStats, axis: int) -> Array:
    return exp_minus(z, jnp.expand_dims(stats.max, axis)) / (1 + jnp.expand_dims(stats.rest, axis))


def one_minus_probability(gap: Array, rest: Array) -> Array:
    return (rest - jnp.expm1(-gap)) / (1 + rest)


def is_label(z: Array, label: Array, axis: int) -> Array:
    return _class_index(z, axis, label.dtype) == jnp.expand_dims(label, axis)


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
    like = jax.tree.leaves(x)[0]
    if scores is upcast and like.shape[axis] > 45:
        top = upcast(jnp.max(x, axis, keepdims=True))
    else:
        lanes = functools.reduce(jnp.maximum, (scores(piece) for piece, _ in _pieces(x, axis)))
        top = jnp.max(lanes, axis, keepdims=True)
    others, ties = jnp.zeros((), top.dtype), jnp.zeros((), top.dtype)
    others, ties = 0.0, 0.0
    for piece, fresh in _pieces(x, axis):
        z = scores(piece)
        z = z if fresh is None else jnp.where(fresh, z, -jnp.inf)
        is_top = z == top
        others = others + jnp.where(is_top, 0, exp_minus(z, top))
        ties = ties + is_top.astype(z.dtype)
    # One array for both, so that the loop above runs once: the sign says that this lane has a maximum, which the
    # sum of the lanes counts once too often for every such lane but one.
    lanes = jnp.where(ties > 0, -(others + (ties - 1)), others)
    with_top = jnp.sum(jnp.signbit(lanes).astype(lanes.dtype), axis, keepdims=True)
    return top, jnp.sum(jnp.abs(lanes), axis, keepdims=True) + (with_top - 1)
