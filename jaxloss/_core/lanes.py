"""Sums over classes in lanes, the form for XLA:CPU on one device (see `rows.py`).

The class axis of n = slices * width entries is cut into slices that lie behind one another, and these are added up,
which leaves `width` lanes for each row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._core.blocks import completed
from jaxloss._core.devices import may_slice

Terms = Callable[[Any], tuple[Array, ...]]

_SLICES = 48  # at most: 2% of the row is left, compiled in about a second
_VECTOR = 32  # bytes in a register: a narrower slice is not vectorised
_LIBRARY = 10  # classes, at least
_WORTH_IT = 2**15  # entries; below, plain reductions take no longer and compile faster


def use_lanes(x: Any) -> bool:
    first = jax.tree.leaves(x)[0]
    return may_slice(first) and first.size >= _WORTH_IT


def of_library(x: Any, axis: int) -> bool:
    """Is a plain maximum or sum of what is there in memory best left to XLA:CPU's library? It takes several times as
    long as slices do for rows of few classes, and along any axis but the last."""
    shape = jax.tree.leaves(x)[0].shape
    return shape[axis] >= _LIBRARY and math.prod(shape[axis % len(shape) + 1 :]) == 1


class _Cut(NamedTuple):
    slices: int
    width: int
    missing: int  # how many entries the last slice shares with the one before, as slices * width > n


def _cut_of(x: Array, axis: int, single: int) -> _Cut:
    n, trailing, itemsize = x.shape[axis], math.prod(x.shape[axis % x.ndim + 1 :]), x.dtype.itemsize
    most = _SLICES if itemsize > 2 else min(_SLICES, 3 * 15)  # see `_views`
    vector = _VECTOR // itemsize
    unit = 1 if trailing >= vector else vector
    if n <= (min(single, most) if unit > 1 and itemsize > 2 else most):
        return _Cut(n, 1, 0)
    for slices in range(most, most // 3, -1):
        if n % (slices * unit) == 0:
            return _Cut(slices, n // slices, 0)
    width = unit * -(-n // (unit * most))
    slices = -(-n // width)
    return _Cut(slices, width, slices * width - n)


def of_single_classes(x: Array, axis: int, single: int) -> bool:
    """Are the slices of one class each?"""
    return _cut_of(x, axis, single).width == 1


def has_classes(leaf: Any, like: Array, axis: int) -> bool:
    return jnp.ndim(leaf) == like.ndim and leaf.shape[axis] == like.shape[axis]


def is_half(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize == 2


def _views(x: Array) -> list[tuple[Array, Callable[[Array], Array]]]:
    """Arrays to slice instead of x, and the way back. XLA:CPU fuses an elementwise operation into at most 15 slices
    of its result, else it writes all of it out; and a slice of half precision is one of its float32 conversion."""
    if not is_half(x):
        return [(x, lambda a: a)]
    bits = [lax.bitcast_convert_type(x, dtype) for dtype in (jnp.uint16, jnp.int16)]
    return [(x, lambda a: a), *((b, lambda a: lax.bitcast_convert_type(a, x.dtype)) for b in bits)]


def _slicer(leaf: Any, like: Array, axis: int, cut: _Cut, starts: list[int]) -> Callable[[int], Any]:
    """From the number of a slice to the slice; leaves without classes are whole."""
    if not has_classes(leaf, like, axis):
        return lambda i: leaf
    views = _views(leaf)

    def of(i: int) -> Array:
        view, back = views[i * len(views) // cut.slices]
        # Before a slice must stand only what must, and nothing between it and what follows: it counts against the 15.
        return back(lax.slice_in_dim(view, starts[i], starts[i] + cut.width, axis=axis))

    return of


class Slices(NamedTuple):
    terms: list[tuple[Array, ...]]  # of every slice
    starts: list[int]  # which class is the first
    fresh: Array | None  # which entries of the last slice are not in the one before; `None` is: all


def slices(x: Any, axis: int, terms: Terms, single: int = _SLICES) -> Slices:
    """The terms of every slice, of shape [..., width, ...]. Of rows of `single` classes at most a slice is one class;
    in half precision, and where another axis is behind that of the classes, of all short ones."""
    leaves, tree = jax.tree.flatten(x)
    like = leaves[0]
    cut, n = _cut_of(like, axis, single), like.shape[axis]
    starts = [min(i * cut.width, n - cut.width) for i in range(cut.slices)]
    pieces = [_slicer(leaf, like, axis, cut, starts) for leaf in leaves]
    found = [terms(jax.tree.unflatten(tree, [piece(i) for piece in pieces])) for i in range(cut.slices)]
    fresh = class_index(found[-1][0], axis, jnp.int32) >= cut.missing if cut.missing else None
    return Slices(found, starts, fresh)


def sums_in_lanes(x: Any, axis: int, terms: Terms) -> tuple[Array, ...]:
    axis %= jax.tree.leaves(x)[0].ndim
    found, _, fresh = slices(x, axis, terms)
    if fresh is not None:
        found[-1] = tuple(jnp.where(fresh, v, 0) for v in found[-1])
    lanes = [functools.reduce(jnp.add, of_term) for of_term in zip(*found, strict=True)]
    # The library would take over what follows, a broadcast in a gradient, too, and write that out.
    return tuple(computed_once(add_lanes(finished(v, axis), axis)) for v in lanes)


def few(lanes: Array, axis: int) -> bool:
    return math.prod(lanes.shape[axis:]) <= 64


def finished(lanes: Array, axis: int) -> Array:
    """The lanes, written out before they are added up: the library would take over the last addition, and read both its
    operands. Where there is one for each row, nothing is added, and it must not be made again by all that follows."""
    return computed_once(lanes) if few(lanes, axis) or lanes.shape[axis] == 1 else completed(lanes)


def add_lanes(lanes: Array, axis: int) -> Array:
    if not few(lanes, axis) or axis + 1 < lanes.ndim:
        return jnp.sum(lanes, axis)
    # For 65536 rows of 8 lanes the library's sums take 6.7 ms, and a matrix product 0.6.
    return jnp.dot(lanes, jnp.ones(lanes.shape[axis], lanes.dtype), precision=lax.Precision.HIGHEST)


def computed_once(x: Array) -> Array:
    """x itself, by a division: XLA:CPU repeats a fused loop in every consumer unless it ends in a costly operation."""
    return x / jnp.where(x == x, 1, jnp.nan).astype(x.dtype)


def class_index(z: Array, axis: int, dtype: Any) -> Array:
    return lax.broadcasted_iota(dtype, [n if i == axis % z.ndim else 1 for i, n in enumerate(z.shape)], axis % z.ndim)
