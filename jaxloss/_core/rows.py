"""Softmax statistics of rows: the maximum and what the other classes add up to, kept apart.

`x` below is the logits, or any pytree of arrays from which `scores(x)` makes the scores z element by element (mask,
temperature, softcap ...); leaves that have the class axis are sliced along it, the others are passed as they are.

- `row_stats(x, axis, scores=upcast)`: `RowStats(max, rest)` without the class axis; max_k z_k, and the sum of
  exp(z_k - max) over all k but the first maximum. lse = max + log1p(rest), and the probability at the maximum is
  1 / (1 + rest): no digit of a confident row is lost. Differentiable by JAX any number of times.
- `part_stats` is the same for some of the classes; `settled` says where those of all classes are no distribution.
- `row_sum(x, axis, term=upcast)`: sum_k term(x)_k without the class axis; `row_sums` takes several terms in one pass.
- `row_max(x, axis, scores=upcast)`: the maximum alone, NaN where a score is.
- `gap(z, stats, axis)`: max - z_k >= 0. `label_gap(z, stats, label, axis)`: the same at the label, without the axis.
- `first_max(z, top, axis)`: the first class whose score is the maximum.
- `softmax(z, stats, axis)`: exp(z_k - max) / (1 + rest).
- `one_minus_probability(gap, rest)`: 1 - p_k without cancellation, from the gap of class k.
- `pick(z, label, axis)`: z at the label. `is_label(z, label, axis)`: k == label, a comparison of the shape of z.
- `logsumexp(x, axis, where=None)`.

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
from jax.custom_derivatives import SymbolicZero

from jaxloss._core.precision import upcast
from jaxloss._core.remat import as_one

Scores = Callable[[Any], Array]
Terms = Callable[[Any], tuple[Array, ...]]

_LOG_TINY = -87.3365  # log of the smallest normal float32, 2^-126
_HUGE = np.finfo(np.float32).max
_ABOVE = np.float32(2048)  # above every reduced maximum
_LOG2_E = np.float32(1 / np.log(2))
_LOG2_HIGH, _LOG2_LOW = np.float32(0.693359375), np.float32(-2.1219444e-4)  # log 2 in two parts, the first of 9 bits
_ROUND = np.float32(1.5 * 2**23)  # n + _ROUND has the integer n in its low bits
# exp(r) on |r| <= log(2) / 2, highest power first: least relative error, 1.3e-7. One more power would cost the sum of a
# row 8% more.
_EXP = (0.00834061299, 0.0418949500, 0.166667923, 0.499991894, 1.0, 1.0)


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
    top, rest = _stats_in_lanes(x, axis, scores) if _use_lanes(x) else _stats_by_reduction(scores(x), axis)
    nothing = (top == -jnp.inf) & ~jnp.isnan(rest)
    return RowStats(jnp.squeeze(top, axis), jnp.squeeze(jnp.where(nothing, 0, rest), axis))


@_part_stats.defjvp
def _part_stats_jvp(axis: int, scores: Scores, primals: Any, tangents: Any) -> tuple[RowStats, RowStats]:
    # Why a rule: the derivative of the maximum is one-hot, at ties too, and rest leaves out that very entry.
    stats = part_stats(primals[0], axis, scores)
    z, z_dot = jax.jvp(scores, primals, tangents)
    first = _is_first_max(z, stats, axis)
    max_dot = jnp.sum(jnp.where(first, z_dot, 0), axis)
    others = exp_minus(z, jnp.expand_dims(reference(stats.max), axis)) * (z_dot - jnp.expand_dims(max_dot, axis))
    return stats, RowStats(max_dot, jnp.sum(jnp.where(first, 0, others), axis))


def row_max(x: Any, axis: int, scores: Scores = upcast) -> Array:
    """The maximum of each row, NaN where a score is."""
    if _use_lanes(x):
        axis %= jax.tree.leaves(x)[0].ndim
        found, _ = _slices(x, axis, lambda x: (scores(x),))
        z, axes = _computed_once(functools.reduce(jnp.maximum, [z for (z,) in found])), (axis, axis + 1)
    else:
        z, axes = scores(x), (axis,)
    top = jnp.max(z, axes)
    return top if jax.default_backend() != "cpu" else jnp.where(jnp.any(jnp.isnan(z), axes), jnp.nan, top)


def first_max(z: Array, top: Array, axis: int) -> Array:
    """The first class whose score is `top`, the number of classes if none is. XLA:CPU takes 14 times as long for an
    argmax."""
    k = _class_index(z, axis, jnp.int32)
    return jnp.min(jnp.where(z == jnp.expand_dims(top, axis), k, z.shape[axis]), axis)


def _is_first_max(z: Array, stats: RowStats, axis: int) -> Array:
    return _class_index(z, axis, jnp.int32) == jnp.expand_dims(first_max(z, stats.max, axis), axis)


def _stats_by_reduction(z: Array, axis: int) -> tuple[Array, Array]:
    top = jnp.max(z, axis, keepdims=True)
    is_top = z == top
    exp, scale = _row_exp(reference(top))
    others = jnp.sum(jnp.where(is_top, 0, exp(z)), axis, keepdims=True)
    ties = jnp.sum(is_top.astype(z.dtype), axis, keepdims=True)
    return top, others * scale + (ties - 1)


def exp_minus(x: Array, top: Array) -> Array:
    """exp(x - top) for x <= top; 0 where that is below the smallest normal number, 1 where both are +inf."""
    return scaled_exp(x, top, jnp.ones_like(top))


def _row_exp(top: Array) -> tuple[Callable[[Array], Array], Array]:
    """exp(z - top) up to a factor for each row, to be applied to the sum.

    Without the factor the sum of many classes far below the maximum would lose those that are subnormal: a quarter of
    it for 131072 classes and a loss of 1e-35.
    """
    if _by_parts(top):
        reduced, missing = _reduced_top(top, 64)

        def exp(z: Array) -> Array:
            """Of a class below the maximum. One that is too far below adds 2^-126, which the factor makes 0."""
            z = z - reduced.shift
            z = jnp.where(z < reduced.lowest, reduced.lowest, z)  # one instruction; `jnp.maximum` takes five
            return _exp_by_parts(z, reduced.magic)

        return exp, missing
    low = top - 44
    return lambda z: exp_minus(z, low), exp_minus(low, top)


def scaled_exp(x: Array, top: Array, factor: Array) -> Array:
    """exp(x - top) * factor to 3 ULP: the rounding of x - top alone would be an error of 4e-6 at -80."""
    return as_one(_scaled_exp, x, top, factor)


@jax.custom_jvp
def _scaled_exp(x: Array, top: Array, factor: Array) -> Array:
    if _by_parts(x):
        reduced, missing = _reduced_top(top, 16)
        z = jnp.minimum(x - reduced.shift, _ABOVE)  # +inf meets +inf as an ordinary number
        return jnp.where(z < reduced.lowest, 0, _exp_by_parts(z, reduced.magic)) * (missing * factor)
    high, low = two_difference(x, top)
    e = jnp.exp(high)
    tiny = np.log(jnp.finfo(e.dtype).tiny)
    compensated = jnp.where(high < tiny, 0, e + e * low)  # low is NaN where high is -inf
    return jnp.where(x == jnp.inf, 1, compensated) * factor


@functools.partial(_scaled_exp.defjvp, symbolic_zeros=True)
def _scaled_exp_jvp(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    value = scaled_exp(*primals)
    x_dot, top_dot, factor_dot = tangents
    value_dot = jnp.zeros_like(value)
    if not isinstance(x_dot, SymbolicZero):
        value_dot += value * x_dot
    if not isinstance(top_dot, SymbolicZero):
        value_dot -= value * top_dot
    if not isinstance(factor_dot, SymbolicZero):
        value_dot += exp_minus(primals[0], primals[1]) * factor_dot
    return value, value_dot


def _by_parts(x: Array) -> bool:
    return jax.default_backend() == "cpu" and x.dtype == jnp.float32


class _ReducedTop(NamedTuple):
    shift: Array
    lowest: Array  # what is less has no normal exponential
    magic: Array


def _reduced_top(top: Array, lift: int) -> tuple[_ReducedTop, Array]:
    """What `_exp_by_parts` needs for each row, and the factor that its result lacks, 2^-lift among it: what is normal
    after the factor is normal before."""
    shift = jnp.where(jnp.abs(top) > 1024, jnp.clip(top, -_HUGE, _HUGE), 0)
    z = jnp.minimum(top - shift, _ABOVE)
    n = jnp.round(z * _LOG2_E)
    r = (z - n * _LOG2_HIGH) - n * _LOG2_LOW
    lowest = z + np.float32(_LOG_TINY - lift * np.log(2))
    return _ReducedTop(shift, lowest, (_ROUND + lift) - n), jnp.exp(-r) * np.float32(2.0**-lift)


def _exp_by_parts(z: Array, magic: Array) -> Array:
    """exp(z - top), up to the factor of `_reduced_top`, in 14 vector operations instead of 36: it sets the time on CPU.

    z and top, both less `shift`, are each reduced modulo log 2 (Cody and Waite), so that no large difference of them is
    rounded. The products n * _LOG2_HIGH are exact for |n| < 2^15; a larger maximum is subtracted first, which is exact
    for every x that matters. XLA's own conversion to int32 would check for overflow, in five operations. (Rounding by
    adding `magic` and subtracting it again would save one more, but XLA drops both where the maximum is a constant.)
    """
    n = jnp.round(z * _LOG2_E)
    r = (z - n * _LOG2_HIGH) - n * _LOG2_LOW
    e = jnp.full_like(r, _EXP[0])
    for c in _EXP[1:]:
        e = e * r + np.float32(c)
    exponent = lax.bitcast_convert_type(n + magic, jnp.int32) << 23
    return lax.bitcast_convert_type(lax.bitcast_convert_type(e, jnp.int32) + exponent, jnp.float32)


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


def row_sum(x: Any, axis: int, term: Scores = upcast, *, given: bool = False) -> Array:
    """sum_k term(x)_k; the term may depend on x only element by element."""
    return row_sums(x, axis, lambda x: (term(x),), given=given)[0]


def row_sums(x: Any, axis: int | tuple[int, ...], terms: Terms, *, given: bool = False) -> tuple[Array, ...]:
    """The sums of several terms over the classes, in one pass; of more than one axis, the last is added up first.

    `given` says that the leaves of x are there in memory, so that slices of them cost nothing.
    """
    *others, last = axis if isinstance(axis, tuple) else (axis,)
    found = as_one(lambda x: _row_sums(x, last, terms, given), x)
    return tuple(jnp.sum(s, others) for s in found) if others else found


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _row_sums(x: Any, axis: int, terms: Terms, given: bool) -> tuple[Array, ...]:
    if given and _use_lanes(x) and not any(_is_half(leaf) for leaf in jax.tree.leaves(x)):
        return _sums_in_lanes(x, axis, terms)
    values = terms(x)
    if not _one_cpu():
        return tuple(jnp.sum(v, axis) for v in values)
    # XLA:CPU hands a sum of one array to a library, for which it writes out the array (5 times the bytes, 11 in half
    # precision), but fuses a sum of several with what makes them.
    if len(values) == 1:
        values = (*values, upcast(jax.tree.leaves(x)[0]))
    return lax.optimization_barrier(_sums(values, axis % values[0].ndim))[: len(terms(x))]


def _sums(values: tuple[Array, ...], axis: int) -> tuple[Array, ...]:
    n, batch = values[0].shape[axis], values[0].shape[:axis]
    others = (*batch, *values[0].shape[axis + 1 :])
    is_last = math.prod(values[0].shape[axis + 1 :]) == 1
    width = next((w for w in _WIDTHS if n % w == 0), 1) if is_last and n >= 4 * _WIDTHS[0] else 1
    if width > 1:  # vectorised: 2.4 ms instead of 8.2 for [65536, 128]
        values = tuple(v.reshape(*batch, n // width, width) for v in values)
    zeros = tuple(jnp.zeros((), v.dtype) for v in values)
    sums = lax.reduce(values, zeros, lambda a, b: tuple(map(jnp.add, a, b)), (axis,))
    return tuple(jnp.sum(s.reshape(*batch, width), axis).reshape(others) for s in sums) if width > 1 else tuple(sums)


@_row_sums.defjvp
def _row_sums_jvp(axis: int, terms: Terms, given: bool, primals: Any, tangents: Any) -> tuple[Any, Any]:
    # Why a rule: JAX has none for a reduction of several arrays.
    moved = jax.jvp(terms, primals, tangents)[1]
    return row_sums(primals[0], axis, terms, given=given), tuple(jnp.sum(m, axis) for m in moved)


def logsumexp(x: Array, axis: int = -1, where: Array | None = None) -> Array:
    """log sum_k exp(x_k) over the classes kept by `where`; -inf where there is none."""
    return as_one(lambda x, where: _logsumexp((x, where), axis), x, where)


def _kept(operands: tuple[Array, Array | None]) -> Array:
    x, where = operands
    return upcast(x) if where is None else jnp.where(where, upcast(x), -jnp.inf)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _logsumexp(operands: tuple[Array, Array | None], axis: int) -> Array:
    stats = part_stats(operands, axis, _kept)
    return stats.max + jnp.where(stats.max == -jnp.inf, stats.rest, jnp.log1p(settled(stats).rest))


@_logsumexp.defjvp
def _logsumexp_jvp(axis: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    # Why a rule: that of `row_stats` finds the derivative at the maximum as 1 minus the others.
    z, z_dot = jax.jvp(_kept, primals, tangents)
    p = softmax(z, row_stats(primals[0], axis, _kept), axis)
    return _logsumexp(*primals, axis), jnp.sum(p * z_dot, axis)


# Lanes: the form for XLA:CPU. The class axis of n = blocks * slices * width entries is seen as that box, and its slices
# are added up, which leaves blocks * width lanes for each row.

_WIDTHS = (16, 32, 24, 20, 12, 8)  # of a sum that is vectorised, the best first
_SLICES = 48  # at most: 2% of the row is left, compiled in about a second
_VECTOR = 32  # bytes in a register: a narrower slice is not vectorised
_WORTH_IT = 2**15  # entries; below, plain reductions take no longer and compile faster


def _one_cpu() -> bool:
    """Slices and gathers of a sharded axis would move the logits between devices; one device has no shards."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def _use_lanes(x: Any) -> bool:
    return _one_cpu() and jax.tree.leaves(x)[0].size >= _WORTH_IT


