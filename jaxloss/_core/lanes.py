"""Sums over classes in lanes, the form for XLA:CPU on one device (see `rows.py`).

The class axis of n = blocks * slices * width entries is seen as that box, and its slices are added up, which leaves
blocks * width lanes for each row.
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
from jaxloss._core.devices import one_cpu

Terms = Callable[[Any], tuple[Array, ...]]

_SLICES = 48  # at most: 2% of the row is left, compiled in about a second
_VECTOR = 32  # bytes in a register: a narrower slice is not vectorised
_WORTH_IT = 2**15  # entries; below, plain reductions take no longer and compile faster


def use_lanes(x: Any) -> bool:
    return one_cpu() and jax.tree.leaves(x)[0].size >= _WORTH_IT


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


def _box_of(x: Array, axis: int) -> _Box:
    return _box(x.shape[axis], math.prod(x.shape[axis % x.ndim + 1 :]), x.dtype.itemsize)


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


def _slicer(leaf: Any, like: Array, axis: int, box: _Box, starts: list[int]) -> Callable[[int], Any]:
    """From the number of a slice to the slice, of shape [..., blocks, width, ...] or, of a single block, [..., width,
    ...]; leaves without classes are whole."""
    if not has_classes(leaf, like, axis):
        return lambda i: leaf
    views = _views(leaf)

    def cut(i: int) -> Array:
        view, back = views[i * len(views) // box.slices]
        # Nothing may stand between the slice and what follows, and before it only what must: a reshape there counts
        # against the 15.
        if box.blocks == 1:
            return back(lax.slice_in_dim(view, starts[i], starts[i] + box.width, axis=axis))
        blocks = view.reshape(*leaf.shape[:axis], box.blocks, -1, *leaf.shape[axis + 1 :])
        return back(lax.slice_in_dim(blocks, starts[i], starts[i] + box.width, axis=axis + 1))

    return cut


class Slices(NamedTuple):
    terms: list[tuple[Array, ...]]  # of every slice
    starts: list[int]  # where in its block a slice starts
    length: int  # of a block
    fresh: Array | None  # which entries of the last slice are not in the one before; `None` is: all

    def lane_classes(self, axis: int) -> Array:
        """The class of each lane in a slice that starts where the block does."""
        z = self.terms[0][0]
        return class_index(z, axis, jnp.int32) * self.length + class_index(z, axis + 1, jnp.int32)


def slices(x: Any, axis: int, terms: Terms) -> Slices:
    """The terms of every slice, of shape [..., blocks, width, ...]."""
    box, found = _terms_of_slices(x, axis, terms)
    if box.blocks == 1:
        found = [tuple(jnp.expand_dims(v, axis) for v in values) for values in found]
    like = jax.tree.leaves(x)[0]
    return Slices(found, _starts(box, like.shape[axis]), like.shape[axis] // box.blocks, _fresh(box, found, axis + 1))


def _terms_of_slices(x: Any, axis: int, terms: Terms) -> tuple[_Box, list[tuple[Array, ...]]]:
    """As `slices`, but without an axis for a single block."""
    leaves, tree = jax.tree.flatten(x)
    like = leaves[0]
    box = _box_of(like, axis)
    cuts = [_slicer(leaf, like, axis, box, _starts(box, like.shape[axis])) for leaf in leaves]
    in_axes = [axis if has_classes(leaf, like, axis) else None for leaf in leaves]

    def of_block(*slices: Any) -> tuple[Array, ...]:
        return terms(jax.tree.unflatten(tree, slices))

    of_slice = of_block if box.blocks == 1 else jax.vmap(of_block, in_axes, axis)  # `terms` sees the rank that it knows
    return box, [of_slice(*(cut(i) for cut in cuts)) for i in range(box.slices)]


def _starts(box: _Box, n: int) -> list[int]:
    return [min(i * box.width, n // box.blocks - box.width) for i in range(box.slices)]


def _fresh(box: _Box, found: list[tuple[Array, ...]], axis: int) -> Array | None:
    return class_index(found[-1][0], axis, jnp.int32) >= box.missing if box.missing else None


def sums_suit_lanes(x: Any, axis: int) -> bool:
    """In half precision XLA would write out what several arrays of more than one block give."""
    half = any(map(is_half, jax.tree.leaves(x)))
    return use_lanes(x) and not (half and _box_of(jax.tree.leaves(x)[0], axis).blocks > 1)


def sums_in_lanes(x: Any, axis: int, terms: Terms) -> tuple[Array, ...]:
    axis %= jax.tree.leaves(x)[0].ndim
    box, found = _terms_of_slices(x, axis, terms)
    fresh = _fresh(box, found, axis if box.blocks == 1 else axis + 1)
    if fresh is not None:
        found[-1] = tuple(jnp.where(fresh, v, 0) for v in found[-1])
    lanes = [functools.reduce(jnp.add, of_term) for of_term in zip(*found, strict=True)]
    if box.blocks == 1:  # only now: a reshape between the slices and their sum would count against the 15
        lanes = [jnp.expand_dims(v, axis) for v in lanes]
    return tuple(add_lanes(finished(v, axis), axis) for v in lanes)


def few(lanes: Array, axis: int) -> bool:
    return math.prod(lanes.shape[axis:]) <= 64


def finished(lanes: Array, axis: int) -> Array:
    """The lanes, written out before they are added up: the library would take over the last addition, and read both its
    operands."""
    return computed_once(lanes) if few(lanes, axis) else completed(lanes)


def add_lanes(lanes: Array, axis: int) -> Array:
    shape = lanes.shape[axis : axis + 2]
    if not few(lanes, axis) or axis + 2 < lanes.ndim:
        return jnp.sum(lanes, (axis, axis + 1))
    # For 65536 rows of 8 lanes the library's sums take 6.7 ms, and a matrix product 0.6.
    return jnp.tensordot(lanes, jnp.ones(shape, lanes.dtype), 2, precision=lax.Precision.HIGHEST)


def computed_once(x: Array) -> Array:
    """x itself, by a division: XLA:CPU repeats a fused loop in every consumer unless it ends in a costly operation."""
    return x / jnp.where(x == x, 1, jnp.nan).astype(x.dtype)


def class_index(z: Array, axis: int, dtype: Any) -> Array:
    return lax.broadcasted_iota(dtype, [n if i == axis % z.ndim else 1 for i, n in enumerate(z.shape)], axis % z.ndim)
