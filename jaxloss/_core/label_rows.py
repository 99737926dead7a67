"""Softmax statistics of rows whose label is known: one pass over the logits, where the maximum would take another.

lse - z_y = log1p(sum over k != y of exp(z_k - z_y)): relative to the score of the label no digit of a confident row is
lost, whatever the maximum is. Relative to the larger of that score and those of the first few classes, the sum
overflows only where some class is more than 59 above them. Then, in any row, all are taken relative to the maximum.

On one CPU alone: elsewhere XLA fuses both passes, or the branch would wait for the device. (A loop instead of the
branch, to sum again in lanes, would be rearranged by XLA: it moves slices of the logits out of it.)
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap

from jaxloss._core.blocks import is_local, per_row
from jaxloss._core.exponentials import FARTHEST, by_parts, row_exp_around
from jaxloss._core.lanes import (
    add_lanes,
    class_index,
    computed_once,
    finished,
    has_classes,
    is_half,
    of_single_classes,
    slices,
    use_lanes,
)
from jaxloss._core.precision import upcast
from jaxloss._core.remat import as_one
from jaxloss._core.rows import RowStats, Scores, moved_stats, part_stats, pick, stats_by_reduction

_SELDOM = 1 / 16  # of the blocks of other rules: memory counts more than time
_SHORT = 15  # classes: a longer row is read in fewer instructions in slices of several


def label_stats(x: Any, label: Array, axis: int, scores: Scores = upcast) -> tuple[RowStats, Array]:
    """The statistics of each row and the score of its label.

    As in `part_stats`, lse = max + log1p(rest) and `softmax` holds; but `max` may be the score of another class than
    the largest, which `rest` leaves out. Where the label names no class they mean nothing.
    """
    return as_one(lambda x, label: _label_stats(x, label, axis, scores), x, label)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _label_stats(x: Any, label: Array, axis: int, scores: Scores) -> tuple[RowStats, Array]:
    logits = jax.tree.leaves(x)[0]
    axis %= logits.ndim
    # Of rows so short that a slice is one class, the maximum costs as little.
    if use_lanes(x) and is_local(logits) and by_parts(upcast(logits)) and not of_single_classes(logits, axis, _SHORT):
        return _stats_around_label(x, label, axis, scores)
    at_label = pick(scores(x), label, axis)
    # Apart in a large array: a lookup keeps the loop that it is fused into from being vectorised.
    return part_stats(x, axis, scores), computed_once(at_label) if use_lanes(x) else at_label


@_label_stats.defjvp
def _label_stats_jvp(axis: int, scores: Scores, primals: Any, tangents: Any) -> tuple[Any, Any]:
    (x, label), (x_dot, _) = primals, tangents
    stats, at_label = label_stats(x, label, axis, scores)
    z, z_dot = jax.jvp(scores, (x,), (x_dot,))
    return (stats, at_label), (moved_stats(z, z_dot, stats, axis), pick(z_dot, label, axis))


def _stats_around_label(x: Any, label: Array, axis: int, scores: Scores) -> tuple[RowStats, Array]:
    at_label = pick(scores(x), label, axis)
    middle = _middle(x, at_label, axis, scores)
    others = _sum_around(x, label.astype(jnp.int32), middle, axis, scores)
    rest = others + jnp.expm1(at_label - middle)  # with the label, and without the class in the middle
    near = RowStats(middle, rest)
    holds = _everywhere((others < math.exp(0.99 * FARTHEST)) & (jnp.abs(middle) < jnp.inf))
    return lax.cond(holds, lambda x: near, lambda x: _stats_in_blocks(x, axis, scores), x), at_label


def _middle(x: Any, at_label: Array, axis: int, scores: Scores) -> Array:
    """The larger of the label's score and those of the first few classes. In half precision the label's: XLA counts
    a slice as a read of all of them."""
    logits = jax.tree.leaves(x)[0]
    if is_half(logits):
        return at_label
    few = 8 + logits.shape[axis] // 512
    first = jax.tree.map(lambda a: lax.slice_in_dim(a, 0, few, axis=axis) if has_classes(a, logits, axis) else a, x)
    return jnp.maximum(at_label, jnp.max(scores(first), axis))


def _sum_around(x: Any, label: Array, middle: Array, axis: int, scores: Scores) -> Array:
    """The sum of exp(z_k - middle) over the classes but the label. Where one of them is more than `FARTHEST` above, it
    is too small, yet above exp(0.99 `FARTHEST`)."""
    cut = slices(x, axis, lambda x: (scores(x),), _SHORT)
    exp, scale = row_exp_around(jnp.expand_dims(middle, axis))
    ahead = jnp.expand_dims(label, axis) - class_index(cut.terms[0][0], axis, label.dtype)
    others = jnp.zeros((), middle.dtype)
    for i, ((z,), start) in enumerate(zip(cut.terms, cut.starts, strict=True)):
        skip = ahead == start
        if cut.fresh is not None and i == len(cut.terms) - 1:
            skip |= ~cut.fresh
        others = others + jnp.where(skip, 0, exp(z))
    return add_lanes(finished(others, axis), axis) * jnp.squeeze(scale, axis)


@custom_vmap
def _everywhere(holds: Array) -> Array:
    """In all rows: under vmap in those of all examples, so that a branch on it stays one."""
    return jnp.all(holds)


@_everywhere.def_vmap
def _(_size: int, _mapped: Any, holds: Array) -> tuple[Array, bool]:
    return _everywhere(holds), False


def _stats_in_blocks(x: Any, axis: int, scores: Scores) -> RowStats:
    """What compiles to little, as it is seldom needed, and keeps nothing of the size of x."""
    leaves, tree = jax.tree.flatten(x)
    flat = [0 < jnp.ndim(leaf) < leaves[0].ndim for leaf in leaves]

    def of_rows(*leaves: Array) -> RowStats:
        rows = [jnp.squeeze(leaf, axis) if f else leaf for leaf, f in zip(leaves, flat, strict=True)]
        return stats_by_reduction(computed_once(scores(jax.tree.unflatten(tree, rows))), axis)

    leaves = [jnp.expand_dims(a, axis) if f else a for a, f in zip(leaves, flat, strict=True)]
    return per_row(of_rows, leaves, axis, small=_SELDOM)