class _Box(NamedTuple):
    blocks: int
    slices: int
    width: int
    missing: int  # how many entries the last slice shares with the one before, as blocks * slices * width > n


def _box(n: int, trailing: int, itemsize: int) -> _Box:
    """The shape for n classes with `trailing` entries behind each of them."""
    most = _SLICES if itemsize > 2 else min(_SLICES, 3 * 15)  # see `_views`
    if n <= most:
        return _Box(1, n, 1, 0)
    vector = _VECTOR // itemsize
    widths = (1,) if trailing >= vector else tuple(w for w in (32, 16, 8) if w >= vector)
    for slices in range(most, most // 3, -1):
        for width in widths:
            if n % (slices * width) == 0:
                return _Box(n // (slices * width), slices, width, 0)
    width = widths[-1] * -(-n // (widths[-1] * most))
    slices = -(-n // width)
    return _Box(1, slices, width, slices * width - n)


def _has_classes(leaf: Any, like: Array, axis: int) -> bool:
    return jnp.ndim(leaf) == like.ndim and leaf.shape[axis] == like.shape[axis]


def _is_half(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize == 2


def _views(x: Array) -> list[tuple[Array, Callable[[Array], Array]]]:
    """Arrays to slice instead of x, and the way back. XLA:CPU fuses an elementwise operation into at most 15 slices
    of its result, else it writes all of it out; and a slice of half precision is one of its float32 conversion."""
    if not _is_half(x):
        return [(x, lambda a: a)]
    bits = [lax.bitcast_convert_type(x, dtype) for dtype in (jnp.uint16, jnp.int16)]
    return [(x, lambda a: a), *((b, lambda a: lax.bitcast_convert_type(a, x.dtype)) for b in bits)]


def _slicer(leaf: Any, like: Array, axis: int, box: _Box) -> Callable[[int], Any]:
    """From the number of a slice to the slice, of shape [..., blocks, width, ...]; leaves without classes are whole."""
    if not _has_classes(leaf, like, axis):
        return lambda i: leaf
    views = _views(leaf)

    def cut(i: int) -> Array:
        view, back = views[i * len(views) // box.slices]
        # Nothing may stand between the slice and what follows: a reshape there counts against the 15.
        blocks = view.reshape(*leaf.shape[:axis], box.blocks, -1, *leaf.shape[axis + 1 :])
        start = min(i * box.width, blocks.shape[axis + 1] - box.width)
        return back(lax.slice_in_dim(blocks, start, start + box.width, axis=axis + 1))

    return cut


def _slices(x: Any, axis: int, terms: Terms) -> tuple[list[tuple[Array, ...]], Array | None]:
    """The terms of every slice, and which entries of the last one are not in the one before (None: all)."""
    leaves, tree = jax.tree.flatten(x)
    like = leaves[0]
    box = _box(like.shape[axis], math.prod(like.shape[axis + 1 :]), like.dtype.itemsize)
    cuts = [_slicer(leaf, like, axis, box) for leaf in leaves]
    in_axes = [axis if _has_classes(leaf, like, axis) else None for leaf in leaves]

    def one(*slices: Any) -> tuple[Array, ...]:
        return terms(jax.tree.unflatten(tree, slices))

    over_blocks = jax.vmap(one, in_axes, axis)  # `terms` sees the rank that it knows
    found = [over_blocks(*(cut(i) for cut in cuts)) for i in range(box.slices)]
    fresh = _class_index(found[-1][0], axis + 1, jnp.int32) >= box.missing if box.missing else None
    return found, fresh


def _sums_in_lanes(x: Any, axis: int, terms: Terms) -> tuple[Array, ...]:
    axis %= jax.tree.leaves(x)[0].ndim
    slices, fresh = _slices(x, axis, terms)
    if fresh is not None:
        slices[-1] = tuple(jnp.where(fresh, v, 0) for v in slices[-1])
    lanes = (functools.reduce(jnp.add, of_term) for of_term in zip(*slices, strict=True))
    return tuple(_add_lanes(_computed_once(v), axis) for v in lanes)


def _stats_in_lanes(x: Any, axis: int, scores: Scores) -> tuple[Array, Array]:
    axis %= jax.tree.leaves(x)[0].ndim
    both = (axis, axis + 1)
    found, fresh = _slices(x, axis, lambda x: (scores(x),))
    slices = [z for (z,) in found]
    single = slices[0].shape[axis] * slices[0].shape[axis + 1] == 1
    if scores is upcast and not single:
        top = upcast(jnp.max(x, axis, keepdims=True))  # the library takes this one as it is
    else:
        top = functools.reduce(jnp.maximum, slices)
        top = jnp.squeeze(_computed_once(top) if single else jnp.max(top, both, keepdims=True), axis)
    exp, scale = _row_exp(jnp.expand_dims(reference(top), axis))
    others, ties = jnp.zeros((), top.dtype), jnp.zeros((), jnp.int32)
    for i, z in enumerate(slices):
        z = z if fresh is None or i < len(slices) - 1 else jnp.where(fresh, z, -jnp.inf)
        is_top = z == jnp.expand_dims(top, axis)
        others = others + jnp.where(is_top, 0, exp(z))
        ties = ties + is_top.astype(jnp.int32)
    ties = ties.astype(top.dtype)
    if single:
        return top, _computed_once(jnp.squeeze(others * scale + (ties - 1), axis))
    # One array for both, so that the loop above runs once: the sign says that this lane has a maximum, which the
    # sum of the lanes counts once too often for every such lane but one. All that follows the library takes as it is.
    tiny = jnp.finfo(top.dtype).tiny  # no such lane is 0; others that matter are larger than 1e-20 here
    lanes = jnp.where(ties > 0, -(others + (ties - 1) / scale + tiny), others)
    lanes = _computed_once(lanes) if _few(lanes, axis) else lanes
    others = jnp.expand_dims(_add_lanes(jnp.abs(lanes), axis), axis) * jnp.squeeze(scale, axis)
    sign = jnp.sign(lanes)
    twice_with_top = _add_lanes(sign * sign - sign, axis)
    return top, others + (jnp.expand_dims(twice_with_top, axis) / 2 - 1)


def _few(lanes: Array, axis: int) -> bool:
    return math.prod(lanes.shape[axis:]) <= 64


def _add_lanes(lanes: Array, axis: int) -> Array:
    shape = lanes.shape[axis : axis + 2]
    if not _few(lanes, axis) or axis + 2 < lanes.ndim:
        return jnp.sum(lanes, (axis, axis + 1))
    # For 65536 rows of 8 lanes the library's sums take 6.7 ms, and a matrix product 0.6.
    return jnp.tensordot(lanes, jnp.ones(shape, lanes.dtype), 2, precision=lax.Precision.HIGHEST)


def _computed_once(x: Array) -> Array:
    """x itself, by a division: XLA:CPU repeats a fused loop in every consumer unless it ends in a costly operation."""
    return x / jnp.where(x == x, 1, jnp.nan).astype(x.dtype)
