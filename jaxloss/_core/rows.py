"""Softmax statistics of rows: the maximum and what the other classes add up to, kept apart.

`x` below is the logits, or any pytree of arrays from which `scores(x)` makes the scores z element by element (mask,
temperature, softcap ...); leaves that have the class axis are sliced along it, the others are passed as they are.

- `row_stats(x, axis, scores=upcast)`: `RowStats(max, rest)` without the class axis; max_k z_k, and the sum of
  exp(z_k - max) over all k but the first maximum. lse = max + log1p(rest), and the probability at the maximum is
  1 / (1 + rest): no digit of a confident row is lost. Differentiable by JAX any number of times.
- `part_stats` is the same for some of the classes; `settled` says where those of all classes are no distribution.
- `row_sum(x, axis, term=upcast)`: sum_k term(x)_k without the class axis; `row_sums` takes several terms in one pass.
- `row_count(keep, axis)`: how many entries of a mask are true.
- `row_max(x, axis, scores=upcast)`: the maximum alone, NaN where a score is.
- `gap(z, stats, axis)`: max - z_k >= 0. `label_gap(z, stats, label, axis)`: the same at the label, without the axis.
- `first_max(z, top, axis)`: the first class whose score is the maximum.
- `softmax(z, stats, axis)`: exp(z_k - max) / (1 + rest).
- `is_likely(z, stats, axis)`: p_k > 1/2. `softmax_complement(z, p, stats, axis)`: 1 - p_k, with all digits.
- `one_minus_probability(gap, rest)`: 1 - p_k without cancellation, from the gap of class k.
- `pick(z, label, axis)`: z at the label. `is_label(z, label, axis)`: k == label, a comparison of the shape of z.
- `logsumexp(x, axis)`.

A row of only -inf has rest = NaN, and so has a row with two entries of +inf; one +inf is the whole distribution.

The forms differ by device. XLA:CPU hands a reduction to a library (YNNPACK) that takes 137 ms for the exponentials of
[512, 65536] against 24 here, and writes out what it cannot take (a select, a comparison, a conversion of bfloat16),
and drops NaN from a maximum. There a row is summed in lanes: slices of the row are added up element by element, which
is one fused, vectorised loop, and the library adds up the 2% that is left. Elsewhere, and where the class axis may be
sharded, plain reductions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxloss._core.blocks import read_again
from jaxloss._core.devices import is_whole, may_slice
from jaxloss._core.exponentials import exp_minus, row_exp, scaled_exp
from jaxloss._core.lanes import (
    Terms,
    add_lanes,
    class_index,
    computed_once,
    few,
    finished,
    is_half,
    of_library,
    slices,
    sums_in_lanes,
    use_lanes,
)
from jaxloss._core.precision import upcast
from jaxloss._core.remat import as_one

Scores = Callable[[Any], Array]

_UNROLLED = 12  # steps of a loop that is vectorised, at most
_STEPS = 64  # of any other: the roundings of a longer sum add up to more than a digit
_LANES = 16  # of a row, at least
_FEW_LANES = 2**20  # of all rows, 4 MB
_ROOM = 16  # the share of an array that its lanes may take, if they are more
_FEW_CLASSES = 4  # one loop reads them as they lie


class RowStats(NamedTuple):
    max: Array
    rest: Array


def row_stats(x: Any, axis: int, scores: Scores = upcast) -> RowStats:
    """The maximum of each row and the sum of exp(z_k - max) over the other classes."""
    return settled(part_stats(x, axis, scores))


def settled(stats: RowStats) -> RowStats:
    """The statistics of all classes, with NaN where they are no distribution."""
    undefined = ~(stats.max > -jnp.inf) | ((stats.max == jnp.inf) & (stats.rest >= 1))
    return RowStats(stats.max, jnp.where(undefined, jnp.nan, stats.rest))


def reference(top: Array) -> Array:
    """What scores are taken relative to: the maximum, or 0 where no class has a score above -inf."""
    return jnp.where(top == -jnp.inf, 0, top)


def part_stats(x: Any, axis: int, scores: Scores = upcast) -> RowStats:
    """The statistics of some of the classes, among which there may be none with a score above -inf."""
    return as_one(lambda x: _part_stats(x, axis, scores), x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _part_stats(x: Any, axis: int, scores: Scores) -> RowStats:
    return _stats_in_lanes(x, axis, scores) if use_lanes(x) else stats_by_reduction(scores(x), axis)


@_part_stats.defjvp
def _part_stats_jvp(axis: int, scores: Scores, primals: Any, tangents: Any) -> tuple[RowStats, RowStats]:
    stats = part_stats(primals[0], axis, scores)
    z, z_dot = jax.jvp(scores, primals, tangents)
    return stats, moved_stats(z, z_dot, stats, axis)


def moved_stats(z: Array, z_dot: Array, stats: RowStats, axis: int) -> RowStats:
    """The tangents of the statistics. By a rule: the derivative of the maximum is one-hot, at ties too, and rest leaves
    out that very entry."""
    first = _is_first_max(z, stats, axis)
    max_dot = jnp.sum(jnp.where(first, z_dot, 0), axis)
    others = exp_minus(z, jnp.expand_dims(reference(stats.max), axis)) * (z_dot - jnp.expand_dims(max_dot, axis))
    return RowStats(max_dot, jnp.sum(jnp.where(first, 0, others), axis))


def row_max(x: Any, axis: int, scores: Scores = upcast) -> Array:
    """The maximum of each row, NaN where a score is."""
    axis %= jax.tree.leaves(x)[0].ndim
    if use_lanes(x) and any(map(is_half, jax.tree.leaves(x))):
        z = scores(x)
        top, missing = _in_one_loop(x, (z, jnp.isnan(z).astype(z.dtype)), axis, (_MAX, _SUM))
        return jnp.where(missing > 0, jnp.nan, top)
    if use_lanes(x):
        cut = slices(x, axis, lambda x: (scores(x),))
        z = computed_once(functools.reduce(jnp.maximum, [z for (z,) in cut.terms]))
    else:
        z = scores(x)
    top = jnp.max(z, axis)
    return top if jax.default_backend() != "cpu" else jnp.where(jnp.any(jnp.isnan(z), axis), jnp.nan, top)


def first_max(z: Array, top: Array, axis: int) -> Array:
    """The first class whose score is `top`, the number of classes if none is. XLA:CPU takes 14 times as long for an
    argmax."""
    k = class_index(z, axis, jnp.int32)
    return jnp.min(jnp.where(z == jnp.expand_dims(top, axis), k, z.shape[axis]), axis)


def _is_first_max(z: Array, stats: RowStats, axis: int) -> Array:
    return class_index(z, axis, jnp.int32) == jnp.expand_dims(first_max(z, stats.max, axis), axis)


def stats_by_reduction(z: Array, axis: int) -> RowStats:
    top = jnp.max(z, axis, keepdims=True)
    is_top = z == top
    exp, scale = row_exp(reference(top))
    others = jnp.sum(jnp.where(is_top, 0, exp(z)), axis, keepdims=True)
    ties = jnp.sum(is_top.astype(z.dtype), axis, keepdims=True)
    return _without_axis(top, others * scale + (ties - 1), axis)


def _without_axis(top: Array, rest: Array, axis: int) -> RowStats:
    nothing = (top == -jnp.inf) & ~jnp.isnan(rest)
    return RowStats(jnp.squeeze(top, axis), jnp.squeeze(jnp.where(nothing, 0, rest), axis))


def _stats_in_lanes(x: Any, axis: int, scores: Scores) -> RowStats:
    axis %= jax.tree.leaves(x)[0].ndim
    cut = slices(x, axis, lambda x: (scores(x),))
    pieces = [z for (z,) in cut.terms]
    single = pieces[0].shape[axis] == 1
    half = any(map(is_half, jax.tree.leaves(x)))
    if scores is upcast and of_library(x, axis):
        top = upcast(jnp.max(x, axis, keepdims=True))  # the library takes this one as it is
    elif half and not single and scores is not upcast:
        top = jnp.expand_dims(row_max(x, axis, scores), axis)
    else:
        top = finished(functools.reduce(jnp.maximum, pieces), axis)
        top = top if single else jnp.max(top, axis, keepdims=True)
    if scores is not upcast and not (half and single):  # what both passes compute XLA would write out
        pieces = [z for (z,) in slices(read_again(x), axis, lambda x: (scores(x),)).terms]
    exp, scale = row_exp(reference(top))
    others, ties = jnp.zeros((), top.dtype), jnp.zeros((), jnp.int32)
    for i, z in enumerate(pieces):
        z = z if cut.fresh is None or i < len(pieces) - 1 else jnp.where(cut.fresh, z, -jnp.inf)
        is_top = z == top
        others = others + jnp.where(is_top, 0, exp(z))
        ties = ties + is_top.astype(jnp.int32)
    ties = ties.astype(top.dtype)
    if single:
        return _without_axis(top, computed_once(others * scale + (ties - 1)), axis)
    # One array for both, so that the loop above runs once: the sign says that this lane has a maximum, which the
    # sum of the lanes counts once too often for every such lane but one. All that follows the library takes as it is.
    tiny = jnp.finfo(top.dtype).tiny  # no such lane is 0; others that matter are larger than 1e-20 here
    lanes = jnp.where(ties > 0, -(others + (ties - 1) / scale + tiny), others)
    lanes = computed_once(lanes) if few(lanes, axis) else lanes
    others = jnp.expand_dims(add_lanes(jnp.abs(lanes), axis), axis) * scale
    sign = jnp.sign(lanes)
    twice_with_top = add_lanes(sign * sign - sign, axis)
    return _without_axis(top, others + (jnp.expand_dims(twice_with_top, axis) / 2 - 1), axis)


def gap(z: Array, stats: RowStats, axis: int) -> Array:
    return jnp.where(z == jnp.inf, 0, jnp.expand_dims(stats.max, axis) - z)


def softmax(z: Array, stats: RowStats, axis: int, scale: Array | float = 1.0) -> Array:
    """The probabilities times a number for each row, which costs nothing."""
    return scaled_exp(z, jnp.expand_dims(stats.max, axis), jnp.expand_dims(scale / (1 + stats.rest), axis))


def is_likely(z: Array, stats: RowStats, axis: int) -> Array:
    """Is the probability above one half? Of several classes at the maximum none is."""
    return (z == jnp.expand_dims(stats.max, axis)) & (jnp.expand_dims(stats.rest, axis) < 1)


def softmax_complement(z: Array, p: Array, stats: RowStats, axis: int) -> Array:
    """1 - p without cancellation, for p = softmax(z, stats, axis). Classes at the maximum that are no likely one move
    apart, and so are not given what they have in common."""
    rest = jnp.expand_dims(stats.rest, axis)
    return jnp.where(is_likely(z, stats, axis), rest / (1 + rest), 1 - p)


def one_minus_probability(gap: Array, rest: Array) -> Array:
    return (rest - jnp.expm1(-gap)) / (1 + rest)


def is_label(z: Array, label: Array, axis: int) -> Array:
    label = jnp.expand_dims(label, axis)
    if not may_slice(z) or label.dtype != jnp.int32 or z.shape[axis] > 2**18:
        return class_index(z, axis, label.dtype) == label
    # XLA:CPU counts an iota in 64 bits, which is a fifth of the time of a gradient. It makes an iota of a constant
    # that counts from 0, but not of one that counts from 1.
    shape = [n if i == axis % z.ndim else 1 for i, n in enumerate(z.shape)]
    return np.arange(1, z.shape[axis] + 1, dtype=np.int32).reshape(shape) == label + 1


def pick(z: Array, label: Array, axis: int) -> Array:
    if is_whole(z):
        label = jnp.clip(jnp.expand_dims(label, axis), 0, z.shape[axis] - 1)
        return jnp.squeeze(jnp.take_along_axis(z, label, axis, mode="promise_in_bounds"), axis)
    return jnp.sum(jnp.where(is_label(z, label, axis), z, 0), axis)


def label_gap(z: Array, stats: RowStats, label: Array, axis: int) -> Array:
    at_label = pick(z, label, axis)
    return jnp.where(at_label == jnp.inf, 0, stats.max - at_label)


def row_sum(x: Any, axis: int, term: Scores = upcast, *, in_lanes: bool = False) -> Array:
    """sum_k term(x)_k; the term may depend on x only element by element."""
    if term is upcast and (not use_lanes(x) or of_library(x, axis)):
        return jnp.sum(upcast(x), axis)
    return row_sums(x, axis, lambda x: (term(x),), in_lanes=in_lanes or term is upcast)[0]


def row_sums(x: Any, axis: int | tuple[int, ...], terms: Terms, *, in_lanes: bool = False) -> tuple[Array, ...]:
    """The sums of several terms over the classes, in one pass; of more than one axis, the last is added up first.

    `in_lanes` is for leaves that are there in memory, so that slices of them cost nothing: each term is a vectorised
    loop of its own. Otherwise all are one loop, which XLA:CPU vectorises if its steps are few and have no exponential.
    """
    *others, last = axis if isinstance(axis, tuple) else (axis,)
    found = as_one(lambda x: _row_sums(x, last, terms, in_lanes), x)
    return tuple(jnp.sum(s, others) for s in found) if others else found


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _row_sums(x: Any, axis: int, terms: Terms, in_lanes: bool) -> tuple[Array, ...]:
    if in_lanes and use_lanes(x) and jax.tree.leaves(x)[0].shape[axis] > _FEW_CLASSES:
        return sums_in_lanes(x, axis, terms)
    values = terms(x)
    if not may_slice(values[0]):
        return tuple(jnp.sum(v, axis) for v in values)
    # XLA:CPU hands a sum of one array to a library, for which it writes out the array (5 times the bytes, 11 in half
    # precision), but fuses a sum of several with what makes them.
    if len(values) == 1:
        values = (*values, jax.tree.leaves(x)[0].astype(values[0].dtype))  # XLA refuses float32 beside float64
    found = _in_one_loop(x, values, axis % values[0].ndim, (_SUM,) * len(values))
    return lax.optimization_barrier(found)[: len(terms(x))]


def row_count(keep: Array, axis: int) -> Array:
    """How many are true, without the axis."""
    ones = keep.astype(jnp.int32)
    if not may_slice(keep):
        return jnp.sum(ones, axis)
    # XLA:CPU would write out the integers.
    return lax.optimization_barrier(_in_one_loop(keep, (ones, ones), axis % keep.ndim, (_SUM, _SUM)))[0]


class _Fold(NamedTuple):
    start: float
    two: Callable[[Array, Array], Array]
    all: Callable[..., Array]


_SUM, _MAX = _Fold(0, jnp.add, jnp.sum), _Fold(-jnp.inf, jnp.maximum, jnp.max)


def _in_one_loop(x: Any, values: tuple[Array, ...], axis: int, folds: tuple[_Fold, ...]) -> tuple[Array, ...]:
    """The folds of values that are made of `x`."""
    room = max(a.size for a in jax.tree.leaves(x)) // _ROOM
    shape = values[0].shape
    n, others = shape[axis], math.prod(shape[:axis] + shape[axis + 1 :])
    width = _width(n, math.prod(shape[axis + 1 :]), others * len(values), room)

    def fold(values: tuple[Array, ...]) -> tuple[Array, ...]:
        starts = tuple(jnp.asarray(f.start, v.dtype) for f, v in zip(folds, values, strict=True))
        return tuple(lax.reduce(values, starts, two, (axis,)))

    def two(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(f.two(p, q) for f, p, q in zip(folds, a, b, strict=True))

    def in_steps(v: Array) -> Array:
        return v.reshape(*shape[:axis], -1, width, *shape[axis + 1 :])

    if width == 1:
        return fold(values)
    whole = n - n % width
    lanes = fold(tuple(in_steps(lax.slice_in_dim(v, 0, whole, axis=axis)) for v in values))
    found = tuple(f.all(v, axis) for f, v in zip(folds, lanes, strict=True))
    return found if whole == n else two(found, fold(tuple(lax.slice_in_dim(v, whole, n, axis=axis) for v in values)))


def _width(n: int, behind: int, sums: int, room: int) -> int:
    """In how many lanes a row of n is added up, each of `behind` entries. The loop is vectorised where its steps are
    unrolled, of which there may not be many. Of long rows in large arrays as many lanes would be too much memory; and
    where the rows are no array at all (each class against each other one), all but one.
    """
    least = -(-_LANES // behind)
    if n < max(4 * least, _UNROLLED + 1):
        return 1
    even = (n // steps for steps in range(_UNROLLED, 3, -1) if n % steps == 0 and n // steps >= least)
    lanes = next(even, max(n // _UNROLLED, least))
    if lanes <= 2 * least or lanes * sums <= _FEW_LANES:
        return lanes
    fewer = max(n // _STEPS, least)
    return fewer if fewer * sums <= room else 1


@_row_sums.defjvp
def _row_sums_jvp(axis: int, terms: Terms, in_lanes: bool, primals: Any, tangents: Any) -> tuple[Any, Any]:
    # Why a rule: JAX has none for a reduction of several arrays.
    moved = jax.jvp(terms, primals, tangents)[1]
    return row_sums(primals[0], axis, terms, in_lanes=in_lanes), tuple(jnp.sum(m, axis) for m in moved)


def logsumexp(x: Array, axis: int = -1) -> Array:
    """log sum_k exp(x_k); -inf where there is no class above it."""
    return as_one(lambda x: _logsumexp(x, axis), x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _logsumexp(x: Array, axis: int) -> Array:
    stats = part_stats(x, axis)
    return stats.max + jnp.where(stats.max == -jnp.inf, stats.rest, jnp.log1p(settled(stats).rest))


@_logsumexp.defjvp
def _logsumexp_jvp(axis: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Why a rule: that of `row_stats` finds the derivative at the maximum as 1 minus the others.
    (x,), (x_dot,) = primals, tangents
    p = softmax(upcast(x), row_stats(x, axis), axis)
    return _logsumexp(x, axis), jnp.sum(p * upcast(x_dot), axis)
