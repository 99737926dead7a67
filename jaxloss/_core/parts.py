"""What some of the classes contribute to a row, and how contributions add up: over blocks of classes, over devices.

A softmax loss needs a few sums over the classes of each row. They are taken relative to the largest score, which is
known only once all classes have been seen; so a part keeps them relative to its own largest, and is raised to the
common one when parts are put together. All terms are non-negative, so nothing cancels on the way.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._core.exponentials import exp_minus
from jaxloss._core.remat import as_one
from jaxloss._core.rows import RowStats, reference


class Weighed(NamedTuple):
    """Classes that weigh unlike: the sum of the weights, and the weighted sum of the gaps below the maximum."""

    mass: Array
    gaps: Array


class Part(NamedTuple):
    """The contribution of some classes to each row, without the class axis. `None` is: not asked for."""

    stats: RowStats
    label: Array | None = None  # the score of the label, 0 where it is not among these classes
    cost: Weighed | None = None  # weighed by the target
    spread: Weighed | None = None  # weighed by the class weights, for label smoothing
    heat: Array | None = None  # sum of exp(z_k - max) (max - z_k), for the entropy
    argmax: Array | None = None  # the first class that has the maximum, counted from the first of all


def merge(a: Part, b: Part) -> Part:
    """The part of all classes of two parts that share none."""
    return _add_up(_merge_stats(a.stats, b.stats), a, b)


def over_devices(part: Part, axis_name: Any) -> Part:
    """The part of all classes, which are split along mesh axes: one maximum and one sum travel."""
    if axis_name is None:
        return part
    stats = as_one(lambda mine: _stats_over_devices(mine, axis_name), part.stats)
    argmax = part.argmax
    if argmax is not None:
        none = jnp.iinfo(argmax.dtype).max
        argmax = lax.pmin(jnp.where(part.stats.max == stats.max, argmax, none), axis_name)
    label, cost, spread, heat = lax.psum(_raised(part, stats.max), axis_name)
    return Part(stats, label, cost, spread, heat, argmax)


def _add_up(stats: RowStats, a: Part, b: Part) -> Part:
    label, cost, spread, heat = jax.tree.map(jnp.add, _raised(a, stats.max), _raised(b, stats.max))
    return Part(stats, label, cost, spread, heat, _first_of(a, b))


def _first_of(a: Part, b: Part) -> Array | None:
    if a.argmax is None or b.argmax is None:
        return None
    of_larger = jnp.where(a.stats.max > b.stats.max, a.argmax, b.argmax)
    return jnp.where(a.stats.max == b.stats.max, jnp.minimum(a.argmax, b.argmax), of_larger)


def _raised(part: Part, top: Array) -> tuple[Any, Any, Any, Any]:
    """All that is added up, relative to a maximum that is no smaller."""
    step = _step(part.stats.max, top)

    def weighed(w: Weighed | None) -> Weighed | None:
        return None if w is None else Weighed(w.mass, w.gaps + jnp.where(w.mass == 0, 0, w.mass * step))

    heat = part.heat
    if heat is not None:
        scale = exp_minus(part.stats.max, reference(top))
        heat = jnp.where(scale == 0, 0, scale * (heat + (1 + part.stats.rest) * step))
    return part.label, weighed(part.cost), weighed(part.spread), heat


def _step(low: Array, top: Array) -> Array:
    low, top = reference(low), reference(top)
    return jnp.where(low == top, 0, top - low)


def _merge_stats(a: RowStats, b: RowStats) -> RowStats:
    """The smaller maximum and its rest join the rest of the larger one."""
    first = (a.max >= b.max) | jnp.isnan(a.max)
    top, low = jnp.where(first, a.max, b.max), jnp.where(first, b.max, a.max)
    rest, others = jnp.where(first, a.rest, b.rest), jnp.where(first, b.rest, a.rest)
    return RowStats(top, rest + (1 + others) * exp_minus(low, reference(top)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _stats_over_devices(mine: RowStats, axis_name: Any) -> RowStats:
    top = lax.pmax(mine.max, axis_name)
    # Every device that has the maximum leaves it out of its rest; all of them but one are put back.
    is_top = mine.max == top
    others = jnp.where(is_top, mine.rest, (1 + mine.rest) * exp_minus(mine.max, reference(top)))
    rest, holders = lax.psum((others, is_top.astype(top.dtype)), axis_name)
    return RowStats(top, rest + (holders - 1))


@_stats_over_devices.defjvp
def _stats_over_devices_jvp(axis_name: Any, primals: Any, tangents: Any) -> tuple[RowStats, RowStats]:
    # Why a rule: JAX has none for pmax. The derivative of the maximum is that of the first device which has it.
    (mine,), (moved,) = primals, tangents
    stats = as_one(lambda mine: _stats_over_devices(mine, axis_name), mine)
    here = lax.axis_index(axis_name)
    first = lax.pmin(jnp.where(mine.max == stats.max, here, lax.axis_size(axis_name)), axis_name) == here
    top_dot = lax.psum(jnp.where(first, moved.max, 0), axis_name)
    others = moved.rest + (1 + mine.rest) * (moved.max - top_dot)
    scale = exp_minus(mine.max, reference(stats.max))
    rest_dot = lax.psum(jnp.where(first, moved.rest, scale * others), axis_name)
    return stats, RowStats(top_dot, rest_dot)
